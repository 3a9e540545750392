"""Variances that a linear predictor of the logarithm of the standard deviation gives: the dispersion model of a linear fit.

Row i has the standard deviation exp(o_i + x_i'delta) and no correlation. Rows with the same (x, o) share a *place*, and the
matrices of the contract, which are diagonal over the K places, are held as their diagonals:

    T_k = exp(o_k + x_k'delta),     G_k = T_k^2,     dG_k / d delta_h = 2 x_kh G_k,     d2G_k / d delta_h d delta_j = 4 x_kh x_kj G_k.

As the relative parameters of other structures delta is told from sigma by a scale: with X c = 1, s T has delta + c log s.

References: Aitkin (1987), Appl. Stat. 36; Smyth (1989), J. R. Stat. Soc. B 51.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import NoReturn

import numpy as np

from lmm.covariance.coordinates import Coordinates
from lmm.covariance.structure import Covariance, LocalCovariance, Quantity
from lmm.types import Array

#: scoring steps of the start, and the most that one of them changes a logarithm in the root mean square
STEPS, LONGEST = 4, 1.0


@dataclass(frozen=True, eq=False)
class LogLinear(Covariance):
    """Standard deviations exp(o + X delta) at K places.

    Attributes
    ----------
    k : places.
    X : (K, q) columns of the predictor at the places.
    known : (K,) its offset there.
    constant : (q,) c with X c = 1.
    basis : (q, q) B so that the columns of X B, over the rows, are orthogonal and of mean square one.
    """

    k: int
    X: np.ndarray
    known: np.ndarray
    constant: np.ndarray
    basis: np.ndarray
    name = "disp"

    @property
    def n_theta(self) -> int:
        return self.X.shape[1]

    def log_sd(self, theta: np.ndarray) -> np.ndarray:
        """o + X delta (..., K) of theta (..., q)."""
        return np.asarray(self.known + theta @ self.X.T)

    def factor(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # an infinite deviance is refused
            return np.exp(self.log_sd(np.asarray(theta, dtype=float)))

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        return self.X.T * self.factor(theta)

    def second(self, theta: np.ndarray) -> np.ndarray:
        return self.X.T[:, None] * self.jacobian(theta)

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        weighted = np.linalg.lstsq(self.X, (np.log(T) - self.known).T, rcond=None)[0]
        return np.asarray(weighted.T)

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        return self.from_factor(np.sqrt(G))

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        return np.asarray(theta, dtype=float)

    def scaled(self, theta: np.ndarray, scale: float) -> np.ndarray:
        return np.asarray(theta) + self.constant * np.log(scale)

    def covariance(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.exp(2.0 * self.log_sd(np.asarray(theta, dtype=float)))

    def of_factor(self, T: np.ndarray) -> np.ndarray:
        return np.square(T)

    def covariance_slopes(self, theta: np.ndarray) -> np.ndarray:
        return 2.0 * self.X.T * self.covariance(theta)

    def covariance_bends(self, theta: np.ndarray) -> np.ndarray:
        return 2.0 * self.X.T[:, None] * self.covariance_slopes(theta)

    # ---- steps of a search

    def local(self, theta: np.ndarray, gram: np.ndarray | None = None) -> LocalCovariance:
        G = self.covariance(theta)
        columns = self.X if gram is None else self.X @ self.basis
        return LocalCovariance(G, 2.0 * columns.T * G, partial(_bend, columns=columns, G=G))

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        return np.asarray(theta + self.basis @ step)

    def start(self, G: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """Scoring steps from one variance; G (K,) are mean squares at the places, ``gram`` (K,) the shares of these in the rows."""
        level = 0.5 * np.log(np.sum(gram * G * np.exp(-2.0 * self.known)))
        theta = self.constant * level
        columns = self.X @ self.basis
        for _ in range(STEPS):
            excess = gram * (G / self.covariance(theta) - 1.0)
            step = 0.5 * columns.T @ excess
            length = float(np.linalg.norm(step))
            theta = theta + self.basis @ step * min(1.0, LONGEST / max(length, 1e-300))
        return theta

    def standardised(self, theta: np.ndarray, gram: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self.basis, np.asarray(theta, dtype=float))

    # ---- the boundary: there is none

    def descent(
        self, theta: np.ndarray, D: np.ndarray, gram: np.ndarray
    ) -> tuple[float, np.ndarray]:
        return 0.0, np.zeros(self.k)

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        return np.ones(self.n_theta)

    def held(self, theta: np.ndarray) -> np.ndarray:
        return np.zeros(self.n_theta, dtype=bool)

    # ---- what is reported

    def quantities(self) -> tuple[Quantity, ...]:
        return tuple(Quantity("disp", h, h, (h,), float(c)) for h, c in enumerate(self.constant))

    def describe(self, G: np.ndarray) -> np.ndarray:
        return self.from_matrix(G)

    def described(self, theta: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.asarray(theta + np.log(scale)[:, None] * self.constant)

    def report(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(theta, dtype=float), np.eye(self.n_theta)

    def matrix(self, values: np.ndarray) -> np.ndarray:
        return self.covariance(values)

    def of_values(self, values: np.ndarray, scale: float) -> np.ndarray:
        return self.scaled(values, 1.0 / scale)

    def coordinates(self) -> Coordinates:
        return Logarithms(self)

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        return Logarithms(self, first)

    def pieces(self) -> list[np.ndarray]:
        return [np.array([place]) for place in range(self.k)]

    def constrain(self, sd: Array, z: Array, xp: ModuleType) -> NoReturn:
        """TypeError: no prior is taken over it."""
        raise TypeError("a dispersion model has no prior distribution")


def _bend(D: np.ndarray, columns: np.ndarray, G: np.ndarray) -> np.ndarray:
    """<D, d2G / ds_i ds_j> (m, m) of D (K,)."""
    return np.asarray(4.0 * (columns.T * (D * G)) @ columns)


@dataclass(frozen=True)
class Logarithms(Coordinates):
    """delta itself, of the standard deviations T (K,)."""

    def enter(self, T: np.ndarray) -> np.ndarray:
        return self.structure.from_factor(T)

    def local(self, x: np.ndarray) -> tuple[np.ndarray, LocalCovariance]:
        return self.structure.factor(x), self.structure.local(x)
