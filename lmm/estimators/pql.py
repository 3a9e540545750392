"""Penalised quasi-likelihood: a generalized mixed model by repeated linear ones.

At the current linear predictor eta, the working response z = eta - o + r / W with weights W is a linear mixed model
(:mod:`lmm.model.laplace.linearised`). Its variances are estimated by REML or ML, the residual variance known to be one
(``dispersion="fixed"``) or estimated (``"estimated"``: Var(y_i) = sigma^2 V(mu_i), a quasi-likelihood without a
likelihood); its beta and b, by Henderson's equations, give the next eta. Fixed effects and modes are then the joint
mode of the model's log density at these variances, but the variances are those of Gaussian working data: too small
for binary responses and small counts, by an amount that does not vanish with more levels.

A family whose dispersion phi scales its variance (gamma, Gaussian, inverse Gaussian) has phi = sigma^2 in either way.
For one whose does not (negative binomial) phi is set so that the residual variance is one, sum W (z - eta)^2 equal to
n less the effective degrees of freedom.

Breslow & Clayton (1993), J. Am. Stat. Assoc. 88; Schall (1991), Biometrika 78; Wolfinger & O'Connell (1993), J. Stat.
Comput. Simul. 48. With "estimated" and ML it is the algorithm of ``MASS::glmmPQL``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from lmm.design.rank import triangle_inverse
from lmm.errors import ArgumentError
from lmm.estimators.assembly import as_columns, assemble_estimate
from lmm.estimators.control import Control
from lmm.estimators.estimator import Callback, Estimator
from lmm.estimators.laplace.diagnosis import diagnose
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.estimators.settings import (
    CONTROL,
    COUNT,
    FLAG_OR_NONE,
    POSITIVE,
    check_settings,
    one_of,
    refuse_evaluation,
)
from lmm.linalg import threads
from lmm.model.laplace.laplace import laplace
from lmm.model.laplace.linearised import Linearised, linearise
from lmm.model.laplace.start_values import starting_values
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Estimate, Report
from lmm.search.boundary import escapes, snap, unit_start
from lmm.search.trust_region import Outcome, minimize
from lmm.types import TraceLine

DISPERSIONS = ("fixed", "estimated")
#: a step's component along the last, relative to it, below which the iteration cycles
CYCLE = -0.4
#: shortest step taken when full ones cycle
SHORTEST = 1.0 / 64.0
#: log of the largest factor by which one iteration changes a dispersion that does not scale the variance
REACH = 3.0
#: and the farthest that it goes from one, on that scale: nothing is left then of what it does
FARTHEST = float(np.log(1e6))

BIAS = (
    "Penalized quasi-likelihood takes the working response for Gaussian: with binary responses or small counts per level it "
    "underestimates the variances and shrinks the fixed effects. method='laplace' or nAGQ= does not."
)
QUASI = (
    "The variance of the response is sigma^2 times that of the family, sigma being the residual standard deviation of the working model; "
    "there is no likelihood, so no log-likelihood, AIC or likelihood-ratio test."
)
AT_PQL = "The log-likelihood is Laplace's at these estimates, which do not maximise it."


@dataclass(frozen=True)
class PenalizedQuasiLikelihood(Estimator):
    """Penalised quasi-likelihood; for a linear model the same as ``lmer``.

    Parameters
    ----------
    dispersion : "fixed", the family's own variance; "estimated", the family's times an estimated sigma^2, as
        ``MASS::glmmPQL`` fits. Without effect on a family that has a dispersion parameter, which is always estimated.
    reml : whether the variances are estimated by REML; None for REML with ``dispersion="fixed"`` and ML with
        "estimated", as in glmmPQL.
    control : settings of the inner fits and ``curvature`` of the log-likelihood that is reported.
    tolerance : stop when the squared change of the linear predictor, in working standard errors, is below this.
    max_iterations : working models after which the fit stops unconverged.

    Raises
    ------
    ArgumentError : for a setting that no fit can use.

    Example
    -------
    >>> import lmm
    >>> herds = lmm.datasets.load("cbpp")
    >>> method = lmm.PenalizedQuasiLikelihood(dispersion="estimated")
    >>> fit = lmm.glmer("cbind(incidence, size - incidence) ~ period + (1|herd)", herds, family="binomial", method=method)
    >>> fit.fixef().round(3).to_list()
    [-1.327, -1.016, -1.15, -1.605]
    """

    dispersion: str = "fixed"
    reml: bool | None = None
    control: Control = Control()
    tolerance: float = 1e-12
    max_iterations: int = 200
    name = "pql"
    maximises = True

    def __post_init__(self) -> None:
        dispersion = one_of(*DISPERSIONS)
        check_settings(
            self,
            dispersion=dispersion,
            reml=FLAG_OR_NONE,
            control=CONTROL,
            tolerance=POSITIVE,
            max_iterations=COUNT,
        )
        refuse_evaluation(self, "penalized quasi-likelihood iterates")

    def fit(
        self,
        problem: Problem | GeneralizedProblem,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Estimate:
        """Iterate working models until the linear predictor repeats itself.

        Parameters
        ----------
        problem : the rows of a design with a family, or the sums of a linear one.
        start : theta (m,), or theta and beta, to begin from; a generalized linear model otherwise.
        callback : called with each line of the trace: "objective" (the working model's criterion), "theta", "sigma",
            "decrease" (squared change of the linear predictor in working standard errors) and "step" taken.
        """
        if isinstance(problem, Problem):
            estimate = self._likelihood(problem).fit(problem, start, callback)
            how = "REML" if estimate.reml else "maximum likelihood"
            return replace(
                estimate,
                method=self.name,
                report=Report(f"Linear mixed model fit by {how} (penalized quasi-likelihood)"),
            )
        problem.family.require_mean(
            f"method='pql' needs a family with a mean; {problem.family.name!r} has thresholds. Use method='laplace'."
        )
        problem.family.require_one_parameter("method='pql'")
        begin = perf_counter()
        return _Iteration(self, problem, start, callback).run(begin)

    @threads.limited()
    def objective(self, problem: Problem | GeneralizedProblem, parameters: np.ndarray) -> float:
        """-2 log-likelihood by Laplace's method at (theta, beta[, phi]); of a linear model the criterion at theta."""
        if self.dispersion == "estimated" and not problem.distribution.has_scale:
            raise ArgumentError("objective: with dispersion='estimated' there is no likelihood.")
        return self._likelihood(problem).objective(problem, parameters)

    def _likelihood(self, problem: Problem | GeneralizedProblem) -> Estimator:
        return maximum_likelihood(problem, self.control, reml=self.reml is not False)


class _Iteration:
    """The state of one fit: coefficients, variances, dispersion and what was recorded."""

    def __init__(
        self,
        method: PenalizedQuasiLikelihood,
        problem: GeneralizedProblem,
        start: np.ndarray | None,
        callback: Callback | None,
    ):
        self.method, self.problem, self.callback = method, problem, callback
        self.family, self.rows = problem.family, problem.rows
        m, p = problem.n_theta, problem.p
        psi = starting_values(problem)
        self.gamma = psi[m : m + p]
        phi = float(self.family.from_rho(psi[m + p :])) if self.family.has_dispersion else 1.0
        self.scales = self.family.scales_variance()
        # whether the working residual variance is estimated; only a dispersion that does not scale it enters the weights
        self.free = self.scales or (
            method.dispersion == "estimated" and not self.family.has_dispersion
        )
        self.phi = 1.0 if self.scales else phi
        self.reml = (method.dispersion == "fixed") if method.reml is None else method.reml
        self.sigma = np.sqrt(phi) if self.scales else 1.0
        self.theta = psi[:m]
        if start is not None:
            start = np.asarray(start, dtype=float)
            self.theta = self._absolute(start[:m], 1.0 / self.sigma)
            if len(start) > m:
                self.gamma = self.rows.R @ start[m : m + p]
        self.b = [np.zeros((size.k, size.J)) for size in problem.plan.terms]
        self.eta = (
            self.rows.predictor(self.gamma, self.b) if start is not None else self._near_the_data()
        )
        self.step = 1.0
        self.change: np.ndarray | None = None
        self.trace: list[TraceLine] = []

    def _near_the_data(self) -> np.ndarray:
        """The link of means close to the response, from which a generalized linear model's iteration begins too."""
        with np.errstate(all="ignore"):
            eta = self.family.link.link(self.family.initial_mu(self.rows.y, self.rows.weights))
        weighed = (
            self.family.has_dispersion and not self.scales
        )  # a dispersion at such means would be that of a perfect fit
        return (
            eta if not weighed and self._possible(eta) else self.rows.predictor(self.gamma, self.b)
        )

    def run(self, begin: float) -> Estimate:
        """Iterate, and report."""
        message, converged = "", False
        with np.errstate(over="ignore", under="ignore"):
            for _ in range(self.method.max_iterations):
                try:
                    change = self._once()
                except (np.linalg.LinAlgError, FloatingPointError):
                    message = "the working model could not be solved"
                    break
                if not np.isfinite(change):
                    message = "no step stays among the possible means"
                    break
                if change <= self.method.tolerance:
                    converged, message = True, "the linear predictor repeats itself"
                    break
            else:
                message = f"stopped at the limit of {self.method.max_iterations} working models; the last step changed the "
                message += f"linear predictor by {np.sqrt(change):.2g} working standard errors"
        return self._estimate(begin, converged, message)

    def _once(self) -> float:
        """One working model, and a step to its solution; the squared change that a full step would have made."""
        working = linearise(self.problem, self.eta, self.phi)
        evaluate, outcome = self._variances(working)
        if outcome.point.payload is None:
            raise np.linalg.LinAlgError
        value, inner = outcome.point.payload.value, working.problem
        gamma = inner.beta0 + triangle_inverse(inner.R) @ value.beta
        b = outcome.point.payload.modes
        self.theta, self.cov = outcome.point.theta, value.cov
        self.R_inverse = triangle_inverse(inner.R)
        self.sigma = float(np.sqrt(evaluate.variance(value)))
        eta = self.rows.predictor(gamma, b)
        change = (eta - self.eta) * np.sqrt(working.W) / self.sigma
        if self.family.has_dispersion and not self.scales:
            longer = np.log(self._dispersion(outcome, eta) / self.phi)
            change = np.append(change, np.sqrt(self.problem.n) * longer)
        else:
            longer = 0.0
        # a map that overshoots turns round at every step without getting shorter: shorter ones damp it
        last = self.change
        cycles = last is not None and float(change @ last) < CYCLE * float(last @ last)
        self.step = max(self.step / 2.0, SHORTEST) if cycles else min(1.0, 1.2 * self.step)
        self.change = change
        while not self._possible(self.eta + self.step * (eta - self.eta)):
            self.step /= 2.0
            if self.step < 1e-6:
                return np.inf
        self.gamma = self.gamma + self.step * (gamma - self.gamma)
        self.b = [old + self.step * (new - old) for old, new in zip(self.b, b, strict=True)]
        self.eta = self.rows.predictor(self.gamma, self.b)
        self.phi *= float(np.exp(self.step * longer))
        line = {
            "objective": outcome.point.objective,
            "theta": self._absolute(self.theta, self.sigma),
            "sigma": self.sigma,
            "decrease": float(change @ change),
            "step": self.step,
        }
        self.trace.append(line)
        if self.callback is not None:
            self.callback(line)
        return float(change @ change)

    def _variances(self, working: Linearised) -> tuple[Evaluator, Outcome]:
        """REML or ML of the working model, begun where the last ended."""
        evaluate, control = (
            Evaluator(working.problem, self.reml, None if self.free else 1.0),
            self.method.control,
        )
        if not np.isfinite(evaluate.objective(self.theta)):
            self.theta = unit_start(working.problem)
        outcome = minimize(
            evaluate,
            evaluate.move,
            self.theta,
            tolerance=control.tolerance,
            max_evaluations=control.max_evaluations,
            radius=control.radius,
            escape=lambda point: (
                escapes(working.problem, point.theta, point.payload.D)
                if point.payload is not None
                else ()
            ),
            refine=evaluate.refine,
        )
        return evaluate, snap(working.problem, evaluate, outcome, control.tolerance)

    def _possible(self, eta: np.ndarray) -> bool:
        """Whether every mean is one that the family can have."""
        kernel = self.family.kernel(self.rows.y, eta, self.rows.weights, self.phi)
        return bool(np.all(self.family.inside(eta)) and np.isfinite(kernel).all())

    def _dispersion(self, outcome: Outcome, eta: np.ndarray) -> float:
        """phi at which the working residual variance is one, by bisection on log phi."""
        payload, rows = outcome.point.payload, self.rows
        effective = float(self.problem.p) if self.reml else 0.0
        for D, T, b in zip(payload.D, payload.frame.T, payload.modes, strict=True):
            u = np.linalg.pinv(T) @ b
            effective += float(np.sum((T.T @ D) * T.T)) + float(np.sum(u * u))

        def excess(log_phi: float) -> float:
            phi = float(np.exp(log_phi))
            r = self.family.derivatives(rows.y, eta, rows.weights, phi).d1
            W = self.family.expected_weights(eta, rows.weights, phi).weight
            return float(np.sum(r * r / np.maximum(W, 1e-300))) - (rows.n - effective)

        low, high = (
            float(np.clip(np.log(self.phi) + d, -FARTHEST, FARTHEST)) for d in (-REACH, REACH)
        )
        at_low, at_high = excess(low), excess(high)
        if not np.isfinite(at_low * at_high):
            return self.phi
        if at_low * at_high > 0:  # no root within reach: towards it
            return float(np.exp(low if abs(at_low) < abs(at_high) else high))
        for _ in range(60):
            middle = (low + high) / 2.0
            at_middle = excess(middle)
            low, at_low, high = (
                (middle, at_middle, high) if at_low * at_middle > 0 else (low, at_low, middle)
            )
        return float(np.exp((low + high) / 2.0))

    def _absolute(self, theta: np.ndarray, sigma: float) -> np.ndarray:
        """theta of covariances that are sigma^2 times as large."""
        parts = []
        for s, own in zip(self.problem.structures, self.problem.split(theta), strict=True):
            T = sigma * s.factor(own)
            parts.append(s.canonical(s.from_matrix(T @ T.T)))
        return np.concatenate(parts)

    def _estimate(self, begin: float, converged: bool, message: str) -> Estimate:
        problem, family, rows = self.problem, self.family, self.rows
        if not self.trace:
            raise ArgumentError(
                f"penalized quasi-likelihood cannot begin: {message}. Give start=, or use method='laplace'."
            )
        sigma = self.sigma
        phi = sigma**2 if self.scales else self.phi
        theta = self._absolute(self.theta, sigma)
        factors = problem.factors(theta)
        inverse = triangle_inverse(problem.R)
        half = inverse @ self.R_inverse
        beta = inverse @ self.gamma
        quasi = self.free and not family.has_dispersion
        objective = float("nan")
        if not quasi:
            u = [np.linalg.pinv(T) @ b for T, b in zip(factors, self.b, strict=True)]
            objective = laplace(
                family,
                rows,
                factors,
                self.gamma,
                phi,
                u,
                self.method.control.curvature == "observed",
            ).objective
        seconds = {**problem.seconds, "optimise": perf_counter() - begin}
        count = len(self.trace)
        told = diagnose(problem, beta, factors, phi, self.eta)
        convergence = Convergence(
            converged,
            message,
            count,
            count,
            count,
            float(np.sqrt(self.trace[-1]["decrease"])),
            seconds,
        )
        how = "REML" if self.reml else "ML"
        title = f"Generalized linear mixed model fit by penalized quasi-likelihood ({how} of the working model)"
        return assemble_estimate(
            problem,
            Estimate,
            method=self.method.name,
            beta=beta,
            beta_cov_unscaled=half @ self.cov @ half.T * sigma**2,
            theta=theta,
            sigma=sigma if quasi else family.sigma(phi),
            modes=as_columns(self.b),
            objective=objective,
            n_parameters=problem.p + problem.n_theta + problem.n_own + int(quasi),
            convergence=convergence,
            trace=tuple(self.trace),
            phi=phi,
            messages=told.messages,
            unbounded=told.unbounded,
            eta=self.eta,
            report=Report(title, notes=(BIAS, QUASI if quasi else AT_PQL)),
        )
