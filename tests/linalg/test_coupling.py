"""The forms of a coupling against the dense matrix, and which form is chosen when."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.linalg import coupling
from lmm.linalg.coupling import Dense, Entries, Products, Split
from lmm.linalg.devices import backend

K_SIZES = pytest.mark.parametrize("k", [1, 2, 3])


def entries(k: int, J: int, q: int, share: float, seed: int = 0, crowded: int = 0) -> Entries:
    """Random places, one level without any, ``crowded`` levels with all."""
    rng = np.random.default_rng([k, J, q, seed])
    present = rng.uniform(size=(J, q)) < share
    present[:crowded] = True
    present[-1] = False
    level, col = np.nonzero(present)
    return Entries(level, col, rng.normal(size=(k, len(level))))


def full(e: Entries, J: int, q: int) -> np.ndarray:
    """B (k, J, q)."""
    B = np.zeros((len(e.val), J, q))
    for a, values in enumerate(e.val):
        for level, col, value in zip(e.level, e.col, values, strict=True):
            B[a, level, col] = value
    return B


def lower(M: np.ndarray) -> np.ndarray:
    return np.tril(M)


@K_SIZES
@pytest.mark.parametrize("form", ["dense", "products", "listed", "split"])
def test_every_form_answers_the_four_questions(k: int, form: str) -> None:
    J, q = 17, 9
    e = entries(k, J, q, 0.3, crowded=3)
    B = full(e, J, q)
    crowded = np.bincount(e.level, minlength=J) > 5
    assert 3 <= crowded.sum() < J
    c = (
        {"dense": coupling.dense, "products": Products, "listed": coupling.listed}[form](e, J, q)
        if form != "split"
        else Split(e, J, q, crowded)
    )
    rng = np.random.default_rng(k)
    X, v, b = rng.normal(size=(k, k, J)), rng.normal(size=(4, k, J)), rng.normal(size=(4, q))
    K = rng.normal(size=(q, q))
    K = K + K.T
    schur = np.einsum("ajq,caj,cbj,bjr->qr", B, X, X, B)
    if form == "listed":
        with_jax(c, X, K, v, b, B)
    assert lower(c.schur(np, X)) == pytest.approx(lower(schur), abs=1e-11)
    assert c.quadratic(np, K if c.full else np.tril(K)) == pytest.approx(
        np.einsum("ajq,qr,bjr->abj", B, K, B), abs=1e-11
    )
    assert c.into_tail(np, v) == pytest.approx(np.einsum("ajq,raj->rq", B, v), abs=1e-12)
    assert c.from_tail(np, b) == pytest.approx(np.einsum("ajq,rq->raj", B, b), abs=1e-12)
    codes = rng.integers(0, J, len(b))
    assert c.rows(codes, b) == pytest.approx(np.einsum("amq,mq->am", B[:, codes], b), abs=1e-12)


def with_jax(c, X, K, v, b, B) -> None:  # type: ignore[no-untyped-def]
    """Compiled, the list says the same as eagerly."""
    schur = backend.call(lambda xp, c, X: c.schur(xp, X), c, X)
    assert lower(schur) == pytest.approx(lower(c.schur(np, X)), abs=1e-11)
    quadratic = backend.call(lambda xp, c, K: c.quadratic(xp, K), c, np.tril(K))
    assert quadratic == pytest.approx(np.einsum("ajq,qr,bjr->abj", B, K, B), abs=1e-11)
    into = backend.call(lambda xp, c, v: c.into_tail(xp, v), c, v)
    assert into == pytest.approx(c.into_tail(np, v), abs=1e-12)
    back = backend.call(lambda xp, c, b: c.from_tail(xp, b), c, b)
    assert back == pytest.approx(c.from_tail(np, b), abs=1e-12)


def test_jax_takes_the_list_on_a_processor_and_the_array_on_an_accelerator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A list where it is the cheaper of the two; its length is a bucket's, whatever the data's."""
    J, q = 3000, 400
    thin = entries(1, J, q, 3 / q)
    found = coupling.choose_for_jax(thin, J, q)
    assert isinstance(found, coupling.Listed)
    assert len(found.key) == backend.bucket(len(found.key)) and len(found.val[0]) > len(thin.level)
    assert isinstance(coupling.choose_for_jax(entries(1, 200, 120, 0.99), 200, 120), Dense)
    monkeypatch.setattr(backend, "has_accelerator", lambda: True)
    assert isinstance(coupling.choose_for_jax(thin, J, q), Dense)


@K_SIZES
def test_dense_schur_fills_both_triangles(k: int) -> None:
    e = entries(k, 8, 6, 0.5)
    out = coupling.dense(e, 8, 6).schur(np, np.random.default_rng(0).normal(size=(k, k, 8)))
    assert out == pytest.approx(out.T, abs=1e-12)


def test_quadratic_is_the_adjoint_of_schur() -> None:
    """<K, schur(X)> = sum_j <X'X, quadratic(K)_j> for all three forms."""
    J, q, k = 20, 7, 2
    e = entries(k, J, q, 0.4, crowded=2)
    rng = np.random.default_rng(3)
    X, K = rng.normal(size=(k, k, J)), rng.normal(size=(q, q))
    K = K + K.T
    W = np.einsum("caj,cbj->abj", X, X)
    for c in (coupling.dense(e, J, q), Products(e, J, q), Split(e, J, q, np.arange(J) < 2)):
        S = np.tril(c.schur(np, X))
        S = S + np.tril(S, -1).T
        assert np.sum(K * S) == pytest.approx(np.sum(W * c.quadratic(np, K)), rel=1e-11)


def test_choice_by_size_and_crowding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small or full: dense. Large and thin: products. A few crowded levels among thin ones: split, unless the list is short."""
    J, q = 3000, 400
    thin = entries(1, J, q, 3 / q)
    assert isinstance(coupling.choose(entries(2, 30, 10, 0.4), 30, 10), Dense)
    assert isinstance(coupling.choose(thin, J, q), Products)
    level, col = np.divmod(np.arange(200 * 120), 120)
    packed = Entries(level, col, np.ones((1, len(level))))
    assert isinstance(coupling.choose(packed, 200, 120), Dense)
    assert isinstance(coupling.choose(entries(1, J, q, 3 / q, crowded=5), J, q), Products)
    monkeypatch.setattr(coupling, "SHORT_LIST", 0)
    mixed = coupling.choose(entries(1, J, q, 3 / q, crowded=5), J, q)
    assert isinstance(mixed, Split)
    assert list(mixed.crowded) == list(range(5))


def test_a_list_that_would_be_too_long_turns_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """With little room for lists the most crowded levels go to the dense part; the answers stay."""
    J, q = 1500, 300
    e = entries(2, J, q, 0.03)
    free = coupling.choose(e, J, q)
    monkeypatch.setattr(coupling, "LIST_LIMIT", 60_000)
    bound = coupling.choose(e, J, q)
    assert isinstance(free, Products)
    assert isinstance(bound, Split)
    count = np.bincount(e.level, minlength=J)
    assert count[bound.sparse].max() <= count[bound.crowded].min()
    assert (count[bound.sparse] * (count[bound.sparse] + 1) / 2).sum() * 3 <= 60_000
    X = np.random.default_rng(1).normal(size=(2, 2, J))
    assert np.tril(bound.schur(np, X)) == pytest.approx(np.tril(free.schur(np, X)), abs=1e-9)
