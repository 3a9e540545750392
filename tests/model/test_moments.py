"""Starting values: near the truth where there is much data, usable where there is little."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.covariance import Diagonal, Unstructured
from lmm.design.design import Design
from lmm.model.gaussian.moments import starting_values
from lmm.model.problem import build_problem
from tests.algebra import Algebra
from tests.designs import design, slopes, term, zoo


def simulated(seed: int, weights: bool = False) -> tuple[Design, list[np.ndarray]]:
    """40,000 rows in 2,000 and 400 crossed groups, and the relative covariances they were drawn with."""
    rng = np.random.default_rng(seed)
    n, J = 40_000, (2_000, 400)
    codes = [rng.integers(0, j, n) for j in J]
    G = [np.array([[1.0, 0.4], [0.4, 0.7]]), np.diag([0.5, 0.3])]
    w = rng.uniform(0.5, 2.0, n) if weights else None
    y = rng.normal(size=n) * (2.0 if w is None else 2.0 / np.sqrt(w))
    terms = []
    for name, code, j, own in zip("ab", codes, J, G, strict=True):
        z = slopes(rng, n, 2)
        b = rng.normal(size=(j, 2)) @ np.linalg.cholesky(own).T * 2.0
        y = y + np.sum(z * b[code], axis=1)
        terms.append(term(name, code, z, Unstructured(2) if name == "a" else Diagonal(2)))
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    return design(y + X @ [3.0, 1.0], X, terms, weights=w), G


@pytest.mark.parametrize("weights", [False, True], ids=["plain", "weighted"])
def test_moments_find_the_truth_in_much_data(weights: bool) -> None:
    d, G = simulated(0, weights)
    problem = build_problem(d)
    theta = problem.split(starting_values(problem.cross, problem.structures))
    for structure, own, truth in zip(problem.structures, theta, G, strict=True):
        T = structure.factor(own)
        assert T @ T.T == pytest.approx(truth, abs=0.12)


@pytest.mark.parametrize("name", zoo())
def test_start_is_positive_definite_and_finite_everywhere(name: str) -> None:
    problem = build_problem(zoo()[name])
    theta = starting_values(problem.cross, problem.structures)
    assert theta.shape == (problem.n_theta,)
    for structure, own, gram in zip(
        problem.structures, problem.split(theta), problem.grams(), strict=True
    ):
        T = structure.factor(own)
        assert np.isfinite(T).all()
        assert np.linalg.matrix_rank(T) == structure.k
        assert 1e-4 < np.trace(T @ T.T @ gram) < 1e5


def test_start_does_not_change_with_the_units_of_the_response() -> None:
    d = zoo()["slopes crossed"]
    first, other = (build_problem(own) for own in (d, design(1e6 * d.y, d.X, list(d.terms))))
    assert starting_values(other.cross, other.structures) == pytest.approx(
        starting_values(first.cross, first.structures), rel=1e-8
    )


def test_one_row_per_level_is_no_obstacle() -> None:
    """Sigma and the variance are not told apart by moments; the start is still usable."""
    rng = np.random.default_rng(0)
    d = design(
        rng.normal(size=50), np.ones((50, 1)), [term("a", np.arange(50) // 2, slopes(rng, 50, 3))]
    )
    problem = build_problem(d)
    theta = starting_values(problem.cross, problem.structures)
    assert np.linalg.matrix_rank(Algebra(d, theta).T[0]) == 3
