"""What is given beside the table, one value per row: numbers of it, in the order of the table's rows.

Weights, offsets, masks, responses and variables of the caller come as arrays, which belong to the rows by position, or as pandas
objects, whose labels say which row each value belongs to. Labels are never passed over: values are put into the order of the data
where the labels are the data's in another order, and refused where they are other labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from lmm.arguments import shown
from lmm.errors import DataError, LmmError


@dataclass(frozen=True, eq=False)
class Given:
    """What a call gives beside the formula and the data of N rows.

    Attributes
    ----------
    weights : positive prior weights: column name, expression, or array (N,).
    offset : known part of the linear predictor: column name, expression, or array (N,).
    subset : rows to use: boolean mask (N,), expression, or function of the DataFrame that returns a mask.
    na_action : ``"omit"`` drops incomplete rows, ``"exclude"`` also pads results later, ``"fail"`` refuses them.
    contrasts : coding of categorical columns, ``{"period": "sum"}``.
    context : variables and functions of the caller.
    covariance : known covariances between the levels of grouping factors, ``{"id": K}``.
    """

    weights: object = None
    offset: object = None
    subset: object = None
    na_action: str = "omit"
    contrasts: Mapping[str, object] | None = None
    context: Mapping[str, object] = field(default_factory=dict)
    covariance: Mapping[str, object] | None = None


NOTHING = Given()

#: what pandas calls objects that are all numbers
NUMERIC_OBJECTS = {"integer", "floating", "mixed-integer-float", "decimal", "boolean", "empty"}
#: whole numbers up to this one are exact as floats
EXACT = 2**53


def aligned(values: object, index: pd.Index, what: str, error: type[LmmError] = DataError) -> Any:
    """A pandas object in the order of ``index``; anything else, and one with the very same labels, as it is.

    Parameters
    ----------
    values : Series or DataFrame with the labels of the rows, or anything else.
    index : labels of the rows of the data.
    what : the argument or column, for the message.

    Raises
    ------
    LmmError : of the kind ``error``, where the labels are not those of the data, or are and some occur twice.

    Examples
    --------
    >>> aligned(pd.Series([1.0, 2.0], index=["b", "a"]), pd.Index(["a", "b"]), "weights").tolist()
    [2.0, 1.0]
    """
    if not isinstance(values, pd.Series | pd.DataFrame) or _same(values.index, index):
        return values
    own = values.index
    if len(own) == len(index) and own.is_unique and index.is_unique:
        place = own.get_indexer(index)
        if (place >= 0).all():
            return values.iloc[place]
    if len(own) != len(index):
        why = f"it has {len(own)} values and the data has {len(index)} rows"
    elif set(own) == set(index):
        why = "its index holds the labels of the data in another order, and some of them more than once"
    else:
        strange = next((label for label in own if label not in index), None)
        why = "its index is not that of the data" + (
            "" if strange is None else f": {strange!r} is no label of a row"
        )
    form = (
        f"{what}[data.index]"
        if isinstance(values, pd.Series) and what.isidentifier()
        else "s.loc[data.index]"
    )
    raise error(
        f"{what}: {why}. Values with an index are matched by it: give {form}, or .to_numpy() to match by position."
    )


def _same(own: pd.Index, index: pd.Index) -> bool:
    return own is index or (len(own) == len(index) and own.equals(index))


def own(value: object) -> Any:
    """A copy of an array, Series, list, dict or set, which the user may change later; anything else as it is."""
    if isinstance(
        value, np.ndarray | pd.Series | pd.DataFrame | pd.Index | pd.api.extensions.ExtensionArray
    ):
        return value.copy()
    if isinstance(value, list | dict | set):
        try:
            return copy.deepcopy(value)
        except Exception:  # whatever a user's object raises
            return copy.copy(value)
    return value


class Labelled:
    """A function of the caller as a formula calls it: a Series that it returns is put into the order of the rows by its labels.

    Within a formula rows are numbered 0..n-1; a Series that the function has from elsewhere has the labels of the user's data.
    """

    def __init__(self, function: Callable[..., object], name: str, index: pd.Index):
        self.function, self.name, self.index = function, name, index

    def __call__(self, *arguments: object, **settings: object) -> object:
        out = self.function(*arguments, **settings)
        if not isinstance(out, pd.Series | pd.DataFrame) or len(out) != len(self.index):
            return out
        if any(
            out.index is getattr(given, "index", None) for given in (*arguments, *settings.values())
        ):
            return out
        numbered = pd.RangeIndex(len(out))
        if out.index.is_unique and not _same(self.index, numbered) and self.index.is_unique:
            if (out.index.get_indexer(self.index) >= 0).all():
                if (out.index.get_indexer(numbered) >= 0).all():
                    raise DataError(
                        f"{self.name}() returns a Series whose index may be that of the data or number the rows; return an array, "
                        "in the order of the rows that it is given."
                    )
                return aligned(out, self.index, f"{self.name}()").set_axis(numbered, axis=0)
        return aligned(out, numbered, f"{self.name}()").set_axis(numbered, axis=0)

    def __getattr__(self, attribute: str) -> object:
        if attribute.startswith("__") or "function" not in self.__dict__:
            raise AttributeError(attribute)
        return getattr(self.function, attribute)


def labelled(context: Mapping[str, object], index: pd.Index) -> dict[str, object]:
    """The caller's variables, functions among them as :class:`Labelled`; classes, modules and formulas' own functions as they are."""
    return {
        name: Labelled(value, name, index) if _is_function(value) else value
        for name, value in context.items()
    }


def _is_function(value: object) -> TypeGuard[Callable[..., object]]:
    return (
        callable(value)
        and not isinstance(value, type | Labelled)
        and not hasattr(value, "__is_stateful_transform__")
    )


def numeric(
    values: object, what: str, error: type[LmmError] = DataError, hint: str = ""
) -> np.ndarray:
    """Numbers as float64, of any shape, NaN where one is missing; may share memory with what was given.

    Booleans count as 0 and 1. A masked array's masked values are missing, as are None, NaN and NA. Text is not read as numbers.

    Raises
    ------
    LmmError : of the kind ``error``, for text, categories, dates, durations, complex numbers and whatever else is no number.

    Examples
    --------
    >>> numeric(np.ma.masked_array([1, 2], mask=[False, True]), "weights").tolist()
    [1.0, nan]
    """
    if isinstance(values, pd.DataFrame):
        if all(isinstance(t, np.dtype) and t.kind in "fiub" for t in values.dtypes):
            return values.to_numpy(dtype=float)
        columns = [
            numeric(values.iloc[:, i], f"{what}: column {values.columns[i]!r}", error, hint)
            for i in range(values.shape[1])
        ]
        return np.column_stack(columns) if columns else np.empty(values.shape)
    if isinstance(values, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        dtype = values.dtype
        if isinstance(dtype, np.dtype):
            return _of_array(np.asarray(values), what, error, hint)
        if isinstance(dtype, pd.CategoricalDtype):
            raise error(f"{what} must be numeric, but it is categorical{_first(values)}.{hint}")
        if pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype):
            return np.asarray(pd.Series(values).to_numpy(dtype=float, na_value=np.nan))
        return _of_array(np.asarray(values, dtype=object), what, error, hint, str(dtype))
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    array = as_array(values, what, error, hint)
    if mask is not None and mask.any():
        if array.dtype.kind == "O":
            array = array.copy()
            array[mask] = None
        out = _of_array(array, what, error, hint).copy()
        out[mask] = np.nan
        return out
    return _of_array(array, what, error, hint)


def not_finite(values: np.ndarray) -> str | None:
    """What is wrong with numbers (n,), "infinite in 2 of 9 rows"; None where all are finite, in one pass and without a temporary."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.add.reduce(values)):
            return None
    bad = ~np.isfinite(values)
    if not bad.any():
        return None
    what = "not a number" if np.isnan(values).any() else "infinite"
    return f"{what} in {int(bad.sum())} of {len(bad)} rows"


def as_array(
    values: object, what: str, error: type[LmmError] = DataError, hint: str = ""
) -> np.ndarray:
    """Values as NumPy has them, sparse ones dense."""
    try:
        return np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    except Exception:  # whatever an object raises that cannot be an array
        raise error(
            f"{what} must be numbers, but NumPy can make no array of this {type(values).__name__}.{hint}"
        ) from None


def _of_array(
    array: np.ndarray, what: str, error: type[LmmError], hint: str, type_name: str = ""
) -> np.ndarray:
    if array.dtype.kind in "fiub":
        return array.astype(float, copy=False)
    if array.dtype.kind == "O":
        flat = array.ravel()
        absent = np.asarray(pd.isna(flat), dtype=bool)
        present = flat[~absent]
        kind = pd.api.types.infer_dtype(present, skipna=False) if len(present) else "empty"
        if kind in NUMERIC_OBJECTS:
            out = np.full(flat.shape, np.nan)
            try:
                out[~absent] = present.astype(float)
            except (OverflowError, TypeError, ValueError):
                raise error(f"{what} has numbers that no float can hold.{hint}") from None
            return out.reshape(array.shape)
        words = {
            "string": "text",
            "mixed": "of several types",
            "mixed-integer": "of several types",
            "complex": "complex",
        }
        what_it_is = words.get(kind, type_name or kind)
        raise error(f"{what} must be numeric, but it is {what_it_is}{_first(present)}.{hint}")
    words = {
        "U": "text",
        "S": "text",
        "T": "text",
        "c": "complex",
        "M": "a date",
        "m": "a duration",
        "V": "structured",
    }
    cure = {
        "c": " Take .real.",
        "M": " Turn it into a number, such as days since a date.",
        "m": " Turn it into a number of seconds.",
    }
    kind = array.dtype.kind
    raise error(
        f"{what} must be numeric, but it is {words.get(kind, str(array.dtype))}{_first(array.ravel())}.{cure.get(kind, '')}{hint}"
    )


def _first(values: np.ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray) -> str:
    if not len(values):
        return ""
    first = values.iloc[0] if isinstance(values, pd.Series) else values[0]
    return f"; the first value is {shown(first.item() if isinstance(first, np.generic) else first)}"
