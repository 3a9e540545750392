"""Nakagawa's R2 and the intraclass correlation of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from lmm import arguments
from lmm.errors import ArgumentError
from lmm.inference.criticism.variance_explained import (
    APPROXIMATIONS,
    Decomposition,
    distribution_variance,
    latent_variance,
)
from lmm.results.tests.neighbours import without_predictors

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def decomposition(fit: Fit, approximation: str, context: Mapping[str, object]) -> Decomposition:
    """Variances of the fixed and random parts and of the distribution. See :mod:`lmm.inference.criticism.variance_explained`."""
    arguments.choice(approximation, "approximation", APPROXIMATIONS)
    design, estimate = fit.design, fit.estimate
    variances = design.rows.random_variances(estimate.factors, estimate.scale2)
    per_row = [fit.family is not None and term.J == design.n for term in design.terms]
    random = {
        term.group: v
        for term, v, own in zip(design.terms, variances, per_row, strict=True)
        if not own
    }
    dispersion = sum(v for v, own in zip(variances, per_row, strict=True) if own)
    fixed = design.rows.fixed_variance(estimate.beta)
    return Decomposition(
        fixed, random, float(dispersion), _distribution(fit, approximation, context)
    )


def _distribution(fit: Fit, approximation: str, context: Mapping[str, object]) -> float:
    family = fit.family
    if family is None:
        return float(fit.sigma**2)
    latent = latent_variance(family)
    if latent is not None:
        return float(latent)
    family.require_mean(
        f"the latent variable behind the link {family.link.name!r} has no variance, so that there is no R2 or ICC."
    )
    if approximation == "trigamma" and family.link.name != "log":
        raise ArgumentError(
            f"approximation='trigamma' is for a log link; the link {family.link.name!r} has 'delta'."
        )
    null = without_predictors(fit, context)
    predictor = null.design.rows.fixed_part(null.estimate.beta)
    variances = null.design.rows.random_variances(null.estimate.factors, 1.0)
    return distribution_variance(family, fit.estimate.phi, predictor, sum(variances), approximation)


def r_squared(found: Decomposition) -> pd.Series:
    """``marginal, conditional``."""
    return pd.Series(
        {
            "marginal": found.fixed / found.total,
            "conditional": (found.fixed + found.between) / found.total,
        },
        name="r2",
    )


def intraclass(found: Decomposition) -> pd.Series:
    """``adjusted, unadjusted``."""
    within = found.between + found.residual
    return pd.Series(
        {"adjusted": found.between / within, "unadjusted": found.between / found.total}, name="icc"
    )


def intraclass_by_group(found: Decomposition) -> pd.DataFrame:
    """``variance, icc`` per grouping factor; they add up to the adjusted ICC."""
    variance = pd.Series(found.random, dtype=float)
    return pd.DataFrame({"variance": variance, "icc": variance / (found.between + found.residual)})
