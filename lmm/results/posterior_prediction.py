"""Uncertainty of predictions from posterior draws.

Per draw d and row, eta_d = x'beta_d + z'b_d + offset. A level that the fit never saw has b_d ~ N(0, Cov_d(b)), so that z'b_d
is normal with variance z'Cov_d z; a new observation adds N(0, sigma_d^2 / w) and the effects that were left out. The
predictive distribution is then the mixture of the normals N(eta_d, v_d), whose quantiles q solve

    mean_d Phi((q - eta_d) / sqrt(v_d)) = p

and whose variance is Var(eta_d) + mean(v_d): only the draws themselves are random. Where a method keeps no draws of the
effects but their posterior covariances C_j,

    Var(eta) = x'Cov(beta)x + sum z'C_j z,

fixed and random effects taken as independent, as the approximation has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from lmm.inference import predictive
from lmm.model.records import Estimate
from lmm.results import marginal
from lmm.results.coverage import tails

if TYPE_CHECKING:
    from lmm.results.prediction import Rows

#: numbers in one batch of rows
BATCH = 4_000_000
#: of the generator behind standard errors of a new level's mean: a prediction is the same whenever it is asked for
SEED = 20_240_229
#: a quantile of a mixture is found to this share of its standard deviation
PRECISION = 1e-7
MAX_STEPS = 100


def from_draws(rows: Rows, estimate: Estimate) -> bool:
    """Whether the draws hold all that these rows need."""
    if estimate.draws is None:
        return False
    needed = any(term is not None and mask.any() for term, mask in zip(rows.terms, rows.keep, strict=True))
    return bool(estimate.draws.effects) or not needed


def limits(
    rows: Rows, estimate: Estimate, on_response: bool, interval: str | None, level: float, average_over: list[np.ndarray] | None
) -> dict[str, np.ndarray]:
    """``se`` and, with an interval, ``lower, upper``, each (m,), NaN for incomplete rows.

    Parameters
    ----------
    on_response : for means rather than linear predictors.
    average_over : columns (m, k) of every term over whose population means are averaged, or None.
    """
    assert estimate.draws is not None
    # one for each draw, so that a row's standard error does not depend on the other rows
    noise = np.random.default_rng(SEED).standard_normal((int(np.prod(estimate.draws.beta.shape[:2])), 1))
    columns = ["se"] if interval is None else ["se", "lower", "upper"]
    out = {name: np.full(len(rows.X), np.nan) for name in columns}
    for part in _batches(rows, estimate):
        eta, variance = predictors(rows, estimate, part)
        if average_over is not None:
            sd = np.sqrt(sum(_variance(estimate, t, z[part]) for t, z in enumerate(average_over)))
            sd = np.broadcast_to(sd, eta.shape)
            eta = marginal.average(estimate.family, eta.ravel(), sd.ravel()).mean.reshape(eta.shape)
            on_response = False
        if on_response and not estimate.distribution.linear:
            out["se"][part] = estimate.distribution.mean(eta + np.sqrt(variance) * noise).std(axis=0, ddof=1)
        else:
            out["se"][part] = np.sqrt(eta.var(axis=0, ddof=1) + variance.mean(axis=0))
        if interval is None:
            continue
        if interval == "prediction":
            variance = variance + new_observations(rows, estimate, part)
        ends = [mixture_quantile(eta, variance, p) for p in tails(level)]
        if on_response:
            ends = [estimate.distribution.mean(end) for end in ends]
        out["lower"][part], out["upper"][part] = np.minimum(*ends), np.maximum(*ends)
    return out


def expected(rows: Rows, estimate: Estimate) -> np.ndarray:
    """(m,) posterior means of a generalized model's expected responses, averaged over effects of new levels; NaN for incomplete rows."""
    out = np.full(len(rows.X), np.nan)
    for part in _batches(rows, estimate):
        eta, variance = predictors(rows, estimate, part)
        if variance.any():
            sd = np.sqrt(variance)
            out[part] = marginal.average(estimate.family, eta.ravel(), sd.ravel()).mean.reshape(eta.shape).mean(axis=0)
        else:
            out[part] = estimate.distribution.mean(eta).mean(axis=0)
    return out


def predictors(rows: Rows, estimate: Estimate, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(draws, rows of the part) linear predictors, and the variances that new levels add to them."""
    draws = estimate.draws
    assert draws is not None
    eta = _flat(draws.beta) @ rows.X[part].T
    if rows.offset is not None:
        eta = eta + rows.offset[part]
    variance = np.zeros(eta.shape)
    for t, (term, mask) in enumerate(zip(rows.terms, rows.keep, strict=True)):
        if term is None or not mask.any():
            continue
        codes, values = term[0][part], term[1][part] * mask
        new = codes < 0
        effects = _flat(draws.effects[t])
        for j in np.flatnonzero(mask):
            eta += np.where(new, 0.0, values[:, j]) * effects[:, np.where(new, 0, codes), j]
        if new.any():
            variance[:, new] += _variance(estimate, t, values[new])
    return np.asarray(eta), variance


def new_observations(rows: Rows, estimate: Estimate, part: np.ndarray) -> np.ndarray:
    """(draws, rows of the part) variances that observations of a linear model add to their predictors."""
    draws = estimate.draws
    assert draws is not None
    sigma = np.full(draws.beta.shape[:2], estimate.sigma) if draws.sigma is None else draws.sigma
    variance = np.square(sigma).reshape(-1, 1) / (np.ones(len(part)) if rows.weights is None else rows.weights[part])
    return np.asarray(variance + left_out(rows, estimate, part))


def observations(rows: Rows, estimate: Estimate, probabilities: tuple[float, ...]) -> list[np.ndarray]:
    """Quantiles per probability, (complete rows,), of new observations of a generalized model over the draws.

    Effects of new levels, and those left out, are drawn once per draw of the parameters.
    """
    assert estimate.draws is not None
    rng = np.random.default_rng(SEED)
    phi = estimate.phi if estimate.draws.phi is None else estimate.draws.phi.reshape(-1, 1)
    w: np.ndarray | None = None
    found: list[list[np.ndarray]] = [[] for _ in probabilities]
    for part in _batches(rows, estimate):
        eta, variance = predictors(rows, estimate, part)
        variance = variance + left_out(rows, estimate, part)
        if variance.any():
            eta = eta + np.sqrt(variance) * rng.standard_normal(eta.shape)
        w = np.full(len(eta), 1.0 / len(eta)) if w is None else w
        own = None if rows.weights is None else rows.weights[part]
        for values, piece in zip(found, predictive.mixture_quantiles(estimate.family, eta, w, probabilities, own, phi), strict=True):
            values.append(piece)
    return [np.concatenate(values) for values in found]


def left_out(rows: Rows, estimate: Estimate, part: np.ndarray) -> np.ndarray:
    """(draws, rows of the part) variances of the random effects that are left out."""
    assert estimate.draws is not None
    variance = np.zeros((int(np.prod(estimate.draws.beta.shape[:2])), len(part)))
    for t, (term, mask) in enumerate(zip(rows.terms, rows.keep, strict=True)):
        if term is not None and not mask.all():
            variance = variance + _variance(estimate, t, term[1][part] * ~mask)
    return variance


def mixture_quantile(mean: np.ndarray, variance: np.ndarray, p: float) -> np.ndarray:
    """Quantiles (m,) of equal mixtures of normals, a column each; of the means themselves where there is no variance.

    Newton's method on the distribution function inside a bracket: every component has less than p below the smallest of
    the components' own quantiles, more than p below the largest.

    Parameters
    ----------
    mean, variance : (S, m).
    """
    q = np.asarray(np.quantile(mean, p, axis=0))
    columns = np.flatnonzero(variance.any(axis=0))
    if not columns.size:
        return q
    mean = mean[:, columns]
    total = mean.var(axis=0) + variance[:, columns].mean(axis=0)
    sd = np.sqrt(np.maximum(variance[:, columns], 1e-12 * total))
    ends = mean + ndtri(p) * sd
    low, high, at = ends.min(axis=0), ends.max(axis=0), mean.mean(axis=0) + ndtri(p) * np.sqrt(total)
    for _ in range(MAX_STEPS):
        at = np.where((at > low) & (at < high), at, (low + high) / 2.0)
        z = (at - mean) / sd
        excess = ndtr(z).mean(axis=0) - p
        low, high = np.where(excess < 0, at, low), np.where(excess > 0, at, high)
        step = excess / np.maximum((np.exp(-0.5 * z * z) / sd).mean(axis=0) / np.sqrt(2.0 * np.pi), 1e-300)
        at = at - step
        if np.all(np.minimum(np.abs(step), high - low) <= PRECISION * np.sqrt(total)):
            break
    q[columns] = np.clip(at, low, high)
    return q


def normal_variance(rows: Rows, estimate: Estimate, beta_cov: np.ndarray) -> np.ndarray:
    """Variance of the predictor, one per complete row, from the posterior covariances of fixed and random effects."""
    assert estimate.mode_cov is not None
    use = rows.complete
    X = rows.X[use]
    total = np.einsum("ij,jk,ik->i", X, beta_cov, X, optimize=True)
    for t, (term, mask) in enumerate(zip(rows.terms, rows.keep, strict=True)):
        if term is None or not mask.any():
            continue
        codes, values = term[0][use], term[1][use] * mask
        new = codes < 0
        own = np.einsum("mi,mij,mj->m", values, estimate.mode_cov[t][np.where(new, 0, codes)], values, optimize=True)
        total = total + np.where(new, _variance(estimate, t, values).mean(axis=0), own)
    return np.asarray(total)


def _variance(estimate: Estimate, t: int, values: np.ndarray) -> np.ndarray:
    """(draws, m) z'Cov_d z of a new level of term t."""
    assert estimate.draws is not None
    return np.maximum(np.einsum("mi,sij,mj->sm", values, _flat(estimate.draws.covariances[t]), values, optimize=True), 0.0)


def _flat(values: np.ndarray) -> np.ndarray:
    """Chains one after another."""
    return values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])


def _batches(rows: Rows, estimate: Estimate) -> Iterator[np.ndarray]:
    assert estimate.draws is not None
    complete = np.flatnonzero(rows.complete)
    step = max(1, BATCH // max(1, int(np.prod(estimate.draws.beta.shape[:2]))))
    for first in range(0, len(complete), step):
        yield complete[first : first + step]
