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
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from lmm.design.centring import shifted
from lmm.design.terms import Incidence
from lmm.linalg import elimination, tail, threads
from lmm.linalg.elimination import Factor, Inverse
from lmm.linalg.plan import Plan
from lmm.model.centred import inward
from lmm.model.gaussian import state
from lmm.model.mode import Arrangement
from lmm.model.passes import Expand
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.model.solves import Solves, solves
from lmm.model.system import arrange
from lmm.model.working_solves import working_solves

#: numbers in one batch of rows
BATCH = 20_000_000
#: rows for which a system is solved where terms are iterative
SOLVES = 20_000

#: how new rows meet each term of the design; None to leave the term out
NewTerms = Sequence[Incidence | None]


@dataclass(frozen=True)
class Posterior:
    """What the covariance of (beta_hat, b_hat - b) needs at an estimate, relative to sigma^2.

    Attributes
    ----------
    plan : which term is eliminated how, in the sizes of the arrays below.
    factor, tail_T : the factorised system and the relative factors of the tail's terms.
    inverses : N per member of the chain: its diagonal blocks, and blocks with its own ancestors and the tail.
    K : N of the tail (q, q).
    modes : N Z'WQ per term (p, k, J), Q the orthonormal fixed columns.
    cov : (X'V^-1X)^-1 in the same columns.
    """

    plan: Plan
    factor: Factor
    tail_T: list[np.ndarray]
    inverses: list[Inverse]
    K: np.ndarray
    modes: list[np.ndarray]
    cov: np.ndarray


def posterior(problem: Problem | GeneralizedProblem, estimate: Estimate) -> Posterior:
    """Factor the system at an estimate and take what is needed of its inverse."""
    if isinstance(problem, GeneralizedProblem):
        return _working_posterior(problem, estimate)
    plan = problem.arranged
    plan.require_exact("The conditional covariance of random effects")
    chain_T, tail_T = ([estimate.factors[t] for t in which] for which in (plan.chain, plan.tail))
    data = problem.data._replace(degrees=np.asarray(float(problem.n)))  # sigma^2 does not enter
    value, at = state(np, data, chain_T, tail_T, plan.layout, False)
    K = np.zeros((0, 0))
    if plan.layout:
        K = tail.sandwich(np, plan.layout, tail_T, tail.symmetrize(np, tail.inverse(np, at.factor.tail)), transpose=False)
    _, inverses = elimination.inverse_blocks(np, at.factor, K, need_first=True)
    modes = [m[: problem.p] for m in problem.collect(at.modes)]
    return Posterior(plan, at.factor, tail_T, inverses, K, modes, value.cov)


def _working_posterior(problem: GeneralizedProblem, estimate: Estimate) -> Posterior:
    """The same of the working linear model at the modes of a generalized one, W the family's working weights; sigma^2 is 1."""
    problem.plan.require_exact("The conditional covariance of random effects")
    if problem.source.distant:
        return _distant_posterior(problem, estimate)
    rows = problem.rows
    at = Arrangement(rows, list(estimate.factors))
    W = problem.family.working_weights(rows.y, estimate.eta, rows.weights, estimate.phi)
    if not problem.family.has_dispersion:  # sigma is not one where a quasi-likelihood estimates it
        W = W / estimate.sigma**2
    factor = at.factorize(rows.system(W))
    WQ = rows.Q * W[:, None]
    return _of_factor(at, factor, rows.column_sums(WQ), rows.Q.T @ WQ)


def _distant_posterior(problem: GeneralizedProblem, estimate: Estimate) -> Posterior:
    """The same in one pass over rows that are not in memory."""
    source = problem.source
    at = Arrangement(source, list(estimate.factors))
    gamma, b = problem.rows.R @ estimate.beta, [np.ascontiguousarray(modes.T) for modes in estimate.modes]
    request = Expand(problem.family, gamma, b, estimate.phi, observed=False, expected=True, fixed=True)
    sums = source.total([request])[0].expected
    return _of_factor(at, at.factorize(at.system(sums)), sums.fixed, sums.gram)


def _of_factor(at: Arrangement, factor: Factor, ZWQ: list[np.ndarray], gram: np.ndarray) -> Posterior:
    """What a factorised working model says; ``gram`` is Q'WQ."""
    K = np.zeros((0, 0))
    if at.layout:
        K = tail.sandwich(np, at.layout, at.tail_T, tail.symmetrize(np, tail.inverse(np, factor.tail)), transpose=False)
    _, inverses = elimination.inverse_blocks(np, factor, K, need_first=True)
    modes, _, inner = at.solve(factor, ZWQ)
    cov = np.linalg.inv(gram - inner) if len(gram) else np.zeros((0, 0))
    return Posterior(at.plan, factor, at.tail_T, inverses, K, modes, cov)


@threads.limited()
def covariances(problem: Problem | GeneralizedProblem, estimate: Estimate) -> tuple[np.ndarray, ...]:
    """Conditional covariances of the modes given y, beta and theta, per term (J, k, k)."""
    if isinstance(problem, Problem) and problem.centred is not None:
        inside = covariances(*inward(problem, estimate))
        return tuple(own if B is None else B @ own @ B.T for own, B in zip(inside, problem.centred.bases, strict=True))
    at = posterior(problem, estimate)
    plan = at.plan
    out: dict[int, np.ndarray] = {t: inverse.own for t, inverse in zip(plan.chain, at.inverses, strict=True)}
    for slot, t in zip(plan.layout, plan.tail, strict=True):
        own = at.K[slot.columns, slot.columns].reshape(slot.k, slot.J, slot.k, slot.J)
        out[t] = np.einsum("ajbj->abj", own)
    blocks = (out[t][..., : size.J] for t, size in enumerate(problem.plan.terms))
    return tuple(np.ascontiguousarray(np.moveaxis(block, -1, 0)) * estimate.scale2 for block in blocks)


@threads.limited()
def prediction_variance(problem: Problem | GeneralizedProblem, estimate: Estimate, X: np.ndarray, terms: NewTerms) -> np.ndarray:
    """Variance of x'beta + z'b - (x'beta_hat + z'b_hat), per new row, given theta.

    Of a generalized model that of its working linear model at the modes.

    Parameters
    ----------
    X : (m, p) rows of the kept fixed columns, on the user's scale.
    terms : per term of the design its levels and values, None to leave the term out; a code of -1 is a new level, which adds
        z'Gz sigma^2.

    Returns
    -------
    (m,) variances, in squared units of the response (generalized: of the linear predictor).
    """
    problem, estimate, terms = _inward(problem, estimate, terms)
    at: Any = _solves(problem, estimate) if problem.plan.iterative else posterior(problem, estimate)
    iterative = isinstance(at, Solves)
    if iterative and len(X) > SOLVES:
        problem.plan.require_exact(f"The variance of {len(X):,} predictions, one solve for each, or that of as many leverages")
    m = len(X)
    known: list[Incidence] = []
    variance = np.zeros(m)
    for size, T, term in zip(problem.plan.terms, estimate.factors, terms, strict=True):
        own = Incidence(np.zeros(m, dtype=np.int32), np.zeros((m, size.k))) if term is None else term
        new = own.new
        if new.any():
            variance[new] += own.rows(new).variances(T)
        known.append(own.known())
    contrast = _contrasts([mode[: problem.p] for mode in at.modes], problem, X, known)
    sizes = problem.plan.terms
    width = 4 * sum(size.k * size.J for size in sizes) if iterative else len(at.K) * (1 + max(size.k for size in sizes))
    quadratic = at.quadratic if iterative else partial(_quadratic, at)
    step = max(1, BATCH // max(1, width))
    for first in range(0, m, step):
        rows = slice(first, first + step)
        variance[rows] += quadratic([own.rows(rows) for own in known])
    cov = at.value.cov if iterative else at.cov
    variance += np.sum((contrast @ cov) * contrast, axis=1)
    return variance * estimate.scale2


def _inward(
    problem: Problem | GeneralizedProblem, estimate: Estimate, terms: NewTerms
) -> tuple[Problem | GeneralizedProblem, Estimate, NewTerms]:
    """Problem, estimate and rows in centred columns where the problem has them."""
    if not isinstance(problem, Problem) or problem.centred is None:
        return problem, estimate, terms
    moved: list[Incidence | None] = []
    for own, B in zip(terms, problem.centred.bases, strict=True):
        moved.append(None if own is None else Incidence(own.codes, shifted(own.values, B)))
    return *inward(problem, estimate), moved


def _solves(problem: Problem | GeneralizedProblem, estimate: Estimate) -> Solves:
    """What takes the place of :func:`posterior` where terms are solved iteratively."""
    return working_solves(problem, estimate) if isinstance(problem, GeneralizedProblem) else solves(problem, estimate)


def _contrasts(modes: list[np.ndarray], problem: Problem | GeneralizedProblem, X: np.ndarray, known: Sequence[Incidence]) -> np.ndarray:
    """Rows of X - Z N Z'WX (m, p) in the orthonormal columns, for ``known`` levels of every term."""
    R = problem.rows.R if isinstance(problem, GeneralizedProblem) else problem.R
    contrast = solve_triangular(R, X.T, trans="T").T if problem.p else np.zeros((len(X), 0))
    for own, mode in zip(known, modes, strict=True):
        contrast = contrast - np.einsum("pkm,mk->mp", mode[:, :, own.codes], own.values)
    return np.asarray(contrast)


@threads.limited()
def fixed_variance(problem: Problem | GeneralizedProblem, estimate: Estimate, X: np.ndarray, terms: NewTerms) -> np.ndarray:
    """The part of :func:`prediction_variance` that is due to the fixed effects, per row of known levels, (m,).

    sigma^2 c'C_bb c with c = x - X'WZ N z, which is X'V^-1 e_i / w_i for a row i of the fit.
    """
    problem, estimate, terms = _inward(problem, estimate, terms)
    at: Any = _solves(problem, estimate) if problem.plan.iterative else posterior(problem, estimate)
    known = [term for term in terms if term is not None]
    contrast = _contrasts([mode[: problem.p] for mode in at.modes], problem, X, known)
    cov = at.value.cov if problem.plan.iterative else at.cov
    return np.asarray(np.sum((contrast @ cov) * contrast, axis=1) * estimate.scale2)


def _quadratic(at: Posterior, terms: Sequence[Incidence]) -> np.ndarray:
    """z'N z per row, each row touching one level of every term (values of zero where it does not)."""
    plan = at.plan
    m = terms[0].m
    total, usual = np.zeros(m), np.ones(m, dtype=bool)
    Kz = np.zeros((m, len(at.K)))  # K z of the tail, and with it z'K z
    columns = []
    for slot, t in zip(plan.layout, plan.tail, strict=True):
        codes, values = terms[t].codes, terms[t].values
        for a in range(slot.k):
            columns.append((slot.offset + a * slot.J + codes, values[:, a]))
            Kz += at.K[columns[-1][0]] * values[:, a, None]
    for column, value in columns:
        total += value * Kz[np.arange(m), column]
    for i, (t, inverse, member) in enumerate(zip(plan.chain, at.inverses, at.factor.chain, strict=True)):
        codes, values = terms[t].codes, terms[t].values
        total += np.einsum("ma,abm,mb->m", values, inverse.own[..., codes], values, optimize=True)
        for s, parent in enumerate(member.parents):
            upper = terms[plan.chain[i + 1 + s]]
            usual &= (parent.index[codes] == upper.codes) | ~values.any(axis=1) | ~upper.values.any(axis=1)
            total += 2.0 * np.einsum("ma,abm,mb->m", values, inverse.parents[s][..., codes], upper.values, optimize=True)
        if columns:
            total += 2.0 * np.einsum("ma,am->m", values, _with_tail(at, i, codes, Kz))
    if not usual.all():  # a level paired with another's ancestor, which no observed row does
        total[~usual] = _by_elimination(at, [own.rows(~usual) for own in terms])
    return total


def _with_tail(at: Posterior, i: int, codes: np.ndarray, Kz: np.ndarray) -> np.ndarray:
    """N_j,tail z of a member's levels for tail vectors z given as Kz: -W_j sum_v R_jv N_v,tail z, (k, m)."""
    member = at.factor.chain[i]
    assert member.coupling is not None
    inside = member.coupling.rows(codes, Kz)
    for s, parent in enumerate(member.parents):
        inside = inside + np.einsum("abm,bm->am", parent.B[..., codes], _with_tail(at, i + 1 + s, parent.index[codes], Kz))
    return -np.einsum("abm,bm->am", member.W[..., codes], inside)


def _by_elimination(at: Posterior, terms: Sequence[Incidence]) -> np.ndarray:
    """z'N z for any z, by carrying each z down the elimination as a right-hand side."""
    plan, m = at.plan, terms[0].m
    step = max(1, BATCH // sum(size.k * size.J for size in plan.terms))
    if m > step:
        pieces = ([own.rows(slice(i, i + step)) for own in terms] for i in range(0, m, step))
        return np.concatenate([_by_elimination(at, piece) for piece in pieces])
    dense = [own.dense(size.J) for size, own in zip(plan.terms, terms, strict=True)]
    reduced = elimination.reduce(np, at.factor, plan.layout, at.tail_T, arrange(plan, tuple(dense)))
    own = zip(reduced.chain, reduced.weighted, strict=True)
    return np.sum(reduced.half * reduced.half, axis=1) + sum(np.sum(v * Wv, axis=(1, 2)) for v, Wv in own)
