"""The deviance of a linear model from the covariances of clusters of rows, with exact first and second derivatives.

y ~ N(X beta, V), V block-diagonal with the blocks of :mod:`lmm.model.marginal.clusters`, and linear in matrices G_t, those
of the residuals' covariances among them. With C = (X'V^-1X)^-1, beta = C X'V^-1y and e = V^-1 (y - X beta) = Py,

    d = log|V| [+ log|X'V^-1X|] + y'Py + N log(2 pi),      N = n (ML) or n - p (REML),
    dd / dG_t = sum_j Z_j'D Z_j,                           D = V^-1 - ee' [- V^-1 X C X'V^-1],
    d2d (dV_h, dV_k) = tr(dV_h V^-1 dV_k B) - 2 q_h'C q_k [- tr(C P_h C P_k)],
                       B = 2 ee' [+ 2 V^-1 X C X'V^-1] - V^-1,   P_h = X'V^-1 dV_h V^-1 X,   q_h = X'V^-1 dV_h e,

the terms in brackets for REML; what curvature the G_t have in their parameters comes on top, from dd / dG_t.
The expected information is tr(P dV_h P dV_k) / 2 (REML) and tr(V^-1 dV_h V^-1 dV_k) / 2 (ML).

Every sum goes over the patterns of clusters, not over clusters or rows: a pattern's clusters share V^-1.

References: Jennrich & Schluchter (1986), Biometrics 42; Lindstrom & Bates (1988), J. Am. Stat. Assoc. 83.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmm.model.marginal.clusters import Stack

#: numbers of the directions' arrays (m, B, n, n) that are held at a time
HELD = 1 << 23
#: numbers of products with the rows along several directions that stay in the cache
CACHED = 1 << 17


@dataclass(frozen=True, eq=False)
class Block:
    """One stack at given G: V^-1 (B, n, n) of its patterns and U = V^-1 w (B, n, R, p + 1)."""

    stack: Stack
    inverse: np.ndarray
    solved: np.ndarray


@dataclass(frozen=True, eq=False)
class MarginalDeviance:
    """The deviance at covariances G_t, and what follows from it.

    Attributes
    ----------
    blocks : the stacks at these covariances.
    logdet : log|V|.
    gram : [X y]'V^-1[X y] (p + 1, p + 1).
    n : rows.
    reml : whether it is the REML criterion.
    """

    blocks: tuple[Block, ...]
    logdet: float
    gram: np.ndarray
    n: int
    reml: bool

    @classmethod
    def at(cls, stacks: Sequence[Stack], G: Sequence[np.ndarray], reml: bool) -> MarginalDeviance:
        """Evaluated at G (k, k) per term; LinAlgError where V is not positive definite."""
        blocks, logdet, n = [], 0.0, 0
        q = stacks[0].lines.shape[-1]
        gram = np.zeros((q, q))
        for stack in stacks:
            V = sum(part.spread(own) for part, own in zip(stack.parts, G, strict=True))
            L = np.linalg.cholesky(V)
            logdet += 2.0 * float(
                stack.count @ np.log(np.diagonal(L, axis1=1, axis2=2)).sum(axis=1)
            )
            half = np.linalg.inv(L)
            inverse = np.swapaxes(half, 1, 2) @ half
            B, rows, R, _ = stack.lines.shape
            solved = (inverse @ stack.lines.reshape(B, rows, R * q)).reshape(B, rows, R, q)
            gram += stack.lines.reshape(-1, q).T @ solved.reshape(-1, q)
            n += rows * int(stack.count.sum())
            blocks.append(Block(stack, inverse, solved))
        return cls(tuple(blocks), logdet, (gram + gram.T) / 2.0, n, reml)

    @property
    def p(self) -> int:
        """Fixed effects."""
        return len(self.gram) - 1

    @cached_property
    def root(self) -> np.ndarray:
        """(p, p) lower triangular, root root' = X'V^-1X."""
        return np.linalg.cholesky(self.gram[:-1, :-1]) if self.p else np.zeros((0, 0))

    @cached_property
    def half(self) -> np.ndarray:
        """(p, p) with half'half = C."""
        return np.linalg.inv(self.root) if self.p else self.root

    @cached_property
    def cov(self) -> np.ndarray:
        """C = (X'V^-1X)^-1 (p, p)."""
        return np.asarray(self.half.T @ self.half)

    @cached_property
    def beta(self) -> np.ndarray:
        """(p,) generalized least squares."""
        return np.asarray(self.cov @ self.gram[:-1, -1])

    @cached_property
    def rss(self) -> float:
        """y'Py."""
        z = self.half @ self.gram[:-1, -1]
        return float(self.gram[-1, -1] - z @ z)

    @property
    def degrees(self) -> int:
        """N."""
        return self.n - self.p if self.reml else self.n

    @cached_property
    def value(self) -> float:
        """d."""
        own = self.logdet + self.rss + self.degrees * np.log(2.0 * np.pi)
        if self.reml:
            own += 2.0 * float(np.log(np.diagonal(self.root)).sum())
        return float(own)

    def _vectors(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """e (B, n, R) and V^-1 X C^1/2 (B, n, R p) of the lines of a stack."""
        e = block.solved @ np.append(-self.beta, 1.0)
        return e, (block.solved[..., :-1] @ self.half.T).reshape(*e.shape[:2], -1)

    @cached_property
    def _squares(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """sum ee' and sum V^-1 X C X'V^-1 (B, n, n) over the clusters of each pattern, per stack."""
        out = []
        for block in self.blocks:
            e, half = self._vectors(block)
            out.append((e @ np.swapaxes(e, 1, 2), half @ np.swapaxes(half, 1, 2)))
        return tuple(out)

    def slopes(self) -> list[np.ndarray]:
        """dd / dG_t (k, k) per term."""
        total: list[np.ndarray] = []
        for block, (ee, fixed) in zip(self.blocks, self._squares, strict=True):
            D = block.stack.count[:, None, None] * block.inverse - ee
            if self.reml:
                D = D - fixed
            own = [part.gathered(D) for part in block.stack.parts]
            total = own if not total else [a + b for a, b in zip(total, own, strict=True)]
        return [(D + D.T) / 2.0 for D in total]

    def _chunks(
        self, dG: Sequence[np.ndarray]
    ) -> Iterator[tuple[Block, slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Per stack, some patterns at a time: dV (m, b, n, n) along all directions, sum ee' and V^-1 X C X'V^-1."""
        m = sum(len(own) for own in dG)
        for block, (ee, fixed) in zip(self.blocks, self._squares, strict=True):
            stack = block.stack
            at_once = max(1, HELD // max(m * stack.n**2, 1))
            for first in range(0, len(stack.count), at_once):
                which = slice(first, first + at_once)
                dV = np.concatenate(
                    [
                        part.some(which).spread(own)
                        for part, own in zip(stack.parts, dG, strict=True)
                    ]
                )
                yield block, which, dV, ee[which], fixed[which]

    def second(self, dG: Sequence[np.ndarray], expected: bool = False) -> Curvature:
        """Second derivatives along directions dG (m_t, k, k) per term, observed or expected, with P_h."""
        m, p = sum(len(own) for own in dG), self.p
        H = np.zeros((m, m))
        P = np.zeros((m, p + 1, p + 1))
        combine = np.eye(p + 1)
        combine[:, -1] = np.append(-self.beta, 1.0)
        for block, which, dV, ee, fixed in self._chunks(dG):
            inverse, count = block.inverse[which], block.stack.count[which]
            own = -count[:, None, None] * inverse
            if expected:
                own = -own - 2.0 * fixed if self.reml else -own
            else:
                own = own + 2.0 * ee + (2.0 * fixed if self.reml else 0.0)
            H += (dV @ own).reshape(m, -1) @ (inverse @ dV).reshape(m, -1).T
            P += _between(dV, block.solved[which] @ combine)  # V^-1 X and e
        own, q_h = P[:, :-1, :-1], P[:, :-1, -1]
        pairs = self.cov @ own
        shared = pairs.reshape(m, -1) @ np.swapaxes(pairs, 1, 2).reshape(m, -1).T
        if expected:
            H = H + shared if self.reml else H
        else:
            H = H - 2.0 * q_h @ self.cov @ q_h.T - (shared if self.reml else 0.0)
        return Curvature((H + H.T) / 2.0, (own + np.swapaxes(own, 1, 2)) / 2.0)

    def products(
        self, dG: Sequence[np.ndarray], W: np.ndarray, bent: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """sum_hk W_hk X'V^-1 (dV_h V^-1 dV_k - d2V_hk / 4) V^-1 X (p, p); ``bent`` is sum_hk W_hk d2G_hk (k, k) per term."""
        p = self.p
        total = np.zeros((p, p))
        for block, which, dV, _, _ in self._chunks(dG):
            inverse = block.inverse[which]
            m, b, n, _ = dV.shape
            turned = (W @ dV.reshape(m, -1)).reshape(dV.shape)
            wide = np.ascontiguousarray(np.moveaxis(dV @ inverse, 0, 2)).reshape(b, n, m * n)
            middle = wide @ np.moveaxis(turned, 0, 1).reshape(b, m * n, n)
            if bent is not None:
                parts = zip(block.stack.parts, bent, strict=True)
                middle = middle - sum(part.some(which).spread(own) for part, own in parts) / 4.0
            U = block.solved[which][..., :-1]
            b, n, R, _ = U.shape
            total += U.reshape(-1, p).T @ (middle @ U.reshape(b, n, R * p)).reshape(-1, p)
        return (total + total.T) / 2.0


def _between(dV: np.ndarray, U: np.ndarray) -> np.ndarray:
    """sum over lines of U'dV_h U (m, q, q), of dV (m, b, n, n) and lines U (b, n, R, q).

    Either dV_h times the lines, or the products of the rows at two places, summed over the lines, times dV_h, whichever is less work.
    """
    m = len(dV)
    b, n, R, q = U.shape
    if n * q * q * (n * R + m * n) < m * R * q * (n + q):
        wide = np.swapaxes(U, 2, 3).reshape(b, n * q, R)
        products = (wide @ np.swapaxes(wide, 1, 2)).reshape(b, n, q, n, q)
        pairs = np.swapaxes(products, 2, 3).reshape(b * n * n, q * q)
        return (dV.reshape(m, -1) @ pairs).reshape(m, q, q)
    out = np.empty((m, q, q))
    flat, lines = U.reshape(b, n, R * q), U.reshape(-1, q)
    at_once = max(1, CACHED // max(flat.size, 1))
    for first in range(0, m, at_once):
        some = slice(first, first + at_once)
        out[some] = lines.T @ (dV[some] @ flat).reshape(-1, len(lines), q)
    return out


@dataclass(frozen=True, eq=False)
class Curvature:
    """Second derivatives of the deviance along m directions (m, m), and P_h = X'V^-1 dV_h V^-1 X (m, p, p)."""

    hessian: np.ndarray
    P: np.ndarray
