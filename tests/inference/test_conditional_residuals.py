"""Residuals of other responses at the same theta."""

from __future__ import annotations

import numpy as np
import pytest

import lmm
from lmm.inference.refits.conditional_residuals import scaled_residuals
from tests.plots.fits import quiet, table


@pytest.mark.parametrize("REML", [True, False])
@pytest.mark.parametrize(
    "formula", ["y ~ x + (x | g) + (1 | h)", "y ~ 0 + (1 | g)", "y ~ x + offset(z) + (1 | g)"]
)
def test_the_response_itself_has_the_residuals_of_the_fit(formula, REML):
    fit = quiet(formula, table(), weights="w", REML=REML)
    found = scaled_residuals(fit.design, fit.problem, fit.estimate, fit.design.y[:, None])
    np.testing.assert_allclose(found[:, 0], fit.residuals("pearson", scaled=True), atol=1e-9)


def test_other_responses_are_evaluated_at_the_same_theta():
    fit = lmm.lmer("Reaction ~ Days + (Days | Subject)", lmm.datasets.load("sleepstudy"))
    y = fit.simulate(2, rng=1)
    found = scaled_residuals(fit.design, fit.problem, fit.estimate, y.to_numpy())
    for i in range(2):
        other = fit.update(
            data=fit.design.frame.data.assign(Reaction=y.iloc[:, i]),
            start=fit.theta,
            control=lmm.Control(evaluate_only=True),
        )
        np.testing.assert_allclose(found[:, i], other.residuals(scaled=True), atol=1e-8)


def test_a_known_sigma_stays():
    fit = lmm.lmer(
        "Reaction ~ Days + (1 | Subject)",
        lmm.datasets.load("sleepstudy"),
        method=lmm.MaximumLikelihood(sigma=25.0),
    )
    found = scaled_residuals(fit.design, fit.problem, fit.estimate, fit.design.y[:, None], 25.0)
    np.testing.assert_allclose(25.0 * found[:, 0], fit.resid, atol=1e-8)
