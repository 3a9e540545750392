"""The exact Hessian: every path of it is the derivative of the exact gradient."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lmm.estimators import MaximumLikelihood
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.model.gaussian import hessian
from lmm.model.problem import Problem, build_problem
from tests.algebra import some_theta, thetas
from tests.designs import zoo

DESIGNS = zoo()
every = pytest.mark.parametrize("name", DESIGNS)
criteria = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


@cache
def problem_of(name: str) -> Problem:
    return build_problem(DESIGNS[name])


def jacobian(function, x: np.ndarray, h: float = 1e-4) -> np.ndarray:
    """Fourth-order central differences."""
    columns = []
    for e in np.eye(len(x)) * h:
        columns.append(
            (8 * (function(x + e) - function(x - e)) - (function(x + 2 * e) - function(x - 2 * e)))
            / (12 * h)
        )
    return np.column_stack(columns)


@every
@criteria
@pytest.mark.parametrize("kind", ["interior", "singular", "zero"])
def test_hessian_is_the_derivative_of_the_gradient(name: str, reml: bool, kind: str) -> None:
    problem, estimator, theta = (
        problem_of(name),
        MaximumLikelihood(reml),
        thetas(DESIGNS[name])[kind],
    )
    H = estimator.hessian(problem, theta)
    numeric = jacobian(lambda at: estimator.gradient(problem, at), theta)
    assert H == pytest.approx(numeric, rel=1e-6, abs=1e-6 * np.abs(H).max())
    assert H == pytest.approx(H.T, rel=1e-12, abs=1e-12 * np.abs(H).max())


@pytest.mark.parametrize("name", ["crossed", "slopes crossed", "nested and crossed"])
@criteria
def test_large_problems_take_differences(
    name: str, reml: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, estimator, theta = problem_of(name), MaximumLikelihood(reml), some_theta(DESIGNS[name])
    exact = estimator.hessian(problem, theta)
    monkeypatch.setattr(hessian, "DENSE_LIMIT", 3)
    by_differences = estimator.hessian(problem, theta)
    assert not np.array_equal(by_differences, exact)
    assert by_differences == pytest.approx(exact, rel=1e-6, abs=1e-7 * np.abs(exact).max())


@pytest.mark.parametrize("name", ["slope", "three columns", "seven columns", "blocks"])
@criteria
def test_one_factor_by_levels_equals_the_dense_matrix(name: str, reml: bool) -> None:
    problem = problem_of(name)
    point = Evaluator(problem, reml).in_theta(some_theta(DESIGNS[name]))
    frame = point.payload.frame
    dG = [frame.dT[0] @ frame.T[0].T + np.swapaxes(frame.dT[0] @ frame.T[0].T, 1, 2)]
    arguments = problem.cross, list(problem.data.rhs.chain), problem.data.gram, frame.T, dG, reml
    levels, dense = hessian.pieces(*arguments), hessian._dense(*arguments)
    np.testing.assert_allclose(
        levels.trace, dense.trace, rtol=1e-9, atol=1e-9 * np.abs(dense.trace).max()
    )
    np.testing.assert_allclose(
        levels.quad, dense.quad, rtol=1e-9, atol=1e-9 * np.abs(dense.quad).max()
    )
    np.testing.assert_allclose(levels.rho, dense.rho, rtol=1e-10)


@every
@criteria
def test_refined_point_has_the_hessian_along_the_charts(name: str, reml: bool) -> None:
    """In the coordinates of the steps: second differences of the criterion along ``move``."""
    problem = problem_of(name)
    evaluate, theta = Evaluator(problem, reml), some_theta(DESIGNS[name])
    point = evaluate(theta)
    refined = evaluate.refine(point)
    assert refined is not point
    direction = np.random.default_rng(len(theta)).normal(size=len(theta))
    h = 1e-3 / np.linalg.norm(direction)
    at = [evaluate.objective(evaluate.move(theta, c * h * direction)) for c in (-2, -1, 0, 1, 2)]
    numeric = (-at[0] + 16 * at[1] - 30 * at[2] + 16 * at[3] - at[4]) / (12 * h**2)
    scale = np.abs(refined.hessian).max() * direction @ direction
    assert direction @ refined.hessian @ direction == pytest.approx(
        numeric, rel=1e-5, abs=1e-5 * scale
    )
