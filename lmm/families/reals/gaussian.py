"""Gaussian responses: y ~ N(mu, phi / w), with any link."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from lmm.families import links
from lmm.families.base import Array, Phi, Weights, ones
from lmm.families.namespace import namespace
from lmm.families.reals.real_means import RealMeans
from lmm.families.special import LOG_2PI


class Gaussian(RealMeans):
    """Normal distribution, var(y) = phi / w; ``sigma`` is the square root of phi.

    Parameters
    ----------
    link : any link by name, default ``"identity"``, or a Link. Links of positive means ask for no more than that of mu.

    Examples
    --------
    >>> import lmm
    >>> lmm.families.Gaussian(link="log")
    Gaussian(link='log')
    """

    name = title = "gaussian"
    canonical_link = "identity"
    link_names = tuple(links.LINKS)
    has_dispersion = in_jax = slopes_in_jax = batched = True
    dispersion_power = 2.0

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        return -0.5 * w * (y - c) ** 2 / phi

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        scale: Any = w / phi
        return scale * (y - c), -scale, 0.0 * scale

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        return w / phi, 0.0

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        half = 0.5 * w * (y - c) ** 2 / phi
        return half - 0.5, -half, -w * (y - c) / phi, w / phi, -w / phi

    def _dispersion_third(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        # but for -rho / 2 the log density is a multiple of exp(-rho)
        _, second, mixed, _ = self._observed_dispersion(y, c, w, phi)
        return -mixed, -second

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        xp = namespace(y, weights, phi).xp
        return xp.broadcast_to(-0.5 * (LOG_2PI + xp.log(phi) - xp.log(ones(weights))), np.shape(y))

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return np.zeros(np.shape(mu)) + phi

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return ones(weights) * (y - mu) ** 2

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return self.constant(y, weights, phi)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return special.ndtr((y - mu) / np.sqrt(phi / ones(weights)))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        return rng.normal(mu, np.sqrt(phi / ones(weights)))

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        low, high = self.link.mean_low, self.link.mean_high
        if np.isfinite(high):
            return np.clip(y, low + 0.05 * (high - low), high - 0.05 * (high - low))
        if np.isfinite(low):
            spread = np.abs(y - low)
            return np.maximum(y, low + 0.1 * (float(spread.mean()) or 1.0))
        return np.asarray(y, dtype=float)
