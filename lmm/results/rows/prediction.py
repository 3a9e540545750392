"""Predictions on the user's index: which rows, which random effects, which scale.

The numbers are those of :mod:`lmm.inference.intervals.predictions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.arguments import choice, shown
from lmm.design.design import Design
from lmm.errors import ArgumentError, LmmWarning, warn
from lmm.formula import Formula, Table
from lmm.formula.columns.given import aligned, numeric
from lmm.inference.criticism import population_average as averages
from lmm.inference.intervals import predictions
from lmm.inference.intervals.coverage import check_level
from lmm.inference.intervals.new_positions import krige
from lmm.inference.intervals.predictions import PredictionRows
from lmm.inference.tests.ddf import Ddf
from lmm.model.records import Estimate
from lmm.results.rows.residual_sd import residual_sd
from lmm.results.rows.row_values import align
from lmm.results.tables.fixed import kept_positions

if TYPE_CHECKING:
    from lmm.results.uncertainty import Uncertainty

INTERVALS = ("confidence", "prediction")


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
    if type == "disp":
        return residual_sd(known, newdata, se_fit, interval, check_level(level))
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
        else new_rows(design, estimate, newdata, keep, allow_new_levels, everything)
    )
    if weights is not None:
        rows = replace(rows, weights=_new_weights(newdata, weights, len(rows.X)))
    eta = predictions.predictor(rows, estimate)
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
        over = predictions.averaged(estimate, z, eta)
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
        else new_rows(design, estimate, newdata, keep, allow_new_levels, False)
    )
    family, eta = estimate.distribution, predictions.predictor(rows, estimate)
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


def fitted_rows(design: Design, keep: tuple[np.ndarray, ...]) -> PredictionRows:
    """The rows of the fit itself."""
    return PredictionRows(
        design.X, design.offset, design.terms, keep, np.ones(design.n, dtype=bool), design.weights
    )


def new_rows(
    design: Design,
    estimate: Estimate,
    newdata: object,
    keep: tuple[np.ndarray, ...],
    allow_new_levels: bool,
    everything: bool,
) -> PredictionRows:
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
    terms, left = krige(design, estimate, frame.new_terms(table, allow_new_levels, keep), keep)
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
    if everything and design.residual:
        places = design.residual[0].new_rows(frame, table)
        complete = complete & (True if places is None else places.complete)
    return PredictionRows(X, offset, tuple(terms), keep, complete, None, places, left)


def new_observations(
    rows: PredictionRows, known: Uncertainty, eta: np.ndarray, level: float
) -> dict[str, np.ndarray]:
    """``lower, upper`` (m,), the ends of intervals with equal tails for new observations, NaN for incomplete rows."""
    out = {name: np.full(len(eta), np.nan) for name in ("lower", "upper")}
    if rows.complete.any():
        for values, ends in zip(
            out.values(), known.predictive(rows).observations(eta, level), strict=True
        ):
            values[rows.complete] = ends
    return out


def _possible(rows: PredictionRows, estimate: Estimate, eta: np.ndarray) -> PredictionRows:
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
    rows: PredictionRows,
    degrees: Callable[[], Ddf] | None,
    estimate: Estimate,
    interval: str | None,
    wanted: bool,
    with_effects: bool,
) -> predictions.TBased | None:
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
    return predictions.TBased(*out)


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
        return [term.lengths for term in design.terms], np.ones(design.n, dtype=bool)
    found = design.frame.new_values(Table(newdata, "newdata"))
    complete = np.logical_and.reduce([term.complete for term in found])
    return [np.where(term.complete[:, None], term.lengths, 0.0) for term in found], complete
