"""Maximum likelihood and REML: the profiled criterion minimised over theta.

A trust region on the average information, from starting values by moments; near the optimum of a small
problem the exact Hessian takes its place. A zero variance is reported as a minimum only when it is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np

from lmm.design.rank import triangle_inverse
from lmm.errors import ArgumentError
from lmm.estimators.assembly import as_columns, assemble_estimate
from lmm.estimators.checkpoint import Checkpoint, data_numbers
from lmm.estimators.control import Control
from lmm.estimators.estimator import DDF, LINEAR, Callback, Estimator
from lmm.estimators.likelihood.marginal_likelihood import criterion, maximise
from lmm.estimators.likelihood.probed_criterion import evaluator
from lmm.estimators.likelihood.profiled import Evaluator, curvature, nothing_left
from lmm.estimators.restart import second_look
from lmm.estimators.settings import CONTROL, FLAG, check_settings, one_of, or_none
from lmm.linalg import threads
from lmm.model.centred import distant, inner_theta, outer_theta, outward
from lmm.model.gaussian import deviance, hessian
from lmm.model.gaussian.determined import UNDETERMINED, determined, gathered, restricted, spread
from lmm.model.gaussian.moments import starting_values
from lmm.model.problem_kinds import LinearProblem, MarginalProblem, Problem
from lmm.model.records import Estimate
from lmm.search.boundary import escapes, snap
from lmm.search.trust_region import Outcome, Point, minimize
from lmm.types import TraceLine

#: eigenvalue of the information about theta, scaled to correlations, under which a direction is flat, and what does not move G
FLAT, MOVED = 1e-9, 1e-12
#: share in the flat direction from which a parameter is named
NAMED = 0.1


@dataclass(frozen=True)
class MaximumLikelihood(Estimator):
    """ML (``reml=False``) or REML by a trust region on the average information.

    Parameters
    ----------
    reml : restricted maximum likelihood or maximum likelihood.
    control : tolerances and limits.
    sigma : residual standard deviation where it is known; None estimates it. It is no parameter then.
    ddf : degrees of freedom that tables have where none are asked for, "satterthwaite", "kenward_roger", ...; None for tests without.

    Raises
    ------
    ArgumentError : for a ``sigma`` that is not a positive number.

    Example
    -------
    >>> import lmm
    >>> known = lmm.MaximumLikelihood(sigma=25.0)
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"), method=known)
    >>> fit.sigma, fit.df_model
    (25.0, 5)
    """

    reml: bool = True
    control: Control = Control()
    sigma: float | None = None
    ddf: str | None = None
    models = (LINEAR,)
    maximises = takes_iterative = takes_checkpoint = takes_residual = takes_related = True
    elsewhere = " Maximum likelihood of a generalized model is 'laplace' or 'agq'."

    def __post_init__(self) -> None:
        check_settings(self, reml=FLAG, control=CONTROL, ddf=or_none(one_of(*DDF)))
        if self.sigma is not None:
            check_sigma(self.sigma)

    @property
    def name(self) -> str:
        """ "reml" or "ml"."""
        return "reml" if self.reml else "ml"

    def fit(
        self,
        problem: LinearProblem,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Estimate:
        """Minimise the criterion.

        Parameters
        ----------
        problem : the sums of a design.
        start : theta (m,) to begin from; moments of the data otherwise.
        callback : called with each line of the trace.
        """
        if isinstance(problem, MarginalProblem):
            return maximise(problem, self.reml, self.control, start, callback)
        begin = perf_counter()
        evaluate = evaluator(problem, self.reml, self.sigma, self.control)
        if self.control.evaluate_only and problem.centred is not None and start is not None:
            return _of_centred(self, problem, start, callback)
        if not self.control.evaluate_only:
            without = of_determined(self, problem, evaluate, start, callback)
            if without is not None:
                return without
        moments = starting_values(problem.cross, problem.structures, self.sigma)
        theta = moments if start is None else np.asarray(start, dtype=float)
        saved = Checkpoint(
            self.control.checkpoint,
            problem,
            (
                self.name,
                *(() if self.sigma is None else (f"sigma={self.sigma}",)),
                problem.plan.factorization,
            ),
            data_numbers(problem, moments),
            comparable=evaluate.comparable,
        )
        theta, callback = saved.begin(theta, callback)
        if self.control.evaluate_only:
            outcome = Outcome.without_search(
                evaluate(theta), "evaluated at the given theta, not optimised"
            )
        else:
            run = partial(self._search, problem, evaluate, callback)
            outcome = evaluate.search(run, theta)
            if evaluate.comparable:
                outcome = second_look(problem, evaluate, outcome, run, self.control.tolerance)
        return saved.finish(
            finish(problem, evaluate, outcome, self.name, {"optimise": perf_counter() - begin})
        )

    def _search(
        self,
        problem: Problem,
        evaluate: Evaluator,
        callback: Callback | None,
        theta: np.ndarray,
        known: float = np.inf,
    ) -> Outcome:
        tolerance = max(self.control.tolerance, evaluate.least)
        outcome = minimize(
            evaluate,
            evaluate.move,
            theta,
            tolerance=tolerance,
            max_evaluations=self.control.max_evaluations,
            radius=self.control.radius,
            escape=lambda point: escapes(problem, point.theta, point.payload.D),
            refine=evaluate.refine,
            noise=evaluate.noise,
            known=known,
            callback=callback,
        )
        return snap(problem, evaluate, outcome, tolerance)

    @threads.limited()
    def objective(self, problem: LinearProblem, theta: np.ndarray) -> float:
        """-2 log-likelihood (ML) or the REML criterion at theta (m,)."""
        if isinstance(problem, MarginalProblem):
            return criterion(problem, self.reml, theta)
        if problem.centred is not None:
            return self.objective(
                problem.centred.problem, inner_theta(problem, np.asarray(theta, dtype=float))
            )
        return evaluator(problem, self.reml, self.sigma, self.control).objective(theta)

    @threads.limited()
    def gradient(self, problem: Problem, theta: np.ndarray) -> np.ndarray:
        """Its derivative with respect to theta, (m,)."""
        return evaluator(problem, self.reml, self.sigma, self.control).in_theta(theta).gradient

    @threads.limited()
    def hessian(self, problem: Problem, theta: np.ndarray) -> np.ndarray:
        """Its exact second derivatives with respect to theta, (m, m)."""
        problem.plan.require_exact("The exact Hessian")
        evaluate = evaluator(problem, self.reml, self.sigma)
        theta = np.asarray(theta, dtype=float)
        if not problem.plan.joint and hessian.is_cheap(problem.plan, hessian.DENSE_LIMIT):
            return evaluate.hessian(evaluate.in_theta(theta))
        return hessian.by_differences(lambda at: evaluate.in_theta(at).gradient, theta)


def _of_centred(
    estimator: Estimator, problem: Problem, start: np.ndarray | None, callback: Callback | None
) -> Estimate:
    """The estimate of a problem whose random slopes are far from their origin, found in centred columns."""
    assert problem.centred is not None
    told = (
        None
        if callback is None
        else lambda line: callback({**line, "theta": outer_theta(problem, line["theta"])})
    )
    inner = None if start is None else inner_theta(problem, start)
    return outward(problem, estimator.fit(problem.centred.problem, inner, told))


def of_determined(
    estimator: Estimator,
    problem: Problem,
    evaluate: Evaluator,
    start: np.ndarray | None,
    callback: Callback | None,
) -> Estimate | None:
    """The estimate where the data do not determine every variance, the others held at zero; None where they do.

    ``estimator`` fits the problem of the columns that are left, ``evaluate`` is the criterion of the whole one.
    """
    if problem.centred is not None:
        return _of_centred(estimator, problem, start, callback)
    found = determined(problem, evaluate.reml)
    if found.all:
        return None
    inner = restricted(problem, found.kept)
    if inner is None:
        point = evaluate(np.zeros(problem.n_theta))
        outcome = Outcome(point, True, "no variance is determined by the data", 0, 1, 0.0, ())
        return replace(finish(problem, evaluate, outcome, estimator.name, {}), messages=found.notes)

    def whole(line: TraceLine) -> dict[str, object]:
        return {**line, "theta": spread(problem, found.kept, line["theta"])}

    told = None if callback is None else lambda line: callback(whole(line))
    own: Estimate = estimator.fit(
        inner, None if start is None else gathered(problem, found.kept, start), told
    )
    point = evaluate(spread(problem, found.kept, own.theta))
    done, trace = own.convergence, tuple(whole(line) for line in own.trace)
    outcome = Outcome(
        point,
        done.converged,
        done.message,
        done.iterations,
        done.evaluations,
        done.scaled_gradient**2 / 2.0,
        trace,
    )
    estimate = finish(problem, evaluate, outcome, estimator.name, done.seconds, free=False)
    messages = (
        *found.notes,
        *estimate.messages,
        *(text for text in own.messages if text.startswith(UNDETERMINED)),
    )
    return replace(
        estimate,
        messages=tuple(dict.fromkeys(messages)),
        report=own.report,
        n_parameters=own.n_parameters,
    )


def first_theta(problem: Problem, start: np.ndarray | None) -> np.ndarray:
    """theta (m,) to begin from: the one given, or moments of the data."""
    if start is None:
        return starting_values(problem.cross, problem.structures)
    return np.asarray(start, dtype=float)


def check_sigma(
    value: object, name: str = "sigma", what: str = "the residual standard deviation"
) -> float:
    """A positive number that the user gives; ArgumentError naming the argument and what it is."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.number)
        or not (np.isfinite(value) and value > 0)
    ):
        raise ArgumentError(f"{name}={value!r} must be a positive number, {what}.")
    return float(value)


def ridge(problem: Problem, point: Point) -> list[str]:
    """A sentence where some variances and covariances can be changed together and the criterion stays the same.

    The information about theta is singular then, whatever the curvature of the coordinates; parameters beside a variance of
    zero, which do not move G, are left out. What counts is its smallest eigenvalue as a matrix of correlations.
    """
    information = point.hessian - curvature(point.payload.D, point.payload.frame)
    size = np.diagonal(information)
    free = np.flatnonzero(size > MOVED * max(float(size.max(initial=0.0)), 1.0))
    if len(free) < 2:
        return []
    unit = np.sqrt(size[free])
    values, vectors = np.linalg.eigh(information[np.ix_(free, free)] / np.outer(unit, unit))
    flat = int(np.argmin(np.abs(values)))
    if abs(values[flat]) > FLAT:
        return []
    which = free[np.abs(vectors[:, flat]) > NAMED]
    term = np.repeat(np.arange(len(problem.structures)), [s.n_theta for s in problem.structures])
    groups = list(dict.fromkeys(problem.labels[t][0] for t in term[which]))
    columns = list(
        dict.fromkeys(name for t in dict.fromkeys(term[which]) for name in problem.labels[t][1])
    )
    return [
        f"{UNDETERMINED}{' and '.join(groups)}: other variances and correlations of {', '.join(columns)} give the same likelihood. Those "
        "reported are one choice of many, and so are standard errors that depend on them. Use fewer random columns or terms."
    ]


def finish(
    problem: Problem,
    evaluate: Evaluator,
    outcome: Outcome,
    name: str,
    seconds: dict[str, float],
    free: bool = True,
) -> Estimate:
    """The numbers of a fit at the point where the search ended, on the user's scale; ``free`` where no column was held at zero."""
    point = outcome.point
    if not np.isfinite(point.objective):
        raise nothing_left(problem)
    value: deviance.Profiled = point.payload.value
    inverse = triangle_inverse(problem.R)
    messages = tuple(distant(problem)) if problem.centred is None else ()
    point, monte_carlo, told, more = evaluate.settle(point)
    messages += told
    if evaluate.comparable and outcome.converged and free:
        messages += tuple(ridge(problem, point))
    convergence = outcome.convergence({**problem.seconds, **seconds, **more})
    return assemble_estimate(
        problem,
        Estimate,
        method=name,
        reml=evaluate.reml,
        beta=problem.beta0 + inverse @ value.beta,
        beta_cov_unscaled=inverse @ value.cov @ inverse.T,
        theta=problem.canonical(point.theta),
        sigma=float(np.sqrt(evaluate.variance(value))),
        modes=as_columns(problem.on_levels(point.payload.modes)),
        objective=point.objective,
        n_parameters=problem.p + problem.n_theta + int(not evaluate.known),
        convergence=convergence,
        trace=outcome.trace,
        messages=messages,
        monte_carlo=monte_carlo,
    )
