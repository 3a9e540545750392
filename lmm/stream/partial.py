"""The sums of one chunk of rows, and of two: everything that a linear mixed model needs of its rows.

For the columns u of the recipe (fixed and random ones), r = y - offset - X beta_pilot and weights w, per level of every
grouping factor: sums of w u_a u_b and w u_a r; per pair of levels of two factors: sums of w u_a u_b; over all rows: the
cross-products of 1, the centred columns and r. r is small where the pilot fits, so that nothing is lost when the final
least-squares coefficients are subtracted from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lmm.design.terms import product
from lmm.errors import DataError
from lmm.formula.columns.complete import RowCounts
from lmm.stream.levels.found_levels import (
    FoundLevels,
    absorbed,
    added,
    key,
    levels_of,
    listed,
    unkey,
)
from lmm.stream.levels.pairs import PairSums
from lmm.stream.recipe import Chunk, Recipe, TermColumns
from lmm.stream.reducers import Reduction

if TYPE_CHECKING:
    import pyarrow as pa

#: place of the residual of the pilot fit among the factors of a product
RESIDUAL = -1
#: rows whose products are made at a time, so that they stay in cache
STRIP = 65536
#: distinct values of a covariate that are remembered
FEW = 2


def products_of(recipe: Recipe, term: TermColumns) -> list[tuple[int, int]]:
    """The products (a, b), a <= b places in the pool, that are summed per level; RESIDUAL comes as the first of a pair."""
    own = [(min(a, b), max(a, b)) for i, a in enumerate(term.pool) for b in term.pool[: i + 1]]
    fixed = [(min(a, c), max(a, c)) for c in recipe.fixed for a in term.pool]
    return list(dict.fromkeys([*own, *fixed, *((RESIDUAL, a) for a in term.pool)]))


@dataclass(frozen=True, eq=False)
class Numbered:
    """Levels of one grouping factor in their final order: ``place`` of each id less ``low``."""

    levels: FoundLevels
    place: np.ndarray
    low: int

    def codes(self, labels: tuple[pa.Array, ...]) -> np.ndarray:
        """Level of each row, (n,) int32."""
        size = self.levels.size
        try:
            ids = self.levels.add(labels if len(labels) > 1 else labels[0])
        except OverflowError:
            size = -1
        if self.levels.size != size:
            raise DataError(
                "a grouping factor has levels that it had not when the rows were read first: the data changed meanwhile."
            )
        return self.places(ids)

    def places(self, ids: np.ndarray) -> np.ndarray:
        """The places of ids, int32."""
        return np.asarray(self.place[ids - self.low], dtype=np.int32)


@dataclass
class TermSums:
    """Sums (products, capacity) by position of the level, and which positions have a row."""

    levels: FoundLevels
    sums: np.ndarray
    seen: np.ndarray
    low: int = 0

    def cover(self) -> None:
        """Make room for all levels that are known; positions move when the smallest id does."""
        size, capacity = self.levels.size, self.sums.shape[1]
        shift = self.low - self.levels.low if self.seen.any() else 0
        if size <= capacity and not shift:
            if not self.seen.any():
                self.low = self.levels.low
            return
        room = max(size, min(2 * capacity, size + (size >> 3)))
        sums, seen = np.zeros((len(self.sums), room)), np.zeros(room, dtype=bool)
        held = min(capacity, size - shift)
        sums[:, shift : shift + held], seen[shift : shift + held] = (
            self.sums[:, :held],
            self.seen[:held],
        )
        self.sums, self.seen, self.low = sums, seen, self.levels.low

    def ids(self) -> np.ndarray:
        """Ids of the levels that have rows."""
        return np.flatnonzero(self.seen) + self.low

    def numbered(self) -> tuple[np.ndarray, Numbered]:
        """Ids of the levels that occur, in the order of a fit in memory, and what finds the places of rows in it."""
        ids = self.ids()
        order = ids[self.levels.order(ids)]
        place = np.zeros(self.seen.size, dtype=np.int32)
        place[order - self.low] = np.arange(len(order), dtype=np.int32)
        return order, Numbered(self.levels, place, self.low)

    def list_levels(self, type: pa.DataType) -> tuple[np.ndarray, np.ndarray]:
        """Number levels that were their own ids: the old ids, and the new."""
        old = self.ids()
        new, levels = listed(self.levels, old, type)
        sums = np.zeros((len(self.sums), levels.size))
        sums[:, new] = self.sums[:, old - self.low]
        self.levels, self.sums, self.seen, self.low = (
            levels,
            sums,
            np.ones(levels.size, dtype=bool),
            0,
        )
        return old, new


@dataclass
class Covariate:
    """The sum of a numeric column, and its distinct values as long as they are few."""

    total: float = 0.0
    distinct: tuple[float, ...] = ()

    def add(self, values: np.ndarray) -> None:
        """Add values (n,)."""
        self.total += float(np.sum(values))
        if len(self.distinct) <= FEW:
            head = np.unique(values[:1000])
            self._join(np.unique(values) if len(head) <= FEW else head)

    def merge(self, other: Covariate) -> None:
        """Add those of another."""
        self.total += other.total
        self._join(np.array(other.distinct))

    def _join(self, values: np.ndarray) -> None:
        self.distinct = tuple(
            float(v) for v in np.unique(np.concatenate([self.distinct, values]))[: FEW + 1]
        )


@dataclass
class PartialSums:
    """The sums of some rows.

    Attributes
    ----------
    n : rows used; ``counts`` the rows that there were, and those lost.
    gram : (m + 2, m + 2), [1, U - centre, r]'W[1, U - centre, r] for the m columns U of the pool.
    plain : the same without weights; None where there are none.
    offset_sum : sum of the offset.
    covariates : per numeric column behind the fixed part its sum and a few of its distinct values.
    total, spread : mean of y - offset and the sum of squares around it; ``square`` the weighted sum of squares.
    sum_log_weights : sum of log w.
    least, most : range of the response.
    terms : per term as written the sums by level.
    pairs : per two terms t < s as written the sums by pair.
    """

    gram: np.ndarray
    plain: np.ndarray | None
    covariates: dict[str, Covariate]
    terms: list[TermSums]
    pairs: dict[tuple[int, int], PairSums]
    n: int = 0
    counts: RowCounts = field(default_factory=RowCounts)
    offset_sum: float = 0.0
    total: float = 0.0
    spread: float = 0.0
    square: float = 0.0
    sum_log_weights: float = 0.0
    least: float = np.inf
    most: float = -np.inf


def empty_sums(recipe: Recipe) -> PartialSums:
    """The sums of no rows."""
    size = len(recipe.pool) + 2
    terms = [
        TermSums(
            levels_of(term.types),
            np.zeros((len(products_of(recipe, term)), 0)),
            np.zeros(0, dtype=bool),
        )
        for term in recipe.terms
    ]
    pairs = {
        (t, s): PairSums(len(recipe.terms[t].pool) * len(recipe.terms[s].pool))
        for t, s in combinations(range(len(recipe.terms)), 2)
    }
    return PartialSums(
        gram=np.zeros((size, size)),
        plain=np.zeros((size, size)) if recipe.weights else None,
        covariates={name: Covariate() for name in recipe.covariates},
        terms=terms,
        pairs=pairs,
    )


def partial_sums(recipe: Recipe, table: pa.Table) -> PartialSums:
    """The sums of the rows of a ``pyarrow.Table``."""
    return add_table(recipe, empty_sums(recipe), table)


def add_table(recipe: Recipe, sums: PartialSums, table: pa.Table) -> PartialSums:
    """``sums`` with the rows of a table, in place."""
    return add_block(recipe, sums, recipe.block(table))


def linear_reduction(recipe: Recipe) -> Reduction[PartialSums]:
    """The pass that a linear model makes over its rows."""
    return Reduction(
        recipe.needed, partial(empty_sums, recipe), partial(add_table, recipe), merge, "rows"
    )


def add_block(recipe: Recipe, sums: PartialSums, block: Chunk) -> PartialSums:
    """``sums`` with the rows of a block, in place."""
    sums.counts.add(block.counts)
    if not block.n:
        return sums
    ids = [_ids(sums, recipe, t, labels) for t, labels in enumerate(block.labels)]
    positions = []
    for term, own in zip(sums.terms, ids, strict=True):
        term.cover()
        place = own.astype(np.intp) - term.low
        term.seen[place] = True
        positions.append(place)
    y = block.y if block.offset is None else block.y - block.offset
    wanted = [products_of(recipe, term) for term in recipe.terms]
    for start in range(0, block.n, STRIP):
        rows = slice(start, start + STRIP)
        strip = Strip(recipe, block, y, rows)
        gram, plain = strip.grams()
        sums.gram += gram
        if sums.plain is not None:
            sums.plain += plain
        for products, mine, place in zip(wanted, sums.terms, positions, strict=True):
            for row, factors in zip(mine.sums, products, strict=True):
                value = strip.product(*factors)
                np.add.at(row, place[rows], 1.0 if value is None else value)
    for (t, s), pairs in sums.pairs.items():
        both = [(a, b) for a in recipe.terms[t].pool for b in recipe.terms[s].pool]
        pairs.add(
            key(ids[t], ids[s]),
            [product(block.columns[a], block.columns[b], block.weights) for a, b in both],
        )
    for name, values in block.covariates.items():
        sums.covariates[name].add(values)
    if block.offset is not None:
        sums.offset_sum += float(np.sum(block.offset))
    mean = float(y.mean())
    _moments(sums, block.n, mean, float(np.sum((y - mean) ** 2)))
    sums.square += float(y @ y) if block.weights is None else float(y @ (y * block.weights))
    if block.weights is not None:
        sums.sum_log_weights += float(np.log(block.weights).sum())
    sums.least, sums.most = (
        min(sums.least, float(block.y.min())),
        max(sums.most, float(block.y.max())),
    )
    return sums


def merge(a: PartialSums, b: PartialSums) -> PartialSums:
    """The sums of both, in place of the first."""
    a.counts.add(b.counts)
    if not b.n:
        return a
    moved = [_absorb(a, t, theirs) for t, theirs in enumerate(b.terms)]
    for pair, theirs in b.pairs.items():
        theirs.settle()
        first, second = (
            place(column)
            for place, column in zip((moved[t] for t in pair), unkey(theirs.keys), strict=True)
        )
        a.pairs[pair].merge(key(first, second), theirs.sums)
    a.gram = a.gram + b.gram
    if a.plain is not None and b.plain is not None:
        a.plain = a.plain + b.plain
    for name, covariate in b.covariates.items():
        a.covariates[name].merge(covariate)
    a.offset_sum += b.offset_sum
    a.square += b.square
    a.sum_log_weights += b.sum_log_weights
    _moments(a, b.n, b.total, b.spread)
    a.least, a.most = min(a.least, b.least), max(a.most, b.most)
    return a


class Strip:
    """Products of the columns in a few rows, each made once."""

    def __init__(self, recipe: Recipe, block: Chunk, y: np.ndarray, rows: slice):
        self.columns = [None if column is None else column[rows] for column in block.columns]
        self.weights = None if block.weights is None else block.weights[rows]
        self.centre = recipe.centre
        self.n = len(y[rows])
        self.residual = y[rows].copy()
        for c, beta in zip(recipe.fixed, recipe.pilot, strict=True):
            if beta:
                column = self.columns[c]
                self.residual -= beta if column is None else beta * column
        self._made: dict[tuple[int, int], np.ndarray | None] = {}

    def product(self, a: int, b: int) -> np.ndarray | None:
        """w u_a u_b, (rows,); None for ones."""
        if (a, b) not in self._made:
            first = self.residual if a == RESIDUAL else self.columns[a]
            self._made[a, b] = product(first, self.columns[b], self.weights)
        return self._made[a, b]

    def grams(self) -> tuple[np.ndarray, np.ndarray]:
        """[1, U - centre, r]'W[1, U - centre, r] with the weights and without."""
        rows = np.empty((len(self.columns) + 2, self.n))
        rows[0], rows[-1] = 1.0, self.residual
        for row, column, shift in zip(rows[1:-1], self.columns, self.centre, strict=True):
            np.subtract(1.0 if column is None else column, shift, out=row)
        plain = rows @ rows.T
        return (plain if self.weights is None else (rows * self.weights) @ rows.T), plain


def _moments(sums: PartialSums, n: int, mean: float, spread: float) -> None:
    """Add n values with their mean and sum of squares around it (Chan, Golub & LeVeque, 1983, Am. Stat. 37)."""
    both = sums.n + n
    step = mean - sums.total
    sums.total += step * n / both
    sums.spread += spread + step * step * sums.n * n / both
    sums.n = both


def _ids(sums: PartialSums, recipe: Recipe, t: int, labels: tuple[pa.Array, ...]) -> np.ndarray:
    given = labels if len(labels) > 1 else labels[0]
    return added(sums.terms[t].levels, given, partial(_list, sums, t))


def _list(sums: PartialSums, t: int, type: pa.DataType) -> FoundLevels:
    """Number the levels of a term, in its sums and in those of its pairs."""
    old, new = sums.terms[t].list_levels(type)
    for (first, second), pairs in sums.pairs.items():
        if t in (first, second):
            pairs.settle()
            ids = list(unkey(pairs.keys))
            side = 0 if t == first else 1
            ids[side] = new[np.searchsorted(old, ids[side])]
            moved = PairSums(len(pairs.sums))
            moved.merge(key(*ids), pairs.sums)
            sums.pairs[first, second] = moved
    return sums.terms[t].levels


def _absorb(a: PartialSums, t: int, theirs: TermSums) -> Callable[[np.ndarray], np.ndarray]:
    """Add the levels and sums of one term; what turns their ids into ours."""
    old = theirs.ids()
    new = absorbed(a.terms[t].levels, theirs.levels, old, partial(_list, a, t))
    mine = a.terms[t]
    mine.cover()
    place = new - mine.low
    mine.sums[:, place] += theirs.sums[:, old - theirs.low]
    mine.seen[place] = True
    return lambda column: new[np.searchsorted(old, column)]
