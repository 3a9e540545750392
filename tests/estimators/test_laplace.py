"""Generalized fits: where they end, what they must not depend on, and what they say when they cannot."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, ConvergenceWarning, LmmWarning
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.estimators.restart import heights
from lmm.families import Binomial, Family, Gamma, NegativeBinomial, Poisson
from lmm.model.problem import build_generalized
from lmm.model.records import Estimate
from lmm.search.boundary import is_singular
from tests.designs import zoo
from tests.generalized import case, derivative

CBPP = "cbind(incidence, size - incidence) ~ period + (1|herd)"
TICKS = "TICKS ~ YEAR + cHEIGHT + (1|BROOD) + (1|LOCATION)"
DESIGNS = zoo()
FAMILIES: list[Family] = [Binomial(), Poisson(), Gamma("log"), NegativeBinomial()]


@cache
def cbpp() -> pd.DataFrame:
    data = lmm.datasets.load("cbpp")
    return data.assign(
        prop=data["incidence"] / data["size"], obs=[f"o{i}" for i in range(len(data))]
    )


@cache
def ticks() -> pd.DataFrame:
    data = lmm.datasets.load("grouseticks")
    return data.assign(cHEIGHT=(data["HEIGHT"] - data["HEIGHT"].mean()) / 100)


def fit(formula: str, data: pd.DataFrame, family="binomial", **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LmmWarning)
        return lmm.glmer(formula, data, family=family, **arguments)


def assert_same(mine: Estimate, other: Estimate) -> None:
    """The same optimum: as close as two searches that stop 1e-9 above it come."""
    assert mine.convergence.converged, mine.convergence.message
    assert other.convergence.converged, other.convergence.message
    assert mine.objective == pytest.approx(other.objective, abs=1e-6)
    se = np.sqrt(np.diag(mine.beta_cov_unscaled))
    np.testing.assert_array_less(np.abs(mine.beta - other.beta), 2e-3 * se)
    for a, b in zip(mine.factors, other.factors, strict=True):
        np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-3)
    assert mine.phi == pytest.approx(other.phi, rel=1e-3)


@cache
def zoo_fit(name: str, family: Family) -> tuple[object, Estimate]:
    c = case(DESIGNS[name], family)
    problem = build_generalized(c.design, family)
    return problem, LaplaceLikelihood().fit(problem)


zoo_fits = [("crossed", f) for f in FAMILIES] + [
    ("slope", Binomial("probit")),
    ("nested and crossed", Poisson()),
    ("blocks", Gamma("log")),
]
every = pytest.mark.parametrize(
    ("name", "family"), zoo_fits, ids=[f"{n} {f.name}" for n, f in zoo_fits]
)


@every
def test_no_parameters_are_better(name: str, family: Family) -> None:
    """Near and far, in every direction."""
    problem, estimate = zoo_fit(name, family)
    assert estimate.convergence.converged
    method, rng = LaplaceLikelihood(), np.random.default_rng(0)
    best = np.concatenate(
        [estimate.theta, estimate.beta, [estimate.phi] if family.has_dispersion else []]
    )
    assert method.objective(problem, best) == pytest.approx(estimate.objective, abs=1e-8)
    for scale in (1e-3, 1e-2, 0.1):
        for _ in range(5):
            other = best * np.exp(scale * rng.normal(size=len(best)))
            assert method.objective(problem, other) >= estimate.objective - 1e-7


@every
def test_evaluations(name: str, family: Family) -> None:
    """A search takes few; where a variance vanished, the second look adds two searches and the values that it compares."""
    problem, estimate = zoo_fit(name, family)
    evaluations, lines = estimate.convergence.evaluations, len(estimate.trace)
    if is_singular(problem, estimate.theta):
        compared = sum(map(len, heights(problem, estimate.theta)))
        assert lines <= evaluations <= 3 * 25 + compared
    else:
        assert lines <= evaluations <= min(25, lines + 1)  # one more to set a variance to zero
    assert estimate.objective <= min(line["objective"] for line in estimate.trace) + 1e-7


hessians = [zoo_fits[i] for i in (0, 1, 2)]


@pytest.mark.parametrize(("name", "family"), hessians, ids=[f"{n} {f.name}" for n, f in hessians])
def test_covariance_is_the_inverse_hessian(name: str, family: Family) -> None:
    """Twice the inverse of the Hessian of -2 log-likelihood in (theta, beta, log phi), here by differences of the objective itself."""
    problem, estimate = zoo_fit(name, family)
    method = LaplaceLikelihood()
    best = np.concatenate(
        [estimate.theta, estimate.beta, [np.log(estimate.phi)] if family.has_dispersion else []]
    )

    def objective(at: np.ndarray) -> float:
        return method.objective(
            problem, np.concatenate([at[:-1], np.exp(at[-1:])]) if family.has_dispersion else at
        )

    covariance = method.covariance(problem, estimate)
    free = np.abs(best) > 0
    free[len(estimate.theta) :] = True
    # along the eigenvectors of the covariance, in standard errors, a parabola u'u
    values, vectors = np.linalg.eigh(covariance[np.ix_(free, free)])
    scale = np.zeros((len(best), int(free.sum())))
    scale[free] = vectors * np.sqrt(values)
    h = 0.02
    J0 = objective(best)
    H = np.empty((scale.shape[1],) * 2)
    for i, a in enumerate(h * scale.T):
        for j, b in enumerate(h * scale.T[: i + 1]):
            ends = (
                objective(best + a + b)
                + objective(best - a - b)
                - objective(best + a - b)
                - objective(best - a + b)
            )
            H[i, j] = H[j, i] = ends / (4 * h**2)
    np.testing.assert_allclose(H, 2 * np.eye(len(H)), atol=2e-3)
    assert objective(best) == J0
    assert not covariance[~free].any()
    assert not covariance[:, ~free].any()


def test_hessian_does_not_depend_on_the_step() -> None:
    """Against differences of fourth order of the gradient, modes found as closely as can be."""
    problem, estimate = zoo_fit("crossed", Poisson())
    objective = Objective(problem)
    psi = objective.pack(estimate.theta, estimate.beta, estimate.phi)
    found = objective.hessian(psi)
    objective.tolerance = 1e-20
    exact = derivative(lambda at: objective.in_theta(at).gradient, psi, 1e-3)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    np.testing.assert_allclose(found / scale, exact / scale, atol=1e-5)


def test_gradient_and_hessian_vanish_where_they_must() -> None:
    """At the optimum of cbpp the exact gradient is zero and the Hessian positive."""
    f = fit(CBPP, cbpp())
    objective = Objective(f.problem)
    psi = objective.pack(f.estimate.theta, f.estimate.beta, f.estimate.phi)
    assert objective.in_theta(psi).gradient == pytest.approx(np.zeros(5), abs=1e-3)
    assert np.linalg.eigvalsh(objective.hessian(psi))[0] > 0


# --- invariances -------------------------------------------------------------------------------------------


def test_row_order() -> None:
    shuffled = cbpp().sample(frac=1, random_state=3)
    assert_same(fit(CBPP, shuffled).estimate, fit(CBPP, cbpp()).estimate)


def test_names_of_levels() -> None:
    renamed = cbpp().assign(herd=("z" + (100 - cbpp()["herd"].astype(int)).astype(str)))
    assert_same(fit(CBPP, renamed).estimate, fit(CBPP, cbpp()).estimate)


def test_order_of_terms() -> None:
    one = fit(TICKS, ticks(), "poisson").estimate
    other = fit("TICKS ~ YEAR + cHEIGHT + (1|LOCATION) + (1|BROOD)", ticks(), "poisson").estimate
    assert_same(one, other)


def test_scale_and_origin_of_a_predictor() -> None:
    one = fit(TICKS, ticks(), "poisson")
    other = fit(TICKS, ticks().assign(cHEIGHT=1e5 * ticks()["cHEIGHT"] + 7e5), "poisson")
    assert other.llf == pytest.approx(one.llf, abs=1e-6)
    assert other.estimate.beta[-1] * 1e5 == pytest.approx(one.estimate.beta[-1], rel=1e-4)
    assert other.estimate.theta == pytest.approx(one.estimate.theta, rel=1e-3)


def test_a_constant_offset_moves_the_intercept() -> None:
    one = fit(TICKS, ticks(), "poisson").estimate
    other = fit(TICKS, ticks().assign(o=2.5), "poisson", offset="o").estimate
    assert_same(one, replace(other, beta=other.beta + [2.5, 0, 0, 0]))


def test_an_offset_is_a_fixed_coefficient() -> None:
    """With its own coefficient as offset a predictor adds nothing."""
    one = fit(TICKS, ticks(), "poisson")
    height = one.estimate.beta[-1] * ticks()["cHEIGHT"]
    other = fit(
        "TICKS ~ YEAR + offset(o) + (1|BROOD) + (1|LOCATION)", ticks().assign(o=height), "poisson"
    )
    assert other.llf == pytest.approx(one.llf, abs=1e-6)
    again = fit(TICKS, ticks().assign(o=height), "poisson", offset="o")
    assert again.llf == pytest.approx(one.llf, abs=1e-6)
    assert again.estimate.beta[-1] == pytest.approx(0.0, abs=1e-3)


def test_three_forms_of_a_binomial_response() -> None:
    """Successes and failures, a proportion with its trials, one row per animal up to the number of ways to draw them."""
    counts = fit(CBPP, cbpp())
    proportion = fit("prop ~ period + (1|herd)", cbpp(), weights="size")
    assert_same(counts.estimate, proportion.estimate)
    ill = np.concatenate(
        [[1] * i + [0] * (s - i) for i, s in zip(cbpp()["incidence"], cbpp()["size"], strict=True)]
    )
    animals = cbpp().loc[cbpp().index.repeat(cbpp()["size"])].assign(ill=ill)
    single = fit("ill ~ period + (1|herd)", animals)
    ways = counts.estimate.family.constant(
        cbpp()["prop"].to_numpy(), cbpp()["size"].to_numpy(float)
    ).sum()
    assert_same(
        replace(counts.estimate, objective=counts.estimate.objective + 2 * ways), single.estimate
    )
    words = fit("ill ~ period + (1|herd)", animals.assign(ill=np.where(ill == 1, "yes", "no")))
    assert_same(words.estimate, single.estimate)


# --- boundaries and failures -------------------------------------------------------------------------------


def glm_likelihood(y: np.ndarray, X: np.ndarray, family: Family) -> float:
    """Log-likelihood of a generalized linear model by plain Fisher scoring."""
    eta = family.link.link(family.initial_mu(y))
    for _ in range(50):
        W = family.expected_weights(eta).weight
        beta = np.linalg.solve(
            X.T @ (W[:, None] * X), X.T @ (W * eta + family.derivatives(y, eta).d1)
        )
        eta = X @ beta
    return float(family.log_density(y, eta).sum())


@pytest.mark.parametrize("family", [Binomial(), Poisson()], ids=["binomial", "poisson"])
def test_a_variance_of_zero_is_exactly_zero(family: Family) -> None:
    """Groups more alike than chance: the estimate is 0, not nearly, and the fit is the generalized linear model's."""
    x = np.tile(np.linspace(-1, 1, 12), 10)
    y = np.tile([0.0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 1], 10)
    data = pd.DataFrame({"y": y, "x": x, "g": np.repeat(np.arange(10), 12)})
    with pytest.warns(lmm.SingularFitWarning, match="zero"):
        f = lmm.glmer("y ~ x + (1|g)", data, family=family)
    assert f.estimate.theta.tolist() == [0.0]
    assert f.estimate.convergence.converged
    assert f.llf == pytest.approx(
        glm_likelihood(y, np.column_stack([np.ones(120), x]), family), abs=1e-7
    )
    covariance = f.estimator.covariance(f.problem, f.estimate)
    assert not covariance[0].any()
    assert np.all(np.diag(covariance)[1:] > 0)


def test_separation_is_told_of() -> None:
    """A predictor that tells successes from failures: coefficients run away, numbers stay finite, and the user hears of it."""
    rng = np.random.default_rng(0)
    x = np.repeat([0.0, 1.0], 60)
    data = pd.DataFrame(
        {
            "y": np.where(x == 1, 1.0, rng.integers(0, 2, 120)),
            "x": x,
            "g": rng.integers(0, 12, 120).astype(str),
        }
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        f = lmm.glmer("y ~ x + (1|g)", data, family="binomial")
    assert np.isfinite(f.llf)
    assert np.all(np.isfinite(f.estimate.beta))
    assert f.estimate.beta[1] > 8
    assert any("separat" in str(w.message) and "x" in str(w.message) for w in caught), [
        str(w.message) for w in caught
    ]
    assert np.all(np.isfinite(f.estimator.covariance(f.problem, f.estimate)))


def test_an_effect_per_observation() -> None:
    """Overdispersion by a level per row: not refused, and never a lower likelihood."""
    plain, more = (
        fit(CBPP, cbpp()),
        fit("cbind(incidence, size - incidence) ~ period + (1|herd) + (1|obs)", cbpp()),
    )
    assert more.estimate.convergence.converged
    assert more.llf > plain.llf + 1


def test_limit_of_evaluations() -> None:
    with pytest.warns(ConvergenceWarning, match="limit of 2 evaluations"):
        f = lmm.glmer(CBPP, cbpp(), family="binomial", control=lmm.Control(max_evaluations=2))
    assert not f.estimate.convergence.converged
    assert f.estimate.convergence.evaluations == 2


# --- starting values ---------------------------------------------------------------------------------------


def test_every_form_of_start_leads_to_the_same_fit() -> None:
    wanted = fit(TICKS, ticks(), "negative_binomial")
    e = wanted.estimate
    starts = [
        [1.0, 0.2],
        pd.Series([1.0, 0.2]),
        np.concatenate([e.theta, e.beta]),
        np.concatenate([e.theta, e.beta, [e.phi]]),
        {"theta": [1.0, 0.2]},
        {"theta": e.theta, "beta": 0.8 * e.beta},
        {"phi": 1.0, "beta": e.beta, "theta": e.theta},
    ]
    for start in starts:
        assert_same(fit(TICKS, ticks(), "negative_binomial", start=start).estimate, e)
    near = fit(
        TICKS, ticks(), "negative_binomial", start={"theta": e.theta, "beta": e.beta, "phi": e.phi}
    ).estimate
    assert near.convergence.evaluations <= 3


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ({"beta": [1.0] * 4}, "theta"),
        ({"theta": [1.0], "gamma": 1}, "keys"),
        ({"theta": [1.0], "beta": [0.0] * 3}, "shape"),
        ([1.0, 2.0], "shape"),
        ([np.nan], "not finite"),
        ({"theta": ["a"]}, "numbers"),
    ],
)
def test_starts_that_do_not_fit(start, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        lmm.glmer(CBPP, cbpp(), family="binomial", start=start)


@pytest.mark.parametrize("phi", [0.0, -1.0])
def test_a_dispersion_to_start_from_is_positive(phi: float) -> None:
    start = {"theta": [1.0, 1.0], "beta": [0.0] * 4, "phi": phi}
    with pytest.raises(ArgumentError, match="positive"):
        lmm.glmer(TICKS, ticks(), family="negative_binomial", start=start)


def test_a_start_without_a_likelihood() -> None:
    """Means below zero under an identity link."""
    with pytest.raises(ArgumentError, match="starting values"):
        lmm.glmer(
            "TICKS ~ 1 + (1|BROOD)",
            ticks(),
            family=Poisson("identity"),
            start={"theta": [0.1], "beta": [-5.0]},
        )


def test_evaluate_only() -> None:
    """Everything at the given parameters, which are not moved."""
    control = lmm.Control(evaluate_only=True)
    f = fit(CBPP, cbpp(), control=control, start={"theta": [0.9], "beta": [-1.0, -0.5, 0.0, 0.25]})
    assert f.estimate.theta.tolist() == [0.9]
    assert f.estimate.beta == pytest.approx([-1.0, -0.5, 0.0, 0.25], abs=1e-12)
    assert f.estimate.convergence.evaluations == 1
    assert -2 * f.llf == pytest.approx(
        f.estimator.objective(f.problem, np.array([0.9, -1.0, -0.5, 0.0, 0.25])), abs=1e-9
    )
    with pytest.raises(ArgumentError, match="start"):
        lmm.glmer(CBPP, cbpp(), family="binomial", control=control)


def test_counts_in_the_millions_leave_the_modes_their_digits():
    """With so much data per level T'e, a difference of large numbers, has few digits left; the modes come from b instead."""
    known = json.loads((Path(__file__).parents[1] / "reference" / "large_counts.json").read_text())
    data = pd.DataFrame({name: known[name] for name in ("y", "Days", "Subject")})
    fit = lmm.glmer("y ~ Days + (Days|Subject)", data, family="poisson")
    assert fit.convergence.converged and fit.convergence.evaluations < 60
    assert -1e-6 < fit.llf - np.ravel(known["llf"])[0] < 1e-4  # lme4 stops a little below
    np.testing.assert_allclose(fit.fixef(), known["beta"], atol=1e-3)


def test_a_search_that_ends_where_it_begins() -> None:
    """From the optimum: modes are first found roughly, and closely before the end is believed."""
    data = lmm.datasets.load("cbpp")
    formula = "cbind(incidence, size - incidence) ~ period + (1|herd)"
    fit = lmm.glmer(formula, data, family="binomial", control=lmm.Control(tolerance=1e-13))
    again = lmm.glmer(
        formula, data, family="binomial", start={"theta": fit.theta, "beta": fit.estimate.beta}
    )
    assert again.convergence.converged and again.convergence.evaluations < 4
    assert again.llf == pytest.approx(fit.llf, rel=1e-13)
    np.testing.assert_allclose(again.estimate.beta, fit.estimate.beta, rtol=1e-6)


def test_trial_points_where_equations_cannot_be_solved_give_no_warnings_of_numpy():
    """On the way of this search a system I + T'AT is not positive definite."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame(
        {"g": rng.integers(0, 6, 48), "x": rng.normal(size=48), "f": rng.choice(list("abc"), 48)}
    )
    data["y"] = rng.poisson(
        np.exp(np.clip(1.5 * rng.normal(size=6)[data["g"]] + data["x"], -4.0, 4.0))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fit = lmm.glmer("y ~ x + (f|g)", data, family="poisson")
    assert fit.convergence.converged
