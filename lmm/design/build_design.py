"""Formula + table -> Design: the stages in order, and the checks that need all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lmm.design.design import Design
from lmm.design.dispersion_part import dispersion_parts
from lmm.design.level_checks import (
    check_effects,
    check_levels,
    check_weights,
    related_notes,
    unlike_weights,
)
from lmm.design.linear_response import check_response, linear_response
from lmm.design.predictor import Predictor
from lmm.design.random_parts import random_terms
from lmm.design.rank import independent_columns
from lmm.design.residual_part import ResidualPart, residual_parts
from lmm.errors import FormulaError, LmmWarning, RankWarning, warn
from lmm.families import Family
from lmm.families.linear import distribution
from lmm.formula import Evaluated, Formula, Given, ModelFrame, Table, TermRecipe, evaluate, parse
from lmm.formula.columns.engine import ModelMatrix
from lmm.formula.columns.given import NOTHING
from lmm.formula.evaluate import check_categories
from lmm.formula.text.names import names_in, readable
from lmm.formula.text.parse import unknown_structure

#: formulaic's name of the column of ones
INTERCEPT = "Intercept"


def build_design(
    formula: str | Formula,
    data: object,
    given: Given = NOTHING,
    family: Any = None,
) -> Design:
    """The matrices of a mixed model.

    Parameters
    ----------
    formula : ``"y ~ x + (x|g)"``, or one that was parsed.
    data : pandas, polars or pyarrow table, or a mapping of arrays, N rows; never modified.
    given : weights, offset, rows to use and codings, with the caller's variables.
    family : None for a linear model; otherwise an object whose ``response(values, name)`` returns
        ``(y, weights or None)``, and the checks that hold for linear models alone are left out. One that has ``bind``
        learns from the response what it needs (categories) and is ``design.family``; one whose
        ``has_intercept`` is false has no column of ones.

    Returns
    -------
    Design

    Raises
    ------
    FormulaError, DataError, ResponseError, GroupingError, ArgumentError : with the user's own names.

    Examples
    --------
    >>> import lmm
    >>> from lmm.design import build_design
    >>> design = build_design("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> design.X.shape, design.names, design.terms[0].J
    ((180, 2), ('Intercept', 'Days'), 18)
    """
    parsed = mixed(formula)
    table = Table(data)
    parsed = without_dot(parsed, table)
    found = evaluate(parsed, table, given)
    for message in found.said:
        warn(message, LmmWarning)
    check_categories(found, found.n)
    bind = getattr(family, "bind", None)
    said: tuple[str, ...] = ()
    if bind:
        declared = table.column(parsed.response).dtype if parsed.response in table else None
        family, said = bind(found.response, parsed.response, getattr(declared, "categories", ()))
    y, prior = _response(found, family)
    check_weights(found.weights)  # rows without trials weigh nothing
    said = (*said, *unlike_weights(prior, family))
    made = random_terms(found, given.covariance)
    for term, _ in made:
        if parsed.residual is not None or given.covariance is not None:
            term.require_own_rows("residual=" if parsed.residual is not None else "covariance=")
    for term, recipe in made:
        check_levels(term)
        said = (*said, *related_notes(term))
        if family is None and term.relation is None:
            check_effects(term, parsed.bars_of(recipe.factors), found.n)
    intercept = getattr(family, "has_intercept", True)
    terms = tuple(term for term, _ in made)
    mean = fixed_columns("mean", found.fixed, found, prior, intercept)
    mean, messages = replace(mean, terms=terms, offset=found.offset), list(told(mean))
    others = further_predictors(found, prior)
    for predictor in others:
        messages += told(predictor)
    residuals: tuple[ResidualPart, ...] = residual_parts(found)
    if getattr(distribution(family), "scales_rows", False):
        text = str(dict(parsed.components).get("disp", ""))
        residuals += dispersion_parts(mean, others, prior, text)
    index = table.index
    full_index = index if found.subset is None else index[found.subset]
    return Design(
        formula=parsed,
        frame=model_frame(found, mean.all_names, [recipe for _, recipe in made], intercept),
        y=y,
        predictors=(mean, *others),
        weights=prior,
        index=index if found.n == table.n else index[found.kept],
        kept=found.kept if found.subset is None else found.kept[found.subset],
        full_index=full_index,
        na_action=given.na_action,
        response=parsed.response,
        messages=(*found.said, *messages, *said),
        subset=found.subset,
        family=family,
        residual=residuals,
    )


def mixed(formula: str | Formula) -> Formula:
    """The formula of a mixed model, parsed; FormulaError where it has no random term."""
    parsed = parse(formula) if isinstance(formula, str) else formula
    if not isinstance(parsed, Formula):
        raise FormulaError(
            f"a formula is a string such as 'y ~ x + (1|g)', not {type(formula).__name__}."
        )
    if not parsed.bars and parsed.residual is None and not parsed.components:
        hint = unknown_structure(parsed.fixed)
        raise FormulaError(
            f"the formula has no random term; add one such as (1|group).{hint}", parsed.text
        )
    return parsed


def without_dot(formula: Formula, table: Table) -> Formula:
    """The formula with ``.`` written out."""
    return formula.with_dot(other_columns(formula, table)) if formula.has_dot else formula


def other_columns(formula: Formula, table: Table) -> tuple[str, ...]:
    """What ``.`` means: the columns that are neither response, grouping factor nor offset."""
    texts = [formula.response, *formula.offsets, *(f for bar in formula.bars for f in bar.factors)]
    used = {name for text in texts for name, _, _ in names_in(text)}
    return tuple(name for name in table.columns if name not in used)


def _response(found: Evaluated, family: Family | None) -> tuple[np.ndarray, np.ndarray | None]:
    """y and the prior weights."""
    values, name = found.response, found.formula.response
    check_response(values, found.formula, found.n, family is None)
    if family is None:
        return linear_response(values, name), found.weights
    y, trials = family.response(values, name)
    if trials is None:
        return y, found.weights
    return y, trials if found.weights is None else trials * found.weights


def further_predictors(found: Evaluated, weights: np.ndarray | None) -> tuple[Predictor, ...]:
    """The predictors beside that of the mean."""
    out = []
    for name, component in found.formula.components:
        matrix = found.random[component.fixed]
        own = fixed_columns(name, matrix, found, weights, True)
        side = replace(found, formula=component, fixed=matrix, offset_given=False)
        made = random_terms(side)
        for term, _ in made:
            check_levels(term)
        frame = model_frame(side, own.all_names, [recipe for _, recipe in made], True)
        terms = tuple(term for term, _ in made)
        out.append(replace(own, offset=found.offsets[name], terms=terms, frame=frame))
    return tuple(out)


def fixed_columns(
    predictor: str,
    matrix: ModelMatrix,
    found: Evaluated,
    weights: np.ndarray | None,
    intercept: bool,
) -> Predictor:
    """A predictor's independent fixed columns, as yet without offset and random terms.

    Without ``intercept`` a column of ones is left out, and columns count as dependent that depend on it.
    """
    X = matrix.values
    all_names = tuple(readable(name, found.awkward) for name in matrix.names)
    if intercept:
        kept, triangle = independent_columns(X, weights)
    else:
        others = [j for j, name in enumerate(matrix.names) if name != INTERCEPT]
        X, all_names = np.asfortranarray(X[:, others]), tuple(all_names[j] for j in others)
        kept = independent_columns(np.column_stack([np.ones(found.n), X]), weights)[0][1:] - 1
        triangle = independent_columns(X[:, kept], weights)[1]
    names, dropped = names_kept(all_names, kept)
    if dropped:
        X = np.asfortranarray(X[:, kept])
    return Predictor(predictor, X, names, dropped, all_names, (), None, triangle)


def names_kept(
    all_names: tuple[str, ...], kept: np.ndarray
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the columns kept and of the dependent ones."""
    chosen = {int(j) for j in kept}
    dropped = tuple(name for j, name in enumerate(all_names) if j not in chosen)
    return tuple(all_names[j] for j in kept), dropped


def told(predictor: Predictor) -> tuple[str, ...]:
    """What is warned of: columns that were dropped."""
    return dependent_columns(predictor.dropped, predictor.name)


def dependent_columns(dropped: tuple[str, ...], predictor: str = "mean") -> tuple[str, ...]:
    """A warning, and its text, where columns of a predictor were dropped."""
    if not dropped:
        return ()
    whose = "" if predictor == "mean" else f" of {predictor}"
    what = "1 column that depends" if len(dropped) == 1 else f"{len(dropped)} columns that depend"
    message = f"the fixed-effects matrix{whose} is rank deficient; dropped {what} on others: {', '.join(dropped)}."
    warn(message, RankWarning)
    return (message,)


def model_frame(
    found: Evaluated, all_names: tuple[str, ...], recipes: Sequence[TermRecipe], intercept: bool
) -> ModelFrame:
    """What replays the formula on new data, its random terms by ``recipes``."""
    specs = {
        text: part.spec for text, part in {**found.random, found.formula.fixed: found.fixed}.items()
    }
    return ModelFrame(
        formula=found.formula,
        table=found.table,
        all_names=all_names,
        terms=tuple(recipes),
        specs=specs,
        state=found.evaluator.state,
        context=found.context,
        contrasts=found.coding,
        awkward=found.awkward,
        offset_given=found.offset_given,
        arrays=found.arrays,
        left_out=()
        if intercept
        else tuple(j for j, name in enumerate(found.fixed.names) if name == INTERCEPT),
        kinds=found.kinds,
        across=found.across,
    )
