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
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from lmm.design.centring import shifted
from lmm.design.terms import Incidence
from lmm.linalg import threads
from lmm.linalg.factorisation import Factorisation, Touched
from lmm.model.centred import inward
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate

#: how new rows meet each term of the design; None to leave the term out
NewTerms = Sequence[Incidence | None]


class Posterior(NamedTuple):
    """What the covariance of (beta_hat, b_hat - b) needs at an estimate, relative to sigma^2.

    ``factorisation`` of Z'WZ + G^-1; ``modes`` N Z'WQ per term (p, k, J), Q the orthonormal fixed columns; ``cov`` (Q'V^-1Q)^-1.
    """

    factorisation: Factorisation
    modes: list[np.ndarray]
    cov: np.ndarray


def posterior(problem: Problem | GeneralizedProblem, estimate: Estimate) -> Posterior:
    """Factorise the (working) linear model at an estimate, and carry the fixed columns through it."""
    working = problem.whitened(estimate).working_model(estimate)
    factorisation = working.system.factorize(list(estimate.factors))
    modes, _, inner = factorisation.solve(working.fixed)
    cov = np.linalg.inv(working.gram - inner) if len(inner) else np.zeros((0, 0))
    return Posterior(factorisation, modes, cov)


@threads.limited()
def covariances(
    problem: Problem | GeneralizedProblem, estimate: Estimate
) -> tuple[np.ndarray, ...]:
    """Conditional covariances of the modes given y, beta and theta, per term (J, k, k)."""
    if not estimate.factors:
        return ()
    problem = problem.whitened(estimate)
    if problem.centred is not None:
        inside = covariances(*inward(problem, estimate))
        return tuple(
            own if B is None else B @ own @ B.T
            for own, B in zip(inside, problem.centred.bases, strict=True)
        )
    factorisation = problem.working_model(estimate).system.factorize(list(estimate.factors))
    blocks = factorisation.inverse_blocks()
    return tuple(
        np.ascontiguousarray(np.moveaxis(block, -1, 0)) * estimate.scale2 for block in blocks
    )


@threads.limited()
def prediction_variance(
    problem: Problem | GeneralizedProblem, estimate: Estimate, X: np.ndarray, terms: NewTerms
) -> np.ndarray:
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
    at = posterior(problem, estimate)
    m = len(X)
    known: list[Incidence] = []
    variance = np.zeros(m)
    for size, T, term in zip(problem.plan.terms, estimate.factors, terms, strict=True):
        own = (
            Incidence(np.zeros(m, dtype=np.int32), np.zeros((m, size.k))) if term is None else term
        )
        new = own.new
        if new.any():
            variance[new] += own.rows(new).unknown().variances(T)
        known.append(own.known())
    touched = [
        Touched(t, part.codes, part.values) for t, own in enumerate(known) for part in own.parts()
    ]
    variance += at.factorisation.quadratics(touched)
    return (variance + _of_fixed(at, problem, X, known)) * estimate.scale2


def _inward(
    problem: Problem | GeneralizedProblem, estimate: Estimate, terms: NewTerms
) -> tuple[Problem | GeneralizedProblem, Estimate, NewTerms]:
    """Problem, estimate and rows in centred columns where the problem has them."""
    problem = problem.whitened(estimate)
    if problem.centred is None:
        return problem, estimate, terms
    moved: list[Incidence | None] = []
    for own, B in zip(terms, problem.centred.bases, strict=True):
        moved.append(None if own is None else replace(own, values=shifted(own.values, B)))
    return *inward(problem, estimate), moved


def _of_fixed(
    at: Posterior, problem: Problem | GeneralizedProblem, X: np.ndarray, known: Sequence[Incidence]
) -> np.ndarray:
    """c'C_bb c (m,) of the rows c = x - X'WZ N z, for ``known`` levels of every term, relative to sigma^2."""
    contrast = solve_triangular(problem.R, X.T, trans="T").T if problem.p else np.zeros((len(X), 0))
    for own, mode in zip(known, at.modes, strict=True):
        for part in own.parts():
            contrast = contrast - np.einsum("pkm,mk->mp", mode[:, :, part.codes], part.values)
    return np.asarray(np.sum((contrast @ at.cov) * contrast, axis=1))


@threads.limited()
def fixed_variance(
    problem: Problem | GeneralizedProblem, estimate: Estimate, X: np.ndarray, terms: NewTerms
) -> np.ndarray:
    """The part of :func:`prediction_variance` that is due to the fixed effects, per row of known levels, (m,).

    sigma^2 c'C_bb c with c = x - X'WZ N z, which is X'V^-1 e_i / w_i for a row i of the fit.
    """
    problem, estimate, terms = _inward(problem, estimate, terms)
    known = [term for term in terms if term is not None]
    return _of_fixed(posterior(problem, estimate), problem, X, known) * estimate.scale2
