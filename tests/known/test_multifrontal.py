"""Sparse Cholesky by fronts against dense matrices, and the limits of what it takes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from lmm.errors import CapacityError
from lmm.known import symbolic
from lmm.known.multifrontal import SparseCholesky, factorize
from lmm.known.symbolic import analyse


def chain(n: int) -> np.ndarray:
    """A random walk, numbered at random."""
    M = 2.5 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    order = np.random.default_rng(n).permutation(n)
    return M[np.ix_(order, order)]


def grid(n: int) -> np.ndarray:
    """Neighbours on a square of n x n."""
    line = np.eye(n, k=1) + np.eye(n, k=-1)
    W = np.kron(line, np.eye(n)) + np.kron(np.eye(n), line)
    return np.diag(W.sum(axis=1) + 0.1) - W


def arrow(n: int) -> np.ndarray:
    """Everything joined to two columns, which are joined to each other."""
    M = np.diag(np.arange(4.0, n + 4.0))
    M[:2, 2:], M[2:, :2] = 0.3, 0.3
    M[0, 1] = M[1, 0] = 0.5
    return M


def unrelated(n: int) -> np.ndarray:
    return np.diag(np.arange(1.0, n + 1.0))


MATRICES = {
    "chain": chain(40),
    "grid": grid(9),
    "arrow": arrow(30),
    "unrelated": unrelated(5),
    "full": np.eye(70) + 0.4,
    "one": np.array([[2.0]]),
}
every = pytest.mark.parametrize("name", MATRICES)


def factor_of(M: np.ndarray, widths: np.ndarray | None = None) -> SparseCholesky:
    if widths is None:
        widths = np.ones(len(M), dtype=int)
    node = np.repeat(np.arange(len(widths)), widths)
    S = sp.csr_array((np.ones(len(M)), (node, np.arange(len(M)))))
    found = analyse(sp.csc_array(S @ sp.csr_array(abs(M)) @ S.T), widths, "id")
    lower = sp.coo_array(np.tril(M))
    return factorize(found, found.entries(lower.row, lower.col), lower.data)


@every
def test_solutions_determinant_and_draws_are_those_of_dense_matrices(name: str) -> None:
    M = MATRICES[name]
    found, inverse = factor_of(M), np.linalg.inv(M)
    b = np.random.default_rng(1).normal(size=(3, len(M)))
    np.testing.assert_allclose(found.solve(b), b @ inverse, atol=1e-11)
    assert found.logdet == pytest.approx(np.linalg.slogdet(M)[1], abs=1e-10)
    half = found.half(b)
    np.testing.assert_allclose(half @ half.T, b @ inverse @ b.T, atol=1e-10)
    drawn = found.back(np.eye(len(M)))
    np.testing.assert_allclose(drawn.T @ drawn, inverse, atol=1e-11)


@every
def test_the_inverse_is_had_on_the_pattern(name: str) -> None:
    M = MATRICES[name]
    found = factor_of(M)
    i, j = np.nonzero(M)
    wanted = np.linalg.inv(M)[i, j]
    np.testing.assert_allclose(found.inverse[found.symbolic.entries(i, j)], wanted, atol=1e-11)


def test_nodes_of_several_columns_stay_together() -> None:
    widths = np.array([3, 1, 2, 4, 2])
    rng = np.random.default_rng(3)
    node = np.repeat(np.arange(5), widths)
    joined = np.eye(5) + np.eye(5, k=2) + np.eye(5, k=-2)
    L = rng.normal(size=(12, 12))
    M = (L @ L.T + 12 * np.eye(12)) * joined[np.ix_(node, node)]
    found = factor_of(M, widths)
    place = found.symbolic.place
    assert all(np.ptp(place[node == k]) == w - 1 for k, w in enumerate(widths))
    np.testing.assert_allclose(found.solve(np.eye(12)), np.linalg.inv(M), atol=1e-12)


def test_entries_of_one_place_are_added() -> None:
    found = analyse(sp.csc_array(np.ones((2, 2))), np.ones(2, dtype=int), "id")
    places = found.entries(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]))
    made = factorize(found, places, np.array([2.0, 1.0, 0.5, 2.0]))
    np.testing.assert_allclose(
        made.solve(np.eye(2)), np.linalg.inv([[2.0, 0.5], [0.5, 3.0]]), atol=1e-14
    )


@pytest.mark.parametrize("name", ["grid", "full", "unrelated"])
def test_a_matrix_that_is_not_positive_definite_is_refused(name: str) -> None:
    M = MATRICES[name]
    shift = np.linalg.eigvalsh(M)[0] + 0.01
    with pytest.raises(np.linalg.LinAlgError):
        factor_of(M - shift * np.eye(len(M)))


def test_too_many_entries_are_refused_with_the_memory_they_need(monkeypatch) -> None:
    monkeypatch.setattr(symbolic, "FRONT_LIMIT", 1000)
    with pytest.raises(CapacityError, match=r"sparse Cholesky factor of id needs .* GB"):
        factor_of(MATRICES["full"])
