"""A formula that has been read once -> the same columns from any chunk of rows.

All that depends on more rows than one chunk holds (levels of categorical predictors, means, knots) is in the recipe, so
that chunks can be worked on anywhere and in any order. Columns that are plain numbers are used as they lie in the chunk;
everything else is replayed by the formula's own evaluator.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.covariance import Covariance
from lmm.design.level_checks import check_weights
from lmm.design.linear_response import numeric_response
from lmm.errors import ArgumentError, DataError
from lmm.families import Family
from lmm.formula import Formula, ModelFrame, Table, TermRecipe
from lmm.formula.columns.complete import RowCounts, complete
from lmm.formula.columns.engine import Columns, Evaluator
from lmm.formula.columns.given import not_finite
from lmm.formula.columns.kinds import conform as conform_column
from lmm.formula.columns.levels import UnseenLevels, strings
from lmm.formula.columns.subset import condition_mask
from lmm.formula.evaluate import (
    as_evaluated,
    as_predictor,
    check_finite,
    expression,
    number,
    offsets,
)
from lmm.formula.text.names import alias, readable
from lmm.formula.text.tokens import unquote
from lmm.stream.conform import conform

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class TermColumns:
    """One random term before its levels are known.

    Attributes
    ----------
    recipe : what it is made of, with the levels of the rows that were read first.
    structure : covariance of one level's effects.
    pool : where in a block each of its k columns is.
    types : Arrow type of each factor.
    """

    recipe: TermRecipe
    structure: Covariance
    pool: tuple[int, ...]
    types: tuple[pa.DataType, ...]


@dataclass(frozen=True, eq=False)
class Chunk:
    """The rows of one chunk that are complete and asked for.

    Attributes
    ----------
    n : rows used; ``counts`` the rows of the chunk, and those lost.
    y : (n,) response, offset not subtracted.
    columns : the recipe's columns, each (n,) float64, None for a column of ones.
    labels : per term and factor an Arrow array of the groups' values.
    weights, offset : (n,) or None.
    rows : (seen,) bool, which rows of the chunk are used; None for all.
    covariates : numeric columns of the data that the fixed part uses, (n,) each.
    """

    n: int
    counts: RowCounts
    y: np.ndarray
    columns: tuple[np.ndarray | None, ...]
    labels: tuple[tuple[pa.Array, ...], ...]
    weights: np.ndarray | None
    offset: np.ndarray | None
    rows: np.ndarray | None = None
    covariates: dict[str, np.ndarray] = field(default_factory=dict)

    def X(self, positions: tuple[int, ...]) -> np.ndarray:
        """Columns side by side, (n, len(positions)), Fortran order."""
        out = np.empty((self.n, len(positions)), order="F")
        for j, place in enumerate(positions):
            column = self.columns[place]
            out[:, j] = 1.0 if column is None else column
        return out


@dataclass(frozen=True, eq=False)
class Recipe:
    """Everything that makes the same columns from any chunk; picklable where the caller's functions are.

    Attributes
    ----------
    formula : the formula, ``.`` written out.
    schema : Arrow type by name, of the columns that are used: ``needed``.
    frame : replay of the formula, with the levels and states of all rows.
    pool : names of the distinct columns of the fixed part and the random terms; ``fixed`` the places of the fixed ones.
    plain : per column of the pool the numeric columns of the data whose product it is (none: ones), or None where it must be evaluated.
    terms : the random terms as written.
    weights, offset, subset : expressions, or None.
    pilot : (p_all,) coefficients of a least-squares fit of the first rows, dropped ones zero.
    centre : (pool,) what is subtracted from the fixed columns before they are squared; zeros without an intercept.
    covariates : numeric columns of the data that the fixed part uses.
    evaluated : columns that expressions use, plain numbers and groups aside; ``coded`` those of text that are predictors as they are.
    """

    formula: Formula
    schema: dict[str, pa.DataType]
    needed: tuple[str, ...]
    frame: ModelFrame
    pool: tuple[str, ...]
    fixed: tuple[int, ...]
    plain: tuple[tuple[str, ...] | None, ...]
    terms: tuple[TermColumns, ...]
    evaluated: tuple[str, ...] = ()
    coded: frozenset[str] = frozenset()
    weights: str | None = None
    offset: str | None = None
    subset: str | None = None
    na_action: str = "omit"
    pilot: np.ndarray = field(default_factory=lambda: np.zeros(0))
    centre: np.ndarray = field(default_factory=lambda: np.zeros(0))
    family: Family | None = None
    context: Mapping[str, object] = field(default_factory=dict)
    covariates: tuple[str, ...] = ()

    @property
    def response(self) -> str:
        """The response as written."""
        return self.formula.response

    def block(self, table: pa.Table, response: bool = True) -> Chunk:
        """The rows of a chunk, evaluated.

        Parameters
        ----------
        table : ``pyarrow.Table`` or ``RecordBatch`` with the columns ``needed``, in any order and among others.
        response : whether the response (and weights) are evaluated.

        Raises
        ------
        DataError, ResponseError, ArgumentError : naming the column, and its type where that differs.
        """
        try:
            return self._block(conform(table, self.needed, self.schema), response)
        except UnseenLevels as unseen:
            raise DataError(
                f"{readable(unseen.factor, self.frame.awkward)} has levels that the rows read before it do not have: {unseen.shown}. The "
                "rows of this data can be read once only; make the column a dictionary with all of its levels, or give a file or a "
                "Dataset instead."
            ) from None

    def _block(self, table: pa.Table, response: bool) -> Chunk:
        rows, kept, counts = usable_rows(table, self.subset, self.context)
        counts.refuse_lost(self.na_action)
        reader = _ChunkReader(self, rows)
        columns = reader.columns()
        y, weights = reader.response() if response else (np.zeros(0), None)
        offset = reader.offset()
        labels = tuple(
            tuple(reader.labels(factor) for factor in term.recipe.factors) for term in self.terms
        )
        covariates = {name: reader.number(name) for name in self.covariates} if response else {}
        return Chunk(reader.n, counts, y, columns, labels, weights, offset, kept, covariates)

    def offset_texts(self) -> tuple[str, ...]:
        """All expressions whose sum is the offset."""
        return (*self.formula.offsets, *((self.offset,) if self.offset else ()))


class _ChunkReader:
    """The parts of a recipe on one chunk of complete rows."""

    def __init__(self, recipe: Recipe, table: pa.Table):
        self.recipe, self.table, self.n = recipe, table, table.num_rows
        self._evaluator: Evaluator | None = None

    @property
    def evaluator(self) -> Evaluator:
        """The formula's own evaluator, made when something is not a plain number."""
        if self._evaluator is None:
            recipe = self.recipe
            frame = recipe.frame
            rows = predictors(self.table, recipe.evaluated, recipe.coded)
            for name in rows:
                if name in frame.kinds and name not in recipe.coded:
                    rows[name] = conform_column(rows[name], frame.kinds[name], name)
            rows.rename({name: alias(name) for name in frame.awkward})
            self._evaluator = Evaluator(
                rows, recipe.context, frame.contrasts, frame.state, frame.awkward
            )
        return self._evaluator

    def number(self, name: str) -> np.ndarray:
        """A numeric column, (n,) float64."""
        values = self.table.column(name)
        values = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
        return (
            np.asarray(values.to_numpy(zero_copy_only=False), dtype=float)
            if self.n
            else np.zeros(0)
        )

    def value(self, text: str) -> object:
        """An expression: a plain numeric column without pandas, else as the evaluator gives it."""
        name = unquote(text)
        if name in self.recipe.schema and is_number(self.recipe.schema[name]):
            return self.number(name)
        return expression(self.evaluator, text, self.recipe.frame.awkward)

    def response(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The response (n,), and the prior weights, those of trials among them."""
        family, name = self.recipe.family, self.recipe.response
        y, trials = np.zeros(0), None
        if self.n:
            values = self.value(name)
            if family is None:
                y = numeric_response(values, name)
            else:
                y, trials = family.read(values, name)
        weights = self.weights()
        if self.n:
            check_weights(weights)
        if trials is None:
            return y, weights
        return y, trials if weights is None else trials * weights

    def columns(self) -> tuple[np.ndarray | None, ...]:
        """The pool."""
        recipe, frame = self.recipe, self.recipe.frame
        out: list[np.ndarray | None] = []
        waiting: dict[str, int] = {}
        numbers: dict[str, np.ndarray] = {}
        for name, sources in zip(recipe.pool, recipe.plain, strict=True):
            if sources is None:
                waiting[name] = len(out)
            column = None
            for source in sources or ():
                if source not in numbers:
                    numbers[source] = self.number(source)
                column = numbers[source] if column is None else column * numbers[source]
            if column is not None:
                fault = not_finite(column)
                if fault is not None:
                    raise DataError(f"the term {name} is {fault}.")
            out.append(column)
        if not self.n:
            for place in waiting.values():
                out[place] = np.zeros(0)
        elif waiting:
            specs = {text: spec for text, spec in frame.specs.items() if spec is not None}
            for part in self.evaluator.matrices(specs, replay=True).values():
                check_finite(part, frame.awkward)
                for j, name in enumerate(part.names):
                    found = waiting.pop(readable(name, frame.awkward), None)
                    if found is not None:
                        out[found] = part.values[:, j]
        return tuple(out)

    def labels(self, factor: str) -> pa.Array:
        """The values of one grouping factor as an Arrow array."""
        awkward = self.recipe.frame.awkward
        text = group_text(as_evaluated(factor, awkward))
        name = column_of(text, self.recipe.schema, awkward)
        return (
            self.table.column(name)
            if name
            else labels_of(self.evaluator.expression(text), factor, self.n)
        )

    def weights(self) -> np.ndarray | None:
        """Prior weights, (n,)."""
        given = self.recipe.weights
        return None if given is None else number(self.value(given), "weights", self.n)

    def offset(self) -> np.ndarray | None:
        """The sum of all offsets, (n,)."""
        recipe = self.recipe
        texts = recipe.offset_texts()
        if not texts:
            return None
        if all(text in recipe.schema and is_number(recipe.schema[text]) for text in texts):
            total = np.zeros(self.n)
            for text in texts:
                total += number(self.number(text), f"offset({text})", self.n)
            return total
        return offsets(recipe.formula, self.evaluator, recipe.frame.awkward, self.n, recipe.offset)


def predictors(table: pa.Table, names: Iterable[str], coded: Collection[str]) -> Columns:
    """Columns of a chunk as expressions see them; dictionaries, and text that is ``coded``, as categories without a string for each row."""
    import pyarrow as pa

    source, out = Table(table), {}
    for name in names:
        column = table.column(name)
        if name in coded and not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        if pa.types.is_dictionary(column.type) and column.num_chunks:
            array = column.unify_dictionaries().combine_chunks()
            values = pd.Categorical.from_codes(
                array.indices.to_numpy(zero_copy_only=False),
                categories=array.dictionary.to_pylist(),
            )
            out[name] = as_predictor(pd.Series(values, name=name))
        else:
            out[name] = as_predictor(source.column(name))
    return Columns(out, table.num_rows)


def group_text(text: str) -> str:
    """A grouping factor, as it is evaluated, without calls of ``factor()`` around it that leave its values as they are."""
    tree = ast.parse(text, mode="eval").body
    while isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.args:
        others = [
            keyword.arg for keyword in tree.keywords if keyword.arg != "ordered"
        ] or tree.args[1:]
        if tree.func.id != "relevel" and (
            tree.func.id not in ("factor", "as_factor", "ordered") or others
        ):
            break
        tree = tree.args[0]
    return ast.unparse(tree)


def column_of(text: str, schema: Mapping[str, pa.DataType], awkward: Collection[str]) -> str | None:
    """The column that an expression is, as it is evaluated."""
    return next(
        (name for name in schema if text == (alias(name) if name in awkward else name)), None
    )


def labels_of(value: object, factor: str, n: int) -> pa.Array:
    """The values of a grouping factor that is computed, as an Arrow array; a categorical with its levels in their order."""
    import pyarrow as pa

    value = getattr(value, "__wrapped__", value)
    series = value if isinstance(value, pd.Series) else pd.Series(value)
    if len(series) != n:
        raise DataError(f"grouping factor {factor!r} has {len(series)} values for {n} rows.")
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes = series.cat.codes.to_numpy()
        levels = pa.array(strings(series.cat.categories).to_numpy(dtype=object), pa.string())
        out = pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32), mask=codes < 0), levels
        )
    else:
        out = pa.array(series, from_pandas=True)
    if out.null_count:
        raise DataError(
            f"grouping factor {factor!r} has no value in {out.null_count} rows, although its columns are complete."
        )
    return out


def is_number(type: pa.DataType) -> bool:
    """Whether an Arrow type is a plain number: integer or float, no boolean, no decimal."""
    import pyarrow as pa

    return bool(pa.types.is_integer(type) or pa.types.is_floating(type))


def usable_rows(
    table: pa.Table, subset: str | None, context: Mapping[str, object]
) -> tuple[pa.Table, np.ndarray | None, RowCounts]:
    """The rows of a chunk that a fit uses, their mask (None for all), and how many are lost."""
    import pyarrow as pa

    chosen = None if subset is None else condition_mask(subset, Table(table), context)
    masks = ((name, missing(table.column(name))) for name in table.column_names)
    kept, counts = complete(masks, table.num_rows, chosen)
    return (table if kept is None else table.filter(pa.array(kept))), kept, counts


def missing(column: pa.ChunkedArray) -> np.ndarray | None:
    """Mask of null and NaN, or None when there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        if not column.null_count:
            with np.errstate(over="ignore", invalid="ignore"):
                if all(
                    np.isfinite(np.add.reduce(chunk.to_numpy(zero_copy_only=False)))
                    for chunk in column.chunks
                ):
                    return None
        mask = pc.is_null(column, nan_is_null=True)
    elif column.null_count:
        mask = pc.is_null(column)
    else:
        return None
    out = np.asarray(mask.to_numpy(), dtype=bool)
    return out if out.any() else None


def check_array(name: str, value: object) -> None:
    """ArgumentError for an argument that is an array or a function: the rows are not here to match it."""
    if value is not None and not isinstance(value, str):
        raise ArgumentError(
            f"{name} must be the name of a column or an expression of columns, as text, where the data is read in chunks, "
            f"not {type(value).__name__}. Write it into the data as a column."
        )
