"""The left-hand side -> y (n,) float64, or an error that says what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmm.errors import ResponseError
from lmm.formula import Formula
from lmm.formula.columns.given import not_finite, numeric


def linear_response(values: object, name: str) -> np.ndarray:
    """Response of a linear model, (n,) float64.

    Raises
    ------
    ResponseError : when it is not one numeric column, is infinite, missing or constant.
    """
    y = np.array(
        numeric_response(values, name)
    )  # our own: what becomes of the user's does not change a fit
    if y.size and y[0] == y[-1] and y.min() == y.max():
        raise ResponseError(
            f"the response {name!r} is constant ({y[0]:g}); there is nothing to model."
        )
    return y


def numeric_response(values: Any, name: str) -> np.ndarray:
    """One finite numeric column, (n,) float64; booleans count as 0 and 1."""
    shape = np.shape(values)
    if len(shape) == 2 and shape[1] == 1:
        values = np.asanyarray(values)[:, 0]
    elif len(shape) != 1:
        raise ResponseError(
            f"the response {name!r} must be one column, but its shape is {shape}; fit one model per column."
        )
    y = numeric(values, f"the response {name!r}", ResponseError)
    fault = not_finite(y)
    if fault is not None:
        raise ResponseError(f"the response {name!r} is {fault}.")
    return y


def check_response(values: Any, formula: Formula, n: int, linear: bool) -> None:
    """ResponseError unless there is one value per row, and for a linear model one column."""
    if np.ndim(values) == 0 or len(values) != n:
        raise ResponseError(f"the response {formula.response!r} must have one value per row.")
    if linear and formula.cbind:
        raise ResponseError(
            f"{formula.response} is a binomial response, but a linear model has one response column; use a binomial family."
        )
