"""The two ways up the evidence lower bound, with what they compile: quasi-Newton on all rows, and stochastic gradients.

The latter is Adam, or another of optax's gradient transformations, on all rows or on minibatches.

Each moves in windows of steps and hands back what every step recorded. Liu & Nocedal (1989), Math. Program. 45 (L-BFGS); Kingma &
Ba (2015), ICLR (Adam); Polyak & Juditsky (1992), SIAM J. Control Optim. 30 for the averages over a window.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmm.linalg.devices import backend
from lmm.model.posterior import elbo, scales
from lmm.model.posterior.elbo import Approximation, Parameters
from lmm.model.posterior.joint import Model, RowData
from lmm.priors import Priors
from lmm.types import KernelArray as Array

#: steps of L-BFGS and of a stochastic method in a window
CHUNK, WINDOW = 20, 200
#: rows at most in a look at the bound between minibatches
LOOK = 100_000


class QuasiNewton:
    """L-BFGS on all rows: optax's direction, the step halved until the bound rises enough (Armijo)."""

    def __init__(self, q: Parameters, arguments: tuple[Any, ...], model: Model, how: Approximation):
        leaves, self.tree = jax.tree.flatten(q)
        self.shapes = tuple(np.shape(leaf) for leaf in leaves)
        self.x = np.concatenate([np.ravel(leaf) for leaf in leaves])
        self.arguments = arguments
        self.evaluate, self.begin, self.direct, self.move = _quasi_newton(
            model, how, self.tree, self.shapes
        )
        self.value, self.gradient, self.shown = self.evaluate(self.x, *arguments)
        self.state = self.begin(self.x)
        self.stuck = False

    @property
    def parameters(self) -> Parameters:
        """Where the search is."""
        q: Parameters = _unravel(self.x, self.tree, self.shapes)
        return q

    def window(self) -> list[dict[str, Any]]:
        """A window of steps; what each recorded."""
        lines = []
        for _ in range(CHUNK):
            lines.append(
                {
                    "elbo": -float(self.value),
                    **{name: np.asarray(v) for name, v in self.shown.items()},
                }
            )
            if not self._step():
                self.stuck = True
                break
        return lines

    def _step(self) -> bool:
        for fresh in (False, True):
            if fresh:
                self.state = self.begin(self.x)
            direction, state, slope = self.direct(self.gradient, self.state, self.x)
            if slope >= 0:
                continue
            length = 1.0
            for _ in range(30):
                new = self.move(self.x, direction, np.asarray(length))
                value, gradient, shown = self.evaluate(new, *self.arguments)
                if np.isfinite(value) and value <= self.value + 1e-4 * length * slope:
                    self.x, self.value, self.gradient, self.shown, self.state = (
                        new,
                        value,
                        gradient,
                        shown,
                        state,
                    )
                    return True
                length *= 0.5 if np.isfinite(value) else 0.1
        return False

    def cut(self) -> None:
        """Nothing to cut."""


class Stochastic:
    """A gradient transformation of optax, on all rows or on minibatches; the parameters are averages over a window."""

    stuck = False

    def __init__(
        self,
        q: Parameters,
        arguments: tuple[Any, ...],
        model: Model,
        how: Approximation,
        wanted: object,
        rate: float,
        rows: int,
        rng: np.random.Generator,
    ):
        self.q = self.parameters = q
        self.arguments, self.rng, self.scale = arguments, rng, 1.0
        self.begin, self.run = _stochastic(wanted, rate, model, how, rows)
        self.state = self.begin(q)

    def window(self) -> list[dict[str, Any]]:
        """A window of steps; what each recorded."""
        key = np.asarray(self.rng.integers(0, 2**32, 2, dtype=np.uint32))
        self.q, self.state, self.parameters, record = self.run(
            self.q, self.state, key, np.asarray(self.scale), *self.arguments
        )
        record = jax.tree.map(np.asarray, record)
        return [
            {name: float(v[i]) if v.ndim == 1 else v[i] for name, v in record.items()}
            for i in range(WINDOW)
        ]

    def cut(self) -> None:
        """A third of the rate from here on."""
        self.scale /= 3.0


def _shown(
    q: Parameters, data: Any, priors: Priors, model: Model, how: Approximation
) -> dict[str, Array]:
    """What the trace records."""
    own = zip(
        model.terms, scales.split(model.terms, q["zeta"]), priors.units, priors.frames, strict=True
    )
    T = [H @ scales.factor(term, zeta, model.transform, unit) for term, zeta, unit, H in own]
    sd = jnp.concatenate([jnp.sqrt(jnp.sum(rows * rows, axis=1)) for rows in T])
    shown = {"sd": sd, "beta": data.shift + data.unit @ q["d"]}
    if how.sigma == "estimate":
        shown["sigma"] = jnp.exp(q["log_sigma"])
    return shown


def _unravel(x: Array, tree: Any, shapes: tuple[tuple[int, ...], ...]) -> Any:
    """The tree of arrays that a flat vector holds."""
    stops = np.cumsum([int(np.prod(shape)) for shape in shapes])
    leaves = [
        x[stop - int(np.prod(shape)) : stop].reshape(shape)
        for shape, stop in zip(shapes, stops, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)


@lru_cache(maxsize=32)
def _quasi_newton(
    model: Model, how: Approximation, tree: Any, shapes: tuple[tuple[int, ...], ...]
) -> tuple[Callable[..., Any], ...]:
    """Compiled pieces of a quasi-Newton step on flat vectors: minus the bound with its gradient, first state, direction, move."""
    import optax

    optimizer = optax.scale_by_lbfgs(memory_size=20)

    def evaluate(x: Array, data: Any, frame: Any, rules: Any, sigma: object, priors: Any) -> object:
        backend.traces["vi"] += 1

        def loss(x: Array) -> tuple[Array, Parameters]:
            q = _unravel(x, tree, shapes)
            return -elbo.bound(q, data, frame, rules, sigma, priors, jnp.ones(()), model, how)[0], q

        (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(x)
        return value, gradient, _shown(q, data, priors, model, how)

    def direct(gradient: Array, state: Any, x: Array) -> object:
        update, state = optimizer.update(gradient, state, x)
        return -update, state, -jnp.vdot(update, gradient)

    return (
        jax.jit(evaluate),
        jax.jit(optimizer.init),
        jax.jit(direct),
        jax.jit(lambda x, direction, length: x + length * direction),
    )


@lru_cache(maxsize=32)
def compiled_unpack(model: Model, how: Approximation) -> Callable[..., Any]:
    """The Gaussian that parameters stand for, jitted for one structure."""
    return jax.jit(lambda q, frame: elbo.unpack(model, how, q, frame))


@lru_cache(maxsize=32)
def compiled_bound(model: Model, how: Approximation) -> Callable[..., Any]:
    """The bound, jitted for one structure."""

    def of(
        q: Parameters, data: Any, frame: Any, rules: Any, sigma: object, priors: Any, share: Array
    ) -> Array:
        backend.traces["vi"] += 1
        return elbo.bound(q, data, frame, rules, sigma, priors, share, model, how)[0]

    return jax.jit(of)


@lru_cache(maxsize=32)
def _stochastic(
    wanted: Any, rate: float, model: Model, how: Approximation, rows: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """First state, and a window of steps in one compiled call: parameters, state, averaged parameters, what is recorded."""
    import optax

    optimizer = optax.adam(rate) if wanted == "adam" else wanted

    def run(
        q: Parameters,
        state: Any,
        key: Array,
        scale: Array,
        data: Any,
        frame: Any,
        rules: Any,
        sigma: object,
        priors: Any,
    ) -> object:
        backend.traces["vi"] += 1
        n = data.y.shape[0] if isinstance(data, RowData) else 1

        def step(carry: Any, own: Array) -> Any:
            q, state, total = carry
            part = _take(data, jax.random.randint(own, (rows,), 0, n)) if rows else data
            share = jnp.asarray(rows / n if rows else 1.0)
            value, gradient = jax.value_and_grad(
                lambda q: -elbo.bound(q, part, frame, rules, sigma, priors, share, model, how)[0]
            )(q)
            updates, state = optimizer.update(gradient, state, q)
            record = {"elbo": -value, **_shown(q, data, priors, model, how)}
            q = jax.tree.map(lambda a, u: a + scale * u, q, updates)
            return (q, state, jax.tree.map(jnp.add, total, q)), record

        zero = jax.tree.map(jnp.zeros_like, q)
        keys = jax.random.split(jax.random.wrap_key_data(key), WINDOW)
        (q, state, total), record = jax.lax.scan(step, (q, state, zero), keys)
        return q, state, jax.tree.map(lambda v: v / WINDOW, total), record

    return jax.jit(optimizer.init), jax.jit(run)


def _take(data: RowData, index: Array) -> RowData:
    return data._replace(
        y=data.y[index],
        weights=data.weights[index],
        offset=data.offset[index],
        X=data.X[index],
        codes=tuple(code[index] for code in data.codes),
        values=tuple(values[:, index] for values in data.values),
    )


def sample_rows(arguments: tuple[Any, ...], rng: np.random.Generator) -> tuple[object, ...]:
    """The arguments of the bound on a fixed sample of rows, and its share of all."""
    data, *rest = arguments
    n = data.y.shape[0]
    if n <= LOOK:
        return (*arguments, np.ones(()))
    return (_take(data, rng.choice(n, LOOK, replace=False)), *rest, np.asarray(LOOK / n))
