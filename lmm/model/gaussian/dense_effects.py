"""The Gaussian criterion with all random effects in one dense matrix (q, q): of one problem, or of many as a stack.

The formulas are those of :mod:`lmm.model.gaussian.deviance` and :mod:`lmm.model.gaussian.hessian`. With C C' = I + L'AL, L = blockdiag(I
x T_t), P = L C'^-1, so that (A + G^-1)^-1 = P P' and Q = A - (A P)(A P)'.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from lmm.model.gaussian.batched import (
    Stacked,
    Values,
    chain,
    directions,
    profile,
)
from lmm.model.gaussian.deviance import Head, objective, second_derivatives


class Eliminated(NamedTuple):
    """log|I + L'AL| (R,), what is profiled out, A L and C'^-1 (R, q, q), [X y]'WZ P (R, p + 1, q), and the modes per term (k, J, R)."""

    logdet: np.ndarray
    head: Head
    AL: np.ndarray
    inverse: np.ndarray
    rP: np.ndarray
    modes: list[np.ndarray]


class Contractions(NamedTuple):
    """Per term sum_j [Q_P]_jj and e e' (k, k, R); v_i'Q_P v_j (m, m, R), rho (m, R) and tr(E_i Q E_j Q) (m, m, R) along directions."""

    Q: list[np.ndarray]
    E: list[np.ndarray]
    quad: np.ndarray
    rho: np.ndarray
    trace: np.ndarray | None


def eliminate(data: Stacked, T: list[np.ndarray]) -> Eliminated:
    """The random effects and what is profiled taken out, at T (k, k, R) per term; NaN where that cannot be."""
    R, q = T[0].shape[-1], data.A.shape[-1]
    AL = _loaded(data.A, data.sizes, T)
    factor = _cholesky(_loaded(np.swapaxes(AL, 1, 2), data.sizes, T) + np.eye(q))
    inverse = np.swapaxes(np.linalg.inv(factor), 1, 2)
    rP = _loaded(data.rhs, data.sizes, T) @ inverse
    logdet = 2.0 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    head = profile(data.gram - np.moveaxis(rP @ np.swapaxes(rP, 1, 2), 0, -1))
    u = (inverse @ _residual(head, rP)[:, :, None])[:, :, 0]
    modes = []
    for (k, J), span, own in zip(data.sizes, _spans(data.sizes), T, strict=True):
        modes.append(np.einsum("acr,rcj->ajr", own, u[:, span].reshape(R, k, J)))
    return Eliminated(logdet, head, AL, inverse, rP, modes)


def contractions(
    data: Stacked, at: Eliminated, dG: list[np.ndarray], reml: bool, exact: bool
) -> Contractions:
    """What derivatives are made of, along dG (m_t, k, k, R) per term; the trace where second derivatives are ``exact``."""
    R, q = at.AL.shape[:2]
    AP = at.AL @ at.inverse
    transposed = np.swapaxes(AP, 1, 2)
    F = data.rhs - at.rP @ transposed
    e = _residual(at.head, F)
    FX = np.moveaxis(at.head.root, -1, 0) @ F[:, :-1]
    Q = data.A - AP @ transposed
    v = np.zeros((R, sum(len(own) for own in dG), q))
    spans, first = _spans(data.sizes), 0
    each = [e[:, span].reshape(R, k, J) for span, (k, J) in zip(spans, data.sizes, strict=True)]
    for span, own, own_e in zip(spans, dG, each, strict=True):
        along = np.einsum("iabr,rbj->riaj", own, own_e)
        v[:, first : first + len(own), span] = along.reshape(R, len(own), -1)
        first += len(own)
    onto = v @ np.swapaxes(FX, 1, 2)
    quad = v @ Q @ np.swapaxes(v, 1, 2) - onto @ np.swapaxes(onto, 1, 2)
    rho = (v @ e[:, :, None])[:, :, 0]
    if reml and FX.shape[1]:
        Q = Q - np.swapaxes(FX, 1, 2) @ FX
    sums = []
    for span, (k, J) in zip(spans, data.sizes, strict=True):
        sums.append(np.einsum("rajbj->abr", Q[:, span, span].reshape(R, k, J, k, J)))
    squares = [np.einsum("raj,rbj->abr", own, own) for own in each]
    trace = _trace(Q, data.sizes, dG) if exact else None
    return Contractions(sums, squares, np.moveaxis(quad, 0, -1), rho.T, trace)


def information_trace(
    A: np.ndarray, sizes: tuple[tuple[int, int], ...], T: list[np.ndarray], dG: list[np.ndarray]
) -> np.ndarray:
    """tr(E_i Q E_j Q) (m, m) of one problem, Q = A - A (A + G^-1)^-1 A, along dG (m_t, k, k) per term."""
    own = [t[:, :, None] for t in T]
    AL = _loaded(A[None], sizes, own)
    M = _loaded(np.swapaxes(AL, 1, 2), sizes, own) + np.eye(len(A))
    Q = A - AL @ np.linalg.solve(M, np.swapaxes(AL, 1, 2))
    return np.asarray(_trace(Q, sizes, [d[..., None] for d in dG])[..., 0])


def stacked(
    data: Stacked, T: list[np.ndarray], dT: list[np.ndarray], reml: bool, order: int
) -> Values:
    """Several factors: T (k, k, R) per term of each problem, dT (m_t, k, k) per term of all.

    ``order`` 0 gives the criterion alone (derivatives and D are NaN), 1 the gradient and the average information, 2 the exact second
    derivatives.
    """
    at = eliminate(data, T)
    head, m = at.head, sum(len(d) for d in dT)
    value = objective(np, at.logdet, head, data.degrees, data.constant, reml)
    cov = np.einsum("abr,acr->bcr", head.root, head.root)
    if order == 0:
        nothing = np.full((m, len(value)), np.nan), np.full((m, m, len(value)), np.nan)
        return Values(
            value,
            *nothing,
            head.beta,
            cov,
            head.r2,
            tuple(np.full_like(t, np.nan) for t in T),
            tuple(at.modes),
        )
    dG = [directions(t, d) for t, d in zip(T, dT, strict=True)]
    parts = contractions(data, at, dG, reml, order == 2)
    D, gradients = [], []
    hessian = second_derivatives(parts.trace, parts.quad, parts.rho, head.r2, data.degrees)
    first = 0
    for sums, squares, own, d in zip(parts.Q, parts.E, T, dT, strict=True):
        D.append(sums - squares * (data.degrees / head.r2))
        gradient, curvature = chain(D[-1], own, d)
        gradients.append(gradient)
        span = slice(first, first := first + len(d))
        hessian[span, span] += curvature
    return Values(
        value,
        np.concatenate(gradients),
        hessian,
        head.beta,
        cov,
        head.r2,
        tuple(D),
        tuple(at.modes),
    )


def _spans(sizes: tuple[tuple[int, int], ...]) -> list[slice]:
    """Places of each term's effects."""
    spans, at = [], 0
    for k, J in sizes:
        spans.append(slice(at, at := at + k * J))
    return spans


def _loaded(X: np.ndarray, sizes: tuple[tuple[int, int], ...], T: list[np.ndarray]) -> np.ndarray:
    """X L (R, r, q) of X (R or 1, r, q)."""
    out = np.empty((T[0].shape[-1], *X.shape[1:]))
    for (k, J), span, own in zip(sizes, _spans(sizes), T, strict=True):
        columns = [X[..., span.start + a * J : span.start + (a + 1) * J] for a in range(k)]
        for c in range(k):
            part = out[..., span.start + c * J : span.start + (c + 1) * J]
            np.multiply(columns[0], own[0, c, :, None, None], out=part)
            for a in range(1, k):
                part += columns[a] * own[a, c, :, None, None]
    return out


def _residual(head: Head, rows: np.ndarray) -> np.ndarray:
    """The last of rows (R, p + 1, q) less the others times beta, (R, q)."""
    return rows[:, -1] - np.einsum("pr,rpq->rq", head.beta, rows[:, :-1])


def _cholesky(M: np.ndarray) -> np.ndarray:
    """Cholesky factors of a stack, NaN for a matrix that is not positive definite."""
    try:
        return np.linalg.cholesky(M)
    except np.linalg.LinAlgError:
        out = np.full_like(M, np.nan)
        for i, own in enumerate(M):
            with suppress(np.linalg.LinAlgError):
                out[i] = np.linalg.cholesky(own)
        return out


def _trace(Q: np.ndarray, sizes: tuple[tuple[int, int], ...], dG: list[np.ndarray]) -> np.ndarray:
    """tr(E_i Q E_j Q), (m, m, R): by pairs of terms, contracted over levels before the directions enter."""
    R, spans = len(Q), _spans(sizes)
    flat = [np.moveaxis(own, -1, 0).reshape(R, len(own), -1) for own in dG]
    stops = np.cumsum([0] + [len(own) for own in dG]).tolist()
    out = np.empty((stops[-1], stops[-1], R))
    for t, (k, J) in enumerate(sizes):
        for s, (l, K) in enumerate(sizes[: t + 1]):
            block = (
                Q[:, spans[t], spans[s]]
                .reshape(R, k, J, l, K)
                .transpose(0, 1, 3, 2, 4)
                .reshape(R, k * l, J * K)
            )
            P = (block @ np.swapaxes(block, 1, 2)).reshape(
                R, k, l, k, l
            )  # [b, c, a, d] = sum Q[b j, c i] Q[a j, d i]
            P = P.transpose(0, 3, 1, 2, 4).reshape(R, k * k, l * l)
            own = np.moveaxis(flat[t] @ P @ np.swapaxes(flat[s], 1, 2), 0, -1)
            rows, columns = slice(stops[t], stops[t + 1]), slice(stops[s], stops[s + 1])
            out[rows, columns], out[columns, rows] = own, np.swapaxes(own, 0, 1)
    return out
