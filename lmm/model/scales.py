"""Standard deviations and correlations of the random effects on the whole real line, in JAX.

Per term zeta holds, for the k columns, the transformed standard deviations, then one number per free correlation:

    sd_a = c_a softplus(zeta_a)  or  exp(zeta_a),      z_ij = tanh(zeta_ij)  (canonical partial correlations),
    R = L L',   L_ij = z_ij sqrt(1 - sum_{l<j} L_il^2),       T = diag(sd) L,      Cov(b) = T T'.

Lewandowski, Kurowicka & Joe (2009), J. Multivariate Anal. 100; Kucukelbir et al. (2017), J. Mach. Learn. Res. 18 for
variational inference on transformed parameters. c_a is the scale of the standard deviation's prior: a softplus without it
would depend on the units of the response.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmm.covariance import Covariance
from lmm.covariance.blocks import Blocks
from lmm.covariance.diagonal import Diagonal
from lmm.covariance.unstructured import Unstructured
from lmm.errors import ArgumentError
from lmm.priors import Priors, Rest

Array = Any
TRANSFORMS = ("softplus", "log")
#: standard deviations at the start are kept this far from zero, relative to the unit of the column
FLOOR = 1e-3


#: fields of a prior that are data of a compiled function; the others are part of it
LEAVES = ("loc", "scale", "prior")
_registered: set[type] = set()


def as_tree(priors: Priors) -> Priors:
    """The priors as a tree of arrays, so that other locations and scales compile nothing anew."""
    for prior in (*priors.beta, *(own for term in priors.sd for own in term), *priors.cor, priors.sigma, priors.phi):
        if prior is not None:
            _register(type(prior))
            if hasattr(prior, "prior"):
                _register(type(prior.prior))
    for kind in (Priors, Rest):
        _register(kind, tuple(field.name for field in dataclasses.fields(kind)))
    return priors


def _register(kind: type, leaves: tuple[str, ...] = LEAVES) -> None:
    if kind in _registered:
        return
    _registered.add(kind)
    names = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    moving = [name for name in names if name in leaves]
    rest = [name for name in names if name not in leaves]

    def flatten(prior: Any) -> tuple[list[Any], Any]:
        return [getattr(prior, name) for name in moving], tuple(getattr(prior, name) for name in rest) if names else prior

    def unflatten(static: Any, arrays: Any) -> Any:
        if not names:
            return static
        prior: Any = object.__new__(kind)  # its checks are for numbers, not for tracers
        for name, value in (*zip(moving, arrays, strict=True), *zip(rest, static, strict=True)):
            object.__setattr__(prior, name, value)
        return prior

    jax.tree_util.register_pytree_node(kind, flatten, unflatten)


class Term(NamedTuple):
    """One grouping factor: k columns, J levels, and the free correlations (i, j), i > j, with the size and start of their block."""

    k: int
    J: int
    pairs: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[int, int], ...]  # (start, size) of each correlated block

    @property
    def size(self) -> int:
        """Numbers in zeta."""
        return self.k + len(self.pairs)


def make_term(structure: Covariance, J: int) -> Term:
    """The free parameters of a structure."""
    blocks = tuple(_blocks(structure, 0))
    pairs = tuple((i, j) for start, size in blocks for j in range(start, start + size) for i in range(j + 1, start + size))
    return Term(structure.k, J, pairs, blocks)


def _blocks(structure: Covariance, start: int) -> list[tuple[int, int]]:
    if isinstance(structure, Unstructured):
        return [(start, structure.k)] if structure.k > 1 else []
    if isinstance(structure, Diagonal):
        return []
    if isinstance(structure, Blocks):
        out = []
        for part in structure.parts:
            out += _blocks(part, start)
            start += part.k
        return out
    raise ArgumentError(f"covariance structure {structure.name!r} is not available for this method; use method='reml'.")


def split(terms: tuple[Term, ...], zeta: Array) -> list[Array]:
    """zeta of each term."""
    stops = np.cumsum([term.size for term in terms])
    return [zeta[stop - term.size : stop] for term, stop in zip(terms, stops, strict=True)]


def positive(zeta: Array, transform: str, unit: Array) -> Array:
    """The positive numbers that the transformed ones stand for; ``unit`` is c, of a softplus."""
    return unit * jax.nn.softplus(zeta) if transform == "softplus" else jnp.exp(zeta)


def log_slope(zeta: Array, transform: str, unit: Array) -> Array:
    """Log derivative of :func:`positive`."""
    return jnp.log(unit) - jax.nn.softplus(-zeta) if transform == "softplus" else zeta


def unpositive(values: np.ndarray, transform: str, unit: np.ndarray) -> np.ndarray:
    """The inverse of :func:`positive`, in NumPy."""
    values = np.asarray(values, dtype=float)
    if transform == "log":
        return np.log(values)
    values = values / unit
    return values + np.log(-np.expm1(-values))


def correlation_factor(term: Term, z: Array) -> list[list[Array]]:
    """Rows of L, lower triangular with unit rows, from the partial correlations."""
    L: list[list[Array]] = [[jnp.ones(()) if i == j else jnp.zeros(()) for j in range(term.k)] for i in range(term.k)]
    of = {pair: z[m] for m, pair in enumerate(term.pairs)}
    for start, size in term.blocks:
        for i in range(start + 1, start + size):
            left = jnp.ones(())
            for j in range(start, i):
                L[i][j] = of[i, j] * jnp.sqrt(left)
                left = left * (1.0 - of[i, j] ** 2)
            L[i][i] = jnp.sqrt(left)
    return L


def factor(term: Term, zeta: Array, transform: str, unit: Array = 1.0) -> Array:
    """T (k, k), lower triangular; ``unit`` (k,)."""
    sd = positive(zeta[: term.k], transform, unit)
    L = correlation_factor(term, jnp.tanh(zeta[term.k :]))
    return jnp.stack([jnp.stack([sd[i] * L[i][j] for j in range(term.k)]) for i in range(term.k)])


def inverse_factor(T: Array) -> Array:
    """T^-1 of a lower triangular T (k, k), written out: batched LAPACK calls on small matrices are slow and can hang."""
    k = T.shape[-1]
    X: list[list[Array]] = [[jnp.zeros(()) for _ in range(k)] for _ in range(k)]
    for j in range(k):
        X[j][j] = 1.0 / T[j, j]
        for i in range(j + 1, k):
            X[i][j] = -sum((T[i, l] * X[l][j] for l in range(j, i)), jnp.zeros(())) / T[i, i]
    return jnp.stack([jnp.stack(row) for row in X])


def log_prior(terms: tuple[Term, ...], priors: Priors, zeta: Array, transform: str) -> Array:
    """Log prior density of zeta, its Jacobian included."""
    total = jnp.zeros(())
    for term, own, sds, cor, unit in zip(terms, split(terms, zeta), priors.sd, priors.cor, priors.units, strict=True):
        sd = positive(own[: term.k], transform, unit)
        for a, prior in enumerate(sds):
            total = total + prior.log_density(sd[a], jnp)
        total = total + jnp.sum(log_slope(own[: term.k], transform, unit))
        z = jnp.tanh(own[term.k :])
        for m, (_, j) in enumerate(term.pairs):
            start, size = next(block for block in term.blocks if block[0] <= j < block[0] + block[1])
            total = total + cor.log_partial(z[m], j - start, size, jnp) + jnp.log1p(-(z[m] ** 2))
    return total


def from_covariances(
    terms: tuple[Term, ...],
    covariances: list[np.ndarray],
    floors: list[np.ndarray],
    transform: str,
    units: tuple[np.ndarray, ...] | None = None,
) -> np.ndarray:
    """zeta of covariances (k, k) per term, standard deviations at least ``floors`` (k,) and correlations short of one."""
    out = []
    units = tuple(np.ones(term.k) for term in terms) if units is None else units
    for term, G, floor, unit in zip(terms, covariances, floors, units, strict=True):
        sd = np.maximum(np.sqrt(np.maximum(np.diagonal(G), 0.0)), floor)
        R = G / np.outer(sd, sd)
        z = {}
        for start, size in term.blocks:
            own = slice(start, start + size)
            block = 0.9 * R[own, own]
            np.fill_diagonal(block, 1.0)
            L = np.linalg.cholesky(block)
            for i in range(1, size):
                left = 1.0
                for j in range(i):
                    z[start + i, start + j] = L[i, j] / np.sqrt(left)
                    left -= L[i, j] ** 2
        partial = [z[pair] for pair in term.pairs]
        out += [unpositive(sd, transform, unit), np.arctanh(np.clip(partial, -0.95, 0.95)) if partial else np.zeros(0)]
    return np.concatenate(out)
