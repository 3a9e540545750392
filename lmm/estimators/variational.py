"""Variational Bayes: the Gaussian approximation of the posterior with the largest evidence lower bound.

The bound (:mod:`lmm.model.elbo`) is computed without sampling noise, so that a quasi-Newton method (optax's L-BFGS) climbs it in
tens to hundreds of steps; on minibatches of a generalized model's rows it is noisy, and Adam climbs it, its rate cut each time the
averaged bound stalls. Either stops when the average of the bound over a window of steps no longer changes, relative to its size.

Blei, Kucukelbir & McAuliffe (2017), J. Am. Stat. Assoc. 112; Kucukelbir et al. (2017), J. Mach. Learn. Res. 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import ndtri
from scipy.stats import qmc

from lmm.errors import ArgumentError, nearest
from lmm.estimators.control import Control
from lmm.estimators.optional import need
from lmm.estimators.posterior import KEEP, covariances_at, estimate_from, likelihood_fit, mean_covariance
from lmm.estimators.variational_start import begin_at, dense_terms
from lmm.linalg import backend
from lmm.model import elbo, scales
from lmm.model.elbo import FAMILIES, Approximation, Parameters, Rules
from lmm.model.joint import Model, RowData, Sums, make_model, make_row_data, make_sums, units_of
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Draws, Estimate, Report
from lmm.priors import Prior, resolve

Array = Any

#: steps of L-BFGS, of Adam, in one compiled call; a window of the convergence test
CHUNK, WINDOW = 20, 200
#: looks at the bound without a better one before Adam's rate is cut, and cuts before the search ends
PATIENCE, CUTS = 3, 3
#: windows of minibatches between two looks, and rows at most that a look takes
BETWEEN, LOOK = 5, 100_000
#: numbers in the cross-products of two factors up to which they are held dense
DENSE_PAIRS = 8_000_000
TITLES = {
    "mean_field": "mean-field Gaussian",
    "full_rank": "full-rank Gaussian over parameters",
    "partial": "partially factorised Gaussian",
}


@dataclass(frozen=True)
class VariationalBayes:
    """Variational Bayes for linear and generalized models.

    Parameters
    ----------
    approximation : "partial" (default): parameters jointly normal, each level's effects normal given them, so that the
        coefficients' posterior standard deviations are close to the truth (those of the scales stay too small, by a quarter or
        so); "full_rank": parameters jointly normal, effects independent of them; "mean_field": all independent.
    sigma : residual standard deviation of a linear model: "estimate" maximises the bound over it, "posterior" gives it a prior and a
        place in the approximation, a number fixes it.
    priors : mapping of names to priors, see :mod:`lmm.priors`; what is not named has its default.
    transform : of the standard deviations, "softplus" or "log": their approximation is normal on that scale.
    optimizer : "auto" (L-BFGS, Adam on minibatches), "lbfgs", "adam", or a gradient transformation of optax.
    learning_rate : of Adam.
    batch_size : rows per step of a generalized model; None for all. A linear model is held by its sums and needs none.
    steps : most steps.
    tolerance : relative change of the averaged bound at which the search stops; None for 1e-8 (1e-7 with Adam, 1e-5 on
        minibatches, where the bound is looked at every thousand steps, on up to 100,000 rows).
    points : quadrature points per row of a generalized model.
    draws : draws from the approximation that are kept in ``fit.draws``.
    rng : seed or generator of the draws and minibatches.
    control : :class:`lmm.Control` (``verbose``, ``progress``).

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("log_radon ~ floor + (1|county)", lmm.datasets.load("radon"), method=lmm.VariationalBayes())
    >>> fit.fixef().round(2).to_dict()
    {'Intercept': 1.46, 'floor': -0.69}
    """

    approximation: str = "partial"
    sigma: float | str = "estimate"
    priors: Mapping[str, Prior] | None = None
    transform: str = "softplus"
    optimizer: Any = "auto"
    learning_rate: float = 0.01
    batch_size: int | None = None
    steps: int = 20_000
    tolerance: float | None = None
    points: int = 20
    draws: int = 1000
    rng: None | int | np.random.Generator = 0
    control: Control = Control()
    models = ("linear", "generalized")
    reml = False
    name = "vi"

    def __post_init__(self) -> None:
        for key, known in (("approximation", FAMILIES), ("transform", scales.TRANSFORMS)):
            value = getattr(self, key)
            if value not in known:
                names = ", ".join(map(repr, known))
                raise ArgumentError(f"VariationalBayes: {key}={value!r} is not one of {names}.{nearest(str(value), known)}")
        if isinstance(self.sigma, str) and self.sigma not in ("estimate", "posterior"):
            raise ArgumentError(f"VariationalBayes: sigma={self.sigma!r} must be 'estimate', 'posterior' or a positive number.")
        for key in ("steps", "points", "draws", "learning_rate", "tolerance", "batch_size", "sigma"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, str) and not value > 0:
                raise ArgumentError(f"VariationalBayes: {key}={value!r} must be positive.")
        if isinstance(self.optimizer, str) and self.optimizer not in ("auto", "lbfgs", "adam"):
            raise ArgumentError(f"VariationalBayes: optimizer={self.optimizer!r} must be 'auto', 'lbfgs', 'adam', or one of optax's.")
        if self.batch_size is not None and self.optimizer == "lbfgs":
            raise ArgumentError("VariationalBayes: L-BFGS needs all rows; leave out batch_size, or take optimizer='adam'.")

    def fit(
        self,
        problem: Problem | GeneralizedProblem,
        start: np.ndarray | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
    ) -> Estimate:
        """Maximise the bound, from the maximum-likelihood fit; ``start`` (theta) is where that begins."""
        need("optax", "method='vi'")
        begin = perf_counter()
        rng = np.random.default_rng(self.rng)
        linear = isinstance(problem, Problem)
        model = make_model(problem, self.transform)
        priors = resolve(self.priors, problem.names, problem.labels, units_of(problem))
        _check_link(model)
        treatment = self.sigma if isinstance(self.sigma, str) and linear else "fixed"
        how = Approximation(self.approximation, treatment, dense_terms(model) if self.approximation == "partial" else ())
        near = likelihood_fit(problem, start)
        sigma = near.sigma if isinstance(self.sigma, str) or not linear else float(self.sigma)
        data: Sums | RowData = make_sums(problem, sigma, DENSE_PAIRS) if isinstance(problem, Problem) else make_row_data(problem, near.beta)
        first, frame = begin_at(problem, near, model, how, sigma, np.asarray(data.shift), np.asarray(data.unit))
        q = elbo.initial(model, how, first, frame)
        rules = make_rules(model.size, self.points)
        fixed = np.asarray(sigma)
        batches = self.batch_size is not None and not linear and self.batch_size < problem.n
        rows = int(self.batch_size or problem.n) if batches else 0
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            arguments = backend.put((data, frame, rules, fixed, scales.as_tree(priors)))
            q, value, trace, converged, message = self._climb(backend.put(q), arguments, model, how, rows, rng, callback)
            g = jax.tree.map(np.asarray, elbo.unpack(model, how, q, frame))
            q = jax.tree.map(np.asarray, q)
        elapsed = perf_counter() - begin
        seconds = {**problem.seconds, "optimise": elapsed}
        convergence = Convergence(converged, message, len(trace), len(trace), len(trace), float("nan"), seconds)
        notes: tuple[str, ...] = (
            "Estimates are means of the approximate posterior and 'Posterior SD' its standard deviations; standard deviations and "
            "correlations of the random effects are posterior means as well.",
        )
        if linear and how.sigma == "estimate":
            notes += ("The residual standard deviation is a point estimate, the maximum of the evidence lower bound.",)
        if linear and how.sigma == "fixed":
            notes += (f"The residual standard deviation was fixed at {sigma:g}.",)
        if self.batch_size is not None and linear:
            notes += ("batch_size was not used: a linear model is fitted from its sums, at no cost per row.",)
        kind = "Linear" if linear else "Generalized linear"
        report = Report(
            f"{kind} mixed model fit by variational Bayes ({TITLES[self.approximation]})",
            "Posterior SD",
            (("ELBO", float(value)),),
            notes,
        )
        found = Found(model, how, g, q, np.asarray(data.shift), np.asarray(data.unit), rules, sigma)
        return estimate_from(
            problem,
            self.name,
            beta=found.beta,
            beta_cov=found.beta_cov,
            covariances=found.covariances,
            sigma=found.sigma,
            phi=found.phi,
            modes=[np.ascontiguousarray(m.T) for m in g.m],
            mode_cov=found.mode_cov(),
            convergence=convergence,
            trace=tuple(trace),
            report=report,
            draws=found.draws(self.draws, rng),
            elbo=float(value),
        )

    # ---- the search ----

    def _climb(
        self,
        q: Parameters,
        arguments: tuple[Any, ...],
        model: Model,
        how: Approximation,
        rows: int,
        rng: np.random.Generator,
        callback: Callable[[dict[str, Any]], None] | None,
    ) -> tuple[Parameters, float, list[dict[str, Any]], bool, str]:
        noisy = rows > 0
        wanted = ("adam" if noisy else "lbfgs") if self.optimizer == "auto" else self.optimizer
        tolerance = self.tolerance or (1e-5 if noisy else 1e-8 if wanted == "lbfgs" else 1e-7)
        search: _QuasiNewton | _Stochastic
        if wanted == "lbfgs":
            search = _QuasiNewton(q, arguments, model, how)
        else:
            search = _Stochastic(q, arguments, model, how, wanted, self.learning_rate, rows, rng)
        trace: list[dict[str, Any]] = []
        look, seen = compiled_bound(model, how), _sample(arguments, rng) if noisy else ()
        cuts, waited, top, best = 0, 0, -np.inf, q
        converged, message = False, f"the bound still changed after {self.steps} steps; raise steps="
        while len(trace) < self.steps:
            lines = search.window()
            if noisy:  # the bound itself, at averaged parameters: that of minibatches is too noisy to tell
                lines += [line for _ in range(BETWEEN - 1) for line in search.window()]
                mean = float(look(search.parameters, *seen))
            else:
                mean = float(np.mean([line["elbo"] for line in lines]))
            trace += lines
            gain, top = mean - top, max(mean, top)
            if callback is not None:
                callback({"objective": -2.0 * mean, "theta": lines[-1]["sd"], "decrease": abs(gain)})
            if not np.isfinite(mean):
                message = "the evidence lower bound is not finite; try a smaller learning_rate, or other priors"
                break
            best = search.parameters
            waited = waited + 1 if gain <= tolerance * abs(mean) else 0
            if search.stuck or (waited and wanted == "lbfgs") or (waited >= PATIENCE and cuts >= CUTS):
                converged = True
                message = f"the bound, averaged over {len(lines)} steps, rose by less than {tolerance:g} of itself"
                break
            if waited >= PATIENCE:  # the noise outweighs what a step gains
                cuts, waited = cuts + 1, 0
                search.cut()
        one = np.ones(())
        value = -float(search.value) if isinstance(search, _QuasiNewton) else float(compiled_bound(model, how)(best, *arguments, one))
        return best, value, trace, converged, message


class _QuasiNewton:
    """L-BFGS on all rows: optax's direction, the step halved until the bound rises enough (Armijo)."""

    def __init__(self, q: Parameters, arguments: tuple[Any, ...], model: Model, how: Approximation):
        leaves, self.tree = jax.tree.flatten(q)
        self.shapes = tuple(np.shape(leaf) for leaf in leaves)
        self.x = np.concatenate([np.ravel(leaf) for leaf in leaves])
        self.arguments = arguments
        self.evaluate, self.begin, self.direct, self.move = _quasi_newton(model, how, self.tree, self.shapes)
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
            lines.append({"elbo": -float(self.value), **{name: np.asarray(v) for name, v in self.shown.items()}})
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
                    self.x, self.value, self.gradient, self.shown, self.state = new, value, gradient, shown, state
                    return True
                length *= 0.5 if np.isfinite(value) else 0.1
        return False

    def cut(self) -> None:
        """Nothing to cut."""


class _Stochastic:
    """A gradient transformation of optax, on all rows or on minibatches; the parameters are averages over a window."""

    stuck = False

    def __init__(
        self,
        q: Parameters,
        arguments: tuple[Any, ...],
        model: Model,
        how: Approximation,
        wanted: Any,
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
        self.q, self.state, self.parameters, record = self.run(self.q, self.state, key, np.asarray(self.scale), *self.arguments)
        record = jax.tree.map(np.asarray, record)
        return [{name: float(v[i]) if v.ndim == 1 else v[i] for name, v in record.items()} for i in range(WINDOW)]

    def cut(self) -> None:
        """A third of the rate from here on."""
        self.scale /= 3.0


def _shown(q: Parameters, data: Any, model: Model, how: Approximation) -> dict[str, Array]:
    """What the trace records."""
    own = zip(model.terms, scales.split(model.terms, q["zeta"]), strict=True)
    sd = jnp.concatenate([scales.positive(zeta[: term.k], model.transform) for term, zeta in own])
    shown = {"sd": sd, "beta": data.shift + data.unit * q["d"]}
    if how.sigma == "estimate":
        shown["sigma"] = jnp.exp(q["log_sigma"])
    return shown


def _unravel(x: Array, tree: Any, shapes: tuple[tuple[int, ...], ...]) -> Any:
    """The tree of arrays that a flat vector holds."""
    stops = np.cumsum([int(np.prod(shape)) for shape in shapes])
    leaves = [x[stop - int(np.prod(shape)) : stop].reshape(shape) for shape, stop in zip(shapes, stops, strict=True)]
    return jax.tree.unflatten(tree, leaves)


@lru_cache(maxsize=32)
def _quasi_newton(model: Model, how: Approximation, tree: Any, shapes: tuple[tuple[int, ...], ...]) -> tuple[Callable[..., Any], ...]:
    """Compiled pieces of a quasi-Newton step on flat vectors: minus the bound with its gradient, first state, direction, move."""
    import optax

    optimizer = optax.scale_by_lbfgs(memory_size=20)

    def evaluate(x: Array, data: Any, frame: Any, rules: Any, sigma: Any, priors: Any) -> Any:
        backend.traces["vi"] += 1

        def loss(x: Array) -> tuple[Array, Parameters]:
            q = _unravel(x, tree, shapes)
            return -elbo.bound(q, data, frame, rules, sigma, priors, jnp.ones(()), model, how)[0], q

        (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(x)
        return value, gradient, _shown(q, data, model, how)

    def direct(gradient: Array, state: Any, x: Array) -> Any:
        update, state = optimizer.update(gradient, state, x)
        return -update, state, -jnp.vdot(update, gradient)

    return jax.jit(evaluate), jax.jit(optimizer.init), jax.jit(direct), jax.jit(lambda x, direction, length: x + length * direction)


@lru_cache(maxsize=32)
def compiled_bound(model: Model, how: Approximation) -> Callable[..., Any]:
    """The bound, jitted for one structure."""

    def of(q: Parameters, data: Any, frame: Any, rules: Any, sigma: Any, priors: Any, share: Array) -> Array:
        backend.traces["vi"] += 1
        return elbo.bound(q, data, frame, rules, sigma, priors, share, model, how)[0]

    return jax.jit(of)


@lru_cache(maxsize=32)
def _stochastic(wanted: Any, rate: float, model: Model, how: Approximation, rows: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """First state, and a window of steps in one compiled call: parameters, state, averaged parameters, what is recorded."""
    import optax

    optimizer = optax.adam(rate) if wanted == "adam" else wanted

    def run(q: Parameters, state: Any, key: Array, scale: Array, data: Any, frame: Any, rules: Any, sigma: Any, priors: Any) -> Any:
        backend.traces["vi"] += 1
        n = data.y.shape[0] if isinstance(data, RowData) else 1

        def step(carry: Any, own: Array) -> Any:
            q, state, total = carry
            part = _take(data, jax.random.randint(own, (rows,), 0, n)) if rows else data
            share = jnp.asarray(rows / n if rows else 1.0)
            value, gradient = jax.value_and_grad(lambda q: -elbo.bound(q, part, frame, rules, sigma, priors, share, model, how)[0])(q)
            updates, state = optimizer.update(gradient, state, q)
            record = {"elbo": -value, **_shown(q, data, model, how)}
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


def _sample(arguments: tuple[Any, ...], rng: np.random.Generator) -> tuple[Any, ...]:
    """The arguments of the bound on a fixed sample of rows, and its share of all."""
    data, *rest = arguments
    n = data.y.shape[0]
    if n <= LOOK:
        return (*arguments, np.ones(()))
    return (_take(data, rng.choice(n, LOOK, replace=False)), *rest, np.asarray(LOOK / n))


def make_rules(size: int, points: int) -> Rules:
    """Nodes over zeta: a tensor rule up to three dimensions, a scrambled Sobol sequence above; and one rule for a line."""
    if size <= 3:
        count = {0: 1, 1: 64, 2: 24, 3: 12}[size]
        x, w = hermegauss(count)
        nodes = np.array(list(product(x, repeat=size))).reshape(-1, size)
        weights = np.array([np.prod(own) for own in product(w / np.sqrt(2.0 * np.pi), repeat=size)])
    else:
        uniform = qmc.Sobol(size, seed=0).random(512)
        nodes = ndtri(np.clip(uniform, 1e-12, 1 - 1e-12))
        nodes = np.concatenate([nodes, -nodes])
        weights = np.full(len(nodes), 1.0 / len(nodes))
    line, line_weights = hermegauss(points)
    return Rules(nodes, weights, line, line_weights / np.sqrt(2.0 * np.pi))


def _check_link(model: Model) -> None:
    """ArgumentError where a normal linear predictor leaves the link's range."""
    if model.family is not None and np.isfinite(model.family.eta_bounds).any():
        low, high = model.family.eta_bounds
        raise ArgumentError(
            f"link {model.family.link.name!r} takes linear predictors between {low:g} and {high:g} only, where a normal approximation "
            "of them has no place; use another link, such as 'log' or 'logit', or method='laplace'."
        )


class Found:
    """The approximation on the user's scale."""

    def __init__(
        self,
        model: Model,
        how: Approximation,
        g: elbo.Gaussian,
        q: Parameters,
        shift: np.ndarray,
        unit: np.ndarray,
        rules: Rules,
        sigma: float,
    ):
        self.model, self.how, self.g, self.q, self.rules = model, how, g, q, rules
        self.beta = shift + unit * g.d
        self.beta_factor = unit[:, None] * g.d_factor  # (p, z + p)
        self.beta_cov = self.beta_factor @ self.beta_factor.T
        weights = rules.zeta_weights
        nodes = covariances_at(model, g.zeta + rules.zeta @ g.zeta_factor.T)
        self.covariances = [mean_covariance(G, weights) for G in nodes]
        self.phi = float(np.exp(q["log_phi"])) if "log_phi" in q else 1.0
        self.sigma = sigma
        if how.sigma == "estimate":
            self.sigma = float(np.exp(q["log_sigma"]))
        if how.sigma == "posterior":
            self.sigma = float(self._sigma(rules.line) @ rules.line_weights)

    def _sigma(self, z: np.ndarray) -> np.ndarray:
        raw = self.q["sigma"] + np.exp(self.q["sigma_factor"]) * z
        return np.logaddexp(0.0, raw) if self.model.transform == "softplus" else np.exp(raw)

    def mode_cov(self) -> list[np.ndarray]:
        """Per term (J, k, k)."""
        out = []
        for t, S in enumerate(self.g.S):
            cov = np.einsum("acj,bcj->jab", S, S)
            if self.g.C is not None:
                cov += np.einsum("laj,lbj->jab", self.g.C[t], self.g.C[t])
            out.append(cov)
        return out

    def draws(self, count: int, rng: np.random.Generator) -> Draws:
        """Independent draws, one chain."""
        model, g = self.model, self.g
        z = rng.standard_normal((count, self.beta_factor.shape[1]))
        zeta, beta = g.zeta + z[:, : model.size] @ g.zeta_factor.T, self.beta + z @ self.beta_factor.T
        sigma = phi = None
        if model.family is None:
            fixed = self.how.sigma != "posterior"
            sigma = np.full((1, count), self.sigma) if fixed else self._sigma(rng.standard_normal(count))[None]
        elif model.family.has_dispersion:
            phi = np.full((1, count), self.phi)
        effects = []
        if count * sum(term.k * term.J for term in model.terms) <= KEEP:
            for t, (m, S) in enumerate(zip(g.m, g.S, strict=True)):
                b = m + np.einsum("kaj,daj->dkj", S, rng.standard_normal((count, *m.shape)))
                if g.C is not None:
                    b += np.tensordot(z, g.C[t], 1)
                effects.append(np.ascontiguousarray(np.swapaxes(b, 1, 2))[None])
        covariances = tuple(G[None] for G in covariances_at(model, zeta))
        return Draws(beta[None], covariances, sigma, phi, tuple(effects))
