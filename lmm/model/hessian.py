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
from dataclasses import dataclass

import numpy as np

from lmm.linalg import small
from lmm.model.crossproducts import CrossProducts, dense_matrix

#: random effects up to which the dense matrix is formed (8 q^2 bytes, 4 q^3 flops)
DENSE_LIMIT = 5_000


@dataclass(frozen=True)
class Pieces:
    """Contractions over levels that the Hessian needs.

    ``P[t, s][b, c, d, a]`` = sum_jl Q[b j, c l] Q[a j, d l] for levels j of t and l of s;
    ``quad`` = v_i'Q_P v_j and ``rho`` over all directions in the design's order. ``logdet`` = log|M|, ``beta`` of the
    orthonormal columns; ``Q`` = sum_j [Q_P]_jj and ``E`` = e e' per term (k, k), so that D = Q - E / sigma^2.
    """

    P: dict[tuple[int, int], np.ndarray]
    quad: np.ndarray
    rho: np.ndarray
    r2: float
    logdet: float
    beta: np.ndarray
    Q: list[np.ndarray]
    E: list[np.ndarray]


def is_cheap(sizes: list[tuple[int, int]], limit: int) -> bool:
    """Whether the exact Hessian costs no more than a few evaluations: one factor, or at most ``limit`` random effects."""
    return len(sizes) == 1 or sum(k * J for k, J in sizes) <= limit


def pieces(cross: CrossProducts, rhs: list[np.ndarray], gram: np.ndarray, T: list[np.ndarray], dG: list[np.ndarray], reml: bool) -> Pieces:
    """The contractions at given T: ``rhs`` (p + 1, k, J) per term and ``gram`` (p + 1, p + 1) with X orthonormal."""
    if len(T) == 1:
        return _one_factor(cross, rhs[0], gram, T[0], dG[0], reml)
    return _dense(cross, rhs, gram, T, dG, reml)


def _profile(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """beta, half with (X'V^-1X)^-1 = half'half, and r2, from [X y]'V^-1[X y]."""
    p = len(gram) - 1
    half = np.linalg.inv(np.linalg.cholesky(gram[:p, :p])) if p else np.zeros((0, 0))
    z = half @ gram[:p, p]
    return half.T @ z, half, float(gram[p, p] - z @ z)


def _one_factor(cross: CrossProducts, rhs: np.ndarray, gram: np.ndarray, T: np.ndarray, dG: np.ndarray, reml: bool) -> Pieces:
    A = cross.diag[0]
    k, _, J = A.shape
    _, W, logdet = small.whiten(np, A, T)
    Wr = small.apply(W, rhs)
    flat = rhs.reshape(len(rhs), -1)
    beta, half, r2 = _profile(gram - flat @ Wr.reshape(len(rhs), -1).T)
    F = rhs - small.apply(A, Wr)
    p = len(beta)
    e = F[p] - np.tensordot(beta, F[:p], 1)
    Q = A - small.multiply(small.multiply(A, W), A)
    R = np.tensordot(half, F[:p], 1)
    v = (dG.reshape(-1, k) @ e).reshape(len(dG), k, J)
    onto = R.reshape(p, k * J) @ v.reshape(len(dG), -1).T
    quad = v.reshape(len(dG), -1) @ small.apply(Q, v).reshape(len(dG), -1).T - onto.T @ onto
    pairs = Q.reshape(k * k, J)
    total = pairs @ pairs.T
    if reml and p:
        own = np.einsum("paj,pbj->abj", R, R).reshape(k * k, J)
        mixed = pairs @ own.T
        RR = np.einsum("paj,qbj->abpq", R, R, optimize=True).reshape(k * k, p * p)
        # sum_jl (R_j'R_l)[b, c] (R_j'R_l)[a, d] = sum_pq (sum_j R_pb R_qa) (sum_l R_pc R_qd)
        cross_levels = (RR @ RR.T).reshape(k, k, k, k)  # [b, a, c, d]
        total = total - mixed - mixed.T
        P = total.reshape(k, k, k, k).transpose(0, 1, 3, 2) + cross_levels.transpose(0, 2, 3, 1)
        summed = (Q.sum(axis=-1) - own.sum(axis=-1).reshape(k, k),)
    else:
        P = total.reshape(k, k, k, k).transpose(0, 1, 3, 2)
        summed = (Q.sum(axis=-1),)
    rho = np.einsum("aj,iaj->i", e, v)
    return Pieces({(0, 0): P}, quad, rho, r2, float(np.sum(logdet)), beta, list(summed), [e @ e.T])


def _dense(cross: CrossProducts, rhs: list[np.ndarray], gram: np.ndarray, T: list[np.ndarray], dG: list[np.ndarray], reml: bool) -> Pieces:
    sizes = [(d.shape[0], d.shape[-1]) for d in cross.diag]
    stops = np.cumsum([0] + [k * J for k, J in sizes])
    q = int(stops[-1])
    A = dense_matrix(cross)
    L = np.zeros((q, q))
    for t, (_, J) in enumerate(sizes):
        L[stops[t] : stops[t + 1], stops[t] : stops[t + 1]] = np.kron(T[t], np.eye(J))
    AL = A @ L
    C = np.linalg.cholesky(L.T @ AL + np.eye(q))
    half_A = np.linalg.solve(C, AL.T)
    r = np.concatenate([b.reshape(len(b), -1) for b in rhs], axis=1)
    half_r = np.linalg.solve(C, L.T @ r.T)
    beta, half, r2 = _profile(gram - half_r.T @ half_r)
    F = r - half_r.T @ half_A
    p = len(beta)
    e = F[p] - beta @ F[:p]
    Q = A - half_A.T @ half_A
    R = half @ F[:p]
    m = sum(len(d) for d in dG)
    v = np.zeros((m, q))
    at = 0
    for t, ((k, J), d) in enumerate(zip(sizes, dG, strict=True)):
        own_e = e[stops[t] : stops[t + 1]].reshape(k, J)
        v[at : at + len(d), stops[t] : stops[t + 1]] = (d.reshape(-1, k) @ own_e).reshape(len(d), -1)
        at += len(d)
    onto = R @ v.T
    quad = v @ Q @ v.T - onto.T @ onto
    if reml:
        Q = Q - R.T @ R
    P, summed, squares = {}, [], []
    for t, (k, J) in enumerate(sizes):
        own_e = e[stops[t] : stops[t + 1]].reshape(k, J)
        squares.append(own_e @ own_e.T)
        summed.append(np.einsum("ajbj->ab", Q[stops[t] : stops[t + 1], stops[t] : stops[t + 1]].reshape(k, J, k, J)))
        for s, (l, M) in enumerate(sizes):
            flat = Q[stops[t] : stops[t + 1], stops[s] : stops[s + 1]].reshape(k, J, l, M).transpose(0, 2, 1, 3).reshape(k * l, J * M)
            P[t, s] = (flat @ flat.T).reshape(k, l, k, l).transpose(0, 1, 3, 2)
    return Pieces(P, quad, v @ e, r2, 2.0 * float(np.log(np.diagonal(C)).sum()), beta, summed, squares)


def in_directions(parts: Pieces, dG: list[np.ndarray], degrees: float, variance: float | None = None) -> np.ndarray:
    """d2d / dG_i dG_j along all directions (m, m), in the design's order; ``variance`` is sigma^2 where it is known."""
    stops = np.cumsum([0] + [len(d) for d in dG])
    trace = np.zeros((stops[-1], stops[-1]))
    for (t, s), P in parts.P.items():
        # tr(E_i Q E_j Q) = sum dG_i[a, b] Q[b j, c l] dG_j[c, d] Q[d l, a j]
        trace[stops[t] : stops[t + 1], stops[s] : stops[s + 1]] = np.einsum(
            "iab,bcda,jcd->ij", dG[t], P, dG[s], optimize=["einsum_path", (0, 1), (0, 1)]
        )
    if variance is None:
        share = parts.rho / parts.r2
        out = -trace + degrees * (2.0 * parts.quad / parts.r2 - np.outer(share, share))
    else:
        out = -trace + 2.0 * parts.quad / variance
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
