"""Poisson counts: log f = y log mu - mu - log y!."""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.families.base import Array, Family, Phi, Weights, check_counts, ones, weighted_constant
from lmm.families.namespace import namespace


class Poisson(Family):
    """Poisson distribution, var(y) = mu; prior weights multiply the log density.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> family = lmm.families.Poisson()
    >>> np.exp(family.log_density(np.array([0.0, 1.0]), np.zeros(2))).round(4)
    array([0.3679, 0.3679])
    """

    name = title = "poisson"
    default_link = canonical_link = "log"
    link_names = ("log", "sqrt", "identity")
    discrete = in_jax = slopes_in_jax = batched = True
    merges = "sums"

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        return w * (y * c - namespace(c).xp.exp(c))

    def log_zero(self, c: Array, phi: Phi) -> Array:
        return -namespace(c).xp.exp(c)

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        mu = namespace(c).xp.exp(c)
        second = -w * mu
        return w * (y - mu), second, second

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        weight = w * np.exp(c)
        return weight, weight

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return weighted_constant(-namespace(y).special.gammaln(y + 1.0), weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return np.asarray(mu, dtype=float)

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return 2.0 * ones(weights) * (special.xlogy(y, y / mu) - (y - mu))

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return weighted_constant(special.xlogy(y, y) - y - special.gammaln(y + 1.0), weights)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        y = np.floor(y)
        return np.where(y < 0, 0.0, special.pdtr(np.maximum(y, 0.0), mu))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        return rng.poisson(mu).astype(float)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return y + 0.1

    def _check_support(self, y: Array, name: str) -> None:
        check_counts(y, name, self.name)
