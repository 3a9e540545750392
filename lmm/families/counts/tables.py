"""Distribution functions and draws of counts, by sums of their probabilities."""

from __future__ import annotations

import numpy as np

from lmm.families.base import Array, Family, Phi

#: probabilities that are held at a time
CELLS = 2_000_000
#: what is left of a distribution where a search for a draw ends
LEFT = 1e-13


def _probabilities(family: Family, y: Array, mu: Array, phi: Phi) -> Array:
    """P(Y = y) at means mu."""
    with np.errstate(all="ignore"):
        eta = np.broadcast_to(family.link.link(mu), np.shape(y))
        log = family.log_density(y, eta, None, phi)
        return np.where(np.isnan(log), 0.0, np.exp(log))


def summed(family: Family, y: Array, mu: Array, phi: Phi) -> Array:
    """P(Y <= y) of counts, elementwise."""
    counts, means, phis = np.broadcast_arrays(np.floor(np.asarray(y, dtype=float)), mu, phi)
    k, mean, own = counts.ravel(), means.ravel(), phis.ravel()
    out = np.zeros(len(k))
    values = np.arange(max(np.max(k, initial=0.0), 0.0) + 1.0)
    rows = max(1, CELLS // len(values))
    for start in range(0, len(k), rows):
        part = slice(start, start + rows)
        table = np.broadcast_to(values, (len(k[part]), len(values)))
        p = _probabilities(family, table, mean[part, None], own[part, None])
        out[part] = np.minimum(np.where(table <= k[part, None], p, 0.0).sum(axis=1), 1.0)
    return out.reshape(counts.shape)


def drawn(family: Family, rng: np.random.Generator, mu: Array, phi: Phi, least: int = 0) -> Array:
    """Counts from ``least`` on with means mu, one uniform number each: the first y with P(Y <= y) above it."""
    means, phis = np.broadcast_arrays(np.asarray(mu, dtype=float), phi)
    flat, own = means.ravel(), phis.ravel()
    left = rng.random(len(flat))
    out = np.full(len(flat), float(least))
    open_ = np.arange(len(flat))
    y = float(least)
    while len(open_):
        p = _probabilities(family, np.full(len(open_), y), flat[open_], own[open_])
        left[open_] -= p
        out[open_] = y
        past = (y > flat[open_]) & (p < LEFT)
        open_ = open_[(left[open_] > 0.0) & ~past]
        y += 1.0
    return out.reshape(means.shape)
