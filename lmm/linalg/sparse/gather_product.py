"""The sparse product for devices on which adding into place is slow: gathers and sums of fixed width alone.

The entries of each row are cut into chunks of W, the last one filled up with zeros. A chunk's sum is one
gather, one multiplication and one sum over W; the sums of a row's chunks are chunked and summed again, in
as many rounds as the longest row needs (log_W of its entries), and a last gather picks each row's
total. Nothing is scattered, so no two threads of a device ever add into the same place. Both
orientations are kept, since a transposed gather would be a scatter.

Lengths are padded to buckets: another matrix of about the same shape finds the kernel compiled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lmm.linalg.devices import backend
from lmm.types import KernelArray as Array

#: widths of a chunk tried, and what one more chunk costs in entries
WIDTHS, CHUNK_COST = (4, 8, 16, 32, 64), 4


class Rounds(NamedTuple):
    """How one orientation sums: what each chunk gathers, round by round, and where each row's total ends up.

    ``picks[0]`` (c, W) are levels of the other side, ``picks[i]`` chunks of the round before, whose last
    chunk is always zero; ``source`` (c, W) tells which entry stands there (m: none); ``total`` (J,) is each
    row's place among the chunks of all rounds.
    """

    picks: tuple[Array, ...]
    source: Array
    total: Array


@dataclass(frozen=True)
class GatherProduct:
    """B by gathers, in both orientations; a pytree whose leaves are arrays.

    Attributes
    ----------
    row, col : how the rows are summed, and the columns.
    row_values, col_values : values (k_row, k_col, c, W) in the order of each.
    """

    row: Rounds
    col: Rounds
    row_values: Array
    col_values: Array

    def apply(self, xp: ModuleType, v: Array) -> Array:
        """B v, (r, k_row, J_row), for v (r, k_col, J_col)."""
        return _sum(xp, self.row, self.row_values, v)

    def apply_transpose(self, xp: ModuleType, v: Array) -> Array:
        """B'v, (r, k_col, J_col), for v (r, k_row, J_row)."""
        return _sum(xp, self.col, xp.swapaxes(self.col_values, 0, 1), v)

    def with_blocks(self, blocks: Array) -> GatherProduct:
        """Other values (k_row, k_col, m) on the same pattern, in the order first given; also inside ``jit``."""
        return replace(
            self,
            row_values=_arrange(blocks, self.row.source),
            col_values=_arrange(blocks, self.col.source),
        )

    def entry_products(self, a: int, b: int, c: int, d: int) -> GatherProduct:
        """The same pattern with one number per entry, B_ab B_cd of its block."""
        row, col = self.row_values, self.col_values
        return replace(
            self,
            row_values=(row[a, b] * row[c, d])[None, None],
            col_values=(col[a, b] * col[c, d])[None, None],
        )


def make_gather_product(
    rows: np.ndarray, cols: np.ndarray, blocks: np.ndarray, J_row: int, J_col: int
) -> GatherProduct:
    """The product on JAX's default device, from entries sorted by row; :func:`lmm.linalg.sparse.sparse_product.make_product`."""
    _register()
    m = len(rows)
    by_col = counting_order(cols, J_col)
    row = make_rounds(np.bincount(rows, minlength=J_row), np.arange(m), np.asarray(cols))
    col = make_rounds(np.bincount(cols, minlength=J_col), by_col, np.asarray(rows)[by_col])
    made: GatherProduct = backend.put(
        GatherProduct(
            row, col, _arrange_host(blocks, row.source), _arrange_host(blocks, col.source)
        )
    )
    return made


def counting_order(index: np.ndarray, size: int) -> np.ndarray:
    """``np.argsort(index, kind="stable")`` for whole numbers below ``size``, in one counting pass: SciPy's transposition."""
    m = len(index)
    row = sp.csr_matrix(
        (np.arange(m, dtype=np.int32), np.asarray(index, dtype=np.int32), np.array([0, m])),
        shape=(1, size),
    )
    order: np.ndarray = row.tocsc().data
    return order


def make_rounds(
    count: np.ndarray,
    source: np.ndarray,
    index: np.ndarray,
    W: int = 0,
    sizes: list[int] | None = None,
    none: int | None = None,
) -> Rounds:
    """The plan for rows with ``count`` (J,) entries each, whose entries follow each other in ``source`` and ``index`` (m,).

    Chunks of ``W`` and padded ``sizes`` of the rounds as given, or as is best; ``none`` marks places without an entry.
    """
    W = W or _width(count)
    sizes = [backend.bucket(size + 1) for size in _sizes(count, W)] if sizes is None else sizes
    none = len(source) if none is None else none
    chunks = sizes[0]
    place, position = _chunks(count, W)
    first = np.zeros((chunks, W), dtype=np.int32)
    origin = np.full((chunks, W), none, dtype=np.int32)
    first.reshape(-1)[position] = index
    origin.reshape(-1)[position] = source
    rounds = [first]
    # empty rows read the zero chunk at the end of the first round
    total = np.where(count > 0, place, chunks - 1)
    own = np.flatnonzero(count > W)  # rows not yet one chunk
    begin, offset = place[own], chunks
    left = -(-count[own] // W)
    for more in sizes[1:]:
        place, position = _chunks(left, W)
        index_here = np.full((more, W), chunks - 1, dtype=np.int32)
        start = np.cumsum(left) - left
        index_here.reshape(-1)[position] = np.arange(left.sum()) - np.repeat(start - begin, left)
        rounds.append(index_here)
        total[own] = offset + place
        keep = left > W
        own, begin, left = own[keep], place[keep], -(-left[keep] // W)
        chunks, offset = more, offset + more
    return Rounds(tuple(rounds), origin, total.astype(np.int32))


def _sizes(count: np.ndarray, W: int) -> list[int]:
    """Chunks of each round."""
    sizes = [int(np.sum(-(-count // W)))]
    left = -(-count[count > W] // W)
    while len(left):
        sizes.append(int(np.sum(-(-left // W))))
        left = -(-left[left > W] // W)
    return sizes


def _chunks(count: np.ndarray, W: int) -> tuple[np.ndarray, np.ndarray]:
    """First chunk of each row, and the flat place of each entry."""
    per_row = -(-count // W)
    place = np.cumsum(per_row) - per_row
    start = np.cumsum(count) - count
    return place, np.arange(count.sum()) + np.repeat(place * W - start, count)


def _width(count: np.ndarray) -> int:
    """The width that wastes least."""
    return min(WIDTHS, key=lambda W: (W + CHUNK_COST) * int(np.sum(-(-count // W))))


def _sum(xp: ModuleType, rounds: Rounds, values: Array, v: Array) -> Array:
    """(r, k, J) from values (k, k_in, c, W) and v (r, k_in, J_in). A vector's entries for a level lie side by side."""
    k, k_in = values.shape[:2]
    levels = xp.moveaxis(v, 0, -1)  # (k_in, J_in, r)
    out = []
    for a in range(k):
        part = xp.zeros((1, v.shape[0]))
        for b in range(k_in):
            fetched = xp.take(levels[b], rounds.picks[0], axis=0, mode="clip")
            part = part + xp.sum(values[a, b][..., None] * fetched, axis=1)
        out.append(_totals(xp, rounds, part))
    return xp.moveaxis(xp.stack(out), -1, 0)


def _totals(xp: ModuleType, rounds: Rounds, part: Array) -> Array:
    """(J, r) from the sums of the first round's chunks (c, r)."""
    parts = [part]
    for index in rounds.picks[1:]:
        part = xp.sum(xp.take(part, index, axis=0, mode="clip"), axis=1)
        parts.append(part)
    every = parts[0] if len(parts) == 1 else xp.concatenate(parts)
    return xp.take(every, rounds.total, axis=0, mode="clip")


def segment_rounds(index: np.ndarray, size: int) -> Rounds:
    """The plan for sums of m values into the segments that ``index`` (m,) names."""
    order = counting_order(index, size)
    return make_rounds(np.bincount(index, minlength=size), order, order)


def shared_rounds(index: np.ndarray, size: int) -> Rounds:
    """The same for the shares of P devices, ``index`` (P, m), negative where there is no value: arrays with P first."""
    P, m = index.shape
    own = [np.flatnonzero(row >= 0) for row in index]
    own = [rows[counting_order(row[rows], size)] for rows, row in zip(own, index, strict=True)]
    counts = [np.bincount(row[rows], minlength=size) for rows, row in zip(own, index, strict=True)]
    W = _width(np.concatenate(counts))
    each = [_sizes(count, W) for count in counts]
    deepest = max(map(len, each))
    sizes = [
        backend.bucket(max(s[i] if i < len(s) else 0 for s in each) + 1) for i in range(deepest)
    ]
    made = [
        make_rounds(count, rows, rows, W, sizes, none=m)
        for count, rows in zip(counts, own, strict=True)
    ]
    picks = tuple(np.stack([r.picks[i] for r in made]) for i in range(deepest))
    return Rounds(picks, np.stack([r.source for r in made]), np.stack([r.total for r in made]))


def sum_segments(xp: ModuleType, rounds: Rounds, values: Array) -> Array:
    """Sums (..., size) of the last axis of ``values`` (..., m) by :func:`segment_rounds`."""
    m = values.shape[-1]
    flat = values.reshape(-1, m).T
    fetched = xp.take(flat, rounds.picks[0], axis=0, mode="clip")
    part = xp.sum(xp.where((rounds.source < m)[..., None], fetched, 0.0), axis=1)
    return _totals(xp, rounds, part).T.reshape(*values.shape[:-1], -1)


def _arrange(blocks: Array, source: Array) -> Array:
    import jax.numpy as jnp

    with backend.our_settings():
        zero = jnp.zeros((*blocks.shape[:2], 1), dtype=float)
        return jnp.take(
            jnp.concatenate([jnp.asarray(blocks), zero], axis=2), source, axis=2, mode="clip"
        )


def _arrange_host(blocks: np.ndarray, source: np.ndarray) -> np.ndarray:
    return np.take(
        np.concatenate([blocks, np.zeros((*blocks.shape[:2], 1))], axis=2), source, axis=2
    )


_registered = False


def _register() -> None:
    """Make the product a pytree, once JAX is needed."""
    global _registered
    if _registered:
        return
    import jax

    jax.tree_util.register_dataclass(GatherProduct, ["row", "col", "row_values", "col_values"], [])
    _registered = True
