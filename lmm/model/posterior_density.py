"""The log posterior density of a mixed model on the whole real line, in JAX, for samplers.

Fixed effects are beta = beta_1 + U d with beta_1 a likelihood fit's; standard deviations and correlations are zeta
(:mod:`lmm.model.scales`). A linear model's random effects are integrated out,

    log p(y | d, zeta, sigma) = -1/2 (log|M| + n log(2 pi sigma^2) - sum log w + r'V^-1 r / sigma^2),   r = y - X beta,
    M = I + T'Z'WZT,   r'V^-1 r = r'Wr - r'WZ N Z'Wr,   N = (Z'WZ + G^-1)^-1,

from its sums by block elimination, at no cost per row; given the parameters they are normal, b ~ N(N Z'Wr, sigma^2 N). U is the
factor of beta's covariance at the likelihood fit, so that d is about standard normal. A generalized model's effects are sampled
with its parameters in their non-centred form b = T u, u ~ N(0, I), and d are coefficients of orthonormal columns.

A position x is one vector: (d, zeta, log sigma) of a linear model (without log sigma where it is known), (d, zeta, log phi, u) of a
generalized one. Priors are densities of the user's beta, standard deviations, correlations, sigma and phi; every Jacobian is there.

Bates et al. (2015), J. Stat. Softw. 67(1), for the marginal likelihood; Betancourt & Girolami (2015) for the non-centred form.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lmm.linalg import elimination
from lmm.linalg.elimination import Factor, System, Vectors
from lmm.linalg.plan import Plan
from lmm.model import scales
from lmm.model.densities import log_density
from lmm.model.joint import Model, RowData, make_row_data, predictor
from lmm.model.problem import GeneralizedProblem, Problem, criterion_data
from lmm.model.system import collect

Array = Any
LOG_2PI = math.log(2.0 * math.pi)


class SumData(NamedTuple):
    """A linear model's sums, arranged for elimination with dense couplings: arrays only, no size that depends on n.

    ``rhs`` holds Z'W[Q y0], ``gram`` is [Q y0]'W[Q y0], Q orthonormal; y0 - Q gamma is the residual at beta, with
    gamma = gamma_1 + root d. ``sigma`` is read only where it is known.
    """

    system: System
    rhs: Vectors
    gram: Array
    n: Array
    sum_log_weights: Array
    gamma: Array  # gamma_1 (p,)
    root: Array  # (p, p)
    shift: Array  # beta_1 (p,)
    unit: Array  # U (p, p)
    sigma: Array


class GeneralizedData(NamedTuple):
    """A generalized model's rows, with X~ = X U, and U."""

    rows: RowData
    shift: Array
    unit: Array


class Space(NamedTuple):
    """What is fixed when a density is compiled: the model, a linear one's plan, and whether its sigma is sampled."""

    model: Model
    plan: Plan | None
    free_sigma: bool

    @property
    def linear(self) -> bool:
        """Whether effects are integrated out."""
        return self.plan is not None

    @property
    def has_phi(self) -> bool:
        """Whether a dispersion is sampled."""
        return self.model.family is not None and self.model.family.has_dispersion

    @property
    def parameters(self) -> int:
        """Numbers in x before the effects."""
        return self.model.p + self.model.size + int(self.free_sigma or self.has_phi)

    @property
    def effects(self) -> int:
        """Random effects."""
        return sum(term.k * term.J for term in self.model.terms)

    @property
    def size(self) -> int:
        """Numbers in x."""
        return self.parameters + (0 if self.linear else self.effects)


class Point(NamedTuple):
    """A position taken apart; ``log_scale`` is log sigma or log phi, ``u`` (k, J) per term of a generalized model."""

    d: Array
    zeta: Array
    log_scale: Array | None
    u: list[Array]


def unpack(space: Space, x: Array) -> Point:
    """The parts of a position."""
    model, m = space.model, space.parameters
    p, z = model.p, model.size
    u, at = [], m
    if not space.linear:
        for term in model.terms:
            u.append(x[at : at + term.k * term.J].reshape(term.k, term.J))
            at += term.k * term.J
    return Point(x[:p], x[p : p + z], x[p + z] if m > p + z else None, u)


def sum_data(problem: Problem, beta: np.ndarray, beta_cov: np.ndarray, sigma: float) -> tuple[SumData, Plan]:
    """The sums of a linear problem around ``beta`` (p,), in units of ``beta_cov`` (p, p), and the plan of their arrangement."""
    data, plan = problem.data, problem.arranged
    if problem.plan.backend != "jax":  # NumPy's plans have sparse couplings
        data, plan = criterion_data(problem.cross, replace(problem.plan, backend="jax"), problem.R, None)
    unit = np.linalg.cholesky(beta_cov) if problem.p else np.zeros((0, 0))
    R, weights = problem.R, np.asarray(problem.sum_log_weights)
    gamma = R @ (beta - problem.beta0)
    n = np.asarray(float(problem.n))
    return SumData(data.system, data.rhs, data.gram, n, weights, gamma, R @ unit, beta, unit, np.asarray(sigma)), plan


def generalized_data(problem: GeneralizedProblem, beta: np.ndarray) -> GeneralizedData:
    """The rows of a generalized problem around ``beta`` (p,), fixed columns orthonormal."""
    rows = make_row_data(problem, beta, orthonormal=True)
    unit = np.linalg.inv(problem.rows.R) / np.sqrt(problem.n) if problem.p else np.zeros((0, 0))
    return GeneralizedData(rows, np.asarray(beta, dtype=float), unit)


def log_posterior(x: Array, data: SumData | GeneralizedData, space: Space) -> Array:
    """Log of p(y | x) p(x), normalised priors included, so that its integral over x is the evidence."""
    at = unpack(space, x)
    beta = data.shift + data.unit @ at.d
    total = log_prior(space, at, beta) + jnp.sum(jnp.log(jnp.abs(jnp.diagonal(data.unit))))  # U is triangular
    if isinstance(data, SumData):
        return total + marginal_log_likelihood(at, data, space)
    b = random_effects(space, at)
    eta = predictor(data.rows, at.d, b)
    phi = jnp.ones(()) if at.log_scale is None else jnp.exp(at.log_scale)
    total = total - 0.5 * sum((jnp.sum(u * u) + u.size * LOG_2PI for u in at.u), jnp.zeros(()))
    return total + _log_likelihood(space.model.family, data.rows, eta, phi)


def log_prior(space: Space, at: Point, beta: Array) -> Array:
    """Log prior density of beta, zeta and log sigma or log phi."""
    model = space.model
    priors = model.priors
    total = scales.log_prior(model.terms, priors, at.zeta, model.transform)
    for j, prior in enumerate(priors.beta):
        total = total + prior.log_density(beta[j], jnp)
    if at.log_scale is not None:
        own = priors.sigma if space.linear else priors.phi
        total = total + own.log_density(jnp.exp(at.log_scale), jnp) + at.log_scale
    return total


def marginal_log_likelihood(at: Point, data: SumData, space: Space) -> Array:
    """log p(y | beta, zeta, sigma) of a linear model."""
    log_sigma, factor, tail_T, reduced, rss = _eliminate(at, data, space)
    r2 = rss - elimination.inner(reduced)[0, 0]
    return -0.5 * (factor.logdet + data.n * (LOG_2PI + 2.0 * log_sigma) - data.sum_log_weights + r2 * jnp.exp(-2.0 * log_sigma))


def _eliminate(at: Point, data: SumData, space: Space) -> tuple[Array, Factor, list[Array], elimination.Reduced, Array]:
    """log sigma, the factor at T / sigma, and Z'Wr carried down it with r'Wr."""
    model, plan = space.model, space.plan
    assert plan is not None
    log_sigma = jnp.log(data.sigma) if at.log_scale is None else at.log_scale
    own = zip(model.terms, scales.split(model.terms, at.zeta), strict=True)
    T = [scales.factor(term, zeta, model.transform) * jnp.exp(-log_sigma) for term, zeta in own]
    chain_T, tail_T = [T[t] for t in plan.chain], [T[t] for t in plan.tail]
    combine = jnp.concatenate([-(data.gamma + data.root @ at.d), jnp.ones(1)])
    rhs = Vectors(tuple(jnp.tensordot(combine, v, 1)[None] for v in data.rhs.chain), (combine @ data.rhs.tail)[None])
    factor = elimination.factorize(jnp, data.system, chain_T, plan.layout, tail_T)
    reduced = elimination.reduce(jnp, factor, plan.layout, tail_T, rhs)
    return log_sigma, factor, tail_T, reduced, combine @ data.gram @ combine


def random_effects(space: Space, at: Point) -> list[Array]:
    """b = T u, (k, J) per term, of a generalized model."""
    own = zip(space.model.terms, scales.split(space.model.terms, at.zeta), at.u, strict=True)
    return [scales.factor(term, zeta, space.model.transform) @ u for term, zeta, u in own]


def conditional_effects(x: Array, z: Array, data: SumData, space: Space) -> tuple[list[Array], list[Array]]:
    """Means of a linear model's effects given y and x, and draws, made of standard normal z (padded effects,): (k, J) per term."""
    plan = space.plan
    assert plan is not None
    log_sigma, factor, tail_T, reduced, _ = _eliminate(unpack(space, x), data, space)
    mean, _ = elimination.solve(jnp, factor, plan.layout, tail_T, reduced, (False,) * len(plan.layout))
    noise, start = [], 0
    for t in plan.chain:
        k, J = plan.terms[t].k, plan.terms[t].J
        noise.append(z[start : start + k * J].reshape(1, k, J))
        start += k * J
    drawn = elimination.sample(jnp, factor, plan.layout, tail_T, Vectors(tuple(noise), z[None, start:]))
    means, spread = ([c[0] for c in collect(plan, vectors)] for vectors in (mean, drawn))
    sizes = [term.J for term in space.model.terms]  # levels that only pad are left out
    means = [m[:, :J] for m, J in zip(means, sizes, strict=True)]
    return means, [m + jnp.exp(log_sigma) * s[:, :J] for m, s, J in zip(means, spread, sizes, strict=True)]


def padded_effects(plan: Plan) -> int:
    """Effects of a plan, those of levels that only pad included."""
    return sum(size.k * size.J for size in plan.terms)


def _log_likelihood(family: Any, rows: RowData, eta: Array, phi: Array) -> Array:
    """sum_i log f(y_i | eta_i), minus infinity where a predictor has no mean; the gradient is finite everywhere."""
    low, high = family.eta_bounds
    if not (np.isfinite(low) or np.isfinite(high)):
        return jnp.sum(log_density(family)(rows.y, eta, rows.weights, phi))
    inside = (eta > low) & (eta < high)
    middle = 0.5 * (low + high) if np.isfinite(low) and np.isfinite(high) else low + 1.0 if np.isfinite(low) else high - 1.0
    value = jnp.sum(log_density(family)(rows.y, jnp.where(inside, eta, middle), rows.weights, phi))
    return jnp.where(jnp.all(inside), value, -jnp.inf)
