"""The log posterior density of a mixed model on the whole real line, in JAX, for samplers.

Fixed effects are beta = beta_1 + U d about the posterior mean that a likelihood fit promises; standard deviations and correlations are zeta
(:mod:`lmm.model.posterior.scales`). A linear model's random effects are integrated out,

    log p(y | d, zeta, sigma) = -1/2 (log|M| + n log(2 pi sigma^2) - sum log w + r'V^-1 r / sigma^2),   r = y - X beta,
    M = I + T'Z'WZT,   r'V^-1 r = r'Wr - r'WZ N Z'Wr,   N = (Z'WZ + G^-1)^-1,

by block elimination from its sums, at no cost per row; given the parameters they are normal, b ~ N(N Z'Wr, sigma^2 N). U is the
factor of beta's covariance there, so that d is about standard normal.

A generalized model's effects are sampled with its parameters. The non-centred form is b = T v, v ~ N(0, I). Where the data say
much about the effects, v then depends on T; so the data are put into the transformation: with the likelihood's gradient g and
information W in eta at the likelihood fit, b given the parameters is about normal, and

    b = N Z'(g + W (eta_1 - X beta)) + S v,   N = (Z'WZ + G^-1)^-1 = S S',

has v about N(0, I) whatever the parameters, since log p(b) + log|S| = -1/2 |T^-1 b|^2 - 1/2 log|I + T'Z'WZT| + const. Both are
changes of variable, exact for any g and W; the second becomes the first as W goes to zero.

A position x is one vector: (d, zeta, log sigma) of a linear model (without log sigma where it is known), (d, zeta, log phi, v) of a
generalized one. Priors are densities of the user's beta, standard deviations, correlations, sigma and phi; every Jacobian is there.

Bates et al. (2015), J. Stat. Softw. 67(1), for the marginal likelihood; Betancourt & Girolami (2015) for the non-centred form;
Papaspiliopoulos, Roberts & Skoeld (2007), Statist. Sci. 22, for forms that depend on the data.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lmm.linalg import elimination
from lmm.linalg.elimination import EliminatedSystem, Reduced, System, Vectors
from lmm.linalg.factorisation import arrange, collect
from lmm.linalg.plan import Plan
from lmm.linalg.tail import size as tail_size
from lmm.model.gaussian.crossproducts import cross_products
from lmm.model.gaussian.system import make_system
from lmm.model.posterior import scales
from lmm.model.posterior.joint import Model, RowData, coordinates, make_row_data, predictor
from lmm.model.problem import GeneralizedProblem, Problem, criterion_data
from lmm.model.records import Estimate
from lmm.priors import Priors

Array = Any
LOG_2PI = math.log(2.0 * math.pi)
#: columns of the dense tail up to which a generalized model's effects are transformed by the data
TAIL_LIMIT = 300


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
    priors: Priors


class GeneralizedData(NamedTuple):
    """A generalized model's rows, with X~ = X U, and U; Z'WZ and [-Z'WX~, Z'g + Z'W(eta_1 - X beta_1)], or None for both."""

    rows: RowData
    shift: Array
    unit: Array
    system: System | None
    rhs: Vectors | None
    priors: Priors


class Space(NamedTuple):
    """What is fixed when a density is compiled: the model, the plan of its elimination (None for the plain non-centred form), and
    whether a linear one's sigma is sampled."""

    model: Model
    plan: Plan | None
    free_sigma: bool

    @property
    def linear(self) -> bool:
        """Whether effects are integrated out."""
        return self.model.linear

    @property
    def has_phi(self) -> bool:
        """Whether a dispersion is sampled."""
        return self.model.family.has_dispersion

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
    """A position taken apart; ``log_scale`` is log sigma or log phi, ``v`` (k, J) per term of a generalized model."""

    d: Array
    zeta: Array
    log_scale: Array | None
    v: list[Array]


def unpack(space: Space, x: Array) -> Point:
    """The parts of a position."""
    model, m = space.model, space.parameters
    p, z = model.p, model.size
    v, at = [], m
    if not space.linear:
        for term in model.terms:
            v.append(x[at : at + term.k * term.J].reshape(term.k, term.J))
            at += term.k * term.J
    return Point(x[:p], x[p : p + z], x[p + z] if m > p + z else None, v)


def approximate_posterior(
    near: Estimate, scale2: float, priors: Priors
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean (p,) of the fixed effects and the factor (p, p) of their covariance, by a likelihood fit and the spread of the priors.

    None where the fit has no covariance.
    """
    cov = scale2 * near.beta_cov_unscaled
    if not len(cov):
        return near.beta, cov
    if not (np.isfinite(cov).all() and np.linalg.eigvalsh(cov)[0] > 0):
        return None
    precision, right = _prior_information(priors)
    # in standard errors, so that columns far from zero do no harm
    unit = np.linalg.cholesky(cov)
    both = np.linalg.inv(np.eye(len(cov)) + unit.T @ precision @ unit)
    mean = near.beta + unit @ (both @ (unit.T @ (right - precision @ near.beta)))
    return mean, unit @ np.linalg.cholesky((both + both.T) / 2)


def _prior_information(priors: Priors) -> tuple[np.ndarray, np.ndarray]:
    """Precision (p, p) of the coefficients' priors, by their scales, and precision times location (p,)."""
    rest = priors.rest
    own = np.array(
        [0.0 if prior is None else getattr(prior, "scale", np.inf) ** -2.0 for prior in priors.beta]
    )
    loc = np.array([getattr(prior, "loc", 0.0) for prior in priors.beta])
    return rest.rows.T @ rest.rows + np.diag(own), rest.rows.T @ rest.centre + own * loc


def _prior_centre(priors: Priors, unit: np.ndarray) -> np.ndarray:
    """Where the coefficients' priors have their centre, (p,), with coordinates ``unit`` (p, p)."""
    precision, right = _prior_information(priors)
    centre, *_ = np.linalg.lstsq(unit.T @ precision @ unit, unit.T @ right, rcond=1e-12)
    return np.asarray(unit @ centre)


def sum_data(
    problem: Problem, near: Estimate, sigma: float, priors: Priors
) -> tuple[SumData, Plan]:
    """The sums of a linear problem around a likelihood fit, and the plan of their arrangement."""
    data, plan = problem.data, problem.arranged
    if problem.plan.backend != "jax":  # NumPy's plans have sparse couplings
        data, plan = criterion_data(
            problem.cross, replace(problem.plan, backend="jax"), problem.R, None
        )
    found = approximate_posterior(near, near.sigma**2, priors)
    beta, unit = (problem.beta0, near.sigma * np.linalg.inv(problem.R)) if found is None else found
    R, weights = problem.R, np.asarray(problem.sum_log_weights)
    gamma = R @ (beta - problem.beta0)
    n = np.asarray(float(problem.n))
    return SumData(
        data.system,
        data.rhs,
        data.gram,
        n,
        weights,
        gamma,
        R @ unit,
        beta,
        unit,
        np.asarray(sigma),
        scales.as_tree(priors),
    ), plan


def generalized_data(
    problem: GeneralizedProblem, near: Estimate, priors: Priors
) -> tuple[GeneralizedData, Plan | None]:
    """The rows of a generalized problem around a likelihood fit, and the plan of the elimination.

    U is the factor of beta's approximate posterior covariance; in the plain non-centred form the fixed columns are orthonormal.
    """
    found = approximate_posterior(near, 1.0, priors)
    # a fit without a covariance is far out, separated: its priors know better where to begin
    unit = coordinates(problem, problem.row_sd(1.0, near.phi))
    beta = _prior_centre(priors, unit) if found is None else found[0]
    if tail_size(problem.plan.layout) > TAIL_LIMIT:
        rows = make_row_data(problem, beta, unit)
        return GeneralizedData(rows, beta, unit, None, None, scales.as_tree(priors)), None
    family, y, weights, eta = problem.family, problem.rows.y, problem.rows.weights, near.eta
    assert eta is not None
    unit = unit if found is None else found[1]
    rows = make_row_data(problem, beta, unit)
    W = np.maximum(family.expected_weights(eta, weights, near.phi).weight, 1e-10)
    g = family.derivatives(y, eta, weights, near.phi).d1
    columns = np.column_stack([rows.X, g / W + eta - rows.offset])
    cross = cross_products(problem.terms, np.asfortranarray(columns), W)
    system = make_system(cross, problem.plan, dense=True)
    return GeneralizedData(
        rows, beta, unit, system, arrange(problem.plan, cross.rhs), scales.as_tree(priors)
    ), problem.plan


def log_posterior(x: Array, data: SumData | GeneralizedData, space: Space) -> Array:
    """Log of p(y | x) p(x), normalised priors included, so that its integral over x is the evidence."""
    at = unpack(space, x)
    beta = data.shift + data.unit @ at.d
    total = log_prior(space, data.priors, at, beta) + jnp.sum(
        jnp.log(jnp.abs(jnp.diagonal(data.unit)))
    )  # U is triangular
    if isinstance(data, SumData):
        return total + marginal_log_likelihood(at, data, space)
    b, log_density_v = random_effects(at, data, space)
    eta = predictor(data.rows, at.d, b)
    phi = jnp.ones(()) if at.log_scale is None else jnp.exp(at.log_scale)
    rows = data.rows
    return (
        total
        + log_density_v
        + jnp.sum(space.model.family.log_density(rows.y, eta, rows.weights, phi))
    )


def log_prior(space: Space, priors: Priors, at: Point, beta: Array) -> Array:
    """Log prior density of beta, zeta and log sigma or log phi."""
    model = space.model
    total = scales.log_prior(model.terms, priors, at.zeta, model.transform)
    total = total + priors.rest.log_density(beta, jnp)
    for j, prior in enumerate(priors.beta):
        if prior is not None:
            total = total + prior.log_density(beta[j], jnp)
    if at.log_scale is not None:
        own = priors.sigma if space.linear else priors.phi
        total = total + own.log_density(jnp.exp(at.log_scale), jnp) + at.log_scale
    return total


def marginal_log_likelihood(at: Point, data: SumData, space: Space) -> Array:
    """log p(y | beta, zeta, sigma) of a linear model."""
    log_sigma, factor, tail_T, reduced, rss = _eliminate(at, data, space)
    r2 = rss - elimination.inner(reduced)[0, 0]
    return -0.5 * (
        factor.logdet
        + data.n * (LOG_2PI + 2.0 * log_sigma)
        - data.sum_log_weights
        + r2 * jnp.exp(-2.0 * log_sigma)
    )


def _eliminate(
    at: Point, data: SumData, space: Space
) -> tuple[Array, EliminatedSystem, list[Array], Reduced, Array]:
    """log sigma, the factor at T / sigma, and Z'Wr carried down it with r'Wr."""
    log_sigma = jnp.log(data.sigma) if at.log_scale is None else at.log_scale
    combine = jnp.concatenate([-(data.gamma + data.root @ at.d), jnp.ones(1)])
    T = [own * jnp.exp(-log_sigma) for own in _factors(at, space)]
    factor, tail_T, reduced = _carry(data.system, data.rhs, combine, T, space)
    return log_sigma, factor, tail_T, reduced, combine @ data.gram @ combine


def _factors(at: Point, space: Space) -> list[Array]:
    """T per term."""
    model = space.model
    return [
        scales.factor(term, zeta, model.transform)
        for term, zeta in zip(model.terms, scales.split(model.terms, at.zeta), strict=True)
    ]


def _carry(
    system: System, rhs: Vectors, combine: Array, T: list[Array], space: Space
) -> tuple[EliminatedSystem, list[Array], Reduced]:
    """The factorised system, T of the tail's terms, and a combination of right-hand sides carried down."""
    plan = space.plan
    assert plan is not None
    chain_T, tail_T = [T[t] for t in plan.chain], [T[t] for t in plan.tail]
    one = Vectors(
        tuple(jnp.tensordot(combine, v, 1)[None] for v in rhs.chain), (combine @ rhs.tail)[None]
    )
    factor = elimination.factorize(jnp, system, chain_T, plan.layout, tail_T)
    return factor, tail_T, elimination.reduce(jnp, factor, plan.layout, tail_T, one)


def _means_and_draws(
    factor: EliminatedSystem, tail_T: list[Array], reduced: Reduced, v: list[Array], plan: Plan
) -> tuple[list[Array], list[Array]]:
    """N r and S v, (k, J) per term, for v (k, J) per term."""
    chain = tuple(v[t][None] for t in plan.chain)
    tail = (
        jnp.concatenate([v[t].reshape(1, -1) for t in plan.tail], axis=1)
        if plan.tail
        else jnp.zeros((1, 0))
    )
    mean, _ = elimination.solve(
        jnp, factor, plan.layout, tail_T, reduced, (False,) * len(plan.layout)
    )
    drawn = elimination.sample(jnp, factor, plan.layout, tail_T, Vectors(chain, tail))
    return [c[0] for c in collect(plan, mean)], [c[0] for c in collect(plan, drawn)]


def random_effects(at: Point, data: GeneralizedData, space: Space) -> tuple[list[Array], Array]:
    """b (k, J) per term of a generalized model, and the log density of v under the prior of b."""
    T = _factors(at, space)
    constant = 0.5 * space.effects * LOG_2PI
    if data.system is None or data.rhs is None:
        return [own @ v for own, v in zip(T, at.v, strict=True)], -0.5 * sum(
            (jnp.sum(v * v) for v in at.v), jnp.zeros(())
        ) - constant
    assert space.plan is not None
    combine = jnp.concatenate([-at.d, jnp.ones(1)])
    factor, tail_T, reduced = _carry(data.system, data.rhs, combine, T, space)
    b = [
        m + s
        for m, s in zip(*_means_and_draws(factor, tail_T, reduced, at.v, space.plan), strict=True)
    ]
    squares = (
        jnp.sum((scales.inverse_factor(own) @ effects) ** 2)
        for own, effects in zip(T, b, strict=True)
    )
    return b, -0.5 * (sum(squares, jnp.zeros(())) + factor.logdet) - constant


def conditional_effects(
    x: Array, z: Array, data: SumData, space: Space
) -> tuple[list[Array], list[Array]]:
    """Means of a linear model's effects given y and x, and draws, made of standard normal z (padded effects,): (k, J) per term."""
    plan = space.plan
    assert plan is not None
    log_sigma, factor, tail_T, reduced, _ = _eliminate(unpack(space, x), data, space)
    sizes = [size.k * size.J for size in plan.terms]
    v = [
        own.reshape(size.k, size.J)
        for own, size in zip(jnp.split(z, np.cumsum(sizes)[:-1]), plan.terms, strict=True)
    ]
    means, drawn = _means_and_draws(factor, tail_T, reduced, v, plan)
    # levels that only pad are left out
    pairs = [
        (m[:, : term.J], s[:, : term.J])
        for m, s, term in zip(means, drawn, space.model.terms, strict=True)
    ]
    return [m for m, _ in pairs], [m + jnp.exp(log_sigma) * s for m, s in pairs]


def padded_effects(plan: Plan) -> int:
    """Effects of a plan, those of levels that only pad included."""
    return sum(size.k * size.J for size in plan.terms)
