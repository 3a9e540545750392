"""The log-likelihood of a model without its random effects: ordinary least squares, or a generalized linear model.

Linear: the profiled criterion at theta = 0, which is the ML deviance or REML criterion of ``y = X beta + e``. Generalized: -2 times
the log-likelihood of ``g(E y) = X beta`` maximised over beta and the family's own parameters rho (log dispersion, thresholds) by
Newton's method, with the observed Hessian where it is negative definite, else with the expected information of beta.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lmm.estimators.stochastic import evaluator
from lmm.linalg import threads
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.model.working import starting_values

MAX_STEPS = 200
#: decrease of -2 log-likelihood that a further step promises, under which the search ends
TOLERANCE = 1e-10


@threads.limited()
def objective_without_effects(problem: Problem | GeneralizedProblem, estimator: Any, estimate: Estimate) -> float:
    """-2 log-likelihood, or the REML criterion where the estimate has it, of the same fixed effects without random ones."""
    if isinstance(problem, GeneralizedProblem):
        return _generalized(problem)
    evaluate = evaluator(problem, estimate.reml, getattr(estimator, "sigma", None))
    return float(evaluate.objective(np.zeros(problem.n_theta)))


def _generalized(problem: GeneralizedProblem) -> float:
    p = problem.p
    psi = starting_values(problem)[problem.n_theta :]
    value = _log_likelihood(problem, psi)
    for _ in range(MAX_STEPS if psi.size else 0):
        gradient, H = _newton(problem, psi)
        step = np.linalg.lstsq(H, gradient, rcond=None)[0]
        if not np.isfinite(step).all() or gradient @ step <= TOLERANCE:
            break
        largest = np.abs(step[p:]).max(initial=0.0)
        step = step * min(1.0, 2.0 / largest) if largest > 0 else step
        for _ in range(40):
            new = _log_likelihood(problem, psi + step)
            if new >= value:
                break
            step = step / 2.0
        else:
            break
        psi, value = psi + step, new
    return -2.0 * value


def _log_likelihood(problem: GeneralizedProblem, psi: np.ndarray) -> float:
    """All constants included; minus infinity for impossible values."""
    family, rows, p = problem.family, problem.rows, problem.p
    phi, eta = family.from_rho(psi[p:]), rows.offset + rows.Q @ psi[:p]
    with np.errstate(all="ignore"):
        value = float(family.log_density(rows.y, eta, rows.weights, phi).sum())
    return value if np.isfinite(value) else -np.inf


def _newton(problem: GeneralizedProblem, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and minus the Hessian of the log-likelihood in (gamma, rho), the latter made positive definite."""
    family, rows, p = problem.family, problem.rows, problem.p
    phi, eta = family.from_rho(psi[p:]), rows.offset + rows.Q @ psi[:p]
    d1, d2, _ = family.derivatives(rows.y, eta, rows.weights, phi)
    own = family.parameter_derivatives(rows.y, eta, rows.weights, phi, False)
    gradient = np.concatenate([rows.Q.T @ d1, own.first.sum(axis=1)])
    cross = -rows.Q.T @ own.eta.T
    H = np.block([[-rows.Q.T @ (rows.Q * d2[:, None]), cross], [cross.T, -own.second]])
    if np.linalg.eigvalsh(H).min(initial=np.inf) <= 0.0:
        W = family.expected_weights(eta, rows.weights, phi).weight
        values, vectors = np.linalg.eigh(-own.second)
        steep = (vectors * np.maximum(np.abs(values), 1e-6)) @ vectors.T
        H = np.block([[rows.Q.T @ (rows.Q * W[:, None]), 0.0 * cross], [0.0 * cross.T, steep]])
    return gradient, H
