"""What every family of responses provides: its log density and everything a fit differentiates.

The n responses are independent given the linear predictor eta (n,), with means mu = g^-1(eta). A family
with a dispersion parameter phi > 0 has it on the scale rho = log phi. All functions act elementwise on
arrays (n,) and are pure; ``weights`` (n,) are prior weights, None for ones.

A family is written in one coordinate c of the mean, in which its density is simplest and safest: c = log mu
where means are positive, c = mu on the real line. With l(c) the log density and c', c'', c''' the link's,

    dl/deta     = l' c'
    d2l/deta2   = l'' c'^2 + l' c''
    d3l/deta3   = l''' c'^3 + 3 l'' c' c'' + l' c'''

and the Fisher information i(c) becomes i c'^2, with derivative i' c'^3 + 2 i c' c''.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lmm.errors import ArgumentError, ResponseError
from lmm.families import links
from lmm.families.links import Four, Link
from lmm.families.namespace import is_jax, namespace
from lmm.families.response import check_finite, check_varies, numeric

Array = np.ndarray
#: logarithm of a dispersion, or of its inverse, at the most
LOG_LIMIT = 100.0
#: step in rho of differences that stand for a third derivative
THIRD_STEP = 5e-3
Weights = Array | None
#: a dispersion, or the thresholds (r,) of a family of categories
Phi = float | Array
#: a predictor that no model has: the bounds of the cauchit are finite by rounding
FAR = 1e10


class Derivatives(NamedTuple):
    """Derivatives of the log density with respect to eta, each (n,)."""

    d1: Array
    d2: Array
    d3: Array


class Information(NamedTuple):
    """Fisher information in eta, E[-d2], and its derivative with respect to eta, each (n,)."""

    weight: Array
    slope: Array


class Limit(NamedTuple):
    """Rows of which one end of the response has no limit: what must grow for their density to grow, and how near they are to one.

    ``rows`` (m,) indices; the quantity sign eta + own'rho, up to a constant, with ``sign`` (m,) and ``own`` (m, r) for the family's own
    parameters on the user's scale; ``log_probability`` (m,) which goes to 0 as the quantity goes to infinity.
    """

    rows: Array
    sign: Array
    own: Array
    log_probability: Array


class DispersionDerivatives(NamedTuple):
    """Derivatives that involve rho = log phi, each (n,), of the log density l and the Fisher information w.

    Fields: dl/drho, d2l/drho2, d2l/(deta drho), d3l/(deta2 drho), dw/drho.
    """

    first: Array
    second: Array
    eta: Array
    eta_eta: Array
    weight: Array


class DispersionSlopes(NamedTuple):
    """Derivatives of the log density l that involve rho = log phi, each (n,), to third order.

    Fields: dl/drho, d2l/drho2, d2l/(deta drho), d3l/(deta2 drho), d3l/(deta drho2), d3l/drho3; the last two zeros where they were
    not asked for.
    """

    first: Array
    second: Array
    eta: Array
    eta_eta: Array
    eta_second: Array
    third: Array


class ParameterDerivatives(NamedTuple):
    """Derivatives that involve the family's own parameters rho (r,), of the log density l and the Fisher information w.

    Fields: dl/drho (r, n), the sum over rows of d2l/drho2 (r, r), d2l/(deta drho), d3l/(deta2 drho), dw/drho (r, n).
    """

    first: Array
    second: Array
    eta: Array
    eta_eta: Array
    weight: Array


def weight_slope(d: DispersionDerivatives | ParameterDerivatives, observed: bool) -> Array:
    """dW/drho of the weights W of Laplace's determinant, the observed or the expected information."""
    return -d.eta_eta if observed else d.weight


def filled(value: Array | float, eta: Array) -> Array:
    """``value`` as an array of eta's shape."""
    found = namespace(value, eta)
    if not found.eager:
        return found.xp.broadcast_to(value, np.shape(eta))
    out = np.asarray(value, dtype=float)
    return out if out.shape == np.shape(eta) else np.broadcast_to(out, np.shape(eta)).copy()


def ones(weights: Weights) -> Array | float:
    """Prior weights, 1.0 for None."""
    if weights is None:
        return 1.0
    return weights if is_jax(weights) else np.asarray(weights, dtype=float)


def weighted_constant(value: Array, weights: Weights) -> Array:
    """``value``, multiplied by the weights when there are any."""
    return value if weights is None else weights * value


@dataclass(frozen=True)
class Family(abc.ABC):
    """A distribution of the response given its mean, with a link; frozen and hashable.

    Parameters
    ----------
    link : name, or Link object; None for the default link.

    Attributes
    ----------
    name : as in ``family="poisson"``.
    canonical_link : name of the canonical link, or None.
    default_link : name of the link used when none is given.
    link_names : names of the links that are offered by name.
    mean_low, mean_high : open interval of the means.
    has_dispersion : whether there is a parameter phi to estimate.
    dispersion_name : what phi is called.
    scale_name : what the response's own scale is called in a trace.
    discrete : whether the response is a count.
    has_intercept : whether the linear predictor has a constant; in a cumulative model the thresholds take its place.
    in_jax : whether ``kernel`` and ``constant`` take arrays of JAX, so that it can be differentiated, sampled and put on devices.
    slopes_in_jax : whether ``derivatives`` does too, with a link that says the same; else JAX differentiates the density.
    batched : whether many responses are fitted side by side.
    dispersion_scales_variance : whether phi, where there is one, multiplies the variance; ``sigma`` is its square root then, else phi.
    weights_are_trials : whether a response is a share of as many trials as its weight says.
    is_latent : whether the response shows on which side of thresholds a latent variable lies that the link gives the distribution of.
    linear : whether it is that of a linear model, whose sigma is profiled out of the likelihood and multiplies the covariances.
    has_mean : whether the response is a number with a mean, and not one of several categories.
    model_title, criterion_name : what a summary calls the model, and -2 times its log-likelihood.
    default_test, default_ddf : "t" or "z", and the degrees of freedom of tests where none are named.
    plain_tests : the tests of a table that asks for no degrees of freedom.
    smoothing_rounds : rounds in which a smooth of residuals weighs down outliers; skewed ones have none.
    residual_types, default_residual : the types of residuals, and the one that is meant where none is named.
    standard_residual : the residual with mean zero and one variance in every row.
    prediction_types, category_types : what may be predicted, and those of them that are about categories.
    scales_rows : whether a predictor of the dispersion gives each row a standard deviation of an error of its own.
    response_types, predictor_types : those on the scale of the response, and on that of the linear predictor.
    eta_columns : what a table of rows calls the linear predictor beside the fitted values.
    sought : what a search looks for, in words.
    rows_per_level : rows of a level, at the least, for its predicted effects to be about normal.
    has_zeros : whether a response may be zero; the zeros of one that may not, a positive one, come from a part of their own (a hurdle).
    widest : conditional variance of a random effect, relative to its own, up to which Laplace's approximation is taken; infinite where
        weights are positive.
    dispersion_power : phi is this power of what the predictor of the dispersion is the logarithm of, glmmTMB's dispersion.
    merges : which rows with one and the same linear predictor are worth one row with their weights' sum. "sums": all of them,
        with the weighted mean of their responses, because log f = w (y s(eta) - k(eta)) + c(y, w), whose c is no longer known
        then; "equal": those with the same response, because weights multiply log f; None: weights mean something else.
    has_information : whether the Fisher information is known; else ``expected_weights`` are for steps of a search alone, and Laplace's
        determinant always has the observed one.
    truncated : whether a response cannot be zero that would be without the condition.
    phi_by_row : whether phi may differ from row to row, as it does with a predictor of its own.
    shaped : whether phi are several numbers, a dispersion and shapes beside it.
    mean_is_expected : whether mu is E[y], and not that of a part of the distribution.
    start_rounds : rounds of reweighted least squares, at the most, before a search; few where the model without random effects says
        little of that with them.
    no_excess : what is said of a phi at which the variance is that of the family without one.

    Raises
    ------
    ArgumentError : for a link that is unknown or does not suit the family.
    """

    link: Link

    name: ClassVar[str]
    title: ClassVar[str]
    default_link: ClassVar[str]
    canonical_link: ClassVar[str | None] = None
    link_names: ClassVar[tuple[str, ...]]
    mean_low: ClassVar[float] = 0.0
    mean_high: ClassVar[float] = np.inf
    has_dispersion: ClassVar[bool] = False
    dispersion_name: ClassVar[str] = "dispersion"
    scale_name: ClassVar[str] = "dispersion"
    discrete: ClassVar[bool] = False
    has_intercept: ClassVar[bool] = True
    in_jax: ClassVar[bool] = False
    slopes_in_jax: ClassVar[bool] = False
    batched: ClassVar[bool] = False
    dispersion_scales_variance: ClassVar[bool] = True
    weights_are_trials: ClassVar[bool] = False
    is_latent: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    residual_types: ClassVar[tuple[str, ...]] = ("response", "pearson", "deviance", "working")
    default_residual: ClassVar[str] = "deviance"
    standard_residual: ClassVar[str] = "pearson"
    prediction_types: ClassVar[tuple[str, ...]] = ("response", "link")
    scales_rows: ClassVar[bool] = False
    category_types: ClassVar[tuple[str, ...]] = ()
    response_types: ClassVar[tuple[str, ...]] = ("response",)
    predictor_types: ClassVar[tuple[str, ...]] = ("link",)
    eta_columns: ClassVar[tuple[str, ...]] = (".eta",)
    sought: ClassVar[str] = "parameters"
    rows_per_level: ClassVar[int] = 5
    has_mean: ClassVar[bool] = True
    model_title: ClassVar[str] = "Generalized linear"
    criterion_name: ClassVar[str] = "minus_2_llf"
    default_test: ClassVar[str] = "z"
    default_ddf: ClassVar[str | None] = None
    plain_tests: ClassVar[str | None] = "normal"
    smoothing_rounds: ClassVar[int] = 0
    has_zeros: ClassVar[bool] = True
    dispersion_power: ClassVar[float] = 1.0
    widest: ClassVar[float] = np.inf
    merges: ClassVar[str | None] = None
    has_information: ClassVar[bool] = True
    truncated: ClassVar[bool] = False
    shaped: ClassVar[bool] = False
    phi_by_row: ClassVar[bool] = True
    mean_is_expected: ClassVar[bool] = True
    start_rounds: ClassVar[int] = 25
    no_excess: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: object) -> None:
        """What a class overrides need not be written for JAX or for many responses: each says so for itself."""
        super().__init_subclass__(**kwargs)
        for name in ("in_jax", "slopes_in_jax", "batched"):
            if name not in vars(cls):
                setattr(cls, name, False)

    def __init__(self, link: str | Link | None = None):
        found = links.get(self.default_link if link is None else link)
        if found.name in links.LINKS and found.name not in self.link_names:
            raise ArgumentError(
                f"family {self.name!r} has no link {found.name!r}; its links are {', '.join(self.link_names)}."
            )
        object.__setattr__(self, "link", found)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(link={self.link.name!r})"

    def require_jax(self) -> None:
        """ArgumentError where the density cannot be differentiated by JAX: for a family, or a link, that is not written for it."""
        if type(self.link).__module__ != links.__name__:
            raise ArgumentError(
                f"link {self.link.name!r} is not known to JAX; this method takes the links {', '.join(links.LINKS)}."
            )
        if not self.in_jax:
            raise ArgumentError(
                f"family {self.name!r} is not available for this method; use method='laplace'."
            )

    def require_restricted(self) -> None:  # noqa: B027
        """ArgumentError where the fixed effects are not all of what the mean depends on beside the random ones."""

    def require_one_parameter(self, what: str) -> None:  # noqa: B027
        """ArgumentError where phi are several numbers; ``what`` says for what there is to be one at the most."""

    # -- the linear predictor ------------------------------------------------------------------

    @property
    def is_canonical(self) -> bool:
        """Whether observed and expected information are the same."""
        return self.link.name == self.canonical_link

    def shares_weights(self, observed: bool) -> bool:
        """Whether Laplace's determinant has the weights of the modes: observed ones, or expected ones that are the same."""
        return observed or self.is_canonical or not self.has_information

    @cached_property
    def eta_bounds(self) -> tuple[float, float]:
        """Open interval of the linear predictors that give a possible mean."""
        low, high = max(self.mean_low, self.link.mean_low), min(self.mean_high, self.link.mean_high)
        with np.errstate(all="ignore"):
            ends = sorted(float(self.link.link(np.array(end))) for end in (low, high))
        return (-np.inf, np.inf) if np.isnan(ends).any() else (ends[0], ends[1])

    @cached_property
    def _clip(self) -> tuple[float, float]:
        """The part of ``eta_bounds`` in which nothing overflows."""
        (low, high), (safe_low, safe_high) = self.eta_bounds, self.link.safe
        return max(low + 1e-30 if np.isfinite(low) else low, safe_low), min(
            high - 1e-10 if np.isfinite(high) else high, safe_high
        )

    def inside(self, eta: Array) -> Array:
        """Where eta gives a possible mean, boolean (n,); not where it is missing."""
        low, high = self.eta_bounds
        return (eta > low) & (eta < high)

    def clip(self, eta: Array) -> Array:
        """eta, moved to the nearest predictor that can be computed with."""
        return namespace(eta).xp.clip(eta, *self._clip)

    def limits(self, y: Array, eta: Array, phi: Phi = 1.0) -> list[Limit]:
        """Rows whose density rises without end as their predictor runs off in one direction, with how near they are to it.

        Of a discrete family those with the least or the largest response, where the link puts its mean at infinity.
        """
        rows, sign = [], []
        for end in (self.mean_low, self.mean_high) if self.discrete else ():
            with np.errstate(all="ignore"):
                at = float(self.link.link(np.array(end))) if np.isfinite(end) else 0.0
            own = np.flatnonzero(y == end) if abs(at) > FAR else np.zeros(0, dtype=np.intp)
            rows.append(own)
            sign.append(np.full(len(own), np.sign(at)))
        if not rows:
            return []
        which = np.concatenate(rows)
        with np.errstate(all="ignore"):
            near = np.asarray(self.log_density(y[which], eta[which], None, phi))
        return [Limit(which, np.concatenate(sign), np.zeros((len(which), 0)), near)]

    def mean(self, eta: Array) -> Array:
        """mu (n,) of linear predictors (n,), inside the interval of the means; NaN stays."""
        return np.where(np.isnan(eta), np.nan, self.link.inverse(self.clip(eta)))

    def mean_limit(self, eta: Array) -> Array:
        """Means of the ends of intervals of linear predictors: beyond the link's range the mean at its end, 0 or infinite."""
        low, high = self.eta_bounds
        out = self.mean(eta)
        least, most = (
            max(self.mean_low, self.link.mean_low),
            min(self.mean_high, self.link.mean_high),
        )
        falls = (
            float(self.link.d1(self.clip(np.array([0.5 * (max(low, -1.0) + min(high, 1.0))])))[0])
            < 0.0
        )
        out = np.where(eta <= low, most if falls else least, out)
        return np.where(eta >= high, least if falls else most, out)

    def mean_slope(self, eta: Array) -> Array:
        """d mu / d eta (n,); NaN stays."""
        return np.where(np.isnan(eta), np.nan, self.link.d1(self.clip(eta)))

    def expected(self, eta: Array, phi: Phi = 1.0) -> Array:
        """E[y] (n,), the means mu themselves unless a response is more than its mean says; NaN stays."""
        return self.mean(eta)

    def expected_slope(self, eta: Array, phi: Phi = 1.0) -> Array:
        """dE[y] / deta (n,); NaN stays."""
        return self.mean_slope(eta)

    def expected_limit(self, eta: Array, phi: Phi = 1.0) -> Array:
        """E[y] (n,) at the ends of intervals of linear predictors."""
        return self.mean_limit(eta)

    def eta_scale(self, y: Array, weights: Weights = None) -> float:
        """How much eta changes with the mean's own size, or the response's standard deviation where means may be negative.

        What is small or large on the scale of the link is told by this. It is one where predictors have no units: logarithms,
        links of probabilities.
        """
        low, high = max(self.mean_low, self.link.mean_low), min(self.mean_high, self.link.mean_high)
        if np.isfinite(high):
            return 1.0
        with np.errstate(all="ignore"):
            mean = np.average(y, weights=weights)
            scale = float(
                (mean if low >= 0.0 else np.std(y))
                / np.abs(self.link.d1(self.clip(self.link.link(mean))))
            )
        return scale if np.isfinite(scale) and scale > 0.0 and abs(scale - 1.0) > 1e-9 else 1.0

    def design_weights(self, weights: Weights) -> Weights:
        """The prior weights of cross-products before a fit: those of a linear model."""
        return None

    def most_effects(self, n: int) -> float:
        """Random effects of one kind from which on they cannot be told from the residuals of n rows."""
        return np.inf

    # -- in the family's coordinate ------------------------------------------------------------

    def _location(self, eta: Array) -> Array:
        """c, in NumPy or JAX."""
        return self.link.log_inverse(eta)

    def _coordinate(self, eta: Array) -> Four:
        """c and its derivatives with respect to eta."""
        return self.link.log_derivatives(eta)

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: Phi) -> Array:
        """The part of the log density that depends on c; in NumPy or JAX, as ``constant``."""
        raise NotImplementedError

    def log_zero(self, c: Array, phi: Phi) -> Array:
        """log P(Y = 0) of counts with coordinates c (n,); in NumPy or JAX."""
        zero = 0.0 * c
        return self._kernel(zero, c, 1.0, phi) + self.constant(zero, None, phi)

    def _score(self, y: Array, c: Array, w: Array | float, phi: Phi) -> tuple[Array, Array, Array]:
        """First to third derivative of the log density with respect to c."""
        raise NotImplementedError

    def _information(
        self, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, Array | float]:
        """Fisher information in c and its derivative."""
        raise NotImplementedError

    def _dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Phi
    ) -> tuple[Array | float, ...]:
        """dl/drho, d2l/drho2, d2l/(dc drho), d3l/(dc2 drho), di/drho."""
        raise NotImplementedError

    # -- the log density -----------------------------------------------------------------------

    @abc.abstractmethod
    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """The part of the log density that does not depend on eta, (n,)."""

    def kernel(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """The part of the log density that depends on eta, (n,); minus infinity where eta gives no possible mean."""
        return self._inside(
            self._kernel(y, self._location(self.clip(eta)), ones(weights), phi), eta
        )

    def _inside(self, value: Array, eta: Array) -> Array:
        """``value``, minus infinity where eta gives no possible mean."""
        found, inside = namespace(value), self.inside(eta)
        return value if found.eager and inside.all() else found.xp.where(inside, value, -np.inf)

    def log_density(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """log f(y | eta) with every constant, (n,); ``kernel`` + ``constant``."""
        return self.kernel(y, eta, weights, phi) + self.constant(y, weights, phi)

    def derivatives(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Derivatives:
        """First to third derivative of the log density with respect to eta, as observed."""
        c, c1, c2, c3 = self._coordinate(self.clip(eta))
        g1, g2, g3 = self._score(y, c, ones(weights), phi)
        if isinstance(c1, float) and c1 == 1.0:
            return Derivatives(filled(g1, eta), filled(g2, eta), filled(g3, eta))
        d2 = g2 * c1**2 + g1 * c2
        return Derivatives(
            filled(g1 * c1, eta),
            filled(d2, eta),
            filled(g3 * c1**3 + 3.0 * g2 * c1 * c2 + g1 * c3, eta),
        )

    def expected_weights(self, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Information:
        """Fisher information in eta and its derivative with respect to eta."""
        c, c1, c2, _ = self._coordinate(self.clip(eta))
        i, slope = self._information(c, ones(weights), phi)
        return Information(filled(i * c1**2, eta), filled(slope * c1**3 + 2.0 * i * c1 * c2, eta))

    def determinant_weights(
        self,
        at: Derivatives,
        eta: Array,
        weights: Weights = None,
        phi: Phi = 1.0,
        observed: bool = False,
    ) -> Information:
        """The information in Laplace's determinant, observed or expected, and its derivative, given the derivatives ``at`` eta."""
        if self.shares_weights(observed):
            return Information(-at.d2, -at.d3)
        return self.expected_weights(eta, weights, phi)

    def leverage_slopes(
        self,
        leverage: Array,
        slope: Array,
        y: Array,
        eta: Array,
        weights: Weights = None,
        phi: Any = 1.0,
    ) -> Array:
        """t (n,), the derivative in eta of sum_i l_i W_i with the leverages l held, given ``slope`` dW/deta of each row's own W."""
        return leverage * slope

    def descent_weights(
        self, y: Array, eta: Array, weights: Weights = None, phi: Any = 1.0
    ) -> Array:
        """Weights (n,) with which a step towards the mode goes down whatever the observed ones are: the expected information."""
        return self.expected_weights(eta, weights, phi).weight

    def unit_squares(self, first: Array, weights: Weights) -> Array:
        """Squares of the scores in rho of rows, as at weight one where rows that are equal may have been merged."""
        return first**2 if weights is None or not self.merges else first**2 / weights

    def d_phi(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> DispersionDerivatives:
        """Derivatives that involve rho = log phi; zeros for a family without dispersion."""
        if not self.has_dispersion:
            return DispersionDerivatives(
                *(np.zeros(np.shape(eta)) for _ in DispersionDerivatives._fields)
            )
        c, c1, c2, _ = self._coordinate(self.clip(eta))
        first, second, g1, g2, i = self._dispersion(y, c, ones(weights), phi)
        out = (first, second, g1 * c1, g2 * c1**2 + g1 * c2, i * c1**2)
        return DispersionDerivatives(*(filled(x, eta) for x in out))

    def dispersion_slopes(
        self, y: Array, eta: Array, weights: Weights, phi: Any, third: bool
    ) -> DispersionSlopes:
        """Derivatives that involve rho = log phi, of a dispersion that may differ between rows, phi (n,)."""
        c, c1, c2, _ = self._coordinate(self.clip(eta))
        w = ones(weights)
        first, second, g1, g2 = self._observed_dispersion(y, c, w, phi)
        bent = self._dispersion_third(y, c, w, phi) if third else (0.0, 0.0)
        out = (first, second, g1 * c1, g2 * c1**2 + g1 * c2, bent[0] * c1, bent[1])
        return DispersionSlopes(*(filled(x, eta) for x in out))

    def _observed_dispersion(
        self, y: Array, c: Array, w: Array | float, phi: Any
    ) -> tuple[Array | float, ...]:
        """dl/drho, d2l/drho2, d2l/(dc drho), d3l/(dc2 drho)."""
        return self._dispersion(y, c, w, phi)[:4]

    def _dispersion_third(
        self, y: Array, c: Array, w: Array | float, phi: Any
    ) -> tuple[Array | float, Array | float]:
        """d3l/(dc drho2) and d3l/drho3; of a family that does not say, differences of second derivatives (relative error 1e-10)."""

        def at(step: float) -> Array:
            _, second, mixed, _ = self._observed_dispersion(y, c, w, phi * np.exp(step))
            return np.stack(np.broadcast_arrays(mixed, second))

        h = THIRD_STEP
        found = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
        return found[0], found[1]

    # -- the family's own parameters: phi as the user has them, rho (r,) without bounds -----------

    @property
    def n_parameters(self) -> int:
        """r, the parameters of its own that the family has: one dispersion, several thresholds, or none."""
        return int(self.has_dispersion)

    def to_rho(self, phi: Phi) -> Array:
        """rho (r,) of phi: the log of a dispersion."""
        return np.array([np.log(phi)]) if self.has_dispersion else np.zeros(0)

    def from_rho(self, rho: Array) -> object:
        """phi of rho (r,), kept where nothing overflows."""
        return float(np.exp(np.clip(rho[0], -LOG_LIMIT, LOG_LIMIT))) if self.has_dispersion else 1.0

    def reported(self, phi: Phi) -> tuple[list[str], Array]:
        """Names of the parameters whose covariance is reported, and their derivatives (r, r) with respect to rho."""
        return [f"log({self.dispersion_name})"] if self.has_dispersion else [], np.eye(
            self.n_parameters
        )

    @property
    def has_own_constant(self) -> bool:
        """Whether ``constant`` changes with the family's own parameters."""
        return self.has_dispersion or self.shaped

    @property
    def own_names(self) -> list[str]:
        """Names of phi, as it is reported."""
        return [self.dispersion_name] if self.has_dispersion else []

    def phi_slopes(self, phi: Phi) -> Array:
        """Derivatives (r, r) of phi, as it is reported, with respect to rho."""
        return np.diag(np.atleast_1d(phi)) if self.has_dispersion else np.zeros((0, 0))

    def shape_note(self, phi: Phi) -> str:
        """What is said of shapes at their limit."""
        return ""

    @property
    def threshold_names(self) -> list[str]:
        """Names of the parameters phi (r,) that are tabled below the coefficients; none of a family with an intercept."""
        return []

    @property
    def boundaries(self) -> list[str]:
        """``"1|2", "2|3", ...``: names of the thresholds between categories."""
        return []

    def cuts(self, phi: Phi) -> Array:
        """The thresholds (K-1,) of phi."""
        return np.zeros(0)

    @property
    def qualifier(self) -> str:
        """What a summary says after the link."""
        return ""

    def check_parameters(self, phi: Array) -> None:
        """ArgumentError where a phi (r,) to start from is impossible."""
        if self.has_dispersion and phi[0] <= 0:
            raise ArgumentError(
                f"the {self.dispersion_name} to start from must be positive, not {phi[0]:g}."
            )

    def parameter_scores(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """dl/drho, (r, n)."""
        return (
            self.d_phi(y, eta, weights, phi).first[None]
            if self.has_dispersion
            else np.zeros((0, len(eta)))
        )

    def parameter_derivatives(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0, expected: bool = True
    ) -> ParameterDerivatives:
        """Derivatives that involve rho; those of the expected information may be zeros where ``expected`` is false."""
        if not self.has_dispersion:
            none = np.zeros((0, len(eta)))
            return ParameterDerivatives(none, np.zeros((0, 0)), none, none, none)
        d = self.d_phi(y, eta, weights, phi)
        return ParameterDerivatives(
            d.first[None],
            np.array([[d.second.sum()]]),
            d.eta[None],
            d.eta_eta[None],
            d.weight[None],
        )

    def working_weights(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """Weights (n,) of the working linear model whose conditional covariances are reported: the expected information.

        Where that is not known, the observed one, zero where it is negative.
        """
        if self.has_information:
            return self.expected_weights(eta, weights, phi).weight
        return np.maximum(-self.derivatives(y, eta, weights, phi).d2, 0.0)

    # -- moments, deviance, simulation ---------------------------------------------------------

    @abc.abstractmethod
    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        """Var(y) at prior weight 1, (n,)."""

    @abc.abstractmethod
    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """Contributions to the deviance, (n,): twice the log-likelihood lost against the saturated model,
        times the dispersion in the Gaussian, gamma and inverse Gaussian families."""

    def fitted(self, y: Array, eta: Array, phi: Phi = 1.0) -> Array:
        """(n,) fitted values: the expected responses."""
        return self.expected(eta, phi)

    def unit_variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        """V(mu), (n,): the variance at prior weight 1, without a dispersion that scales it."""
        return np.asarray(self.variance(mu, 1.0 if self.has_residual_sd else phi))

    def row_variance(self, mu: Array, weights: Weights, phi: Phi = 1.0) -> Array:
        """(n,) variances of responses with prior weights, without a dispersion that scales them."""
        return self.unit_variance(mu, phi) / ones(weights)

    def residuals(self, y: Array, eta: Array, weights: Weights, phi: Phi, type: str) -> Array:
        """(n,) residuals of one of ``residual_types``, not divided by sigma.

        With mu the expected responses and d the contributions to the deviance

            response   y - mu
            working    (y - mu) dg/dmu
            pearson    sqrt(w) (y - mu) / sqrt(V(mu))
            deviance   sign(y - mu) sqrt(d).

        McCullagh & Nelder (1989), section 2.4. The last two are multiples of sqrt(phi) where phi scales the variance.
        """
        mu = self.mean(eta)
        raw = y - self.expected(eta, phi)
        if type == "response":
            return np.asarray(raw)
        if type == "working":
            return np.asarray(raw / self.expected_slope(eta, phi))
        if type == "pearson":
            with np.errstate(
                divide="ignore", invalid="ignore"
            ):  # a mean on an edge of its range has no variance
                return np.where(raw == 0.0, 0.0, raw / np.sqrt(self.row_variance(mu, weights, phi)))
        # rounding can leave a deviance of zero below it
        return np.asarray(
            np.sign(raw) * np.sqrt(np.maximum(self.unit_deviance(y, mu, weights, phi), 0.0))
        )

    @abc.abstractmethod
    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """Largest log density over all means, (n,)."""

    @abc.abstractmethod
    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """Responses drawn with means mu (n,), or (draws, n)."""

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        """P(Y <= y) with means mu, elementwise; ArgumentError for a family of which it is not known."""
        raise ArgumentError(f"the distribution function of family {self.name!r} is not known.")

    @property
    def has_cdf(self) -> bool:
        """Whether :meth:`cdf` is known."""
        return type(self).cdf is not Family.cdf

    @abc.abstractmethod
    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        """Means (n,) to begin from: near y, and inside the interval of the means."""

    def sigma(self, phi: Phi) -> float:
        """What is reported as ``sigma``: the square root of a dispersion that scales the variance, else phi itself; 1 without one."""
        if not self.has_scale:
            return 1.0
        return float(np.sqrt(phi)) if self.dispersion_scales_variance else float(phi)

    @property
    def has_scale(self) -> bool:
        """Whether anything but the mean has a part in the variance."""
        return self.has_dispersion or self.has_residual_sd

    @property
    def has_residual_sd(self) -> bool:
        """Whether ``sigma`` is a residual standard deviation, on the scale of the root of V(mu)."""
        return self.has_dispersion and self.dispersion_scales_variance

    def scale(self, sigma: float | Array) -> Array:
        """What random effects and coefficients are measured in: sigma in a linear model, else 1."""
        return np.ones(np.shape(sigma))

    def density_phi(self, sigma: float, phi: Phi) -> Any:
        """phi as the log density takes it."""
        return phi

    def own_scale(self, sigma: Phi, phi: Phi) -> Phi:
        """What is of the response's own scale: sigma in a linear model, else phi."""
        return phi

    def drawn(self, values: Array) -> tuple[Array | None, Array | None]:
        """Draws of sigma and of phi, None for what there is not, where ``values`` are those of the own scale."""
        return None, values if self.has_dispersion else None

    def parameters(self, theta: Array, beta: Array, phi: Phi) -> Array:
        """The parameters of a search: theta, beta and the family's own."""
        return np.concatenate([theta, beta, np.atleast_1d(phi)[: self.n_parameters]])

    @property
    def described(self) -> str | None:
        """Family and link in a word each, None in a linear model: by this a checkpoint is known again."""
        return f"{self.name} {type(self.link).__name__}"

    def scales_variance(self) -> bool:
        """Whether there is a phi, and the variance of every row is proportional to it."""
        return self.has_dispersion and self.dispersion_scales_variance

    def excess(self, mean: Phi, phi: Phi) -> Phi:
        """By what share the variance at a mean exceeds that of Poisson counts; infinite where that is not what phi says."""
        return np.full(np.shape(phi), np.inf)

    def initial_phi(self, y: Array, mu: Array, weights: Weights = None) -> Any:
        """A moment estimate of phi given means: to begin from."""
        if not self.has_dispersion:
            return 1.0
        w = ones(weights)
        found = float(np.mean(w * (y - mu) ** 2 / self.variance(mu, 1.0)))
        mean = np.average(mu, weights=weights)
        most = float(
            np.mean(w * (y - mean) ** 2) / self.variance(mean, 1.0)
        )  # relative to it a perfect fit has no dispersion
        return max(found, 1e-8 * most) or 1e-8

    # -- categories ----------------------------------------------------------------------------

    def require_linear(self, message: str) -> None:
        """ArgumentError with this message for a generalized model."""
        raise ArgumentError(message)

    @property
    def scale_note(self) -> str:
        """What stands after a quantity on the scale of the linear predictor."""
        return f" ({self.link.name} scale)"

    def require_family(self, message: str) -> None:  # noqa: B027
        """ArgumentError with this message for a linear model."""

    @property
    def predictor_notes(self) -> tuple[str, ...]:
        """What is said of numbers on the scale of the linear predictor."""
        return (f"on the scale of the linear predictor ({self.link.name} link)",)

    def headed(self, shape: str) -> list[tuple[str, str]]:
        """Lines of a summary's head, label and text; ``shape`` is a parameter beside the family's name."""
        text = f"{self.title}{shape}  ( {self.link.name} ){self.qualifier}"
        return [("Family", text)]

    def require_mean(self, message: str) -> None:  # noqa: B027
        """ArgumentError with this message where responses are categories; ``{kind}`` in it stands for ``"an ordinal"``."""

    @property
    def residual_note(self) -> str:
        """What is said after the types of residuals where another was asked for."""
        return ""

    @property
    def category_names(self) -> list[str]:
        """The K categories as text; none of a response that is a number."""
        return []

    def labels(self, y: Array) -> object:
        """Responses as the user has them: categories for their codes; NaN stays missing."""
        return y

    def probabilities(self, eta: Array, phi: Phi) -> Array:
        """P(y = k), (n, K), of the categories at linear predictors (n,); NaN stays."""
        return np.zeros((len(eta), 0))

    def predicted(self, type: str, p: Array) -> tuple[list[str], Array]:
        """Names and columns (n, .) of a prediction of one of ``category_types``, from probabilities (n, K) of the categories."""
        return [], p

    def check_errors(self, type: str, with_effects: bool) -> None:  # noqa: B027
        """ArgumentError where predictions of a type, with random effects or without, have no standard errors and intervals."""

    def separation(self, y: Array) -> tuple[str, str, str]:
        """What fitted values reach where the data separate, what is parted from what, and how the responses y (m,) of these rows lie."""
        if np.isfinite(self.mean_high):
            all_are = (
                "all are failures"
                if not y.any()
                else "all are successes"
                if y.all()
                else "the response does not vary"
            )
            return "Fitted probabilities reach 0 and 1", "the successes from the failures", all_are
        return "Fitted means reach 0", "counts of zero from the others", "all counts are zero"

    # -- the response --------------------------------------------------------------------------

    def bind(
        self, values: object, name: str, declared: Iterable[object] = ()
    ) -> tuple[Family, tuple[str, ...]]:
        """The family as this response column makes it (an ordinal one learns its categories), and what the user should know.

        ``declared`` are the categories of the user's column, those that do not occur included.
        """
        return self, ()

    def response(self, values: object, name: str) -> tuple[Array, Array | None]:
        """(y, None) or (y, trials), (n,) float64, of a response column as the user has it.

        Raises
        ------
        ResponseError : names the column and says what this family needs.
        """
        y, trials = self.read(values, name)
        check_varies(y, name)
        return y, trials

    def read(self, values: object, name: str) -> tuple[Array, Array | None]:
        """:meth:`response` of some of the rows: without the checks that need all of them."""
        y = numeric(values, name)
        check_finite(y, name)
        self._check_support(y, name)
        return y, None

    def check_range(self, least: float, most: float, name: str) -> None:
        """The checks that :meth:`read` leaves out, from the smallest and the largest response of all rows; ResponseError, or None."""
        check_varies(np.array([least, most]), name)

    def check(self, y: Array, weights: Weights, name: str) -> None:  # noqa: B027  (most families have none)
        """The checks of a response that need its weights; ResponseError, or None."""

    def _check_support(self, y: Array, name: str) -> None:  # noqa: B027
        """ResponseError unless every value can occur."""


def check_positive(y: Array, name: str, family: str) -> None:
    """ResponseError unless y > 0."""
    bad = ~(y > 0)
    if bad.any():
        raise ResponseError(
            f"the response {name!r} must be positive for the {family} family; {int(bad.sum())} of {len(y)} values are not, "
            f"the first is {y[bad][0]:g}."
        )


def check_counts(y: Array, name: str, family: str) -> None:
    """ResponseError unless y holds counts 0, 1, 2, ..."""
    if (y < 0).any():
        raise ResponseError(
            f"the response {name!r} must be a count, 0 or more, for the {family} family; {int((y < 0).sum())} of {len(y)} values "
            f"are negative, the first is {y[y < 0][0]:g}."
        )
    bad = np.abs(y - np.round(y)) > 1e-9
    if bad.any():
        raise ResponseError(
            f"the response {name!r} must be whole counts for the {family} family; {int(bad.sum())} of {len(y)} values are not, the first "
            f"is {y[bad][0]:g}. For a rate, model the count and add offset(log(exposure))."
        )
