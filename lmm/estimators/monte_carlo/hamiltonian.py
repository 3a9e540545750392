"""Chains of the no-U-turn sampler: where they begin, how they adapt and move, what they record.

One compiled function makes a block of steps, warm-up or not: what it does at each is data, so that chains of any length run on
it. In the warm-up the step size follows the acceptance rate by dual averaging, and the metric is the covariance of the draws in
windows that double, as in Stan; blackjax has both, and the step itself.

Hoffman & Gelman (2014), J. Mach. Learn. Res. 15; Carpenter et al. (2017), J. Stat. Softw. 76(1), for the windows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmm.errors import ArgumentError
from lmm.estimators.from_posterior import level_variances
from lmm.linalg.devices import backend
from lmm.model.posterior import posterior_density as density
from lmm.model.posterior import scales
from lmm.model.posterior.posterior_density import GeneralizedData, Space, SumData
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.types import Kernel, TraceLine
from lmm.types import KernelArray as Array

#: steps in one compiled call
BLOCK = 100
#: parameters up to which a linear model's metric is a full matrix
DENSE_METRIC = 50
#: spread of the starts: of d, in standard errors of a linear model, of log standard deviations and correlations, of log sigma, and
#: of effects v
JITTER = (1.0, 0.4, 0.1, 0.5)
#: of d in units of orthonormal columns
JITTER_ROWS = 0.1
#: what a step does: adapt the step size, adapt both, neither, or nothing at all
FAST, SLOW, KEEP, IDLE = 0, 1, 2, 3


class Kernels(NamedTuple):
    """Compiled functions of one structure.

    begin : (x, data), the state of one chain.
    block : (key, state, schedule (BLOCK, 2), target, data), the state after it and what was recorded.
    effects : (key, positions (BLOCK, m), count, data), effects and sums over the first ``count``.

    The last two have chains as their first axis, in the arguments that belong to a chain.
    """

    begin: Kernel
    block: Kernel
    effects: Kernel


class ChainState(NamedTuple):
    """A chain between steps: blackjax's states of position, step size and metric."""

    hmc: Any
    step_size: Any
    metric: Any


def schedule(warmup: int, draws: int) -> list[tuple[np.ndarray, int]]:
    """Per block what its steps do (BLOCK, 2), a stage and whether a window of the metric ends, and how many of them are draws.

    Draws begin with a block of their own.
    """
    from blackjax.adaptation.window_adaptation import build_schedule

    blocks = []
    with backend.our_settings():
        adapting = np.asarray(build_schedule(warmup), dtype=np.int32)
    for count, stages in (
        (0, adapting),
        (1, np.tile(np.array([KEEP, 0], dtype=np.int32), (draws, 1))),
    ):
        for start in range(0, len(stages), BLOCK):
            own = stages[start : start + BLOCK]
            idle = np.tile(np.array([IDLE, 0], dtype=np.int32), (BLOCK - len(own), 1))
            blocks.append((np.concatenate([own, idle]), count * len(own)))
    return blocks


@lru_cache(maxsize=32)
def compiled(space: Space, depth: int, batch: bool, keep: bool) -> Kernels:
    """The kernels of one structure; those of a ``batch`` map over chains, the others take one at a time."""
    import blackjax
    from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    kernel = blackjax.nuts.build_kernel()
    metric_begin, metric_update, metric_final = mass_matrix_adaptation(
        not (space.linear and space.size <= DENSE_METRIC)
    )

    def at(x: Array, data: SumData | GeneralizedData) -> Array:
        backend.traces["nuts"] += 1
        return density.log_posterior(x, data, space)

    def begin(x: Array, data: SumData | GeneralizedData) -> ChainState:
        first = blackjax.nuts.init(x, lambda x: at(x, data))
        size = jax.tree.map(
            lambda a: jnp.asarray(a, dtype=float), dual_averaging_adaptation(0.8)[0](1.0)
        )
        return ChainState(first, size, metric_begin(space.size))

    def block(
        key: Array, state: ChainState, stages: Array, target: Array, data: SumData | GeneralizedData
    ) -> Any:
        step_begin, step_update, step_final = dual_averaging_adaptation(target)

        def move(state: ChainState, key: Array, stage: Array, ends: Array) -> Any:
            adapts = stage < KEEP
            length = jnp.where(
                adapts, jnp.exp(state.step_size.log_step_size), step_final(state.step_size)
            )
            hmc, info = kernel(
                key,
                state.hmc,
                lambda x: at(x, data),
                length,
                state.metric.inverse_mass_matrix,
                max_num_doublings=depth,
            )
            size = _choose(
                adapts, step_update(state.step_size, info.acceptance_rate), state.step_size
            )
            metric = _choose(stage == SLOW, metric_update(state.metric, hmc.position), state.metric)
            metric = _choose(ends, metric_final(metric), metric)
            size = _choose(ends, step_begin(step_final(size)), size)
            out = {
                "diverging": info.is_divergent,
                "acceptance_rate": info.acceptance_rate,
                "steps": info.num_integration_steps,
                "tree_depth": info.num_trajectory_expansions,
                "log_density": hmc.logdensity,
                "energy": info.energy,
            }
            return ChainState(hmc, size, metric), out

        def step(state: ChainState, own: Any) -> Any:
            key, (stage, ends) = own
            arguments = (state, key, stage, ends > 0)
            nothing = jax.tree.map(
                lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(move, *arguments)[1]
            )
            state, out = jax.lax.cond(
                stage < IDLE, move, lambda state, *_: (state, nothing), *arguments
            )
            return state, (state.hmc.position, out)

        keys = jax.random.split(jax.random.wrap_key_data(key), BLOCK)
        state, (x, out) = jax.lax.scan(step, state, (keys, (stages[:, 0], stages[:, 1])))
        return state, x, out, step_final(state.step_size)

    def effects(key: Array, x: Array, count: Array, data: SumData | GeneralizedData) -> Any:
        backend.traces["nuts"] += 1

        def one(sums: DrawSums, own: Any) -> Any:
            index, key, x = own
            if isinstance(data, SumData):
                assert space.plan is not None
                z = jax.random.normal(key, (density.padded_effects(space.plan),))
                mean, b = density.conditional_effects(x, z, data, space)
            else:
                mean = b = density.random_effects(density.unpack(space, x), data, space)[0]
            more = DrawSums(mean, b, [own[:, None] * own[None] for own in b])
            counted = jnp.where(index < count, 1.0, 0.0)
            return jax.tree.map(
                lambda total, own: total + counted * own, sums, more
            ), b if keep else []

        zero = [jnp.zeros((term.k, term.J)) for term in space.model.terms]
        empty = DrawSums(
            zero, zero, [jnp.zeros((term.k, term.k, term.J)) for term in space.model.terms]
        )
        keys = jax.random.split(jax.random.wrap_key_data(key), BLOCK)
        sums, b = jax.lax.scan(one, empty, (jnp.arange(BLOCK), keys, x))
        return x[:, : space.parameters], b, sums

    every = (block, (0, 0, None, None, None)), (effects, (0, 0, None, None))
    wrap = jax.vmap if batch else _single
    return Kernels(jax.jit(begin), *(jax.jit(wrap(function, axes)) for function, axes in every))


def _choose(condition: Array, yes: object, no: object) -> object:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _single(function: Kernel, axes: tuple[int | None, ...]) -> Kernel:
    """vmap over one chain, without the cost of a batch."""

    def of(*arguments: Any) -> object:
        own = [
            a if axis is None else jax.tree.map(lambda v: v[0], a)
            for a, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda v: v[None], function(*own))

    return of


# ---- what they record ----

STATISTICS = ("diverging", "acceptance_rate", "steps", "tree_depth", "log_density", "energy")


class Chain:
    """What one chain recorded, in blocks."""

    def __init__(self, which: int):
        self.which = which
        self.length = 0
        self.warmup = 0  # leapfrog steps that it took
        self.positions: list[np.ndarray] = []  # parameters (D, m)
        self.statistics: dict[str, list[np.ndarray]] = {name: [] for name in STATISTICS}
        self.effects: list[list[np.ndarray]] = []  # per block and term (D, k, J)
        self.sums: list[DrawSums] = []
        self.trace: list[TraceLine] = []

    def add(self, x: np.ndarray, effects: list[np.ndarray], sums: DrawSums, count: int) -> None:
        """Take in a block, of which the first ``count`` positions are draws."""
        self.length += count
        self.positions.append(x[:count])
        self.effects.append([own[:count] for own in effects])
        self.sums.append(sums)

    def record(
        self, out: dict[str, np.ndarray], step_size: float, active: int, draws: int
    ) -> TraceLine:
        """A block's line of the trace; ``active`` steps were made, ``draws`` of them kept."""
        own = {name: out[name][:active] for name in STATISTICS}
        if draws:
            for name, values in self.statistics.items():
                values.append(own[name])
        else:
            self.warmup += int(own["steps"].sum())
        line = {
            "chain": self.which,
            "stage": "draws" if draws else "warmup",
            "iterations": active,
            "acceptance_rate": float(own["acceptance_rate"].mean()),
            "divergences": int(own["diverging"].sum()),
            "steps": float(own["steps"].mean()),
            "step_size": step_size,
            "log_density": float(own["log_density"].mean()),
        }
        self.trace.append(line)
        return line


class DrawSums(NamedTuple):
    """Sums over draws, per term: conditional means of the effects and effects (k, J), and their squares b b' (k, k, J)."""

    mean: list[Array]
    first: list[Array]
    second: list[Array]


def moments(chains: list[Chain], count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Posterior means (J, k) and covariances (J, k, k) of the effects per term."""
    total = jax.tree.map(
        lambda *parts: np.sum(parts, axis=0) / count,
        *(own for chain in chains for own in chain.sums),
    )
    covariances = [
        second - first[:, None] * first[None]
        for first, second in zip(total.first, total.second, strict=True)
    ]
    return [np.ascontiguousarray(m.T) for m in total.mean], [
        np.ascontiguousarray(np.moveaxis(C, -1, 0)) for C in covariances
    ]


# ---- where chains begin ----


def first_position(
    problem: Problem | GeneralizedProblem, near: Estimate, space: Space
) -> np.ndarray:
    """x at a likelihood fit; variances that it finds to be zero begin where a level's data would just show them."""
    model = space.model
    covariances, floors = [], []
    for A, T in zip(problem.information(near), near.factors, strict=True):
        covariances.append(near.scale2 * T @ T.T)
        floors.append(np.sqrt(0.25 * level_variances(A, near.scale2)))
    zeta = scales.from_covariances(model.terms, covariances, floors, model.transform)
    parts = [np.zeros(model.p), zeta]
    if space.free_sigma:
        parts.append(np.array([np.log(near.sigma)]))
    if space.has_phi:
        parts.append(np.array([np.log(near.phi)]))
    if not space.linear:
        if space.plan is not None:  # v is zero at the modes
            parts.append(np.zeros(space.effects))
        else:
            own = zip(covariances, floors, near.modes, strict=True)
            parts += [_standardized(b, G, floor).ravel() for G, floor, b in own]
    return np.concatenate(parts)


def _standardized(b: np.ndarray, G: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """v (k, J) of effects b (J, k)."""
    sd = np.maximum(np.sqrt(np.diagonal(G)), floor)
    L = np.linalg.cholesky(0.9 * G + np.diag(sd**2 - 0.9 * np.diagonal(G)))
    return np.asarray(np.linalg.solve(L, b.T))


def scattered(
    begin: Callable[..., ChainState],
    data: SumData | GeneralizedData,
    space: Space,
    first: np.ndarray,
    rng: np.random.Generator,
) -> ChainState:
    """The state of a chain that starts around ``first``, drawn in until the density is positive."""
    p, z, m = space.model.p, space.model.size, space.parameters
    d = (JITTER_ROWS if space.plan is None else JITTER[0]) * rng.standard_normal(p)
    zeta = JITTER[1] * rng.uniform(-1.0, 1.0, z)
    rest = np.concatenate(
        [
            JITTER[2] * rng.standard_normal(m - p - z),
            JITTER[3] * rng.standard_normal(space.size - m),
        ]
    )
    away = np.concatenate([d, zeta, rest])
    for _ in range(20):
        state = begin(first + away, data)
        if (
            np.isfinite(float(state.hmc.logdensity))
            and np.isfinite(state.hmc.logdensity_grad).all()
        ):
            return state
        away = 0.5 * away
    raise ArgumentError(
        "method='nuts' found no starting point with a positive posterior density near the likelihood fit; check that the priors "
        "allow the estimates of method='ml' or 'laplace'."
    )
