"""A few latent factors behind many columns, ``rr(0 + f | g, d=2)``: G = L L' with loadings L (k, d), no variance beside them.

L is zero above its diagonal and has a positive diagonal, which tells it from its rotations L Q and so from L's with other
signs. theta holds the loadings, column by column: G is of rank d on purpose, and singular only where a factor vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from lmm.covariance.coordinates import Coordinates
from lmm.covariance.structure import Covariance, Quantity, cor, sd
from lmm.covariance.unstructured import Unstructured, triangular
from lmm.errors import ArgumentError
from lmm.types import Array


@dataclass(frozen=True)
class ReducedRank(Covariance):
    """k d - d (d - 1) / 2 loadings.

    Attributes
    ----------
    rank : number of factors d.
    """

    k: int
    rank: int = 2
    name = "rr"
    least = 2
    takes_rank = confined = True

    @property
    def n_theta(self) -> int:
        return len(self._places()[0])

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each loading."""
        column, row = np.triu_indices(self.rank, 0, self.k)
        return row, column

    def factor(self, theta: np.ndarray) -> np.ndarray:
        T = np.zeros((self.k, self.k))
        T[self._places()] = theta
        return T

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        dT = np.zeros((self.n_theta, self.k, self.k))
        row, column = self._places()
        dT[np.arange(self.n_theta), row, column] = 1.0
        return dT

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        """Of the d largest eigenvectors of T T'."""
        vectors, root, _ = np.linalg.svd(T, full_matrices=False)
        some = vectors[..., : self.rank] * root[..., None, : self.rank]
        return self.from_lower(triangular(some))

    # ---- steps of a search

    def chart(self, theta: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        """The first d columns of that of an unstructured covariance, whose rows are in the frame of the eigenvectors."""
        whole = np.zeros(self.k * (self.k + 1) // 2)
        whole[: self.n_theta] = theta
        T, dT, _ = Unstructured(self.k).chart(whole, gram)
        return T, dT[: self.n_theta], None

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        T, dT, _ = self.chart(theta, gram)
        return self.from_lower(triangular(T + np.tensordot(step, dT, 1)))

    def steps(self, theta: np.ndarray, gram: np.ndarray, G: np.ndarray) -> np.ndarray:
        T, dT, _ = self.chart(theta, gram)
        frame = dT[: self.k, :, 0].T
        values, vectors = np.linalg.eigh(np.moveaxis(G, -1, 0))
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None]
        lower = triangular(np.linalg.solve(frame, root[..., ::-1][..., : self.rank]))
        return (self.from_lower(lower) - self.from_lower(np.linalg.solve(frame, T))).T

    def from_lower(self, L: np.ndarray) -> np.ndarray:
        """The entries (..., m) of lower triangular matrices that are loadings."""
        row, column = self._places()
        return np.asarray(L[..., row, column])

    # ---- the boundary, and what is reported

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        """The length of what each factor has of its own."""
        return np.asarray(np.linalg.svd(self.factor(theta), compute_uv=False)[: self.rank])

    def restricted(self, columns: np.ndarray) -> Covariance:
        return replace(self, k=len(columns), rank=min(self.rank, len(columns)))

    def quantities(self) -> tuple[Quantity, ...]:
        places = zip(*(own.tolist() for own in self._places()), strict=True)
        return tuple(Quantity(f"loading{j + 1}", i, j, (i,)) for i, j in places)

    def implied(self) -> tuple[Quantity, ...]:
        """The standard deviation of every column and the correlation of every two."""
        pairs = [cor(i, j) for j in range(self.k) for i in range(j + 1, self.k)]
        return (*map(sd, range(self.k)), *pairs)

    def describe(self, G: np.ndarray) -> np.ndarray:
        flat = [self.from_matrix(own) for own in G.reshape(-1, self.k, self.k)]
        return np.array(flat).reshape(*G.shape[:-2], self.n_theta)

    def report(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array(theta, dtype=float), np.eye(self.n_theta)

    def matrix(self, values: np.ndarray) -> np.ndarray:
        return self.covariance(values)

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        places = list(zip(*(own.tolist() for own in self._places()), strict=True))
        return Coordinates(self, places.index((first, first if second is None else second)))

    # ---- priors

    def constrain(self, sd: Array, z: Array, xp: ModuleType) -> Array:
        raise ArgumentError(
            "Bayesian methods do not take 'rr', whose covariance has no inverse; fit it by maximum likelihood."
        )

    def partials(self, R: np.ndarray) -> np.ndarray:
        return np.asarray(self.constrain(R, R, np))
