"""Hypothesis matrices of the terms of a linear predictor: sequential (I), marginal (II) and of estimable functions (III).

Type I: with R upper triangular, R'R = X'X, the rows of diag(R)^-1 R that belong to a term's columns. Let U be the overparametrised
matrix with a column for every cell of every term, U = X M, so that l'beta is the function (l'M) of the cells' parameters. M does not
depend on the coding of X, so neither do the tests of types II and III, nor on which columns of a rank-deficient X were dropped.

Type II: what a term adds to all terms that neither are it nor contain it: with B an orthonormal basis of the columns of U that are
the others' and its own, less that of the others', the hypothesis is B'X beta = 0. A term contains another when it has the same
numbers, and the other's categories with more beside them. Where nothing contains a term this is type III.

Type III (Goodnight 1980, Commun. Stat. Theory Methods 9; SAS, "The Four Types of Estimable Functions"): a term's
hypotheses are those functions that involve, of all cells, only its own and those of terms that contain it, and are orthogonal
to every function that involves only the latter. In complete data each compares unweighted means over the other factors' levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmm.design.rank import TOLERANCE

#: singular values, relative to the largest, that count as zero
ZERO = 1e-8


def triangle_rows(R: np.ndarray, order: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Hypotheses (len(rows), p) on columns ``rows`` after all that come before them in ``order``.

    R (p, p) is any matrix with R'R = X'X; ``order`` (p,) a permutation of the columns.
    """
    triangle = np.linalg.qr(R[:, order], mode="r")
    scaled = np.zeros_like(triangle)
    scaled[:, order] = triangle / np.diagonal(triangle)[:, None]
    place = np.argsort(order)
    return np.asarray(scaled[place[rows]])


def added(
    R: np.ndarray, M: np.ndarray, others: np.ndarray, own: np.ndarray, preference: Sequence[int]
) -> np.ndarray:
    """Type II hypotheses L (q, p) of a term.

    Parameters
    ----------
    R : (p, p) any matrix with R'R = X'X.
    M : (p, cells), U = X M.
    others, own : (cells,) bool, cells of the terms that do not contain the term, and the term's own.
    preference : as in :func:`estimable`; row j is orthogonal to the others' cells and to those of the rows before it.
    """
    columns = R @ M
    length = np.linalg.norm(columns, axis=0)
    basis, rows = np.zeros((len(R), 0)), []
    mine = np.flatnonzero(own)
    for cell in [*np.flatnonzero(others), *mine[list(preference)]]:
        left = columns[:, cell]
        for _ in range(2):  # twice is enough for orthogonality to rounding
            left = left - basis @ (basis.T @ left)
        norm = float(np.linalg.norm(left))
        if length[cell] > 0.0 and norm > TOLERANCE * length[cell] and basis.shape[1] < len(R):
            basis = np.column_stack([basis, left / norm])
            if own[cell]:
                rows.append(left @ R / norm**2)
    return np.array(rows).reshape(len(rows), R.shape[1])


def estimable(
    M: np.ndarray, own: np.ndarray, containing: np.ndarray, preference: Sequence[int]
) -> np.ndarray:
    """Type III hypotheses L (q, p) of a term.

    Parameters
    ----------
    M : (p, cells), U = X M.
    own : (cells,) bool, cells of the term.
    containing : (cells,) bool, cells of terms that contain it.
    preference : positions among the term's own cells, those first that a row of L should be named by: L is scaled so that
        its rows have one of them each, with coefficient one.
    """
    N = null_space(M[:, ~(own | containing)].T)  # functions without other cells: (p, d)
    if not N.shape[1]:
        return np.zeros((0, len(M)))
    F = N.T @ M
    B = null_space(F[:, own].T).T  # of those, without the term's own
    A = null_space(B @ (F @ F.T)).T if len(B) else np.eye(len(F))
    L = A @ N.T
    chosen: list[int] = []
    effects = (L @ M)[:, own]
    basis = np.zeros((len(L), 0))
    for cell in preference:
        left = effects[:, cell] - basis @ (basis.T @ effects[:, cell])
        if np.linalg.norm(left) > 1e-6 and len(chosen) < len(L):
            chosen.append(cell)
            basis = np.column_stack([basis, left / np.linalg.norm(left)])
    if len(chosen) == len(L):
        L = np.linalg.solve(effects[:, chosen], L)
    return np.where(np.abs(L) < 1e-10, 0.0, L)


def null_space(M: np.ndarray) -> np.ndarray:
    """Orthonormal basis (d, r) of {x: M x = 0} for M (c, d)."""
    if not M.shape[0] or not M.shape[1]:
        return np.eye(M.shape[1])
    _, values, right = np.linalg.svd(M, full_matrices=True)
    rank = int(np.sum(values > ZERO * max(1.0, values[0])))
    return np.asarray(right[rank:].T)


def parameter_map(X: np.ndarray, U: np.ndarray) -> np.ndarray:
    """M (p, cells) with U = X M; columns of X may be of any size."""
    scale = np.linalg.norm(X, axis=0)
    scale = np.where(scale > 0.0, scale, 1.0)
    M = np.linalg.lstsq(X / scale, U, rcond=None)[0] / scale[:, None]
    size = np.abs(M) * scale[:, None]
    return np.where(size < 1e-9 * np.linalg.norm(U, axis=0), 0.0, M)


def restriction(X: np.ndarray, X0: np.ndarray) -> np.ndarray:
    """L (q, p) with L beta = 0 exactly where X beta lies in the space of X0, which lies in that of X.

    The rows span the complement of B, X0 = X B.
    """
    p = X.shape[1]
    scale = np.sqrt(np.sum(X * X, axis=0))
    B = np.linalg.lstsq(X / scale, X0, rcond=None)[0] if X0.shape[1] else np.zeros((p, 0))
    lengths = np.sqrt(np.sum(B * B, axis=0))
    U = (
        np.linalg.qr(B / np.where(lengths > 0, lengths, 1.0), mode="complete")[0]
        if B.shape[1]
        else np.eye(p)
    )
    L = U[:, X0.shape[1] :].T * scale
    return np.asarray(L / np.abs(L).max(axis=1, keepdims=True))
