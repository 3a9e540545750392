"""-2 log-likelihood of a generalized model with iterative terms: gradients by random probes, and their Monte Carlo error.

The probes are the same at every point, so that objective (log|H| by Lanczos quadrature) and gradient are smooth functions,
but the one is the other's derivative only on average: differences of the objective below ``UNSURE`` are not trusted, and
the search ends where the mean gradient is zero. The probes' own gradients then tell how far that is from the maximum, by the
model Hessian, and more are taken until this is ``Control.accuracy`` standard errors for every parameter. Levels that occur often make
what a probe says heavy-tailed, so that the spread over a few of them is no guide: a search ends with ``FIRM`` at the least.

Standard errors take the derivative of the mean gradient by central differences over a fifth of a standard error to either
side, with the same probes at both ends, so that what is random in it is as smooth as the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from lmm.estimators.control import Control
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.likelihood.probed_criterion import (
    APART,
    FIRM,
    ProbedCriterion,
    in_standard_errors,
    note,
    spread_of_zero,
    to_theta,
)
from lmm.estimators.likelihood.probed_criterion import search as search_on
from lmm.estimators.likelihood.profiled import slope
from lmm.model.laplace.laplace import Way
from lmm.model.probes import score_by_probes
from lmm.model.probes.laplace_by_probes import Probing, by_probes
from lmm.model.problem import GeneralizedProblem
from lmm.model.records import Estimate, MonteCarlo
from lmm.search.trust_region import Outcome, Point

#: relative residual of the probes' systems
TOLERANCE = 1e-4
#: difference of the objective that means nothing, and promised decrease at which a search ends: 0.001 standard errors
UNSURE, ENOUGH = 1e-2, 1e-6
#: half the way over which gradients are differenced, in standard errors
STEP = 0.2


class ProbedObjective(Objective, ProbedCriterion):
    """:class:`~lmm.estimators.laplace.laplace_criterion.Objective` of a problem with iterative terms; nAGQ 0 and 1."""

    comparable = False
    least, noise = ENOUGH, UNSURE

    def __init__(self, problem: GeneralizedProblem, control: Control, points: int = 1):
        super().__init__(problem, control.curvature, points)
        self.control = control
        self.q = sum(
            problem.plan.terms[t].k * problem.plan.terms[t].J for t in problem.plan.iterative
        )
        self.rng = np.random.default_rng(control.seed)
        self.probes = score_by_probes.signs(self.rng, min(control.probes, self.most), self.q)

    @property
    def firm(self) -> int:
        """The same whatever the size."""
        return FIRM

    def more_probes(self, count: int) -> None:
        """Add probes up to ``count``; objectives before and after cannot be compared."""
        self.probes = np.concatenate(
            [self.probes, score_by_probes.signs(self.rng, count - len(self.probes), self.q)]
        )
        self.lowest = np.inf

    @property
    def way(self) -> Way:
        """By probes."""
        return partial(by_probes, probing=Probing(self.probes, TOLERANCE, APART))

    def _each(self, point: Point) -> np.ndarray:
        """The gradient that each probe sees, (m, parameters)."""
        D, gamma, rho = point.payload.laplace.each()
        gradients = []
        for i in range(len(rho)):
            of_theta = slope([own[i] for own in D], point.payload.frame)
            rest = rho[i] if self.free else self._turned(np.concatenate([gamma[i], rho[i]]))
            gradients.append(np.concatenate([of_theta, rest]))
        return np.stack(gradients)

    def errors(self, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """Monte Carlo covariance of the zero of the gradient in the point's coordinates, and that error in standard errors."""
        cov, inverse = self._spread(point)
        return cov, in_standard_errors(cov, inverse)

    def _spread(self, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """The same covariance, and half that of the parameters by the model Hessian."""
        each = self._each(point)
        return spread_of_zero(np.atleast_2d(np.cov(each.T)) / len(each), point.hessian)

    def search(self, run: Callable[[np.ndarray], Outcome], start: np.ndarray) -> Outcome:
        """``run`` from ``start`` with few probes, then from where it ended with enough."""
        first = run(start)
        accuracy = self.control.accuracy
        if not first.converged or len(self.probes) >= FIRM:
            return search_on(self, lambda at: first if at is start else run(at), start, accuracy)
        self.more_probes(min(FIRM, self.most))
        return first.then(search_on(self, run, first.point.theta, accuracy))

    def reported(self, estimate: Estimate, point: Point) -> Estimate:
        """The estimate with its Monte Carlo errors."""
        found = self.monte_carlo(point)
        return replace(
            estimate,
            monte_carlo=found,
            messages=(*estimate.messages, *note(found, self.control.accuracy)),
        )

    def monte_carlo(self, point: Point) -> MonteCarlo:
        """The errors of a fit that ended at this point; ``relative`` of all parameters, zero for those at a boundary."""
        J = np.eye(len(point.theta))
        terms = list(zip(self.structures, self.problem.split(point.theta[: self.m]), strict=True))
        J[: self.m, : self.m] = to_theta(terms, point.payload.frame)
        cov, inverse = (J @ each @ J.T for each in self._spread(point))
        free = np.append(point.theta[: self.m] != 0.0, np.ones(len(J) - self.m, dtype=bool))
        at = point.payload.laplace
        logdets = at.determinant.logdet
        return MonteCarlo(
            probes=len(self.probes),
            seed=self.control.seed,
            theta=np.where(free, np.sqrt(np.maximum(np.diagonal(cov), 0.0)), 0.0)[: self.m],
            relative=np.where(free, in_standard_errors(cov, inverse), 0.0),
            log_likelihood=float(logdets.std(ddof=1) / np.sqrt(len(logdets))) / 2.0,
            steps=(at.mode.steps, at.determinant.steps),
        )

    def hessian(self, psi: np.ndarray, B: np.ndarray | None = None) -> np.ndarray:
        """Second derivatives of J with respect to s, psi = ``B`` s (to psi without): differences of the probes' mean gradient."""
        B = np.eye(len(psi)) if B is None else B
        here = self.in_theta(psi)
        spread = np.sqrt(2.0 / np.maximum(np.diagonal(B.T @ here.hessian @ B), 1e-300))
        columns = []
        for direction, width, at in zip(B.T, spread, np.linalg.solve(B, psi), strict=True):
            length = STEP * min(width, max(1.0, abs(at)))
            ends = [self.in_theta(psi + sign * length * direction).gradient for sign in (1.0, -1.0)]
            columns.append((ends[0] - ends[1]) / (2.0 * length))
        H = B.T @ np.column_stack(columns)
        return np.asarray((H + H.T) / 2)


def objective_for(
    problem: GeneralizedProblem, control: Control, points: int, second_order: bool
) -> Objective:
    """J of one problem, whichever way it is factorised."""
    if problem.plan.exact:
        return Objective(problem, control.curvature, points, second_order)
    return ProbedObjective(problem, control, points)
