"""Conditional modes of the random effects with their names, and coefficients per level."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.design.records import Design
from lmm.model.records import Estimate


def conditional_modes(design: Design, estimate: Estimate) -> dict[str, pd.DataFrame]:
    """Group -> DataFrame (J levels x k columns), E(b | y) at the estimates, on the response's scale."""
    return {
        term.group: pd.DataFrame(np.array(modes), index=pd.Index(term.levels, name=term.group), columns=list(term.columns))
        for term, modes in zip(design.terms, estimate.modes, strict=True)
    }


def level_coefficients(design: Design, estimate: Estimate) -> dict[str, pd.DataFrame]:
    """Group -> DataFrame (J levels x coefficients): fixed effect plus conditional mode, column by column.

    A column with a random effect alone counts from zero; a fixed effect without a random part is
    the same in every row.
    """
    fixed = dict(zip(design.names, estimate.beta, strict=True))
    out = {}
    for term, modes in zip(design.terms, estimate.modes, strict=True):
        names = [*design.names, *(c for c in term.columns if c not in fixed)]
        values = np.tile([fixed.get(name, 0.0) for name in names], (term.J, 1))
        for j, column in enumerate(term.columns):
            values[:, names.index(column)] += modes[:, j]
        out[term.group] = pd.DataFrame(values, index=pd.Index(term.levels, name=term.group), columns=names)
    return out


def random_part(values: np.ndarray, codes: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """(..., m) z'b of m rows with codes into the levels of modes (..., J, k); code -1 is a level without an effect.

    Column by column, so that ten million rows need no (m, k) copy of the modes.
    """
    known = codes >= 0
    everything = bool(known.all())
    rows = codes if everything else np.where(known, codes, 0)
    total = np.zeros((*modes.shape[:-2], len(codes)))
    for j in range(modes.shape[-1]):
        total += values[:, j] * modes[..., j].take(rows, axis=-1)
    return total if everything else np.where(known, total, 0.0)
