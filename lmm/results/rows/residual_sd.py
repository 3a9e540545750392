"""Residual standard deviations of rows, ``predict(type="disp")``: of the fit's, or of new ones, with normal limits on the logarithm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.design.dispersion_part import DispersionPart
from lmm.errors import ArgumentError, PredictionError
from lmm.formula import Table
from lmm.inference.intervals.coverage import normal_quantile
from lmm.model.records import Estimate
from lmm.results.rows.row_values import align

if TYPE_CHECKING:
    from lmm.results.uncertainty import Uncertainty


def residual_sd(
    known: Uncertainty, newdata: object, se_fit: bool, interval: str | None, level: float
) -> pd.Series | pd.DataFrame:
    """Standard deviations (m,) of the residuals of rows whose weight is one; with ``se_fit`` or ``interval`` ``fit, se, lower, upper``.

    Raises
    ------
    ArgumentError : errors where no dispersion formula tells the standard deviations, and intervals of new observations.
    PredictionError : columns that are missing in new data, places and levels that the fit never saw.
    """
    design, estimate = known.design, known.estimate
    if interval == "prediction":
        raise ArgumentError("predict: type='disp' has interval='confidence'; no row is observed.")
    table = None if newdata is None else Table(newdata, "newdata")
    columns = {"fit": _of_fit(design, estimate) if table is None else _of_new(known, table)}
    if se_fit or interval is not None:
        error = _log_errors(known, table)
        columns["se"] = columns["fit"] * error
        if interval is not None:
            margin = normal_quantile(level) * error
            columns["lower"] = columns["fit"] * np.exp(-margin)
            columns["upper"] = columns["fit"] * np.exp(margin)
    values = np.column_stack(list(columns.values()))
    if table is None:
        values, index = align(design, values)
    else:
        index = table.index
    if len(columns) == 1:
        return pd.Series(values[:, 0], index=index, name="fit")
    return pd.DataFrame(values, index=index, columns=list(columns))


def _of_fit(design: Design, estimate: Estimate) -> np.ndarray:
    parts = list(zip(design.residual, estimate.residual, strict=True))
    if not parts:
        return np.full(design.n, float(estimate.sigma))
    variance = np.sum([part.variances(T) for part, T in parts], axis=0)
    return np.asarray(float(estimate.sigma) * np.sqrt(variance))


def _of_new(known: Uncertainty, table: Table) -> np.ndarray:
    design, estimate = known.design, known.estimate
    sigma = float(estimate.sigma)
    rows = design.residual[0].new_rows(design.frame, table) if design.residual else None
    if rows is None:
        return np.full(table.n, sigma)
    parts = zip(design.residual, estimate.residual, strict=True)
    variance = np.sum([rows.variances(part, T) for part, T in parts], axis=0)
    return np.where(rows.complete, sigma * np.sqrt(variance), np.nan)


def _log_errors(known: Uncertainty, table: Table | None) -> np.ndarray:
    """Standard errors of the logarithms."""
    part = known.design.residual[0] if known.design.residual else None
    if not isinstance(part, DispersionPart):
        raise ArgumentError(
            "predict: standard errors of type='disp' are those of a model with dispformula=; fit.varcorr_se() and confint() have others."
        )
    X = part.structure.X[part.places]
    if table is not None:
        X = part.scales(known.design.frame, table).X
    cov = known.dispersion_cov()
    if not np.isfinite(cov).all():
        raise PredictionError("predict: the coefficients of dispformula= have no covariance.")
    return np.sqrt(np.einsum("ij,jk,ik->i", X, cov, X, optimize=True))
