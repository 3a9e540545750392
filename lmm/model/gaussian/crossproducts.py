"""What a Gaussian mixed model needs of its rows: weighted cross-products of [Z X y].

One pass over the rows, additive over chunks of rows (``a + b``); nothing after it costs anything
per row. Layouts put the levels last, so that one column of one term is contiguous:

    diag[t]      (k, k, J)       Z_t'WZ_t, block diagonal, one k x k block per level
    rhs[t]       (p + 1, k, J)   Z_t'W[X y]
    pairs[t, s]  t < s           Z_t'WZ_s on the pairs of levels that share a row
    pairs[t, t]                  the upper triangle of Z_t'WZ_t beside ``diag``, where rows meet several levels of a term
    gram         (p+1, p+1)      [X y]'W[X y]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from lmm.design.terms import RandomTerm, product

#: the k columns of values of rows, None for a column of ones
Columns = list[np.ndarray | None]
#: rows summed at a time, at least: a block's codes and products stay small
ROWS = 1 << 20


@dataclass(frozen=True, eq=False)
class Pairs:
    """Z_t'WZ_s: block m (k_t, k_s) joins level ``rows[m]`` of t and ``cols[m]`` of s; sorted by row, then column."""

    rows: np.ndarray
    cols: np.ndarray
    blocks: np.ndarray  # (k_t, k_s, m)


@dataclass(frozen=True, eq=False)
class CrossProducts:
    """The sums of the module's head, with the number of rows and the sum of log weights."""

    diag: tuple[np.ndarray, ...]
    rhs: tuple[np.ndarray, ...]
    pairs: dict[tuple[int, int], Pairs]
    gram: np.ndarray
    n: int
    sum_log_weights: float

    def sheared(self, H: Sequence[np.ndarray]) -> CrossProducts:
        """The cross-products of the columns H'z, H (k, k) per term."""
        pairs = {}
        for (t, s), old in self.pairs.items():
            pairs[t, s] = Pairs(
                old.rows,
                old.cols,
                np.einsum("abm,ac,bd->cdm", old.blocks, H[t], H[s], optimize=True),
            )
        diag = tuple(
            np.einsum("abj,ac,bd->cdj", A, h, h, optimize=True)
            for A, h in zip(self.diag, H, strict=True)
        )
        rhs = tuple(np.einsum("paj,ac->pcj", own, h) for own, h in zip(self.rhs, H, strict=True))
        return replace(self, diag=diag, rhs=rhs, pairs=pairs)

    def with_blocks(
        self, diag: Sequence[np.ndarray], pairs: dict[tuple[int, int], np.ndarray]
    ) -> CrossProducts:
        """The same levels and pairs of levels with other blocks: those of other weights."""
        filled = {key: Pairs(old.rows, old.cols, pairs[key]) for key, old in self.pairs.items()}
        return replace(self, diag=tuple(diag), pairs=filled)

    def __add__(self, other: CrossProducts) -> CrossProducts:
        """The cross-products of both sets of rows; both must use the same level codes."""
        pairs = {}
        for key, mine in self.pairs.items():
            theirs = other.pairs[key]
            J = (self.diag[key[0]].shape[-1], self.diag[key[1]].shape[-1])
            rows, cols = (
                np.concatenate([mine.rows, theirs.rows]),
                np.concatenate([mine.cols, theirs.cols]),
            )
            blocks = np.concatenate([mine.blocks, theirs.blocks], axis=-1)
            pairs[key] = _sum_pairs(rows, cols, [list(line) for line in blocks], J)
        return CrossProducts(
            tuple(a + b for a, b in zip(self.diag, other.diag, strict=True)),
            tuple(a + b for a, b in zip(self.rhs, other.rhs, strict=True)),
            pairs,
            self.gram + other.gram,
            self.n + other.n,
            self.sum_log_weights + other.sum_log_weights,
        )


def cross_products(
    terms: Sequence[RandomTerm],
    XY: np.ndarray | tuple[np.ndarray, np.ndarray],
    weights: np.ndarray | None,
) -> CrossProducts:
    """Build the sums from rows: terms' codes and values, [X y] (n, p + 1), or X and y apart, weights (n,) or None.

    Blocks of rows are summed one after another, so that what is made of them stays small.
    """
    n = len(XY[0]) if isinstance(XY, tuple) else len(XY)
    parts = [term.parts() for term in terms]
    columns = [[part.value_columns() for part in own] for own in parts]
    sums: list[np.ndarray] | None = None
    shared: list[list[dict[int, int]]] = []
    step = max(ROWS, 4 * max((term.J for term in terms), default=0))
    for first in range(0, n, step):
        rows = slice(first, first + step)
        part = (
            np.column_stack([column[rows] for column in XY]) if isinstance(XY, tuple) else XY[rows]
        )
        part = np.asfortranarray(part)
        if first == 0:
            shared = [[_shared(z, XY) for z in own] for own in columns]
        own = _sums(terms, columns, shared, part, weights, rows)
        if sums is None:
            sums = own
        else:
            for total, more in zip(sums, own, strict=True):
                total += more
    assert sums is not None
    count = len(terms)
    pairs = {}
    for t in range(count):
        if terms[t].several:
            pairs[t, t] = _own_pairs(terms[t], columns[t], weights)
        for s in range(t + 1, count):
            pairs[t, s] = _pairs_between(terms[t], terms[s], columns[t], columns[s], weights)
    gram = sums[-1]
    log_weights = 0.0 if weights is None else float(np.log(weights).sum())
    return CrossProducts(
        tuple(sums[:count]), tuple(sums[count:-1]), pairs, (gram + gram.T) / 2, n, log_weights
    )


def _sums(
    terms: Sequence[RandomTerm],
    columns: list[list[Columns]],
    shared: list[list[dict[int, int]]],
    XY: np.ndarray,
    weights: np.ndarray | None,
    rows: slice,
) -> list[np.ndarray]:
    """Of some rows: ``diag`` of each term, ``rhs`` of each term, ``gram``."""
    w = None if weights is None else weights[rows]
    diag, rhs = [], []
    for term, each, same in zip(terms, columns, shared, strict=True):
        of_parts = []
        for part, z, alike in zip(term.parts(), each, same, strict=True):
            own = [None if column is None else column[rows] for column in z]
            code = part.codes[rows].astype(np.intp)
            A = _diagonal(own, code, term.J, w)
            of_parts.append((A, _right_hand_sides(own, code, term.J, XY, w, A, alike)))
        diag.append(_added([A for A, _ in of_parts]))
        rhs.append(_added([r for _, r in of_parts]))
    return [*diag, *rhs, XY.T @ (XY if w is None else XY * w[:, None])]


def right_hand_sides(
    terms: Sequence[RandomTerm], Y: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, ...]:
    """Z_t'WY per term, (r, k, J), for other columns Y (n, r) than those of the first pass."""
    out = []
    for term in terms:
        each = [
            _right_hand_sides(part.value_columns(), part.codes.astype(np.intp), term.J, Y, weights)
            for part in term.parts()
        ]
        out.append(_added(each))
    return tuple(out)


def _added(each: list[np.ndarray]) -> np.ndarray:
    """The sum of what the parts of a term give."""
    total = each[0]
    for more in each[1:]:
        total = total + more
    return total


def _pairs_between(
    term: RandomTerm,
    other: RandomTerm,
    first: list[Columns],
    second: list[Columns],
    weights: np.ndarray | None,
) -> Pairs:
    """Z_t'WZ_s of two terms, whose parts have the columns ``first`` and ``second``."""
    parts = [
        (a.codes, b.codes, [[product(y, z, weights) for z in right] for y in left])
        for a, left in zip(term.parts(), first, strict=True)
        for b, right in zip(other.parts(), second, strict=True)
    ]
    return _sum_parts(parts, (term.J, other.J))


def _own_pairs(term: RandomTerm, columns: list[Columns], weights: np.ndarray | None) -> Pairs:
    """The upper triangle of Z_t'WZ_t between the levels that rows meet together; the two columns of a pair are interchangeable."""
    each = list(zip(term.parts(), columns, strict=True))
    parts = []
    for i, (a, left) in enumerate(each):
        for b, right in each[i + 1 :]:
            blocks = [[product(y, z, weights) for z in right] for y in left]
            parts.append((np.minimum(a.codes, b.codes), np.maximum(a.codes, b.codes), blocks))
    return _sum_parts(parts, (term.J, term.J))


def _sum_parts(
    parts: list[tuple[np.ndarray, np.ndarray, list[list[np.ndarray | None]]]],
    shape: tuple[int, int],
) -> Pairs:
    """Rows' products by pair of levels, over several sets of rows."""
    if len(parts) == 1:
        rows, cols, blocks = parts[0]
        return _sum_pairs(rows, cols, blocks, shape)
    k, l = len(parts[0][2]), len(parts[0][2][0])
    joined: list[list[np.ndarray | None]] = []
    for a in range(k):
        line: list[np.ndarray | None] = []
        for b in range(l):
            pieces = [
                np.ones(len(rows)) if blocks[a][b] is None else blocks[a][b]
                for rows, _, blocks in parts
            ]
            line.append(np.concatenate(pieces))  # type: ignore[arg-type]
        joined.append(line)
    rows = np.concatenate([rows for rows, _, _ in parts])
    cols = np.concatenate([cols for _, cols, _ in parts])
    return _sum_pairs(rows, cols, joined, shape)


def _count(code: np.ndarray, values: np.ndarray | None, J: int) -> np.ndarray:
    return np.bincount(code, weights=values, minlength=J).astype(float, copy=False)


def _diagonal(
    z: list[np.ndarray | None], code: np.ndarray, J: int, weights: np.ndarray | None
) -> np.ndarray:
    out = np.empty((len(z), len(z), J))
    for a in range(len(z)):
        for b in range(a + 1):
            out[a, b] = out[b, a] = _count(code, product(z[a], z[b], weights), J)
    return out


def _right_hand_sides(
    z: list[np.ndarray | None],
    code: np.ndarray,
    J: int,
    XY: np.ndarray,
    weights: np.ndarray | None,
    own: np.ndarray | None = None,
    shared: dict[int, int] | None = None,
) -> np.ndarray:
    """Z_t'WY (r, k, J). ``own`` is Z_t'WZ_t, which already holds the sums with the columns ``shared`` by Y and Z."""
    n, r = XY.shape
    out = np.empty((r, len(z), J))
    shared = shared or {}
    if (
        r - len(shared) > 4
    ):  # one sorted pass over all columns: the sums as a sparse matrix times a dense one
        order = sp.csr_matrix((np.arange(n), code, np.arange(n + 1)), shape=(n, J)).tocsc()
        for a, column in enumerate(z):
            data = product(column, weights)
            indicator = sp.csr_matrix(
                (np.ones(n) if data is None else data[order.data], order.indices, order.indptr),
                shape=(J, n),
            )
            out[:, a] = (indicator @ XY).T
        return out
    for c in range(r):
        if c in shared and own is not None:
            out[c] = own[shared[c]]
            continue
        column = np.ascontiguousarray(XY[:, c])
        for a in range(len(z)):
            out[c, a] = _count(code, product(z[a], column, weights), J)
    return out


def _shared(
    z: list[np.ndarray | None], XY: np.ndarray | tuple[np.ndarray, np.ndarray]
) -> dict[int, int]:
    """Columns of [X y] that are also columns of Z: a random slope is usually a fixed one too."""
    X = XY[0] if isinstance(XY, tuple) else XY
    found = {}
    for c in range(X.shape[1]):
        column = X[:, c]
        for a, own in enumerate(z):
            other = 1.0 if own is None else own
            head = 1.0 if own is None else own[:64]
            if np.array_equal(column[:64], np.broadcast_to(head, column[:64].shape)) and np.all(
                column == other
            ):
                found[c] = a
                break
    return found


def _sorted_pairs(
    rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int], ordered: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """row * J + col in increasing order (n,), and, if ``ordered``, the order that makes it so.

    One sort of whole numbers, with the row's place in the low bits where the order is wanted and they are free.
    """
    n, J = len(rows), shape[1]
    key: np.ndarray = rows.astype(np.int64)
    key *= J
    key += cols
    if not ordered:
        key.sort()
        return key, None
    low = max(n - 1, 1).bit_length()
    if (shape[0] * J - 1).bit_length() + low > 63:
        order = np.argsort(key, kind="stable")
        return key[order], order
    key <<= low
    key += np.arange(n)
    key.sort()
    order = key & ((1 << low) - 1)
    key >>= low
    return key, order


def _sum_pairs(
    rows: np.ndarray,
    cols: np.ndarray,
    blocks: list[list[np.ndarray | None]],
    shape: tuple[int, int],
) -> Pairs:
    """Sum rows' products by pair of levels; None stands for ones, whose sum is a count."""
    ordered = any(product is not None for line in blocks for product in line)
    key, order = _sorted_pairs(rows, cols, shape, ordered)
    new = np.empty(len(key), dtype=bool)
    new[:1] = True
    np.not_equal(key[1:], key[:-1], out=new[1:])
    starts = np.flatnonzero(new)
    key = key[starts]
    count = np.diff(np.searchsorted(key, np.arange(shape[0] + 1) * shape[1]))
    unique_rows = np.repeat(np.arange(shape[0], dtype=np.int32), count)
    key -= unique_rows.astype(np.int64) * shape[1]
    unique_cols = key.astype(np.int32)
    del key
    out = np.empty((len(blocks), len(blocks[0]), len(starts)))
    for a, line in enumerate(blocks):
        for b, column in enumerate(line):
            if column is None:
                out[a, b] = np.diff(starts, append=len(rows))
            else:
                out[a, b] = np.add.reduceat(column[order], starts)
    return Pairs(unique_rows, unique_cols, out)


def dense_pairs(pairs: Pairs, J_row: int, J_col: int) -> np.ndarray:
    """Z_t'WZ_s as a dense (k_t * J_t, k_s * J_s) matrix, columns before levels: row a * J_t + level."""
    k_row, k_col, _ = pairs.blocks.shape
    out = np.zeros((k_row, J_row, k_col, J_col))
    for a in range(k_row):
        for b in range(k_col):
            out[a, pairs.rows, b, pairs.cols] = pairs.blocks[a, b]
    return out.reshape(k_row * J_row, k_col * J_col)


def dense_matrix(cross: CrossProducts) -> np.ndarray:
    """Z'WZ as one dense (q, q) matrix, term after term, within a term column after column."""
    sizes = [(d.shape[0], d.shape[-1]) for d in cross.diag]
    stops = np.cumsum([0] + [k * J for k, J in sizes])
    out = np.zeros((stops[-1], stops[-1]))
    for t, (k, J) in enumerate(sizes):
        level = np.arange(J)
        for a in range(k):
            for b in range(k):
                out[stops[t] + a * J + level, stops[t] + b * J + level] = cross.diag[t][a, b]
        if (t, t) in cross.pairs:
            block = dense_pairs(cross.pairs[t, t], J, J)
            out[stops[t] : stops[t + 1], stops[t] : stops[t + 1]] += block + block.T
        for s in range(t + 1, len(sizes)):
            block = dense_pairs(cross.pairs[t, s], J, sizes[s][1])
            out[stops[t] : stops[t + 1], stops[s] : stops[s + 1]] = block
            out[stops[s] : stops[s + 1], stops[t] : stops[t + 1]] = block.T
    return out
