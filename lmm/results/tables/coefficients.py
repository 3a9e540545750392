"""The table of coefficients: Wald statistics of a likelihood fit, mean and quantiles of a posterior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.model.records import Estimate
from lmm.results.tables import fixed
from lmm.results.tables.draws import PosteriorDraws, describe
from lmm.results.text.numberformat import (
    coefficient_columns,
    format_column,
    p_value_column,
    statistic_column,
)
from lmm.results.text.render import TextTable

#: probability between the limits that a posterior's table prints
LEVEL = 0.95
#: upper ends of p-values and their marks
_STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"), (0.1, "."))
LEGEND = "Signif. codes:  0 '***' 0.001 '**' 0.01 '*' 0.05 '.' 0.1 ' ' 1"


def posterior_table(
    design: Design, estimate: Estimate, cov: np.ndarray, draws: PosteriorDraws
) -> pd.DataFrame:
    """``estimate, posterior_sd, lower, upper`` and, for chains, ``r_hat, ess_bulk``, missing where a column was dropped."""
    columns = {
        "estimate": fixed.fixed_effects(design, estimate),
        "posterior_sd": fixed.standard_errors(design, cov),
    }
    names = list(design.names)
    own = describe(draws, list(draws.coefficients), LEVEL)[["lower", "upper"]].set_axis(names)
    if draws.statistics:
        own = own.join(draws.diagnostics.iloc[: len(names)].set_axis(names))
    return pd.DataFrame(columns).join(own.reindex(list(design.all_names)))


def no_tests(what: str) -> str:
    """Why a posterior has no ``what``."""
    return (
        f"{what}: this fit is a posterior distribution, which tests nothing; fit.confint() gives its intervals, and a share of the draws "
        "such as (fit.draws['x'] > 0).mean() the probability of a statement."
    )


def coefficients_as_text(coefficients: pd.DataFrame, digits: int, spread: str) -> TextTable:
    """The table with the decimals that lme4 prints; ``spread`` is the title beside the estimates."""
    if "posterior_sd" in coefficients:
        return _posterior_as_text(coefficients, digits, spread)
    columns: list[Sequence[str]] = [
        list(map(str, coefficients.index)),
        *coefficient_columns(
            coefficients["estimate"].to_numpy(), coefficients["std_error"].to_numpy(), digits
        ),
    ]
    head, kind = ["", "Estimate", spread], "t" if "df" in coefficients else "z"
    if "df" in coefficients:
        columns.append(format_column(coefficients["df"].to_numpy(), digits))
        head.append("df")
    columns.append(statistic_column(coefficients["statistic"].to_numpy(), digits))
    if "p_value" not in coefficients:
        return TextTable.of_columns([*head, "t value"], columns, "fixed")
    p = coefficients["p_value"].to_numpy()
    columns.append(p_value_column(p, digits - 1))
    head += [f"{kind} value", f"Pr(>|{kind}|)"]
    if not (p < 0.1).any():
        return TextTable.of_columns(head, columns, "fixed")
    columns.append([next((mark for end, mark in _STARS if value <= end), "") for value in p])
    return TextTable.of_columns([*head, ""], columns, "fixed", "l" + "r" * (len(head) - 1) + "l")


def _posterior_as_text(coefficients: pd.DataFrame, digits: int, spread: str) -> TextTable:
    numbers = coefficients[["estimate", "lower", "upper", "posterior_sd"]].to_numpy()
    rows = len(numbers)
    left, sd = coefficient_columns(numbers[:, :3].T.ravel(), numbers[:, 3], digits)
    columns = [
        list(map(str, coefficients.index)),
        left[:rows],
        sd,
        left[rows : 2 * rows],
        left[2 * rows :],
    ]
    head = ["", "Estimate", spread, f"{50 * (1 - LEVEL):g} %", f"{50 * (1 + LEVEL):g} %"]
    if "r_hat" in coefficients:
        columns.append([f"{value:.3f}" for value in coefficients["r_hat"]])
        columns.append(format_column(np.round(coefficients["ess_bulk"].to_numpy()), 7))
        head += ["R-hat", "ESS"]
    return TextTable.of_columns(head, columns, "fixed")
