"""Tweedie amounts with exact zeros: variance phi mu^p with 1 < p < 2, a Poisson number of gamma amounts.

With a = 1 - p, b = 2 - p, u = y mu^a and v = mu^b

    log f = (u / a - v / b) / phi + log W(y) - log y,       for y = 0 the first part alone,
    W     = sum_j exp(j L - log j! - log G(alpha j)),       alpha = b / (p - 1),
    L     = alpha (log y - log(p - 1)) - (1 + alpha) log phi - log b.

The derivatives in log mu are (u - v) / phi, (a u - b v) / phi, (a^2 u - b^2 v) / phi, the Fisher information is v / phi.
Terms of W are largest near j = y^b / (phi b), with a spread of sqrt(j (p - 1)) around; a fixed number of them is summed there,
every one or, where the spread is large, at equal distances, which is exact as they change smoothly then.

Dunn & Smyth (2005), Stat. Comput. 15.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.errors import ResponseError
from lmm.families.base import Array, Limit, Phi, Weights, ones, weighted_constant
from lmm.families.shaped import Between, OwnSlopes, Positive, ShapedFamily, stacked

#: terms of the series that are summed, and spreads on either side of the largest
TERMS, REACH = 128, 8.0
#: rows whose terms are held at a time
ROWS = 8192


def _indices(y: Array, scale: float, p: float) -> Array:
    """j (n, TERMS): the terms of W at each y > 0."""
    top = y ** (2.0 - p) / (scale * (2.0 - p))
    spread = np.sqrt(top * (p - 1.0)) + 1.0
    low = np.maximum(np.floor(top - REACH * spread), 1.0)
    high = np.maximum(top + REACH * spread + 10.0, low + TERMS - 1.0)
    step = (high - low) / (TERMS - 1.0)
    return np.asarray(low[:, None] + step[:, None] * np.arange(float(TERMS)))


def _series(y: Array, scale: float, p: float) -> tuple[Array, Array, Array]:
    """j, log terms and the log of their sum (n,), at y > 0."""
    alpha = (2.0 - p) / (p - 1.0)
    level = alpha * (np.log(y) - np.log(p - 1.0)) - (1.0 + alpha) * np.log(scale) - np.log(2.0 - p)
    j = _indices(y, scale, p)
    terms = j * level[:, None] - special.gammaln(j + 1.0) - special.gammaln(alpha * j)
    top = terms.max(axis=1)
    terms -= top[:, None]
    total = np.exp(terms).sum(axis=1)
    return j, terms, top + np.log(total * (j[:, 1] - j[:, 0]))


def _blocks(y: Array) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, len(y), ROWS)]


def log_series(y: Array, scale: float, p: float) -> Array:
    """log W - log y (n,), 0 where y is."""
    y = np.asarray(y, dtype=float)
    out, flat = np.zeros(y.size), y.ravel()
    some = np.flatnonzero(flat > 0.0)
    for part in _blocks(some):
        own = flat[some[part]]
        out[some[part]] = _series(own, scale, p)[2] - np.log(own)
    return out.reshape(y.shape)


def series_slopes(y: Array, scale: float, p: float) -> tuple[Array, Array, Array, Array, Array]:
    """Derivatives of log W in r = log phi and p, (n,) each: r, p, rr, rp, pp; zero where y is."""
    out = np.zeros((5, len(y)))
    some = np.flatnonzero(y > 0.0)
    q = p - 1.0
    alpha, a1, a2 = (2.0 - p) / q, -1.0 / q**2, 2.0 / q**3
    for part in _blocks(some):
        own = y[some[part]]
        j, terms, _ = _series(own, scale, p)
        share = np.exp(terms)
        share /= share.sum(axis=1, keepdims=True)
        log = np.log(own) - np.log(q) - np.log(scale)
        L1 = a1 * log - alpha / q + 1.0 / (2.0 - p)
        L2 = a2 * log - 2.0 * a1 / q + alpha / q**2 + 1.0 / (2.0 - p) ** 2
        at = alpha * j
        digamma, trigamma = special.psi(at), special.zeta(2.0, at)
        in_p = j * (L1[:, None] - a1 * digamma)
        in_pp = j * (L2[:, None] - a2 * digamma) - (a1 * j) ** 2 * trigamma
        mean_j, mean_p = (share * j).sum(axis=1), (share * in_p).sum(axis=1)
        from_j, from_p = j - mean_j[:, None], in_p - mean_p[:, None]
        out[0, some[part]] = -(1.0 + alpha) * mean_j
        out[1, some[part]] = mean_p
        out[2, some[part]] = (1.0 + alpha) ** 2 * (share * from_j**2).sum(axis=1)
        out[3, some[part]] = -(1.0 + alpha) * (share * from_j * from_p).sum(axis=1) - a1 * mean_j
        out[4, some[part]] = (share * (in_pp + from_p**2)).sum(axis=1)
    return out[0], out[1], out[2], out[3], out[4]


class Tweedie(ShapedFamily):
    """Tweedie distribution with var(y) = phi mu^p and 1 < p < 2: zeros, and positive amounts.

    Prior weights multiply the log density. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, ``"inverse"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> family = lmm.families.Tweedie()
    >>> np.exp(family.log_density(np.zeros(1), np.zeros(1), phi=np.array([2.0, 1.5]))).round(4)     # of a zero: exp(-1)
    array([0.3679])
    """

    name = "tweedie"
    title = "Tweedie"
    default_link = "log"
    link_names = ("log", "sqrt", "identity", "inverse")
    own = (Positive("phi"), Between("power", 1.0, 2.0))

    @staticmethod
    def _parts(y: Array, c: Array, p: float) -> tuple[Array, Array, float, float]:
        a, b = 1.0 - p, 2.0 - p
        return np.where(y > 0.0, y * np.exp(a * c), 0.0), np.exp(b * c), a, b

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        scale, p = np.asarray(phi)
        u, v, a, b = self._parts(y, c, p)
        return w * (u / a - v / b) / scale

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        scale, p = np.asarray(phi)
        u, v, a, b = self._parts(y, c, p)
        return (
            w * (u - v) / scale,
            w * (a * u - b * v) / scale,
            w * (a * a * u - b * b * v) / scale,
        )

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        scale, p = np.asarray(phi)
        weight = w * np.exp((2.0 - p) * c) / scale
        return weight, (2.0 - p) * weight

    def _own(self, y: Array, c: Array, w: Array | float, phi: Phi) -> OwnSlopes:
        scale, p = np.asarray(phi)
        u, v, a, b = self._parts(y, c, p)
        turn = (p - 1.0) * b  # dp/drho, whose derivative in rho is (3 - 2 p) times it
        kernel = (u / a - v / b) / scale
        in_p = (u / a**2 - c * u / a - v / b**2 + c * v / b) / scale
        in_pp = (
            c * c * (u / a - v / b) - 2.0 * c * (u / a**2 - v / b**2) + 2.0 * (u / a**3 - v / b**3)
        ) / scale
        s_r, s_p, s_rr, s_rp, s_pp = series_slopes(np.asarray(y, dtype=float), scale, p)
        first, by_p = -kernel + s_r, in_p + s_p
        rr = float(np.sum(w * (kernel + s_rr)))
        rp = float(np.sum(w * turn * (s_rp - in_p)))
        pp = float(np.sum(w * (turn**2 * (in_pp + s_pp) + (3.0 - 2.0 * p) * turn * by_p)))
        score, curve = (u - v) / scale, (a * u - b * v) / scale
        information = w * v / scale
        return OwnSlopes(
            stacked(w * first, w * turn * by_p, like=c),
            np.array([[rr, rp], [rp, pp]]),
            stacked(-w * score, -w * turn * c * score, like=c),
            stacked(-w * curve, -w * turn * (score + c * curve), like=c),
            stacked(-information, -turn * c * information, like=c),
        )

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        scale, p = np.asarray(phi)
        return weighted_constant(log_series(y, scale, p), weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        scale, p = np.asarray(phi)
        return np.asarray(scale * mu**p)

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        y = np.asarray(y, dtype=float)
        c = np.log(np.where(y > 0.0, y, 1.0))
        kernel = np.where(y > 0.0, self._kernel(y, c, 1.0, phi), 0.0)
        return weighted_constant(kernel, weights) + self.constant(y, weights, phi)

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        y = np.asarray(y, dtype=float)
        c = np.log(np.where(y > 0.0, y, 1.0))
        most = np.where(y > 0.0, self._kernel(y, c, 1.0, phi), 0.0)
        lost = np.maximum(most - self._kernel(y, np.log(mu), 1.0, phi), 0.0)
        return 2.0 * weighted_constant(lost, weights)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """By sums over the Poisson number of amounts."""
        scale, p = np.asarray(phi)
        y, mu = np.broadcast_arrays(np.asarray(y, dtype=float), np.asarray(mu, dtype=float))
        rate = mu ** (2.0 - p) / (scale * (2.0 - p))
        size = scale * (p - 1.0) * mu ** (p - 1.0)
        alpha = (2.0 - p) / (p - 1.0)
        total = np.exp(-rate)
        reach = 10.0 * np.sqrt(np.max(rate, initial=0.0)) + 30.0
        first = int(max(np.min(rate, initial=0.0) - reach, 1.0))
        for n in range(first, int(np.max(rate, initial=0.0) + reach)):
            total = total + np.exp(
                special.xlogy(n, rate) - rate - special.gammaln(n + 1.0)
            ) * special.gammainc(n * alpha, np.maximum(y, 0.0) / size)
        return np.where(y < 0.0, 0.0, np.minimum(total, 1.0))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        scale, p = np.asarray(phi)
        mu = np.asarray(mu, dtype=float)
        n = rng.poisson(mu ** (2.0 - p) / (scale * (2.0 - p)))
        shape = n * (2.0 - p) / (p - 1.0)
        drawn = rng.gamma(np.where(n > 0, shape, 1.0), scale * (p - 1.0) * mu ** (p - 1.0))
        return np.where(n > 0, drawn, 0.0)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        y = np.asarray(y, dtype=float)
        return np.maximum(y, 0.1 * float(np.average(y, weights=weights)))

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> Array:
        spread = float(np.mean(ones(weights) * (y - mu) ** 2 / mu**1.5))
        return np.array([max(spread, 1e-8), 1.5])

    def limits(self, y: Array, eta: Array, phi: Phi = 1.0) -> list[Limit]:
        """Zeros become certain as their mean goes to zero."""
        if self.link.name != "log":
            return []
        rows = np.flatnonzero(np.asarray(y) == 0.0)
        with np.errstate(all="ignore"):
            near = np.asarray(self.log_density(y[rows], eta[rows], None, phi))
        none = np.zeros((len(rows), self.n_parameters))
        return [Limit(rows, np.full(len(rows), -1.0), none, near)]

    def separation(self, y: Array) -> tuple[str, str, str]:
        return "Fitted means reach 0", "zeros from the others", "all amounts are zero"

    def _check_support(self, y: Array, name: str) -> None:
        below = y < 0.0
        if below.any():
            raise ResponseError(
                f"the response {name!r} must be zero or positive for the tweedie family; {int(below.sum())} of {len(y)} values are "
                f"negative, the first is {y[below][0]:g}."
            )
