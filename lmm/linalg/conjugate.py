"""Conjugate gradients for many right-hand sides at once, and what their coefficients say of log|S|.

Each row of b (r, q) has its own iteration; only the product S v is shared. A row that has met the
tolerance stands still. The coefficients are those of a Lanczos process begun at b: its tridiagonal
matrix T has the nodes and weights of the Gauss quadrature of b' f(S) b (stochastic Lanczos quadrature).

References: Hestenes & Stiefel (1952), J. Res. Nat. Bur. Standards 49; Golub & Meurant (2010), Matrices,
Moments and Quadrature, ch. 4; Ubaru, Chen & Saad (2017), SIAM J. Matrix Anal. Appl. 38.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal

from lmm.types import KernelArray as Array

#: iterations after which a system counts as unsolved
LIMIT = 400


class Solved(NamedTuple):
    """x (r, q) with S x = b; ``steps`` products taken; per row the residual relative to b; coefficients (LIMIT, r) of each step.

    ``alpha`` is zero from the step on at which a row stands still.
    """

    x: Array
    steps: Array
    relative: Array
    alpha: Array
    beta: Array


class _State(NamedTuple):
    x: Array
    residual: Array
    direction: Array
    rho: Array
    steps: Array
    alpha: Array
    beta: Array


def repeat(
    xp: ModuleType, unfinished: Callable[[Any], Any], step: Callable[[Any], Any], state: Any
) -> Any:
    """``state = step(state)`` while ``unfinished(state)``: a loop of Python's, or one that is compiled."""
    if xp is np:
        while unfinished(state):
            state = step(state)
        return state
    import jax

    return jax.lax.while_loop(unfinished, step, state)


def conjugate_gradients(
    xp: ModuleType,
    multiply: Callable[[Array], Array],
    b: Array,
    tolerance: float,
    start: Array | None = None,
) -> Solved:
    """Solve S x = b for the rows of b (r, q), S symmetric positive definite and given by ``multiply`` (r, q) -> (r, q).

    Parameters
    ----------
    tolerance : of the residual's norm relative to that of b, row by row.
    start : (r, q) to begin from; zeros otherwise. The coefficients belong to b only when it is None.
    """
    r = len(b)
    size = xp.sum(b * b, axis=1)
    target = tolerance**2 * size
    x = xp.zeros_like(b) if start is None else start
    residual = b if start is None else b - multiply(start)
    rho = xp.sum(residual * residual, axis=1)
    row = xp.arange(LIMIT)[:, None]

    def unfinished(s: _State) -> Any:
        return xp.any(s.rho > target) & (s.steps < LIMIT)

    def step(s: _State) -> _State:
        product = multiply(s.direction)
        active = s.rho > target
        curvature = xp.sum(s.direction * product, axis=1)
        alpha = xp.where(active, s.rho / xp.where(active, curvature, 1.0), 0.0)
        x = s.x + alpha[:, None] * s.direction
        residual = s.residual - alpha[:, None] * product
        rho = xp.where(active, xp.sum(residual * residual, axis=1), s.rho)
        beta = xp.where(active, rho / xp.where(active, s.rho, 1.0), 0.0)
        direction = xp.where(active[:, None], residual + beta[:, None] * s.direction, s.direction)
        here = row == s.steps
        return _State(
            x,
            residual,
            direction,
            rho,
            s.steps + 1,
            xp.where(here, alpha, s.alpha),
            xp.where(here, beta, s.beta),
        )

    blank = xp.zeros((LIMIT, r))
    first = _State(x, residual, residual, rho, xp.asarray(0), blank, blank)
    end = repeat(xp, unfinished, step, first)
    relative = xp.sqrt(end.rho / xp.where(size > 0.0, size, 1.0))
    return Solved(end.x, end.steps, relative, end.alpha, end.beta)


def log_quadratics(alpha: np.ndarray, beta: np.ndarray, size: np.ndarray) -> np.ndarray:
    """b' log(S) b per right-hand side (r,), from the coefficients (steps, r) of :func:`conjugate_gradients` and b'b (r,)."""
    out = np.zeros(alpha.shape[1])
    for i, (a, b) in enumerate(zip(alpha.T, beta.T, strict=True)):
        count = int(np.count_nonzero(a))
        if not count:
            continue
        a, b = a[:count], b[:count]
        diagonal = 1.0 / a
        diagonal[1:] += b[:-1] / a[:-1]
        values, vectors = eigh_tridiagonal(diagonal, np.sqrt(b[:-1]) / a[:-1])
        out[i] = size[i] * float(vectors[0] ** 2 @ np.log(values))
    return out
