"""The joint density of responses and effects in JAX, for the methods that climb or walk on it.

A linear model is held by its sums, so that nothing here costs anything per row: with y0 = y - X beta_0, beta = beta_0 + U d
(U upper triangular or diagonal, so that a unit of d is about a standard error) and X~ = X U,

    RSS(d, b) = y0'Wy0 - 2 d'X~'Wy0 - 2 b'Z'Wy0 + d'X~'WX~ d + 2 d'X~'WZ b + b'Z'WZ b;

a generalized one by its rows, eta = offset + X (beta_0 + U d) + Z b. ``Sums`` and ``RowData`` are pytrees of arrays; what a
compiled function depends on besides shapes is the static ``Model``. Effects b are (k, J) per term.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular

from lmm.model.gaussian import moments
from lmm.model.gaussian.crossproducts import CrossProducts, dense_pairs
from lmm.model.laplace.start_values import starting_values
from lmm.model.posterior.scales import Term
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.priors import Scales

Array = Any


class Model(NamedTuple):
    """What is fixed when a function is compiled: terms, pairs of terms, fixed columns, transform, family."""

    terms: tuple[Term, ...]
    keys: tuple[tuple[int, int], ...]
    p: int
    transform: str
    family: Any  # lmm.families.Family

    @property
    def linear(self) -> bool:
        """Whether effects can be integrated out."""
        return bool(self.family.linear)

    @property
    def size(self) -> int:
        """Numbers in zeta."""
        return sum(term.size for term in self.terms)


class Sums(NamedTuple):
    """Cross-products of a linear model: per term Z'WZ (k, k, J), Z'Wy0 (k, J), X~'WZ (p, k, J); pairs of terms as
    (rows, cols, blocks), or dense (k_t, k_s, J_t, J_s), which is faster for many vectors at once."""

    diag: tuple[Array, ...]
    rhs: tuple[Array, ...]
    fixed: tuple[Array, ...]
    pairs: tuple[tuple[Array, ...], ...]
    gram: Array
    xy: Array
    yy: Array
    n: Array
    sum_log_weights: Array
    shift: Array  # beta_0 (p,)
    unit: Array  # U (p, p)


class RowData(NamedTuple):
    """Rows of a generalized model: y, weights, offset (n,), X~ (n, p), per term level codes (n,) and values (k, n); of rows that meet
    s levels (s, n) and (k, s, n)."""

    y: Array
    weights: Array
    offset: Array
    X: Array
    codes: tuple[Array, ...]
    values: tuple[Array, ...]
    shift: Array
    unit: Array  # U (p, p)


class Start(NamedTuple):
    """Where to begin: Cov(b) per term (k, k), fixed effects (p,) on the user's scale, sigma, phi, and the mean information of
    a row about its linear predictor (1 in units of sigma for a linear model)."""

    covariances: list[np.ndarray]
    beta: np.ndarray
    sigma: float
    phi: float
    information: float = 1.0


def start_of(problem: Problem | GeneralizedProblem, start: np.ndarray | None = None) -> Start:
    """Moments of the data, as the likelihood methods begin, or theta, beta and phi of the user."""
    if isinstance(problem, Problem):
        theta = (
            moments.starting_values(problem.cross, problem.structures)
            if start is None
            else np.asarray(start, dtype=float)
        )
        sigma = _residual_sd(problem, theta)
        T = problem.factors(theta)
        return Start([sigma**2 * t @ t.T for t in T], problem.beta0, sigma, 1.0)
    psi = starting_values(problem)
    m, p = problem.n_theta, problem.p
    if start is not None:
        start = np.asarray(start, dtype=float)
        psi[:m] = start[:m]
        if len(start) >= m + p and p:
            psi[m : m + p] = problem.rows.R @ start[m : m + p]
        if len(start) > m + p:
            psi[-1] = np.log(start[-1])
    T = problem.factors(psi[:m])
    beta = np.linalg.solve(problem.rows.R, psi[m : m + p]) if p else np.zeros(0)
    phi = float(np.exp(psi[-1])) if problem.family.has_dispersion else 1.0
    eta = problem.rows.offset + problem.rows.Q @ psi[m : m + p]
    information = float(
        np.mean(problem.family.expected_weights(eta, problem.rows.weights, phi).weight)
    )
    return Start([t @ t.T for t in T], beta, 1.0, phi, information)


def _residual_sd(problem: Problem, theta: np.ndarray) -> float:
    """A residual standard deviation that fits the moments: the marginal variance is shared out as theta says."""
    grams = problem.grams()
    factors = problem.factors(theta)
    explained = sum(float(np.trace(t.T @ g @ t)) for t, g in zip(factors, grams, strict=True))
    weight = float(np.exp(problem.sum_log_weights / problem.n))
    return float(
        np.sqrt(
            problem.cross.gram[-1, -1]
            / max(problem.n - problem.p, 1)
            / (weight + explained)
            * weight
        )
    )


def make_model(problem: Problem | GeneralizedProblem, transform: str) -> Model:
    """The static part of a problem."""
    sizes = problem.plan.terms
    terms = tuple(Term(s, size.J) for s, size in zip(problem.structures, sizes, strict=True))
    return Model(terms, problem.summed_pairs, problem.p, transform, problem.distribution)


def units_of(problem: Problem | GeneralizedProblem, model: Model) -> Scales:
    """What the default priors are made of, see :mod:`lmm.priors`."""
    constant = problem.constant()
    pairs = tuple(term.size - term.n_sd for term in model.terms)
    if isinstance(problem, Problem):
        weight = math.exp(problem.sum_log_weights / problem.n)
        if constant is not None:
            weight = float(np.sum((problem.R @ constant) ** 2)) / problem.n
        R, scale = problem.R / np.sqrt(problem.n * weight), problem.scale or 1.0
        effects = _effect_units(problem, model, weight)
        sigma = scale if constant is not None else math.hypot(scale, problem.location)
        return Scales(
            problem.location, scale, R, constant, effects, pairs, sigma * math.sqrt(weight)
        )
    family, rows = problem.family, problem.rows
    location, scale = _predictor_moments(problem)
    dispersion, printed, root = None, "phi", False
    if family.has_dispersion:
        mean = np.full(rows.n, np.average(rows.y, weights=rows.weights))
        dispersion = family.initial_phi(rows.y, mean, rows.weights)
        root = family.dispersion_scales_variance
        printed = "sigma" if root else family.dispersion_name
    return Scales(
        location,
        scale,
        rows.R,
        constant,
        _effect_units(problem, model, 1.0),
        pairs,
        None,
        dispersion,
        printed,
        root,
    )


def _effect_units(
    problem: Problem | GeneralizedProblem, model: Model, weight: float
) -> tuple[tuple[float, ...], ...]:
    """Per term and standard deviation the root mean square of its columns, less what those that they are correlated with explain."""
    out = []
    for term, relative in zip(model.terms, problem.grams(), strict=True):
        gram = relative * problem.eta_scale**2
        square = np.diagonal(gram) / weight
        left = np.where(square > 0, square, 1.0)
        for own in term.structure.free_blocks():
            length = np.sqrt(left[own])
            R = gram[np.ix_(own, own)] / weight / np.outer(length, length)
            if np.linalg.eigvalsh(R)[0] > 1e-12:
                left[own] = length**2 / np.diagonal(np.linalg.inv(R))
        of = [
            np.mean(left[list(q.columns) or slice(None)])
            for q in term.structure.quantities()
            if q.kind == "sd"
        ]
        out.append(tuple(map(float, np.sqrt(of))))
    return tuple(out)


def _predictor_moments(problem: GeneralizedProblem) -> tuple[float, float]:
    """Mean and standard deviation of the response, on the scale of the linear predictor, the offset taken off."""
    link, rows = problem.family.link, problem.rows
    eta = problem.constant_predictor()
    mean = float(np.average(rows.y, weights=rows.weights))
    sd = float(np.sqrt(np.average((rows.y - mean) ** 2, weights=rows.weights))) or 1.0
    if eta is None:
        return 0.0, sd if link.has_units else 1.0
    scale = sd / abs(float(link.d1(np.array(eta)))) if link.has_units else 1.0
    return eta - float(np.mean(rows.offset)), scale


def coordinates(
    problem: Problem | GeneralizedProblem, sigma: float, diagonal: bool = False
) -> np.ndarray:
    """U (p, p), beta = beta_0 + U d: the columns of X U are orthonormal over sigma, or have that length where U is diagonal."""
    p = problem.p
    R = problem.root
    if diagonal:
        length = np.sqrt(np.sum(R * R, axis=0))
        return np.diag(sigma / np.where(length > 0, length, 1.0))
    return sigma * np.asarray(solve_triangular(R, np.eye(p))) if p else np.zeros((0, 0))


def make_sums(problem: Problem, unit: np.ndarray, dense: int = 0) -> Sums:
    """The sums of a linear problem in the coordinates U = ``unit`` (p, p); pairs of up to ``dense`` numbers dense."""
    cross, p = problem.cross, problem.p
    return Sums(
        diag=cross.diag,
        rhs=tuple(own[p] for own in cross.rhs),
        fixed=tuple(np.tensordot(unit.T, own[:p], 1) for own in cross.rhs),
        pairs=tuple(_pair(cross, key, dense) for key in sorted(cross.pairs)),
        gram=unit.T @ cross.gram[:p, :p] @ unit,
        xy=unit.T @ cross.gram[:p, p],
        yy=np.asarray(cross.gram[p, p]),
        n=np.asarray(float(problem.n)),
        sum_log_weights=np.asarray(problem.sum_log_weights),
        shift=problem.beta0,
        unit=unit,
    )


def make_data(
    problem: Problem | GeneralizedProblem, beta: np.ndarray, unit: np.ndarray, dense: int
) -> Sums | RowData:
    """What a problem is held by, around ``beta`` (p,), which is beta_0 of a linear one."""
    if isinstance(problem, Problem):
        return make_sums(problem, unit, dense)
    return make_row_data(problem, beta, unit)


def _pair(cross: CrossProducts, key: tuple[int, int], dense: int) -> tuple[np.ndarray, ...]:
    pairs = cross.pairs[key]
    (k, _, J), (l, _, K) = cross.diag[key[0]].shape, cross.diag[key[1]].shape
    if k * J * l * K > dense:
        return pairs.rows, pairs.cols, pairs.blocks
    return (np.swapaxes(dense_pairs(pairs, J, K).reshape(k, J, l, K), 1, 2),)


def make_row_data(problem: GeneralizedProblem, beta: np.ndarray, unit: np.ndarray) -> RowData:
    """The rows of a generalized problem around ``beta`` (p,), in the coordinates U = ``unit`` (p, p)."""
    rows = problem.rows
    offset = rows.offset + rows.Q @ (rows.R @ beta)
    codes, values = [], []
    for t in range(len(rows.levels)):
        slots = rows.slots_of(t)
        each = [
            np.stack([np.ones(rows.n) if z is None else z for z in rows.columns[u]]) for u in slots
        ]
        code = np.stack([rows.codes[u].astype(np.int32) for u in slots])
        one = len(slots) == 1
        codes.append(code[0] if one else code)
        values.append(each[0] if one else np.stack(each, axis=1))
    return RowData(
        rows.y,
        rows.weights,
        offset,
        rows.Q @ (rows.R @ unit),
        tuple(codes),
        tuple(values),
        np.asarray(beta, dtype=float),
        unit,
    )


def quadratic(sums: Sums, keys: tuple[tuple[int, int], ...], d: Array, b: list[Array]) -> Array:
    """d'X~'WX~ d + 2 d'X~'WZ b + b'Z'WZ b."""
    total = d @ sums.gram @ d
    for fixed, A, own in zip(sums.fixed, sums.diag, b, strict=True):
        total = total + 2.0 * jnp.sum(jnp.tensordot(d, fixed, 1) * own)
        total = total + jnp.sum(jnp.sum(A * own[None], axis=1) * own)
    for (t, s), pair in zip(keys, sums.pairs, strict=True):
        if len(pair) == 1:
            total = total + 2.0 * jnp.einsum("aj,acjl,cl->", b[t], pair[0], b[s])
            continue
        rows, cols, blocks = pair
        left, right = b[t][:, rows], b[s][:, cols]
        total = total + 2.0 * jnp.sum(jnp.sum(blocks * right[None], axis=1) * left)
    return total


def residual_ss(sums: Sums, keys: tuple[tuple[int, int], ...], d: Array, b: list[Array]) -> Array:
    """The weighted residual sum of squares at d (p,) and b (k, J) per term."""
    linear = d @ sums.xy + sum(
        (jnp.sum(r * own) for r, own in zip(sums.rhs, b, strict=True)), jnp.zeros(())
    )
    return sums.yy - 2.0 * linear + quadratic(sums, keys, d, b)


def predictor(rows: RowData, d: Array, b: list[Array]) -> Array:
    """eta (n,)."""
    eta = rows.offset + rows.X @ d
    for code, values, own in zip(rows.codes, rows.values, b, strict=True):
        eta = eta + jnp.sum((own[:, code] * values).reshape(-1, len(eta)), axis=0)
    return eta


def multiply(sums: Sums, keys: tuple[tuple[int, int], ...], b: list[Array]) -> list[Array]:
    """Z'WZ b per term (k, J)."""
    out = [jnp.sum(A * own[None], axis=1) for A, own in zip(sums.diag, b, strict=True)]
    for (t, s), pair in zip(keys, sums.pairs, strict=True):
        if len(pair) == 1:
            out[t] = out[t] + jnp.einsum("acjl,cl->aj", pair[0], b[s])
            out[s] = out[s] + jnp.einsum("acjl,aj->cl", pair[0], b[t])
            continue
        rows, cols, blocks = pair
        out[t] = (
            out[t]
            .at[:, rows]
            .add(jnp.sum(blocks * b[s][None][:, :, cols], axis=1), indices_are_sorted=True)
        )
        out[s] = out[s].at[:, cols].add(jnp.sum(blocks * b[t][:, None][:, :, rows], axis=0))
    return out
