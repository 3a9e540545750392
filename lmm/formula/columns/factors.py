"""Terms of the fixed part as products of factors: which columns are theirs, and the overparametrised model behind any coding.

A term's columns are products of its factors' columns, the first factor's varying fastest: a number's own columns, a
category's coded by contrasts. With an indicator per level instead of the coding, a term has a column for every cell, and the
coefficients of the columns say which functions of the cells they are (:mod:`lmm.inference.tests.estimable`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmm.formula.columns.levels import matched
from lmm.formula.frame import ModelFrame
from lmm.formula.text.names import readable


@dataclass(frozen=True, eq=False)
class FixedFactor:
    """One factor of the formula.

    Attributes
    ----------
    name : the expression, as it is evaluated.
    levels : of a category, else None.
    coding : (levels, c) contrasts of a category, else None.
    width : columns: levels of a category, columns of a number.
    """

    name: str
    levels: tuple[object, ...] | None
    coding: np.ndarray | None
    width: int


@dataclass(frozen=True, eq=False)
class FixedTerm:
    """One term of the fixed part.

    Attributes
    ----------
    label : as printed, ``"recipe:temp"``; ``"1"`` for the intercept.
    factors : names of its factors.
    columns : positions among all columns of the formula, dropped ones included.
    pieces : products that its columns are made of side by side: factors with whether they are coded, and a number.
    """

    label: str
    factors: tuple[str, ...]
    columns: range
    pieces: tuple[tuple[tuple[tuple[str, bool], ...], float], ...]


#: rows: per factor codes (N,) of a category or values (N, width) of a number
Rows = Mapping[str, np.ndarray]


def fixed_structure(frame: ModelFrame) -> tuple[dict[str, FixedFactor], list[FixedTerm]]:
    """The factors of the fixed part by name, and its terms in the order of their columns, the intercept among them."""
    spec = frame.specs[frame.formula.fixed]
    if spec is None:  # the column of ones, without formulaic
        return {}, [FixedTerm("1", (), range(1), (((), 1.0),))]
    contrasts = {str(name): state for name, state in spec.factor_contrasts.items()}
    terms: list[FixedTerm] = []
    widths: dict[str, int] = {}
    at = 0
    for row in spec.structure:
        pieces = tuple(
            (tuple((str(f.factor), bool(f.reduced)) for f in s.factors), float(s.scale))
            for s in row.scoped_terms
        )
        names = tuple(dict.fromkeys(name for piece, _ in pieces for name, _ in piece))
        terms.append(
            FixedTerm(
                readable(str(row.term), frame.awkward),
                names,
                range(at, at + len(row.columns)),
                pieces,
            )
        )
        start = 0
        for piece, _ in pieces:
            fixed = {
                i: len(contrasts[name].levels) - reduced
                for i, (name, reduced) in enumerate(piece)
                if name in contrasts
            }
            parts = [_split(str(column)) for column in list(row.columns)[start:]]
            for i, (name, _) in enumerate(piece):
                if i not in fixed:
                    fixed[i] = widths.setdefault(
                        name,
                        len(dict.fromkeys(part[i] for part in parts if len(part) == len(piece))),
                    )
            start += int(np.prod([fixed[i] for i in range(len(piece))], dtype=int))
        at += len(row.columns)
    factors = {}
    for name in dict.fromkeys(name for term in terms for name in term.factors):
        if name in contrasts:
            levels = tuple(contrasts[name].levels)
            coding = np.asarray(
                contrasts[name].contrasts.get_coding_matrix(list(levels), reduced_rank=True),
                dtype=float,
            )
            factors[name] = FixedFactor(name, levels, coding, len(levels))
        else:
            factors[name] = FixedFactor(name, None, None, widths[name])
    return factors, terms


def _split(column: str) -> list[str]:
    """The parts of a column's name between colons that are outside brackets."""
    out, depth, start = [], 0, 0
    for i, c in enumerate(column):
        depth += (c in "([{") - (c in ")]}")
        if c == ":" and depth == 0:
            out.append(column[start:i])
            start = i + 1
    return [*out, column[start:]]


def invented_rows(
    factors: Mapping[str, FixedFactor], count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Rows in which every level and any number may come together."""
    return {
        name: rng.integers(0, f.width, count)
        if f.levels is not None
        else rng.standard_normal((count, f.width))
        for name, f in factors.items()
    }


def observed_rows(
    frame: ModelFrame, factors: Mapping[str, FixedFactor], used: np.ndarray
) -> dict[str, np.ndarray]:
    """The factors in the rows of the fit; ``used`` are their positions in the user's table."""
    evaluator, complete = frame.on(frame.table, [frame.formula.fixed])
    evaluator = evaluator.on(evaluator.columns.taken(np.cumsum(complete)[used] - 1))
    out = {}
    for name, factor in factors.items():
        values = evaluator.expression(name)
        values = getattr(values, "__wrapped__", values)
        if factor.levels is not None:
            out[name] = matched(values, pd.Index(factor.levels), name).codes
        else:
            columns = list(values.values()) if isinstance(values, dict) else [np.asarray(values)]
            numbers = np.column_stack([np.asarray(column, dtype=float) for column in columns])
            out[name] = np.broadcast_to(numbers, (len(used), factor.width))
    return out


def coded_columns(
    factors: Mapping[str, FixedFactor], terms: list[FixedTerm], rows: Rows, count: int
) -> np.ndarray:
    """The columns of the formula (count, p_all) for such rows, with its contrasts."""
    blocks = []
    for term in terms:
        for piece, scale in term.pieces:
            blocks.append(
                scale
                * _product(
                    [_block(factors[name], rows[name], reduced) for name, reduced in piece], count
                )
            )
    return np.concatenate(blocks, axis=1)


def cell_columns(
    factors: Mapping[str, FixedFactor], term: FixedTerm, rows: Rows, count: int
) -> np.ndarray:
    """The columns of one term (count, cells), an indicator per level."""
    return _product([_block(factors[name], rows[name], False) for name in term.factors], count)


def references(factors: Mapping[str, FixedFactor], term: FixedTerm) -> np.ndarray:
    """How many of the term's categories are at their first level, per cell."""
    total = np.zeros(1, dtype=int)
    for name in term.factors:
        own = np.zeros(factors[name].width, dtype=int)
        own[0] = factors[name].levels is not None
        total = (own[:, None] + total).ravel()
    return total


def _block(factor: FixedFactor, values: np.ndarray, reduced: bool) -> np.ndarray:
    if factor.levels is None:
        return values
    table = factor.coding if reduced and factor.coding is not None else np.eye(factor.width)
    return np.asarray(table[values])


def _product(blocks: list[np.ndarray], count: int) -> np.ndarray:
    out = np.ones((count, 1))
    for block in blocks:
        out = (block[:, :, None] * out[:, None, :]).reshape(count, -1)
    return out
