"""Counts 1, 2, ...: the distribution of a count given that it is not zero.

With L(c) the log probability of a zero before truncation, log f(y | y > 0) = log f(y) - log(1 - exp L). Let o = 1 / (exp(-L) - 1),
the odds of a zero, do/dL = o (1 + o). With L1, L2, L3 the derivatives of L the second part adds to those of log f

    o L1,   o L2 + o (1 + o) L1^2,   o L3 + 3 o (1 + o) L1 L2 + o (1 + o) (1 + 2 o) L1^3,

likewise to those that involve rho, and the Fisher information i becomes (1 + o) (i - o L1^2). Means mu are those before
truncation, so that E[y] = mu (1 + o).
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from lmm.errors import ResponseError
from lmm.families.base import Array, Family, Limit, Phi, Weights, check_counts
from lmm.families.counts.negative_binomial import NegativeBinomial
from lmm.families.counts.negative_binomial1 import NegativeBinomial1
from lmm.families.counts.poisson import Poisson
from lmm.families.counts.tables import drawn
from lmm.families.namespace import namespace
from lmm.families.peaks import Peaked

#: rounds in which zeros are drawn again, before what is left is drawn by sums of probabilities
ROUNDS = 20


class Odds(NamedTuple):
    """The odds o of a zero, o (1 + o), o (1 + o) (1 + 2 o)."""

    one: Array
    two: Array
    three: Array


class ZeroTruncated(Peaked):
    """Counts that are not zero, of the family ``counts`` otherwise.

    Attributes
    ----------
    counts : the family before truncation.
    """

    counts: ClassVar[type[Family]]
    default_link = "log"
    link_names = ("log", "sqrt", "identity")
    discrete = truncated = True
    has_zeros = False
    mean_is_expected = False
    start_rounds = 1  # without random effects means may go to zero
    dispersion_scales_variance = False
    no_excess = (
        "The counts vary no more than truncated Poisson counts: the negative binomial's dispersion is at its limit. "
        "Use family='truncated_poisson'."
    )

    @cached_property
    def behind(self) -> Family:
        """The family before truncation."""
        return self.counts(self.link)

    def _log_zero(self, c: Array, phi: Phi) -> Array:
        """L(c), in NumPy or JAX."""
        return self.behind.log_zero(c, phi)

    def _odds(self, c: Array, phi: Phi) -> Odds:
        with np.errstate(over="ignore"):
            o = 1.0 / np.maximum(np.expm1(-self._log_zero(c, phi)), 1e-100)
        return Odds(o, o * (1.0 + o), o * (1.0 + o) * (1.0 + 2.0 * o))

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        xp = namespace(c, phi).xp
        L = xp.minimum(self._log_zero(c, phi), -1e-100)
        return self.behind._kernel(y, c, w, phi) - w * xp.log(-xp.expm1(L))

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        g1, g2, g3 = self.behind._score(y, c, w, phi)
        z1, z2, z3 = self.behind._score(np.zeros(np.shape(c)), c, 1.0, phi)
        o, o2, o3 = self._odds(c, phi)
        return (
            g1 + w * o * z1,
            g2 + w * (o * z2 + o2 * z1**2),
            g3 + w * (o * z3 + 3.0 * o2 * z1 * z2 + o3 * z1**3),
        )

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        i, slope = self.behind._information(c, 1.0, phi)
        z1, z2, _ = self.behind._score(np.zeros(np.shape(c)), c, 1.0, phi)
        o, o2, _ = self._odds(c, phi)
        left = i - o * z1**2
        moved = slope - o2 * z1**3 - 2.0 * o * z1 * z2
        return w * (1.0 + o) * left, w * (o2 * z1 * left + (1.0 + o) * moved)

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        first, second, by_c, curve, i_rho = self.behind._dispersion(y, c, 1.0, phi)
        zero = np.zeros(np.shape(c))
        r, rr, rc, rcc, _ = self.behind._dispersion(zero, c, 1.0, phi)
        z1, z2, _ = self.behind._score(zero, c, 1.0, phi)
        i, _ = self.behind._information(c, 1.0, phi)
        o, o2, o3 = self._odds(c, phi)
        left = i - o * z1**2
        moved = i_rho - o2 * r * z1**2 - 2.0 * o * z1 * rc
        return (
            w * (first + o * r),
            w * (second + o * rr + o2 * r**2),
            w * (by_c + o * rc + o2 * z1 * r),
            w * (curve + o * rcc + o2 * (z2 * r + 2.0 * z1 * rc) + o3 * z1**2 * r),
            w * (o2 * r * left + (1.0 + o) * moved),
        )

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return self.behind.constant(y, weights, phi)

    # -- moments -------------------------------------------------------------------------------

    def expected(self, eta: Array, phi: Phi = 1.0) -> Array:
        mu = self.mean(eta)
        return mu * (1.0 + self._odds(np.log(mu), phi).one)

    def expected_slope(self, eta: Array, phi: Phi = 1.0) -> Array:
        """dE[y]/deta = (mu (1 + o))'."""
        mu = self.mean(eta)
        c = np.log(mu)
        o, o2, _ = self._odds(c, phi)
        z1 = self.behind._score(np.zeros(np.shape(c)), c, 1.0, phi)[0]
        return self.mean_slope(eta) * (1.0 + o + o2 * z1)

    def expected_limit(self, eta: Array, phi: Phi = 1.0) -> Array:
        return self.expected(eta, phi)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        mu = np.asarray(mu, dtype=float)
        more = 1.0 + self._odds(np.log(mu), phi).one
        return more * (self.behind.variance(mu, phi) + mu**2) - (more * mu) ** 2

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        zero = np.exp(self._log_zero(np.log(mu), phi))
        below = self.behind.cdf(y, mu, weights, phi)
        return np.maximum(below - zero, 0.0) / -np.expm1(self._log_zero(np.log(mu), phi))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """Zeros are drawn again; where there are hardly any others, by sums of probabilities."""
        mean = np.asarray(mu, dtype=float)
        out = np.asarray(self.behind.simulate(rng, mean, None, phi))
        flat, means = out.ravel(), mean.ravel()
        zeros = np.flatnonzero(flat == 0.0)
        for _ in range(ROUNDS):
            if not len(zeros):
                break
            flat[zeros] = self.behind.simulate(rng, means[zeros], None, phi)
            zeros = zeros[flat[zeros] == 0.0]
        flat[zeros] = drawn(self, rng, means[zeros], phi, least=1)
        return flat.reshape(mean.shape)

    # -- starts and limits ---------------------------------------------------------------------

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.where(y <= 1.0, 0.5, y)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> float:
        return self.likeliest(y, mu, weights) if self.has_dispersion else 1.0

    def excess(self, mean: Phi, phi: Phi) -> Phi:
        return self.behind.excess(mean, phi)

    def limits(self, y: Array, eta: Array, phi: Phi = 1.0) -> list[Limit]:
        """Counts of one become certain as their mean goes to zero."""
        own = super().limits(np.asarray(y) - 1.0, eta, phi)
        with np.errstate(all="ignore"):
            return [
                replaced(limit, self.log_density(y[limit.rows], eta[limit.rows], None, phi))
                for limit in own
            ]

    def separation(self, y: Array) -> tuple[str, str, str]:
        return (
            "Means before truncation reach 0",
            "counts of one from the others",
            "all counts are one",
        )

    def _check_support(self, y: Array, name: str) -> None:
        check_counts(y, name, self.name)
        zeros = y == 0.0
        if zeros.any():
            raise ResponseError(
                f"the response {name!r} is 0 in {int(zeros.sum())} of {len(y)} rows, which the {self.name} family leaves out. "
                "ziformula= gives the zeros a model of their own (a hurdle model); a family that is not truncated has zeros of its own."
            )


def replaced(limit: Limit, log_probability: Array) -> Limit:
    """The limit with other probabilities."""
    return limit._replace(log_probability=np.asarray(log_probability))


class TruncatedPoisson(ZeroTruncated):
    """Poisson distribution of counts that are not zero; the mean mu is that before truncation.

    Prior weights multiply the log density.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> family = lmm.families.TruncatedPoisson()
    >>> family.expected(np.log([0.1, 5.0])).round(3)      # E[y], not mu
    array([1.051, 5.034])
    """

    name = "truncated_poisson"
    title = "truncated Poisson"
    counts = Poisson
    canonical_link = "log"
    in_jax = True
    merges = "sums"


class TruncatedNegativeBinomial(ZeroTruncated):
    """Negative binomial distribution (NB2) of counts that are not zero; mean mu and variance mu + mu^2 / theta are those before truncation.

    Prior weights multiply the log density.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> lmm.families.TruncatedNegativeBinomial().expected(np.zeros(1), phi=1.0)      # geometric
    array([2.])
    """

    name = "truncated_negative_binomial"
    title = "truncated Negative Binomial"
    counts = NegativeBinomial
    dispersion_name = "theta"
    has_dispersion = in_jax = True
    merges = "equal"


class TruncatedNegativeBinomial1(ZeroTruncated):
    """Negative binomial distribution (NB1) of counts that are not zero; mean mu and variance mu (1 + phi) are those before truncation.

    Prior weights multiply the log density.

    Parameters
    ----------
    link : ``"log"`` (default), ``"sqrt"``, ``"identity"``, or a Link.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> lmm.families.TruncatedNegativeBinomial1().expected(np.zeros(1), phi=1.0)
    array([2.])
    """

    name = "truncated_negative_binomial1"
    title = "truncated nbinom1"
    counts = NegativeBinomial1
    has_dispersion = in_jax = True
    merges = "equal"
