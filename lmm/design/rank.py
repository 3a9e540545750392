"""Which fixed columns are independent, and the triangle that makes them orthonormal.

A column is dependent when what is left of it after projecting on the columns kept before it is
shorter than 1e-7 of its own length: the rule of R's limited-pivoting QR, so that the same columns
are dropped as in lm() and lmer().
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

#: relative length under which a column counts as dependent; R's value
TOLERANCE = 1e-7
#: relative length above which the Gram matrix alone decides (its rounding error is eps / 1e-6)
CLEAR = 1e-3
#: relative length above which its Cholesky factor needs no second pass
WELL = 0.1
#: rows taken at a time
BLOCK = 1 << 18


def independent_columns(
    X: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the independent columns of X (n, p), in order, and R (r, r) with X[:, kept] = Q R.

    Q has orthonormal columns in the inner product of the weights: Q'WQ = I.
    """
    p = X.shape[1]
    if p == 0:
        return np.arange(0), np.zeros((0, 0))
    gram = X.T @ X if weights is None else X.T @ (X * weights[:, None])
    scale = np.sqrt(np.diagonal(gram))
    scale = np.where(scale > 0, scale, 1.0)
    try:
        L = np.linalg.cholesky(gram / np.outer(scale, scale))
        if (shortest := np.diagonal(L).min()) > CLEAR:
            return np.arange(p), L.T * scale if shortest > WELL else _refined(
                X, weights, L.T * scale
            )
    except np.linalg.LinAlgError:
        pass
    rows = X / scale if weights is None else X * np.sqrt(weights)[:, None] / scale
    triangle = np.asarray(np.linalg.qr(rows, mode="r"))
    kept, R = _independent(triangle, np.linalg.norm(rows, axis=0))
    return kept, R * scale[kept]


def _refined(X: np.ndarray, weights: np.ndarray | None, R: np.ndarray) -> np.ndarray:
    """The triangle without the error of a Gram matrix's Cholesky factor R, which is eps over the square of the shortest relative length.

    Cholesky QR twice: Yamamoto, Nakatsukasa, Yanagisawa & Fukaya (2015), Electronic Transactions on Numerical Analysis 44.
    """
    Q = X @ solve_triangular(R, np.eye(len(R)))
    return np.asarray(
        np.linalg.cholesky(Q.T @ (Q if weights is None else Q * weights[:, None])).T @ R
    )


def _independent(columns: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rule of the module on the columns of a small matrix; the triangle of those kept."""
    kept: list[int] = []
    basis = np.zeros((columns.shape[0], 0))
    for j in range(columns.shape[1]):
        left = columns[:, j]
        for _ in range(2):  # twice is enough for orthogonality to rounding
            left = left - basis @ (basis.T @ left)
        norm = float(np.linalg.norm(left))
        if length[j] > 0 and norm > TOLERANCE * length[j] and basis.shape[1] < columns.shape[0]:
            kept.append(j)
            basis = np.column_stack([basis, left / norm])
    R = np.asarray(np.linalg.qr(columns[:, kept], mode="r"))
    return np.array(kept, dtype=int), R * np.where(np.diagonal(R) < 0, -1.0, 1.0)[:, None]


def triangle_inverse(R: np.ndarray) -> np.ndarray:
    """R^-1 (p, p): coefficients of the user's columns X = Q R are R^-1 gamma."""
    return np.asarray(solve_triangular(R, np.eye(len(R)))) if len(R) else np.zeros((0, 0))


def least_squares(
    X: np.ndarray, R: np.ndarray, y: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least-squares coefficients and residuals by semi-normal equations, refined once.

    X (n, p) has the triangle R of :func:`independent_columns`; returns beta (p,), y - X beta (n,).
    """
    beta, residual = np.zeros(X.shape[1]), np.asarray(y, dtype=float)
    if X.shape[1] == 0:
        return beta, residual.copy()
    residual = np.array(residual)
    for _ in range(2):
        right = X.T @ (residual if weights is None else residual * weights)
        step = solve_triangular(R, solve_triangular(R, right, trans="T"))
        beta = beta + step
        for first in range(0, len(residual), BLOCK):  # no product as long as the data
            residual[first : first + BLOCK] -= X[first : first + BLOCK] @ step
    return beta, residual
