"""Bars -> one random term per grouping factor, most levels first."""

from __future__ import annotations

import numpy as np

from lmm.covariance import STRUCTURES, Covariance, merge
from lmm.design.terms import RandomTerm
from lmm.errors import FormulaError
from lmm.formula import Bar, Evaluated, TermRecipe
from lmm.formula.columns.engine import Part
from lmm.formula.text.grouping import Interaction, label
from lmm.formula.text.names import readable


def random_terms(found: Evaluated) -> list[tuple[RandomTerm, TermRecipe]]:
    """The random terms, and what replays each, sorted by decreasing number of levels, ties as written.

    Raises
    ------
    FormulaError : a bar without columns, a column that two bars give to the same grouping factor, two grouping factors of one name.
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
    return sorted(out, key=lambda made: -made[0].J)


def _merged(found: Evaluated, bars: list[Bar]) -> tuple[RandomTerm, TermRecipe]:
    """All random effects of one grouping factor, columns of its bars side by side."""
    formula, levels = found.formula, found.groups[bars[0].factors]
    columns: list[str] = []
    sources: list[str] = []
    for bar in bars:
        part = found.random[bar.columns]
        names = [readable(name, found.awkward) for name in part.names]
        if not names:
            raise FormulaError(
                "this random term has no columns; write (1 | g) or (x | g).", formula.text, bar.span
            )
        twice = [name for name in names if name in columns]
        if twice:
            slopes = [name for name in names if name not in twice]
            how = f"write (0 + {' + '.join(slopes)} | {bar.group})" if slopes else "leave it out"
            raise FormulaError(
                f"{twice[0]} already varies by {bar.group} in an earlier term; {how}.",
                formula.text,
                bar.span,
            )
        columns += names
        sources += part.terms
    readable_sources = tuple(readable(source, found.awkward) for source in sources)
    blocks = tuple(bar.columns for bar in bars)
    recipe = TermRecipe(bars[0].factors, levels.values, blocks, tuple(columns), readable_sources)
    structures: list[Covariance] = []
    for bar in bars:
        k = found.random[bar.columns].values.shape[1]
        structure = STRUCTURES[bar.structure]
        if k < structure.least:
            message = (
                f"{bar} has one column ({columns[-1]}); {bar.structure} is a covariance of several, "
                f"such as those of {bar.structure}(0 + time | {bar.group}) with a categorical."
            )
            raise FormulaError(message, formula.text, bar.span)
        structures.append(structure(k))  # type: ignore[call-arg]
    values = _values([found.random[bar.columns] for bar in bars])
    return RandomTerm(
        levels.codes, values, recipe.group, recipe.columns, levels.values, merge(structures)
    ), recipe


def _values(parts: list[Part]) -> np.ndarray:
    """(n, k) in Fortran order: a view where one bar gives all columns, and of a single one for an intercept alone."""
    if len(parts) > 1:
        return np.asfortranarray(np.concatenate([part.values for part in parts], axis=1))
    return parts[0].values
