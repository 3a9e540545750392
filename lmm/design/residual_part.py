"""The residuals of a design as terms: e = sum over strata of Z_s b_s, b_s ~ N(0, sigma^2 S_s) per subject, Z_s the places of the rows.

A residual structure is a random term whose levels are the subjects and whose columns are indicators of the visits, each row
having one; strata have a term each, and a nugget is one more whose levels are the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmm.covariance import STRUCTURES, Covariance
from lmm.covariance.diagonal import Diagonal
from lmm.errors import FormulaError, GroupingError, PredictionError
from lmm.formula import Evaluated, ModelFrame, Table
from lmm.formula.columns.levels import Levels, join, lookup, strings
from lmm.formula.columns.residual_rows import ResidualRows
from lmm.formula.text.grouping import label
from lmm.formula.text.residual_formula import ResidualFormula

#: what the covariance of the residuals is called in tables
RESIDUAL = "Residual"
#: structures whose variances, one by one or all together, a nugget cannot be told from
FREE_VARIANCE = ("us", "diag", "homdiag", "cs", "homcs", "toep", "homtoep")
#: eigenvalue of the residuals' correlation matrix under which it is nearly singular
SINGULAR = 1e-4


class NewErrors(Protocol):
    """What is known of the residuals of m new rows."""

    @property
    def complete(self) -> np.ndarray:
        """(m,) bool, where nothing is missing."""

    def variances(self, part: ResidualPart, T: np.ndarray) -> np.ndarray:
        """(m,) the share of a part, whose factor is T, in the variance of each row."""


@dataclass(frozen=True, eq=False)
class ResidualRecipe:
    """How new rows get their place and stratum.

    Attributes
    ----------
    formula : the residual structure.
    places, strata : the levels that the fit knows.
    """

    formula: ResidualFormula
    places: Levels
    strata: Levels

    def of(self, frame: ModelFrame, newdata: object) -> NewPlaces:
        """Places and strata of new rows.

        Raises
        ------
        PredictionError : columns that are missing, and strata that the fit never saw.
        """
        table = newdata if isinstance(newdata, Table) else Table(newdata, "newdata")
        places, known = self._codes(frame, table, self.formula.columns, self.places.values)
        if not self.formula.strata:
            return NewPlaces(places, np.zeros(len(places), dtype=np.int32), known)
        strata, seen = self._codes(frame, table, self.formula.strata, self.strata.values)
        if (strata[seen] < 0).any():
            raise PredictionError(
                f"newdata has levels of {label(self.formula.strata)} that the fit never saw: their residual variance is not known."
            )
        return NewPlaces(places, strata, known & seen)

    @staticmethod
    def _codes(
        frame: ModelFrame, table: Table, texts: tuple[str, ...], levels: pd.Index
    ) -> tuple[np.ndarray, np.ndarray]:
        evaluator, complete = frame.on(table, list(texts))
        parts = [frame.encode(evaluator, text) for text in texts]
        codes = np.full(len(complete), -1, dtype=np.int32)
        codes[complete] = lookup(levels, parts[0] if len(parts) == 1 else join(parts))[0]
        return codes, complete


@dataclass(frozen=True, eq=False)
class NewPlaces:
    """Place and stratum (m,) of rows, a place of -1 for one that the fit never saw; ``complete`` (m,) where nothing is missing."""

    places: np.ndarray
    strata: np.ndarray
    complete: np.ndarray

    def variances(self, part: ResidualPart, T: np.ndarray) -> np.ndarray:
        """(m,) the share of a part, whose covariance is T T', in the variance of each row.

        Raises
        ------
        PredictionError : a place that the fit never saw, where the places have variances of their own.
        """
        variances = np.diagonal(part.square(T))
        if part.recipe is None:
            return np.full(len(self.places), variances[0])
        mine = self.strata == part.stratum if part.stratum is not None else np.True_
        unseen = (self.places < 0) & self.complete & mine
        if unseen.any() and np.ptp(variances) > 1e-9 * variances.max():
            raise PredictionError(
                f"newdata has values of {label(part.recipe.formula.columns)} that the fit never saw: their residual variance is not known."
            )
        return np.where(mine, variances[np.maximum(self.places, 0)], 0.0)


@dataclass(frozen=True, eq=False)
class ResidualPart:
    """The residuals of one stratum, or an independent error on top.

    Attributes
    ----------
    group : its name in tables, ``"Residual"``, ``"Residual TRT"``.
    columns : names of the k places.
    structure : covariance of the residuals of a subject seen at all places.
    codes : (n,) subject of each row.
    places : (n,) which place a row has.
    own : (n,) bool, the rows of the stratum; None for all.
    subjects : labels of the subjects.
    stratum : place of the stratum among all, None where it holds for all rows.
    recipe : how new rows get their place; None for a nugget, which every row has.
    """

    group: str
    columns: tuple[str, ...]
    structure: Covariance
    codes: np.ndarray
    places: np.ndarray
    own: np.ndarray | None
    subjects: pd.Index
    stratum: int | None = None
    recipe: ResidualRecipe | None = None

    #: whether its matrices are diagonal and held as their diagonals
    diagonal: ClassVar[bool] = False

    @property
    def subject(self) -> str:
        """Name of the subjects; empty where no two residuals are correlated."""
        return "" if self.recipe is None else self.recipe.formula.subjects

    @property
    def stratum_name(self) -> str:
        """The level of the strata; empty where there are none."""
        return self.group.removeprefix(RESIDUAL).strip()

    @property
    def k(self) -> int:
        """Places."""
        return len(self.columns)

    def new_rows(self, frame: ModelFrame, newdata: Table) -> NewErrors | None:
        """What is known of new rows; None of a nugget alone. PredictionError : columns that are missing, unknown strata."""
        return None if self.recipe is None else self.recipe.of(frame, newdata)

    def square(self, T: np.ndarray) -> np.ndarray:
        """The covariance of the places, of its factor T (k, k)."""
        return self.structure.of_factor(T)

    def variances(self, T: np.ndarray) -> np.ndarray:
        """(n,) its share in the variance of each row."""
        out = np.sum(np.square(T), axis=1)[self.places]
        return out if self.own is None else np.where(self.own, out, 0.0)

    def draws(self, T: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, n) errors, drawn anew."""
        J, n = int(self.codes.max()) + 1, len(self.codes)
        own = np.arange(n) if self.own is None else np.flatnonzero(self.own)
        out = np.zeros((count, n))
        for line in out:
            b = rng.standard_normal((J, self.k)) @ T.T
            line[own] = b[self.codes[own], self.places[own]]
        return out

    def moments(self, r: np.ndarray) -> np.ndarray:
        """Mean products (k, k) of the residuals r (n,) of a subject at two places; zero where no subject has both."""
        own = slice(None) if self.own is None else self.own
        where = (self.codes[own], self.places[own])
        shape = (int(self.codes.max()) + 1, self.k)
        values = sp.csr_array((r[own], where), shape=shape)
        seen = sp.csr_array((np.ones(len(where[0])), where), shape=shape)
        total, count = (values.T @ values).toarray(), (seen.T @ seen).toarray()
        return np.where(count > 0, total / np.maximum(count, 1.0), 0.0)

    def singular(self, T: np.ndarray) -> str | None:
        """A sentence where the covariance at T is nearly singular."""
        sd = np.sqrt(np.sum(T**2, axis=1))
        if np.linalg.svd(T / sd[:, None], compute_uv=False)[-1] ** 2 >= SINGULAR:
            return None
        return (
            f"The covariance of {self.group} becomes singular, and the likelihood grows without end: the rows are too few for its "
            "parameters. Use a structure with fewer, such as ar1, cs or diag, or fewer fixed effects."
        )

    def of_rows(self, which: np.ndarray) -> ResidualPart:
        """The part in some rows; subjects without a row are dropped."""
        codes = np.unique(self.codes[which], return_inverse=True)
        return replace(
            self,
            codes=codes[1].astype(np.int32),
            places=self.places[which],
            own=None if self.own is None else self.own[which],
            subjects=self.subjects[codes[0]],
        )

    def share(self) -> np.ndarray:
        """(k, k) mean of z z' over the rows: the shares of the places."""
        own = self.places if self.own is None else self.places[self.own]
        return np.diag(np.bincount(own, minlength=self.k) / len(self.places))


def residual_parts(found: Evaluated) -> tuple[ResidualPart, ...]:
    """The parts of a formula's residual structure; none where residuals are independent and of one variance.

    Raises
    ------
    GroupingError : two rows of a subject at one place, a structure over a single place, a place without rows.
    FormulaError : a nugget that cannot be told from the structure.
    """
    formula, rows = found.formula.residual, found.residual
    if formula is None or rows is None:
        return ()
    rows = _seen(formula, rows)
    _check_rows(formula, rows)
    if formula.nugget and formula.structure in FREE_VARIANCE:
        raise FormulaError(
            f"an independent error cannot be told from the variances of {formula.structure}(...): leave '+ nugget' out. It is for "
            "structures such as ar1 or ou, whose correlation falls with the distance.",
            formula.text,
            (formula.text.rindex("+"), len(formula.text)),
        )
    columns = tuple(strings(rows.places.values))
    subjects = strings(rows.subject.values)
    kind = STRUCTURES[formula.structure]
    structure = (
        kind(len(columns))  # type: ignore[call-arg]
        if rows.coordinates is None
        else kind(tuple(map(tuple, rows.coordinates.tolist())))  # type: ignore[call-arg]
    )
    out = []
    recipe = ResidualRecipe(formula, rows.places, rows.strata)
    strata = strings(rows.strata.values)
    for s, name in enumerate(strata):
        own = None if len(strata) == 1 else rows.strata.codes == s
        group = RESIDUAL if own is None else f"{RESIDUAL} {name}"
        out.append(
            ResidualPart(
                group,
                columns,
                structure,
                rows.subject.codes,
                rows.places.codes,
                own,
                subjects,
                None if own is None else s,
                recipe,
            )
        )
    if formula.nugget:
        n = found.n
        each = np.arange(n, dtype=np.int32)
        nothing = np.zeros(n, dtype=np.int32)
        out.append(
            ResidualPart("Nugget", ("Nugget",), Diagonal(1), each, nothing, None, pd.RangeIndex(n))
        )
    return tuple(out)


def _seen(formula: ResidualFormula, rows: ResidualRows) -> ResidualRows:
    """Without the declared places that no row has; ar1 keeps them, as steps between the others.

    Raises
    ------
    GroupingError : a place without rows that would have a parameter of its own.
    """
    used = np.zeros(len(rows.places.values), dtype=bool)
    used[rows.places.codes] = True
    kind = STRUCTURES[formula.structure]
    if used.all() or (kind.ordered and kind.alone):
        return rows
    if kind.ordered:
        lost = strings(rows.places.values[~used])[0]
        raise GroupingError(
            f"residual={formula.text}: {label(formula.columns)} {lost!r} occurs in no row, so that the data do not tell its parameters; "
            "ar1, of one variance and one correlation, keeps its place, and remove_unused_categories() closes the gap."
        )
    rank = np.cumsum(used) - 1
    return replace(
        rows,
        places=Levels(rank[rows.places.codes].astype(np.int32), rows.places.values[used]),
        coordinates=None if rows.coordinates is None else rows.coordinates[used],
    )


def _check_rows(formula: ResidualFormula, rows: ResidualRows) -> None:
    """A place occurs once in a subject, and there are two places at least where rows are correlated."""
    what = label(formula.columns)
    k = len(rows.places.values)
    if not formula.subject:
        return
    if k < 2:
        raise GroupingError(
            f"residual={formula.text}: {what} has one value in the rows used, so that no two residuals of a subject are correlated. "
            "Leave residual= out."
        )
    key = rows.subject.codes.astype(np.int64) * k + rows.places.codes
    order = np.argsort(key, kind="stable")
    twice = np.flatnonzero(np.diff(key[order]) == 0)
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        subject = strings(rows.subject.values)[rows.subject.codes[first]]
        place = strings(rows.places.values)[rows.places.codes[first]]
        raise GroupingError(
            f"residual={formula.text}: rows {first + 1} and {second + 1} of those used are both {what} {place!r} of {formula.subjects} "
            f"{subject!r}, and {len(twice)} pair{'s' if len(twice) > 1 else ''} of rows in all share a subject and a place. Each row of a "
            "subject needs a place of its own."
        )
    if np.bincount(rows.subject.codes).max() < 2:
        raise GroupingError(
            f"residual={formula.text}: every {formula.subjects} has a single row, so that no correlation can be estimated."
        )
