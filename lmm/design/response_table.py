"""Many responses over one design: a table, an array, a mapping, or columns of the data -> Y (N, R), and what each is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import DataError
from lmm.formula import Table
from lmm.formula.columns.given import aligned, numeric

#: numbers looked at in one piece, so that a mask stays small
PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class Responses:
    """R responses, a column each.

    Attributes
    ----------
    values : (N, R) float64, NaN where a value is missing.
    names : R labels, each used once.
    held : what the memory of ``values`` belongs to, where it is a DataFrame's: what is written to that later goes to a copy.
    """

    values: np.ndarray
    names: pd.Index
    held: object = None


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
    held = None
    if isinstance(responses, str):
        responses = [responses]
    if isinstance(responses, pd.Series):
        responses = responses.to_frame(0 if responses.name is None else responses.name)
    if isinstance(responses, pd.DataFrame):
        names: pd.Index = pd.Index(responses.columns)
        _check_shape(responses.shape, data)
        held = aligned(responses.copy(deep=False), data.index, "responses")
        values = numeric(held, "responses")
    elif _is_names(responses):
        unknown = [name for name in responses if name not in data]
        if unknown:
            raise DataError(f"responses: {data.unknown(unknown)}")
        return read_responses({name: data.column(name) for name in dict.fromkeys(responses)}, data)
    elif isinstance(responses, Mapping) or hasattr(responses, "columns"):
        table = Table(responses, "responses")
        columns = [
            numeric(_labelled(table.column(name), responses, data), f"responses: {name!r}")
            for name in table.columns
        ]
        values = np.column_stack(columns) if columns else np.empty((table.n, 0))
        names = pd.Index(table.columns)
    else:
        values = np.array(numeric(responses, "responses"))
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim != 2:
            raise DataError(
                f"responses: the array has shape {values.shape}; it must have a row per row of the data and a column each."
            )
        names = pd.RangeIndex(values.shape[1])
    if not len(names):
        raise DataError("responses: there is no response; give a column for each.")
    if names.has_duplicates:
        twice = names[names.duplicated()][0]
        raise DataError(
            f"responses: the name {twice!r} is used more than once; rename the columns so that each names one response."
        )
    _check_shape(values.shape, data)
    return Responses(values, names, held)


def _check_shape(shape: tuple[int, ...], data: Table) -> None:
    if shape[0] != data.n:
        wide = (
            " Is the table on its side? Transpose it."
            if len(shape) > 1 and shape[1] == data.n
            else ""
        )
        raise DataError(f"responses: {shape[0]} rows, but the data has {data.n}.{wide}")


def _labelled(column: pd.Series, responses: object, data: Table) -> pd.Series:
    """A column of a mapping in the order of the data, where the mapping has labels."""
    has_labels = isinstance(responses, Mapping) and any(
        isinstance(values, pd.Series) for values in responses.values()
    )
    return (
        aligned(column, data.index, "responses") if has_labels and len(column) == data.n else column
    )


def _is_names(responses: Any) -> bool:
    plain = isinstance(responses, Sequence | pd.Index) and not isinstance(responses, str)
    return plain and len(responses) > 0 and all(isinstance(name, str) for name in responses)


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
