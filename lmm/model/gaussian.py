"""The profiled criterion of a linear mixed model, its gradient and average information.

y ~ N(X beta, sigma^2 V), V = W^-1 + Z G Z', G block-diagonal with one G_t = T_t T_t' per level of
term t. With beta and sigma^2 profiled out, N = n (ML) or n - p (REML), r2 = y'Py and sigma^2 = r2 / N,

    d = log|M| [+ log|X'V^-1X|] + N (1 + log(2 pi r2 / N)) - sum log w,     M = I + T'Z'WZT.

For e = Z'Py and Q_P = Z'PZ (REML; Z'V^-1Z for ML), the derivative with respect to G_t is the k x k matrix

    D_t = sum_j [Q_P]_jj - e e' / sigma^2,

valid where T_t is singular or zero. Directions dG_i of the parameters give the gradient <D, dG_i>
and the average information, in which the traces of second derivatives cancel:

    AI_ij = N (f_i'P f_j / r2 - rho_i rho_j / r2^2),   f_i = Z dG_i e,   rho_i = e' dG_i e.

With sigma^2 known only beta is profiled out: d = log|M| [+ log|X'V^-1X|] + r2 / sigma^2 + N log(2 pi sigma^2) - sum log w,
D has that sigma^2, and AI_ij = f_i'P f_j / sigma^2.

References: Bates et al. (2015), J. Stat. Softw. 67(1), eqs. 34-42; Gilmour, Thompson & Cullis (1995),
Biometrics 51 (average information); Johnson & Thompson (1995), J. Dairy Sci. 78.

The kernel is written once against an array namespace: eager under NumPy, jitted under JAX.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lmm.linalg import elimination, tail
from lmm.linalg.elimination import Factor, Reduced, System, Vectors

Array = Any


class Data(NamedTuple):
    """Everything the criterion needs of the data: arrays only.

    ``rhs`` holds Z'W[X y] per member (p + 1, k, J) and for the tail (p + 1, q); ``gram`` is
    [X y]'W[X y]; ``degrees`` is N; X orthonormal (X'WX = I), y the least-squares residual. ``variance`` is sigma^2
    where the kernels are told that it is ``known``.
    """

    system: System
    rhs: Vectors
    gram: Array
    degrees: Array
    variance: Array = 1.0


class Value(NamedTuple):
    """The criterion without its constant in sum log w, and what is profiled out on the way."""

    objective: Array
    beta: Array
    cov: Array  # (X'V^-1X)^-1
    r2: Array


class Derivatives(NamedTuple):
    """D_t (k, k) per term of the chain, then of the tail; AI (m, m) in the order of the directions; modes b (1, k, J)."""

    D: tuple[Array, ...]
    AI: Array
    modes: Vectors


class State(NamedTuple):
    """The factor at given T with the solved right-hand sides."""

    factor: Factor
    modes: Vectors  # (A + G^-1)^-1 Z'W[X y]
    residuals: Vectors  # Z'V^-1[X y]


def _head(
    xp: Any, data: Data, chain_T: list[Array], tail_T: list[Array], layout: tail.Layout, reml: bool, known: bool
) -> tuple[Value, Factor, Reduced, Array]:
    """Factor, eliminate [X y], profile beta and, unless it is known, sigma^2; also the Cholesky factor of X'V^-1X."""
    factor = elimination.factorize(xp, data.system, chain_T, layout, tail_T)
    reduced = elimination.reduce(xp, factor, layout, tail_T, data.rhs)
    gram = data.gram - elimination.inner(reduced)
    p = gram.shape[0] - 1
    degrees = data.degrees
    r2 = gram[p, p]
    beta, cov, logdet = xp.zeros(p), xp.zeros((p, p)), 0.0
    root = cov
    if p:
        root = xp.linalg.cholesky(gram[:p, :p])
        half = xp.linalg.solve(root, xp.eye(p))
        cov = half.T @ half
        z = half @ gram[:p, p]
        beta = half.T @ z
        r2 = r2 - z @ z
        logdet = 2.0 * xp.sum(xp.log(xp.diagonal(root)))
        root = half
    s2 = data.variance if known else r2 / degrees
    objective = factor.logdet + r2 / s2 + degrees * xp.log(2.0 * xp.pi * s2)
    if reml:
        objective = objective + logdet
    return Value(objective, beta, cov, r2), factor, reduced, root


def value(xp: Any, data: Data, chain_T: list[Array], tail_T: list[Array], layout: tail.Layout, reml: bool, known: bool = False) -> Value:
    """The criterion alone; ``known``: sigma^2 is ``data.variance``."""
    return _head(xp, data, chain_T, tail_T, layout, reml, known)[0]


def state(xp: Any, data: Data, chain_T: list[Array], tail_T: list[Array], layout: tail.Layout, reml: bool) -> tuple[Value, State]:
    """The criterion with the factor and the modes of X and y, for what follows a fit."""
    val, factor, reduced, _ = _head(xp, data, chain_T, tail_T, layout, reml, False)
    modes, residuals = elimination.solve(xp, factor, layout, tail_T, reduced, (False,) * len(layout))
    return val, State(factor, modes, residuals)


def derivatives(
    xp: Any,
    data: Data,
    chain_T: list[Array],
    tail_T: list[Array],
    chain_dG: list[Array],
    tail_dG: list[Array],
    layout: tail.Layout,
    well: tuple[bool, ...],
    reml: bool,
    known: bool = False,
) -> tuple[Value, Derivatives]:
    """The criterion, D per term, and the average information along the directions dG (m_t, k, k) of each term."""
    val, factor, reduced, root = _head(xp, data, chain_T, tail_T, layout, reml, known)
    solved, residuals = elimination.solve(xp, factor, layout, tail_T, reduced, well)
    combine = xp.concatenate([-val.beta, xp.ones(1)])
    s2 = data.variance if known else val.r2 / data.degrees

    e_chain = [xp.tensordot(combine, v, 1) for v in residuals.chain]  # (k, J)
    e_tail = combine @ residuals.tail
    e_slots = [e_tail[slot.columns].reshape(slot.k, slot.J) for slot in layout]
    p = len(val.beta)

    K = None
    D = []
    if layout:
        Sinv = tail.inverse(xp, factor.tail)
        dense = not all(well) or any(slot.k > 1 for slot in layout) or any(m.coupling is not None and m.coupling.full for m in factor.chain)
        if dense:
            Sinv = tail.symmetrize(xp, Sinv)
        inverse_traces = [tail.block_trace(xp, slot, Sinv) for slot in layout]
        K = tail.sandwich(xp, layout, tail_T, Sinv, transpose=False, overwrite=True)
    D = elimination.traces(xp, factor, K)
    if layout:
        C = factor.C if all(well) else tail.symmetrize(xp, factor.C)
        D = D + tail.traces(xp, layout, tail_T, well, C, inverse_traces, K)
    if reml and p:
        fixed = [v[:p] for v in residuals.chain] + [residuals.tail[:p, slot.columns].reshape(p, slot.k, slot.J) for slot in layout]
        for t, F in enumerate(fixed):
            half = xp.tensordot(root, F, 1)  # (p, k, J)
            half = xp.swapaxes(half, 0, 1).reshape(F.shape[1], -1)
            D[t] = D[t] - half @ half.T
    for t, e in enumerate(e_chain + e_slots):
        D[t] = D[t] - (e @ e.T) / s2

    AI = _average_information(xp, data, factor, layout, tail_T, residuals, root, val, e_chain, e_slots, chain_dG, tail_dG, known)
    modes = Vectors(tuple(xp.tensordot(combine, v, 1)[None] for v in solved.chain), (combine @ solved.tail)[None])
    return val, Derivatives(tuple(D), AI, modes)


def _average_information(
    xp: Any,
    data: Data,
    factor: Factor,
    layout: tail.Layout,
    tail_T: list[Array],
    residuals: Vectors,
    root: Array,
    val: Value,
    e_chain: list[Array],
    e_slots: list[Array],
    chain_dG: list[Array],
    tail_dG: list[Array],
    known: bool,
) -> Array:
    """AI (m, m): each direction is one more right-hand side A v_i, v_i = dG_i e in its own term."""
    dGs, es = list(chain_dG) + list(tail_dG), e_chain + e_slots
    m = sum(len(dG) for dG in dGs)
    v_all, at = [], 0
    for dG, e in zip(dGs, es, strict=True):
        own = (dG.reshape(-1, len(e)) @ e).reshape(len(dG), *e.shape)
        v_all.append((at, own))
        at += len(dG)

    def spread(own: Array, start: int) -> Array:
        """Own directions among all m: zeros elsewhere."""
        if len(own) == m:
            return own
        parts = [xp.zeros((start, *own.shape[1:])), own, xp.zeros((m - start - len(own), *own.shape[1:]))]
        return xp.concatenate(parts)

    chain = tuple(spread(own, start) for start, own in v_all[: len(e_chain)])
    slots = [spread(own, start).reshape(m, -1) for start, own in v_all[len(e_chain) :]]
    v = Vectors(chain, xp.concatenate(slots, axis=1) if slots else xp.zeros((m, 0)))
    Av = elimination.multiply(xp, data.system, v)
    reduced = elimination.reduce(xp, factor, layout, tail_T, Av)
    quad = _dot(v, Av) - elimination.inner(reduced)
    p = len(val.beta)
    if p:
        onto = root @ _dot(Vectors(tuple(f[:p] for f in residuals.chain), residuals.tail[:p]), v)
        quad = quad - onto.T @ onto
    if known:
        AI = quad / data.variance
        return (AI + AI.T) / 2
    rho = xp.zeros(m)
    for (start, own), e in zip(v_all, es, strict=True):
        part = own.reshape(len(own), -1) @ e.reshape(-1)
        rho = rho + xp.concatenate([xp.zeros(start), part, xp.zeros(m - start - len(own))])
    r2 = val.r2
    AI = data.degrees * (quad / r2 - rho[:, None] * rho[None] / r2**2)
    return (AI + AI.T) / 2


def _dot(a: Vectors, b: Vectors) -> Array:
    """a b' over the whole space of the random effects: (r, r')."""
    total = a.tail @ b.tail.T
    for x, y in zip(a.chain, b.chain, strict=True):
        total = total + x.reshape(len(x), -1) @ y.reshape(len(y), -1).T
    return total
