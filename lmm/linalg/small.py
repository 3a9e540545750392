"""Algebra of many small matrices at once, batch axis last: an array (a, b, J) is J matrices a x b.

Each operation is written over the small axes and vectorised over J, so that it runs the same under
NumPy and, traced, under JAX, where it fuses. Nothing here calls LAPACK: a loop of J small LAPACK
calls is slow under NumPy, and batched ones have deadlocked under JAX on CPU.
``xp`` is ``numpy`` or ``jax.numpy``.
"""

from __future__ import annotations

from typing import Any

Array = Any


def multiply(A: Array, B: Array) -> Array:
    """A_j B_j: (a, b, J) x (b, c, J) -> (a, c, J)."""
    out = A[:, 0, None] * B[None, 0]
    for i in range(1, A.shape[1]):
        out = out + A[:, i, None] * B[None, i]
    return out


def transpose_multiply(A: Array, B: Array) -> Array:
    """A_j' B_j: (b, a, J) x (b, c, J) -> (a, c, J)."""
    out = A[0, :, None] * B[0, None]
    for i in range(1, A.shape[0]):
        out = out + A[i, :, None] * B[i, None]
    return out


def apply(A: Array, v: Array) -> Array:
    """A_j v_j for r vectors at a time: (a, b, J) x (r, b, J) -> (r, a, J)."""
    out = A[None, :, 0] * v[:, 0, None]
    for i in range(1, A.shape[1]):
        out = out + A[None, :, i] * v[:, i, None]
    return out


def apply_transpose(A: Array, v: Array) -> Array:
    """A_j' v_j for r vectors at a time: (b, a, J) x (r, b, J) -> (r, a, J)."""
    out = A[None, 0] * v[:, 0, None]
    for i in range(1, A.shape[0]):
        out = out + A[None, i] * v[:, i, None]
    return out


def cholesky(xp: Any, M: Array) -> tuple[list[Array], Array]:
    """Columns of the lower factors of positive definite M (k, k, J), column j as (k - j, J), and log det (J,)."""
    columns, logdet = [], 0.0
    for _ in range(M.shape[0]):
        pivot = M[0, 0]
        column = M[:, 0] / xp.sqrt(pivot)
        columns.append(column)
        logdet = logdet + xp.log(pivot)
        M = M[1:, 1:] - column[1:, None] * column[None, 1:]
    return columns, logdet


def forward_substitute(xp: Any, columns: list[Array], B: Array) -> Array:
    """L_j^-1 B_j: (k, c, J or 1) -> (k, c, J)."""
    rows = []
    for column in columns:
        row = B[0] / column[0]
        rows.append(row)
        B = B[1:] - column[1:, None] * row[None]
    return xp.stack(rows)


def whiten(xp: Any, A: Array, T: Array) -> tuple[Array, Array]:
    """X_j with X_j'X_j = T (I + T'A_jT)^-1 T', and sum_j log|I + T'A_jT|.

    With C C' = I + T'AT the Cholesky factorisation, X = C^-1 T'. T need not be invertible.
    """
    k, _, J = A.shape
    if k == 1:
        pivot = 1.0 + T[0, 0] ** 2 * A
        return T[0, 0] / xp.sqrt(pivot), xp.sum(xp.log(pivot))
    half = (T.T @ A.reshape(k, k * J)).reshape(k, k, J)
    M = (T.T @ xp.swapaxes(half, 0, 1).reshape(k, k * J)).reshape(k, k, J) + xp.eye(k)[:, :, None]
    columns, logdet = cholesky(xp, M)
    return forward_substitute(xp, columns, T.T[:, :, None]), xp.sum(logdet)
