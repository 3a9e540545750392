"""The Gaussian criterion of many problems of one structure at once, with gradient and second derivatives.

R problems that share their terms differ in the response, or in which rows they hold: refits of a bootstrap, fits that leave
a group out, ten thousand responses over one design. Each has its own T. The formulas are those of
:mod:`lmm.model.gaussian` and :mod:`lmm.model.hessian`; the problems are the last axis of every array. Two arrangements:

    :class:`Levels`   one grouping factor: the algebra of a level written out, vectorised over levels and problems
    :class:`Stacked`  several factors with few effects: q x q matrices, a stack of R of them

An axis of length 1 in the place of R holds what all problems share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from lmm.linalg import small

#: numbers up to which products of columns of X are formed level by level, so that what is linear in W is one matrix product
PRODUCTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Levels:
    """Sums of one grouping factor, J levels of k effects.

    Attributes
    ----------
    A : (k, k, J, R or 1), Z'WZ by level.
    X : (p, k, J, R or 1), Z'WX.
    y : (k, J, R or 1), Z'Wy.
    gram : (p + 1, p + 1, R), [X y]'W[X y].
    degrees : (R,), N.
    """

    A: np.ndarray
    X: np.ndarray
    y: np.ndarray
    gram: np.ndarray
    degrees: np.ndarray

    def take(self, which: np.ndarray) -> Levels:
        """Some of the problems."""
        return Levels(*(part(array, which) for array in (self.A, self.X, self.y, self.gram, self.degrees)))


@dataclass(frozen=True, eq=False)
class Stacked:
    """Sums of several factors, all q effects in one space: term after term, within a term column after column.

    Attributes
    ----------
    sizes : (k, J) per term.
    A : (R or 1, q, q), Z'WZ.
    rhs : (R, p + 1, q), Z'W[X y].
    gram : (p + 1, p + 1, R), [X y]'W[X y].
    degrees : (R,), N.
    """

    sizes: tuple[tuple[int, int], ...]
    A: np.ndarray
    rhs: np.ndarray
    gram: np.ndarray
    degrees: np.ndarray

    def take(self, which: np.ndarray) -> Stacked:
        """Some of the problems."""
        A = self.A if len(self.A) == 1 else self.A[which]
        return replace(self, A=A, rhs=self.rhs[which], gram=part(self.gram, which), degrees=part(self.degrees, which))


def part(array: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Some of the problems of an array whose last axis they are, unless it is shared."""
    return array if array.shape[-1] == 1 else array[..., which]


class Values(NamedTuple):
    """Per problem, last: objective, gradient (m,), model Hessian (m, m), beta (p,), (X'V^-1X)^-1 (p, p), r2, D (k, k) per term."""

    objective: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    beta: np.ndarray
    cov: np.ndarray
    r2: np.ndarray
    D: tuple[np.ndarray, ...]
    modes: tuple[np.ndarray, ...]  # per term (k, J, R)


class Head(NamedTuple):
    """What profiling beta and sigma^2 out of [X y]'V^-1[X y] leaves, the root with root'root = (X'V^-1X)^-1 among it."""

    beta: np.ndarray
    root: np.ndarray
    r2: np.ndarray
    logdet: np.ndarray


def profile(gram: np.ndarray) -> Head:
    """beta, root, r2 and log|X'V^-1X| of (p + 1, p + 1, R) matrices."""
    p, R = len(gram) - 1, gram.shape[-1]
    if not p:
        return Head(np.zeros((0, R)), np.zeros((0, 0, R)), gram[0, 0], np.zeros(R))
    columns, logdet = small.cholesky(np, gram[:p, :p])
    root = small.forward_substitute(np, columns, np.broadcast_to(np.eye(p)[:, :, None], (p, p, R)))
    z = np.einsum("abr,br->ar", root, gram[:p, p])
    beta = np.einsum("abr,ar->br", root, z)
    return Head(beta, root, gram[p, p] - np.einsum("ar,ar->r", z, z), logdet)


def objective(logdet: np.ndarray, head: Head, degrees: np.ndarray, reml: bool) -> np.ndarray:
    """The criterion without its constants in log w and the columns of X."""
    out = logdet + degrees * (1.0 + np.log(2.0 * np.pi * head.r2 / degrees))
    return out + head.logdet if reml else out


def directions(T: np.ndarray, dT: np.ndarray) -> np.ndarray:
    """dG_i = dT_i T' + T dT_i', (m, k, k, R) of T (k, k, R) and fixed dT (m, k, k)."""
    half = np.einsum("iac,bcr->iabr", dT, T)
    return half + np.swapaxes(half, 1, 2)


def second(trace: np.ndarray | None, quad: np.ndarray, rho: np.ndarray, r2: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Second derivatives along the directions: the average information, or exact ones where the ``trace`` is given."""
    ratio = rho[:, None] * rho[None] / r2**2
    if trace is None:
        return degrees * (quad / r2 - ratio)
    return degrees * (2.0 * quad / r2 - ratio) - trace


def chain(D: np.ndarray, T: np.ndarray, dT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient 2 <D T, dT_i> (m, R), and the curvature 2 <D dT_j, dT_i> (m, m, R) of G in T."""
    DT = np.einsum("abr,bcr->acr", D, T)
    gradient = 2.0 * np.einsum("acr,iac->ir", DT, dT)
    fixed = np.einsum("iac,jbc->ijab", dT, dT)
    return gradient, 2.0 * np.einsum("abr,ijab->ijr", D, fixed)


def levels(data: Levels, T: np.ndarray, dT: np.ndarray, reml: bool, exact: bool) -> Values:
    """One grouping factor: T (k, k, R) of each problem, dT (m, k, k) of all.

    Sums over levels are taken of products of symmetric (k, k) matrices before the directions enter, which then cost nothing per
    level. With E = I - A W, Z'V^-1X = E Z'WX and Q = E A.
    """
    A, X, y = data.A, data.X, data.y
    p, k, R = len(X), len(A), T.shape[-1]
    row, column = np.triu_indices(k)
    place = np.zeros((k, k), dtype=int)
    place[row, column] = place[column, row] = np.arange(len(row))
    T4 = T[:, :, None]
    columns, logs = small.cholesky(np, sandwich(A, T)[place])
    root = small.forward_substitute(np, columns, np.swapaxes(T4, 0, 1))
    W = _packed_product(np.swapaxes(root, 0, 1), root, row, column)[place]
    Wy = small.apply(W, y[None])[0]
    taken = np.empty((p + 1, p + 1, R))
    taken[:p, :p] = quadratic(X, W[None])[0]
    taken[p, :p] = taken[:p, p] = against(X, Wy[None])[0]
    taken[p, p] = np.einsum("ajr,ajr->r", np.broadcast_to(y, Wy.shape), Wy)
    head = profile(data.gram - taken)
    value = objective(logs.sum(axis=0), head, data.degrees, reml)

    r = y - combined(X, head.beta)
    b = small.apply(W, r[None])[0]
    e = r - small.apply(A, b[None])[0]
    E = np.eye(k)[:, :, None, None] - small.multiply(A, W)
    Q = _packed_product(E, A, row, column)
    ee = e[row] * e[column]
    total = Q.sum(axis=1) - ee.sum(axis=1) * (data.degrees / head.r2)
    cov = np.einsum("abr,acr->bcr", head.root, head.root)
    own = None
    if reml and p:
        S = spread(X, cov)
        own = _packed_product(small.multiply(E, S), np.swapaxes(E, 0, 1), row, column)
        total = total - own.sum(axis=1)
    D = total[place]
    dG = directions(T, dT)

    rho = np.einsum("iabr,abr->ir", dG, ee.sum(axis=1)[place])
    squares = np.einsum("sjr,tjr->str", ee, Q)[place][:, :, place]  # [c, d, a, b] = sum e_c e_d Q_ab
    quad = np.einsum("iacr,lbdr,cdabr->ilr", dG, dG, squares, optimize=True)
    if p:
        through = against(X, (E[:, None] * e[None, :, None]).reshape(k * k, k, *e.shape[1:]))  # X'E_a e_b
        onto = np.einsum("pqr,iqr->ipr", head.root, np.einsum("iabr,abpr->ipr", dG, through.reshape(k, k, p, R)))
        quad = quad - np.einsum("ipr,lpr->ilr", onto, onto)
    trace = None
    if exact:
        pairs = np.einsum("sjr,tjr->str", Q, Q)[place][:, :, place]  # [b, c, d, a] = sum Q_bc Q_da
        if own is not None:
            mixed = np.einsum("sjr,tjr->str", Q, own)[place][:, :, place]
            pairs = pairs - mixed - np.einsum("bcdar->dabcr", mixed)
        trace = np.einsum("iabr,lcdr,bcdar->ilr", dG, dG, pairs, optimize=True)
        if own is not None:
            between = quadratic(X, np.stack([_crossed(E, int(a), int(b)) for a, b in zip(row, column, strict=True)]))
            Mi = np.einsum("isr,spqr->ipqr", dG[:, row, column], between)
            Mi = np.einsum("apr,ipqr,bqr->iabr", head.root, Mi, head.root, optimize=True)
            trace = trace + np.einsum("ipqr,lpqr->ilr", Mi, Mi)
    gradient, curvature = chain(D, T, dT)
    hessian = second(trace, quad, rho, head.r2, data.degrees) + curvature
    return Values(value, gradient, hessian, head.beta, cov, head.r2, (D,), (b,))


def sandwich(A: np.ndarray, T: np.ndarray) -> np.ndarray:
    """The upper triangle of I + T'A_jT, (k (k + 1) / 2, J, R)."""
    k, _, J, shared = A.shape
    row, column = np.triu_indices(k)
    if shared == 1:
        products = (T[:, None, row] * T[None, :, column]).reshape(k * k, -1)  # T_ca T_db by (c, d)
        out = (A.reshape(k * k, J).T @ products).reshape(J, len(row), T.shape[-1]).swapaxes(0, 1)
    else:
        out = _packed_product(small.transpose_multiply(T[:, :, None], A), T[:, :, None], row, column)
    out[row == column] += 1.0
    return out


def _packed_product(A: np.ndarray, B: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The upper triangle of symmetric A_j B_j, (k (k + 1) / 2, J, R)."""
    out = A[row, 0] * B[0, column]
    for i in range(1, A.shape[1]):
        out += A[row, i] * B[i, column]
    return out


def _crossed(E: np.ndarray, a: int, b: int) -> np.ndarray:
    """E_ac E_bd, added to its mirror image in a and b where they differ, (k, k, J, R) over c and d."""
    out = E[a][:, None] * E[b][None]
    return out if a == b else out + np.swapaxes(out, 0, 1)


def against(X: np.ndarray, v: np.ndarray) -> np.ndarray:
    """sum_j X_pj' v_xj, (x, p, R), of X (p, k, J, R or 1) and v (x, k, J, R)."""
    if X.shape[-1] == 1:
        size = X.shape[1] * X.shape[2]
        return np.matmul(X.reshape(len(X), size), v.reshape(len(v), size, v.shape[-1]))
    return np.einsum("pajr,xajr->xpr", X, v)


def quadratic(X: np.ndarray, W: np.ndarray) -> np.ndarray:
    """sum_j X_pj' W_xj X_qj, (x, p, q, R), of X (p, k, J, R or 1) and W (x, k, k, J, R)."""
    p, k, J, shared = X.shape
    if shared == 1 and X.size * p * k <= PRODUCTS:
        products = (X[:, None, :, None] * X[None, :, None]).reshape(p * p, k * k * J)
        return np.matmul(products, W.reshape(len(W), k * k * J, W.shape[-1])).reshape(len(W), p, p, W.shape[-1])
    out = np.empty((len(W), p, p, W.shape[-1]))
    for own, w in zip(out, W, strict=True):
        WX = np.stack([small.apply(w, x[None])[0] for x in X]) if p else np.zeros((0, *w.shape[1:]))
        own[:] = np.swapaxes(against(X, WX), 0, 1)
    return out


def spread(X: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """X_j' C X_j per level, (k, k, J, R), of X (p, k, J, R or 1) and C (p, p, R)."""
    p, k, J, shared = X.shape
    if shared == 1 and X.size * p * k <= PRODUCTS:
        products = (X[:, None, :, None] * X[None, :, None]).reshape(p * p, k * k * J)
        return (products.T @ cov.reshape(p * p, cov.shape[-1])).reshape(k, k, J, cov.shape[-1])
    half = np.einsum("pqr,qajr->pajr", cov, np.broadcast_to(X, (*X.shape[:-1], cov.shape[-1])))
    return np.einsum("pajr,pbjr->abjr", np.broadcast_to(X, half.shape), half)


def combined(X: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """sum_p X_p beta_p per level, (k, J, R)."""
    p, k, J, shared = X.shape
    if shared == 1:
        return (X.reshape(p, k * J).T @ beta).reshape(k, J, beta.shape[-1])
    return np.einsum("pajr,pr->ajr", X, beta)


def stacked(data: Stacked, T: list[np.ndarray], dT: list[np.ndarray], reml: bool, exact: bool) -> Values:
    """Several factors: T (k, k, R) per term of each problem, dT (m_t, k, k) per term of all."""
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
    trace = _trace(Q, spans, data.sizes, dG) if exact else None
    hessian = second(trace, np.moveaxis(quad, 0, -1), rho.T, head.r2, data.degrees) + curvature
    modes = tuple(np.moveaxis(effects[:, span].reshape(R, k, J), 0, -1) for span, (k, J) in zip(spans, data.sizes, strict=True))
    cov = np.einsum("abr,acr->bcr", head.root, head.root)
    return Values(value, np.concatenate(gradients), hessian, head.beta, cov, head.r2, tuple(Ds), modes)


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
