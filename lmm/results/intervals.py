"""Intervals of the parameters: normal ones of a likelihood fit, quantiles of a posterior's draws."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.design.records import Design
from lmm.errors import ArgumentError, nearest
from lmm.model.records import Estimate
from lmm.results import ordinal
from lmm.results.coverage import check_level, normal_quantile
from lmm.results.draws import PosteriorDraws, describe
from lmm.results.fixed import fixed_effects, spread, standard_errors
from lmm.results.generalized import residual_sd
from lmm.results.naming import parameter_names
from lmm.results.uncertainty import Uncertainty

METHODS = ("wald",)
POSTERIOR = ("posterior", "wald")


def confidence_intervals(design: Design, estimate: Estimate, known: Uncertainty, method: str | None, level: float) -> pd.DataFrame:
    """``lower, upper``: variance parameters first, then the fixed effects, then thresholds of an ordinal model.

    Wald intervals of standard deviations and correlations are not worth having (their distribution is
    far from normal), so those rows are missing, as in lme4.
    """
    check_level(level)
    methods = METHODS if known.draws is None else POSTERIOR
    method = method or ("profile" if known.draws is None else "posterior")
    if method in ("profile", "boot"):
        if known.draws is not None:
            raise ArgumentError(
                f"confint(method={method!r}): there is no likelihood to go by; method='posterior' gives quantiles of the draws."
            )
        raise ArgumentError(f"confint(method={method!r}) is not available in this release; method='wald' is (fixed effects only).")
    if method not in methods:
        raise ArgumentError(f"confint(method={method!r}) is not one of {', '.join(map(repr, methods))}.{nearest(method, methods)}")
    if method == "posterior":
        assert known.draws is not None
        return posterior_intervals(design, known.draws, level)
    fixed = fixed_effects(design, estimate)
    margin = normal_quantile(level) * standard_errors(design, known.beta)
    table = pd.DataFrame({"lower": fixed - margin, "upper": fixed + margin})
    if ordinal.is_ordinal(estimate.family):
        own = ordinal.threshold_table(estimate, known)
        margin = normal_quantile(level) * own["std_error"]
        table = pd.concat([table, pd.DataFrame({"lower": own["estimate"] - margin, "upper": own["estimate"] + margin})])
    names = parameter_names(design.terms, residual_sd(estimate) is not None) if known.draws is None else list(known.draws.variances)
    empty = pd.DataFrame(np.nan, index=names, columns=["lower", "upper"])
    return pd.DataFrame(np.vstack([empty.to_numpy(), table.to_numpy()]), index=[*empty.index, *table.index], columns=["lower", "upper"])


def posterior_intervals(design: Design, draws: PosteriorDraws, level: float) -> pd.DataFrame:
    """Quantiles of the draws with equal tails, rows as above.

    Missing for a coefficient that was dropped, and for a parameter that is a single number rather than a distribution.
    """
    variances = draws.variances
    frame = describe(draws, [*variances, *draws.coefficients], level)
    table = np.where(frame[["sd"]] > 0.0, frame[["lower", "upper"]], np.nan)
    q = len(variances)
    values = np.vstack([table[:q], np.column_stack([spread(design, column) for column in table[q:].T])])
    return pd.DataFrame(values, index=[*variances, *design.all_names], columns=["lower", "upper"])
