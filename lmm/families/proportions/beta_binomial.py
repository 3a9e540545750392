"""Beta-binomial proportions of n trials: a binomial mixed over a beta with shapes a = mu phi, b = (1 - mu) phi.

With k = n y successes, p = mu, q = 1 - mu and R(k, r) = log G(k + r) - log G(r) - k log r, which goes to 0 as r grows,

    log f = k log p + (n - k) log q + R(k, a) + R(n - k, b) - R(n, phi) + log C(n, k),

so that a large phi goes over into the binomial without loss. With A = psi(k + a) - psi(a) and B = psi(n - k + b) - psi(b)
the derivatives in the mean are phi (A - B), phi^2 (A' + B'), phi^3 (A'' - B'').

The Fisher information is a sum over all numbers of successes, which differ from row to row: Laplace's determinant has the observed one.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.families.base import Array, Phi, Weights, ones
from lmm.families.namespace import namespace
from lmm.families.proportions.binomial import Binomial
from lmm.families.proportions.unit_means import UnitMeans
from lmm.families.special import (
    log_less_digamma,
    stirling,
    tetragamma_plus_square,
    trigamma_less_inverse,
)
from lmm.types import KernelArray

#: cells of a table of probabilities that are held at a time
CELLS = 2_000_000


def rise(k: KernelArray, r: KernelArray) -> KernelArray:
    """R(k, r) = log G(k + r) - log G(r) - k log r, for k >= 0 and r > 0."""
    xp = namespace(k, r).xp
    return (k + r - 0.5) * xp.log1p(k / r) - k + stirling(k + r) - stirling(r)


def rise_slopes(k: Array, r: Array) -> tuple[Array, Array, Array]:
    """r A, r^2 A', r^3 A'' with A(r) = psi(k + r) - psi(r)."""
    total = k + r
    share = k / total
    first = r * (np.log1p(k / r) - log_less_digamma(total) + log_less_digamma(r))
    second = -r * share + r**2 * (trigamma_less_inverse(total) - trigamma_less_inverse(r))
    third = r * share * (1.0 + r / total) + r**3 * (
        tetragamma_plus_square(total) - tetragamma_plus_square(r)
    )
    return first, second, third


class BetaBinomial(UnitMeans):
    """Beta-binomial distribution; y is the proportion of successes, weights are numbers of trials.

    var(y) = mu (1 - mu) (phi + n) / (n (phi + 1)) with n trials. The response is given as that of :class:`Binomial`. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"logit"`` (default), ``"probit"``, ``"cloglog"``, ``"cauchit"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> family = lmm.families.BetaBinomial()
    >>> np.exp(family.log_density(np.arange(3) / 2, np.zeros(3), np.full(3, 2.0), phi=2.0)).round(4)     # 0, 1, 2 of 2: uniform
    array([0.3333, 0.3333, 0.3333])
    """

    name = "betabinomial"
    title = "Beta-binomial"
    has_dispersion = in_jax = discrete = weights_are_trials = True
    has_information = False
    no_excess = (
        "The proportions vary no more than binomial ones: the beta-binomial's phi is at its limit. "
        "Use family='binomial'."
    )

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        p, q = self._shares(c)
        log_p, log_q = namespace(c, phi).log_expit(c)
        k, rest = w * y, w * (1.0 - y)
        return k * log_p + rest * log_q + rise(k, phi * p) + rise(rest, phi * q) - rise(w, phi)

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        p, q = self._shares(c)
        a1, a2, a3 = rise_slopes(w * y, phi * p)
        b1, b2, b3 = rise_slopes(w * (1.0 - y), phi * q)
        one = q * a1 - p * b1
        two = q**2 * a2 + p**2 * b2
        three = q**3 * a3 - p**3 * b3
        turn = q - p
        return one, two + turn * one, three + 3.0 * turn * two + (1.0 - 6.0 * p * q) * one

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        """For steps alone: n^2 v^2 / var, as if the score were linear in y."""
        p, q = self._shares(c)
        weight = w * p * q * (phi + 1.0) / (phi + w)
        return weight, weight * (q - p)

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        p, q = self._shares(c)
        a1, a2, a3 = rise_slopes(w * y, phi * p)
        b1, b2, b3 = rise_slopes(w * (1.0 - y), phi * q)
        n1, n2, _ = rise_slopes(np.asarray(w), np.asarray(phi))
        first = a1 + b1 - n1
        second = first + a2 + b2 - n2
        by_mean = q * (a1 + a2) - p * (b1 + b2)
        curve = q**2 * (2.0 * a2 + a3) + p**2 * (2.0 * b2 + b3)
        moved = w * p * q * phi * (w - 1.0) / (phi + w) ** 2
        return first, second, by_mean, curve + (q - p) * by_mean, moved

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        if weights is None:
            return np.zeros(np.shape(y))
        k, gammaln = weights * y, namespace(weights).special.gammaln
        return gammaln(weights + 1.0) - gammaln(k + 1.0) - gammaln(weights - k + 1.0)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return mu * (1.0 - mu)

    def row_variance(self, mu: Array, weights: Weights, phi: Phi = 1.0) -> Array:
        n = ones(weights)
        return mu * (1.0 - mu) * (phi + n) / (n * (phi + 1.0))

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """By sums of the probabilities, which are as many as there are trials."""
        rows_of = np.broadcast_arrays(np.asarray(y, dtype=float), mu, np.rint(ones(weights)), phi)
        shape = rows_of[0].shape
        share, mean, trials, scale = (np.asarray(each).ravel() for each in rows_of)
        least = np.floor(share * trials + 1e-6)
        flat = np.zeros(len(least))
        most = int(max(np.max(least, initial=0.0), 0.0))
        rows = max(1, CELLS // (most + 1))
        successes = np.arange(most + 1.0)
        for start in range(0, len(flat), rows):
            part = slice(start, start + rows)
            n = trials[part, None]
            counted = successes <= np.minimum(least[part], trials[part])[:, None]
            table = np.minimum(successes / np.where(n > 0.0, n, 1.0), 1.0)
            c, weight = special.logit(mean[part, None]), np.broadcast_to(n, table.shape)
            log = self._kernel(table, c, weight, scale[part, None]) + self.constant(table, weight)
            flat[part] = np.minimum(np.sum(np.where(counted, np.exp(log), 0.0), axis=1), 1.0)
        return flat.reshape(shape)

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        trials = np.rint(ones(weights)).astype(np.int64)
        mu = np.asarray(mu, dtype=float)
        return rng.binomial(trials, rng.beta(mu * phi, (1.0 - mu) * phi)) / np.maximum(trials, 1)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        w = ones(weights)
        return (w * y + 0.5) / (w + 1.0)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        """From the mean of Pearson's squares, (phi + n) / (phi + 1) each."""
        n = np.broadcast_to(ones(weights), np.shape(y))
        rows = n > 1.0
        excess = float(np.sum((n * (y - mu) ** 2 / (mu * (1.0 - mu)) - 1.0)[rows]))
        more = float(np.sum((n - 1.0)[rows]))
        return float(np.clip(more / max(excess, 1e-4 * more) - 1.0, 0.05, 1e4)) if more else 1.0

    def excess(self, mean: Phi, phi: Phi) -> Phi:
        """Of two trials, over that of a binomial."""
        return 1.0 / (phi + 1.0)

    def response(self, values: object, name: str) -> tuple[Array, Array | None]:
        return Binomial(self.link).response(values, name)

    def read(self, values: object, name: str) -> tuple[Array, Array | None]:
        return Binomial(self.link).read(values, name)

    def check_range(self, least: float, most: float, name: str) -> None:
        Binomial(self.link).check_range(least, most, name)

    def check(self, y: Array, weights: Weights, name: str) -> None:
        Binomial(self.link).check(y, weights, name)
