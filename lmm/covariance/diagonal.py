"""Independent random effects, ``(x||g)``, ``diag(x|g)`` and ``homdiag(x|g)``: theta holds k relative standard deviations, or one."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from lmm.covariance.coordinates import Coordinates
from lmm.covariance.structure import Covariance, Quantity, sd, units
from lmm.types import Array


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

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        return np.sqrt((T * T).sum(axis=-1))

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        return np.sqrt(np.clip(np.diagonal(G), 0.0, None))

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        return np.abs(theta)

    def chart(self, theta: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        return self.factor(theta), self.jacobian(theta) / units(gram)[:, None, None], None

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        return np.asarray(theta) + step / units(gram)

    def quantities(self) -> tuple[Quantity, ...]:
        return tuple(sd(a) for a in range(self.k))

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        return Coordinates(self, first)

    def linear_basis(self) -> np.ndarray:
        return self.jacobian(np.zeros(self.k))

    def maximiser(self, S: Array, xp: ModuleType) -> Array | None:
        return S * np.eye(self.k)

    def constrain(self, sd: Array, z: Array, xp: ModuleType) -> Array:
        return xp.diag(sd)


@dataclass(frozen=True)
class HomogeneousDiagonal(Covariance):
    """One variance for all columns, no correlation: T = theta I."""

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

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        return Coordinates(self, 0)

    def linear_basis(self) -> np.ndarray:
        return np.eye(self.k)[None]

    def maximiser(self, S: Array, xp: ModuleType) -> Array | None:
        return xp.trace(S) / self.k * np.eye(self.k)

    def constrain(self, sd: Array, z: Array, xp: ModuleType) -> Array:
        return sd[0] * np.eye(self.k)
