"""Adaptive Gauss-Hermite quadrature for one grouping factor, with its exact gradient.

For level j with k random effects the integral over u ~ N(0, I) is centred at the mode u~ and scaled by
L_j, L_j L_j' = M_j^-1, M_j = I + T'A_jT = C C', L = C^-T. With nodes x_m and weights w_m of the K-point
rule for the standard normal, in a tensor grid over the k dimensions,

    log I_j = log|L_j| + log sum_m w_m exp(x_m'x_m / 2 + log f(y_j | u_m) - u_m'u_m / 2),   u_m = u~ + L_j x_m,

and J = -2 sum_j log I_j; one node gives Laplace's approximation, so all K share one scale. Let p_m be the
terms' shares of the sum, r_im the score of row i at node m, s_m = sum_i r_im z_i, q_m = T's_m - u_m,

    a = sum_m p_m q_m,   E = (sum_m p_m x_m q_m') L,   H = I + E,   V = L lowsym(H) L',
    t_i = W'_i z_i'TVT'z_i,   h = M^-1 (a - T' sum_i t_i z_i),

where lowsym(H) is symmetric with half the lower triangle of H. Moving the nodes with the mode and the scale
(differentiating the Cholesky factor) gives per level

    dlog I / dT     = sum_m p_m s_m u_m' - 2 A T V - (sum t_i z_i) u~' + (Z'r) h' - A T h u~'
    dlog I / dbeta  = sum_i x_i (sum_m p_m r_im - t_i - w_i z_i'T h).

Pinheiro & Bates (1995), J. Comput. Graph. Stat. 4; for W and w see ``model.laplace``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from lmm.families.base import weight_slope
from lmm.linalg import small
from lmm.model.laplace.laplace import Laplace
from lmm.model.laplace.rows import Rows


@dataclass(frozen=True, eq=False)
class Quadrature:
    """J and its derivatives: ``d_T`` (k, k), ``d_gamma`` (p,), ``d_rho`` (r,) for the family's own parameters."""

    objective: float
    d_T: np.ndarray
    d_gamma: np.ndarray
    d_rho: np.ndarray


def grid(points: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (k, M) and log weights (M,) of the tensor rule for the standard normal, M = points^k; x'x / 2 added."""
    x, w = hermegauss(points)
    nodes = np.array(list(product(x, repeat=k))).T
    log_w = np.log(np.array(list(product(w / np.sqrt(2 * np.pi), repeat=k)))).sum(axis=1)
    return nodes, log_w + 0.5 * np.sum(nodes**2, axis=0)


@np.errstate(all="ignore")  # what is not finite is refused
def quadrature(
    family: Any,
    rows: Rows,
    T: np.ndarray,
    gamma: np.ndarray,
    phi: Any,
    at: Laplace,
    points: int,
    observed: bool,
) -> Quadrature:
    """J at T (k, k), gamma (p,) and phi, from the Laplace terms ``at`` there."""
    code, J = rows.codes[0], rows.plan.terms[0].J
    z = np.stack([np.ones(rows.n) if c is None else c for c in rows.columns[0]])
    k = len(z)
    nodes, log_w = grid(points, k)
    mode = at.mode
    assert mode.sums.observed is not None
    A, A_observed = at.working.diag[0], mode.sums.observed.diag[0]
    L, logdet = _scale(A, T)

    def by_level(v: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(code, row, J) for row in np.atleast_2d(v)])

    eta_mode = rows.predictor(mode.gamma, mode.b)
    constant = family.constant(rows.y, rows.weights, phi)
    values = np.empty((len(log_w), J))
    u_nodes, scores, first = [], [], []
    for m, (u, eta) in enumerate(_at_nodes(rows, T, gamma, at, nodes)):
        density = family.kernel(rows.y, eta, rows.weights, phi) + constant
        values[m] = log_w[m] + by_level(density)[0] - 0.5 * np.sum(u * u, axis=0)
        u_nodes.append(u)
        scores.append(family.derivatives(rows.y, eta, rows.weights, phi).d1)
        first.append(family.parameter_scores(rows.y, eta, rows.weights, phi))
    objective, shares = _summed(values, logdet)

    a, moved, S = np.zeros((k, J)), np.zeros((k, k, J)), np.zeros((k, k, J))
    mean_score, mean_first = np.zeros(rows.n), np.zeros(family.n_parameters)
    for m, (u, r) in enumerate(zip(u_nodes, scores, strict=True)):
        p = shares[m]
        s = by_level(z * r)
        q = T.T @ s - u
        a += p * q
        moved += p * nodes[:, m, None, None] * q[None]
        S += p * s[:, None] * u[None]
        mean_score += p[code] * r
        mean_first += first[m] @ p[code]
    H = np.eye(k)[:, :, None] + small.multiply(moved, L)
    lower = np.tril(np.ones((k, k)))[:, :, None] * H
    half = 0.5 * np.where(
        np.eye(k, dtype=bool)[:, :, None], lower, lower + np.swapaxes(lower, 0, 1)
    )
    V = small.multiply(small.multiply(L, half), np.swapaxes(L, 0, 1))

    Tz = T.T @ z
    spread = np.einsum("an,abn,bn->n", Tz, V[:, :, code], Tz)
    derivatives = family.derivatives(rows.y, eta_mode, rows.weights, phi)
    W = family.determinant_weights(derivatives, eta_mode, rows.weights, phi, observed)
    t = family.leverage_slopes(spread, W.slope, rows.y, eta_mode, rows.weights, phi)
    sum_t = by_level(z * t)
    M_inverse = _inverse(A_observed, T)
    h = np.einsum("abj,bj->aj", M_inverse, a - T.T @ sum_t)
    Th = T @ h
    AT = np.einsum("abj,bc->acj", A, T)
    gradient = S - 2.0 * small.multiply(AT, V) - sum_t[:, None] * mode.u[0][None]
    gradient += (
        at.e[0][:, None] * h[None]
        - np.einsum("abj,bj->aj", A_observed, Th)[:, None] * mode.u[0][None]
    )
    through = np.einsum("an,an->n", z, Th[:, code])
    d_gamma = -2.0 * rows.Q.T @ (mean_score - t + derivatives.d2 * through)
    d_rho = np.zeros(0)
    if family.n_parameters:
        d = family.parameter_derivatives(rows.y, eta_mode, rows.weights, phi, not observed)
        d_rho = -2.0 * (mean_first - weight_slope(d, observed) @ spread + d.eta @ through)
    return Quadrature(objective, -2.0 * gradient.sum(axis=-1), d_gamma, d_rho)


@np.errstate(all="ignore")
def integral(
    family: Any,
    rows: Rows,
    T: np.ndarray,
    gamma: np.ndarray,
    phi: Any,
    at: Laplace,
    points: int,
) -> float:
    """J alone."""
    code, J = rows.codes[0], rows.plan.terms[0].J
    nodes, log_w = grid(points, len(T))
    values = np.empty((len(log_w), J))
    constant = family.constant(rows.y, rows.weights, phi)
    for m, (u, eta) in enumerate(_at_nodes(rows, T, gamma, at, nodes)):
        density = family.kernel(rows.y, eta, rows.weights, phi) + constant
        values[m] = log_w[m] + np.bincount(code, density, J) - 0.5 * np.sum(u * u, axis=0)
    return _summed(values, _scale(at.working.diag[0], T)[1])[0]


def _summed(values: np.ndarray, logdet: float) -> tuple[float, np.ndarray]:
    """J, and the shares (M, J) of the nodes in each level's integral, from the logarithms of their terms."""
    top = values.max(axis=0)
    shares = np.exp(values - top)
    total = shares.sum(axis=0)
    return -2.0 * float(np.sum(top + np.log(total)) - 0.5 * logdet), shares / total


def _at_nodes(
    rows: Rows, T: np.ndarray, gamma: np.ndarray, at: Laplace, nodes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """u (k, J) and the predictor (n,) at each of the nodes (k, M)."""
    z = np.stack([np.ones(rows.n) if c is None else c for c in rows.columns[0]])
    L, _ = _scale(at.working.diag[0], T)
    fixed = rows.offset + rows.Q @ gamma
    for x in nodes.T:
        u = at.mode.u[0] + np.einsum("abj,b->aj", L, x)
        yield u, fixed + np.einsum("an,an->n", z, (T @ u)[:, rows.codes[0]])


def _scale(A: np.ndarray, T: np.ndarray) -> tuple[np.ndarray, float]:
    """L_j = C_j^-T with C_j C_j' = I + T'A_jT, (k, k, J), and sum_j log|M_j|."""
    k = len(T)
    columns, logdet = small.cholesky(np, _information(A, T))
    inverse = small.forward_substitute(np, columns, np.broadcast_to(np.eye(k)[:, :, None], A.shape))
    return np.swapaxes(inverse, 0, 1), float(np.sum(logdet))


def _inverse(A: np.ndarray, T: np.ndarray) -> np.ndarray:
    """M_j^-1, (k, k, J)."""
    L, _ = _scale(A, T)
    return small.multiply(L, np.swapaxes(L, 0, 1))


def _information(A: np.ndarray, T: np.ndarray) -> np.ndarray:
    return np.einsum("ba,bcj,cd->adj", T, A, T, optimize=True) + np.eye(len(T))[:, :, None]
