"""What a family adds to the rows of a fit: means, residuals, deviance, overdispersion.

A linear model has Cov(b) = sigma^2 T T'; a generalized one Cov(b) = T T', T being absolute. With eta the linear
predictor at the conditional modes, mu = g^-1(eta), prior weights w and Var(y_i) = phi V(mu_i) / w_i,

    response   y - mu
    working    (y - mu) dg/dmu
    pearson    sqrt(w) (y - mu) / sqrt(V(mu))
    deviance   sign(y - mu) sqrt(d_i),  d_i the contribution to the deviance.

McCullagh & Nelder (1989), section 2.4. All but the first two are multiples of sqrt(phi) where phi scales the variance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lmm.design.records import Design
from lmm.errors import ArgumentError
from lmm.model.records import Estimate
from lmm.results import ordinal

if TYPE_CHECKING:
    from lmm.families import Family


def scales_variance(family: Family) -> bool:
    """Whether the dispersion multiplies the variance of every row; sigma is then its square root, else phi itself."""
    return family.has_dispersion and family.dispersion_scales_variance


def residual_sd(estimate: Estimate) -> float | None:
    """sigma where it is a residual standard deviation (on the scale of V), else None."""
    if estimate.family is None or scales_variance(estimate.family) or is_quasi(estimate):
        return float(estimate.sigma)
    return None


def is_quasi(estimate: Estimate) -> bool:
    """Whether sigma^2 multiplies the variance of a family that has no dispersion of its own (quasi-likelihood)."""
    return estimate.family is not None and not estimate.family.has_dispersion and float(estimate.sigma) != 1.0


def mean(estimate: Estimate, eta: np.ndarray) -> np.ndarray:
    """Means of linear predictors: g^-1(eta), or eta itself for a linear model; NaN stays."""
    if estimate.family is None:
        return eta
    return np.where(np.isnan(eta), np.nan, estimate.family.mean(eta))


def limit(estimate: Estimate, eta: np.ndarray) -> np.ndarray:
    """Means of the ends of intervals of linear predictors: beyond the link's range the mean at its end, 0 or infinite."""
    family = estimate.family
    if family is None or ordinal.is_ordinal(family):
        return mean(estimate, eta)
    low, high = family.eta_bounds
    out = mean(estimate, eta)
    least, most = max(family.mean_low, family.link.mean_low), min(family.mean_high, family.link.mean_high)
    falls = float(family.link.d1(family.clip(np.array([0.5 * (max(low, -1.0) + min(high, 1.0))])))[0]) < 0.0
    out = np.where(eta <= low, most if falls else least, out)
    return np.where(eta >= high, least if falls else most, out)


def fitted(design: Design, estimate: Estimate, eta: np.ndarray) -> np.ndarray:
    """(n,) fitted values: means, or of an ordinal model the probabilities of the categories observed."""
    family = estimate.family
    return ordinal.fitted(family, design, estimate, eta) if ordinal.is_ordinal(family) else mean(estimate, eta)


def slope(estimate: Estimate, eta: np.ndarray) -> np.ndarray:
    """d mu / d eta per row."""
    if estimate.family is None:
        return np.ones(len(eta))
    family = estimate.family
    return np.where(np.isnan(eta), np.nan, family.link.d1(family.clip(eta)))


def unit_variance(estimate: Estimate, mu: np.ndarray) -> np.ndarray:
    """V(mu) at prior weight 1, without a dispersion that scales it."""
    family = estimate.family
    return np.asarray(family.variance(mu, 1.0 if scales_variance(family) else estimate.phi))


def residuals(design: Design, estimate: Estimate, eta: np.ndarray, type: str) -> np.ndarray:
    """(n,) residuals of a generalized model at the linear predictor ``eta``; not divided by sigma."""
    family = estimate.family
    mu = mean(estimate, eta)
    raw = design.y - mu
    if type == "response":
        return np.asarray(raw)
    if type == "working":
        return np.asarray(raw / slope(estimate, eta))
    if type == "pearson":
        weights = 1.0 if design.weights is None else design.weights
        with np.errstate(divide="ignore", invalid="ignore"):  # a mean on an edge of its range has no variance
            return np.where(raw == 0.0, 0.0, raw * np.sqrt(weights / unit_variance(estimate, mu)))
    # rounding can leave a deviance of zero below it
    return np.asarray(np.sign(raw) * np.sqrt(np.maximum(family.unit_deviance(design.y, mu, design.weights, estimate.phi), 0.0)))


def deviance(design: Design, estimate: Estimate, eta: np.ndarray) -> float:
    """Sum of squared deviance residuals, given the modes of the random effects."""
    return float(np.sum(estimate.family.unit_deviance(design.y, fitted(design, estimate, eta), design.weights, estimate.phi)))


def overdispersion(design: Design, estimate: Estimate, eta: np.ndarray) -> float:
    """Pearson's chi-squared over the residual degrees of freedom; about 1 when the family's variance fits the data."""
    if ordinal.is_ordinal(estimate.family):
        raise ArgumentError("overdispersion: the categories of an ordinal model have no variance to compare with.")
    pearson = residuals(design, estimate, eta, "pearson") / (residual_sd(estimate) or 1.0)
    return float(pearson @ pearson / (design.n - estimate.n_parameters))


def tells_overdispersion(design: Design, estimate: Estimate) -> bool:
    """Whether the ratio means anything: counts without a dispersion of their own, and not single binary trials."""
    family = estimate.family
    if family is None or family.has_dispersion or is_quasi(estimate) or ordinal.is_ordinal(family) or design.streamed:
        return False
    return not family.weights_are_trials or (design.weights is not None and bool(np.any(design.weights > 1.0)))
