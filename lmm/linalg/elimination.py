"""Block elimination of Z'WZ + G^-1: the largest factor level by level, nested factors after it, a dense tail.

The symmetric system (A + G^-1) b = r, A = Z'WZ, is reduced factor by factor. A level j of an
eliminated factor has its own block A_j (k, k), one ancestor in each later factor of the chain, and
some columns of the tail. With W_j = T (I + T'A_jT)^-1 T' = (A_j + G^-1)^-1 (no inverse of T),

    log|I + T'A_jT| is its part of log|M|, and
    A_rest <- A_rest - B_j' W_j B_j,   r_rest <- r_rest - B_j' W_j r_j,

where B_j joins it to what comes later. Nested factors stay block-diagonal, because a level touches
one ancestor only. :class:`System` holds A, :func:`factorize` runs the recursion, :func:`reduce` and
:func:`solve` carry right-hand sides down and back, :func:`traces` gives sum_j Q_jj of
Q = A - A (A + G^-1)^-1 A, the derivative of log|M| with respect to G (section "trace recursion"); :func:`sample` draws from
N(0, (A + G^-1)^-1).

References: Bates et al. (2015), J. Stat. Softw. 67(1); Takahashi et al. (1973) for the recursion on
the inverse.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lmm.linalg import coupling as couplings
from lmm.linalg import small, tail
from lmm.linalg.coupling import Coupling
from lmm.linalg.devices import backend, sharded
from lmm.linalg.sparse.gather_product import Rounds, segment_rounds, sum_segments
from lmm.linalg.sparse.segments import segment_sum
from lmm.types import KernelArray as Array


class Parent(NamedTuple):
    """The ancestor of each level in a later factor of the chain: B (k, k_later, J), index (J,).

    ``sums`` is how to sum over the levels of an ancestor by gathers, for devices that add into place slowly.
    """

    index: Array
    B: Array
    sums: Rounds | None = None

    def gather_into(self, xp: ModuleType, values: Array, J: int) -> Array:
        """Sums of ``values`` (..., J_own) over the levels of each of J ancestors."""
        return (
            segment_sum(xp, values, self.index, J)
            if self.sums is None
            else sum_segments(xp, self.sums, values)
        )


class Member(NamedTuple):
    """One eliminated factor.

    ``parents`` has one entry per later member of the chain. ``coupling`` joins it to the tail (None
    without a tail). ``places`` says, per later member, where in that member's dense coupling a
    level's row lands: the ancestor's index again, kept with ``parents``.
    """

    A: Array  # (k, k, J)
    parents: tuple[Parent, ...]
    coupling: Coupling | None


class System(NamedTuple):
    """A = Z'WZ arranged for elimination: the chain, and the tail's own block C (q, q), both triangles."""

    chain: tuple[Member, ...]
    C: Array


def without_scatter(system: System) -> System:
    """The same system, whose sums over nested levels gather: faster on an accelerator, slower on a CPU."""
    members = list(system.chain)
    for i, member in enumerate(members):
        later = (m.A.shape[-1] for m in members[i + 1 :])
        parents = tuple(
            p._replace(sums=segment_rounds(p.index, J))
            for p, J in zip(member.parents, later, strict=True)
        )
        members[i] = member._replace(parents=parents)
    return system._replace(chain=tuple(members))


def on_devices(mesh: Any, system: System) -> System:
    """The system on JAX's default device, or its large arrays in shares: couplings by level, the tail by row."""
    if mesh is None:
        placed: System = backend.put(system)
        return placed
    chain = []
    for member in system.chain:
        coupling = member.coupling
        if isinstance(coupling, couplings.Dense):
            coupling = couplings.Dense(sharded.put(mesh, coupling.B, 1))
        chain.append(sharded.put(mesh, member._replace(coupling=None))._replace(coupling=coupling))
    return System(tuple(chain), sharded.put(mesh, system.C, 0))


class EliminatedTerm(NamedTuple):
    """A member after elimination: reduced A, X with X'X = W, E = I - A W, and reduced couplings."""

    A: Array
    X: Array
    W: Array
    E: Array
    parents: tuple[Parent, ...]
    coupling: Coupling | None


class EliminatedSystem(NamedTuple):
    """The factorised system: eliminated members, reduced tail C and its Cholesky factor, log|M|."""

    chain: tuple[EliminatedTerm, ...]
    C: Array
    tail: Any  # TailFactor, or None without a tail
    logdet: Array


def factorize(
    xp: ModuleType, system: System, chain_T: list[Array], layout: tail.Layout, tail_T: list[Array]
) -> EliminatedSystem:
    """Eliminate the chain, then factor the tail. ``T`` per member and per term of the tail."""
    members, C, logdet = list(system.chain), system.C, 0.0
    done: list[EliminatedTerm] = []
    for i, T in enumerate(chain_T):
        A, parents, coupling = members[i]
        X, W, part = small.whiten(xp, A, T)
        logdet = logdet + part
        for s, parent in enumerate(parents):
            later = members[i + 1 + s]
            XB = small.multiply(X, parent.B)
            J = later.A.shape[-1]
            reduced = later.A - parent.gather_into(xp, small.transpose_multiply(XB, XB), J)
            grand = []
            for u, upper in enumerate(later.parents):
                taken = small.transpose_multiply(XB, small.multiply(X, parents[s + 1 + u].B))
                grand.append(upper._replace(B=upper.B - parent.gather_into(xp, taken, J)))
            joined = later.coupling
            if coupling is not None and later.coupling is not None:
                joined = _reduce_coupling(
                    xp, coupling, later.coupling, small.transpose_multiply(X, XB), parent
                )
            members[i + 1 + s] = Member(reduced, tuple(grand), joined)
        if coupling is not None:
            taken = coupling.schur(xp, X)
            C = np.subtract(C, taken, out=taken) if xp is np else C - taken
        done.append(EliminatedTerm(A, X, W, small.left(xp, A, W, T), parents, coupling))
    if not layout:
        return EliminatedSystem(tuple(done), C, None, logdet)
    if any(slot.k > 1 for slot in layout):
        C = tail.symmetrize(xp, C)
    factor = tail.factorize(xp, tail.sandwich(xp, layout, tail_T, C))
    return EliminatedSystem(tuple(done), C, factor, logdet + factor.logdet)


def _reduce_coupling(
    xp: ModuleType, mine: Coupling, later: Coupling, WB: Array, parent: Parent
) -> couplings.Dense:
    """The later member's coupling after this elimination: B_later - sum over children of B' W B_tail."""
    assert isinstance(mine, couplings.Dense) and isinstance(later, couplings.Dense)
    k, J, q = later.B.shape
    taken = small.apply_transpose(WB[:, :, :, None], mine.B[None])[0]
    summed = parent.gather_into(xp, xp.moveaxis(taken, 1, -1), J)
    return couplings.Dense(later.B - xp.moveaxis(summed, -1, 1))


class Vectors(NamedTuple):
    """r vectors in the space of the random effects: per member (r, k, J), and the tail (r, q)."""

    chain: tuple[Array, ...]
    tail: Array


class Reduced(NamedTuple):
    """Right-hand sides carried down: what each member (r, k, J) and the tail (r, q) see, X r, W r and L^-1 T'r of them."""

    chain: tuple[Array, ...]
    white: tuple[Array, ...]
    weighted: tuple[Array, ...]
    tail: Array
    half: Array


def reduce(
    xp: ModuleType, factor: EliminatedSystem, layout: tail.Layout, tail_T: list[Array], rhs: Vectors
) -> Reduced:
    """Carry right-hand sides down the elimination."""
    chain, rest = list(rhs.chain), rhs.tail
    white, weighted = [], []
    for i, member in enumerate(factor.chain):
        XR = small.apply(member.X, chain[i])
        WR = small.apply_transpose(member.X, XR)
        white.append(XR)
        weighted.append(WR)
        for s, parent in enumerate(member.parents):
            taken = small.apply_transpose(parent.B, WR)
            chain[i + 1 + s] = chain[i + 1 + s] - parent.gather_into(
                xp, taken, chain[i + 1 + s].shape[-1]
            )
        if member.coupling is not None:
            rest = rest - member.coupling.into_tail(xp, WR)
    half = rest
    if layout:
        half = tail.forward(xp, factor.tail, tail.scale_rows(xp, layout, tail_T, rest.T).T)
    return Reduced(tuple(chain), tuple(white), tuple(weighted), rest, half)


def solve(
    xp: ModuleType,
    factor: EliminatedSystem,
    layout: tail.Layout,
    tail_T: list[Array],
    reduced: Reduced,
    well: tuple[bool, ...],
) -> tuple[Vectors, Vectors]:
    """From reduced right-hand sides r: b = (A + G^-1)^-1 r, and the residual e = r - A b.

    In the tail T'e = S^-1 T'r =: x, so e = T^-T x where every term's T is ``well`` conditioned; else r - C b.
    """
    later: list[Array] = []
    residuals: list[Array] = []
    if layout:
        x = tail.backward(xp, factor.tail, reduced.half)
        b_tail = tail.scale_rows(xp, layout, tail_T, x.T, transpose=False).T
        if all(well):
            e_tail = tail.unscale(xp, layout, tail_T, x)
        else:
            e_tail = reduced.tail - tail.symmetric_multiply(xp, factor.C, b_tail)
    else:
        b_tail = e_tail = reduced.tail
    for i in range(len(factor.chain) - 1, -1, -1):
        member = factor.chain[i]
        u = reduced.chain[i]
        for s, parent in enumerate(member.parents):
            u = u - small.apply(parent.B, later[s][:, :, parent.index])
        if member.coupling is not None:
            u = u - member.coupling.from_tail(xp, b_tail)
        b = (
            reduced.weighted[i]
            if u is reduced.chain[i]
            else small.apply_transpose(member.X, small.apply(member.X, u))
        )
        later.insert(0, b)
        residuals.insert(0, u - small.apply(member.A, b))
    return Vectors(tuple(later), b_tail), Vectors(tuple(residuals), e_tail)


def sample(
    xp: ModuleType, factor: EliminatedSystem, layout: tail.Layout, tail_T: list[Array], z: Vectors
) -> Vectors:
    """S z with S S' = N = (A + G^-1)^-1: for standard normal z, draws from the random effects' conditional distribution.

    Back through the elimination, the tail first: T L^-T z, then b_j = X_j' z_j - W_j (B_j b_later), the conditional mean of
    a level given what comes later and noise of its own conditional variance W_j = X_j'X_j.
    """
    b_tail = z.tail
    if layout:
        b_tail = tail.scale_rows(
            xp, layout, tail_T, tail.backward(xp, factor.tail, z.tail).T, transpose=False
        ).T
    later: list[Array] = []
    for i in range(len(factor.chain) - 1, -1, -1):
        member = factor.chain[i]
        b = small.apply_transpose(member.X, z.chain[i])
        for s, parent in enumerate(member.parents):
            b = b - small.apply(member.W, small.apply(parent.B, later[s][:, :, parent.index]))
        if member.coupling is not None:
            b = b - small.apply(member.W, member.coupling.from_tail(xp, b_tail))
        later.insert(0, b)
    return Vectors(tuple(later), b_tail)


def inner(reduced: Reduced) -> Array:
    """r' (A + G^-1)^-1 r of reduced right-hand sides, (r, r)."""
    total = reduced.half @ reduced.half.T
    for v in reduced.white:
        r, k, J = v.shape  # r may be 0
        total = total + v.reshape(r, k * J) @ v.reshape(r, k * J).T
    return total


def multiply(xp: ModuleType, system: System, v: Vectors) -> Vectors:
    """A v with the original, unreduced system."""
    out = [small.apply(member.A, own) for member, own in zip(system.chain, v.chain, strict=True)]
    rest = v.tail @ system.C
    for i, member in enumerate(system.chain):
        for s, parent in enumerate(member.parents):
            up = v.chain[i + 1 + s]
            out[i] = out[i] + small.apply(parent.B, up[:, :, parent.index])
            down = parent.gather_into(xp, small.apply_transpose(parent.B, v.chain[i]), up.shape[-1])
            out[i + 1 + s] = out[i + 1 + s] + down
        if member.coupling is not None:
            out[i] = out[i] + member.coupling.from_tail(xp, v.tail)
            rest = rest + member.coupling.into_tail(xp, v.chain[i])
    return Vectors(tuple(out), rest)


# --- trace recursion -------------------------------------------------------------------------
#
# Write N = (A + G^-1)^-1 and, for a member, R_j = (B_j to its ancestors, B_j to the tail). With
# E_j = I - A_j W_j and H_j = R_j N_rest R_j' (k, k),
#     Q_jj = A_j - A_j W_j A_j - E_j H_j E_j',     N_jj = W_j + W_j H_j W_j,
#     N_ju = -W_j sum_v R_jv N_vu   for any later u.
# Going back through the chain, each member needs N only between its own ancestors and the tail.


class InverseBlocks(NamedTuple):
    """N of one member: its diagonal blocks (k, k, J), blocks with later members at the ancestor, and with the tail (k, J, q)."""

    own: Array
    parents: tuple[Array, ...]
    tail: Array


def inverse_blocks(
    xp: ModuleType, factor: EliminatedSystem, K: Array | None, need_first: bool
) -> tuple[list[Array], list[InverseBlocks]]:
    """E_j H_j E_j' per member, and N's blocks per member (the first member's only if ``need_first``).

    ``K`` is N's block of the tail (q, q), both triangles where a coupling is dense.
    """
    inverses: list[InverseBlocks] = []
    quadratics: list[Array] = []
    for i in range(len(factor.chain) - 1, -1, -1):
        member = factor.chain[i]
        k, _, J = member.A.shape
        count = len(member.parents)
        if (
            member.coupling is None and not count and i == 0 and not need_first
        ):  # nothing beside the member itself
            quadratics.insert(0, xp.zeros((k, k, 1)))
            break
        if (
            i == 0
            and not need_first
            and not count
            and k > 1
            and isinstance(member.coupling, couplings.Dense)
        ):
            quadratics.insert(
                0, couplings.Dense(_left_of(xp, member.E, member.coupling.B)).quadratic(xp, K)
            )
            break
        H = xp.zeros((k, k, J)) if member.coupling is None else member.coupling.quadratic(xp, K)
        # Z_u = sum_v R_v N_vu at this level's own ancestors u: (k, k_u, J)
        Z = []
        for u in range(count):
            total = small.multiply(
                member.parents[u].B, inverses[u].own[:, :, member.parents[u].index]
            )
            for v in range(count):
                if v < u:
                    N_vu = inverses[v].parents[u - v - 1][:, :, member.parents[v].index]
                    total = total + small.multiply(member.parents[v].B, N_vu)
                elif v > u:
                    N_uv = inverses[u].parents[v - u - 1][:, :, member.parents[u].index]
                    total = total + small.multiply(member.parents[v].B, xp.swapaxes(N_uv, 0, 1))
            if member.coupling is not None:
                N_ut = inverses[u].tail[:, member.parents[u].index]  # (k_u, J, q)
                total = total + _against_tail(xp, member.coupling, N_ut)
            Z.append(total)
        for u in range(count):
            B = member.parents[u].B
            H = H + small.multiply(Z[u], xp.swapaxes(B, 0, 1))
        for v in range(count):
            if (
                member.coupling is not None
            ):  # the tail's share of H through N_vt, the transpose of what Z holds
                N_vt = inverses[v].tail[:, member.parents[v].index]
                cross = _against_tail(xp, member.coupling, N_vt)  # B_t N_tv: (k, k_v, J)
                H = H + xp.swapaxes(
                    small.multiply(cross, xp.swapaxes(member.parents[v].B, 0, 1)), 0, 1
                )
        quadratics.insert(
            0, small.multiply(small.multiply(member.E, H), xp.swapaxes(member.E, 0, 1))
        )
        if i == 0 and not need_first:
            break
        own = member.W + small.multiply(member.W, small.multiply(H, member.W))
        with_parents = tuple(-small.multiply(member.W, z) for z in Z)
        with_tail = None
        if member.coupling is not None and i > 0:
            with_tail = -row_of_tail(xp, member, inverses, K)
        inverses.insert(0, InverseBlocks(own, with_parents, with_tail))
    return quadratics, inverses


def _left_of(xp: ModuleType, E: Array, B: Array) -> Array:
    """E_j B_j, (k, J, q) of E (k, k, J)."""
    return xp.stack([sum(E[a, b][:, None] * B[b] for b in range(len(B))) for a in range(len(B))])


def _against_tail(xp: ModuleType, coupling: Coupling, N: Array) -> Array:
    """B_j,tail N_j' for N (k_u, J, q) given per level: (k, k_u, J)."""
    assert isinstance(coupling, couplings.Dense)
    return xp.stack([xp.stack([xp.sum(row * other, axis=-1) for other in N]) for row in coupling.B])


def row_of_tail(
    xp: ModuleType, member: EliminatedTerm, inverses: list[InverseBlocks], K: Array
) -> Array:
    """W_j sum_v R_jv N_v,tail, (k, J, q)."""
    assert isinstance(member.coupling, couplings.Dense)
    k, J, q = member.coupling.B.shape
    total = (member.coupling.B.reshape(k * J, q) @ K).reshape(k, J, q)
    for parent, later in zip(member.parents, inverses, strict=True):
        N = later.tail[:, parent.index]
        total = total + small.multiply(parent.B[..., None], N[:, None])[:, 0]
    return small.multiply(member.W[..., None], total[:, None])[:, 0]


def traces(xp: ModuleType, factor: EliminatedSystem, K: Array | None) -> list[Array]:
    """sum_j Q_jj (k, k) per member of the chain."""
    return trace_sums(xp, factor, inverse_blocks(xp, factor, K, need_first=False)[0])


def trace_sums(xp: ModuleType, factor: EliminatedSystem, quadratics: list[Array]) -> list[Array]:
    """The same from E_j H_j E_j' of :func:`inverse_blocks`."""
    out = []
    for member, quadratic in zip(factor.chain, quadratics, strict=True):
        total = xp.sum(small.multiply(member.E, member.A), axis=-1) - xp.sum(quadratic, axis=-1)
        out.append((total + total.T) / 2)
    return out
