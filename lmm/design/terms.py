"""The random terms of a design: what a grouping factor's effects are, and how the rows meet them.

A term has J levels with k effects each, b_j ~ N(0, sigma^2 G), G = T T' of its covariance structure; row i of Z has the k
values z_i in the columns of its level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmm.covariance import Covariance
from lmm.errors import ArgumentError
from lmm.formula.columns.incidence import Incidence
from lmm.formula.columns.levels import strings

if TYPE_CHECKING:
    from lmm.known.relation import Relation

__all__ = ["Incidence", "RandomTerm", "product"]


class _Labels:
    """A field that takes any Index and gives strings; a million labels are written out only when read."""

    def __get__(self, term: RandomTerm | None, owner: type | None = None) -> pd.Index:
        if term is None:
            raise AttributeError("levels has no default")
        labels = term.__dict__.get("_labels")
        if labels is None:
            labels = term.__dict__["_labels"] = strings(term.__dict__["_levels"])
        return labels

    def __set__(self, term: RandomTerm, levels: pd.Index) -> None:
        term.__dict__["_levels"] = levels


@dataclass(frozen=True, eq=False)
class RandomTerm(Incidence):
    """The random effects of one grouping factor.

    Attributes
    ----------
    codes : (n,) int32, level of each row, 0..J-1; (n, s) where rows belong to several levels.
    values : (n, k) float64, Fortran order; a broadcast view of ones for an intercept alone.
    group : name as lme4 prints it, ``"Subject"`` or ``"cask:batch"``.
    columns : the k column names, formulaic's spelling (``"Intercept"``, ``"Days"``).
    levels : the J level labels, strings, in the order of the codes.
    structure : covariance of one level's k effects relative to the residual variance.
    relation : how the levels are related where that is known; they are independent otherwise.
    shares : (n, s) weight of each level that a row belongs to, where these are several; None where there is one.
    """

    group: str
    columns: tuple[str, ...]
    levels: pd.Index
    structure: Covariance
    relation: Relation | None = None

    @classmethod
    def of_columns(
        cls,
        group: str,
        Z: np.ndarray | sp.csr_array,
        columns: tuple[str, ...],
        structure: Covariance,
    ) -> RandomTerm:
        """The term whose q effects every row may meet, of any Z (n, q): one level with q columns, b ~ N(0, sigma^2 G).

        Members of several groups, known covariances (Z L with K = L L'), smooths and low rank are such terms.
        """
        values = np.asfortranarray(Z if isinstance(Z, np.ndarray) else Z.toarray(), dtype=float)
        codes = np.broadcast_to(np.int32(0), len(values))
        return cls(codes, values, group, columns, pd.Index(["all"]), structure)

    @property
    def k(self) -> int:
        """Columns per level."""
        return len(self.columns)

    @property
    def J(self) -> int:
        """Levels that occur in the kept rows, and those related to them."""
        return len(self.__dict__["_levels"])

    @property
    def exchangeable(self) -> bool:
        """Whether its levels are several sets of rows, which may be drawn again or left out: not where they are related."""
        return self.J > 1 and self.relation is None and not self.several

    def colour(self, z: np.ndarray) -> np.ndarray:
        """Effects (..., J, k) with the covariance of the levels, of z (..., J, k) that are independent between levels."""
        if self.relation is None:
            return z
        return np.swapaxes(self.relation.draw(np.swapaxes(z, -1, -2)), -1, -2)

    def row_variances(self, T: np.ndarray) -> np.ndarray:
        """(n,) the variance of each row's effect at a relative factor T, K_jj z'G z."""
        own = self.variances(T)
        return own if self.relation is None else own * self.relation.variances[self.codes]

    @property
    def Z(self) -> sp.csr_array:
        """The term's random-effects matrix (n, J k), level by level."""
        n = self.m
        starts = np.arange(0, n * self.k + 1, self.k)
        total = sp.csr_array((n, self.k * self.J))
        for part in self.parts():
            columns = (part.codes.astype(np.int64)[:, None] * self.k + np.arange(self.k)).ravel()
            values = np.ascontiguousarray(part.values).ravel()
            own = sp.csr_array((values, columns, starts), shape=total.shape)
            total = total + own if self.several else own
        return total

    def transposed(self, weights: np.ndarray | None) -> sp.csr_array:
        """Z'W (k J, n), column after column and level after level within a column."""
        total = sp.csr_array((self.k * self.J, self.m))
        for part in self.parts():
            rows = (part.codes.astype(np.intp)[:, None] + np.arange(self.k) * self.J).ravel()
            values = part.values if weights is None else part.values * weights[:, None]
            own = sp.csr_array(
                (values.ravel(), (rows, np.repeat(np.arange(self.m), self.k))), shape=total.shape
            )
            total = total + own if self.several else own
        return total

    def by_level(self, values: np.ndarray) -> sp.csr_array:
        """(J, n): the values (n,) of the rows, each in the line of its level, of which it has one."""
        return sp.csr_array(
            (values, (self.codes.astype(np.intp), np.arange(self.m))), shape=(self.J, self.m)
        )

    def gram(self, weights: np.ndarray | None) -> np.ndarray:
        """The mean of z z' over the rows, weights and shares included, (k, k)."""
        values = self.lengths
        weighted = values if weights is None else values * weights[:, None]
        return np.asarray(weighted.T @ values) / self.m

    def require_own_rows(self, what: str) -> None:
        """ArgumentError where rows belong to several levels and ``what`` takes a level's rows for its own."""
        if self.several:
            raise ArgumentError(
                f"{what} needs levels whose rows are their own; rows belong to several levels of {self.group}."
            )

    def counts(self, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """How many rows, of all or of some, each level has, (J,)."""
        codes = self.codes[which]
        if self.shares is not None:
            codes = codes[self.shares[which] != 0.0]
        return np.bincount(codes, minlength=self.J)

    def sorted_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers level by level, and where each level begins and the last one ends, (J + 1,)."""
        starts = np.concatenate([[0], np.cumsum(self.counts())])
        if self.shares is None:
            return np.argsort(self.codes, kind="stable"), starts
        rows, member = np.nonzero(self.shares)
        return rows[np.argsort(self.codes[rows, member], kind="stable")], starts

    def rows_of_levels(self) -> list[np.ndarray]:
        """The row numbers of each level, in their order."""
        order, starts = self.sorted_rows()
        return np.split(order, starts[1:-1])

    def within(self, other: RandomTerm) -> bool:
        """Whether every level lies in one level of another term."""
        if self.several or other.several:
            return False
        owner = np.zeros(self.J, dtype=other.codes.dtype)
        owner[self.codes] = other.codes
        return bool(np.array_equal(owner[self.codes], other.codes))

    def of_rows(self, which: np.ndarray, codes: np.ndarray | None = None) -> RandomTerm:
        """The term of some rows, repeated ones among them, with other ``codes`` where given; levels without a row are dropped."""
        part = self.rows(which)
        if self.relation is not None:
            return replace(self, codes=part.codes, values=part.values)
        _, compact = np.unique(part.codes if codes is None else codes, return_inverse=True)
        return replace(
            self,
            codes=compact.reshape(part.codes.shape).astype(np.int32),
            values=part.values,
            levels=pd.RangeIndex(int(compact.max()) + 1),
            shares=part.shares,
        )


RandomTerm.levels = _Labels()  # type: ignore[assignment]


def product(*factors: np.ndarray | None) -> np.ndarray | None:
    """Elementwise product of columns, None standing for ones."""
    out: np.ndarray | None = None
    for factor in factors:
        out = factor if out is None else out if factor is None else out * factor
    return out
