"""A free k x k covariance: theta is the lower triangle of T, column by column (lme4's order)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np

from lmm.covariance.coordinates import Coordinates, Leading
from lmm.covariance.structure import (
    NOTHING,
    CorrelationPrior,
    Covariance,
    Quantity,
    bounded,
    cor,
    sd,
    units,
)
from lmm.types import Array

#: random effects per level up to which charts are kept
KEPT = 8


@lru_cache(maxsize=64)
def _lower(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each theta."""
    column, row = np.triu_indices(k)
    return row, column


def _below(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each correlation."""
    row, column = _lower(k)
    return row[row > column], column[row > column]


@lru_cache(maxsize=64)
def _quantities(k: int) -> tuple[Quantity, ...]:
    return tuple(
        sd(i) if i == j else cor(i, j)
        for i, j in zip(*(own.tolist() for own in _lower(k)), strict=True)
    )


def triangular(T: np.ndarray) -> np.ndarray:
    """Lower-triangular factors (..., k, k), diagonal >= 0, with the same T T', T (..., k, q), q >= k; exact also when T is singular
    (QR of T')."""
    if T.shape == (1, 1):
        return np.abs(T)
    lower = np.swapaxes(np.linalg.qr(np.swapaxes(T, -2, -1), mode="r"), -2, -1)
    diagonal = np.diagonal(lower, axis1=-2, axis2=-1)
    return lower * np.where(diagonal < 0, -1.0, 1.0)[..., None, :]


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
        return *chart(
            np.asarray(theta, dtype=float).tobytes(),
            np.asarray(gram, dtype=float).tobytes(),
            self.k,
        ), None

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        T, dT, _ = self.chart(theta, gram)
        return triangular(T + np.tensordot(step, dT, 1))[_lower(self.k)]

    def steps(self, theta: np.ndarray, gram: np.ndarray, G: np.ndarray) -> np.ndarray:
        """With T0 the chart's factor, T = T0 L, L lower triangular with L L' = T0^-1 G T0^-T."""
        T0, dT, _ = self.chart(theta, gram)
        inverse = np.linalg.inv(T0)
        values, vectors = np.linalg.eigh(inverse @ np.moveaxis(G, -1, 0) @ inverse.T)
        lower = triangular(vectors * np.sqrt(np.maximum(values, 0.0))[:, None])
        change = (T0 @ lower - T0).reshape(len(lower), -1)
        return np.asarray(np.linalg.lstsq(dT.reshape(len(dT), -1).T, change.T, rcond=None)[0])

    def start(self, G: np.ndarray, gram: np.ndarray) -> np.ndarray:
        return self.from_matrix(bounded(G, orthogonaliser(gram)))

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        row, column = _lower(self.k)
        return np.asarray(triangular(T)[..., row, column])

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(G, 0.0)).ravel() if self.k == 1 else super().from_matrix(G)

    def descent(
        self, theta: np.ndarray, D: np.ndarray, gram: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The lowest eigenvector of D in the null space of G, with columns of root mean square one."""
        nothing = 0.0, np.zeros((self.k, self.k))
        unit = units(gram)
        T = unit[:, None] * self.factor(theta)
        values, vectors = np.linalg.eigh(T @ T.T)
        null = vectors[:, values <= NOTHING * max(1.0, values[-1])]
        if not null.shape[1]:
            return nothing
        slopes, directions = np.linalg.eigh(null.T @ (D / np.outer(unit, unit)) @ null)
        v = null @ directions[:, 0] / unit
        size = float(v @ gram @ v)
        return (float(slopes[0]) / size, np.outer(v, v) / size) if size > 0.0 else nothing

    def quantities(self) -> tuple[Quantity, ...]:
        return _quantities(self.k)

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

    def matrix(self, values: np.ndarray) -> np.ndarray:
        R = np.eye(self.k)
        deviations = np.zeros(self.k)
        for q, value in zip(self.quantities(), values, strict=True):
            if q.kind == "sd":
                deviations[q.row] = value
            else:
                R[q.row, q.column] = R[q.column, q.row] = 0.0 if np.isnan(value) else value
        return np.outer(deviations, deviations) * R

    def linear_basis(self) -> np.ndarray:
        k = self.k
        entries = [
            *((a, a) for a in range(k)),
            *((q.row, q.column) for q in self.quantities() if q.kind == "cor"),
        ]
        out = np.zeros((len(entries), k, k))
        for d, (i, j) in zip(out, entries, strict=True):
            d[i, j] = d[j, i] = 1.0
        return out

    def maximiser(self, S: Array, xp: ModuleType) -> Array | None:
        return S

    def free_blocks(self) -> list[np.ndarray]:
        return [np.arange(self.k)] if self.k > 1 else []

    def constrain(self, sd: Array, z: Array, xp: ModuleType) -> Array:
        """T = diag(sd) L with L_ij = z_ij sqrt(1 - sum_{l<j} L_il^2), z the canonical partial correlations."""
        one, nothing = xp.ones(()), xp.zeros(())
        L = [[one if i == j else nothing for j in range(self.k)] for i in range(self.k)]
        places = zip(*_below(self.k), strict=True)
        partial = dict(zip(places, z, strict=True))
        for i in range(1, self.k):
            left = one
            for j in range(i):
                L[i][j] = partial[i, j] * xp.sqrt(left)
                left = left * (1.0 - partial[i, j] ** 2)
            L[i][i] = xp.sqrt(left)
        return xp.stack([xp.stack([sd[i] * L[i][j] for j in range(self.k)]) for i in range(self.k)])

    def partials(self, R: np.ndarray) -> np.ndarray:
        L = np.linalg.cholesky(R)
        left = 1.0 - np.cumsum(L**2, axis=1) + L**2
        row, column = _below(self.k)
        return np.asarray(L[row, column] / np.sqrt(left[row, column]))

    def log_prior(self, z: Array, prior: CorrelationPrior, xp: ModuleType) -> Array:
        _, column = _below(self.k)
        return sum(
            (
                prior.log_partial(own, j, self.k, xp)
                for own, j in zip(z, column.tolist(), strict=True)
            ),
            xp.zeros(()),
        )
