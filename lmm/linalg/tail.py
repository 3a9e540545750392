"""The dense tail: what is left of Z'WZ after block elimination, scaled, factored and inverted.

With C (q, q) the reduced cross-products of the tail's terms and T their relative factors,

    S = I + T'CT,   K = T S^-1 T' = (C + G^-1)^-1,   sum_l Q_ll with Q = C - C K C,

where T stands for the block-diagonal matrix with each term's factor repeated over its levels. A
tail column is ``offset + a * J + level``. K and Q need no inverse of T. Matrices are kept by their
lower triangle; what is above it may be anything unless a function says otherwise.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from lmm.linalg import threads
from lmm.linalg.devices import backend, sharded
from lmm.linalg.devices.sharded import ShardedFactor
from lmm.types import KernelArray as Array


class Slot(NamedTuple):
    """Where a term's columns lie in the tail."""

    offset: int
    k: int
    J: int

    @property
    def columns(self) -> slice:
        """The term's columns of the tail."""
        return slice(self.offset, self.offset + self.k * self.J)


Layout = tuple[Slot, ...]

#: side of a square that fits in cache
BLOCK = 128
#: how often a triangle is halved at the most: an eighth of its multiplications are wasted then
HALVINGS = 3


class TailFactor(NamedTuple):
    """L with L L' = S (lower; under NumPy the transpose of LAPACK's upper factor), and log|S|."""

    L: Array
    logdet: Array


def size(layout: Layout) -> int:
    """Columns of the tail."""
    return sum(slot.k * slot.J for slot in layout)


def scale_rows(
    xp: ModuleType, layout: Layout, factors: list[Array], C: Array, transpose: bool = True
) -> Array:
    """T'C (or TC), C (q, r)."""
    if all(slot.k == 1 for slot in layout):
        return C * _diagonal(xp, layout, factors)[:, None]
    rows = []
    for slot, T in zip(layout, factors, strict=True):
        block = C[slot.columns].reshape(slot.k, -1)
        rows.append(((T.T if transpose else T) @ block).reshape(slot.k * slot.J, -1))
    return xp.concatenate(rows)


def _diagonal(xp: ModuleType, layout: Layout, factors: list[Array]) -> Array:
    return xp.concatenate(
        [xp.broadcast_to(T[0, 0], (slot.J,)) for slot, T in zip(layout, factors, strict=True)]
    )


def sandwich(
    xp: ModuleType,
    layout: Layout,
    factors: list[Array],
    C: Array,
    transpose: bool = True,
    overwrite: bool = False,
) -> Array:
    """T'CT (or TCT'); needs both triangles of C unless every term is scalar. ``overwrite`` lets NumPy use C's memory."""
    if all(slot.k == 1 for slot in layout):
        d = _diagonal(xp, layout, factors)
        if xp is np:
            out = np.multiply(C, d, out=C if overwrite else None)
            out *= d[:, None]
            return out
        return (C * d[:, None]) * d
    half = scale_rows(xp, layout, factors, C, transpose)
    return scale_rows(xp, layout, factors, half.T, transpose)


def factorize(xp: ModuleType, S: Array) -> TailFactor | ShardedFactor:
    """Cholesky of I + S for S >= 0, from the lower triangle; under NumPy S is overwritten, under JAX over all devices of the mesh."""
    if xp is np:
        S = np.ascontiguousarray(S)
        S.flat[:: len(S) + 1] += 1.0
        with threads.for_flops(len(S) ** 3 / 3):
            upper, info = lapack.dpotrf(S.T, lower=0, clean=0, overwrite_a=1)
        if info != 0:
            raise FloatingPointError(
                f"Cholesky factorisation of the dense tail failed at column {info}"
            )
        return TailFactor(upper.T, 2.0 * np.log(np.diagonal(upper)).sum())
    if backend.mesh() is not None:
        return sharded.factorize(backend.mesh(), S)
    L = jax_cholesky(S + xp.eye(len(S)))
    return TailFactor(L, 2.0 * xp.sum(xp.log(xp.diagonal(L))))


def forward(xp: ModuleType, factor: TailFactor | ShardedFactor, b: Array) -> Array:
    """L^-1 b for b (r, q)."""
    if isinstance(factor, ShardedFactor):
        return sharded.forward(backend.mesh(), factor, b)
    if xp is np:
        return np.ascontiguousarray(lapack.dtrtrs(factor.L.T, b.T, lower=0, trans=1)[0].T)
    import jax.scipy.linalg as jsl

    return jsl.solve_triangular(factor.L, b.T, lower=True).T


def backward(xp: ModuleType, factor: TailFactor | ShardedFactor, b: Array) -> Array:
    """L^-T b for b (r, q)."""
    if isinstance(factor, ShardedFactor):
        return sharded.backward(backend.mesh(), factor, b)
    if xp is np:
        return np.ascontiguousarray(lapack.dtrtrs(factor.L.T, b.T, lower=0, trans=0)[0].T)
    import jax.scipy.linalg as jsl

    return jsl.solve_triangular(factor.L, b.T, lower=True, trans=1).T


def unscale(xp: ModuleType, layout: Layout, factors: list[Array], x: Array) -> Array:
    """T^-T x for x (r, q)."""
    if all(slot.k == 1 for slot in layout):
        return x / _diagonal(xp, layout, factors)
    inverses = [xp.linalg.inv(T) for T in factors]
    return scale_rows(xp, layout, inverses, x.T).T


def inverse(xp: ModuleType, factor: TailFactor | ShardedFactor) -> Array:
    """S^-1, its lower triangle; both over several devices."""
    if isinstance(factor, ShardedFactor):
        return sharded.inverse(backend.mesh(), factor)
    if xp is np:
        with threads.for_flops(2 * len(factor.L) ** 3 / 3):
            return lapack.dpotri(factor.L.T, lower=0)[0].T
    return _gram(xp, _triangular_inverse(xp, factor.L, HALVINGS), HALVINGS)


def jax_cholesky(S: Array) -> Array:
    """L with L L' = S from the lower triangle, by JAX."""
    import jax

    return jax.lax.linalg.cholesky(S, symmetrize_input=False)


def _triangular_inverse(xp: ModuleType, L: Array, halvings: int) -> Array:
    """L^-1 by halves, under JAX: half the multiplications of solving for the identity, nearly all of them in dense products."""
    n = len(L)
    if n <= BLOCK or not halvings:
        import jax.scipy.linalg as jsl

        return jsl.solve_triangular(L, xp.eye(n), lower=True)
    h = n // 2
    first = _triangular_inverse(xp, L[:h, :h], halvings - 1)
    last = _triangular_inverse(xp, L[h:, h:], halvings - 1)
    return xp.block([[first, xp.zeros((h, n - h))], [-(last @ (L[h:, :h] @ first)), last]])


def _gram(xp: ModuleType, M: Array, halvings: int) -> Array:
    """The lower triangle of M'M, M lower triangular, by halves; zeros above its blocks."""
    n = len(M)
    if n <= BLOCK or not halvings:
        return M.T @ M
    h = n // 2
    B, C = M[h:, :h], M[h:, h:]
    first, last = _gram(xp, M[:h, :h], halvings - 1), _gram(xp, C, halvings - 1)
    return xp.block([[first + B.T @ B, xp.zeros((h, n - h))], [C.T @ B, last]])


def symmetrize(xp: ModuleType, C: Array) -> Array:
    """Both triangles from the lower one."""
    if xp is np and len(C) > BLOCK:
        out = np.array(C)
        for i in range(0, len(C), BLOCK):  # block by block, so that both places stay in cache
            own = out[i : i + BLOCK, i : i + BLOCK]
            own[:] = np.tril(own) + np.tril(own, -1).T
            out[i : i + BLOCK, i + BLOCK :] = out[i + BLOCK :, i : i + BLOCK].T
        return out
    lower = xp.tril(C)
    return lower + xp.tril(lower, -1).T


def symmetric_multiply(xp: ModuleType, C: Array, b: Array) -> Array:
    """C b' for b (r, q) from the lower triangle of C, as (r, q)."""
    lower = xp.tril(C)
    return b @ lower + b @ lower.T - b * xp.diagonal(C)


def block_trace(xp: ModuleType, slot: Slot, M: Array) -> Array:
    """sum_l M_ll (k, k) over a term's levels, from the lower triangle of M (q, q)."""
    rows = []
    for a in range(slot.k):
        row = []
        for b in range(slot.k):
            i, j = slot.offset + max(a, b) * slot.J, slot.offset + min(a, b) * slot.J
            row.append(xp.sum(xp.diagonal(M[i : i + slot.J, j : j + slot.J])))
        rows.append(xp.stack(row))
    return xp.stack(rows)


def traces(
    xp: ModuleType,
    layout: Layout,
    factors: list[Array],
    well: tuple[bool, ...],
    C: Array,
    inverse_traces: list[Array],
    K: Array,
) -> list[Array]:
    """sum_l Q_ll (k, k) per term.

    Where the term's T is ``well`` conditioned, T^-T (J I - sum_l S^-1_ll) T^-1 with the sums given as
    ``inverse_traces``; elsewhere the term's rows of C - C K C, which need both triangles of C and K but no inverse.
    """
    out = []
    for slot, T, easy, trace in zip(layout, factors, well, inverse_traces, strict=True):
        if easy:
            inner = slot.J * xp.eye(slot.k) - trace
            half = xp.linalg.solve(T.T, inner)
            out.append(xp.linalg.solve(T.T, half.T))
            continue
        rows = C[slot.columns]
        taken = (rows @ K).reshape(slot.k, slot.J, -1)
        rows = rows.reshape(slot.k, slot.J, -1)
        direct = block_trace(xp, slot, C)
        out.append(direct - xp.einsum("ajq,bjq->ab", taken, rows))
    return out
