"""The rows of a generalized model: what a linear model leaves behind and this one needs at every step.

Working weights change with the linear predictor, so Z'WZ is summed anew each time. The pattern of its
pairs of levels does not change: it is found once, with the place of every row in it. Rows come in blocks: one in
memory, many in a stream. A block knows which run of levels and of pairs it touches, and its sums are over these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lmm.design.design import Design
from lmm.design.rank import independent_columns
from lmm.design.terms import product
from lmm.linalg.plan import Plan
from lmm.model.gaussian.crossproducts import CrossProducts, Pairs, cross_products
from lmm.model.gaussian.system import plan_for


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Arrays of n rows, and where their levels lie among all levels.

    Attributes
    ----------
    y, weights, offset : (n,) response, prior weights (trials of a binomial), known part of the predictor.
    Q : (n, p) orthogonal fixed columns.
    codes : per term (n,) level of each row, counted from the start of ``levels``.
    columns : per term the k columns of values, None for a column of ones.
    levels : per term the run of levels that occur here.
    place : per pair of terms (n,), which pair of levels each row belongs to, counted from the start of ``runs``.
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
        for code, columns, run, own in zip(self.codes, self.columns, self.levels, b, strict=True):
            for column, effect in zip(columns, own, strict=True):
                part = effect[run][code]
                eta += part if column is None else part * column
        return eta

    def sums(self, v: np.ndarray) -> list[np.ndarray]:
        """Z'v per term, (k, J), for v (n,), over the levels that occur here."""
        out = []
        for code, columns, J in zip(self.codes, self.columns, self._counts(), strict=True):
            own = [np.bincount(code, v if z is None else v * z, J) for z in columns]
            out.append(np.stack(own))
        return out

    def column_sums(self, V: np.ndarray) -> list[np.ndarray]:
        """Z'V per term, (r, k, J), for V (n, r)."""
        if not V.shape[1]:
            return [
                np.zeros((0, len(columns), J))
                for columns, J in zip(self.columns, self._counts(), strict=True)
            ]
        each = [self.sums(column) for column in V.T]
        return [np.stack([e[t] for e in each]) for t in range(len(self.codes))]

    def products(self, w: np.ndarray) -> tuple[list[np.ndarray], dict[tuple[int, int], np.ndarray]]:
        """Z'WZ for weights w (n,): per term the blocks of levels (k, k, J), per pair of terms those of pairs (k, k, m)."""
        diag, pairs = [], {}
        for code, columns, J in zip(self.codes, self.columns, self._counts(), strict=True):
            A = np.empty((len(columns), len(columns), J))
            for a in range(len(columns)):
                for b in range(a + 1):
                    A[a, b] = A[b, a] = np.bincount(code, product(w, columns[a], columns[b]), J)
            diag.append(A)
        for (t, s), place in self.place.items():
            run = self.runs[t, s]
            blocks = np.empty((len(self.columns[t]), len(self.columns[s]), run.stop - run.start))
            for a, first in enumerate(self.columns[t]):
                for b, second in enumerate(self.columns[s]):
                    blocks[a, b] = np.bincount(
                        place, product(w, first, second), run.stop - run.start
                    )
            pairs[t, s] = blocks
        return diag, pairs

    def _counts(self) -> list[int]:
        return [run.stop - run.start for run in self.levels]


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
    plan = plan_for(
        pattern, tuple(term.group for term in design.terms), factorization=factorization
    )
    codes = tuple(term.codes.astype(np.intp) for term in design.terms)
    return Rows(
        y=design.y,
        weights=ones if design.weights is None else design.weights,
        offset=np.zeros(design.n) if design.offset is None else design.offset,
        Q=np.ascontiguousarray(Q),
        R=R,
        codes=codes,
        columns=tuple(term.value_columns() for term in design.terms),
        levels=tuple(slice(0, term.J) for term in design.terms),
        plan=plan,
        pattern=pattern,
        place={
            key: places(codes[key[0]], codes[key[1]], pairs, plan.terms[key[1]].J)
            for key, pairs in pattern.pairs.items()
        },
        runs={key: slice(0, len(pairs.rows)) for key, pairs in pattern.pairs.items()},
    )


def places(rows: np.ndarray, cols: np.ndarray, pairs: Pairs, J: int) -> np.ndarray:
    """Index of each row's pair of levels among the sorted pairs; J levels of the second factor."""
    return np.searchsorted(
        pairs.rows.astype(np.int64) * J + pairs.cols, rows.astype(np.int64) * J + cols
    )
