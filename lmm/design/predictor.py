"""One linear predictor of a model: its columns, their names, its offset and random terms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmm.design.terms import RandomTerm
from lmm.formula import ModelFrame


@dataclass(frozen=True, eq=False)
class Predictor:
    """One linear predictor, offset + X beta + Z b.

    Attributes
    ----------
    name : what it predicts, ``"mean"``.
    X : (n, p) fixed columns kept, on the user's scale.
    names : p names of the columns kept.
    dropped : names of the dependent columns that were dropped.
    all_names : kept and dropped names in the formula's order.
    terms : random terms, most levels first.
    offset : (n,) known part, or None for zeros.
    R : (p, p) upper triangular, R'R = X'WX; None where it was not computed.
    frame : what builds the same columns from new data, of a predictor beside that of the mean.
    """

    name: str
    X: np.ndarray
    names: tuple[str, ...]
    dropped: tuple[str, ...]
    all_names: tuple[str, ...]
    terms: tuple[RandomTerm, ...]
    offset: np.ndarray | None = None
    R: np.ndarray | None = None
    frame: ModelFrame | None = None
