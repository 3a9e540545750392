"""A free k x k covariance: theta is the lower triangle of T, column by column (lme4's order)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lmm.covariance.base import Covariance


@lru_cache(maxsize=64)
def _lower(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each theta."""
    column, row = np.triu_indices(k)
    return row, column


def lower_factor(G: np.ndarray) -> np.ndarray:
    """Lower-triangular T >= 0 on its diagonal with T T' = G, for positive semidefinite G of any rank.

    Through the symmetric root G = R'R and R = QT' (QR), which needs no pivot to be positive.
    """
    values, vectors = np.linalg.eigh((G + G.T) / 2)
    root = np.sqrt(np.clip(values, 0.0, None))[:, None] * vectors.T
    T = np.linalg.qr(root, mode="r").T
    signs = np.where(np.diagonal(T) < 0, -1.0, 1.0)
    return T * signs


@dataclass(frozen=True)
class Unstructured(Covariance):
    """All k(k+1)/2 covariances free, ``(x|g)``."""

    k: int
    name = "us"

    @property
    def n_theta(self) -> int:
        return self.k * (self.k + 1) // 2

    def factor(self, theta: np.ndarray) -> np.ndarray:
        T = np.zeros((self.k, self.k))
        T[_lower(self.k)] = theta
        return T

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        dT = np.zeros((self.n_theta, self.k, self.k))
        row, column = _lower(self.k)
        dT[np.arange(self.n_theta), row, column] = 1.0
        return dT

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        return lower_factor(G)[_lower(self.k)]

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        T = self.factor(theta)
        return (T * np.where(np.diagonal(T) < 0, -1.0, 1.0))[_lower(self.k)]

    def descent(self, theta: np.ndarray, D: np.ndarray) -> tuple[float, np.ndarray]:
        values, vectors = np.linalg.eigh(self.factor(theta) @ self.factor(theta).T)
        null = vectors[:, values <= 1e-8 * max(1.0, values[-1])]
        if not null.shape[1]:
            return 0.0, np.zeros((self.k, self.k))
        slopes, directions = np.linalg.eigh(null.T @ D @ null)
        v = null @ directions[:, 0]
        return float(slopes[0]), np.outer(v, v)

    def theta_names(self, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [(columns[i],) if i == j else (columns[i], columns[j]) for i, j in zip(*_lower(self.k), strict=True)]

    def pairs(self) -> list[tuple[int, int]]:
        return [(int(i), int(j)) for i, j in zip(*_lower(self.k), strict=True) if i > j]

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        return np.abs(np.diagonal(self.factor(theta)))
