"""Z'WZ + G^-1 where the levels of one term are related by K and its rows see independent directions of it.

Effects b (J,) of the term, of one column, have the covariance g K. With b = B u + d, u ~ N(0, g I), B'Z'WZ B = diag(s), and d ~
N(0, g (K - B B')) independent of u, which is zero at all levels that have rows, the rows see u alone: the inner system in u is one of
a grouping factor with as many levels as s has entries. On the levels, with N~ of the inner system,

    N = B N~ B' + g (K - B B'),

which needs no inverse of K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmm.known.relation import Relation
from lmm.linalg.factorisation import (
    Factorisation,
    PenalizedSystem,
    Solution,
    Touched,
    batches,
    spread,
)
from lmm.linalg.joint_elimination import JointSystem
from lmm.linalg.plan import Plan


@dataclass(frozen=True, eq=False)
class RotatedSystem(PenalizedSystem):
    """A on the levels.

    Attributes
    ----------
    plan : sizes of all terms on their levels.
    outer : A on the levels, for products.
    inner : A in u.
    term : which term it is.
    basis : (J, r) B.
    """

    plan: Plan
    outer: JointSystem
    inner: PenalizedSystem
    term: int
    basis: np.ndarray

    @property
    def relation(self) -> Relation:
        """K."""
        found = self.plan.terms[self.term].relation
        assert found is not None
        return found

    @cached_property
    def unseen(self) -> np.ndarray:
        """(J,) the diagonal of K - B B', at least zero."""
        seen = np.einsum("jr,jr->j", self.basis, self.basis)
        return np.maximum(self.relation.variances - seen, 0.0)

    def multiply(self, v: list[np.ndarray]) -> list[np.ndarray]:
        """A v."""
        return self.outer.multiply(v)

    def factorize(self, T: list[np.ndarray]) -> RotatedFactorisation:
        """The inner factorisation."""
        return RotatedFactorisation(self, T, self.inner.factorize(T))

    def inward(self, v: list[np.ndarray]) -> list[np.ndarray]:
        """B'v in the place of v (m, 1, J) of the term."""
        return [own @ self.basis if t == self.term else own for t, own in enumerate(v)]

    def outward(self, x: list[np.ndarray]) -> list[np.ndarray]:
        """B x in the place of x (m, 1, r) of the term."""
        return [own @ self.basis.T if t == self.term else own for t, own in enumerate(x)]


@dataclass(frozen=True, eq=False)
class RotatedFactorisation(Factorisation):
    """N on the levels from the one in u."""

    system: RotatedSystem
    T: list[np.ndarray]
    inner: Factorisation

    @property
    def g(self) -> float:
        """The variance of the term relative to sigma^2."""
        return float(self.T[self.system.term][0, 0]) ** 2

    @property
    def logdet(self) -> float:
        """log|I + Lambda'A Lambda|."""
        return self.inner.logdet

    def solve(self, rhs: list[np.ndarray], near: list[np.ndarray] | None = None) -> Solution:
        """N r, r - A N r and r'N r."""
        system, t = self.system, self.system.term
        inside = system.inward(rhs)
        solved = self.inner.solve(inside)
        values = system.outward(solved.values)
        beyond = self.g * (system.relation.times(rhs[t]) - inside[t] @ system.basis.T)
        values[t] = values[t] + beyond
        residual = [r - own for r, own in zip(rhs, system.multiply(values), strict=True)]
        more = rhs[t][:, 0] @ beyond[:, 0].T
        return Solution(values, residual, solved.inner + (more + more.T) / 2.0)

    def traces(self) -> list[np.ndarray]:
        """sum_j Q_jj per term, of u."""
        return self.inner.traces()

    def inverse_blocks(self) -> list[np.ndarray]:
        """N_jj per term."""
        found, t = self.inner.inverse_blocks(), self.system.term
        J = len(self.system.basis)
        touched = [
            Touched(s, np.zeros(J, dtype=np.int64), np.zeros((J, len(own))))
            for s, own in enumerate(found)
        ]
        touched[t] = Touched(t, np.arange(J), np.ones((J, 1)))
        found[t] = self.quadratics(touched)[None, None]
        return found

    def sample(self, z: list[np.ndarray]) -> list[np.ndarray]:
        """S z: the first entries of z for u, further ones for levels without rows."""
        system, t = self.system, self.system.term
        J, r = system.basis.shape
        inside = [own[..., :r] if s == t else own for s, own in enumerate(z)]
        out = system.outward(self.inner.sample(inside))
        unseen = np.flatnonzero(system.unseen > 1e-10 * system.relation.variances.max())
        if len(unseen):
            unit = np.zeros((len(unseen), J))
            unit[np.arange(len(unseen)), unseen] = 1.0
            B = system.basis[unseen]
            left = system.relation.times(unit)[:, unseen] - B @ B.T
            values, vectors = np.linalg.eigh((left + left.T) / 2.0)
            root = vectors * np.sqrt(np.maximum(self.g * values, 0.0))
            out[t][..., unseen] += z[t][..., J - len(unseen) :] @ root.T
        return out

    def quadratics(self, touched: Sequence[Touched]) -> np.ndarray:
        """z'N z: by the diagonal of N~ where there is one term, else by a solve for each row. One level of each term is touched."""
        system, t = self.system, self.system.term
        codes, own = touched[t].codes, touched[t].values[:, 0]
        total = self.g * own**2 * system.unseen[codes]
        if len(touched) == 1:
            n = self.inner.inverse_blocks()[0][0, 0]
            return np.asarray(total + own**2 * ((system.basis**2 @ n)[codes]))
        width = sum(size.k * size.J for size in self.inner.plan.terms)
        for rows in batches(np.arange(len(total)), 4 * width):
            others = [each.rows(rows) for each in touched if each.term != t]
            z = spread(self.inner.plan, others)
            z[t] = (system.basis[codes[rows]] * own[rows, None])[:, None]
            solved = self.inner.solve(z).values
            total[rows] += sum(
                np.einsum("mkj,mkj->m", a, b) for a, b in zip(z, solved, strict=True)
            )
        return np.asarray(total)
