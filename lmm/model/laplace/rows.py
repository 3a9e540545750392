"""The rows of a generalized model: what a linear model leaves behind and this one needs at every step.

Working weights change with the linear predictor, so Z'WZ is summed anew each time. The pattern of its
pairs of levels does not change: it is found once, with the place of every row in it. Rows come in blocks: one in
memory, many in a stream. A block knows which run of levels and of pairs it touches, and its sums are over these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lmm.design.design import Design
from lmm.design.rank import independent_columns
from lmm.design.terms import product
from lmm.linalg.plan import Plan
from lmm.model.gaussian.crossproducts import CrossProducts, Pairs, cross_products
from lmm.model.gaussian.system import plan_for
from lmm.model.joint_system import joint_plan


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Arrays of n rows, and where their levels lie among all levels.

    Attributes
    ----------
    y, weights, offset : (n,) response, prior weights (trials of a binomial), known part of the predictor.
    Q : (n, p) orthogonal fixed columns.
    slots : the term of each slot. A term has one, or one for each level that rows meet, whose sums are the term's.
    codes : per slot (n,) level of each row, counted from the start of ``levels``.
    columns : per slot the k columns of values, None for a column of ones.
    levels : per term the run of levels that occur here.
    place : per pair of slots (n,), which pair of levels each row belongs to, counted from the start of ``runs``.
    runs : per pair of terms the run of pairs of levels that occur here.
    whole : whether these are all rows.
    """

    y: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    Q: np.ndarray
    codes: tuple[np.ndarray, ...]
    columns: tuple[list[np.ndarray | None], ...]
    levels: tuple[slice, ...]
    place: dict[tuple[int, int], np.ndarray]
    runs: dict[tuple[int, int], slice]
    whole: bool = False
    slots: tuple[int, ...]
    #: what is found once and serves every pass
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)

    @property
    def p(self) -> int:
        """Fixed columns."""
        return self.Q.shape[1]

    def predictor(self, gamma: np.ndarray, b: Sequence[np.ndarray]) -> np.ndarray:
        """offset + Q gamma + Z b, (n,), for b (k, J) per term over all levels."""
        return self.offset + self.Q @ gamma + self.random(b)

    def random(self, b: Sequence[np.ndarray]) -> np.ndarray:
        """Z b, (n,)."""
        eta = np.zeros(self.n)
        for t, code, columns in self.each_slot():
            for column, effect in zip(columns, b[t], strict=True):
                part = effect[self.levels[t]][code]
                eta += part if column is None else part * column
        return eta

    def each_slot(self) -> Iterator[tuple[int, np.ndarray, list[np.ndarray | None]]]:
        """Per slot its term, codes and columns."""
        return zip(self.slots, self.codes, self.columns, strict=True)

    def slots_of(self, t: int) -> list[int]:
        """The slots of a term."""
        return [u for u, own in enumerate(self.slots) if own == t]

    def sums(self, v: np.ndarray) -> list[np.ndarray]:
        """Z'v per term, (k, J), for v (n,), over the levels that occur here."""
        out: list[np.ndarray] = []
        for t, code, columns in self.each_slot():
            J = self._count(t)
            own = np.stack([np.bincount(code, v if z is None else v * z, J) for z in columns])
            if t < len(out):
                out[t] += own
            else:
                out.append(own)
        return out

    def column_sums(self, V: np.ndarray) -> list[np.ndarray]:
        """Z'V per term, (r, k, J), for V (n, r)."""
        if not V.shape[1]:
            k = {t: len(columns) for t, _, columns in self.each_slot()}
            return [np.zeros((0, k[t], self._count(t))) for t in range(len(self.levels))]
        each = [self.sums(column) for column in V.T]
        return [np.stack([e[t] for e in each]) for t in range(len(self.levels))]

    def products(self, w: np.ndarray) -> tuple[list[np.ndarray], dict[tuple[int, int], np.ndarray]]:
        """Z'WZ for weights w (n,): per term the blocks of levels (k, k, J), per pair of terms those of pairs (k, k, m)."""
        diag: list[np.ndarray] = []
        pairs: dict[tuple[int, int], np.ndarray] = {}
        for t, code, columns in self.each_slot():
            J = self._count(t)
            A = np.empty((len(columns), len(columns), J))
            for a in range(len(columns)):
                for b in range(a + 1):
                    A[a, b] = A[b, a] = np.bincount(code, product(w, columns[a], columns[b]), J)
            if t < len(diag):
                diag[t] += A
            else:
                diag.append(A)
        for (i, j), place in self.place.items():
            key = self.slots[i], self.slots[j]
            m = self.runs[key].stop - self.runs[key].start
            blocks = np.empty((len(self.columns[i]), len(self.columns[j]), m))
            for a, first in enumerate(self.columns[i]):
                for b, second in enumerate(self.columns[j]):
                    blocks[a, b] = np.bincount(place, product(w, first, second), m)
            pairs[key] = pairs[key] + blocks if key in pairs else blocks
        return diag, pairs

    def _count(self, t: int) -> int:
        return self.levels[t].stop - self.levels[t].start


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows(Block):
    """All rows in memory, and the pattern of their cross-products.

    Attributes
    ----------
    Q : (n, p) orthogonal fixed columns of mean square one, Q'Q = n I; X = Q R.
    R : (p, p).
    plan : which term is eliminated how.
    pattern : cross-products with unit weights, whose pairs of levels serve all weights.
    """

    R: np.ndarray
    plan: Plan
    pattern: CrossProducts
    whole: bool = True
    at_once: ClassVar[int] = 0

    @property
    def distant(self) -> bool:
        """Whether a pass over the rows is dear: not in memory."""
        return False

    def constant(self, family: Any) -> float:
        """The part of the log density that no parameter moves."""
        return float(family.constant(self.y, self.weights).sum())

    def sample(self) -> Block:
        """All rows."""
        return self

    def total(self, requests: Sequence[Callable[[Block], Any]]) -> list[Any]:
        """The answers of requests to all rows, as in :class:`lmm.model.laplace.passes.Source`."""
        return [request(self) for request in requests]


def make_rows(design: Design, factorization: str = "exact") -> Rows:
    """The rows of a design, fixed columns made orthonormal."""
    R = design.R
    if (
        R is None or design.weights is not None
    ):  # orthonormal without weights, which mean trials here
        R = independent_columns(design.X)[1]
    R = R / np.sqrt(
        design.n
    )  # columns of mean square one: a unit of gamma moves the predictor as a unit of theta does
    Q = np.linalg.solve(R.T, design.X.T).T if design.p else np.zeros((design.n, 0))
    ones = np.ones(design.n)
    pattern = cross_products(design.terms, np.asfortranarray(ones[:, None]), None)
    if any(term.relation is not None for term in design.terms):
        plan = joint_plan(design.terms)
    else:
        plan = plan_for(
            pattern, tuple(term.group for term in design.terms), factorization=factorization
        )
    parts = [(t, part) for t, term in enumerate(design.terms) for part in term.parts()]
    slots = tuple(t for t, _ in parts)
    codes = tuple(part.codes.astype(np.intp) for _, part in parts)
    return Rows(
        y=design.y,
        weights=ones if design.weights is None else design.weights,
        offset=np.zeros(design.n) if design.offset is None else design.offset,
        Q=np.ascontiguousarray(Q),
        R=R,
        slots=slots,
        codes=codes,
        columns=tuple(part.value_columns() for _, part in parts),
        levels=tuple(slice(0, term.J) for term in design.terms),
        plan=plan,
        pattern=pattern,
        place=places_of_slots(codes, slots, pattern, plan),
        runs={key: slice(0, len(pairs.rows)) for key, pairs in pattern.pairs.items()},
    )


def places_of_slots(
    codes: Sequence[np.ndarray], slots: Sequence[int], pattern: CrossProducts, plan: Plan
) -> dict[tuple[int, int], np.ndarray]:
    """Per pair of slots the index of each row's pair of levels, of one term the smaller level first."""
    out = {}
    for i, t in enumerate(slots):
        for j in range(i + 1, len(slots)):
            s = slots[j]
            first, second = codes[i], codes[j]
            if s == t:
                first, second = np.minimum(first, second), np.maximum(first, second)
            out[i, j] = places(first, second, pattern.pairs[t, s], plan.terms[s].J)
    return out


def places(rows: np.ndarray, cols: np.ndarray, pairs: Pairs, J: int) -> np.ndarray:
    """Index of each row's pair of levels among the sorted pairs; J levels of the second factor."""
    return np.searchsorted(
        pairs.rows.astype(np.int64) * J + pairs.cols, rows.astype(np.int64) * J + cols
    )
