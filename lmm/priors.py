"""Prior distributions for the Bayesian methods, and the defaults.

A prior is a frozen object with ``log_density(x, xp)``, normalised, written against an array namespace so that JAX can
differentiate it. ``priors=`` of a method maps names to priors::

    "floor"                    one coefficient            "beta"   all coefficients
    "sd_(Intercept)|county"    one standard deviation     "county" or "sd|county" all of a group     "sd"  all of them
    "cor|Subject"              one group's correlations   "cor"    all of them
    "sigma"                    the residual standard deviation
    "phi"                      the dispersion of a generalized model's family; also by the name under which it is printed:
                               "sigma", its square root, of a gamma model, "theta" of a negative binomial one

The most particular name wins. A coefficient that is called as another parameter is, is ``"b_sigma"``, as in ``fit.draws``. A prior
that is given for a coefficient is one of the coefficient as the formula has it: that of "Intercept" is a prior of the linear
predictor where all columns are zero.

Where none is given, with eta = X beta, n rows and (weighted) means over them, the prior is weak in every direction of the fixed
effects alike, and centred on a constant predictor::

    coefficients           sum_i (x_i'(beta - beta_0))^2 / n over (10 s)^2 is chi-squared on p degrees of freedom, X beta_0 = m.
                           The predictor at the columns' means is Normal(m, 10 s), the coefficient of a single column
                           Normal(0, 10 s / s_x), s_x its standard deviation.
    standard deviations    HalfNormal(2.5 s / r_z), r_z the root mean square of the effect's column, less what the columns that
                           it is correlated with explain of it
    correlations           LKJ(1), uniform over correlation matrices; where neither a standard deviation nor a correlation of a
                           term is given a prior, both are those of its effects at the means of its columns
    sigma                  HalfNormal(2.5 s)
    phi                    LogNormal(log phi_0, 3), phi_0 its moment estimate without predictors

m and s are the mean and the standard deviation of the response, carried to the scale of the linear predictor: m = g(mean y), and
``s = sd(y) |g'(mean y)|``, or 1 under a link that has no units (log, logit, probit, cloglog, cauchit). Without a constant in the span of
X, beta_0 = 0 and s^2 + m^2 takes the place of s^2. Coefficients without a prior of their own have this distribution given those that
have one. So the defaults depend neither on the units of the response and the columns, nor on where a column has its zero, nor on how
factors are coded, and estimates are close to those of maximum likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from lmm import arguments
from lmm.errors import ArgumentError, PriorWarning, nearest, warn
from lmm.types import Array

_KINDS = {
    "real": "a coefficient, Normal or StudentT",
    "positive": "a standard deviation or dispersion, HalfNormal, HalfStudentT, Exponential or LogNormal",
    "correlation": "correlations, LKJ",
}


def _positive(prior: Prior, *names: str) -> None:
    for name in names:
        value = arguments.number(getattr(prior, name), f"{type(prior).__name__}: {name}", above=0)
        object.__setattr__(prior, name, value)


def _finite(prior: Prior, name: str) -> None:
    object.__setattr__(
        prior, name, arguments.number(getattr(prior, name), f"{type(prior).__name__}: {name}")
    )


class Prior:
    """Base of the priors; ``support`` is "real", "positive" or "correlation"."""

    support = "real"

    def log_density(self, x: Array, xp: ModuleType) -> Array:
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
        _finite(self, "loc")
        _positive(self, "scale")

    def log_density(self, x: Array, xp: ModuleType) -> Array:
        return (
            -0.5 * ((x - self.loc) / self.scale) ** 2
            - xp.log(self.scale)
            - 0.5 * math.log(2.0 * math.pi)
        )


@dataclass(frozen=True)
class StudentT(Prior):
    """Student's t with ``df`` degrees of freedom."""

    df: float = 3.0
    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _finite(self, "loc")
        _positive(self, "df", "scale")

    def log_density(self, x: Array, xp: ModuleType) -> Array:
        return _student_t((x - self.loc) / self.scale, self.df, xp) - xp.log(self.scale)


def _student_t(z: Array, df: float, xp: ModuleType) -> Array:
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    return constant - (df + 1) / 2 * xp.log1p(z**2 / df)


@dataclass(frozen=True)
class HalfNormal(Prior):
    """The absolute value of a Normal(0, scale)."""

    scale: float = 1.0
    support = "positive"

    def __post_init__(self) -> None:
        _positive(self, "scale")

    def log_density(self, x: Array, xp: ModuleType) -> Array:
        return 0.5 * math.log(2.0 / math.pi) - xp.log(self.scale) - 0.5 * (x / self.scale) ** 2


@dataclass(frozen=True)
class HalfStudentT(Prior):
    """The absolute value of a Student's t; HalfStudentT(1, s) is the half-Cauchy."""

    df: float = 3.0
    scale: float = 1.0
    support = "positive"

    def __post_init__(self) -> None:
        _positive(self, "df", "scale")

    def log_density(self, x: Array, xp: ModuleType) -> Array:
        return math.log(2.0) + _student_t(x / self.scale, self.df, xp) - xp.log(self.scale)


@dataclass(frozen=True)
class Exponential(Prior):
    """Exponential with the given mean ``scale``."""

    scale: float = 1.0
    support = "positive"

    def __post_init__(self) -> None:
        _positive(self, "scale")

    def log_density(self, x: Array, xp: ModuleType) -> Array:
        return -x / self.scale - xp.log(self.scale)


@dataclass(frozen=True)
class LogNormal(Prior):
    """The exponential of a Normal(loc, scale)."""

    loc: float = 0.0
    scale: float = 1.0
    support = "positive"

    def __post_init__(self) -> None:
        _finite(self, "loc")
        _positive(self, "scale")

    def log_density(self, x: Array, xp: ModuleType) -> Array:
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

    def log_partial(self, z: Array, column: int, k: int, xp: ModuleType) -> Array:
        """Log density of a partial correlation z of column ``column`` of a k x k matrix."""
        a = self.eta + (k - 2 - column) / 2.0
        log_beta = 2.0 * math.lgamma(a) - math.lgamma(2.0 * a)
        return (a - 1.0) * (xp.log1p(-z * z) - math.log(4.0)) - math.log(2.0) - log_beta


@dataclass(frozen=True)
class OfRoot(Prior):
    """The distribution of a positive number whose square root has the given prior."""

    prior: Prior
    support = "positive"

    def log_density(self, x: Array, xp: ModuleType) -> Array:
        return self.prior.log_density(xp.sqrt(x), xp) - 0.5 * xp.log(x) - math.log(2.0)


@dataclass(frozen=True, eq=False)
class Rest:
    """The default prior of the coefficients that have none of their own: rows beta - centre ~ N(0, I), r of them.

    Attributes
    ----------
    rows : (r, p).
    centre : (r,).
    log_scale : log |det| of the columns of ``rows`` that belong to those coefficients.
    """

    rows: np.ndarray
    centre: np.ndarray
    log_scale: np.ndarray

    def log_density(self, beta: Array, xp: ModuleType) -> Array:
        """Log density at beta (p,), of the coefficients without a prior given the others."""
        z = self.rows @ beta - self.centre
        return self.log_scale - 0.5 * xp.sum(z * z) - 0.5 * len(self.rows) * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Priors:
    """The priors of one model.

    Attributes
    ----------
    beta : per coefficient, None for those that ``rest`` is for.
    rest : the default.
    sd, cor : per term and column, per term.
    sigma, phi : of the residual standard deviation and of a family's dispersion.
    units : per term the scales of the priors of its standard deviations, ``sigma_unit`` that of sigma's.
    frames : per term H (k, k), b = H b_c, for the effects b_c whose standard deviations and correlations the priors are of.
    """

    beta: tuple[Prior | None, ...]
    rest: Rest
    sd: tuple[tuple[Prior, ...], ...]
    cor: tuple[LKJ, ...]
    sigma: Prior
    phi: Prior
    units: tuple[np.ndarray, ...]
    sigma_unit: np.ndarray
    frames: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, eq=False)
class Scales:
    """What the defaults are made of.

    Attributes
    ----------
    location, response : m and s on the scale of the linear predictor.
    R : (p, p) upper triangular, R'R the mean of x x' over the rows.
    constant : (p,) coefficients of the constant 1, None where the columns do not span it.
    effects : r_z per term and standard deviation.
    pairs : number of free correlations per term.
    sigma : default unit of the residual standard deviation, None in a generalized model.
    dispersion : phi_0 where there is a phi, ``printed`` the name it is printed under and ``root`` whether its square root is.
    """

    location: float
    response: float
    R: np.ndarray
    constant: np.ndarray | None
    effects: tuple[tuple[float, ...], ...]
    pairs: tuple[int, ...]
    sigma: float | None = None
    dispersion: float | None = None
    printed: str = "phi"
    root: bool = False

    @property
    def spread(self) -> float:
        """s, about zero where no constant takes up the mean."""
        return (
            self.response if self.constant is not None else math.hypot(self.response, self.location)
        )


@dataclass
class _Lookup:
    """The priors given, and which of them were taken."""

    given: Mapping[str, object]
    known: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def find(self, keys: list[str], support: str) -> Any:
        """The prior under the first of the keys, the most particular one, that was given; all of them become known."""
        self.known += [key for key in keys if key not in self.known]
        present = [key for key in keys if key in self.given]
        for key in present:
            prior = self.given[key]
            self.used.add(key)
            if not isinstance(prior, Prior) or prior.support != support:
                raise ArgumentError(
                    f"priors: {key!r} needs a prior of lmm.priors for {_KINDS[support]}; not {arguments.shown(prior)}."
                )
        return self.given[present[0]] if present else None

    def refuse_unknown(self) -> None:
        """ArgumentError for a name that no parameter has."""
        unknown = [key for key in self.given if key not in self.used]
        if unknown:
            known = [
                name for name in self.known if not name.startswith("sd_Intercept|")
            ]  # that of R, "(Intercept)", is said
            near = nearest(str(unknown[0]), known)
            raise ArgumentError(
                f"priors: {unknown[0]!r} is no parameter of this model; there are {', '.join(known)}.{near}"
            )


def resolve(
    given: Mapping[str, Prior] | None,
    names: tuple[str, ...],
    labels: tuple[tuple[str, tuple[str, ...]], ...],
    scales: Scales,
    held: Mapping[str, str] | None = None,
) -> Priors:
    """The prior of every parameter, from what was given and the defaults.

    Parameters
    ----------
    names : of the coefficients.
    labels : per term its group and what its standard deviations are called by, nothing for one of all columns.
    held : "sigma" or "phi" -> why this fit has no use for a prior of it; one that was given is said to be unused.

    Raises
    ------
    ArgumentError : a name that the model does not have, or a prior that does not suit its parameter.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ArgumentError(
            f"priors must be a mapping such as {{'beta': lmm.priors.Normal(0, 1)}}, not {type(given).__name__}."
        )
    look = _Lookup(given)
    taken = _names_of_variances(labels, scales)
    spread = scales.spread
    beta = []
    for name in names:
        own = f"b_{name}" if name in taken and f"b_{name}" not in names else name
        beta.append(look.find([own, "beta"], "real"))
    sd, cor, units = [], [], []
    for (group, columns), divisors, pairs in zip(labels, scales.effects, scales.pairs, strict=True):
        of_term = []
        for column, divisor in zip(columns, divisors, strict=True):
            found = look.find([*_sd_names(column, group), group, f"sd|{group}", "sd"], "positive")
            of_term.append(HalfNormal(2.5 * spread / divisor) if found is None else found)
        sd.append(tuple(of_term))
        units.append(
            np.array(
                [
                    _unit(prior, 2.5 * spread / divisor)
                    for prior, divisor in zip(of_term, divisors, strict=True)
                ]
            )
        )
        found = (
            look.find([*_cor_names(columns, group, pairs), f"cor|{group}", "cor"], "correlation")
            if pairs
            else None
        )
        cor.append(LKJ(1.0) if found is None else found)
    sigma: Prior = HalfNormal(1.0)
    phi: Prior = LogNormal(0.0, 3.0)
    if scales.sigma is not None:
        found = look.find(["sigma"], "positive")
        sigma = HalfNormal(2.5 * scales.sigma) if found is None else found
    if scales.dispersion is not None:
        found = _dispersion_prior(look, scales)
        phi = LogNormal(math.log(scales.dispersion), 3.0) if found is None else found
    look.refuse_unknown()
    for name, why in (held or {}).items():
        for key in {name, scales.printed} if name == "phi" else {name}:
            if key in given:
                warn(f"priors: the prior of {key!r} is not used: {why}", PriorWarning)
    rest = _rest(scales, names, [prior is None for prior in beta])
    unit = _unit(sigma, 2.5 * (scales.sigma or 1.0))
    return Priors(
        tuple(beta), rest, tuple(sd), tuple(cor), sigma, phi, tuple(units), np.asarray(unit)
    )


def written(given: object, labels: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[bool, ...]:
    """Per term whether a prior is given for a standard deviation or correlation of it, which is then one of the term as written."""
    out = []
    for group, columns in labels:
        names = {group, "sd", f"sd|{group}", "cor", f"cor|{group}", *_cor_names(columns, group, 1)}
        names |= {name for column in columns for name in _sd_names(column, group)}
        out.append(isinstance(given, Mapping) and bool(names.intersection(given)))
    return tuple(out)


def _rest(scales: Scales, names: tuple[str, ...], free: list[bool]) -> Rest:
    """The default of the free coefficients.

    z = R (beta - beta_0) / (10 s) is standard normal. With the columns in the order (given intercept, free, given others), the rows of
    the free ones are the distribution of these given the others; that of the intercept is left out, which integrates over it.
    """
    p = len(names)
    first = [j for j in range(p) if not free[j] and names[j] == "Intercept"]
    middle = [j for j in range(p) if free[j]]
    last = [j for j in range(p) if not free[j] and names[j] != "Intercept"]
    order = [*first, *middle, *last]
    own = slice(len(first), len(first) + len(middle))
    scale = 10.0 * scales.spread
    rows = np.zeros((len(middle), p))
    if not middle:
        return Rest(rows, np.zeros(0), np.asarray(0.0))
    triangle = np.linalg.qr(scales.R[:, order], mode="r")
    rows[:, order] = triangle[own] / scale
    beta_0 = np.zeros(p) if scales.constant is None else scales.location * scales.constant
    log_scale = np.sum(np.log(np.abs(np.diagonal(triangle)[own]))) - len(middle) * math.log(scale)
    return Rest(rows, rows @ beta_0, np.asarray(log_scale))


def _dispersion_prior(look: _Lookup, scales: Scales) -> Prior | None:
    """The prior of phi, which may have been given for what is printed of it."""
    both = [key for key in ("phi", scales.printed) if key in look.given]
    if len(set(both)) > 1:
        raise ArgumentError(
            f"priors: 'phi' and {scales.printed!r} are the same parameter of this model; give one of them."
        )
    by_phi: Prior | None = look.find(["phi"], "positive")
    if by_phi is not None or scales.printed == "phi":
        return by_phi
    printed: Prior | None = look.find([scales.printed], "positive")
    return OfRoot(printed) if printed is not None and scales.root else printed


def _unit(prior: Prior, usual: float) -> float:
    """The size of a positive parameter that a prior expects."""
    if isinstance(prior, LogNormal):
        return math.exp(min(max(prior.loc, -500.0), 500.0))
    return float(getattr(prior, "scale", usual))


def _lme4(column: str) -> str:
    return "(Intercept)" if column == "Intercept" else column


def _sd_names(column: str, group: str) -> list[str]:
    """How a standard deviation is printed, and as its column is called."""
    return (
        list(dict.fromkeys([f"sd_{_lme4(column)}|{group}", f"sd_{column}|{group}"]))
        if column
        else [f"sd|{group}"]
    )


def _cor_names(columns: tuple[str, ...], group: str, pairs: int) -> list[str]:
    """How the one correlation of a term with two columns is printed."""
    return (
        [f"cor_{_lme4(columns[1])}.{_lme4(columns[0])}|{group}"]
        if pairs == 1 and len(columns) == 2
        else []
    )


def _names_of_variances(
    labels: tuple[tuple[str, tuple[str, ...]], ...], scales: Scales
) -> set[str]:
    """Names that stand for something else than a coefficient."""
    taken = {"beta", "sd", "cor"}
    if scales.sigma is not None:
        taken.add("sigma")
    if scales.dispersion is not None:
        taken |= {"phi", scales.printed}
    for group, columns in labels:
        taken |= {group, f"sd|{group}", f"cor|{group}"}
        for column in columns:
            taken |= set(_sd_names(column, group))
    return taken
