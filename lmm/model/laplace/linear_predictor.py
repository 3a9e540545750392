"""The linear predictor of rows, eta = X beta + Z b + offset, without forming Z."""

from __future__ import annotations

import numpy as np

from lmm.design.design import Design
from lmm.model.records import Estimate


def fixed_predictor(design: Design, estimate: Estimate) -> np.ndarray:
    """(n,) X beta plus the offset."""
    eta = design.X @ estimate.beta
    return eta if design.offset is None else eta + design.offset


def linear_predictor(design: Design, estimate: Estimate) -> np.ndarray:
    """(n,) X beta + Z b plus the offset, without forming Z."""
    eta = fixed_predictor(design, estimate)
    for term, modes in zip(design.terms, estimate.modes, strict=True):
        eta = eta + term.times(modes)
    return np.asarray(eta)
