"""Bands that simulated curves fill, one point at a time and all points at once.

Pointwise limits are quantiles of the curves at each point. The simultaneous ones stretch these about the median by one factor c: with m
the median, l and u the pointwise limits,

    T = max over points of (curve - m) / (u - m) above m, (m - curve) / (m - l) below,

and c is the quantile of T over the curves, so that the share ``level`` of them lies inside m - c (m - l), m + c (u - m) everywhere.

Myllymäki, Mrkvička, Grabarnik, Seijo & Hahn (2017), JRSS B 79: the directional quantile envelope.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

#: points at which a quantile plot of more values than these is compared
POINTS = 500


class Envelope(NamedTuple):
    """Arrays (m,): the median of the curves, pointwise limits, simultaneous limits."""

    center: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    all_lower: np.ndarray
    all_upper: np.ndarray


def envelope(curves: np.ndarray, level: float = 0.95) -> Envelope:
    """Pointwise and simultaneous bands of curves (S, m)."""
    tail = 0.5 * (1.0 - level)
    lower, center, upper = np.quantile(curves, [tail, 0.5, 1.0 - tail], axis=0)
    tiny = np.finfo(float).tiny
    beyond = np.where(
        curves > center,
        (curves - center) / np.maximum(upper - center, tiny),
        (center - curves) / np.maximum(center - lower, tiny),
    )
    flat = upper == lower  # nothing varies there
    beyond[:, flat] = 0.0
    c = float(np.quantile(beyond.max(axis=1), level))
    return Envelope(
        center, lower, upper, center - c * (center - lower), center + c * (upper - center)
    )


def positions(n: int, points: int = POINTS) -> np.ndarray:
    """Which of n sorted values to look at, (m,) increasing: all of a few; of many, the extremes and others evenly over normal quantiles."""
    if n <= points:
        return np.arange(n)
    edge = points // 10
    z = np.linspace(ndtri(edge / n), ndtri(1.0 - edge / n), points - 2 * edge)
    middle = np.clip(np.round(n * ndtr(z)).astype(np.intp), 0, n - 1)
    return np.unique(np.concatenate([np.arange(edge), middle, np.arange(n - edge, n)]))


def order_statistics(n: int, at: np.ndarray, S: int, rng: np.random.Generator) -> np.ndarray:
    """(S, m) of n sorted uniform values those at the increasing places ``at`` (m,), without drawing the others.

    They are sums of exponential spacings over their total, and sums of some of these have gamma distributions.
    """
    steps = np.diff(np.concatenate([[-1], at, [n]]))
    sums = np.cumsum(rng.standard_gamma(steps, size=(S, len(steps))), axis=1)
    return np.asarray(sums[:, :-1] / sums[:, -1:])


def plotting_positions(n: int) -> np.ndarray:
    """(i - 1/2) / n, the probabilities at which n sorted values stand."""
    return (np.arange(n) + 0.5) / n


def normal_quantiles(n: int) -> np.ndarray:
    """Standard normal quantiles (n,) at the plotting positions."""
    return np.asarray(ndtri(plotting_positions(n)))
