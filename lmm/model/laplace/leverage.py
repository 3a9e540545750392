"""Leverages l_i = z_i'N z_i of rows, N = (Z'WZ + G^-1)^-1: each row touches one level of every slot.

What they need of N are its blocks of levels and of pairs of levels, found once for all blocks of rows (:func:`tables`).
Between the one factor that is eliminated first and the tail, N_j,tail = -W_j B_j K is a row of q numbers per level j; it is
made for a few levels at a time, whose rows are looked up together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from lmm.linalg import elimination
from lmm.linalg.coupling import Dense
from lmm.linalg.factorisation import BlockFactorisation, Factorisation
from lmm.linalg.joint_elimination import JointFactorisation
from lmm.linalg.plan import Plan
from lmm.model.laplace.rows import Block

#: numbers of -W_j B_j K that are made at a time
AT_ONCE = 500_000


@dataclass(frozen=True, eq=False)
class Tables:
    """What all rows look their leverages up in.

    Attributes
    ----------
    plan : which term is eliminated how.
    own : per member of the chain N's blocks of levels (k, k, J).
    parents : per member those with later members, at each level's ancestor (k, k_later, J).
    across : per member those with the tail, (k, J, q), or None.
    K : N's block of the tail (q, q).
    W, B : of the one eliminated factor whose coupling is sparse, (k, k, J) and per column (J, q); else None.
    """

    plan: Plan
    own: list[np.ndarray]
    parents: list[tuple[np.ndarray, ...]]
    across: list[np.ndarray | None]
    K: np.ndarray
    W: np.ndarray | None = None
    B: list[sp.csr_matrix] | None = None

    def leverages(self, block: Block) -> np.ndarray:
        """l_i per row, (n,)."""
        return leverages(block, self)


@dataclass(frozen=True, eq=False)
class JointTables:
    """What rows look their leverages up in where all terms are eliminated together.

    ``own`` per term N's blocks of levels (k, k, J), ``pairs`` per pair of terms those of levels that share rows (k_t, k_s, m).
    """

    own: list[np.ndarray]
    pairs: dict[tuple[int, int], np.ndarray]

    def leverages(self, block: Block) -> np.ndarray:
        """l_i per row, (n,)."""
        total = np.zeros(block.n)
        for t, N in enumerate(self.own):
            total += _form(block, t, t, N[..., block.levels[t]], block.codes[t])
        for (t, s), N in self.pairs.items():
            total += 2.0 * _form(block, t, s, N[..., block.runs[t, s]], block.place[t, s])
        return total


def _form(block: Block, t: int, s: int, N: np.ndarray, place: np.ndarray) -> np.ndarray:
    """z_t'N z_s per row, N (k_t, k_s, m) at ``place``."""
    total = np.zeros(block.n)
    for a, first in enumerate(block.columns[t]):
        for b, second in enumerate(block.columns[s]):
            part = N[a, b][place]
            part = part if first is None else part * first
            total += part if second is None else part * second
    return total


def tables_of(at: Factorisation) -> Tables | JointTables:
    """What leverages take of a factorisation."""
    if isinstance(at, JointFactorisation):
        return JointTables(at.inverse_blocks(), at.pair_blocks())
    assert isinstance(at, BlockFactorisation)
    return tables(at)


def tables(at: BlockFactorisation) -> Tables:
    """Blocks of the inverse of a factorised system."""
    plan, inverses, K = at.plan, at.inverse.blocks, at.inverse.K
    across: list[np.ndarray | None] = [None] * len(plan.chain)
    W = B = None
    for i, member in enumerate(at.factor.chain):
        if isinstance(member.coupling, Dense):
            across[i] = -elimination.row_of_tail(np, member, inverses[i + 1 :], K)
        elif member.coupling is not None:
            W, k, J = member.W, len(member.A), member.A.shape[-1]
            B = [member.coupling.matrix()[a * J : (a + 1) * J] for a in range(k)]
    return Tables(
        plan,
        [inverse.own for inverse in inverses],
        [inverse.parents for inverse in inverses],
        across,
        K,
        W,
        B,
    )


def leverages(block: Block, at: Tables) -> np.ndarray:
    """l_i per row, (n,)."""
    plan = at.plan
    total = np.zeros(block.n)

    def z(u: int, a: int) -> np.ndarray | float:
        column = block.columns[u][a]
        return 1.0 if column is None else column

    #: column of the tail that each row touches, per slot of the tail's terms and column of values
    places = [
        (u, a, block.codes[u] + (slot.offset + a * slot.J + block.levels[t].start))
        for slot, t in zip(plan.layout, plan.tail, strict=True)
        for u in block.slots_of(t)
        for a in range(slot.k)
    ]
    for i, own in enumerate(plan.chain):
        (t,), run = block.slots_of(own), block.levels[own]
        code = block.codes[t]
        k = len(at.own[i])
        for a in range(k):
            for b in range(k):
                total += z(t, a) * at.own[i][a, b, run][code] * z(t, b)
            for s, N in enumerate(at.parents[i]):
                (other,) = block.slots_of(plan.chain[i + 1 + s])
                for b in range(N.shape[1]):
                    total += 2.0 * z(t, a) * N[a, b, run][code] * z(other, b)
        across = at.across[i]
        if across is not None:
            for a in range(k):
                for s, b, column in places:
                    total += 2.0 * z(t, a) * across[a, run][code, column] * z(s, b)
        elif at.B is not None and i == 0:
            total += _across_sparse(block, at, places)
    for t, a, first in places:
        for s, b, second in places:
            total += z(t, a) * at.K[first, second] * z(s, b)
    return total


def _across_sparse(
    block: Block, at: Tables, places: list[tuple[int, int, np.ndarray]]
) -> np.ndarray:
    """The share of the leverages between the one eliminated factor and the tail: -2 z'W_j B_j K z."""
    assert at.B is not None and at.W is not None
    run = block.levels[at.plan.chain[0]]
    (t,) = block.slots_of(at.plan.chain[0])
    order, start = _by_level(block, t, run)
    out = np.empty(block.n)
    k, J = len(at.B), run.stop - run.start
    step = max(1, AT_ONCE // max(1, k * len(at.K)))
    for first in range(0, J, step):
        last = min(first + step, J)
        rows = order[start[first] : start[last]]
        if not len(rows):
            continue
        levels = slice(run.start + first, run.start + last)
        code = block.codes[t][rows] - first
        BK = np.stack([np.asarray(B[levels] @ at.K) for B in at.B])
        value: Any = 0.0
        for a in range(k):
            row = sum(at.W[a, b, levels, None] * BK[b] for b in range(k))
            for s, b, column in places:
                part = row[code, column[rows]]
                for u, c in ((t, a), (s, b)):
                    other = block.columns[u][c]
                    part = part if other is None else part * other[rows]
                value = value + part
        out[rows] = -2.0 * value
    return out


def _by_level(block: Block, t: int, run: slice) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the order of the levels of a slot (n,), and where the rows of each level begin (J + 1,)."""
    key = ("by level", t)
    if key not in block.kept:
        code, J = block.codes[t], run.stop - run.start
        where: np.ndarray = np.arange(block.n, dtype=np.int32 if block.n < 2**31 else np.int64)
        sorted_ = sp.csr_matrix((where, code, np.arange(block.n + 1)), shape=(block.n, J)).tocsc()
        block.kept[key] = sorted_.data, sorted_.indptr
    found: tuple[np.ndarray, np.ndarray] = block.kept[key]
    return found
