"""The sparse product equals the dense one in both orientations, on both backends, and scatters nothing under JAX."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lmm.linalg.devices import backend
from lmm.linalg.sparse import sparse_product
from lmm.linalg.sparse.sparse_product import make_product


def pattern(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int, int]:
    """(rows, cols, J_row, J_col), sorted by row."""
    if kind == "tall":
        J_row, J_col, m = 300, 40, 900
    elif kind == "wide":
        J_row, J_col, m = 30, 500, 1500
    elif kind == "empty rows":
        J_row, J_col, m = 400, 300, 60
    elif kind == "nothing":
        J_row, J_col, m = 5, 7, 0
    else:  # one row and one column hold nearly everything
        J_row, J_col, m = 60, 5000, 0
        cells = [(7, c) for c in range(J_col)] + [(r, 11) for r in range(J_row)]
        rows, cols = np.array(sorted(set(cells))).T
        return rows, cols, J_row, J_col
    cell = np.sort(rng.choice(J_row * J_col, size=m, replace=False))
    return cell // J_col, cell % J_col, J_row, J_col


def dense(
    rows: np.ndarray, cols: np.ndarray, blocks: np.ndarray, J_row: int, J_col: int
) -> np.ndarray:
    """B as (k_row, J_row, k_col, J_col)."""
    out = np.zeros((blocks.shape[0], J_row, blocks.shape[1], J_col))
    for i in range(blocks.shape[0]):
        for j in range(blocks.shape[1]):
            np.add.at(out[i, :, j], (rows, cols), blocks[i, j])
    return out


#: the operation in StableHLO and in HLO, not a word in a name
SCATTER = r"stablehlo\.scatter|= \S+ scatter\("
PATTERNS = ("tall", "wide", "empty rows", "nothing", "long")


NUMPY = [(kind, *shape, "numpy") for kind in PATTERNS for shape in ((1, 1), (2, 1), (2, 3))]
JAX = [("tall", 1, 1, "jax"), *((kind, 2, 3, "jax") for kind in PATTERNS)]  # each is a compilation


@pytest.mark.parametrize(("kind", "k_row", "k_col", "name"), NUMPY + JAX)
def test_equals_dense(kind: str, k_row: int, k_col: int, name: str) -> None:
    rng = np.random.default_rng(3)
    rows, cols, J_row, J_col = pattern(kind, rng)
    blocks = rng.standard_normal((k_row, k_col, len(rows)))
    product = make_product(rows, cols, blocks, J_row, J_col, backend=name)
    other = rng.standard_normal(blocks.shape)
    for used, values in ((product, blocks), (product.with_blocks(other), other)):
        full = dense(rows, cols, values, J_row, J_col)
        for r in (0, 1, 17) if name == "numpy" or k_row == k_col == 1 else (17,):
            v, u = rng.standard_normal((r, k_col, J_col)), rng.standard_normal((r, k_row, J_row))
            if name == "numpy":
                Bv, Btu = used.apply(np, v), used.apply_transpose(np, u)
            else:
                Bv, Btu = backend.call(both, used, v, u)
            np.testing.assert_allclose(
                Bv, np.einsum("aibj,rbj->rai", full, v), rtol=1e-12, atol=1e-12
            )
            np.testing.assert_allclose(
                Btu, np.einsum("aibj,rai->rbj", full, u), rtol=1e-12, atol=1e-12
            )


def both(xp, product, v, u):
    """B v and B'u in one kernel."""
    return product.apply(xp, v), product.apply_transpose(xp, u)


def refilled(xp, product, blocks, v, u):
    """The same with values that arrive as arguments."""
    return both(xp, product.with_blocks(blocks), v, u)


def test_tiles_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    rows, cols, J_row, J_col = pattern("tall", rng)
    v, u = rng.standard_normal((3, 2, J_col)), rng.standard_normal((3, 2, J_row))
    blocks = rng.standard_normal((2, 2, len(rows)))
    whole = make_product(rows, cols, blocks, J_row, J_col)
    monkeypatch.setattr(sparse_product, "TILE", 5)
    monkeypatch.setattr(sparse_product, "CHUNK", 100)
    monkeypatch.setattr(sparse_product, "WORTH", 0)
    monkeypatch.setattr(sparse_product.threads, "cores", lambda: 4)
    cut = make_product(rows, cols, blocks, J_row, J_col)
    assert len(cut.chunks) > 4 and len(cut.chunks[0]) > 2
    np.testing.assert_allclose(cut.apply(np, v), whole.apply(np, v), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(
        cut.apply_transpose(np, u), whole.apply_transpose(np, u), rtol=1e-13, atol=1e-13
    )


def test_nothing_is_scattered() -> None:
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(5)
    rows, cols, J_row, J_col = pattern("long", rng)
    blocks = rng.standard_normal((2, 2, len(rows)))
    product = make_product(rows, cols, blocks, J_row, J_col, backend="jax")
    v, u = rng.standard_normal((4, 2, J_col)), rng.standard_normal((4, 2, J_row))
    with jax.enable_x64(True):
        lowered = jax.jit(lambda *args: refilled(jnp, *args)).lower(product, blocks, v, u)
    for text in (lowered.as_text(), lowered.compile().as_text()):
        assert re.search(r"\bgather\b", text)
        assert not re.search(SCATTER, text)
    # the check itself can fail
    with jax.enable_x64(True):
        added = jax.jit(lambda x: jnp.zeros(3).at[x].add(1.0)).lower(np.array([0, 1]))
    for text in (added.as_text(), added.compiler_ir(dialect="hlo").as_hlo_text()):
        assert re.search(SCATTER, text)


def test_a_second_matrix_of_the_same_shape_compiles_nothing() -> None:
    rng = np.random.default_rng(6)
    rows, cols, J_row, J_col = pattern("tall", rng)
    backend.traces.pop("both", None)
    for _ in range(3):
        columns = rng.permutation(J_col)[cols]
        order = np.lexsort((columns, rows))
        blocks = rng.standard_normal((1, 1, len(rows)))
        product = make_product(rows[order], columns[order], blocks, J_row, J_col, backend="jax")
        backend.call(
            both, product, rng.standard_normal((2, 1, J_col)), rng.standard_normal((2, 1, J_row))
        )
    assert backend.traces["both"] == 1


def test_results_laid_out_for_the_next_product_are_not_copied() -> None:
    rng = np.random.default_rng(7)
    rows, cols, J_row, J_col = pattern("tall", rng)
    product = make_product(rows, cols, np.ones((1, 1, len(rows))), J_row, J_col)
    out = product.apply(np, rng.standard_normal((4, 1, J_col)))
    assert np.shares_memory(sparse_product._levels_first(out, 0), out)
