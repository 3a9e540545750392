"""A grouping factor -> integer codes and levels, never dummies.

Levels are those that occur, in the order of a categorical, else sorted (numbers as numbers). Small
ranges of integers are counted, not hashed: ten million rows take a tenth of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import GroupingError


@dataclass(frozen=True, eq=False)
class Levels:
    """``codes`` (n,) int32 in 0..J-1, or -1 where missing; ``values`` the J levels, not yet strings."""

    codes: np.ndarray
    values: pd.Index


def strings(levels: pd.Index) -> pd.Index:
    """Level labels as strings: ``3``, not ``3.0``; an Index of strings is returned as it is."""
    if isinstance(levels.dtype, pd.StringDtype):
        return levels
    values = levels.tolist()
    if levels.dtype.kind == "f":
        values = [int(v) if np.isfinite(v) and float(v).is_integer() else v for v in values]
    try:
        return pd.Index([str(v) for v in values], dtype="str", name=None)
    except UnicodeEncodeError as error:
        cure = "clean the column with .str.encode('utf-8', 'replace').str.decode('utf-8')"
        raise GroupingError(f"the label {error.object!r} holds half a character (a lone surrogate), which is no text; {cure}.") from None


def encode(values: Any, name: str) -> Levels:
    """Codes and levels of one factor.

    Raises
    ------
    GroupingError : when the values are not one-dimensional or cannot be told apart.
    """
    series = values if isinstance(values, pd.Series) else _series(values, name)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return _drop_unused(series.cat.codes.to_numpy(), series.cat.categories)
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iub":
        numbers = series.to_numpy()
        if numbers.dtype == bool:
            return _drop_unused(numbers.astype(np.int32), pd.Index([False, True]))
        low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, -1)
        if high - low < 2 * numbers.size + 1024 and high < 2**63:
            return _count(numbers, low, high)
    try:
        codes, uniques = pd.factorize(series, sort=False)
    except TypeError as error:
        raise GroupingError(f"grouping factor {name!r} has values that cannot be told apart: {error}.") from error
    uniques = pd.Index(uniques)
    try:
        order = np.asarray(uniques.argsort())
    except TypeError:  # several types in one column
        order = np.argsort(np.array([str(u) for u in uniques]), kind="stable")
    rank = np.empty(len(order) + 1, dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    rank[-1] = -1  # code -1, a missing value, reads the last place
    return Levels(rank[codes], uniques[order])


def join(parts: list[Levels]) -> Levels:
    """The combinations that occur, first factor slowest, labels joined by ``:``; missing where any part is."""
    codes, size = parts[0].codes.astype(np.int64), len(parts[0].values)
    lost = parts[0].codes < 0
    labels = [parts[0].values]
    combined = np.arange(size)[:, None]
    for part in parts[1:]:
        width = len(part.values)
        lost |= part.codes < 0
        pair = _pairs(np.where(lost, -1, codes * width + part.codes), size * width)
        found = pair.values.to_numpy()
        combined = np.column_stack([combined[found // width], found % width])
        codes, size = pair.codes.astype(np.int64), len(found)
        labels.append(part.values)
    columns = [strings(index).to_numpy(dtype=object)[combined[:, i]] for i, index in enumerate(labels)]
    joined = columns[0]
    for column in columns[1:]:
        joined = joined + ":" + column
    return Levels(codes.astype(np.int32), pd.Index(joined, dtype="str"))


def lookup(fitted: pd.Index, new: Levels) -> tuple[np.ndarray, pd.Index]:
    """Codes of new values among the fitted levels, -1 where unseen; and the unseen labels."""
    labels = strings(new.values)
    place = strings(fitted).get_indexer(labels)
    codes = np.append(place, -1)[new.codes].astype(np.int32)
    return codes, labels[place < 0]


def _series(values: Any, name: str) -> pd.Series:
    if np.ndim(values) != 1:
        raise GroupingError(f"grouping factor {name!r} must be one column, not an array of shape {np.shape(values)}.")
    return pd.Series(values)


def _drop_unused(codes: np.ndarray, categories: pd.Index) -> Levels:
    used = np.zeros(len(categories) + 1, dtype=bool)
    used[codes] = True  # -1 marks the spare last place
    used = used[:-1]
    if used.all():
        return Levels(codes.astype(np.int32), categories)
    rank = np.full(len(used) + 1, -1, dtype=np.int32)
    rank[:-1][used] = np.arange(int(used.sum()), dtype=np.int32)
    return Levels(rank[codes], categories[used])


def _count(numbers: np.ndarray, low: int, high: int) -> Levels:
    """Integers in a small range: presence and ranks by counting."""
    shifted = numbers if low == 0 else numbers - numbers.dtype.type(low) if low > 0 else numbers.astype(np.int64) - low
    used = np.zeros(high - low + 1, dtype=bool)
    used[shifted] = True
    values = np.flatnonzero(used) + low
    if len(values) == len(used):
        return Levels(shifted.astype(np.int32), pd.Index(values))
    rank = np.cumsum(used, dtype=np.int32)
    rank -= 1
    return Levels(rank[shifted], pd.Index(values))


def _pairs(codes: np.ndarray, size: int) -> Levels:
    """Codes in 0..size-1 (or -1) -> dense codes, in increasing order of the code."""
    if size <= 4 * codes.size + 1024:
        return _drop_unused(codes, pd.RangeIndex(size))
    uniques = np.unique(codes[codes >= 0])
    place = np.searchsorted(uniques, codes).astype(np.int32)
    return Levels(np.where(codes < 0, np.int32(-1), place), pd.Index(uniques))
