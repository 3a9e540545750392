"""Bars -> one random term per grouping factor, most levels first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmm.covariance import STRUCTURES, Covariance, merge
from lmm.errors import FormulaError
from lmm.formula import Bar, Evaluated
from lmm.formula.engine import Part
from lmm.formula.grouping import Interaction, label
from lmm.formula.names import readable


@dataclass(frozen=True, eq=False)
class RandomPart:
    """All random effects of one grouping factor, columns of its bars side by side.

    ``parts`` are the structures of the bars, ``blocks`` their texts, ``sources`` the Wilkinson term of each column.
    """

    factors: Interaction
    columns: tuple[str, ...]
    levels: pd.Index
    codes: np.ndarray
    values: np.ndarray
    parts: tuple[Covariance, ...]
    blocks: tuple[str, ...]
    sources: tuple[str, ...]
    bars: tuple[Bar, ...]

    @property
    def group(self) -> str:
        """Name of the grouping factor."""
        return label(self.factors)

    @property
    def structure(self) -> Covariance:
        """Structure of all columns together."""
        return merge(list(self.parts))


def random_parts(found: Evaluated) -> list[RandomPart]:
    """The random terms, sorted by decreasing number of levels, ties as written.

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
            message = f"two grouping factors would have the name {label(factors)!r}; rename the column."
            raise FormulaError(message, found.formula.text, bars[0].span)
    out = [_merged(found, bars) for bars in together.values()]
    return sorted(out, key=lambda part: -len(part.levels))


def _merged(found: Evaluated, bars: list[Bar]) -> RandomPart:
    formula, levels = found.formula, found.groups[bars[0].factors]
    columns: list[str] = []
    sources: list[str] = []
    for bar in bars:
        part = found.random[bar.columns]
        names = [readable(name, found.awkward) for name in part.names]
        if not names:
            raise FormulaError("this random term has no columns; write (1 | g) or (x | g).", formula.text, bar.span)
        twice = [name for name in names if name in columns]
        if twice:
            slopes = [name for name in names if name not in twice]
            how = f"write (0 + {' + '.join(slopes)} | {bar.group})" if slopes else "leave it out"
            raise FormulaError(f"{twice[0]} already varies by {bar.group} in an earlier term; {how}.", formula.text, bar.span)
        columns += names
        sources += part.terms
    return RandomPart(
        bars[0].factors,
        tuple(columns),
        levels.values,
        levels.codes,
        _values([found.random[bar.columns] for bar in bars], found.n),
        tuple(STRUCTURES[bar.structure](found.random[bar.columns].values.shape[1]) for bar in bars),  # type: ignore[call-arg]
        tuple(bar.columns for bar in bars),
        tuple(sources),
        tuple(bars),
    )


def _values(parts: list[Part], n: int) -> np.ndarray:
    """(n, k) in Fortran order: a view where one bar gives all columns, and of a single one for an intercept alone."""
    if len(parts) > 1:
        return np.asfortranarray(np.concatenate([part.values for part in parts], axis=1))
    return parts[0].values
