"""Row-wise quantities on the user's index: fitted values, residuals, and padding of dropped rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.design.records import Design
from lmm.errors import ArgumentError, nearest
from lmm.model.records import Estimate
from lmm.results import generalized, ordinal
from lmm.results.randomeffects import random_part

RESIDUAL_TYPES = ("response", "pearson", "deviance", "working")


def fixed_predictor(design: Design, estimate: Estimate) -> np.ndarray:
    """(n,) X beta plus the offset."""
    eta = design.X @ estimate.beta
    return eta if design.offset is None else eta + design.offset


def linear_predictor(design: Design, estimate: Estimate) -> np.ndarray:
    """(n,) X beta + Z b plus the offset, without forming Z."""
    eta = fixed_predictor(design, estimate)
    for term, modes in zip(design.terms, estimate.modes, strict=True):
        eta = eta + random_part(term.values, term.codes, modes)
    return np.asarray(eta)


def residuals(design: Design, estimate: Estimate, eta: np.ndarray, type: str | None, scaled: bool) -> np.ndarray:
    """(n,) residuals at the linear predictor ``eta``; None for the usual type, "response" (linear) or "deviance" (generalized).

    Of a linear model ``response`` and ``working`` are y - eta; ``pearson`` and ``deviance`` are sqrt(w) (y - eta),
    which have the variance sigma^2 in every row. ``scaled`` divides by sigma where that is a residual standard deviation.
    Those of an ordinal model are in :mod:`lmm.results.ordinal`.
    """
    if ordinal.is_ordinal(estimate.family):
        return ordinal.residuals(estimate.family, design, estimate, eta, type)
    if type is None:
        type = "response" if estimate.family is None else "deviance"
    if type not in RESIDUAL_TYPES:
        options = ", ".join(map(repr, RESIDUAL_TYPES))
        raise ArgumentError(f"residuals: type={type!r} is not one of {options}.{nearest(type, RESIDUAL_TYPES)}")
    if estimate.family is not None:
        out = generalized.residuals(design, estimate, eta, type)
    else:
        out = design.y - eta
        if type in ("pearson", "deviance") and design.weights is not None:
            out = out * np.sqrt(design.weights)
    return out / (generalized.residual_sd(estimate) or 1.0) if scaled else out


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
