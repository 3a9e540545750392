"""Conway-Maxwell-Poisson counts with mean mu and nu = 1 / phi: less variance than Poisson counts for phi < 1, more for phi > 1.

    log f = y theta - nu log y! - A(theta, nu),      A = log sum_k exp(k theta - nu log k!),

with theta such that E[y] = mu, by Newton's method. With V, K3, K4 the cumulants of y, L = log y! and joint cumulants such as C = K(y, L),

    dl/dmu  = (y - mu) / V                           dtheta/dnu = C / V
    dl/dnu  = (y - mu) C / V - (L - E L)             dV/dmu = K3 / V,   dV/dnu = K3 C / V - K(y, y, L)

at fixed nu and at fixed mu, and so on to the third order; the Fisher information in mu is 1 / V. Sums are over all counts that have a
part in them or, where these are many and far from zero, over equally distant ones, which is exact as the terms change smoothly then.

Huang (2017), Stat. Model. 17.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special

from lmm.families.base import Array, Phi, Weights, check_counts, ones, weighted_constant
from lmm.families.peaks import Peaked

#: standard deviations on either side of a mean that are summed, and the distance in them of summed counts that are not neighbours
REACH, APART = 12.0, 1.0 / 16.0
#: least and largest phi to begin from
FIRST = (0.05, 50.0)
#: least and largest mean that is computed with
MEANS = (1e-12, 1e8)
#: terms that are held at a time
CELLS = 1_000_000


class Moments(NamedTuple):
    """theta, A, and the cumulants of y and L = log y!, (n,) each; ``yL`` is K(y, L), ``yyL`` K(y, y, L) and so on."""

    theta: Array
    A: Array
    V: Array
    k3: Array
    k4: Array
    L: Array
    LL: Array
    yL: Array
    yyL: Array
    yLL: Array
    yyyL: Array


def _window(mu: Array, phi: float) -> tuple[Array, Array]:
    """Least and largest count (n,) that is summed."""
    sd = np.sqrt(np.minimum(mu * max(phi, 1.0), mu + mu**2))
    tail = np.where(mu < 30.0 * phi, 35.0 * (mu + 1.0), 0.0) if phi > 3.0 else 0.0  # geometric
    least = np.maximum(np.floor(mu - REACH * sd - 10.0), 0.0)
    return least, np.ceil(mu + np.maximum(REACH * sd + 25.0, tail))


def _counts(mu: Array, phi: float) -> Array:
    """Counts (n, M) to sum over."""
    least, most = _window(mu, phi)
    spread = np.sqrt(mu * min(phi, 1.0))
    step = np.where(least > 0.0, np.maximum(APART * spread, 1.0), 1.0)
    number = int(np.max((most - least) / step, initial=1.0)) + 2
    return np.asarray(least[:, None] + step[:, None] * np.arange(float(number)))


def _solve(mu: Array, phi: float, k: Array, L: Array) -> tuple[Array, Array, Array]:
    """theta, A and the probabilities (n, M) of counts k with L = log k!."""
    nu = 1.0 / phi
    near = mu + 0.5 * (nu - 1.0) / nu
    theta = np.where(near > 0.3, nu * np.log(np.maximum(near, 0.3)), np.log(mu))
    gap = k[:, 1] - k[:, 0]
    low, high = np.full(len(mu), -np.inf), np.full(len(mu), np.inf)
    for _ in range(100):
        terms = k * theta[:, None] - nu * L
        top = terms.max(axis=1)
        p = np.exp(terms - top[:, None])
        total = p.sum(axis=1)
        p /= total[:, None]
        mean = (p * k).sum(axis=1)
        V = (p * (k - mean[:, None]) ** 2).sum(axis=1)
        with np.errstate(all="ignore"):
            step = np.clip((np.log(mu) - np.log(mean)) * mean / V, -1.0, 1.0)
        # the mean rises with theta: a step stays between the last ones that were too low and too high
        low, high = np.where(mean < mu, theta, low), np.where(mean > mu, theta, high)
        step = np.where(np.isfinite(step), step, np.where(mean < mu, 1.0, -1.0))
        past = (theta + step <= low) | (theta + step >= high)
        width = high - low
        halved = past & np.isfinite(width) & (width > 1e-9 * (1.0 + np.abs(theta)))
        with np.errstate(invalid="ignore"):
            step = np.where(halved, 0.5 * (low + high) - theta, step)
        if not np.abs(step * np.sqrt(V)).max(initial=0.0) > 1e-13 * max(1.0, float(np.max(mu))):
            break
        theta = theta + step
    return theta, top + np.log(total * gap), p


def moments(c: Array, phi: float) -> Moments:
    """Everything that a mean exp(c) (n,) and phi determine."""
    c = np.asarray(c, dtype=float)
    out = _moments(c.tobytes(), phi)
    return Moments(*out.reshape(len(out), *c.shape))


@lru_cache(maxsize=4)
def _moments(c: bytes, phi: float) -> Array:
    """(fields, n): value, derivatives and dispersion are asked for at one point after the other."""
    flat = np.exp(np.nan_to_num(np.frombuffer(c)))
    order = np.argsort(flat, kind="stable")  # rows of about one mean have about one number of terms
    terms = np.ptp(np.stack(_window(flat[order], phi)), axis=0) + 2.0
    out = np.empty((len(Moments._fields), len(flat)))
    start = 0
    while start < len(flat):
        near = int(np.searchsorted(terms, 1.5 * terms[start], side="right"))
        rows = max(1, int(CELLS // (1.5 * terms[start])))
        stop = min(max(near, start + 1), start + rows)
        part = order[start:stop]
        mu = flat[part]
        k = _counts(mu, phi)
        L = special.gammaln(k + 1.0)
        theta, A, p = _solve(mu, phi, k, L)
        level = (p * L).sum(axis=1)
        y, own = k - mu[:, None], L - level[:, None]
        V = (p * y**2).sum(axis=1)
        yL = (p * y * own).sum(axis=1)
        out[:, part] = (
            theta,
            A,
            V,
            (p * y**3).sum(axis=1),
            (p * y**4).sum(axis=1) - 3.0 * V**2,
            level,
            (p * own**2).sum(axis=1),
            yL,
            (p * y**2 * own).sum(axis=1),
            (p * y * own**2).sum(axis=1),
            (p * y**3 * own).sum(axis=1) - 3.0 * V * yL,
        )
        start = stop
    out.flags.writeable = False
    return out


class ConwayMaxwellPoisson(Peaked):
    """Conway-Maxwell-Poisson distribution by its mean; phi = 1 / nu is one for Poisson counts, below one for less variance.

    Prior weights multiply the log density. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> lmm.families.ConwayMaxwellPoisson().variance(np.array([4.0]), phi=0.5).round(4)
    array([2.1341])
    """

    name = "compois"
    title = "Conway-Maxwell-Poisson"
    default_link = "log"
    link_names = ("log", "sqrt", "identity")
    has_dispersion = discrete = True
    dispersion_scales_variance = False
    dispersion_name = "phi"
    merges = "equal"
    phi_by_row = False

    @cached_property
    def _clip(self) -> tuple[float, float]:
        low, high = super()._clip
        ends = sorted(float(self.link.link(np.array(mu))) for mu in MEANS)
        return max(low, ends[0]), min(high, ends[1])

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        at = moments(c, float(phi))
        return w * (y * at.theta - at.A)

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        at, mu = moments(c, float(phi)), np.exp(c)
        away, r = y - mu, mu / at.V
        bend = at.k3 / at.V
        first = r * away
        second = -r * mu - r**2 * away * bend
        third = r**3 * (2.0 * at.k3 - away * (at.k4 / at.V - 3.0 * bend**2))
        return w * first, w * (second + first), w * (third + 3.0 * second + first)

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        at, mu = moments(c, float(phi)), np.exp(c)
        r = mu / at.V
        return w * r * mu, w * (2.0 * r * mu - r**3 * at.k3)

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        at, mu = moments(c, float(phi)), np.exp(c)
        nu = 1.0 / float(phi)
        away, r = y - mu, mu / at.V
        turn = at.yL / at.V  # dtheta / dnu
        V1 = at.k3 * turn - at.yyL
        k31 = at.k4 * turn - at.yyyL
        by_nu = away * turn - (special.gammaln(y + 1.0) - at.L)
        turn1 = (at.yyL * turn - at.yLL - turn * V1) / at.V
        by_nu2 = away * turn1 + at.yL * turn - at.LL
        mean = -r * away * V1 / at.V
        curve = r**2 * (V1 - away * (k31 - 3.0 * at.k3 * V1 / at.V) / at.V)
        return (
            -w * nu * by_nu,
            w * (nu * by_nu + nu**2 * by_nu2),
            -w * nu * mean,
            -w * nu * (curve + mean),
            w * nu * r**2 * V1,
        )

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return weighted_constant(-special.gammaln(np.asarray(y) + 1.0) / phi, weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return moments(np.log(mu), float(phi)).V

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """At mu = y."""
        return weighted_constant(self._most(y, phi), weights) + self.constant(y, weights, phi)

    def _most(self, y: Array, phi: Phi) -> Array:
        y = np.asarray(y, dtype=float)
        at = np.log(np.where(y > 0.0, y, 1.0))
        return np.where(y > 0.0, self._kernel(y, at, 1.0, phi), 0.0)

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        lost = self._most(y, phi) - self._kernel(y, np.log(mu), 1.0, phi)
        return 2.0 * weighted_constant(np.maximum(lost, 0.0), weights)

    def _below(self, mu: Array, phi: float, level: Array, until: Array) -> Array:
        """Counts (n,) up to which probabilities add to ``level``, or the sums up to ``until`` where that is given."""
        at = moments(np.log(mu), phi)
        k, total, found = 0.0, np.zeros(len(mu)), np.zeros(len(mu))
        most = float(np.max(np.minimum(_window(mu, phi)[1], until), initial=0.0))
        while k <= most:
            p = np.exp(k * at.theta - special.gammaln(k + 1.0) / phi - at.A)
            total += np.where(k <= until, p, 0.0)
            found += total < level
            if np.all(total >= level):
                break
            k += 1.0
        return found if np.all(np.isinf(until)) else np.minimum(total, 1.0)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """By sums of the probabilities."""
        k, mean = np.broadcast_arrays(np.floor(np.asarray(y, dtype=float)), mu)
        never = np.full(k.size, np.inf)
        return self._below(mean.ravel(), float(phi), never, k.ravel()).reshape(k.shape)

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """The first count with P(Y <= y) above a uniform number."""
        mu = np.asarray(mu, dtype=float)
        u = rng.random(mu.size)
        return self._below(mu.ravel(), float(phi), u, np.full(mu.size, np.inf)).reshape(mu.shape)

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.where(y == 0, 1 / 6, y)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        """The phi whose variance at the average mean is that of Pearson's squares, by halving the interval of its logarithm."""
        ratio = float(np.mean(ones(weights) * (y - mu) ** 2 / mu))
        level = np.atleast_1d(np.average(mu, weights=weights))
        low, high = np.log(FIRST)
        for _ in range(20):
            middle = 0.5 * (low + high)
            over = self.variance(level, float(np.exp(middle)))[0] > ratio * level[0]
            low, high = (low, middle) if over else (middle, high)
        return float(np.exp(low))

    def _check_support(self, y: Array, name: str) -> None:
        check_counts(y, name, self.name)
