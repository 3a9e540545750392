"""Formula + table -> numbers: the rows that are complete, then every part of the formula on those rows.

Rows are dropped on the raw columns first, before a mean or a knot is computed from them; after
that a missing value is an error that names its term, never a lost row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lmm.arguments import choice, mapping
from lmm.covariance import STRUCTURES
from lmm.errors import ArgumentError, DataError, GroupingError, nearest
from lmm.formula.columns.complete import complete
from lmm.formula.columns.engine import (
    FUNCTIONS,
    Columns,
    Evaluator,
    Memories,
    ModelMatrix,
    Wilkinson,
    check_coding,
    intercept,
    wilkinson,
)
from lmm.formula.columns.given import Given, aligned, labelled, not_finite, numeric, own
from lmm.formula.columns.kinds import TEXT, Kind, kind_of
from lmm.formula.columns.levels import Levels, encode, join, merged_before
from lmm.formula.columns.members import coded, lacking
from lmm.formula.columns.residual_rows import ResidualRows, residual_rows
from lmm.formula.columns.subset import row_mask
from lmm.formula.columns.table import Table, as_floats, given_column, whole_rows
from lmm.formula.text.expressions import python
from lmm.formula.text.grouping import Interaction, label
from lmm.formula.text.membership import is_membership, membership
from lmm.formula.text.names import (
    alias,
    aliased,
    as_expression,
    awkward_names,
    names_in,
    readable,
    refuse_unknown,
    resolve,
)
from lmm.formula.text.parse import EVERYTHING, Formula
from lmm.formula.text.row_dependence import across
from lmm.formula.text.tokens import quote

NA_ACTIONS = ("omit", "exclude", "fail")
INTERCEPT = "1"
#: a column of text with more levels than this, most of which read as numbers, may have been meant as numbers
FEW_LEVELS, MOSTLY = 20, 0.8


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The parts of a formula as numbers; N rows in the table, n kept.

    Attributes
    ----------
    kept : (N,) bool, rows used; ``subset`` (N,) bool or None, rows asked for.
    response : value of the left-hand side, n rows, any type.
    fixed : the fixed model matrix.
    random : model matrix by its text: of each bar's columns, and of the fixed parts of all predictors.
    groups : codes and levels by grouping factor.
    offset, weights : (n,) float64 or None; ``offset_given`` the text of ``offset=``, True for an array.
    awkward : columns evaluated under an alias; ``arrays`` names of the caller's arrays used as columns.
    kinds : what the columns were that expressions use, by name.
    across : expressions, as they are evaluated, whose value in a row depends on other rows.
    said : what the user should know of the columns.
    residual : subjects and places of the rows of a residual structure.
    offsets : (n,) offset of each further linear predictor or None, by the predictor's name.
    """

    formula: Formula
    table: Table
    kept: np.ndarray
    subset: np.ndarray | None
    n: int
    response: Any
    fixed: ModelMatrix
    random: dict[str, ModelMatrix]
    groups: dict[Interaction, Levels]
    offset: np.ndarray | None
    weights: np.ndarray | None
    offset_given: str | bool
    evaluator: Evaluator
    context: dict[str, object]
    awkward: frozenset[str]
    coding: dict[str, object]
    arrays: tuple[str, ...]
    kinds: dict[str, Kind]
    across: frozenset[str]
    said: tuple[str, ...] = ()
    residual: ResidualRows | None = None
    offsets: dict[str, np.ndarray | None] = field(default_factory=dict)


def evaluate(
    formula: Formula,
    table: Table,
    given: Given,
    state: Memories | None = None,
) -> Evaluated:
    """Evaluate a formula on a table.

    Parameters
    ----------
    formula, table : what to evaluate, on what.
    given : weights, offset, rows to use and codings, with the caller's variables.
    state : what stateful functions remember of other rows; left as it is.

    Raises
    ------
    DataError, ArgumentError, GroupingError : naming the column, term or argument.
    """
    choice(given.na_action, "na_action", NA_ACTIONS)
    if table.n == 0:
        raise DataError("the data has no rows.")
    weights = as_expression(given.weights, table, "weights")
    offset = as_expression(given.offset, table, "offset")
    pairs = ((weights, "weights"), (offset, "offset"))
    arguments = {text: name for text, name in pairs if isinstance(text, str)}
    arrays = {f"({name})": value for value, name in pairs if not isinstance(value, str | None)}
    awkward = formula.awkward.union(*map(awkward_names, arguments))
    awkward = frozenset(name for name in awkward if name in table)
    plans = _plans(formula, awkward)
    found = resolve(
        [*formula.expressions, *arguments], table.names, table.n, given.context, FUNCTIONS
    )
    refuse_unknown(found, table, arguments, formula.text)
    columns = {name: table.column(name) for name in found.columns}
    for name, values in found.arrays.items():
        columns[name] = given_column(values, table.index, name)
    for name, values in arrays.items():
        columns[name] = _given(values, name[1:-1], table)
    chosen = row_mask(given.subset, table, given.context)
    memberships = [own for bar in formula.bars for own in bar.memberships]
    beside = {*formula.expressions, *arguments} - {
        factor for bar in formula.bars if bar.memberships for factor in bar.factors
    }
    gaps = lacking(columns, beside, memberships)
    kept = _kept(gaps, table.n, chosen, given.na_action)
    n = int(kept.sum())
    rows = Columns(_take(columns, kept, n), n)
    _prepare(rows, formula)
    kinds = {name: kind_of(series) for name, series in rows.items()}
    rows.rename({name: alias(name) for name in awkward})
    coding = _contrasts(given.contrasts, rows)
    labels = table.index if n == table.n else table.index[kept]
    evaluator = Evaluator(rows, labelled(found.context, labels), coding, dict(state or {}), awkward)
    fixed, random = _matrices(formula, plans, evaluator, awkward)
    _check_used(coding, [fixed, *random.values()], awkward)
    groups, said = grouping(formula, evaluator, awkward)
    rows_of_residual = None
    if formula.residual is not None:
        rows_of_residual = residual_rows(
            formula.residual,
            lambda text: expression(evaluator, text, awkward),
            n,
            STRUCTURES[formula.residual.structure].over_coordinates,
        )
    response = expression(evaluator, formula.response, awkward) if formula.response else None
    total = offsets(formula, evaluator, awkward, n, "(offset)" if "(offset)" in arrays else offset)
    own_weights = "(weights)" if "(weights)" in arrays else weights
    prior = None if own_weights is None else _argument(evaluator, own_weights, "weights", awkward)
    context = {name: own(value) for name, value in found.context.items()}
    context |= {name: columns[name].values for name in found.arrays}
    return Evaluated(
        formula=formula,
        table=table,
        kept=kept,
        subset=chosen,
        n=n,
        response=response,
        fixed=fixed,
        random=random,
        groups=groups,
        offset=total,
        weights=prior,
        offset_given=offset if isinstance(offset, str) else offset is not None,
        evaluator=evaluator,
        context=context,
        awkward=awkward,
        coding=coding,
        arrays=tuple(found.arrays),
        kinds=kinds,
        across=across(_texts(formula, plans, arguments, awkward), evaluator),
        said=said,
        residual=rows_of_residual,
        offsets={
            name: offsets(component, evaluator, awkward, n, None)
            for name, component in formula.components
        },
    )


def _texts(
    formula: Formula,
    plans: Mapping[str, Wilkinson],
    arguments: Iterable[str],
    awkward: frozenset[str],
) -> set[str]:
    """All expressions, as they are evaluated: factors of terms, and those that stand alone."""
    factors = {str(factor) for plan in plans.values() for term in plan for factor in term.factors}
    alone = {formula.response, *arguments}
    for side in formula.sides:
        alone |= {*side.offsets, *(factor for bar in side.bars for factor in bar.factors)}
    if formula.residual is not None:
        alone |= set(formula.residual.expressions)
    return factors | {as_evaluated(text, awkward) for text in alone - {"", "1"}}


def as_evaluated(text: str, awkward: frozenset[str]) -> str:
    """An expression of the formula, in R's or Python's spelling, as Python reads it."""
    return python(aliased(text, awkward))


def expression(evaluator: Evaluator, text: str, awkward: frozenset[str]) -> Any:
    """Value of one expression of the formula, in R's or Python's spelling."""
    return evaluator.expression(as_evaluated(text, awkward))


def number(values: object, name: str, n: int) -> np.ndarray | None:
    """(n,) float64, finite; a single number is repeated."""
    if values is None:
        return None
    out = np.array(
        numeric(values, name)
    )  # our own: what becomes of the user's does not change a fit
    if out.ndim == 0:
        out = np.full(n, float(out))
    if out.shape != (n,):
        raise DataError(f"{name} must have one value per row ({n}), but its shape is {out.shape}.")
    if not np.isfinite(out).all():
        raise DataError(
            f"{name} must be finite; it is missing or infinite in {int((~np.isfinite(out)).sum())} rows."
        )
    return out


def offsets(
    formula: Formula, evaluator: Evaluator, awkward: frozenset[str], n: int, given: str | None
) -> np.ndarray | None:
    """Sum of the formula's offsets and the one given as an argument, (n,), or None."""
    total: np.ndarray | None = None
    for text in formula.offsets:
        value = number(expression(evaluator, text, awkward), f"offset({text})", n)
        total = value if total is None or value is None else total + value
    if given is not None:
        value = _argument(evaluator, given, "offset", awkward)
        total = value if total is None or value is None else total + value
    return total


def _argument(
    evaluator: Evaluator, text: str, name: str, awkward: frozenset[str]
) -> np.ndarray | None:
    """Numbers (n,) of an argument, a column or an expression."""
    columns = evaluator.columns
    values = columns[text] if text in columns else expression(evaluator, text, awkward)
    return number(values, name, columns.n)


def grouping(
    formula: Formula, evaluator: Evaluator, awkward: frozenset[str]
) -> tuple[dict[Interaction, Levels], tuple[str, ...]]:
    """Codes and levels of every grouping factor of the formula, each single factor coded once; and what is doubtful in them."""
    single: dict[str, Levels] = {}
    out: dict[Interaction, Levels] = {}
    for bar in (bar for side in formula.sides for bar in side.bars):
        for factor in bar.factors:
            if factor not in single:
                single[factor] = levels_of(evaluator, factor, awkward)
                _check_rows(single[factor], factor, evaluator.columns.n)
        if bar.factors not in out:
            out[bar.factors] = (
                single[bar.factors[0]]
                if len(bar.factors) == 1
                else join([single[f] for f in bar.factors])
            )
    told = [merged_before(levels.values, label((factor,))) for factor, levels in single.items()]
    return out, tuple(message for message in told if message is not None)


def levels_of(evaluator: Evaluator, factor: str, awkward: frozenset[str]) -> Levels:
    """Codes and levels of one grouping factor."""
    if is_membership(factor):
        given = membership(factor)
        return coded(given, lambda text: expression(evaluator, text, awkward), evaluator.columns.n)
    if factor == EVERYTHING:
        return Levels(np.zeros(evaluator.columns.n, dtype=np.int32), pd.Index([EVERYTHING]))
    return encode(expression(evaluator, factor, awkward), label((factor,)))


def _check_rows(levels: Levels, factor: str, n: int) -> None:
    if len(levels.codes) != n:
        raise GroupingError(
            f"grouping factor {factor!r} has {len(levels.codes)} values for {n} rows."
        )
    if n and levels.codes.min() < 0:
        lost = int((levels.codes < 0).sum())
        raise DataError(
            f"grouping factor {factor!r} has no value in {lost} rows, although its columns are complete."
        )


def _given(values: object, name: str, table: Table) -> pd.Series:
    """An argument given as an array, one value per row of the table."""
    n = table.n
    if callable(values) or isinstance(values, Mapping | set | bool | np.bool_):
        raise ArgumentError(
            f"{name} must be a column name, an expression, or an array of numbers, not {type(values).__name__}."
        )
    array = numeric(
        aligned(values, table.index, name, ArgumentError),
        name,
        ArgumentError,
        " Give a column name, an expression, or numbers.",
    )
    if array.ndim == 0:
        array = np.full(n, float(array))
    if array.shape != (n,):
        raise ArgumentError(
            f"{name} must have one value per row of the data ({n}), but its shape is {array.shape}."
        )
    if np.isnan(array).any():
        lost = int(np.isnan(array).sum())
        raise ArgumentError(
            f"{name} has {lost} missing values; give each row a number, or leave rows out with subset=."
        )
    return pd.Series(array)


def _kept(
    gaps: Iterable[tuple[str, np.ndarray | None]],
    N: int,
    chosen: np.ndarray | None,
    na_action: str,
) -> np.ndarray:
    """(N,) bool: rows asked for in which nothing is missing, of ``gaps`` by column."""
    mask, counts = complete(gaps, N, chosen)
    counts.refuse_lost(na_action)
    kept = np.ones(N, dtype=bool) if mask is None else mask
    counts.refuse_empty(int(kept.sum()))
    return kept


def _take(columns: Mapping[str, pd.Series], kept: np.ndarray, n: int) -> dict[str, pd.Series]:
    """The kept rows of every column under one index 0..n-1; nothing is copied when all are kept."""
    index = pd.RangeIndex(n)
    if n == len(kept):
        return {
            k: s if s.index is index else whole_rows(s, None, index, k) for k, s in columns.items()
        }
    return {k: whole_rows(s, kept, index, k) for k, s in columns.items()}


def _prepare(rows: Columns, formula: Formula) -> None:
    """Columns that are computed with, groups left alone."""
    texts = [formula.response, *formula.predictors]
    for side in formula.sides:
        texts += side.offsets
    used = {name for text in texts for name, _, _ in names_in(text)}
    for name in rows:
        if name in used or name.split(".")[0] in used:
            rows[name] = as_predictor(rows[name])


def as_predictor(series: pd.Series) -> pd.Series:
    """A number in 64 bits, for log(int8) would be half precision."""
    if (
        isinstance(series.dtype, np.dtype)
        and series.dtype.kind in "iuf"
        and series.dtype.itemsize < 8
    ):
        return series.astype(float if series.dtype.kind == "f" else np.int64)
    return as_floats(series)


def _contrasts(contrasts: Mapping[str, object] | None, rows: Columns) -> dict[str, object]:
    out: dict[str, object] = {}
    if contrasts is None:
        return out
    for name, value in mapping(
        contrasts, "contrasts", "columns to codings, such as {'f': 'sum'}"
    ).items():
        known = alias(name) if alias(name) in rows else name
        if known not in rows:
            raise ArgumentError(
                f"contrasts= names {name!r}, which the formula does not use.{nearest(name, rows)}"
            )
        if pd.api.types.is_numeric_dtype(rows[known].dtype) and not pd.api.types.is_bool_dtype(
            rows[known].dtype
        ):
            raise ArgumentError(
                f"contrasts= names {name!r}, which is numeric; make it categorical first."
            )
        check_coding(value, name, len(encode(rows[known], name).values))
        out[known] = own(value)
    return out


def _check_used(
    coding: Mapping[str, object], parts: list[ModelMatrix], awkward: frozenset[str]
) -> None:
    coded = set().union(*(part.spec.encoder_state for part in parts if part.spec is not None))
    for name in coding:
        if name not in coded:
            raise ArgumentError(
                f"contrasts= names {readable(name, awkward)!r}, which is no predictor by itself; a factor that the formula makes is coded "
                "there, C(f, contr.sum)."
            )


def check_categories(found: Evaluated, n: int | None) -> None:
    """DataError for a categorical predictor that no model can use; ``n`` is the number of rows, None where it is not known.

    It has one level, or as many as there are rows, or its levels are numbers that were read as text.
    """
    for part in (found.fixed, *found.random.values()):
        for expression, (_, known) in (
            part.spec.encoder_state.items() if part.spec is not None else ()
        ):
            if "categories" in known:
                _check_levels(expression, known["categories"], found, n)


def _check_levels(
    expression: str, categories: list[object], found: Evaluated, n: int | None
) -> None:
    name, J = readable(expression, found.awkward), len(categories)
    if J < 2:
        level = f" ({str(categories[0])!r})" if J else ""
        raise DataError(
            f"the categorical predictor {name} has one level in the rows used{level}, so that it has no effect; leave it out."
        )
    column = found.evaluator.columns.get(expression)
    if column is not None and kind_of(column).name == TEXT and J > FEW_LEVELS:
        numbers = pd.to_numeric(pd.Series(categories, dtype=object), errors="coerce")
        read = numbers.notna()
        fractions = read & (numbers != numbers.round())
        if read.mean() > MOSTLY and (
            fractions.mean() > MOSTLY / 2 or (n is not None and 2 * J > n)
        ):
            odd = (
                ""
                if read.all()
                else f", though {str(pd.Series(categories, dtype=object)[~read].iloc[0])!r} is none"
            )
            raise DataError(
                f"column {name!r} is text with {J} levels that look like numbers{odd}; make it numbers by pd.to_numeric("
                f"data[{name!r}], errors='coerce'), or write factor({quote(name)}) if they are categories."
            )
    if n is not None and J >= n:
        raise DataError(
            f"the categorical predictor {name} has as many levels as there are rows ({n}), a coefficient for each row; leave it out, or "
            "make it a number if it is one."
        )


def _plans(formula: Formula, awkward: frozenset[str]) -> dict[str, Wilkinson]:
    """What formulaic makes of the fixed parts and of each text left of a bar; an intercept alone needs nothing."""
    out: dict[str, Wilkinson] = {}
    for side in formula.sides:
        for text in [side.fixed, *(bar.columns for bar in side.bars if bar.columns != INTERCEPT)]:
            if text not in out:
                out[text] = wilkinson(text, side.text, awkward)
    return out


def _matrices(
    formula: Formula, plans: Mapping[str, Wilkinson], evaluator: Evaluator, awkward: frozenset[str]
) -> tuple[ModelMatrix, dict[str, ModelMatrix]]:
    """The fixed matrix and one per distinct text left of a bar; texts that mean the same share one matrix."""
    keys = {text: str(plan) for text, plan in plans.items()}
    made = evaluator.matrices({keys[text]: plan for text, plan in plans.items()})
    for part in made.values():
        check_finite(part, awkward)
    parts = {text: made[keys[text]] for text in plans}
    fixed = parts[formula.fixed]
    if any(bar.columns == INTERCEPT for side in formula.sides for bar in side.bars):
        parts[INTERCEPT] = intercept(evaluator.columns.n)
    _check_names(parts.values(), awkward)
    return fixed, parts


def _check_names(parts: Iterable[ModelMatrix], awkward: frozenset[str]) -> None:
    """DataError where two different columns would have one name: no result could say which of them is meant."""
    owners: dict[str, str] = {}
    for part in parts:
        names = [readable(name, awkward) for name in part.names]
        own: set[str] = set()
        for name, term in zip(names, part.terms, strict=True):
            owner = owners.setdefault(name, term)
            twice = name in own
            own.add(name)
            if owner != term or twice:
                what = (
                    "the intercept"
                    if "1" in (owner, term)
                    else f"a column of the term {readable(owner, awkward)}"
                )
                raise DataError(
                    f"the name {name!r} would stand for {what} and for another column; rename the column {name!r} of the data."
                )


def check_finite(part: ModelMatrix, awkward: frozenset[str] = frozenset()) -> None:
    """DataError naming the term whose column is infinite or not a number; one pass, no temporary."""
    for j, name in enumerate(part.names):
        fault = not_finite(part.values[:, j])
        if fault is not None:
            raise DataError(f"the term {readable(name, awkward)} is {fault}.")
