"""Traces tr(E_i Q E_j Q) and tr(E_i Q), Q = Z'V^-1Z, which the expected information needs; no n x n and, mostly, no q x q.

E_i repeats a symmetric matrix dG_i (k, k) over the levels of one term. The term with most effects (1) is taken first: with
V_1 = W^-1 + Z_1 G_1 Z_1' its levels stand alone, and for the rest (r)

    R = Z_1'V_1^-1 Z_1 = A - A W A  (per level),   Y = Z_1'V_1^-1 Z_r = (I - A W) B,   C = Z_r'V_1^-1 Z_r = A_r - B'W B,
    K = (C + G_r^-1)^-1,   H = I - C K,
    Q_11 = R - Y K Y',   Q_1r = Y H',   Q_rr = H C.

So with S_i = Y'E_i Y, all of the size of the rest,

    tr(E_i Q_11 E_j Q_11) = sum_l tr(E_i R E_j R) - tr(E_i R E_j D) - tr(E_i D E_j R) + tr(S_i K S_j K),   D = (Y K Y')_ll,
    tr(E_i Q_1r E_j Q_r1) = tr(E_j H S_i H').

The rest falls into connected components, which do not meet in C: one dense matrix where factors are crossed, a small one for
each level of the topmost factor where they are nested.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack
from scipy.sparse.csgraph import connected_components

from lmm.errors import CapacityError
from lmm.linalg import small, threads
from lmm.model.gaussian.crossproducts import CrossProducts

#: columns of the largest component: about 10 matrices of 8 s^2 bytes, 10 s^3 flops
LIMIT = 5_000
#: numbers in one block of rows of Y K
BLOCK = 10_000_000

Array = np.ndarray


def traces(
    cross: CrossProducts, T: list[Array], dG: list[Array], groups: tuple[str, ...]
) -> tuple[Array, Array]:
    """tr(E_i Q E_j Q) (m, m) and tr(E_i Q) (m,) over the directions ``dG`` (m_t, k, k) of all terms in order.

    Parameters
    ----------
    T : per term the relative factor (k, k).
    groups : names of the terms' grouping factors, for the error.

    Raises
    ------
    CapacityError : crossed factors with too many levels beside the largest.
    """
    plain = [t for t in range(len(T)) if (t, t) not in cross.pairs]
    if not plain:
        return _joined(cross, T, dG, groups)
    first = max(plain, key=lambda t: cross.diag[t].shape[0] * cross.diag[t].shape[-1])
    stops = np.cumsum([0] + [len(d) for d in dG])
    own = slice(stops[first], stops[first + 1])
    m = int(stops[-1])
    products, single = np.zeros((m, m)), np.zeros(m)
    A = cross.diag[first]
    k, _, J = A.shape
    _, W, _ = small.whiten(np, A, T[first])
    AW = small.multiply(A, W)
    R = A - small.multiply(AW, A)
    products[own, own] = _within(dG[first], R, R)
    rest = [t for t in range(len(T)) if t != first]
    D = np.zeros((k, k, 1))
    if rest:
        B, C = _rest(cross, first, rest, W)
        E = np.eye(k)[:, :, None] - AW
        Y = [sum(_scaled(E[a, b], B[b]) for b in range(k)) for a in range(k)]
        other = np.concatenate([np.arange(stops[t], stops[t + 1]) for t in rest])
        D, parts = _reduce(
            Y, C, dG[first], [T[t] for t in rest], [dG[t] for t in rest], cross, rest, groups
        )
        products[own, own] += parts[0] - _within(dG[first], R, D) - _within(dG[first], D, R)
        products[own, other] = parts[1]
        products[other, own] = parts[1].T
        products[np.ix_(other, other)] = parts[2]
        single[other] = parts[3]
    single[own] = np.einsum(
        "iab,ba->i", dG[first], (R - D).sum(axis=-1) if rest else R.sum(axis=-1)
    )
    return (products + products.T) / 2.0, single


def _joined(
    cross: CrossProducts, T: list[Array], dG: list[Array], groups: tuple[str, ...]
) -> tuple[Array, Array]:
    """The traces where rows meet several levels of every term: nothing is eliminated, so that C = Z'WZ."""
    terms = list(range(len(T)))
    size = sum(A.shape[0] * A.shape[-1] for A in cross.diag)
    _refuse(size, [(groups[t], cross.diag[t].shape[-1]) for t in terms])
    levels = [cross.diag[t].shape[-1] for t in terms]
    root, E = _of_levels(T, dG, levels, size)
    (_, _, products, single), _ = _component(_together(cross, terms).toarray(), root, [], E)
    return (products + products.T) / 2.0, single


def _within(dG: Array, left: Array, right: Array) -> Array:
    """sum_l tr(dG_i left_l dG_j right_l) for blocks (k, k, J), (m, m)."""
    k = len(left)
    pairs = (left.reshape(k * k, -1) @ right.reshape(k * k, -1).T).reshape(k, k, k, k)
    return np.asarray(np.einsum("iab,bcda,jcd->ij", dG, pairs, dG, optimize=True))


def _scaled(rows: Array, B: Any) -> Any:
    """Rows of a sparse matrix times one number each."""
    return sp.diags_array(rows) @ B


def _rest(cross: CrossProducts, first: int, rest: list[int], W: Array) -> tuple[list[Any], Any]:
    """B per column of the first term (J, q_r), and C (q_r, q_r), both sparse; columns term by term, a * J_t + level."""
    B = []
    for a in range(len(W)):
        blocks = []
        for t in rest:
            pairs = cross.pairs[min(first, t), max(first, t)]
            rows, cols, values = (
                (pairs.rows, pairs.cols, pairs.blocks)
                if first < t
                else (pairs.cols, pairs.rows, pairs.blocks)
            )
            own = values[a] if first < t else values[:, a]
            shape = (W.shape[-1], cross.diag[t].shape[-1])
            blocks += [sp.csr_array((own[b], (rows, cols)), shape=shape) for b in range(len(own))]
        B.append(sp.csr_array(sp.hstack(blocks, format="csr")))
    C = _together(cross, rest)
    for a in range(len(W)):
        for b in range(len(W)):
            C = C - B[a].T @ _scaled(W[a, b], B[b])
    return B, sp.csr_array(C)


def _together(cross: CrossProducts, terms: list[int]) -> sp.csr_array:
    """Z'WZ of some terms, sparse; columns term by term, a * J_t + level."""
    grid: list[list[sp.csr_array]] = []
    for t in terms:
        lines: list[list[sp.csr_array]] = [[] for _ in range(len(cross.diag[t]))]
        for s in terms:
            for a, line in enumerate(lines):
                line += _between(cross, t, s, a)
        grid += lines
    return sp.csr_array(sp.block_array(grid, format="csr"))


def _between(cross: CrossProducts, t: int, s: int, a: int) -> list[sp.csr_array]:
    """Column a of term t against the columns of term s: Z_t'WZ_s as sparse blocks (J_t, J_s)."""
    shape = (cross.diag[t].shape[-1], cross.diag[s].shape[-1])
    if t == s:
        out = [sp.csr_array(sp.diags_array(own)) for own in cross.diag[t][a]]
        if (t, t) not in cross.pairs:
            return out
        own = cross.pairs[t, t]
        upper = [
            sp.csr_array((block, (own.rows, own.cols)), shape=shape) for block in own.blocks[a]
        ]
        return [sp.csr_array(A + U + U.T) for A, U in zip(out, upper, strict=True)]
    pairs = cross.pairs[min(t, s), max(t, s)]
    if t < s:
        return [
            sp.csr_array((block, (pairs.rows, pairs.cols)), shape=shape)
            for block in pairs.blocks[a]
        ]
    return [
        sp.csr_array((block, (pairs.cols, pairs.rows)), shape=shape) for block in pairs.blocks[:, a]
    ]


def _reduce(
    Y: list[Any],
    C: Any,
    dG: Array,
    T: list[Array],
    rest_dG: list[Array],
    cross: CrossProducts,
    rest: list[int],
    groups: tuple[str, ...],
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """D (k, k, J), and the traces that involve the rest: (11), (1r), (rr), and tr(E_j Q_rr)."""
    k, J = len(Y), Y[0].shape[0]
    levels = [cross.diag[t].shape[-1] for t in rest]
    root, E = _of_levels(T, rest_dG, levels, C.shape[0])
    S_pairs = {(a, b): Y[a].T @ Y[b] for a in range(k) for b in range(k)}
    S = [sum(d[a, b] * S_pairs[a, b] for a in range(k) for b in range(k)) for d in dG]
    reach = sum(abs(own) for own in Y)
    joined = sum(
        (abs(e) for e in E), abs(C) + reach.T @ reach
    )  # S may join what C, with T zero, does not
    count, component = connected_components(joined, directed=False)
    sizes = np.bincount(component)
    _refuse(int(sizes.max()), [(groups[t], n) for t, n in zip(rest, levels, strict=True)])
    m, r = len(dG), len(E)
    eleven, mixed, rr, single = np.zeros((m, m)), np.zeros((m, r)), np.zeros((r, r)), np.zeros(r)
    K: Any
    if count == 1:
        dense = C.toarray(), root, [s.toarray() for s in S]
        parts, K = _component(*dense, E)
        for total, part in zip((eleven, mixed, rr, single), parts, strict=True):
            total += part
    else:
        rows, cols, values = [], [], []
        for index, stacks in _stacks([C, root, *S, *E], component, sizes):
            parts, own = _component(stacks[0], stacks[1], stacks[2 : 2 + m], stacks[2 + m :])
            for total, part in zip((eleven, mixed, rr, single), parts, strict=True):
                total += part
            rows.append(np.broadcast_to(index[:, :, None], own.shape).ravel())
            cols.append(np.broadcast_to(index[:, None, :], own.shape).ravel())
            values.append(own.ravel())
        K = sp.csr_array(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=C.shape
        )
    D = np.empty((k, k, J))
    step = max(1, BLOCK // C.shape[0]) if count == 1 else J
    for start in range(0, J, step):
        for a in range(k):
            YK = Y[a][start : start + step] @ K
            for b in range(a + 1):
                D[a, b, start : start + step] = Y[b][start : start + step].multiply(YK).sum(axis=1)
                D[b, a, start : start + step] = D[a, b, start : start + step]
    return D, (eleven, mixed, rr, single)


def _refuse(size: int, factors: list[tuple[str, int]]) -> None:
    """CapacityError where the dense matrix of crossed factors, with their levels, has too many columns."""
    if size > LIMIT:
        names = ", ".join(f"{group} ({n} levels)" for group, n in factors)
        raise CapacityError(
            f"Kenward-Roger needs a dense matrix for the crossed grouping factors {names}: {size} columns, and it stops at {LIMIT}. "
            "ddf='satterthwaite' has no such limit, and with so many levels the two agree."
        )


def _of_levels(
    T: list[Array], dG: list[Array], levels: list[int], size: int
) -> tuple[sp.csr_array, list[sp.csr_array]]:
    """T of each term and dG of each direction, repeated over the levels, as sparse matrices (size, size)."""
    repeated = [sp.kron(own, sp.eye_array(n)) for own, n in zip(T, levels, strict=True)]
    E, at = [], 0
    for d, n in zip(dG, levels, strict=True):
        for one in d:
            block = sp.coo_array(sp.kron(sp.coo_array(one), sp.eye_array(n)))
            place = (block.row + at, block.col + at)
            E.append(sp.csr_array((block.data, place), shape=(size, size)))
        at += d.shape[1] * n
    return sp.csr_array(sp.block_diag(repeated, format="csr")), E


def _stacks(
    matrices: list[Any], component: Array, sizes: Array
) -> Iterator[tuple[Array, list[Array]]]:
    """Blocks of sparse matrices by component, all components of one size at a time: columns (N, s), and per matrix (N, s, s)."""
    order = np.argsort(component, kind="stable")
    start = np.cumsum(sizes) - sizes
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order)) - start[component[order]]
    entries = [sp.coo_array(matrix) for matrix in matrices]
    for s in np.unique(sizes):
        chosen = np.flatnonzero(sizes == s)
        number = np.full(len(sizes), -1)
        number[chosen] = np.arange(len(chosen))
        stacks = []
        for matrix in entries:
            which = number[component[matrix.row]]
            use = which >= 0
            out = np.zeros((len(chosen), s, s))
            np.add.at(
                out, (which[use], place[matrix.row[use]], place[matrix.col[use]]), matrix.data[use]
            )
            stacks.append(out)
        yield order[start[chosen][:, None] + np.arange(s)], stacks


def _component(
    C: Array, root: Any, S: list[Array], E: list[Any]
) -> tuple[tuple[Array, Array, Array, Array], Array]:
    """Traces within a component, or a stack of them, and K. Of a single component ``root`` and E are sparse."""
    s, turned = C.shape[-1], root.T if C.ndim == 2 else root.swapaxes(-1, -2)
    with threads.for_flops(10.0 * s**3 * (C.shape[0] if C.ndim == 3 else 1)):
        C = (C + C.swapaxes(-1, -2)) / 2.0
        K = root @ _inverse(turned @ C @ root + np.eye(s)) @ turned
        H = np.eye(s) - C @ K
        Q = H @ C
        SK = [one @ K for one in S]
        HS = [H @ one for one in S]
    EQ = [one @ Q for one in E]
    eleven = np.array([[np.sum(a * b.swapaxes(-1, -2)) for b in SK] for a in SK])
    mixed = np.array([[np.sum((e @ u) * H) for e in E] for u in HS])
    rr = np.array([[np.sum(a * b.swapaxes(-1, -2)) for b in EQ] for a in EQ])
    single = np.array([np.trace(one, axis1=-2, axis2=-1).sum() for one in EQ])
    return (eleven, mixed, rr, single), K


def _inverse(M: Array) -> Array:
    """Inverse of positive definite M, or of a stack."""
    if M.ndim == 3:
        return np.asarray(np.linalg.inv(M))
    factor, info = lapack.dpotrf(M, lower=1, clean=0)
    if info != 0:
        raise np.linalg.LinAlgError("the crossed factors' system is not positive definite")
    lower = np.tril(lapack.dpotri(factor, lower=1)[0])
    return np.asarray(lower + np.tril(lower, -1).T)
