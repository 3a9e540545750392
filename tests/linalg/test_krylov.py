"""The iterative factorisation against dense matrices, over many designs and singular factors."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.design.design import Design
from lmm.linalg import krylov
from lmm.linalg.factorisation import KrylovFactorisation
from lmm.linalg.krylov import IterativeFactor
from lmm.model.problem import Problem, build_problem
from tests.designs import zoo

CROSSED = [
    name
    for name, design in zoo().items()
    if build_problem(design, factorization="iterative").plan.iterative
]


def relative_factors(problem: Problem, kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    out = []
    for size in problem.plan.terms:
        T = np.tril(rng.standard_normal((size.k, size.k))) * 0.6 + 0.5 * np.eye(size.k)
        if kind == "zero":
            T = np.zeros_like(T)
        if kind == "singular" and size.k > 1:
            T[-1] = T[0] * 0.7
            T[-1, -1] = 0.0
        out.append(T)
    return out


def factorised(problem: Problem, T: list[np.ndarray]) -> IterativeFactor:
    found = problem.penalized_system().factorize(T)
    assert isinstance(found, KrylovFactorisation)
    return found.at


def small_tails(design: Design, monkeypatch: pytest.MonkeyPatch, limit: int) -> Problem:
    monkeypatch.setattr("lmm.linalg.plan.SMALL", limit)
    return build_problem(design, factorization="iterative")


def test_the_zoo_has_crossed_designs() -> None:
    assert len(CROSSED) >= 4


@pytest.mark.parametrize("limit", [0, 30])
@pytest.mark.parametrize("kind", ["regular", "singular", "zero"])
@pytest.mark.parametrize("name", CROSSED)
def test_the_scaled_matrix_is_symmetric(
    name: str, kind: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = small_tails(zoo()[name], monkeypatch, limit)
    at = factorised(problem, relative_factors(problem, kind))
    q = sum(
        size.k * size.J for t, size in enumerate(problem.plan.terms) if t in problem.plan.iterative
    )
    H = krylov.multiply(np, at, np.eye(q))
    np.testing.assert_allclose(H, H.T, atol=1e-10)
    assert np.linalg.eigvalsh(H)[0] > 0.0


@pytest.mark.parametrize("name", CROSSED)
def test_near_matrix_has_identity_blocks_and_is_exact_for_two_factors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = small_tails(zoo()[name], monkeypatch, 0)
    T = relative_factors(problem, "regular")
    at = factorised(problem, T)
    q = sum(problem.plan.terms[t].k * problem.plan.terms[t].J for t in problem.plan.iterative)
    probes = np.eye(q)
    total = krylov.beside(np, at, krylov.scale(np, at.R, krylov.split(at.coupled, probes))).chain[0]
    near = krylov.near_multiply(np, at, probes, total)
    start = 0
    for t in problem.plan.iterative:
        k, J = problem.plan.terms[t].k, problem.plan.terms[t].J
        own = near[start : start + k * J, start : start + k * J].reshape(k, J, k, J)
        np.testing.assert_allclose(
            np.einsum("ajbj->jab", own), np.broadcast_to(np.eye(k), (J, k, k)), atol=1e-9
        )
        start += k * J
    if at.inside.simple and len(problem.plan.iterative) == 1:
        np.testing.assert_allclose(near, krylov.multiply(np, at, probes), atol=1e-9)


def test_right_hand_sides_of_the_iterative_terms_are_where_they_belong() -> None:
    problem, plain = (
        build_problem(zoo()[CROSSED[0]], factorization=how) for how in ("iterative", "exact")
    )
    for own, other in zip(problem.right_hand_sides(), plain.right_hand_sides(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-12)
