"""How well a family suits the rows of a fit: deviance and overdispersion.

The residuals of which these are sums are those of :meth:`lmm.families.Family.residuals`.
"""

from __future__ import annotations

import numpy as np

from lmm.design.design import Design
from lmm.model.records import Estimate
from lmm.results.rows import row_values


def deviance(design: Design, estimate: Estimate, eta: np.ndarray) -> float:
    """Sum of squared deviance residuals, given the modes; -2 log-likelihood of a model with several linear predictors."""
    if len(estimate.components) > 1:  # there is no saturated model
        return float(estimate.objective)
    family = estimate.distribution
    return float(
        np.sum(
            family.unit_deviance(
                design.y, row_values.fitted(design, estimate, eta), design.weights, estimate.phi
            )
        )
    )


def overdispersion(design: Design, estimate: Estimate, eta: np.ndarray) -> float:
    """Pearson's chi-squared over the residual degrees of freedom; about 1 when the family's variance fits the data."""
    estimate.distribution.require_mean(
        "overdispersion: the categories of {kind} model have no variance to compare with."
    )
    pearson = row_values.residuals(design, estimate, eta, "pearson", scaled=True)
    return float(pearson @ pearson / (design.n - estimate.n_parameters))


def tells_overdispersion(design: Design, estimate: Estimate) -> bool:
    """Whether the ratio means anything: counts without a dispersion of their own, and not single binary trials."""
    family = estimate.distribution
    if family.has_scale or estimate.quasi or not family.has_mean or design.streamed:
        return False
    return not family.weights_are_trials or (
        design.weights is not None and bool(np.any(design.weights > 1.0))
    )
