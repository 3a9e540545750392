"""How rows meet the levels of a random term: the products with Z = [z_i' in the columns of its levels], which is never formed.

Row i has a level, ``codes[i]``, and k values z_i; a level j has k effects b_j. The product Z b has the entries z_i'b_j, j the
level of row i. A row whose code is -1 meets a level without known effects.

A row may meet several levels, each with a share w_is: Z b has the entries z_i' sum_s w_is b_j(s), and Z is the sum of s matrices
of rows that meet one level each (:meth:`Incidence.parts`). No level is met twice by a row with shares other than zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Incidence:
    """The level and the values of each of m rows.

    Attributes
    ----------
    codes : (m,) int32, level of each row, 0..J-1; negative where it is not known. (m, s) where rows meet several levels.
    values : (m, k) float64.
    shares : (m, s) float64, the weight of each level that a row meets; None where it meets one.
    """

    codes: np.ndarray
    values: np.ndarray
    shares: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def m(self) -> int:
        """Rows."""
        return len(self.codes)

    @property
    def several(self) -> bool:
        """Whether rows meet several levels, so that Z'WZ has entries between levels."""
        return self.shares is not None

    @property
    def new(self) -> np.ndarray:
        """(m,) bool, rows with a level that is not known."""
        new = np.asarray(self.codes < 0)
        return new if self.shares is None else (new & (self.shares != 0.0)).any(axis=1)

    @property
    def lengths(self) -> np.ndarray:
        """(m, k) values whose effect, of one level, has the variance of a row's: z_i sqrt(sum_s w_is^2)."""
        if self.shares is None:
            return self.values
        return np.asarray(self.values * np.linalg.norm(self.shares, axis=1)[:, None])

    def parts(self) -> tuple[Incidence, ...]:
        """Rows that meet one level each, whose matrices add up to Z."""
        if self.shares is None:
            return (self,)
        each = zip(self.codes.T, self.shares.T, strict=True)
        return tuple(
            Incidence(np.ascontiguousarray(codes), np.asfortranarray(self.values * share[:, None]))
            for codes, share in each
        )

    def value_columns(self) -> list[np.ndarray | None]:
        """The k columns of values, None for a column of ones, which costs no multiplication."""
        if self.values.strides[0] == 0 and np.all(self.values[:1] == 1.0):
            return [None] * self.values.shape[1]
        columns = [np.ascontiguousarray(column) for column in self.values.T]
        return [None if np.all(z[:64] == 1.0) and np.all(z == 1.0) else z for z in columns]

    def times(self, b: np.ndarray) -> np.ndarray:
        """Z b, (..., m) for effects b (..., J, k); zero where a level is not known.

        Column by column, so that ten million rows need no (m, k) copy of the effects.
        """
        total = np.zeros((*b.shape[:-2], self.m))
        for part in self.parts():
            new = part.new
            some = bool(new.any())
            rows = np.where(new, 0, part.codes) if some else part.codes
            own = np.zeros_like(total) if some else total
            for j in range(b.shape[-1]):
                own += part.values[:, j] * b[..., j].take(rows, axis=-1)
            if some:
                total += np.where(new, 0.0, own)
        return total

    def variances(self, T: np.ndarray) -> np.ndarray:
        """z_i'T T'z_i, (m,): the variance of a row's effect where a level's effects have the covariance T T'."""
        half = self.lengths @ T
        return np.asarray(np.sum(half * half, axis=1))

    def rows(self, which: np.ndarray | slice) -> Incidence:
        """Some of the rows; a view of a single row of values stays one."""
        codes = self.codes[which]
        shares = None if self.shares is None else self.shares[which]
        if self.values.strides[0] or not self.m:
            return Incidence(codes, self.values[which], shares=shares)
        values = np.broadcast_to(self.values[:1], (len(codes), self.values.shape[1]))
        return Incidence(codes, values, shares=shares)

    def only(self, columns: np.ndarray) -> Incidence:
        """The same with values of zero in the columns that do not count; ``columns`` (k,) bool."""
        if columns.all():
            return self
        return Incidence(self.codes, self.values * columns, shares=self.shares)

    def known(self) -> Incidence:
        """The same with shares, or values, of zero, at the first level, where the level is not known."""
        return self._where(self.codes >= 0)

    def unknown(self) -> Incidence:
        """The same with shares, or values, of zero where the level is known."""
        return self._where(self.codes < 0)

    def unmet(self) -> Incidence:
        """The same rows and shares at levels that are not known."""
        codes: np.ndarray = np.full(self.codes.shape, -1, dtype=np.int32)
        if self.shares is not None:
            codes = codes - np.arange(self.shares.shape[1], dtype=np.int32)
        return Incidence(codes, self.values, shares=self.shares)

    def _where(self, here: np.ndarray) -> Incidence:
        if here.all():
            return self
        codes = np.maximum(self.codes, 0)
        if self.shares is None:
            return Incidence(codes, np.where(here[:, None], self.values, 0.0))
        return Incidence(codes, self.values, shares=np.where(here, self.shares, 0.0))

    def dense(self, J: int) -> np.ndarray:
        """The rows of Z, (m, k, J)."""
        z = np.zeros((self.m, self.values.shape[1], J))
        for part in self.parts():
            z[np.arange(self.m), :, part.codes] += part.values
        return z
