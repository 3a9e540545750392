"""Iterative factorisation: what is left after exact elimination, solved by conjugate gradients.

Terms are split in two. The exact ones e (the largest factor, what it nests in, small factors) are
eliminated as ever, N_e = (A_ee + G_e^-1)^-1. The others, i, are too large for a dense matrix. For them

    C = A_ii - A_ie N_e A_ei,     S = I + T'CT,     N_i = T S^-1 T',     log|M| = log|M_e| + log|S|,

and S is never formed: a product with it is a few sparse products. Conjugate gradients run on
H = K^-1 S K^-T, where K K' is the block diagonal of S level by level (exact where e is one factor,
nearly so otherwise); two crossed factors then need the iterations of SSOR, without a triangular solve.
With R = T K^-T, H = K^-1 K^-T + R'C R and N_i = R H^-1 R'. No inverse of T is needed.

Traces come from probes z of random signs, E[z z'] = I. With F = A_ei - A_ee N_e A_ei, the exact terms' part of
Z_e'V_e^-1 Z_i,

    Q_ee = Q_e - F N_i F',      Q_ii = C - C N_i C = T^-T (I - S^-1) T^-1,

are summed over levels from R z and R H^-1 z. Noise is taken off by quantities of known mean: (Rz)(Rz)' for the first, and
z (Hz)' for the second, whose means are block-diagonal sums (:func:`expected`).

References: Saad (2003), Iterative Methods for Sparse Linear Systems, ch. 8-10; Hutchinson (1990), Commun. Stat. Simul. 19;
Kuendig & Sigrist (2025), arXiv 2505.09552, for Krylov methods in these models.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from lmm.linalg import elimination, small, tail
from lmm.linalg.conjugate import Solved, conjugate_gradients
from lmm.linalg.elimination import EliminatedSystem, System, Vectors
from lmm.linalg.sparse.sparse_product import Product
from lmm.types import KernelArray as Array


class Joint(NamedTuple):
    """Z_e'WZ_a as a product; with its entries squared where they are numbers, for that is needed at every T."""

    product: Product
    squares: Product | None


class Coupled(NamedTuple):
    """The iterative terms in Z'WZ: ``own`` (k, k, J) each; ``among[a]`` joins a to each later one (rows a);
    ``first[a]`` joins the first exact term to a (rows that term), ``others[a]`` the other exact ones, chain before tail.
    """

    own: tuple[Array, ...]
    among: tuple[tuple[Product, ...], ...]
    first: tuple[Joint, ...]
    others: tuple[tuple[Product, ...], ...]

    def exact(self, a: int) -> tuple[Product, ...]:
        """Products that join the exact terms to a."""
        return (self.first[a].product, *self.others[a])


#: of a plan without iterative terms
UNCOUPLED = Coupled((), (), (), ())


class Exact(NamedTuple):
    """The exact part's arrangement: its system, relative factors and where tail terms lie."""

    system: System
    chain_T: list[Array]
    tail_T: list[Array]
    layout: tail.Layout

    @property
    def simple(self) -> bool:
        """Whether it is one factor without ancestors, so that N_e is one small matrix per level."""
        return len(self.chain_T) == 1 and not self.layout


class IterativeFactor(NamedTuple):
    """At given T: the exact part's arrangement and factor, how the iterative terms lie beside it, and for each of them (k, k, J) K^-T,
    R = T K^-T, K^-1 K^-T and N0 = R R'; log|M| but for log|H|."""

    inside: Exact
    coupled: Coupled
    exact: EliminatedSystem
    K: tuple[Array, ...]
    R: tuple[Array, ...]
    P: tuple[Array, ...]
    N0: tuple[Array, ...]
    logdet: Array


def factorize(xp: ModuleType, exact: Exact, coupled: Coupled, T: list[Array]) -> IterativeFactor:
    """Eliminate the exact part and take the blocks of the diagonal of S."""
    factor = elimination.factorize(xp, exact.system, exact.chain_T, exact.layout, exact.tail_T)
    K, R, P, N0, logdet = [], [], [], [], factor.logdet
    W = factor.chain[0].W
    for own, joined, t in zip(coupled.own, coupled.first, T, strict=True):
        k = len(t)
        C = own - weighted_squares(xp, joined, W, k, transpose=True)
        M = xp.einsum("ba,bcj,cd->adj", t, C, t) + xp.eye(k)[:, :, None]
        columns, part = small.cholesky(xp, M)
        inverse = small.forward_substitute(xp, columns, xp.eye(k)[:, :, None])
        half = xp.einsum("abj,cb->acj", inverse, t)  # K^-1 T'
        K.append(xp.swapaxes(inverse, 0, 1))
        R.append(xp.swapaxes(half, 0, 1))
        P.append(small.multiply(inverse, xp.swapaxes(inverse, 0, 1)))
        N0.append(small.transpose_multiply(half, half))
        logdet = logdet + xp.sum(part)
    return IterativeFactor(exact, coupled, factor, tuple(K), tuple(R), tuple(P), tuple(N0), logdet)


def weighted_squares(xp: ModuleType, joint: Joint, W: Array, outer: int, transpose: bool) -> Array:
    """sum_j B_jl' W_j B_jl (k_col, k_col, J_col) when ``transpose``, else sum_l B_jl W_l B_jl' (k_row, k_row, J_row).

    ``outer`` is k_col or k_row.
    """
    inner = len(W)
    out: list[list[Any]] = [[None] * outer for _ in range(outer)]
    for a in range(outer):
        for b in range(a + 1):
            total = 0.0
            for c in range(inner):
                for d in range(inner):
                    places = (c, a, d, b) if transpose else (a, c, b, d)
                    pairs = (
                        joint.product.entry_products(*places)
                        if joint.squares is None
                        else joint.squares
                    )
                    apply = pairs.apply_transpose if transpose else pairs.apply
                    total = total + apply(xp, W[c, d][None, None])[0, 0]
            out[a][b] = out[b][a] = total
    return xp.stack([xp.stack(row) for row in out])


# --- vectors of the iterative terms lie side by side, (r, q): term after term, within a term column after column


def split(coupled: Coupled, v: Array) -> list[Array]:
    """(r, q) as (r, k, J) per term."""
    out, at = [], 0
    for own in coupled.own:
        k, _, J = own.shape
        out.append(v[:, at : at + k * J].reshape(len(v), k, J))
        at += k * J
    return out


def join(xp: ModuleType, parts: list[Array]) -> Array:
    """The inverse of :func:`split`."""
    flat = [part.reshape(len(part), part.shape[1] * part.shape[2]) for part in parts]
    return flat[0] if len(flat) == 1 else xp.concatenate(flat, axis=1)


def scale(
    xp: ModuleType, factors: tuple[Array, ...], parts: list[Array], transpose: bool = False
) -> list[Array]:
    """Per level and term R v, or R'v."""
    apply = small.apply_transpose if transpose else small.apply
    return [apply(R, part) for R, part in zip(factors, parts, strict=True)]


def into_exact(xp: ModuleType, system: System, coupled: Coupled, parts: list[Array]) -> Vectors:
    """A_ei v."""
    sums = []
    for products in zip(*(coupled.exact(a) for a in range(len(parts))), strict=True):
        total = products[0].apply(xp, parts[0])
        for product, part in zip(products[1:], parts[1:], strict=True):
            total = total + product.apply(xp, part)
        sums.append(total)
    count = len(system.chain)
    flat = [s.reshape(len(s), s.shape[1] * s.shape[2]) for s in sums[count:]]
    rest = xp.concatenate(flat, axis=1) if flat else xp.zeros((len(parts[0]), 0))
    return Vectors(tuple(sums[:count]), rest)


def from_exact(xp: ModuleType, layout: tail.Layout, coupled: Coupled, b: Vectors) -> list[Array]:
    """A_ie b."""
    each = list(b.chain) + [
        b.tail[:, slot.columns].reshape(len(b.tail), slot.k, slot.J) for slot in layout
    ]
    out = []
    for a in range(len(coupled.own)):
        joined = coupled.exact(a)
        total = joined[0].apply_transpose(xp, each[0])
        for product, own in zip(joined[1:], each[1:], strict=True):
            total = total + product.apply_transpose(xp, own)
        out.append(total)
    return out


def own_product(xp: ModuleType, coupled: Coupled, parts: list[Array]) -> list[Array]:
    """A_ii v."""
    out = [small.apply(own, part) for own, part in zip(coupled.own, parts, strict=True)]
    for a, row in enumerate(coupled.among):
        for b, product in enumerate(row, start=a + 1):
            out[a] = out[a] + product.apply(xp, parts[b])
            out[b] = out[b] + product.apply_transpose(xp, parts[a])
    return out


def system_product(
    xp: ModuleType,
    system: System,
    layout: tail.Layout,
    coupled: Coupled,
    v: Vectors,
    parts: list[Array],
) -> tuple[Vectors, list[Array]]:
    """A v over all terms."""
    inside, beside = elimination.multiply(xp, system, v), into_exact(xp, system, coupled, parts)
    exact = Vectors(
        tuple(a + b for a, b in zip(inside.chain, beside.chain, strict=True)),
        inside.tail + beside.tail,
    )
    own, across = own_product(xp, coupled, parts), from_exact(xp, layout, coupled, v)
    return exact, [a + b for a, b in zip(own, across, strict=True)]


def exact_solve(xp: ModuleType, at: IterativeFactor, rhs: Vectors) -> Vectors:
    """N_e r."""
    if at.inside.simple:
        return Vectors((small.apply(at.exact.chain[0].W, rhs.chain[0]),), rhs.tail)
    return exact_solve_residual(xp, at, rhs)[0]


def exact_solve_residual(
    xp: ModuleType, at: IterativeFactor, rhs: Vectors
) -> tuple[Vectors, Vectors]:
    """N_e r and r - A_ee N_e r."""
    layout, tail_T = at.inside.layout, at.inside.tail_T
    reduced = elimination.reduce(xp, at.exact, layout, tail_T, rhs)
    return elimination.solve(xp, at.exact, layout, tail_T, reduced, (False,) * len(layout))


def beside(xp: ModuleType, at: IterativeFactor, parts: list[Array]) -> Vectors:
    """A_ei v of a factorised system."""
    return into_exact(xp, at.inside.system, at.coupled, parts)


def schur(xp: ModuleType, at: IterativeFactor, parts: list[Array]) -> list[Array]:
    """C v."""
    b = exact_solve(xp, at, beside(xp, at, parts))
    taken = from_exact(xp, at.inside.layout, at.coupled, b)
    return [
        direct - less
        for direct, less in zip(own_product(xp, at.coupled, parts), taken, strict=True)
    ]


def near_multiply(xp: ModuleType, at: IterativeFactor, v: Array, total: Array) -> Array:
    """H v as it would be with the first exact factor alone and no product among iterative terms: identity blocks on the diagonal.

    ``total`` is what that factor sees of R v, as :func:`beside` gives it.
    """
    b = small.apply(at.exact.chain[0].W, total)
    parts = split(at.coupled, v)
    out = []
    for own, joint, R, P, part in zip(
        at.coupled.own, at.coupled.first, at.R, at.P, parts, strict=True
    ):
        inner = small.apply(own, small.apply(R, part)) - joint.product.apply_transpose(xp, b)
        out.append(small.apply(P, part) + small.apply_transpose(R, inner))
    return join(xp, out)


def multiply(xp: ModuleType, at: IterativeFactor, v: Array) -> Array:
    """H v for v (r, q)."""
    parts = split(at.coupled, v)
    inner = schur(xp, at, scale(xp, at.R, parts))
    outer = scale(xp, at.R, inner, transpose=True)
    return join(
        xp, [small.apply(P, part) + o for P, part, o in zip(at.P, parts, outer, strict=True)]
    )


def solve_scaled(
    xp: ModuleType, at: IterativeFactor, b: Array, tolerance: float, start: Array | None = None
) -> Solved:
    """H^-1 b by conjugate gradients."""
    return conjugate_gradients(xp, lambda v: multiply(xp, at, v), b, tolerance, start)


class IterativeSolution(NamedTuple):
    """N r and r - A N r of right-hand sides r: exact part and iterative terms; r'N r (m, m); the conjugate gradients' report."""

    exact: Vectors
    parts: list[Array]
    exact_residual: Vectors
    residual: list[Array]
    inner: Array
    solved: Solved


def solve(
    xp: ModuleType,
    at: IterativeFactor,
    rhs: Vectors,
    parts: list[Array],
    tolerance: float,
    start: Array | None = None,
) -> IterativeSolution:
    """(A + G^-1)^-1 r for r (m vectors) in the exact terms and ``parts`` (m, k, J) in the iterative ones.

    ``start`` (m, q) is a guess of the solution in the coordinates of H; the tolerance is relative to what it leaves then.
    """
    layout, tail_T = at.inside.layout, at.inside.tail_T
    reduced = elimination.reduce(xp, at.exact, layout, tail_T, rhs)
    first, first_residual = elimination.solve(
        xp, at.exact, layout, tail_T, reduced, (False,) * len(layout)
    )
    less = from_exact(xp, layout, at.coupled, first)
    left = [part - taken for part, taken in zip(parts, less, strict=True)]
    half = join(xp, scale(xp, at.R, left, transpose=True))
    if start is None:
        solved = solve_scaled(xp, at, half, tolerance)
    else:
        solved = solve_scaled(xp, at, half - multiply(xp, at, start), tolerance)
        solved = solved._replace(x=start + solved.x)
    b = scale(xp, at.R, split(at.coupled, solved.x))
    moved, moved_residual = exact_solve_residual(xp, at, beside(xp, at, b))
    taken = from_exact(xp, layout, at.coupled, moved)
    residual = [
        l - (d - t) for l, d, t in zip(left, own_product(xp, at.coupled, b), taken, strict=True)
    ]
    inner = elimination.inner(reduced) + half @ solved.x.T
    return IterativeSolution(
        _minus(first, moved),
        b,
        _minus(first_residual, moved_residual),
        residual,
        (inner + inner.T) / 2,
        solved,
    )


def _minus(a: Vectors, b: Vectors) -> Vectors:
    return Vectors(tuple(x - y for x, y in zip(a.chain, b.chain, strict=True)), a.tail - b.tail)
