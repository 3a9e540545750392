"""The exact Hessian of the profiled criterion in theta.

With E_i the block-diagonal matrix that repeats dG_i over the levels of its term, e = Z'Py, v_i = E_i e,
rho_i = e'v_i and Q_P = Z'PZ (REML; Z'V^-1Z in the trace for ML),

    d2d/dG_i dG_j = -tr(E_i Q E_j Q) + N (2 v_i'Q_P v_j / r2 - rho_i rho_j / r2^2),

and the chain rule adds <D, d2G_i / dtheta dtheta'>. The trace needs all of Q: per level for a single
grouping factor, as a dense (q, q) matrix otherwise, and above a size by central differences of the
exact gradient (error 1e-9 relative). With sigma^2 known the last two terms are 2 v_i'Q_P v_j / sigma^2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lmm.linalg import small
from lmm.linalg.plan import Plan
from lmm.model.gaussian import dense_effects
from lmm.model.gaussian.batched import Stacked
from lmm.model.gaussian.crossproducts import CrossProducts, dense_matrix
from lmm.model.gaussian.deviance import Head, profile_fixed, second_derivatives

#: random effects up to which the dense matrix is formed (8 q^2 bytes, 4 q^3 flops)
DENSE_LIMIT = 5_000


class Pieces(NamedTuple):
    """Contractions over levels, along all directions in the design's order.

    ``trace`` = tr(E_i Q E_j Q), ``quad`` = v_i'Q_P v_j and ``rho``. ``logdet`` = log|M|, ``head`` what is profiled out;
    ``Q`` = sum_j [Q_P]_jj and ``E`` = e e' per term (k, k), so that D = Q - E / sigma^2.
    """

    trace: np.ndarray
    quad: np.ndarray
    rho: np.ndarray
    logdet: float
    head: Head
    Q: list[np.ndarray]
    E: list[np.ndarray]


def is_cheap(plan: Plan, limit: int) -> bool:
    """Whether the exact Hessian costs no more than a few evaluations: one factor, or at most ``limit`` random effects."""
    return plan.by_level or sum(size.k * size.J for size in plan.terms) <= limit


def pieces(
    cross: CrossProducts,
    rhs: list[np.ndarray],
    gram: np.ndarray,
    T: list[np.ndarray],
    dG: list[np.ndarray],
    reml: bool,
) -> Pieces:
    """The contractions at given T: ``rhs`` (p + 1, k, J) per term and ``gram`` (p + 1, p + 1) with X orthonormal."""
    if len(T) == 1 and not cross.pairs:
        return _one_factor(cross, rhs[0], gram, T[0], dG[0], reml)
    return _dense(cross, rhs, gram, T, dG, reml)


def _one_factor(
    cross: CrossProducts,
    rhs: np.ndarray,
    gram: np.ndarray,
    T: np.ndarray,
    dG: np.ndarray,
    reml: bool,
) -> Pieces:
    A = cross.diag[0]
    k, _, J = A.shape
    _, W, logdet = small.whiten(np, A, T)
    Wr = small.apply(W, rhs)
    flat = rhs.reshape(len(rhs), -1)
    head = profile_fixed(np, gram - flat @ Wr.reshape(len(rhs), -1).T)
    F = rhs - small.apply(A, Wr)
    p = len(head.beta)
    e = F[p] - np.tensordot(head.beta, F[:p], 1)
    Q = A - small.multiply(small.multiply(A, W), A)
    R = np.tensordot(head.root, F[:p], 1)
    v = (dG.reshape(-1, k) @ e).reshape(len(dG), k, J)
    onto = R.reshape(p, k * J) @ v.reshape(len(dG), -1).T
    quad = v.reshape(len(dG), -1) @ small.apply(Q, v).reshape(len(dG), -1).T - onto.T @ onto
    summed = Q.sum(axis=-1)
    rho = np.einsum("aj,iaj->i", e, v)
    if k > 2 * len(dG):
        trace = _traces(dG, Q, R if reml else R[:0])
        if reml:
            summed = summed - np.tensordot(R, R, ((0, 2), (0, 2)))
        return Pieces(trace, quad, rho, float(np.sum(logdet)), head, [summed], [e @ e.T])
    pairs = Q.reshape(k * k, J)
    total, between = pairs @ pairs.T, 0.0
    if reml and p:
        own = np.einsum("paj,pbj->abj", R, R).reshape(k * k, J)
        mixed = pairs @ own.T
        RR = np.einsum("paj,qbj->abpq", R, R, optimize=True).reshape(k * k, p * p)
        # sum_jl (R_j'R_l)[b, c] (R_j'R_l)[a, d] = sum_pq (sum_j R_pb R_qa) (sum_l R_pc R_qd)
        between = (RR @ RR.T).reshape(k, k, k, k).transpose(0, 2, 3, 1)
        total = total - mixed - mixed.T
        summed = summed - own.sum(axis=-1).reshape(k, k)
    P = total.reshape(k, k, k, k).transpose(0, 1, 3, 2) + between
    # tr(E_i Q E_j Q) = sum dG_i[a, b] Q[b j, c l] dG_j[c, d] Q[d l, a j]
    trace = np.einsum("iab,bcda,jcd->ij", dG, P, dG, optimize=["einsum_path", (0, 1), (0, 1)])
    return Pieces(trace, quad, rho, float(np.sum(logdet)), head, [summed], [e @ e.T])


def _traces(dG: np.ndarray, Q: np.ndarray, R: np.ndarray) -> np.ndarray:
    """tr(E_i P E_j P), P = Q - R'R, of few directions dG (m, k, k) and many columns: Q (k, k, J) by level, R (p, k, J)."""
    levels, across = np.moveaxis(Q, -1, 0), np.moveaxis(R, -1, 0)
    half = dG[:, None] @ levels
    trace = half.reshape(len(dG), -1) @ np.swapaxes(half, -1, -2).reshape(len(dG), -1).T
    onto = across @ dG[:, None]  # R_j dG_i, (m, J, p, k)
    mixed = (onto @ levels).reshape(len(dG), -1) @ onto.reshape(len(dG), -1).T
    between = np.einsum("ijpk,jqk->ipq", onto, across)
    both = np.einsum("ipq,jqp->ij", between, between)
    return np.asarray(trace - mixed - mixed.T + both)


@np.errstate(all="ignore")  # what is not finite is refused
def _dense(
    cross: CrossProducts,
    rhs: list[np.ndarray],
    gram: np.ndarray,
    T: list[np.ndarray],
    dG: list[np.ndarray],
    reml: bool,
) -> Pieces:
    """The contractions by the engine of many problems, of one."""
    sizes = tuple((d.shape[0], d.shape[-1]) for d in cross.diag)
    r = np.concatenate([b.reshape(len(b), -1) for b in rhs], axis=1)
    data = Stacked(
        sizes, dense_matrix(cross)[None], r[None], gram[:, :, None], np.ones(1), np.zeros(1)
    )
    at = dense_effects.eliminate(data, [t[:, :, None] for t in T])
    found = dense_effects.contractions(data, at, [d[..., None] for d in dG], reml, True)
    assert found.trace is not None
    trace, quad, logdet = found.trace[..., 0], found.quad[..., 0], float(at.logdet[0])
    if not (np.isfinite(logdet) and np.isfinite(trace).all() and np.isfinite(quad).all()):
        raise np.linalg.LinAlgError("the covariance of the data is not positive definite")
    sums, squares = ([own[..., 0] for own in each] for each in (found.Q, found.E))
    head = Head(*(part[..., 0] for part in at.head))
    return Pieces(trace, quad, found.rho[:, 0], logdet, head, sums, squares)


def in_directions(parts: Pieces, degrees: float, variance: float | None = None) -> np.ndarray:
    """d2d / dG_i dG_j along all directions (m, m), in the design's order; ``variance`` is sigma^2 where it is known."""
    out = second_derivatives(
        parts.trace, parts.quad, parts.rho, float(parts.head.r2), degrees, variance
    )
    return (out + out.T) / 2


def by_differences(gradient: Callable[[np.ndarray], np.ndarray], theta: np.ndarray) -> np.ndarray:
    """Jacobian of an exact gradient by fourth-order central differences, symmetrised."""
    columns = []
    for i in range(len(theta)):
        h = 1e-3 * max(0.1, abs(theta[i]))
        unit = np.eye(len(theta))[i] * h
        near = gradient(theta + unit) - gradient(theta - unit)
        far = gradient(theta + 2 * unit) - gradient(theta - 2 * unit)
        columns.append((8 * near - far) / (12 * h))
    H = np.column_stack(columns)
    return np.asarray((H + H.T) / 2)
