"""Generalized Poisson counts, variance mu phi: theta = mu / sqrt(phi), lambda = 1 - 1 / sqrt(phi).

With x = theta + lambda y

    log f = log theta + (y - 1) log x - x - log y!

and q = theta / x the derivatives in log mu are

    1 + (y - 1) q - theta,   (y - 1) q (1 - q) - theta,   (y - 1) q (1 - q) (1 - 2q) - theta.

The Fisher information is theta (1 - lambda theta / (theta + 2 lambda)), because y (y - 1) f(y) / x^2 is theta / (theta + 2 lambda)
times the density of y - 2 at theta + 2 lambda.

phi < 1 (lambda < 0) leaves counts with x > 0 alone, and their probabilities add up to one only nearly: glmmTMB's likelihood is the same.
Consul & Jain (1973), Technometrics 15; Consul & Famoye (1992), Commun. Stat. Theory Methods 21.
"""

from __future__ import annotations

import numpy as np

from lmm.families.base import Array, Phi, Weights, check_counts, ones, weighted_constant
from lmm.families.counts.tables import drawn, summed
from lmm.families.namespace import namespace
from lmm.families.peaks import Peaked


class GeneralizedPoisson(Peaked):
    """Generalized Poisson distribution with var(y) = mu phi; phi below one is less than Poisson variance.

    Prior weights multiply the log density. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm
    >>> float(lmm.families.GeneralizedPoisson().variance(2.0, phi=1.5))
    3.0
    """

    name = "genpois"
    title = "Generalized Poisson"
    default_link = "log"
    link_names = ("log", "sqrt", "identity")
    has_dispersion = in_jax = discrete = True
    dispersion_scales_variance = False
    dispersion_name = "phi"
    merges = "equal"

    @staticmethod
    def _parts(y: Array, c: Array, phi: Phi) -> tuple[Array, Array, Array]:
        """theta, x and lambda."""
        xp = namespace(c, phi).xp
        a = phi**-0.5
        theta = xp.exp(c) * a
        return theta, theta + (1.0 - a) * y, 1.0 - a

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        xp = namespace(c, phi).xp
        theta, x, _ = self._parts(y, c, phi)
        inside = x > 0.0
        safe = xp.where(inside, x, 1.0)
        log = xp.log(theta)
        value = xp.where(y > 0, log + (y - 1.0) * xp.log(safe), 0.0) - x
        return w * xp.where(inside, value, -np.inf)

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        theta, x, _ = self._parts(y, c, phi)
        q = theta / x
        second = (y - 1.0) * q * (1.0 - q)
        return (
            w * (1.0 + (y - 1.0) * q - theta),
            w * (second - theta),
            w * (second * (1.0 - 2.0 * q) - theta),
        )

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        theta, _, lam = self._parts(np.zeros(np.shape(c)), c, phi)
        if np.min(lam) < 0.0:  # mu^2 / var
            return w * np.exp(c) / phi, w * np.exp(c) / phi
        total = theta + 2.0 * lam
        weight = theta - lam * theta**2 / total
        return w * weight, w * (theta - lam * theta**2 * (theta + 4.0 * lam) / total**2)

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        theta, x, lam = self._parts(y, c, phi)
        q = theta / x
        moved = 0.5 * (y - np.exp(c)) * phi**-0.5  # dx/drho
        rate = (y - 1.0) / x - 1.0
        bent = -q * (0.5 + moved / x)  # dq/drho
        first = rate * moved - 0.5
        second = -(y - 1.0) * (moved / x) ** 2 - 0.5 * rate * moved
        by_mean = (y - 1.0) * bent + 0.5 * theta
        curve = (y - 1.0) * bent * (1.0 - 2.0 * q) + 0.5 * theta
        first, second = np.where(y > 0, first, 0.5 * theta), np.where(y > 0, second, -0.25 * theta)
        return w * first, w * second, w * by_mean, w * curve, w * self._information_slope(c, phi)

    def _information_slope(self, c: Array, phi: Phi) -> Array:
        """di/drho."""
        theta, _, lam = self._parts(np.zeros(np.shape(c)), c, phi)
        if np.min(lam) < 0.0:
            return -np.exp(c) / phi
        total, turned = theta + 2.0 * lam, 0.5 * (1.0 - lam)  # dlambda/drho
        bent = -0.5 * theta + 2.0 * turned
        return (
            -0.5 * theta
            - turned * theta**2 / total
            + lam * theta**2 / total
            + lam * theta**2 * bent / total**2
        )

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return weighted_constant(-namespace(y).special.gammaln(y + 1.0), weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return phi * np.asarray(mu, dtype=float)

    def scales_variance(self) -> bool:
        return True

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return summed(self, y, mu, phi)

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """The number of a Poisson's descendants, each of which has a Poisson number of its own; by sums of probabilities for phi < 1."""
        if np.min(phi) < 1.0:
            return drawn(self, rng, mu, phi)
        a = np.asarray(phi, dtype=float) ** -0.5
        lam = 1.0 - a
        new = rng.poisson(mu * a)
        total = new
        while np.any(new):
            new = rng.poisson(lam * new)
            total = total + new
        return np.asarray(total, dtype=float)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.where(y == 0, 1 / 6, y)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        return float(np.clip(np.mean(ones(weights) * (y - mu) ** 2 / mu), 0.2, 1e4))

    def _check_support(self, y: Array, name: str) -> None:
        check_counts(y, name, self.name)
