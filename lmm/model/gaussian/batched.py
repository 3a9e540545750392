"""The Gaussian criterion of many problems of one structure at once: their sums, and what all arrangements share.

R problems that share their terms differ in the response, or in which rows they hold: refits of a bootstrap, fits that leave
a group out, ten thousand responses over one design. Each has its own T. The formulas are those of
:mod:`lmm.model.gaussian.deviance` and :mod:`lmm.model.gaussian.hessian`; the problems are the last axis of every array. Two arrangements:

    :class:`Levels`   one grouping factor: the algebra of a level written out, vectorised over levels and problems
    :class:`Stacked`  several factors with few effects: q x q matrices, a stack of R of them

An axis of length 1 in the place of R holds what all problems share. :mod:`lmm.model.gaussian.batch_levels` and
:mod:`lmm.model.gaussian.dense_effects` evaluate them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from lmm.linalg import small
from lmm.model.gaussian.deviance import Head


@dataclass(frozen=True, eq=False)
class Levels:
    """Sums of one grouping factor, J levels of k effects.

    Attributes
    ----------
    A : (k, k, J, R or 1), Z'WZ by level.
    X : (p, k, J, R or 1), Z'WX.
    y : (k, J, R or 1), Z'Wy.
    gram : (p + 1, p + 1, R), [X y]'W[X y].
    degrees : (R,), N.
    constant : (R,), what else the deviance has: -sum log w, of REML + log|X'WX|.
    """

    A: np.ndarray
    X: np.ndarray
    y: np.ndarray
    gram: np.ndarray
    degrees: np.ndarray
    constant: np.ndarray

    def take(self, which: np.ndarray) -> Levels:
        """Some of the problems."""
        arrays = self.A, self.X, self.y, self.gram, self.degrees, self.constant
        return Levels(*(part(array, which) for array in arrays))


@dataclass(frozen=True, eq=False)
class Stacked:
    """Sums of several factors, all q effects in one space: term after term, within a term column after column.

    Attributes
    ----------
    sizes : (k, J) per term.
    A : (R or 1, q, q), Z'WZ.
    rhs : (R, p + 1, q), Z'W[X y].
    gram : (p + 1, p + 1, R), [X y]'W[X y].
    degrees : (R,), N.
    constant : (R,), what else the deviance has: -sum log w, of REML + log|X'WX|.
    """

    sizes: tuple[tuple[int, int], ...]
    A: np.ndarray
    rhs: np.ndarray
    gram: np.ndarray
    degrees: np.ndarray
    constant: np.ndarray

    def take(self, which: np.ndarray) -> Stacked:
        """Some of the problems."""
        A = self.A if len(self.A) == 1 else self.A[which]
        return replace(
            self,
            A=A,
            rhs=self.rhs[which],
            gram=part(self.gram, which),
            degrees=part(self.degrees, which),
            constant=part(self.constant, which),
        )


def part(array: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Some of the problems of an array whose last axis they are, unless it is shared."""
    return array if array.shape[-1] == 1 else array[..., which]


class Values(NamedTuple):
    """Per problem, last: objective, gradient (m,), model Hessian (m, m), beta (p,), (X'V^-1X)^-1 (p, p), r2, D (k, k) per term."""

    objective: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    beta: np.ndarray
    cov: np.ndarray
    r2: np.ndarray
    D: tuple[np.ndarray, ...]
    modes: tuple[np.ndarray, ...]  # per term (k, J, R)


def profile(gram: np.ndarray) -> Head:
    """:func:`lmm.model.gaussian.deviance.profile_fixed` of (p + 1, p + 1, R) matrices, written out."""
    p, R = len(gram) - 1, gram.shape[-1]
    if not p:
        return Head(np.zeros((0, R)), np.zeros((0, 0, R)), gram[0, 0], np.zeros(R))
    columns, logdet = small.cholesky(np, gram[:p, :p])
    root = small.forward_substitute(np, columns, np.broadcast_to(np.eye(p)[:, :, None], (p, p, R)))
    z = np.einsum("abr,br->ar", root, gram[:p, p])
    beta = np.einsum("abr,ar->br", root, z)
    return Head(beta, root, gram[p, p] - np.einsum("ar,ar->r", z, z), logdet)


def explained(data: Levels | Stacked, T: list[np.ndarray]) -> np.ndarray:
    """X'WZ G Z'WX (p, p, R) for T (k, k, R) per term."""
    if isinstance(data, Levels):
        if data.X.shape[-1] == 1:
            p, k, J, _ = data.X.shape
            flat = data.X.reshape(p * k, J)
            pairs = (flat @ flat.T).reshape(p, k, p, k)
            return np.einsum("paqb,abr->pqr", pairs, np.einsum("acr,bcr->abr", T[0], T[0]))
        loaded = np.einsum("pajr,acr->pcjr", data.X, T[0])
        return np.einsum("pcjr,qcjr->pqr", loaded, loaded, optimize=True)
    R, p = len(data.rhs), data.rhs.shape[1] - 1
    out, at = np.zeros((p, p, R)), 0
    for (k, J), own in zip(data.sizes, T, strict=True):
        X = data.rhs[:, :p, at : at + k * J].reshape(R, p, k, J)
        loaded = np.einsum("rpaj,acr->rpcj", X, own).reshape(R, p, k * J)
        out += np.moveaxis(loaded @ np.swapaxes(loaded, 1, 2), 0, -1)
        at += k * J
    return out


def directions(T: np.ndarray, dT: np.ndarray) -> np.ndarray:
    """dG_i = dT_i T' + T dT_i', (m, k, k, R) of T (k, k, R) and fixed dT (m, k, k)."""
    half = np.einsum("iac,bcr->iabr", dT, T)
    return half + np.swapaxes(half, 1, 2)


def chain(D: np.ndarray, T: np.ndarray, dT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient 2 <D T, dT_i> (m, R), and the curvature 2 <D dT_j, dT_i> (m, m, R) of G in T."""
    DT = np.einsum("abr,bcr->acr", D, T)
    gradient = 2.0 * np.einsum("acr,iac->ir", DT, dT)
    fixed = np.einsum("iac,jbc->ijab", dT, dT)
    return gradient, 2.0 * np.einsum("abr,ijab->ijr", D, fixed)


def places(k: int) -> np.ndarray:
    """Place of each element of a symmetric (k, k) matrix among those of its upper triangle, row by row."""
    row, column = np.triu_indices(k)
    place = np.zeros((k, k), dtype=int)
    place[row, column] = place[column, row] = np.arange(len(row))
    return place
