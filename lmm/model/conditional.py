"""Distributions of the random effects given the data: conditional covariances and prediction variances.

With N = (Z'WZ + G^-1)^-1 the conditional covariance of b given y, beta and theta is sigma^2 N; its
diagonal blocks are N_jj = W_j + W_j H_j W_j (see the trace recursion of ``linalg.elimination``).
The joint covariance of beta_hat and b_hat - b is sigma^2 times the inverse of Henderson's matrix,

    [X'WX  X'WZ      ]^-1    with blocks  C_bb = (X'V^-1X)^-1,  C_ub = -N Z'WX C_bb,
    [Z'WX  Z'WZ + G^-1]                   C_uu = N + N Z'WX C_bb X'WZ N.

Henderson (1975), Biometrics 31.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import solve_triangular

from lmm.linalg import elimination, tail, threads
from lmm.linalg.elimination import Factor, Vectors
from lmm.model.gaussian import state
from lmm.model.problem import Problem
from lmm.model.records import Estimate
from lmm.model.system import arrange

#: numbers in one batch of right-hand sides
BATCH = 20_000_000


def _factors(problem: Problem, estimate: Estimate) -> tuple[list[np.ndarray], list[np.ndarray]]:
    plan = problem.arranged
    return [estimate.factors[t] for t in plan.chain], [estimate.factors[t] for t in plan.tail]


@threads.limited()
def covariances(problem: Problem, estimate: Estimate) -> tuple[np.ndarray, ...]:
    """Conditional covariances of the modes given y, beta and theta, per term (J, k, k)."""
    chain_T, tail_T = _factors(problem, estimate)
    plan = problem.arranged
    factor = elimination.factorize(np, problem.data.system, chain_T, plan.layout, tail_T)
    K = None
    if plan.layout:
        K = tail.sandwich(np, plan.layout, tail_T, tail.symmetrize(np, tail.inverse(np, factor.tail)), transpose=False)
    _, inverses = elimination.inverse_blocks(np, factor, K, need_first=True)
    out: dict[int, np.ndarray] = {t: inverse.own for t, inverse in zip(plan.chain, inverses, strict=True)}
    for slot, t in zip(plan.layout, plan.tail, strict=True):
        assert K is not None
        own = K[slot.columns, slot.columns].reshape(slot.k, slot.J, slot.k, slot.J)
        out[t] = np.einsum("ajbj->abj", own)
    own = (out[t][..., : size.J] for t, size in enumerate(problem.plan.terms))
    return tuple(np.ascontiguousarray(np.moveaxis(block, -1, 0)) * estimate.sigma**2 for block in own)


@threads.limited()
def prediction_variance(
    problem: Problem, estimate: Estimate, X: np.ndarray, terms: Sequence[tuple[np.ndarray, np.ndarray] | None]
) -> np.ndarray:
    """Variance of x'beta + z'b - (x'beta_hat + z'b_hat), per new row.

    Parameters
    ----------
    X : (m, p) rows of the kept fixed columns, on the user's scale.
    terms : per term of the design ``(codes (m,), values (m, k))``, None to leave the term out; a code of -1
        is a new level, which adds z'Gz sigma^2.

    Returns
    -------
    (m,) variances, in squared units of the response.
    """
    chain_T, tail_T = _factors(problem, estimate)
    reml_free = problem.data._replace(degrees=np.asarray(float(problem.n)))
    value, at = state(np, reml_free, chain_T, tail_T, problem.arranged.layout, False)
    p = problem.p
    modes = [m[:p] for m in problem.collect(at.modes)]  # N Z'WQ: (p, k, J)
    x = solve_triangular(problem.R, X.T, trans="T").T if p else np.zeros((len(X), 0))
    out = np.empty(len(X))
    width = sum(size.k * size.J for size in problem.arranged.terms)
    step = max(1, BATCH // width)
    for first in range(0, len(X), step):
        rows = slice(first, first + step)
        own = [None if t is None else (t[0][rows], t[1][rows]) for t in terms]
        out[rows] = _batch(problem, estimate, at.factor, tail_T, x[rows], own, modes, value.cov)
    return out * estimate.sigma**2


def _batch(
    problem: Problem,
    estimate: Estimate,
    factor: Factor,
    tail_T: list[np.ndarray],
    x: np.ndarray,
    terms: list[tuple[np.ndarray, np.ndarray] | None],
    modes: list[np.ndarray],
    cov: np.ndarray,
) -> np.ndarray:
    """(x - X'WZ N z)' C_bb (x - X'WZ N z) + z'N z, plus z'Gz at new levels."""
    m, layout = len(x), problem.arranged.layout
    dense, extra = [], np.zeros(m)
    for size, T, term in zip(problem.arranged.terms, estimate.factors, terms, strict=True):
        z = np.zeros((m, size.k, size.J))
        if term is not None:
            codes, values = term
            known = codes >= 0
            z[np.flatnonzero(known), :, codes[known]] = values[known]
            half = values[~known] @ T
            extra[~known] += np.sum(half * half, axis=1)
        dense.append(z)
    vectors: Vectors = arrange(problem.arranged, tuple(dense))
    reduced = elimination.reduce(np, factor, layout, tail_T, vectors)
    variance = np.sum(reduced.half * reduced.half, axis=1)
    for member, v in zip(factor.chain, reduced.chain, strict=True):
        X_v = np.einsum("abj,rbj->raj", member.X, v, optimize=True)
        variance += np.sum(X_v * X_v, axis=(1, 2))
    if len(cov):
        contrast = x.copy()
        for mode, z in zip(modes, dense, strict=True):
            contrast -= z[..., : mode.shape[-1]].reshape(m, -1) @ mode.reshape(len(mode), -1).T
        variance += np.sum((contrast @ cov) * contrast, axis=1)
    return variance + extra
