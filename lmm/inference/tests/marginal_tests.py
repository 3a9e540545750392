"""Satterthwaite's and Kenward and Roger's methods where residuals have a covariance of their own.

With C = (X'V^-1X)^-1 and W the covariance of the parameters theta of all covariances, P_h = X'V^-1 dV_h V^-1 X,

    dC / dtheta_h = C P_h C,
    Phi_A = Phi + 2 Phi { sum_hk W_hk (Q_hk - P_h Phi P_k - R_hk / 4) } Phi,
    Q_hk = X'V^-1 dV_h V^-1 dV_k V^-1 X,    R_hk = X'V^-1 d2V_hk V^-1 X.

W is twice the inverse of the deviance's Hessian, observed or expected. Without R, the linear form, the result is the same
for every choice of parameters of a covariance; with R it is not, and for a covariance that is linear in its parameters,
as the unstructured one is in its variances and covariances, R is zero in these. So the linear form is the default.
Kenward and Roger's degrees of freedom (2009) are those of :mod:`lmm.inference.tests.kenward_roger`.

References: Kenward & Roger (1997), Biometrics 53, 983-997; (2009), Comput. Stat. Data Anal. 53, 2583-2595.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmm.covariance.structure import directions
from lmm.estimators.estimator import Estimator
from lmm.estimators.likelihood.marginal_likelihood import MarginalEvaluator, maximise
from lmm.estimators.likelihood.profiled import Frame
from lmm.inference.tests.kenward_roger import KenwardRoger
from lmm.inference.tests.satterthwaite import Satterthwaite
from lmm.inference.tests.variance_parameters import VarianceParameters, of_hessian
from lmm.linalg import threads
from lmm.model.marginal.marginal_problem import MarginalProblem
from lmm.model.records import Estimate

#: norm of dV along a parameter, relative to the largest, under which it does not move the covariance
STILL = 1e-12


def frame_at(problem: MarginalProblem, estimate: Estimate) -> Frame:
    """T, dT / dtheta and d2T / dtheta2 per structure at an estimate, in units of the problem."""
    scale = float(estimate.sigma) / problem.unit
    parts = list(zip(problem.structures, problem.split(estimate.theta), strict=True))
    bends = [s.second(own) for s, own in parts]
    return Frame(
        [scale * s.factor(own) for s, own in parts],
        [scale * s.jacobian(own) for s, own in parts],
        [None if own is None else scale * own for own in bends],
    )


@threads.limited()
def marginal_variance_parameters(
    problem: MarginalProblem, estimate: Estimate, expected: bool = False
) -> VarianceParameters:
    """Hessian of the deviance in (theta, log sigma), where log sigma is no parameter, and twice its inverse."""
    frame = frame_at(problem, estimate)
    point = MarginalEvaluator(problem, estimate.reml).evaluate(estimate.theta, frame)
    m = problem.n_theta
    H = np.zeros((m + 1, m + 1))
    dG = [directions(d, T) for d, T in zip(frame.dT, frame.T, strict=True)]
    H[:m, :m] = (
        point.payload.deviance.second(dG, expected=True).hessian if expected else point.hessian
    )
    size = np.concatenate(
        [
            np.sqrt(np.sum(own**2, axis=(1, 2)) * np.trace(gram) ** 2)
            for own, gram in zip(dG, problem.grams(), strict=True)
        ]
    )
    moves = size > STILL * max(1.0, float(size.max(initial=0.0)))
    return of_hessian(H, np.append(moves, False))


@threads.limited()
def marginal_satterthwaite(
    problem: MarginalProblem, estimate: Estimate, cov: np.ndarray
) -> Satterthwaite:
    """Satterthwaite's method; the covariance of theta is from the observed information."""
    known = marginal_variance_parameters(problem, estimate)
    frame = frame_at(problem, estimate)
    at = problem.at(estimate)
    dG = [directions(d, T) for d, T in zip(frame.dT, frame.T, strict=True)]
    jacobian = problem.on_users_scale(at.cov @ at.second(dG).P @ at.cov)
    whole = np.concatenate([jacobian, 2.0 * np.asarray(cov)[None]])
    return Satterthwaite(np.asarray(cov), whole, known.cov, known.message)


@threads.limited()
def marginal_kenward_roger(
    problem: MarginalProblem,
    estimator: Estimator,
    estimate: Estimate,
    full: bool = False,
    expected: bool = False,
) -> KenwardRoger:
    """Kenward and Roger's method; one by maximum likelihood is fitted again by REML first.

    ``full`` takes the second derivatives of V, ``expected`` the expected information.
    """
    message = None
    if not estimate.reml:
        control = replace(estimator.control, evaluate_only=False)
        estimate = maximise(problem, True, control)
        message = "Kenward-Roger is for REML: covariances and degrees of freedom are those of the model fitted again by REML."
    known = marginal_variance_parameters(problem, estimate, expected)
    W = known.cov[:-1, :-1]
    frame, at = frame_at(problem, estimate), problem.at(estimate)
    dG = [directions(d, T) for d, T in zip(frame.dT, frame.T, strict=True)]
    P = at.second(dG).P
    inner = at.products(dG, W, _bends(problem, frame, W) if full else None)
    inner = inner - np.einsum("ij,ipq,qr,jrs->ps", W, P, at.cov, P, optimize=True)
    unadjusted = problem.on_users_scale(at.cov)
    cov = unadjusted + 2.0 * problem.on_users_scale(at.cov @ ((inner + inner.T) / 2.0) @ at.cov)
    return KenwardRoger(
        cov, unadjusted, problem.on_users_scale(at.cov @ P @ at.cov), W, message or known.message
    )


def _bends(problem: MarginalProblem, frame: Frame, W: np.ndarray) -> list[np.ndarray]:
    """sum_hk W_hk d2G_hk (k, k) per structure."""
    out, at = [], 0
    for T, dT, second in zip(frame.T, frame.dT, frame.second, strict=True):
        own = W[at : at + len(dT), at : at + len(dT)]
        half = np.einsum("ij,iac,jbc->ab", own, dT, dT, optimize=True)
        if second is not None:
            half = half + np.tensordot(own, second, 2) @ T.T
        out.append(half + half.T)
        at += len(dT)
    return out
