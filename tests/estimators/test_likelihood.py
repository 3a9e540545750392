"""What a maximum-likelihood fit must not depend on, where it must end, and closed forms it must meet."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import lmm
from lmm.covariance import Diagonal
from lmm.design.design import Design
from lmm.estimators import Control, MaximumLikelihood
from lmm.estimators.restart import from_below, mirrored, subsets
from lmm.model.problem import Problem, build_problem
from lmm.model.records import Estimate
from lmm.search.boundary import is_singular
from tests.algebra import some_theta
from tests.designs import dense, design, slopes, term, zoo

DESIGNS = zoo()
every = pytest.mark.parametrize("name", DESIGNS)
criteria = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


@cache
def problem(name: str) -> Problem:
    return build_problem(DESIGNS[name])


@cache
def fitted(name: str, reml: bool) -> Estimate:
    return MaximumLikelihood(reml).fit(problem(name))


def covariances(estimate: Estimate) -> list[np.ndarray]:
    return [T @ T.T for T in estimate.factors]


def assert_same(mine: Estimate, other: Estimate, scale: float = 1.0) -> None:
    """The same optimum: as close as two searches that stop 1e-9 above it come."""
    assert mine.convergence.converged, mine.convergence.message
    assert other.convergence.converged, other.convergence.message
    assert mine.beta == pytest.approx(scale * other.beta, rel=1e-4, abs=1e-4 * scale)
    assert mine.sigma == pytest.approx(scale * other.sigma, rel=1e-4)
    for a, b in zip(covariances(mine), covariances(other), strict=True):
        assert a == pytest.approx(b, abs=1e-3)


@every
@criteria
def test_estimate_is_consistent_in_itself(name: str, reml: bool) -> None:
    """Objective, beta, sigma and modes are those of V at the theta that is reported."""
    estimate, d = fitted(name, reml), DESIGNS[name]
    exact = dense(d, estimate.theta, reml)
    assert estimate.convergence.converged
    assert estimate.objective == pytest.approx(exact.objective, abs=1e-7)
    assert estimate.beta == pytest.approx(exact.beta, rel=1e-7, abs=1e-7)
    assert estimate.sigma == pytest.approx(exact.sigma, rel=1e-8)
    for mine, modes in zip(estimate.modes, exact.modes, strict=True):
        np.testing.assert_allclose(mine, modes, atol=1e-6)
    assert estimate.n_parameters == d.p + len(estimate.theta) + 1
    assert (estimate.method, estimate.reml) == (("reml", True) if reml else ("ml", False))
    assert estimate.objective <= min(line["objective"] for line in estimate.trace) + 1e-9
    assert estimate.convergence.scaled_gradient < 1e-4
    for term_, own in zip(d.terms, problem(name).split(estimate.theta), strict=True):
        assert own == pytest.approx(term_.structure.canonical(own), abs=1e-12)


@every
@criteria
def test_no_theta_is_better(name: str, reml: bool) -> None:
    """Near and far, in every direction, across the boundary too."""
    estimate, rng = fitted(name, reml), np.random.default_rng(1)
    estimator = MaximumLikelihood(reml)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(8):
            other = estimate.theta + scale * rng.normal(size=len(estimate.theta))
            assert estimator.objective(problem(name), other) >= estimate.objective - 1e-7


@every
@criteria
def test_the_start_does_not_matter(name: str, reml: bool) -> None:
    """Nothing at all, where the gradient vanishes, and a hundredfold too much."""
    m = problem(name).n_theta
    far = 100 * np.abs(some_theta(DESIGNS[name]))
    for start in (np.zeros(m), far):
        other = MaximumLikelihood(reml).fit(problem(name), start)
        assert other.convergence.converged, other.convergence.message
        assert other.objective == pytest.approx(fitted(name, reml).objective, abs=1e-6)


@every
@criteria
def test_few_evaluations(name: str, reml: bool) -> None:
    """A dozen to an optimum, a few more for the 28 parameters of seven columns; in doubt, one search more from above, others from below."""
    p = problem(name)
    limit = 12 if p.n_theta <= 12 else 16
    estimate = fitted(name, reml)
    doubtful = is_singular(p, estimate.theta)
    below = len([*from_below(p, estimate.theta), *mirrored(p, estimate.theta)]) if doubtful else 0
    starts = 2 * (len(subsets(p)) + below)
    searches = (2 if doubtful else 1) + below
    assert estimate.convergence.evaluations <= searches * limit + starts


@every
def test_order_of_rows_and_labels_of_levels(name: str) -> None:
    d = DESIGNS[name]
    rng = np.random.default_rng(2)
    rows = rng.permutation(d.n)
    labels = [rng.permutation(t.J) for t in d.terms]
    terms = []
    for t, label in zip(d.terms, labels, strict=True):
        terms.append(replace(t, codes=label[t.codes[rows]].astype(np.int32), values=t.values[rows]))
    offset = None if d.offset is None else d.offset[rows]
    mean = d.with_mean(X=d.X[rows], terms=tuple(terms), offset=offset)
    other = replace(mean, y=d.y[rows], weights=None if d.weights is None else d.weights[rows])
    mine = MaximumLikelihood().fit(build_problem(other))
    assert mine.objective == pytest.approx(fitted(name, True).objective, abs=1e-6)
    assert_same(mine, fitted(name, True))
    for label, a, b in zip(labels, mine.modes, fitted(name, True).modes, strict=True):
        np.testing.assert_allclose(a[label], b, atol=2e-3)


@pytest.mark.parametrize("name", [n for n, d in DESIGNS.items() if len(d.terms) > 1])
@criteria
def test_order_of_terms(name: str, reml: bool) -> None:
    """The criterion at the same theta, whichever term is eliminated first."""
    d = DESIGNS[name]
    theta = problem(name).split(some_theta(d))
    turned = build_problem(d.with_mean(terms=d.terms[::-1]))
    assert (
        turned.plan.chain != problem(name).plan.chain
        or turned.plan.terms != problem(name).plan.terms
    )
    found = MaximumLikelihood(reml).objective(turned, np.concatenate(theta[::-1]))
    assert found == pytest.approx(
        MaximumLikelihood(reml).objective(problem(name), np.concatenate(theta)), rel=1e-12
    )


@every
@pytest.mark.parametrize("scale", [1e-4, 1e5])
def test_units_of_the_response(name: str, scale: float) -> None:
    d = DESIGNS[name]
    other = replace(
        d.with_mean(offset=None if d.offset is None else d.offset * scale), y=d.y * scale
    )
    mine = MaximumLikelihood().fit(build_problem(other))
    assert_same(mine, fitted(name, True), scale)
    assert mine.objective == pytest.approx(
        fitted(name, True).objective + 2 * (d.n - d.p) * np.log(scale), abs=1e-5
    )


@every
@criteria
def test_units_of_the_predictors_and_origin_of_the_response(name: str, reml: bool) -> None:
    d = DESIGNS[name]
    if not d.p:
        pytest.skip("there are none")
    S = np.array([1.0, 1e5, 1e-3])
    mine = MaximumLikelihood(reml).fit(
        build_problem(replace(d.with_mean(X=d.X * S), y=d.y + 1000.0))
    )
    own = replace(mine, beta=mine.beta * S - [1000.0, 0.0, 0.0])
    assert_same(own, fitted(name, reml))
    shift = 2 * np.log(S).sum() if reml else 0.0
    assert mine.objective == pytest.approx(fitted(name, reml).objective + shift, abs=1e-5)


@every
@criteria
def test_a_constant_factor_of_the_weights_is_taken_up_by_sigma(name: str, reml: bool) -> None:
    d = DESIGNS[name]
    w = np.ones(d.n) if d.weights is None else d.weights
    mine = MaximumLikelihood(reml).fit(build_problem(replace(d, weights=4.0 * w)))
    assert mine.objective == pytest.approx(fitted(name, reml).objective, abs=1e-6)
    assert mine.sigma == pytest.approx(2.0 * fitted(name, reml).sigma, rel=1e-4)
    for a, b in zip(covariances(mine), covariances(fitted(name, reml)), strict=True):
        assert 4.0 * a == pytest.approx(b, abs=1e-3)


@every
def test_rows_twice_are_weights_of_two(name: str) -> None:
    """At one theta all sums are the same: beta, its unscaled covariance, and the modes."""
    d = DESIGNS[name]
    w = np.ones(d.n) if d.weights is None else d.weights
    twice = np.repeat(np.arange(d.n), 2)
    terms = tuple(replace(t, codes=t.codes[twice], values=t.values[twice]) for t in d.terms)
    offset = None if d.offset is None else d.offset[twice]
    doubled = replace(
        d.with_mean(X=d.X[twice], terms=terms, offset=offset), y=d.y[twice], weights=w[twice]
    )
    estimator = MaximumLikelihood(False, Control(evaluate_only=True))
    theta = some_theta(d)
    a, b = (
        estimator.fit(build_problem(own), theta) for own in (doubled, replace(d, weights=2 * w))
    )
    assert a.beta == pytest.approx(b.beta, rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(a.beta_cov_unscaled, b.beta_cov_unscaled, rtol=1e-9)
    for mine, other in zip(a.modes, b.modes, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-10)
    assert a.sigma == pytest.approx(
        b.sigma / np.sqrt(2), rel=1e-10
    )  # the same sum of squares over twice the rows


def one_way(between: float, J: int = 12, m: int = 6, seed: int = 0) -> tuple[Design, np.ndarray]:
    """A balanced one-way layout with this mean square between groups relative to that within; y as (J, m)."""
    rng = np.random.default_rng(seed)
    within = rng.normal(size=(J, m))
    within -= within.mean(axis=1, keepdims=True)
    within *= np.sqrt(J * (m - 1) / np.sum(within**2))  # mean square 1
    means = rng.normal(size=J)
    means -= means.mean()
    means *= np.sqrt(between * (J - 1) / (m * np.sum(means**2)))
    y = 10 + means[:, None] + within
    return design(
        y.ravel(), np.ones((J * m, 1)), [term("g", np.repeat(np.arange(J), m), np.ones((J * m, 1)))]
    ), y


@pytest.mark.parametrize("between", [1.5, 4.0, 100.0, 1e6])
def test_balanced_one_way_layout(between: float) -> None:
    """REML is the analysis of variance; ML has J in place of J - 1."""
    d, y = one_way(between)
    J, m = y.shape
    reml, ml = (MaximumLikelihood(r).fit(build_problem(d)) for r in (True, False))
    assert reml.sigma == pytest.approx(1.0, rel=1e-6)
    assert reml.theta[0] ** 2 == pytest.approx((between - 1) / m, rel=1e-4)
    assert ml.theta[0] ** 2 == pytest.approx(max(between * (J - 1) / J - 1, 0) / m, rel=1e-3)
    for estimate in (reml, ml):
        shrink = m * estimate.theta[0] ** 2 / (1 + m * estimate.theta[0] ** 2)
        assert estimate.beta == pytest.approx([10.0], abs=1e-9 * np.sqrt(between))
        assert estimate.modes[0][:, 0] == pytest.approx(shrink * (y.mean(axis=1) - 10), rel=1e-8)
        assert estimate.beta_cov_unscaled[0, 0] == pytest.approx(
            (1 + m * estimate.theta[0] ** 2) / (J * m), rel=1e-8
        )


@pytest.mark.parametrize("between", [0.0, 0.4, 0.99])
@criteria
def test_no_variance_between_groups_is_exactly_zero_and_least_squares(
    between: float, reml: bool
) -> None:
    d, y = one_way(between)
    estimate = MaximumLikelihood(reml).fit(build_problem(d))
    assert estimate.convergence.converged
    assert estimate.theta[0] == 0.0
    assert not estimate.modes[0].any()
    degrees = y.size - (1 if reml else 0)
    rss = np.sum((y - y.mean()) ** 2)
    wanted = degrees * (1 + np.log(2 * np.pi * rss / degrees)) + (np.log(y.size) if reml else 0)
    assert estimate.objective == pytest.approx(wanted, rel=1e-12)
    assert estimate.sigma == pytest.approx(np.sqrt(rss / degrees), rel=1e-10)


@pytest.mark.parametrize("between", [1.05, 1.3])
def test_a_small_variance_is_not_taken_for_zero(between: float) -> None:
    """From theta = 0, where the gradient vanishes, the boundary is left when the variance is there."""
    d, _ = one_way(between)
    for start in (None, np.zeros(1)):
        estimate = MaximumLikelihood().fit(build_problem(d), start)
        assert estimate.theta[0] ** 2 == pytest.approx((between - 1) / 6, rel=1e-2)


def test_a_perfect_correlation_ends_on_the_boundary() -> None:
    """Slopes that are a multiple of the intercepts: G of rank one, and the optimum is found on it."""
    rng = np.random.default_rng(8)
    codes = np.repeat(np.arange(25), 12)
    z = slopes(rng, 300, 2)
    b, noise = rng.normal(size=25), rng.normal(size=300)
    for j in range(
        25
    ):  # noise that least squares within a group does not see: the coefficients are exactly on a line
        own = codes == j
        noise[own] -= z[own] @ np.linalg.lstsq(z[own], noise[own], rcond=None)[0]
    y = z @ [1.0, 2.0] + b[codes] * (1.0 + 2.0 * z[:, 1]) + noise
    d = design(y, z, [term("g", codes, z)])
    estimate = MaximumLikelihood().fit(build_problem(d))
    assert estimate.convergence.converged
    assert estimate.theta[2] == 0.0
    assert estimate.theta[1] == pytest.approx(2 * estimate.theta[0], rel=1e-2)
    free = MaximumLikelihood().fit(
        build_problem(d.with_mean(terms=(replace(d.terms[0], structure=Diagonal(2)),)))
    )
    assert estimate.objective < free.objective - 1.0


@every
def test_evaluate_only(name: str) -> None:
    theta = some_theta(DESIGNS[name], seed=3)
    estimate = MaximumLikelihood(True, Control(evaluate_only=True)).fit(problem(name), theta)
    assert estimate.objective == pytest.approx(
        MaximumLikelihood().objective(problem(name), theta), rel=1e-12
    )
    assert estimate.convergence.evaluations == 1
    for own, T, start in zip(
        DESIGNS[name].terms, estimate.factors, problem(name).split(theta), strict=True
    ):
        wanted = own.structure.factor(start)
        assert T @ T.T == pytest.approx(wanted @ wanted.T, abs=1e-12)


def test_callback_and_limits() -> None:
    lines: list[dict] = []
    estimate = MaximumLikelihood().fit(problem("slopes crossed"), callback=lines.append)
    assert [line["objective"] for line in lines] == [line["objective"] for line in estimate.trace]
    stopped = MaximumLikelihood(True, Control(max_evaluations=2)).fit(problem("slopes crossed"))
    assert not stopped.convergence.converged
    assert "limit of 2 evaluations" in stopped.convergence.message
    loose = MaximumLikelihood(True, Control(tolerance=1e-2)).fit(problem("slopes crossed"))
    assert loose.convergence.evaluations < estimate.convergence.evaluations
    assert estimate.objective <= loose.objective <= estimate.objective + 0.1


def test_a_model_without_fixed_effects():
    """y ~ 0 + (1|g): the exact Hessian near the optimum has no fixed columns to take off."""
    data = lmm.datasets.load("Dyestuff").assign(Yield=lambda d: d["Yield"] - d["Yield"].mean())
    for REML in (True, False):
        fit = lmm.lmer("Yield ~ 0 + (1|Batch)", data, REML=REML)
        theta = fit.theta.to_numpy()
        assert fit.convergence.converged and len(fit.fixef()) == 0
        assert all(fit.objective(theta + h) > fit.objective(theta) for h in (-1e-3, 1e-3))
