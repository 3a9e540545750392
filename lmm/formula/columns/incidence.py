"""How rows meet the levels of a random term: the products with Z = [z_i' in the columns of its level], which is never formed.

Row i has a level, ``codes[i]``, and k values z_i; a level j has k effects b_j. The product Z b has the entries z_i'b_j, j the
level of row i. A row whose code is -1 meets a level without known effects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Incidence:
    """The level and the values of each of m rows.

    Attributes
    ----------
    codes : (m,) int32, level of each row, 0..J-1; -1 where it is not known.
    values : (m, k) float64.
    """

    codes: np.ndarray
    values: np.ndarray

    @property
    def m(self) -> int:
        """Rows."""
        return len(self.codes)

    @property
    def new(self) -> np.ndarray:
        """(m,) bool, rows whose level is not known."""
        return np.asarray(self.codes < 0)

    def times(self, b: np.ndarray) -> np.ndarray:
        """Z b, (..., m) for effects b (..., J, k); zero where a level is not known.

        Column by column, so that ten million rows need no (m, k) copy of the effects.
        """
        new = self.new
        some = bool(new.any())
        rows = np.where(new, 0, self.codes) if some else self.codes
        total = np.zeros((*b.shape[:-2], self.m))
        for j in range(b.shape[-1]):
            total += self.values[:, j] * b[..., j].take(rows, axis=-1)
        return np.where(new, 0.0, total) if some else total

    def variances(self, T: np.ndarray) -> np.ndarray:
        """z_i'T T'z_i, (m,): the variance of a row's effect where a level's effects have the covariance T T'."""
        half = self.values @ T
        return np.asarray(np.sum(half * half, axis=1))

    def rows(self, which: np.ndarray | slice) -> Incidence:
        """Some of the rows; a view of a single row of values stays one."""
        codes = self.codes[which]
        if self.values.strides[0] or not self.m:
            return Incidence(codes, self.values[which])
        return Incidence(
            codes, np.broadcast_to(self.values[:1], (len(codes), self.values.shape[1]))
        )

    def only(self, columns: np.ndarray) -> Incidence:
        """The same with values of zero in the columns that do not count; ``columns`` (k,) bool."""
        return self if columns.all() else Incidence(self.codes, self.values * columns)

    def known(self) -> Incidence:
        """The same with values of zero, at the first level, where the level is not known."""
        new = self.new
        return (
            Incidence(np.where(new, 0, self.codes), np.where(new[:, None], 0.0, self.values))
            if new.any()
            else self
        )

    def dense(self, J: int) -> np.ndarray:
        """The rows of Z, (m, k, J)."""
        z = np.zeros((self.m, self.values.shape[1], J))
        z[np.arange(self.m), :, self.codes] = self.values
        return z
