"""Levels of a grouping factor that come to be known chunk by chunk.

Every level has a number, its *id*, that never changes while chunks are added: an integer of a small range is its own id and
costs no look-up; other values are numbered as they appear. Where the sums of a level are kept, its *position*, is the id less
the smallest one. In the end the levels that occurred are put into the order that a fit in memory gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.errors import DataError
from lmm.formula.columns.levels import DeclaredOrder, joint

if TYPE_CHECKING:
    import pyarrow as pa

#: a range of integers may be this much longer than the rows seen, and this long in any case
ROOM, FEW = 8, 4_000_000
#: ids must fit in four bytes: two of them make a key
LIMIT = 2**31 - 1


class FoundLevels:
    """Levels by id. ``low`` is the smallest id, ``size`` the length of the range that holds all ids."""

    low: int = 0
    size: int = 0

    def add(self, labels: pa.Array) -> np.ndarray:
        """Ids (n,) of the values of an Arrow array without missing ones; levels that are new are taken up.

        Raises
        ------
        OverflowError : integers that span too much to be their own ids.
        """
        raise NotImplementedError

    def absorb(self, other: FoundLevels, ids: np.ndarray) -> np.ndarray:
        """Own ids of the ``ids`` of other levels of the same kind, taken up where they are new."""
        raise NotImplementedError

    def values(self, ids: np.ndarray) -> pd.Index:
        """The values of ids, not yet strings."""
        raise NotImplementedError

    def order(self, ids: np.ndarray) -> np.ndarray:
        """Permutation that puts ids into the order of a fit in memory."""
        raise NotImplementedError


class IntegerLevels(FoundLevels):
    """Integers of a small range: the value is the id."""

    def __init__(self) -> None:
        self.low, self.size, self.rows = 0, 0, 0

    def add(self, labels: pa.Array) -> np.ndarray:
        values = numbers(labels)
        self.rows += len(values)
        if len(values):
            self._cover(int(values.min()), int(values.max()))
        return values

    def _cover(self, low: int, high: int) -> None:
        if self.size:
            low, high = min(low, self.low), max(high, self.low + self.size - 1)
        if high - low >= ROOM * self.rows + FEW or max(-low, high) > LIMIT:
            raise OverflowError
        self.low, self.size = low, high - low + 1

    def absorb(self, other: FoundLevels, ids: np.ndarray) -> np.ndarray:
        assert isinstance(other, IntegerLevels)
        self.rows += other.rows
        if other.size:
            self._cover(other.low, other.low + other.size - 1)
        return ids

    def values(self, ids: np.ndarray) -> pd.Index:
        return pd.Index(np.asarray(ids, dtype=np.int64))

    def order(self, ids: np.ndarray) -> np.ndarray:
        return np.argsort(ids, kind="stable")


class ListedLevels(FoundLevels):
    """Any values, numbered as they appear; ``declared`` is the order that dictionaries give them, for categories."""

    def __init__(self, type: pa.DataType, ordered: bool = False) -> None:
        self.type = type
        self.declared = DeclaredOrder() if ordered else None
        self.known: pa.Array | None = None

    @property
    def size(self) -> int:  # type: ignore[override]
        return 0 if self.known is None else len(self.known)

    def add(self, labels: pa.Array) -> np.ndarray:
        import pyarrow as pa

        chunks = labels.chunks if isinstance(labels, pa.ChunkedArray) else [labels]
        if len(chunks) > 1 and self.declared is None:
            chunks = [labels.combine_chunks()]
        out = [self._add(chunk) for chunk in chunks]
        return (
            np.concatenate(out) if len(out) > 1 else out[0] if out else np.zeros(0, dtype=np.int64)
        )

    def _add(self, labels: pa.Array) -> np.ndarray:
        import pyarrow as pa

        if not isinstance(labels, pa.DictionaryArray):
            labels = one_zero(labels).dictionary_encode()
        place = self.declare(labels.dictionary)
        return np.asarray(place[labels.indices.to_numpy(zero_copy_only=False)])

    def declare(self, dictionary: pa.Array) -> np.ndarray:
        """Ids of the values of a dictionary, whose order is taken up where there is one."""
        place = self._place(dictionary)
        if self.declared is not None:
            self.declared.add(place)
        return place

    def _place(self, distinct: pa.Array) -> np.ndarray:
        import pyarrow as pa
        import pyarrow.compute as pc

        distinct = distinct.cast(self.type)
        if self.known is None or not len(self.known):
            self.known = pa.concat_arrays(
                [distinct]
            )  # a copy: a slice would keep its whole chunk alive
            return np.arange(len(distinct), dtype=np.int64)
        found = pc.index_in(distinct, value_set=self.known)
        if not found.null_count:
            return found.to_numpy().astype(np.int64)
        new = found.is_null()
        place = found.fill_null(0).to_numpy().astype(np.int64)
        mask = new.to_numpy(zero_copy_only=False)
        place[mask] = len(self.known) + np.arange(int(mask.sum()))
        self.known = pa.concat_arrays([self.known, distinct.filter(new)])
        if len(self.known) > LIMIT:
            raise DataError("a grouping factor has more than two billion levels.")
        return place

    def absorb(self, other: FoundLevels, ids: np.ndarray) -> np.ndarray:
        assert isinstance(other, ListedLevels)
        if other.known is None:
            return ids
        place = self._place(other.known)
        if self.declared is not None and other.declared is not None:
            for one in other.declared.longest:
                self.declared.add(place[one])
        return np.asarray(place[ids])

    def values(self, ids: np.ndarray) -> pd.Index:
        import pyarrow as pa

        if self.known is None:
            return pd.Index([], dtype="str")
        found = self.known.take(pa.array(np.asarray(ids, dtype=np.int64)))
        if pa.types.is_string(self.type) or pa.types.is_large_string(self.type):
            return pd.Index(found.to_pandas(), dtype="str")
        return pd.Index(found.to_pandas())

    def order(self, ids: np.ndarray) -> np.ndarray:
        rank = None if self.declared is None else self.declared.rank(np.asarray(ids))
        if rank is not None:
            return np.argsort(rank, kind="stable")
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.known is None:
            return np.zeros(0, dtype=np.int64)
        if pa.types.is_boolean(self.type):
            return np.argsort(np.asarray(self.values(ids)), kind="stable")
        return (
            pc.sort_indices(self.known.take(pa.array(np.asarray(ids, dtype=np.int64))))
            .to_numpy()
            .astype(np.int64)
        )


class JointLevels(FoundLevels):
    """Combinations of the levels of several factors, numbered as they appear; the first factor varies slowest in the end."""

    def __init__(self, parts: Sequence[FoundLevels]) -> None:
        import pyarrow as pa

        self.parts = list(parts)
        self.combined = [
            ListedLevels(pa.int64()) for _ in parts[1:]
        ]  # (first two), (those, third), ...

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.combined[-1].size

    def add(self, labels: Sequence[pa.Array]) -> np.ndarray:
        columns = [
            added(self.parts[i], label, partial(self._list, i)) for i, label in enumerate(labels)
        ]
        return self._combine(columns)

    def _combine(self, columns: list[np.ndarray]) -> np.ndarray:
        import pyarrow as pa

        ids = columns[0]
        for combined, column in zip(self.combined, columns[1:], strict=True):
            ids = combined.add(pa.array(key(ids, column)))
        return ids

    def _split(self, ids: np.ndarray) -> list[np.ndarray]:
        """The parts' ids of joint ids."""
        out: list[np.ndarray] = []
        for combined in reversed(self.combined):
            keys = (
                np.zeros(0, dtype=np.int64)
                if combined.known is None
                else combined.known.to_numpy(zero_copy_only=False)[ids]
            )
            ids, last = unkey(keys)
            out.append(last)
        return [ids, *reversed(out)]

    def _list(self, i: int, type: pa.DataType) -> FoundLevels:
        """Number the values of one part, whose integers span too much; joint ids stay as they are."""
        old = self._split(np.arange(self.size))
        old[i], self.parts[i] = listed(self.parts[i], old[i], type)
        self._rebuild(old)
        return self.parts[i]

    def _rebuild(self, columns: list[np.ndarray]) -> None:
        fresh = JointLevels(self.parts)
        ids = fresh._combine(columns)
        if not np.array_equal(
            ids, np.arange(len(ids))
        ):  # rows are distinct: they are numbered as they come
            raise AssertionError("joint levels are not distinct")
        self.combined = fresh.combined

    def absorb(self, other: FoundLevels, ids: np.ndarray) -> np.ndarray:
        assert isinstance(other, JointLevels)
        theirs = other._split(np.arange(other.size))
        for i, part in enumerate(other.parts):
            theirs[i] = absorbed(self.parts[i], part, theirs[i], partial(self._list, i))
        place = self._combine(theirs)
        return np.asarray(place[ids])

    def values(self, ids: np.ndarray) -> pd.Index:
        ranks, levels = self._ranks(ids)
        return joint(levels, np.column_stack(ranks))

    def order(self, ids: np.ndarray) -> np.ndarray:
        return np.lexsort(self._ranks(ids)[0][::-1])

    def _ranks(self, ids: np.ndarray) -> tuple[list[np.ndarray], list[pd.Index]]:
        """Positions (n,) of joint ids among the levels of each part that occur, put in order, and those levels."""
        ranks, levels = [], []
        for part, column in zip(self.parts, self._split(ids), strict=True):
            distinct, inverse = np.unique(column, return_inverse=True)
            order = part.order(distinct)
            rank = np.empty(len(distinct), dtype=np.int64)
            rank[order] = np.arange(len(distinct))
            ranks.append(rank[inverse])
            levels.append(part.values(distinct[order]))
        return ranks, levels


def added(
    levels: FoundLevels, labels: pa.Array, number: Callable[[pa.DataType], FoundLevels]
) -> np.ndarray:
    """Ids (n,) of values; where integers span too much to be their own ids, those of the levels that ``number`` has numbered."""
    try:
        return levels.add(labels)
    except OverflowError:
        return number(labels.type).add(labels)


def absorbed(
    levels: FoundLevels,
    other: FoundLevels,
    ids: np.ndarray,
    number: Callable[[pa.DataType], FoundLevels],
) -> np.ndarray:
    """Ids in ``levels`` of the ``ids`` of others, whether integers are their own ids in one, both or none of them.

    ``number`` numbers the integers of ``levels`` and gives the levels that they are then.
    """
    if isinstance(levels, IntegerLevels) and isinstance(other, ListedLevels):
        levels = number(other.type)
    elif isinstance(levels, ListedLevels) and isinstance(other, IntegerLevels):
        ids, other = listed(other, ids, levels.type)
    try:
        return levels.absorb(other, ids)
    except OverflowError:
        import pyarrow as pa

        ids, other = listed(other, ids, pa.int64())
        return number(pa.int64()).absorb(other, ids)


def one_zero(labels: pa.Array) -> pa.Array:
    """An Arrow array; of floats with -0.0 as 0.0, which it equals."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return (
        pc.add(labels, pa.scalar(0.0, labels.type)) if pa.types.is_floating(labels.type) else labels
    )


def key(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two ids as one number, (n,) int64; sorts by the first, then by the second."""
    return (first.astype(np.int64) << 32) | (second.astype(np.int64) + 2**31)


def unkey(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of :func:`key`."""
    return keys >> 32, (keys & 0xFFFFFFFF) - 2**31


def numbers(labels: pa.Array) -> np.ndarray:
    """Integers of an Arrow array as NumPy, (n,), without a copy where it is one chunk."""
    import pyarrow as pa

    if isinstance(labels, pa.ChunkedArray):
        labels = labels.chunk(0) if labels.num_chunks == 1 else labels.combine_chunks()
        if isinstance(labels, pa.ChunkedArray):
            return np.zeros(0, dtype=np.int64)
    return np.asarray(labels.to_numpy(zero_copy_only=False))


def listed(
    levels: FoundLevels, ids: np.ndarray, type: pa.DataType
) -> tuple[np.ndarray, FoundLevels]:
    """Integer levels numbered as they appear: the new ids of ``ids``, and the levels."""
    import pyarrow as pa

    out = ListedLevels(type)
    return out.add(pa.array(np.asarray(ids, dtype=np.int64)).cast(type)), out


def levels_of(types: Sequence[pa.DataType]) -> FoundLevels:
    """Empty levels for a factor of one Arrow type, or for the combinations of several."""
    import pyarrow as pa

    if len(types) > 1:
        return JointLevels([levels_of([one]) for one in types])
    (one,) = types
    if pa.types.is_dictionary(one):
        return ListedLevels(one.value_type, ordered=True)
    return IntegerLevels() if pa.types.is_integer(one) else ListedLevels(one)
