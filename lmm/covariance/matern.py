"""Matern's correlation with exact derivatives by the logarithms of its range and of its smoothness.

With x = d / range and the integral K_nu(x) = int_0^inf exp(-x cosh t) cosh(nu t) dt (Watson, 1922, 6.22),

    R = int exp(E) dt,   E = (1 - nu) log 2 - log Gamma(nu) + nu log x - x cosh t + log cosh(nu t),

so that every derivative of R, the order of K among them, is an integral of the same kind: with E_i, E_ij those of E,
dR_i = int E_i exp(E), d2R_ij = int (E_i E_j + E_ij) exp(E). The integrand is analytic and falls off doubly
exponentially, so the trapezoidal rule is exact to rounding (Trefethen & Weideman, 2014, SIAM Rev. 56).
"""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, gammaln, polygamma

from lmm.covariance.scaled import Root

#: width of the trapezoidal rule, and numbers in one table of the integrand
WIDTH, TABLE = 1.0 / 16.0, 1 << 20


def matern(d: np.ndarray, log_range: float, log_smoothness: float) -> Root:
    """R (u,) of distances d (u,), and its derivatives (2, u) and (2, 2, u)."""
    R, dR, d2R = np.ones(len(d)), np.zeros((2, len(d))), np.zeros((2, 2, len(d)))
    x = d * np.exp(-log_range)
    some = np.flatnonzero(x > 0.0)
    if not len(some):
        return R, dR, d2R
    last = float(np.arccosh(1.0 + (750.0 + 2.0 * np.exp(log_smoothness)) / x[some].min()))
    t = np.arange(0.0, last + WIDTH, WIDTH)
    weight = np.full(len(t), WIDTH)
    weight[0] *= 0.5
    for piece in np.array_split(some, -(-len(some) * len(t) // TABLE)):
        R[piece], dR[:, piece], d2R[:, :, piece] = _integrals(
            x[piece], float(np.exp(log_smoothness)), t, weight
        )
    return R, dR, d2R


def _integrals(x: np.ndarray, nu: float, t: np.ndarray, weight: np.ndarray) -> Root:
    """The sums over t of one table."""
    log_x, fall = np.log(x)[:, None], x[:, None] * np.cosh(t)
    log_cosh = nu * t + np.log1p(np.exp(-2.0 * nu * t)) - np.log(2.0)
    E = (1.0 - nu) * np.log(2.0) - gammaln(nu) + nu * log_x - fall + log_cosh
    p = np.exp(E) * weight
    tanh = np.tanh(nu * t)
    by_range = fall - nu  # log x falls with the log range
    by_order = nu * (log_x - digamma(nu) - np.log(2.0) + t * tanh)
    twice_order = by_order + nu**2 * (t**2 * (1.0 - tanh**2) - polygamma(1, nu))
    R = p.sum(axis=1)
    dR = np.stack([(p * by_range).sum(axis=1), (p * by_order).sum(axis=1)])
    both = (p * (by_range * by_order - nu)).sum(axis=1)
    d2R = np.stack(
        [
            np.stack([(p * (by_range**2 - fall)).sum(axis=1), both]),
            np.stack([both, (p * (by_order**2 + twice_order)).sum(axis=1)]),
        ]
    )
    return R, dR, d2R
