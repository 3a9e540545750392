"""A design's mixed-model equations as dense matrices, and thetas to try them at: an oracle for the blocked algebra.

Columns of Z run as in ``lmm.linalg``: term by term, within a term column by column, within a column level by level.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from lmm.design.design import Design


def some_theta(d: Design, seed: int = 0) -> np.ndarray:
    """A theta in the interior, of every sign below the diagonal."""
    rng = np.random.default_rng([d.n, len(d.terms), seed])
    out = []
    for term in d.terms:
        names = term.structure.theta_names(term.columns)
        own = rng.normal(scale=0.4, size=len(names))
        diagonal = np.array([len(name) == 1 for name in names])
        own[diagonal] = rng.uniform(0.3, 1.2, diagonal.sum())
        out.append(own)
    return np.concatenate(out)


def singular_theta(d: Design, seed: int = 0) -> np.ndarray:
    """The same with every term's last variance at zero: all of T for a term of one column."""
    theta, at = some_theta(d, seed), 0
    for term in d.terms:
        at += term.structure.n_theta
        theta[at - 1] = 0.0
    return theta


def thetas(d: Design) -> dict[str, np.ndarray]:
    """Interior, singular, and nothing at all."""
    return {
        "interior": some_theta(d),
        "singular": singular_theta(d),
        "zero": np.zeros(len(some_theta(d))),
    }


class Algebra:
    """Z, G, V and what follows from them by n x n and q x q matrices; nothing here inverts G."""

    def __init__(self, d: Design, theta: np.ndarray):
        self.design, self.theta = d, np.asarray(theta, dtype=float)
        self.T, self.Z, at = [], [], 0
        for term in d.terms:
            self.T.append(term.structure.factor(self.theta[at : at + term.structure.n_theta]))
            at += term.structure.n_theta
            z = np.zeros((d.n, term.k, term.J))
            z[np.arange(d.n), :, term.codes] = term.values
            self.Z.append(z.reshape(d.n, -1))
        stops = np.cumsum([0] + [z.shape[1] for z in self.Z])
        self.slices = [slice(a, b) for a, b in zip(stops[:-1], stops[1:], strict=True)]
        self.q = int(stops[-1])
        self.w = np.ones(d.n) if d.weights is None else d.weights
        self.y = d.y if d.offset is None else d.y - d.offset

    def spread(self, blocks: list[np.ndarray]) -> np.ndarray:
        """One (k, k) block per term repeated over its levels, (q, q)."""
        out = np.zeros((self.q, self.q))
        for term, own, block in zip(self.design.terms, self.slices, blocks, strict=True):
            out[own, own] = np.kron(block, np.eye(term.J))
        return out

    @cached_property
    def Zall(self) -> np.ndarray:
        return np.column_stack(self.Z)

    @cached_property
    def L(self) -> np.ndarray:
        """The relative factor, (q, q)."""
        return self.spread(self.T)

    @cached_property
    def A(self) -> np.ndarray:
        """Z'WZ."""
        return self.Zall.T @ (self.Zall * self.w[:, None])

    @cached_property
    def M(self) -> np.ndarray:
        """I + L'Z'WZL."""
        return np.eye(self.q) + self.L.T @ self.A @ self.L

    @cached_property
    def N(self) -> np.ndarray:
        """(Z'WZ + G^-1)^-1 = L M^-1 L'."""
        return self.L @ np.linalg.solve(self.M, self.L.T)

    @cached_property
    def V(self) -> np.ndarray:
        return np.diag(1 / self.w) + self.Zall @ self.L @ self.L.T @ self.Zall.T

    @cached_property
    def Vinv(self) -> np.ndarray:
        return np.linalg.inv(self.V)

    @cached_property
    def cov(self) -> np.ndarray:
        """(X'V^-1X)^-1."""
        X = self.design.X
        return np.linalg.inv(X.T @ self.Vinv @ X)

    @cached_property
    def P(self) -> np.ndarray:
        """V^-1 - V^-1X (X'V^-1X)^-1 X'V^-1."""
        VX = self.Vinv @ self.design.X
        return self.Vinv - VX @ self.cov @ VX.T

    def sum_of_blocks(self, Q: np.ndarray, t: int) -> np.ndarray:
        """sum_j Q_jj over the levels of term t, (k, k)."""
        term = self.design.terms[t]
        own = Q[self.slices[t], self.slices[t]].reshape(term.k, term.J, term.k, term.J)
        return np.einsum("ajbj->ab", own)
