"""How one eliminated factor is joined to the dense tail: B (k J, q), row a * J + level, in three forms.

With B_j (k, q) the rows of level j, every form answers the same questions:

    schur(X)       sum_j B_j' X_j'X_j B_j     (q, q)      what elimination takes from the tail
    quadratic(K)   B_j K B_j'                 (k, k, J)   its adjoint, for traces
    into_tail(v)   sum_j B_j' v_j             (r, q)      for v (r, k, J)
    from_tail(b)   B_j b                      (r, k, J)   for b (r, q)
    rows(j, M)     B_j(i) M_i                 (k, m)      for m levels j and rows M (m, q)

``Dense`` is two matrix products and runs under NumPy and JAX. ``Products`` lists, for every two
entries of a level, their product once: the first two questions are linear in X'X and in K, so each
is one sparse matrix times a vector, sum_j c_j^2 / 2 multiplications for c_j entries in level j.
``Split`` gives the crowded levels to the first and the others to the second. ``Listed`` is the list for JAX on a CPU, where
a sum into place is cheap; an accelerator multiplies densely.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from lmm.linalg import small, threads
from lmm.linalg.devices import backend, sharded
from lmm.linalg.sparse.segments import segment_sum
from lmm.types import KernelArray as Array

#: seconds per multiplication in a dense product (half of it used: symmetric), and in a list of products with its share of the listing
DENSE_COST, LIST_COST = 1.0e-11, 6e-9
#: seconds per listed multiplication in JAX's kernels on a CPU, summed into place once and fetched once
JAX_LIST_COST = 2e-8
#: multiplications up to which a list needs no dense part beside it
SHORT_LIST = 10_000_000
#: multiplications listed at the most: 12 bytes each
LIST_LIMIT = 60_000_000


class Entries(NamedTuple):
    """Nonzero columns of B by level: entry m joins ``level[m]`` and tail column ``col[m]`` by ``val[:, m]``; sorted by both."""

    level: np.ndarray
    col: np.ndarray
    val: np.ndarray  # (k, m)


class Dense(NamedTuple):
    """B as an array (k, J, q)."""

    B: Array

    @property
    def full(self) -> bool:
        """Whether ``quadratic`` reads both triangles of K."""
        return True

    def schur(self, xp: ModuleType, X: Array) -> Array:
        """sum_j B_j' X_j'X_j B_j, (q, q)."""
        k, J, q = self.B.shape
        Y = X[:, 0, :, None] * self.B[None, 0]
        for b in range(1, k):
            Y = Y + X[:, b, :, None] * self.B[None, b]
        if xp is not np and backend.mesh() is not None:
            return sum(sharded.gram(backend.mesh(), own) for own in Y)
        Y = Y.reshape(k * J, q)
        with threads.for_flops(k * J * q * q):
            return Y.T @ Y

    def quadratic(self, xp: ModuleType, K: Array) -> Array:
        """B_j K B_j', (k, k, J); K symmetric (q, q), both triangles."""
        k, J, q = self.B.shape
        with threads.for_flops(2 * k * J * q * q):
            BK = (self.B.reshape(k * J, q) @ K).reshape(k, J, q)
        return xp.stack(
            [xp.stack([xp.sum(BK[a] * self.B[b], axis=-1) for b in range(k)]) for a in range(k)]
        )

    def into_tail(self, xp: ModuleType, v: Array) -> Array:
        """sum_j B_j' v_j, (r, q)."""
        k, J, q = self.B.shape
        return v.reshape(-1, k * J) @ self.B.reshape(k * J, q)

    def from_tail(self, xp: ModuleType, b: Array) -> Array:
        """B_j b, (r, k, J)."""
        k, J, q = self.B.shape
        return (b @ self.B.reshape(k * J, q).T).reshape(-1, k, J)

    def rows(self, level: np.ndarray, M: np.ndarray) -> np.ndarray:
        """B_j(i) M_i, (k, m)."""
        return np.einsum("kmq,mq->km", np.asarray(self.B)[:, level], M)


class Products:
    """Pairs of entries within a level, multiplied once; NumPy only."""

    full = False

    def __init__(self, entries: Entries, J: int, q: int):
        k = len(entries.val)
        self.k, self.J, self.q = k, J, q
        first, second, indptr = _pairs_within(entries.level, J)
        # columns ascend within a level, so the first of a pair is the row of the lower triangle
        key = entries.col.astype(np.int32 if q * q < 2**31 else np.int64)
        key = key[first] * key.dtype.type(q) + key[second]
        self.index = [(a, b) for a in range(k) for b in range(a, k)]
        self.maps, self.squares = [], []
        start = np.searchsorted(entries.level, np.arange(J + 1))
        for a, b in self.index:
            self.squares.append(
                _csr(entries.val[a] * entries.val[b], entries.col.astype(np.int32), start, (J, q))
            )
            product = entries.val[a][first] * entries.val[b][second]
            if a != b:
                product += entries.val[b][first] * entries.val[a][second]
            self.maps.append(_csr(product, key, indptr, (J, q * q)))
        self.B = _sparse(entries, J, q)

    def schur(self, xp: ModuleType, X: Array) -> Array:
        """sum_j B_j' X_j'X_j B_j; the lower triangle, zeros above."""
        W = small.transpose_multiply(X, X)
        total = self.maps[0].T @ W[0, 0]
        for (a, b), products in zip(self.index[1:], self.maps[1:], strict=True):
            total += products.T @ W[a, b]
        return total.reshape(self.q, self.q)

    def quadratic(self, xp: ModuleType, K: Array) -> Array:
        """B_j K B_j'; reads the lower triangle of K."""
        flat, diagonal = K.ravel(), np.ascontiguousarray(np.diagonal(K))
        H = np.empty((self.k, self.k, self.J))
        for (a, b), products, square in zip(self.index, self.maps, self.squares, strict=True):
            # pairs of two entries count twice, pairs of an entry with itself once
            H[a, b] = H[b, a] = (2.0 if a == b else 1.0) * (products @ flat) - square @ diagonal
        return H

    def into_tail(self, xp: ModuleType, v: Array) -> Array:
        """sum_j B_j' v_j, (r, q)."""
        return np.asarray((self.B.T @ v.reshape(-1, self.k * self.J).T).T)

    def from_tail(self, xp: ModuleType, b: Array) -> Array:
        """B_j b, (r, k, J)."""
        return np.ascontiguousarray((self.B @ b.T).T).reshape(-1, self.k, self.J)

    def rows(self, level: np.ndarray, M: np.ndarray) -> np.ndarray:
        """B_j(i) M_i, (k, m)."""
        return _rows(self.B, self.J, level, M)

    def matrix(self) -> sp.csr_matrix:
        """B, (k J, q)."""
        return self.B


class Listed(NamedTuple):
    """The same list as arrays of JAX: entries sorted by level, pairs of entries with where they lie in the tail's lower triangle.

    Lengths are padded to buckets with entries of zero, so that another data set of about the same shape finds the kernel compiled.
    """

    level: Array  # (m,)
    col: Array  # (m,)
    val: Array  # (k, m)
    key: Array  # (M,) row q + column of a pair
    pair_level: Array  # (M,)
    products: (
        Array  # (k (k + 1) / 2, M) of values a and b <= a of a pair, both ways where they differ
    )
    shape: Array  # (0, J, q), which says J and q

    @property
    def full(self) -> bool:
        """Whether ``quadratic`` reads both triangles of K."""
        return False

    def schur(self, xp: ModuleType, X: Array) -> Array:
        """sum_j B_j' X_j'X_j B_j; the lower triangle, zeros above."""
        _, _, q = self.shape.shape
        W = small.transpose_multiply(X, X)
        each = [self.products[i] * W[a, b][self.pair_level] for i, (a, b) in self._pairs()]
        return segment_sum(xp, sum(each), self.key, q * q).reshape(q, q)

    def quadratic(self, xp: ModuleType, K: Array) -> Array:
        """B_j K B_j'; reads the lower triangle of K."""
        k, J = len(self.val), self.shape.shape[1]
        flat, diagonal = K.reshape(-1)[self.key], xp.diagonal(K)[self.col]
        rows = [[xp.zeros(J)] * k for _ in range(k)]
        for i, (a, b) in self._pairs():
            twice = segment_sum(xp, self.products[i] * flat, self.pair_level, J)
            once = segment_sum(xp, self.val[a] * self.val[b] * diagonal, self.level, J)
            rows[a][b] = rows[b][a] = (2.0 if a == b else 1.0) * twice - once
        return xp.stack([xp.stack(row) for row in rows])

    def into_tail(self, xp: ModuleType, v: Array) -> Array:
        """sum_j B_j' v_j, (r, q)."""
        each = sum(own * v[:, a, self.level] for a, own in enumerate(self.val))
        return segment_sum(xp, each, self.col, self.shape.shape[2])

    def from_tail(self, xp: ModuleType, b: Array) -> Array:
        """B_j b, (r, k, J)."""
        J = self.shape.shape[1]
        each = [segment_sum(xp, own * b[:, self.col], self.level, J) for own in self.val]
        return xp.stack(each, axis=1)

    def rows(self, level: np.ndarray, M: np.ndarray) -> np.ndarray:
        """B_j(i) M_i, (k, m)."""
        return _rows(self.matrix(), self.shape.shape[1], level, M)

    def matrix(self) -> sp.csr_matrix:
        """B, (k J, q)."""
        entries = Entries(np.asarray(self.level), np.asarray(self.col), np.asarray(self.val))
        return _sparse(entries, *self.shape.shape[1:])

    def _pairs(self) -> list[tuple[int, tuple[int, int]]]:
        return list(enumerate((a, b) for a in range(len(self.val)) for b in range(a + 1)))


def listed(entries: Entries, J: int, q: int) -> Listed:
    """The list of products for JAX."""
    k, m = entries.val.shape
    first, second, _ = _pairs_within(entries.level, J)
    products = [
        entries.val[a][first] * entries.val[b][second]
        + (entries.val[b][first] * entries.val[a][second] if a != b else 0.0)
        for a in range(k)
        for b in range(a + 1)
    ]
    key = entries.col[first].astype(np.int32 if q * q < 2**31 else np.int64) * q
    key += entries.col[second].astype(key.dtype)

    def longer(array: np.ndarray, fill: float = 0) -> np.ndarray:
        n = array.shape[-1]
        more = [(0, 0)] * (array.ndim - 1) + [(0, backend.bucket(n) - n)]
        return np.pad(array, more, constant_values=fill)

    level = entries.level.astype(np.int32)
    return Listed(
        longer(level, J - 1),
        longer(entries.col.astype(np.int32)),
        longer(entries.val),
        longer(key),
        longer(level[first], J - 1),
        longer(np.stack(products)),
        np.zeros((0, J, q)),
    )


class Split:
    """Levels with many entries as a dense matrix, the others as listed products; NumPy only."""

    full = True

    def __init__(self, entries: Entries, J: int, q: int, crowded: np.ndarray):
        self.J, self.k = J, len(entries.val)
        self.crowded, self.sparse = np.flatnonzero(crowded), np.flatnonzero(~crowded)
        place = np.empty(J, dtype=np.int64)
        place[self.crowded], place[self.sparse] = (
            np.arange(len(self.crowded)),
            np.arange(len(self.sparse)),
        )
        self.is_crowded, self.place = crowded, place
        heavy = crowded[entries.level]
        parts = [
            Entries(place[entries.level[m]], entries.col[m], entries.val[:, m])
            for m in (heavy, ~heavy)
        ]
        self.dense = dense(parts[0], len(self.crowded), q)
        self.products = Products(parts[1], len(self.sparse), q)

    def schur(self, xp: ModuleType, X: Array) -> Array:
        """sum_j B_j' X_j'X_j B_j; the lower triangle is complete, the upper is not."""
        total = self.products.schur(xp, X[..., self.sparse])
        total += self.dense.schur(xp, X[..., self.crowded])
        return total

    def quadratic(self, xp: ModuleType, K: Array) -> Array:
        """B_j K B_j'; K symmetric, both triangles."""
        H = np.empty((self.k, self.k, self.J))
        H[..., self.sparse] = self.products.quadratic(xp, K)
        H[..., self.crowded] = self.dense.quadratic(xp, K)
        return H

    def into_tail(self, xp: ModuleType, v: Array) -> Array:
        """sum_j B_j' v_j, (r, q)."""
        out: Array = self.products.into_tail(xp, v[..., self.sparse]) + self.dense.into_tail(
            xp, v[..., self.crowded]
        )
        return out

    def from_tail(self, xp: ModuleType, b: Array) -> Array:
        """B_j b, (r, k, J)."""
        out = np.empty((len(b), self.k, self.J))
        out[..., self.sparse] = self.products.from_tail(xp, b)
        out[..., self.crowded] = self.dense.from_tail(xp, b)
        return out

    def rows(self, level: np.ndarray, M: np.ndarray) -> np.ndarray:
        """B_j(i) M_i, (k, m)."""
        out = np.empty((self.k, len(level)))
        heavy = self.is_crowded[level]
        out[:, heavy] = self.dense.rows(self.place[level[heavy]], M[heavy])
        out[:, ~heavy] = self.products.rows(self.place[level[~heavy]], M[~heavy])
        return out

    def matrix(self) -> sp.csr_matrix:
        """B, (k J, q)."""
        crowded, sparse = len(self.crowded), len(self.sparse)
        both = sp.vstack(
            [sp.csr_matrix(self.dense.B.reshape(self.k * crowded, -1)), self.products.B],
            format="csr",
        )
        place = [
            np.where(self.is_crowded, a * crowded, self.k * crowded + a * sparse) + self.place
            for a in range(self.k)
        ]
        return both[np.concatenate(place)]


Coupling = Dense | Products | Listed | Split


def dense(entries: Entries, J: int, q: int) -> Dense:
    """Entries as an array (k, J, q)."""
    B = np.zeros((len(entries.val), J, q))
    B[:, entries.level, entries.col] = entries.val
    return Dense(B)


def choose(entries: Entries, J: int, q: int) -> Coupling:
    """The cheapest form by the measured costs of a dense multiplication and of a listed one.

    A level with c entries costs k^2 q^2 in a dense product and k^2 c^2 / 2 in a list: it goes to the
    dense part when c^2 LIST_COST > 2 q^2 DENSE_COST.
    """
    count = np.bincount(entries.level, minlength=J).astype(float)
    k = len(entries.val)
    crowded = count**2 * LIST_COST > 4 * float(q) ** 2 * DENSE_COST
    if not crowded.all() and np.sum(count * (count + 1) / 2) * k * (k + 1) / 2 < SHORT_LIST:
        crowded[:] = False  # two parts are not worth their overhead
    if J * k * q * q < 2e6 or crowded.all():
        return dense(entries, J, q)
    listed = np.where(crowded, 0.0, count * (count + 1) / 2)
    while (
        listed.sum() * k * (k + 1) / 2 > LIST_LIMIT
    ):  # too long a list: the most crowded of the rest become dense
        crowded |= count > 0.8 * count[~crowded].max()
        listed = np.where(crowded, 0.0, listed)
    return Split(entries, J, q, crowded) if crowded.any() else Products(entries, J, q)


def choose_for_jax(entries: Entries, J: int, q: int) -> Coupling:
    """The cheaper of an array and a list in JAX's kernels: a list on a CPU where it is short, an array on accelerators and meshes."""
    count, k = np.bincount(entries.level, minlength=J).astype(float), len(entries.val)
    pairs = np.sum(count * (count + 1) / 2) * k * (k + 1) / 2
    long = pairs * JAX_LIST_COST > 4 * J * k**2 * float(q) ** 2 * DENSE_COST
    if long or pairs > LIST_LIMIT or backend.has_accelerator() or backend.mesh() is not None:
        return dense(entries, J, q)
    return listed(entries, J, q)


def _pairs_within(level: np.ndarray, J: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs (first >= second) of positions with the same level, and where each level's pairs begin."""
    count = np.bincount(level, minlength=J)
    start = np.cumsum(count) - count
    total = count * (count + 1) // 2
    rank = np.arange(len(level)) - start[level]
    dtype = np.int32 if total.sum() < 2**31 else np.int64
    first = np.repeat(np.arange(len(level), dtype=dtype), rank + 1)
    offset = np.cumsum(rank + 1) - (rank + 1) - start[level]
    second = np.arange(len(first), dtype=dtype) - np.repeat(offset.astype(dtype), rank + 1)
    return first, second, np.concatenate([[0], np.cumsum(total)])


def _csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
) -> sp.csr_matrix:
    """A CSR matrix of these arrays as they are; scipy's constructor would copy and scan them."""
    out = sp.csr_matrix(shape)
    out.data, out.indices, out.indptr = data, indices, indptr.astype(indices.dtype)
    return out


def _rows(B: sp.csr_matrix, J: int, level: np.ndarray, M: np.ndarray) -> np.ndarray:
    """B_j(i) M_i (k, m) of B (k J, q)."""
    each = [B[start + level].multiply(M).sum(axis=1) for start in range(0, B.shape[0], J)]
    return np.stack([np.asarray(own).ravel() for own in each])


def _sparse(entries: Entries, J: int, q: int) -> sp.csr_matrix:
    k, m = entries.val.shape
    rows = np.concatenate([a * J + entries.level for a in range(k)])
    return sp.csr_matrix((entries.val.ravel(), (rows, np.tile(entries.col, k))), shape=(k * J, q))
