"""Ordered beta proportions: probabilities of 0 and of 1 by two cuts, and a beta distribution in between.

With c the logit of mu and F the logistic distribution function

    P(y = 0) = 1 - F(c - k0),   P(y = 1) = F(c - k1),   k0 < k1,

and given neither y has the beta distribution with mean mu and precision phi: a cumulative model of three ordered categories, whose middle
one is a proportion. Log densities, derivatives and informations are sums of those of the two; a response without zeros, or without ones,
has one cut. The search has log phi, k0 and log(k1 - k0).

Kubinec (2023), Polit. Anal. 31.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from lmm.errors import ArgumentError, ResponseError
from lmm.families.base import Array, Family, Limit, Phi, Weights, weighted_constant
from lmm.families.links import Link
from lmm.families.ordered.ordinal import Ordinal
from lmm.families.proportions.beta import Beta
from lmm.families.proportions.unit_means import UnitMeans
from lmm.families.response import numeric
from lmm.families.shaped import Anywhere, Bounded, OwnSlopes, Positive, ShapedFamily, stacked


@dataclass(frozen=True, init=False, repr=False)
class OrderedBeta(ShapedFamily, UnitMeans):
    """Ordered beta distribution of proportions from 0 to 1, both included; mu is the mean of the part between.

    Prior weights multiply the log density. ``sigma`` is phi.

    Parameters
    ----------
    link : ``"logit"``.
    zeros, ones : whether 0 and 1 occur; found out from the response.

    Examples
    --------
    >>> import lmm, numpy as np
    >>> family, phi = lmm.families.OrderedBeta(), np.array([5.0, -1.0, 2.0])
    >>> np.exp(family.log_density(np.array([0.0, 1.0]), np.zeros(2), phi=phi)).round(4)
    array([0.2689, 0.1192])
    """

    zeros: bool
    ones: bool

    name = "ordered_beta"
    title = "Ordered beta"
    link_names = ("logit",)
    mean_is_expected = False

    def __init__(self, link: str | Link | None = None, *, zeros: bool = True, ones: bool = True):
        super().__init__(link)
        object.__setattr__(self, "zeros", zeros)
        object.__setattr__(self, "ones", ones)

    # -- the parts -----------------------------------------------------------------------------

    @cached_property
    def steps(self) -> Ordinal:
        """The cumulative model of the categories."""
        return Ordinal("logit").of(tuple(range(1 + self.zeros + self.ones)))

    @cached_property
    def between(self) -> Beta:
        """The proportions between 0 and 1."""
        return Beta("logit")

    def _codes(self, y: Array) -> Array:
        """Categories (n,) of responses."""
        return float(self.zeros) * (y > 0.0) + float(self.ones) * (y >= 1.0)

    @staticmethod
    def _inner(y: Array) -> tuple[Array, Array]:
        """Whether a response is between, and what it is there, one half elsewhere."""
        inner = (y > 0.0) & (y < 1.0)
        return inner, np.where(inner, y, 0.5)

    def _middle(self, c: Array, cuts: Array) -> Array:
        """P(0 < y < 1), (n,)."""
        code = np.full(np.shape(c), float(self.zeros))
        return np.exp(self.steps.kernel(code, c, None, cuts))

    # -- the family's own parameters -----------------------------------------------------------

    @property
    def parameters_of_its_own(self) -> tuple[Bounded, ...]:
        cuts = ("lower cut",) * self.zeros + ("upper cut",) * self.ones
        return Positive("phi"), *map(Anywhere, cuts)

    def to_rho(self, phi: Phi) -> Array:
        phi = np.asarray(phi, dtype=float)
        return np.append(np.log(phi[0]), self.steps.to_rho(phi[1:]))

    def from_rho(self, rho: Array) -> Array:
        return np.append(Positive("phi").leave(rho[0]), self.steps.from_rho(rho[1:]))

    def phi_slopes(self, phi: Phi) -> Array:
        phi = np.asarray(phi, dtype=float)
        out = np.diag(phi)
        out[1:, 1:] = self.steps.phi_jacobian(phi[1:])
        return out

    def reported(self, phi: Phi) -> tuple[list[str], Array]:
        names = [one.label for one in self.parameters_of_its_own]
        J = np.eye(len(names))
        J[1:, 1:] = self.phi_slopes(phi)[1:, 1:]
        return names, J

    def check_parameters(self, phi: Array) -> None:
        if not np.all(np.isfinite(self.to_rho(phi))):
            raise ArgumentError(
                "the parameters of the ordered beta family to start from are a positive phi and cuts, the lower one first; "
                f"they are {', '.join(f'{x:g}' for x in phi)}."
            )

    # -- the log density -----------------------------------------------------------------------

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        own = np.asarray(phi)
        inner, at = self._inner(y)
        value = self.steps.kernel(self._codes(y), c, None, own[1:])
        return w * (value + np.where(inner, self.between._kernel(at, c, 1.0, own[0]), 0.0))

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        own = np.asarray(phi)
        inner, at = self._inner(y)
        s1, s2, s3 = self.steps.derivatives(self._codes(y), c, None, own[1:])
        b1, b2, b3 = self.between._score(at, c, 1.0, own[0])
        return w * (s1 + inner * b1), w * (s2 + inner * b2), w * (s3 + inner * b3)

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        own = np.asarray(phi)
        steps, steps_slope = self.steps.expected_weights(c, None, own[1:])
        share, share_slope = self._share(c, own[1:])
        i, slope = self.between._information(c, 1.0, own[0])
        return w * (steps + share * i), w * (steps_slope + share * slope + share_slope * i)

    def _share(self, c: Array, cuts: Array) -> tuple[Array, Array]:
        """P(0 < y < 1) and its derivative in c."""
        code = np.full(np.shape(c), float(self.zeros))
        share = self._middle(c, cuts)
        return share, share * self.steps.derivatives(code, c, None, cuts).d1

    def _own(self, y: Array, c: Array, w: Array | float, phi: Phi) -> OwnSlopes:
        own = np.asarray(phi)
        inner, at = self._inner(y)
        weights = np.broadcast_to(np.asarray(w, dtype=float), np.shape(c))
        s = self.steps.parameter_derivatives(self._codes(y), c, weights, own[1:])
        b1, b2, by_c, by_cc, by_phi = self.between._dispersion(at, c, 1.0, own[0])
        i, _ = self.between._information(c, 1.0, own[0])
        code = np.full(np.shape(c), float(self.zeros))
        share = self._middle(c, own[1:])
        moved = share * self.steps.parameter_scores(code, c, weights, own[1:])
        second = np.zeros((len(own), len(own)))
        second[0, 0] = np.sum(weights * inner * b2)
        second[1:, 1:] = s.second
        if self.zeros and self.ones:  # the cuts' distance is an exponential
            second[-1, -1] += s.first[-1].sum()
        inner_w = weights * inner
        return OwnSlopes(
            np.concatenate([stacked(inner_w * b1, like=c), s.first]),
            second,
            np.concatenate([stacked(inner_w * by_c, like=c), s.eta]),
            np.concatenate([stacked(inner_w * by_cc, like=c), s.eta_eta]),
            np.concatenate([stacked(weights * share * by_phi, like=c), s.weight + moved * i]),
        )

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        inner, at = self._inner(np.asarray(y, dtype=float))
        return weighted_constant(np.where(inner, self.between.constant(at), 0.0), weights)

    # -- moments -------------------------------------------------------------------------------

    def _shares_at(self, c: Array, phi: Phi) -> tuple[Array, Array, Array]:
        """P(0), P(between), P(1)."""
        cuts = np.asarray(phi)[1:]
        zero = special.expit(cuts[0] - c) if self.zeros else np.zeros(np.shape(c))
        one = special.expit(c - cuts[-1]) if self.ones else np.zeros(np.shape(c))
        return zero, 1.0 - zero - one, one

    def expected(self, eta: Array, phi: Phi = 1.0) -> Array:
        mu = self.mean(eta)
        _, between, one = self._shares_at(special.logit(mu), phi)
        return np.asarray(one + between * mu)

    def expected_slope(self, eta: Array, phi: Phi = 1.0) -> Array:
        mu = self.mean(eta)
        zero, between, one = self._shares_at(special.logit(mu), phi)
        rise, fall = one * (1.0 - one), zero * (1.0 - zero)
        slope = rise + (fall - rise) * mu + between * mu * (1.0 - mu)
        return np.where(np.isnan(eta), np.nan, slope)

    def expected_limit(self, eta: Array, phi: Phi = 1.0) -> Array:
        return self.expected(eta, phi)

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        mu = np.asarray(mu, dtype=float)
        _, between, one = self._shares_at(special.logit(mu), phi)
        square = mu**2 + mu * (1.0 - mu) / (1.0 + np.asarray(phi)[0])
        return one + between * square - (one + between * mu) ** 2

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        zero, between, _ = self._shares_at(special.logit(mu), phi)
        inside = zero + between * self.between.cdf(y, mu, None, np.asarray(phi)[0])
        return np.where(y < 0.0, 0.0, np.where(y >= 1.0, 1.0, inside))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        zero, _, one = self._shares_at(special.logit(mu), phi)
        u = rng.random(np.shape(mu))
        drawn = self.between.simulate(rng, mu, None, np.asarray(phi)[0])
        return np.where(u < zero, 0.0, np.where(u > 1.0 - one, 1.0, drawn))

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return np.clip(y, 0.05, 0.95)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> Array:
        """phi from moments of the part between, cuts from the shares of zeros and ones at the mean predictor."""
        inner, _ = self._inner(y)
        scale = self.between.initial_phi(y[inner], mu[inner]) if inner.any() else 1.0
        level = float(np.mean(special.logit(mu)))
        count = len(y) + 1.0
        lower = level + special.logit((np.sum(y == 0.0) + 0.5) / count)
        upper = level - special.logit((np.sum(y == 1.0) + 0.5) / count)
        cuts = [lower] * self.zeros + [max(upper, lower + 0.1) if self.zeros else upper] * self.ones
        return np.array([scale, *cuts])

    def limits(self, y: Array, eta: Array, phi: Phi = 1.0) -> list[Limit]:
        """Zeros and ones become certain at the ends of the predictor."""
        out = []
        for end, sign in ((0.0, -1.0), (1.0, 1.0)):
            rows = np.flatnonzero(np.asarray(y) == end)
            with np.errstate(all="ignore"):
                near = np.asarray(self.log_density(y[rows], eta[rows], None, phi))
            own = np.zeros((len(rows), self.n_parameters))
            out.append(Limit(rows, np.full(len(rows), sign), own, near))
        return out

    def separation(self, y: Array) -> tuple[str, str, str]:
        return (
            "Fitted probabilities reach 0 and 1",
            "zeros and ones from the others",
            "the response does not vary",
        )

    # -- the response --------------------------------------------------------------------------

    def bind(
        self, values: object, name: str, declared: Iterable[object] = ()
    ) -> tuple[Family, tuple[str, ...]]:
        """The family knows whether 0 and 1 occur."""
        y = numeric(values, name)
        zeros, ones = bool(np.any(y == 0.0)), bool(np.any(y == 1.0))
        if not (zeros or ones):
            raise ResponseError(
                f"the response {name!r} has neither 0 nor 1, whose probabilities the ordered beta family would model. "
                "Use family=lmm.families.Beta()."
            )
        bound = copy.copy(self)
        object.__setattr__(bound, "zeros", zeros)
        object.__setattr__(bound, "ones", ones)
        return bound, ()

    def _check_support(self, y: Array, name: str) -> None:
        out = ~((y >= 0.0) & (y <= 1.0))
        if out.any():
            raise ResponseError(
                f"the response {name!r} must lie from 0 to 1 for the ordered beta family; {int(out.sum())} of {len(y)} values do not, the "
                f"first is {y[out][0]:g}. Divide a percentage by 100."
            )
