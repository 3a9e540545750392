"""A free k x k covariance: theta is the lower triangle of T, column by column (lme4's order)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lmm.covariance.base import Covariance, bounded, units
from lmm.covariance.coordinates import Coordinates, Leading

#: random effects per level up to which charts are kept
KEPT = 8


@lru_cache(maxsize=64)
def _lower(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each theta."""
    column, row = np.triu_indices(k)
    return row, column


def triangular(T: np.ndarray) -> np.ndarray:
    """Lower-triangular factor, diagonal >= 0, with the same T T'; exact also when T is singular (QR of T')."""
    if T.shape == (1, 1):
        return np.abs(T)
    lower = np.asarray(np.linalg.qr(T.T, mode="r")).T
    return lower * np.where(np.diagonal(lower) < 0, -1.0, 1.0)


def orthogonaliser(gram: np.ndarray) -> np.ndarray:
    """U upper triangular, U'U = gram (k, k); a trace of the diagonal is added where columns depend on each other."""
    return _orthogonaliser(np.asarray(gram, dtype=float).tobytes(), len(gram))


@lru_cache(maxsize=256)
def _orthogonaliser(numbers: bytes, k: int) -> np.ndarray:
    gram = np.frombuffer(numbers).reshape(k, k)
    unit = units(gram)
    scaled = gram / np.outer(unit, unit)
    return _kept(np.linalg.cholesky(scaled + 1e-12 * np.eye(k)).T * unit)


@lru_cache(maxsize=256)
def _chart(theta: bytes, gram: bytes, k: int) -> tuple[np.ndarray, np.ndarray]:
    """T and dT / ds of :meth:`Unstructured.chart`: a step is taken from where they were asked for before."""
    U = _orthogonaliser(gram, k)
    T = np.zeros((k, k))
    row, column = _lower(k)
    T[row, column] = np.frombuffer(theta)
    if k == 1:
        return _kept(np.abs(T)), _kept(1.0 / U[None])
    V, root, _ = np.linalg.svd(U @ T)
    basis = np.linalg.solve(U, V)
    dT = np.zeros((len(row), k, k))
    dT[np.arange(len(row)), :, column] = basis[:, row].T
    return _kept(basis * root), _kept(dT)


def _kept(array: np.ndarray) -> np.ndarray:
    """An array that is kept for others, and so not to be changed."""
    array.setflags(write=False)
    return array


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

    def chart(self, theta: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        """T = U^-1 V (S^1/2 + lower triangle of steps), V S V' the eigen-decomposition of U G U', largest first.

        U'U = gram makes the columns orthonormal. In this frame a vanishing variance comes last, where a
        lower triangle stays a regular coordinate system; in the user's order a small first pivot, or a
        slope whose origin is far from the data, makes a curved valley of it.
        """
        chart = _chart if self.k <= KEPT else _chart.__wrapped__
        return *chart(np.asarray(theta, dtype=float).tobytes(), np.asarray(gram, dtype=float).tobytes(), self.k), None

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        T, dT, _ = self.chart(theta, gram)
        return triangular(T + np.tensordot(step, dT, 1))[_lower(self.k)]

    def start(self, G: np.ndarray, gram: np.ndarray) -> np.ndarray:
        return self.from_matrix(bounded(G, orthogonaliser(gram)))

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        if self.k == 1:
            return np.sqrt(np.maximum(G, 0.0)).ravel()
        values, vectors = np.linalg.eigh((G + G.T) / 2)
        return triangular(vectors * np.sqrt(np.clip(values, 0.0, None)))[_lower(self.k)]

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        return triangular(self.factor(theta))[_lower(self.k)]

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

    def scaling(self, gram: np.ndarray) -> np.ndarray:
        """T = L^-1 S with L lower triangular, L'L = gram: entries of S act on orthonormal columns, and their zeros are those of T."""
        inverse = np.linalg.inv(orthogonaliser(gram[::-1, ::-1])[::-1, ::-1])
        row, column = _lower(self.k)
        return np.where(column[:, None] == column, inverse[row[:, None], row], 0.0)

    def held(self, theta: np.ndarray) -> np.ndarray:
        """A zero on the diagonal, and all of a column of zeros; below a diagonal that is not zero nothing is at a boundary."""
        T = self.factor(theta)
        row, column = _lower(self.k)
        empty = np.all(T == 0.0, axis=0)
        return np.where(row == column, T[row, column] == 0.0, empty[column])

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        return np.abs(np.diagonal(self.factor(theta)))

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        return Leading(self, 0 if second is None else 1, first, second)
