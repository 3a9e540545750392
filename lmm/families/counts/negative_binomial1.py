"""Negative binomial counts, variance mu (1 + phi) (NB1): a Poisson mixed over a gamma of scale phi, shape r = mu / phi.

    log f = log G(y + r) - log G(r) - log y! + y log(phi / (1 + phi)) - r log(1 + phi)

The mean enters through r alone. With A(r) = psi(y + r) - psi(r) - log(1 + phi) and r d/dr = d/dlog mu the
derivatives in log mu are r A, r A + r^2 A', r A + 3 r^2 A' + r^3 A''.

The Fisher information has no closed form. From psi'(r) - psi'(r + y) = int t^(r-1) (1 - t^y) (-log t) / (1 - t) dt
and the generating function of y, with t = exp(-s) and c = 1 - exp(-s),

    E[-d2l/dlog mu^2] = r^2 int_0^inf exp(-r s) (s / c) (1 - (1 + phi c)^-r) ds,

smooth in log s: the trapezoidal rule there converges exponentially (step 1/4: beyond rounding).
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

STEP = 0.25
#: r s at the nodes, and the weights of d(r s) with exp(-r s)
NODES = np.exp(np.arange(-28.0, 3.75, STEP))
NODE_WEIGHTS = STEP * NODES * np.exp(-NODES)


def _information_integral(r: Array, phi: Phi) -> tuple[Array, Array, Array]:
    """The Fisher information in log mu, its derivative in log r, and its derivative in log phi at fixed r."""
    out = np.empty((3, r.size))
    for start in range(0, r.size, 4096):
        part = slice(start, start + 4096)
        rr = r.ravel()[part, None]
        s = NODES / rr
        c = -np.expm1(-s)
        ratio = NODE_WEIGHTS * np.where(c > 0, s / np.where(c > 0, c, 1.0), 1.0)
        log = np.log1p(phi * c)
        decay = np.exp(-rr * log)
        base = ratio * -np.expm1(-rr * log)
        # r^2 ds = r d(r s); d/dlog r of r^2 K(r) = 2 r^2 K + r^3 K'
        out[0, part] = rr[:, 0] * base.sum(axis=1)
        out[1, part] = rr[:, 0] * (base * (2.0 - NODES) + ratio * decay * rr * log).sum(axis=1)
        out[2, part] = rr[:, 0] * (ratio * decay * rr * (phi * c) / (1.0 + phi * c)).sum(axis=1)
    return out[0].reshape(r.shape), out[1].reshape(r.shape), out[2].reshape(r.shape)


def _size(c: Array, phi: Phi) -> Array:
    """r = mu / phi, kept where its cube does not underflow."""
    xp = namespace(c, phi).xp
    return xp.maximum(xp.exp(c) / phi, 1e-100)


class NegativeBinomial1(Family):
    """Negative binomial distribution with var(y) = mu (1 + phi).

    Prior weights multiply the log density.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm
    >>> lmm.families.NegativeBinomial1().variance(2.0, phi=0.5)
    3.0
    """

    name = "negative_binomial1"
    title = "nbinom1"
    default_link = "log"
    link_names = ("log", "sqrt", "identity")
    has_dispersion = in_jax = True
    dispersion_scales_variance = False
    discrete = True
    merges = "equal"
    no_excess = "The counts vary no more than Poisson counts: the negative binomial's dispersion is at its limit. Use family='poisson'."

    @staticmethod
    def _slopes(y: Array, r: Array, phi: Phi) -> tuple[Array, Array, Array]:
        """r A, r^2 A', r^3 A'', of y and r broadcast."""
        total = y + r
        A = np.log1p(y / r) - np.log1p(phi) - log_less_digamma(total) + log_less_digamma(r)
        share, ratio = y / total, r / total
        first = -r * share + r**2 * (trigamma_less_inverse(total) - trigamma_less_inverse(r))
        second = r * share * (1.0 + ratio) + r**3 * (
            tetragamma_plus_square(total) - tetragamma_plus_square(r)
        )
        return r * A, first, second

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        r, xp = _size(c, phi), namespace(c, phi).xp
        # log G(y + r) - log G(r) - r log(1 + phi); Stirling's leading terms together
        lead = (
            (y - 0.5) * xp.log1p(y / r)
            + y * xp.log(r)
            - y
            + r * xp.log1p((y / r - phi) / (1.0 + phi))
        )
        return w * xp.where(y > 0, lead + stirling(y + r) - stirling(r), -r * xp.log1p(phi))

    def log_zero(self, c: Array, phi: Phi) -> Array:
        xp = namespace(c, phi).xp
        return -_size(c, phi) * xp.log1p(phi)

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        g, b, d = self._slopes(y, _size(c, phi), phi)
        return w * g, w * (g + b), w * (g + 3.0 * b + d)

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        i, slope, _ = _information_integral(_size(c, phi), phi)
        return w * i, w * slope

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        _, slope, by_phi = _information_integral(_size(c, phi), phi)
        return *self._observed_dispersion(y, c, w, phi), w * (by_phi - slope)

    def _observed_dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        r = _size(c, phi)
        g, b, d = self._slopes(y, r, phi)
        q = phi / (1.0 + phi)
        g2, g3, rq = g + b, g + 3.0 * b + d, r * q
        first = -g + y * (1.0 - q) - rq
        second = g2 + rq * (1.0 + q) - y * q * (1.0 - q)
        return w * first, w * second, -w * (g2 + rq), -w * (g3 + rq)

    def _dispersion_third(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        # d/drho = R - D, D = r d/dr and R at fixed r, which commute
        r = _size(c, phi)
        g, b, d = self._slopes(y, r, phi)
        q = phi / (1.0 + phi)
        g3, rq, bent = g + 3.0 * b + d, r * q, q * (1.0 - q)
        third = -(y + r) * bent * (1.0 - 2.0 * q) + 3.0 * r * bent - 3.0 * rq - g3
        return w * (g3 + 2.0 * rq - r * bent), w * third

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        found = namespace(y, phi)
        return weighted_constant(
            y * found.xp.log(phi / (1.0 + phi)) - found.special.gammaln(y + 1.0), weights
        )

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return mu * (1.0 + phi)

    def _peak(self, y: Array, phi: Phi) -> Array:
        """log mu of the largest density at each y > 0: the zero of A, by Newton's method from mu = y."""
        c = np.log(y)
        for _ in range(50):
            g, b, _ = self._slopes(y, _size(c, phi), phi)
            # A falls in log r with slope b / r; where it is convex Newton's steps cannot overshoot
            step = np.clip(-g / b, -2.0, 2.0)
            c = c + step
            if np.abs(step).max(initial=0.0) < 1e-10:
                break
        return c

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        y = np.asarray(y, dtype=float)
        safe = np.where(y > 0, y, 1.0)
        kernel = np.where(y > 0, self._kernel(safe, self._peak(safe, phi), 1.0, phi), 0.0)
        return weighted_constant(kernel, weights) + self.constant(y, weights, phi)

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        density = self._kernel(y, np.log(mu), ones(weights), phi) + self.constant(y, weights, phi)
        return 2.0 * np.maximum(self.saturated(y, weights, phi) - density, 0.0)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        y = np.floor(y)
        return np.where(
            y < 0, 0.0, special.betainc(mu / phi, np.maximum(y, 0.0) + 1.0, 1.0 / (1.0 + phi))
        )

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        return rng.poisson(rng.gamma(np.asarray(mu) / phi, phi)).astype(float)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.where(y == 0, 1 / 6, y)

    def excess(self, mean: Phi, phi: Phi) -> Phi:
        return phi

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        return float(np.clip(np.mean(ones(weights) * (y - mu) ** 2 / mu) - 1.0, 0.05, 1e4))

    def _check_support(self, y: Array, name: str) -> None:
        check_counts(y, name, self.name)
