"""The evidence lower bound of a mixed model under a Gaussian approximation, without sampling noise.

With theta = (zeta, beta), zeta the transformed standard deviations and correlations (:mod:`lmm.model.posterior.scales`), the
approximation is

    (zeta, beta) ~ N(mu, L L'),      b_j | zeta, beta ~ N(m_j + C_j e, S_j S_j'),   e = L^-1 ((zeta, beta) - mu),

and the bound E_q[log p(y, b, theta) - log q]. Three families restrict it:

    mean_field   L and S_j diagonal, C_j = 0: everything independent
    full_rank    L lower triangular in zeta and in beta, S_j diagonal, C_j = 0. Given independent b the best q has no
                 covariance between zeta and beta, so the two blocks are the whole of it.
    partial      L lower triangular, C_j free, S_j lower triangular: effects of different levels are independent given theta
                 (partially factorised; Goplerud, Papaspiliopoulos & Zanella 2025, Biometrika 112). The effects of ``dense`` terms,
                 factors with few levels, join theta: (zeta, beta, b_dense) ~ N(mu, L L'), and the others depend on them too.
                 Without that a factor crossed or nested with others loses its variance to them.

Expectations are exact or by fixed quadrature: the Gaussian likelihood needs E[RSS], a quadratic form; another likelihood one
Gauss-Hermite rule per row, eta_i being normal; E[tr(G(zeta)^-1 sum_j b_j b_j')] and the priors a rule over zeta alone. The bound is
so a smooth function of its parameters, fit for a quasi-Newton method.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmm.model.posterior import scales
from lmm.model.posterior.joint import Model, RowData, Sums, predictor, quadratic, residual_ss
from lmm.priors import Priors

Array = Any
Parameters = dict[str, Any]
LOG_2PI = math.log(2.0 * math.pi)
FAMILIES = ("mean_field", "full_rank", "partial")


class Approximation(NamedTuple):
    """What is fixed when the bound is compiled: the family of q, how sigma is treated ("fixed", "estimate", "posterior"), and
    the terms of the partial family whose effects join the parameters."""

    family: str
    sigma: str
    dense: tuple[int, ...] = ()

    def globals(self, model: Model) -> int:
        """Size of e: zeta, beta and the effects of the dense terms."""
        return model.size + model.p + sum(model.terms[t].k * model.terms[t].J for t in self.dense)


class Frame(NamedTuple):
    """Coordinates of the effects' means and factors: units (k, J) per term, and slopes (p, k, J) by which the means move with
    d - ``d``, as those of the likelihood do, so that a search does not have to find that out."""

    units: tuple[Array, ...]
    slopes: tuple[Array, ...]
    d: Array


class Rules(NamedTuple):
    """Quadrature for standard normals: nodes over zeta (N, z), weights (N,); one-dimensional nodes (Q,), weights (Q,)."""

    zeta: Array
    zeta_weights: Array
    line: Array
    line_weights: Array


class Gaussian(NamedTuple):
    """q taken apart: means and factors of zeta and d, effects' means m (k, J), couplings C, factors S (k, k, J)."""

    zeta: Array
    zeta_factor: Array  # (z, z)
    d: Array
    d_factor: Array  # (p, e)
    m: list[Array]
    C: list[Array] | None  # (e, k, J)
    S: list[Array]
    log_diagonal: Array  # of L, summed over all


def triangle(raw: Array, size: int) -> Array:
    """Lower-triangular factor with a positive diagonal from size (size + 1) / 2 numbers, the logs of the diagonal first."""
    rows, cols = np.tril_indices(size, -1)
    L = jnp.zeros((size, size)).at[rows, cols].set(raw[size:])
    return L + jnp.diag(jnp.exp(raw[:size]))


def _level_factors(raw: Array, k: int) -> Array:
    """Lower-triangular factors (k, k, J) from (k (k + 1) / 2, J) numbers."""
    rows, cols = np.tril_indices(k, -1)
    zero = jnp.zeros_like(raw[0])
    of = {(i, i): jnp.exp(raw[i]) for i in range(k)}
    of |= {(int(i), int(j)): raw[k + n] for n, (i, j) in enumerate(zip(rows, cols, strict=True))}
    return jnp.stack([jnp.stack([of.get((i, j), zero) for j in range(k)]) for i in range(k)])


def unpack(model: Model, how: Approximation, q: Parameters, frame: Frame) -> Gaussian:
    """The Gaussian that parameters stand for."""
    unit = frame.units
    z, p = model.size, model.p
    moved = q["d"] - frame.d
    m = [
        own * u + jnp.tensordot(moved, K, 1)
        for own, u, K in zip(q["m"], unit, frame.slopes, strict=True)
    ]
    if how.family == "partial":
        L = triangle(q["globals"], how.globals(model))
        free = iter(zip(q["coupling"], q["spread"], strict=True))
        at, C, S = z + p, [], []
        log_diagonal = jnp.sum(jnp.log(jnp.diagonal(L)))
        for t, (term, u) in enumerate(zip(model.terms, unit, strict=True)):
            if t in how.dense:
                own = L[at : at + term.k * term.J].T.reshape(-1, term.k, term.J)
                C.append(own * u[None])
                S.append(jnp.zeros((term.k, term.k, term.J)))
                log_diagonal = log_diagonal + jnp.sum(jnp.log(u))
                at += term.k * term.J
            else:
                coupling, spread = next(free)
                C.append(
                    jnp.tensordot(L.T, coupling * u[None], 1)
                )  # regressions on the parameters themselves
                S.append(_level_factors(spread, term.k) * u[:, None])
        return Gaussian(q["zeta"], L[:z, :z], q["d"], L[z : z + p], m, C, S, log_diagonal)
    if how.family == "full_rank":
        zeta_factor, own_factor = triangle(q["zeta_factor"], z), triangle(q["d_factor"], p)
    else:
        zeta_factor, own_factor = (
            jnp.diag(jnp.exp(q["zeta_factor"])),
            jnp.diag(jnp.exp(q["d_factor"])),
        )
    d_factor = jnp.concatenate([jnp.zeros((p, z)), own_factor], axis=1)
    S = [
        jnp.eye(term.k)[:, :, None] * (jnp.exp(raw) * u)[:, None]
        for raw, term, u in zip(q["spread"], model.terms, unit, strict=True)
    ]
    log_diagonal = jnp.sum(jnp.log(jnp.diagonal(zeta_factor))) + jnp.sum(
        jnp.log(jnp.diagonal(own_factor))
    )
    return Gaussian(q["zeta"], zeta_factor, q["d"], d_factor, m, None, S, log_diagonal)


class Begin(NamedTuple):
    """Where a search begins: zeta, d, effects (k, J) per term, and of the partial family the effects' regressions on
    (zeta, d, dense effects) (e, k, J) per term that is not dense, and L (e, e); sigma and phi."""

    zeta: np.ndarray
    d: np.ndarray
    effects: list[np.ndarray]
    regressions: list[np.ndarray]
    factor: np.ndarray
    sigma: float
    phi: float


def initial(
    model: Model, how: Approximation, begin: Begin, frame: Frame, sigma_unit: float = 1.0
) -> Parameters:
    """Parameters to begin from; effects have their units for standard deviations, ``sigma_unit`` as of the priors."""
    unit = frame.units
    z, p = model.size, model.p
    spread = [np.zeros((term.k, term.J)) for term in model.terms]
    m = [b / u for b, u in zip(begin.effects, unit, strict=True)]
    q: Parameters = {"zeta": begin.zeta, "d": begin.d, "m": m, "spread": spread}
    small = np.log(zeta_spread(model))
    if how.family == "partial":
        L = begin.factor
        q["globals"] = np.concatenate([np.log(np.diagonal(L)), L[np.tril_indices(len(L), -1)]])
        free = [t for t in range(len(model.terms)) if t not in how.dense]
        q["coupling"] = [own / unit[t] for t, own in zip(free, begin.regressions, strict=True)]
        q["spread"] = [
            np.zeros((model.terms[t].k * (model.terms[t].k + 1) // 2, model.terms[t].J))
            for t in free
        ]
    elif how.family == "full_rank":
        q["zeta_factor"] = np.concatenate([small, np.zeros(z * (z - 1) // 2)])
        q["d_factor"] = np.zeros(p * (p + 1) // 2)
    else:
        q["zeta_factor"], q["d_factor"] = small, np.zeros(p)
    if how.sigma == "estimate":
        q["log_sigma"] = np.asarray(math.log(begin.sigma))
    if how.sigma == "posterior":
        raw = scales.unpositive(np.asarray(begin.sigma), model.transform, np.asarray(sigma_unit))
        q["sigma"], q["sigma_factor"] = raw, np.asarray(-3.0)
    if model.family.has_dispersion:
        q["log_phi"] = np.asarray(math.log(begin.phi))
    return q


def zeta_spread(model: Model) -> np.ndarray:
    """A guess of the posterior standard deviations of zeta (z,), that of the log of a standard deviation from J effects."""
    return np.concatenate([np.full(term.size, (2.0 * term.J) ** -0.5) for term in model.terms])


def expected_rss(sums: Sums, model: Model, g: Gaussian) -> Array:
    """E[RSS]: at the means, plus the quadratic form of the covariance."""
    total = residual_ss(sums, model.keys, g.d, g.m)
    if g.C is None:
        total = total + jnp.sum((sums.gram @ g.d_factor) * g.d_factor)
    else:
        columns = (g.d_factor.T, g.C)
        total = total + jnp.sum(jax.vmap(lambda d, C: quadratic(sums, model.keys, d, C))(*columns))
    for A, S in zip(sums.diag, g.S, strict=True):
        total = total + jnp.sum(A * jnp.sum(S[:, None] * S[None], axis=2))
    return total


def predictor_moments(rows: RowData, g: Gaussian) -> tuple[Array, Array]:
    """Mean and variance of eta (n,)."""
    mean = predictor(rows, g.d, g.m)
    if g.C is None:
        variance = jnp.sum((rows.X @ g.d_factor) ** 2, axis=1)
    else:
        own = rows._replace(offset=jnp.zeros_like(rows.offset))
        variance = jnp.sum(
            jax.vmap(lambda d, C: predictor(own, d, C) ** 2)(g.d_factor.T, g.C), axis=0
        )
    for code, values, S in zip(rows.codes, rows.values, g.S, strict=True):
        # (k, n): S'z of each row
        variance = variance + jnp.sum(jnp.sum(S[:, :, code] * values[:, None], axis=0) ** 2, axis=0)
    return mean, variance


def expected_log_density(
    rows: RowData, model: Model, g: Gaussian, phi: Array, rules: Rules
) -> Array:
    """sum_i E[log f(y_i | eta_i)], eta_i normal."""
    mean, variance = predictor_moments(rows, g)
    eta = mean[:, None] + jnp.sqrt(variance)[:, None] * rules.line[None]
    value = model.family.log_density(rows.y[:, None], eta, rows.weights[:, None], phi)
    return jnp.sum(value @ rules.line_weights)


def bound(
    q: Parameters,
    data: Sums | RowData,
    frame: Frame,
    rules: Rules,
    sigma: Array,
    priors: Priors,
    share: Array,
    model: Model,
    how: Approximation,
) -> tuple[Array, Array]:
    """The evidence lower bound, and E[RSS] of a linear model (zero otherwise).

    ``priors`` as :func:`lmm.model.posterior.scales.as_tree` gives them; ``sigma`` is the fixed residual standard deviation; ``share`` what
    the rows given are of all rows, for a minibatch.
    """
    g = unpack(model, how, q, frame)
    rss = jnp.zeros(())
    if isinstance(data, Sums):
        rss = expected_rss(data, model, g)
        log_sigma, precision, total = _sigma_moments(q, rules, sigma, priors, model, how)
        total = (
            total
            - data.n * (0.5 * LOG_2PI + log_sigma)
            + 0.5 * data.sum_log_weights
            - 0.5 * precision * rss
        )
    else:
        phi = jnp.exp(q["log_phi"]) if "log_phi" in q else jnp.ones(())
        total = expected_log_density(data, model, g, phi, rules) / share
    total = total + _effects_prior(model, priors, g, rules)
    total = total + _coefficients_prior(
        priors, data.shift + data.unit @ g.d, data.unit @ g.d_factor, rules
    )
    return total + _entropy(model, how, g) + jnp.sum(
        jnp.log(jnp.abs(jnp.diagonal(data.unit)))
    ), rss  # U is triangular


def _coefficients_prior(priors: Priors, mean: Array, factor: Array, rules: Rules) -> Array:
    """E[log p(beta)] for beta ~ N(mean, factor factor')."""
    total = priors.rest.log_density(mean, jnp) - 0.5 * jnp.sum((priors.rest.rows @ factor) ** 2)
    for j, prior in enumerate(priors.beta):
        if prior is not None:
            sd = jnp.sqrt(jnp.sum(factor[j] ** 2))
            total = total + prior.log_density(mean[j] + sd * rules.line, jnp) @ rules.line_weights
    return total


def _sigma_moments(
    q: Parameters, rules: Rules, sigma: Array, priors: Priors, model: Model, how: Approximation
) -> tuple[Array, Array, Array]:
    """E[log sigma], E[1 / sigma^2], and what sigma's prior and entropy add."""
    if how.sigma == "fixed":
        return jnp.log(sigma), 1.0 / sigma**2, jnp.zeros(())
    if how.sigma == "estimate":
        return q["log_sigma"], jnp.exp(-2.0 * q["log_sigma"]), jnp.zeros(())
    raw = q["sigma"] + jnp.exp(q["sigma_factor"]) * rules.line
    value = scales.positive(raw, model.transform, priors.sigma_unit)
    prior = priors.sigma.log_density(value, jnp) + scales.log_slope(
        raw, model.transform, priors.sigma_unit
    )
    entropy = q["sigma_factor"] + 0.5 * (1.0 + LOG_2PI)
    w = rules.line_weights
    return jnp.log(value) @ w, (value**-2.0) @ w, prior @ w + entropy


def _effects_prior(model: Model, priors: Priors, g: Gaussian, rules: Rules) -> Array:
    """E[log p(b | zeta) + log p(zeta)] over the nodes of zeta."""
    z = model.size
    base, moving = [], []
    for t, (m, S) in enumerate(zip(g.m, g.S, strict=True)):
        M = jnp.sum(S[:, None] * S[None], axis=(2, 3))
        if g.C is None:
            base.append(M + m @ m.T)
            continue
        tail = g.C[t][z:]
        base.append(M + jnp.einsum("lkj,lmj->km", tail, tail))
        moving.append(
            jnp.concatenate([m[None], g.C[t][:z]])
        )  # b's mean is this, contracted with (1, e_zeta)
    squares = [jnp.einsum("akj,bmj->abkm", F, F) for F in moving]

    def at(e: Array) -> Array:
        zeta = g.zeta + g.zeta_factor @ e
        total = scales.log_prior(model.terms, priors, zeta, model.transform)
        one = jnp.concatenate([jnp.ones(1), e])
        for t, (term, own) in enumerate(
            zip(model.terms, scales.split(model.terms, zeta), strict=True)
        ):
            M = (
                base[t]
                if g.C is None
                else base[t] + jnp.einsum("a,abkm,b->km", one, squares[t], one)
            )
            T = scales.factor(term, own, model.transform, priors.units[t])
            inverse = scales.inverse_factor(T)
            total = (
                total
                - term.J * (0.5 * term.k * LOG_2PI + jnp.sum(jnp.log(jnp.diagonal(T))))
                - 0.5 * jnp.sum((inverse @ M) * inverse)
            )
        return total

    return jax.vmap(at)(rules.zeta) @ rules.zeta_weights


def _entropy(model: Model, how: Approximation, g: Gaussian) -> Array:
    """Entropy of q over (zeta, d, b)."""
    count = model.size + model.p + sum(term.k * term.J for term in model.terms)
    total = g.log_diagonal
    for t, S in enumerate(g.S):
        if t not in how.dense:
            total = total + sum(
                (jnp.sum(jnp.log(S[a, a])) for a in range(S.shape[0])), jnp.zeros(())
            )
    return total + 0.5 * count * (1.0 + LOG_2PI)
