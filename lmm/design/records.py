"""The records between a table and a problem: what the rows mean, once they are numbers.

Shapes: n rows kept, p fixed columns kept, term t has k_t columns per level and J_t levels.
A grouping factor appears once: ``(1|g) + (0+x|g)`` is one term whose covariance structure
has two blocks. Terms are sorted by decreasing number of levels (stable), as in lme4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmm.covariance import Covariance

if TYPE_CHECKING:
    from lmm.formula import Formula, ModelFrame


@dataclass(frozen=True, eq=False)
class RandomTerm:
    """The random effects of one grouping factor.

    Attributes
    ----------
    group : name as lme4 prints it, ``"Subject"`` or ``"cask:batch"``.
    columns : the k column names, formulaic's spelling (``"Intercept"``, ``"Days"``).
    levels : the J level labels, strings, in the order of the codes.
    codes : (n,) int32, level of each row, 0..J-1.
    values : (n, k) float64, Fortran order; a broadcast view of ones for an intercept alone.
    structure : covariance of one level's k effects relative to the residual variance.
    """

    group: str
    columns: tuple[str, ...]
    levels: pd.Index
    codes: np.ndarray
    values: np.ndarray
    structure: Covariance

    @property
    def k(self) -> int:
        """Columns per level."""
        return len(self.columns)

    @property
    def J(self) -> int:
        """Levels that occur in the kept rows."""
        return len(self.levels)


@dataclass(frozen=True, eq=False)
class Design:
    """A model's matrices with the names that belong to them.

    Attributes
    ----------
    formula : the parsed formula.
    frame : what is needed to build the same columns from new data.
    y : (n,) response, offset not subtracted.
    X : (n, p) fixed columns kept, on the user's scale.
    names : p names of the columns kept.
    dropped : names of the dependent columns that were dropped.
    all_names : kept and dropped names in the formula's order.
    terms : random terms, most levels first.
    weights : (n,) positive prior weights, or None for ones.
    offset : (n,) known part of the linear predictor, or None for zeros.
    index : the user's index of the kept rows.
    kept : (N,) bool, which of the user's N rows were kept.
    full_index : the user's index of all N rows (after ``subset``), for ``na_action="exclude"``.
    na_action : "omit", "exclude" or "fail".
    response : name of the response as written.
    messages : warnings raised on the way here, as text.
    """

    formula: Formula
    frame: ModelFrame
    y: np.ndarray
    X: np.ndarray
    names: tuple[str, ...]
    dropped: tuple[str, ...]
    all_names: tuple[str, ...]
    terms: tuple[RandomTerm, ...]
    weights: np.ndarray | None
    offset: np.ndarray | None
    index: pd.Index
    kept: np.ndarray
    full_index: pd.Index
    na_action: str
    response: str
    messages: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Rows kept."""
        return len(self.y)

    @property
    def p(self) -> int:
        """Fixed columns kept."""
        return self.X.shape[1]
