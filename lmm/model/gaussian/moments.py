"""Starting values from moments: MINQUE(0), one linear solve in the cross-products.

For the least-squares residual y0, E[y0 y0'] is close to sigma^2 (W^-1 + sum_t Z_t G_t Z_t'). Matching
y0'Wy0 and, for every term, sum_j e_j e_j' with e = Z_t'Wy0 to their expectations,

    y0'Wy0          = sigma^2 (n + sum_s sum_j <A_sj, G_s>)
    sum_j e_j e_j'  = sigma^2 (sum_j A_tj + sum_s sum_jl B_tsjl G_s B_tsjl'),

is a linear system in (sigma^2, sigma^2 G). The solution is made positive definite; it needs to be
no better than a place from which the optimiser starts well. Of a term with many columns G counts as a multiple of
the identity, by the trace of its equation. C. R. Rao (1971), J. Multivariate Anal. 1.
"""

from __future__ import annotations

import numpy as np

from lmm.covariance import Covariance
from lmm.model.gaussian.crossproducts import CrossProducts

#: columns of a term up to which each of its covariances has a moment of its own
MANY = 30


def starting_values(
    cross: CrossProducts, structures: tuple[Covariance, ...], sigma: float | None = None
) -> np.ndarray:
    """theta (m,) from moments of the cross-products, relative to ``sigma`` where it is known."""
    sizes = [d.shape[0] for d in cross.diag]
    blocks = [np.tril_indices(k) if k <= MANY else np.diag_indices(1) for k in sizes]
    starts = np.cumsum([1] + [len(b[0]) for b in blocks])
    m = int(starts[-1])
    left, right = np.zeros((m, m)), np.zeros(m)
    p = cross.gram.shape[0] - 1
    left[0, 0], right[0] = cross.n - p, cross.gram[p, p]
    for t, (i, j) in enumerate(blocks):
        rows = slice(starts[t], starts[t + 1])
        A = cross.diag[t]
        total = _entries(A.sum(axis=-1), i, j)
        left[0, rows] = total * np.where(i == j, 1.0, 2.0)
        left[rows, 0] = total
        e = cross.rhs[t][-1]
        right[rows] = _entries(e @ e.T, i, j)
        for s, (k, l) in enumerate(blocks):
            columns = slice(starts[s], starts[s + 1])
            B = _blocks(cross, t, s)
            if max(sizes[t], sizes[s]) > MANY:
                left[rows, columns] = _of_traces(B, (i, j), (k, l))
                continue
            flat = B.reshape(-1, B.shape[-1])
            outer = (flat @ flat.T).reshape(B.shape[0], B.shape[1], B.shape[0], B.shape[1])
            direct = outer[i[:, None], k[None], j[:, None], l[None]]
            swapped = outer[i[:, None], l[None], j[:, None], k[None]]
            left[rows, columns] = np.where(k == l, direct, direct + swapped)
    scale = np.sqrt(np.abs(np.diagonal(left)))
    scale = np.where(scale > 0, scale, 1.0)
    solution = np.linalg.lstsq(left / np.outer(scale, scale), right / scale, rcond=1e-10)[0] / scale
    residual = cross.gram[p, p] / max(cross.n - p, 1)
    sigma2 = float(np.clip(solution[0], 0.02 * residual, residual)) if sigma is None else sigma**2
    sigma2 = sigma2 if sigma2 > 0.0 else 1.0  # a response that is fitted exactly
    theta = []
    for t, (structure, (i, j)) in enumerate(zip(structures, blocks, strict=True)):
        G = np.zeros((sizes[t], sizes[t]))
        if sizes[t] > MANY:
            np.fill_diagonal(G, solution[starts[t]] / sigma2)
        else:
            G[i, j] = G[j, i] = solution[starts[t] : starts[t + 1]] / sigma2
        theta.append(structure.start(G, cross.diag[t].sum(axis=-1) / cross.n))
    return np.concatenate(theta)


def _blocks(cross: CrossProducts, t: int, s: int) -> np.ndarray:
    """The blocks of Z_t'WZ_s (k, l, m) of all levels that share a row."""
    if t < s:
        return cross.pairs[t, s].blocks
    if s < t:
        return np.swapaxes(cross.pairs[s, t].blocks, 0, 1)
    if (t, t) not in cross.pairs:
        return cross.diag[t]
    upper = cross.pairs[t, t].blocks
    return np.concatenate([cross.diag[t], upper, np.swapaxes(upper, 0, 1)], axis=-1)


def _entries(M: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Entries of M (k, k), or its trace where k is large."""
    return M[i, j] if len(M) <= MANY else np.array([np.trace(M)])


def _of_traces(
    B: np.ndarray, rows: tuple[np.ndarray, np.ndarray], columns: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """sum_jl B G B' of one term by G of another, B (k, l, blocks), where one of them has many columns."""
    if B.shape[0] > MANY and B.shape[1] > MANY:
        return np.array([[np.sum(B * B)]])
    if B.shape[0] > MANY:
        inner = np.einsum("akj,alj->kl", B, B)
        return inner[columns] * np.where(columns[0] == columns[1], 1.0, 2.0)[None]
    return np.asarray(np.einsum("akj,bkj->ab", B, B)[rows][:, None])
