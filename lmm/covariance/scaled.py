"""Standard deviations times a correlation matrix: T = diag(d) C(w), G = diag(d) R(w) diag(d), R = C C'.

d is one number for all columns or one for each. The correlations depend on angles w through their sines and cosines,

    a correlation or a partial correlation is sin w, its complement sqrt(1 - r^2) is cos w,

so that C is smooth for every w, a correlation of one included, where R is an even function of the angle as G is of a
standard deviation about zero. theta holds the standard deviations, then the angles. A structure of this kind says how its
factor C is computed and which angles belong to a covariance.

With a standard deviation for each column, changing the sign of one would change the sign of its correlations, which the
others must share; so |d| counts, and the search takes its steps in the roots of d, where zero is no edge.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import ClassVar, TypeVar

import numpy as np

from lmm.covariance import jets
from lmm.covariance.coordinates import Coordinates
from lmm.covariance.diagonal import Diagonal
from lmm.covariance.structure import NOTHING, Covariance, Quantity, sd, units
from lmm.types import Array

#: a matrix C (k, k) with its derivatives by the angles, (a, k, k) and (a, a, k, k)
Root = tuple[np.ndarray, np.ndarray, np.ndarray]
#: numbers that one formula serves: arrays of NumPy or JAX, and jets
Row = TypeVar("Row", jets.Jet, Array)


@dataclass(frozen=True)
class Scaled(Covariance):
    """diag(d) R(w) diag(d).

    Attributes
    ----------
    common : whether one standard deviation serves all columns.
    """

    k: int
    common: ClassVar[bool]
    least = 2

    # ---- what a structure of this kind says

    @property
    @abc.abstractmethod
    def n_angles(self) -> int:
        """Number of angles a."""

    @abc.abstractmethod
    def root(self, w: np.ndarray) -> Root:
        """C (k, k) with R = C C' at angles w (a,), and its derivatives."""

    @abc.abstractmethod
    def angles(self, T: np.ndarray) -> np.ndarray:
        """w (..., a) of covariances T T', T (..., k, q), or of the correlation matrix near to theirs."""

    @abc.abstractmethod
    def lower(self, z: Array, xp: ModuleType) -> Array:
        """The lower triangular factor of R (k, k) for z of :meth:`constrain`, in NumPy or JAX."""

    @abc.abstractmethod
    def pairs(self) -> tuple[Quantity, ...]:
        """The correlations that are reported, as many as angles."""

    def folded(self, w: np.ndarray) -> np.ndarray:
        """The angles between -pi/2 and pi/2 with the same sines; the sign of a cosine does not count."""
        return np.arcsin(np.sin(w))

    def edges(self, w: np.ndarray) -> np.ndarray:
        """Distances (a,) of the angles to where a correlation is at the end of its range."""
        return np.abs(np.cos(w))

    def holding_angle(self, row: int, column: int) -> int | None:
        """The place among the angles of the arcsine of a correlation; None where it is none of them."""
        return None

    # ---- theta and T

    @property
    def n_sd(self) -> int:
        """Number of standard deviations."""
        return 1 if self.common else self.k

    @property
    def n_theta(self) -> int:
        return self.n_sd + self.n_angles

    def _split(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """d (k,), its signs and w (a,)."""
        theta = np.asarray(theta, dtype=float)
        d = np.broadcast_to(theta[: self.n_sd], (self.k,))
        sign = np.ones(self.k) if self.common else np.where(d < 0.0, -1.0, 1.0)
        return d * sign, sign, theta[self.n_sd :]

    def factor(self, theta: np.ndarray) -> np.ndarray:
        d, _, w = self._split(theta)
        return d[:, None] * self.root(w)[0]

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        d, sign, w = self._split(theta)
        C, dC, _ = self.root(w)
        return np.concatenate([self._by_sd(sign, C), d[:, None] * dC])

    def second(self, theta: np.ndarray) -> np.ndarray:
        d, sign, w = self._split(theta)
        _, dC, d2C = self.root(w)
        n, m = self.n_sd, self.n_theta
        out = np.zeros((m, m, self.k, self.k))
        for j, one in enumerate(dC):
            out[:n, n + j] = out[n + j, :n] = self._by_sd(sign, one)
        out[n:, n:] = d[:, None] * d2C
        return out

    def _by_sd(self, sign: np.ndarray, C: np.ndarray) -> np.ndarray:
        """The derivatives (n_sd, k, k) of diag(d) C by the standard deviations."""
        if self.common:
            return C[None]
        out = np.zeros((self.k, self.k, self.k))
        a = np.arange(self.k)
        out[a, a] = sign[:, None] * C
        return out

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        variances = (T * T).sum(axis=-1)
        if self.common:
            variances = variances.mean(axis=-1, keepdims=True)
        return np.concatenate([np.sqrt(variances), self.angles(T)], axis=-1)

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        theta = np.asarray(theta, dtype=float)
        return np.concatenate([np.abs(theta[: self.n_sd]), self.folded(theta[self.n_sd :])])

    # ---- steps of a search

    def chart(
        self, theta: np.ndarray, gram: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """d in the unit of its columns, or the square of d^1/2 + s where each column has its own; the angles as they are."""
        n, unit = self.n_sd, self._units(gram)
        if not self.common:
            theta = np.concatenate([np.abs(theta[:n]), theta[n:]])
        T, dT, second = self.factor(theta), self.jacobian(theta), self.second(theta)
        if self.common:
            slope = 1.0 / unit
        else:
            slope = 2.0 * np.sqrt(theta[:n] / unit)
        scale = np.concatenate([slope, np.ones(self.n_angles)])
        second = second * scale[:, None, None, None] * scale[:, None, None]
        if not self.common:
            a = np.arange(n)
            second[a, a] += (2.0 / unit)[:, None, None] * dT[:n]
        return T, dT * scale[:, None, None], second

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        theta, n, unit = np.asarray(theta, dtype=float), self.n_sd, self._units(gram)
        if self.common:
            d = theta[:n] + step[:n] / unit
        else:
            d = (np.sqrt(np.abs(theta[:n]) * unit) + step[:n]) ** 2 / unit
        return np.concatenate([d, theta[n:] + step[n:]])

    def _units(self, gram: np.ndarray) -> np.ndarray:
        """The size (n_sd,) of what a standard deviation multiplies."""
        if not self.common:
            return units(gram)
        trace = float(np.trace(gram))
        return np.array([np.sqrt(trace) if trace > 0.0 else 1.0])

    def standardised(self, theta: np.ndarray, gram: np.ndarray) -> np.ndarray:
        theta, n = np.asarray(theta, dtype=float), self.n_sd
        return np.concatenate([theta[:n] * self._units(gram), theta[n:]])

    # ---- the boundary

    def descent(
        self, theta: np.ndarray, D: np.ndarray, gram: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Where every variance is zero, out of it along some correlation matrices; elsewhere second derivatives tell the way."""
        best, direction = 0.0, np.zeros((self.k, self.k))
        if np.any(self.standardised(theta, gram)[: self.n_sd] ** 2 > NOTHING):
            return best, direction
        unit = np.ones(self.k) if self.common else 1.0 / units(gram)
        for w in self._trials():
            C = unit[:, None] * self.root(w)[0]
            dG = C @ C.T
            size = float(np.sum(gram * dG))
            slope = float(np.sum(D * dG)) / size if size > 0.0 else 0.0
            if slope < best:
                best, direction = slope, dG / size
        return best, direction

    def _trials(self) -> list[np.ndarray]:
        """Angles at which a descent is looked for."""
        return [np.full(self.n_angles, w) for w in (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)]

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        theta = np.asarray(theta, dtype=float)
        return np.concatenate([np.abs(theta[: self.n_sd]), self.edges(theta[self.n_sd :])])

    def held(self, theta: np.ndarray) -> np.ndarray:
        """A zero standard deviation, and the angles that G does not depend on for it."""
        d, _, w = self._split(theta)
        C, dC, _ = self.root(w)
        half = np.abs(np.outer(d, d) * (dC @ C.T))
        moves = half.max(axis=(1, 2), initial=0.0) > 0.0
        return np.concatenate([np.asarray(theta)[: self.n_sd] == 0.0, ~moves])

    # ---- what is reported

    def quantities(self) -> tuple[Quantity, ...]:
        deviations = (
            (Quantity("sd", 0, 0, ()),) if self.common else tuple(sd(a) for a in range(self.k))
        )
        return (*deviations, *self.pairs())

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        if second is None:
            return Coordinates(self, 0 if self.common else first)
        place = self.holding_angle(first, second)
        if place is None:
            return super().holding(first, second)
        return Coordinates(self, self.n_sd + place)

    def inseparable(self) -> int:
        """All columns where G + c I, c small, has this structure again."""
        return _absorbing(self)

    def keeps_all(self) -> bool:
        return True

    def restricted(self, columns: np.ndarray) -> Covariance:
        return super().restricted(columns) if len(columns) >= self.least else Diagonal(len(columns))

    def constrain(self, sd: Array, z: Array, xp: ModuleType) -> Array:
        L = self.lower(z, xp)
        return sd[0] * L if self.common else sd[:, None] * L


class ByPartials(Scaled):
    """Correlations computed from (partial) correlations z = sin w by one formula, of their lower triangular factor."""

    @abc.abstractmethod
    def rows(self, z: list[Row], c: list[Row], unit: list[Row]) -> list[Row]:
        """Rows of the factor from z and c = sqrt(1 - z^2), of numbers of any kind, and the unit vectors e_0 ... e_k-1."""

    def root(self, w: np.ndarray) -> Root:
        sin, cos = np.sin(w), np.cos(w)
        z = jets.of_function(w, sin, cos, -sin)
        c = jets.of_function(w, cos, -sin, -cos)
        m = len(w)
        none, nothing = np.zeros((self.k, m)), np.zeros((self.k, m, m))
        unit = [jets.Jet(e, none, nothing) for e in np.eye(self.k)]
        return jets.stacked(self.rows(z, c, unit))

    def lower(self, z: Array, xp: ModuleType) -> Array:
        c = xp.sqrt(1.0 - z**2)
        return xp.stack(self.rows(list(z), list(c), list(xp.eye(self.k))))


def angle_between(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The arcsine (...) of the correlation of rows u and v (..., q), exact near one too (Kahan, 2006); 0 beside a row of zeros."""
    length = np.linalg.norm(u, axis=-1, keepdims=True), np.linalg.norm(v, axis=-1, keepdims=True)
    some = (length[0] > 0.0) & (length[1] > 0.0)
    u, v = (x / np.where(some, size, 1.0) for x, size in zip((u, v), length, strict=True))
    apart = np.arctan2(np.linalg.norm(u - v, axis=-1), np.linalg.norm(u + v, axis=-1))
    return np.where(some[..., 0], 0.5 * np.pi - 2.0 * apart, 0.0)


@lru_cache(maxsize=256)
def _absorbing(structure: Covariance) -> int:
    theta = 0.3 + 0.7 * np.sqrt(2.0 + np.arange(structure.n_theta)) % 1.0
    dG = structure.covariance_slopes(theta).reshape(structure.n_theta, -1).T
    eye = np.eye(structure.k).ravel()
    left = eye - dG @ np.linalg.lstsq(dG, eye, rcond=None)[0]
    return structure.k if np.linalg.norm(left) < 1e-8 else 1
