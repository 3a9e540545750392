"""Inverse Gaussian responses: log f = log(w / (2 pi phi y^3)) / 2 - w (y - mu)^2 / (2 phi mu^2 y)."""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.families.base import Array, Family, Phi, Weights, check_positive, ones
from lmm.families.namespace import namespace
from lmm.families.special import LOG_2PI


class InverseGaussian(Family):
    """Inverse Gaussian distribution, var(y) = phi mu^3 / w; ``sigma`` is the square root of phi.

    Parameters
    ----------
    link : ``"1/mu^2"`` (default, canonical), ``"inverse"``, ``"log"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm
    >>> lmm.families.InverseGaussian(link="log").variance(2.0, phi=0.5)
    4.0
    """

    name = "inverse_gaussian"
    title = "inverse.gaussian"
    default_link = canonical_link = "1/mu^2"
    link_names = ("1/mu^2", "inverse", "log", "identity")
    has_dispersion = in_jax = slopes_in_jax = batched = True
    has_zeros = False

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        return -0.5 * (w / phi) * (y * namespace(c).xp.exp(-c) - 1.0) ** 2 / y

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        inverse = namespace(c).xp.exp(-c)
        k, z = (w / phi) * inverse, y * inverse
        return k * (z - 1.0), k * (1.0 - 2.0 * z), k * (4.0 * z - 1.0)

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        k = (w / phi) * np.exp(-c)
        return k, -k

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        inverse = np.exp(-c)
        k, z = (w / phi) * inverse, y * inverse
        half = 0.5 * (w / phi) * (z - 1.0) ** 2 / y
        return half - 0.5, -half, -k * (z - 1.0), -k * (1.0 - 2.0 * z), -k

    def _dispersion_third(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        # but for -rho / 2 the log density is a multiple of exp(-rho)
        _, second, mixed, _ = self._observed_dispersion(y, c, w, phi)
        return -mixed, -second

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        xp = namespace(y, weights, phi).xp
        return 0.5 * (xp.log(ones(weights)) - LOG_2PI - xp.log(phi)) - 1.5 * xp.log(y)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return phi * mu**3

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return ones(weights) * (y / mu - 1.0) ** 2 / y

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return self.constant(y, weights, phi)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        shape, y = ones(weights) / phi, np.asarray(y, dtype=float)
        positive = np.where(y > 0, y, 1.0)
        root, ratio = np.sqrt(shape / positive), positive / mu
        # the second term is small, but its first factor may overflow
        value = special.ndtr(root * (ratio - 1.0)) + np.exp(
            2.0 * shape / mu + special.log_ndtr(-root * (ratio + 1.0))
        )
        return np.where(y > 0, value, 0.0)

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        return rng.wald(mu, ones(weights) / phi)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.asarray(y, dtype=float)

    def _check_support(self, y: Array, name: str) -> None:
        check_positive(y, name, self.name)
