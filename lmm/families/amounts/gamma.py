"""Gamma responses: shape a = w / phi and mean mu, so that var(y) = phi mu^2 / w.

log f = a log a - gammaln(a) + a (log(y / mu) - y / mu) - log y, written as
-a (z - 1 - log z) + log(a / 2 pi) / 2 - s(a) - log y with z = y / mu and s the remainder of Stirling's
formula, which stays accurate when phi is small.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.families.base import Array, Family, Phi, Weights, check_positive, ones
from lmm.families.namespace import namespace
from lmm.families.special import (
    LOG_2PI,
    divergence,
    log_less_digamma,
    stirling,
    tetragamma_plus_square,
    trigamma_less_inverse,
)


class Gamma(Family):
    """Gamma distribution with dispersion phi = 1 / shape; ``sigma`` is the square root of phi, the coefficient of variation.

    Prior weights divide the dispersion.

    Parameters
    ----------
    link : ``"inverse"`` (default, canonical), ``"log"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> family = lmm.families.Gamma(link="log")
    >>> family.log_density(np.array([2.0]), np.array([0.0]), phi=1.0)      # exponential
    array([-2.])
    """

    name = "gamma"
    title = "Gamma"
    default_link = canonical_link = "inverse"
    link_names = ("inverse", "log", "identity")
    has_dispersion = in_jax = slopes_in_jax = batched = True
    has_zeros = False
    dispersion_power = -1.0

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        return -(w / phi) * divergence(y * namespace(c).xp.exp(-c))

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        a, z = w / phi, y * namespace(c).xp.exp(-c)
        az = a * z
        return a * (z - 1.0), -az, az

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        return w / phi, 0.0

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        a, z = np.asarray(w / phi), y * np.exp(-c)
        slope = log_less_digamma(a) - divergence(z)  # dl/da
        return -a * slope, a * slope - a**2 * trigamma_less_inverse(a), -a * (z - 1.0), a * z, -a

    def _dispersion_third(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        a, z = np.asarray(w / phi), y * np.exp(-c)
        slope = log_less_digamma(a) - divergence(z)
        curve = 3.0 * a**2 * trigamma_less_inverse(a) + a**3 * tetragamma_plus_square(a)
        return a * (z - 1.0), curve - a * slope

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        a, xp = ones(weights) / phi, namespace(y, weights, phi).xp
        return 0.5 * (xp.log(a) - LOG_2PI) - stirling(a) - xp.log(y)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return phi * np.asarray(mu, dtype=float) ** 2

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return 2.0 * ones(weights) * divergence(y / mu)

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return self.constant(y, weights, phi)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        shape = ones(weights) / phi
        return special.gammainc(shape, shape * np.maximum(y, 0.0) / mu)

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        scale = phi / ones(weights)
        return rng.gamma(1.0 / scale, mu * scale)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.asarray(y, dtype=float)

    def _check_support(self, y: Array, name: str) -> None:
        check_positive(y, name, self.name)
