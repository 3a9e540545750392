"""The log-likelihood of a model without its random effects: ordinary least squares, or a generalized linear model.

Linear: the profiled criterion at theta = 0, which is the ML deviance or REML criterion of ``y = X beta + e``. Generalized: -2 times
the log-likelihood of ``g(E y) = X beta`` maximised over beta and the family's own parameters rho (log dispersion, thresholds) by
Newton's method, with the observed Hessian where it is negative definite, else with the expected information of beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lmm.estimators.estimator import Estimator
from lmm.estimators.likelihood.probed_criterion import evaluator
from lmm.families import Family
from lmm.linalg import threads
from lmm.model.laplace.rows import Block
from lmm.model.laplace.start_values import starting_values
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate

MAX_STEPS = 200
#: decrease of -2 log-likelihood that a further step promises, under which the search ends
TOLERANCE = 1e-10


@threads.limited()
def objective_without_effects(
    problem: Problem | GeneralizedProblem, estimator: Estimator, estimate: Estimate
) -> float:
    """-2 log-likelihood, or the REML criterion where the estimate has it, of the same fixed effects without random ones."""
    if isinstance(problem, GeneralizedProblem):
        restricted = estimator.without_effects(problem)
        return _generalized(problem) if restricted is None else restricted
    evaluate = evaluator(problem, estimate.reml, estimator.sigma)
    return float(evaluate.objective(np.zeros(problem.n_theta)))


class FixedSums(NamedTuple):
    """The log density without random effects and its derivatives in (gamma, rho), summed over rows.

    ``kernel`` and ``constant`` add up to the log density; ``score`` (p,), ``first`` (r,) its gradient; ``gram`` (p, p), ``cross``
    (p, r) and ``second`` (r, r) its second derivatives; ``expected`` (p, p) the information of gamma.
    """

    kernel: float
    constant: float
    score: np.ndarray
    first: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    second: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True, eq=False)
class Ask:
    """Ask a block of rows for its :class:`FixedSums` at gamma (p,) and phi."""

    family: Family
    gamma: np.ndarray
    phi: float

    def __call__(self, block: Block) -> FixedSums:
        """The sums over a block."""
        family, Q = self.family, block.Q
        args = block.y, block.offset + Q @ self.gamma, block.weights, self.phi
        with np.errstate(
            all="ignore"
        ):  # an impossible value is refused, whatever its derivatives are
            d1, d2, _ = family.derivatives(*args)
            own = family.parameter_derivatives(*args, False)
            W = family.expected_weights(*args[1:]).weight
            return FixedSums(
                float(family.kernel(*args).sum()),
                float(family.constant(block.y, block.weights, self.phi).sum())
                if family.has_own_constant
                else 0.0,
                Q.T @ d1,
                own.first.sum(axis=1),
                Q.T @ (Q * d2[:, None]),
                Q.T @ own.eta.T,
                own.second,
                Q.T @ (Q * W[:, None]),
            )


def _generalized(problem: GeneralizedProblem) -> float:
    family, p = problem.family, problem.p
    constant = 0.0 if family.has_own_constant else problem.rows.constant(family)

    def at(psi: np.ndarray) -> tuple[float, FixedSums]:
        sums: FixedSums = problem.source.total([Ask(family, psi[:p], family.from_rho(psi[p:]))])[0]
        value = sums.kernel + sums.constant + constant
        return value if np.isfinite(value) else -np.inf, sums

    psi = starting_values(problem)[problem.n_theta :]
    value, sums = at(psi)
    for _ in range(MAX_STEPS if psi.size else 0):
        gradient, H = _newton(sums)
        step = np.linalg.lstsq(H, gradient, rcond=None)[0]
        if not np.isfinite(step).all() or gradient @ step <= TOLERANCE:
            break
        largest = np.abs(step[p:]).max(initial=0.0)
        step = step * min(1.0, 2.0 / largest) if largest > 0 else step
        for _ in range(40):
            new, found = at(psi + step)
            if new >= value:
                break
            step = step / 2.0
        else:
            break
        psi, value, sums = psi + step, new, found
    return -2.0 * value


def _newton(sums: FixedSums) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and minus the Hessian of the log-likelihood in (gamma, rho), the latter made positive definite."""
    H = -np.block([[sums.gram, sums.cross], [sums.cross.T, sums.second]])
    if np.linalg.eigvalsh(H).min(initial=np.inf) <= 0.0:
        values, vectors = np.linalg.eigh(-sums.second)
        steep = (vectors * np.maximum(np.abs(values), 1e-6)) @ vectors.T
        H = np.block([[sums.expected, 0.0 * sums.cross], [0.0 * sums.cross.T, steep]])
    return np.concatenate([sums.score, sums.first]), H
