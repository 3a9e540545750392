"""The deviance of a linear mixed model, -2 (restricted) log-likelihood, its gradient and average information.

y ~ N(X beta, sigma^2 V), V = W^-1 + Z G Z', G block-diagonal with one G_t = T_t T_t' per level of
term t. With beta and sigma^2 profiled out, N = n (ML) or n - p (REML), r2 = y'Py and sigma^2 = r2 / N,

    d = log|M| [+ log|X'V^-1X|] + N (1 + log(2 pi r2 / N)) - sum log w,     M = I + T'Z'WZT.

With X = Q R, Q'WQ = I, log|X'V^-1X| = log|Q'V^-1Q| + log|X'WX|: :class:`Data` holds Q and the constants.

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

from collections.abc import Callable
from typing import Any, NamedTuple

from lmm.linalg import elimination, tail
from lmm.linalg.elimination import EliminatedSystem, Reduced, System, Vectors

Array = Any


class Data(NamedTuple):
    """Everything the criterion needs of the data: arrays only.

    ``rhs`` holds Z'W[X y] per member (p + 1, k, J) and for the tail (p + 1, q); ``gram`` is
    [X y]'W[X y]; ``degrees`` is N; X orthonormal (X'WX = I), y the least-squares residual. ``variance`` is sigma^2
    where the kernels are told that it is ``known``; ``constant`` is -sum log w, of REML + log|X'WX|. ``iterative`` holds
    Z'W[X y] (p + 1, q) of terms solved iteratively.
    """

    system: System
    rhs: Vectors
    gram: Array
    degrees: Array
    variance: Array = 1.0
    constant: Array = 0.0
    iterative: Array = ()


class Profiled(NamedTuple):
    """-2 (restricted) log-likelihood, constants included, and what is profiled out on the way."""

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

    factor: EliminatedSystem
    modes: Vectors  # (A + G^-1)^-1 Z'W[X y]
    residuals: Vectors  # Z'V^-1[X y]


class Head(NamedTuple):
    """What profiling beta out of [X y]'V^-1[X y] leaves: root'root = (X'V^-1X)^-1, r2 = y'Py, and log|X'V^-1X|."""

    beta: Array
    root: Array
    r2: Array
    logdet: Array


def profile_fixed(xp: Any, gram: Array) -> Head:
    """Profile beta out of [X y]'V^-1[X y] (p + 1, p + 1)."""
    p = gram.shape[0] - 1
    if not p:
        return Head(xp.zeros(0), xp.zeros((0, 0)), gram[0, 0], 0.0)
    lower = xp.linalg.cholesky(gram[:p, :p])
    root = xp.linalg.solve(lower, xp.eye(p))
    z = root @ gram[:p, p]
    return Head(root.T @ z, root, gram[p, p] - z @ z, 2.0 * xp.sum(xp.log(xp.diagonal(lower))))


def objective(
    xp: Any,
    logdet: Array,
    head: Head,
    degrees: Array,
    constant: Array,
    reml: bool,
    variance: Array | None = None,
) -> Array:
    """-2 (restricted) log-likelihood from log|M| and what profiling beta out left; ``variance`` is sigma^2 where it is known."""
    s2, squares = (
        (head.r2 / degrees, degrees) if variance is None else (variance, head.r2 / variance)
    )
    out = logdet + squares + degrees * xp.log(2.0 * xp.pi * s2) + constant
    return out + head.logdet if reml else out


def profile(
    xp: Any, data: Data, logdet: Array, inner: Array, reml: bool, known: bool
) -> tuple[Profiled, Array]:
    """Profile beta and, unless it is known, sigma^2, given log|M| and [X y]'WZ (Z'WZ + G^-1)^-1 Z'W[X y].

    Returns also the inverse of the Cholesky factor of X'V^-1X.
    """
    head = profile_fixed(xp, data.gram - inner)
    variance = data.variance if known else None
    value = objective(xp, logdet, head, data.degrees, data.constant, reml, variance)
    return Profiled(value, head.beta, head.root.T @ head.root, head.r2), head.root


def _head(
    xp: Any,
    data: Data,
    chain_T: list[Array],
    tail_T: list[Array],
    layout: tail.Layout,
    reml: bool,
    known: bool,
) -> tuple[Profiled, EliminatedSystem, Reduced, Array]:
    """Factor, eliminate [X y] and profile; also the inverse of the Cholesky factor of X'V^-1X."""
    factor = elimination.factorize(xp, data.system, chain_T, layout, tail_T)
    reduced = elimination.reduce(xp, factor, layout, tail_T, data.rhs)
    val, root = profile(xp, data, factor.logdet, elimination.inner(reduced), reml, known)
    return val, factor, reduced, root


def deviance(
    xp: Any,
    data: Data,
    chain_T: list[Array],
    tail_T: list[Array],
    layout: tail.Layout,
    reml: bool,
    known: bool = False,
) -> Profiled:
    """-2 (restricted) log-likelihood at T per term, constants included; ``known``: sigma^2 is ``data.variance``."""
    return _head(xp, data, chain_T, tail_T, layout, reml, known)[0]


def state(
    xp: Any, data: Data, chain_T: list[Array], tail_T: list[Array], layout: tail.Layout, reml: bool
) -> tuple[Profiled, State]:
    """The deviance with the factor and the modes of X and y, for what follows a fit."""
    val, factor, reduced, _ = _head(xp, data, chain_T, tail_T, layout, reml, False)
    modes, residuals = elimination.solve(
        xp, factor, layout, tail_T, reduced, (False,) * len(layout)
    )
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
) -> tuple[Profiled, Derivatives]:
    """The deviance, D per term, and the average information along the directions dG (m_t, k, k) of each term."""
    val, factor, reduced, root = _head(xp, data, chain_T, tail_T, layout, reml, known)
    solved, residuals = elimination.solve(xp, factor, layout, tail_T, reduced, well)
    combine = xp.concatenate([-val.beta, xp.ones(1)])
    s2 = data.variance if known else val.r2 / data.degrees
    count = len(chain_T)
    each = [*residuals.chain, *slots(residuals.tail, layout)]  # (p + 1, k, J) per term
    traces = exact_traces(xp, factor, layout, tail_T, well)
    e, D = score(xp, traces, each, combine, root, s2, reml)

    def quadratic(v: list[Array]) -> Array:
        own = Vectors(tuple(v[:count]), beside(xp, v[count:], len(v[0])))
        Av = elimination.multiply(xp, data.system, own)
        return _dot(own, Av) - elimination.inner(elimination.reduce(xp, factor, layout, tail_T, Av))

    AI = average_information(
        xp,
        data,
        val,
        quadratic,
        [f[:-1] for f in each],
        root,
        e,
        list(chain_dG) + list(tail_dG),
        known,
    )
    modes = Vectors(
        tuple(xp.tensordot(combine, v, 1)[None] for v in solved.chain),
        (combine @ solved.tail)[None],
    )
    return val, Derivatives(tuple(D), AI, modes)


def slots(rest: Array, layout: tail.Layout) -> list[Array]:
    """Columns of the tail (r, q) per term, (r, k, J)."""
    return [rest[:, slot.columns].reshape(len(rest), slot.k, slot.J) for slot in layout]


def beside(xp: Any, parts: list[Array], r: int) -> Array:
    """The inverse of :func:`slots` for r vectors."""
    flat = [part.reshape(r, part.shape[1] * part.shape[2]) for part in parts]
    return xp.concatenate(flat, axis=1) if flat else xp.zeros((r, 0))


def exact_traces(
    xp: Any,
    factor: EliminatedSystem,
    layout: tail.Layout,
    tail_T: list[Array],
    well: tuple[bool, ...],
) -> list[Array]:
    """sum_j Q_jj (k, k) per term of the chain, then of the tail."""
    if not layout:
        return elimination.traces(xp, factor, None)
    Sinv = tail.inverse(xp, factor.tail)
    dense = (
        not all(well)
        or any(slot.k > 1 for slot in layout)
        or any(m.coupling is not None and m.coupling.full for m in factor.chain)
    )
    if dense:
        Sinv = tail.symmetrize(xp, Sinv)
    inverse_traces = [tail.block_trace(xp, slot, Sinv) for slot in layout]
    K = tail.sandwich(xp, layout, tail_T, Sinv, transpose=False, overwrite=True)
    D = elimination.traces(xp, factor, K)
    C = factor.C if all(well) else tail.symmetrize(xp, factor.C)
    return D + tail.traces(xp, layout, tail_T, well, C, inverse_traces, K)


def score(
    xp: Any,
    traces: list[Array],
    residuals: list[Array],
    combine: Array,
    root: Array,
    s2: Array,
    reml: bool,
) -> tuple[list[Array], list[Array]]:
    """e = Z'Py (k, J) and D (k, k) per term, from sum_j Q_jj and Z'V^-1[X y] (p + 1, k, J) of each."""
    e, D = [], []
    for trace, each in zip(traces, residuals, strict=True):
        own = xp.tensordot(combine, each, 1)
        d = trace - (own @ own.T) / s2
        if reml and len(combine) > 1:
            half = xp.tensordot(root, each[:-1], 1)  # (p, k, J)
            half = xp.swapaxes(half, 0, 1).reshape(each.shape[1], -1)
            d = d - half @ half.T
        e.append(own)
        D.append(d)
    return e, D


def average_information(
    xp: Any,
    data: Data,
    val: Profiled,
    quadratic: Callable[[list[Array]], Array],
    fixed: list[Array],
    root: Array,
    es: list[Array],
    dGs: list[Array],
    known: bool,
) -> Array:
    """AI (m, m), terms as they come: each direction is one more vector v_i = dG_i e in its own term.

    ``quadratic`` gives v'Qv, Q = A - A (A + G^-1)^-1 A, for v (m, k, J) per term; ``fixed`` is Z'V^-1X (p, k, J) per term.
    """
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
        parts = [
            xp.zeros((start, *own.shape[1:])),
            own,
            xp.zeros((m - start - len(own), *own.shape[1:])),
        ]
        return xp.concatenate(parts)

    v = [spread(own, start) for start, own in v_all]
    quad = quadratic(v)
    if len(root):
        onto = root @ sum(
            f.reshape(len(f), -1) @ own.reshape(m, -1).T for f, own in zip(fixed, v, strict=True)
        )
        quad = quad - onto.T @ onto
    rho = xp.zeros(m)
    for (start, own), e in zip(v_all, es, strict=True):
        part = own.reshape(len(own), -1) @ e.reshape(-1)
        rho = rho + xp.concatenate([xp.zeros(start), part, xp.zeros(m - start - len(own))])
    variance = data.variance if known else None
    AI = second_derivatives(None, quad, rho, val.r2, data.degrees, variance)
    return (AI + AI.T) / 2


def second_derivatives(
    trace: Array | None,
    quad: Array,
    rho: Array,
    r2: Array | float,
    degrees: Array | float,
    variance: Array | float | None = None,
) -> Array:
    """d2d / dG_i dG_j (m, m[, R]) along the directions, or the average information where no ``trace`` is given.

    ``quad`` is v_i'Q_P v_j and ``rho`` e'v_i; ``variance`` is sigma^2 where it is known.
    """
    twice = 1.0 if trace is None else 2.0
    if variance is None:
        share = rho / r2  # not squares of r2, which a small unit of the response would lose
        out = degrees * (twice * quad / r2 - share[:, None] * share)
    else:
        out = twice * quad / variance
    return out if trace is None else out - trace


def _dot(a: Vectors, b: Vectors) -> Array:
    """a b' over the whole space of the random effects: (r, r')."""
    total = a.tail @ b.tail.T
    for x, y in zip(a.chain, b.chain, strict=True):
        total = total + x.reshape(len(x), -1) @ y.reshape(len(y), -1).T
    return total
