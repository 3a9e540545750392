"""Batches of small matrices against NumPy matrix by matrix, in both array namespaces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmm.linalg import small
from lmm.linalg.sparse.segments import segment_sum

SPACES = pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
#: every size under NumPy; under JAX, where each costs a compilation, some
SIZES = pytest.mark.parametrize(
    ("xp", "k"),
    [pytest.param(np, k, id=f"numpy-{k}") for k in range(1, 9)]
    + [pytest.param(jnp, k, id=f"jax-{k}") for k in (1, 2, 6)],
)
J = 11


def batch(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([*shape, seed]).normal(size=shape)


def positive(k: int, levels: int) -> np.ndarray:
    """Cross-products of a few rows each: positive semidefinite, some singular."""
    rows = batch(3, k, levels)
    return np.einsum("raj,rbj->abj", rows, rows)


def run(xp, function, *arrays):
    """``function`` on arrays of the namespace, in double precision; NumPy out."""
    if xp is np:
        return function(*arrays)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*arrays))


@SIZES
def test_products(xp, k: int) -> None:
    A, B, C, v = (
        batch(k, 3, J),
        batch(3, k, J, seed=1),
        batch(k, 2, J, seed=2),
        batch(4, 3, J, seed=3),
    )
    assert run(xp, small.multiply, A, B) == pytest.approx(
        np.einsum("abj,bcj->acj", A, B), abs=1e-13
    )
    assert run(xp, small.transpose_multiply, A, C) == pytest.approx(
        np.einsum("baj,bcj->acj", A, C), abs=1e-13
    )
    assert run(xp, small.apply, A, v) == pytest.approx(np.einsum("abj,rbj->raj", A, v), abs=1e-13)
    assert run(xp, small.apply_transpose, B, v) == pytest.approx(
        np.einsum("baj,rbj->raj", B, v), abs=1e-13
    )


@SIZES
def test_cholesky_and_substitution(xp, k: int) -> None:
    M = positive(k, J) + np.eye(k)[:, :, None]
    B = batch(k, 3, J)
    columns, logdet = run(xp, lambda m: small.cholesky(xp, m), M)
    solved = run(xp, lambda m, b: small.forward_substitute(xp, small.cholesky(xp, m)[0], b), M, B)
    for j in range(J):
        L = np.linalg.cholesky(M[..., j])
        for i, column in enumerate(columns):
            assert column[:, j] == pytest.approx(L[i:, i], abs=1e-12)
        assert logdet[j] == pytest.approx(np.linalg.slogdet(M[..., j])[1], abs=1e-12)
        assert solved[..., j] == pytest.approx(np.linalg.solve(L, B[..., j]), abs=1e-11)


@SIZES
def test_whiten(xp, k: int) -> None:
    """X'X = W = T (I + T'AT)^-1 T', also where T has no inverse."""
    A, full = positive(k, J), np.tril(batch(k, k))
    singular = full.copy()
    singular[-1] = 0.0

    def function(a, t):
        return small.whiten(xp, a, t)

    for T in (full, singular, np.zeros((k, k))):
        X, W, logdet = run(xp, function, A, T)
        total = 0.0
        for j in range(J):
            M = np.eye(k) + T.T @ A[..., j] @ T
            wanted = T @ np.linalg.solve(M, T.T)
            assert W[..., j] == pytest.approx(wanted, abs=1e-11)
            assert X[..., j].T @ X[..., j] == pytest.approx(wanted, abs=1e-11)
            total += np.linalg.slogdet(M)[1]
        assert logdet == pytest.approx(total, rel=1e-12, abs=1e-12)


@SIZES
@pytest.mark.parametrize("size", [1.0, 1e3, 1e7])
def test_what_the_data_leave(xp, k: int, size: float) -> None:
    """(I + A G)^-1, whether the data or G dominate, and where G is singular."""
    A, full = size * positive(k, J), np.tril(0.2 * batch(k, k)) + np.eye(k)
    singular = full.copy()
    singular[-1] = 0.0
    for T in (full, singular, np.zeros((k, k))):
        found = run(xp, lambda a, t: small.left(xp, a, small.whiten(xp, a, t)[1], t), A, T)
        wanted = np.stack(
            [np.linalg.inv(np.eye(k) + A[..., j] @ T @ T.T) for j in range(J)], axis=-1
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12 * max(size, 10.0))


@pytest.mark.parametrize("k", [1, 3])
def test_blocks_of_levels_equal_the_whole(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More levels than two blocks hold, with an odd number left over: the numbers do not change."""
    levels = 2 * small.BLOCK + 777
    A, B, v, T = (
        batch(k, k, levels),
        batch(k, k, levels, seed=1),
        batch(2, k, levels, seed=2),
        np.tril(batch(k, k)),
    )
    P = positive(k, levels)

    def everything() -> list[np.ndarray]:
        X, W, logdet = small.whiten(np, P, T)
        products = [function(A, B) for function in (small.multiply, small.transpose_multiply)]
        products += [function(A, v) for function in (small.apply, small.apply_transpose)]
        return [*products, X, W, np.asarray(logdet), small.left(np, P, W, T)]

    blocked = everything()
    monkeypatch.setattr(small, "BLOCK", levels)
    for mine, whole in zip(blocked, everything(), strict=True):
        np.testing.assert_allclose(mine, whole, rtol=1e-11, atol=1e-12)


@SPACES
def test_segment_sum(xp) -> None:
    """Sums by code, empty segments zero, leading axes kept."""
    rng = np.random.default_rng(0)
    values, index = rng.normal(size=(2, 3, 40)), rng.integers(0, 6, 40) * 2
    out = run(xp, lambda a: segment_sum(xp, a, index, 13), values)
    wanted = np.zeros((2, 3, 13))
    for j, s in enumerate(index):
        wanted[..., s] += values[..., j]
    assert out == pytest.approx(wanted, abs=1e-13)
    assert not out[..., 1::2].any()
