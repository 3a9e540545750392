"""Single rows that lie too far out, and tails that are too heavy.

With e_i the residual of a row given the predicted effects and h_i its leverage, r_i = e_i sqrt(w_i) / (sigma sqrt(1 - h_i)) has variance
one: given the variance parameters Var(e) = sigma^2 (I - H) W^-1, of linear mixed models as of least squares. With
sigma^2 = RSS / (n - p), r_i^2 sigma^2 is what the penalized residual sum of squares falls by when the row has a mean of its own, and

    t_i = r_i sqrt((n - p - 1) / (n - p - r_i^2))

has Student's distribution of n - p - 1 degrees of freedom. The largest of n is compared with n times its tail (Bonferroni), as car's
outlierTest does. The kurtosis of the r_i is tested by Anscombe & Glynn (1983), Biometrika 70.

Of a generalized model the tail of a row is twice the smaller of P(Y <= y) and P(Y >= y) given the predicted effects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtr, stdtrit

from lmm.families import Family

#: rows from which the kurtosis has a distribution that is known well enough
FEWEST = 20


class Extreme(NamedTuple):
    """The most extreme row, its n-fold tail probability, and all rows whose own tails are below ``alpha`` / n."""

    row: int
    p_value: float
    beyond: np.ndarray


def t_values(standardized: np.ndarray, df: float) -> np.ndarray:
    """t (n,) of standardized residuals r (n,) that are shares of ``df`` = n - p; r itself where sigma is known, ``df`` infinite."""
    if df == np.inf:
        return standardized
    left = np.maximum(df - standardized**2, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(standardized * np.sqrt((df - 1.0) / left))


def student_tails(t: np.ndarray, df: float) -> np.ndarray:
    """Two-sided tail probabilities (n,) of t values; one for missing ones."""
    return np.where(np.isnan(t), 1.0, 2.0 * stdtr(df, -np.abs(t)))


def family_tails(
    family: Family, y: np.ndarray, mu: np.ndarray, weights: np.ndarray | None, phi: float
) -> np.ndarray:
    """2 min(P(Y <= y), P(Y >= y)), at most one, (n,)."""
    lower = family.cdf(y, mu, weights, phi)
    before = y
    if family.discrete:
        before = y - 1.0 / (weights if family.weights_are_trials and weights is not None else 1.0)
    upper = 1.0 - family.cdf(before, mu, weights, phi)
    return np.asarray(np.clip(2.0 * np.minimum(lower, upper), 0.0, 1.0))


def extreme(tails: np.ndarray, alpha: float) -> Extreme:
    """The row of the smallest of n tail probabilities."""
    n, row = len(tails), int(np.argmin(tails))
    return Extreme(row, min(1.0, n * float(tails[row])), np.flatnonzero(tails < alpha / n))


def limit(n: int, df: float, alpha: float) -> float:
    """The |t| that the largest of n exceeds with probability ``alpha`` at most."""
    return float(-stdtrit(df, 0.5 * alpha / n))


def kurtosis(values: np.ndarray) -> tuple[float, float]:
    """m4 / m2^2 of values (n,), 3 of normal ones, and the probability of as much or more; NaN for fewer than 20 or equal ones."""
    n = len(values)
    away = values - values.mean()
    square = float(np.mean(away**2))
    if n < FEWEST or square == 0.0:
        return float("nan"), float("nan")
    b2 = float(np.mean(away**4)) / square**2
    expected = 3.0 * (n - 1.0) / (n + 1.0)
    variance = 24.0 * n * (n - 2.0) * (n - 3.0) / ((n + 1.0) ** 2 * (n + 3.0) * (n + 5.0))
    x = (b2 - expected) / np.sqrt(variance)
    skew = (6.0 * (n * n - 5.0 * n + 2.0) / ((n + 7.0) * (n + 9.0))) * np.sqrt(
        6.0 * (n + 3.0) * (n + 5.0) / (n * (n - 2.0) * (n - 3.0))
    )
    df = 6.0 + 8.0 / skew * (2.0 / skew + np.sqrt(1.0 + 4.0 / skew**2))
    scaled = 1.0 + x * np.sqrt(2.0 / (df - 4.0))
    root = np.cbrt((1.0 - 2.0 / df) / scaled) if scaled > 0.0 else np.inf
    z = (1.0 - 2.0 / (9.0 * df) - root) / np.sqrt(2.0 / (9.0 * df))
    return b2, float(ndtr(-z))
