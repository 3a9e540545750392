"""Tail probabilities of t and F, normal and chi-square in the limit; an F test as a record."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc, fdtrc, ndtr, stdtr


class FTest(NamedTuple):
    """A joint test of several linear hypotheses.

    Attributes
    ----------
    f : the statistic, chi-square over its degrees of freedom where ``den_df`` is infinite.
    num_df, den_df : degrees of freedom; ``den_df`` is inf for a chi-square test.
    p : upper tail probability.
    scale : factor that Kenward and Roger's method has put into ``f``, else 1.
    """

    f: float
    num_df: int
    den_df: float
    p: float
    scale: float = 1.0


def t_p_values(statistic: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided p-values of t statistics (r,) with df (r,); inf is the normal distribution."""
    t, df = np.broadcast_arrays(
        -np.abs(np.asarray(statistic, dtype=float)), np.asarray(df, dtype=float)
    )
    with np.errstate(invalid="ignore"):
        return np.where(
            np.isinf(df), 2.0 * ndtr(t), 2.0 * stdtr(np.where(np.isinf(df), 1.0, df), t)
        )


def f_test(f: float, num_df: int, den_df: float, scale: float = 1.0) -> FTest:
    """The test with its p-value, ``scale`` being in ``f`` already; NaN without degrees of freedom."""
    if num_df == 0 or not np.isfinite(f):
        return FTest(float("nan"), num_df, float("nan"), float("nan"))
    p = chdtrc(num_df, f * num_df) if np.isinf(den_df) else fdtrc(num_df, den_df, f)
    return FTest(float(f), num_df, float(den_df), float(p), float(scale))
