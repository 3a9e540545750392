"""Wald confidence intervals: estimate plus or minus a normal quantile of standard errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri

from lmm.design.records import Design
from lmm.errors import ArgumentError, nearest
from lmm.model.records import Estimate
from lmm.results.fixed import fixed_effects, standard_errors
from lmm.results.generalized import residual_sd
from lmm.results.naming import parameter_names

METHODS = ("wald",)


def check_level(level: float) -> float:
    """A coverage strictly between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, (int, float, np.number)) or not 0.0 < level < 1.0:
        raise ArgumentError(f"level={level!r} must lie between 0 and 1, for example 0.95.")
    return float(level)


def normal_quantile(level: float) -> float:
    """z with P(|Z| < z) = level."""
    return float(ndtri(0.5 + check_level(level) / 2.0))


def confidence_intervals(design: Design, estimate: Estimate, cov: np.ndarray, method: str, level: float) -> pd.DataFrame:
    """``lower, upper``: variance parameters first, then the fixed effects.

    Wald intervals of standard deviations and correlations are not worth having (their distribution is
    far from normal), so those rows are missing, as in lme4.
    """
    check_level(level)
    if method in ("profile", "boot"):
        raise ArgumentError(f"confint(method={method!r}) is not available in this release; method='wald' is (fixed effects only).")
    if method not in METHODS:
        raise ArgumentError(f"confint(method={method!r}) is not one of {', '.join(map(repr, METHODS))}.{nearest(method, METHODS)}")
    fixed = fixed_effects(design, estimate)
    margin = normal_quantile(level) * standard_errors(design, cov)
    table = pd.DataFrame({"lower": fixed - margin, "upper": fixed + margin})
    empty = pd.DataFrame(np.nan, index=parameter_names(design.terms, residual_sd(estimate) is not None), columns=["lower", "upper"])
    return pd.DataFrame(np.vstack([empty.to_numpy(), table.to_numpy()]), index=[*empty.index, *table.index], columns=["lower", "upper"])
