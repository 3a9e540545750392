"""The rows of a generalized model: what a linear model leaves behind and this one needs at every step.

Working weights change with the linear predictor, so Z'WZ is summed anew each time. The pattern of its
pairs of levels does not change: it is found once, with the place of every row in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lmm.design.rank import independent_columns
from lmm.design.records import Design, RandomTerm
from lmm.linalg.elimination import System
from lmm.linalg.plan import Plan
from lmm.linalg.tail import size
from lmm.model.crossproducts import CrossProducts, Pairs, cross_products
from lmm.model.system import make_system, plan_for

#: numbers in a dense coupling up to which it is taken
DENSE_LIMIT = 20_000_000


@dataclass(frozen=True, eq=False)
class Rows:
    """Arrays of n rows and the pattern of their cross-products.

    Attributes
    ----------
    y, weights, offset : (n,) response, prior weights (trials of a binomial), known part of the predictor.
    Q : (n, p) orthogonal fixed columns of mean square one, Q'Q = n I; X = Q R.
    R : (p, p).
    codes : per term (n,) level of each row.
    columns : per term the k columns of values, None for a column of ones.
    plan : which term is eliminated how.
    pattern : cross-products with unit weights, whose pairs of levels serve all weights.
    place : per pair of terms (n,), which pair of levels each row belongs to.
    """

    y: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    codes: tuple[np.ndarray, ...]
    columns: tuple[list[np.ndarray | None], ...]
    plan: Plan
    pattern: CrossProducts
    place: dict[tuple[int, int], np.ndarray]

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)

    @property
    def p(self) -> int:
        """Fixed columns."""
        return self.Q.shape[1]

    def predictor(self, gamma: np.ndarray, b: list[np.ndarray]) -> np.ndarray:
        """offset + Q gamma + Z b, (n,), for b (k, J) per term."""
        return self.offset + self.Q @ gamma + self.random(b)

    def random(self, b: list[np.ndarray]) -> np.ndarray:
        """Z b, (n,)."""
        eta = np.zeros(self.n)
        for code, columns, own in zip(self.codes, self.columns, b, strict=True):
            for column, effect in zip(columns, own, strict=True):
                part = effect[code]
                eta += part if column is None else part * column
        return eta

    def sums(self, v: np.ndarray) -> list[np.ndarray]:
        """Z'v per term, (k, J), for v (n,)."""
        out = []
        for code, columns, term in zip(self.codes, self.columns, self.plan.terms, strict=True):
            own = [np.bincount(code, v if z is None else v * z, term.J) for z in columns]
            out.append(np.stack(own))
        return out

    def column_sums(self, V: np.ndarray) -> list[np.ndarray]:
        """Z'V per term, (r, k, J), for V (n, r)."""
        if not V.shape[1]:
            return [np.zeros((0, term.k, term.J)) for term in self.plan.terms]
        each = [self.sums(column) for column in V.T]
        return [np.stack([e[t] for e in each]) for t in range(len(self.codes))]

    def system(self, w: np.ndarray) -> System:
        """Z'WZ for weights w (n,), arranged for elimination."""
        diag, pairs = [], {}
        for code, columns, term in zip(self.codes, self.columns, self.plan.terms, strict=True):
            A = np.empty((term.k, term.k, term.J))
            for a in range(term.k):
                for b in range(a + 1):
                    A[a, b] = A[b, a] = np.bincount(code, _times(w, columns[a], columns[b]), term.J)
            diag.append(A)
        for (t, s), place in self.place.items():
            old = self.pattern.pairs[t, s]
            blocks = np.empty(old.blocks.shape)
            for a, first in enumerate(self.columns[t]):
                for b, second in enumerate(self.columns[s]):
                    blocks[a, b] = np.bincount(place, _times(w, first, second), len(old.rows))
            pairs[t, s] = Pairs(old.rows, old.cols, blocks)
        largest = self.plan.terms[self.plan.chain[0]]
        # products would have to be listed anew at each step
        dense = largest.k * largest.J * size(self.plan.layout) <= DENSE_LIMIT
        return make_system(replace(self.pattern, diag=tuple(diag), pairs=pairs), self.plan, dense)


def _times(w: np.ndarray, a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray:
    if a is not None:
        w = w * a
    return w if b is None else w * b


def make_rows(design: Design) -> Rows:
    """The rows of a design, fixed columns made orthonormal."""
    R = design.extra.get("R")
    if R is None or design.weights is not None:  # orthonormal without weights, which mean trials here
        R = independent_columns(design.X)[1]
    R = R / np.sqrt(design.n)  # columns of mean square one: a unit of gamma moves the predictor as a unit of theta does
    Q = np.linalg.solve(R.T, design.X.T).T if design.p else np.zeros((design.n, 0))
    ones = np.ones(design.n)
    pattern = cross_products(design.terms, np.asfortranarray(ones[:, None]), None)
    plan = plan_for(pattern, tuple(term.group for term in design.terms))
    codes = tuple(term.codes.astype(np.intp) for term in design.terms)
    place = {key: _places(codes[key[0]], codes[key[1]], pairs, pattern.diag[key[1]].shape[-1]) for key, pairs in pattern.pairs.items()}
    return Rows(
        y=design.y,
        weights=ones if design.weights is None else design.weights,
        offset=np.zeros(design.n) if design.offset is None else design.offset,
        Q=np.ascontiguousarray(Q),
        R=R,
        codes=codes,
        columns=tuple(_value_columns(term) for term in design.terms),
        plan=plan,
        pattern=pattern,
        place=place,
    )


def _places(rows: np.ndarray, cols: np.ndarray, pairs: Pairs, J: int) -> np.ndarray:
    """Index of each row's pair of levels among the sorted pairs."""
    return np.searchsorted(pairs.rows.astype(np.int64) * J + pairs.cols, rows * J + cols)


def _value_columns(term: RandomTerm) -> list[np.ndarray | None]:
    out: list[np.ndarray | None] = []
    for a in range(term.k):
        column = term.values[:, a]
        out.append(None if np.all(column == 1.0) else np.ascontiguousarray(column))
    return out
