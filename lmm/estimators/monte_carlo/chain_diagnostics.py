"""Convergence of chains: R-hat and effective sample size.

Rank-normalised split R-hat and bulk effective sample size as ArviZ computes them (its package arviz-stats is used): Vehtari, Gelman,
Simpson, Carpenter & Buerkner (2021), Bayesian Analysis 16. Of a single chain R-hat compares the two halves. Quantities that do not
vary, or hold a missing draw, have none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmm.estimators.optional import need

#: halves of a chain need two draws each
MIN_DRAWS = 4
#: relative difference of draws below which they are the same number
ROUNDING = 1e-12


class ChainDiagnostics(NamedTuple):
    """Per quantity.

    r_hat : about 1 when chains agree, above 1.01 when they do not yet.
    ess_bulk : the number of independent draws that say as much about the bulk of the distribution.
    """

    r_hat: np.ndarray
    ess_bulk: np.ndarray


def diagnose_chains(draws: np.ndarray) -> ChainDiagnostics:
    """R-hat and effective sample size of every quantity.

    Parameters
    ----------
    draws : (C, D, ...), C chains of D draws.

    Raises
    ------
    ArgumentError : without arviz-stats, which is in the extra ``lmm[bayes]``.

    Returns
    -------
    Arrays of the trailing shape; NaN for fewer than four draws, and for a quantity that does not vary or has a missing draw.

    Example
    -------
    >>> import numpy as np
    >>> found = diagnose_chains(np.random.default_rng(1).standard_normal((4, 1000)))
    >>> bool(found.r_hat < 1.01), bool(found.ess_bulk > 3000)
    (True, True)
    """
    draws = np.asarray(draws, dtype=float)
    chains, count, *shape = draws.shape
    flat = draws.reshape(chains, count, int(np.prod(shape)))
    out = np.full((2, flat.shape[2]), np.nan)
    use = np.flatnonzero(varies(flat) & np.isfinite(flat).all(axis=(0, 1)))
    if count >= MIN_DRAWS and len(use):
        need("arviz_stats", "R-hat and effective sample sizes")
        out[:, use] = _diagnosed(flat[:, :, use])
    return ChainDiagnostics(*out.reshape(2, *shape))


def varies(draws: np.ndarray) -> np.ndarray:
    """Whether draws (C, D, ...) of a quantity differ by more than rounding; a parameter that was given does not."""
    with np.errstate(invalid="ignore"):
        return np.asarray(
            ~(np.ptp(draws, axis=(0, 1)) <= ROUNDING * np.max(np.abs(draws), axis=(0, 1)))
        )


def _diagnosed(draws: np.ndarray) -> np.ndarray:
    """Both for draws (C, D, q): (2, q)."""
    from arviz_stats.base import array_stats

    axes = {"chain_axis": 0, "draw_axis": 1}
    halves = draws
    if len(draws) == 1:  # its two halves stand for chains
        half = draws.shape[1] // 2
        halves = np.concatenate([draws[:, :half], draws[:, -half:]])
    return np.stack(
        [array_stats.rhat(halves, **axes), array_stats.ess(draws, method="bulk", **axes)]
    )
