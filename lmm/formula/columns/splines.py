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
    """B-splines of ``order`` on the full ``knots`` at x (n,), or a derivative: (n, len(knots) - order).

    The right end belongs to the last interval; beyond the ends the outer polynomials go on.
    """
    from scipy.interpolate import BSpline

    coefficients = np.eye(len(knots) - order)
    return np.asarray(BSpline(knots, coefficients, order - 1)(x, nu=derivative))


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
