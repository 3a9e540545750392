"""Algebra of many small matrices at once, batch axis last: an array (a, b, J) is J matrices a x b.

Each operation is written over the small axes and vectorised over J, so that it runs the same under
NumPy and, traced, under JAX, where it fuses. Nothing here calls LAPACK: a loop of J small LAPACK
calls is slow under NumPy, and batched ones have deadlocked under JAX on CPU.
``xp`` is ``numpy`` or ``jax.numpy``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType

import numpy as np

from lmm.types import KernelArray as Array

#: size of A G from which I - A W loses digits, and determinant of a correlation matrix from which its inverse has them
LARGE, REGULAR = 1e4, 1e-6
#: levels whose temporaries stay in cache
BLOCK = 1 << 13


def in_blocks(function: Callable[..., Array]) -> Callable[..., Array]:
    """Run a function of arrays (..., J) over blocks of J, so that under NumPy its temporaries stay in cache."""

    @wraps(function)
    def run(*arrays: Array) -> Array:
        J = arrays[0].shape[-1]
        if J <= 2 * BLOCK or not all(
            isinstance(a, np.ndarray) and a.shape[-1] == J for a in arrays
        ):
            return function(*arrays)
        out = None
        for i in range(0, J, BLOCK):
            part = function(*(a[..., i : i + BLOCK] for a in arrays))
            if out is None:
                out = np.empty((*part.shape[:-1], J))
            out[..., i : i + BLOCK] = part
        return out

    return run


@in_blocks
def multiply(A: Array, B: Array) -> Array:
    """A_j B_j: (a, b, J) x (b, c, J) -> (a, c, J)."""
    out = A[:, 0, None] * B[None, 0]
    for i in range(1, A.shape[1]):
        out += A[:, i, None] * B[None, i]
    return out


@in_blocks
def transpose_multiply(A: Array, B: Array) -> Array:
    """A_j' B_j: (b, a, J) x (b, c, J) -> (a, c, J)."""
    out = A[0, :, None] * B[0, None]
    for i in range(1, A.shape[0]):
        out += A[i, :, None] * B[i, None]
    return out


@in_blocks
def apply(A: Array, v: Array) -> Array:
    """A_j v_j for r vectors at a time: (a, b, J) x (r, b, J) -> (r, a, J)."""
    out = A[None, :, 0] * v[:, 0, None]
    for i in range(1, A.shape[1]):
        out += A[None, :, i] * v[:, i, None]
    return out


@in_blocks
def apply_transpose(A: Array, v: Array) -> Array:
    """A_j' v_j for r vectors at a time: (b, a, J) x (r, b, J) -> (r, a, J)."""
    out = A[None, 0] * v[:, 0, None]
    for i in range(1, A.shape[0]):
        out += A[None, i] * v[:, i, None]
    return out


def cholesky(xp: ModuleType, M: Array) -> tuple[list[Array], Array]:
    """Columns of the lower factors of positive definite M (k, k, J), column j as (k - j, J), and log det (J,)."""
    columns, logdet = [], 0.0
    for _ in range(M.shape[0]):
        pivot = M[0, 0]
        column = M[:, 0] / xp.sqrt(pivot)
        columns.append(column)
        logdet = logdet + xp.log(pivot)
        M = M[1:, 1:] - column[1:, None] * column[None, 1:]
    return columns, logdet


def forward_substitute(xp: ModuleType, columns: list[Array], B: Array) -> Array:
    """L_j^-1 B_j: (k, c, J or 1) -> (k, c, J)."""
    rows = []
    for column in columns:
        row = B[0] / column[0]
        rows.append(row)
        B = B[1:] - column[1:, None] * row[None]
    return xp.stack(rows)


def whiten(xp: ModuleType, A: Array, T: Array) -> tuple[Array, Array, Array]:
    """X_j and W_j = X_j'X_j = T (I + T'A_jT)^-1 T', (k, k, J) each, and sum_j log|I + T'A_jT|.

    With C C' = I + T'AT the Cholesky factorisation, X = C^-1 T'. T need not be invertible.
    """
    k, _, J = A.shape
    if xp is not np or J <= 2 * BLOCK:
        return _whiten(xp, A, T)
    X, W, logdet = np.empty(A.shape), np.empty(A.shape), 0.0
    for i in range(0, J, BLOCK):
        X[..., i : i + BLOCK], W[..., i : i + BLOCK], part = _whiten(xp, A[..., i : i + BLOCK], T)
        logdet += part
    return X, W, logdet


def _whiten(xp: ModuleType, A: Array, T: Array) -> tuple[Array, Array, Array]:
    k, _, J = A.shape
    if k == 1:
        pivot = 1.0 + T[0, 0] ** 2 * A
        return T[0, 0] / xp.sqrt(pivot), T[0, 0] ** 2 / pivot, xp.sum(xp.log(pivot))
    half = (T.T @ A.reshape(k, k * J)).reshape(k, k, J)
    M = (T.T @ xp.swapaxes(half, 0, 1).reshape(k, k * J)).reshape(k, k, J) + xp.eye(k)[:, :, None]
    columns, logdet = cholesky(xp, M)
    X = forward_substitute(xp, columns, T.T[:, :, None])
    return X, transpose_multiply(X, X), xp.sum(logdet)


def left(xp: ModuleType, A: Array, W: Array, T: Array) -> Array:
    """E_j = I - A_j W_j = (I + A_j G)^-1, (k, k, J), what W leaves of a vector.

    Where A G is large the difference has no digits; there it is G^-1 W, unless G is singular.
    """
    k = len(A)
    if k == 1:
        return 1.0 / (1.0 + T[0, 0] ** 2 * A)
    direct = xp.eye(k)[:, :, None] - multiply(A, W)
    G = T @ T.T
    diagonal = xp.diagonal(G)
    large = xp.max(xp.stack([A[a, a] * G[a, a] for a in range(k)]), axis=0) > LARGE
    scale = xp.sqrt(xp.where(diagonal > 0.0, diagonal, 1.0))
    unit = G / (scale[:, None] * scale[None])
    regular = xp.linalg.det(unit) > REGULAR
    if xp is np and not (regular and large.any()):
        return direct
    inverse = xp.linalg.inv(xp.where(regular, unit, xp.eye(k))) / (scale[:, None] * scale[None])
    other = multiply(inverse[:, :, None], W)
    return xp.where(large & regular, other, direct)
