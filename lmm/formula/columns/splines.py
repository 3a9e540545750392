"""Natural cubic splines in R's basis.

Cubic B-splines with the second derivative constrained to zero at both boundary knots; the
constraint is taken out by the Householder QR of its transpose (R's splines::ns), so coefficients
agree with R's, not only fitted values.
"""

from __future__ import annotations

import numpy as np


def quantile_knots(x: np.ndarray, count: int) -> np.ndarray:
    """``count`` inner knots at equally spaced quantiles of x."""
    return np.quantile(x, np.arange(1, count + 1) / (count + 1)) if count > 0 else np.zeros(0)


def bspline(x: np.ndarray, knots: np.ndarray, order: int = 4, derivative: int = 0) -> np.ndarray:
    """B-splines of ``order`` on the full ``knots`` at x (n,): (n, len(knots) - order), by the Cox-de Boor recursion."""
    if derivative:
        lower = bspline(x, knots, order - 1, derivative - 1)
        out = np.zeros((len(x), len(knots) - order))
        for j in range(out.shape[1]):
            for shift, sign in ((0, 1.0), (1, -1.0)):
                width = knots[j + shift + order - 1] - knots[j + shift]
                if width > 0:
                    out[:, j] += sign * (order - 1) / width * lower[:, j + shift]
        return out
    last = (
        int(np.searchsorted(knots, knots[-1], side="left")) - 1
    )  # the right end belongs to the last interval that has a width
    first = (
        int(np.searchsorted(knots, knots[0], side="right")) - 1
    )  # beyond the ends the outer polynomials go on
    inside = np.clip(np.searchsorted(knots, x, side="right") - 1, first, last)
    basis = np.zeros((len(x), len(knots) - 1))
    basis[np.arange(len(x)), inside] = 1.0
    for k in range(2, order + 1):
        step = np.zeros((len(x), len(knots) - k))
        for j in range(step.shape[1]):
            left, right = knots[j + k - 1] - knots[j], knots[j + k] - knots[j + 1]
            if left > 0:
                step[:, j] += (x - knots[j]) / left * basis[:, j]
            if right > 0:
                step[:, j] += (knots[j + k] - x) / right * basis[:, j + 1]
        basis = step
    return basis


def natural_spline(
    x: np.ndarray, inner: np.ndarray, boundary: tuple[float, float], intercept: bool = False
) -> np.ndarray:
    """Basis (n, len(inner) + 1 + intercept) of natural cubic splines, linear outside ``boundary``."""
    low, high = boundary
    knots = np.concatenate([[low] * 4, np.sort(inner), [high] * 4])
    ends = np.array([low, high])
    clipped = np.clip(x, low, high)
    basis = bspline(clipped, knots)
    for end in ends:
        outside = x < low if end == low else x > high
        if outside.any():
            slope = bspline(np.array([end]), knots, derivative=1)
            basis[outside] += (x[outside] - end)[:, None] * slope
    constraint = bspline(ends, knots, derivative=2)
    if not intercept:
        basis, constraint = basis[:, 1:], constraint[:, 1:]
    Q, _ = np.linalg.qr(constraint.T, mode="complete")
    return basis @ Q[:, 2:]
