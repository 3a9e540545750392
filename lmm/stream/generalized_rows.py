"""Rows somewhere -> design and problem of a generalized model: the recipe, a pass for levels, a pass that evaluates the rows.

The first pass finds levels, pairs of levels and the cross-products of the fixed columns, which tell the dependent ones. The
second one evaluates the formula into blocks of numbers, merged and kept where they are (:mod:`lmm.stream.row_blocks`); the fit passes over
these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError
from lmm.families import Family
from lmm.formula import Formula, Given
from lmm.model.gaussian.crossproducts import CrossProducts
from lmm.model.gaussian.system import plan_for
from lmm.model.problem import GeneralizedProblem
from lmm.stream import finish
from lmm.stream.absent import ABSENT
from lmm.stream.clusters.parts import Prepared
from lmm.stream.linear_rows import Origin
from lmm.stream.partial import PartialSums, add_block, empty_sums
from lmm.stream.partial import merge as merge_sums
from lmm.stream.prepare import make_recipe
from lmm.stream.recipe import Recipe
from lmm.stream.reducers import Reducer, Reduction
from lmm.stream.row_blocks import Evaluate, Locate, Spill, StreamedRows, chain

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class First:
    """What the first pass sums: unweighted sums of the rows' columns, and of the log density what no parameter moves."""

    sums: PartialSums
    constant: float = 0.0
    weighted: bool = False


def build_generalized(
    formula: str | Formula,
    data: object,
    reducer: Reducer,
    given: Given,
    family: Family,
) -> tuple[Design, GeneralizedProblem]:
    """Design and problem, as :func:`lmm.design.build_design` and :func:`lmm.model.problem.build_generalized` make of a table.

    Raises
    ------
    ArgumentError : rows that can be read once only, and a family that must see all responses to number them.
    """
    family.require_mean(
        f"family {family.name!r} must know all categories before the first row is used; fit a table in memory, or a sample of the rows."
    )
    if not reducer.repeatable:
        raise ArgumentError(
            f"a generalized model passes over its rows several times, and {reducer.text} can be read once only; give a file or a Dataset."
        )
    begin = perf_counter()
    recipe = make_recipe(formula, reducer, given, family)
    middle = perf_counter()
    lean = replace(recipe, fixed=(), pilot=np.zeros(0))
    first = reducer.map_reduce(
        Reduction(
            recipe.needed,
            partial(_start, lean),
            partial(_look, recipe, lean, family),
            _merge,
            "levels and pairs of levels",
        )
    )
    first.sums.counts.refuse_empty(first.sums.n)
    family.check_range(first.sums.least, first.sums.most, recipe.response)
    end = perf_counter()
    design, problem = _finish(recipe, lean, family, first, reducer)
    design = replace(
        design, source=replace(design.chunks, origin=Origin(data, reducer, reducer.text))
    )
    seconds = {"recipe": middle - begin, "levels": end - middle, "rows": perf_counter() - end}
    some = problem.source.sample()
    return design, replace(
        problem, seconds=seconds, eta_scale=family.eta_scale(some.y, some.weights)
    )


def _start(recipe: Recipe) -> First:
    return First(empty_sums(recipe))


def _look(recipe: Recipe, lean: Recipe, family: Family, first: First, table: pa.Table) -> First:
    """``first`` with the rows of a table."""
    block = recipe.block(table)
    if block.n:
        family.check(block.y, block.weights, recipe.response)
        if not family.has_own_constant:
            first.constant += float(family.constant(block.y, block.weights).sum())
        first.weighted |= block.weights is not None
    add_block(lean, first.sums, replace(block, weights=None))
    return first


def _merge(a: First, b: First) -> First:
    return First(merge_sums(a.sums, b.sums), a.constant + b.constant, a.weighted or b.weighted)


def _finish(
    recipe: Recipe, lean: Recipe, family: Family, first: First, reducer: Reducer
) -> tuple[Design, GeneralizedProblem]:
    sums = first.sums
    ordered = finish.ordered_terms(recipe, sums)
    kept, R, _, _ = finish._fixed(recipe, sums)
    design = finish.streamed_design(recipe, sums, ordered, kept, R)
    design = replace(design, weights=ABSENT if first.weighted else None)
    R = R / np.sqrt(sums.n)
    diag, _, pairs = finish.by_level(lean, sums, ordered, [], np.zeros(0))
    design = finish.with_grams(design, diag)
    pattern = CrossProducts(diag, (), pairs, np.zeros((1, 1)), sums.n, 0.0)
    plan = plan_for(pattern, tuple(term.group for term in design.terms))
    terms = tuple((one.numbered, recipe.terms[one.place].pool) for one in ordered)
    labels, fixed = tuple(one.place for one in ordered), tuple(recipe.fixed[j] for j in kept)
    evaluate = Evaluate(recipe, terms, labels, fixed, family.merges)
    locate = Locate.of(R, plan, pattern)
    rows = StreamedRows(
        plan,
        pattern,
        R,
        sums.n,
        first.constant,
        *_prepared(recipe, reducer, evaluate, locate, sums.n),
    )
    structures = tuple(term.structure for term in design.terms)
    return design, GeneralizedProblem(structures, design.terms, rows, family, design.names)  # type: ignore[arg-type]


def _prepared(
    recipe: Recipe, reducer: Reducer, evaluate: Evaluate, locate: Locate, n: int
) -> tuple[Prepared, int | None]:
    """Where the rows are kept, and how many they are after merging: on the workers of a cluster, else here."""
    if hasattr(reducer, "prepared"):
        return reducer.prepared(recipe.needed, partial(chain, evaluate, locate)), None
    row_bytes = 8 * (len(evaluate.fixed) + 3 + sum(len(term.pool) for term in recipe.terms)) + 4 * (
        len(locate.J) + len(locate.pairs)
    )
    spill = Spill(n, locate.J[0], row_bytes, evaluate.merges, getattr(reducer, "progress", None))
    reducer.map_reduce(
        Reduction(
            recipe.needed,
            lambda: spill,
            lambda spill, table: spill.take(evaluate(table)),
            _here,
            "rows, evaluated",
        )
    )
    spill.settle(locate)
    return spill, spill.n


def _here(a: Spill, b: Spill) -> Spill:
    return a
