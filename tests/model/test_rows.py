"""Sums over the rows with changing weights, against Z itself."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from lmm.model.laplace.passes import weighted
from lmm.model.laplace.rows import Rows, make_rows
from lmm.model.penalized import system_of
from tests.algebra import Algebra, some_theta
from tests.designs import design, term, zoo
from tests.generalized import flat

DESIGNS = zoo()
every = pytest.mark.parametrize("name", DESIGNS)


@cache
def rows(name: str) -> Rows:
    return make_rows(DESIGNS[name])


@cache
def algebra(name: str) -> Algebra:
    return Algebra(DESIGNS[name], some_theta(DESIGNS[name]))


def unflat(r: Rows, v: np.ndarray) -> list[np.ndarray]:
    """Vectors (..., q) as arrays (..., k, J) per term."""
    stops = np.cumsum([size.k * size.J for size in r.plan.terms])[:-1]
    return [
        part.reshape(*v.shape[:-1], size.k, size.J)
        for part, size in zip(np.split(v, stops, axis=-1), r.plan.terms, strict=True)
    ]


@every
def test_fixed_columns_are_orthonormal(name: str) -> None:
    r, d = rows(name), DESIGNS[name]
    np.testing.assert_allclose(r.Q @ r.R, d.X, atol=1e-11)
    np.testing.assert_allclose(r.Q.T @ r.Q, d.n * np.eye(d.p), atol=1e-9)


@every
def test_predictor(name: str) -> None:
    r, exact, d = rows(name), algebra(name), DESIGNS[name]
    rng = np.random.default_rng(0)
    gamma, b = rng.normal(size=r.p), rng.normal(size=exact.q)
    offset = np.zeros(d.n) if d.offset is None else d.offset
    np.testing.assert_allclose(r.random(unflat(r, b)), exact.Zall @ b, atol=1e-11)
    np.testing.assert_allclose(
        r.predictor(gamma, unflat(r, b)), offset + r.Q @ gamma + exact.Zall @ b, atol=1e-11
    )


@every
def test_sums(name: str) -> None:
    r, exact = rows(name), algebra(name)
    V = np.random.default_rng(0).normal(size=(r.n, 3))
    np.testing.assert_allclose(flat(r.sums(V[:, 0])), exact.Zall.T @ V[:, 0], atol=1e-11)
    np.testing.assert_allclose(flat(r.column_sums(V)), (exact.Zall.T @ V).T, atol=1e-11)
    assert flat(r.column_sums(V[:, :0])).shape == (0, exact.q)


@every
@pytest.mark.parametrize("signs", ["positive", "zeros", "mixed"])
def test_system_with_new_weights(name: str, signs: str) -> None:
    """Z'WZ column by column, and log|I + T'Z'WZT|; observed weights may be zero or negative."""
    r, exact = rows(name), algebra(name)
    w = np.random.default_rng(0).uniform(0.1, 3.0, r.n)
    if signs == "zeros":
        w[::3] = 0.0
    if signs == "mixed":
        w[::7] *= -0.01
    system = system_of(r, weighted(r, w, False))
    wanted = exact.Zall.T @ (w[:, None] * exact.Zall)
    np.testing.assert_allclose(
        flat(system.multiply(unflat(r, np.eye(exact.q)))), wanted, atol=1e-10
    )
    M = np.eye(exact.q) + exact.L.T @ wanted @ exact.L
    assert np.linalg.eigvalsh(M)[0] > 0
    at = system.factorize(exact.T)
    assert at.logdet == pytest.approx(np.linalg.slogdet(M)[1], rel=1e-10)
    v = np.random.default_rng(1).normal(size=(2, exact.q))
    solved, residual, inner = at.solve(unflat(r, v))
    Nv = (exact.L @ np.linalg.solve(M, exact.L.T @ v.T)).T
    np.testing.assert_allclose(flat(solved), Nv, atol=1e-8)
    np.testing.assert_allclose(flat(residual), v - Nv @ wanted, atol=1e-7)
    np.testing.assert_allclose(inner, v @ Nv.T, atol=1e-8)


@every
def test_place_of_every_row(name: str) -> None:
    """A row's pair of levels is the pair it has."""
    r = rows(name)
    for (t, s), place in r.place.items():
        pairs = r.pattern.pairs[t, s]
        np.testing.assert_array_equal(pairs.rows[place], r.codes[t])
        np.testing.assert_array_equal(pairs.cols[place], r.codes[s])
    if len(r.codes) > 1:
        assert r.place


def test_column_of_ones_is_not_stored() -> None:
    r = rows("slope")
    assert r.columns[0][0] is None
    assert r.columns[0][1] is not None


def test_weights_do_not_enter_the_pattern() -> None:
    """Trials are the family's: columns are orthonormal and counts are counts whatever the weights."""
    rng = np.random.default_rng(0)
    codes, X = rng.integers(0, 6, 60), np.column_stack([np.ones(60), rng.normal(size=60)])
    plain = design(rng.normal(size=60), X, [term("a", codes, np.ones((60, 1)))])
    weighted = make_rows(replace(plain.with_mean(R=7.0 * np.eye(2)), weights=rng.uniform(1, 9, 60)))
    np.testing.assert_allclose(weighted.Q.T @ weighted.Q, 60 * np.eye(2), atol=1e-10)
    np.testing.assert_allclose(weighted.pattern.diag[0][0, 0], np.bincount(codes))
