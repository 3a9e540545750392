"""What is asked of the rows of a fit as a whole, whether they are in memory or were read in chunks and let go.

Rows that were let go have left sums behind, of products of a constant and all columns, and the answers come from these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmm.design.rank import independent_columns
from lmm.errors import ArgumentError, PredictionError
from lmm.formula.columns.table import taken

if TYPE_CHECKING:
    from lmm.design.design import Design, RowSource
    from lmm.design.terms import RandomTerm
    from lmm.families import Family


@dataclass(frozen=True, eq=False)
class RowsInMemory:
    """The rows of a design that has them in memory."""

    design: Design

    @property
    def n(self) -> int:
        """Rows used."""
        return len(self.design.y)

    @property
    def asked(self) -> int:
        """Rows of the data after ``subset``, incomplete ones among them."""
        return len(self.design.kept)

    @property
    def offset_mean(self) -> float:
        """Mean of the offset of a design that has one."""
        return float(np.mean(np.asarray(self.design.offset)))

    def triangle(self, constant: bool) -> np.ndarray:
        """R with R'R = X'X, no weights in it; with a ``constant`` that is no column of X before the others."""
        X = self.design.X
        return independent_columns(np.column_stack([np.ones(len(X)), X]) if constant else X)[1]

    def fixed_variance(self, beta: np.ndarray) -> float:
        """Variance of X beta over the rows."""
        return float(np.var(self.design.X @ beta, ddof=1))

    def random_variances(self, factors: Sequence[np.ndarray], scale2: float) -> list[float]:
        """Mean of z' S z over the rows per term, S = scale2 T T'."""
        return [
            float(scale2 * np.mean(term.row_variances(T)))
            for term, T in zip(self.design.terms, factors, strict=True)
        ]

    def gram(self, term: RandomTerm, family: Family) -> np.ndarray:
        """The mean of z z' over the rows (k, k), of a linear model weights included, relative to the square of the predictor's size."""
        weights = self.design.weights
        return (
            term.gram(family.design_weights(weights))
            / family.eta_scale(self.design.y, weights) ** 2
        )

    def add_up_to_one(self, term: RandomTerm, columns: Sequence[int]) -> bool:
        """Whether some columns of a random term add up to one in every row."""
        return bool(np.allclose(np.asarray(term.values)[:, columns].sum(axis=1), 1.0))

    def dependencies(self) -> np.ndarray:
        """Null space of the whole fixed matrix: e_j - sum_i c_i e_i for every dropped column x_j = sum_i c_i x_i, (p_all, d).

        (p_all + 1, d) of a family whose constant is no column, that constant last.
        """
        design = self.design
        names = design.all_names
        kept = [names.index(name) for name in design.names]
        try:
            X = design.frame.new_X(design.frame.table)
        except PredictionError as error:
            raise ArgumentError(
                f"estimable functions need the columns that were dropped, which cannot be built again: {error}"
            ) from error
        whole = X[design.rows_used]
        lost = np.setdiff1d(np.arange(len(names)), kept)
        constant = not getattr(design.family, "has_intercept", True)
        own = np.column_stack([design.X, np.ones((design.n, int(constant)))])
        scale = np.linalg.norm(own, axis=0)
        solved = np.linalg.lstsq(own / scale, whole[:, lost], rcond=None)[0] / scale[:, None]
        N = np.zeros((len(names) + int(constant), len(lost)))
        solved[np.abs(solved) * scale[:, None] < 1e-9 * np.linalg.norm(whole[:, lost], axis=0)] = (
            0.0
        )
        N[[*kept, *([len(names)] if constant else [])]] = -solved
        N[lost, np.arange(len(lost))] = 1.0
        return N

    @property
    def y_less_offset(self) -> np.ndarray:
        """(n,) the response less the offset."""
        design = self.design
        return design.y if design.offset is None else design.y - design.offset

    def fixed_part(self, beta: np.ndarray) -> np.ndarray:
        """(n,) X beta plus the offset."""
        eta = self.design.X @ beta
        return eta if self.design.offset is None else eta + self.design.offset

    def predictor(self, beta: np.ndarray, modes: Sequence[np.ndarray]) -> np.ndarray:
        """(n,) X beta + Z b plus the offset, read-only, without forming Z; b (J, k) per term."""
        eta = self.fixed_part(beta)
        for term, b in zip(self.design.terms, modes, strict=True):
            eta = eta + term.times(b)
        eta.setflags(write=False)
        return eta

    def observed(self, name: str) -> tuple[pd.Series, tuple[float, Any] | None]:
        """Values of one of the user's columns; of a number whose rows are not here also its mean and distinct values."""
        return self.used(self.design.frame.table.column(name)), None

    def used(self, column: pd.Series) -> pd.Series:
        """The rows used of one of the table's columns; numbered anew."""
        rows = column[self.design.rows_used].reset_index(drop=True)
        return pd.Series(taken(rows, None), name=rows.name)

    def again(self) -> object:
        """The data, to be fitted again."""
        return self.design.frame.data

    @property
    def chosen(self) -> dict[str, np.ndarray]:
        """The argument by which a call on the same data has no other rows."""
        return {"subset": self.design.rows_used}

    @property
    def reducers(self) -> tuple[Any, ...]:
        """What reads the data in chunks."""
        return ()

    def require_chunks(self, message: str) -> None:
        """ArgumentError with this message for rows in memory."""
        raise ArgumentError(message)

    def same_response(self, other: RowsInMemory) -> bool:
        """Whether the responses are equal up to rounding."""
        return other.design.source is None and _close(self.design.y, other.design.y)

    def same_given(self, a: np.ndarray | None, b: np.ndarray | None, default: float) -> bool:
        """Whether two arrays of a number per row are equal up to rounding, None standing for a constant."""
        whole = np.full(self.n, default)
        return _close(whole if a is None else a, whole if b is None else b)

    def rank_with(self, other: RowsInMemory) -> int:
        """Dimension of the space that the fixed effects of both span."""
        return len(independent_columns(np.column_stack([self.design.X, other.design.X]))[0])

    def spans(self, wide: RandomTerm, term: RandomTerm) -> bool:
        """Whether the columns of a term lie in the space of those of a ``wide`` one."""
        rank = len(independent_columns(np.array(wide.values))[0])
        return len(independent_columns(np.column_stack([wide.values, term.values]))[0]) == rank

    def same(self, other: RowsInMemory) -> bool:
        """Whether response, weights and offset of another design's rows are equal to these."""
        a, b = self.design, other.design
        pairs = ((a.y, b.y), (a.weights, b.weights), (a.offset, b.offset))
        return b.source is None and all(
            x is y or not (x is None or y is None) and np.array_equal(x, y) for x, y in pairs
        )


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-10, atol=0.0))


@dataclass(frozen=True, eq=False)
class RowsInChunks(RowsInMemory):
    """Rows that were read in chunks and let go; ``source`` holds their sums."""

    source: RowSource

    @property
    def n(self) -> int:
        return self.source.n

    @property
    def asked(self) -> int:
        return self.source.asked

    @property
    def offset_mean(self) -> float:
        return self.source.offset_mean

    def _places(self) -> tuple[list[int], list[int]]:
        """Places of the kept and of the dropped fixed columns in the matrix of moments, whose first column is one."""
        fixed = self.source.recipe.fixed
        kept = {int(j) for j in self.source.columns}
        return [1 + fixed[j] for j in sorted(kept)], [
            1 + c for j, c in enumerate(fixed) if j not in kept
        ]

    def triangle(self, constant: bool) -> np.ndarray:
        if self.design.weights is None:
            return np.asarray(self.design.R)
        own = self._places()[0]
        gram = self.source.moments[np.ix_(own, own)]
        scale = np.sqrt(np.diagonal(gram))
        return np.linalg.cholesky(gram / np.outer(scale, scale)).T * scale

    def fixed_variance(self, beta: np.ndarray) -> float:
        own, moments = self._places()[0], self.source.moments
        mean = moments[0, own] / self.n
        spread = moments[np.ix_(own, own)] - self.n * np.outer(mean, mean)
        return max(float(beta @ spread @ beta), 0.0) / (self.n - 1)

    def _pool(self, term: RandomTerm) -> list[int]:
        """Places of a random term's columns in the matrix of moments."""
        pool = next(own.pool for own in self.source.recipe.terms if own.recipe.group == term.group)
        return [1 + place for place in pool]

    def random_variances(self, factors: Sequence[np.ndarray], scale2: float) -> list[float]:
        out = []
        for term, T in zip(self.design.terms, factors, strict=True):
            own = self._pool(term)
            gram = self.source.moments[np.ix_(own, own)] / self.n
            out.append(float(scale2 * np.trace(T.T @ gram @ T)))
        return out

    def gram(self, term: RandomTerm, family: Family) -> np.ndarray:
        return np.asarray(self.source.grams[term.group])

    def add_up_to_one(self, term: RandomTerm, columns: Sequence[int]) -> bool:
        """The sum of squares of what is left of one is zero."""
        pool, difference = self._pool(term), np.zeros(len(self.source.moments))
        difference[0] = -1.0
        for j in columns:
            difference[pool[j]] += 1.0
        return bool(difference @ self.source.moments @ difference <= 1e-12 * self.n)

    def predictor(self, beta: np.ndarray, modes: Sequence[np.ndarray]) -> np.ndarray:
        """What stands where the rows would be."""
        return self.design.y

    def observed(self, name: str) -> tuple[pd.Series, tuple[float, Any] | None]:
        """Those of the first rows, and of one with each level."""
        return self.source.recipe.frame.table.column(name), self.source.covariates.get(name)

    def again(self) -> object:
        return self.source.origin.again()

    @property
    def chosen(self) -> dict[str, np.ndarray]:
        return {}

    @property
    def reducers(self) -> tuple[Any, ...]:
        origin = self.source.origin
        return () if origin is None or origin.reducer is None else (origin.reducer,)

    def require_chunks(self, message: str) -> None:
        return None

    def same_response(self, other: RowsInMemory) -> bool:
        """Their sums and extremes are."""
        return isinstance(other, RowsInChunks) and _close(
            self.source.response, other.source.response
        )

    def same_given(self, a: np.ndarray | None, b: np.ndarray | None, default: float) -> bool:
        """What is known of them is compared."""
        return (a is None) == (b is None)

    def rank_with(self, other: RowsInMemory) -> int:
        """Columns count by their names."""
        return len({*self.design.names, *other.design.names})

    def spans(self, wide: RandomTerm, term: RandomTerm) -> bool:
        return set(term.columns) <= set(wide.columns)

    def same(self, other: RowsInMemory) -> bool:
        """Their sums are equal."""
        return isinstance(other, RowsInChunks) and np.array_equal(
            self.source.moments, other.source.moments
        )

    def dependencies(self) -> np.ndarray:
        own, lost = self._places()
        moments = self.source.moments
        scale = np.sqrt(np.diagonal(moments)[own])
        gram = moments[np.ix_(own, own)] / np.outer(scale, scale)
        solved = np.linalg.solve(gram, moments[np.ix_(own, lost)] / scale[:, None]) / scale[:, None]
        solved[np.abs(solved) * scale[:, None] < 1e-9 * np.sqrt(np.diagonal(moments)[lost])] = 0.0
        kept = np.sort(self.source.columns)
        N = np.zeros((len(self.design.all_names), len(lost)))
        N[kept] = -solved
        N[np.setdiff1d(np.arange(len(N)), kept), np.arange(len(lost))] = 1.0
        return N
