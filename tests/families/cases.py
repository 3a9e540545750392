"""Every family with every link it offers, as rows of one table."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from lmm.families import FAMILIES, CustomFamily, Family
from lmm.families.base import Phi

DISPERSIONS = {
    "gaussian": (0.3, 4.0),
    "gamma": (0.02, 0.7),
    "inverse_gaussian": (0.05, 0.6),
    "beta": (12.0, 60.0),
    "betabinomial": (0.7, 20.0),
    "lognormal": (0.05, 2.0),
    "genpois": (1.2, 3.0),
    "compois": (0.4, 2.5),
}
#: several parameters of a family's own
SHAPES = {
    "t": (np.array([0.4, 4.5]), np.array([1.3, 12.0])),
    "tweedie": (np.array([0.1, 1.8]), np.array([1.2, 1.4])),
    "skewnormal": (np.array([0.4, -1.5]), np.array([1.3, 4.0])),
    "ordered_beta": (np.array([12.0, -1.5, 1.0]), np.array([60.0, -3.0, 2.5])),
}
#: families in which a weight is no factor of the log density, so that it is normalised at every one
WEIGHTED = {"binomial", "betabinomial", "gaussian", "gamma", "inverse_gaussian"}


def gamma_density(y, mu, phi):
    a = 1 / phi
    return a * jnp.log(a * y / mu) - a * y / mu - gammaln(a) - jnp.log(y)


def poisson_density(y, mu):
    return y * jnp.log(mu) - mu - gammaln(y + 1)


CUSTOM_POISSON = CustomFamily(
    poisson_density, "counts", variance=lambda mu: mu, sampler=lambda rng, mu: rng.poisson(mu)
)
CUSTOM_GAMMA = CustomFamily(
    gamma_density,
    "waiting",
    dispersion=True,
    variance=lambda mu, phi: phi * mu**2,
    sampler=lambda rng, mu, phi: rng.gamma(1 / phi, mu * phi),
)

ALL: list[Family] = [
    *(f(link) for f in FAMILIES.values() if f.has_intercept for link in f.link_names),
    CUSTOM_POISSON,
    CUSTOM_GAMMA,
]


def phis(family: Family) -> tuple[Phi, ...]:
    """Dispersions to test at, or parameters of the family's own."""
    if family.shaped:
        return SHAPES[family.name]
    return DISPERSIONS.get(family.name, (0.2, 1.3)) if family.has_dispersion else (1.0,)


def means(family: Family) -> np.ndarray:
    """Means over most of what the family and the link allow, (n,)."""
    low, high = (
        max(family.mean_low, family.link.mean_low),
        min(family.mean_high, family.link.mean_high),
    )
    if np.isfinite(high):
        return np.array([0.01, 0.2, 0.5, 0.65, 0.93])
    return (
        np.array([0.15, 0.8, 1.0, 2.4, 6.0])
        if np.isfinite(low)
        else np.array([-3.0, -0.4, 0.0, 0.7, 5.0])
    )


def weights(family: Family) -> np.ndarray:
    return np.array([1.0, 2.0, 5.0, 3.0, 12.0])


def responses(family: Family, phi: Phi) -> np.ndarray:
    """One possible response per mean, at the weights above."""
    rng = np.random.default_rng(3)
    y = family.simulate(rng, means(family), weights(family), phi)
    if family.name == "counts":
        y[0] = 0.0
    return y


def support(family: Family, mu: float, weight: float, phi: Phi) -> tuple[np.ndarray, np.ndarray]:
    """Points and quadrature weights that sum a function over the response's distribution."""
    if family.weights_are_trials:
        return np.arange(weight + 1) / weight, np.ones(int(weight) + 1)
    if np.isfinite(family.mean_high):  # steps of the logit, as far as 1 - y can be told from zero
        z = np.arange(-700.0, 36.0, 0.03)
        y = 1.0 / (1.0 + np.exp(-z))
        step = 0.03 * y * (1.0 - y)
        if family.name == "ordered_beta":
            return np.append([0.0, 1.0], y), np.append([1.0, 1.0], step)
        return y, step
    if family.discrete or family.name == "counts":
        top = int(
            60
            + mu
            + 40 * np.sqrt(family.variance(np.array([mu]), phi)[0])
            + 30 * (phi if family.has_dispersion else 1)
        )
        counts = np.arange(float(family.truncated), top + 1.0)
        return counts, np.ones(len(counts))
    sd = float(np.sqrt(family.variance(np.array([mu]), phi)[0] / weight))
    if family.name == "gaussian":
        h = sd / 20
        return mu + h * np.arange(-300, 301), np.full(601, h)
    if family.name == "t":
        x = np.arange(-20.0, 20.0, 0.02)
        return mu + phi[0] * np.sinh(x), 0.02 * phi[0] * np.cosh(x)
    if family.name == "skewnormal":
        x = np.arange(-12.0, 12.0, 0.01)
        return mu + phi[0] * x, np.full(len(x), 0.01 * phi[0])
    if family.name == "tweedie":
        y = np.exp(np.arange(-60.0, 6.0, 0.01))
        return np.append(0.0, y), np.append(1.0, 0.01 * y)
    if family.name == "lognormal":
        log_sd = np.sqrt(np.log1p((phi / mu) ** 2))
        z = np.log(mu) + log_sd * np.arange(-12.0, 20.0, 0.05)
        return np.exp(z), 0.05 * log_sd * np.exp(z)
    h = 0.01
    y = np.exp(np.log(mu) + h * np.arange(-4000, 800))
    return y, h * y
