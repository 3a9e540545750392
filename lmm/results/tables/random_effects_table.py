"""Conditional modes of the random effects with their names, and coefficients per level."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.model.records import Estimate


def conditional_modes(design: Design, estimate: Estimate) -> dict[str, pd.DataFrame]:
    """Group -> DataFrame (J levels x k columns), E(b | y) at the estimates, on the response's scale."""
    return {
        term.group: pd.DataFrame(
            np.array(modes),
            index=pd.Index(term.levels, name=term.group),
            columns=list(term.columns),
        )
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
        out[term.group] = pd.DataFrame(
            values, index=pd.Index(term.levels, name=term.group), columns=names
        )
    return out
