"""From a design to a problem: another response, other units, and responses that leave nothing to fit."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from lmm.design.design import Design
from lmm.errors import ResponseError
from lmm.estimators import MaximumLikelihood
from lmm.model.problem import build_problem
from tests.algebra import some_theta
from tests.designs import design, term, zoo

DESIGNS = zoo()


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize("name", DESIGNS)
def test_another_response_equals_building_anew(name: str, backend: str) -> None:
    d = DESIGNS[name]
    other = replace(d, y=np.random.default_rng(1).normal(size=d.n) * 7 + d.y)
    quick, anew = build_problem(d, backend).with_response(other), build_problem(other, backend)
    theta = some_theta(d)
    leaves = [jax.tree.leaves((p.data.rhs, p.data.gram)) for p in (quick, anew)]
    for mine, wanted in zip(*leaves, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-9, atol=1e-8)
    assert quick.beta0 == pytest.approx(anew.beta0, rel=1e-12)
    if backend == "numpy":
        assert MaximumLikelihood().objective(quick, theta) == pytest.approx(
            MaximumLikelihood().objective(anew, theta), rel=1e-12
        )


def test_the_first_problem_keeps_its_response() -> None:
    d = DESIGNS["crossed"]
    problem, theta = build_problem(d), some_theta(d)
    before = MaximumLikelihood().objective(problem, theta)
    problem.with_response(replace(d, y=d.y**2))
    assert MaximumLikelihood().objective(problem, theta) == before


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_badly_scaled_columns_give_the_fit_of_well_scaled_ones(reml: bool) -> None:
    """Units of 1e6 and 1e-6, and years squared: beta follows the change of basis, all else stays."""
    d = DESIGNS["slopes crossed"]
    rng = np.random.default_rng(2)
    year = rng.integers(0, 40, d.n).astype(float)
    good = np.column_stack(
        [np.ones(d.n), rng.normal(size=(d.n, 2)), (year - 20) / 10, ((year - 20) / 10) ** 2]
    )
    calendar = year + 1980
    bad = np.column_stack(
        [np.ones(d.n), good[:, 1] * 1e6, good[:, 2] * 1e-6, calendar, calendar**2]
    )
    y = d.y + good @ [0.0, 1.0, 1.0, 0.5, -0.5]
    estimator = MaximumLikelihood(reml)
    nice, ugly = (estimator.fit(build_problem(design(y, X, list(d.terms)))) for X in (good, bad))
    # REML's log|X'V^-1X| knows the units: the change of basis adds its log determinant
    change = np.linalg.lstsq(good, bad, rcond=None)[0]
    shift = 2 * np.linalg.slogdet(change)[1] if reml else 0.0
    assert ugly.objective - shift == pytest.approx(nice.objective, abs=1e-5)
    assert ugly.theta == pytest.approx(nice.theta, abs=1e-4)
    assert ugly.sigma == pytest.approx(nice.sigma, rel=1e-5)
    assert bad @ ugly.beta == pytest.approx(good @ nice.beta, abs=1e-4)
    assert ugly.convergence.evaluations <= nice.convergence.evaluations + 2


def perfect() -> dict[str, Design]:
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    groups = [term("a", np.arange(60) % 6, np.ones((60, 1)))]
    return {
        "copy of a predictor": design(X[:, 1], X, groups),
        "sum of predictors": design(X @ [1e5, 3.0], X, groups),
        "only an offset": design(X[:, 1] + 4.0, X[:, :1], groups, offset=X[:, 1]),
        "zero": design(np.zeros(60), np.zeros((60, 0)), groups),
    }


@pytest.mark.parametrize("name", perfect())
def test_a_response_that_the_fixed_effects_explain_is_refused(name: str) -> None:
    with pytest.raises(ResponseError, match="'y' exactly"):
        build_problem(perfect()[name])


def test_a_response_that_is_all_but_explained_is_fitted() -> None:
    rng = np.random.default_rng(4)
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    d = design(
        X @ [1.0, 2.0] + 1e-7 * rng.normal(size=60),
        X,
        [term("a", np.arange(60) % 6, np.ones((60, 1)))],
    )
    assert MaximumLikelihood().fit(build_problem(d)).sigma == pytest.approx(1e-7, rel=0.3)


def test_a_response_that_the_groups_explain_is_refused() -> None:
    codes = np.arange(60) % 6
    y = np.random.default_rng(5).normal(size=6)[codes]
    problem = build_problem(design(y, np.ones((60, 1)), [term("a", codes, np.ones((60, 1)))]))
    with pytest.raises(ResponseError, match="random effects of a explain"):
        MaximumLikelihood().fit(problem)
