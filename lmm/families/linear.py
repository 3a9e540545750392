"""The responses of a linear mixed model: y ~ N(eta, sigma^2 / w), with sigma profiled out of the likelihood."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lmm.errors import ArgumentError
from lmm.families.base import Array, Family, Phi, Weights
from lmm.families.reals.gaussian import Gaussian


class LinearGaussian(Gaussian):
    """The distribution of the response of a linear mixed model, whose mean is the linear predictor.

    Unlike a Gaussian family it has its variances relative to sigma^2: Cov(b) = sigma^2 T T', and an estimate's unscaled covariance
    of the fixed effects is that at sigma = 1. :data:`LINEAR` is the only one that is needed.
    """

    linear = scales_rows = has_residual_sd = in_jax = slopes_in_jax = True
    has_dispersion = False  # sigma has its place
    described = None
    model_title, criterion_name = "Linear", "deviance"
    default_test = "t"
    default_ddf: ClassVar[str | None] = "satterthwaite"
    plain_tests: ClassVar[str | None] = None
    smoothing_rounds = 3
    default_residual = "response"
    scale_name = "sigma"
    scale_note = ""
    response_types = predictor_types = ("response", "link")
    prediction_types = ("response", "link", "disp")
    eta_columns = predictor_notes = ()
    sought = "variance parameters"
    rows_per_level = 1

    def require_linear(self, message: str) -> None:
        return None

    def require_family(self, message: str) -> None:
        raise ArgumentError(message)

    def headed(self, shape: str) -> list[tuple[str, str]]:
        return []

    def design_weights(self, weights: Weights) -> Weights:
        return weights

    def most_effects(self, n: int) -> float:
        return n

    def eta_scale(self, y: Array, weights: Weights = None) -> float:
        return 1.0

    def inside(self, eta: Array) -> Array:
        return eta == eta

    def mean(self, eta: Array) -> Array:
        return eta

    def mean_limit(self, eta: Array) -> Array:
        return eta

    def mean_slope(self, eta: Array) -> Array:
        return np.ones(len(eta))

    def residuals(self, y: Array, eta: Array, weights: Weights, phi: Phi, type: str) -> Array:
        """y - eta, and sqrt(w) (y - eta), which has the variance sigma^2 in every row, as Pearson's and of the deviance."""
        raw = y - eta
        return (
            raw * np.sqrt(weights)
            if type in ("pearson", "deviance") and weights is not None
            else raw
        )

    def working_weights(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        return np.full(len(y), 1.0 / phi) if weights is None else weights / phi

    def scale(self, sigma: float | Array) -> Array:
        return np.asarray(sigma)

    def density_phi(self, sigma: float, phi: Any) -> Any:
        return sigma**2

    def own_scale(self, sigma: Phi, phi: Phi) -> Phi:
        return sigma

    def drawn(self, values: Array) -> tuple[Array | None, Array | None]:
        return values, None

    def parameters(self, theta: Array, beta: Array, phi: Any) -> Array:
        return theta


LINEAR = LinearGaussian()


def distribution(family: Family | None) -> Family:
    """The distribution of the response: the family, None for a linear model."""
    return LINEAR if family is None else family
