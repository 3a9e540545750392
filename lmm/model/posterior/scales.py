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
    for prior in (
        *priors.beta,
        *(own for term in priors.sd for own in term),
        *priors.cor,
        priors.sigma,
        priors.phi,
    ):
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
    names = (
        [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    )
    moving = [name for name in names if name in leaves]
    rest = [name for name in names if name not in leaves]

    def flatten(prior: Any) -> tuple[list[Any], Any]:
        return [getattr(prior, name) for name in moving], tuple(
            getattr(prior, name) for name in rest
        ) if names else prior

    def unflatten(static: Any, arrays: Any) -> Any:
        if not names:
            return static
        prior: Any = object.__new__(kind)  # its checks are for numbers, not for tracers
        for name, value in (*zip(moving, arrays, strict=True), *zip(rest, static, strict=True)):
            object.__setattr__(prior, name, value)
        return prior

    jax.tree_util.register_pytree_node(kind, flatten, unflatten)


class Term(NamedTuple):
    """One grouping factor: the structure of its k columns, and J levels."""

    structure: Covariance
    J: int

    @property
    def k(self) -> int:
        """Columns."""
        return self.structure.k

    @property
    def n_sd(self) -> int:
        """Standard deviations, which come first in zeta."""
        return sum(q.kind == "sd" for q in self.structure.quantities())

    @property
    def size(self) -> int:
        """Numbers in zeta."""
        return len(self.structure.quantities())


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


def factor(term: Term, zeta: Array, transform: str, unit: Array = 1.0) -> Array:
    """T (k, k), lower triangular; ``unit`` (n_sd,)."""
    sd = positive(zeta[: term.n_sd], transform, unit)
    return term.structure.constrain(sd, jnp.tanh(zeta[term.n_sd :]), jnp)


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
    for term, own, sds, cor, unit in zip(
        terms, split(terms, zeta), priors.sd, priors.cor, priors.units, strict=True
    ):
        sd = positive(own[: term.n_sd], transform, unit)
        for a, prior in enumerate(sds):
            total = total + prior.log_density(sd[a], jnp)
        total = total + jnp.sum(log_slope(own[: term.n_sd], transform, unit))
        z = jnp.tanh(own[term.n_sd :])
        total = total + term.structure.log_prior(z, cor, jnp) + jnp.sum(jnp.log1p(-(z**2)))
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
    units = tuple(np.ones(term.n_sd) for term in terms) if units is None else units
    for term, G, floor, unit in zip(terms, covariances, floors, units, strict=True):
        sd = np.maximum(np.sqrt(np.maximum(np.diagonal(G), 0.0)), floor)
        R = 0.9 * G / np.outer(sd, sd)
        np.fill_diagonal(R, 1.0)
        z = np.clip(term.structure.partials(R), -0.95, 0.95)
        reported = sd[[q.row for q in term.structure.quantities() if q.kind == "sd"]]
        out += [unpositive(reported, transform, unit), np.arctanh(z)]
    return np.concatenate(out)
