"""Refits side by side are single fits: every model, every kind of sums, and the derivatives behind the steps."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators.likelihood import many_linear
from lmm.inference.refits import refits
from lmm.inference.refits.simulated_responses import simulate_array
from lmm.model.gaussian import batch_sums

CAREFUL = lmm.Control(tolerance=1e-13)


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 240
    g, h = rng.integers(12, size=n), rng.integers(5, size=n)
    x, z = rng.normal(size=n), 40 + rng.normal(size=n)
    b = rng.normal(size=(12, 3)) * [1.0, 0.7, 0.4]
    y = 1 + x + 0.1 * z + b[g, 0] + x * b[g, 1] + rng.normal(size=5)[h] + rng.normal(size=n)
    letters = np.array(list("abcdefghijklmnop"))
    return pd.DataFrame(
        {
            "y": y,
            "x": x,
            "z": z,
            "x2": x**2,
            "g": letters[g],
            "h": letters[h],
            "w": rng.uniform(0.5, 3, n),
            "o": rng.normal(size=n),
        }
    )


MODELS = {
    "slope": ("y ~ x + (x|g)", {}),
    "ml": ("y ~ x + z + (x|g)", {"REML": False}),
    "uncorrelated": ("y ~ x + (x||g)", {}),
    "uncentred": ("y ~ z + (z|g)", {}),
    "three columns": ("y ~ x + (x + x2|g)", {}),
    "no fixed effects": ("y ~ 0 + (x|g)", {}),
    "weights and offset": ("y ~ x + offset(o) + (x|g)", {"weights": "w"}),
    "crossed": ("y ~ x + (1|g) + (1|h)", {}),
    "crossed slope": ("y ~ x + (x|g) + (1|h)", {"REML": False}),
    "nested": ("y ~ x + (1|h/g)", {}),
}


@pytest.fixture(scope="module", params=MODELS)
def fit(request):
    formula, arguments = MODELS[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lmm.lmer(formula, frame(), control=CAREFUL, **arguments)


def responses(fit, count: int) -> np.ndarray:
    return simulate_array(fit.design, fit.estimate, count, np.random.default_rng(5), False)


def same(batch_, i: int, single) -> None:
    """Criterion to 1e-8; sigma and beta to 1e-6 of themselves and of a standard error, theta to 1e-6 where the criterion is not flat."""
    np.testing.assert_allclose(
        batch_.objective[i], single.objective, rtol=0, atol=1e-8 * abs(single.objective)
    )
    np.testing.assert_allclose(batch_.sigma[i], single.sigma, rtol=1e-6)
    if len(single.beta):
        se = single.sigma * np.sqrt(np.diagonal(single.beta_cov_unscaled))
        np.testing.assert_allclose(batch_.beta[i] / se, single.beta / se, atol=2e-6)
    np.testing.assert_allclose(
        batch_.theta[i], single.theta, atol=2e-6 + 2e-6 * np.abs(single.theta).max()
    )


def test_refits_to_other_responses_are_single_fits(fit):
    assert refits.is_batched(fit.problem, fit.estimator)
    Y = responses(fit, 30)
    found = refits.of_responses(
        fit.design, fit.problem, fit.estimator, fit.estimate, [Y], modes=True
    )
    assert not found.failures and found.size == 30
    for i in range(0, 30, 3):
        single = refits._other_response(fit.design, fit.problem, Y[:, i])
        single = fit.estimator.fit(single, fit.estimate.theta)
        same(found, i, single)
        for mine, other in zip(found.modes, single.modes, strict=True):
            np.testing.assert_allclose(mine[i], other, atol=1e-5 * (1e-3 + np.abs(other).max()))


def test_gradient_and_hessian_are_derivatives(fit):
    """In the chart's coordinates, exact second derivatives included, against central differences."""
    Y = responses(fit, 3)
    rows = batch_sums.Rows(fit.problem, fit.design)
    data, _ = batch_sums.responses(rows, Y, fit.estimator.reml)
    evaluate = many_linear.LinearChart(
        fit.problem, fit.estimator.reml, many_linear.start(fit.problem, fit.estimate.theta)
    )
    m = fit.problem.n_theta
    at = np.full((m, 3), 0.1) * np.array([1.0, -0.5, 0.3])
    here = evaluate(data, at, 2)
    h = 1e-4
    for i in range(m):
        step = np.zeros((m, 1))
        step[i] = h
        up, down = evaluate(data, at + step, 2), evaluate(data, at - step, 2)
        slope = (up.objective - down.objective) / (2 * h)
        curve = (up.gradient - down.gradient) / (2 * h)
        np.testing.assert_allclose(here.gradient[i], slope, atol=1e-5 * (1 + np.abs(slope).max()))
        np.testing.assert_allclose(
            here.hessian[i], curve, atol=1e-5 * (1 + np.abs(here.hessian).max())
        )


def test_leaving_rows_out_is_a_fit_without_them(fit):
    codes = fit.design.terms[0].codes
    rows = [np.flatnonzero(codes == 2), np.array([7]), np.flatnonzero(codes == codes.max())]
    found = refits.without(fit.design, fit.problem, fit.estimator, fit.estimate, rows)
    data = frame()
    formula = str(fit.formula)
    for i, out in enumerate(rows):
        keep = np.delete(np.arange(len(data)), out)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = "w" if fit.design.weights is not None else None
            single = lmm.lmer(
                formula, data.iloc[keep], REML=fit.estimator.reml, control=CAREFUL, weights=weights
            ).estimate
        same(found, i, single)


def test_levels_drawn_again_are_a_fit_to_copies():
    data = frame()
    fit = lmm.lmer("y ~ x + (x|g)", data, control=CAREFUL)
    levels = np.random.default_rng(0).integers(12, size=(4, 12))
    found = refits.of_levels(fit.design, fit.problem, fit.estimator, fit.estimate, 0, levels)
    names = list(fit.design.terms[0].levels)
    for i, own in enumerate(levels):
        copies = pd.concat(
            [data[data.g == names[j]].assign(g=f"copy{k}") for k, j in enumerate(own)]
        )
        same(found, i, lmm.lmer("y ~ x + (x|g)", copies, control=CAREFUL).estimate)


def test_levels_drawn_again_take_nested_ones_along():
    data = frame()
    fit = lmm.lmer("y ~ x + (1|h/g)", data, control=CAREFUL)
    t = [term.group for term in fit.design.terms].index("h")
    levels = np.array([[0, 0, 1, 2, 4], [3, 3, 3, 1, 0]])
    found = refits.of_levels(fit.design, fit.problem, fit.estimator, fit.estimate, t, levels)
    names = list(fit.design.terms[t].levels)
    for i, own in enumerate(levels):
        copies = pd.concat(
            [data[data.h == names[j]].assign(h=f"copy{k}") for k, j in enumerate(own)]
        )
        same(found, i, lmm.lmer("y ~ x + (1|h/g)", copies, control=CAREFUL).estimate)


def test_variances_of_zero_are_exactly_zero_and_certified():
    """From a fit whose variance is small: many of its responses have none."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"y": rng.normal(size=60), "g": np.repeat(list("abcdefghij"), 6)})
    data["y"] += np.repeat(0.1 * rng.normal(size=10), 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lmm.lmer("y ~ 1 + (1|g)", data, control=CAREFUL)
        Y = responses(fit, 200)
        found = refits.of_responses(fit.design, fit.problem, fit.estimator, fit.estimate, [Y])
    zero = found.theta[:, 0] == 0.0
    assert 10 < zero.sum() < 180
    assert not ((found.theta[:, 0] > 0) & (found.theta[:, 0] < 1e-4)).any()
    for i in range(0, 200, 10):
        same(
            found,
            i,
            fit.estimator.fit(refits._other_response(fit.design, fit.problem, Y[:, i]), None),
        )


def test_blocks_do_not_matter(monkeypatch):
    fit = lmm.lmer("y ~ x + (x|g)", frame())
    Y = responses(fit, 150)
    whole = refits.of_responses(fit.design, fit.problem, fit.estimator, fit.estimate, [Y])
    monkeypatch.setattr(many_linear, "PLANE", 300)
    parts = refits.of_responses(
        fit.design, fit.problem, fit.estimator, fit.estimate, [Y[:, :70], Y[:, 70:]]
    )
    np.testing.assert_allclose(parts.theta, whole.theta, atol=1e-9)
    np.testing.assert_allclose(parts.objective, whole.objective, rtol=1e-13)


def test_a_problem_that_fails_is_kept_with_its_reason():
    fit = lmm.lmer("y ~ x + (x|g)", frame())
    Y = responses(fit, 4)
    Y[:, 2] = fit.design.X @ np.array([1.0, 2.0])
    found = refits.of_responses(fit.design, fit.problem, fit.estimator, fit.estimate, [Y])
    assert list(found.failures) == [2] and "ResponseError" in found.failures[2]
    assert np.isnan(found.beta[2]).all() and np.isfinite(np.delete(found.beta, 2, axis=0)).all()


def test_a_batch_that_does_not_end_is_finished_one_by_one(monkeypatch):
    fit = lmm.lmer("y ~ x + (x|g)", frame(), control=CAREFUL)
    Y = responses(fit, 5)
    monkeypatch.setattr(many_linear, "MAX_ROUNDS", 1)
    found = refits.of_responses(fit.design, fit.problem, fit.estimator, fit.estimate, [Y])
    for i in range(5):
        same(
            found,
            i,
            fit.estimator.fit(refits._other_response(fit.design, fit.problem, Y[:, i]), None),
        )


def test_what_a_batch_cannot_hold_is_fitted_one_by_one():
    fit = lmm.lmer("y ~ x + (1|g)", frame(), method="em")
    assert not refits.is_batched(fit.problem, fit.estimator)
    Y = responses(fit, 3)
    found = refits.of_responses(fit.design, fit.problem, fit.estimator, fit.estimate, [Y])
    single = lmm.lmer("y ~ x + (1|g)", frame().assign(y=Y[:, 1])).estimate
    np.testing.assert_allclose(found.beta[1], single.beta, atol=1e-4)
    known = replace(fit, estimator=lmm.MaximumLikelihood(sigma=1.0))
    assert not refits.is_batched(known.problem, known.estimator)
