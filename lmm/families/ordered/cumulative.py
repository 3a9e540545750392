"""Probabilities of an interval, P = F(a) - F(b), a = upper - eta, b = lower - eta: log P and its derivatives.

Differences of F cancel where the interval is narrow and underflow where it is far out. Each distribution has a
form in which neither happens. With g = a - b, S = 1 - F and B = 1 / (exp(g) - 1):

    logistic   log P = log F(a) + log S(b) + log(1 - exp(-g)), the last term free of eta
    extreme    (complementary log-log) S(x) = exp(-exp(x)); log P = log S(b) + log F(d), d = a + log(1 - exp(-g))
    normal     X truncated to (b, a): dlog P/deta = E X, d2 = Var X - 1, d3 = the third cumulant of X;
               closed forms in the hazards u = f(a) / P, v = f(b) / P for wide intervals near zero,
               Gauss-Legendre quadrature of the density tilted from the nearer end for the others

Only the ends move with eta and with the thresholds, so with l = log P, l_a + l_b = -l', and the second derivatives
in the ends follow from those with eta: l_aa = -l'_a - l_ab, l_bb = -l'_b - l_ab.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import numpy as np
from scipy import special

from lmm.families import links

Array = np.ndarray
Three = tuple[Array, Array, Array]

LOG_SQRT_2PI = 0.5 * float(np.log(2.0 * np.pi))
#: (distance of the nearer end from zero) up to which, and (width relative to the decay there) from which, closed forms do not cancel
NEAR, WIDE = 5.0, 1.0
#: decay of the tilted density, in the exponent, after which nothing is left of it
SPENT = 40.0


class IntervalEnds(NamedTuple):
    """Derivatives of l = log P that involve the ends, each (n,): l_a, l_b, l'_a, l'_b, l''_a, l''_b (primes: in eta) and l_ab."""

    a: Array
    b: Array
    eta_a: Array
    eta_b: Array
    eta_eta_a: Array
    eta_eta_b: Array
    ab: Array


def log1mexp(g: Array) -> Array:
    """log(1 - exp(-g)) for g > 0."""
    with np.errstate(divide="ignore"):
        return np.where(g < 0.7, np.log(-np.expm1(-g)), np.log1p(-np.exp(-g)))


def _odds(g: Array) -> Array:
    """B = 1 / (exp(g) - 1), zero for an infinite g."""
    return np.exp(-g) / -np.expm1(-g)


class Distribution(abc.ABC):
    """F of a cumulative model; the functions take ends a > b (n,), infinite ones included, and the width g (n,) itself."""

    link: links.Link

    @abc.abstractmethod
    def log_probability(self, a: Array, b: Array, g: Array) -> Array:
        """log(F(a) - F(b)), (n,)."""

    @abc.abstractmethod
    def derivatives(self, a: Array, b: Array, g: Array) -> Three:
        """First to third derivative of log P in eta."""

    @abc.abstractmethod
    def ends(self, a: Array, b: Array, g: Array) -> IntervalEnds:
        """Derivatives that involve the ends."""


class Logistic(Distribution):
    """F(x) = 1 / (1 + exp(-x))."""

    link = links.get("logit")

    def log_probability(self, a: Array, b: Array, g: Array) -> Array:
        upper = np.minimum(a, 0.0) - np.log1p(np.exp(-np.abs(a)))
        lower = -np.maximum(b, 0.0) - np.log1p(np.exp(-np.abs(b)))
        return upper + lower + log1mexp(g)

    def derivatives(self, a: Array, b: Array, g: Array) -> Three:
        Sa, Fa, Sb, Fb = (special.expit(x) for x in (-a, a, -b, b))
        fa, fb = Sa * Fa, Sb * Fb
        return Fb - Sa, -(fa + fb), fa * (Sa - Fa) + fb * (Sb - Fb)

    def ends(self, a: Array, b: Array, g: Array) -> IntervalEnds:
        Sa, Fa, Sb, Fb = (special.expit(x) for x in (-a, a, -b, b))
        fa, fb, B = Sa * Fa, Sb * Fb, _odds(g)
        return IntervalEnds(
            np.where(np.isinf(a), 0.0, Sa + B), np.where(np.isinf(b), 0.0, -(Fb + B)),
            fa, fb, -fa * (Sa - Fa), -fb * (Sb - Fb), B * (1.0 + B),
        )  # fmt: skip


class Extreme(Distribution):
    """F(x) = 1 - exp(-exp(x)), the complementary log-log link."""

    link = links.get("cloglog")

    def _parts(self, a: Array, b: Array, g: Array) -> tuple[Array, tuple[Array, ...]]:
        """exp(b), and log F(d) with its derivatives in d."""
        t = np.exp(np.clip(b, *self.link.safe))
        top = np.isinf(a)
        h = self.link.log_derivatives(np.where(top, 0.0, a) + log1mexp(g))
        return np.where(np.isinf(b), 0.0, t), tuple(np.where(top, 0.0, x) for x in h)

    def log_probability(self, a: Array, b: Array, g: Array) -> Array:
        t, h = self._parts(a, b, g)
        return h[0] - t

    def derivatives(self, a: Array, b: Array, g: Array) -> Three:
        t, (_, h1, h2, h3) = self._parts(a, b, g)
        return t - h1, h2 - t, t - h3

    def ends(self, a: Array, b: Array, g: Array) -> IntervalEnds:
        t, (_, h1, h2, h3) = self._parts(a, b, g)
        B = _odds(g)
        A = 1.0 + B
        return IntervalEnds(
            h1 * A, -t - h1 * B, -h2 * A, t + h2 * B, h3 * A, -t - h3 * B, A * B * (h1 - h2)
        )


class _Moments(NamedTuple):
    """log P, mean m, variance less one, third cumulant, hazards u and v, a - m, m - b, and what multiplies u and v in l''_a, l''_b."""

    value: Array
    mean: Array
    less_one: Array
    third: Array
    u: Array
    v: Array
    above: Array
    below: Array
    bend_a: Array
    bend_b: Array


class Normal(Distribution):
    """F = Phi, the probit link."""

    link = links.get("probit")

    def log_probability(self, a: Array, b: Array, g: Array) -> Array:
        first, last, closed, _, _ = _regions(a, b, g)
        wide = closed & ~first & ~last
        if not np.all(first | last | wide):
            return self._moments(a, b, g).value
        with np.errstate(divide="ignore"):
            inner = np.log(np.where(wide, _probability(a, b), 1.0))
        return np.where(first, special.log_ndtr(a), np.where(last, special.log_ndtr(-b), inner))

    def derivatives(self, a: Array, b: Array, g: Array) -> Three:
        m = self._moments(a, b, g)
        return m.mean, m.less_one, m.third

    def ends(self, a: Array, b: Array, g: Array) -> IntervalEnds:
        m = self._moments(a, b, g)
        return IntervalEnds(
            m.u, -m.v, m.u * m.above, m.v * m.below, m.u * m.bend_a, -m.v * m.bend_b, m.u * m.v
        )

    def _moments(self, a: Array, b: Array, g: Array) -> _Moments:
        out = _Moments(*(np.zeros(np.shape(a)) for _ in _Moments._fields))
        first, last, closed, narrow, far = _regions(a, b, g)
        for where, parts in (
            (first, lambda s: self._tail(a[s], 1.0)),
            (last, lambda s: self._tail(-b[s], -1.0)),
            (closed, lambda s: _closed(a[s], b[s])),
            (narrow, lambda s: _tilted(a[s], b[s], g[s], 8)),
            (far, lambda s: _tilted(a[s], b[s], g[s], 32)),
        ):
            rows = np.flatnonzero(where)
            if len(rows):
                for into, value in zip(out, parts(rows), strict=True):
                    into[rows] = value
        return out

    def _tail(self, x: Array, sign: float) -> _Moments:
        """An interval with one end: (-inf, x), or (-x, inf) for a negative sign."""
        h, h1, h2, h3 = (np.asarray(value) for value in self.link.log_derivatives(x))
        zero = np.zeros(len(x))
        some = h1 > 0.0  # it underflows where the whole distribution lies inside
        reach, bend = (
            np.divide(value, h1, out=np.zeros(len(x)), where=some) for value in (-h2, h3)
        )
        if sign > 0:
            return _Moments(h, -h1, h2, -h3, h1, zero, reach, zero, bend, zero)
        return _Moments(h, h1, h2, h3, zero, h1, zero, reach, zero, bend)


def _regions(a: Array, b: Array, g: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Masks (n,): lower end infinite, upper end infinite, closed forms, narrow, far; every row in one."""
    first, last = np.isinf(b), np.isinf(a)
    inner = ~(first | last)
    e = _nearer(a, b)
    narrow = inner & (g * (1.0 + e) <= WIDE)
    far = inner & ~narrow & (e > NEAR)
    return first, last, inner & ~narrow & ~far, narrow, far


def _nearer(a: Array, b: Array) -> Array:
    """Distance of the interval from zero; 0 where it holds zero."""
    return np.maximum(np.maximum(b, -a), 0.0)


def _probability(a: Array, b: Array) -> Array:
    """Phi(a) - Phi(b), in the tail where both are small."""
    flip = b > 0.0
    return special.ndtr(np.where(flip, -b, a)) - special.ndtr(np.where(flip, -a, b))


def _density(x: Array) -> Array:
    return np.exp(-0.5 * x * x - LOG_SQRT_2PI)


def _closed(a: Array, b: Array) -> _Moments:
    """Moments of a wide interval whose nearer end is not far out."""
    P = _probability(a, b)
    u, v = _density(a) / P, _density(b) / P
    mean = v - u
    above, below = a - mean, mean - b
    less_one = b * v - a * u - mean**2
    third = -mean - b * v * below - a * u * above - 2.0 * mean * less_one
    variance = 1.0 + less_one
    return _Moments(
        np.log(P),
        mean,
        less_one,
        third,
        u,
        v,
        above,
        below,
        above**2 - variance,
        below**2 - variance,
    )


def _tilted(a: Array, b: Array, g: Array, points: int) -> _Moments:
    """Moments of s, the distance from the nearer end e, with the density exp(-|e| s - s^2 / 2) on (0, g)."""
    x, w = np.polynomial.legendre.leggauss(points)
    upper = np.abs(a) < np.abs(b)  # the nearer end is the upper one: s runs downwards
    e = np.where(upper, a, b)
    c = np.where(upper, -a, b)
    length = np.minimum(g, np.minimum(SPENT / np.maximum(c, 1e-300), np.sqrt(2.0 * SPENT)))
    s = np.multiply.outer(0.5 * (x + 1.0), length)
    density = (0.5 * w)[:, None] * np.exp(-s * (c + 0.5 * s))
    total = density.sum(axis=0)
    density /= total
    integral = length * total
    step = np.sum(density * s, axis=0)
    away = s - step
    variance, third = np.sum(density * away**2, axis=0), np.sum(density * away**3, axis=0)
    near, other = 1.0 / integral, np.exp(-g * (c + 0.5 * g)) / integral
    rest = g - step
    pick = np.where
    above, below = pick(upper, step, rest), pick(upper, rest, step)
    return _Moments(
        -0.5 * e * e - LOG_SQRT_2PI + np.log(integral), e + pick(upper, -step, step), variance - 1.0, pick(upper, -third, third),
        pick(upper, near, other), pick(upper, other, near), above, below, above**2 - variance, below**2 - variance,
    )  # fmt: skip


#: distributions by the name of their link
DISTRIBUTIONS: dict[str, Distribution] = {d.link.name: d for d in (Logistic(), Normal(), Extreme())}
