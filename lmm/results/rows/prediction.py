"""Predictions with standard errors: the joint uncertainty of fixed effects and conditional modes.

The predictor of a row is x'beta + z'b + offset. Given theta, the variance of its error
x'(beta_hat - beta) + z'(b_hat - b) comes from the joint covariance of (beta_hat, b_hat - b), Henderson's
mixed-model equations inverted. A level that the fit never saw has b = 0 as its prediction and its whole
variance sigma^2 z'Gz as error. Where random effects are left out, the predictor is that of the
population and its variance x' Cov(beta_hat) x.

In a generalized model the predictor is eta; confidence intervals are normal in eta, carried to the response by the inverse
link, and standard errors on the response scale follow from those of eta times d mu / d eta. Prediction intervals are quantiles
of the family's distribution averaged over eta: :mod:`lmm.inference.intervals.predictive`. A posterior's draws give theirs:
:mod:`lmm.results.rows.posterior_prediction`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from lmm.arguments import choice, shown
from lmm.design.design import Design
from lmm.design.residual_part import NewPlaces
from lmm.design.terms import Incidence
from lmm.errors import ArgumentError, LmmWarning, warn
from lmm.formula import Formula, Table
from lmm.formula.columns.given import aligned, numeric
from lmm.inference.criticism import population_average as averages
from lmm.inference.tests.ddf import Ddf
from lmm.model.conditional import prediction_variance
from lmm.model.marginal.residual_errors import row_variances
from lmm.model.records import Estimate
from lmm.results.rows.row_values import align
from lmm.results.tables.fixed import kept_positions
from lmm.results.text.coverage import check_level, t_quantile, tails

if TYPE_CHECKING:
    from lmm.results.uncertainty import Uncertainty

#: share of a predictor's distribution without possible means that is told
BEYOND = 1e-3
INTERVALS = ("confidence", "prediction")


@dataclass(frozen=True, eq=False)
class Rows:
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
    """

    X: np.ndarray
    offset: np.ndarray | None
    terms: tuple[Incidence | None, ...]
    keep: tuple[np.ndarray, ...]
    complete: np.ndarray
    weights: np.ndarray | None
    places: NewPlaces | None = None


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


@dataclass(frozen=True, eq=False)
class FromModes:
    """Predictions from the estimate and the joint covariance of fixed effects and conditional modes."""

    rows: Rows
    known: Uncertainty

    def expected(self, eta: np.ndarray) -> np.ndarray:
        """(m,) means at the linear predictors ``eta`` (m,) of the estimate."""
        return self.known.estimate.distribution.mean(eta)

    def observations(self, eta: np.ndarray, level: float) -> list[np.ndarray]:
        """Ends (complete rows,) of intervals with equal tails for new observations of a generalized model, from normal predictors."""
        from lmm.inference.intervals import predictive

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
        columns = {"se": se * np.abs(estimate.distribution.mean_slope(eta)) if on_response else se}
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
            ends = [estimate.distribution.mean_limit(end) for end in ends]
        return columns | {"lower": np.minimum(*ends), "upper": np.maximum(*ends)}


def predict(
    known: Uncertainty,
    newdata: object = None,
    re_form: object = None,
    type: str = "response",
    allow_new_levels: bool = False,
    se_fit: bool = False,
    interval: str | None = None,
    level: float = 0.95,
    average: bool = False,
    weights: object = None,
    degrees: Callable[[], Ddf] | None = None,
) -> pd.Series | pd.DataFrame:
    """Predicted values; with ``se_fit`` or ``interval`` a DataFrame ``fit, se, lower, upper``. See :meth:`lmm.Fit.predict`.

    ``average`` is ``marginal=True``, ``degrees`` gives degrees of freedom for t intervals.
    """
    design, estimate = known.design, known.estimate
    family = estimate.distribution
    choice(type, "predict: type", family.prediction_types)
    if interval is not None:
        choice(interval, "predict: interval", INTERVALS)
    check_level(level)
    keep = kept_effects(design, re_form)
    if average:
        _check_marginal(estimate, keep, type)
    wanted = se_fit or interval is not None
    if wanted:
        family.check_errors(type, any(mask.any() for mask in keep))
    if type in family.category_types:
        return predicted_categories(
            design, estimate, newdata, keep, allow_new_levels, type, average
        )
    everything = interval == "prediction"
    if everything:
        _check_observations(estimate, type)
    rows = (
        fitted_rows(design, keep)
        if newdata is None
        else new_rows(design, newdata, keep, allow_new_levels, everything)
    )
    if weights is not None:
        rows = replace(rows, weights=_new_weights(newdata, weights, len(rows.X)))
    eta = predictor(rows, estimate)
    on_response = type == "response"
    if on_response:
        rows = _possible(rows, estimate, eta)
    t_based = _t_based(rows, degrees, estimate, interval, wanted, any(mask.any() for mask in keep))
    observed: dict[str, np.ndarray] = {}
    if everything and estimate.family is not None:
        observed, interval = new_observations(rows, known, eta, level), None
    over = None
    if average and estimate.family is not None:
        z, complete = random_values(design, newdata)
        rows = replace(rows, complete=rows.complete & complete)
        eta[~complete] = np.nan
        over = averaged(estimate, z, eta)
        eta = estimate.family.link.link(over.at.mean)
    source = known.predictive(rows)
    columns = {"fit": eta}
    if on_response:
        columns["fit"] = source.expected(eta) if over is None else estimate.distribution.mean(eta)
    if wanted:
        columns |= source.limits(eta, on_response, interval, level, over, t_based) | observed
    values = np.column_stack(list(columns.values()))
    if newdata is None:
        values, index = align(design, values)
    else:
        index = Table(newdata, "newdata").index
    if len(columns) == 1:
        return pd.Series(values[:, 0], index=index, name="fit")
    return pd.DataFrame(values, index=index, columns=list(columns))


def predicted_categories(
    design: Design,
    estimate: Estimate,
    newdata: object,
    keep: tuple[np.ndarray, ...],
    allow_new_levels: bool,
    type: str,
    average: bool,
) -> pd.Series | pd.DataFrame:
    """Probabilities of categories, a column each, or the most probable category."""
    rows = (
        fitted_rows(design, keep)
        if newdata is None
        else new_rows(design, newdata, keep, allow_new_levels, False)
    )
    family, eta = estimate.distribution, predictor(rows, estimate)
    if average:
        z, complete = random_values(design, newdata)
        eta[~complete] = np.nan
        p = averages.probabilities(estimate, eta, averages.predictor_sd(estimate, z))
    else:
        p = family.probabilities(eta, estimate.phi)
    columns, values = family.predicted(type, p)
    if newdata is None:
        values, index = align(design, values)
    else:
        index = Table(newdata, "newdata").index
    if type == "class":
        return pd.Series(family.labels(values[:, 0]), index=index, name="fit")
    return pd.DataFrame(values, index=index, columns=columns)


def kept_effects(design: Design, re_form: object) -> tuple[np.ndarray, ...]:
    """Per term which columns a ``re_form`` keeps."""
    if re_form is None or isinstance(re_form, bool):
        return tuple(np.full(term.k, re_form is not False) for term in design.terms)
    if not isinstance(re_form, str | Formula):
        raise ArgumentError(
            f"predict: re_form={shown(re_form)} must be None, False or a formula such as '~ (1 | g)'."
        )
    return tuple(design.frame.match_bars(re_form))


def fitted_rows(design: Design, keep: tuple[np.ndarray, ...]) -> Rows:
    """The rows of the fit itself."""
    return Rows(
        design.X, design.offset, design.terms, keep, np.ones(design.n, dtype=bool), design.weights
    )


def new_rows(
    design: Design,
    newdata: object,
    keep: tuple[np.ndarray, ...],
    allow_new_levels: bool,
    everything: bool,
) -> Rows:
    """New data turned into the columns of the fit; terms that are not kept need no columns unless ``everything`` is wanted."""
    from lmm.results.tests import dependence

    table, frame = Table(newdata, "newdata"), design.frame
    whole = frame.new_X(table)
    X = whole[:, kept_positions(design)]
    offset = frame.new_offset(table)
    complete = np.isfinite(X).all(axis=1)
    if design.dropped:
        complete &= dependence.predictable(design, whole, "predict")
    if offset is not None:
        complete &= np.isfinite(offset)
    terms = frame.new_terms(table, allow_new_levels, keep)
    if everything and any(term is None for term in terms):
        # the level of an effect that is left out does not matter, only its columns do
        terms = [
            values if term is None else term
            for term, values in zip(terms, frame.new_values(table), strict=True)
        ]
    complete = np.logical_and.reduce(
        [complete, *(term.complete for term in terms if term is not None)]
    )
    places = None
    if everything and design.residual and design.residual[0].recipe is not None:
        places = design.residual[0].recipe.of(frame, table)
        complete = complete & places.complete
    return Rows(X, offset, tuple(terms), keep, complete, None, places)


def predictor(rows: Rows, estimate: Estimate) -> np.ndarray:
    """(m,) x'beta + z'b + offset, NaN for incomplete rows."""
    eta = rows.X @ estimate.beta
    if rows.offset is not None:
        eta = eta + rows.offset
    for term, mask, modes in zip(rows.terms, rows.keep, estimate.modes, strict=True):
        if term is not None and mask.any():
            eta = eta + term.times(modes if mask.all() else modes * mask)
    return np.asarray(eta) if rows.complete.all() else np.where(rows.complete, eta, np.nan)


def error_variance(rows: Rows, known: Uncertainty) -> np.ndarray:
    """Variance of the predictor's error, one per complete row, by the joint covariance of fixed effects and modes."""
    X = rows.X[rows.complete]
    if not any(mask.any() for mask in rows.keep):
        return np.einsum("ij,jk,ik->i", X, known.beta, X, optimize=True)
    terms = []
    for term, mask in zip(rows.terms, rows.keep, strict=True):
        terms.append(
            None if term is None or not mask.any() else term.rows(rows.complete).only(mask)
        )
    return np.asarray(prediction_variance(known.problem, known.estimate, X, terms))


def new_observation_variance(rows: Rows, estimate: Estimate, design: Design) -> np.ndarray:
    """(m,) what an observation adds to its predictor: the variance of the random effects left out, and of a linear model's residual."""
    linear = estimate.family is None
    if not linear:
        total = np.zeros(len(rows.X))
    elif rows.places is not None:
        parts = zip(design.residual, estimate.residual, strict=True)
        total = np.sum([part.new_variances(T @ T.T, rows.places) for part, T in parts], axis=0)
    elif design.residual:
        total = row_variances(design, estimate)
    else:
        total = np.ones(len(rows.X)) if rows.weights is None else 1.0 / rows.weights
    for term, mask, T in zip(rows.terms, rows.keep, estimate.factors, strict=True):
        if term is not None and not mask.all():
            total = total + term.only(~mask).variances(T)
    return np.asarray(estimate.scale2 * total)


def new_observations(
    rows: Rows, known: Uncertainty, eta: np.ndarray, level: float
) -> dict[str, np.ndarray]:
    """``lower, upper`` (m,), the ends of intervals with equal tails for new observations, NaN for incomplete rows."""
    out = {name: np.full(len(eta), np.nan) for name in ("lower", "upper")}
    if rows.complete.any():
        for values, ends in zip(
            out.values(), known.predictive(rows).observations(eta, level), strict=True
        ):
            values[rows.complete] = ends
    return out


def _possible(rows: Rows, estimate: Estimate, eta: np.ndarray) -> Rows:
    """Rows whose predictor gives a possible mean; a warning tells of the others, whose ``eta`` becomes NaN."""
    family = estimate.distribution
    bad = rows.complete & ~np.isnan(eta) & ~family.inside(eta)
    if not bad.any():
        return rows
    warn(
        f"predict: the linear predictor of {int(bad.sum())} of {len(eta)} rows lies beyond the range of the {family.link.name} link, "
        f"where the {family.name} family has no mean: they are NaN. type='link' has the predictors.",
        LmmWarning,
    )
    eta[bad] = np.nan
    return replace(rows, complete=rows.complete & ~bad)


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


def _check_observations(estimate: Estimate, type: str) -> None:
    if type not in estimate.distribution.response_types:
        raise ArgumentError(
            "predict: new observations are on the scale of the response; interval='prediction' goes with type='response'."
        )
    if estimate.quasi:
        raise ArgumentError(
            "predict: quasi-likelihood estimates a variance and no distribution, so that there are no prediction intervals; "
            "fit a family that has its own dispersion, such as negative_binomial."
        )


def _new_weights(newdata: object, weights: object, m: int) -> np.ndarray:
    """Prior weights (m,) of new rows: a column of theirs, a number, or an array."""
    if newdata is None:
        raise ArgumentError(
            "predict: weights= are those of new rows; the rows of the fit have their own."
        )
    table = Table(newdata, "newdata")
    values = table.column(weights) if isinstance(weights, str) and weights in table else weights
    try:
        given = numeric(
            aligned(values, table.index, "weights", ArgumentError),
            "predict: weights=",
            ArgumentError,
        )
        out = np.broadcast_to(given, (m,))
    except ValueError as error:
        told = f" {error}" if isinstance(error, ArgumentError) else ""
        raise ArgumentError(
            f"predict: weights= must be a column of newdata, a number, or {m} numbers.{told}"
        ) from None
    if not (out > 0).all():
        raise ArgumentError("predict: weights= must be positive.")
    return out


def _t_based(
    rows: Rows,
    degrees: Callable[[], Ddf] | None,
    estimate: Estimate,
    interval: str | None,
    wanted: bool,
    with_effects: bool,
) -> TBased | None:
    """Standard errors and degrees of freedom (m,) of the population's predictor, where a method for them was named."""
    if degrees is None:
        return None
    if not wanted or with_effects or interval == "prediction":
        raise ArgumentError(
            "predict: ddf= is for standard errors and confidence intervals of the population, with re_form=False."
        )
    se, df = degrees().t(rows.X[rows.complete])
    out = []
    for values in (
        se,
        np.where(se > 0, df, np.inf),
    ):  # a predictor without error has no degrees of freedom
        column = np.full(len(rows.X), np.nan)
        column[rows.complete] = values
        out.append(column)
    return TBased(*out)


def _check_marginal(estimate: Estimate, keep: tuple[np.ndarray, ...], type: str) -> None:
    if any(mask.any() for mask in keep):
        raise ArgumentError(
            "predict: marginal=True averages over the random effects; it goes with re_form=False."
        )
    if type not in estimate.distribution.response_types:
        raise ArgumentError(
            "predict: marginal=True averages means, so it goes with type='response'."
        )
    averages.check_average(estimate.distribution)


def random_values(design: Design, newdata: object) -> tuple[list[np.ndarray], np.ndarray]:
    """Columns (m, k) of every random term, zero where a value is missing, and the mask of complete rows; levels do not matter."""
    if newdata is None:
        return [term.values for term in design.terms], np.ones(design.n, dtype=bool)
    found = design.frame.new_values(Table(newdata, "newdata"))
    complete = np.logical_and.reduce([term.complete for term in found])
    return [np.where(term.complete[:, None], term.values, 0.0) for term in found], complete


def averaged(estimate: Estimate, z: list[np.ndarray], eta: np.ndarray) -> Averaged:
    """Population averages at predictors eta (m,) of the population."""
    sd = averages.predictor_sd(estimate, z)
    return Averaged(z, eta, sd, averages.average(estimate.family, eta, sd))


def average_variance(
    known: Uncertainty, X: np.ndarray, eta: np.ndarray, over: Averaged
) -> np.ndarray:
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
