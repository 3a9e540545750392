"""Conditional covariances and prediction variances against the inverse of Henderson's matrix and against V."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from lmm.design.terms import Incidence
from lmm.estimators import Control, MaximumLikelihood
from lmm.linalg import coupling, factorisation
from lmm.model.conditional import covariances, prediction_variance
from lmm.model.gaussian.system import make_system
from lmm.model.problem import Problem, build_problem
from lmm.model.records import Estimate
from tests.algebra import Algebra, thetas
from tests.designs import zoo

DESIGNS = zoo()
CASES = [(name, kind) for name in DESIGNS for kind in ("interior", "singular", "zero")]
cases = pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{n}-{k}" for n, k in CASES])
Terms = list[Incidence | None]


@cache
def case(name: str, kind: str) -> tuple[Problem, Estimate, Algebra]:
    d = DESIGNS[name]
    theta, problem = thetas(d)[kind], build_problem(d)
    return (
        problem,
        MaximumLikelihood(True, Control(evaluate_only=True)).fit(problem, theta),
        Algebra(d, theta),
    )


def new_rows(name: str, m: int, seed: int) -> tuple[np.ndarray, Terms]:
    """Rows of any combination of levels, observed together or not, a fifth of them at new levels."""
    d = DESIGNS[name]
    rng = np.random.default_rng(seed)
    terms: Terms = []
    for term in d.terms:
        codes = rng.integers(0, term.J, m)
        codes[rng.uniform(size=m) < 0.2] = -1
        terms.append(Incidence(codes, rng.normal(size=(m, term.k))))
    return rng.normal(size=(m, d.p)), terms


def by_covariances(exact: Algebra, sigma: float, X: np.ndarray, terms: Terms) -> np.ndarray:
    """Var(x'beta + z'b - l'y) with l the weights of the best linear unbiased predictor, from V alone."""
    G = exact.L @ exact.L.T
    z, extra = np.zeros((len(X), exact.q)), np.zeros(len(X))
    for own, T, columns, at in zip(exact.design.terms, exact.T, terms, exact.slices, strict=True):
        if columns is None:
            continue
        for i, (code, values) in enumerate(zip(columns.codes, columns.values, strict=True)):
            if code < 0:
                extra[i] += values @ T @ T.T @ values
            else:
                z[i, at.start + np.arange(own.k) * own.J + code] = values
    weights = exact.Vinv @ exact.design.X @ exact.cov @ X.T + exact.P @ exact.Zall @ G @ z.T
    GZw = G @ exact.Zall.T @ weights
    variance = (
        np.einsum("nm,nm->m", weights, exact.V @ weights)
        - 2 * np.einsum("mq,qm->m", z, GZw)
        + np.einsum("mq,qr,mr->m", z, G, z)
    )
    return sigma**2 * (variance + extra)


@cases
def test_conditional_covariances(name: str, kind: str) -> None:
    problem, estimate, exact = case(name, kind)
    for mine, term, own in zip(
        covariances(problem, estimate), exact.design.terms, exact.slices, strict=True
    ):
        wanted = exact.N[own, own].reshape(term.k, term.J, term.k, term.J)
        np.testing.assert_allclose(
            mine, estimate.sigma**2 * np.einsum("ajbj->jab", wanted), atol=1e-10
        )


@cases
def test_prediction_variance(name: str, kind: str) -> None:
    problem, estimate, exact = case(name, kind)
    X, terms = new_rows(name, 40, seed=1)
    found = prediction_variance(problem, estimate, X, terms)
    np.testing.assert_allclose(
        found, by_covariances(exact, estimate.sigma, X, terms), rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("name", DESIGNS)
def test_prediction_variance_of_the_rows_is_hendersons(name: str) -> None:
    """The rows that were observed, by the inverse of the mixed-model equations."""
    problem, estimate, exact = case(name, "interior")
    d = exact.design
    WX, WZ = d.X * exact.w[:, None], exact.Zall * exact.w[:, None]
    henderson = np.block(
        [[d.X.T @ WX, d.X.T @ WZ], [WZ.T @ d.X, exact.A + np.linalg.inv(exact.L @ exact.L.T)]]
    )
    rows = np.column_stack([d.X, exact.Zall])
    wanted = estimate.sigma**2 * np.einsum("nq,qr,nr->n", rows, np.linalg.inv(henderson), rows)
    found = prediction_variance(problem, estimate, d.X, list(d.terms))
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


@pytest.mark.parametrize("name", ["slopes crossed", "three deep and crossed"])
def test_terms_left_out(name: str) -> None:
    problem, estimate, exact = case(name, "interior")
    X, terms = new_rows(name, 15, seed=2)
    for missing in range(len(terms)):
        some: Terms = [None if t == missing else own for t, own in enumerate(terms)]
        found = prediction_variance(problem, estimate, X, some)
        np.testing.assert_allclose(found, by_covariances(exact, estimate.sigma, X, some), rtol=1e-8)
    nothing = prediction_variance(problem, estimate, X, [None] * len(terms))
    np.testing.assert_allclose(
        nothing, estimate.sigma**2 * np.einsum("mp,pq,mq->m", X, exact.cov, X), rtol=1e-9
    )


@pytest.mark.parametrize(
    "name", ["slope", "slopes crossed", "nested three deep", "three deep and crossed"]
)
def test_batches_of_rows_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, estimate, _ = case(name, "interior")
    X, terms = new_rows(name, 37, seed=3)
    whole = prediction_variance(problem, estimate, X, terms)
    monkeypatch.setattr(factorisation, "BATCH", 500)
    np.testing.assert_allclose(prediction_variance(problem, estimate, X, terms), whole, rtol=1e-12)


def test_no_rows_no_variances() -> None:
    problem, estimate, _ = case("slopes crossed", "interior")
    X, terms = new_rows("slopes crossed", 0, seed=0)
    assert prediction_variance(problem, estimate, X, terms).shape == (0,)


@pytest.mark.parametrize("form", ["Products", "Split"])
def test_couplings_of_large_problems(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forms that only large problems take, forced on a small one."""
    problem, estimate, exact = case("slopes crossed", "interior")

    def forced(entries: coupling.Entries, J: int, q: int) -> coupling.Coupling:
        return (
            coupling.Products(entries, J, q)
            if form == "Products"
            else coupling.Split(entries, J, q, np.arange(J) % 2 == 0)
        )

    monkeypatch.setattr(coupling, "choose", forced)
    system = make_system(problem.cross, problem.plan)
    assert type(system.chain[0].coupling).__name__ == form
    large = replace(problem, data=problem.data._replace(system=system))
    X, terms = new_rows("slopes crossed", 30, seed=4)
    np.testing.assert_allclose(
        prediction_variance(large, estimate, X, terms),
        by_covariances(exact, estimate.sigma, X, terms),
        rtol=1e-8,
    )
    for mine, plain in zip(
        covariances(large, estimate), covariances(problem, estimate), strict=True
    ):
        np.testing.assert_allclose(mine, plain, rtol=1e-9, atol=1e-12)
