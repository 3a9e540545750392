"""Structures that the package does not have, each written as a stranger would: what the contract asks for and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lmm.covariance import Covariance, Diagonal, Unstructured
from lmm.covariance.structure import Quantity


@dataclass(frozen=True)
class HomogeneousDiagonal(Covariance):
    """T = theta I."""

    k: int
    name = "homdiag"
    n_theta = 1

    def factor(self, theta: np.ndarray) -> np.ndarray:
        return theta[0] * np.eye(self.k)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        return np.eye(self.k)[None]

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        return np.sqrt((T * T).sum(axis=(-2, -1)) / self.k)[..., None]

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum([np.trace(G) / self.k], 0.0))

    def quantities(self) -> tuple[Quantity, ...]:
        return (Quantity("sd", 0, 0, ()),)

    def linear_basis(self) -> np.ndarray:
        return np.eye(self.k)[None]

    def maximiser(self, S: Any, xp: Any) -> Any:
        return xp.trace(S) / self.k * xp.eye(self.k)

    def constrain(self, sd: Any, z: Any, xp: Any) -> Any:
        return sd[0] * xp.eye(self.k)


@dataclass(frozen=True)
class CompoundSymmetry(Covariance):
    """T = a P + b (I - P), P the projection on the vector of ones; correlations from -1 / (k - 1) to 1."""

    k: int
    name = "homcs"
    n_theta = 2

    def factor(self, theta: np.ndarray) -> np.ndarray:
        return np.tensordot(theta, self.jacobian(theta), 1)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        P = np.full((self.k, self.k), 1.0 / self.k)
        return np.stack([P, np.eye(self.k) - P])

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        between = (T.sum(axis=-2) ** 2).sum(axis=-1) / self.k
        within = (T * T).sum(axis=(-2, -1)) - between
        return np.sqrt(np.stack([between, np.maximum(within, 0.0) / (self.k - 1)], axis=-1))

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        between = G.mean() * self.k
        return np.sqrt(np.maximum([between, (np.trace(G) - between) / (self.k - 1)], 0.0))

    def quantities(self) -> tuple[Quantity, ...]:
        return Quantity("sd", 0, 0, ()), Quantity("cor", 1, 0, ())

    def linear_basis(self) -> np.ndarray:
        return self.jacobian(np.zeros(2))

    def correlation_range(self) -> tuple[float, float]:
        return -1.0 / (self.k - 1), 1.0

    def constrain(self, sd: Any, z: Any, xp: Any) -> Any:
        low, high = self.correlation_range()
        r = low + (high - low) * (z[0] + 1.0) / 2.0
        pivot = [xp.sqrt((1.0 - r) * (1.0 + i * r) / (1.0 + (i - 1) * r)) for i in range(self.k)]
        below = [r * (1.0 - r) / (1.0 + (j - 1) * r) / pivot[j] for j in range(self.k)]
        rows = [
            [pivot[i] if i == j else below[j] if j < i else 0.0 * r for j in range(self.k)]
            for i in range(self.k)
        ]
        return sd[0] * xp.stack([xp.stack(row) for row in rows])


@dataclass(frozen=True)
class Autoregressive(Covariance):
    """G_ij = s^2 r^|i - j|; theta = (s, w), r = w / sqrt(1 + w^2), so that G is not linear in anything."""

    k: int
    name = "ar1"
    n_theta = 2

    def factor(self, theta: np.ndarray) -> np.ndarray:
        return self.constrain(theta[:1], theta[1:] / np.sqrt(1.0 + theta[1] ** 2), np)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        return np.array([np.imag(self.factor(theta + 1e-30j * e)) / 1e-30 for e in np.eye(2)])

    def second(self, theta: np.ndarray) -> np.ndarray:
        return np.array(
            [
                (self.jacobian(theta + 1e-5 * e) - self.jacobian(theta - 1e-5 * e)) / 2e-5
                for e in np.eye(2)
            ]
        )

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        G = T @ np.swapaxes(T, -1, -2)
        variance = np.trace(G, axis1=-2, axis2=-1) / self.k
        lag = np.trace(G, offset=1, axis1=-2, axis2=-1) / (self.k - 1)
        r = np.clip(lag / np.where(variance > 0.0, variance, 1.0), -0.999999, 0.999999)
        return np.stack([np.sqrt(variance), r / np.sqrt(1.0 - r**2)], axis=-1)

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        return np.array([abs(theta[0]), 1.0 / (1.0 + theta[1] ** 2)])

    def standardised(self, theta: np.ndarray, gram: np.ndarray) -> np.ndarray:
        return np.array([theta[0] * np.sqrt(np.trace(gram)), theta[1]])

    def held(self, theta: np.ndarray) -> np.ndarray:
        return np.full(2, theta[0] == 0.0)

    def quantities(self) -> tuple[Quantity, ...]:
        return Quantity("sd", 0, 0, ()), Quantity("cor", 1, 0, ())

    def constrain(self, sd: Any, z: Any, xp: Any) -> Any:
        left = xp.sqrt(1.0 - z[0] ** 2)
        rows = [
            [
                z[0] ** i if j == 0 else left * z[0] ** (i - j) if j <= i else 0.0 * z[0]
                for j in range(self.k)
            ]
            for i in range(self.k)
        ]
        return sd[0] * xp.stack([xp.stack(row) for row in rows])


NEW: dict[str, type[Covariance]] = {
    "homdiag": HomogeneousDiagonal,
    "homcs": CompoundSymmetry,
    "ar1": Autoregressive,
}


def correlated_pairs(structure: Covariance) -> list[tuple[int, int]]:
    """(i, j), i > j, whose covariance is a parameter."""
    return [(q.row, q.column) for q in structure.quantities() if q.kind == "cor"]


__all__ = [
    "NEW",
    "Autoregressive",
    "CompoundSymmetry",
    "Diagonal",
    "HomogeneousDiagonal",
    "Unstructured",
    "correlated_pairs",
]
