"""The Gaussian criterion of many problems with several factors and few effects: stacks of dense q x q matrices."""

from __future__ import annotations

import numpy as np

from lmm.model.batched import Stacked, Values, chain, directions, objective, profile


def stacked(data: Stacked, T: list[np.ndarray], dT: list[np.ndarray], reml: bool, order: int) -> Values:
    """Several factors: T (k, k, R) per term of each problem, dT (m_t, k, k) per term of all; exact second derivatives at ``order`` 2."""
    R, q, p = T[0].shape[-1], data.A.shape[-1], data.rhs.shape[1] - 1
    stops = np.cumsum([0] + [k * J for k, J in data.sizes])
    spans = [slice(int(first), int(last)) for first, last in zip(stops, stops[1:], strict=False)]
    L = np.zeros((R, q, q))
    for t, (span, (k, J)) in enumerate(zip(spans, data.sizes, strict=True)):
        level = np.arange(J)
        for a in range(k):
            for b in range(k):
                L[:, span.start + a * J + level, span.start + b * J + level] = T[t][a, b, :, None]
    AL = data.A @ L
    M = np.swapaxes(L, 1, 2) @ AL + np.eye(q)
    factor = _cholesky(M)
    inverse = np.linalg.inv(factor)
    P = L @ np.swapaxes(inverse, 1, 2)
    AP = data.A @ P
    rP = data.rhs @ P
    logdet = 2.0 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    head = profile(data.gram - np.moveaxis(rP @ np.swapaxes(rP, 1, 2), 0, -1))
    value = objective(logdet, head, data.degrees, reml)

    F = data.rhs - rP @ np.swapaxes(AP, 1, 2)
    combine = np.concatenate([-head.beta, np.ones((1, R))]).T[:, None]
    e = (combine @ F)[:, 0]
    effects = (combine @ rP @ np.swapaxes(P, 1, 2))[:, 0]
    Q = data.A - AP @ np.swapaxes(AP, 1, 2)
    root = np.moveaxis(head.root, -1, 0)
    FX = root @ F[:, :p]
    m = sum(len(d) for d in dT)
    v = np.zeros((R, m, q))
    dG = [directions(t, d) for t, d in zip(T, dT, strict=True)]
    at = 0
    for span, (k, J), own in zip(spans, data.sizes, dG, strict=True):
        v[:, at : at + len(own), span] = np.einsum("iabr,rbj->riaj", own, e[:, span].reshape(R, k, J)).reshape(R, len(own), k * J)
        at += len(own)
    onto = v @ np.swapaxes(FX, 1, 2)
    quad = v @ Q @ np.swapaxes(v, 1, 2) - onto @ np.swapaxes(onto, 1, 2)
    rho = (v @ e[:, :, None])[:, :, 0]
    if reml and p:
        Q = Q - np.swapaxes(FX, 1, 2) @ FX
    s2 = head.r2 / data.degrees
    Ds, gradients = [], []
    curvature = np.zeros((m, m, R))
    at = 0
    for t, (span, (k, J)) in enumerate(zip(spans, data.sizes, strict=True)):
        own_e = e[:, span].reshape(R, k, J)
        D = np.einsum("rajbj->abr", Q[:, span, span].reshape(R, k, J, k, J)) - np.einsum("raj,rbj->abr", own_e, own_e) / s2
        gradient, curve = chain(D, T[t], dT[t])
        Ds.append(D)
        gradients.append(gradient)
        curvature[at : at + len(dT[t]), at : at + len(dT[t])] = curve
        at += len(dT[t])
    trace = _trace(Q, spans, data.sizes, dG) if order == 2 else None
    hessian = _second(trace, np.moveaxis(quad, 0, -1), rho.T, head.r2, data.degrees) + curvature
    modes = tuple(np.moveaxis(effects[:, span].reshape(R, k, J), 0, -1) for span, (k, J) in zip(spans, data.sizes, strict=True))
    cov = np.einsum("abr,acr->bcr", head.root, head.root)
    return Values(value, np.concatenate(gradients), hessian, head.beta, cov, head.r2, tuple(Ds), modes)


def _second(trace: np.ndarray | None, quad: np.ndarray, rho: np.ndarray, r2: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Second derivatives along the directions: the average information, or exact ones where the ``trace`` is given."""
    share = rho / r2
    ratio = share[:, None] * share[None]
    if trace is None:
        return degrees * (quad / r2 - ratio)
    return degrees * (2.0 * quad / r2 - ratio) - trace


def _cholesky(M: np.ndarray) -> np.ndarray:
    """Cholesky factors of a stack, NaN for a matrix that is not positive definite."""
    try:
        return np.linalg.cholesky(M)
    except np.linalg.LinAlgError:
        out = np.full_like(M, np.nan)
        for i, own in enumerate(M):
            try:
                out[i] = np.linalg.cholesky(own)
            except np.linalg.LinAlgError:
                continue
        return out


def _trace(Q: np.ndarray, spans: list[slice], sizes: tuple[tuple[int, int], ...], dG: list[np.ndarray]) -> np.ndarray:
    """tr(E_i Q E_j Q), (m, m, R): by pairs of terms, contracted over levels before the directions enter."""
    R = len(Q)
    stops = np.cumsum([0] + [len(own) for own in dG])
    out = np.zeros((stops[-1], stops[-1], R))
    for t, (k, J) in enumerate(sizes):
        for s, (l, K) in enumerate(sizes):
            block = Q[:, spans[t], spans[s]].reshape(R, k, J, l, K).transpose(0, 1, 3, 2, 4).reshape(R, k * l, J * K)
            P = (block @ np.swapaxes(block, 1, 2)).reshape(R, k, l, k, l)  # [b, c, a, d] = sum Q[b j, c i] Q[a j, d i]
            out[stops[t] : stops[t + 1], stops[s] : stops[s + 1]] = np.einsum("iabr,rbcad,lcdr->ilr", dG[t], P, dG[s], optimize=True)
    return out
