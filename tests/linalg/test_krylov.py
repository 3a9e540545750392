"""The iterative factorisation against dense matrices, over many designs and singular factors."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.design.records import Design
from lmm.linalg import krylov
from lmm.linalg.krylov import Exact
from lmm.model.crossproducts import dense_matrix
from lmm.model.problem import Problem, build_problem
from lmm.model.stochastic import multiply, split_rhs
from lmm.model.system import arrange
from tests.designs import zoo

CROSSED = [name for name, design in zoo().items() if build_problem(design, factorization="iterative").plan.iterative]


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


def dense(problem: Problem, T: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A and T repeated over the levels, column after column within a term."""
    A = dense_matrix(problem.cross)
    big = np.zeros_like(A)
    at = 0
    for size, own in zip(problem.plan.terms, T, strict=True):
        q = size.k * size.J
        big[at : at + q, at : at + q] = np.kron(own, np.eye(size.J))
        at += q
    return A, big


def factorised(problem: Problem, T: list[np.ndarray]) -> tuple[Exact, krylov.IterativeFactor]:
    plan = problem.plan
    chain_T, tail_T, own_T = ([T[t] for t in which] for which in (plan.chain, plan.tail, plan.iterative))
    exact = Exact(problem.data.system, chain_T, tail_T, plan.layout)
    assert problem.coupled is not None
    return exact, krylov.factorize(np, exact, problem.coupled, own_T)


def in_design_order(problem: Problem, parts: list[np.ndarray]) -> np.ndarray:
    each = [parts[i] for i in np.argsort(problem.plan.order)]
    return np.concatenate([own.reshape(len(own), -1) for own in each], axis=1)


def small_tails(design: Design, monkeypatch: pytest.MonkeyPatch, limit: int) -> Problem:
    monkeypatch.setattr("lmm.linalg.plan.SMALL", limit)
    return build_problem(design, factorization="iterative")


def test_the_zoo_has_crossed_designs() -> None:
    assert len(CROSSED) >= 4


@pytest.mark.parametrize("limit", [0, 30])
@pytest.mark.parametrize("kind", ["regular", "singular", "zero"])
@pytest.mark.parametrize("name", CROSSED)
def test_solve_multiply_and_determinant(name: str, kind: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small_tails(zoo()[name], monkeypatch, limit)
    T = relative_factors(problem, kind)
    A, big = dense(problem, T)
    exact, at = factorised(problem, T)
    rng = np.random.default_rng(8)
    rhs = [rng.standard_normal((3, size.k, size.J)) for size in problem.plan.terms]
    own = [rhs[t] for t in problem.plan.iterative]
    inside = arrange(problem.plan, tuple(rhs))
    flat = np.concatenate([r.reshape(3, -1) for r in rhs], axis=1)
    N = big @ np.linalg.inv(np.eye(len(A)) + big.T @ A @ big) @ big.T
    coupled = problem.coupled
    assert coupled is not None

    found = krylov.solve(np, exact, coupled, at, inside, own, 1e-12)
    parts = [*found.exact.chain, *(found.exact.tail[:, s.columns].reshape(3, s.k, s.J) for s in problem.plan.layout), *found.parts]
    np.testing.assert_allclose(in_design_order(problem, parts), flat @ N, atol=1e-8)
    rest = found.exact_residual
    parts = [*rest.chain, *(rest.tail[:, s.columns].reshape(3, s.k, s.J) for s in problem.plan.layout), *found.residual]
    np.testing.assert_allclose(in_design_order(problem, parts), flat - flat @ N @ A, atol=1e-7)
    np.testing.assert_allclose(found.inner, flat @ N @ flat.T, atol=1e-8)

    Av_exact, Av = multiply(np, exact, coupled, inside, own)
    parts = [*Av_exact.chain, *(Av_exact.tail[:, s.columns].reshape(3, s.k, s.J) for s in problem.plan.layout), *Av]
    np.testing.assert_allclose(in_design_order(problem, parts), flat @ A, rtol=1e-10, atol=1e-9)

    q = sum(size.k * size.J for t, size in enumerate(problem.plan.terms) if t in problem.plan.iterative)
    H = krylov.multiply(np, exact, coupled, at, np.eye(q))
    np.testing.assert_allclose(H, H.T, atol=1e-10)
    logdet = float(at.logdet) + np.linalg.slogdet(H)[1]
    assert logdet == pytest.approx(np.linalg.slogdet(np.eye(len(A)) + big.T @ A @ big)[1], abs=1e-8)


@pytest.mark.parametrize("name", CROSSED)
def test_near_matrix_has_identity_blocks_and_is_exact_for_two_factors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small_tails(zoo()[name], monkeypatch, 0)
    T = relative_factors(problem, "regular")
    exact, at = factorised(problem, T)
    coupled = problem.coupled
    assert coupled is not None
    q = sum(problem.plan.terms[t].k * problem.plan.terms[t].J for t in problem.plan.iterative)
    probes = np.eye(q)
    total = krylov.into_exact(np, exact, coupled, krylov.scale(np, at.R, krylov.split(coupled, probes))).chain[0]
    near = krylov.near_multiply(np, coupled, at, probes, total)
    start = 0
    for t in problem.plan.iterative:
        k, J = problem.plan.terms[t].k, problem.plan.terms[t].J
        own = near[start : start + k * J, start : start + k * J].reshape(k, J, k, J)
        np.testing.assert_allclose(np.einsum("ajbj->jab", own), np.broadcast_to(np.eye(k), (J, k, k)), atol=1e-9)
        start += k * J
    if exact.simple and len(problem.plan.iterative) == 1:
        np.testing.assert_allclose(near, krylov.multiply(np, exact, coupled, at, probes), atol=1e-9)


def test_right_hand_sides_of_the_iterative_terms_are_where_they_belong() -> None:
    problem = build_problem(zoo()[CROSSED[0]], factorization="iterative")
    assert problem.coupled is not None
    plain = build_problem(zoo()[CROSSED[0]], factorization="exact")
    every = plain.collect(plain.data.rhs)
    for own, t in zip(split_rhs(problem.data, problem.coupled), problem.plan.iterative, strict=True):
        np.testing.assert_allclose(own, every[t], rtol=1e-12, atol=1e-12)
