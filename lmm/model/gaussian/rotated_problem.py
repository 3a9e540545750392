"""A linear model in which the levels of one term have a known covariance K, in directions that the rows tell apart.

For a term of one column, b ~ N(0, g K), the eigenvectors of D^1/2 K D^1/2, D the diagonal of Z'WZ over the levels with rows, give b = B u
with u ~ N(0, g I) and B'Z'WZ B = diag(s) (:meth:`lmm.known.relation.Relation.decomposed`). The columns Z B have diagonal sums, so the
model is one of a grouping factor whose levels are the entries of u: O(J^3) once, then O(J) an evaluation for any response (Kang et
al. 2008, Genetics 178; Lippert et al. 2011, Nature Methods 8). Everything about the rows stays on the levels of K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import scipy.sparse as sp

from lmm.design.design import Design
from lmm.linalg.factorisation import PenalizedSystem
from lmm.linalg.plan import Plan
from lmm.linalg.rotated import RotatedSystem
from lmm.model.gaussian.crossproducts import CrossProducts, Pairs
from lmm.model.gaussian.system import orthonormal
from lmm.model.joint_system import joint_plan, joint_system
from lmm.model.penalized import WorkingModel
from lmm.model.problem import Problem, assemble
from lmm.model.records import Estimate


@dataclass(frozen=True, eq=False)
class Rotation:
    """B of one term, and the sums on the levels.

    Attributes
    ----------
    term : which term.
    basis : (J, r) B.
    cross : sums on the levels.
    plan : sizes of the terms on their levels.
    """

    term: int
    basis: np.ndarray
    cross: CrossProducts
    plan: Plan


@dataclass(frozen=True, eq=False)
class RotatedProblem(Problem):
    """A linear mixed model in sums, those of one term in u."""

    rotation: Rotation | None = None
    related = True

    @property
    def turned(self) -> Rotation:
        """The rotation."""
        assert self.rotation is not None
        return self.rotation

    def on_levels(self, modes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Effects (k, J, ...) of effects in u."""
        t, B = self.turned.term, self.turned.basis
        out = list(modes)
        out[t] = np.moveaxis(np.tensordot(B, out[t], (1, 1)), 0, 1)
        return out

    def carried(self, t: int, ZW: sp.csr_array) -> sp.csr_array | np.ndarray:
        """B'Z'W of the term, Z'W (J, n) as it is of others."""
        return ZW if t != self.turned.term else (ZW.T @ self.turned.basis).T

    def sums_of(self, own: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Z'W y (r, k, J) per term, in u."""
        t, B = self.turned.term, self.turned.basis
        return tuple(each @ B if s == t else each for s, each in enumerate(own))

    def information(self, estimate: Estimate) -> tuple[np.ndarray, ...]:
        """Z'WZ (k, k, J) on the levels."""
        return self.turned.cross.diag

    def spanned_constant(self) -> np.ndarray | None:
        """As it is on the levels."""
        return replace(self, cross=self.turned.cross, rotation=None).constant_of_sums()

    def working_model(self, estimate: Estimate) -> WorkingModel:
        """The model on the levels."""
        p = self.p
        fixed = [orthonormal(own[:p], self.R) for own in self.turned.cross.rhs]
        return WorkingModel(self.levels_system(), fixed, self.data.gram[:p, :p])

    def levels_system(self) -> PenalizedSystem:
        """Z'WZ on the levels."""
        own = self.turned
        outer = joint_system(own.plan, own.cross)
        return RotatedSystem(own.plan, outer, self.penalized_system(), own.term, own.basis)


def rotated(
    design: Design,
    cross: CrossProducts,
    R: np.ndarray,
    beta0: np.ndarray,
    moments: tuple[float, float],
) -> RotatedProblem | None:
    """The problem in u; None where more than one term has a known covariance, or several columns, or K is sparse."""
    start = perf_counter()
    which = [t for t, term in enumerate(design.terms) if term.relation is not None]
    if len(which) != 1 or design.terms[which[0]].k != 1:
        return None
    (t,) = which
    relation = design.terms[t].relation
    assert relation is not None
    found = relation.decomposed(cross.diag[t][0, 0])
    if found is None:
        return None
    inner = turned_sums(cross, t, found.s, found.basis)
    seconds = {"decomposition": perf_counter() - start}
    made = assemble(inner, design.terms, R, beta0, design.names, moments, seconds)
    rotation = Rotation(t, found.basis, cross, joint_plan(design.terms))
    return RotatedProblem(**{**vars(made), "rotation": rotation})


def turned_sums(cross: CrossProducts, t: int, s: np.ndarray, B: np.ndarray) -> CrossProducts:
    """Cross-products with Z_t B in place of Z_t, whose own are diag(s)."""
    diag, rhs = list(cross.diag), list(cross.rhs)
    diag[t], rhs[t] = s[None, None], rhs[t] @ B
    pairs = {}
    for (a, b), own in cross.pairs.items():
        pairs[a, b] = own if t not in (a, b) else _turned_pairs(own, t == a, cross, a, b, B)
    return replace(cross, diag=tuple(diag), rhs=tuple(rhs), pairs=pairs)


def _turned_pairs(
    own: Pairs, first: bool, cross: CrossProducts, a: int, b: int, B: np.ndarray
) -> Pairs:
    """Blocks (1, k_s, r J_s), or (k_s, 1, J_s r), of B'Z_t'WZ_s."""
    r = B.shape[1]
    level, other = (own.rows, own.cols) if first else (own.cols, own.rows)
    blocks = own.blocks[0] if first else own.blocks[:, 0]
    J = cross.diag[b if first else a].shape[-1]
    each = []
    for block in blocks:
        Z = sp.csr_array((block, (other, level)), shape=(J, len(B)))
        each.append(Z @ B)  # (J_s, r)
    joined = np.stack(each)
    if first:
        rows, cols = np.repeat(np.arange(r), J), np.tile(np.arange(J), r)
        return Pairs(rows, cols, np.swapaxes(joined, 1, 2).reshape(1, len(blocks), r * J))
    rows, cols = np.repeat(np.arange(J), r), np.tile(np.arange(r), J)
    return Pairs(rows, cols, joined.reshape(len(blocks), 1, J * r))
