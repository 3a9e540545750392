"""Convergence of chains: R-hat and effective sample size.

Rank-normalised split R-hat, the larger of that of the draws and of the draws folded about their median, and bulk effective
sample size: N draws in M half-chains are worth M N / tau,

    tau = -1 + 2 sum_t P_t,   P_t = rho_2t + rho_2t+1,

summed while P_t is positive and made non-increasing (Geyer's initial monotone sequence). As Stan and ArviZ report them: Vehtari,
Gelman, Simpson, Carpenter & Buerkner (2021), Bayesian Analysis 16; Geyer (1992), Statistical Science 7.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

#: halves of a chain need two draws each
MIN_DRAWS = 4
#: relative difference of draws below which they are the same number
ROUNDING = 1e-12
#: numbers that are worked on at a time
BATCH = 4_000_000


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
    if count >= MIN_DRAWS:
        step = max(1, BATCH // (chains * count))
        for start in range(0, len(use), step):
            own = use[start : start + step]
            out[:, own] = _diagnosed(flat[:, :, own])
    return ChainDiagnostics(*out.reshape(2, *shape))


def varies(draws: np.ndarray) -> np.ndarray:
    """Whether draws (C, D, ...) of a quantity differ by more than rounding; a parameter that was given does not."""
    with np.errstate(invalid="ignore"):
        return np.asarray(~(np.ptp(draws, axis=(0, 1)) <= ROUNDING * np.max(np.abs(draws), axis=(0, 1))))


def _diagnosed(draws: np.ndarray) -> np.ndarray:
    """Both for draws (C, D, q): (2, q)."""
    half = draws.shape[1] // 2
    split = np.concatenate([draws[:, :half], draws[:, half : 2 * half]])
    normal = rank_normalized(split)
    folded = rank_normalized(np.abs(split - np.median(split, axis=(0, 1))))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([np.maximum(potential_scale_reduction(normal), potential_scale_reduction(folded)), effective_sample_size(normal)])


def rank_normalized(x: np.ndarray) -> np.ndarray:
    """Normal scores of the ranks among all of x (C, D, q), ties at their average rank."""
    chains, count, q = x.shape
    n = chains * count
    flat = x.reshape(n, q)
    order = np.argsort(flat, axis=0, kind="stable")
    ordered = np.take_along_axis(flat, order, axis=0)
    place = np.arange(n)[:, None]
    new = np.concatenate([np.ones((1, q), bool), ordered[1:] != ordered[:-1]])
    first = np.maximum.accumulate(np.where(new, place, 0), axis=0)
    ends = np.concatenate([new[1:], np.ones((1, q), bool)])
    last = np.minimum.accumulate(np.where(ends, place, n - 1)[::-1], axis=0)[::-1]
    score = ndtri((0.5 * (first + last) + 1.0 - 0.375) / (n + 0.25))
    out = np.empty_like(flat)
    np.put_along_axis(out, order, score, axis=0)
    return out.reshape(x.shape)


def potential_scale_reduction(x: np.ndarray) -> np.ndarray:
    """R-hat (q,) of chains x (C, D, q)."""
    count = x.shape[1]
    between, within = x.mean(axis=1).var(axis=0, ddof=1), x.var(axis=1, ddof=1).mean(axis=0)
    return np.asarray(np.sqrt(between / within + (count - 1) / count))


def effective_sample_size(x: np.ndarray) -> np.ndarray:
    """Effective draws (q,) of chains x (C, D, q)."""
    chains, count, q = x.shape
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(x - x.mean(axis=1, keepdims=True), size, axis=1)
    covariance = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size, axis=1)[:, :count].mean(axis=0) / count  # (D, q)
    within = covariance[0] * count / (count - 1)
    total = covariance[0] + (x.mean(axis=1).var(axis=0, ddof=1) if chains > 1 else 0.0)
    rho = 1.0 - (within - covariance) / total
    rho[0] = 1.0
    pairs = count // 2
    even, odd = rho[0 : 2 * pairs : 2], rho[1 : 2 * pairs : 2]
    P = even + odd
    kept = np.logical_and.accumulate(P > 0.0, axis=0)
    stop = np.minimum(kept.sum(axis=0), pairs - 1)  # the pair after the last: its even half still counts where it is positive
    rest = np.where(kept[-1], 0.0, np.maximum(np.take_along_axis(even, stop[None], axis=0)[0], 0.0))
    total_rho = np.sum(np.minimum.accumulate(P, axis=0), axis=0, where=kept)
    tau = np.maximum(-1.0 + 2.0 * total_rho + rest, 1.0 / np.log10(chains * count))
    return np.asarray(chains * count / tau)
