"""A grouping factor -> integer codes and levels, never dummies.

Levels are those that occur, in the order of a categorical, else sorted (numbers as numbers). A level is known by its text:
2 and "2" in one column are one level, and new values are looked up by it, whatever their type. The levels of ``a:b`` are pairs
of levels, a MultiIndex; their labels may coincide ("1:2" with "3", "1" with "2:3"), they do not. Small ranges of integers are
counted, not hashed: ten million rows take a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import GroupingError


class UnseenLevels(Exception):
    """New data has levels of ``factor``, an expression, that the fit never saw."""

    def __init__(self, factor: str, levels: list[object]):
        self.factor, self.levels = factor, levels
        super().__init__(factor)

    @property
    def shown(self) -> str:
        """The first few levels, quoted."""
        return ", ".join(repr(str(v)) for v in self.levels[:6]) + (
            ", ..." if len(self.levels) > 6 else ""
        )


@dataclass(frozen=True, eq=False)
class Levels:
    """``codes`` (n,) int32 in 0..J-1, or -1 where missing; ``values`` the J levels, not yet strings, a MultiIndex of several factors.

    Rows that belong to several levels have ``codes`` (n, s), and in ``shares`` (n, s) the weight of each.
    """

    codes: np.ndarray
    values: pd.Index
    shares: np.ndarray | None = field(default=None, kw_only=True)


def strings(levels: pd.Index) -> pd.Index:
    """Level labels as strings: ``3``, not ``3.0``, ``a:b`` of several factors; an Index of strings is returned as it is."""
    if isinstance(levels, pd.MultiIndex):
        columns = [
            strings(own).to_numpy(dtype=object)[codes]
            for own, codes in zip(levels.levels, levels.codes, strict=True)
        ]
        joined = columns[0]
        for column in columns[1:]:
            joined = joined + ":" + column
        return pd.Index(joined, dtype="str")
    if isinstance(levels.dtype, pd.StringDtype):
        return levels
    values = levels.tolist()
    if levels.dtype.kind in "fO":
        values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    return pd.Index([str(v) for v in values], dtype="str", name=None)


class DeclaredOrder:
    """The order of levels that dictionaries declare, as far as all of them agree.

    Each dictionary is an array of the numbers of its levels. The order is that of the one that has the levels of all others in
    their order; where there is none, none is declared. It does not depend on which dictionary came first.
    """

    #: dictionaries that are kept at the most, none of which has the levels of another in their order
    MOST = 64

    def __init__(self) -> None:
        self.longest: list[np.ndarray] = []

    def add(self, levels: np.ndarray) -> None:
        """Take up one more dictionary."""
        if any(_has(one, levels) for one in self.longest):
            return
        self.longest = [one for one in self.longest if not _has(levels, one)]
        if len(self.longest) <= self.MOST:
            self.longest.append(levels)

    def rank(self, levels: np.ndarray) -> np.ndarray | None:
        """Place of each of some levels in the order; None where no order is declared for all of them."""
        if len(self.longest) != 1:
            return None
        place = _places(self.longest[0], levels)
        return place if len(place) and place.min() >= 0 else None


def _places(levels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where numbers stand among others, -1 for one that is not there."""
    if not len(levels):
        return np.full(len(wanted), -1)
    rank = np.full(int(max(levels.max(), wanted.max(initial=0))) + 1, -1)
    rank[levels] = np.arange(len(levels))
    return np.asarray(rank[wanted])


def _has(whole: np.ndarray, part: np.ndarray) -> bool:
    """Whether one order holds all of another's levels, in its order."""
    if len(part) > len(whole):
        return False
    place = _places(whole, part)
    return bool((place >= 0).all() and (np.diff(place) > 0).all())


def merged_before(levels: pd.Index, name: str) -> str | None:
    """What to tell the user of whole numbers that are stored as floats too short for them; None where there is nothing to tell."""
    if levels.dtype.kind != "f" or not len(levels):
        return None
    values = np.abs(levels.to_numpy())
    digits = np.finfo(values.dtype).nmant + 1
    beyond = values[np.isfinite(values)] > 2.0**digits
    if not beyond.any():
        return None
    return (
        f"grouping factor {name!r} has whole numbers beyond 2^{digits} that are stored as floats ({values.dtype}), in which neighbouring "
        "numbers are one and the same: groups may have been merged before they came here. Read the column as integers or as text."
    )


def encode(values: object, name: str) -> Levels:
    """Codes and levels of one factor.

    Raises
    ------
    GroupingError : when the values are not one-dimensional or cannot be told apart.
    """
    series = values if isinstance(values, pd.Series) else _series(values, name)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return occurring(series.cat.codes.to_numpy(), series.cat.categories)
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iub":
        numbers = series.to_numpy()
        if numbers.dtype == bool:
            return occurring(numbers.astype(np.int32), pd.Index([False, True]))
        low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, -1)
        if high - low < 2 * numbers.size + 1024 and high < 2**63:
            return _count(numbers, low, high)
    try:
        codes, uniques = pd.factorize(series, sort=False)
    except TypeError as error:
        raise GroupingError(f"the values of {name!r} cannot be told apart: {error}.") from error
    uniques = pd.Index(uniques)
    if uniques.dtype == object and pd.api.types.infer_dtype(uniques).startswith(
        "mixed"
    ):  # several types: levels by their text
        merged, uniques = pd.factorize(strings(uniques))
        codes = np.append(merged, -1)[codes]
    try:
        order = np.asarray(uniques.argsort())
    except TypeError:
        order = np.argsort(np.array([str(u) for u in uniques]), kind="stable")
    rank = np.empty(len(order) + 1, dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    rank[-1] = -1  # code -1, a missing value, reads the last place
    return Levels(rank[codes], uniques[order])


def join(parts: list[Levels]) -> Levels:
    """The combinations that occur, first factor slowest, as a MultiIndex; missing where any part is."""
    codes, size = parts[0].codes.astype(np.int64), len(parts[0].values)
    lost = parts[0].codes < 0
    combined = np.arange(size)[:, None]
    for part in parts[1:]:
        width = len(part.values)
        lost |= part.codes < 0
        pair = _pairs(np.where(lost, -1, codes * width + part.codes), size * width)
        found = pair.values.to_numpy()
        combined = np.column_stack([combined[found // width], found % width])
        codes, size = pair.codes.astype(np.int64), len(found)
    return Levels(codes.astype(np.int32), joint([part.values for part in parts], combined))


def joint(levels: Sequence[pd.Index], codes: np.ndarray) -> pd.MultiIndex:
    """Combinations (J, factors) of positions among the levels of each factor."""
    return pd.MultiIndex(levels=levels, codes=list(codes.T), verify_integrity=False)  # type: ignore[arg-type]


def places(fitted: pd.Index, new: pd.Index) -> np.ndarray:
    """Position of new levels among the fitted ones by their text, those of joint factors by that of each part; -1 where unseen."""
    if not isinstance(fitted, pd.MultiIndex) or not isinstance(new, pd.MultiIndex):
        return np.asarray(strings(fitted).get_indexer(strings(new)))
    parts = zip(fitted.levels, new.levels, new.codes, strict=True)
    return joint_places(
        fitted, [places(own, other)[np.asarray(codes)] for own, other, codes in parts]
    )


def joint_places(fitted: pd.MultiIndex, columns: Sequence[np.ndarray]) -> np.ndarray:
    """Positions (n,) among joint levels of rows whose parts have the positions ``columns``; -1 where one is, or the combination is new."""
    own, keys, size = (
        np.zeros(len(fitted), dtype=np.int64),
        np.zeros(len(columns[0]), dtype=np.int64),
        1,
    )
    lost = np.zeros(len(keys), dtype=bool)
    for level, codes, place in zip(fitted.levels, fitted.codes, columns, strict=True):
        lost |= place < 0
        own, keys, size = (
            own * len(level) + np.asarray(codes),
            keys * len(level) + place,
            size * len(level),
        )
        if size > 2**31:  # renumbered before the next product overflows
            own, uniques = pd.factorize(own)
            keys, size = pd.Index(uniques).get_indexer(pd.Index(keys)), len(uniques)
            lost |= keys < 0
    return np.where(lost, -1, pd.Index(own).get_indexer(pd.Index(keys)))


def lookup(fitted: pd.Index, new: Levels) -> tuple[np.ndarray, pd.Index]:
    """Codes of new values among the fitted levels, -1 where unseen; and the unseen labels."""
    place = places(fitted, new.values)
    codes = np.append(place, -1)[new.codes].astype(np.int32)
    lost = new.values[place < 0]
    return codes, strings(lost.remove_unused_levels() if isinstance(lost, pd.MultiIndex) else lost)


def matched(values: object, fitted: pd.Index, name: str) -> pd.Categorical:
    """Values as a categorical of the fitted levels, by their text; levels that are new stand behind those."""
    found = encode(values, name)
    place = places(fitted, found.values)
    new = place < 0
    if new.any():
        place = np.where(new, len(fitted) + np.cumsum(new) - 1, place)
        fitted = pd.Index([*fitted, *strings(found.values[new])], dtype=object)
    return pd.Categorical.from_codes(np.append(place, -1)[found.codes], categories=fitted)


def labels(coded: pd.Categorical | pd.Series) -> np.ndarray:
    """(n,) the text of each value of a categorical, None where it is missing."""
    values = pd.Categorical(coded)
    texts = np.empty(len(values.categories) + 1, dtype=object)
    texts[:-1] = strings(values.categories)
    return texts[values.codes]


def _series(values: Any, name: str) -> pd.Series:
    if np.ndim(values) != 1:
        raise GroupingError(
            f"{name!r} must be one column, not an array of shape {np.shape(values)}."
        )
    return pd.Series(values)


def occurring(codes: np.ndarray, categories: pd.Index) -> Levels:
    """The levels that occur among codes of any shape, -1 where one is missing."""
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
    shifted = (
        numbers
        if low == 0
        else numbers - numbers.dtype.type(low)
        if low > 0
        else numbers.astype(np.int64) - low
    )
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
        return occurring(codes, pd.RangeIndex(size))
    uniques = np.unique(codes[codes >= 0])
    place = np.searchsorted(uniques, codes).astype(np.int32)
    return Levels(np.where(codes < 0, np.int32(-1), place), pd.Index(uniques))
