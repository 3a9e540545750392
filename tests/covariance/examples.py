"""Structures that the package does not have, each written as a stranger would: what the contract asks for and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lmm.covariance import Covariance, Diagonal, Unstructured
from lmm.covariance.structure import Quantity


@dataclass(frozen=True)
class RandomWalk(Covariance):
    """G_ij = s^2 min(i, j), sums of independent steps of one variance: T = s L, L of ones."""

    k: int
    name = "walk"
    n_theta = 1

    def factor(self, theta: np.ndarray) -> np.ndarray:
        return theta[0] * np.tri(self.k)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        return np.tri(self.k)[None]

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        steps = np.diff(T, axis=-2, prepend=0.0)
        return np.sqrt((steps**2).sum(axis=(-2, -1)) / self.k)[..., None]

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        """The nearest: <G, L L'> / |L L'|^2."""
        unit = np.tri(self.k) @ np.tri(self.k).T
        return np.sqrt(np.maximum([np.sum(G * unit) / np.sum(unit * unit)], 0.0))

    def quantities(self) -> tuple[Quantity, ...]:
        return (Quantity("sd", 0, 0, ()),)

    def linear_basis(self) -> np.ndarray:
        return (np.tri(self.k) @ np.tri(self.k).T)[None]

    def maximiser(self, S: Any, xp: Any) -> Any:
        unit = np.tri(self.k) @ np.tri(self.k).T
        return xp.trace(np.linalg.inv(unit) @ S) / self.k * unit

    def constrain(self, sd: Any, z: Any, xp: Any) -> Any:
        return sd[0] * np.tri(self.k)


@dataclass(frozen=True)
class Mirror(Covariance):
    """Columns correlated with their mirror images alone: T = a P + b Q, P and Q on what reversal keeps and what it turns."""

    k: int
    name = "mirror"
    n_theta = 2

    def factor(self, theta: np.ndarray) -> np.ndarray:
        return np.tensordot(theta, self.jacobian(theta), 1)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        eye = np.eye(self.k)
        return np.stack([(eye + eye[::-1]) / 2.0, (eye - eye[::-1]) / 2.0])

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        parts = self.jacobian(np.zeros(2))
        squares = [((part @ T) ** 2).sum(axis=(-2, -1)) / np.trace(part) for part in parts]
        return np.sqrt(np.stack(squares, axis=-1))

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        parts = self.jacobian(np.zeros(2))
        return np.sqrt(np.maximum([np.sum(part * G) / np.trace(part) for part in parts], 0.0))

    def quantities(self) -> tuple[Quantity, ...]:
        return Quantity("sd", 0, 0, ()), Quantity("cor", self.k - 1, 0, ())

    def linear_basis(self) -> np.ndarray:
        return self.jacobian(np.zeros(2))

    def constrain(self, sd: Any, z: Any, xp: Any) -> Any:
        r, nothing = z[0], 0.0 * z[0]
        rows = []
        for i in range(self.k):
            row = [nothing] * self.k
            image = self.k - 1 - i
            if i < image:
                row[i] = nothing + 1.0
            elif i == image:
                row[i] = xp.sqrt(1.0 + r)
            else:
                row[image], row[i] = r, xp.sqrt(1.0 - r**2)
            rows.append(xp.stack(row))
        return sd[0] * xp.stack(rows)


@dataclass(frozen=True)
class MovingAverage(Covariance):
    """Neighbours have the correlation r, |r| < 1/2, others none; theta = (s, w), 2 r = w / sqrt(1 + w^2): G is linear in nothing."""

    k: int
    name = "ma1"
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
        z = np.clip(2.0 * lag / np.where(variance > 0.0, variance, 1.0), -0.999999, 0.999999)
        return np.stack([np.sqrt(variance), z / np.sqrt(1.0 - z**2)], axis=-1)

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        return np.array([abs(theta[0]), 1.0 / (1.0 + theta[1] ** 2)])

    def standardised(self, theta: np.ndarray, gram: np.ndarray) -> np.ndarray:
        return np.array([theta[0] * np.sqrt(np.trace(gram)), theta[1]])

    def held(self, theta: np.ndarray) -> np.ndarray:
        return np.full(2, theta[0] == 0.0)

    def quantities(self) -> tuple[Quantity, ...]:
        return Quantity("sd", 0, 0, ()), Quantity("cor", 1, 0, ())

    def correlation_range(self) -> tuple[float, float]:
        return -0.5, 0.5

    def constrain(self, sd: Any, z: Any, xp: Any) -> Any:
        r, nothing = z[0] / 2.0, 0.0 * z[0]
        rows = []
        pivot = nothing + 1.0
        for i in range(self.k):
            row = [nothing] * self.k
            if i:
                row[i - 1] = r / pivot
                pivot = xp.sqrt(1.0 - row[i - 1] ** 2)
            row[i] = pivot
            rows.append(xp.stack(row))
        return sd[0] * xp.stack(rows)


NEW: dict[str, type[Covariance]] = {
    "walk": RandomWalk,
    "mirror": Mirror,
    "ma1": MovingAverage,
}


def correlated_pairs(structure: Covariance) -> list[tuple[int, int]]:
    """(i, j), i > j, whose covariance is a parameter."""
    return [(q.row, q.column) for q in structure.quantities() if q.kind == "cor"]


__all__ = [
    "NEW",
    "Diagonal",
    "Mirror",
    "MovingAverage",
    "RandomWalk",
    "Unstructured",
    "correlated_pairs",
]
