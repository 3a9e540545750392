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
from scipy.linalg import lapack

from lmm.model.marginal.clusters import LARGE, Stack, StackedPart

#: numbers of products with the rows along several directions that stay in the cache
CACHED = 1 << 17
#: numbers of the directions' arrays (m, B, n, n) that are held at a time
HELD = 1 << 23


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
            inverse, logs = inverse_and_logdet(np.asarray(V))
            logdet += float(stack.count @ logs)
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

    def second(self, dG: Sequence[np.ndarray], expected: bool = False) -> Curvature:
        """Second derivatives along directions dG (m_t, k, k) per term, observed or expected, with P_h."""
        m, p = sum(len(own) for own in dG), self.p
        H = np.zeros((m, m))
        P = np.zeros((m, p + 1, p + 1))
        combine = np.eye(p + 1)
        combine[:, -1] = np.append(-self.beta, 1.0)
        for block, (ee, fixed) in zip(self.blocks, self._squares, strict=True):
            B = -block.stack.count[:, None, None] * block.inverse
            if expected:
                B = -B - 2.0 * fixed if self.reml else -B
            else:
                B = B + 2.0 * ee + (2.0 * fixed if self.reml else 0.0)
            solved = block.solved @ combine  # V^-1 X and e
            for directions in _directions(block.stack, dG):
                which = directions.which
                H += directions.traces(B[which], block.inverse[which])
                P += directions.between(solved[which])
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
        for block in self.blocks:
            for directions in _directions(block.stack, dG):
                which = directions.which
                inverse, dV = block.inverse[which], directions.dV
                m, b, n, _ = dV.shape
                turned = (W @ dV.reshape(m, -1)).reshape(dV.shape)
                wide = np.ascontiguousarray(np.moveaxis(dV @ inverse, 0, 2)).reshape(b, n, m * n)
                middle = wide @ np.moveaxis(turned, 0, 1).reshape(b, m * n, n)
                if bent is not None:
                    pairs = zip(directions.parts, bent, strict=True)
                    middle = middle - sum(part.spread(own) for part, own in pairs) / 4.0
                U = block.solved[which][..., :-1]
                R = U.shape[2]
                total += U.reshape(-1, p).T @ (middle @ U.reshape(b, n, R * p)).reshape(-1, p)
        return (total + total.T) / 2.0


@dataclass(frozen=True, eq=False)
class Directions:
    """Derivatives dV_h of the blocks of some patterns of a stack, along m directions.

    Attributes
    ----------
    which : the patterns.
    parts : the random terms in them.
    dG : (m_t, k, k) per term.
    """

    which: slice
    parts: tuple[StackedPart, ...]
    dG: Sequence[np.ndarray]

    @cached_property
    def dV(self) -> np.ndarray:
        """(m, b, n, n)."""
        pairs = zip(self.parts, self.dG, strict=True)
        return np.concatenate([part.spread(own) for part, own in pairs])

    def traces(self, B: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """tr(dV_h V^-1 dV_k B) (m, m), summed over the blocks, of B and V^-1 (b, n, n)."""
        m = len(self.dV)
        return (self.dV @ B).reshape(m, -1) @ (inverse @ self.dV).reshape(m, -1).T

    def between(self, U: np.ndarray) -> np.ndarray:
        """sum over lines of U'dV_h U (m, q, q), of lines U (b, n, R, q).

        Either dV_h times the lines, or the products of the rows at two places, summed over the lines, times dV_h, whichever is less
        work.
        """
        m = sum(len(own) for own in self.dG)
        b, n, R, q = U.shape
        if n * q * q * (n * R + m * n) < m * R * q * (n + q):
            wide = np.swapaxes(U, 2, 3).reshape(b, n * q, R)
            products = (wide @ np.swapaxes(wide, 1, 2)).reshape(b, n, q, n, q)
            pairs = np.swapaxes(products, 2, 3).reshape(b * n * n, q * q)
            return (self.dV.reshape(m, -1) @ pairs).reshape(m, q, q)
        return self._by_lines(U)

    def _by_lines(self, U: np.ndarray) -> np.ndarray:
        b, n, R, q = U.shape
        out = np.empty((len(self.dV), q, q))
        flat, lines = U.reshape(b, n, R * q), U.reshape(-1, q)
        at_once = max(1, CACHED // max(flat.size, 1))
        for first in range(0, len(out), at_once):
            some = slice(first, first + at_once)
            out[some] = lines.T @ (self.dV[some] @ flat).reshape(-1, len(lines), q)
        return out


class ThinDirections(Directions):
    """The same where the terms have few columns, without dV_h."""

    def times(self, M: np.ndarray) -> np.ndarray:
        """dV_h M (m, b, n, r) of M (b, n, r)."""
        pairs = zip(self.parts, self.dG, strict=True)
        return np.concatenate([part.times(own, M) for part, own in pairs])

    def traces(self, B: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """tr(dV_h V^-1 dV_k B) (m, m), summed over the blocks, of B and V^-1 (b, n, n)."""
        left = self.times(B)
        pairs = zip(self.parts, self.dG, strict=True)
        right = np.concatenate([part.after(own, inverse) for part, own in pairs])
        return left.reshape(len(left), -1) @ right.reshape(len(left), -1).T

    def _by_lines(self, U: np.ndarray) -> np.ndarray:
        b, n, R, q = U.shape
        lines = U.reshape(-1, q)
        times = self.times(U.reshape(b, n, R * q))
        return lines.T @ times.reshape(len(times), len(lines), q)


def _directions(stack: Stack, dG: Sequence[np.ndarray]) -> Iterator[Directions]:
    """Some patterns of a stack at a time."""
    m = sum(len(own) for own in dG)
    kind = ThinDirections if stack.thin else Directions
    at_once = max(1, HELD // max(m * stack.n**2, 1))
    for first in range(0, len(stack.count), at_once):
        which = slice(first, first + at_once)
        yield kind(which, tuple(part.some(which) for part in stack.parts), dG)


def inverse_and_logdet(V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V^-1 and log|V| (B,) of matrices V (B, n, n); LinAlgError where one is not positive definite."""
    if V.shape[1] < LARGE:
        L = np.linalg.cholesky(V)
        half = np.linalg.inv(L)
        inverse = np.swapaxes(half, 1, 2) @ half
        return inverse, 2.0 * np.log(np.diagonal(L, axis1=1, axis2=2)).sum(axis=1)
    inverse, logdet = np.empty_like(V), np.empty(len(V))
    for b, own in enumerate(V):
        L, failed = lapack.dpotrf(own, lower=True)
        if failed:
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        lower = np.tril(lapack.dpotri(L, lower=True)[0])
        inverse[b] = lower + np.tril(lower, -1).T
        logdet[b] = 2.0 * np.log(np.diagonal(L)).sum()
    return inverse, logdet


@dataclass(frozen=True, eq=False)
class Curvature:
    """Second derivatives of the deviance along m directions (m, m), and P_h = X'V^-1 dV_h V^-1 X (m, p, p)."""

    hessian: np.ndarray
    P: np.ndarray
