"""Sums of many problems of one structure, made from those of one: other responses, rows left out, levels drawn again.

Columns of X are orthonormal and y is the least-squares residual of the whole data, as in :mod:`lmm.model.problem`. A problem
that leaves rows out has sums less than the whole's by those of the rows; a level that has lost all of its rows has zero
cross-products and adds nothing to the criterion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import solve_triangular

from lmm.design.records import Design
from lmm.model.batched import Levels, Stacked
from lmm.model.crossproducts import dense_matrix, right_hand_sides
from lmm.model.problem import Problem


def own_rows(problem: Problem, design: Design) -> np.ndarray:
    """(n, p + 1), the rows of the orthonormal columns and of the least-squares residual."""
    out = np.empty((design.n, problem.p + 1))
    out[:, :-1] = solve_triangular(problem.R, design.X.T, trans="T").T if problem.p else 0.0
    y = design.y if design.offset is None else design.y - design.offset
    out[:, -1] = y - design.X @ problem.beta0
    return out


def responses(problem: Problem, design: Design, Y: np.ndarray, degrees: float) -> tuple[Levels | Stacked, np.ndarray]:
    """Sums for other responses Y (n, R), and the least-squares coefficients (R, p) of each on the user's scale."""
    y = Y if design.offset is None else Y - design.offset[:, None]
    weights = design.weights
    weighted = y if weights is None else y * weights[:, None]
    gamma = solve_triangular(problem.R, design.X.T @ weighted, trans="T") if problem.p else np.zeros((0, y.shape[1]))
    beta0 = solve_triangular(problem.R, gamma) if problem.p else gamma
    residual = y - design.X @ beta0
    own = right_hand_sides(design.terms, residual, weights)
    p, R = problem.p, Y.shape[1]
    gram = np.zeros((p + 1, p + 1, R))
    gram[np.arange(p), np.arange(p)] = 1.0
    gram[p, p] = np.einsum("ir,ir->r", residual, residual if weights is None else residual * weights[:, None])
    N = np.full(R, float(degrees))
    fixed = [columns[:p] for columns in problem.collect(problem.data.rhs)]
    if len(own) == 1:
        y_sums = np.ascontiguousarray(np.moveaxis(own[0], 0, -1))
        return Levels(problem.cross.diag[0][..., None], fixed[0][..., None], y_sums, gram, N), beta0.T
    flat = np.concatenate([f.reshape(p, f.shape[1] * f.shape[2]) for f in fixed], axis=1)
    rhs = np.empty((R, p + 1, flat.shape[1]))
    rhs[:, :p] = flat
    rhs[:, p] = np.concatenate([columns.reshape(R, columns.shape[1] * columns.shape[2]) for columns in own], axis=1)
    return Stacked(_sizes(problem), dense_matrix(problem.cross)[None], rhs, gram, N), beta0.T


def _sizes(problem: Problem) -> tuple[tuple[int, int], ...]:
    return tuple((size.k, size.J) for size in problem.plan.terms)


def without(problem: Problem, design: Design, rows: Sequence[np.ndarray], p_reml: int) -> tuple[Levels | Stacked, np.ndarray]:
    """Sums of the problems that leave out ``rows[i]``, and sum log w of each; ``p_reml`` is taken from their numbers of rows."""
    R, p = len(rows), problem.p
    own = problem.collect(problem.data.rhs)
    rows_of = own_rows(problem, design)
    gram = np.repeat(problem.data.gram[:, :, None], R, axis=2)
    degrees = np.empty(R)
    logs = np.zeros(R)
    sizes = _sizes(problem)
    several = len(sizes) > 1
    stops = np.cumsum([0] + [k * J for k, J in sizes])
    if several:
        A = np.repeat(dense_matrix(problem.cross)[None], R, axis=0)
        rhs = np.repeat(np.concatenate([c.reshape(p + 1, c.shape[1] * c.shape[2]) for c in own], axis=1)[None], R, axis=0)
    else:
        A = np.repeat(problem.cross.diag[0][..., None], R, axis=3)
        rhs = np.repeat(own[0][..., None], R, axis=3)
    for r, which in enumerate(rows):
        w = np.ones(len(which)) if design.weights is None else design.weights[which]
        XY = rows_of[which]
        weighted = XY * w[:, None]
        gram[:, :, r] -= XY.T @ weighted
        degrees[r] = design.n - len(which) - p_reml
        logs[r] = problem.sum_log_weights - np.log(w).sum()
        if several:
            columns = np.concatenate(
                [stop + np.arange(k) * J + term.codes[which, None] for stop, (k, J), term in zip(stops, sizes, design.terms, strict=False)],
                axis=1,
            )
            values = np.concatenate([term.values[which] for term in design.terms], axis=1)
            np.subtract.at(A[r], (columns[:, :, None], columns[:, None]), values[:, :, None] * (values * w[:, None])[:, None])
            np.subtract.at(rhs[r].T, columns, values[:, :, None] * weighted[:, None])
        else:
            codes, values = design.terms[0].codes[which], design.terms[0].values[which]
            np.subtract.at(A[..., r].transpose(2, 0, 1), codes, values[:, :, None] * (values * w[:, None])[:, None])
            np.subtract.at(rhs[..., r].transpose(2, 1, 0), codes, values[:, :, None] * weighted[:, None])
    _clear(problem, design, rows, A, rhs, stops)
    if several:
        return Stacked(sizes, A, rhs, gram, degrees), logs
    return Levels(A, rhs[:p], rhs[p], gram, degrees), logs


def _clear(problem: Problem, design: Design, rows: Sequence[np.ndarray], A: np.ndarray, rhs: np.ndarray, stops: np.ndarray) -> None:
    """Exact zeros for levels that have lost all of their rows, where differences leave rounding errors."""
    for t, term in enumerate(design.terms):
        count = np.bincount(term.codes, minlength=term.J)
        for r, which in enumerate(rows):
            lost = np.bincount(term.codes[which], minlength=term.J)
            gone = np.flatnonzero((lost == count) & (lost > 0))
            if not len(gone):
                continue
            if len(design.terms) == 1:
                A[:, :, gone, r], rhs[:, :, gone, r] = 0.0, 0.0
            else:
                places = (stops[t] + np.arange(term.k)[:, None] * term.J + gone).ravel()
                A[r, places], A[r, :, places], rhs[r][:, places] = 0.0, 0.0, 0.0


def drawn(problem: Problem, design: Design, levels: np.ndarray, p_reml: int) -> tuple[Levels, np.ndarray]:
    """Sums of problems whose J levels of the one factor are those of ``levels`` (R, J), each with its rows, and sum log w of each."""
    term = design.terms[0]
    p = problem.p
    own = problem.collect(problem.data.rhs)[0]
    XY = own_rows(problem, design)
    weights = np.ones(design.n) if design.weights is None else design.weights
    order = np.argsort(term.codes, kind="stable")
    starts = np.searchsorted(term.codes[order], np.arange(term.J))
    products = XY[order][:, :, None] * (XY * weights[:, None])[order][:, None]
    grams = np.add.reduceat(products.reshape(design.n, -1), starts, axis=0)  # (J, (p + 1)^2)
    rows = np.bincount(term.codes, minlength=term.J)
    logs = np.bincount(term.codes, weights=np.log(weights), minlength=term.J)
    gram = np.moveaxis(grams[levels].sum(axis=1).reshape(len(levels), p + 1, p + 1), 0, -1)
    A = np.moveaxis(problem.cross.diag[0][..., levels], 2, -1)
    rhs = np.moveaxis(own[..., levels], 2, -1)
    degrees = rows[levels].sum(axis=1) - float(p_reml)
    A, rhs = np.ascontiguousarray(A), np.ascontiguousarray(rhs)
    return Levels(A, rhs[:p], rhs[p], np.ascontiguousarray(gram), degrees), logs[levels].sum(axis=1)
