"""Expectation-maximisation: the optimum of the trust region, reached downhill, for every arrangement of terms."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import lmm
from lmm.estimators import Control, MaximumLikelihood
from lmm.estimators.em import ExpectationMaximization, climb, expansion, promised
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.linalg import threads
from lmm.model.problem import Problem, build_problem
from lmm.model.records import Estimate
from tests.algebra import Algebra, some_theta
from tests.designs import zoo

DESIGNS = zoo()
criteria = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
#: arrangements whose optimum has several singular terms, for which EM takes hundreds of steps
LONG = {"seven columns", "nested and crossed", "three deep and crossed"}
every = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in DESIGNS]
)


@cache
def problem(name: str) -> Problem:
    return build_problem(DESIGNS[name])


@cache
def fitted(name: str, reml: bool) -> Estimate:
    with threads.limited():
        return ExpectationMaximization(reml).fit(problem(name))


@every
@criteria
def test_the_optimum_is_that_of_the_likelihood(name: str, reml: bool) -> None:
    best = MaximumLikelihood(reml, Control(tolerance=1e-12)).fit(problem(name))
    found = fitted(name, reml)
    assert found.convergence.converged, found.convergence.message
    assert found.objective == pytest.approx(best.objective, abs=1e-6)
    assert found.theta == pytest.approx(best.theta, abs=1e-4)
    assert found.sigma == pytest.approx(best.sigma, rel=1e-5)
    assert (found.method, found.reml, found.n_parameters) == ("em", reml, best.n_parameters)


@every
@criteria
def test_accepted_steps_go_down(name: str, reml: bool) -> None:
    lines = fitted(name, reml).trace
    for search in {line.get("search", 0) for line in lines}:
        accepted = [
            line["objective"]
            for line in lines
            if line["accepted"] and line.get("search", 0) == search
        ]
        assert len(accepted) > 1
        assert np.diff(accepted).max() <= 1e-9
    assert all(
        {"theta", "sigma", "decrease", "step"} <= line.keys() for line in fitted(name, reml).trace
    )


@criteria
@pytest.mark.parametrize(
    "name",
    [
        "slope",
        "diagonal",
        "blocks",
        "slopes crossed",
        "nested",
        "weights and offset",
        "no fixed effects",
    ],
)
def test_a_plain_step_is_the_mean_of_conditional_second_moments(name: str, reml: bool) -> None:
    """(1/J) sum_j E[b_j b_j' | y] / sigma^2 by the inverse of Henderson's matrix, or of its random part for ML."""
    d, theta = DESIGNS[name], some_theta(DESIGNS[name])
    a, evaluate = Algebra(d, theta), Evaluator(problem(name), reml)
    point = evaluate(theta)
    G = a.L @ a.L.T
    Q = a.Zall.T @ (a.P if reml else a.Vinv) @ a.Zall
    C = G - G @ Q @ G
    b = G @ a.Zall.T @ a.P @ a.y / np.sqrt(evaluate.variance(point.payload.value))
    outcome = climb(evaluate, theta, 1e-12, 2, False, None)
    moved = problem(name).covariances(np.asarray(outcome.trace[1]["theta"]))
    for t, (term, own) in enumerate(zip(d.terms, moved, strict=True)):
        wanted = a.sum_of_blocks(C + np.outer(b, b), t) / term.J
        exact = term.structure.factor(term.structure.from_matrix(wanted))
        np.testing.assert_allclose(own, exact @ exact.T, rtol=1e-8, atol=1e-10)


def test_the_expanded_step_solves_its_quadratic() -> None:
    """A - I = -H^-1 g with g = 2 D G and H = 2 sum A_j (x) (b b' + G), entries row by row."""
    rng = np.random.default_rng(0)
    T = np.tril(rng.normal(size=(2, 2)))
    G, D, b = T @ T.T, rng.normal(size=(2, 2)), rng.normal(size=(2, 5))
    D = D + D.T
    own = rng.normal(size=(3, 2, 5))
    ZWZ = np.einsum("naj,nbj->abj", own, own)
    H = sum(np.kron(ZWZ[..., j], np.outer(b[:, j], b[:, j]) + G) for j in range(5))
    wanted = np.eye(2) - np.linalg.solve(3 * H, (D @ G).ravel()).reshape(2, 2)
    np.testing.assert_allclose(
        expansion(G, D, b, ZWZ, np.ones(4, dtype=bool), 3), wanted, rtol=1e-9
    )
    diagonal = expansion(G, D, b, ZWZ, np.eye(2, dtype=bool).ravel(), 3)
    assert diagonal[0, 1] == diagonal[1, 0] == 0.0


@criteria
def test_without_acceleration(reml: bool) -> None:
    """The same optimum in more steps."""
    plain = ExpectationMaximization(reml, accelerate=False).fit(problem("slope"))
    assert plain.convergence.converged
    assert plain.objective == pytest.approx(fitted("slope", reml).objective, abs=1e-8)
    assert plain.convergence.evaluations > 2 * fitted("slope", reml).convergence.evaluations


def test_order_of_rows_levels_and_terms() -> None:
    d = DESIGNS["slopes crossed"]
    rng = np.random.default_rng(3)
    rows = rng.permutation(d.n)
    terms = [
        replace(
            t, codes=rng.permutation(t.J)[t.codes[rows]].astype(np.int32), values=t.values[rows]
        )
        for t in d.terms[::-1]
    ]
    turned = build_problem(replace(d.with_mean(X=d.X[rows], terms=tuple(terms)), y=d.y[rows]))
    found = ExpectationMaximization().fit(turned)
    assert found.objective == pytest.approx(fitted("slopes crossed", True).objective, abs=1e-8)
    for mine, other in zip(
        found.factors[::-1], fitted("slopes crossed", True).factors, strict=True
    ):
        np.testing.assert_allclose(mine @ mine.T, other @ other.T, atol=1e-5)


def test_a_start_at_zero_is_left() -> None:
    """EM cannot leave a variance of zero by itself."""
    found = ExpectationMaximization().fit(problem("crossed"), np.zeros(2))
    assert found.objective == pytest.approx(fitted("crossed", True).objective, abs=1e-7)


def test_stopping() -> None:
    lines: list[dict] = []
    short = ExpectationMaximization(max_iterations=4).fit(problem("slope"), callback=lines.append)
    assert not short.convergence.converged
    assert "limit of 4" in short.convergence.message
    assert [line["objective"] for line in lines] == [line["objective"] for line in short.trace]
    only = ExpectationMaximization(control=Control(evaluate_only=True)).fit(
        problem("slope"), some_theta(DESIGNS["slope"])
    )
    assert only.convergence.evaluations == 1
    end = Evaluator(problem("slope"), True)(fitted("slope", True).theta)
    assert promised(end) < 1e-9


@pytest.mark.parametrize(
    "settings", [{"tolerance": 0.0}, {"tolerance": float("nan")}, {"max_iterations": 0}]
)
def test_bad_settings(settings: dict) -> None:
    with pytest.raises(lmm.ArgumentError, match=next(iter(settings))):
        lmm.ExpectationMaximization(**settings)


def test_by_name() -> None:
    data = lmm.datasets.load("sleepstudy")
    for REML in (True, False):
        em, usual = (
            lmm.lmer("Reaction ~ Days + (Days|Subject)", data, REML=REML, method=m)
            for m in ("em", None)
        )
        assert em.llf == pytest.approx(usual.llf, abs=1e-8)
        assert em.fixef().to_numpy() == pytest.approx(usual.fixef().to_numpy(), rel=1e-9)
        assert em.varcorr()["Subject"].to_numpy() == pytest.approx(
            usual.varcorr()["Subject"].to_numpy(), rel=1e-4
        )
        assert "expectation-maximisation" in str(em.summary())
    with pytest.raises(lmm.ArgumentError, match="linear models"):
        lmm.glmer(
            "cbind(incidence, size - incidence) ~ 1 + (1|herd)",
            lmm.datasets.load("cbpp"),
            family="binomial",
            method="em",
        )
