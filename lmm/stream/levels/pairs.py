"""Sums by pair of levels, in memory that is a small multiple of the distinct pairs.

Each chunk's rows are summed by pair first. Chunks wait until they hold as many pairs as have been merged so far, and are
merged then: every pair is moved a number of times that grows with the logarithm of the pairs, and at most twice the pairs
are held (a log-structured merge; O'Neil, Cheng, Gawlick & O'Neil, 1996, Acta Inf. 33).
"""

from __future__ import annotations

import numpy as np

#: pairs that wait in any case
WAIT = 2_000_000


class PairSums:
    """Sums (w, m) at m distinct keys of :func:`lmm.stream.levels.found_levels.key`."""

    def __init__(self, width: int) -> None:
        self.keys = np.zeros(0, dtype=np.int64)
        self.sums = np.zeros((width, 0))
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(self, keys: np.ndarray, columns: list[np.ndarray | None]) -> None:
        """Add rows with such keys (n,): columns (n,) to sum, None for ones."""
        if len(keys):
            self._take(*_summed(keys, columns))

    def merge(self, keys: np.ndarray, sums: np.ndarray) -> None:
        """Add sums at keys that may repeat."""
        if len(keys):
            self._take(*_summed(keys, list(sums)))

    def _take(self, keys: np.ndarray, sums: np.ndarray) -> None:
        self._waiting.append((keys, sums))
        self._count += len(keys)
        if self._count > max(len(self.keys), WAIT):
            self.settle()

    def settle(self) -> None:
        """Merge what waits: keys are distinct and sorted then."""
        if self._waiting:
            parts = [(self.keys, self.sums), *self._waiting]
            self._waiting, self._count = [], 0
            keys = np.concatenate([part[0] for part in parts])
            sums = np.concatenate([part[1] for part in parts], axis=1)
            del parts
            self.keys, self.sums = _summed(keys, list(sums), runs=True)


def _summed(
    keys: np.ndarray, columns: list[np.ndarray | None], runs: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and the sums of the columns at each; ``runs``: the keys are sorted pieces, which a merge sort joins."""
    order = np.argsort(keys, kind="stable" if runs else None)
    ordered = keys[order]
    starts = (
        np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        if len(keys)
        else np.zeros(0, dtype=np.intp)
    )
    out = np.empty((len(columns), len(starts)))
    for row, column in zip(out, columns, strict=True):
        row[:] = (
            np.diff(starts, append=len(keys))
            if column is None
            else np.add.reduceat(column[order], starts)
        )
    return ordered[starts], out
