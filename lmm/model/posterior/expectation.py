"""The two steps of Monte Carlo EM in JAX: the density of the effects given the parameters, and the parameters given draws.

Given d (fixed effects), covariances G_t and sigma (or phi), the effects b have log density, up to a constant,

    -RSS(d, b) / (2 sigma^2) - 1/2 sum_t sum_j b_j'G_t^-1 b_j      (linear; sum log f(y | eta) in place of the first term otherwise).

The M-step of the covariances is in closed form, G_t = mean over draws of sum_j b_j b_j' / J_t (its diagonal, its blocks, where the
structure has no more), and so is that of sigma^2. The averaged gradient in beta is the score of the likelihood itself (Fisher's
identity), and scoring with the information of the working linear model finds its zero.

Wei & Tanner (1990), J. Am. Stat. Assoc. 85; Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmm.model.posterior import scales
from lmm.model.posterior.joint import Model, RowData, Sums, multiply, predictor

Array = Any
LOG_2PI = math.log(2.0 * math.pi)
#: share of a variance, in any direction, that a step leaves of it at the least: the chain's coordinates follow no faster
LEFT = 0.97


class Parameters(NamedTuple):
    """d (p,), Cov(b) per term (k, k), log of sigma, log of phi."""

    d: Array
    G: tuple[Array, ...]
    log_sigma: Array
    log_phi: Array


class Statistics(NamedTuple):
    """Sums over draws: sum_j b_j b_j' per term (k, k), b per term (k, J), b'Z'WZb - 2 b'Z'Wy0; the gradient of the log density in
    (d, log phi), minus its second derivative in log phi, and sum log f itself, of a generalized model."""

    square: tuple[Array, ...]
    mean: tuple[Array, ...]
    energy: Array
    score: Array
    curvature: Array
    log_f: Array


class Frame(NamedTuple):
    """Coordinates in which the effects are about independent, with unit variances: units (k, J) per term; with g = L z the
    effects of the dense terms in their units, the others are units * x + K g, K (e, k, J) (zero for the dense terms). ``cov`` is
    (X~'V^-1X~)^-1 (p, p) of the working linear model, and ``slopes`` -N Z'WX~ (p, k, J) per term how its effects move with d."""

    units: tuple[Array, ...]
    K: tuple[Array, ...]
    L: Array
    cov: Array
    slopes: tuple[Array, ...]


def split_effects(model: Model, x: Array) -> list[Array]:
    """Parts (k, J) per term of a flat vector (q,)."""
    out, at = [], 0
    for term in model.terms:
        out.append(x[at : at + term.k * term.J].reshape(term.k, term.J))
        at += term.k * term.J
    return out


def effects(model: Model, dense: tuple[int, ...], frame: Frame, x: Array) -> list[Array]:
    """b per term (k, J) at coordinates x (q,)."""
    parts = split_effects(model, x)
    b = [own * unit for own, unit in zip(parts, frame.units, strict=True)]
    if not dense:
        return b
    g = frame.L @ jnp.concatenate([parts[t].reshape(-1) for t in dense])
    at = 0
    for t, term in enumerate(model.terms):
        if t in dense:
            b[t] = g[at : at + term.k * term.J].reshape(term.k, term.J) * frame.units[t]
            at += term.k * term.J
        else:
            b[t] = b[t] + jnp.tensordot(g, frame.K[t], 1)
    return b


def coordinates(
    model: Model, dense: tuple[int, ...], frame: Frame, b: list[np.ndarray]
) -> np.ndarray:
    """The inverse of :func:`effects`, in NumPy."""
    parts = [own / unit for own, unit in zip(b, frame.units, strict=True)]
    if dense:
        g = np.concatenate([parts[t].reshape(-1) for t in dense])
        z, at = np.linalg.solve(frame.L, g), 0
        for t, term in enumerate(model.terms):
            if t in dense:
                parts[t] = z[at : at + term.k * term.J]
                at += term.k * term.J
            else:
                parts[t] = (b[t] - np.tensordot(g, frame.K[t], 1)) / frame.units[t]
    return np.concatenate([own.reshape(-1) for own in parts])


def small_inverse(G: Array) -> Array:
    """G^-1 of a (k, k) covariance, a little more than G so that a vanishing direction stays finite."""
    k = G.shape[0]
    if k == 1:
        return 1.0 / jnp.maximum(G, 1e-300)
    unit = jnp.sqrt(jnp.maximum(jnp.diagonal(G), 1e-300))
    return jnp.linalg.inv(G / jnp.outer(unit, unit) + 1e-8 * jnp.eye(k)) / jnp.outer(unit, unit)


def effects_density(
    model: Model, dense: tuple[int, ...], frame: Frame, data: Sums | RowData, at: Parameters
) -> Any:
    """x (q,) -> log density of the effects, with a gradient from one product with Z'WZ."""
    inverses = [small_inverse(G) for G in at.G]

    def prior(b: list[Array]) -> tuple[Array, list[Array]]:
        pulled = [P @ own for P, own in zip(inverses, b, strict=True)]
        return -0.5 * sum(
            (jnp.sum(own * pull) for own, pull in zip(b, pulled, strict=True)), jnp.zeros(())
        ), pulled

    if isinstance(data, Sums):
        precision = jnp.exp(-2.0 * at.log_sigma)
        target = [r - jnp.tensordot(at.d, F, 1) for r, F in zip(data.rhs, data.fixed, strict=True)]

        def parts(x: Array) -> tuple[Array, Array]:
            b, pull_back = jax.vjp(lambda x: effects(model, dense, frame, x), x)
            product = multiply(data, model.keys, b)
            value, pulled = prior(b)
            for own, r, Ab in zip(b, target, product, strict=True):
                value = value + precision * jnp.sum(own * (r - 0.5 * Ab))
            gradient = [
                precision * (r - Ab) - pull
                for r, Ab, pull in zip(target, product, pulled, strict=True)
            ]
            return value, pull_back(gradient)[0]

        @jax.custom_vjp
        def density(x: Array) -> Array:
            return parts(x)[0]

        density.defvjp(parts, lambda gradient, cotangent: (cotangent * gradient,))
        return density

    f = model.family.log_density
    phi = jnp.exp(at.log_phi)

    def of_rows(x: Array) -> Array:
        b = effects(model, dense, frame, x)
        return jnp.sum(f(data.y, predictor(data, at.d, b), data.weights, phi)) + prior(b)[0]

    return of_rows


def no_statistics(model: Model, p: int) -> Statistics:
    """Zeros to add to."""
    square = tuple(jnp.zeros((t.k, t.k)) for t in model.terms)
    mean = tuple(jnp.zeros((t.k, t.J)) for t in model.terms)
    return Statistics(square, mean, jnp.zeros(()), jnp.zeros(p + 1), jnp.zeros(()), jnp.zeros(()))


def add_draw(
    model: Model,
    frame: Frame,
    data: Sums | RowData,
    at: Parameters,
    total: Statistics,
    b: list[Array],
) -> Statistics:
    """The statistics with one more draw.

    To the gradient in d is added that in b times the slopes, whose mean is zero: the sum is the gradient along d with the effects
    moving as they would, which in a linear model does not depend on the draw at all.
    """
    square = tuple(old + own @ own.T for old, own in zip(total.square, b, strict=True))
    mean = tuple(old + own for old, own in zip(total.mean, b, strict=True))
    pulled = [small_inverse(G) @ own for G, own in zip(at.G, b, strict=True)]
    if isinstance(data, Sums):
        product = multiply(data, model.keys, b)
        energy = total.energy
        for own, Ab, r in zip(b, product, data.rhs, strict=True):
            energy = energy + jnp.sum(own * (Ab - 2.0 * r))
        precision = jnp.exp(-2.0 * at.log_sigma)
        right = data.xy - sum(
            (jnp.tensordot(F, own, 2) for F, own in zip(data.fixed, b, strict=True)),
            jnp.zeros(model.p),
        )
        first = (right - data.gram @ at.d) * precision
        in_b = [
            precision * (r - jnp.tensordot(at.d, F, 1) - Ab) - pull
            for r, F, Ab, pull in zip(data.rhs, data.fixed, product, pulled, strict=True)
        ]
        score = jnp.concatenate([_along(frame, first, in_b), jnp.zeros(1)])
        return Statistics(square, mean, energy, total.score + score, total.curvature, total.log_f)
    f = model.family.log_density

    def of(d: Array, log_phi: Array, b: list[Array]) -> Array:
        return jnp.sum(f(data.y, predictor(data, d, b), data.weights, jnp.exp(log_phi)))

    value, (first, second, in_b) = jax.value_and_grad(of, argnums=(0, 1, 2))(at.d, at.log_phi, b)
    score = jnp.concatenate(
        [
            _along(frame, first, [g - pull for g, pull in zip(in_b, pulled, strict=True)]),
            second[None],
        ]
    )
    curvature = total.curvature
    if model.family.has_dispersion:
        curvature = (
            curvature
            - jax.jvp(
                lambda log_phi: jax.grad(of, argnums=1)(at.d, log_phi, b),
                (at.log_phi,),
                (jnp.ones(()),),
            )[1]
        )
    return Statistics(
        square, mean, total.energy, total.score + score, curvature, total.log_f + value
    )


def _along(frame: Frame, in_d: Array, in_b: list[Array]) -> Array:
    """The gradient in d with the effects moving along."""
    return in_d + sum(
        (jnp.tensordot(K, g, 2) for K, g in zip(frame.slopes, in_b, strict=True)),
        jnp.zeros_like(in_d),
    )


def kept_apart(new: Array, old: Array) -> Array:
    """As far from ``old`` towards ``new``, covariances (k, k), as leaves a share of the variance in every direction."""
    if new.shape[0] == 1:
        return jnp.maximum(new, LEFT * old)
    unit = jnp.sqrt(jnp.maximum(jnp.diagonal(old), 1e-300))
    L = jnp.linalg.cholesky(old / jnp.outer(unit, unit) + 1e-8 * jnp.eye(len(unit)))
    half = jax.scipy.linalg.solve_triangular(L, new / jnp.outer(unit, unit), lower=True)
    least = jnp.linalg.eigvalsh(jax.scipy.linalg.solve_triangular(L, half.T, lower=True))[0]
    share = jnp.minimum(1.0, (1.0 - LEFT) / jnp.maximum(1.0 - least, 1e-12))
    return old + share * (new - old)


def maximise(
    model: Model,
    data: Sums | RowData,
    cov: Array,
    at: Parameters,
    mean: Statistics,
    share: float,
    fixed_sigma: bool,
) -> Parameters:
    """The M-step, from averaged statistics.

    G and sigma^2 have their maximum in closed form. Fixed effects take ``share`` of a scoring step on the likelihood, whose score is
    the averaged gradient (Fisher's identity) and whose information is that of the working linear model, ``cov`` its inverse; their
    maximum given draws of effects that they are confounded with would follow those. So does the log of a dispersion, with the
    curvature of the density.
    """
    G: tuple[Array, ...] = tuple(
        term.structure.maximiser(S / term.J, jnp)
        for S, term in zip(mean.square, model.terms, strict=True)
    )
    G = tuple(kept_apart(new, old) for new, old in zip(G, at.G, strict=True))
    if not isinstance(data, Sums):
        step = jnp.clip(
            share
            * mean.score[-1]
            / jnp.maximum(mean.curvature, 1e-3 * jnp.abs(mean.score[-1]) + 1e-12),
            -0.2,
            0.2,
        )
        log_phi = at.log_phi + step if model.family.has_dispersion else at.log_phi
        return Parameters(at.d + share * cov @ mean.score[:-1], G, at.log_sigma, log_phi)
    right = data.xy - sum(
        (jnp.tensordot(F, b, 2) for F, b in zip(data.fixed, mean.mean, strict=True)),
        jnp.zeros(model.p),
    )
    d = at.d + share * cov @ mean.score[:-1]
    rss = data.yy - 2.0 * d @ right + d @ data.gram @ d + mean.energy
    log_sigma = at.log_sigma if fixed_sigma else 0.5 * jnp.log(rss / data.n)
    return Parameters(d, G, log_sigma, at.log_phi)


def expected_loss(
    model: Model,
    data: Sums | RowData,
    d: Array,
    G: tuple[Array, ...],
    log_sigma: Array,
    mean: Statistics,
) -> Array:
    """Minus the averaged log density of responses and effects; of a generalized model that of the effects alone plus what was summed."""
    loss = jnp.zeros(())
    for own, S, term in zip(G, mean.square, model.terms, strict=True):
        unit = jnp.sqrt(jnp.maximum(jnp.diagonal(own), 1e-300))
        R = own / jnp.outer(unit, unit) + (1e-8 * jnp.eye(term.k) if term.k > 1 else 0.0)
        log_det = jnp.linalg.slogdet(R)[1] + 2.0 * jnp.sum(jnp.log(unit))
        loss = (
            loss
            + 0.5 * term.J * (log_det + term.k * LOG_2PI)
            + 0.5 * jnp.sum(small_inverse(own) * S)
        )
    if not isinstance(data, Sums):
        return loss - mean.log_f
    right = data.xy - sum(
        (jnp.tensordot(F, b, 2) for F, b in zip(data.fixed, mean.mean, strict=True)),
        jnp.zeros(model.p),
    )
    rss = data.yy - 2.0 * d @ right + d @ data.gram @ d + mean.energy
    return (
        loss
        + data.n * (0.5 * LOG_2PI + log_sigma)
        - 0.5 * data.sum_log_weights
        + 0.5 * rss * jnp.exp(-2.0 * log_sigma)
    )


def by_scales(model: Model, zeta: Array) -> tuple[Array, ...]:
    """Covariances of transformed standard deviations and correlations."""
    T = [
        scales.factor(term, own, model.transform)
        for term, own in zip(model.terms, scales.split(model.terms, zeta), strict=True)
    ]
    return tuple(t @ t.T for t in T)
