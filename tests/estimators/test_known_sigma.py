"""A residual standard deviation that is known: the criterion without its profile, its derivatives, and the fit."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators import MaximumLikelihood
from lmm.estimators.likelihood.profiled import Evaluator, curvature, directions
from lmm.linalg.devices import backend
from lmm.model.problem import Problem, build_problem
from tests.algebra import Algebra, some_theta, thetas
from tests.designs import zoo

DESIGNS = zoo()
SIGMA = 1.3
every = pytest.mark.parametrize("name", DESIGNS)
some = pytest.mark.parametrize(
    "name",
    ["slope", "diagonal", "blocks", "slopes crossed", "nested and crossed", "weights and offset"],
)
criteria = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


@cache
def problem(name: str) -> Problem:
    return build_problem(DESIGNS[name])


def exact_objective(name: str, theta: np.ndarray, reml: bool) -> float:
    """-2 log density of y, or of its error contrasts, by n x n matrices."""
    d, a = DESIGNS[name], Algebra(DESIGNS[name], theta)
    r2 = float(a.y @ a.P @ a.y)
    degrees = d.n - (d.p if reml else 0)
    value = np.linalg.slogdet(a.V)[1] + r2 / SIGMA**2 + degrees * np.log(2 * np.pi * SIGMA**2)
    return float(value - (np.linalg.slogdet(a.cov)[1] if reml and d.p else 0.0))


@every
@criteria
@pytest.mark.parametrize("kind", ["interior", "singular", "zero"])
def test_objective_and_derivatives(name: str, reml: bool, kind: str) -> None:
    theta = thetas(DESIGNS[name])[kind]
    estimator = MaximumLikelihood(reml, sigma=SIGMA)
    assert estimator.objective(problem(name), theta) == pytest.approx(
        exact_objective(name, theta, reml), rel=1e-10
    )
    h = 1e-5
    steps = h * np.eye(len(theta))
    numeric = [
        (
            estimator.objective(problem(name), theta + s)
            - estimator.objective(problem(name), theta - s)
        )
        / (2 * h)
        for s in steps
    ]
    assert estimator.gradient(problem(name), theta) == pytest.approx(
        np.array(numeric), rel=1e-6, abs=2e-5
    )


@some
@criteria
def test_average_information_and_hessian(name: str, reml: bool) -> None:
    """f_i'P f_j / sigma^2 with f_i = Z dG_i Z'Py; the Hessian is the derivative of the gradient."""
    d, theta = DESIGNS[name], some_theta(DESIGNS[name])
    exact = Algebra(d, theta)
    Py, F, at = exact.P @ exact.y, [], 0
    for t, (own, T) in enumerate(zip(d.terms, exact.T, strict=True)):
        for dG in directions(own.structure.jacobian(theta[at : at + own.structure.n_theta]), T):
            blocks = [np.zeros_like(other) for other in exact.T]
            blocks[t] = dG
            F.append(exact.Zall @ exact.spread(blocks) @ exact.Zall.T @ Py)
        at += own.structure.n_theta
    wanted = np.array(F) @ exact.P @ np.array(F).T / SIGMA**2
    evaluate = Evaluator(problem(name), reml, SIGMA)
    point = evaluate.in_theta(theta)
    np.testing.assert_allclose(
        point.hessian - curvature(point.payload.D, point.payload.frame),
        wanted,
        rtol=1e-7,
        atol=1e-7,
    )
    h = 1e-5
    numeric = [
        (evaluate.in_theta(theta + s).gradient - evaluate.in_theta(theta - s).gradient) / (2 * h)
        for s in h * np.eye(len(theta))
    ]
    found = MaximumLikelihood(reml, sigma=SIGMA).hessian(problem(name), theta)
    np.testing.assert_allclose(found, np.array(numeric), rtol=1e-5, atol=1e-5 * np.abs(found).max())


@every
@criteria
def test_the_fit_is_an_optimum(name: str, reml: bool) -> None:
    estimator, rng = MaximumLikelihood(reml, sigma=SIGMA), np.random.default_rng(1)
    estimate = estimator.fit(problem(name))
    assert estimate.convergence.converged, estimate.convergence.message
    assert estimate.sigma == SIGMA
    assert estimate.n_parameters == DESIGNS[name].p + len(estimate.theta)
    assert estimate.objective == pytest.approx(
        exact_objective(name, estimate.theta, reml), rel=1e-10
    )
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(4):
            other = estimate.theta + scale * rng.normal(size=len(estimate.theta))
            assert estimator.objective(problem(name), other) >= estimate.objective - 1e-7


@every
@criteria
def test_the_estimated_sigma_as_known_changes_nothing(name: str, reml: bool) -> None:
    free = MaximumLikelihood(reml).fit(problem(name))
    known = MaximumLikelihood(reml, sigma=free.sigma).fit(problem(name))
    assert known.objective == pytest.approx(free.objective, abs=1e-6)
    assert known.beta == pytest.approx(free.beta, rel=1e-4, abs=1e-4)


def test_in_a_call() -> None:
    """A smaller residual leaves more variance to the subjects; the parameters are one fewer."""
    data = lmm.datasets.load("sleepstudy")
    fit = lmm.lmer("Reaction ~ Days + (1|Subject)", data)
    known = lmm.lmer(
        "Reaction ~ Days + (1|Subject)", data, method=lmm.MaximumLikelihood(sigma=25.0)
    )
    assert known.sigma == 25.0
    assert known.df_model == fit.df_model - 1
    assert known.varcorr().stddev("Subject").iloc[0] > fit.varcorr().stddev("Subject").iloc[0]
    # balanced: the mean square between is what it is, sigma^2 + 10 Var(Subject) with either
    both = [f.sigma**2 + 10 * f.varcorr().stddev("Subject").iloc[0] ** 2 for f in (fit, known)]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "reml", "sigma"), [("known_reml", True, 20.0), ("known_ml", False, 24.0)]
)
def test_glmmtmb(name: str, reml: bool, sigma: float) -> None:
    """The residual sd mapped out of its parameters."""
    wanted = json.loads((Path(__file__).parents[1] / "reference" / "pql.json").read_text())[name]
    fit = lmm.lmer(
        "Reaction ~ Days + (Days|Subject)",
        lmm.datasets.load("sleepstudy"),
        method=lmm.MaximumLikelihood(reml, sigma=sigma),
    )
    assert fit.fixef().to_numpy() == pytest.approx(wanted["fixef"], rel=1e-6)
    assert fit.llf == pytest.approx(wanted["llf"], abs=1e-6)
    found = [*fit.varcorr().stddev("Subject"), fit.varcorr().correlation("Subject").iloc[0, 1]]
    assert found == pytest.approx(wanted["sds"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("sigma", [0, -1.0, np.nan, np.inf, True, "one"])
def test_what_no_residual_can_have_is_refused(sigma) -> None:
    with pytest.raises(lmm.ArgumentError, match="sigma="):
        lmm.MaximumLikelihood(sigma=sigma)


def test_under_jax() -> None:
    """The same numbers, and another known sigma compiles nothing."""
    rng = np.random.default_rng(0)
    g, x = np.arange(600) % 60, rng.normal(size=600)
    data = pd.DataFrame(
        {
            "y": x + rng.normal(size=60)[g] + rng.normal(size=60)[g] * x + rng.normal(size=600),
            "x": x,
            "g": g,
        }
    )
    fits = [
        lmm.lmer(
            "y ~ x + (x|g)",
            data,
            method=lmm.MaximumLikelihood(sigma=1.0, control=lmm.Control(backend=b)),
        )
        for b in ("numpy", "jax")
    ]
    assert fits[1].llf == pytest.approx(fits[0].llf, rel=1e-12)
    before = dict(backend.traces)
    lmm.lmer(
        "y ~ x + (x|g)",
        data,
        method=lmm.MaximumLikelihood(sigma=0.8, control=lmm.Control(backend="jax")),
    )
    assert dict(backend.traces) == before
