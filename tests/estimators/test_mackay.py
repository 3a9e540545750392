"""MacKay's empirical Bayes: the published figures, its fixed point by dense matrices, and REML for the corrected form."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators import MaximumLikelihood
from lmm.estimators.mackay import MacKay
from lmm.model.problem import Problem, build_problem
from tests.algebra import Algebra
from tests.designs import zoo

DESIGNS = zoo()
FORMULA = "Reaction ~ Days + (Days|Subject)"
PUBLISHED = {"Subject": [410.0, 22.0]}
some = pytest.mark.parametrize(
    "name",
    ["scalar", "slope", "diagonal", "blocks", "slopes crossed", "nested", "weights and offset"],
)


@cache
def problem(name: str) -> Problem:
    return build_problem(DESIGNS[name])


@pytest.mark.parametrize("starts", [None, PUBLISHED])
def test_published_figures_of_the_quick_form(starts) -> None:
    """From any start; the walk-through prints four decimals."""
    fit = lmm.lmer(
        FORMULA, lmm.datasets.load("sleepstudy"), method=MacKay("quick", start_variances=starts)
    )
    assert fit.convergence.converged
    assert np.diagonal(fit.varcorr()["Subject"]) == pytest.approx([302.9045, 31.0890], abs=5e-5)
    assert fit.sigma**2 == pytest.approx(670.8547, abs=5e-5)
    assert fit.ranef()["Subject"].loc["308"].to_numpy() == pytest.approx([2.0140, 9.1480], abs=5e-5)
    assert fit.varcorr()["Subject"].iloc[0, 1] == 0.0
    assert fit.df_model == 5


def test_it_begins_where_it_is_told() -> None:
    data = lmm.datasets.load("sleepstudy")
    first = lmm.lmer(
        FORMULA, data, method=MacKay("quick", start_variances=PUBLISHED)
    ).estimate.trace[0]
    assert first["sd"][:2] ** 2 == pytest.approx([410.0, 22.0])
    assert first["sigma"] ** 2 == pytest.approx(np.var(data["Reaction"]) / 4)
    other = lmm.lmer(
        FORMULA, data, method=MacKay("quick", start_variances=PUBLISHED, start_error_variance=500.0)
    ).estimate.trace[0]
    assert other["sigma"] ** 2 == pytest.approx(500.0)


@some
def test_the_quick_form_ends_at_its_fixed_point(name: str) -> None:
    """Ridge regression and hat matrix by n x n matrices give the same variances back."""
    d = DESIGNS[name]
    estimate = MacKay("quick").fit(problem(name))
    assert estimate.convergence.converged, estimate.convergence.message
    a = Algebra(d, estimate.theta)
    b = a.L @ a.L.T @ a.Zall.T @ a.P @ a.y
    hat = np.eye(d.n) - a.P / a.w[:, None]  # y - fitted = W^-1 P y
    residual = a.y - hat @ a.y
    rss, effective = float(residual @ (a.w * residual)), float(np.trace(hat))
    assert estimate.sigma**2 == pytest.approx(rss / (d.n - effective), rel=1e-7)
    for term, own, T, modes in zip(
        d.terms, a.slices, estimate.factors, estimate.modes, strict=True
    ):
        predicted = b[own].reshape(term.k, -1)
        np.testing.assert_allclose(modes, predicted.T, atol=1e-8)
        variances = np.var(predicted, axis=1, ddof=1)
        wanted = np.where(variances > 1e-7 * estimate.sigma**2, variances, 0.0)
        np.testing.assert_allclose(
            estimate.sigma**2 * T @ T.T, np.diag(wanted), rtol=1e-6, atol=1e-8
        )
    known = MaximumLikelihood(True, sigma=estimate.sigma)
    assert estimate.objective == pytest.approx(
        known.objective(problem(name), estimate.theta), rel=1e-10
    )
    # the criterion of the trace is the same at its end
    assert estimate.trace[-1]["objective"] == pytest.approx(estimate.objective, abs=1e-5)


@some
def test_the_corrected_form_is_reml(name: str) -> None:
    found, best = MacKay().fit(problem(name)), MaximumLikelihood().fit(problem(name))
    assert found.convergence.converged
    assert found.objective == pytest.approx(best.objective, abs=1e-6)
    assert found.theta == pytest.approx(best.theta, abs=1e-4)
    assert (found.reml, found.method) == (True, "mackay")


def test_the_corrected_form_on_sleepstudy() -> None:
    """To 1e-6 of the criterion, from the published start, and the variances that lmer prints."""
    data = lmm.datasets.load("sleepstudy")
    fit = lmm.lmer(FORMULA, data, method=MacKay(start_variances=PUBLISHED))
    best = lmm.lmer(FORMULA, data)
    assert fit.llf == pytest.approx(best.llf, abs=1e-6)
    assert fit.varcorr()["Subject"].to_numpy() == pytest.approx(
        best.varcorr()["Subject"].to_numpy(), rel=1e-5
    )
    assert fit.sigma == pytest.approx(25.5918, abs=5e-5)
    matrix = lmm.lmer(
        FORMULA, data, method=MacKay(start_variances={"Subject": [[600.0, 10.0], [10.0, 30.0]]})
    )
    assert matrix.llf == pytest.approx(best.llf, abs=1e-6)


@pytest.mark.filterwarnings("ignore::lmm.SingularFitWarning")
def test_the_quick_form_loses_correlated_effects() -> None:
    """Intercepts and slopes with a correlation of 0.9, little data per level: variances fall, REML keeps them."""
    rng = np.random.default_rng(5)
    J, m = 80, 4
    g = np.repeat(np.arange(J), m)
    x = np.tile(np.arange(m) - 0.5, J)
    b = rng.multivariate_normal([0, 0], [[1.0, 0.9], [0.9, 1.0]], J)
    y = 1 + x + b[g, 0] + b[g, 1] * x + 1.5 * rng.normal(size=J * m)
    data = pd.DataFrame({"y": y, "x": x, "g": g})
    quick, reml = (lmm.lmer("y ~ x + (x|g)", data, method=m) for m in (MacKay("quick"), MacKay()))
    assert reml.varcorr().correlation("g").iloc[0, 1] > 0.7
    assert quick.convergence.converged
    assert quick.varcorr().stddev("g").iloc[0] < 0.8 * reml.varcorr().stddev("g").iloc[0]
    assert quick.llf < reml.llf - 5
    notes = " ".join(quick.estimate.report.notes)
    assert "Covariances of the effects of g" in notes
    assert "shrinkage" in notes


def test_a_variance_that_falls_to_zero_ends_there() -> None:
    """No variance between groups: exactly zero, and least squares."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(10), 6)
    within = rng.normal(size=(10, 6))
    y = (within - within.mean(axis=1, keepdims=True)).ravel() + rng.normal(scale=1e-3, size=60)
    data = pd.DataFrame({"y": y, "g": g})
    with pytest.warns(lmm.SingularFitWarning):
        fit = lmm.lmer("y ~ 1 + (1|g)", data, method=MacKay("quick"))
    assert fit.convergence.converged
    assert fit.theta.iloc[0] == 0.0
    assert not fit.ranef()["g"].to_numpy().any()
    assert fit.sigma == pytest.approx(np.std(y, ddof=1), rel=1e-9)


def test_stopping_and_interactions() -> None:
    data = lmm.datasets.load("Machines")
    fit = lmm.lmer(
        "score ~ Machine + (1|Worker) + (1|Worker:Machine)", data, method=MacKay("quick")
    )
    assert fit.convergence.converged
    assert set(fit.ranef()) == {"Worker", "Worker:Machine"}
    with pytest.warns(lmm.ConvergenceWarning, match="limit of 3 iterations"):
        short = lmm.lmer(
            FORMULA, lmm.datasets.load("sleepstudy"), method=MacKay("quick", max_iterations=3)
        )
    assert not short.convergence.converged


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "quik"}, "Did you mean 'quick'"),
        ({"start_error_variance": -1.0}, "start_error_variance"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"control": lmm.Control(evaluate_only=True)}, "lmm.solve"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=message):
        lmm.MacKay(**settings)


@pytest.mark.parametrize(
    "starts", [{"subject": [410, 22]}, {"Subject": [410]}, {"Subject": [-1, 2]}, [410, 22]]
)
def test_bad_starts(starts) -> None:
    with pytest.raises(lmm.ArgumentError, match="start_variances"):
        lmm.lmer(
            FORMULA, lmm.datasets.load("sleepstudy"), method=lmm.MacKay(start_variances=starts)
        )
