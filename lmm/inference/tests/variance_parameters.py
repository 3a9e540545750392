"""Asymptotic covariance of the variance parameters (theta, log sigma) of a linear mixed model.

With s = log sigma and r2(theta) the residual sum of squares that is left when beta is profiled out, -2 log-likelihood
(N = n) or the REML criterion (N = n - p) is

    f(theta, s) = L(theta) + r2(theta) e^-2s + 2 N s + N log(2 pi),     L = log|M| [+ log|X'V^-1X|] - sum log w,

the criterion with sigma known, whose Hessian in theta is exact (:mod:`lmm.model.gaussian.hessian`). The rest is

    d2f / dtheta ds = -2 r2'(theta) / sigma^2,     d2f / ds2 = 4 r2 / sigma^2,

and the covariance is twice the inverse of the Hessian. A parameter whose first-order effect on the covariance matrix
vanishes (a variance of zero, T = 0) is held on its boundary: its row is zero. Of what remains the inverse is taken on
the eigenvectors with positive eigenvalues, as lmerTest does (Kuznetsova, Brockhoff & Christensen 2017, J. Stat. Softw. 82(13)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lmm.covariance.structure import directions
from lmm.errors import CapacityError
from lmm.estimators.estimator import Estimator
from lmm.estimators.likelihood.probed_criterion import evaluator
from lmm.estimators.likelihood.profiled import Evaluator, curvature
from lmm.inference.tests.marginal_precision import marginal, projected
from lmm.inference.tests.traces import traces
from lmm.linalg import threads
from lmm.model.centred import inward, outer_jacobian
from lmm.model.gaussian import hessian
from lmm.model.problem_kinds import AnyProblem, MarginalProblem, Problem
from lmm.model.records import Estimate
from lmm.search.trust_region import Point

#: eigenvalues of the Hessian, its diagonal scaled to one, that count as positive
POSITIVE = 1e-8


@dataclass(frozen=True, eq=False)
class VarianceParameters:
    """What the criterion's curvature says of (theta, log sigma).

    Attributes
    ----------
    cov : (m + 1, m + 1) asymptotic covariance; zero rows for a theta on its boundary and for a sigma that is known.
    hessian : (m + 1, m + 1) second derivatives of the criterion with sigma as a parameter.
    message : what was left out of the inverse and why, else None.
    """

    cov: np.ndarray
    hessian: np.ndarray
    message: str | None = None


def check_linear(estimate: Estimate, what: str) -> None:
    """ArgumentError unless the estimate is that of a linear model by a likelihood."""
    estimate.require_likelihood(
        f"{what}: a posterior has no asymptotic covariance of variance parameters; its draws show their spread."
    )
    estimate.distribution.require_linear(
        f"{what} is for linear models; this one has a {estimate.distribution.title} response."
    )


def covariance(problem: AnyProblem, estimator: Estimator, estimate: Estimate) -> np.ndarray:
    """Asymptotic covariance (m + 1, m + 1) of (theta, log sigma); see :func:`variance_parameters`."""
    return variance_parameters(problem, estimator, estimate).cov


@threads.limited()
def variance_parameters(
    problem: AnyProblem, estimator: Estimator, estimate: Estimate
) -> VarianceParameters:
    """Hessian of the criterion in (theta, log sigma) at an estimate, and twice its inverse.

    Parameters
    ----------
    problem : the sums of a linear model.
    estimator : what made the estimate; every method for linear models ends at the optimum of ML or REML.
    estimate : a linear fit.

    Raises
    ------
    ArgumentError : for a generalized model or a posterior.

    Examples
    --------
    >>> import lmm
    >>> from lmm.inference.tests.variance_parameters import variance_parameters
    >>> fit = lmm.lmer("Yield ~ 1 + (1|Batch)", lmm.datasets.load("Dyestuff"))
    >>> variance_parameters(fit.problem, fit.estimator, fit.estimate).cov.round(4).tolist()
    [[0.142, -0.0226], [-0.0226, 0.0208]]
    """
    check_linear(estimate, "the covariance of variance parameters")
    if isinstance(problem, MarginalProblem):
        from lmm.inference.tests.marginal_tests import marginal_variance_parameters

        return marginal_variance_parameters(problem, estimate)
    problem = problem.as_linear()
    if problem.centred is not None:
        known = variance_parameters(*_inside(problem, estimator, estimate))
        J = np.eye(len(known.cov))
        J[:-1, :-1] = outer_jacobian(problem, estimate)
        back = np.linalg.inv(J)
        return VarianceParameters(J @ known.cov @ J.T, back.T @ known.hessian @ back, known.message)
    H = second_derivatives(problem, estimate)
    if not np.isfinite(H).all():
        why = "The criterion cannot be computed around the estimates, so that the variance parameters have no covariance."
        return VarianceParameters(np.full_like(H, np.nan), H, why)
    return of_hessian(H, np.append(moves_covariance(problem, estimate), not estimate.knows_sigma))


def of_hessian(H: np.ndarray, free: np.ndarray) -> VarianceParameters:
    """Twice the inverse of a Hessian (m + 1, m + 1) in the parameters that are ``free`` (m + 1,) bool, zero elsewhere."""
    cov = np.zeros_like(H)
    inverse, flat, negative = positive_inverse(H[np.ix_(free, free)])
    cov[np.ix_(free, free)] = 2.0 * inverse
    message = None
    if flat or negative:
        kind = " and ".join(
            f"{count} {word} eigenvalue{'s' if count > 1 else ''}"
            for count, word in ((negative, "negative"), (flat, "zero"))
            if count
        )
        message = (
            f"The Hessian of the criterion in the variance parameters has {kind}: those directions are left out of their covariance "
            "(its pseudo-inverse is used), and degrees of freedom that rest on it are rough."
        )
    return VarianceParameters(cov, H, message)


def _inside(
    problem: Problem, estimator: Estimator, estimate: Estimate
) -> tuple[Problem, Any, Estimate]:
    inner, own = inward(problem, estimate)
    return inner, estimator, own


def second_derivatives(problem: Problem, estimate: Estimate) -> np.ndarray:
    """Hessian (m + 1, m + 1) of the criterion in (theta, log sigma): exact, or average information where terms are iterative.

    NaN where rounding leaves no criterion.
    """
    theta, sigma = np.asarray(estimate.theta, dtype=float), float(estimate.sigma)
    at, apart = (
        evaluator(problem, estimate.reml, sigma),
        evaluator(problem, estimate.reml, 2.0 * sigma),
    )
    here, there = at.in_theta(theta), apart.in_theta(theta)
    m = len(theta)
    H = np.full((m + 1, m + 1), np.nan)
    if here.payload is None or there.payload is None:
        return H
    H[:m, :m] = _in_theta(problem, estimate, at, here)
    # the gradients at two values of sigma differ in r2' alone: r2' (1 - 1/4) / sigma^2
    H[:m, m] = H[m, :m] = -8.0 / 3.0 * (here.gradient - there.gradient)
    H[m, m] = 4.0 * float(here.payload.value.r2) / sigma**2
    return H


def _in_theta(problem: Problem, estimate: Estimate, at: Evaluator, here: Point) -> np.ndarray:
    """Its part (m, m) in theta: by levels for one factor, else from the traces of Kenward and Roger's method, else by differences."""
    if len(problem.structures) == 1 or problem.plan.joint or not at.comparable:
        return at.hessian(here)
    dG = [
        directions(d, T) for d, T in zip(here.payload.frame.dT, here.payload.frame.T, strict=True)
    ]
    try:
        products, _ = traces(
            problem.cross,
            here.payload.frame.T,
            dG,
            tuple(size.group for size in problem.plan.terms),
        )
    except CapacityError:
        return hessian.by_differences(lambda theta: at.in_theta(theta).gradient, here.theta)
    known = marginal(problem, estimate)
    if estimate.reml and problem.p:
        products = projected(products, known.C, *known.derivatives(dG))
    H = 2.0 * known.residual_quadratics(dG) / float(estimate.sigma) ** 2 - products
    return np.asarray((H + H.T) / 2.0 + curvature(here.payload.D, here.payload.frame))


def moves_covariance(problem: Problem, estimate: Estimate) -> np.ndarray:
    """(m,) bool: whether a theta changes G = T T' to first order; it does not where a variance is zero."""
    moves = []
    for structure, own, T in zip(
        problem.structures, problem.split(estimate.theta), estimate.factors, strict=True
    ):
        slope = structure.jacobian(own) @ T.T
        moves.append(np.abs(slope).max(axis=(1, 2)) > 0.0)
    return np.concatenate(moves)


def positive_inverse(H: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Inverse of H on the eigenvectors with positive eigenvalues, its diagonal scaled to one first; how many were flat, and negative."""
    scale = np.sqrt(np.abs(np.diagonal(H)))
    scale = np.where(scale > 0.0, scale, 1.0)
    values, vectors = np.linalg.eigh(H / np.outer(scale, scale))
    use = values > POSITIVE
    basis = vectors[:, use] / scale[:, None]
    return (
        (basis / values[use]) @ basis.T,
        int(np.sum(np.abs(values) <= POSITIVE)),
        int(np.sum(values < -POSITIVE)),
    )
