"""Monte Carlo EM: maximum likelihood with the E-step by Hamiltonian Monte Carlo.

One persistent chain of the random effects, begun with a warm-up that adapts the step size, moves a few steps under the current
parameters; the M-step takes the parameters from its draws, in closed form where there is one and by Adam otherwise
(:mod:`lmm.model.posterior.expectation`). The parameters then wander about the maximum with the noise of a few draws: while their path
drifts nothing else happens, and once it does not, the number of draws grows and the path is averaged, until the Monte Carlo error of
every parameter is a small part of its standard error.

Wei & Tanner (1990), J. Am. Stat. Assoc. 85; Booth & Hobert (1999), J. R. Stat. Soc. B 61 for the growing samples; Polyak &
Juditsky (1992), SIAM J. Control Optim. 30 for the averaging; Neal (2011) for HMC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np

from lmm import arguments
from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.estimators.estimator import Callback, Estimator
from lmm.estimators.from_posterior import FIXED, as_centred, covariances_as_written
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood
from lmm.estimators.monte_carlo.effects_chain import WINDOW, Settings
from lmm.estimators.monte_carlo.effects_walk import PathMeans, Walk
from lmm.estimators.optional import need
from lmm.estimators.settings import (
    CONTROL,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    RNG,
    check_settings,
    one_of,
    or_none,
    refuse_evaluation,
    word_or_number,
)
from lmm.estimators.variational.variational_start import dense_terms
from lmm.linalg.devices import backend
from lmm.model import centred
from lmm.model.posterior.expectation import Parameters
from lmm.model.posterior.joint import (
    Start,
    coordinates,
    make_data,
    make_model,
    start_of,
)
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Estimate, Report

#: numbers in the cross-products of two factors up to which they are held dense
DENSE_PAIRS = 200_000
#: windows that may fail one after another, each with half the step size of the last
RETRIES = 8
#: variances up to so many times what the data do not tell from zero are tried at zero
NEARLY = 20.0


@dataclass(frozen=True)
class MonteCarloEM(Estimator):
    """Maximum likelihood by Monte Carlo EM, for linear and generalized models.

    Parameters
    ----------
    sampler : "hmc" or "nuts", by blackjax.
    warmup : steps of the chain before the first M-step, in which the step size is adapted.
    iterations : most EM iterations.
    samples : steps of the chain in an iteration at first.
    growth : factor by which ``samples`` grows each time the path of the parameters has settled; 1 leaves it.
    tolerance : stop when the Monte Carlo error of every parameter is below this part of its standard error; 0 runs all iterations.
    leapfrog : leapfrog steps of an HMC step.
    step_size : fixed step size; None adapts it to ``target_acceptance``, in the warm-up and slowly after it.
    metric : "adapted": the chain moves in coordinates in which the effects are about independent, the few of the smaller factors by
        their joint covariance, the others about their regression on them; these follow the parameters. "identity": in the effects.
    smoothing : share of an iteration's draws in the averages that the M-step takes, 1 for these draws alone. Below one, earlier
        draws fade out, so that a variance with few levels does not chase its own noise.
    m_step : "auto", closed forms for covariances and sigma, scoring for fixed effects and dispersion; "adam", one step of Adam for
        everything.
    learning_rate : of Adam.
    sigma : residual standard deviation of a linear model, "estimate" or a fixed number.
    rng : seed or generator.
    control : :class:`lmm.Control` (``verbose``, ``progress``).

    Notes
    -----
    ``fit.trace`` holds per iteration the loss (minus the joint log density of responses and effects, averaged over the draws), the
    acceptance rate, samples, step size, standard deviations, coefficients, sigma and the effects of the first few levels of each group.

    Examples
    --------
    >>> import lmm
    >>> method = lmm.MonteCarloEM(rng=1)
    >>> fit = lmm.lmer("Yield ~ 1 + (1|Batch)", lmm.datasets.load("Dyestuff"), method=method)  # doctest: +SKIP
    """

    sampler: str = "hmc"
    warmup: int = 1000
    iterations: int = 3000
    samples: int = 5
    growth: float = 2.0
    tolerance: float = 0.1
    leapfrog: int = 3
    step_size: float | None = None
    target_acceptance: float = 0.75
    metric: str = "adapted"
    smoothing: float = 0.25
    m_step: str = "auto"
    learning_rate: float = 0.01
    sigma: float | str = "estimate"
    rng: None | int | np.random.Generator = 0
    control: Control = Control()
    name = "mcem"
    takes_members = False

    def __post_init__(self) -> None:
        check_settings(
            self,
            sampler=one_of("hmc", "nuts"),
            warmup=partial(arguments.whole, least=0),
            iterations=COUNT,
            samples=COUNT,
            growth=partial(arguments.number, least=1),
            tolerance=NOT_NEGATIVE,
            leapfrog=COUNT,
            step_size=or_none(POSITIVE),
            target_acceptance=PROBABILITY,
            metric=one_of("adapted", "identity"),
            smoothing=partial(arguments.number, above=0, most=1),
            m_step=one_of("auto", "adam"),
            learning_rate=POSITIVE,
            sigma=word_or_number("estimate"),
            rng=RNG,
            control=CONTROL,
        )
        refuse_evaluation(self, "Monte Carlo EM iterates")

    def fit(
        self,
        problem: Problem | GeneralizedProblem,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Estimate:
        """Alternate between draws of the effects and the parameters they give; ``start`` holds theta to begin from."""
        need("blackjax", "method='mcem'")
        need("optax", "method='mcem'")
        for structure in problem.structures:
            if structure.maximiser(np.eye(structure.k), np) is None:
                raise ArgumentError(
                    f"method='mcem' has no M-step for the covariance structure {structure.name!r}; use method='reml'."
                )
        begin = perf_counter()
        rng = np.random.default_rng(self.rng)
        model = make_model(problem, "log")
        written, frames = problem, centred.frames(problem, (False,) * len(model.terms))
        problem = centred.centre(problem, frames)
        model.family.require_jax()
        first = start_of(problem, as_centred(problem, start, frames))
        sigma = first.sigma if isinstance(self.sigma, str) else float(self.sigma)
        unit = coordinates(problem, problem.row_sd(sigma, first.phi))
        data = make_data(problem, first.beta, unit, DENSE_PAIRS)
        none = [np.zeros((size.J, size.k)) for size in problem.plan.terms]
        cross = problem.working_sums(first.beta, none, first.phi, unit)
        dense = dense_terms(model) if self.metric == "adapted" else ()
        settings = Settings(
            self.sampler,
            self.m_step == "adam",
            self.learning_rate,
            not isinstance(self.sigma, str),
            dense,
        )
        with backend.our_settings():
            walk = Walk(
                self,
                model,
                settings,
                backend.put(data),
                cross,
                _parameters(first, sigma),
                rng,
                frames,
            )
            converged, message = self._search(walk, problem, callback)
        path = walk.path(self._last(walk, converged))
        path = self._without_vanished(problem, path, sigma, walk.floors)
        G = covariances_as_written(path.G, frames)
        effects = [h @ own for own, h in zip(path.effects, frames, strict=True)]
        estimate = self._finish(written, path._replace(G=G, effects=effects), sigma)
        seconds = {**problem.seconds, "optimise": perf_counter() - begin}
        steps = len(walk.trace)
        convergence = Convergence(
            converged,
            message,
            steps,
            int(walk.gradients),
            int(walk.gradients),
            float("nan"),
            seconds,
        )
        acceptance = float(np.mean([line["acceptance"] for line in walk.trace[-WINDOW:]]))
        linear = problem.distribution.linear
        report = Report(
            f"{problem.distribution.model_title} mixed model fit by maximum likelihood (Monte Carlo EM, {self.sampler.upper()})",
            (
                ("logLik" if linear else "logLik (Laplace)", -0.5 * estimate.objective),
                ("acceptance rate", acceptance),
            ),
            (
                "Estimates are averages over the last iterations, within the Monte Carlo error of the maximum of the likelihood; "
                "standard errors are those given the variance parameters.",
                *((FIXED.format(sigma),) if linear and settings.fixed_sigma else ()),
            ),
        )
        return replace(estimate, convergence=convergence, trace=tuple(walk.trace), report=report)

    def _without_vanished(
        self,
        problem: Problem | GeneralizedProblem,
        path: PathMeans,
        sigma: float,
        floors: list[np.ndarray],
    ) -> PathMeans:
        """The path's averages, with small variances at zero where the likelihood is no lower for it: EM gets there in the limit only."""
        for t, floor in enumerate(floors):
            for a in np.flatnonzero(np.diagonal(path.G[t]) <= NEARLY * floor**2):
                G = [own.copy() for own in path.G]
                G[t][a] = G[t][:, a] = 0.0
                other = path._replace(G=G)
                free, fitted = (self._finish(problem, at, sigma) for at in (path, other))
                if np.isfinite(fitted.objective) and not fitted.objective > free.objective + 1e-6:
                    # given the covariances these are in closed form in a linear model
                    best = self._at(problem, sigma, fitted.parameters)
                    path = other._replace(beta=best.beta, log_sigma=float(np.log(best.sigma)))
        return path

    def _at(
        self, problem: Problem | GeneralizedProblem, sigma: float, parameters: np.ndarray
    ) -> Estimate:
        """The likelihood at given parameters."""
        known = None if isinstance(self.sigma, str) else sigma
        only = maximum_likelihood(problem, Control(evaluate_only=True), sigma=known)
        return only.fit(problem, parameters)

    # ---- the search ----

    def _search(
        self, walk: Walk, problem: Problem | GeneralizedProblem, callback: Callback | None
    ) -> tuple[bool, str]:
        walk.warm_up(self.warmup)
        errors: np.ndarray | None = None
        failures = 0
        while len(walk.trace) < self.iterations:
            if not walk.window(min(WINDOW, self.iterations - len(walk.trace))):
                failures += 1
                if failures < RETRIES:
                    continue
                if walk.trace:
                    return (
                        False,
                        "the chain left the region of finite density after these parameters; give a smaller step_size",
                    )
                raise ArgumentError(
                    "method='mcem': the chain leaves the region of finite density at once; give a smaller step_size=."
                )
            failures = 0
            line = walk.trace[-1]
            if callback is not None:
                callback(
                    {
                        "objective": 2.0 * line["loss"],
                        "theta": line["sd"],
                        "decrease": line["acceptance"],
                    }
                )
            if self.tolerance == 0 or not walk.settled():
                continue
            if errors is None:
                errors = self._standard_errors(problem, walk)
            mc = walk.monte_carlo_error()
            if np.all(mc <= self.tolerance * errors):
                return (
                    True,
                    f"Monte Carlo errors are below {self.tolerance:g} of the standard errors",
                )
            if self.growth > 1.0:
                walk.grow(self.growth)
        if self.tolerance == 0:
            return True, f"ran the {self.iterations} iterations asked for"
        return (
            False,
            f"Monte Carlo errors were still above {self.tolerance:g} of the standard errors after {self.iterations} iterations",
        )

    def _last(self, walk: Walk, converged: bool) -> int:
        """Iterations that are averaged: since the path settled, else the last third."""
        if converged and self.tolerance > 0:
            return max(len(walk.trace) - walk.since, 1)
        return max(len(walk.trace) // 3, 1)

    def _standard_errors(self, problem: Problem | GeneralizedProblem, walk: Walk) -> np.ndarray:
        """Rough standard errors of what :meth:`Walk.follow` follows: log sd, coefficients, log sigma or log phi."""
        estimate = self._finish(problem, walk.path(WINDOW), float(np.exp(walk.at.log_sigma)))
        scale = np.sqrt(estimate.scale2)
        log_sd = np.concatenate(
            [np.full(term.k, (2.0 * term.J) ** -0.5) for term in walk.model.terms]
        )
        beta = scale * np.sqrt(np.diagonal(estimate.beta_cov_unscaled))
        known = float(walk.curvature) if walk.curvature > 0 else 2.0 * problem.n
        return np.concatenate([log_sd, beta, [known**-0.5]])

    def _finish(
        self, problem: Problem | GeneralizedProblem, path: PathMeans, sigma: float
    ) -> Estimate:
        """The estimate at averaged parameters, with the likelihood there."""
        family, phi = problem.distribution, float(np.exp(path.log_phi))
        last = float(np.exp(path.log_sigma)) if isinstance(self.sigma, str) else sigma
        scale2 = float(family.scale(last)) ** 2
        theta = problem.theta_of([G / scale2 for G in path.G])
        modes = tuple(np.ascontiguousarray(b.T) for b in path.effects)
        # without a joint Hessian the fixed effects have the covariance given theta, as with nagq = 0
        return replace(
            self._at(problem, sigma, family.parameters(theta, path.beta, phi)),
            method=self.name,
            beta=path.beta,
            sigma=family.sigma(family.density_phi(last, phi)),
            modes=modes,
            eta=problem.predictor(path.beta, modes),
        )


def _parameters(first: Start, sigma: float) -> Parameters:
    G = tuple(own + 1e-8 * np.diag(np.diagonal(own)) for own in first.covariances)
    return Parameters(
        np.zeros(len(first.beta)), G, np.asarray(np.log(sigma)), np.asarray(np.log(first.phi))
    )
