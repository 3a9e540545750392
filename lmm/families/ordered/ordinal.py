"""Ordered categories by a cumulative link: P(y <= k) = F(alpha_k - eta), k = 1..K-1.

The thresholds alpha are parameters of the family and take the place of an intercept. F is the distribution
function that the link inverts; with ends a = alpha_y - eta, b = alpha_(y-1) - eta a row's log density is
w log(F(a) - F(b)), from ``families.cumulative``. Thresholds depend on parameters phi (r,), searched for as rho:

    flexible      phi = alpha (K-1,)            rho = (alpha_1, log(alpha_2 - alpha_1), ...)
    equidistant   phi = (alpha_1, spacing)      rho = (alpha_1, log spacing),  alpha_k = alpha_1 + (k - 1) spacing

With the Jacobian J = dalpha/drho the derivatives are dl/drho = J' dl/dalpha, d2l/drho2 = J' d2l/dalpha2 J plus a
term in the gradient: that is zero at the optimum, and left out here, which keeps the matrix negative semi-definite.

McCullagh (1980), J. R. Stat. Soc. B 42; Christensen (2019), Cumulative link models for ordinal regression with
the R package ordinal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmm.errors import ArgumentError, nearest
from lmm.families.base import (
    Array,
    Derivatives,
    Information,
    Limit,
    ParameterDerivatives,
    Phi,
    Weights,
    ones,
)
from lmm.families.links import Link
from lmm.families.ordered.categorical import Categorical
from lmm.families.ordered.cumulative import DISTRIBUTIONS, Distribution

THRESHOLDS = ("flexible", "equidistant")


@dataclass(frozen=True, init=False, repr=False)
class Ordinal(Categorical):
    """Ordered categories: P(y <= k) = F(alpha_k - eta), fitted with thresholds alpha in place of an intercept.

    A positive coefficient moves the response towards higher categories. The response may be a categorical (its
    categories in their order, whether declared ordered or not), whole numbers, or text; those are sorted. Prior weights
    are frequencies: they multiply a row's log density. The column of ones that a formula makes is dropped silently. A
    formula without it, ``0 + x``, keeps the coding that it has, one column per level of ``x``, of which the last is then
    dropped (with a warning) because the columns and the thresholds depend on each other: as in R's ``ordinal::clmm``.

    Parameters
    ----------
    link : ``"logit"`` (default, proportional odds), ``"probit"``, ``"cloglog"`` (proportional hazards).
    thresholds : ``"flexible"``, K-1 free thresholds; ``"equidistant"``, a first one and the spacing.

    Attributes
    ----------
    categories : the K categories, lowest first; empty until the family has met a response.

    Raises
    ------
    ArgumentError : for an unknown link or kind of thresholds; the nearest is offered.

    Examples
    --------
    >>> import lmm
    >>> wine = lmm.datasets.load("wine")
    >>> fit = lmm.glmer("rating ~ temp + contact + (1|judge)", wine, family=lmm.families.Ordinal())
    >>> fit.thresholds().round(3).to_dict()
    {'1|2': -1.624, '2|3': 1.513, '3|4': 4.229, '4|5': 6.089}
    """

    thresholds: str

    name = title = "ordinal"
    is_latent = True
    default_link = "logit"
    link_names = tuple(DISTRIBUTIONS)
    model_title = "Cumulative link"

    def __init__(self, link: str | Link | None = None, thresholds: str = "flexible"):
        super().__init__(link)
        if self.link.name not in DISTRIBUTIONS:
            raise ArgumentError(
                f"family 'ordinal' has no link {self.link.name!r}; its links are {', '.join(self.link_names)}."
            )
        if thresholds not in THRESHOLDS:
            options = ", ".join(map(repr, THRESHOLDS))
            raise ArgumentError(
                f"thresholds={thresholds!r} is not one of {options}.{nearest(str(thresholds), THRESHOLDS)}"
            )
        object.__setattr__(self, "thresholds", thresholds)

    def require_restricted(self) -> None:
        """ArgumentError: the thresholds are part of the mean."""
        raise ArgumentError(
            "REML=True: family 'ordinal' has thresholds in place of an intercept, over which nothing is integrated; use REML=False."
        )

    def __repr__(self) -> str:
        return f"Ordinal(link={self.link.name!r}, thresholds={self.thresholds!r})"

    # -- thresholds ----------------------------------------------------------------------------

    @property
    def equidistant(self) -> bool:
        """Whether one spacing makes all thresholds."""
        return self.thresholds == "equidistant"

    @property
    def n_parameters(self) -> int:
        return 2 if self.equidistant else self.K - 1

    @property
    def threshold_names(self) -> list[str]:
        """Names of phi, as R's ordinal has them."""
        return ["threshold.1", "spacing"] if self.equidistant else self.boundaries

    @property
    def qualifier(self) -> str:
        return f", {self.thresholds} thresholds"

    def cuts(self, phi: Phi) -> Array:
        """alpha (K-1,) of phi (r,)."""
        phi = np.asarray(phi, dtype=float)
        return phi[0] + phi[1] * np.arange(self.K - 1) if self.equidistant else phi

    def cuts_jacobian(self, phi: Phi) -> Array:
        """dalpha/dphi, (K-1, r)."""
        if self.equidistant:
            return np.column_stack([np.ones(self.K - 1), np.arange(self.K - 1)])
        return np.eye(self.K - 1)

    def to_rho(self, phi: Phi) -> Array:
        phi = np.asarray(phi, dtype=float)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.concatenate([phi[:1], np.log(phi[1:] if self.equidistant else np.diff(phi))])

    def from_rho(self, rho: Array) -> Array:
        steps = np.exp(np.clip(rho[1:], -50.0, 50.0))
        return (
            np.concatenate([rho[:1], steps])
            if self.equidistant
            else rho[0] + np.concatenate([[0.0], np.cumsum(steps)])
        )

    def phi_jacobian(self, phi: Phi) -> Array:
        """dphi/drho, (r, r)."""
        phi = np.asarray(phi, dtype=float)
        if self.equidistant:
            return np.diag([1.0, phi[1]])
        return np.tril(np.ones((len(phi), len(phi)))) * np.concatenate([[1.0], np.diff(phi)])

    def reported(self, phi: Phi) -> tuple[list[str], Array]:
        return self.threshold_names, self.phi_jacobian(phi)

    def check_parameters(self, phi: Array) -> None:
        if not np.all(np.isfinite(self.to_rho(phi))):
            what = "a positive spacing" if self.equidistant else "increasing thresholds"
            raise ArgumentError(
                f"the thresholds to start from need {what}; they are {', '.join(f'{x:g}' for x in phi)}."
            )

    def initial_phi(self, y: Array, mu: object, weights: Weights = None) -> Array:
        """Thresholds of a model without predictors: the link of the cumulative shares."""
        counts = np.bincount(y.astype(np.intp), None if weights is None else weights, self.K)
        alpha = self.link.link(np.cumsum(counts)[:-1] / counts.sum())
        if not self.equidistant:
            return alpha
        spacing = float(np.polyfit(np.arange(self.K - 1), alpha, 1)[0])
        return np.array([alpha.mean() - spacing * (self.K - 2) / 2.0, spacing])

    # -- the log density -----------------------------------------------------------------------

    @cached_property
    def distribution(self) -> Distribution:
        """F."""
        return DISTRIBUTIONS[self.link.name]

    def _interval(self, y: Array, eta: Array, phi: Phi) -> tuple[Array, Array, Array]:
        """Ends a, b (n,) and width of the category y; y may be one category for all rows."""
        alpha = self.cuts(phi)
        k = np.asarray(y).astype(np.intp)
        upper, lower = np.append(alpha, np.inf), np.append(-np.inf, alpha)
        width = np.concatenate([[np.inf], np.diff(alpha), [np.inf]])
        eta = np.clip(eta, -1e50, 1e50)
        return upper[k] - eta, lower[k] - eta, np.broadcast_to(width[k], np.shape(eta))

    def kernel(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        value = self.distribution.log_probability(*self._interval(y, eta, phi))
        return value if weights is None else weights * value

    def derivatives(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Derivatives:
        w = ones(weights)
        return Derivatives(
            *(w * d for d in self.distribution.derivatives(*self._interval(y, eta, phi)))
        )

    def expected_weights(self, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Information:
        weight, slope = np.zeros(np.shape(eta)), np.zeros(np.shape(eta))
        for k in range(self.K):
            interval = self._interval(np.array(k), eta, phi)
            p = np.exp(self.distribution.log_probability(*interval))
            d1, d2, _ = self.distribution.derivatives(*interval)
            weight += p * d1**2
            slope += p * d1 * (d1**2 + 2.0 * d2)
        w = ones(weights)
        return Information(w * weight, w * slope)

    def working_weights(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """The observed information, which ordinal::clmm takes too."""
        return -self.derivatives(y, eta, weights, phi).d2

    def limits(self, y: Array, eta: Array, phi: Phi = 1.0) -> list[Limit]:
        """Every threshold above a row may go up, and every one below it down."""
        k, J = np.asarray(y).astype(np.intp), self.cuts_jacobian(phi)
        a, b, _ = self._interval(y, eta, phi)
        upper, lower = np.flatnonzero(k < self.K - 1), np.flatnonzero(k > 0)
        far = np.full(len(k), np.inf)
        below = self.distribution.log_probability(a, -far, far)[upper]
        above = self.distribution.log_probability(far, b, far)[lower]
        return [
            Limit(upper, np.full(len(upper), -1.0), J[k[upper]], below),
            Limit(lower, np.ones(len(lower)), -J[k[lower] - 1], above),
        ]

    def parameter_scores(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        ends = self.distribution.ends(*self._interval(y, eta, phi))
        w = ones(weights)
        return self._spread(y, w * ends.a, w * ends.b, phi)

    def parameter_derivatives(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0, expected: bool = True
    ) -> ParameterDerivatives:
        ends = self.distribution.ends(*self._interval(y, eta, phi))
        w = ones(weights)
        k = np.asarray(y).astype(np.intp)
        aa, bb = -ends.eta_a - ends.ab, -ends.eta_b - ends.ab
        H = np.zeros(
            (self.K + 1, self.K + 1)
        )  # category k lies between thresholds k and k + 1, the outer ones infinite
        for i, j, value in ((1, 1, aa), (0, 0, bb), (1, 0, ends.ab)):
            H[np.arange(self.K) + i, np.arange(self.K) + j] += np.bincount(k, w * value, self.K)
        H = (H + np.tril(H, -1).T)[1:-1, 1:-1]
        J = self.cuts_jacobian(phi) @ self.phi_jacobian(phi)
        return ParameterDerivatives(
            self._spread(y, w * ends.a, w * ends.b, phi),
            J.T @ H @ J,
            self._spread(y, w * ends.eta_a, w * ends.eta_b, phi),
            self._spread(y, w * ends.eta_eta_a, w * ends.eta_eta_b, phi),
            self._expected_slopes(eta, weights, phi)
            if expected
            else np.zeros((self.n_parameters, len(eta))),
        )

    def _spread(self, y: Array, a: Array, b: Array, phi: Phi) -> Array:
        """Derivatives in the two ends of each row (n,) as derivatives in rho (r, n)."""
        k = np.asarray(y).astype(np.intp)
        J = self.cuts_jacobian(phi) @ self.phi_jacobian(phi)
        upper, lower = np.vstack([J, np.zeros(J.shape[1])]), np.vstack([np.zeros(J.shape[1]), J])
        return np.asarray(upper[k].T * a + lower[k].T * b)

    def _expected_slopes(self, eta: Array, weights: Weights, phi: Phi) -> Array:
        """Derivatives (r, n) of the expected information: sum_k p_k (l_rho l'^2 + 2 l' l'_rho)."""
        total = np.zeros((self.n_parameters, len(eta)))
        for k in range(self.K):
            y = np.full(len(eta), k)
            interval = self._interval(y, eta, phi)
            p, d1 = (
                np.exp(self.distribution.log_probability(*interval)),
                self.distribution.derivatives(*interval)[0],
            )
            ends = self.distribution.ends(*interval)
            total += self._spread(
                y,
                p * d1 * (ends.a * d1 + 2.0 * ends.eta_a),
                p * d1 * (ends.b * d1 + 2.0 * ends.eta_b),
                phi,
            )
        return ones(weights) * total

    # -- probabilities -------------------------------------------------------------------------

    def probabilities(self, eta: Array, phi: Phi) -> Array:
        """P(y = k), (n, K), of linear predictors (n,); NaN stays."""
        return np.exp(
            np.column_stack(
                [
                    self.distribution.log_probability(*self._interval(np.array(k), eta, phi))
                    for k in range(self.K)
                ]
            )
        )

    def cumulative(self, eta: Array, phi: Phi) -> Array:
        """P(y <= k), (n, K-1)."""
        return self.link.inverse(self.cuts(phi) - np.asarray(eta)[:, None])
