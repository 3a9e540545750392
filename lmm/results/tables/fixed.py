"""Fixed effects with their names: estimates, covariance, Wald statistics.

``cov`` (p, p) is the covariance of the kept coefficients, from :mod:`lmm.results.uncertainty`.
Columns of X that depend on others were dropped before the fit: they have no estimate (NaN in
``params`` and in tables, zero in predictions) and no row in the covariance matrix.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr

from lmm.design.design import Design
from lmm.inference.tests.ddf import Ddf
from lmm.inference.tests.distributions import t_p_values
from lmm.model.records import Estimate


def kept_positions(design: Design) -> np.ndarray:
    """(p,) positions of the kept columns among ``design.all_names``."""
    place = {name: i for i, name in enumerate(design.all_names)}
    return np.array([place[name] for name in design.names], dtype=int)


def spread(design: Design, values: np.ndarray, fill: float = np.nan) -> np.ndarray:
    """Values of the p kept columns laid out over all columns of the formula; ``fill`` for the dropped ones."""
    if not design.dropped:
        return np.array(values, dtype=float)
    out = np.full(len(design.all_names), fill)
    out[kept_positions(design)] = values
    return out


def fixed_effects(design: Design, estimate: Estimate) -> pd.Series:
    """Coefficients by name, NaN where the column was dropped."""
    return pd.Series(spread(design, estimate.beta), index=list(design.all_names), name="estimate")


def covariance_frame(design: Design, cov: np.ndarray) -> pd.DataFrame:
    """The covariance (p, p) of the kept coefficients, named."""
    names = list(design.names)
    return pd.DataFrame(cov.copy(), index=names, columns=names)


def deviations(cov: np.ndarray) -> np.ndarray:
    """(..., p) roots of the variances of covariances (..., p, p); NaN where one is none, as at a fit without an optimum."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(np.diagonal(cov, axis1=-2, axis2=-1)))


def limit_table(values: np.ndarray, index: list[str] | pd.Index) -> pd.DataFrame:
    """``lower, upper`` of named parameters."""
    return pd.DataFrame(values, index=index, columns=["lower", "upper"])


def standard_errors(design: Design, cov: np.ndarray) -> pd.Series:
    """Square roots of the covariance's diagonal, NaN where the column was dropped."""
    return pd.Series(
        spread(design, deviations(cov)), index=list(design.all_names), name="std_error"
    )


def statistics(design: Design, estimate: Estimate, cov: np.ndarray) -> pd.Series:
    """Estimate over standard error."""
    values = fixed_effects(design, estimate) / standard_errors(design, cov)
    return values.rename("statistic")


def normal_p_values(statistic: pd.Series) -> pd.Series:
    """Two-sided p-values of the standard normal, 2 Phi(-|z|)."""
    return pd.Series(
        2.0 * ndtr(-np.abs(statistic.to_numpy())), index=statistic.index, name="p_value"
    )


def coefficient_table(
    design: Design, estimate: Estimate, cov: np.ndarray, ddf: Ddf | None
) -> pd.DataFrame:
    """``estimate, std_error, statistic``, one row per coefficient; of a generalized model also ``p_value``, normal.

    With degrees of freedom ``estimate, std_error, df, statistic, p_value``.
    """
    if ddf is not None and ddf.method is not None:
        se, df = ddf.t(np.eye(len(cov)))
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = estimate.beta / se
        columns = {
            "estimate": estimate.beta,
            "std_error": se,
            "df": df,
            "statistic": statistic,
            "p_value": t_p_values(statistic, df),
        }
        return pd.DataFrame(
            {name: spread(design, values) for name, values in columns.items()},
            index=list(design.all_names),
        )
    parts = [
        fixed_effects(design, estimate),
        standard_errors(design, cov),
        statistics(design, estimate, cov),
    ]
    if estimate.distribution.plain_tests == "normal":
        parts.append(normal_p_values(parts[-1]))
    return pd.concat(parts, axis=1)
