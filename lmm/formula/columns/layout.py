"""From the columns that a formula gives to those that a covariance is made for, of the rows of a fit and of new rows alike.

Ordered levels keep the places that a categorical declares, whether or not they occur; coordinates become one column for each
distinct position, one in the rows at that position and zero elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Layout:
    """Columns as they are."""

    def of(self, values: np.ndarray) -> np.ndarray:
        """The k columns (m, k) of those of the formula (m, d)."""
        return values

    def unseen(self, values: np.ndarray) -> np.ndarray | None:
        """The mask (m,) of rows at positions that the fit has no column for; None where columns are no positions."""
        return None


@dataclass(frozen=True)
class Places(Layout):
    """Columns at some of k places, zeros at the others."""

    places: tuple[int, ...]
    k: int

    def of(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros((len(values), self.k), order="F")
        out[:, list(self.places)] = values
        return out


@dataclass(frozen=True)
class Positions(Layout):
    """Indicators of positions, one by the coordinates of each.

    A row at a position that is not among them is put at the first one: it has the variance of any, and is told by :meth:`unseen`.
    """

    points: tuple[tuple[float, ...], ...]

    def of(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros((len(values), len(self.points)), order="F")
        out[np.arange(len(values)), np.maximum(self._places(values), 0)] = 1.0
        return out

    def unseen(self, values: np.ndarray) -> np.ndarray:
        return self._places(values) < 0

    def _places(self, values: np.ndarray) -> np.ndarray:
        known = pd.MultiIndex.from_tuples(self.points)
        return np.asarray(known.get_indexer(pd.MultiIndex.from_arrays(list(values.T))))


def positions(values: np.ndarray) -> Positions:
    """The distinct rows of coordinates (n, d), in their order."""
    points = np.unique(values + 0.0, axis=0)  # no negative zeros
    return Positions(tuple(tuple(map(float, point)) for point in points))


def position_names(names: tuple[str, ...], points: tuple[tuple[float, ...], ...]) -> list[str]:
    """``week[3]``, ``lat,lon[47.1,8.2]``: the coordinates to as many digits as tell the positions apart."""
    for digits in (6, 9, 17):
        texts = [",".join(f"{x:.{digits}g}" for x in point) for point in points]
        if len(set(texts)) == len(texts):
            break
    return [f"{','.join(names)}[{text}]" for text in texts]
