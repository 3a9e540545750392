"""Beta proportions: shapes a = mu phi and b = (1 - mu) phi, variance mu (1 - mu) / (1 + phi).

With p = mu, q = 1 - mu, the remainders s, h, h1, h2 of Stirling's formula and L = log f,

    log f     = phi (p log(y / p) + q log((1 - y) / q)) + log(phi p q / 2 pi) / 2 + s(phi) - s(a) - s(b) - log y - log(1 - y)
    dL/dmu    = phi (log(y / (1 - y)) - log(p / q) + h(a) - h(b))
    d2L/dmu2  = -phi^2 (1 / a + h1(a) + 1 / b + h1(b)),   free of y, so that minus it is the Fisher information,

which stays accurate as phi grows. Ferrari & Cribari-Neto (2004), J. Appl. Stat. 31.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.errors import ResponseError
from lmm.families.base import Array, Phi, Weights, weighted_constant
from lmm.families.namespace import namespace
from lmm.families.proportions.unit_means import UnitMeans
from lmm.families.special import (
    LOG_2PI,
    log_less_digamma,
    stirling,
    tetragamma_plus_square,
    trigamma_less_inverse,
)


class Beta(UnitMeans):
    """Beta distribution of proportions strictly between 0 and 1, var(y) = mu (1 - mu) / (1 + phi).

    Prior weights multiply the log density. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"logit"`` (default), ``"probit"``, ``"cloglog"``, ``"cauchit"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> family = lmm.families.Beta()
    >>> np.exp(family.log_density(np.array([0.3]), np.zeros(1), phi=2.0)).round(4)      # uniform
    array([1.])
    """

    name = "beta"
    title = "Beta"
    has_dispersion = in_jax = True
    has_zeros = False

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        found = namespace(c, phi)
        xp = found.xp
        p, q = self._shares(c)
        log_p, log_q = found.log_expit(c)
        apart = p * (xp.log(y) - log_p) + q * (xp.log1p(-y) - log_q)
        scale = 0.5 * (xp.log(phi) + log_p + log_q - LOG_2PI)
        return w * (phi * apart + scale + stirling(phi) - stirling(phi * p) - stirling(phi * q))

    def _in_mean(self, y: Array, c: Array, phi: Phi) -> tuple[Array, Array, Array]:
        """First to third derivative with respect to the mean, times v, v^2 and v^3 with v = pq."""
        p, q = self._shares(c)
        a, b = phi * p, phi * q
        odds = np.log(y) - np.log1p(-y) - c
        first = phi * p * q * (odds + log_less_digamma(a) - log_less_digamma(b))
        second = -phi * p * q - (
            (a * q) ** 2 * trigamma_less_inverse(a) + (b * p) ** 2 * trigamma_less_inverse(b)
        )
        third = phi * p * q * (q - p) - (
            (a * q) ** 3 * tetragamma_plus_square(a) - (b * p) ** 3 * tetragamma_plus_square(b)
        )
        return first, second, third

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        p, q = self._shares(c)
        one, two, three = self._in_mean(y, c, phi)
        turn, bend = q - p, 1.0 - 6.0 * p * q
        return w * one, w * (two + turn * one), w * (three + 3.0 * turn * two + bend * one)

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        p, q = self._shares(c)
        _, two, three = self._in_mean(np.full(np.shape(c), 0.5), c, phi)
        return -w * two, -w * (three + 2.0 * (q - p) * two)

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        p, q = self._shares(c)
        a, b, v = phi * p, phi * q, p * q
        one, two, _ = self._in_mean(y, c, phi)
        (log_p, log_q), h1a, h1b = (
            namespace(c).log_expit(c),
            trigamma_less_inverse(a),
            trigamma_less_inverse(b),
        )
        first = phi * (
            p * (np.log(y) - log_p + log_less_digamma(a))
            + q * (np.log1p(-y) - log_q + log_less_digamma(b))
            - log_less_digamma(phi)
        )
        second = first + phi**2 * trigamma_less_inverse(phi) - a**2 * h1a - b**2 * h1b
        by_mean = one + phi * v * (b * h1b - a * h1a)
        # phi d/dphi of phi^2 (psi'(a) + psi'(b)), whose parts in 1 / a and 1 / a^2 are put together
        moved = (
            phi * v
            + (a * q) ** 2 * (2.0 * trigamma_less_inverse(a) + a * tetragamma_plus_square(a))
            + (b * p) ** 2 * (2.0 * trigamma_less_inverse(b) + b * tetragamma_plus_square(b))
        )
        return w * first, w * second, w * by_mean, w * (-moved + (q - p) * by_mean), w * moved

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        xp = namespace(y).xp
        return weighted_constant(-xp.log(y) - xp.log1p(-y), weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return mu * (1.0 - mu) / (1.0 + phi)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return special.betainc(mu * phi, (1.0 - mu) * phi, np.clip(y, 0.0, 1.0))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        mu = np.asarray(mu, dtype=float)
        drawn = rng.beta(mu * phi, (1.0 - mu) * phi)
        # a shape near zero puts draws within rounding of an end, which the density does not have
        return np.clip(drawn, 1e-300, 1.0 - 2.0**-53)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.clip(y, 1e-3, 1.0 - 1e-3)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        squares = np.average((y - mu) ** 2 / (mu * (1.0 - mu)), weights=weights)
        return float(np.clip(1.0 / max(squares, 1e-10) - 1.0, 0.05, 1e8))

    def _check_support(self, y: Array, name: str) -> None:
        out = ~((y >= 0.0) & (y <= 1.0))
        if out.any():
            raise ResponseError(
                f"the response {name!r} must lie between 0 and 1 for the beta family; {int(out.sum())} of {len(y)} values do not, the "
                f"first is {y[out][0]:g}. Divide a percentage by 100; for counts of successes use BetaBinomial()."
            )
        ends = (y == 0.0) | (y == 1.0)
        if ends.any():
            raise ResponseError(
                f"the response {name!r} is 0 or 1 in {int(ends.sum())} of {len(y)} rows, where the beta family has no density. "
                "Use family=lmm.families.OrderedBeta(), which has probabilities of 0 and of 1 beside it."
            )
