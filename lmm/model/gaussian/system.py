"""Cross-products arranged for elimination, with X made orthonormal and y replaced by its residual.

With X = QR (Q'WQ = I) and y0 = y - X beta_0 the least-squares residual, the model in (Q, y0) has the
same random effects, sigma and criterion; beta = beta_0 + R^-1 gamma, and log|X'V^-1X| =
log|Q'V^-1Q| + 2 log|R|. Nothing is then badly scaled, whatever the user's columns are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg import solve_triangular

from lmm.linalg import coupling as couplings
from lmm.linalg.coupling import Coupling, Entries
from lmm.linalg.devices.backend import bucket
from lmm.linalg.elimination import Member, Parent, System
from lmm.linalg.krylov import Coupled, Joint
from lmm.linalg.plan import Plan, TermSize, make_layout, make_plan
from lmm.linalg.sparse.sparse_product import Product, make_product
from lmm.linalg.tail import size
from lmm.model.gaussian.crossproducts import CrossProducts, dense_pairs


def plan_for(
    cross: CrossProducts,
    groups: tuple[str, ...],
    backend: str = "numpy",
    factorization: str = "exact",
) -> Plan:
    """The plan for these cross-products: t is nested in s when every level of t meets one level of s."""
    terms = tuple(
        TermSize(g, d.shape[0], d.shape[-1], several=(t, t) in cross.pairs)
        for t, (g, d) in enumerate(zip(groups, cross.diag, strict=True))
    )
    nested = {key: len(pairs.rows) == terms[key[0]].J for key, pairs in cross.pairs.items()}
    return make_plan(terms, nested, backend, factorization)


def make_system(cross: CrossProducts, plan: Plan, dense: bool = False) -> System:
    """Z'WZ in the plan's arrangement; ``dense`` insists on dense couplings."""
    q = size(plan.layout)
    members = []
    for i, t in enumerate(plan.chain):
        parents = tuple(_parent(cross, t, s) for s in plan.chain[i + 1 :])
        coupling = (
            _coupling(cross, plan, t, force_dense=dense or len(plan.chain) > 1) if q else None
        )
        members.append(Member(cross.diag[t], parents, coupling))
    C = np.zeros((q, q))
    for slot, t in zip(plan.layout, plan.tail, strict=True):
        level = np.arange(slot.J)
        for a in range(slot.k):
            for b in range(slot.k):
                C[slot.offset + a * slot.J + level, slot.offset + b * slot.J + level] = cross.diag[
                    t
                ][a, b]
        if plan.terms[t].several:
            block = dense_pairs(cross.pairs[t, t], slot.J, slot.J)
            C[slot.columns, slot.columns] += block + block.T
        for other, s in zip(plan.layout, plan.tail, strict=True):
            if t < s:
                block = dense_pairs(cross.pairs[t, s], slot.J, other.J)
                C[slot.columns, other.columns] = block
                C[other.columns, slot.columns] = block.T
    return System(tuple(members), C)


def make_coupled(cross: CrossProducts, plan: Plan) -> Coupled:
    """How the plan's iterative terms lie in Z'WZ: to each other, to the first exact term, and to the other exact ones."""

    def joined(row: int, col: int) -> Product:
        J_row, J_col = cross.diag[row].shape[-1], cross.diag[col].shape[-1]
        if row < col:
            pairs = cross.pairs[row, col]
            return make_product(pairs.rows, pairs.cols, pairs.blocks, J_row, J_col, plan.backend)
        pairs = cross.pairs[col, row]
        order = np.argsort(pairs.cols, kind="stable")
        blocks = np.swapaxes(pairs.blocks, 0, 1)[..., order]
        return make_product(
            pairs.cols[order], pairs.rows[order], blocks, J_row, J_col, plan.backend
        )

    def first(a: int) -> Joint:
        product = joined(plan.chain[0], a)
        blocks = cross.pairs[min(plan.chain[0], a), max(plan.chain[0], a)].blocks
        if blocks.shape[:2] != (1, 1):
            return Joint(product, None)
        plain = bool(np.all((blocks == 1.0) | (blocks == 0.0)))
        return Joint(product, product if plain else product.entry_products(0, 0, 0, 0))

    return Coupled(
        own=tuple(cross.diag[a] for a in plan.iterative),
        among=tuple(
            tuple(joined(a, b) for b in plan.iterative[i + 1 :])
            for i, a in enumerate(plan.iterative)
        ),
        first=tuple(first(a) for a in plan.iterative),
        others=tuple(
            tuple(joined(e, a) for e in plan.chain[1:] + plan.tail) for a in plan.iterative
        ),
    )


def pad(cross: CrossProducts, plan: Plan) -> tuple[CrossProducts, Plan]:
    """Levels padded to bucketed counts, so that compiled kernels serve many data sets.

    A level without data has zero cross-products: it adds log 1 = 0 to the criterion and nothing else.
    """
    terms = tuple(replace(size, J=bucket(size.J)) for size in plan.terms)

    def wider(array: np.ndarray, J: int) -> np.ndarray:
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, J - array.shape[-1])])

    diag = tuple(wider(a, size.J) for a, size in zip(cross.diag, terms, strict=True))
    rhs = tuple(wider(a, size.J) for a, size in zip(cross.rhs, terms, strict=True))
    return replace(cross, diag=diag, rhs=rhs), replace(
        plan, terms=terms, layout=make_layout(terms, plan.tail)
    )


def orthonormal(columns: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Z'WX (p, ...) as Z'WQ = Z'WX R^-1."""
    if not len(R):
        return columns
    flat = solve_triangular(R, columns.reshape(len(R), -1), trans="T")
    return np.asarray(flat).reshape(columns.shape)


def _parent(cross: CrossProducts, t: int, s: int) -> Parent:
    pairs = cross.pairs[t, s]
    more = cross.diag[t].shape[-1] - len(pairs.rows)  # levels that only pad
    index = np.pad(pairs.cols.astype(np.intp), (0, more))
    return Parent(
        index, np.pad(pairs.blocks, [(0, 0), (0, 0), (0, more)]) if more else pairs.blocks
    )


def _coupling(cross: CrossProducts, plan: Plan, t: int, force_dense: bool) -> Coupling:
    """The joined columns of all tail terms, sorted by level of t."""
    level, col, val = [], [], []
    for slot, s in zip(plan.layout, plan.tail, strict=True):
        key = (t, s) if t < s else (s, t)
        pairs = cross.pairs[key]
        own, other, blocks = (
            (pairs.rows, pairs.cols, pairs.blocks)
            if t < s
            else (pairs.cols, pairs.rows, np.swapaxes(pairs.blocks, 0, 1))
        )
        for b in range(slot.k):
            level.append(own)
            col.append(slot.offset + b * slot.J + other)
            val.append(blocks[:, b])
    levels = np.concatenate(level)
    order = (
        np.argsort(levels, kind="stable")
        if len(level) > 1 or np.any(levels[1:] < levels[:-1])
        else slice(None)
    )
    entries = Entries(
        levels[order].astype(np.intp),
        np.concatenate(col)[order].astype(np.intp),
        np.concatenate(val, axis=1)[:, order],
    )
    J, q = cross.diag[t].shape[-1], size(plan.layout)
    if force_dense:
        return couplings.dense(entries, J, q)
    choose = couplings.choose_for_jax if plan.backend == "jax" else couplings.choose
    return choose(entries, J, q)
