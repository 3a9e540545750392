"""Block elimination against dense algebra, for every arrangement of terms and for factors without an inverse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from lmm.linalg import coupling, elimination, tail
from lmm.linalg.coupling import Dense, Entries
from lmm.linalg.elimination import EliminatedSystem, Vectors
from lmm.linalg.factorisation import arrange, collect
from lmm.model.problem import Problem, build_problem
from tests.algebra import Algebra, singular_theta, some_theta, thetas
from tests.designs import zoo

DESIGNS = zoo()
CASES = [(name, kind) for name in DESIGNS for kind in ("interior", "singular", "zero")]
cases = pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{n}-{k}" for n, k in CASES])


@dataclass
class Case:
    problem: Problem
    dense: Algebra
    factor: EliminatedSystem
    chain_T: list[np.ndarray]
    tail_T: list[np.ndarray]

    @property
    def plan(self):
        return self.problem.plan

    def vectors(self, flat: np.ndarray) -> Vectors:
        """(r, q) in the design's order, arranged."""
        terms = self.dense.design.terms
        return arrange(
            self.plan,
            tuple(
                flat[:, s].reshape(len(flat), t.k, t.J)
                for s, t in zip(self.dense.slices, terms, strict=True)
            ),
        )

    def flat(self, vectors: Vectors) -> np.ndarray:
        return np.column_stack([v.reshape(len(v), -1) for v in collect(self.plan, vectors)])

    @property
    def K(self) -> np.ndarray | None:
        """N's block of the tail."""
        if not self.plan.layout:
            return None
        inverse = tail.symmetrize(np, tail.inverse(np, self.factor.tail))
        return tail.sandwich(np, self.plan.layout, self.tail_T, inverse, transpose=False)


@cache
def case(name: str, kind: str) -> Case:
    d = DESIGNS[name]
    problem, dense = build_problem(d), Algebra(d, thetas(d)[kind])
    chain_T, tail_T = (
        [dense.T[t] for t in problem.plan.chain],
        [dense.T[t] for t in problem.plan.tail],
    )
    factor = elimination.factorize(np, problem.data.system, chain_T, problem.plan.layout, tail_T)
    return Case(problem, dense, factor, chain_T, tail_T)


def right_hand_sides(c: Case) -> np.ndarray:
    return np.random.default_rng(c.dense.q).normal(size=(3, c.dense.q))


@cases
def test_log_determinant(name: str, kind: str) -> None:
    c = case(name, kind)
    assert c.factor.logdet == pytest.approx(np.linalg.slogdet(c.dense.M)[1], rel=1e-11, abs=1e-10)


@cases
def test_multiply_is_the_unreduced_matrix(name: str, kind: str) -> None:
    c = case(name, kind)
    v = right_hand_sides(c)
    np.testing.assert_allclose(
        c.flat(elimination.multiply(np, c.problem.data.system, c.vectors(v))),
        v @ c.dense.A,
        atol=1e-9,
    )


@cases
def test_solutions_residuals_and_inner_products(name: str, kind: str) -> None:
    c = case(name, kind)
    r, layout = right_hand_sides(c), c.plan.layout
    reduced = elimination.reduce(np, c.factor, layout, c.tail_T, c.vectors(r))
    N = c.dense.N
    np.testing.assert_allclose(elimination.inner(reduced), r @ N @ r.T, atol=1e-9)
    ways = {(False,) * len(layout)}
    if kind == "interior":
        ways.add((True,) * len(layout))
    for well in ways:
        solved, residuals = elimination.solve(np, c.factor, layout, c.tail_T, reduced, well)
        np.testing.assert_allclose(c.flat(solved), r @ N, atol=1e-9)
        np.testing.assert_allclose(c.flat(residuals), r - r @ N @ c.dense.A, atol=1e-8)


@cases
def test_samples_have_the_conditional_covariance(name: str, kind: str) -> None:
    """S S' = N exactly, S read off unit vectors; and the covariance of S z for standard normal z."""
    c = case(name, kind)
    N = c.dense.N
    S = c.flat(
        elimination.sample(np, c.factor, c.plan.layout, c.tail_T, c.vectors(np.eye(c.dense.q)))
    )  # row i is S e_i
    np.testing.assert_allclose(S.T @ S, N, atol=1e-10)
    count = 4000
    z = np.random.default_rng(7).normal(size=(count, c.dense.q))
    drawn = c.flat(elimination.sample(np, c.factor, c.plan.layout, c.tail_T, c.vectors(z)))
    found, spread = (
        drawn.T @ drawn / count,
        np.sqrt((np.outer(np.diagonal(N), np.diagonal(N)) + N**2) / count),
    )
    assert np.all(np.abs(found - N) <= 6.0 * spread + 1e-12)


@cases
def test_traces(name: str, kind: str) -> None:
    """sum_j Q_jj of Q = A - A N A, for the chain's terms and the tail's."""
    c = case(name, kind)
    Q = c.dense.A - c.dense.A @ c.dense.N @ c.dense.A
    found = elimination.traces(np, c.factor, c.K)
    for t, trace in zip(c.plan.chain, found, strict=True):
        np.testing.assert_allclose(trace, c.dense.sum_of_blocks(Q, t), rtol=1e-9, atol=1e-7)
    if not c.plan.layout:
        return
    C, Sinv = tail.symmetrize(np, c.factor.C), tail.symmetrize(np, tail.inverse(np, c.factor.tail))
    for well in [False, True] if kind == "interior" else [False]:
        inner = [tail.block_trace(np, slot, Sinv) for slot in c.plan.layout]
        own = tail.traces(np, c.plan.layout, c.tail_T, (well,) * len(c.plan.tail), C, inner, c.K)
        for t, trace in zip(c.plan.tail, own, strict=True):
            np.testing.assert_allclose(trace, c.dense.sum_of_blocks(Q, t), rtol=1e-9, atol=1e-7)


@cases
def test_blocks_of_the_inverse(name: str, kind: str) -> None:
    """N's diagonal blocks, those between a level and its ancestors, and those with the tail."""
    c = case(name, kind)
    terms, slices, N = c.dense.design.terms, c.dense.slices, c.dense.N
    quadratics, inverses = elimination.inverse_blocks(np, c.factor, c.K, need_first=True)
    for i, t in enumerate(c.plan.chain):
        k, J = terms[t].k, terms[t].J
        own = N[slices[t], slices[t]].reshape(k, J, k, J)
        np.testing.assert_allclose(inverses[i].own, np.einsum("ajbj->abj", own), atol=1e-10)
        # N_jj = W + W H W, and E W^-1 = W^-1 - A = G^-1
        A, W = (np.moveaxis(own, -1, 0) for own in (c.factor.chain[i].A, c.factor.chain[i].W))
        E = np.eye(k) - A @ W
        np.testing.assert_allclose(np.moveaxis(c.factor.chain[i].E, -1, 0), E, atol=1e-9)
        EHE = np.moveaxis(np.broadcast_to(quadratics[i], (k, k, J)), -1, 0)
        between = np.moveaxis(inverses[i].own, -1, 0) - W
        np.testing.assert_allclose(
            W @ EHE @ W, E.swapaxes(1, 2) @ between @ E, rtol=1e-6, atol=1e-9
        )
        for place, s in enumerate(c.plan.chain[i + 1 :]):
            cross = N[slices[t], slices[s]].reshape(k, J, terms[s].k, terms[s].J)
            ancestor = c.factor.chain[i].parents[place].index
            wanted = np.moveaxis(cross[:, np.arange(J), :, ancestor], 0, -1)
            np.testing.assert_allclose(inverses[i].parents[place], wanted, atol=1e-10)
        if inverses[i].tail is not None:
            wanted = np.concatenate([N[slices[t], slices[s]] for s in c.plan.tail], axis=1)
            np.testing.assert_allclose(inverses[i].tail.reshape(k * J, -1), wanted, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["crossed", "three crossed", "slopes crossed", "weights and offset"]
)
@pytest.mark.parametrize("form", ["products", "split"])
def test_every_form_of_coupling_gives_the_same_factor(name: str, form: str) -> None:
    """Lists of products, which the planner keeps for large problems, in place of the dense coupling of small ones."""
    c = case(name, "interior")
    (member,) = c.problem.data.system.chain
    assert isinstance(member.coupling, Dense)
    B = member.coupling.B
    _, J, q = B.shape
    level, col = np.nonzero(np.any(B != 0, axis=0))
    entries = Entries(level, col, B[:, level, col])
    listed = (
        coupling.Products(entries, J, q)
        if form == "products"
        else coupling.Split(entries, J, q, np.arange(J) % 3 == 0)
    )
    system = elimination.System((member._replace(coupling=listed),), c.problem.data.system.C)
    factor = elimination.factorize(np, system, c.chain_T, c.plan.layout, c.tail_T)
    assert factor.logdet == pytest.approx(float(c.factor.logdet), rel=1e-12)
    r = c.vectors(right_hand_sides(c))
    reduced = elimination.reduce(np, factor, c.plan.layout, c.tail_T, r)
    solved, _ = elimination.solve(
        np, factor, c.plan.layout, c.tail_T, reduced, (True,) * len(c.plan.layout)
    )
    np.testing.assert_allclose(c.flat(solved), right_hand_sides(c) @ c.dense.N, atol=1e-9)
    for mine, plain in zip(
        elimination.traces(np, factor, c.K), elimination.traces(np, c.factor, c.K), strict=True
    ):
        np.testing.assert_allclose(mine, plain, rtol=1e-10)


def test_the_cases_are_what_they_say() -> None:
    """The singular thetas do make T singular, and the interior ones do not."""
    for d in DESIGNS.values():
        assert all(np.linalg.cond(T) < 1e4 for T in Algebra(d, some_theta(d)).T)
        assert all(np.linalg.matrix_rank(T) == len(T) - 1 for T in Algebra(d, singular_theta(d)).T)
