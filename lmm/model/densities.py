"""Log densities of the families in JAX, every constant included, for the methods that differentiate with it.

The same functions as :mod:`lmm.families` has with derivatives of its own (a test holds the two together):
``log_density(family)(y, eta, weights, phi)`` is elementwise over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy import special

from lmm.errors import ArgumentError
from lmm.families.base import Family
from lmm.families.custom import CustomFamily

Array = Any
Density = Callable[[Array, Array, Array, Array], Array]

LOG_2PI = math.log(2.0 * math.pi)

#: eta -> mu
MEANS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda eta: eta,
    "log": jnp.exp,
    "inverse": lambda eta: 1.0 / eta,
    "1/mu^2": lambda eta: 1.0 / jnp.sqrt(eta),
    "sqrt": jnp.square,
    "logit": jax.nn.sigmoid,
    "probit": special.ndtr,
    "cloglog": lambda eta: -jnp.expm1(-jnp.exp(eta)),
    "cauchit": lambda eta: 0.5 + jnp.arctan(eta) / jnp.pi,
}
#: eta -> log mu, where it is simpler than the logarithm of the mean
LOG_MEANS: dict[str, Callable[[Array], Array]] = {
    "log": lambda eta: eta,
    "inverse": lambda eta: -jnp.log(eta),
    "1/mu^2": lambda eta: -0.5 * jnp.log(eta),
    "sqrt": lambda eta: 2.0 * jnp.log(jnp.abs(eta)),
    "identity": jnp.log,
}


def _log1mexp(x: Array) -> Array:
    """log(1 - exp(x)) for x < 0."""
    near = x > -math.log(2.0)
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


#: eta -> (log p, log(1 - p))
LOG_PROBABILITIES: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "logit": lambda eta: (-jax.nn.softplus(-eta), -jax.nn.softplus(eta)),
    "probit": lambda eta: (special.log_ndtr(eta), special.log_ndtr(-eta)),
    "cloglog": lambda eta: (_log1mexp(-jnp.exp(eta)), -jnp.exp(eta)),
    "cauchit": lambda eta: (jnp.log(jnp.arctan2(1.0, -eta) / jnp.pi), jnp.log(jnp.arctan2(1.0, eta) / jnp.pi)),
    "log": lambda eta: (eta, _log1mexp(eta)),
}


def _binomial(link: str) -> Density:
    probabilities = LOG_PROBABILITIES[link]

    def density(y: Array, eta: Array, w: Array, phi: Array) -> Array:
        log_p, log_q = probabilities(eta)
        k = w * y
        return k * log_p + (w - k) * log_q + special.gammaln(w + 1.0) - special.gammaln(k + 1.0) - special.gammaln(w - k + 1.0)

    return density


def _by_log_mean(link: str, of: Callable[[Array, Array, Array, Array], Array]) -> Density:
    log_mean = LOG_MEANS[link]
    return lambda y, eta, w, phi: of(y, log_mean(eta), w, phi)


def _poisson(y: Array, c: Array, w: Array, phi: Array) -> Array:
    return w * (y * c - jnp.exp(c) - special.gammaln(y + 1.0))


def _gamma(y: Array, c: Array, w: Array, phi: Array) -> Array:
    a = w / phi
    return a * (jnp.log(a) - c) - special.gammaln(a) + (a - 1.0) * jnp.log(y) - a * y * jnp.exp(-c)


def _inverse_gaussian(y: Array, c: Array, w: Array, phi: Array) -> Array:
    return -0.5 * w / phi * (y * jnp.exp(-c) - 1.0) ** 2 / y + 0.5 * (jnp.log(w / phi) - LOG_2PI - 3.0 * jnp.log(y))


def _negative_binomial(y: Array, c: Array, w: Array, phi: Array) -> Array:
    log_total = jnp.logaddexp(jnp.log(phi), c)
    constant = special.gammaln(y + phi) - special.gammaln(phi) - special.gammaln(y + 1.0)
    return w * (constant + phi * (jnp.log(phi) - log_total) + y * (c - log_total))


def _negative_binomial1(y: Array, c: Array, w: Array, phi: Array) -> Array:
    r = jnp.exp(c) / phi
    constant = special.gammaln(y + r) - special.gammaln(r) - special.gammaln(y + 1.0)
    return w * (constant - r * jnp.log1p(phi) + y * (jnp.log(phi) - jnp.log1p(phi)))


_POSITIVE = {
    "poisson": _poisson,
    "gamma": _gamma,
    "inverse_gaussian": _inverse_gaussian,
    "negative_binomial": _negative_binomial,
    "negative_binomial1": _negative_binomial1,
}


def log_density(family: Family) -> Density:
    """``f(y, eta, weights, phi)`` of a family, elementwise in JAX.

    Raises
    ------
    ArgumentError : for a link of the user's own, which JAX cannot look into, or a family without a density here.
    """
    link = family.link.name
    if link not in MEANS or type(family.link).__module__ != "lmm.families.links":
        raise ArgumentError(f"link {link!r} is not known to JAX; this method takes the links {', '.join(MEANS)}.")
    if isinstance(family, CustomFamily):
        of, mean = family.density, MEANS[link]
        if family.dispersion:
            return lambda y, eta, w, phi: w * of(y, mean(eta), phi)
        return lambda y, eta, w, phi: w * of(y, mean(eta))
    if family.name == "binomial":
        return _binomial(link)
    if family.name == "gaussian":
        mean = MEANS[link]
        return lambda y, eta, w, phi: -0.5 * w * (y - mean(eta)) ** 2 / phi + 0.5 * (jnp.log(w / phi) - LOG_2PI)
    if family.name in _POSITIVE:
        return _by_log_mean(link, _POSITIVE[family.name])
    raise ArgumentError(f"family {family.name!r} is not available for this method; use method='laplace'.")
