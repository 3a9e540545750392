"""P-values and critical values of several tests at once.

Tukey's method rests on the studentized range: with k independent standard normals, R their range and s^2 ~ chi^2_v / v,

    P(R > w)     = k int phi(z) [Phi(z)^(k-1) - (Phi(z) - Phi(z - w))^(k-1)] dz
    P(R / s > q) = int f(s) P(R > q s) ds .

Both integrands are analytic and vanish at the ends, so that the trapezoidal rule converges geometrically (the outer one in
log s). The difference of powers is taken by log1p and expm1, so that small probabilities keep their digits. k need not be
a whole number.

Dunnett's method is emmeans' approximation ``dunnettx``: between that of Tukey and that of Sidak.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, log_ndtr, ndtr, ndtri, stdtr, stdtrit

from lmm.errors import ArgumentError, nearest

METHODS = ("none", "bonferroni", "holm", "sidak", "fdr", "tukey", "dunnett")
#: degrees of freedom from which the range is that of normals
NORMAL = 25_000.0
#: exp(-TAIL) of the density of s is left out at either end
TAIL = 41.0

_Z = np.arange(-8.6, 8.65, 0.1)
_LOG_WEIGHT = -0.5 * _Z**2 - 0.5 * np.log(2.0 * np.pi) + np.log(0.1)


def range_tail(w: np.ndarray, k: float) -> np.ndarray:
    """P(R > w) of the range of k standard normals, elementwise."""
    w = np.asarray(w, dtype=float)
    log_phi = log_ndtr(_Z)
    ratio = np.exp(np.minimum(log_ndtr(_Z - w[..., None]) - log_phi, 0.0))
    with np.errstate(divide="ignore"):
        lost = -np.expm1((k - 1.0) * np.log1p(-np.minimum(ratio, 1.0)))
    return np.minimum(k * np.sum(np.exp(_LOG_WEIGHT + (k - 1.0) * log_phi) * lost, axis=-1), 1.0)


def studentized_range_tail(q: float, k: float, df: float) -> float:
    """P(Q > q) of the studentized range of k means with df degrees of freedom."""
    if not np.isfinite(q) or np.isnan(df):
        return 0.0 if q == np.inf else float("nan")
    if q <= 0.0:
        return 1.0
    if df > NORMAL:
        return float(range_tail(np.array(q), k))
    low, high = -TAIL / df - 0.5, 0.5 * np.log1p(2.0 * np.sqrt(TAIL / df) + 2.0 * TAIL / df)
    step = 0.35 / np.sqrt(2.0 * df + q)
    u = np.arange(low, high + step, step)
    density = (
        np.log(2.0)
        + 0.5 * df * np.log(0.5 * df)
        - gammaln(0.5 * df)
        + df * (u - 0.5 * np.exp(2.0 * u))
    )
    return float(min(step * np.sum(np.exp(density) * range_tail(q * np.exp(u), k)), 1.0))


@lru_cache(maxsize=256)
def studentized_range_quantile(level: float, k: float, df: float) -> float:
    """q with P(Q < q) = level."""

    def excess(q: float) -> float:
        return (1.0 - level) - studentized_range_tail(q, k, df)

    return _root(excess, float(np.sqrt(2.0) * _t_quantile(1.0 - (1.0 - level) / 2.0, df)))


def adjusted(p: np.ndarray, t: np.ndarray, df: np.ndarray, method: str, means: float) -> np.ndarray:
    """P-values (r,) of one family of two-sided tests, each at least its own p.

    Parameters
    ----------
    p, t, df : (r,) p-values, statistics and degrees of freedom of the tests one by one; NaN for a test that cannot be made.
    method : one of ``METHODS``; "fdr" is Benjamini and Hochberg's.
    means : how many means Tukey's pairs are of.
    """
    n = int(np.isfinite(p).sum())
    if n <= 1 or method == "none":
        return np.array(p)
    if method == "bonferroni":
        return np.minimum(p * n, 1.0)
    if method == "sidak":
        return -np.expm1(n * np.log1p(-p))
    if method in ("holm", "fdr"):
        return _stepwise(p, n, method)
    tail = _tukey_tail if method == "tukey" else _dunnett_tail
    size = means if method == "tukey" else n
    return np.array(
        [tail(abs(a), size, v) if np.isfinite(a) else np.nan for a, v in zip(t, df, strict=True)]
    )


def critical_values(level: float, df: np.ndarray, method: str, n: int, means: float) -> np.ndarray:
    """(r,) multiples of the standard error with joint coverage ``level``; Bonferroni's where the method has no intervals."""
    if n <= 1:
        method, n = "none", 1
    inside = {"none": level, "sidak": level ** (1.0 / n)}.get(method, 1.0 - (1.0 - level) / n)
    if method == "tukey":
        return np.array(
            [
                studentized_range_quantile(level, means, v) / np.sqrt(2.0)
                if not np.isnan(v)
                else np.nan
                for v in df
            ]
        )
    if method == "dunnett":
        return np.array(
            [_dunnett_quantile(level, float(n), v) if not np.isnan(v) else np.nan for v in df]
        )
    return np.array([_t_quantile(0.5 + inside / 2.0, v) for v in df])


def check_method(adjust: str, pairs: bool) -> str:
    """The method meant; ArgumentError for an unknown one, and for Tukey's on anything but all pairs."""
    name = {"bh": "fdr", "dunnettx": "dunnett"}.get(str(adjust).lower(), str(adjust).lower())
    if name not in METHODS:
        raise ArgumentError(
            f"adjust={adjust!r} is not one of {', '.join(map(repr, METHODS))}.{nearest(name, METHODS)}"
        )
    if name == "tukey" and not pairs:
        raise ArgumentError(
            "adjust='tukey' is for all pairs of means; use 'sidak' or 'holm' for other contrasts."
        )
    return name


def _stepwise(p: np.ndarray, n: int, method: str) -> np.ndarray:
    out = np.full(len(p), np.nan)
    order = np.argsort(p)[:n]  # NaN last
    rank = np.arange(1, n + 1)
    if method == "holm":
        out[order] = np.minimum(np.maximum.accumulate(p[order] * (n + 1 - rank)), 1.0)
    else:
        out[order] = np.minimum(np.minimum.accumulate((p[order] * n / rank)[::-1])[::-1], 1.0)
    return out


def _tukey_tail(t: float, means: float, df: float) -> float:
    return studentized_range_tail(float(np.sqrt(2.0) * t), means, float(df))


def _dunnett_tail(t: float, n: float, df: float) -> float:
    """1 - ((k - 1) / k tukey + 1 / k sidak) for n = k tests, the range being that of (1 + sqrt(1 + 8 k)) / 2 means."""
    tukey = _tukey_tail(t, (1.0 + np.sqrt(1.0 + 8.0 * n)) / 2.0, df)
    sidak = -np.expm1(n * np.log1p(-float(two_sided(np.array(t), np.array(df)))))
    return float((n - 1.0) / n * tukey + sidak / n)


@lru_cache(maxsize=256)
def _dunnett_quantile(level: float, n: float, df: float) -> float:
    return _root(
        lambda t: (1.0 - level) - _dunnett_tail(t, n, df), _t_quantile(0.5 + level / 2.0, df)
    )


def _t_quantile(p: float, df: float) -> float:
    if np.isnan(df):
        return float("nan")
    return float(ndtri(p) if df > 1e10 else stdtrit(df, p))


def _root(excess: Callable[[float], float], start: float) -> float:
    """Zero of an increasing function on the positive line: a bracket around ``start``, then regula falsi (Illinois)."""
    low = high = start
    while excess(high) < 0.0 and high < 1e6:
        low, high = high, 1.5 * high
    while excess(low) > 0.0 and low > 1e-6:
        low, high = low / 1.5, low
    a, b = excess(low), excess(high)
    for _ in range(100):
        middle = high - b * (high - low) / (b - a) if b > a else 0.5 * (low + high)
        if not low < middle < high:
            middle = 0.5 * (low + high)
        value = excess(middle)
        if value < 0.0:
            low, a, b = middle, value, b * 0.5  # Illinois: the end that stays counts for half
        else:
            high, b, a = middle, value, a * 0.5
        if abs(value) < 1e-13 or high - low < 1e-11 * high:
            return middle
    return 0.5 * (low + high)


def two_sided(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided p-values of t statistics, normal where df is infinite."""
    t, df = np.abs(np.asarray(t, dtype=float)), np.asarray(df, dtype=float)
    finite = np.isfinite(df)
    return 2.0 * np.where(
        finite, stdtr(np.where(finite, df, 1.0), -t), np.where(np.isnan(df), np.nan, ndtr(-t))
    )
