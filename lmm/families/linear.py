"""The responses of a linear mixed model: y ~ N(eta, sigma^2 / w), with sigma profiled out of the likelihood."""

from __future__ import annotations

import numpy as np

from lmm.families.base import Array, Family, Weights
from lmm.families.gaussian import Gaussian


class LinearGaussian(Gaussian):
    """The distribution of the response of a linear mixed model, whose mean is the linear predictor.

    Unlike a Gaussian family it has its variances relative to sigma^2: Cov(b) = sigma^2 T T', and an estimate's unscaled covariance
    of the fixed effects is that at sigma = 1. :data:`LINEAR` is the only one that is needed.
    """

    linear = in_jax = slopes_in_jax = True
    default_residual = "response"

    def mean(self, eta: Array) -> Array:
        return eta

    def mean_limit(self, eta: Array) -> Array:
        return eta

    def mean_slope(self, eta: Array) -> Array:
        return np.ones(len(eta))

    def residuals(self, y: Array, eta: Array, weights: Weights, phi: float, type: str) -> Array:
        """y - eta, and sqrt(w) (y - eta), which has the variance sigma^2 in every row, as Pearson's and of the deviance."""
        raw = y - eta
        return raw * np.sqrt(weights) if type in ("pearson", "deviance") and weights is not None else raw

    def scale2(self, sigma: float | Array) -> Array:
        return np.square(np.asarray(sigma))


LINEAR = LinearGaussian()


def distribution(family: Family | None) -> Family:
    """The distribution of the response: the family, None for a linear model."""
    return LINEAR if family is None else family
