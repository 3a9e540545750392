"""The contract of a covariance structure: theta -> T, the relative factor of one level's effects.

The k random effects of a level have covariance sigma^2 G with G = T T'. A structure says how T
(k, k), lower triangular, depends on its parameters theta, gives first and second derivatives,
and knows which theta give the same G. Everything else in the package works on T, dT and G alone,
so a structure is one file and one registry entry.
"""

from __future__ import annotations

import abc

import numpy as np

from lmm.covariance.coordinates import Coordinates
from lmm.errors import ArgumentError

#: smallest share of the largest eigenvalue at the start
FLOOR = 0.05


def units(gram: np.ndarray) -> np.ndarray:
    """Root mean square of each column (k,); 1 for a column of zeros."""
    square = np.diagonal(gram)
    return np.sqrt(np.where(square > 0, square, 1.0))


def bounded(G: np.ndarray, U: np.ndarray) -> np.ndarray:
    """G with the eigenvalues of U G U' kept within limits, (k, k)."""
    values, vectors = np.linalg.eigh(U @ G @ U.T)
    top = float(np.clip(values[-1], 0.02, 1e4))
    root = np.linalg.solve(U, vectors * np.sqrt(np.clip(values, FLOOR * top, top)))
    return np.asarray(root @ root.T)


class Covariance(abc.ABC):
    """Structure of a k x k relative covariance; frozen, hashable, without arrays.

    Attributes
    ----------
    k : number of random effects per level.
    name : the word used in a formula, ``diag(x|g)``.
    """

    k: int
    name: str

    @property
    @abc.abstractmethod
    def n_theta(self) -> int:
        """Number of parameters."""

    @abc.abstractmethod
    def factor(self, theta: np.ndarray) -> np.ndarray:
        """T (k, k), lower triangular, with G = T T'."""

    @abc.abstractmethod
    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """dT / dtheta, shape (n_theta, k, k)."""

    def second(self, theta: np.ndarray) -> np.ndarray | None:
        """d2T / dtheta2, shape (n_theta, n_theta, k, k); None where T is linear in theta."""
        return None

    def chart(self, theta: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Coordinates around theta in which to take a step: T (k, k), dT / ds (n_theta, k, k), d2T / ds2 or None.

        T T' = G at s = 0, T need not be triangular. ``gram`` (k, k) is the mean of z z' over the rows,
        so that a structure can make steps mean the same whatever the columns' units and origins.
        """
        return self.factor(theta), self.jacobian(theta), self.second(theta)

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The theta reached from theta by ``step`` (n_theta,) in the coordinates of :meth:`chart`."""
        return np.asarray(theta) + step

    def start(self, G: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """theta to begin from, given a moment estimate of G that need not be positive: bounded away from zero."""
        return self.from_matrix(bounded(G, np.diag(units(gram))))

    @abc.abstractmethod
    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        """theta whose G is nearest to a positive semidefinite (k, k) matrix; exact when G has this structure."""

    @abc.abstractmethod
    def canonical(self, theta: np.ndarray) -> np.ndarray:
        """The representative with the same G that is reported: non-negative diagonal of T."""

    @abc.abstractmethod
    def descent(self, theta: np.ndarray, D: np.ndarray) -> tuple[float, np.ndarray]:
        """Steepest first-order descent through the boundary at a stationary theta.

        ``D`` (k, k) is the derivative of the objective with respect to G. The KKT conditions of the
        minimum over G >= 0 are D >= 0 on the null space of G. Returns the smallest eigenvalue of D
        there (0.0 when G has no null space in this structure) and dG (k, k), a positive semidefinite
        direction with that slope (zeros when there is none).
        """

    @abc.abstractmethod
    def theta_names(self, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Per parameter the column names it couples: ``(a,)`` on the diagonal, ``(row, column)`` below."""

    @abc.abstractmethod
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs i > j whose covariance is a parameter (not fixed at zero), column-wise as lme4 prints."""

    def pieces(self) -> list[np.ndarray]:
        """Columns that covariances join, set by set."""
        label = list(range(self.k))
        for i, j in self.pairs():
            if label[i] != label[j]:
                kept, other = label[i], label[j]
                label = [kept if own == other else own for own in label]
        joined = [[a for a, own in enumerate(label) if own == one] for one in set(label)]
        return [np.array(columns) for columns in sorted(joined, reverse=True)]

    def standardised(self, theta: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """theta had every column a root mean square of one: each entry of T times its row's unit.

        What is small is told by these, whatever the columns' units; ``gram`` as in :meth:`chart`.
        """
        rows = np.einsum("a,iab->i", units(gram) ** 2, self.jacobian(theta) ** 2)
        return np.asarray(theta) * np.sqrt(rows)

    def scaling(self, gram: np.ndarray) -> np.ndarray:
        """B (n_theta, n_theta): theta = B s with s of order one, whatever the columns' units and, where T is full, their origins."""
        return np.diag(1.0 / np.where((size := self.standardised(np.ones(self.n_theta), gram)) > 0.0, size, 1.0))

    def held(self, theta: np.ndarray) -> np.ndarray:
        """Which parameters, bool (n_theta,), a zero variance holds where they are."""
        return np.asarray(theta) == 0.0

    @abc.abstractmethod
    def boundary(self, theta: np.ndarray) -> np.ndarray:
        """Distances to the boundary, one per constrained parameter: 0 where a variance or 1 - r^2 vanishes."""

    def restricted(self, columns: np.ndarray) -> Covariance:
        """The structure of some of the columns, in their order."""
        return type(self)(len(columns))  # type: ignore[call-arg]

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        """Coordinates, one of which is the standard deviation of column ``first``, or its correlation with ``second``.

        Of the correlation it is the arcsine. ArgumentError for a structure that has no such coordinates.
        """
        raise ArgumentError(f"covariance structure {self.name!r} has no profiles of standard deviations and correlations.")
