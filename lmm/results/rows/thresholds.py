"""Thresholds of a model of categories: their values, standard errors and statistics.

Standard errors are those of the joint covariance of all parameters, by the delta method from the scale of the search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError
from lmm.model.records import Estimate
from lmm.results.tables.fixed import deviations
from lmm.results.text.numberformat import coefficient_columns, statistic_column
from lmm.results.text.render import TextTable

if TYPE_CHECKING:
    from lmm.results.uncertainty import Uncertainty


def thresholds(estimate: Estimate) -> pd.Series:
    """alpha (K-1,) by the categories that it parts, ``1|2``."""
    family = estimate.distribution
    if not family.boundaries:
        raise ArgumentError(
            "thresholds: thresholds are those of ordinal fits, glmer(..., family=lmm.families.Ordinal())."
        )
    return pd.Series(np.array(family.cuts(estimate.phi)), index=family.boundaries, name="threshold")


def threshold_table(estimate: Estimate, known: Uncertainty) -> pd.DataFrame:
    """``estimate, std_error, statistic`` per parameter of the thresholds; no rows where there are none.

    Errors are missing where there is no joint covariance.
    """
    family = estimate.distribution
    names = family.threshold_names
    value = np.array(estimate.phi, dtype=float) if names else np.zeros(0)
    se = np.full(len(value), np.nan)
    if names and known.joint is not None:
        J = family.reported(estimate.phi)[1]
        se = deviations(J @ known.joint[-len(J) :, -len(J) :] @ J.T)
    return pd.DataFrame({"estimate": value, "std_error": se, "statistic": value / se}, index=names)


def as_text(table: pd.DataFrame, digits: int) -> TextTable | None:
    """Estimate, standard error and z value with the decimals of the coefficients; None without thresholds."""
    if table.empty:
        return None
    columns = [
        map(str, table.index),
        *coefficient_columns(table["estimate"].to_numpy(), table["std_error"].to_numpy(), digits),
        statistic_column(table["statistic"].to_numpy(), digits),
    ]
    return TextTable.of_columns(("", "Estimate", "Std. Error", "z value"), columns, "thresholds")
