"""Intervals from B replicates t* (B,) of an estimate t, those that have a value.

With tail = (a/2, 1 - a/2), a = 1 - level, and q the quantiles of t*,

    percentile   q(a/2), q(1 - a/2)
    basic        2 t - q(1 - a/2), 2 t - q(a/2)
    normal       t - bias -+ z se, bias and se those of t*
    bca          percentiles at Phi(z0 + (z0 + z) / (1 - acc (z0 + z))), z0 from the share of t* below t, the acceleration from fits
                 that leave one level out (Efron 1987, JASA 82)
    studentized  t - q(1 - a/2) s, t - q(a/2) s of (t* - t) / s*: s* is the standard error of each replicate, s that of the fit

Davison & Hinkley (1997), Bootstrap Methods and their Application, chapter 5.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri


def quantiles(values: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Quantiles at positions (B + 1) a as Davison & Hinkley have them; NaN where there are no values."""
    if not len(values):
        return np.full(len(probabilities), np.nan)
    return np.asarray(np.quantile(np.sort(values), probabilities, method="weibull"))


def percentile(values: np.ndarray, estimate: float, tail: np.ndarray) -> np.ndarray:
    """(2,) quantiles of the replicates."""
    return quantiles(values, tail)


def basic(values: np.ndarray, estimate: float, tail: np.ndarray) -> np.ndarray:
    """(2,) quantiles of the replicates, reflected at the estimate."""
    return 2.0 * estimate - quantiles(values, tail)[::-1]


def normal(values: np.ndarray, estimate: float, tail: np.ndarray) -> np.ndarray:
    """(2,) normal limits about the estimate less its bias."""
    if len(values) < 2:
        return np.full(2, np.nan)
    centre = estimate - (values.mean() - estimate)
    return np.asarray(centre + ndtri(tail) * values.std(ddof=1))


def studentized(t: np.ndarray, estimate: float, error: float, tail: np.ndarray) -> np.ndarray:
    """(2,) limits from t (B,), distances of the replicates to the estimate in their own standard errors."""
    return estimate - error * quantiles(t, tail)[::-1]


def bca(values: np.ndarray, estimate: float, left_out: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """(2,) percentiles corrected for bias and acceleration; ``left_out`` are estimates without each level."""
    B = max(len(values), 1)
    share = (np.sum(values < estimate) + 0.5 * np.sum(values == estimate)) / B
    away = left_out.mean() - left_out if len(left_out) else left_out
    spread = float(np.sum(away**2)) ** 1.5
    acceleration = float(np.sum(away**3)) / (6.0 * spread) if spread > 0 else 0.0
    z0 = float(ndtri(np.clip(share, 0.5 / B, 1.0 - 0.5 / B)))
    z = z0 + ndtri(tail)
    return quantiles(values, ndtr(z0 + z / (1.0 - acceleration * z)))
