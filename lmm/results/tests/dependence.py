"""What a rank-deficient fixed part determines: functions orthogonal to every dependency among its columns.

Columns that depend on others were dropped, their coefficients standing at zero. l'beta has a meaning of its own only if it is the same
whichever columns are dropped: if l is orthogonal to the null space of the whole matrix. Rows like those of the data are; rows
in which a dropped column does not depend on the others as it did there are not, and cannot be predicted.

Searle (1971), Linear Models, chapter 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from lmm.design.design import Design
from lmm.design.rank import TOLERANCE
from lmm.errors import RankWarning, warn


@dataclass(frozen=True, eq=False)
class Dependencies:
    """How the d dropped columns depend on the others: x_j = sum_i c_i x_i + c.

    Attributes
    ----------
    columns : (p_all, d), e_j - sum_i c_i e_i: the null space of the whole fixed matrix.
    constant : (d,) -c, of an ordinal model, whose thresholds are a constant that is no column; else zero.
    """

    columns: np.ndarray
    constant: np.ndarray

    def estimable(self, L: np.ndarray, constant: np.ndarray | float = 1.0) -> np.ndarray:
        """(r,) whether the data determine each L beta + constant * c, L (r, p_all): whether it is orthogonal to all dependencies.

        ``constant`` (r,) is one for a row's predictor, zero for a difference of two.
        """
        known = np.isfinite(L).all(axis=1)
        if not self.columns.shape[1]:
            return known
        with np.errstate(invalid="ignore"):
            c = np.broadcast_to(constant, len(L))[:, None] * self.constant
            size = np.abs(L) @ np.abs(self.columns) + np.abs(c)
            return known & (np.abs(L @ self.columns + c) <= 10.0 * TOLERANCE * size).all(axis=1)


_dependencies: WeakKeyDictionary[Design, Dependencies] = WeakKeyDictionary()


def dependencies(design: Design) -> Dependencies:
    """The dependencies among the columns of a design, found once."""
    if design not in _dependencies:
        size = len(design.all_names)
        N = design.rows.dependencies() if design.dropped else np.zeros((size, 0))
        _dependencies[design] = Dependencies(N[:size], N[size:].sum(axis=0))
    return _dependencies[design]


def predictable(design: Design, X: np.ndarray, what: str) -> np.ndarray:
    """(m,) whether the data determine the predictors of rows X (m, p_all) of all columns; a :class:`lmm.RankWarning` tells of others.

    ``what`` is doing this, for the warning. Rows with a missing value count as determined: they are told of elsewhere.
    """
    if not design.dropped:
        return np.ones(len(X), dtype=bool)
    complete = np.isfinite(X).all(axis=1)
    lost = complete & ~dependencies(design).estimable(X)
    if lost.any():
        names = ", ".join(design.dropped[:4]) + (", ..." if len(design.dropped) > 4 else "")
        warn(
            f"{what}: {int(lost.sum())} of {len(X)} rows cannot be predicted and are NaN: in the data {names} depended on other columns, "
            "and in these rows it does not, so that the fit says nothing of them.",
            RankWarning,
        )
    return ~lost
