"""Log-normal amounts with mean mu and standard deviation phi, both on the scale of the response.

log y is normal with variance s = log(1 + phi^2 / mu^2) and mean c - s / 2, c = log mu. With z = log y - c,

    log f = -log(s) / 2 - z^2 / (2 s) - z / 2 - s / 8 - log(2 pi) / 2 - log y.

s is a function of u = 2 (log phi - c), log(1 + e^u), and d/dc = -d/dz - 2 d/du, d/drho = 2 d/du with rho = log phi. Quotients
s' / s, s'' / s, s''' / s stay near one as s goes to 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from lmm.families.base import Array, Phi, Weights, check_positive, weighted_constant
from lmm.families.namespace import namespace
from lmm.families.peaks import Peaked
from lmm.families.special import LOG_2PI

#: log of the least and of the largest phi^2 / mu^2
FAR = 200.0


class LogVariance(NamedTuple):
    """s, and its first three derivatives in u as shares of it."""

    s: Array
    r1: Array
    r2: Array
    r3: Array


def _log_variance(c: Array, phi: Phi) -> LogVariance:
    u = np.clip(2.0 * (np.log(phi) - c), -FAR, FAR)
    s = np.logaddexp(0.0, u)
    p, q = special.expit(u), special.expit(-u)
    r1 = p / s
    return LogVariance(s, r1, r1 * q, r1 * q * (q - p))


class LogNormal(Peaked):
    """Log-normal distribution by its mean mu and its standard deviation phi, on the scale of the response.

    Prior weights multiply the log density. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"log"`` (default), ``"identity"``, ``"inverse"``, or a Link.

    Examples
    --------
    >>> import lmm
    >>> float(lmm.families.LogNormal().variance(2.0, phi=3.0))
    9.0
    """

    name = "lognormal"
    title = "Log-normal"
    default_link = "log"
    link_names = ("log", "identity", "inverse")
    has_dispersion = in_jax = True
    has_zeros = False
    dispersion_scales_variance = False
    dispersion_name = "phi"

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        xp = namespace(c, phi).xp
        s = xp.logaddexp(0.0, xp.clip(2.0 * (xp.log(phi) - c), -FAR, FAR))
        z = xp.log(y) - c
        return w * (-0.5 * xp.log(s) - 0.5 * z * z / s - 0.5 * z - 0.125 * s)

    @staticmethod
    def _slopes(z: Array, at: LogVariance) -> tuple[Array, ...]:
        """First derivative in z; in u; zu, uu; zuu, uuu, without weights; the others are -1/s and r1/s."""
        s, r1, r2, r3 = at
        by_z = -z / s - 0.5
        square = z * z / s
        level = 0.5 * square - 0.5 - 0.125 * s
        by_u = level * r1
        zu = z / s * r1
        uu = (0.5 - square) * r1**2 + level * r2
        zuu = z / s * (r2 - 2.0 * r1**2)
        uuu = (3.0 * square - 1.0) * r1**3 + 3.0 * (0.5 - square) * r1 * r2 + level * r3
        return by_z, by_u, zu, uu, zuu, uuu

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        at = _log_variance(c, phi)
        by_z, by_u, zu, uu, zuu, uuu = self._slopes(np.log(y) - c, at)
        return (
            w * (-by_z - 2.0 * by_u),
            w * (-1.0 / at.s + 4.0 * zu + 4.0 * uu),
            w * (-6.0 * at.r1 / at.s - 12.0 * zuu - 8.0 * uuu),
        )

    @staticmethod
    def _information_slopes(c: Array, phi: Phi) -> tuple[Array, Array]:
        """(1 + s')^2 / s + 2 (s' / s)^2 and its derivative in u."""
        s, r1, r2, _ = _log_variance(c, phi)
        bend = r2 - r1**2
        slope = -r1 / s + 2.0 * bend + s * r1**3 + 2.0 * (2.0 + s) * r1 * bend
        return 1.0 / s + 2.0 * r1 + (2.0 + s) * r1**2, slope

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        information, slope = self._information_slopes(c, phi)
        return w * information, -2.0 * w * slope

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        at = _log_variance(c, phi)
        _, by_u, zu, uu, zuu, uuu = self._slopes(np.log(y) - c, at)
        return (
            2.0 * w * by_u,
            4.0 * w * uu,
            -w * (2.0 * zu + 4.0 * uu),
            2.0 * w * (at.r1 / at.s + 4.0 * zuu + 4.0 * uuu),
            2.0 * w * self._information_slopes(c, phi)[1],
        )

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return weighted_constant(-0.5 * LOG_2PI - namespace(y).xp.log(y), weights)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        return np.asarray(phi**2 + 0.0 * np.asarray(mu))

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        c = np.log(mu)
        s = _log_variance(c, phi).s
        with np.errstate(divide="ignore"):
            z = np.log(np.maximum(y, 0.0)) - c
        return special.ndtr((z + 0.5 * s) / np.sqrt(s))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        c = np.log(mu)
        s = _log_variance(c, phi).s
        return np.exp(c - 0.5 * s + np.sqrt(s) * rng.standard_normal(np.shape(mu)))

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.asarray(y, dtype=float)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        square = float(np.average((y - mu) ** 2, weights=weights))
        mean = np.average(mu, weights=weights)
        most = float(np.average((y - mean) ** 2, weights=weights))
        return float(np.sqrt(max(square, 1e-8 * most)) or 1e-4)

    def _check_support(self, y: Array, name: str) -> None:
        check_positive(y, name, self.name)
