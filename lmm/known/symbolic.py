"""Where a sparse Cholesky factor has entries: elimination order, supernodes and their fronts, found once for a pattern.

The matrix M (n, n) comes in nodes of several columns each: the effects of a level, or all effects of a term whose precision is dense.
Nodes are ordered by minimum degree, and the columns of a node stay together. Consecutive columns with (nearly) the same rows below
them form a supernode s with c columns and r rows below; its front is the dense (c + r, c + r) matrix in which it is eliminated. The
rows below lie in the front of its parent, so that fronts form a forest. All fronts of one height and one shape are eliminated side by
side (:mod:`lmm.known.multifrontal`).

References: Liu (1990), SIAM J. Matrix Anal. Appl. 11, 134-172 (elimination trees); Duff & Reid (1983), ACM Trans. Math. Softw. 9 (fronts);
Ashcraft & Grimes (1989), ACM Trans. Math. Softw. 15 (relaxed supernodes).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from lmm.errors import CapacityError

#: numbers in all fronts together
FRONT_LIMIT = 400_000_000
#: columns of a merged supernode up to which a share of zeros among its entries is taken
RELAXED = ((4, 1.0), (16, 0.8), (48, 0.2), (10**9, 0.05))


class FrontBatch(NamedTuple):
    """Supernodes of one height and one shape.

    Attributes
    ----------
    ids : (B,) supernodes; ``c``, ``r`` columns and rows below of each.
    columns : (B, c) and ``below`` (B, r): columns of M in the order of elimination.
    front : (B,) where the front of each begins; fronts lie row by row, one after another.
    above : (B, r) places of the rows below in the front of the parent; ``above_front`` (B,) where that begins, ``above_size`` (B,) its
        side.
    """

    ids: np.ndarray
    c: int
    r: int
    columns: np.ndarray
    below: np.ndarray
    front: np.ndarray
    above: np.ndarray
    above_front: np.ndarray
    above_size: np.ndarray

    def fronts(self, F: np.ndarray) -> np.ndarray:
        """(B, c + r, c + r) the fronts of F, in which all fronts stand; a view of a single one."""
        size = self.c + self.r
        if len(self.ids) == 1:
            first = int(self.front[0])
            return F[first : first + size * size].reshape(1, size, size)
        return F[self.front[:, None] + np.arange(size * size)].reshape(-1, size, size)

    def put(self, F: np.ndarray, blocks: np.ndarray) -> None:
        """Write the fronts (B, c + r, c + r) into F."""
        size = self.c + self.r
        if len(self.ids) == 1:
            self.fronts(F)[0] = blocks[0]
        else:
            F[self.front[:, None] + np.arange(size * size)] = blocks.reshape(-1, size * size)

    def parents(self, F: np.ndarray) -> np.ndarray:
        """(B, r, r) the entries of the rows below in the fronts of the parents."""
        if len(self.ids) == 1:
            own = self.above[0]
            return np.asarray(self._parent(F)[own[:, None], own])[None]
        return np.asarray(F[self._in_parents()])

    def add(self, F: np.ndarray, update: np.ndarray) -> None:
        """Add (B, r, r) to the entries of the rows below in the fronts of the parents."""
        if len(self.ids) == 1:
            own = self.above[0]
            self._parent(F)[own[:, None], own] += update[0]
        else:
            np.add.at(F, self._in_parents().ravel(), update.ravel())

    def _parent(self, F: np.ndarray) -> np.ndarray:
        first, size = int(self.above_front[0]), int(self.above_size[0])
        return F[first : first + size * size].reshape(size, size)

    def _in_parents(self) -> np.ndarray:
        line = self.above_front[:, None] + self.above * self.above_size[:, None]
        return np.asarray(line[:, :, None] + self.above[:, None, :])


@dataclass(frozen=True, eq=False)
class Symbolic:
    """The order of elimination and the fronts.

    Attributes
    ----------
    order : (n,) column of M that is eliminated at each step; ``place`` its inverse.
    starts : (S + 1,) first column of each supernode.
    pointers, rows : rows below of supernode s are ``rows[pointers[s]:pointers[s + 1]]``.
    parent : (S,) parent of each supernode, -1 for a root.
    fronts : (S + 1,) where the front of each begins.
    """

    order: np.ndarray
    place: np.ndarray
    starts: np.ndarray
    pointers: np.ndarray
    rows: np.ndarray
    parent: np.ndarray
    fronts: np.ndarray

    @property
    def n(self) -> int:
        """Columns of M."""
        return len(self.order)

    @cached_property
    def largest(self) -> int:
        """Side of the largest front."""
        return int(self._sizes.max(initial=0))

    @cached_property
    def _owner(self) -> np.ndarray:
        """(n,) supernode of each column."""
        return np.repeat(np.arange(len(self.parent)), np.diff(self.starts))

    @cached_property
    def _sizes(self) -> np.ndarray:
        """(S,) columns and rows of each front."""
        return np.diff(self.starts) + np.diff(self.pointers)

    @cached_property
    def _keys(self) -> np.ndarray:
        """Rows below, with the supernode as the leading digit."""
        counts = np.diff(self.pointers)
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts) * self.n + self.rows

    def _in_front(self, s: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Places of eliminated columns ``row`` in the fronts of supernodes s."""
        below = np.searchsorted(self._keys, s.astype(np.int64) * self.n + row) - self.pointers[s]
        inside = row < self.starts[s + 1]
        width = self.starts[s + 1] - self.starts[s]
        return np.where(inside, row - self.starts[s], width + below)

    def entries(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Where entries (i, j) of M lie among the fronts, in the lower triangle of that in which they are eliminated."""
        a, b = self.place[i], self.place[j]
        first, last = np.minimum(a, b), np.maximum(a, b)
        s = self._owner[first]
        row = self._in_front(s, last)
        return np.asarray(self.fronts[s] + row * self._sizes[s] + (first - self.starts[s]))

    @cached_property
    def batches(self) -> list[FrontBatch]:
        """The supernodes in batches, children before parents."""
        S = len(self.parent)
        height = np.zeros(S, dtype=np.int64)
        parent = self.parent.tolist()
        level = height.tolist()
        for s, p in enumerate(parent):
            if p >= 0 and level[p] <= level[s]:
                level[p] = level[s] + 1
        height = np.array(level, dtype=np.int64)
        c, r = np.diff(self.starts), np.diff(self.pointers)
        order = np.lexsort((r, c, height))
        key = np.stack([height, c, r])[:, order]
        cuts = np.flatnonzero(np.any(np.diff(key, axis=1) != 0, axis=0)) + 1
        return [self._batch(ids) for ids in np.split(order, cuts)] if S else []

    def _batch(self, ids: np.ndarray) -> FrontBatch:
        first = ids[0]
        c = int(self.starts[first + 1] - self.starts[first])
        r = int(self.pointers[first + 1] - self.pointers[first])
        below = self.rows[self.pointers[ids][:, None] + np.arange(r)]
        parent = np.maximum(self.parent[ids], 0)
        above = below
        if r:
            above = self._in_front(np.repeat(parent, r), below.ravel()).reshape(below.shape)
        return FrontBatch(
            ids,
            c,
            r,
            self.starts[ids][:, None] + np.arange(c),
            below,
            self.fronts[ids],
            above,
            self.fronts[parent],
            self._sizes[parent],
        )


def analyse(pattern: sp.csc_array, widths: np.ndarray, what: str) -> Symbolic:
    """Order and fronts of a symmetric pattern of nodes.

    Parameters
    ----------
    pattern : (m, m), entries where two nodes are joined, both triangles.
    widths : (m,) columns of each node; the columns of M stand node by node.
    what : the terms, for the error.

    Raises
    ------
    CapacityError : the fronts need too much memory.
    """
    order, pointers, rows = _factor_pattern(pattern, widths, what)
    again, starts, below = _merged(pointers, rows, widths[order])
    return _in_columns(order[again], starts, below, widths, what)


def _factor_pattern(
    pattern: sp.csc_array, widths: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order of the nodes, and the rows of each node's column of the factor, itself the first, sorted: pointers and rows."""
    m = pattern.shape[0]
    joined = sp.csc_array(pattern, copy=True)
    joined.setdiag(0.0)
    joined.eliminate_zeros()
    joined.data[:] = -1.0
    degree = np.diff(joined.indptr)
    dominant = sp.csc_matrix(joined + sp.diags_array(degree + 1.0))
    try:
        found = splu(
            dominant,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except (MemoryError, RuntimeError) as error:
        raise too_large(what, "more memory than there is") from error
    order = np.argsort(found.perm_c) if m else np.zeros(0, dtype=np.int64)
    lower = sp.csc_array(found.L)
    lower.sort_indices()
    return order, lower.indptr.astype(np.int64), lower.indices.astype(np.int64)


def _merged(
    pointers: np.ndarray, rows: np.ndarray, widths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Supernodes of nodes: the nodes in a new order, the first of each supernode in it (S + 1,), and the nodes below each.

    A child that has nearly the rows of its parent's front joins it; its nodes then stand before the parent's.
    """
    m = len(widths)
    counts = np.diff(pointers)
    second = rows[np.minimum(pointers[:-1] + 1, max(len(rows) - 1, 0))]
    parent = np.where(counts > 1, second, -1)
    same = np.zeros(m, dtype=bool)
    same[1:] = (parent[:-1] == np.arange(1, m)) & (counts[:-1] == counts[1:] + 1)
    starts = np.flatnonzero(~same)
    last = np.append(starts[1:], m) - 1
    reach = np.concatenate([[0], np.cumsum(widths[rows])])
    size = (reach[pointers[1:]] - reach[pointers[:-1]])[starts]
    owner = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, m)))
    up = np.where(parent[last] >= 0, owner[parent[last]], -1)
    top = _joined(up.tolist(), np.add.reduceat(widths, starts).tolist(), size.tolist())
    order = np.lexsort((np.arange(m), last[top[owner]]))
    place = np.empty(m, dtype=np.int64)
    place[order] = np.arange(m)
    own = np.flatnonzero(top == np.arange(len(top)))
    counts = np.bincount(top[owner], minlength=len(top))[own]
    below = [np.sort(place[rows[pointers[j] + 1 : pointers[j + 1]]]) for j in last[own]]
    return order, np.concatenate([[0], np.cumsum(counts)]), below


def _joined(up: list[int], width: list[int], size: list[int]) -> np.ndarray:
    """The supernode (S,) that each joins in the end, of parents, columns and sides of fronts."""
    joined = [False] * len(up)
    own = [w * (f + f - w) // 2 for w, f in zip(width, size, strict=True)]  # entries that count
    for s, p in enumerate(up):
        if p < 0:
            continue
        columns, front = width[s] + width[p], width[s] + size[p]
        entries = columns * (2 * front - columns) // 2
        zeros = 1.0 - (own[s] + own[p]) / entries
        most = next(share for limit, share in RELAXED if columns <= limit)
        near = columns <= RELAXED[0][0] or 2 * size[s] >= front
        if zeros <= most and near:
            joined[s] = True
            width[p], size[p], own[p] = columns, front, own[s] + own[p]
    top = list(range(len(up)))
    for s in range(len(up) - 1, -1, -1):
        if joined[s]:
            top[s] = top[up[s]]
    return np.array(top, dtype=np.int64)


def _in_columns(
    order: np.ndarray, nodes: np.ndarray, below: list[np.ndarray], widths: np.ndarray, what: str
) -> Symbolic:
    """The supernodes of nodes in columns of M."""
    offsets = np.concatenate([[0], np.cumsum(widths)])
    own = widths[order]
    at = np.concatenate([[0], np.cumsum(own)])
    columns = _spread(offsets[order], own)
    place = np.empty(len(columns), dtype=np.int64)
    place[columns] = np.arange(len(columns))
    starts = at[nodes]
    joined = np.concatenate(below) if below else np.zeros(0, dtype=np.int64)
    rows = _spread(at[joined], own[joined])
    counts = np.array([len(each) for each in below], dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(own[joined])])
    pointers = ends[np.concatenate([[0], np.cumsum(counts)])]
    owner = np.repeat(np.arange(len(below)), np.diff(starts))
    first = rows[np.minimum(pointers[:-1], max(len(rows) - 1, 0))] if len(rows) else starts[:-1]
    parent = np.where(np.diff(pointers) > 0, owner[first], -1)
    size = (np.diff(starts) + np.diff(pointers)).astype(float)
    total = float(np.sum(size * size))
    if total > FRONT_LIMIT:
        raise too_large(what, f"{8 * total / 1e9:.0f} GB")
    fronts = np.concatenate([[0], np.cumsum((size * size).astype(np.int64))])
    return Symbolic(columns, place, starts, pointers, rows, parent, fronts)


def _spread(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """first[i], first[i] + 1, ..., count[i] of them, for each i."""
    total = np.cumsum(count)
    if not len(total):
        return np.zeros(0, dtype=np.int64)
    return np.arange(total[-1]) - np.repeat(total - count, count) + np.repeat(first, count)


def too_large(what: str, memory: str) -> CapacityError:
    """The error for a factor that has too many entries."""
    return CapacityError(
        f"the sparse Cholesky factor of {what} needs {memory}: too many of its levels are joined with each other. Leave out levels that "
        "no level with data descends from or depends on, or crossed terms."
    )
