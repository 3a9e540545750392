"""A sparse matrix of small blocks times many vectors, and its transpose: the primitive that differs most by device.

B joins the levels of two factors: entry m is the block ``blocks[:, :, m]`` (k_row, k_col) at levels
``rows[m]``, ``cols[m]``. With vectors as everywhere, levels last,

    apply(v)            sum_j B_ij v_j     (r, k_row, J_row)  for v (r, k_col, J_col)
    apply_transpose(u)  sum_i B_ij' u_i    (r, k_col, J_col)  for u (r, k_row, J_row)

On a CPU, :class:`CsrProduct`: SciPy's CSR times dense, whose time is that of fetching vector entries at
random. So B is kept once, with the longer side as rows, and only the shorter side is ever touched at
random: gathered in one direction, scattered into in the other. Its levels are sorted by how often they
occur and cut into tiles that fit in cache, where the popular ones stay; rows are cut into chunks of equal
work, shared by threads (SciPy releases the interpreter's lock). Elsewhere, :class:`GatherProduct`.

The vectors' values for one level lie side by side in memory: results are (r, k, J) views of (k J, r), and
arguments so laid out are not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lmm.linalg import threads
from lmm.linalg.sparse.gather_product import GatherProduct, make_gather_product
from lmm.types import KernelArray as Array

#: levels in the first tile, each further one twice as wide: 256 KB of 16 vectors
TILE = 2_000
#: entries in a chunk of rows
CHUNK = 1_000_000
#: multiplications from which a second thread is worth starting
WORTH = 4_000_000


class SparseBlock(NamedTuple):
    """Rows ``first`` to ``last`` and columns ``left`` to ``right`` (sorted by popularity): CSR arrays, and where the values come from."""

    first: int
    last: int
    left: int
    right: int
    indptr: np.ndarray
    indices: np.ndarray
    source: np.ndarray
    values: np.ndarray  # (k_outer, k_inner, entries)


@dataclass(frozen=True)
class CsrProduct:
    """B by SciPy; NumPy only.

    Attributes
    ----------
    k_row, k_col, J_row, J_col : shapes of the blocks, levels on both sides.
    nnz : entries (blocks).
    flipped : whether the stored rows are B's columns.
    order : inner levels by falling popularity, (J_inner,).
    chunks : blocks of the matrix, by chunk of rows.
    """

    k_row: int
    k_col: int
    J_row: int
    J_col: int
    nnz: int
    flipped: bool
    order: np.ndarray
    chunks: tuple[tuple[SparseBlock, ...], ...]
    kept: dict[tuple[int, int, int], tuple[Any, Any]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        """What is kept to save time is left behind."""
        return {**self.__dict__, "kept": {}}

    def _matrix(self, block: SparseBlock, a: int, b: int) -> tuple[Any, Any]:
        """Component (a, b) of a block, and its transpose, as they lie in memory; made once, for SciPy's constructor takes a while."""
        key = (id(block), a, b)
        if key not in self.kept:
            out = sp.csr_matrix((block.last - block.first, block.right - block.left))
            out.data, out.indices, out.indptr = block.values[a, b], block.indices, block.indptr
            self.kept[key] = out, out.T
        return self.kept[key]

    def apply(self, xp: ModuleType, v: Array) -> Array:
        """B v, (r, k_row, J_row), for v (r, k_col, J_col)."""
        return self._scatter(v) if self.flipped else self._gather(v)

    def apply_transpose(self, xp: ModuleType, v: Array) -> Array:
        """B'v, (r, k_col, J_col), for v (r, k_row, J_row)."""
        return self._gather(v) if self.flipped else self._scatter(v)

    def with_blocks(self, blocks: np.ndarray) -> CsrProduct:
        """Other blocks (k_row, k_col, nnz), of this size or another, on the same pattern, in the order first given."""
        own = np.swapaxes(blocks, 0, 1) if self.flipped else np.asarray(blocks)
        chunks = tuple(
            tuple(block._replace(values=_take(own, block.source)) for block in chunk)
            for chunk in self.chunks
        )
        return replace(self, k_row=blocks.shape[0], k_col=blocks.shape[1], chunks=chunks, kept={})

    def entry_products(self, a: int, b: int, c: int, d: int) -> CsrProduct:
        """The same pattern with one number per entry, B_ab B_cd of its block."""
        one, other = ((b, a), (d, c)) if self.flipped else ((a, b), (c, d))
        chunks = tuple(
            tuple(
                block._replace(values=(block.values[one] * block.values[other])[None, None])
                for block in c
            )
            for c in self.chunks
        )
        return replace(self, k_row=1, k_col=1, chunks=chunks, kept={})

    @property
    def _outer(self) -> tuple[int, int]:
        return (self.k_col, self.J_col) if self.flipped else (self.k_row, self.J_row)

    @property
    def _inner(self) -> tuple[int, int]:
        return (self.k_row, self.J_row) if self.flipped else (self.k_col, self.J_col)

    def _gather(self, v: Array) -> Array:
        """From the inner side to the outer."""
        (k, J), r = self._outer, len(v)
        dense = [_levels_first(v, b)[self.order] for b in range(self._inner[0])]
        out = np.zeros((k, J, r))

        def work(chunk: tuple[SparseBlock, ...]) -> None:
            for block in chunk:
                for a in range(k):
                    into = out[a, block.first : block.last]
                    for b, X in enumerate(dense):
                        into += self._matrix(block, a, b)[0] @ X[block.left : block.right]

        self._run(work, r)
        return np.moveaxis(out, 2, 0)

    def _scatter(self, v: Array) -> Array:
        """From the outer side to the inner; each thread adds into sums of its own."""
        (k, J), r = self._inner, len(v)
        dense = [_levels_first(v, a) for a in range(self._outer[0])]
        sums: list[np.ndarray] = []

        def work(chunk: tuple[SparseBlock, ...]) -> None:
            try:
                own = sums.pop()
            except IndexError:
                own = np.zeros((k, J, r))
            for block in chunk:
                for b in range(k):
                    into = own[b, block.left : block.right]
                    for a, X in enumerate(dense):
                        into += self._matrix(block, a, b)[1] @ X[block.first : block.last]
            sums.append(own)

        self._run(work, r)
        total = sums[0] if sums else np.zeros((k, J, r))
        for other in sums[1:]:
            total += other
        out = np.empty((k, J, r))
        out[:, self.order] = total
        return np.moveaxis(out, 2, 0)

    def _run(self, work: Callable[[tuple[SparseBlock, ...]], None], r: int) -> None:
        count = min(threads.cores(), len(self.chunks))
        if count < 2 or self.nnz * r * self.k_row * self.k_col < WORTH:
            for chunk in self.chunks:
                work(chunk)
            return
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, self.chunks))


Product = CsrProduct | GatherProduct


def make_product(
    rows: np.ndarray,
    cols: np.ndarray,
    blocks: np.ndarray,
    J_row: int,
    J_col: int,
    backend: str = "numpy",
) -> Product:
    """The product for a matrix given by its entries.

    Parameters
    ----------
    rows, cols : levels joined by each entry, (m,), sorted by row; an entry that is repeated counts as their sum.
    blocks : values, (k_row, k_col, m).
    J_row, J_col : numbers of levels.
    backend : "numpy" for SciPy, "jax" for a registered pytree of arrays on JAX's default device.

    Example
    -------
    >>> import numpy as np
    >>> from lmm.linalg.sparse.sparse_product import make_product
    >>> B = make_product(np.array([0, 2]), np.array([1, 0]), np.array([[[2.0, 3.0]]]), 3, 2)
    >>> B.apply(np, np.array([[[10.0, 1.0]]]))
    array([[[ 2.,  0., 30.]]])
    """
    blocks = np.ascontiguousarray(blocks, dtype=float)
    if backend == "jax":
        return make_gather_product(rows, cols, blocks, J_row, J_col)
    k_row, k_col, m = blocks.shape
    flipped = k_col * J_col > k_row * J_row
    indptr: np.ndarray = np.searchsorted(rows, np.arange(J_row + 1))
    source: np.ndarray | None = None
    inner: np.ndarray = np.asarray(cols, dtype=np.int32)
    if flipped:
        # a counting sort: SciPy's transposition carries each entry's place along
        moved = sp.csr_matrix(
            (np.arange(m, dtype=np.int32), inner, indptr), shape=(J_row, J_col)
        ).tocsc()
        source, inner, indptr = moved.data, moved.indices, moved.indptr
        blocks = np.swapaxes(blocks, 0, 1)
    J_inner = J_row if flipped else J_col
    popularity = np.bincount(inner, minlength=J_inner)
    order = np.argsort(-popularity, kind="stable")
    place = np.empty(J_inner, dtype=np.int32)
    place[order] = np.arange(J_inner, dtype=np.int32)
    edges = _tiles(J_inner)
    chunks = tuple(
        tuple(_cut(indptr, inner, source, blocks, place, first, last, edges))
        for first, last in pairwise(_cuts(indptr))
        if last > first
    )
    return CsrProduct(k_row, k_col, J_row, J_col, m, flipped, order, chunks)


def _tiles(J: int) -> list[int]:
    """Edges of the tiles of J sorted levels."""
    edges, width = [0], TILE
    while edges[-1] < J:
        edges.append(min(edges[-1] + width, J))
        width *= 2
    return edges


def _cuts(indptr: np.ndarray) -> np.ndarray:
    """Rows at which the matrix is cut into chunks of about as many entries."""
    count = max(1, -(-int(indptr[-1]) // CHUNK))
    cuts = np.searchsorted(indptr, np.linspace(0, indptr[-1], count + 1))
    cuts[0], cuts[-1] = 0, len(indptr) - 1
    return cuts


def _cut(
    indptr: np.ndarray,
    inner: np.ndarray,
    source: np.ndarray | None,
    blocks: np.ndarray,
    place: np.ndarray,
    first: int,
    last: int,
    edges: list[int],
) -> list[SparseBlock]:
    """The blocks of one chunk of rows."""
    begin, end = int(indptr[first]), int(indptr[last])
    column = place[inner[begin:end]]
    row = np.repeat(np.arange(last - first), np.diff(indptr[first : last + 1]))
    out = []
    for left, right in pairwise(edges):
        own = (
            np.flatnonzero((column >= left) & (column < right))
            if len(edges) > 2
            else np.arange(end - begin)
        )
        if not len(own):
            continue
        starts = np.concatenate(
            [[0], np.cumsum(np.bincount(row[own], minlength=last - first))]
        ).astype(np.int32)
        origin = (own + begin).astype(np.int32) if source is None else source[own + begin]
        out.append(
            SparseBlock(
                first,
                last,
                left,
                right,
                starts,
                column[own] - np.int32(left),
                origin,
                _take(blocks, origin),
            )
        )
    return out


def _take(blocks: np.ndarray, source: np.ndarray) -> np.ndarray:
    return np.stack([np.stack([own[source] for own in row]) for row in blocks])


def _levels_first(v: np.ndarray, a: int) -> np.ndarray:
    """Component a of v (r, k, J) as (J, r), without a copy where it lies so already."""
    return np.ascontiguousarray(v[:, a].T)
