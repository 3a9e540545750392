"""The two ways up the evidence lower bound, with what they compile: quasi-Newton on all rows, and stochastic gradients.

The latter is Adam, or another of optax's gradient transformations, on all rows or on minibatches.

Each moves in windows of steps and hands back what every step recorded. Liu & Nocedal (1989), Math. Program. 45 (L-BFGS); Kingma &
Ba (2015), ICLR (Adam); Polyak & Juditsky (1992), SIAM J. Control Optim. 30 for the averages over a window.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef

from lmm.linalg.devices import backend
from lmm.model.posterior import elbo, scales
from lmm.model.posterior.elbo import Approximation, Frame, Parameters, Rules
from lmm.model.posterior.joint import Model, RowData, Sums
from lmm.priors import Priors
from lmm.types import Kernel, TraceLine
from lmm.types import KernelArray as Array

#: steps of L-BFGS and of a stochastic method in a window
CHUNK, WINDOW = 20, 200
#: rows at most in a look at the bound between minibatches
LOOK = 100_000


class Inputs(NamedTuple):
    """What the bound is a function of beside the parameters; see :func:`lmm.model.posterior.elbo.bound`."""

    data: Sums | RowData
    frame: Frame
    rules: Rules
    sigma: Array
    priors: Priors


class QuasiNewton:
    """L-BFGS on all rows: optax's direction, the step halved until the bound rises enough (Armijo)."""

    def __init__(self, q: Parameters, inputs: Inputs, model: Model, how: Approximation):
        leaves, self.tree = jax.tree.flatten(q)
        self.shapes = tuple(np.shape(leaf) for leaf in leaves)
        self.x = np.concatenate([np.ravel(leaf) for leaf in leaves])
        self.inputs = inputs
        self.evaluate, self.begin, self.direct, self.move = _quasi_newton(
            model, how, self.tree, self.shapes
        )
        self.value, self.gradient, self.shown = self.evaluate(self.x, inputs)
        self.state = self.begin(self.x)
        self.stuck = False

    @property
    def parameters(self) -> Parameters:
        """Where the search is."""
        return _unravel(self.x, self.tree, self.shapes)

    def window(self) -> list[TraceLine]:
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
                value, gradient, shown = self.evaluate(new, self.inputs)
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
        inputs: Inputs,
        model: Model,
        how: Approximation,
        wanted: object,
        rate: float,
        rows: int,
        rng: np.random.Generator,
    ):
        self.q = self.parameters = q
        self.inputs, self.rng, self.scale = inputs, rng, 1.0
        self.begin, self.run = _stochastic(wanted, rate, model, how, rows)
        self.state = self.begin(q)

    def window(self) -> list[TraceLine]:
        """A window of steps; what each recorded."""
        key = np.asarray(self.rng.integers(0, 2**32, 2, dtype=np.uint32))
        self.q, self.state, self.parameters, record = self.run(
            self.q, self.state, key, np.asarray(self.scale), self.inputs
        )
        record = jax.tree.map(np.asarray, record)
        return [
            {name: float(v[i]) if v.ndim == 1 else v[i] for name, v in record.items()}
            for i in range(WINDOW)
        ]

    def cut(self) -> None:
        """A third of the rate from here on."""
        self.scale /= 3.0


def _shown(q: Parameters, inputs: Inputs, model: Model, how: Approximation) -> dict[str, Array]:
    """What the trace records."""
    data, priors = inputs.data, inputs.priors
    own = zip(
        model.terms, scales.split(model.terms, q["zeta"]), priors.units, priors.frames, strict=True
    )
    T = [H @ scales.factor(term, zeta, model.transform, unit) for term, zeta, unit, H in own]
    sd = jnp.concatenate([jnp.sqrt(jnp.sum(rows * rows, axis=1)) for rows in T])
    shown = {"sd": sd, "beta": data.shift + data.unit @ q["d"]}
    if how.sigma == "estimate":
        shown["sigma"] = jnp.exp(q["log_sigma"])
    return shown


def _unravel(x: Array, tree: PyTreeDef, shapes: tuple[tuple[int, ...], ...]) -> Parameters:
    """The tree of arrays that a flat vector holds."""
    stops = np.cumsum([int(np.prod(shape)) for shape in shapes])
    leaves = [
        x[stop - int(np.prod(shape)) : stop].reshape(shape)
        for shape, stop in zip(shapes, stops, strict=True)
    ]
    q: Parameters = jax.tree.unflatten(tree, leaves)
    return q


@lru_cache(maxsize=32)
def _quasi_newton(
    model: Model, how: Approximation, tree: PyTreeDef, shapes: tuple[tuple[int, ...], ...]
) -> tuple[Kernel, ...]:
    """Compiled pieces of a quasi-Newton step on flat vectors: minus the bound with its gradient, first state, direction, move."""
    import optax

    optimizer = optax.scale_by_lbfgs(memory_size=20)

    def evaluate(x: Array, inputs: Inputs) -> object:
        backend.traces["vi"] += 1

        def loss(x: Array) -> tuple[Array, Parameters]:
            q = _unravel(x, tree, shapes)
            return -elbo.bound(q, *inputs, jnp.ones(()), model, how)[0], q

        (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(x)
        return value, gradient, _shown(q, inputs, model, how)

    def direct(gradient: Array, state: object, x: Array) -> object:
        update, state = optimizer.update(gradient, state, x)
        return -update, state, -jnp.vdot(update, gradient)

    return (
        jax.jit(evaluate),
        jax.jit(optimizer.init),
        jax.jit(direct),
        jax.jit(lambda x, direction, length: x + length * direction),
    )


@lru_cache(maxsize=32)
def compiled_unpack(model: Model, how: Approximation) -> Kernel:
    """The Gaussian that parameters stand for, jitted for one structure."""
    return jax.jit(lambda q, frame: elbo.unpack(model, how, q, frame))


@lru_cache(maxsize=32)
def compiled_bound(model: Model, how: Approximation) -> Kernel:
    """The bound, jitted for one structure."""

    def of(q: Parameters, inputs: Inputs, share: Array) -> Array:
        backend.traces["vi"] += 1
        return elbo.bound(q, *inputs, share, model, how)[0]

    return jax.jit(of)


@lru_cache(maxsize=32)
def _stochastic(
    wanted: Any, rate: float, model: Model, how: Approximation, rows: int
) -> tuple[Kernel, Kernel]:
    """First state, and a window of steps in one compiled call: parameters, state, averaged parameters, what is recorded."""
    import optax

    optimizer = optax.adam(rate) if wanted == "adam" else wanted

    def run(q: Parameters, state: object, key: Array, scale: Array, inputs: Inputs) -> object:
        backend.traces["vi"] += 1
        data = inputs.data
        n = data.y.shape[0] if isinstance(data, RowData) else 1

        def step(carry: Any, own: Array) -> Any:
            q, state, total = carry
            part = inputs
            if isinstance(data, RowData) and rows:
                part = inputs._replace(data=_take(data, jax.random.randint(own, (rows,), 0, n)))
            share = jnp.asarray(rows / n if rows else 1.0)
            value, gradient = jax.value_and_grad(
                lambda q: -elbo.bound(q, *part, share, model, how)[0]
            )(q)
            updates, state = optimizer.update(gradient, state, q)
            record = {"elbo": -value, **_shown(q, inputs, model, how)}
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


def sample_rows(inputs: Inputs, rng: np.random.Generator) -> tuple[Inputs, np.ndarray]:
    """The inputs on a fixed sample of rows, and its share of all."""
    data = inputs.data
    assert isinstance(data, RowData)  # minibatches are of rows
    n = data.y.shape[0]
    if n <= LOOK:
        return inputs, np.ones(())
    sample = _take(data, rng.choice(n, LOOK, replace=False))
    return inputs._replace(data=sample), np.asarray(LOOK / n)
