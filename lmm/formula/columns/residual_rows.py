"""The rows of a residual structure: which subject each belongs to, and what tells the rows of a subject apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import DataError
from lmm.formula.columns.given import numeric
from lmm.formula.columns.levels import Levels, encode, join
from lmm.formula.text.grouping import label
from lmm.formula.text.residual_formula import ResidualFormula


@dataclass(frozen=True, eq=False)
class ResidualRows:
    """What a residual structure sees of n rows.

    Attributes
    ----------
    subject : the subject of each row; each row its own where no two are correlated.
    places : which column of the covariance a row has, the levels in their declared order, those without rows among them.
    strata : the stratum of each row; one where there are none.
    coordinates : (k, d) numbers of the places, where they are numbers.
    """

    subject: Levels
    places: Levels
    strata: Levels
    coordinates: np.ndarray | None = None


def residual_rows(
    residual: ResidualFormula, value: Callable[[str], Any], n: int, numbers: bool
) -> ResidualRows:
    """Evaluate a residual structure.

    Parameters
    ----------
    value : gives the value of an expression.
    numbers : whether rows are told apart by numbers, such as times.

    Raises
    ------
    DataError : numbers that are text or not finite.
    """
    one = Levels(np.zeros(n, dtype=np.int32), pd.Index(["1"]))
    subject = one
    if not residual.subject:
        subject = Levels(np.arange(n, dtype=np.int32), pd.RangeIndex(n))
    elif residual.subject != ("1",):
        subject = _joined([encode(value(f), label((f,))) for f in residual.subject])
    strata = one
    if residual.strata:
        strata = _joined([encode(value(f), label((f,))) for f in residual.strata])
    if not numbers:
        places = [declared(value(f), label((f,))) for f in residual.columns]
        return ResidualRows(subject, _joined(places), strata)
    columns = []
    for text in residual.columns:
        column = np.asarray(numeric(value(text), label((text,)), DataError), dtype=float)
        if column.shape != (n,) or not np.isfinite(column).all():
            raise DataError(
                f"residual={residual.text}: {label((text,))} must be finite numbers, one per row."
            )
        columns.append(column)
    points, codes = np.unique(np.column_stack(columns), axis=0, return_inverse=True)
    names = pd.Index([", ".join(f"{x:g}" for x in point) for point in points])
    return ResidualRows(subject, Levels(codes.ravel().astype(np.int32), names), strata, points)


def declared(values: Any, name: str) -> Levels:
    """Levels in their declared order, those of a categorical that do not occur among them."""
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        own = pd.Series(values).cat
        return Levels(own.codes.to_numpy().astype(np.int32), own.categories)
    return encode(values, name)


def _joined(parts: Sequence[Levels]) -> Levels:
    return parts[0] if len(parts) == 1 else join(list(parts))
