"""A formula and rows somewhere -> the recipe: what the first rows tell, and a pass for what they cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.design.build_design import INTERCEPT, mixed, model_frame, without_dot
from lmm.design.linear_response import check_response, numeric_response
from lmm.design.random_parts import random_terms
from lmm.design.rank import independent_columns, least_squares
from lmm.errors import ArgumentError, DataError, LmmWarning, warn
from lmm.families import Family
from lmm.formula import Evaluated, Formula, Given, Table, evaluate
from lmm.formula.columns.engine import FUNCTIONS, Memories, wilkinson
from lmm.formula.columns.subset import looks_across
from lmm.formula.evaluate import as_evaluated, check_categories
from lmm.formula.text.names import (
    as_expression,
    awkward_names,
    names_in,
    readable,
    refuse_unknown,
    resolve,
)
from lmm.formula.text.parse import EVERYTHING
from lmm.formula.text.tokens import unquote
from lmm.stream.conform import conform, empty_table, is_nested, kind
from lmm.stream.first_pass import (
    HEAD,
    SCALES,
    SUMMARIES,
    Scan,
    Survey,
    argument_of,
    calls_in,
    check_calls,
    codes_levels,
    head_rows,
    resolved,
    witness_text,
)
from lmm.stream.recipe import (
    Recipe,
    TermColumns,
    check_array,
    column_of,
    group_text,
    is_number,
    labels_of,
    usable_rows,
)
from lmm.stream.reducers import Reducer

if TYPE_CHECKING:
    import pyarrow as pa


def make_recipe(
    formula: str | Formula,
    reducer: Reducer,
    given: Given,
    family: Family | None = None,
) -> Recipe:
    """Read what does not change from chunk to chunk.

    The first rows are read; where the formula has categorical predictors, or functions that remember something of the data,
    all rows are passed over once, the columns that the formula uses only.

    Parameters
    ----------
    formula : ``"y ~ x + (x|g)"``, or one that was parsed.
    reducer : the rows.
    given : weights, offset and rows to use (column names or expressions), codings and the caller's variables.
    family : None for a linear model; with one no pilot is fitted.

    Raises
    ------
    FormulaError, DataError, ResponseError, ArgumentError : with the user's own names.
    """
    parsed = mixed(formula)
    arguments = {"weights": given.weights, "offset": given.offset, "subset": given.subset}
    for name, value in arguments.items():
        check_array(name, value)
    schema = dict(reducer.schema)
    empty = Table(empty_table(schema))
    parsed = without_dot(parsed, empty)
    joined = next((bar for bar in parsed.bars if bar.memberships), None)
    if joined is not None:
        raise ArgumentError(
            f"({joined.columns} | {joined.group}): rows of several levels are fitted in memory; read the data with pandas first."
        )
    weights, offset, subset = (
        as_expression(value, empty, name) for name, value in arguments.items()
    )
    needed, scope = _needed(parsed, empty, weights, offset, subset, given.context)
    for name in needed:
        if is_nested(schema[name]):
            raise DataError(
                f"the column {name} holds {schema[name]} values, several in one row; make a column of each that the model uses."
            )
    schema = {name: _computable(schema[name]) for name in needed}
    awkward = parsed.awkward.union(
        *(awkward_names(text) for text in (weights, offset) if text is not None)
    )
    awkward = frozenset(name for name in awkward if name in schema)
    scan = Scan(needed, schema, weights, offset, subset, scope, awkward)
    given = replace(
        given, weights=weights, offset=offset, subset=None, context=scope
    )  # the rows of ``subset`` are left out before
    witnesses, found = _witnesses(parsed, reducer, scan, given)
    return _assemble(parsed, scan, witnesses, found, given, family)


def _computable(type: pa.DataType) -> pa.DataType:
    """A decimal is computed with as a float; one without decimal places, often the key of a database, is a whole number."""
    import pyarrow as pa

    if pa.types.is_decimal(type):
        return pa.int64() if type.scale <= 0 else pa.float64()
    return type


def _needed(
    formula: Formula,
    table: Table,
    weights: str | None,
    offset: str | None,
    subset: str | None,
    context: Mapping[str, object],
) -> tuple[tuple[str, ...], dict[str, object]]:
    """The columns that are used, and the caller's variables and functions that are."""
    given = {
        text: name for text, name in ((weights, "weights"), (offset, "offset")) if text is not None
    }
    found = resolve([*formula.expressions, *given], table.columns, -1, context, FUNCTIONS)
    refuse_unknown(found, table, given, formula.text)
    columns, scope = dict(found.columns), dict(found.context)
    if subset is not None:
        own = resolve([subset], table.columns, -1, context, FUNCTIONS)
        refuse_unknown(own, table, {subset: "subset"})
        for name, called, _ in names_in(subset):
            if called and getattr(FUNCTIONS.get(name), "__is_stateful_transform__", False):
                raise ArgumentError(
                    f"subset: {name}() has to see all rows at once, and the data is read in chunks; compute the number first."
                )
        columns |= own.columns
        scope |= own.context
    for name, value in scope.items():
        if isinstance(value, (pd.Series, pd.DataFrame)) or (
            isinstance(value, np.ndarray) and value.ndim and len(value) > 1000
        ):
            raise ArgumentError(
                f"{name!r} is an array in scope; where the data is read in chunks, a predictor must be one of its columns."
            )
    return tuple(columns), scope


def _first_rows(reducer: Reducer, scan: Scan, used: tuple[str, ...]) -> tuple[pa.Table, Scan]:
    """Complete rows on which the formula is tried, and the scan with their number; ``used`` are the columns of expressions."""
    head = conform(reducer.head(scan.needed, HEAD), scan.needed, scan.schema, "the first rows")
    if not head.num_rows and not reducer.repeatable:
        raise DataError(
            f"the {reducer.text} has no rows (left); rows that were read once are gone. Give a new one, a file or a Dataset."
        )
    if (
        scan.subset is not None
        and head.num_rows
        and looks_across(scan.subset, Table(head), scan.context)
    ):
        raise ArgumentError(
            f"subset={scan.subset!r} depends on other rows than its own, and the data is read in chunks; compute the number first."
        )
    rows = usable_rows(head, scan.subset, scan.context)[0]
    scan = replace(scan, head=head_rows(rows, used))
    rows = rows.slice(0, scan.head)
    if not reducer.repeatable:
        rows = _with_dictionaries(rows, used)
    if not rows.num_rows:
        rows = _rows(_pass(reducer, scan, "the first rows have missing values"))
    return rows, scan


def _witnesses(
    formula: Formula, reducer: Reducer, scan: Scan, given: Given
) -> tuple[pa.Table, Evaluated]:
    """Rows that stand for all of them, and the formula evaluated on them with the states of all rows."""
    used = _evaluated_names(formula, scan)
    rows, scan = _first_rows(reducer, scan, used)
    known: Memories = {}
    collected: dict[str, None] = {}
    while True:
        try:
            found = _evaluated(formula, rows, given, known)
        except DataError:  # the first rows may lack a level that a call names
            early = _coded_columns(formula, scan)
            if collected or not early or not reducer.repeatable:
                raise
            collected = dict.fromkeys(early)
            rows = _rows(_pass(reducer, replace(scan, categories=early, used=used), ""))
            continue
        _refuse_across(found, scan)
        state = {call: value for call, value in found.evaluator.state.items() if value}
        check_calls(state, scan.awkward)
        coding = {call: witness_text(call) for call in state if codes_levels(call)}
        known |= {call: state[call] for call, text in coding.items() if text in collected}
        waiting = state.keys() - known.keys()
        open_calls = waiting - coding.keys()
        ready = {call: argument_of(call) for call in open_calls}
        ready = {call: text for call, text in ready.items() if not waiting & calls_in(text)}
        categories = [text for text in _categories(found, coding, formula) if text not in collected]
        categories = [text for text in categories if not waiting & calls_in(text) - {text}]
        if not ready and not categories:
            return rows, found
        if not reducer.repeatable:
            if ready:
                raise ArgumentError(
                    f"{readable(next(iter(ready)), scan.awkward)} needs a summary of all rows before the first is used, and these rows can "
                    "be read once only; give a file or a Dataset, or compute the column first."
                )
            return rows, found
        collected |= dict.fromkeys(categories)
        coded = _coded(found, formula, scan)
        wider = replace(scan, categories=tuple(collected), arguments=ready, coded=coded, used=used)
        wider = replace(wider, state=state, known=frozenset(known))
        seen = _pass(reducer, wider, "")
        if categories:
            rows = _rows(seen)
        known |= {call: resolved(call, seen.moments[call], state[call], wider) for call in ready}


def _refuse_across(found: Evaluated, scan: Scan) -> None:
    """ArgumentError for an expression whose value in a row depends on rows that other chunks hold."""
    if found.across:
        raise ArgumentError(
            f"{readable(sorted(found.across)[0], scan.awkward)} depends on other rows than its own, and the data is read in chunks; "
            f"compute the column first, or use a function that needs a summary only: {', '.join((*SCALES[:2], *SUMMARIES))}."
        )


def _with_dictionaries(rows: pa.Table, used: tuple[str, ...]) -> pa.Table:
    """Rows of a reader, with one more for each level that a dictionary has and the first rows have not."""
    import pyarrow as pa

    for name in used:
        column = rows.column(name)
        if rows.num_rows and pa.types.is_dictionary(column.type):
            levels = column.combine_chunks().dictionary
            missing = [v for v in levels.to_pylist() if v not in set(column.unique().to_pylist())]
            for value in missing:
                code = pa.array([levels.index(value).as_py()], column.type.index_type)
                one = pa.DictionaryArray.from_arrays(code, levels, ordered=column.type.ordered)
                rows = pa.concat_tables(
                    [
                        rows,
                        rows.slice(0, 1).set_column(rows.schema.get_field_index(name), name, one),
                    ]
                )
    return rows


def _pass(reducer: Reducer, scan: Scan, why: str) -> Survey:
    if not reducer.repeatable:
        raise DataError(
            f"{why or 'a pass over all rows is needed'}, and these rows can be read once only; give a file or a Dataset."
        )
    seen = reducer.map_reduce(scan.reduction())
    seen.counts.refuse_empty(len(seen.rows))
    return seen


def _rows(found: Survey) -> pa.Table:
    """The witness rows as one table, levels of category columns in the order that the dictionaries of all rows declare, else sorted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.concat_tables(found.rows)
    for name, listed in found.listed.items():
        order = listed.order(np.arange(listed.size))
        assert listed.known is not None
        levels = listed.known.take(pa.array(order))
        column = rows.column(name)
        codes = pc.index_in(column.cast(column.type.value_type), value_set=levels).combine_chunks()
        one = pa.DictionaryArray.from_arrays(codes, levels, ordered=column.type.ordered)
        rows = rows.set_column(rows.schema.get_field_index(name), name, one)
    return rows


def _evaluated(formula: Formula, rows: pa.Table, given: Given, state: Memories) -> Evaluated:
    found = evaluate(formula, Table(rows), given, state)
    if found.arrays:
        raise ArgumentError(
            f"{found.arrays[0]!r} is an array in scope; where the data is read in chunks, a predictor must be one of its columns."
        )
    return found


def _coded_columns(formula: Formula, scan: Scan) -> tuple[str, ...]:
    """Columns that functions of levels are applied to, as they are evaluated."""
    plans = [
        wilkinson(text, formula.text, scan.awkward)
        for text in {formula.fixed, *(bar.columns for bar in formula.bars)}
    ]
    texts = [str(factor) for plan in plans for term in plan for factor in term.factors]
    alone = [
        formula.response,
        *formula.offsets,
        *(factor for bar in formula.bars for factor in bar.factors),
    ]
    alone += scan.given
    texts += [as_evaluated(text, scan.awkward) for text in alone if text]
    calls = [call for text in texts for call in sorted(calls_in(text)) if codes_levels(call)]
    found = dict.fromkeys(map(witness_text, calls))
    return tuple(text for text in found if column_of(text, scan.schema, scan.awkward))


def _categories(found: Evaluated, coding: Mapping[str, str], formula: Formula) -> tuple[str, ...]:
    """Expressions whose distinct values are the levels that terms, and functions of levels, are coded by."""
    out: dict[str, None] = {}
    for part in (found.fixed, *found.random.values()):
        if part.spec is not None:
            for text, (kind, _) in part.spec.encoder_state.items():
                if kind.name == "CATEGORICAL":
                    out[witness_text(str(text))] = None
    # the levels of a grouping factor need not be known before
    groups = {as_evaluated(factor, found.awkward) for bar in formula.bars for factor in bar.factors}
    others = {as_evaluated(text, found.awkward) for text in formula.expressions} - groups
    elsewhere = set().union(
        *(calls_in(text) for text in others), *(calls_in(group_text(text)) for text in groups)
    )
    for call, text in coding.items():
        if call in elsewhere:
            out[text] = None
    return tuple(out)


def _assemble(
    formula: Formula,
    scan: Scan,
    rows: pa.Table,
    found: Evaluated,
    given: Given,
    family: Family | None,
) -> Recipe:
    check_categories(found, None)
    as_written = {
        factors: i for i, factors in enumerate(dict.fromkeys(bar.factors for bar in formula.bars))
    }
    for message in found.said:
        warn(message, LmmWarning)
    made = sorted(random_terms(found), key=lambda one: as_written[one[1].factors])
    for _, own in made:
        if own.layouts or own.factors == (EVERYTHING,):
            written = " + ".join(map(str, formula.bars_of(own.factors)))
            raise ArgumentError(
                f"{written} needs the rows in memory: coordinates, levels that do not occur and (... | 1) are not for data read in chunks. "
                "Give a table of pandas, polars or pyarrow."
            )
    all_names = tuple(readable(name, found.awkward) for name in found.fixed.names)
    pool: dict[str, int] = {}
    fixed = tuple(pool.setdefault(name, len(pool)) for name in all_names)
    terms = []
    for term, own in made:
        places = tuple(pool.setdefault(name, len(pool)) for name in own.columns)
        terms.append(
            TermColumns(
                own,
                term.structure,
                places,
                tuple(_type(factor, scan, found) for factor in own.factors),
            )
        )
    recipe = Recipe(
        formula=formula,
        schema=scan.schema,
        needed=scan.needed,
        frame=model_frame(found, all_names, [own for _, own in made], True),
        pool=tuple(pool),
        fixed=fixed,
        plain=tuple(_plain(name, scan.schema, found.awkward) for name in pool),
        terms=tuple(terms),
        evaluated=_evaluated_names(formula, scan),
        coded=_coded(found, formula, scan),
        weights=scan.weights,
        offset=scan.offset,
        subset=scan.subset,
        na_action=given.na_action,
        pilot=np.zeros(len(fixed)),
        centre=np.zeros(len(pool)),
        covariates=_covariates(formula, scan),
        family=family,
        context=scan.context,
    )
    return recipe if family is not None else _with_pilot(recipe, found)


def _type(factor: str, scan: Scan, found: Evaluated) -> pa.DataType:
    """Arrow type of a grouping factor's values."""
    text = group_text(as_evaluated(factor, found.awkward))
    name = column_of(text, scan.schema, found.awkward)
    return (
        scan.schema[name]
        if name
        else labels_of(found.evaluator.expression(text), factor, found.n).type
    )


def _plain(
    name: str, schema: Mapping[str, pa.DataType], awkward: frozenset[str]
) -> tuple[str, ...] | None:
    """The numeric columns whose product a model column is; none for ones, None where it is anything else."""
    if name == INTERCEPT and name not in schema:
        return ()
    sources = tuple(name.split(":"))
    if name in awkward or any(
        source in awkward or source not in schema or not is_number(schema[source])
        for source in sources
    ):
        return None
    return sources


def _evaluated_names(formula: Formula, scan: Scan) -> tuple[str, ...]:
    """Columns that expressions use; a grouping factor that is a column is never one of them."""
    texts = [text for text in formula.expressions if unquote(text) not in scan.schema]
    texts += [bar.columns for bar in formula.bars] + [formula.fixed, formula.response]
    texts += scan.given
    used: set[str] = set()
    for text in texts:
        for name, _, _ in names_in(text):
            used |= {name, name.split(".", 1)[0]}
    return tuple(name for name in scan.needed if name in used)


def _covariates(formula: Formula, scan: Scan) -> tuple[str, ...]:
    used = {
        name
        for text in (formula.fixed, *formula.offsets)
        for name, called, _ in names_in(text)
        if not called
    }
    return tuple(name for name in scan.needed if name in used and is_number(scan.schema[name]))


def _coded(found: Evaluated, formula: Formula, scan: Scan) -> frozenset[str]:
    """Columns of text that are factors of terms as they are, and enter no other expression."""
    texts = [
        formula.response,
        *formula.offsets,
        *(f for bar in formula.bars for f in bar.factors if unquote(f) not in scan.schema),
    ]
    texts += scan.given
    bare: set[str] = set()
    for part in (found.fixed, *found.random.values()):
        if part.spec is not None:
            for expression in map(str, part.spec.encoder_state):
                if expression in scan.schema:
                    bare.add(expression)
                else:
                    texts.append(expression)
    elsewhere = {name for text in texts for name, _, _ in names_in(text)}
    elsewhere |= {name.split(".", 1)[0] for name in elsewhere}
    return frozenset(
        name for name in bare - elsewhere - found.awkward if kind(scan.schema[name]) == "text"
    )


def _with_pilot(recipe: Recipe, found: Evaluated) -> Recipe:
    """The recipe with least-squares coefficients of the witnesses, and the means of their columns."""
    check_response(found.response, recipe.formula, found.n, linear=True)
    y = numeric_response(found.response, recipe.response)
    if found.offset is not None:
        y = y - found.offset
    X = found.fixed.values
    weights = found.weights if found.weights is not None and found.weights.min() > 0 else None
    kept, R = independent_columns(X, weights)
    pilot, centre = np.zeros(X.shape[1]), np.zeros(len(recipe.pool))
    pilot[kept] = least_squares(X[:, kept], R, y, weights)[0]
    if found.fixed.names and found.fixed.names[0] == INTERCEPT and len(kept):
        centre[list(recipe.fixed)] = X.mean(axis=0)
        centre[recipe.fixed[0]] = 0.0
    return replace(recipe, pilot=pilot, centre=centre)
