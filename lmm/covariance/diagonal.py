"""Independent random effects, ``(x||g)`` and ``diag(x|g)``: theta holds the k relative standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmm.covariance.base import Covariance, units
from lmm.covariance.coordinates import Coordinates


@dataclass(frozen=True)
class Diagonal(Covariance):
    """k variances, no correlation."""

    k: int
    name = "diag"

    @property
    def n_theta(self) -> int:
        return self.k

    def factor(self, theta: np.ndarray) -> np.ndarray:
        return np.diag(np.asarray(theta, dtype=float))

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        dT = np.zeros((self.k, self.k, self.k))
        i = np.arange(self.k)
        dT[i, i, i] = 1.0
        return dT

    def chart(self, theta: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        return self.factor(theta), self.jacobian(theta) / units(gram)[:, None, None], None

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        return np.asarray(theta) + step / units(gram)

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        return np.sqrt(np.clip(np.diagonal(G), 0.0, None))

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        return np.abs(theta)

    def descent(self, theta: np.ndarray, D: np.ndarray) -> tuple[float, np.ndarray]:
        slopes = np.where(np.asarray(theta) ** 2 <= 1e-8, np.diagonal(D), 0.0)
        i = int(np.argmin(slopes))
        direction = np.zeros((self.k, self.k))
        direction[i, i] = float(slopes[i] < 0)
        return float(slopes[i]), direction

    def theta_names(self, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [(c,) for c in columns]

    def pairs(self) -> list[tuple[int, int]]:
        return []

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        return np.abs(theta)

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        return super().holding(first, second) if second is not None else Coordinates(self, first)
