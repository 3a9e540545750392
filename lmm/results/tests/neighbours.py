"""Models one step away from a fit: the same by maximum likelihood, and with a changed formula on the same rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lmm.design import build_design
from lmm.design.design import Design
from lmm.errors import ArgumentError, RankWarning, ResponseError, SingularFitWarning
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.formula import Formula, Given
from lmm.formula.text.formula_terms import fixed_terms
from lmm.linalg import threads
from lmm.results import updating
from lmm.results.text.notes import warned

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def check_likelihood(fit: Fit, what: str) -> None:
    """ArgumentError unless the fit is at the maximum of a likelihood."""
    estimate = fit.estimate
    estimate.require_likelihood(
        f"{what}: method {estimate.method!r} gives a posterior, not a maximum of the likelihood. Compare posteriors by "
        "cross-validation (fit.draws.to_arviz() and arviz.compare), or fit with method=None."
    )
    notes = () if estimate.report is None else estimate.report.notes
    if not fit._method.maximises or notes or not np.isfinite(estimate.objective):
        raise ArgumentError(
            f"{what}: method {estimate.method!r} does not maximise a likelihood; fit with method=None."
        )
    if fit._method.control.evaluate_only:
        raise ArgumentError(
            f"{what}: the fit was evaluated at given parameters (evaluate_only=True), not optimised."
        )


def is_maximised(fit: Fit) -> bool:
    """Whether :func:`check_likelihood` has no objection."""
    try:
        check_likelihood(fit, "")
    except ArgumentError:
        return False
    return True


@contextmanager
def quietly() -> Iterator[None]:
    """Reduced models are singular or rank deficient where the full one is: that is not said again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularFitWarning)
        warnings.simplefilter("ignore", RankWarning)
        yield


def by_maximum_likelihood(fit: Fit) -> Fit:
    """The same model by maximum likelihood where it was fitted by REML; the fit itself otherwise."""
    if not fit.estimate.reml:
        return fit
    estimator = fit._method.by_likelihood() or MaximumLikelihood(False, fit._method.control)
    with quietly(), threads.limited():
        try:
            estimate = warned(fit.design, estimator.fit(fit.problem))
        except ResponseError as error:
            text = "fits are compared by maximum likelihood, and this model, fitted by REML, cannot be fitted so. "
            raise ResponseError(text + str(error)) from None
    design = fit.design
    if design.call is not None:
        asked = design.call.arguments["method"]
        plain = asked is None or (isinstance(asked, str) and asked.lower() in ("reml", "ml"))
        design = replace(
            design, call=design.call.changed(REML=False, method=None if plain else estimator)
        )
    return replace(fit, design=design, estimator=estimator, estimate=estimate)


def with_formula(fit: Fit, formula: Formula, context: Mapping[str, object]) -> Fit:
    """The call repeated with another formula on the rows of this fit, which a term less must not bring more of."""
    return _again(fit, formula, {}, context)


def without_predictors(fit: Fit, context: Mapping[str, object]) -> Fit:
    """The same random effects and an intercept alone, by maximum likelihood; the fit itself where that is what it is."""
    formula = fit.design.frame.formula
    if [term.label for term in fixed_terms(formula, fit.design.frame.awkward)] == [
        "1"
    ] and fit.draws is None:
        return fit
    text = replace(formula, fixed="1", text="1")
    return _again(fit, text, {"method": None}, context)


def _again(
    fit: Fit, formula: Formula, changes: dict[str, object], context: Mapping[str, object]
) -> Fit:
    """The call repeated on the same data, where a term less leaves the rows what they were."""
    with quietly():
        other: Fit = updating.repeat_call(
            fit.design, formula, {**fit.design.rows.chosen, **changes}, context
        )
    if other.design.n != fit.design.n:
        raise ArgumentError(
            f"{formula} has {other.design.n} complete rows and the model {fit.design.n}, because a column that it does without has missing "
            "values; fit both to the same rows, with subset='column == column' for each such column."
        )
    return other


def design_of(fit: Fit, formula: Formula, context: Mapping[str, object]) -> Design:
    """The matrices of another formula on the rows of this fit, nothing fitted."""
    design = fit.design
    if design.call is None:
        raise ArgumentError(
            "this fit was not made by lmer() or glmer(), so there is no call to repeat."
        )
    call = design.arguments()
    scope = {**context, **design.frame.context}
    given = Given(
        call["weights"],
        call["offset"],
        design.rows_used,
        "omit",
        updating.codings(call, formula),
        scope,
        updating.covariances(call, formula),
    )
    with quietly(), threads.limited():
        return build_design(formula, design.frame.data, given, call.get("family"))
