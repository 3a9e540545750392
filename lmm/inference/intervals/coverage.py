"""The coverage of an interval and its normal quantile."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri, stdtrit

from lmm.errors import ArgumentError


def check_level(level: float) -> float:
    """A coverage strictly between 0 and 1."""
    if (
        isinstance(level, bool)
        or not isinstance(level, (int, float, np.number))
        or not 0.0 < level < 1.0
    ):
        raise ArgumentError(f"level={level!r} must lie between 0 and 1, for example 0.95.")
    return float(level)


def normal_quantile(level: float) -> float:
    """z with P(|Z| < z) = level."""
    return float(ndtri(0.5 + check_level(level) / 2.0))


def t_quantile(level: float, df: np.ndarray) -> np.ndarray:
    """t with P(|T| < t) = level per number of degrees of freedom; that of the normal where they are infinite."""
    df = np.asarray(df, dtype=float)
    z = normal_quantile(level)
    finite = np.isfinite(df)
    return np.where(
        finite,
        stdtrit(np.where(finite, df, 1.0), 0.5 + level / 2.0),
        np.where(np.isnan(df), np.nan, z),
    )


def tails(level: float) -> tuple[float, float]:
    """The probabilities below the ends of an interval with equal tails."""
    tail = (1.0 - check_level(level)) / 2.0
    return tail, 1.0 - tail
