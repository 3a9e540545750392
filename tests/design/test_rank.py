"""Which columns are dropped, by the rule of R's limited-pivoting QR, and the triangle of those that stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmm.design.rank import independent_columns, least_squares


def matrix(n: int = 60, p: int = 4, seed: int = 0) -> np.ndarray:
    return np.column_stack([np.ones(n), np.random.default_rng(seed).normal(size=(n, p - 1))])


def assert_triangle(
    X: np.ndarray, kept: np.ndarray, R: np.ndarray, weights: np.ndarray | None = None
) -> None:
    """X[:, kept] = Q R with Q'WQ = I, R upper triangular with a positive diagonal."""
    assert np.array_equal(R, np.triu(R))
    assert (np.diagonal(R) > 0).all()
    Q = X[:, kept] @ np.linalg.inv(R)
    w = np.ones(len(X)) if weights is None else weights
    np.testing.assert_allclose(Q.T @ (Q * w[:, None]), np.eye(len(kept)), atol=1e-7)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("p", [1, 2, 5, 12])
def test_independent_columns_all_stay(p: int, weighted: bool) -> None:
    X = matrix(p=p)
    w = np.random.default_rng(1).uniform(0.1, 5, len(X)) if weighted else None
    kept, R = independent_columns(X, w)
    assert list(kept) == list(range(p))
    assert_triangle(X, kept, R, w)


def test_no_columns() -> None:
    kept, R = independent_columns(np.zeros((10, 0)))
    assert len(kept) == 0
    assert R.shape == (0, 0)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_later_columns_are_the_ones_to_go(weighted: bool) -> None:
    """A sum of earlier columns, a copy, and zeros; the first of each set stays, as in lm()."""
    X = matrix()
    w = np.random.default_rng(1).uniform(0.1, 5, len(X)) if weighted else None
    full = np.column_stack(
        [X[:, 0], X[:, 1], 2 * X[:, 0] - X[:, 1], X[:, 2], np.zeros(len(X)), X[:, 1], X[:, 3]]
    )
    kept, R = independent_columns(full, w)
    assert list(kept) == [0, 1, 3, 6]
    assert_triangle(full, kept, R, w)


def test_all_dummies_beside_an_intercept() -> None:
    codes = np.arange(60) % 4
    X = np.column_stack([np.ones(60), codes[:, None] == np.arange(4)]).astype(float)
    assert list(independent_columns(X)[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6, 1e12])
def test_units_do_not_decide(scale: float) -> None:
    X = matrix()
    S = np.array([1.0, scale, 1.0, 1 / scale])
    kept, R = independent_columns(X * S)
    assert list(kept) == [0, 1, 2, 3]
    assert_triangle(X, kept, R / S)
    dependent = np.column_stack([X, scale * (X[:, 1] + X[:, 2])])
    assert list(independent_columns(dependent)[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("left", "stays"), [(1e-9, False), (1e-8, False), (1e-6, True), (1e-4, True)]
)
def test_tolerance_is_rs(left: float, stays: bool) -> None:
    """What is left of a column after the others, relative to its length, is compared with 1e-7."""
    X = matrix(200)
    own = np.linalg.qr(X)[0]
    extra = np.random.default_rng(2).normal(size=200)
    extra -= own @ (own.T @ extra)
    extra /= np.linalg.norm(extra)
    column = X[:, 1] / np.linalg.norm(X[:, 1]) + left * extra
    kept, R = independent_columns(np.column_stack([X, column]))
    assert (4 in kept) == stays
    assert_triangle(np.column_stack([X, column]), kept[:4], R[:4, :4])


def test_calendar_years_and_their_squares_stay() -> None:
    year = 1980.0 + np.arange(40)
    assert list(independent_columns(np.column_stack([np.ones(40), year, year**2]))[0]) == [0, 1, 2]


def test_more_columns_than_rows() -> None:
    X = np.random.default_rng(3).normal(size=(5, 9))
    kept, R = independent_columns(X)
    assert list(kept) == [0, 1, 2, 3, 4]
    assert_triangle(X, kept, R)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 4))
def test_rank_and_span_of_any_matrix(seed: int, rank: int, extra: int) -> None:
    rng = np.random.default_rng(seed)
    X = (
        rng.normal(size=(30, rank))
        @ rng.normal(size=(rank, rank + extra))
        * 10.0 ** rng.uniform(-4, 4, rank + extra)
    )
    kept, R = independent_columns(X)
    assert len(kept) == rank
    assert_triangle(X, kept, R)
    unit = X / np.linalg.norm(X, axis=0)
    coefficients = np.linalg.lstsq(unit[:, kept], unit, rcond=None)[0]
    np.testing.assert_allclose(unit[:, kept] @ coefficients, unit, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("scale", [1.0, 1e7])
def test_least_squares(weighted: bool, scale: float) -> None:
    X = matrix() * [1.0, scale, 1 / scale, 1.0] + [0.0, 0.0, 0.0, 50.0]
    y = np.random.default_rng(4).normal(size=len(X)) + 1e4
    w = np.random.default_rng(5).uniform(0.1, 5, len(X)) if weighted else None
    _, R = independent_columns(X, w)
    beta, residual = least_squares(X, R, y, w)
    root = np.ones(len(X)) if w is None else np.sqrt(w)
    unit = np.linalg.norm(X, axis=0)
    exact = np.linalg.lstsq(X / unit * root[:, None], y * root, rcond=None)[0] / unit
    assert beta == pytest.approx(exact, rel=1e-9, abs=1e-12)
    assert residual == pytest.approx(y - X @ exact, abs=1e-7)


def test_least_squares_without_columns_leaves_y() -> None:
    y = np.arange(4.0)
    beta, residual = least_squares(np.zeros((4, 0)), np.zeros((0, 0)), y, None)
    assert len(beta) == 0
    assert np.array_equal(residual, y)
    assert residual is not y
