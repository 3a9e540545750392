"""Fits with iterative terms against exact ones, and whether the Monte Carlo error that they state is right."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm
from benchmarks.movies import movies
from lmm.design import build_design
from lmm.estimators.control import Control
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.estimators.likelihood.probed_criterion import StochasticEvaluator, widening
from lmm.linalg import threads
from lmm.model.problem import build_problem

ITERATIVE, EXACT = Control(factorization="iterative"), Control(factorization="exact")


def data(n: int = 6_000, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    d = pd.DataFrame(
        {
            "a": rng.integers(0, 500, n),
            "b": rng.integers(0, 200, n),
            "c": rng.integers(0, 150, n),
            "x": rng.normal(size=n),
        }
    )
    d["h"], d["k"], d["w"] = d.a // 10, rng.integers(0, 12, n), rng.uniform(0.5, 2.0, n)
    d["y"] = (
        1
        + 0.5 * d.x
        + 0.7 * rng.normal(size=500)[d.a]
        + 0.5 * rng.normal(size=200)[d.b]
        + 0.3 * rng.normal(size=200)[d.b] * d.x
    )
    d["y"] += (
        0.3 * rng.normal(size=150)[d.c]
        + 0.3 * rng.normal(size=50)[d.h]
        + 0.2 * rng.normal(size=12)[d.k]
        + rng.normal(size=n)
    )
    return d


MODELS = {
    "two crossed": ("y ~ x + (1|a) + (1|b)", {}),
    "slopes in the iterative term": ("y ~ x + (1|a) + (x|b)", {}),
    "slopes in both": ("y ~ x + (x|a) + (x||b)", {"REML": False}),
    "two iterative terms, weights": ("y ~ x + (1|a) + (1|b) + (1|c)", {"weights": "w"}),
    "nested inside crossed, and a small factor": ("y ~ x + (1|a) + (1|h) + (1|b) + (1|k)", {}),
    "no fixed effects": ("y ~ 0 + (1|a) + (1|b)", {"REML": False}),
}


@pytest.mark.parametrize("name", MODELS)
def test_exact_and_iterative_agree_within_the_stated_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmm.linalg.plan.SMALL", 20)
    formula, settings = MODELS[name]
    exact = lmm.lmer(formula, data(), control=EXACT, **settings)
    found = lmm.lmer(formula, data(), control=ITERATIVE, **settings)
    errors = found.estimate.monte_carlo
    assert found.convergence.converged and errors is not None and found.design.plan.iterative
    assert np.all(errors.relative <= 0.01)
    # five errors, and a thousandth of a standard error for where the search stops
    one = np.divide(
        errors.theta, errors.relative, out=np.zeros_like(errors.theta), where=errors.relative > 0
    )
    allowed = 5.0 * errors.theta + 1e-3 * one
    assert np.all(np.abs(found.theta - exact.theta) <= allowed + 1e-6)
    assert abs(found.llf - exact.llf) <= 5.0 * found.llf.mc_error
    assert np.all(np.abs(found.fixef() - exact.fixef()) <= 0.01 * exact.bse)
    np.testing.assert_allclose(found.bse, exact.bse, rtol=1e-3)
    np.testing.assert_allclose(found.sigma, exact.sigma, rtol=1e-4)
    for group, effects in exact.ranef().items():
        assert float(np.abs(effects - found.ranef()[group]).to_numpy().max()) < 0.01


def test_a_vanished_variance_and_a_correlation_of_one() -> None:
    rng = np.random.default_rng(0)
    d = data()
    d["y"] = (
        rng.normal(size=len(d))
        + rng.normal(size=500)[d.a]
        + rng.normal(size=200)[d.b] * (1 + 0.5 * d.x)
    )
    for formula in ("y ~ x + (1|a) + (x|b)", "y ~ x + (1|a) + (1|c)"):
        with pytest.warns(lmm.SingularFitWarning):
            exact = lmm.lmer(formula, d, control=EXACT)
        with pytest.warns(lmm.SingularFitWarning):
            found = lmm.lmer(formula, d, control=ITERATIVE)
        assert found.is_singular() and found.convergence.converged
        np.testing.assert_allclose(found.theta, exact.theta, atol=2e-3)
        assert abs(found.llf - exact.llf) <= 5.0 * found.llf.mc_error + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [0, 20])
def test_the_stated_error_is_right_over_a_hundred_seeds(clusters: int) -> None:
    """Squares of errors over the stated ones average one; with 100 of them and 15 degrees of freedom each, to about 0.2."""
    d = movies(3_000, 150, 80, seed=3, clusters=clusters, within=0.9 if clusters else 0.0)
    design = build_design("rating ~ 1 + (1|user) + (1|movie)", d)
    problem = build_problem(design, factorization="iterative")
    with threads.limited():
        exact = MaximumLikelihood().fit(build_problem(design, factorization="exact"))
        fits = [MaximumLikelihood(control=Control(seed=seed)).fit(problem) for seed in range(100)]
    assert all(fit.convergence.converged for fit in fits)
    square = np.mean([(fit.theta - exact.theta) ** 2 for fit in fits], axis=0)
    stated = np.mean([fit.monte_carlo.theta**2 for fit in fits], axis=0)
    assert np.all((square > 0.5 * stated) & (square < 1.8 * stated)), square / stated
    llf = np.mean([(fit.objective - exact.objective) ** 2 / 4 for fit in fits])
    stated_llf = np.mean([fit.monte_carlo.log_likelihood**2 for fit in fits])
    assert 0.5 * stated_llf < llf < 1.8 * stated_llf
    assert max(fit.monte_carlo.relative.max() for fit in fits) <= 0.01
    each = np.array(
        [(fit.theta - exact.theta) / fit.monte_carlo.theta for fit in fits]
    )  # small stated errors go with no large ones
    assert np.sqrt(np.mean(each**2, axis=0)).max() < 1.25


def test_the_error_stated_by_few_probes_is_widened_so_that_it_holds() -> None:
    """Twenty seeds at 16 probes, where unwidened errors give a root mean square of about 1.4 and largest ones above 4."""
    rng = np.random.default_rng(3)
    d = pd.DataFrame(
        {
            "a": rng.integers(0, 3_000, 20_000),
            "b": rng.integers(0, 1_500, 20_000),
            "y": rng.normal(size=20_000),
        }
    )
    d["y"] += 0.5 * rng.normal(size=3_000)[d.a] + 0.7 * rng.normal(size=1_500)[d.b]
    design = build_design("y ~ 1 + (1|a) + (1|b)", d)
    problem = build_problem(design, factorization="iterative")
    with threads.limited():
        exact = MaximumLikelihood().fit(build_problem(design, factorization="exact"))
        fits = [MaximumLikelihood(control=Control(seed=seed)).fit(problem) for seed in range(20)]
    assert all(fit.monte_carlo.probes == 16 for fit in fits)
    z = np.array([(fit.theta - exact.theta) / fit.monte_carlo.theta for fit in fits])
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.3
    assert (
        1.3 < widening(16) < 1.7
        and 1.0 < widening(64) < 1.1
        and widening(100_000) == pytest.approx(1.0, abs=1e-3)
    )


def test_more_probes_are_taken_until_the_error_is_small_enough() -> None:
    few = lmm.lmer(
        "y ~ x + (1|a) + (1|b)",
        data(),
        control=Control(factorization="iterative", probes=4, accuracy=1.0),
    ).estimate
    many = lmm.lmer(
        "y ~ x + (1|a) + (1|b)",
        data(),
        control=Control(factorization="iterative", probes=4, accuracy=0.001),
    ).estimate
    assert few.monte_carlo.probes == 64 < many.monte_carlo.probes
    assert many.monte_carlo.relative.max() <= 0.001
    assert many.monte_carlo.theta.max() < few.monte_carlo.theta.max()


def test_score_and_information_are_those_of_the_exact_criterion() -> None:
    design = build_design("y ~ x + (1|a) + (x|b)", data())
    problem = build_problem(design, factorization="iterative")
    theta = np.array([0.5, 0.7, 0.1, 0.2])
    exact = MaximumLikelihood()
    plain = build_problem(design, factorization="exact")
    evaluate = StochasticEvaluator(problem, True, None, Control(probes=200))
    point = evaluate.in_theta(theta)
    noise = np.sqrt(
        np.diagonal(np.cov(np.stack([per_probe(point, i) for i in range(200)]).T)) / 200
    )
    assert np.all(np.abs(point.gradient - exact.gradient(plain, theta)) < 5.0 * noise + 1e-3)
    settled, error = evaluate.settled(point)
    assert abs(settled.objective - exact.objective(plain, theta)) < 5.0 * error
    # what is no trace is exact: beta, sigma^2
    from lmm.estimators.likelihood.profiled import Evaluator

    other = Evaluator(plain, True).in_theta(theta)
    np.testing.assert_allclose(
        point.payload.value.beta, other.payload.value.beta, rtol=1e-8, atol=1e-10
    )
    np.testing.assert_allclose(
        float(point.payload.value.r2), float(other.payload.value.r2), rtol=1e-10
    )


def per_probe(point, i: int) -> np.ndarray:  # noqa: ANN001
    from lmm.estimators.likelihood.profiled import slope

    return slope([p[i] for p in point.payload.probes], point.payload.frame)


def test_the_result_says_how_it_was_found_and_carries_its_error() -> None:
    fit = lmm.lmer("y ~ x + (1|a) + (1|b)", data(), control=ITERATIVE)
    text = " ".join(str(fit.summary()).split())
    assert "Effects of b by conjugate gradients" in text and "64 random probes" in text
    assert "b: 200 levels x 1, by conjugate gradients" in str(fit.design.plan)
    again = pickle.loads(pickle.dumps(fit))
    assert again.llf == fit.llf and again.llf.mc_error == fit.llf.mc_error > 0
    assert isinstance(fit.llf, float)
    assert not hasattr(lmm.lmer("y ~ x + (1|a) + (1|b)", data(), control=EXACT).llf, "mc_error")


def test_the_same_seed_gives_the_same_fit_and_rows_may_come_in_any_order() -> None:
    d = data()
    first = lmm.lmer("y ~ x + (1|a) + (1|b)", d, control=ITERATIVE)
    shuffled = lmm.lmer(
        "y ~ x + (1|a) + (1|b)", d.sample(frac=1.0, random_state=1), control=ITERATIVE
    )
    np.testing.assert_allclose(first.theta, shuffled.theta, rtol=1e-8)
    other = lmm.lmer("y ~ x + (1|a) + (1|b)", d, control=Control(factorization="iterative", seed=2))
    assert not np.array_equal(first.theta, other.theta)


def test_models_compared_with_the_same_probes_share_their_error() -> None:
    d = data()
    exact = [
        lmm.lmer(f, d, REML=False, control=EXACT).llf
        for f in ("y ~ x + (1|a) + (1|b)", "y ~ (1|a) + (1|b)")
    ]
    found = [
        lmm.lmer(f, d, REML=False, control=ITERATIVE).llf
        for f in ("y ~ x + (1|a) + (1|b)", "y ~ (1|a) + (1|b)")
    ]
    assert (found[0] - found[1]) == pytest.approx(exact[0] - exact[1], rel=1e-3)


def test_what_follows_a_fit_works_from_solves_or_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    d = data(3_000)
    exact = lmm.lmer("y ~ x + (1|a) + (x|b)", d, control=EXACT)
    fit = lmm.lmer("y ~ x + (1|a) + (x|b)", d, control=ITERATIVE)
    mine, theirs = fit.coef_table(ddf="satterthwaite"), exact.coef_table(ddf="satterthwaite")
    np.testing.assert_allclose(
        mine["df"], theirs["df"], rtol=0.05
    )  # average information in place of the Hessian
    np.testing.assert_allclose(fit.predict(d.iloc[:9]), exact.predict(d.iloc[:9]), atol=0.01)
    new = d.iloc[:9].assign(a=[999, *d.a.iloc[1:9]])
    ours, theirs = (m.predict(new, se_fit=True, allow_new_levels=True)["se"] for m in (fit, exact))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    np.testing.assert_allclose(fit.leverage(), exact.leverage(), rtol=5e-3)
    with monkeypatch.context() as fewer:
        fewer.setattr("lmm.linalg.factorisation.SOLVES", 5)
        with pytest.raises(
            lmm.LmmError,
            match="The variance of 9 predictions, one solve for each, .* needs the exact factorisation",
        ):
            fit.predict(new, se_fit=True, allow_new_levels=True)
    assert fit.bootstrap(3, rng=1).replicates.notna().all().all()
    assert fit.objective(fit.theta.to_numpy()) == pytest.approx(
        exact.objective(exact.theta.to_numpy()), abs=3.0
    )
    for ask in (
        lambda: fit.ranef_cov(),
        lambda: fit.coef_table(ddf="kenward_roger"),
        lambda: fit.confint(method="profile"),
    ):
        with pytest.raises(
            lmm.LmmError,
            match="needs the exact factorisation, but b .200 levels. was solved by conjugate gradients",
        ):
            ask()
    assert "outliers" in str(fit.check())


def test_methods_that_have_no_iterative_way_say_so() -> None:
    with pytest.raises(
        lmm.LmmError, match="factorization='iterative' is for method='reml', 'ml' and 'laplace'"
    ):
        lmm.lmer("y ~ x + (1|a) + (1|b)", data(), method="em", control=ITERATIVE)
    with pytest.raises(lmm.LmmError, match="factorization='iteratve' is not one of .*iterative"):
        Control(factorization="iteratve")
    with pytest.raises(lmm.LmmError, match="probes=2 must be a whole number, 4 or more"):
        Control(probes=2)
    with pytest.raises(lmm.LmmError, match="accuracy=0 must be a positive number"):
        Control(accuracy=0)


@pytest.mark.slow
def test_jax_gives_the_same_fit_and_a_second_one_compiles_nothing() -> None:
    from lmm.linalg.devices.backend import traces

    d = data(2_000)
    plain = lmm.lmer("y ~ x + (1|a) + (1|b)", d, control=ITERATIVE)
    control = Control(factorization="iterative", backend="jax")
    fit = lmm.lmer("y ~ x + (1|a) + (1|b)", d, control=control)
    np.testing.assert_allclose(fit.theta, plain.theta, rtol=1e-6)
    np.testing.assert_allclose(fit.llf, plain.llf, rtol=1e-10)
    np.testing.assert_allclose(
        fit.coef_table(ddf="satterthwaite")["df"],
        plain.coef_table(ddf="satterthwaite")["df"],
        rtol=1e-6,
    )
    count = traces["derivatives"], traces["log_determinant"]
    d["y"] = d["y"] + 0.1 * np.random.default_rng(1).normal(size=len(d))
    lmm.lmer("y ~ x + (1|a) + (1|b)", d, control=control)
    assert (traces["derivatives"], traces["log_determinant"]) == count
