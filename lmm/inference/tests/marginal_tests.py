"""Satterthwaite's and Kenward and Roger's methods where residuals have a covariance of their own.

With C = (X'V^-1X)^-1 and W the covariance of the parameters theta of all covariances, P_h = X'V^-1 dV_h V^-1 X,

    dC / dtheta_h = C P_h C,
    Phi_A = Phi + 2 Phi { sum_hk W_hk (Q_hk - P_h Phi P_k - R_hk / 4) } Phi,
    Q_hk = X'V^-1 dV_h V^-1 dV_k V^-1 X,    R_hk = X'V^-1 d2V_hk V^-1 X.

W is twice the inverse of the deviance's Hessian, observed or expected. Without R, the linear form, the result is the same
for every choice of parameters of a covariance; with R it is not, so the linear form is the default. R is taken in variances and
correlations, as SAS has them, and is zero where a covariance is linear in some parameters, as the unstructured one is in its
variances and covariances.
Kenward and Roger's degrees of freedom (2009) are those of :mod:`lmm.inference.tests.kenward_roger`.

References: Kenward & Roger (1997), Biometrics 53, 983-997; (2009), Comput. Stat. Data Anal. 53, 2583-2595.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from lmm.covariance import Covariance
from lmm.covariance.structure import LocalCovariance
from lmm.estimators.estimator import Estimator
from lmm.estimators.likelihood.marginal_likelihood import (
    MarginalEvaluator,
    MarginalPayload,
    maximise,
)
from lmm.inference.tests.kenward_roger import KenwardRoger
from lmm.inference.tests.satterthwaite import Satterthwaite
from lmm.inference.tests.variance_parameters import VarianceParameters, of_hessian
from lmm.linalg import threads
from lmm.model.marginal.dense_deviance import MarginalDeviance
from lmm.model.marginal.marginal_problem import MarginalProblem
from lmm.model.records import Estimate

#: step of differences of first derivatives, which are exact
STEP = 1e-5
#: norm of dV along a parameter, relative to the largest, under which it does not move the covariance
STILL = 1e-12


def local_at(problem: MarginalProblem, estimate: Estimate) -> list[LocalCovariance]:
    """G per structure at an estimate with its derivatives in theta, in units of the problem."""
    scale = (float(estimate.sigma) / problem.unit) ** 2
    out = []
    for structure, own in zip(problem.structures, problem.split(estimate.theta), strict=True):
        at = structure.local(own)
        bend = partial(_times, scale, at.bend)
        out.append(LocalCovariance(scale * at.G, scale * at.dG, bend))
    return out


def _times(scale: float, bend: Callable[[np.ndarray], np.ndarray], D: np.ndarray) -> np.ndarray:
    return scale * bend(D)


class Around(NamedTuple):
    """A model around an estimate: the covariance of its parameters, the deviance, dG (m_t, k, k) per structure, P_h (m, p, p)."""

    known: VarianceParameters
    at: MarginalDeviance
    dG: list[np.ndarray]
    P: np.ndarray


def marginal_variance_parameters(
    problem: MarginalProblem, estimate: Estimate, expected: bool = False
) -> VarianceParameters:
    """Hessian of the deviance in (theta, log sigma), where log sigma is no parameter, and twice its inverse."""
    return around(problem, estimate, expected).known


@threads.limited()
def around(problem: MarginalProblem, estimate: Estimate, expected: bool = False) -> Around:
    """The model around an estimate; ``expected`` takes the expected information."""
    local = local_at(problem, estimate)
    point = MarginalEvaluator(problem, estimate.reml).evaluate(estimate.theta, local)
    m = problem.n_theta
    H = np.zeros((m + 1, m + 1))
    dG = [own.dG for own in local]
    payload: MarginalPayload = point.payload
    H[:m, :m] = payload.deviance.second(dG, expected=True).hessian if expected else point.hessian
    size = np.concatenate(
        [
            np.linalg.norm(own.reshape(len(own), -1), axis=1) * np.linalg.norm(gram)
            for own, gram in zip(dG, problem.grams(), strict=True)
        ]
    )
    moves = size > STILL * max(1.0, float(size.max(initial=0.0)))
    known = of_hessian(H, np.append(moves, False))
    return Around(known, payload.deviance, dG, payload.curvature.P)


@threads.limited()
def marginal_satterthwaite(
    problem: MarginalProblem, estimate: Estimate, cov: np.ndarray
) -> Satterthwaite:
    """Satterthwaite's method; the covariance of theta is from the observed information."""
    known, at, _, P = around(problem, estimate)
    jacobian = problem.on_users_scale(at.cov @ P @ at.cov)
    whole = np.concatenate([jacobian, 2.0 * np.asarray(cov)[None]])
    return Satterthwaite(np.asarray(cov), whole, known.cov, known.message)


@threads.limited()
def marginal_kenward_roger(
    problem: MarginalProblem,
    estimator: Estimator,
    estimate: Estimate,
    full: bool = False,
) -> KenwardRoger:
    """Kenward and Roger's method; one by maximum likelihood is fitted again by REML first.

    ``full`` takes the second derivatives of V into it. The information is what the estimator's settings say.
    """
    message = None
    if not estimate.reml:
        control = replace(estimator.control, evaluate_only=False)
        estimate = maximise(problem, True, control)
        message = "Kenward-Roger is for REML: covariances and degrees of freedom are those of the model fitted again by REML."
    expected = estimator.control.information == "expected"
    known, at, dG, P = around(problem, estimate, expected)
    W = known.cov[:-1, :-1]
    inner = at.products(dG, W, _bends(problem, estimate, W) if full else None)
    across = np.swapaxes(P @ at.cov, 0, 1).reshape(problem.p, -1)
    inner = inner - across @ np.tensordot(W, P, 1).reshape(-1, problem.p)
    unadjusted = problem.on_users_scale(at.cov)
    cov = unadjusted + 2.0 * problem.on_users_scale(at.cov @ ((inner + inner.T) / 2.0) @ at.cov)
    return KenwardRoger(
        cov, unadjusted, problem.on_users_scale(at.cov @ P @ at.cov), W, message or known.message
    )


def _bends(problem: MarginalProblem, estimate: Estimate, W: np.ndarray) -> list[np.ndarray]:
    """sum_ab W_ab d2G / d lambda_a d lambda_b (k, k) per structure, lambda what is reported, with variances for standard deviations.

    With theta the parameters of the search, J = dlambda / dtheta and H_c the second derivatives of lambda_c, it is
    sum_hk W_hk d2G_hk - sum_h dG_h sum_c (J^-1)_hc tr(W H_c). A covariance that is linear in some parameters has none in these.
    """
    scale = (float(estimate.sigma) / problem.unit) ** 2
    out, at = [], 0
    for structure, x in zip(problem.structures, problem.split(estimate.theta), strict=True):
        own = W[at : at + len(x), at : at + len(x)]
        at += len(x)
        if structure.linear_basis() is not None:
            out.append(np.zeros_like(structure.covariance(x)))
            continue
        axes = STEP * np.eye(len(x))
        H = np.array([_slopes(structure, x + e) - _slopes(structure, x - e) for e in axes])
        curved = np.einsum("kl,kcl->c", own, H) / (2.0 * STEP)
        shift = np.linalg.solve(_slopes(structure, x), curved)
        bends = np.tensordot(own, structure.covariance_bends(x), 2)
        out.append(scale * (bends - np.tensordot(shift, structure.covariance_slopes(x), 1)))
    return out


def _slopes(structure: Covariance, theta: np.ndarray) -> np.ndarray:
    """Derivatives (m, m) of what a structure reports by theta, of variances where it reports standard deviations."""
    values, slopes = structure.report(theta)
    deviations = np.array([q.kind == "sd" for q in structure.quantities()])
    return np.where(deviations, 2.0 * values, 1.0)[:, None] * slopes
