"""What a fit without its rows knows of them: means and products of all columns, summed while they passed by."""

from __future__ import annotations

import numpy as np

from lmm.design.records import Design
from lmm.model.records import Estimate


def _places(design: Design) -> tuple[list[int], list[int]]:
    """Places of the kept and of the dropped fixed columns in the matrix of moments, whose first column is one."""
    recipe = design.rows.recipe
    kept = {int(j) for j in design.rows.columns}
    return [1 + recipe.fixed[j] for j in sorted(kept)], [1 + c for j, c in enumerate(recipe.fixed) if j not in kept]


def triangle(design: Design) -> np.ndarray:
    """R (p, p) with R'R = X'X, no weights in it."""
    if design.weights is None:
        return np.asarray(design.R)
    own = _places(design)[0]
    gram = design.rows.moments[np.ix_(own, own)]
    scale = np.sqrt(np.diagonal(gram))
    return np.linalg.cholesky(gram / np.outer(scale, scale)).T * scale


def fixed_variance(design: Design, beta: np.ndarray) -> float:
    """Variance of X beta over the rows."""
    own = _places(design)[0]
    moments = design.rows.moments
    mean = moments[0, own] / design.n
    spread = moments[np.ix_(own, own)] - design.n * np.outer(mean, mean)
    return max(float(beta @ spread @ beta), 0.0) / (design.n - 1)


def random_variances(design: Design, estimate: Estimate, scale2: float) -> list[float]:
    """Mean of z' S z over the rows per term, S = scale2 T T'."""
    recipe, out = design.rows.recipe, []
    places = {term.recipe.group: [1 + c for c in term.pool] for term in recipe.terms}
    for term, T in zip(design.terms, estimate.factors, strict=True):
        own = places[term.group]
        gram = design.rows.moments[np.ix_(own, own)] / design.n
        out.append(float(scale2 * np.trace(T.T @ gram @ T)))
    return out


def adds_up_to_one(design: Design, group: str, columns: list[int]) -> bool:
    """Whether some columns of a random term add up to one in every row: the sum of squares of what is left is zero."""
    pool = next(term.pool for term in design.rows.recipe.terms if term.recipe.group == group)
    difference = np.zeros(len(design.rows.moments))
    difference[0] = -1.0
    for j in columns:
        difference[1 + pool[j]] += 1.0
    return bool(difference @ design.rows.moments @ difference <= 1e-12 * design.n)


def dependencies(design: Design) -> np.ndarray:
    """Null space (p_all, d) of the whole fixed matrix: e_j - sum_i c_i e_i for every dropped column x_j = sum_i c_i x_i."""
    own, lost = _places(design)
    moments = design.rows.moments
    scale = np.sqrt(np.diagonal(moments)[own])
    gram = moments[np.ix_(own, own)] / np.outer(scale, scale)
    solved = np.linalg.solve(gram, moments[np.ix_(own, lost)] / scale[:, None]) / scale[:, None]
    solved[np.abs(solved) * scale[:, None] < 1e-9 * np.sqrt(np.diagonal(moments)[lost])] = 0.0
    kept = np.sort(design.rows.columns)
    N = np.zeros((len(design.all_names), len(lost)))
    N[kept] = -solved
    N[np.setdiff1d(np.arange(len(N)), kept), np.arange(len(lost))] = 1.0
    return N
