"""``subset=`` -> a mask of rows: a boolean array, a function of the DataFrame, or a condition as text.

In a condition ``&``, ``|`` and ``!`` bind as in R and in DataFrame.query, weaker than comparisons:
``"x > 0 & group != 'b'"``; ``and``, ``or``, ``not`` mean the same.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError, DataError, FormulaError
from lmm.formula.columns.engine import FUNCTIONS, Columns, Evaluator
from lmm.formula.columns.given import aligned, labelled
from lmm.formula.columns.table import Table, as_floats, given_column, plain
from lmm.formula.text.expressions import python
from lmm.formula.text.names import (
    alias,
    aliased,
    as_expression,
    awkward_names,
    refuse_unknown,
    resolve,
)
from lmm.formula.text.row_dependence import across


@dataclass(frozen=True)
class Chosen:
    """A function given as ``subset=``, and the rows (N,) that it chose of the data of the fit. It is pickled where it can be."""

    function: Callable[[pd.DataFrame], object] | None
    rows: np.ndarray

    def __getstate__(self) -> dict[str, object]:
        try:
            pickle.dumps(self.function)
        except Exception:  # whatever a function of the user's raises
            return {"function": None, "rows": self.rows}
        return {"function": self.function, "rows": self.rows}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)


def row_mask(subset: object, table: Table, scope: Mapping[str, object]) -> np.ndarray | None:
    """(N,) bool of the rows asked for, or None for all; a condition that is missing leaves the row out.

    Raises
    ------
    ArgumentError : not a mask over the rows. DataError : unknown column, or no row left.
    """
    if subset is None:
        return None
    if isinstance(subset, str):
        mask = condition_mask(subset, table, scope)
    else:
        mask = _mask(
            _called(subset, table.to_pandas()) if callable(subset) else subset, table.index
        )
    if not mask.any():
        raise DataError("subset leaves no rows.")
    return mask


def condition_mask(text: str, table: Table, scope: Mapping[str, object]) -> np.ndarray:
    """(N,) bool, where a condition holds; it may hold nowhere. Errors as for :func:`row_mask`."""
    return _mask(_evaluate(text, table, scope), pd.RangeIndex(table.n))


def _called(function: Callable[[pd.DataFrame], object], frame: pd.DataFrame) -> object:
    """What a function of the user's makes of the data."""
    try:
        return function(frame.copy(deep=False))
    except Exception as error:  # whatever the user's own code raises
        raise ArgumentError(
            f"subset: the function fails on the data: {type(error).__name__}: {' '.join(str(error).split())}."
        ) from error


def _mask(value: Any, index: pd.Index) -> np.ndarray:
    """A mask of the rows that have the labels ``index``."""
    value, n = aligned(value, index, "subset", ArgumentError), len(index)
    wrong = f"subset must be a boolean mask over the {n} rows of the data, or an expression that gives one"
    try:
        shape = value.shape if hasattr(value, "shape") else np.shape(value)
    except ValueError:  # lists of different lengths
        shape = None
    if shape != (n,):
        raise ArgumentError(
            f"{wrong}; it has {'lists of different lengths' if shape is None else f'the shape {shape}'}."
        )
    try:
        series = plain(
            value.reset_index(drop=True) if isinstance(value, pd.Series) else pd.Series(value),
            "subset",
        )
        boolean = pd.api.types.is_bool_dtype(series.dtype) or (
            pd.api.types.is_numeric_dtype(series.dtype) and series.dropna().isin([0, 1]).all()
        )
    except (TypeError, ValueError):
        boolean = False
    if not boolean:
        raise ArgumentError(f"{wrong}; it is not true or false in each row.")
    return np.asarray(series.astype("boolean").fillna(False).to_numpy(dtype=bool))


def looks_across(text: str, table: Table, scope: Mapping[str, object]) -> bool:
    """Whether a condition holds in a row or not depending on other rows."""
    return bool(across([_python(text, table)], _evaluator(text, table, scope)))


def _evaluate(text: str, table: Table, scope: Mapping[str, object]) -> object:
    return _evaluator(text, table, scope).expression(_python(text, table))


def _awkward(text: str, table: Table) -> frozenset[str]:
    return frozenset(
        name for name in awkward_names(as_expression(text, table, "subset")) if name in table
    )


def _python(text: str, table: Table) -> str:
    try:
        return python(aliased(as_expression(text, table, "subset"), _awkward(text, table)))
    except FormulaError as error:
        raise FormulaError(
            f"subset: {str(error).partition(chr(10))[0]}", error.formula, error.span
        ) from None


def _evaluator(text: str, table: Table, scope: Mapping[str, object]) -> Evaluator:
    text = as_expression(text, table, "subset")
    found = resolve([text], table.names, table.n, scope, FUNCTIONS)
    refuse_unknown(found, table, {text: "subset"})
    raw = {name: as_floats(table.column(name).reset_index(drop=True)) for name in found.columns}
    raw |= {
        name: as_floats(given_column(values, table.index, name))
        for name, values in found.arrays.items()
    }
    awkward = _awkward(text, table)
    rows = Columns(raw, table.n)
    rows.rename({name: alias(name) for name in awkward})
    return Evaluator(rows, labelled(found.context, table.index), {}, {}, awkward)
