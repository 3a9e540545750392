"""ML and REML of a linear model with structured residuals, by Newton steps with exact second derivatives.

The parameters of random effects and residuals go into one vector theta; no variance is profiled out. At the end the unit of
theta is chosen so that sigma^2 is the mean variance of the residuals: what is reported of random effects relative to sigma
means the same as in a model with independent residuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from lmm.covariance.structure import LocalCovariance
from lmm.estimators.control import Control
from lmm.estimators.estimator import Callback
from lmm.estimators.likelihood.profiled import block_diagonal, nowhere
from lmm.model.gaussian.determined import UNDETERMINED
from lmm.model.marginal.dense_deviance import Curvature, MarginalDeviance
from lmm.model.marginal.marginal_problem import MarginalProblem
from lmm.model.records import Estimate
from lmm.search.boundary import escapes, snap
from lmm.search.trust_region import Outcome, Point, minimize

#: eigenvalue of the information, its diagonal scaled to one, of a direction in which V does not change
FLAT = 1e-9


@dataclass(frozen=True, eq=False)
class MarginalPayload:
    """What an evaluation leaves: the deviance with what it solved, dd / dG per structure, second derivatives along dG."""

    deviance: MarginalDeviance
    D: list[np.ndarray]
    curvature: Curvature


@dataclass(frozen=True, eq=False)
class MarginalEvaluator:
    """The deviance of one problem as a function of theta, in units of the problem."""

    problem: MarginalProblem
    reml: bool

    def __call__(self, theta: np.ndarray) -> Point:
        """Deviance, gradient and Hessian in the coordinates of the structures' charts."""
        parts = zip(
            self.problem.structures, self.problem.split(theta), self.problem.grams(), strict=True
        )
        return self.evaluate(theta, [s.local(own, gram) for s, own, gram in parts])

    def move(self, theta: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The theta reached by a step in the charts' coordinates."""
        parts = zip(
            self.problem.structures,
            self.problem.split(theta),
            self.problem.grams(),
            self.problem.split(step),
            strict=True,
        )
        return np.concatenate([s.move(own, gram, d) for s, own, gram, d in parts])

    def evaluate(self, theta: np.ndarray, local: list[LocalCovariance]) -> Point:
        """The same in given coordinates."""
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused
                at = self.problem.deviance([own.G for own in local], self.reml)
                D = at.slopes()
                curvature = at.second([own.dG for own in local])
                bends = [own.bend(d) for own, d in zip(local, D, strict=True)]
        except np.linalg.LinAlgError:
            return nowhere(theta)
        hessian = curvature.hessian + block_diagonal(bends)
        if not (np.isfinite(at.value) and np.isfinite(hessian).all()):
            return nowhere(theta)
        gradient = [own.slopes(d) for own, d in zip(local, D, strict=True)]
        return Point(
            np.asarray(theta, dtype=float),
            at.value + self.problem.deviance_constant(self.reml),
            np.concatenate(gradient),
            hessian,
            MarginalPayload(at, D, curvature),
        )


def maximise(
    problem: MarginalProblem,
    reml: bool,
    control: Control,
    start: np.ndarray | None = None,
    callback: Callback | None = None,
) -> Estimate:
    """The estimate of ML or REML; ``start`` is theta in units of sigma, moments otherwise."""
    begin = perf_counter()
    evaluate = MarginalEvaluator(problem, reml)
    theta = problem.start() if start is None else _in_units(problem, reml, start)
    if control.evaluate_only:
        point = evaluate(theta)
        outcome = Outcome(
            point, True, "evaluated at the given theta, not optimised", 0, 1, float("nan"), ()
        )
    else:
        outcome = minimize(
            evaluate,
            evaluate.move,
            theta,
            tolerance=control.tolerance,
            max_evaluations=control.max_evaluations,
            radius=control.radius,
            escape=partial(_escapes, problem),
            callback=callback,
        )
        outcome = snap(problem, evaluate, outcome, control.tolerance)
    return _finish(problem, evaluate, outcome, {"optimise": perf_counter() - begin})


def _common_scale(at: MarginalDeviance) -> float:
    """The variance s^2 by which the likelihood of s^2 V is largest."""
    return at.rss / at.degrees


def criterion(problem: MarginalProblem, reml: bool, theta: np.ndarray) -> float:
    """The deviance at theta (m,) relative to sigma, sigma profiled out."""
    at = problem.deviance(problem.covariances(theta), reml)
    s2 = _common_scale(at)
    return at.value - at.rss + at.degrees * (1.0 + np.log(s2)) + problem.deviance_constant(reml)


def _in_units(problem: MarginalProblem, reml: bool, theta: np.ndarray) -> np.ndarray:
    """theta relative to sigma in units of the problem, sigma profiled out."""
    scale = float(np.sqrt(_common_scale(problem.deviance(problem.covariances(theta), reml))))
    return _scaled(problem, theta, scale)


def _scaled(problem: MarginalProblem, theta: np.ndarray, scale: float) -> np.ndarray:
    """theta of all covariances times scale^2."""
    parts = zip(problem.structures, problem.split(theta), strict=True)
    return np.concatenate([s.scaled(own, scale) for s, own in parts])


def _escapes(problem: MarginalProblem, point: Point) -> Any:
    return escapes(problem, point.theta, point.payload.D)


def _finish(
    problem: MarginalProblem,
    evaluate: MarginalEvaluator,
    outcome: Outcome,
    seconds: dict[str, float],
) -> Estimate:
    """The numbers on the user's scale."""
    point = outcome.point
    at: MarginalDeviance = point.payload.deviance
    G = problem.covariances(point.theta)
    count = problem.n_terms
    variance = sum(
        float(np.sum(own * gram))
        for own, gram in zip(G[count:], problem.gram_of[count:], strict=True)
    )
    rms = float(np.sqrt(variance))
    theta = _scaled(problem, point.theta, 1.0 / rms)
    sigma = rms * problem.unit
    beta, cov = problem.coefficients(at)
    modes = problem.modes(at, G)
    factors = problem.factors(theta)
    found = [] if outcome.converged else _singular(problem, point)
    messages = tuple(found or _flat(problem, point))
    return Estimate(
        method="reml" if evaluate.reml else "ml",
        reml=evaluate.reml,
        beta=beta,
        beta_cov_unscaled=cov / sigma**2,
        theta=theta,
        factors=tuple(factors[:count]),
        sigma=sigma,
        modes=tuple(problem.unit * own for own in modes),
        objective=point.objective,
        n_parameters=problem.p + problem.n_theta,
        convergence=outcome.convergence({**problem.seconds, **seconds}),
        trace=outcome.trace,
        messages=messages,
        residual=tuple(factors[count:]),
    )


def _singular(problem: MarginalProblem, point: Point) -> list[str]:
    """A sentence where a search without an end led towards a singular covariance of the residuals."""
    factors = problem.factors(point.theta)[problem.n_terms :]
    said = [part.singular(T) for part, T in zip(problem.residual, factors, strict=True)]
    return [text for text in said if text is not None][:1]


def _flat(problem: MarginalProblem, point: Point) -> list[str]:
    """A sentence where some parameters of random effects and residuals can be changed together and the likelihood stays the same."""
    H = point.payload.curvature.hessian
    size = np.sqrt(np.maximum(np.diagonal(H), 0.0))
    free = np.flatnonzero(size > 0.0)
    if len(free) < 2:
        return []
    values, vectors = np.linalg.eigh(H[np.ix_(free, free)] / np.outer(size[free], size[free]))
    if abs(values).min() > FLAT:
        return []
    owner = np.repeat(np.arange(len(problem.structures)), [s.n_theta for s in problem.structures])
    which = dict.fromkeys(owner[free[np.abs(vectors[:, np.argmin(abs(values))]) > 0.1]].tolist())
    names = " and ".join(problem.labels[t][0] for t in which)
    return [
        f"{UNDETERMINED}{names}: other values of their parameters give the same likelihood. Those reported are one choice of many, and so "
        "are standard errors that depend on them. Use a structure with fewer parameters, or leave out a random term that the residual "
        "structure holds already."
    ]
