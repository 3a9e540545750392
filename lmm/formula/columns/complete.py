"""Masks of missing values and of rows asked for -> the rows that are complete, and how many were lost by which column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from lmm.errors import DataError


@dataclass
class RowCounts:
    """Rows seen, rows that ``subset`` keeps of them, and of those the rows with a missing value by column."""

    seen: int = 0
    asked: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def add(self, other: RowCounts) -> None:
        """Count other rows too."""
        self.seen += other.seen
        self.asked += other.asked
        for name, count in other.lost.items():
            self.lost[name] = self.lost.get(name, 0) + count

    def refuse_lost(self, na_action: str) -> None:
        """DataError where values are missing and ``na_action`` is "fail"."""
        if self.lost and na_action == "fail":
            raise DataError(
                f"missing values in {self._by_column()}, and na_action='fail'; drop them, or use na_action='omit'."
            )

    def refuse_empty(self, kept: int) -> None:
        """DataError where no complete row is ``kept``, saying where they went."""
        if kept:
            return
        if not self.seen:
            raise DataError("the data has no rows.")
        if not self.asked:
            raise DataError("subset leaves no rows.")
        raise DataError(
            f"no complete row is left of {self.asked}: missing values in {self._by_column()}."
        )

    def _by_column(self) -> str:
        return ", ".join(f"{name!r} ({count} rows)" for name, count in self.lost.items())


def complete(
    missing: Iterable[tuple[str, np.ndarray | None]], n: int, chosen: np.ndarray | None
) -> tuple[np.ndarray | None, RowCounts]:
    """The mask (n,) of the rows asked for in which nothing is missing, None for all rows; and what was lost.

    Parameters
    ----------
    missing : per column the mask of its missing values, None where there is none.
    chosen : the mask of the rows asked for, None for all.
    """
    kept = None if chosen is None else chosen.copy()
    counts = RowCounts(n, n if chosen is None else int(chosen.sum()))
    for name, mask in missing:
        if mask is None:
            continue
        count = int((mask if chosen is None else mask & chosen).sum())
        if count:
            counts.lost[name] = count
            kept = ~mask if kept is None else kept & ~mask
    return None if kept is None or kept.all() else kept, counts
