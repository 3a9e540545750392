"""Maximum likelihood of generalized models by the Laplace approximation or adaptive quadrature.

The search runs over all parameters at once: steps in the covariance charts, the fixed effects in orthonormal columns,
the family's own parameters (the log of a dispersion, thresholds). The model Hessian is that of the working linear model,

    theta, theta: average information v_i'Q v_j + <D, d2G>,  v_i = dG_i e
    theta, beta:  F'v_i (the mean of observed and expected),  beta, beta: 2 Q'V^-1 Q,

which a symmetric rank-one secant corrects for what is not Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from time import perf_counter

import numpy as np

from lmm import arguments
from lmm.design.rank import triangle_inverse
from lmm.errors import ArgumentError, ResponseError
from lmm.estimators.assembly import as_columns, assemble_estimate
from lmm.estimators.checkpoint import Checkpoint
from lmm.estimators.control import Control
from lmm.estimators.estimator import GENERALIZED, Callback, Estimator
from lmm.estimators.laplace import separation
from lmm.estimators.laplace.diagnosis import diagnose, laplace_error
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.laplace.probed_laplace import objective_for
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.estimators.restart import heights
from lmm.estimators.settings import CONTROL, FLAG, check_settings
from lmm.linalg import threads
from lmm.model.centred import inner_theta, inward, outer_jacobian, outer_theta, outward
from lmm.model.laplace.start_values import starting_values
from lmm.model.problem_kinds import AnyProblem, GeneralizedProblem
from lmm.model.records import Estimate
from lmm.search.boundary import is_singular, snapped_theta
from lmm.search.trust_region import Outcome, minimize
from lmm.types import TraceLine

#: places well above zero, the best of those looked at, from which a search that ended at a variance of zero begins again,
#: and the gain of -2 log-likelihood for which another end is taken
LOOKS, IMPROVED = 2, 1e-6
#: dispersion, relative to that without predictors, that is rounding
EXACT = 1e-12
#: shares of the variances' first guess to begin from where there it has no likelihood
SMALLER = (0.3, 0.1, 0.03, 0.0)


@dataclass(frozen=True)
class LaplaceLikelihood(Estimator):
    """Maximum likelihood over theta, beta and the dispersion by Laplace's method or by adaptive quadrature.

    ``second_order`` adds the next term of Laplace's expansion, for a single grouping factor.

    ``nagq`` points per random effect; 1 is Laplace's method, more need a single grouping factor, 0 leaves the
    fixed effects to the inner loop (fast and biased, lme4's nAGQ = 0).
    """

    control: Control = Control()
    nagq: int = 1
    second_order: bool = False
    models = (GENERALIZED,)
    maximises = takes_iterative = takes_checkpoint = takes_chunks = True
    takes_predictors = takes_related = True
    elsewhere = " The likelihood of a linear model needs no approximation."

    def __post_init__(self) -> None:
        check_settings(
            self, control=CONTROL, nagq=partial(arguments.whole, least=0), second_order=FLAG
        )

    @property
    def name(self) -> str:
        """Pirls, laplace, laplace2 or agq."""
        return "laplace2" if self.second_order else {0: "pirls", 1: "laplace"}.get(self.nagq, "agq")

    def fit(
        self,
        problem: GeneralizedProblem,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Estimate:
        """Minimise -2 log-likelihood over theta, beta and the dispersion.

        Parameters
        ----------
        problem : the rows of a design with a family.
        start : theta (m,), or theta, beta and the dispersion; from a working linear model otherwise.
        callback : called with each line of the trace.
        """
        if problem.centred is not None:
            return self._centred(problem, start, callback)
        begin = perf_counter()
        objective = self.objective_of(problem)
        working = starting_values(problem)
        psi = objective.enter(self._start(problem, start, working))
        curvature = "observed" if objective.observed else "expected"
        settings = (
            self.name,
            self.nagq,
            curvature,
            *(() if objective.comparable else ("iterative",)),
        )
        numbers = (working, np.diagonal(problem.rows.R))
        saved = Checkpoint(
            self.control.checkpoint, problem, settings, numbers, comparable=objective.comparable
        )
        psi, callback = saved.begin(psi, callback)
        if self.control.evaluate_only:
            outcome = Outcome.without_search(
                objective(psi), "evaluated at the given parameters, not optimised"
            )
        else:
            outcome = self._close(objective, psi, callback)
            for share in SMALLER if problem.family.widest == np.inf else SMALLER[-2:]:
                if not _is_stuck(problem, outcome):
                    break
                objective.forget()
                found = self._close(
                    objective,
                    np.append(share * psi[: problem.n_theta], psi[problem.n_theta :]),
                    callback,
                )
                if outcome.point.payload is None or found.converged:
                    outcome = found
            if (
                objective.comparable
                and outcome.point.payload is not None
                and is_singular(problem, outcome.point.theta[: problem.n_theta])
            ):
                outcome = self._again(problem, objective, outcome, callback)
        if outcome.point.payload is None:
            raise ArgumentError(
                "-2 log-likelihood is not finite at the starting values; give others as start=, within the link's range."
            )
        refuse_exact(problem, outcome.point.payload.phi)
        estimate = finish(problem, outcome, self, {"optimise": perf_counter() - begin})
        estimate = objective.reported(estimate, outcome.point)
        if self.nagq == 1 and not self.second_order and not self.control.evaluate_only:
            payload = outcome.point.payload
            value = estimate.objective - objective.over_fixed(outcome.point)
            told = laplace_error(problem, payload.frame.T[0], payload, objective.observed, value)
            estimate = replace(estimate, messages=(*estimate.messages, *([told] if told else [])))
        return saved.finish(estimate)

    def objective_of(self, problem: GeneralizedProblem) -> Objective:
        """What is minimised over the parameters of a problem."""
        return objective_for(problem, self.control, self.nagq, self.second_order)

    def _centred(
        self, problem: GeneralizedProblem, start: np.ndarray | None, callback: Callback | None
    ) -> Estimate:
        """The estimate of a problem whose random slopes are far from their origin, found in centred columns."""
        assert problem.centred is not None
        m = problem.n_theta

        def outer(line: TraceLine) -> dict[str, object]:
            return {
                **line,
                "theta": np.concatenate(
                    [outer_theta(problem, line["theta"][:m]), line["theta"][m:]]
                ),
            }

        told = None if callback is None else lambda line: callback(outer(line))
        found = self.fit(
            problem.centred.problem, None if start is None else self._inner(problem, start), told
        )
        return replace(
            outward(problem, replace(found, trace=())), trace=tuple(map(outer, found.trace))
        )

    @staticmethod
    def _inner(problem: GeneralizedProblem, parameters: np.ndarray) -> np.ndarray:
        """Parameters with theta in the centred columns."""
        parameters = np.asarray(parameters, dtype=float)
        return np.concatenate(
            [inner_theta(problem, parameters[: problem.n_theta]), parameters[problem.n_theta :]]
        )

    def _close(
        self,
        objective: Objective,
        psi: np.ndarray,
        callback: Callback | None,
        known: float = np.inf,
    ) -> Outcome:
        """A search with modes as rough as its steps allow, and what is all but zero at its end set to zero."""
        objective.searching = self.nagq <= 1 and not self.second_order
        outcome = objective.search(partial(self._search, objective, callback, known), psi)
        objective.searching = False
        return objective.snap(outcome, max(self.control.tolerance, objective.least))

    def _again(
        self,
        problem: GeneralizedProblem,
        objective: Objective,
        first: Outcome,
        callback: Callback | None,
    ) -> Outcome:
        """The better of an end at a variance of zero and of where searches from well above it end."""
        m = problem.n_theta
        # the lowest of each height: those of one height lie near to each other
        seen = [
            [objective.look(theta, first.point) for theta in those]
            for those in heights(problem, first.point.theta[:m])
        ]
        best, evaluations = first, sum(map(len, seen))
        for _, psi in sorted((min(those, key=itemgetter(0)) for those in seen), key=itemgetter(0))[
            :LOOKS
        ]:
            objective.forget()
            found = self._close(objective, psi, callback, best.point.objective)
            evaluations += found.evaluations
            lower = found.point.objective < best.point.objective - IMPROVED
            if lower and not (found.point.payload is not None and _is_stuck(problem, found)):
                best = found
        objective.remember(best.point)
        return replace(
            best,
            evaluations=first.evaluations + evaluations,
            trace=first.trace if best is first else first.trace + best.trace,
        )

    def _search(
        self, objective: Objective, callback: Callback | None, known: float, psi: np.ndarray
    ) -> Outcome:
        return minimize(
            objective,
            objective.move,
            psi,
            tolerance=max(self.control.tolerance, objective.least),
            max_evaluations=self.control.max_evaluations,
            radius=self.control.radius,
            escape=objective.escapes,
            learn=True,
            noise=objective.noise,
            known=known,
            callback=callback,
        )

    def _start(
        self, problem: GeneralizedProblem, start: np.ndarray | None, working: np.ndarray
    ) -> np.ndarray:
        """(theta, gamma, rho) to begin from; from the ``working`` model's where ``start`` says nothing."""
        psi = working.copy()
        if start is None:
            return psi
        start = np.asarray(start, dtype=float)
        psi[: problem.n_theta] = start[: problem.n_theta]
        if len(start) > problem.n_theta:
            beta = start[problem.n_theta : problem.n_theta + problem.p]
            psi[problem.n_theta : problem.n_theta + problem.p] = problem.rows.R @ beta
        if len(start) > problem.n_theta + problem.p:
            phi = start[problem.n_theta + problem.p :]
            problem.family.check_parameters(phi)
            psi[problem.n_theta + problem.p :] = problem.family.to_rho(
                phi[0] if problem.family.has_dispersion else phi
            )
        return psi

    @threads.limited()
    def objective(self, problem: GeneralizedProblem, parameters: np.ndarray) -> float:
        """-2 log-likelihood at (theta, beta[, phi]) on the user's scale."""
        if problem.centred is not None:
            return self.objective(problem.centred.problem, self._inner(problem, parameters))
        objective = self.objective_of(problem)
        return objective.in_theta(
            objective.enter(self._start(problem, parameters, starting_values(problem)))
        ).objective

    @threads.limited()
    def covariance(self, problem: GeneralizedProblem, estimate: Estimate) -> np.ndarray:
        """Covariance of (theta, beta, rho): twice the inverse of the Hessian of -2 log-likelihood.

        The Hessian is the derivative of the exact gradient by central differences (relative error about 1e-6), or of the gradient
        by random probes over steps of a fifth of a standard error, where terms are solved iteratively.
        Parameters on the boundary are held there: their rows are zero.
        """
        if problem.centred is not None:
            inner, own = inward(problem, estimate)
            cov = self.covariance(
                inner, replace(own, theta=snapped_theta(inner, own.theta))
            )  # rounding has moved zeros
            J = np.eye(len(cov))
            J[: problem.n_theta, : problem.n_theta] = outer_jacobian(problem, estimate)
            return np.asarray(J @ cov @ J.T)
        objective = replace(self, nagq=max(self.nagq, 1)).objective_of(problem)
        return objective.covariance(
            objective.pack(estimate.theta, estimate.beta, estimate.phi), estimate.endless
        )


def maximum_likelihood(
    problem: AnyProblem,
    control: Control = Control(),  # noqa: B008
    *,
    reml: bool = False,
    sigma: float | None = None,
    nagq: int = 1,
    second_order: bool = False,
) -> Estimator:
    """What maximises the likelihood of a problem; of the settings it takes those that are for its kind."""
    if problem.distribution.linear:
        return MaximumLikelihood(reml, control, sigma)
    return LaplaceLikelihood(control, nagq, second_order)


def _is_stuck(problem: GeneralizedProblem, outcome: Outcome) -> bool:
    """Whether a search is to begin nearer to variances of zero: modes led out of the link's range, or the approximation ran out."""
    if outcome.point.payload is None:
        return True
    return problem.family.widest < np.inf and not outcome.converged


def refuse_exact(problem: GeneralizedProblem, phi: object) -> None:
    """ResponseError where the model leaves no dispersion to estimate, so that its likelihood has no bound."""
    family = problem.family
    if not family.has_dispersion or family.discrete or problem.source.distant:
        return
    rows = problem.rows
    whole = family.initial_phi(
        rows.y, np.full(rows.n, np.average(rows.y, weights=rows.weights)), rows.weights
    )
    if phi < EXACT * whole:
        raise ResponseError(
            "The model explains the response exactly, so that no dispersion is left to estimate and the likelihood has no bound. "
            "Check for a predictor that is a copy of the response, and for levels that determine it."
        )


def finish(
    problem: GeneralizedProblem,
    outcome: Outcome,
    method: LaplaceLikelihood,
    seconds: dict[str, float],
) -> Estimate:
    """The numbers of a fit on the user's scale."""
    point = outcome.point
    state = point.payload
    theta = problem.canonical(state.theta)
    inverse = triangle_inverse(problem.R)
    convergence = replace(
        outcome.convergence({**problem.seconds, **seconds}),
        passes=getattr(problem.source, "passes", 0),
    )
    beta = inverse @ state.gamma
    eta = problem.rows.predictor(state.gamma, state.laplace.mode.b)
    told = diagnose(problem, beta, problem.factors(theta), state.phi, eta)
    return assemble_estimate(
        problem,
        Estimate,
        method=method.name,
        beta=beta,
        beta_cov_unscaled=inverse
        @ _inverse(state.laplace.information, told.directions)
        @ inverse.T,
        theta=theta,
        modes=as_columns(state.laplace.mode.b),
        objective=point.objective,
        convergence=convergence,
        trace=outcome.trace,
        reml=bool(method.reml),
        phi=state.phi,
        messages=told.messages,
        unbounded=told.unbounded,
        endless=_endless(inverse, told.directions, problem.n_own),
        nagq=method.nagq,
        eta=eta,
    )


def _endless(inverse: np.ndarray, directions: np.ndarray | None, own: int) -> np.ndarray | None:
    """Directions without end (p + ``own``, d) on the user's scale."""
    if directions is None:
        return None
    p = len(inverse)
    out = np.zeros((p + own, directions.shape[1]))
    out[:p], out[p : len(directions)] = inverse @ directions[:p], directions[p:]
    return out


def _inverse(information: np.ndarray, directions: np.ndarray | None) -> np.ndarray:
    """The covariance of the coefficients, NaN where no information is left."""
    try:
        return separation.inverse(
            information, None if directions is None else directions[: len(information)]
        )
    except np.linalg.LinAlgError:
        return np.full(information.shape, np.nan)
