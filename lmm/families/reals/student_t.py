"""Student's t: location mu, scale phi and degrees of freedom df, for responses with outliers.

With z = (y - mu) / phi, nu = df and D = nu + z^2

    log f = K(nu) - log phi + m(z, nu),   m = -(nu + 1) / 2 log(1 + z^2 / nu),
    K     = log G((nu + 1) / 2) - log G(nu / 2) - log(pi nu) / 2,

dm/dz = -(nu + 1) z / D, d2m/dz2 = -(nu + 1) (nu - z^2) / D^2, d3m/dz3 = 2 (nu + 1) z (3 nu - z^2) / D^3, and the Fisher
information in mu is (nu + 1) / ((nu + 3) phi^2).

Lange, Little & Taylor (1989), J. Am. Stat. Assoc. 84.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from lmm.families.base import Array, Phi, Weights, weighted_constant
from lmm.families.namespace import namespace
from lmm.families.proportions.beta_binomial import rise
from lmm.families.reals.gaussian import Gaussian
from lmm.families.reals.real_means import RealMeans
from lmm.families.shaped import OwnSlopes, Positive, ShapedFamily, stacked, summed_square
from lmm.families.special import LOG_2PI, log_less_digamma, trigamma_less_inverse

#: degrees of freedom from which the distribution is as good as normal
NORMAL = 1e4


class StudentT(RealMeans, ShapedFamily):
    """Student's t distribution with location mu, scale phi and df degrees of freedom; its variance is phi^2 df / (df - 2).

    Prior weights multiply the log density. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"identity"`` (default), ``"log"``, ``"inverse"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> lmm.families.StudentT().variance(np.zeros(1), np.array([1.0, 4.0]))
    array([2.])
    """

    name = "t"
    title = "t"
    own = (Positive("phi"), Positive("df"))

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        xp = namespace(c, phi).xp
        scale, df = phi  # type: ignore[misc]
        z = (y - c) / scale
        return -0.5 * w * (df + 1.0) * xp.log1p(z * z / df)

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        scale, df = np.asarray(phi)
        z = (y - c) / scale
        D = df + z * z
        m1 = -(df + 1.0) * z / D
        m2 = -(df + 1.0) * (df - z * z) / D**2
        m3 = 2.0 * (df + 1.0) * z * (3.0 * df - z * z) / D**3
        return -w * m1 / scale, w * m2 / scale**2, -w * m3 / scale**3

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        scale, df = np.asarray(phi)
        return w * (df + 1.0) / ((df + 3.0) * scale**2), 0.0

    def _own(self, y: Array, c: Array, w: Array | float, phi: Phi) -> OwnSlopes:
        scale, df = np.asarray(phi)
        z = (y - c) / scale
        square = z * z
        D = df + square
        m1 = -(df + 1.0) * z / D
        m2 = -(df + 1.0) * (df - square) / D**2
        m3 = 2.0 * (df + 1.0) * z * (3.0 * df - square) / D**3
        half, more = 0.5 * df, 0.5 * (df + 1.0)
        K1 = 0.5 * (np.log1p(1.0 / df) - log_less_digamma(more) + log_less_digamma(half)) - 0.5 / df
        K2 = 0.25 * (
            1.0 / more - 1.0 / half + trigamma_less_inverse(more) - trigamma_less_inverse(half)
        )
        by_df = -0.5 * np.log1p(square / df) + 0.5 * (df + 1.0) * square / (df * D)
        bend = df * D - (df + 1.0) * (D + df)
        by_df2 = 0.5 * square / (df * D) + 0.5 * square * bend / (df * D) ** 2
        m1_df = -z * (square - 1.0) / D**2
        m2_df = -((3.0 * square - 1.0) * D - 4.0 * square * (square - 1.0)) / D**3
        level = df * (K1 + by_df)
        curve = level + df**2 * (K2 + 0.5 / df**2 + by_df2)
        information = w * (df + 1.0) / ((df + 3.0) * scale**2)
        return OwnSlopes(
            stacked(w * (-1.0 - z * m1), w * level, like=c),
            summed_square((w * (z * m1 + square * m2), w * curve), -w * df * z * m1_df),
            stacked(w * (m1 + z * m2) / scale, -w * df * m1_df / scale, like=c),
            stacked(-w * (2.0 * m2 + z * m3) / scale**2, w * df * m2_df / scale**2, like=c),
            stacked(-2.0 * information, 2.0 * w * df / ((df + 3.0) ** 2 * scale**2), like=c),
        )

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        scale, df = phi  # type: ignore[misc]
        xp = namespace(y, scale).xp
        level = rise(0.5, 0.5 * df) - 0.5 * LOG_2PI - xp.log(scale)
        return weighted_constant(level + 0.0 * y, weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        """Infinite with two degrees of freedom or fewer."""
        scale, df = np.asarray(phi)
        spread = scale**2 * df / (df - 2.0) if df > 2.0 else np.inf
        return np.full(np.shape(mu), spread)

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return -2.0 * weighted_constant(self._kernel(y, mu, 1.0, phi), weights)

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return self.constant(np.asarray(y, dtype=float), weights, phi)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        scale, df = np.asarray(phi)
        return np.asarray(special.stdtr(df, (y - mu) / scale))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        scale, df = np.asarray(phi)
        return mu + scale * rng.standard_t(df, np.shape(mu))

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return Gaussian(self.link).initial_mu(y, weights)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> Array:
        """The scale from the quartiles of |y - mu|, and five degrees of freedom."""
        away = np.abs(y - mu)
        whole = float(np.std(y))
        return np.array([max(float(np.median(away)) / 0.73, 1e-4 * whole) or 1e-4, 5.0])

    def shape_note(self, phi: Phi) -> str:
        if np.asarray(phi)[1] < NORMAL:
            return ""
        return (
            "The response has no heavier tails than a normal one: df is at its limit. Use lmer()."
        )
