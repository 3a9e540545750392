"""Row-wise quantities on the user's index: fitted values, residuals, and padding of dropped rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.errors import ArgumentError, nearest
from lmm.model.marginal.residual_errors import residual_stacks, row_variances, whiten
from lmm.model.records import Estimate


def fitted(design: Design, estimate: Estimate, eta: np.ndarray) -> np.ndarray:
    """(n,) fitted values: means, or of an ordinal model the probabilities of the categories observed."""
    return estimate.distribution.fitted(design.y, eta, estimate.phi)


def residuals(
    design: Design, estimate: Estimate, eta: np.ndarray, type: str | None, scaled: bool
) -> np.ndarray:
    """(n,) residuals at the linear predictor ``eta``; None for the usual type, "response" (linear) or "deviance" (generalized).

    Of a linear model ``response`` and ``working`` are y - eta; ``pearson`` and ``deviance`` are sqrt(w) (y - eta),
    which have the variance sigma^2 in every row. ``scaled`` divides by sigma where that is a residual standard deviation.
    """
    family = estimate.distribution
    type = family.default_residual if type is None else type
    if type == "normalized" and family.linear:
        return normalized(design, estimate, eta)
    types = family.residual_types
    if type not in types:
        options = ", ".join(map(repr, types))
        raise ArgumentError(
            f"residuals: type={type!r} is not one of {options}{family.residual_note}.{nearest(type, types)}"
        )
    weights = 1.0 / row_variances(design, estimate) if design.residual else design.weights
    out = family.residuals(design.y, eta, weights, estimate.phi, type)
    if design.residual and type in ("pearson", "deviance"):
        return out / float(estimate.sigma)
    return out / (estimate.residual_sd or 1.0) if scaled else out


def normalized(design: Design, estimate: Estimate, eta: np.ndarray) -> np.ndarray:
    """(n,) L^-1 (y - eta) with L L' the covariance of the residuals: independent, of variance one, if the model holds."""
    raw = design.y - eta
    root = 1.0 if design.weights is None else np.sqrt(design.weights)
    if not design.residual:
        return np.asarray(raw * root / float(estimate.sigma))
    stacks = residual_stacks(design.residual, design.n)
    parts = zip(design.residual, estimate.residual, strict=True)
    turned = whiten(stacks, [part.square(T) for part, T in parts], (raw * root)[:, None])
    return np.asarray(turned[:, 0] / float(estimate.sigma))


def align(design: Design, values: np.ndarray) -> tuple[np.ndarray, pd.Index]:
    """Values of the kept rows and the index that belongs to them; all rows, NaN in the gaps, under ``na_action="exclude"``."""
    if design.na_action != "exclude" or len(design.full_index) == len(values):
        return values, design.index
    padded = np.full((len(design.full_index), *values.shape[1:]), np.nan)
    padded[np.asarray(design.kept)] = values
    return padded, design.full_index


def as_series(design: Design, values: np.ndarray, name: str) -> pd.Series:
    """A new Series on the user's index."""
    aligned, index = align(design, values)
    return pd.Series(aligned, index=index, name=name, copy=True)
