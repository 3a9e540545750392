"""The columns that a model uses of rows that are somewhere else, read into memory: for models that are not sums over chunks.

A linear model whose residuals have a structure needs the rows of a subject together, wherever in the data they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmm.design.build_design import without_dot
from lmm.errors import ArgumentError, CapacityError
from lmm.formula import Formula, Given, Table
from lmm.formula.columns.engine import FUNCTIONS, MOST_MEMORY
from lmm.formula.text.names import as_expression, refuse_unknown, resolve
from lmm.stream.conform import empty_table
from lmm.stream.reducers import Reducer, Reduction
from lmm.stream.sources import Stream

if TYPE_CHECKING:
    import pyarrow as pa


def whole_rows(reducer: Reducer, formula: Formula, given: Given) -> pa.Table:
    """The columns that the formula, weights, offset and subset use, all rows.

    Raises
    ------
    ArgumentError : rows on a cluster; names that are none.
    CapacityError : more than fits in memory.
    """
    import pyarrow as pa

    if not isinstance(reducer, Stream):
        raise ArgumentError(
            f"residual= and dispformula= need the rows in memory, and the {reducer.text} is elsewhere: collect what the model uses first."
        )
    columns = _used(reducer, formula, given)
    rows = reducer.n_rows
    if rows is not None and 8 * rows * len(columns) > MOST_MEMORY:
        raise CapacityError(
            f"residual= and dispformula= need the rows in memory: {len(columns)} columns of {rows:,} rows of {reducer.text} take "
            f"{8 * rows * len(columns) / 2**30:.0f} GiB. Take a sample of the subjects."
        )
    tables = reducer.map_reduce(Reduction(columns, list, _append, _joined, "rows"))
    if not tables:
        return empty_table({name: reducer.schema[name] for name in columns})
    return pa.concat_tables(tables).unify_dictionaries()


def _used(reducer: Reducer, formula: Formula, given: Given) -> tuple[str, ...]:
    """Names of the columns; all where ``subset`` is a function of them."""
    empty = Table(empty_table(dict(reducer.schema)))
    if callable(given.subset):
        return tuple(empty.columns)
    formula = without_dot(formula, empty)
    arguments = {}
    for name in ("weights", "offset", "subset"):
        text = as_expression(getattr(given, name), empty, name)
        if isinstance(text, str):
            arguments[text] = name
    found = resolve([*formula.expressions, *arguments], empty.columns, -1, given.context, FUNCTIONS)
    refuse_unknown(found, empty, arguments, formula.text)
    return tuple(found.columns)


def _append(tables: list[pa.Table], table: pa.Table) -> list[pa.Table]:
    return [*tables, table]


def _joined(first: list[pa.Table], second: list[pa.Table]) -> list[pa.Table]:
    return [*first, *second]
