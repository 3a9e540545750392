"""Convergence of chains: R-hat and effective sample size.

Rank-normalised split R-hat, the larger of that of the draws and of the folded draws, and bulk effective sample size, as
Stan and ArviZ report them (Vehtari, Gelman, Simpson, Carpenter & Buerkner 2021, Bayesian Analysis 16). The formulas
are blackjax's.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from lmm.errors import ArgumentError

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


def available() -> bool:
    """Whether blackjax is installed."""
    return importlib.util.find_spec("blackjax") is not None


def diagnose_chains(draws: np.ndarray) -> ChainDiagnostics:
    """R-hat and effective sample size of every quantity.

    Parameters
    ----------
    draws : (C, D, ...), C chains of D draws.

    Returns
    -------
    Arrays of the trailing shape; NaN for fewer than four draws, and for a quantity that does not vary or has a missing draw.

    Raises
    ------
    ArgumentError : without blackjax.
    """
    draws = np.asarray(draws, dtype=float)
    chains, count, *shape = draws.shape
    flat = draws.reshape(chains, count, int(np.prod(shape)))
    out = np.full((2, flat.shape[2]), np.nan)
    use = varies(flat)
    function = _compiled()
    if count >= MIN_DRAWS and use.any():
        import jax

        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            out[:, use] = np.asarray(function(flat[:, :, use])).reshape(2, -1)
    return ChainDiagnostics(*out.reshape(2, *shape))


def varies(draws: np.ndarray) -> np.ndarray:
    """Whether draws (C, D, ...) of a quantity differ by more than rounding; a parameter that was given does not."""
    with np.errstate(invalid="ignore"):
        return np.asarray(~(np.ptp(draws, axis=(0, 1)) <= ROUNDING * np.max(np.abs(draws), axis=(0, 1))))


@cache
def _compiled() -> Any:
    """Both in one kernel: (C, D, q) -> (2, q)."""
    try:
        from blackjax.diagnostics import ess_bulk, rhat
    except ImportError as error:
        raise ArgumentError("R-hat and effective sample sizes need blackjax 1.7; install it with: pip install 'lmm[bayes]'") from error
    import jax
    import jax.numpy as jnp

    return jax.jit(lambda draws: jnp.stack([jnp.atleast_1d(rhat(draws)), jnp.atleast_1d(ess_bulk(draws))]))
