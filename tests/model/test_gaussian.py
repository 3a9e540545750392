"""The criterion, its derivatives and what is profiled out of it, against n x n matrices."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lmm.estimators import Control, MaximumLikelihood
from lmm.estimators.likelihood.profiled import Evaluator, curvature, directions
from lmm.model.problem import Problem, build_problem
from tests.algebra import Algebra, thetas
from tests.designs import dense, zoo

DESIGNS = zoo()
every = pytest.mark.parametrize("name", DESIGNS)
criteria = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
places = pytest.mark.parametrize("kind", ["interior", "singular", "zero"])


@cache
def problem(name: str) -> Problem:
    return build_problem(DESIGNS[name])


@cache
def algebra(name: str, kind: str) -> Algebra:
    return Algebra(DESIGNS[name], thetas(DESIGNS[name])[kind])


def differences(function, x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    return np.array([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(len(x))])


@every
@criteria
@places
def test_objective_and_profiled_values(name: str, reml: bool, kind: str) -> None:
    d = DESIGNS[name]
    theta = thetas(d)[kind]
    wanted = dense(d, theta, reml)
    assert MaximumLikelihood(reml).objective(problem(name), theta) == pytest.approx(
        wanted.objective, rel=1e-10
    )
    estimate = MaximumLikelihood(reml, Control(evaluate_only=True)).fit(problem(name), theta)
    assert estimate.objective == pytest.approx(wanted.objective, rel=1e-10)
    assert estimate.beta == pytest.approx(wanted.beta, rel=1e-9, abs=1e-9)
    assert estimate.sigma == pytest.approx(wanted.sigma, rel=1e-10)
    np.testing.assert_allclose(estimate.beta_cov_unscaled, wanted.cov, rtol=1e-8, atol=1e-10)
    for mine, modes in zip(estimate.modes, wanted.modes, strict=True):
        np.testing.assert_allclose(mine, modes, rtol=1e-8, atol=1e-9)


@every
@criteria
@places
def test_gradient_is_the_derivative(name: str, reml: bool, kind: str) -> None:
    estimator, theta = MaximumLikelihood(reml), thetas(DESIGNS[name])[kind]
    numeric = differences(lambda at: estimator.objective(problem(name), at), theta)
    assert estimator.gradient(problem(name), theta) == pytest.approx(numeric, rel=1e-6, abs=2e-5)


@every
@criteria
@places
def test_gradient_along_the_charts(name: str, reml: bool, kind: str) -> None:
    """The coordinates in which steps are taken: the derivative is that along ``move``."""
    evaluate, theta = Evaluator(problem(name), reml), thetas(DESIGNS[name])[kind]
    numeric = differences(
        lambda step: evaluate.objective(evaluate.move(theta, step)), np.zeros(len(theta))
    )
    assert evaluate(theta).gradient == pytest.approx(numeric, rel=1e-6, abs=2e-5)


@every
@criteria
@places
def test_derivative_with_respect_to_the_covariances(name: str, reml: bool, kind: str) -> None:
    """D = sum_j Q_jj - e e' / sigma^2, the whole matrix also where T is singular."""
    d = DESIGNS[name]
    exact = algebra(name, kind)
    e = exact.Zall.T @ exact.P @ exact.y
    r2 = float(exact.y @ exact.P @ exact.y)
    Q = exact.Zall.T @ (exact.P if reml else exact.Vinv) @ exact.Zall
    degrees = d.n - (d.p if reml else 0)
    for t, (D, own) in enumerate(
        zip(
            Evaluator(problem(name), reml).in_theta(exact.theta).payload.D,
            exact.slices,
            strict=True,
        )
    ):
        e_t = e[own].reshape(d.terms[t].k, -1)
        wanted = exact.sum_of_blocks(Q, t) - e_t @ e_t.T * degrees / r2
        np.testing.assert_allclose(D, wanted, rtol=1e-7, atol=1e-7 * np.abs(wanted).max())


@every
@criteria
@places
def test_average_information_is_its_definition(name: str, reml: bool, kind: str) -> None:
    """N (f_i'P f_j / r2 - rho_i rho_j / r2^2) with f_i = Z dG_i Z'Py, and the model Hessian adds <D, d2G>."""
    d = DESIGNS[name]
    theta = thetas(d)[kind]
    exact = algebra(name, kind)
    Py = exact.P @ exact.y
    r2, degrees = float(exact.y @ Py), d.n - (d.p if reml else 0)
    point = Evaluator(problem(name), reml).in_theta(theta)
    f = []
    for t, (own, T) in enumerate(zip(d.terms, exact.T, strict=True)):
        at = sum(other.structure.n_theta for other in d.terms[:t])
        for dG in directions(own.structure.jacobian(theta[at : at + own.structure.n_theta]), T):
            blocks = [np.zeros_like(other) for other in exact.T]
            blocks[t] = dG
            f.append(exact.Zall @ exact.spread(blocks) @ exact.Zall.T @ Py)
    F = np.array(f)
    rho = F @ Py
    wanted = degrees * (F @ exact.P @ F.T / r2 - np.outer(rho, rho) / r2**2)
    found = point.hessian - curvature(point.payload.D, point.payload.frame)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7 * max(1.0, np.abs(wanted).max()))
    # a sum of squares less a square of their product with y: never negative, whatever theta
    assert np.linalg.eigvalsh(found)[0] >= -1e-8 * max(1.0, np.abs(wanted).max())
