"""Sums of many problems of one structure, made from those of one: other responses, rows left out, levels drawn again.

Columns of X are orthonormal and y is the least-squares residual of the whole data, as in :mod:`lmm.model.problem`. A problem
that leaves rows out has sums less than the whole's by those of the rows; a level that has lost all of its rows has zero
cross-products and adds nothing to the criterion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import solve_triangular

from lmm.design.design import Design
from lmm.model.gaussian.batched import Levels, Stacked
from lmm.model.gaussian.crossproducts import dense_matrix
from lmm.model.problem import PERFECT, Problem

#: numbers of responses read in one piece
PIECE = 1 << 16
#: smallest eigenvalue of Q'WQ over a response's rows, 1 over all rows, at which its fixed columns count as independent
INDEPENDENT = 1e-10


def own_rows(problem: Problem, design: Design) -> np.ndarray:
    """(n, p + 1), the rows of the orthonormal columns and of the least-squares residual."""
    out = np.empty((design.n, problem.p + 1))
    out[:, :-1] = orthonormal_rows(problem, design)
    y = design.rows.y_less_offset
    out[:, -1] = y - design.X @ problem.beta0
    return out


class Rows:
    """What sums over rows need of a design, made once for all blocks of responses: Z'W as sparse matrices, row after row of Z'."""

    def __init__(self, problem: Problem, design: Design):
        self.problem, self.design = problem, design
        self.ZW = [
            problem.carried(t, term.transposed(design.weights))
            for t, term in enumerate(design.terms)
        ]
        self.XW = design.X if design.weights is None else design.X * design.weights[:, None]

    def residuals(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least-squares residuals of some responses (n, c), C order, and the coefficients (p, c) on the user's scale."""
        y = np.array(Y, order="C")
        if self.design.offset is not None:
            y -= self.design.offset[:, None]
        R = self.problem.R
        beta0 = np.zeros((len(R), y.shape[1]))
        for _ in range(2 if len(R) else 0):  # semi-normal equations, refined once
            step = solve_triangular(R, solve_triangular(R, self.XW.T @ y, trans="T"))
            beta0 += step
            y -= self.design.X @ step
        return y, beta0

    def squares(self, y: np.ndarray) -> np.ndarray:
        """y'Wy of each column."""
        weights = self.design.weights
        return np.einsum("ir,ir->r", y, y if weights is None else y * weights[:, None])


def responses(rows: Rows, Y: np.ndarray, reml: bool) -> tuple[Levels | Stacked, np.ndarray]:
    """Sums for other responses Y (n, R), and the least-squares coefficients (R, p) of each on the user's scale.

    Taken through a cache-sized piece of the responses at a time: once read, a column gives its coefficients, its residual and the
    sums of that, and is read no more. One that the fixed effects explain entirely has the square NaN, and so no criterion.
    """
    problem = rows.problem
    p, (n, R) = problem.p, Y.shape
    beta0 = np.empty((p, R))
    gram = np.zeros((p + 1, p + 1, R))
    gram[np.arange(p), np.arange(p)] = 1.0
    sums = [np.empty((ZW.shape[0], R)) for ZW in rows.ZW]
    width = max(8, PIECE // max(n, 1))
    for first in range(0, R, width):
        part = slice(first, first + width)
        y, beta0[:, part] = rows.residuals(Y[:, part])
        square = rows.squares(y)
        gram[p, p, part] = np.where(
            square > PERFECT * rows.squares(np.asarray(Y[:, part])), square, np.nan
        )
        for own, ZW in zip(sums, rows.ZW, strict=True):
            own[:, part] = ZW @ y
    N, constant = _counted(problem, np.full(R, n), np.full(R, problem.sum_log_weights), reml)
    fixed = [columns[:p] for columns in problem.collect(problem.data.rhs)]
    if problem.plan.by_level:
        size = problem.plan.terms[0]
        data = Levels(
            problem.cross.diag[0][..., None],
            fixed[0][..., None],
            sums[0].reshape(size.k, size.J, R),
            gram,
            N,
            constant,
        )
        return data, beta0.T
    rhs = np.empty((R, p + 1, sum(len(own) for own in sums)))
    rhs[:, :p] = np.concatenate([f.reshape(p, f.shape[1] * f.shape[2]) for f in fixed], axis=1)
    rhs[:, p] = np.concatenate(sums).T
    A = dense_matrix(problem.cross)[None]
    return Stacked(_sizes(problem), A, rhs, gram, N, constant), beta0.T


def observed(rows: Rows, Y: np.ndarray, reml: bool) -> tuple[Levels, np.ndarray]:
    """Sums of one grouping factor for responses Y (n, R) with NaN where a row is missing, and coefficients (R, p).

    Everything is summed over the rows that a response has, Z'WZ too: weights of 0 and 1. One whose rows leave the fixed columns
    dependent, or that they explain entirely, has the square NaN, and so no criterion.
    """
    problem, design = rows.problem, rows.design
    term, p, R = design.terms[0], problem.p, Y.shape[1]
    weights = np.ones(design.n) if design.weights is None else design.weights
    Q = orthonormal_rows(problem, design)
    QW = Q * weights[:, None]
    here = (~np.isnan(Y)).astype(float)
    y = np.where(np.isnan(Y), 0.0, Y)
    if design.offset is not None:
        y -= design.offset[:, None] * here
    left, right = np.triu_indices(p)
    gram = np.zeros((p + 1, p + 1, R))
    gram[left, right] = gram[right, left] = (Q[:, left] * QW[:, right]).T @ here
    total, coefficients = rows.squares(y), np.zeros((p, R))
    sound = np.ones(R, dtype=bool)
    if p:
        square = np.moveaxis(gram[:p, :p], -1, 0)
        sound = np.linalg.eigvalsh(square)[:, 0] > INDEPENDENT
        square = np.where(sound[:, None, None], square, np.eye(p))
        for _ in range(2):
            step = np.linalg.solve(square, (QW.T @ y).T[:, :, None])[:, :, 0].T
            coefficients += step
            y -= (Q @ step) * here
        gram[:p, p] = gram[p, :p] = QW.T @ y
    left_over = rows.squares(y)
    gram[p, p] = np.where(sound & (left_over > PERFECT * total), left_over, np.nan)
    k, J = term.k, term.J
    A = np.empty((k, k, J, R))
    X = np.empty((p, k, J, R))
    for a in range(k):
        for b in range(a + 1):
            A[a, b] = A[b, a] = (
                term.by_level(term.values[:, a] * term.values[:, b] * weights) @ here
            )
        for c in range(p):
            X[c, a] = term.by_level(term.values[:, a] * QW[:, c]) @ here
    sums = (rows.ZW[0] @ y).reshape(k, J, R)
    counted = _counted(problem, here.sum(axis=0), np.log(weights) @ here, reml)
    beta0 = solve_triangular(problem.R, coefficients) if p else coefficients
    return Levels(A, X, sums, gram, *counted), beta0.T


def _counted(
    problem: Problem, rows: np.ndarray, logs: np.ndarray, reml: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of freedom and constants (R,) of problems with these numbers of rows and sums of log weights."""
    return rows - float(problem.p if reml else 0), problem.log_gram(reml) - logs


def orthonormal_rows(problem: Problem, design: Design) -> np.ndarray:
    """(n, p), the orthonormal fixed columns."""
    return (
        solve_triangular(problem.R, design.X.T, trans="T").T
        if problem.p
        else np.zeros((design.n, 0))
    )


def _sizes(problem: Problem) -> tuple[tuple[int, int], ...]:
    return tuple((size.k, size.J) for size in problem.plan.terms)


def without(
    problem: Problem, design: Design, rows: Sequence[np.ndarray], reml: bool
) -> Levels | Stacked:
    """Sums of the problems that leave out ``rows[i]``."""
    R, p = len(rows), problem.p
    own = problem.collect(problem.data.rhs)
    rows_of = own_rows(problem, design)
    gram = np.repeat(problem.data.gram[:, :, None], R, axis=2)
    count = np.array([design.n - len(which) for which in rows])
    logs = np.full(R, problem.sum_log_weights)
    sizes = _sizes(problem)
    several = not problem.plan.by_level
    stops = np.cumsum([0] + [k * J for k, J in sizes])
    if several:
        A = np.repeat(dense_matrix(problem.cross)[None], R, axis=0)
        rhs = np.repeat(
            np.concatenate([c.reshape(p + 1, c.shape[1] * c.shape[2]) for c in own], axis=1)[None],
            R,
            axis=0,
        )
    else:
        A = np.repeat(problem.cross.diag[0][..., None], R, axis=3)
        rhs = np.repeat(own[0][..., None], R, axis=3)
    for r, which in enumerate(rows):
        w = np.ones(len(which)) if design.weights is None else design.weights[which]
        XY = rows_of[which]
        weighted = XY * w[:, None]
        gram[:, :, r] -= XY.T @ weighted
        logs[r] -= np.log(w).sum()
        if several:
            met = [
                (stop + np.arange(k) * J + part.codes[:, None], part.values)
                for stop, (k, J), term in zip(stops, sizes, design.terms, strict=False)
                for part in term.rows(which).parts()
            ]
            columns, values = (np.concatenate(each, axis=1) for each in zip(*met, strict=True))
            np.subtract.at(
                A[r],
                (columns[:, :, None], columns[:, None]),
                values[:, :, None] * (values * w[:, None])[:, None],
            )
            np.subtract.at(rhs[r].T, columns, values[:, :, None] * weighted[:, None])
        else:
            codes, values = design.terms[0].codes[which], design.terms[0].values[which]
            np.subtract.at(
                A[..., r].transpose(2, 0, 1),
                codes,
                values[:, :, None] * (values * w[:, None])[:, None],
            )
            np.subtract.at(
                rhs[..., r].transpose(2, 1, 0), codes, values[:, :, None] * weighted[:, None]
            )
    _clear(problem, design, rows, A, rhs, stops)
    counted = _counted(problem, count, logs, reml)
    if several:
        return Stacked(sizes, A, rhs, gram, *counted)
    return Levels(A, rhs[:p], rhs[p], gram, *counted)


def _clear(
    problem: Problem,
    design: Design,
    rows: Sequence[np.ndarray],
    A: np.ndarray,
    rhs: np.ndarray,
    stops: np.ndarray,
) -> None:
    """Exact zeros for levels that have lost all of their rows, where differences leave rounding errors."""
    for t, term in enumerate(design.terms):
        count = term.counts()
        for r, which in enumerate(rows):
            lost = term.counts(which)
            gone = np.flatnonzero((lost == count) & (lost > 0))
            if not len(gone):
                continue
            if problem.plan.by_level:
                A[:, :, gone, r], rhs[:, :, gone, r] = 0.0, 0.0
            else:
                places = (stops[t] + np.arange(term.k)[:, None] * term.J + gone).ravel()
                A[r, places], A[r, :, places], rhs[r][:, places] = 0.0, 0.0, 0.0


def drawn(problem: Problem, design: Design, levels: np.ndarray, reml: bool) -> Levels:
    """Sums of problems whose J levels of the one factor are those of ``levels`` (R, J), each with its rows."""
    term = design.terms[0]
    p = problem.p
    own = problem.collect(problem.data.rhs)[0]
    XY = own_rows(problem, design)
    weights = np.ones(design.n) if design.weights is None else design.weights
    order, starts = term.sorted_rows()
    products = XY[order][:, :, None] * (XY * weights[:, None])[order][:, None]
    grams = np.add.reduceat(products.reshape(design.n, -1), starts[:-1], axis=0)  # (J, (p + 1)^2)
    rows = np.diff(starts)
    logs = np.bincount(term.codes, weights=np.log(weights), minlength=term.J)
    gram = np.moveaxis(grams[levels].sum(axis=1).reshape(len(levels), p + 1, p + 1), 0, -1)
    A = np.moveaxis(problem.cross.diag[0][..., levels], 2, -1)
    rhs = np.moveaxis(own[..., levels], 2, -1)
    A, rhs = np.ascontiguousarray(A), np.ascontiguousarray(rhs)
    counted = _counted(problem, rows[levels].sum(axis=1), logs[levels].sum(axis=1), reml)
    return Levels(A, rhs[:p], rhs[p], np.ascontiguousarray(gram), *counted)
