"""Factorisations of Z'WZ + G^-1: what the models ask of one, as algebra.

With A = Z'WZ (q, q) and Lambda the relative factors T_t (k, k) repeated over the levels of each term, G = Lambda Lambda',

    N = (A + G^-1)^-1 = Lambda (I + Lambda'A Lambda)^-1 Lambda',      Q = A - A N A = Z'V^-1 Z,

where the second form of N holds for singular G too. A :class:`PenalizedSystem` is A, arranged as the plan says. Given T it makes a
:class:`Factorisation`:

    system.multiply(v)   A v                              inner, of a solution   r'N r
    solve(r)             N r and r - A N r                logdet                 log|I + Lambda'A Lambda|
    traces()             sum_j Q_jj per term              inverse_blocks()       N_jj per term
    sample(z)            S z with S S' = N                quadratics(rows)       z'N z for rows z of Z

Vectors of random effects are arrays (m, k, J) per term in the design's order: m vectors side by side. There are three implementations.
:class:`BlockSystem` eliminates level by level and has a dense tail (:mod:`lmm.linalg.elimination`). :class:`KrylovSystem` solves the
terms that a dense tail has no room for by conjugate gradients (:mod:`lmm.linalg.krylov`): its log-determinant lacks log|H|, its
traces take random probes, and it has neither blocks of N nor samples. A third, :class:`lmm.linalg.joint_elimination.JointSystem`, is
for levels that are related, b ~ N(0, K (x) G): G^-1 stands for K^-1 (x) G^-1 then, ``traces`` are sum_ij K_ij Q_ij.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lmm.linalg import elimination, krylov, tail
from lmm.linalg.elimination import EliminatedSystem, InverseBlocks, System, Vectors
from lmm.linalg.krylov import Coupled, Exact, IterativeFactor
from lmm.linalg.plan import Plan

#: smallest over largest singular value of T above which it is divided by, and smallest singular value above which the tail's traces do so
WELL = 1e-3
#: residual of a step of Newton's method relative to that at its start, and of other systems relative to the right-hand side
STEP, PRECISE = 1e-4, 1e-9
#: numbers in one batch of rows
BATCH = 20_000_000
#: rows for which a system is solved where terms are iterative
SOLVES = 20_000


class Solution(NamedTuple):
    """Of right-hand sides r: N r and r - A N r, per term (m, k, J), and r'N r (m, m)."""

    values: list[np.ndarray]
    residual: list[np.ndarray]
    inner: np.ndarray


class PenalizedSystem(ABC):
    """A = Z'WZ, arranged as ``plan`` says."""

    plan: Plan

    @abstractmethod
    def multiply(self, v: list[np.ndarray]) -> list[np.ndarray]:
        """A v for v (m, k, J) per term."""

    @abstractmethod
    def factorize(self, T: list[np.ndarray]) -> Factorisation:
        """N at T (k, k) per term."""

    def try_factorize(self, T: list[np.ndarray]) -> Factorisation | None:
        """N at T, None where I + Lambda'A Lambda is not positive definite: A may have negative weights."""
        try:
            with np.errstate(invalid="ignore", divide="ignore"):
                found = self.factorize(T)
        except (np.linalg.LinAlgError, FloatingPointError):
            return None
        return found if np.isfinite(found.logdet) and found.is_definite() else None


class Factorisation(ABC):
    """N = (A + G^-1)^-1 at ``T`` (k, k) per term, G = T T' level by level."""

    system: PenalizedSystem
    T: list[np.ndarray]

    @property
    def plan(self) -> Plan:
        """Which term is eliminated how."""
        return self.system.plan

    @property
    @abstractmethod
    def logdet(self) -> float:
        """log|I + Lambda'A Lambda|; less log|H| where terms are solved iteratively."""

    @abstractmethod
    def solve(self, rhs: list[np.ndarray], near: list[np.ndarray] | None = None) -> Solution:
        """N r, r - A N r and r'N r for r (m, k, J) per term; ``near`` (k, J) per term is a guess of N r for one r."""

    @abstractmethod
    def traces(self) -> list[np.ndarray]:
        """sum_j Q_jj (k, k) per term."""

    @abstractmethod
    def inverse_blocks(self) -> list[np.ndarray]:
        """N_jj (k, k, J) per term."""

    @abstractmethod
    def sample(self, z: list[np.ndarray]) -> list[np.ndarray]:
        """S z with S S' = N for z (m, k, J) per term: draws of the random effects' conditional distribution for standard normal z."""

    @abstractmethod
    def quadratics(self, touched: Sequence[Touched]) -> np.ndarray:
        """z'N z (m,) for rows z, each the sum of what is ``touched``, which has at least one entry per term."""

    def is_definite(self) -> bool:
        """Whether I + Lambda'A Lambda is positive definite, as far as the factorisation has not told."""
        return True

    def related(self, t: int, v: np.ndarray) -> np.ndarray:
        """K v for v (..., J), K the covariance of the levels of term t: v where they are independent."""
        relation = self.plan.terms[t].relation
        return v if relation is None else relation.times(v)

    def whiten(self, t: int, b: np.ndarray, e: np.ndarray) -> np.ndarray:
        """u (k, J) of term t with b = T u = T T'e.

        From b where T can be divided by: e is a difference that much data leave few digits of. T'e where T is nearly singular.
        """
        T = self.T[t]
        values = np.linalg.svd(T, compute_uv=False)
        return np.linalg.solve(T, b) if values[-1] > WELL * values[0] else T.T @ e


class Touched(NamedTuple):
    """A level of a term that each of m rows touches: its number (m,), and the row's values (m, k) there."""

    term: int
    codes: np.ndarray
    values: np.ndarray

    def rows(self, which: np.ndarray) -> Touched:
        """Some of the rows."""
        return Touched(self.term, self.codes[which], self.values[which])


def penalized_system(plan: Plan, system: System, coupled: Coupled) -> PenalizedSystem:
    """A from the part that is eliminated exactly, and how the iterative terms, if there are any, lie in it."""
    return KrylovSystem(plan, system, coupled) if coupled.own else BlockSystem(plan, system)


# --- block elimination with a dense tail -------------------------------------------------------


class InverseParts(NamedTuple):
    """S^-1 of the tail and N's block of it (q, q); E_j H_j E_j' and N's blocks per member of the chain."""

    scaled: np.ndarray
    K: np.ndarray
    quadratics: list[np.ndarray]
    blocks: list[InverseBlocks]


@dataclass(frozen=True, eq=False)
class BlockSystem(PenalizedSystem):
    """A arranged for elimination."""

    plan: Plan
    blocks: System

    def multiply(self, v: list[np.ndarray]) -> list[np.ndarray]:
        """A v."""
        return collect(self.plan, elimination.multiply(np, self.blocks, arrange(self.plan, v)))

    def factorize(self, T: list[np.ndarray]) -> BlockFactorisation:
        """Eliminate the chain and factor the tail."""
        chain_T, tail_T = ([T[t] for t in which] for which in (self.plan.chain, self.plan.tail))
        return BlockFactorisation(
            self,
            T,
            elimination.factorize(np, self.blocks, chain_T, self.plan.layout, tail_T),
            tail_T,
        )


@dataclass(frozen=True, eq=False)
class BlockFactorisation(Factorisation):
    """N by block elimination; ``tail_T`` are the relative factors of the tail's terms."""

    system: BlockSystem
    T: list[np.ndarray]
    factor: EliminatedSystem
    tail_T: list[np.ndarray]

    @property
    def logdet(self) -> float:
        """log|I + Lambda'A Lambda|."""
        return float(self.factor.logdet)

    @cached_property
    def well(self) -> tuple[bool, ...]:
        """Whether each T of the tail can be divided by."""
        return tuple(bool(np.linalg.svd(T, compute_uv=False)[-1] > WELL) for T in self.tail_T)

    def solve(self, rhs: list[np.ndarray], near: list[np.ndarray] | None = None) -> Solution:
        """N r, r - A N r and r'N r; a guess saves nothing here."""
        plan = self.plan
        reduced = elimination.reduce(np, self.factor, plan.layout, self.tail_T, arrange(plan, rhs))
        values, residual = elimination.solve(
            np, self.factor, plan.layout, self.tail_T, reduced, self.well
        )
        return Solution(collect(plan, values), collect(plan, residual), elimination.inner(reduced))

    @cached_property
    def inverse(self) -> InverseParts:
        """What traces, blocks and leverages take of N."""
        layout, scaled, K = self.plan.layout, np.zeros((0, 0)), np.zeros((0, 0))
        if layout:
            scaled = tail.symmetrize(np, tail.inverse(np, self.factor.tail))
            K = tail.sandwich(np, layout, self.tail_T, scaled, transpose=False)
        return InverseParts(
            scaled, K, *elimination.inverse_blocks(np, self.factor, K, need_first=True)
        )

    def traces(self) -> list[np.ndarray]:
        """sum_j Q_jj per term."""
        return in_order(self.plan, self.planned_traces())

    def planned_traces(self) -> list[np.ndarray]:
        """The traces in the plan's order."""
        plan, found = self.plan, self.inverse
        each = [np.array(own) for own in elimination.trace_sums(np, self.factor, found.quadratics)]
        if plan.layout:
            sums = [tail.block_trace(np, slot, found.scaled) for slot in plan.layout]
            C = tail.symmetrize(np, self.factor.C)
            each += map(
                np.array, tail.traces(np, plan.layout, self.tail_T, self.well, C, sums, found.K)
            )
        return each

    def inverse_blocks(self) -> list[np.ndarray]:
        """N_jj per term."""
        found = self.inverse
        each = [inverse.own for inverse in found.blocks]
        for slot in self.plan.layout:
            own = found.K[slot.columns, slot.columns].reshape(slot.k, slot.J, slot.k, slot.J)
            each.append(np.einsum("ajbj->abj", own))
        return in_order(self.plan, each)

    def sample(self, z: list[np.ndarray]) -> list[np.ndarray]:
        """S z."""
        return collect(
            self.plan,
            elimination.sample(
                np, self.factor, self.plan.layout, self.tail_T, arrange(self.plan, z)
            ),
        )

    def quadratics(self, touched: Sequence[Touched]) -> np.ndarray:
        """z'N z from the blocks of N; by elimination of z where a level is paired with another's ancestor, which no observed row does."""
        total = np.zeros(len(touched[0].codes))
        width = len(self.inverse.K) * (1 + max(size.k for size in self.plan.terms))
        for rows in batches(np.arange(len(total)), width):
            total[rows] = self._by_blocks([own.rows(rows) for own in touched])
        usual = np.ones(len(total), dtype=bool)
        of = {own.term: own for own in touched}
        for i, (t, member) in enumerate(zip(self.plan.chain, self.factor.chain, strict=True)):
            for s, parent in zip(self.plan.chain[i + 1 :], member.parents, strict=True):
                usual &= (
                    (parent.index[of[t].codes] == of[s].codes)
                    | ~of[t].values.any(axis=1)
                    | ~of[s].values.any(axis=1)
                )
        for rows in batches(
            np.flatnonzero(~usual), sum(size.k * size.J for size in self.plan.terms)
        ):
            z = spread(self.plan, [own.rows(rows) for own in touched])
            reduced = elimination.reduce(
                np, self.factor, self.plan.layout, self.tail_T, arrange(self.plan, z)
            )
            total[rows] = np.sum(reduced.half**2, axis=1) + sum(
                np.sum(white**2, axis=(1, 2)) for white in reduced.white
            )
        return total

    def _by_blocks(self, touched: Sequence[Touched]) -> np.ndarray:
        """z'N z of rows whose levels are nested as the data's are."""
        plan, K = self.plan, self.inverse.K
        m = len(touched[0].codes)
        total, Kz = np.zeros(m), np.zeros((m, len(K)))
        columns = []
        for slot, t in zip(plan.layout, plan.tail, strict=True):
            for own in touched:
                for a in range(slot.k if own.term == t else 0):
                    columns.append((slot.offset + a * slot.J + own.codes, own.values[:, a]))
                    Kz += K[columns[-1][0]] * own.values[:, a, None]
        for column, value in columns:
            total += value * Kz[np.arange(m), column]
        of = {own.term: own for own in touched}
        for i, (t, inverse) in enumerate(zip(plan.chain, self.inverse.blocks, strict=True)):
            values, code = of[t].values, of[t].codes
            total += np.einsum(
                "ma,abm,mb->m", values, inverse.own[..., code], values, optimize=True
            )
            for s, between in zip(plan.chain[i + 1 :], inverse.parents, strict=True):
                total += 2.0 * np.einsum(
                    "ma,abm,mb->m", values, between[..., code], of[s].values, optimize=True
                )
            if columns:
                total += 2.0 * np.einsum("ma,am->m", values, self._with_tail(i, code, Kz))
        return total

    def _with_tail(self, i: int, codes: np.ndarray, Kz: np.ndarray) -> np.ndarray:
        """N_j,tail z of a member's levels for tail vectors z given as Kz: -W_j sum_v R_jv N_v,tail z, (k, m)."""
        member = self.factor.chain[i]
        assert member.coupling is not None
        inside = member.coupling.rows(codes, Kz)
        for s, parent in enumerate(member.parents):
            later = self._with_tail(i + 1 + s, parent.index[codes], Kz)
            inside = inside + np.einsum("abm,bm->am", parent.B[..., codes], later)
        return -np.einsum("abm,bm->am", member.W[..., codes], inside)


# --- conjugate gradients ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class KrylovSystem(PenalizedSystem):
    """A: the exact terms' part, and how the iterative terms lie in it."""

    plan: Plan
    blocks: System
    coupled: Coupled

    def inside(self, T: list[np.ndarray]) -> Exact:
        """The exact part at T."""
        chain_T, tail_T = ([T[t] for t in which] for which in (self.plan.chain, self.plan.tail))
        return Exact(self.blocks, chain_T, tail_T, self.plan.layout)

    def multiply(self, v: list[np.ndarray]) -> list[np.ndarray]:
        """A v."""
        parts = [v[t] for t in self.plan.iterative]
        return collect(
            self.plan,
            *krylov.system_product(
                np, self.blocks, self.plan.layout, self.coupled, arrange(self.plan, v), parts
            ),
        )

    def factorize(self, T: list[np.ndarray]) -> KrylovFactorisation:
        """Eliminate the exact terms, and take the blocks of the diagonal of what is left."""
        own_T = [T[t] for t in self.plan.iterative]
        return KrylovFactorisation(
            self, T, krylov.factorize(np, self.inside(T), self.coupled, own_T)
        )


@dataclass(frozen=True, eq=False)
class KrylovFactorisation(Factorisation):
    """N by elimination of the exact terms and conjugate gradients for the others."""

    system: KrylovSystem
    T: list[np.ndarray]
    at: IterativeFactor

    @property
    def logdet(self) -> float:
        """log|I + Lambda'A Lambda| less log|H|."""
        return float(self.at.logdet)

    def is_definite(self) -> bool:
        """Whether a few conjugate directions find H positive definite."""
        q = sum(own.shape[0] * own.shape[-1] for own in self.at.coupled.own)
        b = np.where(np.random.default_rng(0).integers(0, 2, (1, q)) > 0, 1.0, -1.0)
        solved = krylov.solve_scaled(np, self.at, b, STEP)
        return bool(solved.relative[0] <= STEP and np.all(solved.alpha >= 0.0))

    def solve(self, rhs: list[np.ndarray], near: list[np.ndarray] | None = None) -> Solution:
        """N r, r - A N r and r'N r; from ``near`` on, to a part of what it leaves, where it is given."""
        plan = self.plan
        start, tolerance = (None, PRECISE) if near is None else (self._coordinates(near), STEP)
        found = krylov.solve(
            np, self.at, arrange(plan, rhs), [rhs[t] for t in plan.iterative], tolerance, start
        )
        return Solution(
            collect(plan, found.exact, found.parts),
            collect(plan, found.exact_residual, found.residual),
            found.inner,
        )

    def traces(self) -> list[np.ndarray]:
        """CapacityError: they take probes."""
        self.plan.require_exact("The exact gradient of the likelihood")
        raise AssertionError

    def inverse_blocks(self) -> list[np.ndarray]:
        """CapacityError."""
        self.plan.require_exact("The conditional covariance of random effects")
        raise AssertionError

    def sample(self, z: list[np.ndarray]) -> list[np.ndarray]:
        """CapacityError."""
        self.plan.require_exact("Drawing random effects")
        raise AssertionError

    def quadratics(self, touched: Sequence[Touched]) -> np.ndarray:
        """z'N z by a solve for each row."""
        m = len(touched[0].codes)
        if m > SOLVES:
            self.plan.require_exact(
                f"The variance of {m:,} predictions, one solve for each, or that of as many leverages"
            )
        total = np.zeros(m)
        for rows in batches(np.arange(m), 4 * sum(size.k * size.J for size in self.plan.terms)):
            total[rows] = np.diagonal(
                self.solve(spread(self.plan, [own.rows(rows) for own in touched])).inner
            )
        return total

    @cached_property
    def exact(self) -> BlockFactorisation:
        """N_e of the exact terms alone."""
        inside = self.at.inside
        alone = BlockSystem(replace(self.plan, iterative=()), inside.system)
        return BlockFactorisation(alone, self.T, self.at.exact, inside.tail_T)

    def _coordinates(self, b: list[np.ndarray]) -> np.ndarray:
        """x (1, q) with b = T K^-T x in the iterative terms: K'T^-1 b."""
        out = []
        for t, K in zip(self.plan.iterative, self.at.K, strict=True):
            u = np.linalg.pinv(self.T[t]) @ b[t]
            if len(K) == 1:
                x = u / K[0]
            else:
                x = np.linalg.solve(np.moveaxis(K, -1, 0), u.T[..., None])[..., 0].T
            out.append(np.reshape(x, -1))
        return np.concatenate(out)[None]


# --- vectors of random effects -------------------------------------------------------------------


def arrange(plan: Plan, columns: Sequence[np.ndarray]) -> Vectors:
    """Per-term arrays (m, k, J) in the design's order, as chain members and tail columns; iterative terms are left out."""
    m = len(columns[0])  # 0 where a model has no fixed effects
    rest = [columns[t].reshape(m, columns[t].shape[1] * columns[t].shape[2]) for t in plan.tail]
    return Vectors(
        tuple(columns[t] for t in plan.chain),
        np.concatenate(rest, axis=1) if rest else np.zeros((m, 0)),
    )


def collect(plan: Plan, vectors: Vectors, parts: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
    """The inverse of :func:`arrange`: per term (m, k, J) in the design's order, ``parts`` those of the iterative terms."""
    rest = [
        vectors.tail[:, slot.columns].reshape(len(vectors.tail), slot.k, slot.J)
        for slot in plan.layout
    ]
    return in_order(plan, [*vectors.chain, *rest, *parts])


def in_order(plan: Plan, each: list[np.ndarray]) -> list[np.ndarray]:
    """Per term in the plan's order, in the design's."""
    return [each[i] for i in plan.places]


def spread(plan: Plan, touched: Sequence[Touched]) -> list[np.ndarray]:
    """Rows of Z as vectors (m, k, J) per term."""
    m = len(touched[0].codes)
    out = [np.zeros((m, size.k, size.J)) for size in plan.terms]
    for own in touched:
        out[own.term][np.arange(m), :, own.codes] += own.values
    return out


def batches(rows: np.ndarray, width: int) -> list[np.ndarray]:
    """Rows in batches of about ``BATCH`` numbers, ``width`` of them in a row."""
    step = max(1, BATCH // max(1, width))
    return [rows[start : start + step] for start in range(0, len(rows), step)]
