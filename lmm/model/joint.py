"""The joint density of responses and effects in JAX, for the methods that climb or walk on it.

A linear model is held by its sums, so that nothing here costs anything per row: with y0 = y - X beta_0, beta = beta_0 + U d
(U diagonal, so that a unit of d is about a standard error) and X~ = X U,

    RSS(d, b) = y0'Wy0 - 2 d'X~'Wy0 - 2 b'Z'Wy0 + d'X~'WX~ d + 2 d'X~'WZ b + b'Z'WZ b;

a generalized one by its rows, eta = offset + X (beta_0 + U d) + Z b. ``Sums`` and ``RowData`` are pytrees of arrays; what a
compiled function depends on besides shapes is the static ``Model``. Effects b are (k, J) per term.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lmm.model import moments
from lmm.model.crossproducts import CrossProducts, dense_pairs
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.scales import Term, make_term
from lmm.model.working import starting_values
from lmm.priors import Scales

Array = Any


class Model(NamedTuple):
    """What is fixed when a function is compiled: terms, pairs of terms, fixed columns, transform, family."""

    terms: tuple[Term, ...]
    keys: tuple[tuple[int, int], ...]
    p: int
    transform: str
    family: Any  # lmm.families.Family, or None for a linear model

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
    unit: Array  # diagonal of U (p,)


class RowData(NamedTuple):
    """Rows of a generalized model: y, weights, offset (n,), X~ (n, p), per term level codes (n,) and values (k, n)."""

    y: Array
    weights: Array
    offset: Array
    X: Array
    codes: tuple[Array, ...]
    values: tuple[Array, ...]
    shift: Array
    unit: Array


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
        theta = moments.starting_values(problem.cross, problem.structures) if start is None else np.asarray(start, dtype=float)
        sigma = _residual_sd(problem, theta)
        T = [s.factor(own) for s, own in zip(problem.structures, problem.split(theta), strict=True)]
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
    T = [s.factor(own) for s, own in zip(problem.structures, problem.split(psi[:m]), strict=True)]
    beta = np.linalg.solve(problem.rows.R, psi[m : m + p]) if p else np.zeros(0)
    phi = float(np.exp(psi[-1])) if problem.family.has_dispersion else 1.0
    eta = problem.rows.offset + problem.rows.Q @ psi[m : m + p]
    information = float(np.mean(problem.family.expected_weights(eta, problem.rows.weights, phi).weight))
    return Start([t @ t.T for t in T], beta, 1.0, phi, information)


def _residual_sd(problem: Problem, theta: np.ndarray) -> float:
    """A residual standard deviation that fits the moments: the marginal variance is shared out as theta says."""
    grams = problem.grams()
    factors = [s.factor(own) for s, own in zip(problem.structures, problem.split(theta), strict=True)]
    explained = sum(float(np.trace(t.T @ g @ t)) for t, g in zip(factors, grams, strict=True))
    weight = float(np.exp(problem.sum_log_weights / problem.n))
    return float(np.sqrt(problem.cross.gram[-1, -1] / max(problem.n - problem.p, 1) / (weight + explained) * weight))


def make_model(problem: Problem | GeneralizedProblem, transform: str) -> Model:
    """The static part of a problem."""
    sizes = problem.plan.terms
    terms = tuple(make_term(s, size.J) for s, size in zip(problem.structures, sizes, strict=True))
    if isinstance(problem, Problem):
        return Model(terms, tuple(sorted(problem.cross.pairs)), problem.p, transform, None)
    return Model(terms, (), problem.p, transform, problem.family)


def units_of(problem: Problem | GeneralizedProblem) -> Scales:
    """Units of the parameters, for default priors."""
    gram = problem.R.T @ problem.R if isinstance(problem, Problem) else problem.rows.R.T @ problem.rows.R * problem.n
    names = problem.names
    square = np.diagonal(gram) / problem.n
    mean = gram[names.index("Intercept")] / problem.n if "Intercept" in names else np.zeros(problem.p)
    if isinstance(problem, Problem) and "Intercept" in names:  # with weights the mean of squares of ones is not one
        level = square[names.index("Intercept")]
        mean, square = mean / level, square / level
    variance = np.maximum(square - mean**2, 0.0)
    spread = np.sqrt(np.where(variance > 1e-12 * square, variance, np.where(square > 0, square, 1.0)))
    per = 1.0 if isinstance(problem, Problem) else problem.eta_scale
    effects = tuple(tuple(per * float(np.sqrt(v)) if v > 0 else 1.0 for v in np.diagonal(g)) for g in problem.grams())
    if isinstance(problem, Problem):
        return Scales(problem.location, problem.scale or 1.0, tuple(map(float, spread)), effects)
    dispersion = None
    if problem.family.has_dispersion:
        y = problem.rows.y
        dispersion = problem.family.initial_phi(y, np.full(len(y), y.mean()), problem.rows.weights)
    return Scales(0.0, 1.0, tuple(map(float, spread)), effects, dispersion)


def make_sums(problem: Problem, sigma: float, dense: int = 0) -> Sums:
    """The sums of a linear problem, units of d from the residual standard deviation; pairs of up to ``dense`` numbers dense."""
    cross, p = problem.cross, problem.p
    gram = cross.gram[:p, :p]
    unit = sigma / np.sqrt(np.where(np.diagonal(gram) > 0, np.diagonal(gram), 1.0))
    return Sums(
        diag=cross.diag,
        rhs=tuple(own[p] for own in cross.rhs),
        fixed=tuple(own[:p] * unit[:, None, None] for own in cross.rhs),
        pairs=tuple(_pair(cross, key, dense) for key in sorted(cross.pairs)),
        gram=gram * np.outer(unit, unit),
        xy=cross.gram[:p, p] * unit,
        yy=np.asarray(cross.gram[p, p]),
        n=np.asarray(float(problem.n)),
        sum_log_weights=np.asarray(problem.sum_log_weights),
        shift=problem.beta0,
        unit=unit,
    )


def _pair(cross: CrossProducts, key: tuple[int, int], dense: int) -> tuple[np.ndarray, ...]:
    pairs = cross.pairs[key]
    (k, _, J), (l, _, K) = cross.diag[key[0]].shape, cross.diag[key[1]].shape
    if k * J * l * K > dense:
        return pairs.rows, pairs.cols, pairs.blocks
    return (np.swapaxes(dense_pairs(pairs, J, K).reshape(k, J, l, K), 1, 2),)


def make_row_data(problem: GeneralizedProblem, beta: np.ndarray, orthonormal: bool = False) -> RowData:
    """The rows of a generalized problem around ``beta`` (p,).

    With ``orthonormal`` the fixed columns are those of Q / sqrt(n) and d are their coefficients: beta = beta_0 + R^-1 d / sqrt(n);
    otherwise the user's columns per root mean square.
    """
    rows = problem.rows
    X = rows.Q @ rows.R
    offset = rows.offset + X @ beta
    if orthonormal:
        X, unit = rows.Q / np.sqrt(problem.n), np.ones(problem.p)
    else:
        square = np.mean(X * X, axis=0)
        unit = 1.0 / np.sqrt(np.where(square > 0, square, 1.0) * problem.n)
        X = X * unit
    values = tuple(np.stack([np.ones(rows.n) if z is None else z for z in own]) for own in rows.columns)
    codes = tuple(code.astype(np.int32) for code in rows.codes)
    return RowData(rows.y, rows.weights, offset, X, codes, values, np.asarray(beta, dtype=float), unit)


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
    linear = d @ sums.xy + sum((jnp.sum(r * own) for r, own in zip(sums.rhs, b, strict=True)), jnp.zeros(()))
    return sums.yy - 2.0 * linear + quadratic(sums, keys, d, b)


def predictor(rows: RowData, d: Array, b: list[Array]) -> Array:
    """eta (n,)."""
    eta = rows.offset + rows.X @ d
    for code, values, own in zip(rows.codes, rows.values, b, strict=True):
        eta = eta + jnp.sum(own[:, code] * values, axis=0)
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
        out[t] = out[t].at[:, rows].add(jnp.sum(blocks * b[s][None][:, :, cols], axis=1), indices_are_sorted=True)
        out[s] = out[s].at[:, cols].add(jnp.sum(blocks * b[t][:, None][:, :, rows], axis=0))
    return out
