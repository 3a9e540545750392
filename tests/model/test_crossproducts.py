"""The sums over rows against Z'WZ itself, and their additivity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lmm.design.design import Design
from lmm.model.gaussian.crossproducts import (
    CrossProducts,
    cross_products,
    dense_pairs,
    right_hand_sides,
)
from tests.algebra import Algebra
from tests.designs import design, slopes, term, zoo

DESIGNS = zoo()
every = pytest.mark.parametrize("name", DESIGNS)


def sums(d: Design, rows: slice | np.ndarray = slice(None)) -> CrossProducts:
    """Cross-products of some rows, with the level codes of all."""
    terms = [replace(t, codes=t.codes[rows], values=t.values[rows]) for t in d.terms]
    XY = np.column_stack([d.X, d.y])[rows]
    return cross_products(terms, XY, None if d.weights is None else d.weights[rows])


def assert_same(a: CrossProducts, b: CrossProducts) -> None:
    for mine, other in [
        *zip(a.diag, b.diag, strict=True),
        *zip(a.rhs, b.rhs, strict=True),
        (a.gram, b.gram),
    ]:
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-9)
    assert a.pairs.keys() == b.pairs.keys()
    for key, pairs in a.pairs.items():
        other = b.pairs[key]
        assert np.array_equal(pairs.rows, other.rows)
        assert np.array_equal(pairs.cols, other.cols)
        np.testing.assert_allclose(pairs.blocks, other.blocks, rtol=1e-12, atol=1e-9)
    assert (a.n, a.sum_log_weights) == (b.n, pytest.approx(b.sum_log_weights, rel=1e-12))


def assert_brute(d: Design, cross: CrossProducts) -> None:
    """Every block against dense matrices."""
    dense = Algebra(d, np.zeros(sum(t.structure.n_theta for t in d.terms)))
    XY = np.column_stack([d.X, d.y])
    weighted = XY * dense.w[:, None]
    np.testing.assert_allclose(cross.gram, XY.T @ weighted, rtol=1e-12)
    assert cross.n == d.n
    assert cross.sum_log_weights == pytest.approx(np.log(dense.w).sum(), abs=1e-12)
    for t, own in enumerate(d.terms):
        A = dense.A[dense.slices[t], dense.slices[t]].reshape(own.k, own.J, own.k, own.J)
        np.testing.assert_allclose(cross.diag[t], np.einsum("ajbj->abj", A), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            cross.rhs[t].reshape(len(XY.T), -1), weighted.T @ dense.Z[t], rtol=1e-11, atol=1e-10
        )
        for s in range(t + 1, len(d.terms)):
            block = dense_pairs(cross.pairs[t, s], own.J, d.terms[s].J)
            np.testing.assert_allclose(
                block, dense.A[dense.slices[t], dense.slices[s]], rtol=1e-12, atol=1e-12
            )
    assert len(cross.pairs) == len(d.terms) * (len(d.terms) - 1) // 2


@every
def test_sums_are_the_dense_products(name: str) -> None:
    assert_brute(DESIGNS[name], sums(DESIGNS[name]))


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("p", [0, 2, 8])
def test_columns_that_the_fixed_effects_share(p: int, weighted: bool) -> None:
    """A random slope that is also a fixed effect, an intercept among many columns, and neither."""
    rng = np.random.default_rng(p)
    n = 150
    Z = slopes(rng, n, 3)
    X = np.column_stack(
        [rng.normal(size=(n, p // 2)), Z[:, ::-1], rng.normal(size=(n, p - p // 2))]
    )[:, :p]
    w = rng.uniform(0.5, 2, n) if weighted else None
    a, b = rng.integers(0, 13, n), rng.integers(0, 5, n)
    d = design(
        rng.normal(size=n),
        X,
        [term("a", a, Z), term("b", b, np.broadcast_to(np.ones((1, 1)), (n, 1)))],
        weights=w,
    )
    assert_brute(d, sums(d))


def test_a_column_that_only_begins_like_ones_is_not_taken_for_an_intercept() -> None:
    n = 200
    z = np.ones((n, 1))
    codes = np.arange(n) % 9
    d = design(np.random.default_rng(0).normal(size=n), np.ones((n, 1)), [term("a", codes, z)])
    d.terms[0].values[150:] = 2.0
    assert_brute(d, sums(d))


@every
def test_chunks_of_rows_add_up(name: str) -> None:
    d = DESIGNS[name]
    rows = np.random.default_rng(4).permutation(d.n)
    first, second, third = (
        np.sort(part) for part in np.split(rows, [20, 130])
    )  # the first lacks some levels
    assert_same(sums(d, first) + sums(d, second) + sums(d, third), sums(d))


@every
def test_pairs_are_sorted_and_distinct(name: str) -> None:
    for (_, s), pairs in sums(DESIGNS[name]).pairs.items():
        key = pairs.rows.astype(int) * DESIGNS[name].terms[s].J + pairs.cols
        assert (np.diff(key) > 0).all()


@every
def test_right_hand_sides_of_other_columns(name: str) -> None:
    d = DESIGNS[name]
    dense = Algebra(d, np.zeros(sum(t.structure.n_theta for t in d.terms)))
    Y = np.random.default_rng(5).normal(size=(d.n, 6))
    for columns in (Y[:, :2], Y):  # few columns and many take different ways
        for own, Z in zip(right_hand_sides(d.terms, columns, d.weights), dense.Z, strict=True):
            wanted = (columns * dense.w[:, None]).T @ Z
            np.testing.assert_allclose(own.reshape(columns.shape[1], -1), wanted, atol=1e-10)
