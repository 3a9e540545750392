"""What a cumulative link model adds to a fit: thresholds with their errors, and probabilities of categories.

With P_k = P(y = k) at the linear predictor of a row, y its category and w its weight,

    fitted       P_y, the probability of the category observed
    probability  P(Y < y) - P(Y > y), between -1 and 1, with mean zero where the model holds
    working      l' / -l'', the score over the information in eta
    deviance     sqrt(-2 w log P_y) with the sign of the probability residual.

Categories are no numbers, so there are no response or Pearson residuals. Standard errors of thresholds are those
of the joint covariance of all parameters (delta method from the logs of their distances).

Li & Shepherd (2012), Biometrika 99, for the probability residual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import pandas as pd

from lmm.design.records import Design
from lmm.errors import ArgumentError, nearest
from lmm.inference import population_average
from lmm.model.records import Estimate
from lmm.results.fixed import deviations
from lmm.results.numberformat import coefficient_columns, statistic_column
from lmm.results.render import Table

if TYPE_CHECKING:
    from lmm.families import Family, Ordinal
    from lmm.results.uncertainty import Uncertainty

RESIDUAL_TYPES = ("probability", "deviance", "working")
TYPES = ("response", "prob", "cumulative", "class", "link")


def is_ordinal(family: Family | None) -> TypeGuard[Ordinal]:
    """Whether the response has ordered categories."""
    return family is not None and not family.has_intercept


def of(estimate: Estimate, what: str) -> Ordinal:
    """The family of an ordinal fit; ArgumentError for another one."""
    if is_ordinal(estimate.family):
        return estimate.family
    raise ArgumentError(f"{what}: thresholds are those of ordinal fits, glmer(..., family=lmm.families.Ordinal()).")


def thresholds(estimate: Estimate) -> pd.Series:
    """alpha (K-1,) by the categories that it parts, ``1|2``."""
    family = of(estimate, "thresholds")
    return pd.Series(np.array(family.cuts(estimate.phi)), index=family.boundaries, name="threshold")


def threshold_table(estimate: Estimate, known: Uncertainty) -> pd.DataFrame:
    """``estimate, std_error, statistic`` per parameter of the thresholds; missing errors where there is no joint covariance."""
    family = of(estimate, "threshold_table")
    names, J = family.reported(estimate.phi)
    value = np.array(estimate.phi, dtype=float)
    se = np.full(len(value), np.nan)
    if known.joint is not None:
        se = deviations(J @ known.joint[-len(J) :, -len(J) :] @ J.T)
    return pd.DataFrame({"estimate": value, "std_error": se, "statistic": value / se}, index=names)


def threshold_names(estimate: Estimate) -> list[str]:
    """Names of the parameters of the thresholds; none of a fit that is not ordinal."""
    return list(estimate.family.reported(estimate.phi)[0]) if is_ordinal(estimate.family) else []


def thresholds_as_text(table: pd.DataFrame, digits: int) -> Table:
    """Estimate, standard error and z value with the decimals of the coefficients."""
    columns = [
        list(map(str, table.index)),
        *coefficient_columns(table["estimate"].to_numpy(), table["std_error"].to_numpy(), digits),
        statistic_column(table["statistic"].to_numpy(), digits),
    ]
    return Table(("", "Estimate", "Std. Error", "z value"), tuple(zip(*columns, strict=True)), "lrrr", "thresholds")


def residuals(family: Ordinal, design: Design, estimate: Estimate, eta: np.ndarray, type: str | None) -> np.ndarray:
    """(n,) residuals; see the head of this file."""
    type = "probability" if type is None else type
    if type not in RESIDUAL_TYPES:
        options = ", ".join(map(repr, RESIDUAL_TYPES))
        raise ArgumentError(
            f"residuals: type={type!r} is not one of {options}, those of an ordinal fit, whose categories are no numbers."
            f"{nearest(type, RESIDUAL_TYPES)}"
        )
    if type == "working":
        d1, d2, _ = family.derivatives(design.y, eta, None, estimate.phi)
        return np.asarray(d1 / -d2)
    below = np.column_stack([np.zeros(len(eta)), family.cumulative(eta, estimate.phi), np.ones(len(eta))])
    rows, y = np.arange(len(eta)), design.y.astype(np.intp)
    probability = below[rows, y] - (1.0 - below[rows, y + 1])
    if type == "probability":
        return np.asarray(probability)
    weights = 1.0 if design.weights is None else design.weights
    return np.asarray(np.sign(probability) * np.sqrt(-2.0 * weights * family.kernel(design.y, eta, None, estimate.phi)))


def check_prediction(type: str, se_fit: bool, interval: str | None, with_effects: bool) -> None:
    """ArgumentError for what an ordinal model cannot predict."""
    if type not in TYPES:
        raise ArgumentError(f"predict: type={type!r} is not one of {', '.join(map(repr, TYPES))}.{nearest(type, TYPES)}")
    if (se_fit or interval is not None) and (type != "link" or with_effects):
        raise ArgumentError(
            "predict: an ordinal model has standard errors and intervals of its linear predictor alone, with type='link', re_form=False."
        )


def predicted(family: Ordinal, phi: Any, type: str, eta: np.ndarray, sd: np.ndarray | None) -> tuple[list[str], np.ndarray]:
    """Names and columns: probabilities of the categories (m, K), "cumulative" ones (m, K-1), or codes (m, 1) of the most probable.

    NaN where eta (m,) is missing. With ``sd`` (m,) the probabilities are averages over normal predictors with these standard deviations.
    """
    if sd is None:
        p = family.probabilities(eta, phi)
    else:
        nodes, weights = population_average.rule(float(np.max(sd[np.isfinite(sd)], initial=0.0)))
        p = sum((w * family.probabilities(eta + sd * t, phi) for t, w in zip(nodes, weights, strict=True)), np.zeros((len(eta), family.K)))
    if type == "class":
        return ["fit"], np.where(np.isnan(eta), np.nan, np.argmax(p, axis=1))[:, None]
    if type == "cumulative":
        return family.boundaries, np.cumsum(p, axis=1)[:, :-1]
    return list(map(str, family.categories)), p


def categorical(family: Ordinal, codes: np.ndarray) -> pd.Categorical:
    """Codes 0..K-1 as the user's categories, ordered; -1 and NaN are missing."""
    codes = np.where(np.isnan(codes), -1, codes).astype(np.intp)
    return pd.Categorical.from_codes(codes, categories=pd.Index(family.categories), ordered=True)
