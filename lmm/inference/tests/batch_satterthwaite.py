"""Satterthwaite's degrees of freedom of many responses at once.

With C(theta) = (X'V^-1X)^-1, v = sigma^2 C_aa and f(theta, log sigma) as in :mod:`lmm.inference.tests.variance_parameters`,

    df = 2 v^2 / (g'A g),   g = (sigma^2 dC_aa / dtheta, 2 v),   A = 2 H^-1,

    H = | F + h h' / 4N    h |      F the exact Hessian of the profiled criterion,
        |       h'        4N |      h = -2 r2'(theta) / sigma^2,

dC / dtheta and r2' by central differences of evaluations without derivatives. Where a variance is all but zero, or H is not
positive definite, single fits have their own rules and are asked instead.
"""

from __future__ import annotations

import numpy as np

from lmm.design.design import Design
from lmm.design.rank import triangle_inverse
from lmm.estimators.likelihood import many_linear
from lmm.estimators.likelihood.many_linear import Batch, LinearChart
from lmm.inference.tests.variance_parameters import POSITIVE
from lmm.linalg import threads
from lmm.model.gaussian import batch_sums
from lmm.model.gaussian.batched import Levels, Stacked
from lmm.model.problem import Problem

#: step of the differences, in units of theta
STEP = 1e-4


class InTheta(LinearChart):
    """The criterion of many problems in theta itself, for structures in which T is linear."""

    def __init__(self, problem: Problem, reml: bool):
        super().__init__(problem, reml, many_linear.start(problem, np.ones(problem.n_theta)))
        zeros = [np.zeros(s.n_theta) for s in problem.structures]
        self.T0 = [s.factor(own) for s, own in zip(problem.structures, zeros, strict=True)]
        self.dT = [s.jacobian(own) for s, own in zip(problem.structures, zeros, strict=True)]


@threads.limited()
def degrees_of_freedom(
    problem: Problem, design: Design, reml: bool, Y: np.ndarray, fits: Batch, which: np.ndarray
) -> np.ndarray:
    """Degrees of freedom (R, p) of the coefficients of some of the responses Y (n, R); NaN for the others, and where it takes a single fit.

    Parameters
    ----------
    problem, design : what the responses share.
    fits : their estimates.
    which : responses that are complete, or have one grouping factor.
    """
    out = np.full(fits.beta.shape, np.nan)
    evaluate, rows = InTheta(problem, reml), batch_sums.Rows(problem, design)
    inside = which[~many_linear.near_boundary(evaluate, fits.theta[which].T)]
    missing = np.isnan(Y[:, inside]).any(axis=0)
    for part, lacking in ((inside[~missing], False), (inside[missing], True)):
        size = max(16, many_linear.block_size(problem))
        for first in range(0, len(part), size):
            own = part[first : first + size]
            data: Levels | Stacked
            if lacking:
                data, _ = batch_sums.observed(rows, Y[:, own], reml)
            else:
                data, _ = batch_sums.responses(rows, Y[:, own], reml)
            out[own] = _of_block(evaluate, triangle_inverse(problem.R), data, fits.theta[own].T)
    return out


def _of_block(
    evaluate: InTheta, inverse: np.ndarray, data: Levels | Stacked, theta: np.ndarray
) -> np.ndarray:
    """Degrees of freedom (R, p) at theta (m, R); ``inverse`` (p, p) makes the fixed columns orthonormal."""
    m, R = theta.shape
    here = evaluate(data, theta, 2)
    N = data.degrees
    sigma2 = here.r2 / N

    def variances(cov: np.ndarray) -> np.ndarray:
        return np.einsum("ab,bcr,ac->ar", inverse, cov, inverse, optimize=True)

    v = variances(here.cov) * sigma2
    g = np.empty((m + 1, *v.shape))
    g[m] = 2.0 * v
    h = np.empty((m, R))
    for i in range(m):
        step = np.zeros((m, 1))
        step[i] = STEP
        up, down = evaluate(data, theta + step, 0), evaluate(data, theta - step, 0)
        g[i] = variances(up.cov - down.cov) / (2.0 * STEP) * sigma2
        h[i] = -(up.r2 - down.r2) / STEP / sigma2
    H = np.empty((R, m + 1, m + 1))
    H[:, :m, :m] = np.moveaxis(here.hessian + h[:, None] * h[None] / (4.0 * N), -1, 0)
    H[:, :m, m] = H[:, m, :m] = h.T
    H[:, m, m] = 4.0 * N
    scale = np.sqrt(np.abs(np.diagonal(H, axis1=1, axis2=2)))
    finite = np.isfinite(H).all(axis=(1, 2)) & (scale > 0).all(axis=1)
    out = np.full((R, len(v)), np.nan)
    unit = np.where(finite[:, None, None], H / (scale[:, :, None] * scale[:, None]), np.eye(m + 1))
    sound = finite & (np.linalg.eigvalsh(unit)[:, 0] > 10.0 * POSITIVE)
    solved = np.linalg.solve(H[sound], 2.0 * g[:, :, sound].transpose(2, 0, 1))
    spread = np.einsum("iar,ria->ra", g[:, :, sound], solved)
    out[sound] = 2.0 * v.T[sound] ** 2 / spread
    return out
