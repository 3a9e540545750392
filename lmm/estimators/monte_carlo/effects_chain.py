"""The chain of Monte Carlo EM, compiled: a warm-up that adapts the step size, and windows of EM iterations.

A step is blackjax's HMC or NUTS in the coordinates of :class:`lmm.model.posterior.expectation.Frame`; data, coordinates, step size and the
number of draws are arguments, so that a second fit of the same structure compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmm.linalg.devices import backend
from lmm.model.posterior import expectation
from lmm.model.posterior.expectation import Frame, Parameters, Statistics
from lmm.model.posterior.joint import Model, RowData, Sums
from lmm.types import Kernel
from lmm.types import KernelArray as Array

#: iterations in a window
WINDOW = 50
#: levels of each term whose effects the trace follows
WATCH = 5
#: part of a scoring step of the fixed effects that an iteration takes, its score being an average over earlier draws too
SCORING = 0.25


class Settings(NamedTuple):
    """What is fixed when the chain is compiled."""

    sampler: str
    adam: bool
    rate: float
    fixed_sigma: bool
    dense: tuple[int, ...]


class Pace(NamedTuple):
    """What may change from one call to the next.

    Attributes
    ----------
    leapfrog : leapfrog steps of an HMC step.
    target : acceptance rate that the step size is adapted to.
    count : steps of the chain, of a warm-up or in an iteration.
    adapt : 1 where windows adapt the step size, else 0.
    smoothing : share of an iteration's draws in the averages.
    """

    leapfrog: Array
    target: Array
    count: Array
    adapt: Array
    smoothing: Array


class ChainSteps(NamedTuple):
    """Compiled functions of one structure."""

    begin: Kernel
    zero: Kernel
    warm_up: Kernel
    window: Kernel


@lru_cache(maxsize=16)
def compiled(model: Model, settings: Settings) -> ChainSteps:
    """First state of Adam, the warm-up, and a window of iterations."""
    import blackjax
    import optax
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    optimizer = optax.adam(settings.rate)
    kernel = (
        blackjax.hmc.build_kernel() if settings.sampler == "hmc" else blackjax.nuts.build_kernel()
    )
    linear = model.linear

    def step(
        key: Array,
        x: Array,
        density: Callable[[Array], Array],
        size: Array,
        inverse_mass: Array,
        leapfrog: Array,
    ) -> Any:
        if settings.sampler == "hmc":
            return kernel(key, x, density, size, inverse_mass, leapfrog)
        return kernel(key, x, density, size, inverse_mass)

    def warm_up(
        key: Array,
        x: Array,
        at: Parameters,
        data: Sums | RowData,
        frame: Frame,
        size: Array,
        pace: Pace,
    ) -> tuple[Array, Array, Array]:
        backend.traces["mcem"] += 1
        density = expectation.effects_density(model, settings.dense, frame, data, at)
        init, update, final = dual_averaging_adaptation(pace.target)
        mass = jnp.ones_like(x)
        state = blackjax.hmc.init(x, density)

        def body(i: Array, carry: Any) -> Any:
            state, adapting, rate = carry
            own = jax.random.fold_in(jax.random.wrap_key_data(key), i)
            size = jnp.exp(adapting.log_step_size)
            state, info = step(own, state, density, size, mass, pace.leapfrog)
            return state, update(adapting, info.acceptance_rate), rate + info.acceptance_rate

        state, adapting, rate = jax.lax.fori_loop(
            0, pace.count, body, (state, init(size), jnp.zeros(()))
        )
        return state.position, final(adapting), rate / pace.count

    def iteration(carry: Any, key: Array, data: Sums | RowData, frame: Frame, pace: Pace) -> Any:
        (x, at, zeta, adam, size, past, share), effects = carry
        density = expectation.effects_density(model, settings.dense, frame, data, at)
        mass = jnp.ones_like(x)
        state = blackjax.hmc.init(x, density)

        def draw(i: Array, inner: Any) -> Any:
            state, total, rate, gradients = inner
            own = jax.random.fold_in(key, i)
            state, info = step(own, state, density, size, mass, pace.leapfrog)
            b = expectation.effects(model, settings.dense, frame, state.position)
            total = expectation.add_draw(model, frame, data, at, total, b)
            return state, total, rate + info.acceptance_rate, gradients + info.num_integration_steps

        state, total, rate, gradients = jax.lax.fori_loop(
            0, pace.count, draw, (state, zero(), jnp.zeros(()), jnp.zeros(()))
        )
        own: Statistics = jax.tree.map(lambda v: v / pace.count, total)
        mean: Statistics = jax.tree.map(lambda old, new: old + share * (new - old), past, own)
        rate = rate / pace.count
        loss = expectation.expected_loss(model, data, at.d, at.G, at.log_sigma, own)
        new, zeta, adam = maximise(at, zeta, adam, data, frame, mean)
        size = size * jnp.exp(pace.adapt * 0.02 * (rate - pace.target))
        b = expectation.effects(model, settings.dense, frame, state.position)
        record = {
            "loss": loss, "acceptance": rate, "gradients": gradients, "step_size": size,
            "watched": jnp.concatenate([each[:, :WATCH].reshape(-1) for each in b]),
            "G": new.G, "d": new.d, "log_sigma": new.log_sigma, "log_phi": new.log_phi,
        }  # fmt: skip
        effects = tuple(old + each for old, each in zip(effects, own.mean, strict=True))
        return ((state.position, new, zeta, adam, size, mean, pace.smoothing), effects), record

    def zero() -> Statistics:
        return expectation.no_statistics(model, model.p)

    def maximise(
        at: Parameters,
        zeta: Array,
        adam: object,
        data: Sums | RowData,
        frame: Frame,
        mean: Statistics,
    ) -> tuple[Parameters, Array, object]:
        if not settings.adam:
            return (
                expectation.maximise(
                    model, data, frame.cov, at, mean, SCORING, settings.fixed_sigma
                ),
                zeta,
                adam,
            )
        free = adams(at, zeta)

        def loss(free: dict[str, Array]) -> Array:
            return expectation.expected_loss(
                model,
                data,
                free["d"],
                expectation.by_scales(model, free["zeta"]),
                free["log_sigma"],
                mean,
            )

        gradient = jax.grad(loss)(free)
        if not linear:
            gradient = {**gradient, "d": -mean.score[:-1], "log_phi": -mean.score[-1]}
        updates, adam = optimizer.update(gradient, adam, free)
        free = optax.apply_updates(free, updates)
        log_sigma = at.log_sigma if settings.fixed_sigma or not linear else free["log_sigma"]
        log_phi = free["log_phi"] if model.family.has_dispersion else at.log_phi
        return (
            Parameters(free["d"], expectation.by_scales(model, free["zeta"]), log_sigma, log_phi),
            free["zeta"],
            adam,
        )

    def adams(at: Parameters, zeta: Array) -> dict[str, Array]:
        return {"d": at.d, "log_phi": at.log_phi, "log_sigma": at.log_sigma, "zeta": zeta}

    def begin(zeta: Array, at: Parameters) -> object:
        return optimizer.init(adams(at, zeta)) if settings.adam else ()

    def window(key: Array, carry: Any, data: Sums | RowData, frame: Frame, pace: Pace) -> object:
        backend.traces["mcem"] += 1
        effects = tuple(jnp.zeros((term.k, term.J)) for term in model.terms)

        def body(carry: Any, own: Array) -> Any:
            return iteration(carry, own, data, frame, pace)

        keys = jax.random.split(jax.random.wrap_key_data(key), WINDOW)
        (carry, effects), record = jax.lax.scan(body, (carry, effects), keys)
        return carry, [b / WINDOW for b in effects], record

    return ChainSteps(jax.jit(begin), jax.jit(zero), jax.jit(warm_up), jax.jit(window))
