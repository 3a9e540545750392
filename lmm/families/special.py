"""Remainders of Stirling's formula, which keep densities accurate when a shape parameter is large.

    gammaln(a)  = a log a - a - log(a / 2 pi) / 2 + s(a)
    digamma(a)  = log a - h(a),           h(a)  = 1 / (2a) - s'(a)
    psi'(a)     = 1 / a + h1(a),          h1(a) = -h'(a)
    psi''(a)    = -1 / a^2 + h2(a),       h2(a) = h1'(a)

Differences such as gammaln(a + y) - gammaln(a) lose all digits as a grows; written with the remainders
they do not. Small a: SciPy's functions; large a: the asymptotic series (DLMF 5.11.1, 5.11.2, 5.15.8).
"""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.families.namespace import namespace
from lmm.types import KernelArray

#: from here on the series below are exact to rounding
LARGE = 20.0
LOG_2PI = float(np.log(2.0 * np.pi))


def _series(coefficients: tuple[float, ...], inverse: np.ndarray) -> np.ndarray:
    """Polynomial in 1 / a^2, constant first."""
    square: np.ndarray = inverse * inverse
    total: np.ndarray | float = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * square + c
    return np.asarray(total) if isinstance(total, float) else total


def _parts(a: KernelArray) -> tuple[KernelArray, KernelArray, KernelArray, KernelArray]:
    """a, whether it is large, 1 / a there (harmless elsewhere), a where it is small (harmless elsewhere)."""
    found = namespace(a)
    a = np.asarray(a, dtype=float) if found.eager else a
    large = a >= LARGE
    return a, large, 1.0 / found.xp.where(large, a, LARGE), found.xp.where(large, LARGE, a)


def stirling(a: np.ndarray | float) -> np.ndarray:
    """s(a) = gammaln(a) - (a log a - a - log(a / 2 pi) / 2), for a > 0."""
    a, large, inverse, small = _parts(a)
    far = inverse * _series(
        (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360), inverse
    )
    found = namespace(a)
    log = found.xp.log(small)
    near = found.special.gammaln(small) - (small - 0.5) * log + small - 0.5 * LOG_2PI
    return found.xp.where(large, far, near)


def log_less_digamma(a: np.ndarray | float) -> np.ndarray:
    """h(a) = log a - digamma(a), for a > 0."""
    a, large, inverse, small = _parts(a)
    far = inverse * (
        0.5
        + inverse * _series((1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760), inverse)
    )
    return np.where(large, far, np.log(small) - special.psi(small))


def trigamma_less_inverse(a: np.ndarray | float) -> np.ndarray:
    """h1(a) = psi'(a) - 1 / a, for a > 0."""
    a, large, inverse, small = _parts(a)
    far = inverse**2 * (
        0.5 + inverse * _series((1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730), inverse)
    )
    return np.where(large, far, special.zeta(2.0, small) - 1.0 / small)


def tetragamma_plus_square(a: np.ndarray | float) -> np.ndarray:
    """h2(a) = psi''(a) + 1 / a^2, for a > 0."""
    a, large, inverse, small = _parts(a)
    far = -(inverse**3) * (
        1.0 + inverse * _series((1 / 2, -1 / 6, 1 / 6, -3 / 10, 5 / 6, -691 / 210), inverse)
    )
    return np.where(large, far, -2.0 * special.zeta(3.0, small) + 1.0 / small**2)


@np.errstate(divide="ignore")  # infinite at zero
def divergence(z: np.ndarray) -> np.ndarray:
    """z - 1 - log z, for z > 0: half the unit deviance of a gamma variable."""
    found = namespace(z)
    x = (np.asarray(z, dtype=float) if found.eager else z) - 1.0
    xp = found.xp
    near = xp.abs(x) < 1e-3
    t = xp.where(near, x, 0.0)
    return xp.where(
        near,
        t * t * (0.5 - t * (1 / 3 - t * (0.25 - t * (0.2 - t / 6)))),
        x - xp.log(xp.where(near, 1.0, z)),
    )
