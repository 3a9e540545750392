"""Monte Carlo EM: maximum likelihood with the E-step by Hamiltonian Monte Carlo.

One persistent chain of the random effects, begun with a warm-up that adapts the step size, moves a few steps under the current
parameters; the M-step takes the parameters from its draws, in closed form where there is one and by Adam otherwise
(:mod:`lmm.model.expectation`). The parameters then wander about the maximum with the noise of a few draws: while their path
drifts nothing else happens, and once it does not, the number of draws grows and the path is averaged, until the Monte Carlo error of
every parameter is a small part of its standard error.

Wei & Tanner (1990), J. Am. Stat. Assoc. 85; Booth & Hobert (1999), J. R. Stat. Soc. B 61 for the growing samples; Polyak &
Juditsky (1992), SIAM J. Control Optim. 30 for the averaging; Neal (2011) for HMC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.estimators.laplace import LaplaceLikelihood
from lmm.estimators.likelihood import MaximumLikelihood
from lmm.estimators.optional import need
from lmm.estimators.variational_start import dense_terms, joint_gaussian
from lmm.linalg import backend
from lmm.model import expectation, scales
from lmm.model.crossproducts import CrossProducts, cross_products
from lmm.model.elbo import Approximation
from lmm.model.expectation import Frame, Parameters, Statistics
from lmm.model.joint import Model, RowData, Start, Sums, make_model, make_row_data, make_sums, start_of
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Estimate, Report

Array = Any

#: iterations between two looks at the path, and batches in which its Monte Carlo error is estimated
WINDOW, BATCHES = 50, 10
#: windows after which a path may be called settled
SETTLE = 6
#: differences of the path's halves, in standard errors, above which it still drifts
DRIFT = 3.0
#: numbers in the cross-products of two factors up to which they are held dense
DENSE_PAIRS = 200_000
#: levels of each term whose effects the trace follows
WATCH = 5


#: part of a scoring step of the fixed effects that an iteration takes, its score being an average over earlier draws too
SCORING = 0.25
#: relative change of a standard deviation after which the chain's coordinates are made anew
REFRESH = 0.25


class Settings(NamedTuple):
    """What is fixed when the chain is compiled."""

    sampler: str
    adam: bool
    rate: float
    fixed_sigma: bool
    dense: tuple[int, ...]


@dataclass(frozen=True)
class MonteCarloEM:
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
    models = ("linear", "generalized")
    reml = False
    name = "mcem"

    def __post_init__(self) -> None:
        for key, known in (("sampler", ("hmc", "nuts")), ("metric", ("adapted", "identity")), ("m_step", ("auto", "adam"))):
            if getattr(self, key) not in known:
                raise ArgumentError(f"MonteCarloEM: {key}={getattr(self, key)!r} must be {' or '.join(map(repr, known))}.")
        if isinstance(self.sigma, str) and self.sigma != "estimate":
            raise ArgumentError(f"MonteCarloEM: sigma={self.sigma!r} must be 'estimate' or a positive number.")
        for key in ("iterations", "samples", "leapfrog", "step_size", "learning_rate", "sigma"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, str) and not value > 0:
                raise ArgumentError(f"MonteCarloEM: {key}={value!r} must be positive.")
        if self.warmup < 0 or self.tolerance < 0 or not self.growth >= 1:
            raise ArgumentError("MonteCarloEM: warmup and tolerance must not be negative, and growth at least 1.")
        if not 0 < self.smoothing <= 1:
            raise ArgumentError(f"MonteCarloEM: smoothing={self.smoothing!r} must lie above 0 and be at most 1.")
        if not 0 < self.target_acceptance < 1:
            raise ArgumentError(f"MonteCarloEM: target_acceptance={self.target_acceptance!r} must lie between 0 and 1.")

    def fit(
        self,
        problem: Problem | GeneralizedProblem,
        start: np.ndarray | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
    ) -> Estimate:
        """Alternate between draws of the effects and the parameters they give; ``start`` holds theta to begin from."""
        need("blackjax", "method='mcem'")
        need("optax", "method='mcem'")
        begin = perf_counter()
        rng = np.random.default_rng(self.rng)
        first = start_of(problem, start)
        sigma = first.sigma if isinstance(self.sigma, str) else float(self.sigma)
        model = make_model(problem, "softplus")
        data: Sums | RowData
        if isinstance(problem, Problem):
            data = make_sums(problem, sigma, DENSE_PAIRS)
            cross = replace(problem.cross, rhs=data.fixed, gram=data.gram)
        else:
            data = make_row_data(problem, first.beta)
            cross = _weighted(problem, data, first)
        dense = dense_terms(model) if self.metric == "adapted" else ()
        settings = Settings(self.sampler, self.m_step == "adam", self.learning_rate, not isinstance(self.sigma, str), dense)
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            walk = _Walk(self, model, settings, backend.put(data), cross, _parameters(first, sigma), rng)
            converged, message = self._search(walk, problem, callback)
        path = walk.path(self._last(walk, converged))
        estimate = self._finish(problem, path, sigma)
        seconds = {**problem.seconds, "optimise": perf_counter() - begin}
        steps = len(walk.trace)
        convergence = Convergence(converged, message, steps, int(walk.gradients), int(walk.gradients), float("nan"), seconds)
        kind = "Linear" if isinstance(problem, Problem) else "Generalized linear"
        acceptance = float(np.mean([line["acceptance"] for line in walk.trace[-WINDOW:]]))
        linear = isinstance(problem, Problem)
        report = Report(
            f"{kind} mixed model fit by maximum likelihood (Monte Carlo EM, {self.sampler.upper()})",
            "Std. Error",
            (("logLik" if linear else "logLik (Laplace)", -0.5 * estimate.objective), ("acceptance rate", acceptance)),
            (
                "Estimates are averages over the last iterations, within the Monte Carlo error of the maximum of the likelihood; "
                "standard errors are those given the variance parameters.",
                *((f"The residual standard deviation was fixed at {sigma:g}.",) if linear and settings.fixed_sigma else ()),
            ),
        )
        return replace(estimate, convergence=convergence, trace=tuple(walk.trace), report=report)

    # ---- the search ----

    def _search(
        self, walk: _Walk, problem: Problem | GeneralizedProblem, callback: Callable[[dict[str, Any]], None] | None
    ) -> tuple[bool, str]:
        walk.warm_up(self.warmup)
        errors: np.ndarray | None = None
        while len(walk.trace) < self.iterations:
            walk.window(min(WINDOW, self.iterations - len(walk.trace)))
            line = walk.trace[-1]
            if callback is not None:
                callback({"objective": 2.0 * line["loss"], "theta": line["sd"], "decrease": line["acceptance"]})
            if not np.isfinite(line["loss"]):
                return False, "the chain left the region of finite density; give a smaller step_size"
            if self.tolerance == 0 or not walk.settled():
                continue
            if errors is None:
                errors = self._standard_errors(problem, walk)
            mc = walk.monte_carlo_error()
            if np.all(mc <= self.tolerance * errors):
                return True, f"Monte Carlo errors are below {self.tolerance:g} of the standard errors"
            if self.growth > 1.0:
                walk.grow(self.growth)
        if self.tolerance == 0:
            return True, f"ran the {self.iterations} iterations asked for"
        return False, f"Monte Carlo errors were still above {self.tolerance:g} of the standard errors after {self.iterations} iterations"

    def _last(self, walk: _Walk, converged: bool) -> int:
        """Iterations that are averaged: since the path settled, else the last third."""
        if converged and self.tolerance > 0:
            return max(len(walk.trace) - walk.since, 1)
        return max(len(walk.trace) // 3, 1)

    def _standard_errors(self, problem: Problem | GeneralizedProblem, walk: _Walk) -> np.ndarray:
        """Rough standard errors of what :meth:`_Walk.follow` follows: log sd, coefficients, log sigma or log phi."""
        estimate = self._finish(problem, walk.path(WINDOW), float(np.exp(walk.at.log_sigma)))
        scale = estimate.sigma if isinstance(problem, Problem) else 1.0
        log_sd = np.concatenate([np.full(term.k, (2.0 * term.J) ** -0.5) for term in walk.model.terms])
        beta = scale * np.sqrt(np.diagonal(estimate.beta_cov_unscaled))
        known = float(walk.curvature) if walk.curvature > 0 else 2.0 * problem.n
        return np.concatenate([log_sd, beta, [known**-0.5]])

    def _finish(self, problem: Problem | GeneralizedProblem, path: _Path, sigma: float) -> Estimate:
        """The estimate at averaged parameters, with the likelihood there."""
        linear = isinstance(problem, Problem)
        if linear and isinstance(self.sigma, str):
            sigma = float(np.exp(path.log_sigma))
        scale2 = sigma**2 if linear else 1.0
        theta = np.concatenate([s.canonical(s.from_matrix(G / scale2)) for s, G in zip(problem.structures, path.G, strict=True)])
        only = Control(evaluate_only=True)
        modes = tuple(np.ascontiguousarray(b.T) for b in path.effects)
        if isinstance(problem, Problem):
            known = None if isinstance(self.sigma, str) else sigma
            near = MaximumLikelihood(False, only, known).fit(problem, theta)
            return replace(near, method=self.name, beta=path.beta, sigma=sigma, modes=modes)
        phi = float(np.exp(path.log_phi))
        tail = [phi] if problem.family.has_dispersion else []
        near = LaplaceLikelihood(only).fit(problem, np.concatenate([theta, path.beta, tail]))
        eta = problem.rows.predictor(problem.rows.R @ path.beta, list(path.effects))
        # without a joint Hessian the fixed effects have the covariance given theta, as with nagq = 0
        return replace(near, method=self.name, modes=modes, eta=eta)


class _Path(NamedTuple):
    """Averages over the last iterations, on the user's scale."""

    G: list[np.ndarray]
    beta: np.ndarray
    log_sigma: float
    log_phi: float
    effects: list[np.ndarray]


class _Walk:
    """The chain with its parameters, moved in windows of iterations."""

    def __init__(
        self,
        method: MonteCarloEM,
        model: Model,
        settings: Settings,
        data: Any,
        cross: CrossProducts,
        at: Parameters,
        rng: np.random.Generator,
    ):
        self.method, self.model, self.settings, self.rng = method, model, settings, rng
        self.data, self.cross = data, cross
        self.steps = _compiled(model, settings)
        self.at = jax.tree.map(np.asarray, at)
        self.x = np.zeros(sum(term.k * term.J for term in model.terms))
        self.samples = float(method.samples)
        self.step_size = method.step_size or 0.2
        self.trace: list[dict[str, Any]] = []
        self.history: list[Parameters] = []
        self.effects: list[tuple[int, list[np.ndarray]]] = []  # iterations and mean effects, per window
        self.since = 0
        self.gradients = 0.0
        floors = [1e-3 * np.sqrt(np.diagonal(G)) for G in self.at.G]
        self.zeta = scales.from_covariances(model.terms, [np.asarray(G) for G in self.at.G], floors, "softplus")
        self.adam = self.steps.begin(self.zeta, self.at)
        self.mean: Any = None
        self.curvature = 0.0  # of the log density in log phi
        self.frame = self._frame()
        self.frame_sd = self._sd()

    def _sd(self) -> np.ndarray:
        """Standard deviations of the effects over that of the residual."""
        sd = np.concatenate([np.sqrt(np.diagonal(G)) for G in self.at.G])
        return np.asarray(sd / np.exp(float(self.at.log_sigma)))

    def _refresh(self) -> None:
        """New coordinates where the parameters have moved away from those they were made for; the effects stay."""
        sd = self._sd()
        if self.method.metric == "identity" or np.all(np.abs(np.log(sd / self.frame_sd)) < np.log1p(REFRESH)):
            return
        b = [np.asarray(own) for own in expectation.effects(self.model, self.settings.dense, self.frame, self.x)]
        self.frame, self.frame_sd = self._frame(), sd
        self.x = expectation.coordinates(self.model, self.settings.dense, self.frame, b)

    def _frame(self) -> Frame:
        model, dense = self.model._replace(p=0), self.settings.dense
        if self.method.metric == "identity":
            ones = tuple(np.ones((term.k, term.J)) for term in model.terms)
            return Frame(ones, tuple(np.zeros((0, term.k, term.J)) for term in model.terms), np.zeros((0, 0)), *self._fixed(None))
        scale = float(np.exp(self.at.log_sigma)) if model.family is None else 1.0
        shown = [
            0.01 * scale**2 * t.J / np.maximum(np.einsum("aaj->a", A), 1e-300) for t, A in zip(model.terms, self.cross.diag, strict=True)
        ]
        G = [np.asarray(own) + np.diag(np.maximum(least - np.diagonal(own), 0.0)) for own, least in zip(self.at.G, shown, strict=True)]
        T = [np.linalg.cholesky(own + 1e-8 * np.diag(np.diagonal(own))) / scale for own in G]
        prior = [np.linalg.inv(t @ t.T) for t in T]
        both = zip(self.cross.diag, prior, strict=True)
        units = [scale * np.sqrt(np.einsum("jaa->aj", np.linalg.inv(np.moveaxis(A, -1, 0) + P))) for A, P in both]
        if not dense:
            none = tuple(np.zeros((0, term.k, term.J)) for term in model.terms)
            return Frame(tuple(units), none, np.zeros((0, 0)), *self._fixed(T))
        bare = replace(self.cross, rhs=tuple(own[:0] for own in self.cross.rhs), gram=np.zeros((0, 0)))
        regressions, L = joint_gaussian(bare, model, Approximation("partial", "fixed", dense), T, prior, units, scale)
        z = model.size
        free = iter(regressions)
        K = tuple(np.zeros((len(L) - z, t.k, t.J)) if i in dense else next(free)[z:] for i, t in enumerate(model.terms))
        return Frame(tuple(units), K, L[z:, z:], *self._fixed(T))

    def _fixed(self, T: list[np.ndarray] | None) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Covariance (p, p) of d in the working linear model at relative factors T, and the slopes of the effects on d."""
        p = self.model.p
        if not p:
            return np.zeros((0, 0)), tuple(np.zeros((0, term.k, term.J)) for term in self.model.terms)
        scale = float(np.exp(self.at.log_sigma)) if self.model.family is None else 1.0
        if T is None:
            T = [np.linalg.cholesky(np.asarray(G) + 1e-8 * np.diag(np.diagonal(G))) / scale for G in self.at.G]
        prior = [np.linalg.inv(t @ t.T) for t in T]
        units = [np.ones((term.k, term.J)) for term in self.model.terms]
        slopes, L = joint_gaussian(self.cross, self.model, Approximation("partial", "fixed"), T, prior, units, scale)
        z = self.model.size
        return np.asarray(L[z:, z:] @ L[z:, z:].T), tuple(own[z:] for own in slopes)

    def _key(self) -> np.ndarray:
        return self.rng.integers(0, 2**32, 2, dtype=np.uint32)

    def warm_up(self, steps: int) -> None:
        """Move the chain at the starting parameters and adapt the step size."""
        if steps:
            adapt = self.method.step_size is None
            leapfrog, target = np.asarray(self.method.leapfrog), np.asarray(self.method.target_acceptance)
            self.x, step, _ = self.steps.warm_up(
                self._key(), self.x, self.at, self.data, self.frame, np.asarray(self.step_size), leapfrog, target, np.asarray(steps)
            )
            self.gradients += steps * self.method.leapfrog
            if adapt:
                self.step_size = float(step)

    def window(self, iterations: int) -> None:
        """``iterations`` EM iterations."""
        self._refresh()
        count = max(1, round(self.samples))
        smoothing = self.method.smoothing if self.mean is not None else 1.0
        mean = self.mean if self.mean is not None else self.steps.zero()
        adapt = np.asarray(0.0 if self.method.step_size is not None else 1.0)
        out = self.steps.window(
            self._key(),
            (self.x, self.at, self.zeta, self.adam, np.asarray(self.step_size), mean, np.asarray(smoothing)),
            self.data,
            self.frame,
            np.asarray(self.method.leapfrog),
            np.asarray(self.method.target_acceptance),
            np.asarray(count),
            adapt,
            np.asarray(self.method.smoothing),
        )
        (self.x, self.at, self.zeta, self.adam, step, self.mean, _), mean, record = out
        self.curvature = float(self.mean.curvature)
        self.step_size = float(step)
        record = jax.tree.map(np.asarray, record)
        self.gradients += float(record["gradients"][:iterations].sum())
        self.effects.append((WINDOW, [np.asarray(b) for b in mean]))
        shift, unit = np.asarray(self.data.shift), np.asarray(self.data.unit)
        for i in range(iterations):
            G = tuple(own[i] for own in record["G"])
            at = Parameters(record["d"][i], G, record["log_sigma"][i], record["log_phi"][i])
            self.history.append(at)
            line = {
                "loss": float(record["loss"][i]),
                "acceptance": float(record["acceptance"][i]),
                "samples": count,
                "step_size": float(record["step_size"][i]),
                "sd": np.concatenate([np.sqrt(np.diagonal(own)) for own in G]),
                "beta": shift + unit * at.d,
            }
            if self.model.family is None:
                line["sigma"] = float(np.exp(at.log_sigma))
            elif self.model.family.has_dispersion:
                line["dispersion"] = float(np.exp(at.log_phi))
            line["effects"] = record["watched"][i]
            self.trace.append(line)

    def follow(self) -> np.ndarray:
        """The path of log sd, beta, log sigma or log phi since it last began anew, (iterations, parameters)."""
        shift, unit = np.asarray(self.data.shift), np.asarray(self.data.unit)
        rows = []
        for at in self.history[self.since :]:
            log_sd = [0.5 * np.log(np.maximum(np.diagonal(G), 1e-300)) for G in at.G]
            last = at.log_sigma if self.model.family is None else at.log_phi
            rows.append(np.concatenate([*log_sd, shift + unit * at.d, [last]]))
        return np.array(rows)

    def settled(self) -> bool:
        """Whether the path since it began anew no longer drifts; the first part of one that does is forgotten."""
        path = self.follow()
        if len(path) < SETTLE * WINDOW:
            return False
        half = len(path) // 2
        first, second = path[:half], path[half:]
        error = np.hypot(batch_error(first), batch_error(second))
        if np.all(np.abs(first.mean(axis=0) - second.mean(axis=0)) <= DRIFT * np.maximum(error, 1e-12)):
            return True
        self.since += half // WINDOW * WINDOW
        return False

    def monte_carlo_error(self) -> np.ndarray:
        """Monte Carlo standard errors of the path's averages."""
        return batch_error(self.follow())

    def grow(self, factor: float) -> None:
        """More draws from here on."""
        self.samples *= factor

    def path(self, last: int) -> _Path:
        """Averages over the last iterations."""
        own = self.history[-last:]
        shift, unit = np.asarray(self.data.shift), np.asarray(self.data.unit)
        G = [np.mean([at.G[t] for at in own], axis=0) for t in range(len(self.model.terms))]
        windows = self.effects[-max(1, last // WINDOW) :]
        effects = [np.mean([mean[t] for _, mean in windows], axis=0) for t in range(len(self.model.terms))]
        d = np.mean([at.d for at in own], axis=0)
        return _Path(G, shift + unit * d, float(np.mean([at.log_sigma for at in own])), float(np.mean([at.log_phi for at in own])), effects)


def batch_error(path: np.ndarray) -> np.ndarray:
    """Standard errors of the means of an autocorrelated path (iterations, parameters), by the means of batches."""
    size = max(len(path) // BATCHES, WINDOW)
    means = path[len(path) % size :].reshape(-1, size, path.shape[1]).mean(axis=1)
    return np.asarray(means.std(axis=0, ddof=1) / np.sqrt(len(means)))


def _parameters(first: Start, sigma: float) -> Parameters:
    G = tuple(own + 1e-8 * np.diag(np.diagonal(own)) for own in first.covariances)
    return Parameters(np.zeros(len(first.beta)), G, np.asarray(np.log(sigma)), np.asarray(np.log(first.phi)))


def _weighted(problem: GeneralizedProblem, data: RowData, first: Start) -> CrossProducts:
    """Cross-products of [Z X~] at the working weights without random effects."""
    W = np.maximum(problem.family.expected_weights(data.offset, problem.rows.weights, first.phi).weight, 1e-10)
    return cross_products(problem.terms, np.asfortranarray(data.X), W)


class _Steps(NamedTuple):
    """Compiled functions of one structure."""

    begin: Callable[..., Any]
    zero: Callable[..., Any]
    warm_up: Callable[..., Any]
    window: Callable[..., Any]


@lru_cache(maxsize=16)
def _compiled(model: Model, settings: Settings) -> _Steps:
    """First state of Adam, the warm-up, and a window of iterations."""
    import blackjax
    import optax
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    optimizer = optax.adam(settings.rate)
    kernel = blackjax.hmc.build_kernel() if settings.sampler == "hmc" else blackjax.nuts.build_kernel()
    linear = model.family is None

    def step(key: Array, x: Array, density: Any, size: Array, inverse_mass: Array, leapfrog: Array) -> Any:
        if settings.sampler == "hmc":
            return kernel(key, x, density, size, inverse_mass, leapfrog)
        return kernel(key, x, density, size, inverse_mass)

    def warm_up(
        key: Array, x: Array, at: Parameters, data: Any, frame: Frame, size: Array, leapfrog: Array, target: Array, steps: Array
    ) -> Any:
        backend.traces["mcem"] += 1
        density = expectation.effects_density(model, settings.dense, frame, data, at)
        init, update, final = dual_averaging_adaptation(target)
        mass = jnp.ones_like(x)
        state = blackjax.hmc.init(x, density)

        def body(i: Array, carry: Any) -> Any:
            state, adapting, rate = carry
            own = jax.random.fold_in(jax.random.wrap_key_data(key), i)
            state, info = step(own, state, density, jnp.exp(adapting.log_step_size), mass, leapfrog)
            return state, update(adapting, info.acceptance_rate), rate + info.acceptance_rate

        state, adapting, rate = jax.lax.fori_loop(0, steps, body, (state, init(size), jnp.zeros(())))
        return state.position, final(adapting), rate / steps

    def iteration(
        carry: Any, key: Array, data: Any, frame: Frame, leapfrog: Array, target: Array, count: Array, adapt: Array, smoothing: Array
    ) -> Any:
        (x, at, zeta, adam, size, past, share), effects = carry
        density = expectation.effects_density(model, settings.dense, frame, data, at)
        mass = jnp.ones_like(x)
        state = blackjax.hmc.init(x, density)

        def draw(i: Array, inner: Any) -> Any:
            state, total, rate, gradients = inner
            state, info = step(jax.random.fold_in(key, i), state, density, size, mass, leapfrog)
            b = expectation.effects(model, settings.dense, frame, state.position)
            total = expectation.add_draw(model, frame, data, at, total, b)
            return state, total, rate + info.acceptance_rate, gradients + info.num_integration_steps

        state, total, rate, gradients = jax.lax.fori_loop(0, count, draw, (state, zero(), jnp.zeros(()), jnp.zeros(())))
        own: Statistics = jax.tree.map(lambda v: v / count, total)
        mean: Statistics = jax.tree.map(lambda old, new: old + share * (new - old), past, own)
        rate = rate / count
        loss = expectation.expected_loss(model, data, at.d, at.G, at.log_sigma, own)
        new, zeta, adam = maximise(at, zeta, adam, data, frame, mean)
        size = size * jnp.exp(adapt * 0.02 * (rate - target))
        b = expectation.effects(model, settings.dense, frame, state.position)
        record = {
            "loss": loss, "acceptance": rate, "gradients": gradients, "step_size": size,
            "watched": jnp.concatenate([each[:, :WATCH].reshape(-1) for each in b]),
            "G": new.G, "d": new.d, "log_sigma": new.log_sigma, "log_phi": new.log_phi,
        }  # fmt: skip
        effects = tuple(old + each for old, each in zip(effects, own.mean, strict=True))
        return ((state.position, new, zeta, adam, size, mean, smoothing), effects), record

    def zero() -> Statistics:
        return expectation.no_statistics(model, model.p)

    def maximise(at: Parameters, zeta: Array, adam: Any, data: Any, frame: Frame, mean: Statistics) -> Any:
        if not settings.adam:
            return expectation.maximise(model, data, frame.cov, at, mean, SCORING, settings.fixed_sigma), zeta, adam
        free = {"d": at.d, "log_phi": at.log_phi, "log_sigma": at.log_sigma, "zeta": zeta}

        def loss(free: dict[str, Array]) -> Array:
            return expectation.expected_loss(model, data, free["d"], expectation.by_scales(model, free["zeta"]), free["log_sigma"], mean)

        gradient = jax.grad(loss)(free)
        if not linear:
            gradient = {**gradient, "d": -mean.score[:-1], "log_phi": -mean.score[-1]}
        updates, adam = optimizer.update(gradient, adam, free)
        free = optax.apply_updates(free, updates)
        log_sigma = at.log_sigma if settings.fixed_sigma or not linear else free["log_sigma"]
        log_phi = free["log_phi"] if model.family is not None and model.family.has_dispersion else at.log_phi
        return Parameters(free["d"], expectation.by_scales(model, free["zeta"]), log_sigma, log_phi), free["zeta"], adam

    def begin(zeta: Array, at: Parameters) -> Any:
        if not settings.adam:
            return ()
        return optimizer.init({"d": at.d, "log_phi": at.log_phi, "log_sigma": at.log_sigma, "zeta": zeta})

    def window(
        key: Array, carry: Any, data: Any, frame: Frame, leapfrog: Array, target: Array, count: Array, adapt: Array, smoothing: Array
    ) -> Any:
        backend.traces["mcem"] += 1
        effects = tuple(jnp.zeros((term.k, term.J)) for term in model.terms)

        def body(carry: Any, own: Array) -> Any:
            return iteration(carry, own, data, frame, leapfrog, target, count, adapt, smoothing)

        keys = jax.random.split(jax.random.wrap_key_data(key), WINDOW)
        (carry, effects), record = jax.lax.scan(body, (carry, effects), keys)
        return carry, [b / WINDOW for b in effects], record

    return _Steps(jax.jit(begin), jax.jit(zero), jax.jit(warm_up), jax.jit(window))
