"""Skew normal responses by mean mu, standard deviation phi and shape psi, Azzalini's alpha.

With delta = psi / sqrt(1 + psi^2), m = delta sqrt(2 / pi), k = sqrt(1 - m^2) and z = k (y - mu) / phi + m

    log f = log 2 + log k - log phi - z^2 / 2 - log(2 pi) / 2 + log Phi(psi z).

A1, A2, A3 are the derivatives of log f in z; z falls with mu by k / phi, with log phi by z - m, and moves with psi by
q = R (z - m) + m', R = k' / k, primes for d / dpsi. Azzalini (1985), Scand. J. Stat. 12.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from lmm.families.base import Array, Phi, Weights, weighted_constant
from lmm.families.links import Probit
from lmm.families.reals.gaussian import Gaussian
from lmm.families.reals.real_means import RealMeans
from lmm.families.shaped import Anywhere, OwnSlopes, Positive, ShapedFamily, stacked, summed_square
from lmm.families.special import LOG_2PI

NORMAL = Probit()
ROOT = float(np.sqrt(2.0 / np.pi))


class Shape(NamedTuple):
    """m, k, and the derivatives m', m'', R, R' in psi."""

    m: float
    k: float
    m1: float
    m2: float
    R: float
    R1: float


def shape_of(psi: float) -> Shape:
    """What psi makes of a standard normal's mean and standard deviation."""
    one = 1.0 + psi * psi
    m = ROOT * psi / np.sqrt(one)
    square = 1.0 - m * m
    m1 = ROOT * one**-1.5
    m2 = -3.0 * ROOT * psi * one**-2.5
    R = -m * m1 / square
    return Shape(m, np.sqrt(square), m1, m2, R, -(m1 * m1 + m * m2) / square - 2.0 * R * R)


class SkewNormal(RealMeans, ShapedFamily):
    """Skew normal distribution by its mean, its standard deviation phi and a shape psi on the real line, zero for a normal one.

    Prior weights multiply the log density. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"identity"`` (default), ``"log"``, ``"inverse"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> lmm.families.SkewNormal().variance(np.zeros(1), np.array([3.0, 2.0]))
    array([9.])
    """

    name = "skewnormal"
    title = "Skew normal"
    has_information = False
    own = (Positive("phi"), Anywhere("shape"))

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        scale, psi = np.asarray(phi)
        at = shape_of(psi)
        z = at.k * (y - c) / scale + at.m
        return w * (-0.5 * z * z + special.log_ndtr(psi * z))

    @staticmethod
    def _slopes(z: Array, psi: float) -> tuple[Array, ...]:
        """A1, A2, A3, and the first three derivatives of log Phi at psi z."""
        _, l1, l2, l3 = map(np.asarray, NORMAL.log_derivatives(psi * z))
        return -z + psi * l1, -1.0 + psi**2 * l2, psi**3 * l3, l1, l2, l3

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        scale, psi = np.asarray(phi)
        at = shape_of(psi)
        t = at.k / scale
        A1, A2, A3, *_ = self._slopes(t * (y - c) + at.m, psi)
        return -w * t * A1, w * t**2 * A2, -w * t**3 * A3

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        """For steps alone: that of a normal distribution."""
        return w / np.asarray(phi)[0] ** 2, 0.0

    def _own(self, y: Array, c: Array, w: Array | float, phi: Phi) -> OwnSlopes:
        scale, psi = np.asarray(phi)
        m, k, m1, m2, R, R1 = shape_of(psi)
        t = k / scale
        z = t * (y - c) + m
        A1, A2, A3, l1, l2, l3 = self._slopes(z, psi)
        away = z - m
        q = R * away + m1
        q1 = R1 * away + R * (q - m1) + m2
        turned = z + psi * q  # d(psi z) / dpsi
        dA1 = A2 * q + l1 + psi * z * l2
        dA2 = 2.0 * psi * l2 + psi**2 * l3 * turned
        by_scale = -1.0 - away * A1
        by_shape = R + A1 * q + z * l1
        scale2 = away * A1 + away**2 * A2
        both = -(q - m1) * A1 - away * dA1
        shape2 = R1 + A1 * q1 + q * dA1 + q * l1 + z * l2 * turned
        return OwnSlopes(
            stacked(w * by_scale, w * by_shape, like=c),
            summed_square((w * scale2, w * shape2), w * both),
            stacked(w * t * (A1 + away * A2), -w * t * (R * A1 + dA1), like=c),
            stacked(-w * t**2 * (2.0 * A2 + away * A3), w * t**2 * (2.0 * R * A2 + dA2), like=c),
            stacked(-2.0 * w / scale**2, 0.0, like=c),
        )

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        scale, psi = np.asarray(phi)
        level = np.log(2.0) + np.log(shape_of(psi).k) - np.log(scale) - 0.5 * LOG_2PI
        return weighted_constant(np.full(np.shape(y), level), weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return np.full(np.shape(mu), np.asarray(phi)[0] ** 2)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        scale, psi = np.asarray(phi)
        at = shape_of(psi)
        z = at.k * (y - mu) / scale + at.m
        return np.clip(special.ndtr(z) - 2.0 * special.owens_t(z, psi), 0.0, 1.0)

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        scale, psi = np.asarray(phi)
        at = shape_of(psi)
        delta = psi / np.sqrt(1.0 + psi * psi)
        one, other = rng.standard_normal((2, *np.shape(mu)))
        z = delta * np.abs(one) + np.sqrt(1.0 - delta**2) * other
        return mu + scale * (z - at.m) / at.k

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return Gaussian(self.link).initial_mu(y, weights)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> Array:
        """The standard deviation, and the shape whose skewness is that of y - mu, as far as there is one."""
        away = y - mu
        whole = float(np.std(y)) or 1.0
        scale = max(float(np.sqrt(np.mean(away**2))), 1e-4 * whole)
        skewness = float(np.mean((away / scale) ** 3))
        root = np.cbrt(2.0 * np.clip(abs(skewness), 0.02, 0.8) / (4.0 - np.pi))  # m / k
        delta = root / np.sqrt(1.0 + root**2) / ROOT
        psi = delta / np.sqrt(1.0 - min(delta**2, 0.95))
        return np.array([scale, np.copysign(psi, skewness)])
