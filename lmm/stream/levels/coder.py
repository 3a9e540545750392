"""Values of a grouping factor -> places among levels that are known: what a second pass over the rows needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.formula.columns.levels import joint_places
from lmm.stream.levels.found_levels import ROOM, numbers, one_zero

if TYPE_CHECKING:
    import pyarrow as pa

#: a table of all integers in the range of the levels is made up to this length, or ROOM times the levels
LONGEST = 4_000_000


class Coder:
    """Places of values among the levels of one grouping factor.

    Parameters
    ----------
    levels : the J levels in the order of the codes, as values; of a joint factor their combinations.
    types : Arrow type of each factor's values.
    """

    def __init__(self, levels: pd.Index, types: Sequence[pa.DataType]):
        import pyarrow as pa

        self.levels, self.types = levels, tuple(types)
        self.low = 0
        self._table: np.ndarray | None = None
        self._set: pa.Array | None = None
        self._parts: list[Coder] = []
        if isinstance(levels, pd.MultiIndex):
            self._parts = [
                Coder(own, [type]) for own, type in zip(levels.levels, self.types, strict=True)
            ]
        elif pa.types.is_integer(self.types[0]) and (not len(levels) or levels[-1] < 2**63):
            values = levels.to_numpy()
            self.low, high = (int(values[0]), int(values[-1])) if len(values) else (0, -1)
            if high - self.low < max(LONGEST, ROOM * len(values)):
                self._table = np.full(high - self.low + 1, -1, dtype=np.int32)
                self._table[values - self.low] = np.arange(len(values), dtype=np.int32)
        else:
            self._set = pa.array(
                levels.to_numpy(dtype=object), type=_value_type(self.types[0]), from_pandas=True
            )

    def codes(self, labels: Sequence[pa.Array]) -> np.ndarray:
        """(n,) int32 codes of the rows' values, -1 for one that is no level; ``labels`` has an Arrow array per factor."""
        if isinstance(self.levels, pd.MultiIndex):
            columns = [part.codes([own]) for part, own in zip(self._parts, labels, strict=True)]
            return joint_places(self.levels, columns).astype(np.int32)
        if self._set is not None:
            indices, distinct = _encoded(labels[0])
            return np.append(self._find(distinct), np.int32(-1))[indices]
        values = numbers(labels[0])
        if self._table is None:
            known = self.levels.to_numpy()
            place = np.minimum(np.searchsorted(known, values), len(known) - 1)
            return np.where(known[place] == values, place, -1).astype(np.int32)
        place = values.astype(np.int64) - self.low
        inside = (place >= 0) & (place < len(self._table))
        return (
            self._table[place]
            if inside.all()
            else np.where(inside, self._table[np.where(inside, place, 0)], np.int32(-1))
        )

    def _find(self, distinct: pa.Array) -> np.ndarray:
        import pyarrow.compute as pc

        assert self._set is not None
        found = pc.index_in(one_zero(distinct).cast(self._set.type), value_set=self._set)
        return np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int32)


def _value_type(type: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return type.value_type if pa.types.is_dictionary(type) else type


def _encoded(labels: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Place of each row's value among the distinct ones, and those."""
    import pyarrow as pa

    if isinstance(labels, pa.ChunkedArray):
        labels = labels.unify_dictionaries() if pa.types.is_dictionary(labels.type) else labels
        labels = labels.combine_chunks()
    if isinstance(labels, pa.ChunkedArray):
        return np.zeros(0, dtype=np.int64), pa.array([], _value_type(labels.type))
    if not isinstance(labels, pa.DictionaryArray):
        labels = labels.dictionary_encode()
    return labels.indices.to_numpy(zero_copy_only=False).astype(np.int64), labels.dictionary
