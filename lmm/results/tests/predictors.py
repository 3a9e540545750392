"""The variables behind the fixed effects, as the rows of the fit have them: what a grid of new rows is made of.

A variable is categorical when its column is (text, a categorical, booleans), or when it is a number that the formula
turns into categories, ``C(dose)``; otherwise it is a covariate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.errors import ArgumentError
from lmm.formula.columns.levels import encode
from lmm.formula.evaluate import as_predictor
from lmm.formula.text.names import alias, names_in


@dataclass(frozen=True, eq=False)
class Variable:
    """One column that the fixed part, or an offset, is computed from.

    Attributes
    ----------
    name : of the user's column.
    values : (n,) in the rows used, categories that do not occur left out; where rows were not kept, some of them with every level.
    categorical : whether it has levels rather than a scale.
    known : mean and a few distinct values of a number, where rows were not kept.
    """

    name: str
    values: pd.Series
    categorical: bool
    known: tuple[float, tuple[float, ...]] | None = None

    @property
    def mean(self) -> float:
        """Mean of a number over the rows of the fit."""
        return float(self.values.mean()) if self.known is None else self.known[0]

    @property
    def distinct(self) -> int:
        """How many values a number has; where rows were not kept, counted to three."""
        return int(self.values.nunique()) if self.known is None else len(self.known[1])

    @property
    def levels(self) -> list[object]:
        """The distinct values: categories in their order, else sorted."""
        if self.known is not None and not self.categorical:
            return [type(self.values.iloc[0])(value) for value in self.known[1]]
        return list(encode(self.values, self.name).values)


def columns_in(design: Design, texts: Iterable[str]) -> list[str]:
    """Names of the user's columns that expressions use, in the order met.

    Raises
    ------
    ArgumentError : for one that is not a column but an array of the caller.
    """
    frame = design.frame
    found: dict[str, None] = {}
    for text in texts:
        for name, called, _ in names_in(text):
            root = name.split(".", 1)[0]
            if name in frame.arrays and not called:
                raise ArgumentError(
                    f"{name!r} is an array, not a column of the data; make it a column, so that new rows can have it too."
                )
            if name in frame.table and not called:
                found[name] = None
            elif root in frame.table and (not called or "." in name):
                found[root] = None
    return list(found)


def variables(
    design: Design, with_offset: bool = True, with_slopes: bool = False
) -> list[Variable]:
    """The variables of the fixed part, and of offsets in the formula, in the order of the formula.

    With ``with_slopes`` those of random slopes after them, which no fixed effect need have.
    """
    formula = design.formula
    texts = [formula.fixed, *(formula.offsets if with_offset else ())]
    slopes = [bar.columns for bar in formula.bars] if with_slopes else []
    texts += slopes
    coded = _coded(design, [formula.fixed, *slopes])
    out = []
    for name in columns_in(design, texts):
        column, known = design.rows.observed(name)
        values = as_predictor(column)
        numeric = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(
            values.dtype
        )
        out.append(Variable(name, values, not numeric or name in coded, known))
    return out


def interactions(design: Design) -> list[set[str]]:
    """The columns of each term of the fixed part that has two factors or more."""
    spec = design.frame.specs.get(design.formula.fixed)
    if spec is None:
        return []
    return [
        set().union(*(_columns(design, f.expr) for f in term.factors))
        for term in spec.formula
        if len(term.factors) > 1
    ]


def formula_nests(design: Design) -> dict[str, set[str]]:
    """Columns that the formula nests in others, as ``a/b`` = ``a + a:b`` does b: every term with b has a, and a stands without b."""
    spec = design.frame.specs.get(design.formula.fixed)
    if spec is None:
        return {}
    terms = [
        set().union(*(_columns(design, f.expr) for f in term.factors))
        for term in spec.formula
        if term.factors
    ]
    out = {}
    for name in set().union(*terms):
        outer = set.intersection(*(term for term in terms if name in term)) - {name}
        outer = {
            other for other in outer if any(other in term and name not in term for term in terms)
        }
        if outer:
            out[name] = outer
    return out


def _coded(design: Design, texts: Iterable[str]) -> set[str]:
    """Columns that enter these parts of the formula through categories alone."""
    kinds: dict[bool, set[str]] = {True: set(), False: set()}
    for text in texts:
        spec = design.frame.specs.get(text)
        if spec is None:
            continue
        own = {factor.expr for term in spec.formula for factor in term.factors}
        for expression, (kind, state) in spec.encoder_state.items():
            if expression in own:
                condition = all(
                    isinstance(level, bool | np.bool_) for level in state.get("categories", (None,))
                )  # x > 3 leaves x a number
                categorical = getattr(kind, "value", kind) == "categorical" and not condition
                kinds[categorical] |= _columns(design, expression)
    return kinds[True] - kinds[False]


def _columns(design: Design, expression: str) -> set[str]:
    """Columns in an expression as it is evaluated, by the user's names."""
    originals = {alias(name): name for name in design.frame.awkward}
    return {originals.get(name, name) for name, called, _ in names_in(expression) if not called}
