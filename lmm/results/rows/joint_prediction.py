"""Predictions of a model with several linear predictors: means with their zeros, and each part of them.

    response     (1 - p) E_f(y)      conditional   E_f(y), of the family itself
    zprob        p                   disp          what the predictor of the dispersion is the logarithm of
    link         the linear predictor of the component

Standard errors are those of the delta method on the errors of all predictors together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import special

from lmm.arguments import choice
from lmm.design.design import Design
from lmm.errors import ArgumentError
from lmm.formula import Formula, Table, parse
from lmm.inference.intervals import predictions
from lmm.inference.intervals.coverage import check_level, normal_quantile
from lmm.inference.intervals.predictions import PredictionRows
from lmm.model.conditional import prediction_variance
from lmm.model.joint.joint_estimate import JointEstimate
from lmm.model.joint.joint_rows import whole_rows
from lmm.results.joint_uncertainty import JointUncertainty
from lmm.results.rows.prediction import fitted_rows, kept_effects, new_rows
from lmm.results.rows.row_values import align

Scale = Callable[[np.ndarray], np.ndarray]
#: scales on which intervals are normal: to it, its slope, and back
LOG: tuple[Scale, Scale, Scale] = (np.log, lambda x: 1.0 / x, np.exp)
LOGIT: tuple[Scale, Scale, Scale] = (special.logit, lambda x: 1.0 / (x * (1.0 - x)), special.expit)
PLAIN: tuple[Scale, Scale, Scale] = (lambda x: x, np.ones_like, lambda x: x)


@dataclass(frozen=True)
class Asked:
    """What is predicted of which rows with which random effects."""

    newdata: object
    re_form: object
    type: str
    allow_new_levels: bool
    se_fit: bool
    interval: str | None
    level: float


def predict(known: JointUncertainty, asked: Asked) -> pd.Series | pd.DataFrame:
    """Predicted values; with ``se_fit`` or ``interval`` a DataFrame. See :meth:`lmm.Fit.predict`."""
    estimate = known.estimate
    density = estimate.density
    choice(asked.type, "predict: type", estimate.distribution.prediction_types)
    if asked.type in ("zprob", "disp"):
        name = "zi" if asked.type == "zprob" else "disp"
        if name not in density.names:
            raise ArgumentError(
                f"predict: type={asked.type!r} needs a predictor that this fit has not; it has {', '.join(density.names)}."
            )
    if asked.interval not in (None, "confidence"):
        raise ArgumentError(
            "predict: a model with several predictors has interval='confidence'; for new observations take quantiles of simulate()."
        )
    check_level(asked.level)
    rows = [_rows(known.of_component(name), asked) for name in density.names]
    complete = np.logical_and.reduce([own.complete for own in rows])
    etas = np.stack(
        [
            predictions.predictor(own, estimate.of_component(name))[complete]
            for own, name in zip(rows, density.names, strict=True)
        ]
    )
    value = _value(estimate, asked.type)
    fit = value(etas)
    columns = {"fit": fit}
    if asked.se_fit or asked.interval is not None:
        se = _errors(known, [_only(own, complete) for own in rows], etas, value)
        columns |= {"se": se}
        if asked.interval is not None:
            columns |= _limits(fit, se, estimate, asked)
    values = np.full((len(complete), len(columns)), np.nan)
    values[complete] = np.column_stack(list(columns.values()))
    if asked.newdata is None:
        values, index = align(known.model, values)
    else:
        index = Table(asked.newdata, "newdata").index
    if len(columns) == 1:
        return pd.Series(values[:, 0], index=index, name="fit")
    return pd.DataFrame(values, index=index, columns=list(columns))


def _rows(known: object, asked: Asked) -> PredictionRows:
    """The rows of one predictor; random effects that a formula names are kept where the predictor has them."""
    assert isinstance(known, JointUncertainty)
    design = known.design
    keep = _kept(design, asked.re_form)
    if asked.newdata is None:
        return fitted_rows(design, keep)
    return new_rows(design, known.estimate, asked.newdata, keep, asked.allow_new_levels, False)


def _kept(design: Design, re_form: object) -> tuple[np.ndarray, ...]:
    """Per term which columns a ``re_form`` keeps; of its terms those that the predictor has."""
    if not isinstance(re_form, str | Formula):
        return kept_effects(design, re_form)
    wanted = parse(re_form, one_sided=True) if isinstance(re_form, str) else re_form
    groups = [term.group for term in design.terms]
    bars = tuple(bar for bar in wanted.bars if bar.group in groups)
    return kept_effects(design, replace(wanted, bars=bars))


def _only(rows: PredictionRows, complete: np.ndarray) -> PredictionRows:
    return replace(rows, complete=complete)


def _value(estimate: JointEstimate, type: str) -> Callable[[np.ndarray], np.ndarray]:
    """The prediction as a function of the predictors (m, rows)."""
    density = estimate.density
    if type == "response":
        return density.mean
    if type == "conditional":
        return density.inner_mean
    if type == "link":
        a = density.names.index(estimate.component)
        return lambda etas: etas[a]
    if type == "zprob":
        return lambda etas: np.asarray(density.zero_share(etas))
    return lambda etas: np.exp(density.of(etas, "disp"))


def _errors(
    known: JointUncertainty,
    rows: Sequence[PredictionRows],
    etas: np.ndarray,
    value: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Standard errors, by slopes of the prediction in the predictors from central differences."""
    estimate, parts = known.estimate, []
    beyond = np.zeros(etas.shape[1])  # of effects at positions that the fit never saw
    for a, (name, own) in enumerate(zip(estimate.density.names, rows, strict=True)):
        step = np.zeros_like(etas)
        step[a] = 1e-5 * np.maximum(1.0, np.abs(etas[a]))
        g = (value(etas + step) - value(etas - step)) / (2.0 * step[a])
        place = next(place for place in estimate.places if place.name == name)
        parts.append((place, own, g))
        if own.left is not None:
            beyond += g**2 * own.left[own.complete]
    X, terms = whole_rows(known.problem, parts)
    if all(term is None for term in terms):
        return np.sqrt(np.einsum("ij,jk,ik->i", X, known.whole.beta, X, optimize=True))
    return np.sqrt(prediction_variance(known.problem, estimate.whole, X, terms) + beyond)


def _limits(
    fit: np.ndarray, se: np.ndarray, estimate: JointEstimate, asked: Asked
) -> dict[str, np.ndarray]:
    """``lower, upper``, normal on the scale of a logarithm, of a logit for probabilities, of the predictor itself."""
    inner = estimate.density.inner
    to, slope, back = LOG
    if asked.type == "link":
        to, slope, back = PLAIN
    elif asked.type == "zprob" or (asked.type != "disp" and inner.mean_high == 1.0):
        to, slope, back = LOGIT
    elif asked.type != "disp" and inner.mean_low < 0.0:
        to, slope, back = PLAIN
    margin = normal_quantile(asked.level) * se * slope(fit)
    return {"lower": back(to(fit) - margin), "upper": back(to(fit) + margin)}
