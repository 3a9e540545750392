"""Rows that a fit cannot tell apart, merged: sufficient statistics of a generalized model.

Rows with the same fixed columns, levels, values and offset have one linear predictor whatever the parameters are. Where the
log density of a row is w (y s(eta) - k(eta)) + c(y, w), as in the binomial and Poisson families, they are worth one row of weight
sum w and response sum w y / sum w: every sum over rows stays what it was, but for the c, which no parameter moves and which is
taken from the rows as they were. Where weights multiply a log density of another form (negative binomial, ordinal), the
same holds of rows with equal responses, c included. Where they divide a dispersion (Gaussian, gamma, inverse Gaussian), or
in a family of the user's own, nothing is merged.

Equal rows are brought together by sorting on the largest factor's level and a hash of everything else, and compared value
by value then: a collision of hashes can part equal rows, never join different ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from lmm.model.laplace.rows import Block, Rows

B = TypeVar("B", bound=Block)
#: rows under which merging cannot repay its sorting, rows that are looked at to tell, and rows per distinct row that repay it
LARGE, SAMPLE, WORTH = 20_000, 5_000, 2.0
_PRIMES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)


def merged(block: B, keys: Sequence[np.ndarray], how: str | None) -> B:
    """A block with equal rows merged, sorted by the levels of the first term.

    Parameters
    ----------
    block : rows whose ``place`` goes with them.
    keys : columns (n,) that determine the fixed columns; levels, values and offset are looked at besides.
    how : as ``Family.merges``; with None rows are sorted, but none are merged.
    """
    columns = [*keys, *(z for term in block.columns for z in term if z is not None)]
    if np.any(block.offset):
        columns.append(block.offset)
    if how != "sums":
        columns.append(block.y)
    if not block.n:
        return block
    codes = block.codes
    order = np.argsort(_sort_key(codes, columns))
    if how is None:
        return taken(block, order)
    new = np.zeros(block.n, dtype=bool)
    new[0] = True
    for column in (*codes, *columns):
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(new)
    if len(starts) == block.n:
        return taken(block, order)
    out = taken(block, order[starts])
    weights = np.add.reduceat(block.weights[order], starts)
    y = (
        np.add.reduceat((block.weights * block.y)[order], starts)
        / np.where(weights > 0.0, weights, 1.0)
        if how == "sums"
        else out.y
    )
    return replace(out, weights=weights, y=y)


def taken(block: B, rows: np.ndarray | slice) -> B:
    """The rows of a block with these numbers."""
    return replace(
        block,
        y=block.y[rows],
        weights=block.weights[rows],
        offset=block.offset[rows],
        Q=block.Q[rows],
        codes=tuple(code[rows] for code in block.codes),
        columns=tuple([None if z is None else z[rows] for z in term] for term in block.columns),
        place={key: place[rows] for key, place in block.place.items()},
        kept={},
    )


def worthwhile(rows: Rows, X: np.ndarray, family: Any) -> Rows | None:
    """The rows merged, where there are many and a few levels' rows say that it pays; else None. ``X`` (n, p) fixed columns."""
    how = family.merges
    if how is None or rows.n < LARGE:
        return None
    levels = max(1, SAMPLE * rows.plan.terms[0].J // rows.n)
    some = np.flatnonzero(rows.codes[0] < levels)[: 4 * SAMPLE]
    few = merged(taken(rows, some), list(X[some].T), how)
    if len(some) < WORTH * few.n:
        return None
    out = merged(rows, list(X.T), how)
    return out if rows.n >= WORTH * out.n else None


def _sort_key(codes: Sequence[np.ndarray], columns: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) level of the first term above the upper half of a hash of the rest."""
    hashed = np.zeros(len(codes[0]), dtype=np.uint64)
    for column in (*codes[1:], *columns):
        bits = (
            column.astype(np.uint64)
            if column.dtype.kind in "iu"
            else (column + 0.0).view(np.uint64)
        )
        hashed ^= bits
        hashed *= _PRIMES[0]
        hashed ^= hashed >> np.uint64(29)
        hashed *= _PRIMES[1]
        hashed ^= hashed >> np.uint64(32)
    return (codes[0].astype(np.uint64) << np.uint64(32)) | (hashed >> np.uint64(32))
