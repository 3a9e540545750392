"""All random effects eliminated together by sparse Cholesky, where the levels of some terms have a known precision Q_t.

The effects of term t are b_t ~ N(0, Q_t^-1 (x) G_t), G_t = T_t T_t'; Q_t = I where nothing is known. With A = Z'WZ (q, q) and T, Q
block-diagonal over all terms,

    N = (A + Q (x) G^-1)^-1 = T Z T',   Z = M^-1,   M = T'AT + Q (x) I,

which holds for singular T. M has the pattern of A and Q together, whose order of elimination is found once. For Q_tot = A - A N A,
M Z = I makes T_t' (sum_ij K_ij [Q_tot]_ij) T_t = T_t' H_t with

    H_t = sum_s sum_jl A_ts,jl T_s Z_st,lj,

a sum over the pattern of A alone: the derivative of log|M| - log|Q (x) I| with respect to G_t is D_t = H_t T_t^-1. Where T_t is nearly
singular D_t is taken at a T_t with its small singular values raised, on which it depends through their squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lmm.errors import CapacityError
from lmm.known.multifrontal import SparseCholesky, factorize
from lmm.known.relation import Relation, SparseRelation
from lmm.known.symbolic import Symbolic, analyse
from lmm.linalg import threads
from lmm.linalg.factorisation import (
    Factorisation,
    PenalizedSystem,
    Solution,
    Touched,
    batches,
    spread,
)
from lmm.linalg.plan import Plan

#: singular value of T, times the root of the mean of A, under which it is raised for derivatives
LEAST = 1e-6
#: effects of a term whose levels are all related
DENSE_EFFECTS = 6_000
#: rows for which a system is solved where they touch several terms
SOLVES = 20_000


class Joined(NamedTuple):
    """Levels of two terms that share rows: block m joins ``rows[m]`` of the first and ``cols[m]`` of the second."""

    rows: np.ndarray
    cols: np.ndarray


class Prior(NamedTuple):
    """Q of one term: its lower triangle, where its entries stand in M (nnz, k), and log|Q|."""

    Q: sp.csr_array | None
    row: np.ndarray
    col: np.ndarray
    values: np.ndarray
    places: np.ndarray
    logdet: float


@dataclass(frozen=True, eq=False)
class JointPattern:
    """Where the entries of A and Q stand in the factor of M.

    Columns of M: level after level of each term, the k effects of a level side by side.

    Attributes
    ----------
    plan : sizes of the terms and their relations.
    pairs : levels of terms t < s that share rows.
    """

    plan: Plan
    pairs: dict[tuple[int, int], Joined]

    @cached_property
    def offsets(self) -> np.ndarray:
        """First column of each term, and their number."""
        return np.concatenate([[0], np.cumsum([size.k * size.J for size in self.plan.terms])])

    @property
    def relations(self) -> list[Relation | None]:
        """The relation of each term."""
        return [size.relation for size in self.plan.terms]

    @cached_property
    def symbolic(self) -> Symbolic:
        """Order of elimination and fronts."""
        if len(self.plan.terms) == 1 and self.plan.terms[0].k == 1:
            only = self.relations[0]
            if isinstance(only, SparseRelation):
                return only.symbolic
        first, widths, whole = [], [], []
        at = 0
        for size in self.plan.terms:
            together = size.relation is not None and size.relation.dense
            if together and size.k * size.J > DENSE_EFFECTS:
                raise CapacityError(
                    f"{size.group} has {size.J} levels x {size.k} columns with a dense covariance: {size.k * size.J} effects that are "
                    f"eliminated together, and it stops at {DENSE_EFFECTS}. A linear model with one such term of one column, "
                    f"(1 | {size.group}), takes more, and so does a sparse precision."
                )
            count = 1 if together else size.J
            first.append(at)
            whole.append(together)
            widths += [size.k * size.J] if together else [size.k] * size.J
            at += count
        rows, cols = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for (t, s), joined in self.pairs.items():
            rows.append(first[t] + np.where(whole[t], 0, joined.rows))
            cols.append(first[s] + np.where(whole[s], 0, joined.cols))
        for t, relation in enumerate(self.relations):
            if relation is not None and not whole[t]:
                entries = sp.coo_array(relation.precision)
                rows.append(first[t] + entries.row.astype(np.int64))
                cols.append(first[t] + entries.col.astype(np.int64))
        i, j = np.concatenate(rows), np.concatenate(cols)
        both = (np.concatenate([i, j]), np.concatenate([j, i]))
        pattern = sp.csc_array(sp.coo_array((np.ones(2 * len(i)), both), shape=(at, at)))
        names = " and ".join(size.group for size in self.plan.terms)
        return analyse(pattern, np.array(widths, dtype=np.int64), names)

    def columns(self, t: int, levels: np.ndarray) -> np.ndarray:
        """(..., k) columns of M of levels of term t."""
        k = self.plan.terms[t].k
        return np.asarray(self.offsets[t] + levels.astype(np.int64)[..., None] * k + np.arange(k))

    def _blocks(self, t: int, rows: np.ndarray, s: int, cols: np.ndarray) -> np.ndarray:
        """(k_t, k_s, m) places of blocks (rows, cols)."""
        i, j = self.columns(t, rows), self.columns(s, cols)
        left = np.broadcast_to(i[:, :, None], (*i.shape, j.shape[1]))
        right = np.broadcast_to(j[:, None, :], left.shape)
        found = self.symbolic.entries(left.ravel(), right.ravel()).reshape(left.shape)
        return np.moveaxis(found, 0, -1)

    @cached_property
    def own_places(self) -> list[np.ndarray]:
        """Per term (k, k, J), places of the blocks on the diagonal."""
        levels = [np.arange(size.J) for size in self.plan.terms]
        return [self._blocks(t, own, t, own) for t, own in enumerate(levels)]

    @cached_property
    def pair_places(self) -> dict[tuple[int, int], np.ndarray]:
        """Per pair of terms (k_t, k_s, m), places of the blocks that join them."""
        return {
            (t, s): self._blocks(t, joined.rows, s, joined.cols)
            for (t, s), joined in self.pairs.items()
        }

    @cached_property
    def priors(self) -> list[Prior]:
        """Q of each term."""
        out = []
        for t, size in enumerate(self.plan.terms):
            if size.relation is None:
                own = np.arange(size.J)
                Q, row, col, values, logdet = None, own, own, np.ones(size.J), 0.0
            else:
                Q = size.relation.precision
                lower = sp.coo_array(sp.tril(Q))
                row, col = lower.row.astype(np.int64), lower.col.astype(np.int64)
                values = lower.data
                logdet = size.relation.logdet_precision
            i, j = self.columns(t, row), self.columns(t, col)
            places = self.symbolic.entries(i.ravel(), j.ravel())
            out.append(Prior(Q, row, col, values, places, logdet))
        return out

    @cached_property
    def places(self) -> np.ndarray:
        """Places of all entries, as :meth:`JointSystem.values` gives them."""
        each = []
        for own in self.own_places:
            each += [own[a, : a + 1].ravel() for a in range(len(own))]
        each += [own.ravel() for own in self.pair_places.values()]
        return np.concatenate([*each, *(prior.places for prior in self.priors)])

    def flat(self, v: list[np.ndarray]) -> np.ndarray:
        """(m, q) in the columns of M of v (m, k, J) per term."""
        return np.concatenate([np.swapaxes(own, 1, 2).reshape(len(own), -1) for own in v], axis=1)

    def split(self, x: np.ndarray) -> list[np.ndarray]:
        """The inverse of :meth:`flat`."""
        out = []
        for t, size in enumerate(self.plan.terms):
            own = x[:, self.offsets[t] : self.offsets[t + 1]].reshape(len(x), size.J, size.k)
            out.append(np.ascontiguousarray(np.swapaxes(own, 1, 2)))
        return out


def apply(T: list[np.ndarray], v: list[np.ndarray]) -> list[np.ndarray]:
    """T v for T (k, k) and v (m, k, J) per term."""
    return [np.einsum("ab,mbj->maj", own, each) for own, each in zip(T, v, strict=True)]


@dataclass(frozen=True, eq=False)
class JointSystem(PenalizedSystem):
    """A by its blocks: ``diag`` (k, k, J) per term, ``pairs`` (k_t, k_s, m) per pair of terms."""

    plan: Plan
    pattern: JointPattern
    diag: list[np.ndarray]
    pairs: dict[tuple[int, int], np.ndarray]

    def multiply(self, v: list[np.ndarray]) -> list[np.ndarray]:
        """A v."""
        out = [np.einsum("abj,mbj->maj", A, own) for A, own in zip(self.diag, v, strict=True)]
        for (t, s), blocks in self.pairs.items():
            joined = self.pattern.pairs[t, s]
            for a in range(blocks.shape[0]):
                for b in range(blocks.shape[1]):
                    shape = (v[t].shape[-1], v[s].shape[-1])
                    B = sp.csr_array((blocks[a, b], (joined.rows, joined.cols)), shape=shape)
                    out[t][:, a] += (B @ v[s][:, b].T).T
                    out[s][:, b] += (B.T @ v[t][:, a].T).T
        return out

    def values(self, T: list[np.ndarray]) -> np.ndarray:
        """Entries of M at :attr:`JointPattern.places`."""
        each = []
        for A, own in zip(self.diag, T, strict=True):
            block = np.einsum("ca,cdj,db->abj", own, A, own, optimize=True)
            each += [block[a, : a + 1].ravel() for a in range(len(block))]
        for (t, s), B in self.pairs.items():
            each.append(np.einsum("ca,cdm,db->abm", T[t], B, T[s], optimize=True).ravel())
        for prior, own in zip(self.pattern.priors, T, strict=True):
            each.append(np.repeat(prior.values, len(own)))
        return np.concatenate(each)

    def factorize(self, T: list[np.ndarray]) -> JointFactorisation:
        """Eliminate front by front."""
        pattern = self.pattern
        largest = pattern.symbolic.largest
        with threads.for_flops(largest**3 / 3.0):
            found = factorize(pattern.symbolic, pattern.places, self.values(T))
        return JointFactorisation(self, T, found)


@dataclass(frozen=True, eq=False)
class JointFactorisation(Factorisation):
    """N by the Cholesky factor of M."""

    system: JointSystem
    T: list[np.ndarray]
    cholesky: SparseCholesky

    @property
    def logdet(self) -> float:
        """log|M| less log|Q (x) I|."""
        priors = zip(self.system.pattern.priors, self.T, strict=True)
        return self.cholesky.logdet - sum(len(T) * prior.logdet for prior, T in priors)

    def solve(self, rhs: list[np.ndarray], near: list[np.ndarray] | None = None) -> Solution:
        """N r, r - A N r and r'N r; a guess saves nothing here."""
        pattern, turned = self.system.pattern, [T.T for T in self.T]
        scaled = pattern.flat(apply(turned, rhs))
        x = self.cholesky.solve(scaled)
        inner = scaled @ x.T
        values = apply(self.T, pattern.split(x))
        residual = [r - own for r, own in zip(rhs, self.system.multiply(values), strict=True)]
        return Solution(values, residual, (inner + inner.T) / 2.0)

    def traces(self) -> list[np.ndarray]:
        """sum_ij K_ij [Q_tot]_ij per term."""
        raised = [self._raised(t) for t in range(len(self.T))]
        at = self
        if any(own is not T for own, T in zip(raised, self.T, strict=True)):
            at = self.system.factorize(raised)
        pattern, Z = self.system.pattern, at.cholesky.inverse
        H = []
        for A, places, T in zip(self.system.diag, pattern.own_places, raised, strict=True):
            H.append(np.einsum("abj,bc,cdj->ad", A, T, Z[places], optimize=True))
        for (t, s), B in self.system.pairs.items():
            across = Z[pattern.pair_places[t, s]]
            H[t] = H[t] + np.einsum("abm,bc,dcm->ad", B, raised[s], across, optimize=True)
            H[s] = H[s] + np.einsum("bam,bc,cdm->ad", B, raised[t], across, optimize=True)
        out = []
        for own, T in zip(H, raised, strict=True):
            D = np.linalg.solve(T.T, own.T).T
            out.append((D + D.T) / 2.0)
        return out

    def _raised(self, t: int) -> np.ndarray:
        """T, its small singular values raised."""
        A, T = self.system.diag[t], self.T[t]
        count = max(int(np.count_nonzero(A[0, 0])), 1)
        size = float(np.einsum("aaj->", A)) / (len(T) * count)
        least = LEAST / np.sqrt(size) if size > 0.0 else LEAST
        U, values, V = np.linalg.svd(T)
        if values[-1] >= least:
            return T
        return np.asarray((U * np.maximum(values, least)) @ V)

    def inverse_blocks(self) -> list[np.ndarray]:
        """N_jj per term."""
        Z = self.cholesky.inverse
        return [
            np.einsum("ab,bcj,dc->adj", T, Z[places], T, optimize=True)
            for T, places in zip(self.T, self.system.pattern.own_places, strict=True)
        ]

    def pair_blocks(self) -> dict[tuple[int, int], np.ndarray]:
        """N between levels that share rows, (k_t, k_s, m) per pair of terms."""
        Z, T = self.cholesky.inverse, self.T
        return {
            (t, s): np.einsum("ab,bcm,dc->adm", T[t], Z[places], T[s], optimize=True)
            for (t, s), places in self.system.pattern.pair_places.items()
        }

    def sample(self, z: list[np.ndarray]) -> list[np.ndarray]:
        """S z."""
        pattern = self.system.pattern
        return apply(self.T, pattern.split(self.cholesky.back(pattern.flat(z))))

    def quadratics(self, touched: Sequence[Touched]) -> np.ndarray:
        """z'N z from the blocks of N where one level is touched, else by a solve for each row."""
        if len(touched) == 1:
            _, codes, values = touched[0]
            N = self.inverse_blocks()[0][..., codes]
            return np.asarray(np.einsum("ma,abm,mb->m", values, N, values, optimize=True))
        m = len(touched[0].codes)
        if m > SOLVES:
            raise CapacityError(
                f"The variance of {m:,} predictions takes a solve for each where covariances are known beside other terms, and it stops at "
                f"{SOLVES:,}; ask for fewer rows at a time."
            )
        total, turned = np.zeros(m), [T.T for T in self.T]
        for rows in batches(np.arange(m), int(self.system.pattern.offsets[-1])):
            z = spread(self.plan, [own.rows(rows) for own in touched])
            half = self.cholesky.half(self.system.pattern.flat(apply(turned, z)))
            total[rows] = np.sum(half * half, axis=1)
        return total

    def whiten(self, t: int, b: np.ndarray, e: np.ndarray) -> np.ndarray:
        """u (k, J) with b = T u; its prior precision is Q."""
        return super().whiten(t, b, self.related(t, e))
