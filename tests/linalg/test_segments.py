"""Sums over codes by gathers are the sums by bincount."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.linalg import elimination
from lmm.linalg.devices import backend
from lmm.linalg.sparse.gather_product import counting_order, segment_rounds, sum_segments
from lmm.linalg.sparse.segments import segment_sum
from lmm.model.gaussian import deviance
from lmm.model.problem import build_problem
from tests.algebra import some_theta
from tests.designs import zoo


@pytest.mark.parametrize("kind", ["even", "one long segment", "empty segments"])
def test_equals_bincount(kind: str) -> None:
    rng = np.random.default_rng(1)
    size = 50
    index = {
        "even": rng.integers(0, size, 700),
        "one long segment": np.concatenate([np.full(5000, 3), rng.integers(0, size, 90)]),
        "empty segments": rng.choice([1, 40, 41], 300),
    }[kind]
    values = rng.standard_normal((2, 3, len(index)))
    wanted = segment_sum(np, values, index, size)
    rounds = segment_rounds(index, size)
    np.testing.assert_allclose(sum_segments(np, rounds, values), wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(backend.call(sums, values, rounds), wanted, rtol=1e-12, atol=1e-12)


def sums(xp, values, rounds):
    """The same compiled."""
    return sum_segments(xp, rounds, values)


@pytest.mark.parametrize("name", ["nested three deep", "nested and crossed"])
def test_the_criterion_without_scatter(name: str) -> None:
    """Sums over nested levels, all rounds of the elimination, by gathers."""
    design = zoo()[name]
    problem = build_problem(design, "jax")
    data, plan = problem.data, problem.arranged
    gathered = data._replace(system=elimination.without_scatter(data.system))
    factors = [
        s.factor(own)
        for s, own in zip(problem.structures, problem.split(some_theta(design)), strict=True)
    ]
    chain_T, tail_T = [factors[t] for t in plan.chain], [factors[t] for t in plan.tail]
    chain_dG, tail_dG = ([np.eye(len(T))[None] for T in each] for each in (chain_T, tail_T))
    arguments = chain_T, tail_T, chain_dG, tail_dG
    static = {"layout": plan.layout, "well": (False,) * len(tail_T), "reml": True}
    value, derived = deviance.derivatives(np, data, *arguments, **static)
    other, compiled = backend.call(deviance.derivatives, gathered, *arguments, **static)
    assert other.objective == pytest.approx(value.objective, rel=1e-12)
    for mine, theirs in zip((*compiled.D, compiled.AI), (*derived.D, derived.AI), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10)


def test_counting_order_is_a_stable_sort() -> None:
    rng = np.random.default_rng(2)
    for index in (
        rng.integers(0, 40, 1000),
        np.zeros(5, dtype=int),
        np.zeros(0, dtype=int),
        np.arange(39, -1, -1),
    ):
        np.testing.assert_array_equal(counting_order(index, 40), np.argsort(index, kind="stable"))
