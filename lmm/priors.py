"""Prior distributions for the Bayesian methods, and the defaults.

A prior is a frozen object with ``log_density(x, xp)``, normalised, written against an array namespace so that JAX can
differentiate it. ``priors=`` of a method maps names to priors:

    "floor"                    one coefficient            "beta"   all coefficients
    "sd_(Intercept)|county"    one standard deviation     "county" all of a group     "sd"  all of them
    "cor|Subject"              one group's correlations   "cor"    all of them
    "sigma"                    the residual standard deviation
    "phi"                      the dispersion of a generalized model's family

The most particular name wins. Where none is given, with s_y the standard deviation of the response (1 for a generalized
model, on the scale of its link), s_x that of a column and r_x its root mean square,

    Intercept              Normal(mean of the response, 10 s_y)      (generalized: Normal(0, 10))
    other coefficients     Normal(0, 10 s_y / s_x)
    standard deviations    HalfNormal(2.5 s_y / r_x)
    correlations           LKJ(1), uniform over correlation matrices
    sigma                  HalfNormal(2.5 s_y)
    phi                    LogNormal(log phi_0, 3), phi_0 its moment estimate without predictors

which say little more than the units do: estimates are close to those of maximum likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmm.errors import ArgumentError, nearest

_KINDS = {
    "real": "a coefficient, Normal or StudentT",
    "positive": "a standard deviation or dispersion, HalfNormal, HalfStudentT, Exponential or LogNormal",
    "correlation": "correlations, LKJ",
}


def _positive(prior: Any, name: str) -> None:
    value = getattr(prior, name)
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ArgumentError(f"{type(prior).__name__}: {name}={value!r} must be a positive number.")


class Prior:
    """Base of the priors; ``support`` is "real", "positive" or "correlation"."""

    support = "real"

    def log_density(self, x: Any, xp: Any) -> Any:
        """Log density at x, elementwise; ``xp`` is numpy or jax.numpy."""
        raise NotImplementedError


@dataclass(frozen=True)
class Normal(Prior):
    """Normal(loc, scale).

    Example
    -------
    >>> import numpy as np
    >>> round(float(Normal(0.0, 1.0).log_density(0.0, np)), 4)
    -0.9189
    """

    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "scale")

    def log_density(self, x: Any, xp: Any) -> Any:
        return -0.5 * ((x - self.loc) / self.scale) ** 2 - xp.log(self.scale) - 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class StudentT(Prior):
    """Student's t with ``df`` degrees of freedom."""

    df: float = 3.0
    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "df")
        _positive(self, "scale")

    def log_density(self, x: Any, xp: Any) -> Any:
        return _student_t((x - self.loc) / self.scale, self.df, xp) - xp.log(self.scale)


def _student_t(z: Any, df: float, xp: Any) -> Any:
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    return constant - (df + 1) / 2 * xp.log1p(z**2 / df)


@dataclass(frozen=True)
class HalfNormal(Prior):
    """The absolute value of a Normal(0, scale)."""

    scale: float = 1.0
    support = "positive"

    def __post_init__(self) -> None:
        _positive(self, "scale")

    def log_density(self, x: Any, xp: Any) -> Any:
        return 0.5 * math.log(2.0 / math.pi) - xp.log(self.scale) - 0.5 * (x / self.scale) ** 2


@dataclass(frozen=True)
class HalfStudentT(Prior):
    """The absolute value of a Student's t; HalfStudentT(1, s) is the half-Cauchy."""

    df: float = 3.0
    scale: float = 1.0
    support = "positive"

    def __post_init__(self) -> None:
        _positive(self, "df")
        _positive(self, "scale")

    def log_density(self, x: Any, xp: Any) -> Any:
        return math.log(2.0) + _student_t(x / self.scale, self.df, xp) - xp.log(self.scale)


@dataclass(frozen=True)
class Exponential(Prior):
    """Exponential with the given mean ``scale``."""

    scale: float = 1.0
    support = "positive"

    def __post_init__(self) -> None:
        _positive(self, "scale")

    def log_density(self, x: Any, xp: Any) -> Any:
        return -x / self.scale - xp.log(self.scale)


@dataclass(frozen=True)
class LogNormal(Prior):
    """The exponential of a Normal(loc, scale)."""

    loc: float = 0.0
    scale: float = 1.0
    support = "positive"

    def __post_init__(self) -> None:
        _positive(self, "scale")

    def log_density(self, x: Any, xp: Any) -> Any:
        z = (xp.log(x) - self.loc) / self.scale
        return -0.5 * z**2 - xp.log(self.scale) - 0.5 * math.log(2.0 * math.pi) - xp.log(x)


@dataclass(frozen=True)
class LKJ(Prior):
    """Density proportional to det(R)^(eta - 1) over correlation matrices; eta = 1 is uniform, more favours independence.

    The canonical partial correlations are independent, those of column j of k (from 0) with
    (z + 1) / 2 ~ Beta(a, a), a = eta + (k - 2 - j) / 2. Lewandowski, Kurowicka & Joe (2009), J. Multivariate Anal. 100.
    """

    eta: float = 1.0
    support = "correlation"

    def __post_init__(self) -> None:
        _positive(self, "eta")

    def log_partial(self, z: Any, column: int, k: int, xp: Any) -> Any:
        """Log density of a partial correlation z of column ``column`` of a k x k matrix."""
        a = self.eta + (k - 2 - column) / 2.0
        log_beta = 2.0 * math.lgamma(a) - math.lgamma(2.0 * a)
        return (a - 1.0) * (xp.log1p(-z * z) - math.log(4.0)) - math.log(2.0) - log_beta


@dataclass(frozen=True)
class Priors:
    """The priors of one model: per coefficient, per term and column, per term's correlations, of sigma and of the dispersion."""

    beta: tuple[Prior, ...]
    sd: tuple[tuple[Prior, ...], ...]
    cor: tuple[LKJ, ...]
    sigma: Prior
    phi: Prior = LogNormal(0.0, 3.0)


@dataclass(frozen=True)
class Scales:
    """Units of a model's parameters, for the defaults: mean and sd of the response, per column, and phi_0 where there is a phi."""

    location: float
    response: float
    beta: tuple[float, ...]
    effects: tuple[tuple[float, ...], ...]
    dispersion: float | None = None


def resolve(
    given: Mapping[str, Prior] | None, names: tuple[str, ...], labels: tuple[tuple[str, tuple[str, ...]], ...], scales: Scales
) -> Priors:
    """The prior of every parameter, from what was given and the defaults.

    Parameters
    ----------
    names : of the coefficients.
    labels : per term its group and columns.

    Raises
    ------
    ArgumentError : a name that the model does not have, or a prior that does not suit its parameter.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ArgumentError(f"priors must be a mapping such as {{'beta': lmm.priors.Normal(0, 1)}}, not {type(given).__name__}.")
    used: set[str] = set()

    def find(keys: list[str], support: str, default: Prior) -> Any:
        found: Prior | None = None
        for key in reversed(keys):
            if key in given:
                used.add(key)
                found = given[key]
                if not isinstance(found, Prior) or found.support != support:
                    raise ArgumentError(f"priors: {key!r} needs a prior of lmm.priors for {_KINDS[support]}; not {found!r}.")
        return default if found is None else found

    beta = []
    for name, unit in zip(names, scales.beta, strict=True):
        usual = Normal(scales.location, 10.0 * scales.response) if name == "Intercept" else Normal(0.0, 10.0 * scales.response / unit)
        beta.append(find([name, "beta"], "real", usual))
    sd, cor = [], []
    for (group, columns), units in zip(labels, scales.effects, strict=True):
        own = []
        for column, unit in zip(columns, units, strict=True):
            spelt = [f"sd_{column}|{group}", *([f"sd_(Intercept)|{group}"] if column == "Intercept" else [])]
            own.append(find([*spelt, group, f"sd|{group}", "sd"], "positive", HalfNormal(2.5 * scales.response / unit)))
        sd.append(tuple(own))
        cor.append(find([f"cor|{group}", "cor"], "correlation", LKJ(1.0)))
    sigma = find(["sigma"], "positive", HalfNormal(2.5 * scales.response))
    phi: Prior = LogNormal(0.0, 3.0)
    if scales.dispersion is not None:
        phi = find(["phi"], "positive", LogNormal(math.log(scales.dispersion), 3.0))
    unknown = [key for key in given if key not in used]
    if unknown:
        known = [*names, "beta", "sd", "cor", "sigma", *(["phi"] if scales.dispersion is not None else []), *(group for group, _ in labels)]
        known += [f"sd_{'(Intercept)' if c == 'Intercept' else c}|{group}" for group, columns in labels for c in columns]
        near = nearest(unknown[0], known)
        raise ArgumentError(f"priors: {unknown[0]!r} is no parameter of this model; there are {', '.join(known)}.{near}")
    return Priors(tuple(beta), tuple(sd), tuple(cor), sigma, phi)
