"""Whether values are normal: the correlation of their sorted values with normal quantiles, against samples of the same size.

Filliben (1975), Technometrics 17; the p-value is by simulation (1 + #{r_s <= r}) / (S + 1).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

#: normal samples drawn, and numbers in all of them at most
SAMPLES, MOST = 999, 4_000_000


def quantile_correlation(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The correlation and its p-value; NaN for fewer than four values."""
    n = len(values)
    if n < 4 or not np.isfinite(values).all() or np.ptp(values) == 0.0:
        return float("nan"), float("nan")
    quantiles = ndtri((np.arange(1, n + 1) - 0.375) / (n + 0.25))
    S = int(np.clip(MOST // n, 99, SAMPLES))
    own = float(_correlations(values[None], quantiles)[0])
    simulated = _correlations(rng.standard_normal((S, n)), quantiles)
    return own, float((1 + np.sum(simulated <= own)) / (S + 1))


def _correlations(samples: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    ordered = np.sort(samples, axis=1)
    ordered = ordered - ordered.mean(axis=1, keepdims=True)
    return np.asarray(
        ordered @ quantiles / np.sqrt(np.sum(ordered * ordered, axis=1) * (quantiles @ quantiles))
    )


def standardised_modes(modes: np.ndarray, covariances: np.ndarray, G: np.ndarray) -> np.ndarray:
    """(J, k) modes over their standard deviations, sqrt(G - C_j) on the diagonal; NaN where that is zero.

    Predicted effects are shrunken, the more the less is known of a level (Lange & Ryan, 1989, Ann. Stat. 17).
    """
    variance = np.diagonal(G) - np.diagonal(covariances, axis1=1, axis2=2)
    floor = 1e-8 * np.maximum(np.diagonal(G), 1e-300)
    return np.where(variance > floor, modes / np.sqrt(np.maximum(variance, floor)), np.nan)
