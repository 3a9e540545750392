"""Leverages: how much each fitted value hangs on its own response, given the variance parameters.

Given theta, fixed and random effects are linear in y (Henderson's equations), and so are the fitted values:

    y_hat = H y + const,   H = [X Z] C^-1 [X Z]' W,   C = [X Z]'W[X Z] + diag(0, G^-1).

sigma^2 x' C^-1 x, x a row of [X Z], is the variance of its prediction error, so h_ii = w_i v_i / sigma^2. The sum of the leverages is
the effective number of parameters, between p and p + q. Of a generalized model H is that of the working linear model at the modes.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from lmm.design.design import Design
from lmm.design.rank import independent_columns
from lmm.model.conditional import fixed_variance, prediction_variance
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate

#: 1 - h up to which a leverage counts as one
ONE = 1e-10


def leverages(
    design: Design, problem: Problem | GeneralizedProblem, estimate: Estimate
) -> np.ndarray:
    """h_ii (n,), exactly one for a row without which the fixed columns would be dependent."""
    variance = prediction_variance(problem, estimate, design.X, design.terms)
    return np.where(alone(design.X), 1.0, variance * _weights(design, estimate))


def alone(X: np.ndarray) -> np.ndarray:
    """(n,) bool, rows without which the independent columns X (n, p) would be dependent: their share in the projection onto X is one."""
    R = independent_columns(X)[1]
    return (
        np.asarray(np.sum(solve_triangular(R, X.T, trans="T") ** 2, axis=0) > 1.0 - ONE)
        if len(R)
        else np.zeros(len(X), dtype=bool)
    )


def fixed_leverages(
    design: Design, problem: Problem | GeneralizedProblem, estimate: Estimate
) -> np.ndarray:
    """The part of h_ii that is due to the fixed effects, w_i c_i'(X'V^-1X)^-1 c_i with c_i = X'V^-1 e_i / w_i, (n,)."""
    variance = fixed_variance(problem, estimate, design.X, design.terms)
    return np.asarray(variance * _weights(design, estimate))


def _weights(design: Design, estimate: Estimate) -> np.ndarray:
    """Weights of the (working) linear model over sigma^2, (n,)."""
    W = estimate.distribution.working_weights(
        design.y, np.asarray(estimate.eta), design.weights, estimate.density_phi
    )
    return np.asarray(W / float(estimate.sigma) ** 2 if estimate.quasi else W)


def cooks_distances(
    pearson: np.ndarray, leverage: np.ndarray, part: np.ndarray, sigma: float, p: int
) -> np.ndarray:
    """(n,) (r / (1 - h))^2 k / (sigma^2 p) of Pearson residuals r; NaN for a leverage of one.

    With k = h as in least squares. With k the fixed effects' part of h it is the exact distance between the fixed effects with and
    without the row at the same variance parameters: r / (1 - h) is the row's prediction error without it, by the mean-shift model.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        out = (pearson / _left(leverage)) ** 2 * part / (sigma**2 * p)
    return np.asarray(np.where(np.isfinite(out), out, np.nan))


def _left(leverage: np.ndarray) -> np.ndarray:
    """1 - h, NaN where nothing but rounding is left."""
    return np.where(leverage < 1.0 - ONE, 1.0 - leverage, np.nan)


def studentised(deviance: np.ndarray, pearson: np.ndarray, leverage: np.ndarray) -> np.ndarray:
    """(n,) sign(d) sqrt(d^2 + h r^2 / (1 - h)) of deviance residuals d and Pearson residuals r over sigma; NaN for a leverage of one.

    Williams (1987), J. R. Stat. Soc. C 36.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.sign(deviance) * np.sqrt(deviance**2 + leverage * pearson**2 / _left(leverage))
    return np.asarray(np.where(np.isfinite(out), out, np.nan))
