"""Restricted maximum likelihood of generalized models: Laplace's approximation of the integral over random and fixed effects alike.

With a flat prior the fixed effects beta join the random ones u in the mode, and with X'V^-1 X the information of the working linear
model there, observed weights W in V = W^-1 + Z G Z',

    J_R(theta, rho) = J(theta, beta, rho) + log|X'V^-1 X| - p log 2 pi,

a function of the covariances and of the family's own parameters alone: glmmTMB's ``REML = TRUE``, and REML itself where the response is
Gaussian. Variance components are less biased than by maximum likelihood where fixed effects are many. The covariance of beta has
two parts, (X'V^-1 X)^-1 given the other parameters and what their uncertainty moves beta by.

Reference: Stroup & Claassen (2020), J. Agric. Biol. Environ. Stat. 25; Kristensen et al. (2016), J. Stat. Softw. 70(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import minimize

from lmm.design.rank import triangle_inverse
from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.estimators.estimator import Estimator
from lmm.estimators.laplace import separation
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.model.laplace.laplace import Way, by_leverages
from lmm.model.laplace.start_values import starting_values
from lmm.model.problem import GeneralizedProblem
from lmm.search.trust_region import Point


class RestrictedObjective(Objective):
    """J_R of one problem, a function of psi = (theta, rho)."""

    profiling = 2.0

    def __init__(self, problem: GeneralizedProblem, control: Control):
        super().__init__(problem, control.curvature, points=0)
        if not self.family.shares_weights(self.observed):
            raise ArgumentError(
                "REML of a generalized model integrates over the fixed effects with the observed information; leave out curvature=."
            )

    @property
    def way(self) -> Way:
        """By leverages, those of the fixed effects among them."""
        R = np.diagonal(self.rows.R)
        beside = 2.0 * np.log(np.abs(R)).sum() - len(R) * np.log(2.0 * np.pi)
        return partial(by_leverages, restricted=float(beside))

    def over_fixed(self, point: Point) -> float:
        """log|X'V^-1 X| - p log 2 pi."""
        return float(point.payload.laplace.determinant.logdet[0])

    def covariance(self, psi: np.ndarray, endless: np.ndarray | None = None) -> np.ndarray:
        """Covariance of (theta, beta, rho), on the user's scale; zero rows for parameters on the boundary."""
        B, m, p = self.scaling(), self.m, self.rows.p

        def told(point: Point) -> np.ndarray:
            return np.concatenate([point.gradient, point.payload.gamma])

        here = self(psi)  # from whose modes those nearby are looked for
        found = self.differences(psi, B, told)
        H = B.T @ found[: len(psi)]
        free = self.let_go(psi)
        own = np.zeros_like(H)
        own[np.ix_(free, free)] = separation.inverse((H + H.T)[np.ix_(free, free)] / 4.0, None)
        inverse = triangle_inverse(self.problem.R)
        moves = np.zeros((len(psi) + p, len(psi)))
        moves[:m], moves[m + p :] = B[:m], B[m:]
        moves[m : m + p] = inverse @ found[len(psi) :]
        out = moves @ own @ moves.T
        information = here.payload.laplace.information
        out[m : m + p, m : m + p] += inverse @ np.linalg.inv(information) @ inverse.T
        return np.asarray(out)


@dataclass(frozen=True)
class RestrictedLaplace(LaplaceLikelihood):
    """REML over theta and the dispersion by Laplace's method: ``glmer(..., REML=True)``."""

    reml = True
    takes_iterative = False

    @property
    def name(self) -> str:
        """laplace_reml."""
        return "laplace_reml"

    def objective_of(self, problem: GeneralizedProblem) -> Objective:
        """J_R."""
        problem.family.require_restricted()
        return RestrictedObjective(problem, self.control)

    def without_effects(self, problem: GeneralizedProblem) -> float:
        """J_R of the same fixed effects without random ones, its minimum over rho."""
        objective, m = self.objective_of(problem), problem.n_theta
        rho = objective.enter(starting_values(problem))[m:]

        def at(rho: np.ndarray) -> tuple[float, np.ndarray]:
            point = objective.in_theta(np.concatenate([np.zeros(m), rho]))
            return point.objective, point.gradient[m:]

        return float(minimize(at, rho, jac=True).fun) if len(rho) else at(rho)[0]

    def by_likelihood(self) -> Estimator:
        """By maximum likelihood."""
        return LaplaceLikelihood(self.control)
