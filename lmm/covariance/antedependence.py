"""Ordered columns, each correlated with those before through its neighbour alone: antedependence and AR(1).

    R_jk = r_j+1 ... r_k  (j < k),      row j of the factor: C_j = r_j C_j-1 + (1 - r_j^2)^1/2 e_j,

``ad(0 + f | g)`` with a correlation for every pair of neighbours, ``ar1(0 + f | g)`` with one for all; one variance, or with
``hetad`` and ``hetar1`` one for each column. Gabriel (1962), Ann. Math. Statist. 33.
"""

from __future__ import annotations

import numpy as np

from lmm.covariance.scaled import ByPartials, Row, angle_between
from lmm.covariance.structure import Quantity, cor


class Antedependence(ByPartials):
    """One standard deviation, k - 1 correlations of neighbours."""

    name = "ad"
    common = ordered = True

    @property
    def n_angles(self) -> int:
        return self.k - 1

    def rows(self, z: list[Row], c: list[Row], unit: list[Row]) -> list[Row]:
        out = [unit[0]]
        for j in range(1, self.k):
            out.append(z[j - 1] * out[-1] + c[j - 1] * unit[j])
        return out

    def angles(self, T: np.ndarray) -> np.ndarray:
        """A column of zeros is passed over: its neighbours keep their correlation."""
        last, out = T[..., 0, :], []
        for j in range(1, self.k):
            row = T[..., j, :]
            some = np.any(row != 0.0, axis=-1)
            out.append(np.where(some, angle_between(last, row), 0.5 * np.pi))
            last = np.where(some[..., None], row, last)
        return np.stack(out, axis=-1)

    def pairs(self) -> tuple[Quantity, ...]:
        return tuple(cor(j, j - 1) for j in range(1, self.k))

    def holding_angle(self, row: int, column: int) -> int | None:
        return column


class HeterogeneousAntedependence(Antedependence):
    """k standard deviations, k - 1 correlations of neighbours."""

    name = "hetad"
    common = False


class Autoregressive(Antedependence):
    """One standard deviation and one correlation: R_jk = r^|j - k|."""

    name = "ar1"
    n_angles = 1
    alone = True

    def rows(self, z: list[Row], c: list[Row], unit: list[Row]) -> list[Row]:
        return super().rows(z * (self.k - 1), c * (self.k - 1), unit)

    def angles(self, T: np.ndarray) -> np.ndarray:
        """The mean of those of neighbours, by the product of their standard deviations; of columns further apart where those are zero."""
        length = np.linalg.norm(T, axis=-1)
        out = np.zeros(T.shape[:-2])
        known = np.zeros(T.shape[:-2], dtype=bool)
        for lag in range(1, self.k):
            weight = length[..., lag:] * length[..., :-lag]
            total = weight.sum(axis=-1)
            mean = (weight * angle_between(T[..., lag:, :], T[..., :-lag, :])).sum(axis=-1)
            w = mean / np.where(total > 0.0, total, 1.0)
            if lag > 1:
                r = np.sin(w)
                w = np.arcsin(np.sign(r) * np.abs(r) ** (1.0 / lag))
            out = np.where(~known & (total > 0.0), w, out)
            known |= total > 0.0
            if known.all():
                break
        return out[..., None]

    def pairs(self) -> tuple[Quantity, ...]:
        return (Quantity("cor", 1, 0, ()),)


class HeterogeneousAutoregressive(Autoregressive):
    """k standard deviations and one correlation."""

    name = "hetar1"
    common = alone = False
