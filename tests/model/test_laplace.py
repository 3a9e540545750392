"""Laplace's approximation and its gradient, against dense matrices, finite differences and the linear model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from lmm.estimators import Control, MaximumLikelihood
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.families import (
    FAMILIES,
    Binomial,
    Gamma,
    Gaussian,
    InverseGaussian,
    NegativeBinomial,
    NegativeBinomial1,
    Poisson,
)
from lmm.linalg.factorisation import BlockFactorisation
from lmm.model.laplace.laplace import Laplace, laplace
from lmm.model.laplace.leverage import leverages, tables
from lmm.model.laplace.modes import MAX_STEPS, find_modes
from lmm.model.problem import GeneralizedProblem, build_generalized, build_problem
from lmm.search import trust_region
from tests.algebra import some_theta
from tests.designs import design, term, zoo
from tests.families.cases import CUSTOM_GAMMA
from tests.generalized import Case, DenseLaplace, case, derivative, flat

DESIGNS = zoo()
ALL = [f(link) for f in FAMILIES.values() if f.has_intercept for link in f.link_names]
#: a canonical link, one that is not, a dispersion, the observed information unlike the expected
SOME = [Binomial(), Binomial("cloglog"), Gamma("log"), NegativeBinomial()]
#: one of each way that the elimination can go
ARRANGEMENTS = ["crossed", "nested", "slopes crossed", "three deep and crossed"]
informations = pytest.mark.parametrize("observed", [False, True], ids=["expected", "observed"])


def families(those: list) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("family", those, ids=[f"{f.name} {f.link.name}" for f in those])


@cache
def problem(name: str) -> GeneralizedProblem:
    """The rows of a design; the response is put in by :func:`made`."""
    return build_generalized(DESIGNS[name], Poisson())


def made(name: str, family, kind: str) -> tuple[Case, GeneralizedProblem]:
    c = case(DESIGNS[name], family, kind)
    rows = replace(
        problem(name).rows, y=c.design.y, weights=c.design.weights, offset=c.design.offset
    )
    return c, replace(problem(name), rows=rows, family=family)


def evaluated(c: Case, p: GeneralizedProblem, observed: bool) -> Laplace:
    T = [s.factor(own) for s, own in zip(p.structures, p.split(c.theta), strict=True)]
    u = [np.zeros((size.k, size.J)) for size in p.plan.terms]
    return laplace(c.family, p.rows, T, p.rows.R @ c.beta, c.phi, u, observed)


def check_against_dense(c: Case, p: GeneralizedProblem, observed: bool) -> None:
    mine, exact = evaluated(c, p, observed), DenseLaplace(c, observed)
    assert mine.objective == pytest.approx(exact.objective, rel=1e-10, abs=1e-8)
    np.testing.assert_allclose(mine.mode.eta, exact.eta, atol=3e-6)
    np.testing.assert_allclose(flat(mine.mode.b), exact.b, atol=3e-6)
    np.testing.assert_allclose(flat(mine.e), exact.e, atol=1e-5 * max(1.0, np.abs(exact.e).max()))
    R = p.rows.R
    scale = max(1.0, np.abs(exact.information).max(initial=0.0))
    np.testing.assert_allclose(R.T @ mine.information @ R, exact.information, atol=1e-6 * scale)
    np.testing.assert_allclose(R.T @ flat(mine.fixed), exact.fixed.T, atol=1e-6 * scale)


@pytest.mark.parametrize("name", DESIGNS)
@families(SOME)
@informations
def test_every_arrangement_is_its_definition(name: str, family, observed: bool) -> None:
    check_against_dense(*made(name, family, "interior"), observed)


@pytest.mark.parametrize("kind", ["singular", "zero"])
@pytest.mark.parametrize("name", ARRANGEMENTS)
@families([Binomial(), Gamma("log")])
def test_singular_factors_are_no_special_case(name: str, kind: str, family) -> None:
    check_against_dense(*made(name, family, kind), observed=False)


@families(ALL)
@informations
def test_every_family_is_its_definition(family, observed: bool) -> None:
    if observed and family.is_canonical:
        pytest.skip("observed and expected information are the same")
    if not observed and not family.has_information:
        pytest.skip("the determinant takes the observed information always")
    check_against_dense(*made("crossed", family, "interior"), observed)


def gradient_and_differences(
    c: Case, p: GeneralizedProblem, curvature: str, h: float
) -> tuple[np.ndarray, np.ndarray]:
    objective = Objective(p, curvature)
    psi = objective.pack(c.theta, c.beta, c.phi)
    return objective.in_theta(psi).gradient, derivative(
        lambda at: objective.in_theta(at).objective, psi, h
    )


def step(c: Case) -> float:
    """Short where the predictor has an end not far away."""
    return 1e-3 if not any(np.isfinite(c.family.eta_bounds)) else 2e-4


@families(ALL)
@pytest.mark.parametrize("name", ["crossed", "nested"])
@informations
def test_gradient_of_every_family(name: str, family, observed: bool) -> None:
    if observed and family.is_canonical:
        pytest.skip("observed and expected information are the same")
    c, p = made(name, family, "interior")
    mine, numeric = gradient_and_differences(c, p, "observed" if observed else "expected", step(c))
    np.testing.assert_allclose(
        mine, numeric, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(numeric).max())
    )


@families([CUSTOM_GAMMA])
def test_gradient_of_a_users_family(family) -> None:
    c, p = made("scalar", family, "interior")
    mine, numeric = gradient_and_differences(c, p, "observed", 1e-3)
    np.testing.assert_allclose(
        mine, numeric, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(numeric).max())
    )


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize(
    ("family", "kind"),
    [(Binomial("probit"), "interior"), (NegativeBinomial(), "singular")],
    ids=["probit", "singular"],
)
def test_gradient_of_every_arrangement(name: str, family, kind: str) -> None:
    c, p = made(name, family, kind)
    mine, numeric = gradient_and_differences(c, p, "expected", step(c))
    np.testing.assert_allclose(
        mine, numeric, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(numeric).max())
    )


@pytest.mark.parametrize("name", ["nested", "slopes crossed"])
@families([Binomial(), NegativeBinomial1()])
@pytest.mark.parametrize("kind", ["interior", "singular"])
def test_gradient_along_the_charts(name: str, family, kind: str) -> None:
    """The coordinates in which steps are taken."""
    c, p = made(name, family, kind)
    objective = Objective(p)
    psi = objective.pack(c.theta, c.beta, c.phi)
    numeric = derivative(lambda s: objective(objective.move(psi, s)).objective, np.zeros(len(psi)))
    np.testing.assert_allclose(
        objective(psi).gradient, numeric, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(numeric).max())
    )


@pytest.mark.parametrize("name", DESIGNS)
def test_leverages(name: str) -> None:
    """z_i'(Z'WZ + G^-1)^-1 z_i of every row."""
    c, p = made(name, Poisson(), "interior")
    at = evaluated(c, p, False).factorisation
    assert isinstance(at, BlockFactorisation)
    np.testing.assert_allclose(
        leverages(p.rows, tables(at)), DenseLaplace(c, False).leverages, rtol=1e-6
    )


@pytest.mark.parametrize("name", DESIGNS)
def test_a_gaussian_model_is_the_linear_one(name: str) -> None:
    """The same -2 log-likelihood at the same parameters, stationary where beta and the scale of all variances were profiled out."""
    d = DESIGNS[name]
    theta = some_theta(d)
    linear = MaximumLikelihood(False, Control(evaluate_only=True)).fit(build_problem(d), theta)
    p = build_generalized(d, Gaussian())
    objective = Objective(p)
    T = [linear.sigma * own for own in linear.factors]
    u = [np.zeros((size.k, size.J)) for size in p.plan.terms]
    mine = laplace(
        p.family, p.rows, T, p.rows.R @ linear.beta, linear.sigma**2, u, objective.observed
    )
    assert mine.objective == pytest.approx(linear.objective, rel=1e-10)
    np.testing.assert_allclose(mine.d_gamma, 0.0, atol=1e-6)
    along_scale = float(mine.parameters.gradient[0]) + sum(
        float(np.sum(D * (t @ t.T))) for D, t in zip(mine.D, T, strict=True)
    )
    assert along_scale == pytest.approx(0.0, abs=1e-6)
    for b, modes in zip(mine.mode.b, linear.modes, strict=True):
        np.testing.assert_allclose(b.T, modes, atol=1e-7)


@families(
    [
        Binomial(),
        Poisson(),
        Poisson("identity"),
        Gamma(),
        InverseGaussian("log"),
        Gaussian("log"),
        Binomial("cauchit"),
    ]
)
def test_mode_from_a_bad_start(family) -> None:
    """Step-halving reaches the same mode from far away, and from where the density is not even finite."""
    c, p = made("slopes crossed", family, "interior")
    T = [s.factor(own) for s, own in zip(p.structures, p.split(c.theta), strict=True)]
    zero = [np.zeros((size.k, size.J)) for size in p.plan.terms]
    gamma = p.rows.R @ c.beta
    good = find_modes(family, p.rows, T, gamma, c.phi, zero)
    assert good.steps < MAX_STEPS
    rng = np.random.default_rng(4)
    for scale in (1.0, 30.0, 1e4):
        bad = find_modes(
            family, p.rows, T, gamma, c.phi, [scale * rng.normal(size=own.shape) for own in zero]
        )
        assert bad.steps < MAX_STEPS
        np.testing.assert_allclose(bad.eta, good.eta, atol=1e-7, err_msg=f"started at {scale}")
        np.testing.assert_allclose(flat(bad.u), flat(good.u), atol=1e-6)


@families([Poisson(), Binomial(), NegativeBinomial()])
def test_an_effect_per_observation(family) -> None:
    """As many levels as rows, crossed with a factor: overdispersion."""
    rng = np.random.default_rng(5)
    n = 80
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    ones = np.ones((n, 1))
    own = design(
        np.zeros(n), X, [term("obs", np.arange(n), ones), term("g", rng.integers(0, 8, n), ones)]
    )
    c = case(own, family)
    p = build_generalized(c.design, family)
    check_against_dense(c, p, False)
    mine, numeric = gradient_and_differences(c, p, "expected", 1e-3)
    np.testing.assert_allclose(mine, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max())


@families([Binomial(), Poisson(), Gamma("log")])
def test_extreme_parameters_stay_finite(family) -> None:
    """Objective and gradient are numbers, or the objective is infinite and the point refused: never NaN."""
    c, p = made("nested and crossed", family, "interior")
    objective = Objective(p)
    rng = np.random.default_rng(6)
    for scale in (10.0, 100.0, 1e3, 1e5):
        point = objective.in_theta(
            objective.pack(
                scale * rng.normal(size=len(c.theta)), scale * rng.normal(size=p.p), c.phi
            )
        )
        assert not np.isnan(point.objective)
        assert np.all(np.isfinite(point.gradient))
        assert np.all(np.isfinite(point.hessian))


def test_no_likelihood_without_a_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the search for the modes fails there is no expansion: a search led there by a poor model Hessian turns back."""
    _, p = made("three columns", Gamma("log"), "interior")
    wanted = LaplaceLikelihood().fit(p)
    monkeypatch.setattr(trust_region, "secant", lambda correction, *_: correction)
    found = LaplaceLikelihood().fit(p)
    assert found.convergence.converged
    assert found.objective == pytest.approx(wanted.objective, abs=1e-6)
