"""Predictions with standard errors: the joint uncertainty of fixed effects and conditional modes.

The predictor of a row is x'beta + z'b + offset. Given theta, the variance of its error
x'(beta_hat - beta) + z'(b_hat - b) comes from the joint covariance of (beta_hat, b_hat - b), Henderson's
mixed-model equations inverted. A level that the fit never saw has b = 0 as its prediction and its whole
variance sigma^2 z'Gz as error. Where random effects are left out, the predictor is that of the
population and its variance x' Cov(beta_hat) x.

In a generalized model the predictor is eta; confidence intervals are normal in eta, carried to the response by the inverse
link, and standard errors on the response scale follow from those of eta times d mu / d eta. Prediction intervals are quantiles
of the family's distribution averaged over eta: :mod:`lmm.inference.intervals.predictive`. A posterior's draws give theirs:
:mod:`lmm.inference.intervals.posterior_prediction`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from lmm.design.design import Design
from lmm.design.residual_part import NewErrors
from lmm.design.terms import Incidence
from lmm.errors import LmmWarning, warn
from lmm.inference.criticism import population_average as averages
from lmm.inference.intervals import predictive
from lmm.inference.intervals.coverage import t_quantile, tails
from lmm.model.conditional import prediction_variance
from lmm.model.marginal.residual_errors import row_variances
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate

#: share of a predictor's distribution without possible means that is told
BEYOND = 1e-3


@dataclass(frozen=True, eq=False)
class PredictionRows:
    """What a prediction needs of m rows.

    Attributes
    ----------
    X : (m, p) kept fixed columns.
    offset : (m,) or None.
    terms : how the rows meet each term, codes of -1 for a level without a mode; None where nothing of the term is wanted.
    keep : per term the mask (k,) of the columns that count.
    complete : (m,) bool, rows without a missing value.
    weights : (m,) prior weights, or None for ones.
    places : what structured residuals are told apart by, where the variance of observations is wanted.
    left : (m,) variance of effects at positions that the fit never saw, given those that it did, relative to sigma^2; None for zeros.
    """

    X: np.ndarray
    offset: np.ndarray | None
    terms: tuple[Incidence | None, ...]
    keep: tuple[np.ndarray, ...]
    complete: np.ndarray
    weights: np.ndarray | None
    places: NewErrors | None = None
    left: np.ndarray | None = None


class TBased(NamedTuple):
    """Standard errors and degrees of freedom (m,) of the population's predictor."""

    se: np.ndarray
    df: np.ndarray


@dataclass(frozen=True, eq=False)
class Averaged:
    """Population averages of m rows: columns (m, k) of the random terms, and what their averages over new levels are.

    ``eta`` (m,) are predictors of the population, ``sd`` (m,) the standard deviations of z'b over new levels, ``at`` the averages.
    """

    z: list[np.ndarray]
    eta: np.ndarray
    sd: np.ndarray
    at: averages.Average


class Known(Protocol):
    """What is known of the errors of an estimate: covariances of the fixed effects and, where there is one, of (theta, beta)."""

    @property
    def design(self) -> Design: ...
    @property
    def estimate(self) -> Estimate: ...
    @property
    def beta(self) -> np.ndarray: ...
    @property
    def joint(self) -> np.ndarray | None: ...

    def error_variance(self, rows: PredictionRows) -> np.ndarray:
        """Variance of the predictor's error, one per complete row."""


@dataclass(frozen=True, eq=False)
class FromModes:
    """Predictions from the estimate and the joint covariance of fixed effects and conditional modes."""

    rows: PredictionRows
    known: Known

    def expected(self, eta: np.ndarray) -> np.ndarray:
        """(m,) means at the linear predictors ``eta`` (m,) of the estimate."""
        estimate = self.known.estimate
        return estimate.distribution.expected(eta, estimate.phi)

    def observations(self, eta: np.ndarray, level: float) -> list[np.ndarray]:
        """Ends (complete rows,) of intervals with equal tails for new observations of a generalized model, from normal predictors."""
        rows, estimate, use = self.rows, self.known.estimate, self.rows.complete
        sd = np.sqrt(
            self.known.error_variance(rows)
            + new_observation_variance(rows, estimate, self.known.design)[use]
        )
        weights = None if rows.weights is None else rows.weights[use]
        _say_beyond(estimate, predictive.beyond(estimate.family, eta[use], sd))
        return predictive.normal_quantiles(
            estimate.family, eta[use], sd, tails(level), weights, estimate.phi
        )

    def limits(
        self,
        eta: np.ndarray,
        on_response: bool,
        interval: str | None,
        level: float,
        over: Averaged | None,
        t_based: TBased | None,
    ) -> dict[str, np.ndarray]:
        """``se``, with ``t_based`` also ``df``, and with an interval ``lower, upper``, each (m,), NaN for incomplete rows.

        Intervals are normal in the linear predictor, or of t's distribution, and carried to the response by the inverse link.

        Parameters
        ----------
        eta : (m,) linear predictors at the estimate; of population averages what leads to these.
        on_response : for means rather than linear predictors.
        over : of population averages what they are averages over.
        t_based : standard errors and degrees of freedom of the population's predictor.
        """
        estimate = self.known.estimate
        variance = np.full(len(eta), np.nan)
        if over is not None:
            variance = average_variance(self.known, self.rows.X, eta, over)
        elif t_based is not None:
            variance = t_based.se**2
        else:
            variance[self.rows.complete] = self.known.error_variance(self.rows)
        se = np.sqrt(variance)
        family = estimate.distribution
        slope = family.expected_slope(eta, estimate.phi) if on_response else 1.0
        columns = {"se": se * np.abs(slope)}
        if t_based is not None:
            columns["df"] = t_based.df
        if interval is None:
            return columns
        if interval == "prediction":
            variance = variance + new_observation_variance(self.rows, estimate, self.known.design)
        margin = t_quantile(level, np.array(np.inf) if t_based is None else t_based.df) * np.sqrt(
            variance
        )
        ends = [eta - margin, eta + margin]
        if on_response:
            ends = [family.expected_limit(end, estimate.phi) for end in ends]
        return columns | {"lower": np.minimum(*ends), "upper": np.maximum(*ends)}


def predictor(rows: PredictionRows, estimate: Estimate) -> np.ndarray:
    """(m,) x'beta + z'b + offset, NaN for incomplete rows."""
    eta = rows.X @ estimate.beta
    if rows.offset is not None:
        eta = eta + rows.offset
    for term, mask, modes in zip(rows.terms, rows.keep, estimate.modes, strict=True):
        if term is not None and mask.any():
            eta = eta + term.times(modes if mask.all() else modes * mask)
    return np.asarray(eta) if rows.complete.all() else np.where(rows.complete, eta, np.nan)


def error_variance(
    rows: PredictionRows,
    problem: Problem | GeneralizedProblem,
    estimate: Estimate,
    beta_cov: np.ndarray,
) -> np.ndarray:
    """Variance of the predictor's error, one per complete row, by the joint covariance of fixed effects and modes."""
    X = rows.X[rows.complete]
    if not any(mask.any() for mask in rows.keep):
        return np.einsum("ij,jk,ik->i", X, beta_cov, X, optimize=True)
    terms = []
    for term, mask in zip(rows.terms, rows.keep, strict=True):
        terms.append(
            None if term is None or not mask.any() else term.rows(rows.complete).only(mask)
        )
    variance = np.asarray(prediction_variance(problem, estimate, X, terms))
    return variance if rows.left is None else variance + estimate.scale2 * rows.left[rows.complete]


def new_observation_variance(
    rows: PredictionRows, estimate: Estimate, design: Design
) -> np.ndarray:
    """(m,) what an observation adds to its predictor: the variance of the random effects left out, and of a linear model's residual."""
    linear = estimate.family is None
    if not linear:
        total = np.zeros(len(rows.X))
    elif rows.places is not None:
        parts = zip(design.residual, estimate.residual, strict=True)
        total = np.sum([rows.places.variances(part, T) for part, T in parts], axis=0)
    elif design.residual:
        total = row_variances(design, estimate)
    else:
        total = np.ones(len(rows.X)) if rows.weights is None else 1.0 / rows.weights
    for term, mask, T in zip(rows.terms, rows.keep, estimate.factors, strict=True):
        if term is not None and not mask.all():
            total = total + term.only(~mask).variances(T)
    return np.asarray(estimate.scale2 * total)


def _say_beyond(estimate: Estimate, share: np.ndarray) -> None:
    """Warn where a predictor's distribution goes beyond the link's range."""
    many = share > BEYOND
    if many.any():
        family = estimate.family
        warn(
            f"predict: with the {family.link.name} link up to {100.0 * share.max():.2g} % of the predictor's normal distribution leads to "
            f"no possible mean of the {family.name} family, in {int(many.sum())} of {len(share)} rows: intervals are of predictors within "
            "its range.",
            LmmWarning,
        )


def averaged(estimate: Estimate, z: list[np.ndarray], eta: np.ndarray) -> Averaged:
    """Population averages at predictors eta (m,) of the population."""
    sd = averages.predictor_sd(estimate, z)
    return Averaged(z, eta, sd, averages.average(estimate.family, eta, sd))


def average_variance(known: Known, X: np.ndarray, eta: np.ndarray, over: Averaged) -> np.ndarray:
    """Variances (m,) of population averages carried back to predictors ``eta``.

    The averages depend on all of (theta, beta): their variances are those of the delta method, given theta where there
    is no joint covariance.
    """
    estimate = known.estimate
    slopes = (
        averages.gradient(known.design, estimate, X, over.z, over.sd, over.at)
        / estimate.distribution.mean_slope(eta)[:, None]
    )
    m, p = len(estimate.theta), len(estimate.beta)
    cov, slopes = (
        (known.beta, slopes[:, m : m + p]) if known.joint is None else (known.joint, slopes)
    )
    return np.einsum("ij,jk,ik->i", slopes, cov, slopes, optimize=True)
