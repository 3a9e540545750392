"""Generalized models with large crossed factors: conjugate gradients and probes beside the exact factorisation."""

from __future__ import annotations

import numpy as np
import pytest

import lmm
from lmm import families
from lmm.design import build_design
from lmm.errors import ArgumentError, CapacityError, SingularFitWarning
from lmm.estimators.laplace import probed_laplace
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.laplace.probed_laplace import ProbedObjective
from lmm.linalg import plan as plans
from lmm.model.laplace.modes import find_modes
from lmm.model.laplace.start_values import starting_values
from lmm.model.probes import score_by_probes
from lmm.model.problem import GeneralizedProblem, build_generalized

ITERATIVE, EXACT = lmm.Control(factorization="iterative"), lmm.Control(factorization="exact")
FORMULA = "y ~ x + (1|a) + (1|b)"


def rows(n: int = 1_200, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    a, b, c, few = (rng.integers(0, J, n) for J in (60, 40, 12, 4))
    x = rng.standard_normal(n)
    eta = (
        -0.2
        + 0.3 * x
        + 0.6 * rng.standard_normal(60)[a]
        + 0.5 * rng.standard_normal(40)[b] * (1 + x)
        + 0.4 * rng.standard_normal(12)[c]
    )
    p = 1 / (1 + np.exp(-eta))
    trials = rng.binomial(5, p).astype(float)
    return {
        "x": x,
        "shift": 0.1 * x,
        "a": a,
        "b": b,
        "c": c,
        "few": few,
        "outer": a // 5,
        "y": (rng.random(n) < p).astype(float),
        "hits": trials,
        "misses": 5 - trials,
        "count": rng.poisson(np.exp(0.6 * eta)).astype(float),
        "size": rng.gamma(3.0, np.exp(0.5 * eta) / 3.0),
        "class": np.digitize(eta + rng.logistic(size=n), [-1.0, 0.0, 1.5]),
    }


def problems(
    formula: str, family: object, **settings: object
) -> tuple[GeneralizedProblem, GeneralizedProblem]:
    family = families.get(family)
    design = build_design(formula, rows(), family=family)
    family = design.family
    exact, iterative = (build_generalized(design, family, how) for how in ("exact", "iterative"))
    assert iterative.plan.iterative
    assert not exact.plan.iterative
    return exact, iterative


#: formula, family, curvature, whether small terms are iterative too
CASES = {
    "two factors": (FORMULA, "binomial", "observed", False),
    "slopes": ("count ~ x + (x|a) + (x|b)", "poisson", "observed", False),
    "a factor in the tail": ("count ~ x + (1|a) + (1|b) + (1|few)", "poisson", "observed", False),
    "two iterative factors": ("count ~ x + (1|a) + (1|b) + (1|c)", "poisson", "observed", True),
    "nested factors": ("y ~ x + (1|a) + (1|outer) + (1|b)", "binomial", "observed", False),
    "the larger first": ("count ~ x + (1|a) + (x|b) + (1|few)", "poisson", "observed", False),
    "counts with offset": (
        "cbind(hits, misses) ~ x + offset(shift) + (1|a) + (1|b)",
        "binomial",
        "observed",
        False,
    ),
    "no fixed effects": ("count ~ 0 + (1|a) + (1|b)", "poisson", "observed", False),
    "expected information": (FORMULA, families.Binomial(link="probit"), "expected", False),
    "observed information": (FORMULA, families.Binomial(link="probit"), "observed", False),
    "dispersion": ("size ~ x + (1|a) + (1|b)", families.Gamma(link="log"), "expected", False),
    "dispersion, observed": ("count ~ x + (1|a) + (1|b)", "negative_binomial", "observed", False),
    "thresholds": ("class ~ x + (1|a) + (1|b)", "ordinal", "observed", False),
}


@pytest.mark.parametrize("points", [1, 0])
@pytest.mark.parametrize("name", CASES)
def test_probes_whose_mean_square_is_the_identity_give_the_exact_gradient(
    name, points, monkeypatch
):
    # E[z z'] = I is all that unbiasedness needs of random signs; columns of sqrt(q) I fulfil it without chance
    formula, family, curvature, all_iterative = CASES[name]
    if all_iterative:
        monkeypatch.setattr(plans, "SMALL", 1)
    monkeypatch.setattr(probed_laplace, "TOLERANCE", 1e-10)
    monkeypatch.setattr(score_by_probes, "controlled", lambda xp, values, control: values)
    exact, iterative = problems(formula, family)
    assert (len(iterative.plan.iterative) == 2) == all_iterative
    one, other = (
        Objective(exact, curvature, points),
        ProbedObjective(iterative, lmm.Control(curvature=curvature), points),
    )
    other.probes = np.sqrt(other.q) * np.eye(other.q)
    psi = starting_values(exact)
    right, found = one.in_theta(one.enter(psi)), other.in_theta(other.enter(psi))
    scale = np.sqrt(np.abs(np.diagonal(right.hessian)))
    np.testing.assert_allclose(found.objective, right.objective, rtol=1e-9)
    np.testing.assert_allclose(found.gradient / scale, right.gradient / scale, atol=2e-5)
    np.testing.assert_allclose(
        found.hessian, right.hessian, atol=1e-5 * np.abs(right.hessian).max()
    )
    for mine, theirs in zip(found.payload.laplace.D, right.payload.laplace.D, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * np.abs(theirs).max() + 1e-4)


@pytest.mark.parametrize("name", ["two factors", "slopes", "a factor in the tail", "dispersion"])
def test_control_variates_have_the_mean_that_is_taken_for_theirs(name, monkeypatch):
    def checked(xp, values, control):
        np.testing.assert_allclose(
            control.mean(axis=0), 0.0, atol=1e-8 * np.abs(control).max() + 1e-10
        )
        assert np.abs(control).max() > 0.0
        return values

    formula, family, curvature, _ = CASES[name]
    monkeypatch.setattr(score_by_probes, "controlled", checked)
    _, iterative = problems(formula, family)
    objective = ProbedObjective(iterative, lmm.Control(curvature=curvature))
    objective.probes = np.sqrt(objective.q) * np.eye(objective.q)
    assert np.isfinite(objective.in_theta(objective.enter(starting_values(iterative))).objective)


def test_the_mode_is_that_of_the_exact_factorisation():
    exact, iterative = problems(FORMULA, families.Binomial(link="probit"))
    start = starting_values(exact)
    T = [s.factor(own) for s, own in zip(exact.structures, exact.split(start[:2]), strict=True)]
    u = [np.zeros((size.k, size.J)) for size in exact.plan.terms]
    one, other = (find_modes(p.family, p.rows, T, start[2:4], 1.0, u) for p in (exact, iterative))
    for mine, theirs in zip(other.b, one.b, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert other.steps <= one.steps + 2


@pytest.fixture(scope="module")
def fits():
    data = rows()
    return {
        nagq: lmm.glmer(FORMULA, data, family="binomial", nAGQ=nagq, control=EXACT)
        for nagq in (1, 0)
    }


@pytest.mark.parametrize("nagq", [1, 0])
@pytest.mark.parametrize("seed", [1, 2])
def test_estimates_are_the_exact_ones_within_their_stated_error(fits, nagq, seed):
    exact = fits[nagq]
    fit = lmm.glmer(
        FORMULA,
        rows(),
        family="binomial",
        nAGQ=nagq,
        control=lmm.Control(factorization="iterative", seed=seed),
    )
    said = fit.estimate.monte_carlo
    assert fit.convergence.converged
    assert said.probes >= probed_laplace.FIRM
    assert said.seed == seed
    assert said.relative.max() < 0.01
    assert abs(fit.llf - exact.llf) < 4.0 * said.log_likelihood + 1e-4
    spread = np.sqrt(np.diagonal(exact.estimator.covariance(exact.problem, exact.estimate)))[:2]
    # a search ends 0.001 standard errors from where the gradient is zero
    assert np.all(np.abs(fit.theta - exact.theta) < 4.0 * said.theta + 2e-3 * spread)
    np.testing.assert_allclose(fit.params, exact.params, atol=0.01 * exact.bse.min())
    np.testing.assert_allclose(fit.bse, exact.bse, rtol=5e-3)
    np.testing.assert_allclose(fit.ranef()["b"], exact.ranef()["b"], atol=5e-3)


def test_more_accuracy_takes_more_probes():
    control = lmm.Control(factorization="iterative", accuracy=2e-4)
    said = lmm.glmer(FORMULA, rows(), family="binomial", control=control).estimate.monte_carlo
    assert said.probes > probed_laplace.FIRM
    assert said.relative.max() < 4e-4


def test_a_variance_on_its_boundary_is_found_there_without_an_error_of_its_own():
    data, rng = rows(), np.random.default_rng(1)
    data["y"] = (
        rng.random(len(data["x"])) < 1 / (1 + np.exp(-0.8 * rng.standard_normal(60)[data["a"]]))
    ).astype(float)
    with pytest.warns(SingularFitWarning):
        exact = lmm.glmer(FORMULA, data, family="binomial", control=EXACT)
    with pytest.warns(SingularFitWarning):
        fit = lmm.glmer(FORMULA, data, family="binomial", control=ITERATIVE)
    assert exact.theta.iloc[1] == fit.theta.iloc[1] == 0.0
    np.testing.assert_allclose(fit.theta, exact.theta, atol=1e-4)
    assert fit.estimate.monte_carlo.theta[1] == fit.estimate.monte_carlo.relative[1] == 0.0


def test_what_needs_the_inverse_says_so(fits):
    fit = lmm.glmer(
        FORMULA,
        rows(),
        family="binomial",
        control=lmm.Control(factorization="iterative", accuracy=0.1),
    )
    assert "conjugate gradients" in str(fit.summary())
    for ask in (fit.ranef_cov, fit.profile, lambda: fit.tidy(effects="ran_vals")):
        with pytest.raises(
            CapacityError, match="b \\(40 levels\\) was solved by conjugate gradients"
        ):
            ask()
    with pytest.raises(CapacityError, match="exact factorisation"):
        Objective(fit.problem)
    np.testing.assert_allclose(fit.predict(), fits[1].predict(), atol=1e-3)
    y = rows()["y"]
    y[:20] = 1.0 - y[:20]
    assert fit.refit(y).estimate.monte_carlo is not None


def test_solves_give_standard_errors_of_predictions_and_leverages(fits):
    fit = lmm.glmer(FORMULA, rows(), family="binomial", control=ITERATIVE)
    new = {
        "x": np.array([0.0, 1.0, -1.0]),
        "a": np.array([0, 7, 999]),
        "b": np.array([3, 999, 999]),
    }
    found, right = (
        one.predict(new, se_fit=True, type="link", allow_new_levels=True) for one in (fit, fits[1])
    )
    np.testing.assert_allclose(found, right, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(fit.leverage(), fits[1].leverage(), rtol=2e-3)
    np.testing.assert_allclose(
        fit.cooks_distance(of="fixed"), fits[1].cooks_distance(of="fixed"), rtol=5e-3, atol=1e-6
    )


def test_methods_that_have_no_iterative_way_refuse_it():
    with pytest.raises(ArgumentError, match="factorization='iterative' is for"):
        lmm.glmer(FORMULA, rows(), family="binomial", method="pql", control=ITERATIVE)
    pyarrow = pytest.importorskip("pyarrow")
    reader = pyarrow.Table.from_pydict({k: v for k, v in rows().items() if k in "abxy"}).to_reader()
    with pytest.raises(ArgumentError, match="needs the rows of a generalized model in memory"):
        lmm.glmer(FORMULA, reader, family="binomial", control=ITERATIVE)


def test_one_factor_needs_no_probes():
    fit = lmm.glmer("y ~ x + (1|a)", rows(), family="binomial", control=ITERATIVE)
    assert fit.estimate.monte_carlo is None
