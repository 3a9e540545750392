"""Negative binomial counts, variance mu + mu^2 / theta (NB2): a Poisson mixed over a gamma of shape theta.

log f = (y + theta) log((y + theta) / (mu + theta)) + y log mu + terms free of mu, each written with the
remainder of Stirling's formula, so that large theta goes over into the Poisson without loss.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.families.base import Array, Family, Phi, Weights, check_counts, ones, weighted_constant
from lmm.families.namespace import namespace
from lmm.families.special import (
    log_less_digamma,
    stirling,
    tetragamma_plus_square,
    trigamma_less_inverse,
)


def _log_ratio(y: Array, mu: Array, theta: Phi) -> Array:
    """log((y + theta) / (mu + theta)), exact where the two are close and where they are far apart."""
    xp = namespace(mu, theta).xp
    v = (y - mu) / (mu + theta)
    close = xp.abs(v) < 0.5
    return xp.where(close, xp.log1p(xp.where(close, v, 0.0)), xp.log((y + theta) / (mu + theta)))


class NegativeBinomial(Family):
    """Negative binomial distribution with var(y) = mu + mu^2 / theta; phi is theta.

    Prior weights multiply the log density.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm
    >>> lmm.families.NegativeBinomial().variance(2.0, phi=4.0)
    3.0
    """

    name = "negative_binomial"
    title = "Negative Binomial"
    default_link = "log"
    link_names = ("log", "sqrt", "identity")
    has_dispersion = in_jax = slopes_in_jax = batched = True
    dispersion_scales_variance = False
    dispersion_name = "theta"
    discrete = True
    merges = "equal"
    no_excess = "The counts vary no more than Poisson counts: the negative binomial's dispersion is at its limit. Use family='poisson'."

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        mu = namespace(c).xp.exp(c)
        return w * (y * c + (y + phi) * _log_ratio(y, mu, phi))

    def log_zero(self, c: Array, phi: Phi) -> Array:
        xp = namespace(c, phi).xp
        return -phi * xp.log1p(xp.exp(c) / phi)

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        mu = namespace(c).xp.exp(c)
        p, q = mu / (mu + phi), phi / (mu + phi)
        second = -w * (y + phi) * p * q
        return w * q * (y - mu), second, second * (q - p)

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        mu = np.exp(c)
        q = phi / (mu + phi)
        return w * mu * q, w * mu * q * q

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        mu = np.exp(c)
        total = mu + phi
        p, q, v = mu / total, phi / total, (y - mu) / total
        first = phi * (
            _log_ratio(y, mu, phi) - v - log_less_digamma(y + phi) + log_less_digamma(phi)
        )
        # d2l/dtheta2 = psi'(y + theta) - psi'(theta) + 1/theta - 1/total + (y - mu)/total^2, where y + theta = (1 + v) total
        curve = (
            v**2 / ((1.0 + v) * total) + trigamma_less_inverse(y + phi) - trigamma_less_inverse(phi)
        )
        score, spread = q * (y - mu), (y + phi) * p * q
        return (
            w * first,
            w * (first + phi**2 * curve),
            w * score * p,
            w * (spread * (q - p) - phi * p * q),
            w * phi * p * p,
        )

    def _dispersion_third(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        first, second, _, _ = self._observed_dispersion(y, c, 1.0, phi)
        mu = np.exp(c)
        total = mu + phi
        p, q, v = mu / total, phi / total, (y - mu) / total
        spread = (y + phi) * p * q
        # phi^3 d3l/dphi3 with psi''(a) = -1/a^2 + h2(a)
        cubed = phi**3 * (tetragamma_plus_square(y + phi) - tetragamma_plus_square(phi))
        cubed = cubed - phi * q**2 * v**2 * (3.0 + 2.0 * v) / (1.0 + v) ** 2
        # (phi d/dphi)^3 = phi d + 3 phi^2 d2 + phi^3 d3
        third = 3.0 * second - 2.0 * first + cubed
        return w * (2.0 * phi * p * q - phi * p - spread * (q - p)), w * third

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        found = namespace(y, phi)
        value = (
            -0.5 * found.xp.log1p(y / phi)
            - y
            + stirling(y + phi)
            - stirling(phi)
            - found.special.gammaln(y + 1.0)
        )
        return weighted_constant(value, weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return mu + mu**2 / phi

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        lost = special.xlogy(y, y / mu) - (y + phi) * _log_ratio(y, mu, phi)
        return np.asarray(2.0 * ones(weights) * lost)

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return weighted_constant(special.xlogy(y, y), weights) + self.constant(y, weights, phi)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        y = np.floor(y)
        return np.where(
            y < 0, 0.0, special.betainc(phi, np.maximum(y, 0.0) + 1.0, phi / (phi + mu))
        )

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        return rng.poisson(rng.gamma(phi, mu / phi)).astype(float)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.where(y == 0, 1 / 6, y)

    def excess(self, mean: Phi, phi: Phi) -> Phi:
        return mean / phi

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        excess = float(np.mean(ones(weights) * ((y - mu) ** 2 - mu)))
        square = float(np.mean(ones(weights) * mu**2))
        return float(np.clip(square / max(excess, 1e-6 * square), 0.05, 1e4))

    def _check_support(self, y: Array, name: str) -> None:
        check_counts(y, name, self.name)
