"""Many responses over one design: a table, an array, a mapping, or columns of the data -> Y (N, R), and what each is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import DataError
from lmm.formula import Table

#: numbers looked at in one piece, so that a mask stays small
PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class Responses:
    """R responses, a column each.

    Attributes
    ----------
    values : (N, R) float64, NaN where a value is missing.
    names : R labels, each used once.
    """

    values: np.ndarray
    names: pd.Index


def read_responses(responses: Any, data: Table) -> Responses:
    """Responses as the user has them, row by row those of ``data``.

    Parameters
    ----------
    responses : table (its columns name the responses), array (N, R), mapping of names to arrays (N,), or names of columns of ``data``.
    data : the table of the predictors, N rows.

    Raises
    ------
    DataError : not numbers, no response, a name used twice, another number of rows, or other row labels than the data.
    """
    if isinstance(responses, str):
        responses = [responses]
    if isinstance(responses, pd.DataFrame):
        _check_labels(responses.index, data)
        values = _frame(responses)
        names: pd.Index = pd.Index(responses.columns)
    elif _is_names(responses):
        unknown = [name for name in responses if name not in data]
        if unknown:
            raise DataError(f"responses: {data.unknown(unknown)}")
        return read_responses({name: data.column(name) for name in dict.fromkeys(responses)}, Table({"row": np.arange(data.n)}))
    elif isinstance(responses, Mapping) or hasattr(responses, "columns"):
        table = Table(responses)
        columns = [_numbers(table.column(name), name) for name in table.columns]
        values = np.column_stack(columns) if columns else np.empty((table.n, 0))
        names = pd.Index(table.columns)
    else:
        dense = responses.toarray() if hasattr(responses, "toarray") else responses
        try:
            values = np.asarray(dense, dtype=float)
        except (TypeError, ValueError):
            raise DataError("responses: the array must hold numbers, a column per response.") from None
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim != 2:
            raise DataError(f"responses: the array has shape {values.shape}; it must have a row per row of the data and a column each.")
        names = pd.RangeIndex(values.shape[1])
    if not len(names):
        raise DataError("responses: there is no response; give a column for each.")
    if names.has_duplicates:
        twice = names[names.duplicated()][0]
        raise DataError(f"responses: the name {twice!r} is used more than once; rename the columns so that each names one response.")
    if len(values) != data.n:
        wide = " Is the table on its side? Transpose it." if values.shape[1] == data.n else ""
        raise DataError(f"responses: {len(values)} rows, but the data has {data.n}.{wide}")
    return Responses(values, names)


def _is_names(responses: Any) -> bool:
    plain = isinstance(responses, Sequence | pd.Index) and not isinstance(responses, str)
    return plain and len(responses) > 0 and all(isinstance(name, str) for name in responses)


def _frame(table: pd.DataFrame) -> np.ndarray:
    """Numbers of a DataFrame, without a copy where it holds one block of floats."""
    plain = [isinstance(t, np.dtype) and t.kind in "fiub" for t in table.dtypes]
    if all(plain):
        return table.to_numpy(dtype=float)
    return np.column_stack([_numbers(table.iloc[:, i], table.columns[i]) for i in range(table.shape[1])])


def _numbers(column: pd.Series, name: Any) -> np.ndarray:
    """One column as float64."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
            return np.asarray(column.to_numpy(dtype=float, na_value=np.nan))
        if pd.api.types.infer_dtype(column, skipna=True) in ("integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty"):
            return np.asarray(pd.to_numeric(column.astype(float)).to_numpy())
    first = column.dropna()
    shown = f"; the first value is {first.iloc[0]!r}" if len(first) else ""
    raise DataError(f"responses: {name!r} must be numeric, but its type is {column.dtype}{shown}.")


def _check_labels(index: pd.Index, data: Table) -> None:
    """DataError where the rows of both tables have names that do not agree: rows are matched by their position."""
    own = data.index
    numbered = any(isinstance(i, pd.RangeIndex) and i.start == 0 and i.step == 1 for i in (own, index))
    if numbered or len(own) != len(index) or own.equals(index):
        return
    cure = "sort one by the other, Y.loc[data.index]" if index.is_unique and own.isin(index).all() else "give both the same index"
    raise DataError(f"responses: its row labels are not those of the data, and rows are matched by position; {cure}.")


def faults(values: np.ndarray) -> tuple[dict[int, str], np.ndarray]:
    """Responses (columns of ``values``, n x R) that no model can have, with the reason, and which have missing values, (R,) bool."""
    n, R = values.shape
    why: dict[int, str] = {}
    missing = np.zeros(R, dtype=bool)
    width = max(1, PIECE // max(n, 1))
    for first in range(0, R, width):
        Y = values[:, first : first + width]
        with np.errstate(invalid="ignore", over="ignore"):
            low, high = Y.min(axis=0), Y.max(axis=0)  # NaN where a value is missing
        for i in np.flatnonzero(~np.isfinite(low) | ~np.isfinite(high)):
            y = Y[:, i]
            infinite = int(np.isinf(y).sum())
            present = y[~np.isnan(y)]
            if infinite:
                why[first + int(i)] = f"infinite in {infinite} of {n} rows"
            elif not len(present):
                why[first + int(i)] = "missing in every row used"
            elif present.min() == present.max():
                why[first + int(i)] = f"constant ({present[0]:g}); there is nothing to model"
            missing[first + int(i)] = bool(np.isnan(low[i]))
        for i in np.flatnonzero(low == high):
            if np.isfinite(low[i]):
                why[first + int(i)] = f"constant ({low[i]:g}); there is nothing to model"
    return why, missing
