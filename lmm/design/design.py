"""The records between a table and a problem: what the rows mean, once they are numbers.

Shapes: n rows kept, p fixed columns kept, term t has k_t columns per level and J_t levels.
A grouping factor appears once: ``(1|g) + (0+x|g)`` is one term whose covariance structure
has two blocks. Terms are sorted by decreasing number of levels (stable), as in lme4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmm.covariance import Diagonal
from lmm.design.all_rows import RowsInChunks, RowsInMemory
from lmm.design.linear_response import linear_response
from lmm.design.predictor import Predictor
from lmm.design.residual_part import ResidualPart
from lmm.design.terms import RandomTerm
from lmm.errors import DataError
from lmm.formula import Formula, ModelFrame
from lmm.formula.columns.given import aligned, as_array, numeric

#: what has a covariance structure
Varying = RandomTerm | ResidualPart


@dataclass(frozen=True, eq=False)
class RowSource:
    """Rows that were read in chunks and let go: where they are, and what is known of them.

    Attributes
    ----------
    n, asked : rows used, and rows of the data after ``subset``.
    recipe : how a chunk becomes numbers (:class:`lmm.stream.recipe.Recipe`).
    columns : places of the p kept columns among the formula's.
    moments : (1 + c, 1 + c) sums of products of a constant and all columns of the recipe.
    response : (6,) what tells whether two fits have the same rows: sums and extremes of y - offset and of the weights.
    offset_mean : mean of the offset.
    covariates : mean and distinct values of each numeric variable of the fixed part.
    grams : per grouping factor the mean of z z' (k, k); filled in when the terms are known.
    origin : the data, to be read again (:class:`lmm.stream.linear_rows.Origin`); None where it did not travel.
    """

    n: int
    asked: int
    recipe: Any
    columns: np.ndarray
    moments: np.ndarray
    response: np.ndarray
    offset_mean: float
    covariates: dict[str, tuple[float, tuple[float, ...]]]
    grams: dict[str, np.ndarray] = field(default_factory=dict)
    origin: Any = None


@dataclass(frozen=True, eq=False)
class Call:
    """The call that made a fit, ``run(formula, data, context, **arguments)``, so that it can be repeated with something changed.

    Attributes
    ----------
    run : what carries it out.
    arguments : as they were given: weights, offset, subset, na_action, contrasts, start, method, control, and REML, or family and nAGQ.
    """

    run: Callable[..., Any]
    arguments: dict[str, Any]

    def changed(self, **arguments: object) -> Call:
        """The same call with some arguments changed."""
        return replace(self, arguments={**self.arguments, **arguments})


@dataclass(frozen=True, eq=False)
class Design:
    """A model's matrices with the names that belong to them.

    ``X``, ``names``, ``terms`` and what else a predictor has are those of the mean.

    Attributes
    ----------
    formula : the parsed formula.
    frame : what is needed to build the same columns from new data.
    y : (n,) response, offset not subtracted.
    predictors : the linear predictors, that of the mean first.
    weights : (n,) positive prior weights, or None for ones.
    index : the user's index of the kept rows.
    kept : (N,) bool, which of the user's N rows were kept.
    full_index : the user's index of all N rows (after ``subset``), for ``na_action="exclude"``.
    na_action : "omit", "exclude" or "fail".
    response : name of the response as written.
    messages : warnings raised on the way here, as text.
    subset : (M,) bool, the rows of the user's table that ``subset=`` chose; None for all.
    family : the family of a generalized model, with what it learnt from the response.
    call : the call that made it.
    plan : how the random terms are eliminated (:class:`lmm.linalg.plan.Plan`; prints itself); None before a fit.
    source : the rows that were read in chunks; None for rows in memory.
    residual : the parts of structured residuals; none for independent ones of one variance.
    """

    formula: Formula
    frame: ModelFrame
    y: np.ndarray
    predictors: tuple[Predictor, ...]
    weights: np.ndarray | None
    index: pd.Index
    kept: np.ndarray
    full_index: pd.Index
    na_action: str
    response: str
    messages: tuple[str, ...] = ()
    subset: np.ndarray | None = None
    family: object = None
    call: Call | None = None
    plan: Any = None
    source: RowSource | None = None
    residual: tuple[ResidualPart, ...] = ()

    @property
    def mean(self) -> Predictor:
        """The linear predictor of the mean."""
        return self.predictors[0]

    @property
    def X(self) -> np.ndarray:
        """(n, p) fixed columns kept, on the user's scale."""
        return self.mean.X

    @property
    def R(self) -> np.ndarray | None:
        """(p, p) upper triangular, R'R = X'WX; None where it was not computed."""
        return self.mean.R

    @property
    def names(self) -> tuple[str, ...]:
        """The p names of the fixed columns kept."""
        return self.mean.names

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the dependent columns that were dropped."""
        return self.mean.dropped

    @property
    def all_names(self) -> tuple[str, ...]:
        """Kept and dropped names in the formula's order."""
        return self.mean.all_names

    @property
    def terms(self) -> tuple[RandomTerm, ...]:
        """The random terms, most levels first."""
        return self.mean.terms

    @property
    def units(self) -> tuple[RandomTerm, ...]:
        """What can be left out level by level: the random terms, and the subjects of correlated residuals where they are not among them."""
        part = self.residual[0] if self.residual else None
        if part is None or not part.subject or part.subject in [t.group for t in self.terms]:
            return self.terms
        ones = np.broadcast_to(1.0, (self.n, 1))
        own = RandomTerm(part.codes, ones, part.subject, ("Intercept",), part.subjects, Diagonal(1))
        return (*self.terms, own)

    @property
    def covarying(self) -> tuple[Varying, ...]:
        """What is reported as a covariance matrix: all of :attr:`varying` but a dispersion model, which comes last."""
        return (*self.terms, *(part for part in self.residual if not part.diagonal))

    @property
    def varying(self) -> tuple[Varying, ...]:
        """What has a covariance structure, in the order of theta: the random terms, then the parts of the residuals."""
        return (*self.terms, *self.residual)

    @property
    def offset(self) -> np.ndarray | None:
        """(n,) known part of the linear predictor, or None for zeros."""
        return self.mean.offset

    def with_mean(self, **changes: Any) -> Design:
        """The design with some fields of the mean's predictor changed."""
        return replace(self, predictors=(replace(self.mean, **changes), *self.predictors[1:]))

    def component(self, name: str) -> Design:
        """The design of one linear predictor, ``"cond"`` for that of the mean; of one that is not there this design."""
        for predictor in self.predictors[1:]:
            if predictor.name == name and predictor.frame is not None:
                own = predictor.frame
                return replace(self, predictors=(predictor,), formula=own.formula, frame=own)
        return replace(self, predictors=self.predictors[:1])

    @property
    def n(self) -> int:
        """Rows kept."""
        return self.rows.n

    @property
    def streamed(self) -> bool:
        """Whether the rows were read in chunks and let go: the fields that have one entry per row cannot be used."""
        return self.source is not None

    @property
    def chunks(self) -> RowSource:
        """What is known of rows that were read in chunks."""
        assert self.source is not None
        return self.source

    @property
    def rows(self) -> RowsInMemory:
        """What can be asked of the rows as a whole, wherever they are."""
        return RowsInMemory(self) if self.source is None else RowsInChunks(self, self.source)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the call that made it; none where it was not made by one."""
        return {} if self.call is None else dict(self.call.arguments)

    @property
    def rows_used(self) -> np.ndarray:
        """(N,) bool, the rows of the user's table that are kept, whether ``subset`` or a missing value leaves out the others."""
        if self.subset is None:
            return np.asarray(self.kept)
        used = np.array(self.subset)
        used[used] = self.kept
        return used

    @property
    def p(self) -> int:
        """Fixed columns kept."""
        return len(self.names)

    @property
    def n_dropped(self) -> int:
        """Rows left out because a value is missing (``subset`` not counted)."""
        return self.rows.asked - self.n

    @property
    def Z(self) -> sp.csr_array:
        """Random-effects matrix (n, q), sparse; columns term by term, within a term level by level."""
        if not self.terms:
            return sp.csr_array((self.n, 0))
        return sp.csr_array(sp.hstack([term.Z for term in self.terms], format="csr"))

    def with_response(self, y: object) -> Design:
        """The same design with another response.

        Parameters
        ----------
        y : (n,) one value per row used, or (N,) per row of the data; complete in the rows used.

        Raises
        ------
        DataError : wrong length; ResponseError : not numeric, missing or constant.
        """
        return replace(self, y=linear_response(self.aligned(y), self.response))

    def aligned(self, y: Any, what: str = "the new response") -> Any:
        """The rows used of ``y``, (n, ...): by label of a pandas object, else by position; DataError for a wrong length or labels.

        See :meth:`with_response`.
        """
        values = numeric(y, what) if isinstance(y, np.ma.MaskedArray) else y
        if not isinstance(y, pd.Series | pd.DataFrame):
            values = as_array(values, what)
        places = [(self.n, self.index, None), (len(self.kept), self.full_index, self.kept)]
        if self.subset is not None:
            places.append((len(self.subset), self.frame.table.index, self.rows_used))
        for rows, index, chosen in places:
            if values.shape[:1] == (rows,):
                found = aligned(values, index, what)
                return found if chosen is None else found[chosen]
        wanted = f"{self.n} values (rows used) or {len(self.kept)} (rows of the data)"
        raise DataError(f"{what} has shape {values.shape}; it must have {wanted}.")
