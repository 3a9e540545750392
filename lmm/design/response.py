"""The left-hand side -> y (n,) float64, or an error that says what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import ResponseError


def linear_response(values: Any, name: str) -> np.ndarray:
    """Response of a linear model, (n,) float64.

    Raises
    ------
    ResponseError : when it is not one numeric column, is infinite, missing or constant.
    """
    y = numeric_response(values, name)
    if y.size and y.min() == y.max():
        raise ResponseError(f"the response {name!r} is constant ({y[0]:g}); there is nothing to model.")
    return y


def numeric_response(values: Any, name: str) -> np.ndarray:
    """One finite numeric column, (n,) float64; booleans count as 0 and 1."""
    if isinstance(values, pd.Series):
        dtype = values.dtype
        if isinstance(dtype, pd.CategoricalDtype) or not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)):
            kind = "categorical" if isinstance(dtype, pd.CategoricalDtype) else "text" if values.dtype in ("object", "str") else str(dtype)
            raise ResponseError(f"the response {name!r} must be numeric, but it is {kind}; the first value is {values.iloc[0]!r}.")
        values = values.to_numpy()
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ResponseError(f"the response {name!r} must be one column, but its shape is {array.shape}; fit one model per column.")
    if array.dtype.kind not in "fiub":
        raise ResponseError(f"the response {name!r} must be numeric, but its type is {array.dtype}.")
    y = array.astype(float, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(y)
    if not np.isfinite(total):
        bad = ~np.isfinite(y)
        if bad.any():
            what = "not a number" if np.isnan(y).any() else "infinite"
            raise ResponseError(f"the response {name!r} is {what} in {int(bad.sum())} of {len(y)} rows.")
    return y
