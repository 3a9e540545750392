"""Full Bayes by Hamiltonian Monte Carlo: the no-U-turn sampler of blackjax on the posterior density.

A linear model's random effects are integrated out analytically, so that only fixed effects, standard deviations, correlations
and sigma are walked through, whatever the number of rows or levels; for each draw kept the effects are then drawn from their
normal distribution given it. A generalized model's effects are walked through in a non-centred form that knows the data
(:mod:`lmm.model.posterior.posterior_density`). Every chain starts near the likelihood fit, moved away from it at random and with variances
away from zero, and adapts its step size and metric in windows as Stan does.

Hoffman & Gelman (2014), J. Mach. Learn. Res. 15; Betancourt (2017), arXiv:1701.02434, for the multinomial form; Vehtari et al.
(2021), Bayesian Anal. 16, for R-hat and effective sample sizes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import jax
import numpy as np

from lmm.estimators.control import Control
from lmm.estimators.estimator import Callback, Estimator
from lmm.estimators.from_posterior import (
    FIXED,
    KEEP,
    SCALES,
    as_centred,
    covariances_as_written,
    covariances_at,
    effects_as_written,
    estimate_from,
    mean_covariance,
    prepare,
)
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood
from lmm.estimators.monte_carlo.chain_diagnostics import diagnose_chains
from lmm.estimators.monte_carlo.hamiltonian import (
    IDLE,
    STATISTICS,
    Chain,
    compiled,
    first_position,
    moments,
    scattered,
    schedule,
)
from lmm.estimators.optional import need
from lmm.estimators.settings import (
    CONTROL,
    COUNT,
    FLAG_OR_NONE,
    POSITIVE,
    PRIORS,
    PROBABILITY,
    RNG,
    check_settings,
    or_none,
    refuse_evaluation,
)
from lmm.linalg import threads
from lmm.linalg.devices import backend
from lmm.model.posterior import posterior_density as density
from lmm.model.posterior.joint import Model, make_model
from lmm.model.posterior.posterior_density import GeneralizedData, Space, SumData
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Draws, Estimate, Report
from lmm.priors import Prior, Priors
from lmm.types import TraceLine

#: rows, or numbers in a position, from which an accelerator is worth its start-up
ACCELERATE = 20_000
#: what a posterior must reach: R-hat of Vehtari et al. (2021), and effective draws of every parameter
R_HAT, ESS = 1.01, 400


@dataclass(frozen=True)
class NUTS(Estimator):
    """Full Bayes by the no-U-turn sampler, for linear and generalized models.

    Parameters
    ----------
    chains, warmup, draws : chains, and per chain the steps of adaptation, which are thrown away, and the draws kept.
    target_acceptance : mean acceptance probability that the step size is adapted to; nearer to 1 takes smaller steps.
    max_tree_depth : doublings of a trajectory at the most, 2^depth - 1 steps.
    sigma : residual standard deviation of a linear model; None (default) gives it a prior, a number fixes it.
    priors : mapping of names to priors, see :mod:`lmm.priors`; what is not named has its default.
    keep_effects : keep the draws of the random effects; None keeps up to 50 million numbers. Their means and covariances are there
        in any case.
    batch : run all chains as one batch instead of side by side; None does so on an accelerator.
    rng : seed or generator.
    control : :class:`lmm.Control` (``verbose``, ``progress``).

    Raises
    ------
    ArgumentError : a setting out of range, without blackjax, or for a family or link that JAX has no density of.

    Examples
    --------
    >>> import lmm
    >>> data = lmm.datasets.load("sleepstudy")
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", data, method=lmm.NUTS(rng=1))       # doctest: +SKIP
    >>> fit.draws.summary()                                                                   # doctest: +SKIP
    """

    chains: int = 4
    warmup: int = 1000
    draws: int = 1000
    target_acceptance: float = 0.9
    max_tree_depth: int = 10
    sigma: float | None = None
    priors: Mapping[str, Prior] | None = None
    keep_effects: bool | None = None
    batch: bool | None = None
    rng: None | int | np.random.Generator = 0
    control: Control = Control()
    name = "nuts"

    def __post_init__(self) -> None:
        check_settings(
            self,
            chains=COUNT,
            warmup=COUNT,
            draws=COUNT,
            target_acceptance=PROBABILITY,
            max_tree_depth=COUNT,
            sigma=or_none(POSITIVE),
            priors=PRIORS,
            keep_effects=FLAG_OR_NONE,
            batch=FLAG_OR_NONE,
            rng=RNG,
            control=CONTROL,
        )
        refuse_evaluation(self, "a sampler has nothing to evaluate")

    def fit(
        self,
        problem: Problem | GeneralizedProblem,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Estimate:
        """Sample the posterior.

        Parameters
        ----------
        problem : the sums of a linear design, or the rows of a generalized one.
        start : theta (m,) from which the likelihood fit begins, near which the chains start.
        callback : called with a line of the trace after each block of draws.
        """
        need("blackjax", "method='nuts'")
        begin = perf_counter()
        rng = np.random.default_rng(self.rng)
        model = make_model(problem, "log")
        model.family.require_jax()
        written, (problem, priors) = (
            problem,
            prepare(problem, model, self.priors, self._held(problem)),
        )
        # costs a small part of what follows
        near = maximum_likelihood(problem).fit(problem, as_centred(problem, start, priors.frames))
        data: SumData | GeneralizedData
        if isinstance(problem, Problem):
            sigma = near.sigma if self.sigma is None else float(self.sigma)
            data, plan = density.sum_data(problem, near, sigma, priors)
            space = Space(model, plan, self.sigma is None)
        else:
            data, own_plan = density.generalized_data(problem, near, priors)
            space = Space(model, own_plan, False)
        numbers = self.chains * self.draws * space.effects
        keep = numbers <= KEEP if self.keep_effects is None else bool(self.keep_effects)
        first = first_position(problem, near, space)
        chains = self._sample(space, data, first, keep, rng, callback)
        elapsed = perf_counter() - begin
        return self._estimate(
            written, space, data, priors, chains, {**problem.seconds, "sample": elapsed}
        )

    def _held(self, problem: Problem | GeneralizedProblem) -> dict[str, str]:
        """Parameters that are not sampled, and why."""
        return (
            {"sigma": f"sigma={self.sigma:g} fixes it."}
            if isinstance(problem, Problem) and self.sigma is not None
            else {}
        )

    # ---- sampling ----

    def _sample(
        self,
        space: Space,
        data: SumData | GeneralizedData,
        first: np.ndarray,
        keep: bool,
        rng: np.random.Generator,
        callback: Callback | None,
    ) -> list[Chain]:
        """All chains: one after another or side by side on the idle cores, or in one batch on an accelerator."""
        batch = self.batch
        device = None
        if backend.has_accelerator() and _work(space, data) < ACCELERATE:
            device = jax.devices("cpu")[
                0
            ]  # an accelerator waits longer for such small work than it works
        elif batch is None:
            batch = backend.has_accelerator()
        seeds = rng.spawn(self.chains)
        groups = [list(range(self.chains))] if batch else [[which] for which in range(self.chains)]
        lock, stop = threading.Lock(), threading.Event()

        def tell(line: TraceLine) -> None:
            if callback is not None:
                text = f"chain {line['chain'] + 1}, {line['stage']}: acceptance {line['acceptance_rate']:.2f}, step {line['step_size']:.3g}"
                with lock:
                    callback(line | {"text": text})

        blocks = schedule(int(self.warmup), int(self.draws))

        def run(group: list[int]) -> list[Chain]:
            with backend.our_settings(), jax.default_device(device):  # a thread's own settings
                return self._run(
                    space,
                    backend.put(data),
                    first,
                    keep,
                    {which: seeds[which] for which in group},
                    blocks,
                    tell,
                    stop,
                )

        workers = min(len(groups), threads.idle_cores())
        if workers == 1:
            return [chain for group in groups for chain in run(group)]
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(run, group) for group in groups]
            try:
                return [chain for future in futures for chain in future.result()]
            except BaseException:
                stop.set()  # chains end at their next block
                for future in futures:
                    future.cancel()
                raise

    def _run(
        self,
        space: Space,
        data: SumData | GeneralizedData,
        first: np.ndarray,
        keep: bool,
        seeds: dict[int, np.random.Generator],
        blocks: list[tuple[np.ndarray, int]],
        tell: Callable[[dict[str, object]], None],
        stop: threading.Event,
    ) -> list[Chain]:
        """Some of the chains, as one batch."""
        kernels = compiled(space, int(self.max_tree_depth), len(seeds) > 1, keep)
        target = np.asarray(float(self.target_acceptance))

        def keys() -> np.ndarray:
            return np.stack([rng.integers(0, 2**32, 2, dtype=np.uint32) for rng in seeds.values()])

        chains = [Chain(which) for which in seeds]
        state = jax.tree.map(
            lambda *a: np.stack(a),
            *(scattered(kernels.begin, data, space, first, rng) for rng in seeds.values()),
        )
        for stages, count in blocks:
            if stop.is_set():
                break
            state, x, out, step_size = kernels.block(keys(), state, stages, target, data)
            active = int(np.sum(stages[:, 0] < IDLE))
            out, step_size = jax.tree.map(np.asarray, (out, step_size))
            for c, chain in enumerate(chains):
                tell(
                    chain.record(
                        {name: values[c] for name, values in out.items()},
                        float(step_size[c]),
                        active,
                        count,
                    )
                )
            if count:
                found = jax.tree.map(
                    np.asarray, kernels.effects(keys(), x, np.asarray(count), data)
                )
                for c, chain in enumerate(chains):
                    positions, effects, sums = jax.tree.map(lambda a, c=c: a[c], found)
                    chain.add(positions, effects, sums, count)
        return chains

    # ---- what was found ----

    def _estimate(
        self,
        problem: Problem | GeneralizedProblem,
        space: Space,
        data: SumData | GeneralizedData,
        priors: Priors,
        chains: list[Chain],
        seconds: dict[str, float],
    ) -> Estimate:
        model, linear = space.model, space.linear
        x = np.stack([np.concatenate(chain.positions) for chain in chains])  # (C, D, parameters)
        p, z, shape = model.p, model.size, x.shape[:2]
        beta = np.asarray(data.shift) + x[:, :, :p] @ np.asarray(data.unit).T
        flat = covariances_at(model, x[:, :, p : p + z].reshape(-1, z), priors)
        covariances = tuple(
            G.reshape(*shape, *G.shape[1:]) for G in covariances_as_written(flat, priors.frames)
        )
        free = space.free_sigma or space.has_phi
        sigma, phi = model.family.drawn(
            np.exp(x[:, :, -1]) if free else np.full(shape, self.sigma or 1.0)
        )
        terms = range(len(chains[0].effects[0]))
        effects = [
            np.stack([np.concatenate([block[t] for block in chain.effects]) for chain in chains])
            for t in terms
        ]
        kept = tuple(
            np.ascontiguousarray(np.swapaxes(own, 2, 3) @ H.T)
            for own, H in zip(effects, priors.frames[: len(effects)], strict=True)
        )
        statistics = {
            name: np.stack([np.concatenate(chain.statistics[name]) for chain in chains])
            for name in STATISTICS
        }
        draws = Draws(beta, covariances, sigma, phi, kept, statistics)
        convergence, messages, worst, least = self._diagnosed(model, draws, chains, seconds)
        modes, mode_cov = moments(chains, self.chains * self.draws)
        modes, mode_cov = (
            effects_as_written(modes, priors.frames),
            covariances_as_written(mode_cov, priors.frames),
        )
        rows = beta.reshape(-1, p)
        count = int(statistics["diverging"].sum())
        notes: tuple[str, ...] = (
            f"Estimates are posterior means and 'Posterior SD' posterior standard deviations; {SCALES}",
        )
        if linear and self.sigma is not None:
            notes += (FIXED.format(self.sigma),)
        title = f"{model.family.model_title} mixed model fit by Hamiltonian Monte Carlo (NUTS), {self.chains} x {self.draws} draws"
        criterion = (("R-hat", worst), ("ESS", least), ("divergences", float(count)))
        return estimate_from(
            problem,
            method=self.name,
            beta=rows.mean(axis=0),
            beta_cov=np.cov(rows, rowvar=False).reshape(p, p)
            if len(rows) > 1
            else np.full((p, p), np.nan),
            covariances=covariances_as_written([mean_covariance(G) for G in flat], priors.frames),
            sigma=1.0 if sigma is None else float(sigma.mean()),
            phi=1.0 if phi is None else float(phi.mean()),
            modes=tuple(modes),
            mode_cov=tuple(mode_cov),
            convergence=convergence,
            trace=tuple(line for chain in chains for line in chain.trace),
            report=Report(title, criterion, notes),
            draws=draws,
            messages=messages,
        )

    def _diagnosed(
        self, model: Model, draws: Draws, chains: list[Chain], seconds: dict[str, float]
    ) -> tuple[Convergence, tuple[str, ...], float, float]:
        """Whether the chains agree, and what to do where they do not."""
        found = diagnose_chains(parameters(model, draws))
        known = np.isfinite(found.r_hat)
        worst, least = (
            (float(np.max(found.r_hat[known])), float(np.min(found.ess_bulk[known])))
            if known.any()
            else (np.nan, np.nan)
        )
        diverged = int(draws.statistics["diverging"].sum())
        deep = int(np.sum(draws.statistics["tree_depth"] >= self.max_tree_depth))
        wrong = []
        if np.isnan(worst):
            wrong.append(
                "R-hat needs four draws that differ in every chain; raise draws= and warmup="
            )
        elif not worst < R_HAT:
            wrong.append(
                f"the largest R-hat is {worst:.3f}, not below {R_HAT}: the chains do not agree yet; raise warmup= "
                f"(now {self.warmup}) and draws= ({self.draws})"
            )
        if diverged:
            wrong.append(
                f"{diverged} of {self.chains * self.draws} transitions diverged, so that a part of the posterior may be missing; "
                f"raise target_acceptance= (now {self.target_acceptance:g}), or give tighter priors to the standard deviations"
            )
        messages = []
        if least < ESS:
            messages.append(
                f"the smallest effective sample size is {least:.0f}, below {ESS}: intervals are uncertain; raise draws=."
            )
        if deep:
            messages.append(
                f"{deep} transitions were cut short at max_tree_depth={self.max_tree_depth}: the chains move slowly there; "
                "raise it, or warmup=."
            )
        message = (
            "; ".join(wrong)
            or f"R-hat is below {R_HAT} for every parameter and no transition diverged"
        )
        iterations = self.chains * (self.warmup + self.draws)
        gradients = sum(chain.warmup for chain in chains) + int(draws.statistics["steps"].sum())
        convergence = Convergence(
            not wrong, message, iterations, gradients, gradients, float("nan"), seconds
        )
        return convergence, tuple(messages), worst, least


def parameters(model: Model, draws: Draws) -> np.ndarray:
    """Coefficients, standard deviations, correlations, and sigma or the dispersion: (C, D, q)."""
    values = [draws.beta]
    for term, G in zip(model.terms, draws.covariances, strict=True):
        values.append(term.structure.describe(G))
    values += [own[:, :, None] for own in (draws.sigma, draws.phi) if own is not None]
    return np.concatenate(values, axis=2)


def _work(space: Space, data: SumData | GeneralizedData) -> int:
    """Numbers that one evaluation goes through."""
    return space.effects if isinstance(data, SumData) else max(space.effects, len(data.rows.y))
