"""The dense tail against numpy.linalg: scalar terms and terms of several columns, factors with and without an inverse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmm.linalg import tail
from lmm.linalg.tail import Slot

LAYOUTS = {
    "scalar": (Slot(0, 1, 7), Slot(7, 1, 4)),
    "columns": (Slot(0, 3, 5), Slot(15, 1, 6), Slot(21, 2, 4)),
    "wide": (Slot(0, 2, 90),),  # more columns than one block of symmetrize
}
#: every layout under NumPy; under JAX, where each operation costs a compilation, the one that has all kinds of terms
CASES = pytest.mark.parametrize(
    ("xp", "layout"),
    [
        *(pytest.param(np, own, id=name) for name, own in LAYOUTS.items()),
        pytest.param(jnp, LAYOUTS["columns"], id="jax"),
    ],
)


def factors(layout: tail.Layout) -> list[np.ndarray]:
    rng = np.random.default_rng(len(layout))
    return [
        np.tril(rng.normal(size=(s.k, s.k)), -1) + np.diag(rng.uniform(0.5, 1.5, s.k))
        for s in layout
    ]


def full(layout: tail.Layout, T: list[np.ndarray]) -> np.ndarray:
    out = np.zeros((tail.size(layout),) * 2)
    for slot, own in zip(layout, T, strict=True):
        out[slot.columns, slot.columns] = np.kron(own, np.eye(slot.J))
    return out


def cross_products(layout: tail.Layout) -> np.ndarray:
    rows = np.random.default_rng(9).normal(size=(tail.size(layout) // 2, tail.size(layout)))
    return rows.T @ rows


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@CASES
def test_scaling(xp, layout: tail.Layout) -> None:
    T, C = factors(layout), cross_products(layout)
    L = full(layout, T)
    b = np.random.default_rng(1).normal(size=(3, len(C)))
    np.testing.assert_allclose(tail.scale_rows(xp, layout, T, C), L.T @ C, atol=1e-12)
    np.testing.assert_allclose(
        tail.scale_rows(xp, layout, T, C, transpose=False), L @ C, atol=1e-12
    )
    np.testing.assert_allclose(tail.sandwich(xp, layout, T, C), L.T @ C @ L, atol=1e-11)
    np.testing.assert_allclose(
        tail.sandwich(xp, layout, T, C, transpose=False), L @ C @ L.T, atol=1e-11
    )
    np.testing.assert_allclose(
        tail.unscale(xp, layout, T, b), np.linalg.solve(L.T, b.T).T, atol=1e-10
    )


@CASES
def test_factor_solves_and_inverse(
    xp, layout: tail.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "BLOCK", 4)  # so that triangles are halved
    C = cross_products(layout)
    S = C + np.eye(len(C))
    b = np.random.default_rng(2).normal(size=(3, len(C)))
    factor = tail.factorize(xp, np.tril(C) if xp is np else jnp.asarray(C))
    L = np.linalg.cholesky(S)
    np.testing.assert_allclose(np.tril(factor.L), L, atol=1e-11)
    assert float(factor.logdet) == pytest.approx(np.linalg.slogdet(S)[1], rel=1e-12)
    np.testing.assert_allclose(tail.forward(xp, factor, b), np.linalg.solve(L, b.T).T, atol=1e-11)
    np.testing.assert_allclose(
        tail.backward(xp, factor, b), np.linalg.solve(L.T, b.T).T, atol=1e-11
    )
    np.testing.assert_allclose(
        np.tril(tail.inverse(xp, factor)), np.tril(np.linalg.inv(S)), atol=1e-11
    )


@CASES
def test_lower_triangles_are_enough(xp, layout: tail.Layout) -> None:
    C = cross_products(layout)
    junk = np.tril(C) + np.triu(np.full_like(C, 99.0), 1)
    b = np.random.default_rng(3).normal(size=(2, len(C)))
    np.testing.assert_allclose(tail.symmetrize(xp, junk), C, atol=1e-12)
    np.testing.assert_allclose(tail.symmetric_multiply(xp, junk, b), b @ C, atol=1e-10)
    for slot in layout:
        own = C[slot.columns, slot.columns].reshape(slot.k, slot.J, slot.k, slot.J)
        np.testing.assert_allclose(
            tail.block_trace(xp, slot, junk), np.einsum("ajbj->ab", own), atol=1e-11
        )


@CASES
@pytest.mark.parametrize("kind", ["well", "singular", "mixed"])
def test_traces(xp, layout: tail.Layout, kind: str) -> None:
    """sum_l Q_ll of Q = C - C K C, by the inverse of T where there is one and without it elsewhere."""
    T, C = factors(layout), cross_products(layout)
    well = [True] * len(layout)
    for i in range(len(layout)):
        if kind == "singular" or (kind == "mixed" and i == 0):
            T[i][-1] = 0.0
            well[i] = False
    L = full(layout, T)
    Sinv = np.linalg.inv(np.eye(len(C)) + L.T @ C @ L)
    K = L @ Sinv @ L.T
    Q = C - C @ K @ C
    inner = [tail.block_trace(xp, slot, xp.asarray(Sinv)) for slot in layout]
    found = tail.traces(xp, layout, T, tuple(well), xp.asarray(C), inner, xp.asarray(K))
    for slot, trace in zip(layout, found, strict=True):
        own = Q[slot.columns, slot.columns].reshape(slot.k, slot.J, slot.k, slot.J)
        np.testing.assert_allclose(trace, np.einsum("ajbj->ab", own), atol=1e-9)


def test_a_matrix_that_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(FloatingPointError, match="column 2"):
        tail.factorize(np, np.diag([1.0, -5.0, 1.0]))


def test_size_counts_columns() -> None:
    assert [tail.size(layout) for layout in (*LAYOUTS.values(), ())] == [11, 29, 180, 0]
