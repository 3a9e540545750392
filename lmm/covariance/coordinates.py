"""Coordinates of a covariance structure in which one standard deviation or one correlation is a coordinate itself.

A profile holds that one at a value and lets the others go. For an unstructured covariance the columns are taken in an
order that begins with those concerned, so that in T = P'L, L lower triangular,

    L_00 is the standard deviation of the first,
    L_10 = t sin(omega), L_11 = t cos(omega): t is the standard deviation of the second, sin(omega) the correlation.

The entries of L are regular where a variance is zero or a correlation is one, and so is omega: the covariance is an even
function of L_00, and of omega about pi / 2. Any other structure is held by the quantities that it reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from lmm.covariance.structure import Covariance


def directions(dT: np.ndarray, T: np.ndarray) -> np.ndarray:
    """dG_i = dT_i T' + T dT_i', (m, k, k)."""
    half = dT @ T.T
    return half + np.swapaxes(half, 1, 2)


class LocalCovariance(NamedTuple):
    """G (k, k) around a theta, dG / ds (m, k, k), and what gives <D, d2G / ds2> (m, m) of D (k, k)."""

    G: np.ndarray
    dG: np.ndarray
    bend: Callable[[np.ndarray], np.ndarray]

    def slopes(self, D: np.ndarray) -> np.ndarray:
        """<D, dG / ds> (m,) of D, shaped as G."""
        return self.dG.reshape(len(self.dG), -1) @ D.ravel()


def bent(D: np.ndarray, T: np.ndarray, dT: np.ndarray, second: np.ndarray | None) -> np.ndarray:
    """<D, d2G / ds_i ds_j> (m, m) of G = T T'."""
    out = 2.0 * np.einsum("iab,jab->ij", np.einsum("ab,jbc->jac", D, dT), dT)
    return out if second is None else out + 2.0 * np.einsum("ab,ijab->ij", D @ T, second)


@dataclass(frozen=True)
class Coordinates:
    """The parameters theta of a structure as they are; ``held`` is the place of the coordinate that is held, None for none."""

    structure: Covariance
    held: int | None = None

    def enter(self, T: np.ndarray) -> np.ndarray:
        """x (n_theta,) of the covariance T T', T (k, k)."""
        return self.structure.canonical(self.structure.from_matrix(T @ T.T))

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """T (k, k), dT / dx (n_theta, k, k) and d2T / dx2 (n_theta, n_theta, k, k), None where that is zero."""
        return self.structure.factor(x), self.structure.jacobian(x), self.structure.second(x)

    def local(self, x: np.ndarray) -> tuple[np.ndarray, LocalCovariance]:
        """T, and G with its derivatives in x."""
        T, dT, second = self.at(x)
        bend = partial(bent, T=T, dT=dT, second=second)
        return T, LocalCovariance(T @ T.T, directions(dT, T), bend)


#: step of the central differences of a first derivative, which is exact
STEP = 1e-5


@dataclass(frozen=True)
class Reported(Coordinates):
    """The quantities by which a structure is reported, with the arcsine of a correlation in its place."""

    @property
    def correlated(self) -> np.ndarray:
        """Which coordinates are arcsines of correlations."""
        return np.array([q.kind == "cor" for q in self.structure.quantities()])

    def enter(self, T: np.ndarray) -> np.ndarray:
        values = self.structure.describe(T @ T.T)
        return np.where(self.correlated, np.arcsin(np.where(self.correlated, values, 0.0)), values)

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        axes = np.eye(len(x))
        bent = [
            (self._slopes(x + STEP * e) - self._slopes(x - STEP * e)) / (2.0 * STEP) for e in axes
        ]
        return self._factor(x), self._slopes(x), np.array(bent)

    def _factor(self, x: np.ndarray) -> np.ndarray:
        return self.structure._of_quantities(x[~self.correlated], np.sin(x[self.correlated]))

    def _slopes(self, x: np.ndarray) -> np.ndarray:
        """dT / dx by a step along the imaginary axis, which cancels no digits (Squire & Trapp, 1998, SIAM Rev. 40)."""
        return np.array([np.imag(self._factor(x + 1e-30j * e)) / 1e-30 for e in np.eye(len(x))])


@dataclass(frozen=True)
class Leading(Coordinates):
    """An unstructured covariance with column ``first`` leading, ``second`` after it where their correlation is held."""

    first: int = 0
    second: int | None = None

    @property
    def order(self) -> np.ndarray:
        """The columns in the order of the rows of L."""
        lead = [self.first] if self.second is None else [self.first, self.second]
        return np.array([*lead, *(a for a in range(self.structure.k) if a not in lead)])

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in L of each coordinate, column by column."""
        column, row = np.triu_indices(self.structure.k)
        return row, column

    def enter(self, T: np.ndarray) -> np.ndarray:
        lower = np.asarray(np.linalg.qr(T[self.order].T, mode="r")).T
        lower = lower * np.where(np.diagonal(lower) < 0, -1.0, 1.0)
        x = lower[self.places]
        if self.second is not None:
            k = self.structure.k
            x[1], x[k] = np.arctan2(lower[1, 0], lower[1, 1]), np.hypot(lower[1, 0], lower[1, 1])
        return x

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        k, (row, column), order = self.structure.k, self.places, self.order
        m = len(row)
        L, dL = np.zeros((k, k)), np.zeros((m, k, k))
        L[row, column] = x
        dL[np.arange(m), row, column] = 1.0
        second: np.ndarray | None = None
        if self.second is not None:
            sin, cos, t = np.sin(x[1]), np.cos(x[1]), x[k]
            L[1, :2] = t * sin, t * cos
            dL[1, 1, :2] = t * cos, -t * sin
            dL[k, 1, :2] = sin, cos
            bent = np.zeros((m, m, k, k))
            bent[1, 1, 1, :2] = -t * sin, -t * cos
            bent[1, k, 1, :2] = bent[k, 1, 1, :2] = cos, -sin
            second = np.empty_like(bent)
            second[..., order, :] = bent
        T, dT = np.empty_like(L), np.empty_like(dL)
        T[order], dT[:, order] = L, dL
        return T, dT, second


@dataclass(frozen=True)
class Sided(Coordinates):
    """Block-diagonal: the coordinates of each part side by side."""

    parts: tuple[Coordinates, ...] = ()

    def _walk(self) -> list[tuple[Coordinates, slice, slice]]:
        """Per part: its coordinates, its slice of the columns and of x."""
        out, row, at = [], 0, 0
        for part in self.parts:
            columns, own = (
                slice(row, row + part.structure.k),
                slice(at, at + part.structure.n_theta),
            )
            out.append((part, columns, own))
            row, at = columns.stop, own.stop
        return out

    def enter(self, T: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [part.enter(T[columns, columns]) for part, columns, _ in self._walk()]
        )

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        k, m = self.structure.k, self.structure.n_theta
        T, dT, second = np.zeros((k, k)), np.zeros((m, k, k)), None
        for part, columns, own in self._walk():
            T[columns, columns], dT[own, columns, columns], bent = part.at(x[own])
            if bent is not None:
                second = np.zeros((m, m, k, k)) if second is None else second
                second[own, own, columns, columns] = bent
        return T, dT, second
