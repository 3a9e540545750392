"""The Gaussian criterion of many problems with one grouping factor: arrays over levels and problems.

Symmetric (k, k) matrices per level are kept as their upper triangles (s, J, R), s = k (k + 1) / 2, row by row.
"""

from __future__ import annotations

import numpy as np

from lmm.linalg import small
from lmm.model.gaussian.batched import Levels, Values, chain, directions, places, profile
from lmm.model.gaussian.deviance import objective

#: numbers up to which products of columns of X are formed level by level, so that what is linear in W is one matrix product
PRODUCTS = 1 << 20


def levels(data: Levels, T: np.ndarray, dT: np.ndarray, reml: bool, order: int) -> Values:
    """One grouping factor: T (k, k, R) of each problem, dT (m, k, k) of all.

    ``order`` 0 gives the criterion alone (derivatives and D are NaN), 1 the gradient and the average information, 2 the exact second
    derivatives. With E = I - A W, Z'V^-1X = E Z'WX, Q = E A, Q_P = Q - E Z'WX C X'WZ E' (ML: Q) and e = Z'Py, all second derivatives are

        sum_j tr(dG_i Q dG_l Y), symmetrised,   Y = (N / r2) e e'  or  (2 N / r2) e e' + Q - 2 Q_P,

    less what the fixed effects take of it: sums over levels of products of symmetric matrices, kept as their upper triangles, are
    taken before the directions enter, which then cost nothing per level.
    """
    A, X, y = data.A, data.X, data.y
    p, k, J, R = len(X), len(A), A.shape[2], T.shape[-1]
    row, column = np.triu_indices(k)
    place = places(k)
    pairs = Pairs(X)
    inverse, logs = _inverse_factor(sandwich(A, T), place, T)
    W = _gram_of_rows(inverse, row, column)
    Wy = _apply(W, y, place)
    taken = np.empty((p + 1, p + 1, R))
    taken[:p, :p] = pairs.quadratic(W)
    taken[p, :p] = taken[:p, p] = against(X, Wy[None])[0]
    taken[p, p] = _dots(y, Wy)
    head = profile(data.gram - taken)
    value = objective(np, logs, head, data.degrees, data.constant, reml)
    r = y - combined(X, head.beta)
    b = _apply(W, r, place)
    cov = np.einsum("abr,acr->bcr", head.root, head.root)
    m = len(dT)
    if order == 0:
        nothing = np.full((m, R), np.nan), np.full((m, m, R), np.nan)
        return Values(value, *nothing, head.beta, cov, head.r2, (np.full((k, k, R), np.nan),), (b,))

    e = r - small.apply(A, b[None])[0]
    E = np.empty((k, k, J, R))
    for a in range(k):
        for c in range(k):
            np.multiply(A[a, 0], W[place[0, c]], out=E[a, c])
            for i in range(1, k):
                E[a, c] += A[a, i] * W[place[i, c]]
            np.subtract(1.0 if a == c else 0.0, E[a, c], out=E[a, c])
    Q = np.empty_like(W)
    ee = np.empty_like(W)
    for s, (a, c) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        np.multiply(E[a, 0], A[0, c], out=Q[s])
        for i in range(1, k):
            Q[s] += E[a, i] * A[i, c]
        np.multiply(e[a], e[c], out=ee[s])
    ratio = data.degrees / head.r2
    squares = ee.sum(axis=1)
    total = Q.sum(axis=1) - squares * ratio
    other = ee * (ratio if order == 1 else 2.0 * ratio)
    if order == 2:
        other -= Q
    if reml and p:
        own = _sandwiched(E, pairs.spread(cov), row, column, place)
        total -= own.sum(axis=1)
        if order == 2:
            own *= 2.0
            other += own
    D = total[place]
    dG = directions(T, dT)
    rho = np.einsum("iabr,abr->ir", dG, squares[place])
    products = np.empty((len(row), len(row), R))
    for i in range(len(row)):
        for j in range(len(row)):
            products[i, j] = _dots(Q[i : i + 1], other[j : j + 1])
    products = products[place][:, :, place]  # [b, c, d, a] = sum Q_bc Y_da
    H = np.einsum("iabr,labr->ilr", dG, np.einsum("lcdr,bcdar->labr", dG, products))
    H = (H + np.swapaxes(H, 0, 1)) / 2.0
    weight = ratio if order == 1 else 2.0 * ratio
    if p:
        through = against(X, (E[:, None] * e[None, :, None]).reshape(k * k, k, J, R))  # X'E_a e_b
        onto = np.einsum(
            "pqr,iqr->ipr", head.root, np.einsum("iabr,abpr->ipr", dG, through.reshape(k, k, p, R))
        )
        H -= weight * np.einsum("ipr,lpr->ilr", onto, onto)
    if order == 2 and reml and p:
        between = np.stack(
            [
                pairs.quadratic(_crossed(E, int(a), int(c), row, column))
                for a, c in zip(row, column, strict=True)
            ]
        )
        Mi = np.einsum("isr,spqr->ipqr", dG[:, row, column], between)
        Mi = np.einsum("ipbr,apr->iabr", np.einsum("ipqr,bqr->ipbr", Mi, head.root), head.root)
        H -= np.einsum("ipqr,lpqr->ilr", Mi, Mi)
    H -= weight * rho[:, None] * (rho / head.r2)[None] * (1.0 if order == 1 else 0.5)
    gradient, curvature = chain(D, T, dT)
    return Values(value, gradient, H + curvature, head.beta, cov, head.r2, (D,), (b,))


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums over effects and levels of products, (R,)."""
    return np.asarray(np.einsum("kjr,kjr->r", np.broadcast_to(a, b.shape), b))


def _inverse_factor(
    M: np.ndarray, place: np.ndarray, T: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """L^-1 T' (k, k, J, R) of symmetric M = L L', given as its upper triangle, and the sum over levels of log|M| (R,)."""
    k = len(T)
    L: dict[tuple[int, int], np.ndarray] = {}
    inverse = np.empty((k, k, *M.shape[1:]))
    logs = np.zeros(T.shape[-1])
    for i in range(k):
        pivot = M[place[i, i]]
        for c in range(i):
            pivot = pivot - L[i, c] * L[i, c]
        logs += np.log(pivot).sum(axis=0)
        scale = 1.0 / np.sqrt(pivot)
        for d in range(i + 1, k):
            off = M[place[i, d]]
            for c in range(i):
                off = off - L[i, c] * L[d, c]
            L[d, i] = off * scale
        for a in range(k):
            if not i:
                np.multiply(T[a, 0], scale, out=inverse[0, a])
                continue
            np.multiply(L[i, 0], inverse[0, a], out=inverse[i, a])
            for c in range(1, i):
                inverse[i, a] += L[i, c] * inverse[c, a]
            np.subtract(T[a, i], inverse[i, a], out=inverse[i, a])
            inverse[i, a] *= scale
    return inverse, logs


def _gram_of_rows(inverse: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The upper triangle of B'B (s, J, R) of B (k, k, J, R)."""
    out = np.empty((len(row), *inverse.shape[2:]))
    for s, (a, c) in enumerate(zip(row, column, strict=True)):
        np.multiply(inverse[0, a], inverse[0, c], out=out[s])
        for i in range(1, len(inverse)):
            out[s] += inverse[i, a] * inverse[i, c]
    return out


def _apply(S: np.ndarray, v: np.ndarray, place: np.ndarray) -> np.ndarray:
    """S_j v_j (k, J, R) of symmetric S given as upper triangles, v (k, J, R or 1)."""
    out = np.empty((len(place), *S.shape[1:]))
    for a, own in enumerate(place):
        np.multiply(S[own[0]], v[0], out=out[a])
        for c in range(1, len(place)):
            out[a] += S[own[c]] * v[c]
    return out


def _sandwiched(
    E: np.ndarray, S: np.ndarray, row: np.ndarray, column: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """The upper triangle of E_j S_j E_j' (s, J, R), S symmetric."""
    k = len(E)
    half = np.stack([_apply(S, E[a], place) for a in range(k)])  # row a of E S, S being symmetric
    out = np.empty_like(S)
    for s, (a, c) in enumerate(zip(row, column, strict=True)):
        np.multiply(half[a, 0], E[c, 0], out=out[s])
        for i in range(1, k):
            out[s] += half[a, i] * E[c, i]
    return out


def _crossed(E: np.ndarray, a: int, b: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The upper triangle over c and d of E_ac E_bd, and its mirror image in a and b where they differ, (s, J, R)."""
    out = np.empty((len(row), *E.shape[2:]))
    for s, (c, d) in enumerate(zip(row, column, strict=True)):
        np.multiply(E[a, c], E[b, d], out=out[s])
        if a != b:
            out[s] += E[b, c] * E[a, d]
    return out


class Pairs:
    """Products of two columns of X level by level, with which what is linear in symmetric matrices per level is one matrix product."""

    def __init__(self, X: np.ndarray):
        p, k, J, shared = X.shape
        self.X, self.p, self.k, self.J = X, p, k, J
        self.left, self.right = np.triu_indices(p)
        self.row, self.column = np.triu_indices(k)
        self.products: np.ndarray | None = None
        if shared == 1 and X.size * p * k <= PRODUCTS:
            x = X[..., 0]
            first = x[self.left][:, self.row] * x[self.right][:, self.column]
            self.products = (
                first + x[self.left][:, self.column] * x[self.right][:, self.row]
            )  # (p (p + 1) / 2, s, J)

    def quadratic(self, W: np.ndarray) -> np.ndarray:
        """sum_j X_pj' W_j X_qj (p, p, R) of symmetric W given as upper triangles (s, J, R)."""
        p, R = self.p, W.shape[-1]
        if self.products is None:
            WX = (
                np.stack([small.apply(W[places(self.k)], x[None])[0] for x in self.X])
                if p
                else np.zeros((0, self.k, self.J, R))
            )
            return np.swapaxes(against(self.X, WX), 0, 1)
        once = np.where(self.row == self.column, 0.5, 1.0)[:, None] * self.products
        out = np.empty((p, p, R))
        out[self.left, self.right] = out[self.right, self.left] = once.reshape(
            len(self.left), len(self.row) * self.J
        ) @ W.reshape(-1, R)
        return out

    def spread(self, cov: np.ndarray) -> np.ndarray:
        """The upper triangle of X_j'C X_j (s, J, R) of C (p, p, R)."""
        if self.products is None:
            X = np.broadcast_to(self.X, (*self.X.shape[:-1], cov.shape[-1]))
            return np.einsum("pajr,pbjr->abjr", np.einsum("pqr,qajr->pajr", cov, X), X)[
                self.row, self.column
            ]
        once = np.where(self.left == self.right, 0.5, 1.0)[:, None, None] * self.products
        flat = once.reshape(len(self.left), len(self.row) * self.J).T @ cov[self.left, self.right]
        return np.asarray(flat).reshape(len(self.row), self.J, cov.shape[-1])


def sandwich(A: np.ndarray, T: np.ndarray) -> np.ndarray:
    """The upper triangle of I + T'A_jT, (k (k + 1) / 2, J, R)."""
    k, _, J, shared = A.shape
    row, column = np.triu_indices(k)
    if shared == 1:
        products = (T[:, None, row] * T[None, :, column]).reshape(k * k, -1)  # T_ca T_db by (c, d)
        out = (A.reshape(k * k, J).T @ products).reshape(J, len(row), T.shape[-1]).swapaxes(0, 1)
    else:
        out = _packed_product(
            small.transpose_multiply(T[:, :, None], A), T[:, :, None], row, column
        )
    out[row == column] += 1.0
    return out


def _packed_product(
    A: np.ndarray, B: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """The upper triangle of symmetric A_j B_j, (k (k + 1) / 2, J, R)."""
    out = A[row, 0] * B[0, column]
    for i in range(1, A.shape[1]):
        out += A[row, i] * B[i, column]
    return out


def against(X: np.ndarray, v: np.ndarray) -> np.ndarray:
    """sum_j X_pj' v_xj, (x, p, R), of X (p, k, J, R or 1) and v (x, k, J, R)."""
    if X.shape[-1] == 1:
        size = X.shape[1] * X.shape[2]
        return np.matmul(X.reshape(len(X), size), v.reshape(len(v), size, v.shape[-1]))
    return np.einsum("pajr,xajr->xpr", X, v)


def combined(X: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """sum_p X_p beta_p per level, (k, J, R)."""
    p, k, J, shared = X.shape
    if shared == 1:
        return (X.reshape(p, k * J).T @ beta).reshape(k, J, beta.shape[-1])
    return np.einsum("pajr,pr->ajr", X, beta)
