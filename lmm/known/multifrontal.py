"""Sparse Cholesky factorisation and the entries of the inverse along its pattern, front by front.

M = P' L L' P is eliminated in the fronts of :class:`lmm.known.symbolic.Symbolic`. With the columns of a supernode first,

    F = [F11 F21'],   F11 = L11 L11',   L21 = F21 L11^-T,   U = F22 - L21 L21',
        [F21 F22 ]

and U is added to the front of the parent. The entries of Z = M^-1 on the same fronts follow from the roots down: with Z22 gathered from
the parent and B = L21 L11^-1,

    Z21 = -Z22 B,   Z11 = L11^-T L11^-1 + B' Z22 B,

which costs no more than the factorisation. Fronts of one height and shape are one stack of matrices, so that a tree of n nodes costs
O(n) in as many calls as it is high.

References: Duff & Reid (1983), ACM Trans. Math. Softw. 9, 302-325; Takahashi, Fagan & Chin (1973); Erisman & Tinney (1975), Commun. ACM 18.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from lmm.known.symbolic import Symbolic

#: columns of a single front from which LAPACK takes its triangular matrices as such
LARGE = 64


class Panel(NamedTuple):
    """Of a batch: L11^-1 (B, c, c), lower triangular, and L21 (B, r, c)."""

    inverse: np.ndarray
    below: np.ndarray


@dataclass(frozen=True, eq=False)
class SparseCholesky:
    """The factor of one matrix: panels per batch and log|M|."""

    symbolic: Symbolic
    panels: list[Panel]
    logdet: float

    @property
    def pivots(self) -> np.ndarray:
        """(n,) squares of the diagonal of L: what is left of each column of M after those eliminated before it."""
        out = np.empty(self.symbolic.n)
        for batch, panel in zip(self.symbolic.batches, self.panels, strict=True):
            out[batch.columns] = np.einsum("bcc->bc", panel.inverse) ** -2.0
        return out[self.symbolic.place]

    def solve(self, b: np.ndarray) -> np.ndarray:
        """M^-1 b for b (m, n)."""
        return self._original(self._back(self._forward(self._ordered(b))))

    def half(self, b: np.ndarray) -> np.ndarray:
        """L^-1 P b for b (m, n), whose squares sum to b'M^-1 b."""
        return self._forward(self._ordered(b)).T

    def back(self, z: np.ndarray) -> np.ndarray:
        """P'L^-T z for z (m, n): M^-1 is its covariance for standard normal z."""
        return self._original(self._back(np.array(z.T, order="C")))

    def _ordered(self, b: np.ndarray) -> np.ndarray:
        """(n, m), rows in the order of elimination."""
        return np.ascontiguousarray(b.T[self.symbolic.order])

    def _original(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[self.symbolic.place].T)

    def _forward(self, x: np.ndarray) -> np.ndarray:
        """L^-1 x for x (n, m), in place."""
        for batch, panel in zip(self.symbolic.batches, self.panels, strict=True):
            own = panel.inverse @ x[batch.columns]
            x[batch.columns] = own
            if batch.r:
                taken = (panel.below @ own).reshape(-1, x.shape[1])
                if len(batch.ids) == 1:
                    x[batch.below[0]] -= taken
                else:
                    np.subtract.at(x, batch.below.ravel(), taken)
        return x

    def _back(self, x: np.ndarray) -> np.ndarray:
        """L^-T x for x (n, m), in place."""
        pairs = zip(reversed(self.symbolic.batches), reversed(self.panels), strict=True)
        for batch, panel in pairs:
            own = x[batch.columns]
            if batch.r:
                own = own - np.swapaxes(panel.below, 1, 2) @ x[batch.below]
            x[batch.columns] = np.swapaxes(panel.inverse, 1, 2) @ own
        return x

    @cached_property
    def inverse(self) -> np.ndarray:
        """Entries of M^-1 on all fronts, both triangles, where :meth:`Symbolic.entries` finds them."""
        symbolic = self.symbolic
        Z = np.empty(int(symbolic.fronts[-1]))
        pairs = zip(reversed(symbolic.batches), reversed(self.panels), strict=True)
        for batch, (inverse, below) in pairs:
            B, c, size = len(batch.ids), batch.c, batch.c + batch.r
            own = np.swapaxes(inverse, 1, 2) @ inverse
            block = np.empty((B, size, size))
            if batch.r:
                Z22 = batch.parents(Z)
                half = below @ inverse
                Z21 = -(Z22 @ half)
                own = own - np.swapaxes(half, 1, 2) @ Z21
                block[:, c:, c:], block[:, c:, :c] = Z22, Z21
                block[:, :c, c:] = np.swapaxes(Z21, 1, 2)
            block[:, :c, :c] = (own + np.swapaxes(own, 1, 2)) / 2.0
            batch.put(Z, block)
        return Z


def factorize(symbolic: Symbolic, places: np.ndarray, values: np.ndarray) -> SparseCholesky:
    """Factor the matrix whose lower triangle has ``values`` at ``places`` of the fronts; those of one place are added.

    Raises
    ------
    numpy.linalg.LinAlgError : where it is not positive definite.
    """
    F = np.bincount(places, weights=values, minlength=int(symbolic.fronts[-1]))
    panels, logdet = [], 0.0
    for batch in symbolic.batches:
        c = batch.c
        front = batch.fronts(F)
        inverse, part = _triangle(front[:, :c, :c])
        below = front[:, c:, :c] @ np.swapaxes(inverse, 1, 2)
        if batch.r:
            update = front[:, c:, c:] - below @ np.swapaxes(below, 1, 2)
            batch.add(F, update)
        panels.append(Panel(inverse, below))
        logdet += part
    return SparseCholesky(symbolic, panels, logdet)


def _triangle(A: np.ndarray) -> tuple[np.ndarray, float]:
    """L^-1 (B, c, c) of the Cholesky factors of A (B, c, c), lower triangles, and the sum of log|A|."""
    B, c, _ = A.shape
    if c == 1:
        if not np.all(A > 0.0):
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        return 1.0 / np.sqrt(A), float(np.log(A).sum())
    if c < LARGE or B > 1:
        L = np.linalg.cholesky(A)
        part = 2.0 * float(np.log(np.einsum("bii->bi", L)).sum())
        return np.tril(np.linalg.inv(L)), part
    upper, info = lapack.dpotrf(A[0].T, lower=0, clean=1)
    if info != 0:
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    part = 2.0 * float(np.log(np.diagonal(upper)).sum())
    return np.ascontiguousarray(lapack.dtrtri(upper, lower=0)[0].T)[None], part
