"""What a generalized model asks of its rows: requests, pure functions of (a block of rows, parameters) whose answers are sums.

A pass reads every block once and answers any number of requests, so a dozen points cost one reading. The linear predictor
is computed anew from gamma and b each time; nothing is kept per row. Answers are trees of arrays in which

    a list  has one entry per random term, whose last axis is the block's run of levels,
    a dict  has one entry per pair of terms, whose last axis is the block's run of pairs of levels,
    any other array or number is a plain sum,

so that blocks can be added up without knowing what was asked (:class:`Total`), on threads, devices or machines alike.
Computations that need rows several times over are written as generators that yield requests and receive the sums;
:func:`drive` runs any number of them side by side in the same passes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from lmm.families.base import weight_slope
from lmm.linalg.plan import Plan
from lmm.model.gaussian.crossproducts import CrossProducts
from lmm.model.laplace.leverage import JointTables, Tables
from lmm.model.laplace.rows import Block

T = TypeVar("T")
#: smallest working weight, relative to their mean
LEAST = 1e-10
#: a computation that yields requests and receives their answers
Task = Generator[Callable[[Block], Any], Any, T]


class Source(Protocol):
    """Rows wherever they are.

    Attributes
    ----------
    plan, pattern : which term is eliminated how, and the pairs of levels that occur.
    p : fixed columns.
    distant : whether a pass is dear, so that more is asked of each.
    at_once : numbers of sums that are held to ask more of a pass.
    """

    at_once: ClassVar[int]

    @property
    def plan(self) -> Plan: ...

    @property
    def pattern(self) -> CrossProducts: ...

    @property
    def p(self) -> int: ...

    @property
    def distant(self) -> bool: ...

    def predictor(self, gamma: np.ndarray, b: Sequence[np.ndarray]) -> np.ndarray | None:
        """The linear predictor (n,) of rows in memory."""
        ...

    def sample(self) -> Block:
        """Rows that stand for all in a model without random effects; all of them where they are in memory."""
        ...

    def total(self, requests: Sequence[Callable[[Block], Any]]) -> list[Any]:
        """The requests' answers summed over all rows: one pass."""
        ...


class Weighted(NamedTuple):
    """Sums with weights W: Z'WZ by level and by pair of levels; Z'WQ (p, k, J) per term and Q'WQ (p, p), or None."""

    diag: list[np.ndarray]
    pairs: dict[tuple[int, int], np.ndarray]
    fixed: list[np.ndarray] | None
    gram: np.ndarray | None


class Scores(NamedTuple):
    """The log density to second order at a point.

    ``kernel`` its sum without what does not depend on eta; ``negative`` rows with negative observed weights; ``score``
    Z'r per term (k, J), ``fixed_score`` Q'r (p,); sums with observed and with expected weights, None where not asked for.
    """

    kernel: float
    negative: int
    score: list[np.ndarray]
    fixed_score: np.ndarray
    observed: Weighted | None
    expected: Weighted | None


@dataclass(frozen=True, eq=False)
class ScoreSums:
    """Ask for an :class:`Scores` at gamma (p,), b (k, J) per term and phi.

    ``observed``, ``expected`` : whose sums are wanted; ``fixed`` : those with Q too.
    ``ceiling`` : where all rows are at hand and minus the log density is above this, nothing else is computed.
    """

    family: Any
    gamma: np.ndarray
    b: list[np.ndarray]
    phi: Any
    observed: bool = True
    expected: bool = False
    fixed: bool = False
    ceiling: float = np.inf

    def __call__(self, block: Block) -> Scores:
        """The sums over a block."""
        with np.errstate(all="ignore"):  # what is not finite is refused by who asked
            family, y, weights, phi = self.family, block.y, block.weights, self.phi
            eta = block.predictor(self.gamma, self.b)
            kernel = float(family.kernel(y, eta, weights, phi).sum())
            if block.whole and self.ceiling < np.inf and not -kernel <= self.ceiling:
                return Scores(kernel, 0, [], np.zeros(0), None, None)
            r, d2, _ = family.derivatives(y, eta, weights, phi)
            return Scores(
                kernel,
                int(np.count_nonzero(~(d2 <= 0.0))),
                block.sums(r),
                block.Q.T @ r,
                weighted(block, -d2, self.fixed) if self.observed else None,
                weighted(block, family.descent_weights(y, eta, weights, phi), self.fixed)
                if self.expected
                else None,
            )


def weighted(block: Block, W: np.ndarray, fixed: bool) -> Weighted:
    """Sums with weights W (n,)."""
    return Weighted(*block.products(W), *(fixed_sums(block, W) if fixed else (None, None)))


def fixed_sums(block: Block, W: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Z'WQ per term (p, k, J) and Q'WQ (p, p)."""
    WQ = block.Q * W[:, None]
    return block.column_sums(WQ), block.Q.T @ WQ


class Working(NamedTuple):
    """Sums of the working linear model without random effects, response r / W and weights W: ``rows`` of them, Z'WZ, Z'r,
    Q'r, Q'WQ and r'W^-1 r."""

    rows: int
    diag: list[np.ndarray]
    pairs: dict[tuple[int, int], np.ndarray]
    score: list[np.ndarray]
    fixed_score: np.ndarray
    gram: np.ndarray
    square: float


@dataclass(frozen=True, eq=False)
class Linearise:
    """Ask for :class:`Working` at gamma (p,) and phi, random effects zero."""

    family: Any
    gamma: np.ndarray
    phi: Any

    def __call__(self, block: Block) -> Working:
        """The sums over a block."""
        eta = block.offset + block.Q @ self.gamma
        with np.errstate(all="ignore"):
            r = self.family.derivatives(block.y, eta, block.weights, self.phi).d1
            W = self.family.working_weights(block.y, eta, block.weights, self.phi)
            W = np.maximum(W, LEAST * np.mean(W))
        diag, pairs = block.products(W)
        gram = block.Q.T @ (block.Q * W[:, None])
        return Working(
            block.n, diag, pairs, block.sums(r), block.Q.T @ r, gram, float(np.sum(r * r / W))
        )


class Profiled(NamedTuple):
    """What leverages of the fixed effects need: N Z'WQ per term (p, k, J), and C (p, p) with C C' = (Q'V^-1 Q)^-1."""

    solved: list[np.ndarray]
    root: np.ndarray

    def leverages(self, block: Block) -> np.ndarray:
        """|C'(q_i - Q'WZ N z_i)|^2 per row, (n,): what integrating over the fixed effects adds to z_i'N z_i."""
        p = len(self.root)
        left = [block.Q[:, j] - block.random([own[j] for own in self.solved]) for j in range(p)]
        return np.einsum("ij->j", (self.root.T @ np.reshape(left, (p, block.n))) ** 2)


class Slopes(NamedTuple):
    """What the leverages l move at a point, t = l dW/deta, and what concerns the family's own parameters rho (r,).

    ``t`` Z't per term (k, J), ``fixed_t`` Q't; ``fixed``, ``gram`` Z'WQ and Q'WQ with the weights of the determinant,
    ``fixed_observed``, ``gram_observed`` the same with observed weights (None where they are the same).
    ``constant`` what the log density has beside its kernel. With l(rho) the log density, ``first`` (r,) sums dl/drho,
    ``squares`` (r,) their squares at weight one, ``second`` (r, r) d2l/drho2, ``moved`` (r,) what rho moves in the determinant, ``mixed``
    Z'c per term (r, k, J) and ``fixed_mixed`` Q'c (p, r) of c = d2l / (deta drho), ``working`` Z'(-dlog W/drho r) per term.
    """

    t: list[np.ndarray]
    fixed_t: np.ndarray
    fixed: list[np.ndarray]
    gram: np.ndarray
    fixed_observed: list[np.ndarray] | None
    gram_observed: np.ndarray | None
    constant: float
    first: np.ndarray
    squares: np.ndarray
    second: np.ndarray
    moved: np.ndarray
    mixed: list[np.ndarray]
    fixed_mixed: np.ndarray
    working: list[np.ndarray] | None

    @property
    def ZwQ(self) -> list[np.ndarray]:
        """Z'wQ per term (p, k, J) with observed weights."""
        return self.fixed if self.fixed_observed is None else self.fixed_observed

    @property
    def QwQ(self) -> np.ndarray:
        """Q'wQ (p, p) with observed weights."""
        return self.gram if self.gram_observed is None else self.gram_observed


@dataclass(frozen=True, eq=False)
class LeverageSums:
    """Ask for :class:`Slopes` at gamma, b and phi, with the inverse's blocks ``tables`` of the factorised system there.

    ``observed`` : which information the determinant takes; ``constant`` : whether that of the log density is wanted;
    ``profiled`` : what the leverages of the fixed effects take, where these are integrated over.
    """

    family: Any
    gamma: np.ndarray
    b: list[np.ndarray]
    phi: Any
    tables: Tables | JointTables
    observed: bool
    constant: bool
    profiled: Profiled | None = None

    def __call__(self, block: Block) -> Slopes:
        """The sums over a block."""
        with np.errstate(all="ignore"):
            return self._sums(block)

    def _sums(self, block: Block) -> Slopes:
        family, y, weights, phi = self.family, block.y, block.weights, self.phi
        eta = block.predictor(self.gamma, self.b)
        at = family.derivatives(y, eta, weights, phi)
        W, dW = family.determinant_weights(at, eta, weights, phi, self.observed)
        leverage = self.tables.leverages(block)
        if self.profiled is not None:
            leverage += self.profiled.leverages(block)
        t = family.leverage_slopes(leverage, dW, y, eta, weights, phi)
        fixed_observed, gram_observed = None, None
        if not family.shares_weights(self.observed):
            fixed_observed, gram_observed = fixed_sums(block, -at.d2)
        fixed, gram = fixed_sums(block, W)
        none = np.zeros(0)
        sums = Slopes(
            block.sums(t),
            block.Q.T @ t,
            fixed,
            gram,
            fixed_observed,
            gram_observed,
            constant=float(family.constant(y, weights, phi).sum()) if self.constant else 0.0,
            first=none,
            squares=none,
            second=np.zeros((0, 0)),
            moved=none,
            mixed=[],
            fixed_mixed=np.zeros((block.p, 0)),
            working=None,
        )
        if not family.n_parameters:
            return sums
        d = family.parameter_derivatives(y, eta, weights, phi, not self.observed)
        working = None
        if (
            family.has_dispersion and not self.observed
        ):  # the working model's error variance 1 / W moves with phi
            moved = working_slope(d.weight[0], W, at.d1)
            working = [own[None] for own in block.sums(moved)]
        return sums._replace(
            first=d.first.sum(axis=1),
            squares=family.unit_squares(d.first, weights).sum(axis=1),
            second=d.second,
            moved=weight_slope(d, self.observed) @ leverage,
            mixed=block.column_sums(d.eta.T),
            fixed_mixed=block.Q.T @ d.eta.T,
            working=working,
        )


def working_slope(d_weight: np.ndarray, W: np.ndarray, r: np.ndarray) -> np.ndarray:
    """-dlog W / drho r by rows: what a dispersion moves in the working model, whose error variance is 1 / W."""
    return -d_weight / np.maximum(W, 1e-300) * r


class Total:
    """Answers of blocks added up, over all ``levels`` per term and all ``pairs`` of levels per pair of terms."""

    def __init__(self, levels: list[int], pairs: dict[tuple[int, int], int]):
        self.levels, self.pairs = levels, pairs
        self.value: Any = None

    def add(self, answer: Any, block: Block) -> None:
        """Add the answer of a block."""
        self.value = self._sum(self.value, answer, block)

    def _sum(self, total: Any, piece: Any, block: Block) -> Any:
        if piece is None:
            return None
        if isinstance(piece, list):
            old = [None] * len(piece) if total is None else total
            return (
                [
                    self._run(*each)
                    for each in zip(old, piece, block.levels, self.levels, strict=True)
                ]
                if piece
                else []
            )
        if isinstance(piece, dict):
            return {
                key: self._run(
                    None if total is None else total[key], own, block.runs[key], self.pairs[key]
                )
                for key, own in piece.items()
            }
        if isinstance(piece, tuple):
            old = [None] * len(piece) if total is None else total
            return type(piece)(*(self._sum(a, b, block) for a, b in zip(old, piece, strict=True)))
        return piece if total is None else total + piece

    @staticmethod
    def _run(total: Any, piece: np.ndarray, run: slice, size: int) -> np.ndarray:
        if total is None:
            if run.start == 0 and run.stop == size:
                return piece
            total = np.zeros((*piece.shape[:-1], size))
        total[..., run] += piece
        return total


def merge(a: Any, b: Any) -> Any:
    """The sum of two totals of the same requests, each over all levels; None is nothing."""
    if a is None or b is None:
        return a if b is None else b
    if isinstance(a, dict):
        return {key: merge(own, b[key]) for key, own in a.items()}
    if isinstance(a, tuple) and hasattr(a, "_fields"):
        return type(a)(*(merge(x, y) for x, y in zip(a, b, strict=True)))
    if isinstance(a, list | tuple):
        return type(a)(merge(x, y) for x, y in zip(a, b, strict=True))
    return a + b


def drive(source: Source, tasks: Sequence[Task[T]]) -> list[T]:
    """Run tasks to their ends, the requests that they have at a time in one pass."""
    results: dict[int, T] = {}
    waiting: dict[int, Callable[[Block], Any]] = {}

    def step(i: int, answer: Any) -> None:
        try:
            waiting[i] = tasks[i].send(answer)
        except StopIteration as end:
            waiting.pop(i, None)
            results[i] = end.value

    with np.errstate(all="ignore"):  # what is not finite is refused by who asked
        for i in range(len(tasks)):
            step(i, None)
        while waiting:
            those = list(waiting)
            for i, answer in zip(those, source.total([waiting[i] for i in those]), strict=True):
                step(i, answer)
    return [results[i] for i in range(len(tasks))]
