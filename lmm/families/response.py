"""A response column as the user has it -> numbers, or an error that says what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import ResponseError


def _kind(values: Any) -> str:
    """'categorical', 'text' or 'numeric'."""
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype):
        return "categorical"
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return "numeric"
    found = pd.api.types.infer_dtype(values, skipna=True)
    return (
        "numeric"
        if found in ("boolean", "integer", "floating", "mixed-integer-float")
        else "text"
        if found == "string"
        else found
    )


def numeric(values: object, name: str) -> np.ndarray:
    """One numeric column, (n,) float64; booleans count as 0 and 1."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = values = array[:, 0]
    if array.ndim != 1:
        hint = (
            " cbind(successes, failures) is for the binomial family."
            if array.ndim == 2 and array.shape[1] == 2
            else ""
        )
        raise ResponseError(
            f"the response {name!r} must be one column, but its shape is {array.shape}.{hint}"
        )
    kind = _kind(values if hasattr(values, "dtype") else array)
    if kind != "numeric":
        first = "" if not len(array) else f"; the first value is {array[0]!r}"
        raise ResponseError(f"the response {name!r} must be numeric, but it is {kind}{first}.")
    return array.astype(float)


def levels_of(values: object) -> tuple[list[object], np.ndarray] | None:
    """Levels that occur, in their order, and codes (n,) of a categorical or text column; None for any other."""
    kind = _kind(values) if hasattr(values, "dtype") else _kind(np.asarray(values))
    if kind not in ("categorical", "text", "string"):
        return None
    column = pd.Series(values)
    if kind == "categorical":
        column = column.cat.remove_unused_categories()
        return list(column.cat.categories), column.cat.codes.to_numpy()
    codes, levels = pd.factorize(column, sort=True)
    return list(levels), codes


def check_finite(y: np.ndarray, name: str) -> None:
    """ResponseError where y is infinite or missing."""
    bad = ~np.isfinite(y)
    if bad.any():
        what = "not a number" if np.isnan(y).any() else "infinite"
        raise ResponseError(
            f"the response {name!r} is {what} in {int(bad.sum())} of {len(y)} rows."
        )


def check_varies(y: np.ndarray, name: str) -> None:
    """ResponseError for a constant y."""
    if y.size and y.min() == y.max():
        raise ResponseError(
            f"the response {name!r} is constant ({y.flat[0]:g}); there is nothing to model."
        )
