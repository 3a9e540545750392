"""Where a fit with several predictors begins: the same model without random effects, by Newton's method.

The first guess is one of constants: the mean of the response, the zeros beyond those that the family expects, a dispersion from moments.
Newton's steps take the observed information where it is positive definite, that of |W| elsewhere, and are halved until the
likelihood rises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmm.families.joint.joint_density import JointDensity
from lmm.families.joint.stacked_family import StackedFamily
from lmm.model.laplace.rows import Block

#: steps and halvings at the most, and the decrement at which the search ends
STEPS, HALVINGS, ENOUGH = 50, 30, 1e-6
#: share of excess zeros to begin from: limits, and what of all zeros it is at the least
LEAST_SHARE, MOST_SHARE, OF_ZEROS = 0.02, 0.9, 0.3


def coefficients(
    family: StackedFamily, rows: Block, R: np.ndarray, places: Sequence[slice]
) -> np.ndarray:
    """gamma (p,) of the orthonormal columns; ``R`` (p, p) with X = Q R, ``places`` of each predictor among the p columns."""
    gamma = R @ _constants(family, rows, rows.Q @ R, places)
    value = _density(family, rows, gamma)
    for _ in range(STEPS):
        eta = rows.offset + rows.Q @ gamma
        at = family.derivatives(rows.y, eta, rows.weights)
        score = rows.Q.T @ at.d1
        information = rows.Q.T @ (rows.Q * -at.d2[:, None])
        if not _is_positive(information):
            W = family.descent_weights(rows.y, eta, rows.weights)
            information = rows.Q.T @ (rows.Q * W[:, None])
        if not (np.isfinite(information).all() and np.isfinite(score).all()):
            break
        step = np.linalg.lstsq(information, score, rcond=1e-12)[0]
        decrement = float(score @ step)
        for _ in range(HALVINGS):
            found = _density(family, rows, gamma + step)
            if found >= value:
                break
            step = step / 2.0
        else:
            break
        gamma, value = gamma + step, found
        if decrement < ENOUGH:
            break
    return gamma


def _density(family: StackedFamily, rows: Block, gamma: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        value = float(family.kernel(rows.y, rows.offset + rows.Q @ gamma, rows.weights).sum())
    return value if np.isfinite(value) else -np.inf


def _is_positive(H: np.ndarray) -> bool:
    try:
        np.linalg.cholesky(H)
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(H).all())


def _constants(
    family: StackedFamily, rows: Block, X: np.ndarray, places: Sequence[slice]
) -> np.ndarray:
    """Coefficients whose predictors are as near as can be to the first guesses."""
    density, n = family.density, len(rows.y) // family.blocks
    beta = np.zeros(X.shape[1])
    guesses = first_guesses(density, rows.y[:n], rows.weights[:n], rows.offset[:n])
    for a, (place, guess) in enumerate(zip(places, guesses, strict=True)):
        own = slice(a * n, (a + 1) * n)
        offset = rows.offset[own] if a else 0.0  # the mean's guess knows of it
        beta[place] = np.linalg.lstsq(X[own, place], np.full(n, guess) - offset, rcond=None)[0]
    return beta


def first_guesses(
    density: JointDensity, y: np.ndarray, weights: np.ndarray, offset: np.ndarray
) -> list[float]:
    """A constant for each predictor, that of the mean less the mean ``offset``."""
    inner = density.inner
    inside = weights if density.weighs_inside else None
    zero = y == 0.0
    seen = y[~zero] if density.is_hurdle else y
    if inside is not None and density.is_hurdle:
        inside = inside[~zero]
    mean = float(np.mean(seen)) if len(seen) else 1.0
    share = float(np.mean(zero))
    if density.inflated and not density.is_hurdle:
        share = _excess(density, y, inside, mean, share)
        mean = mean / (1.0 - share)
    share = float(np.clip(share, 0.001, 0.999))
    eta = float(inner.link.link(np.array(_possible(density, mean))))
    if not density.is_hurdle and inner.link.name == "log":
        eta -= float(np.log(np.mean(np.exp(offset))))
    else:
        eta -= float(np.mean(offset))
    guesses = {"cond": eta, "zi": float(np.log(share / (1.0 - share)))}
    if inner.has_dispersion:
        mu = np.full(len(seen), _possible(density, mean))
        phi = float(np.clip(inner.initial_phi(seen, mu, inside), 1e-8, 1e8))
        guesses["disp"] = float(np.log(phi)) / inner.dispersion_power
    return [guesses[name] for name in density.names]


def _possible(density: JointDensity, mean: float) -> float:
    """A mean inside the interval of the family's means."""
    low, high = density.inner.mean_low, density.inner.mean_high
    width = 1e-3 * (high - low if np.isfinite(high) else 1.0)
    return float(np.clip(mean, low + width, high - width))


def _excess(
    density: JointDensity, y: np.ndarray, weights: np.ndarray | None, mean: float, zeros: float
) -> float:
    """The share of zeros beyond those that the family expects at this mean."""
    inner = density.inner
    mu = np.full(len(y), _possible(density, mean))
    phi = inner.initial_phi(y, mu, weights) if inner.has_dispersion else 1.0
    none = np.zeros(len(y))
    expected = float(np.mean(np.exp(inner.log_density(none, inner.link.link(mu), weights, phi))))
    excess = (zeros - expected) / max(1.0 - expected, 1e-8)
    return float(np.clip(max(excess, OF_ZEROS * zeros), LEAST_SHARE, MOST_SHARE))
