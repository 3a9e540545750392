"""The grid of rows over which estimated marginal means are averages, and the linear functions of the coefficients they are.

A grid has a row for every combination of the levels of the categorical predictors, covariates standing at their means.
As in R's emmeans a covariate with no more than two values counts as categorical, and an offset is taken at its mean. The
predictor of a row is x'beta + offset; a mean over rows is l'beta with l their average. Whether the data determine
it where columns of X were dropped is in :mod:`lmm.results.tests.dependence`.

Searle, Speed & Milliken (1980), The American Statistician 34; Lenth (2016), Journal of Statistical Software 69.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.design.design import Design
from lmm.errors import ArgumentError, nearest
from lmm.formula.columns.levels import matched
from lmm.results.files.marginal_effects import new_offset
from lmm.results.tests.predictors import Variable, columns_in, formula_nests, variables
from lmm.stream.absent import ABSENT

#: covariates with so many values are taken at each of them
FEW = 2
WEIGHTS = ("equal", "proportional", "cells")
MAX_ROWS = 1_000_000


@dataclass(frozen=True, eq=False)
class Grid:
    """m rows over which means are taken.

    Attributes
    ----------
    levels : values of each variable, first variable fastest in the rows.
    codes : (m, variables) position of each row's value among them.
    L : (m, p_all) columns of the fixed part, dropped ones included.
    offset : (m,).
    frequency : (m,) rows of the data in each cell of the categorical variables.
    constant : (m,) one for a row, zero for the difference of two.
    nests : factors that are nested in others, by name: by the data, each level of it with one of theirs, or as ``a/b`` in the formula.
    """

    levels: dict[str, list[object]]
    codes: np.ndarray
    L: np.ndarray
    offset: np.ndarray
    frequency: np.ndarray
    constant: np.ndarray
    nests: dict[str, tuple[str, ...]]

    @property
    def possible(self) -> np.ndarray:
        """(m,) bool, rows whose nested factors have a level that is one of the level they are nested in."""
        out, order = np.ones(len(self.codes), dtype=bool), list(self.levels)
        for name, outer in self.nests.items():
            cell, count = _ravel(self, [order.index(v) for v in (name, *outer)])
            out &= (np.bincount(cell, self.frequency, count) > 0.0)[cell]
        return out


@dataclass(frozen=True, eq=False)
class Linear:
    """r linear functions of the coefficients.

    Attributes
    ----------
    table : r rows, the values of the variables that they are for.
    L : (r, p_all), offset (r,), constant (r,) the sum of the weights of rows.
    """

    table: pd.DataFrame
    L: np.ndarray
    offset: np.ndarray
    constant: np.ndarray


def reference_grid(
    design: Design, at: Mapping[str, object] | None, shift: tuple[str, float] | None = None
) -> Grid:
    """The grid of a design.

    Parameters
    ----------
    at : values for some of the variables in place of their levels, or of the mean.
    shift : a covariate and what to add to it in every row.

    Raises
    ------
    ArgumentError : for a variable that the fixed part does not have, or a level that it never had.
    """
    inside = {v.name for v in variables(design, with_offset=False)}
    found = [v for v in variables(design) if v.name in inside or v.name in (at or {})]
    at = _checked(found, at or {})
    levels = {v.name: at[v.name] if v.name in at else _levels(v) for v in found}
    shape = [len(values) for values in levels.values()]
    m = int(np.prod(shape)) if shape else 1
    if m > MAX_ROWS:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in levels.items())
        raise ArgumentError(
            f"the reference grid would have {m} rows ({sizes}); fix some of the variables by at=."
        )
    codes = (
        np.column_stack(np.unravel_index(np.arange(m), shape, order="F"))
        if shape
        else np.zeros((1, 0), dtype=int)
    )
    table = pd.DataFrame(
        {v.name: _taken(v, levels[v.name], codes[:, i]) for i, v in enumerate(found)},
        index=pd.RangeIndex(m),
    )
    if shift is not None:
        table[shift[0]] = table[shift[0]] + shift[1]
    X, frequency = design.frame.new_X(table), _frequency(design, found, levels, codes)
    factors = [v.name for v in found if v.categorical]
    return Grid(
        levels,
        codes,
        X,
        _offset(design, table, at),
        frequency,
        np.ones(m),
        _nests(design, factors, levels, codes, frequency),
    )


def _nests(
    design: Design,
    factors: Sequence[str],
    levels: Mapping[str, list[object]],
    codes: np.ndarray,
    frequency: np.ndarray,
) -> dict[str, tuple[str, ...]]:
    """Per nested factor those that it is nested in."""
    if design.streamed:
        return {}
    written = formula_nests(design)
    several = [name for name in factors if len(levels[name]) > 1]
    order = list(levels)
    out: dict[str, tuple[str, ...]] = {}
    for name in several:
        outer = []
        for other in several:
            if other == name or name in out.get(other, ()):
                continue
            table = np.zeros((len(levels[name]), len(levels[other])))
            np.add.at(table, (codes[:, order.index(name)], codes[:, order.index(other)]), frequency)
            if ((table > 0.0).sum(axis=1) <= 1).all() or other in written.get(name, ()):
                outer.append(other)
        if outer:
            out[name] = tuple(outer)
    return out


def averages(grid: Grid, names: Sequence[str], weights: str) -> Linear:
    """Means over all rows of the grid that agree in the variables ``names``; a row each, the first variable fastest.

    Parameters
    ----------
    weights : "equal"; "proportional" to the frequencies of the combinations averaged over; "cells", to each cell's own.
    """
    arguments.choice(weights, "weights", WEIGHTS)
    order = list(grid.levels)
    for name in names:
        if name not in order:
            raise ArgumentError(
                f"{name!r} is not a variable of the fixed effects; those are {', '.join(order) or 'none'}.{nearest(name, order)}"
            )
    own = [order.index(name) for name in names]
    rest = [i for i in range(len(order)) if i not in own]
    cell, r = _ravel(grid, own)
    other, s = _ravel(grid, rest)
    w, possible = np.ones(len(cell)), grid.possible
    if weights == "proportional":
        w = np.bincount(other, grid.frequency, s)[other]
    elif weights == "cells":
        w = grid.frequency
    w = np.where(possible, w, 0.0)
    total = np.bincount(cell, w, r)
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.where(possible, w / total[cell], 0.0)
    A = np.zeros((r, len(cell)))
    A[cell, np.arange(len(cell))] = w
    shape = [len(grid.levels[name]) for name in names]
    places = np.unravel_index(np.arange(r), shape, order="F") if names else ()
    table = pd.DataFrame(
        {name: _labels(grid.levels[name], at) for name, at in zip(names, places, strict=True)},
        index=pd.RangeIndex(r),
    )
    exist = np.bincount(cell, possible, r) > 0.0
    table, A = table[exist].reset_index(drop=True), A[exist]
    L = np.where(possible[:, None], grid.L, 0.0)
    return Linear(table, A @ L, A @ grid.offset, A @ grid.constant)


def _levels(variable: Variable) -> list[object]:
    if variable.categorical or variable.distinct <= FEW:
        return variable.levels
    return [variable.mean]


def _checked(found: Sequence[Variable], at: Mapping[str, object]) -> dict[str, list[object]]:
    known = {v.name: v for v in found}
    out = {}
    for name, given in at.items():
        if name not in known:
            raise ArgumentError(
                f"at= names {name!r}, which the fixed effects do not use; they use {', '.join(known)}.{nearest(name, known)}"
            )
        values: list[Any] = (
            list(given)
            if isinstance(given, (list, tuple, np.ndarray, pd.Series, pd.Index, range))
            else [given]
        )
        if not values:
            raise ArgumentError(f"at= gives no value of {name!r}.")
        if known[name].categorical:
            own = {str(level): level for level in known[name].levels}
            absent = [v for v in values if str(v) not in own]
            if absent:
                raise ArgumentError(
                    f"at= asks for {name}={absent[0]!r}; its levels are {', '.join(own)}.{nearest(str(absent[0]), own)}"
                )
            out[name] = [own[str(v)] for v in values]
        else:
            try:
                numbers = [float(v) for v in values]
            except (TypeError, ValueError):
                raise ArgumentError(f"at= must give numbers for the covariate {name!r}.") from None
            if not np.isfinite(numbers).all():
                raise ArgumentError(f"at= must give finite numbers for the covariate {name!r}.")
            out[name] = values
    return out


def _offset(design: Design, table: pd.DataFrame, at: Mapping[str, object]) -> np.ndarray:
    """(m,) the mean offset; that of the formula where ``at`` gives a value of one of its variables."""
    if design.offset is None:
        return np.zeros(len(table))
    own = columns_in(design, design.formula.offsets)
    if any(name in at for name in own):
        absent = [name for name in own if name not in table]
        if absent:
            raise ArgumentError(
                f"at= gives a variable of the offset; give {', '.join(map(repr, absent))} too, which it also uses."
            )
        evaluated = new_offset(design, table)
        assert evaluated is not None
        return evaluated
    return np.full(len(table), design.rows.offset_mean)


def _taken(variable: Variable, levels: list[object], codes: np.ndarray) -> object:
    """Values of one variable in the rows of the grid, in the column's own type."""
    dtype = variable.values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.Categorical(
            [levels[i] for i in codes], categories=dtype.categories, ordered=dtype.ordered
        )
    return np.array(
        levels, dtype=object if variable.categorical and dtype.kind not in "iufb" else None
    )[codes]


def _labels(levels: list[object], codes: np.ndarray) -> object:
    if all(isinstance(level, str) for level in levels):
        return pd.Categorical.from_codes(codes, categories=pd.Index(levels))
    return np.array(levels)[codes]


def _frequency(
    design: Design, found: Sequence[Variable], levels: Mapping[str, list[object]], codes: np.ndarray
) -> np.ndarray:
    """Rows of the data in each cell of the variables that have levels."""
    own = [i for i, v in enumerate(found) if v.categorical or v.distinct <= FEW]
    if not own:
        return np.full(len(codes), float(design.n))
    if design.streamed:
        return ABSENT
    shape = [len(levels[found[i].name]) for i in own]
    where = np.column_stack(
        [
            matched(found[i].values, pd.Index(levels[found[i].name]), found[i].name).codes
            for i in own
        ]
    )
    inside = ((where >= 0) & (where < shape)).all(axis=1)
    flat = np.ravel_multi_index(tuple(where[inside].T), shape)
    counts = np.bincount(flat, minlength=int(np.prod(shape))).astype(float)
    return counts[np.ravel_multi_index(tuple(codes[:, own].T), shape)]


def _ravel(grid: Grid, columns: list[int]) -> tuple[np.ndarray, int]:
    """The cell of each row in some of the variables, first fastest, and how many cells there are."""
    shape = [len(values) for values in grid.levels.values()]
    sizes = [shape[i] for i in columns]
    if not sizes:
        return np.zeros(len(grid.codes), dtype=int), 1
    return np.ravel_multi_index(tuple(grid.codes[:, columns].T), sizes, order="F"), int(
        np.prod(sizes)
    )
