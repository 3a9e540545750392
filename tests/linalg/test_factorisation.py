"""The contract of a factorisation of Z'WZ + G^-1 against dense matrices, for every implementation, design and kind of factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from lmm.errors import CapacityError
from lmm.linalg import factorisation, krylov
from lmm.linalg.factorisation import (
    BlockSystem,
    Factorisation,
    KrylovFactorisation,
    PenalizedSystem,
)
from lmm.linalg.plan import Plan, make_layout
from lmm.model.gaussian.system import make_coupled, make_system
from lmm.model.joint_system import joint_system
from lmm.model.problem import build_problem
from tests.algebra import Algebra, thetas
from tests.designs import zoo

DESIGNS = zoo()


def as_planned(name: str) -> PenalizedSystem:
    """Block elimination of the terms that the planner chooses, the others in the dense tail."""
    return build_problem(DESIGNS[name]).penalized_system()


def dense(name: str) -> PenalizedSystem:
    """One factor eliminated, all others in the dense tail."""
    problem = build_problem(DESIGNS[name])
    rest = tuple(range(1, len(problem.plan.terms)))
    plan = Plan(problem.plan.terms, (0,), rest, make_layout(problem.plan.terms, rest))
    return BlockSystem(plan, make_system(problem.cross, plan, dense=True))


def iterative(name: str) -> PenalizedSystem:
    """Conjugate gradients for all but the first factor and the last of the others."""
    problem = build_problem(DESIGNS[name], factorization="iterative")
    return problem.penalized_system()


def all_iterative(name: str) -> PenalizedSystem:
    """Conjugate gradients for all terms but one."""
    problem = build_problem(DESIGNS[name])
    plan = Plan(
        problem.plan.terms, (0,), (), (), iterative=tuple(range(1, len(problem.plan.terms)))
    )
    return factorisation.penalized_system(
        plan, make_system(problem.cross, plan), make_coupled(problem.cross, plan)
    )


def joint(name: str) -> PenalizedSystem:
    """All terms eliminated together by sparse Cholesky."""
    problem = build_problem(DESIGNS[name])
    terms, cross = problem.plan.terms, problem.cross
    plan = Plan(terms, (), (), (), joint=tuple(range(len(terms))))
    return joint_system(plan, cross)


EXACT = [as_planned, dense, joint]
SYSTEMS = [*EXACT, iterative, all_iterative]


@dataclass
class Case:
    system: PenalizedSystem
    exact: Algebra
    N: Factorisation

    def vectors(self, flat: np.ndarray) -> list[np.ndarray]:
        """(m, q) as (m, k, J) per term."""
        terms = self.exact.design.terms
        return [
            flat[:, own].reshape(len(flat), term.k, term.J)
            for own, term in zip(self.exact.slices, terms, strict=True)
        ]

    @property
    def rhs(self) -> np.ndarray:
        return np.random.default_rng(self.exact.q).normal(size=(3, self.exact.q))


@cache
def made(how: str, name: str, kind: str) -> Case:
    system = next(make for make in SYSTEMS if make.__name__ == how)(name)
    exact = Algebra(DESIGNS[name], thetas(DESIGNS[name])[kind])
    return Case(system, exact, system.factorize(exact.T))


def flat(vectors: list[np.ndarray]) -> np.ndarray:
    return np.column_stack([own.reshape(len(own), -1) for own in vectors])


every = pytest.mark.parametrize(
    ("how", "name", "kind"),
    [
        (make.__name__, name, kind)
        for make in SYSTEMS
        for name in DESIGNS
        for kind in ("interior", "singular", "zero")
    ],
)
exactly = pytest.mark.parametrize(
    ("how", "name", "kind"),
    [
        (make.__name__, name, kind)
        for make in EXACT
        for name in DESIGNS
        for kind in ("interior", "singular", "zero")
    ],
)


@every
def test_multiply(how: str, name: str, kind: str) -> None:
    c = made(how, name, kind)
    np.testing.assert_allclose(
        flat(c.system.multiply(c.vectors(c.rhs))), c.rhs @ c.exact.A, atol=1e-9
    )


@every
def test_solve(how: str, name: str, kind: str) -> None:
    """N r, r - A N r, r'N r; and with a guess the same to as many digits as are asked for."""
    c = made(how, name, kind)
    N, A = c.exact.N, c.exact.A
    values, residual, inner = c.N.solve(c.vectors(c.rhs))
    np.testing.assert_allclose(flat(values), c.rhs @ N, atol=1e-8)
    np.testing.assert_allclose(flat(residual), c.rhs - c.rhs @ N @ A, atol=2e-7)
    np.testing.assert_allclose(inner, c.rhs @ N @ c.rhs.T, atol=1e-8)
    near = c.N.solve(c.vectors(c.rhs[:1]), [own[0] for own in c.vectors(c.rhs[:1] @ N)])
    np.testing.assert_allclose(flat(near.values), c.rhs[:1] @ N, atol=1e-7)


@every
def test_whiten(how: str, name: str, kind: str) -> None:
    """b = T u for b = N r and e = r - A N r."""
    c = made(how, name, kind)
    values, residual, _ = c.N.solve(c.vectors(c.rhs[:1]))
    for t, (b, e, T) in enumerate(zip(values, residual, c.exact.T, strict=True)):
        np.testing.assert_allclose(T @ c.N.whiten(t, b[0], e[0]), b[0], atol=1e-8)


@every
def test_log_determinant(how: str, name: str, kind: str) -> None:
    """Of I + Lambda'A Lambda, with log|H| added where it is lacking."""
    c = made(how, name, kind)
    found = c.N.logdet
    if isinstance(c.N, KrylovFactorisation):
        q = sum(own.shape[0] * own.shape[-1] for own in c.N.at.coupled.own)
        found += np.linalg.slogdet(krylov.multiply(np, c.N.at, np.eye(q)))[1]
    assert found == pytest.approx(np.linalg.slogdet(c.exact.M)[1], rel=1e-9, abs=1e-8)


def touched(codes: list[np.ndarray], values: list[np.ndarray]) -> list[factorisation.Touched]:
    """One level of every term."""
    each = enumerate(zip(codes, values, strict=True))
    return [factorisation.Touched(t, code, own) for t, (code, own) in each]


@every
def test_quadratics(how: str, name: str, kind: str) -> None:
    """z'N z of rows that pair any levels, of which a fifth leave a term out."""
    c = made(how, name, kind)
    rng, m = np.random.default_rng(4), 40
    codes, values, z = [], [], np.zeros((m, c.exact.q))
    for own, term in zip(c.exact.slices, c.exact.design.terms, strict=True):
        codes.append(rng.integers(0, term.J, m))
        values.append(rng.normal(size=(m, term.k)) * (rng.uniform(size=m) < 0.8)[:, None])
        for a in range(term.k):
            z[np.arange(m), own.start + a * term.J + codes[-1]] = values[-1][:, a]
    wanted = np.einsum("mq,qr,mr->m", z, c.exact.N, z)
    np.testing.assert_allclose(c.N.quadratics(touched(codes, values)), wanted, rtol=1e-7, atol=1e-9)


@exactly
def test_traces(how: str, name: str, kind: str) -> None:
    c = made(how, name, kind)
    Q = c.exact.A - c.exact.A @ c.exact.N @ c.exact.A
    for t, trace in enumerate(c.N.traces()):
        np.testing.assert_allclose(trace, c.exact.sum_of_blocks(Q, t), rtol=1e-9, atol=1e-7)


@exactly
def test_blocks_of_the_inverse(how: str, name: str, kind: str) -> None:
    c = made(how, name, kind)
    for own, term, block in zip(
        c.exact.slices, c.exact.design.terms, c.N.inverse_blocks(), strict=True
    ):
        wanted = c.exact.N[own, own].reshape(term.k, term.J, term.k, term.J)
        np.testing.assert_allclose(block, np.einsum("ajbj->abj", wanted), atol=1e-10)


@exactly
def test_samples(how: str, name: str, kind: str) -> None:
    """S S' = N, S read off unit vectors."""
    c = made(how, name, kind)
    S = flat(c.N.sample(c.vectors(np.eye(c.exact.q))))  # row i is S e_i
    np.testing.assert_allclose(S.T @ S, c.exact.N, atol=1e-10)


@pytest.mark.parametrize("what", ["traces", "inverse_blocks", "sample"])
def test_what_conjugate_gradients_do_not_give(what: str) -> None:
    c = made("all_iterative", "crossed", "interior")
    arguments = [c.vectors(c.rhs)] if what == "sample" else []
    with pytest.raises(CapacityError, match="exact factorisation"):
        getattr(c.N, what)(*arguments)


@pytest.mark.parametrize("make", SYSTEMS, ids=lambda make: make.__name__)
def test_negative_weights(make: Callable[[str], PenalizedSystem]) -> None:
    """None where I + Lambda'A Lambda is not positive definite."""
    plan = make("crossed").plan
    T = [np.eye(size.k) for size in plan.terms]
    cross = build_problem(DESIGNS["crossed"]).cross
    for sign, definite in ((1.0, True), (-1.0, False)):
        signed = replace(cross, diag=(cross.diag[0], *(sign * own for own in cross.diag[1:])))
        system: PenalizedSystem = joint_system(plan, signed)
        if not plan.joint:
            system = factorisation.penalized_system(
                plan, make_system(signed, plan, dense=True), make_coupled(signed, plan)
            )
        assert (system.try_factorize(T) is not None) == definite


def test_batches_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for how in ("as_planned", "all_iterative"):
        c = made(how, "slopes crossed", "interior")
        rng = np.random.default_rng(3)
        codes = [rng.integers(0, term.J, 37) for term in c.exact.design.terms]
        values = [rng.normal(size=(37, term.k)) for term in c.exact.design.terms]
        whole = c.N.quadratics(touched(codes, values))
        with monkeypatch.context() as patch:
            patch.setattr(factorisation, "BATCH", 500)
            np.testing.assert_allclose(c.N.quadratics(touched(codes, values)), whole, rtol=1e-7)
