"""Extractors against lme4's: criteria, intervals, components, coefficients, predictions."""

from __future__ import annotations

import numpy as np
import pytest

import lmm
from tests.results.fits import CASES, PRINTED, at_reference, fit, frame, r_name, record


@pytest.mark.parametrize("case", CASES)
def test_criteria(case):
    mine, theirs = at_reference(case), record(case)
    # both sides are sums of order 1e2 to 1e5 at one theta: rounding only
    assert mine.llf == pytest.approx(theirs["loglik"], rel=1e-9)
    assert mine.deviance == pytest.approx(theirs["deviance"], rel=1e-9)
    assert mine.df_resid == theirs["df_residual"]
    assert mine.aic == pytest.approx(-2 * mine.llf + 2 * mine.df_model)
    assert mine.bic == pytest.approx(-2 * mine.llf + np.log(mine.nobs) * mine.df_model)


def test_each_criterion_from_the_other_fit():
    reml, ml = fit("sleep"), fit("sleep_ml")
    theta = ml.theta.to_numpy()
    at = lmm.lmer(
        CASES["sleep"][0], frame("sleepstudy"), start=theta, control=lmm.Control(evaluate_only=True)
    )
    assert ml.reml_criterion == pytest.approx(at.reml_criterion, rel=1e-10) == reml.objective(theta)
    assert at.deviance == pytest.approx(ml.deviance, rel=1e-10)
    assert ml.deviance < reml.deviance
    assert reml.reml_criterion < ml.reml_criterion


@pytest.mark.parametrize("case", CASES)
def test_wald_intervals(case):
    mine, theirs = at_reference(case).confint("wald"), record(case)["wald"]
    assert [r_name(name) for name in mine.index] == theirs["rows"]
    want = np.array(
        [[np.nan if v is None else v for v in row] for row in theirs["values"]], dtype=float
    )
    known = ~np.isnan(want)  # lme4 has none for variance parameters
    np.testing.assert_allclose(mine.to_numpy()[known], want[known], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_theta_names(case):
    assert [r_name(name) for name in at_reference(case).theta.index] == list(record(case)["theta"])


@pytest.mark.parametrize("case", CASES)
def test_principal_components(case):
    for group, sd in record(case)["pca"].items():
        components = at_reference(case).re_pca()[group]
        np.testing.assert_allclose(components.stddev, np.atleast_1d(sd), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_level_coefficients(case):
    for group, theirs in record(case)["coef"].items():
        mine = at_reference(case).coef()[group]
        names = {r_name(name): name for name in mine.columns}
        columns = [theirs["names"]] if isinstance(theirs["names"], str) else theirs["names"]
        table = mine.loc[theirs["rows"], [names[name] for name in columns]]
        np.testing.assert_allclose(
            table.to_numpy(), np.array(theirs["values"], dtype=float), rtol=1e-7, atol=1e-7
        )


def test_predictions_for_new_rows():
    want = PRINTED["predictions"]["sleep"]
    new = {name: [row[name] for row in want["new"]] for name in ("Days", "Subject")}
    mine = at_reference("sleep")
    np.testing.assert_allclose(mine.predict(new, allow_new_levels=True), want["full"], rtol=1e-8)
    np.testing.assert_allclose(mine.predict(new, re_form=False), want["population"], rtol=1e-8)
    np.testing.assert_allclose(
        mine.predict(new, re_form="~ (1|Subject)", allow_new_levels=True),
        want["intercept_only"],
        rtol=1e-8,
    )


def test_predictions_with_some_of_the_terms():
    want, mine = PRINTED["predictions"]["penicillin"], at_reference("penicillin")
    np.testing.assert_allclose(mine.predict()[:8], want["full"], rtol=1e-8)
    np.testing.assert_allclose(mine.predict(re_form="~ (1|plate)")[:8], want["plate"], rtol=1e-8)
    np.testing.assert_allclose(mine.predict(re_form="~ (1|sample)")[:8], want["sample"], rtol=1e-8)
