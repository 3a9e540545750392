"""Quantiles of the distribution of a new observation whose linear predictor is uncertain.

With eta ~ sum_s w_s delta(eta_s) the predictive distribution function of a family is the mixture

    F(y) = sum_s w_s P(Y <= y | g^-1(eta_s)),

and its quantiles are the smallest y with F(y) >= p: whole counts and proportions of whole successes of a discrete family, found
by bisection; of a continuous one by Newton's method inside a bracket, in log y where y is positive. The nodes are draws of a
posterior, or a trapezoidal rule for a normal eta; its step is small against the spread in eta of the family itself, beyond
which F would be a staircase. A family whose distribution function is not known is simulated, with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from lmm.families import Family

#: a distribution function or a density, of values a row each
Function = Callable[[np.ndarray], np.ndarray]
#: nodes lie within so many standard deviations
RANGE = 6.0
MIN_NODES, MAX_NODES = 49, 1201
#: numbers in one batch of rows
BATCH = 1_000_000
#: simulations of a family without a distribution function
DRAWS = 20_000
SEED = 20_240_229
PRECISION = 1e-9
MAX_STEPS = 200


def normal_nodes(
    family: Family, eta: np.ndarray, sd: np.ndarray, weights: np.ndarray | None, phi: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (S,) and weights (S,) of a rule for averages over standard normals that suits all rows."""
    information = family.expected_weights(eta, weights, phi).weight
    ratio = float(np.max(sd * np.sqrt(information), initial=0.0))
    count = int(np.clip(2.0 * RANGE * 2.5 * ratio, MIN_NODES, MAX_NODES)) | 1
    if (
        beyond(family, eta, sd).max(initial=0.0) > 1e-9
    ):  # the rule is of a normal cut off, no longer smooth
        count = MAX_NODES
    t = np.linspace(-RANGE, RANGE, count)
    w = np.exp(-0.5 * t * t)
    return t, w / w.sum()


def normal_quantiles(
    family: Family,
    eta: np.ndarray,
    sd: np.ndarray,
    probabilities: tuple[float, ...],
    weights: np.ndarray | None = None,
    phi: Any = 1.0,
) -> list[np.ndarray]:
    """Quantiles (m,) per probability of new observations with eta ~ N(eta, sd^2).

    Parameters
    ----------
    eta, sd : (m,) of the linear predictor.
    weights : (m,) prior weights (trials) of the new observations, or None for ones.
    phi : the family's dispersion.
    """
    out = [np.empty(len(eta)) for _ in probabilities]
    step = max(1, BATCH // (MAX_NODES if family.has_cdf else DRAWS))
    rng = np.random.default_rng(SEED)
    for first in range(0, len(eta), step):
        part = slice(first, first + step)
        own = None if weights is None else weights[part]
        if family.has_cdf:
            t, w = normal_nodes(family, eta[part], sd[part], own, phi)
        else:
            t, w = rng.standard_normal(DRAWS), np.full(DRAWS, 1.0 / DRAWS)
        found = mixture_quantiles(
            family, eta[part] + t[:, None] * sd[part], w, probabilities, own, phi
        )
        for values, piece in zip(out, found, strict=True):
            values[part] = piece
    return out


def mixture_quantiles(
    family: Family,
    eta: np.ndarray,
    w: np.ndarray,
    probabilities: tuple[float, ...],
    weights: np.ndarray | None = None,
    phi: Any = 1.0,
) -> list[np.ndarray]:
    """Quantiles (m,) per probability of mixtures with nodes eta (S, m) and weights w (S,); phi a number or (S, 1)."""
    inside = family.inside(eta)
    if not inside.all():
        return _truncated(family, eta, w, inside, probabilities, weights, phi)
    mu = family.mean(eta)
    if not family.has_cdf:
        y = family.simulate(np.random.default_rng(SEED), mu, weights, phi)
        if family.discrete:
            return [np.quantile(y, p, axis=0, method="inverted_cdf") for p in probabilities]
        return [np.quantile(y, p, axis=0) for p in probabilities]

    def average(x: np.ndarray) -> np.ndarray:
        return np.asarray(w @ x if w.ndim == 1 else np.einsum("sm,sm->m", w, x))

    def cdf(y: np.ndarray) -> np.ndarray:
        return average(family.cdf(y, mu, weights, phi))

    if family.discrete:
        unit = np.ones(mu.shape[1])
        top = None
        if np.isfinite(family.mean_high):  # proportions
            top = unit if weights is None else np.rint(weights)
            unit = unit / top
        return [_smallest(cdf, p, average(mu), unit, top) for p in probabilities]

    def density(y: np.ndarray) -> np.ndarray:
        return average(np.exp(family.log_density(y, eta, weights, phi)))

    positive = family.mean_low >= 0.0
    if (
        w.ndim > 1
    ):  # an average over means near the end of a range says little of where most of them are
        center = np.median(mu, axis=0)
        return [
            _solved(
                cdf,
                density,
                p,
                center,
                center if positive else np.ptp(mu, axis=0) + 1e-300,
                positive,
            )
            for p in probabilities
        ]
    variance = average(family.variance(mu, phi)) / (1.0 if weights is None else weights)
    spread = np.sqrt(variance + np.maximum(average(mu**2) - average(mu) ** 2, 0.0))
    return [_solved(cdf, density, p, average(mu), spread, positive) for p in probabilities]


def _truncated(
    family: Family,
    eta: np.ndarray,
    w: np.ndarray,
    inside: np.ndarray,
    probabilities: tuple[float, ...],
    weights: np.ndarray | None,
    phi: Any,
) -> list[np.ndarray]:
    """The mixture over the nodes with possible means alone; NaN where there are hardly any."""
    own = np.where(inside, w[:, None], 0.0)
    total = own.sum(axis=0)
    out = [np.full(eta.shape[1], np.nan) for _ in probabilities]
    use = total > 0.5
    if use.any():
        own = own[:, use] / total[use]
        middle = np.einsum("sm,sm->m", own, np.where(inside[:, use], eta[:, use], 0.0))
        nodes = np.where(inside[:, use], eta[:, use], middle)
        found = mixture_quantiles(
            family, nodes, own, probabilities, None if weights is None else weights[use], phi
        )
        for values, piece in zip(out, found, strict=True):
            values[use] = piece
    return out


def beyond(family: Family, eta: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """(m,) the probability that eta ~ N(eta, sd^2) has no possible mean."""
    low, high = family.eta_bounds
    with np.errstate(divide="ignore", invalid="ignore"):
        share = ndtr((low - eta) / sd) + ndtr((eta - high) / sd)
    return np.where(sd > 0.0, share, ~family.inside(eta))


def _smallest(
    cdf: Function, p: float, mean: np.ndarray, unit: np.ndarray, top: np.ndarray | None
) -> np.ndarray:
    """The smallest multiple of ``unit`` with cdf >= p, by bisection of whole numbers from -1 (below) up to ``top``."""
    low = np.full(len(mean), -1.0)
    if top is None:
        high = np.ceil(mean) + 1.0
        for _ in range(60):
            short = cdf(high) < p
            if not short.any():
                break
            low, high = np.where(short, high, low), np.where(short, 2.0 * high, high)
    else:
        high = np.array(top, dtype=float)
    while np.any(high - low > 1.0):
        middle = np.floor((low + high) / 2.0)
        enough = cdf(middle * unit) >= p
        open_ = high - low > 1.0
        low, high = np.where(open_ & ~enough, middle, low), np.where(open_ & enough, middle, high)
    return high * unit


def _solved(
    cdf: Function, density: Function, p: float, mean: np.ndarray, spread: np.ndarray, positive: bool
) -> np.ndarray:
    """The root of cdf(y) = p; in x = log y where y is positive, so that dF/dx = y f(y)."""
    turn = np.exp if positive else (lambda x: x)
    x = np.log(mean) if positive else mean.copy()
    step = spread / mean if positive else spread
    step = np.maximum(step, 1e-12)
    low, high = x - step, x + step
    for _ in range(60):
        above, below = cdf(turn(low)) > p, cdf(turn(high)) < p
        if not (above.any() or below.any()):
            break
        low, high = (
            np.where(above, low - (high - low), low),
            np.where(below, high + (high - low), high),
        )
    x = (low + high) / 2.0
    for _ in range(MAX_STEPS):
        y = turn(x)
        excess = cdf(y) - p
        low, high = np.where(excess < 0, x, low), np.where(excess >= 0, x, high)
        slope = density(y) * (y if positive else 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            new = x - excess / slope
        new = np.where((new > low) & (new < high), new, (low + high) / 2.0)
        done = np.abs(new - x) <= PRECISION * step
        x = new
        if done.all():
            break
    return np.asarray(turn(x))
