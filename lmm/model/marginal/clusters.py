"""Rows -> clusters that no random effect and no residual joins to each other, pooled by the covariance that they share.

With every random term t, those of the residuals among them, row i has a level and values z_i, and two rows have the covariance

    V_ij = sum over t with a level in common of z_ti' G_t z_tj.

V is block-diagonal over clusters, the connected components of rows that share levels. Clusters with the same z and the same
sharing of levels have the same block: they form one *pattern* (a set of visits that were seen, as a rule), and all that a
Gaussian likelihood needs of the rows w_i = (x_i', y_i)' of its N clusters are sums of products w_ia w_ib', a and b rows of
the block. They are kept as a square root: the triangle of a QR decomposition has n (p + 1) lines at the most, which take
the place of the N clusters. Prior weights go into z and w, rows times sqrt(weight).

Patterns of blocks of one size and of about the same number of lines are stacked in one array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from lmm.errors import CapacityError

#: rows of a cluster whose covariance is still worked on as a dense matrix
LARGEST = 4000
#: patterns stand in one stack as long as the lines of one are at most so many times those of another
UNEVEN = 4
#: numbers of the lines of which one triangle is made at a time
BLOCK = 1 << 18
#: rows of blocks from which products with Z G Z' are taken without forming it, where Z has few columns
LARGE = 16


@dataclass(frozen=True, eq=False)
class Part:
    """One random term of all rows: codes (n,) of levels, and values (n, k), or the one column (n,) in which a row has its value.

    Attributes
    ----------
    codes : (n,) level of each row.
    k : columns.
    values : (n, k), or None where every row has a single value, in column ``places`` (n,).
    scale : (n,) that value, None for ones.
    """

    codes: np.ndarray
    k: int
    values: np.ndarray | None = None
    places: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def order(self) -> list[np.ndarray]:
        """Keys (n,) by which rows of a cluster are put in order."""
        return [self.codes] if self.places is None else [self.codes, self.places]

    def dense(self) -> np.ndarray:
        """Values (n, k)."""
        if self.values is not None:
            return self.values
        assert self.places is not None
        out = np.zeros((len(self.codes), self.k))
        out[np.arange(len(out)), self.places] = 1.0 if self.scale is None else self.scale
        return out

    def keys(self, rows: np.ndarray) -> list[np.ndarray]:
        """What distinguishes patterns of clusters with these rows (C, n): arrays (C, ...)."""
        own = [_ranks(self.codes[rows])]
        for column in (self.places, self.scale, self.values):
            if column is not None:
                own.append(column[rows])
        return own

    def of_patterns(self, rows: np.ndarray) -> StackedPart:
        """The part in the rows (B, n) of B patterns."""
        level = _ranks(self.codes[rows])
        shared = None if not level.any() else level[:, :, None] == level[:, None, :]
        columns = (self.values, self.places, self.scale)
        own = [None if one is None else np.ascontiguousarray(one[rows]) for one in columns]
        return StackedPart(self.k, shared, *own)


@dataclass(frozen=True, eq=False)
class DiagonalPart(Part):
    """One error per row, independent of the others, whose variance is that of the row's place: G is held as its diagonal (k,)."""

    @property
    def order(self) -> list[np.ndarray]:
        """The place alone."""
        assert self.places is not None
        return [self.places]

    def keys(self, rows: np.ndarray) -> list[np.ndarray]:
        """The places (C, n)."""
        assert self.places is not None
        return [self.places[rows]]

    def of_patterns(self, rows: np.ndarray) -> StackedDiagonal:
        """The part in the rows (B, n) of B patterns."""
        assert self.places is not None
        return StackedDiagonal(self.k, None, None, np.ascontiguousarray(self.places[rows]), None)


@dataclass(frozen=True, eq=False)
class StackedPart:
    """One random term in B blocks of n rows.

    Attributes
    ----------
    shared : (B, n, n) bool, whether two rows have a level in common; None where all have.
    values, places, scale : as in :class:`Part`, (B, n, k) and (B, n).
    """

    k: int
    shared: np.ndarray | None
    values: np.ndarray | None
    places: np.ndarray | None
    scale: np.ndarray | None

    def some(self, which: slice) -> StackedPart:
        """The part in some of the blocks."""
        if which == slice(0, len(self)):
            return self
        columns = (self.shared, self.values, self.places, self.scale)
        return type(self)(self.k, *(None if own is None else own[which] for own in columns))

    def __len__(self) -> int:
        own = self.places if self.values is None else self.values
        assert own is not None
        return len(own)

    @cached_property
    def _entries(self) -> np.ndarray:
        """Where in a flat (k, k) matrix the covariance of two rows stands, (B, n, n)."""
        assert self.places is not None
        return self.places[:, :, None] * self.k + self.places[:, None, :]

    @cached_property
    def _factor(self) -> np.ndarray | None:
        """What the entries are multiplied by, (B, n, n); None for ones."""
        if self.scale is None:
            return None if self.shared is None else self.shared.astype(float)
        own = self.scale[:, :, None] * self.scale[:, None, :]
        return own if self.shared is None else own * self.shared

    def spread(self, G: np.ndarray) -> np.ndarray:
        """Z G Z' (..., B, n, n) for G (..., k, k)."""
        if self.values is None:
            out = G.reshape(*G.shape[:-2], -1)[..., self._entries]
            return out if self._factor is None else out * self._factor
        half = self.values @ G[..., None, :, :]
        out = half @ np.swapaxes(self.values, 1, 2)
        return out if self.shared is None else out * self.shared

    @property
    def thin(self) -> bool:
        """Whether Z G Z' times a matrix is less work than with Z G Z' formed."""
        return (
            self.values is not None and self.shared is None and 4 * self.k <= self.values.shape[1]
        )

    def times(self, G: np.ndarray, M: np.ndarray) -> np.ndarray:
        """Z G Z'M (m, B, n, r) for G (m, k, k) and M (B, n, r)."""
        if not self.thin:
            return self.spread(G) @ M
        assert self.values is not None
        return self.values @ (G[:, None] @ (np.swapaxes(self.values, 1, 2) @ M))

    def after(self, G: np.ndarray, M: np.ndarray) -> np.ndarray:
        """M Z G Z' (m, B, n, n) for G (m, k, k) and M (B, n, n)."""
        if not self.thin:
            return M @ self.spread(G)
        assert self.values is not None
        return ((M @ self.values) @ G[:, None]) @ np.swapaxes(self.values, 1, 2)

    def gathered(self, D: np.ndarray) -> np.ndarray:
        """Z'D Z (k, k) of D (B, n, n), only between rows with a level in common, summed over the blocks."""
        if self.values is None:
            weights = D if self._factor is None else D * self._factor
            flat = np.bincount(self._entries.ravel(), weights.ravel(), self.k * self.k)
            return flat.reshape(self.k, self.k)
        own = D if self.shared is None else D * self.shared
        half = (own @ self.values).reshape(-1, self.k)
        return self.values.reshape(-1, self.k).T @ half


@dataclass(frozen=True, eq=False)
class StackedDiagonal(StackedPart):
    """Independent errors of the rows in B blocks; G (k,) are the variances of the places."""

    def spread(self, G: np.ndarray) -> np.ndarray:
        """The diagonal matrices (..., B, n, n) for G (..., k)."""
        assert self.places is not None
        n = self.places.shape[1]
        out = np.zeros((*G.shape[:-1], *self.places.shape, n))
        each = np.arange(n)
        out[..., each, each] = G[..., self.places]
        return out

    @property
    def thin(self) -> bool:
        """It is."""
        return True

    def times(self, G: np.ndarray, M: np.ndarray) -> np.ndarray:
        """Rows of M (B, n, r) times the variances G (m, k) of their places, (m, B, n, r)."""
        assert self.places is not None
        return G[:, self.places][..., None] * M

    def after(self, G: np.ndarray, M: np.ndarray) -> np.ndarray:
        """Columns of M (B, n, n) times the variances G (m, k) of their places, (m, B, n, n)."""
        assert self.places is not None
        return G[:, self.places][..., None, :] * M

    def gathered(self, D: np.ndarray) -> np.ndarray:
        """Sums (k,) of the diagonals of D (B, n, n) by place."""
        assert self.places is not None
        diagonal = np.diagonal(D, axis1=1, axis2=2)
        return np.bincount(self.places.ravel(), diagonal.ravel(), self.k)


@dataclass(frozen=True, eq=False)
class Stack:
    """B patterns of blocks of n rows.

    Attributes
    ----------
    count : (B,) clusters of each pattern.
    lines : (B, n, R, p + 1), a square root of the sums of w w' over the clusters of a pattern, padded with zeros.
    parts : the random terms.
    rows : (C, n) the rows of the design in each cluster; ``pattern`` (C,) which pattern a cluster has.
    """

    count: np.ndarray
    lines: np.ndarray
    parts: tuple[StackedPart, ...]
    rows: np.ndarray
    pattern: np.ndarray

    @property
    def n(self) -> int:
        """Rows of a block."""
        return self.lines.shape[1]

    @property
    def thin(self) -> bool:
        """Whether derivatives of V are better not formed."""
        return self.n >= LARGE and any(part.thin for part in self.parts)

    def with_lines(self, w: np.ndarray) -> Stack:
        """The stack with other rows w (n of the design, p + 1) in the same clusters."""
        lines = np.zeros_like(np.swapaxes(self.lines, 1, 2))
        for b, own in enumerate(self.members()):
            root = _root(w, self.rows[own])
            lines[b, : len(root)] = root
        return replace(self, lines=np.ascontiguousarray(np.swapaxes(lines, 1, 2)))

    def members(self) -> list[np.ndarray]:
        """The clusters of each pattern."""
        order = np.argsort(self.pattern, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.pattern, minlength=len(self.count)))[:-1])


def _ranks(codes: np.ndarray) -> np.ndarray:
    """Codes (C, n) as 0, 1, ... within each line, in their order."""
    order = np.argsort(codes, axis=1, kind="stable")
    inorder = np.take_along_axis(codes, order, axis=1)
    rank = np.zeros(codes.shape, dtype=np.int64)
    rank[:, 1:] = np.cumsum(inorder[:, 1:] != inorder[:, :-1], axis=1)
    out = np.empty_like(rank)
    np.put_along_axis(out, order, rank, axis=1)
    return out


def ranked(codes: np.ndarray) -> np.ndarray:
    """Codes (n,) as 0, 1, ... in their order, without those that do not occur."""
    rank = np.cumsum(np.bincount(codes) > 0) - 1
    return np.asarray(rank[codes])


def clusters_of(parts: Sequence[Part]) -> np.ndarray:
    """The cluster (n,) of each row: rows that share a level, or share one with a row that does."""
    if all(part.codes is parts[0].codes for part in parts):
        return ranked(parts[0].codes)
    n = len(parts[0].codes)
    levels = np.concatenate([[0], np.cumsum([int(part.codes.max()) + 1 for part in parts])])
    rows = np.tile(np.arange(n), len(parts))
    columns = n + np.concatenate([part.codes + levels[t] for t, part in enumerate(parts)])
    size = n + levels[-1]
    graph = sp.coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][:n])


def stacked(
    parts: Sequence[Part], w: np.ndarray, order: Sequence[np.ndarray], names: Sequence[str]
) -> tuple[Stack, ...]:
    """The rows w = [X y] (n, p + 1) as stacks of patterns.

    Parameters
    ----------
    order : keys (n,) by which rows are put in order within a cluster, the most important first.
    names : of the parts, for an error.

    Raises
    ------
    CapacityError : a cluster with too many rows.
    """
    cluster = clusters_of(parts)
    sizes = np.bincount(cluster)
    if sizes.max() > LARGEST:
        raise CapacityError(
            f"{' and '.join(names)} join {sizes.max()} rows, whose covariances are worked on together: more than {LARGEST}, beyond what "
            "a residual structure can be fitted with. Leave out grouping factors that cross the subjects."
        )
    sorted_rows = np.lexsort([*reversed(list(order)), cluster])
    starts = np.cumsum(sizes) - sizes
    out: list[Stack] = []
    for n in np.unique(sizes):
        rows = sorted_rows[starts[sizes == n][:, None] + np.arange(n)]
        keys = [key for part in parts for key in part.keys(rows)]
        pattern = equal_lines(np.column_stack([key.reshape(len(rows), -1) for key in keys]))
        first = np.unique(pattern, return_index=True)[1]
        out += _stacks(parts, w, rows, pattern, rows[first])
    return tuple(out)


def equal_lines(lines: np.ndarray) -> np.ndarray:
    """Number (C,) of each line of an array (C, q), the same for equal ones: 0, 1, ..."""
    code, size = np.zeros(len(lines), dtype=np.int64), 1
    for column in lines.T:
        own, levels = pd.factorize(column)
        if size * len(levels) > 2**62:
            code, known = pd.factorize(code)
            size = len(known)
        code, size = code * len(levels) + own, size * len(levels)
    return np.asarray(pd.factorize(code)[0])


def _stacks(
    parts: Sequence[Part], w: np.ndarray, rows: np.ndarray, pattern: np.ndarray, first: np.ndarray
) -> list[Stack]:
    """Stacks of clusters of one size: their rows (C, n), their patterns (C,) and the rows (B, n) of one of each."""
    count = np.bincount(pattern)
    members = np.split(np.argsort(pattern, kind="stable"), np.cumsum(count)[:-1])
    lines = [_root(w, rows[own]) for own in members]
    length = np.array([len(own) for own in lines])
    bucket = np.ceil(np.log(length) / np.log(UNEVEN) - 1e-9).astype(int)
    out = []
    for one in np.unique(bucket):
        chosen = np.flatnonzero(bucket == one)
        padded = np.zeros((len(chosen), length[chosen].max(), *lines[0].shape[1:]))
        for i, b in enumerate(chosen):
            padded[i, : length[b]] = lines[b]
        place = np.full(len(count), -1)
        place[chosen] = np.arange(len(chosen))
        own = np.flatnonzero(place[pattern] >= 0)
        out.append(
            Stack(
                count[chosen].astype(float),
                np.ascontiguousarray(np.swapaxes(padded, 1, 2)),
                tuple(part.of_patterns(first[chosen]) for part in parts),
                rows[own],
                place[pattern[own]],
            )
        )
    return out


def _root(w: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Lines (r, n, q) with the sums of products of w (rows of the design, q) over clusters with these rows (N, n), r at most n q."""
    (N, n), q = rows.shape, w.shape[1]
    if n * q >= N:
        return w[rows]
    root, at_once = np.zeros((0, n * q)), max(2 * n * q, BLOCK // (n * q))
    for first in range(0, N, at_once):  # piece by piece, which takes no copy of all lines
        piece = w[rows[first : first + at_once]].reshape(-1, n * q)
        root = np.asarray(np.linalg.qr(np.concatenate([root, piece]), mode="r"))
    return root.reshape(-1, n, q)
