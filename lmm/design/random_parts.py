"""Bars -> one random term per grouping factor, most levels first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lmm.covariance import STRUCTURES, Covariance, merge
from lmm.design.terms import RandomTerm
from lmm.errors import FormulaError
from lmm.formula import Bar, Evaluated, TermRecipe
from lmm.formula.columns.engine import ModelMatrix
from lmm.formula.columns.layout import Layout, Places, position_names, positions
from lmm.formula.columns.levels import strings
from lmm.formula.members_recipe import MembersRecipe
from lmm.formula.text.grouping import Interaction, label
from lmm.formula.text.names import readable
from lmm.formula.text.tokens import quote


def random_terms(
    found: Evaluated, covariance: Mapping[str, object] | None = None
) -> list[tuple[RandomTerm, TermRecipe]]:
    """The random terms, and what replays each, sorted by decreasing number of levels, ties as written.

    ``covariance`` gives those of levels that are known, by grouping factor.

    Raises
    ------
    FormulaError : a bar without columns, a column that two bars give to the same grouping factor, two grouping factors of one name,
        columns that a covariance structure cannot take.
    """
    together: dict[Interaction, list[Bar]] = {}
    for bar in found.formula.bars:
        together.setdefault(bar.factors, []).append(bar)
    owners: dict[str, Interaction] = {}
    for factors, bars in together.items():
        if owners.setdefault(label(factors), factors) != factors:
            message = (
                f"two grouping factors would have the name {label(factors)!r}; rename the column."
            )
            raise FormulaError(message, found.formula.text, bars[0].span)
    out = [_merged(found, bars) for bars in together.values()]
    if covariance:
        out = _related(out, covariance)
    return sorted(out, key=lambda made: -made[0].J)


def _related(
    made: list[tuple[RandomTerm, TermRecipe]], covariance: Mapping[str, object]
) -> list[tuple[RandomTerm, TermRecipe]]:
    """The terms whose levels have a known covariance, over all levels that it has.

    Raises
    ------
    ArgumentError : what is wrong with a covariance, by its grouping factor.
    """
    from lmm.known.given_covariance import relations

    found = relations(covariance, [term.group for term, _ in made])
    out = []
    for term, recipe in made:
        relation = found.get(term.group)
        if relation is not None:
            codes = relation.place(term.levels).astype(np.int32)[term.codes]
            levels = relation.levels
            term = replace(term, codes=codes, levels=levels, relation=relation)
            recipe = replace(recipe, levels=levels)
        out.append((term, recipe))
    return out


@dataclass(frozen=True, eq=False)
class Block:
    """The columns of one bar.

    Attributes
    ----------
    values : (n, k).
    columns, sources : their k names, and the terms of the formula that they come from.
    structure : of their covariance.
    layout : what makes the values of those that the formula gives.
    """

    values: np.ndarray
    columns: tuple[str, ...]
    sources: tuple[str, ...]
    structure: Covariance
    layout: Layout


def _merged(found: Evaluated, bars: list[Bar]) -> tuple[RandomTerm, TermRecipe]:
    """All random effects of one grouping factor, columns of its bars side by side."""
    formula, levels = found.formula, found.groups[bars[0].factors]
    blocks = [_block(found, bar) for bar in bars]
    columns: list[str] = []
    sources: list[str] = []
    for bar, block in zip(bars, blocks, strict=True):
        twice = [name for name in block.columns if name in columns]
        if twice:
            slopes = [name for name in block.columns if name not in twice]
            how = f"write (0 + {' + '.join(slopes)} | {bar.group})" if slopes else "leave it out"
            raise FormulaError(
                f"{twice[0]} already varies by {bar.group} in an earlier term; {how}.",
                formula.text,
                bar.span,
            )
        columns += block.columns
        sources += block.sources
    layouts = tuple(block.layout for block in blocks)
    recipe = TermRecipe(
        bars[0].factors,
        levels.values,
        tuple(bar.columns for bar in bars),
        tuple(columns),
        tuple(sources),
        layouts=layouts if any(type(layout) is not Layout for layout in layouts) else (),
    )
    if levels.shares is not None:
        recipe = MembersRecipe.of(recipe, levels.shares)
    values = _values([block.values for block in blocks])
    structure = merge([block.structure for block in blocks])
    term = RandomTerm(
        levels.codes,
        values,
        recipe.group,
        recipe.columns,
        levels.values,
        structure,
        shares=levels.shares,
    )
    return term, recipe


def _block(found: Evaluated, bar: Bar) -> Block:
    """The columns of one bar and their structure.

    Raises
    ------
    FormulaError : where there are none, or not those that the structure is made for.
    """
    part = found.random[bar.columns]
    names = tuple(readable(name, found.awkward) for name in part.names)
    if not names:
        raise FormulaError(
            "this random term has no columns; write (1 | g) or (x | g).",
            found.formula.text,
            bar.span,
        )
    structure = STRUCTURES[bar.structure]
    if structure.over_coordinates:
        return _of_coordinates(found, bar, part, names)
    if structure.ordered and "Intercept" in names and len(names) > 1:
        raise FormulaError(
            f"{bar.structure}(...) is a covariance of ordered columns, of which an intercept is none; "
            f"write {bar.structure}(0 + {bar.columns} | {bar.group}).",
            found.formula.text,
            bar.span,
        )
    sources = tuple(readable(source, found.awkward) for source in part.terms)
    places, k = tuple(range(len(names))), len(names)
    if structure.ordered:
        names, places, k = _in_declared_places(found, bar, part, names)
    if k < structure.least:
        levels = "0 + time" if names[-1] == "Intercept" else f"0 + factor({quote(names[-1])})"
        raise FormulaError(
            f"{bar} has one column ({names[-1]}); {bar.structure} is a covariance of several, "
            f"such as those of {bar.structure}({levels} | {bar.group}) with a categorical.",
            found.formula.text,
            bar.span,
        )
    if bar.rank > k:
        raise FormulaError(
            f"{bar} has {bar.rank} factors of {k} columns; take d={k} or fewer.",
            found.formula.text,
            bar.span,
        )
    made = structure(k, bar.rank) if bar.rank else structure(k)  # type: ignore[call-arg]
    if k == len(part.names):
        return Block(part.values, names, sources, made, Layout())
    layout = Places(places, k)
    return Block(layout.of(part.values), names, sources[:1] * k, made, layout)


def _in_declared_places(
    found: Evaluated, bar: Bar, part: ModelMatrix, names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    """Names of the columns of all declared levels of a categorical, the places of those that occur, and how many there are.

    Raises
    ------
    FormulaError : where a level that does not occur would have a parameter of its own.
    """
    every = names, tuple(range(len(names))), len(names)
    if (
        len(set(part.terms)) > 1
        or part.spec is None
        or part.terms[0] not in part.spec.encoder_state
    ):
        return every
    values = found.evaluator.expression(part.terms[0])
    if not isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        return every
    term = readable(part.terms[0], found.awkward)
    declared = [f"{term}[{level}]" for level in strings(values.dtype.categories)]
    if any(name not in declared for name in names) or len(declared) == len(names):
        return every
    if not STRUCTURES[bar.structure].alone:
        lost = next(name for name in declared if name not in names)
        raise FormulaError(
            f"{lost} occurs in no row, so that the data do not tell its parameters in {bar}; ar1, of one variance and one correlation, "
            "keeps its place, and remove_unused_categories() closes the gap.",
            found.formula.text,
            bar.span,
        )
    return tuple(declared), tuple(declared.index(name) for name in names), len(declared)


def _of_coordinates(found: Evaluated, bar: Bar, part: ModelMatrix, names: tuple[str, ...]) -> Block:
    """One column for each distinct position.

    Raises
    ------
    FormulaError : for coordinates that are no numbers, more of them than the structure takes, or too few positions.
    """
    structure = STRUCTURES[bar.structure]
    message = ""
    if part.spec is not None and part.spec.encoder_state:
        state = part.spec.encoder_state
        categories = [
            readable(term, found.awkward)
            for term in dict.fromkeys(part.terms)
            if term in state and state[term][0].name == "CATEGORICAL"
        ]
        if categories:
            message = (
                f"{categories[0]} is no number; {bar.structure} takes coordinates. For the levels of a categorical write "
                f"ar1(0 + {categories[0]} | {bar.group}) or another structure."
            )
    if not message and structure.dimensions and len(names) != structure.dimensions:
        message = f"{bar.structure} takes one coordinate, not {len(names)}; exp, gau and mat take several."
    layout = positions(part.values)
    k = len(layout.points)
    if not message and k < structure.least:
        message = f"{bar} has {k} distinct position{'s' * (k > 1)}; {bar.structure} needs at least {structure.least}."
    if message:
        raise FormulaError(message, found.formula.text, bar.span)
    made = structure(layout.points)  # type: ignore[call-arg]
    columns = tuple(position_names(names, layout.points))
    return Block(layout.of(part.values), columns, (bar.source,) * k, made, layout)


def _values(parts: list[np.ndarray]) -> np.ndarray:
    """(n, k) in Fortran order: a view where one bar gives all columns, and of a single one for an intercept alone."""
    return parts[0] if len(parts) == 1 else np.asfortranarray(np.concatenate(parts, axis=1))
