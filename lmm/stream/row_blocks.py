"""Rows that a generalized model passes over many times, as blocks of numbers: in memory, on disk, or on a cluster's workers.

The formula is evaluated once. Equal rows are merged (:mod:`lmm.model.laplace.compression`), rows are sorted by the levels of the
largest factor, so that a block of them touches a short run of levels, and what is left is kept: in memory where it is small,
else as files in a temporary folder of which one block at a time is read. Rows go to the files by their level first, each file
small enough to be sorted in memory.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from lmm.errors import ArgumentError
from lmm.families import Family
from lmm.linalg import threads
from lmm.linalg.plan import Plan
from lmm.model.gaussian.crossproducts import CrossProducts
from lmm.model.laplace.compression import merged, taken
from lmm.model.laplace.passes import Total, merge
from lmm.model.laplace.rows import Block
from lmm.stream.clusters.parts import Prepared
from lmm.stream.partial import Numbered
from lmm.stream.recipe import Recipe
from lmm.stream.reducers import A, Reduction
from lmm.stream.row_progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
#: bytes of rows that are held and sorted at a time
BUDGET = 128_000_000
#: rows of a block that is passed over
BLOCK = 65_536
#: rows from which blocks are shared among threads, and threads at the most
THREADED, MOST_THREADS = 500_000, 8
#: rows that stand for all where a rough answer is enough
SAMPLE = 20_000


@dataclass(frozen=True, eq=False)
class Evaluate:
    """A table -> its rows as a block over all levels, X in the place of Q, equal ones merged; picklable.

    Attributes
    ----------
    recipe : what makes columns of a table.
    terms : per random term its levels and the places of its columns in the recipe's pool; ``labels`` its number as written.
    fixed : places of the fixed columns kept.
    merges : how equal rows are merged, as :attr:`lmm.families.base.Family.merges`.
    """

    recipe: Recipe
    terms: tuple[tuple[Numbered, tuple[int, ...]], ...]
    labels: tuple[int, ...]
    fixed: tuple[int, ...]
    merges: str | None

    def __call__(self, table: pa.Table) -> Block:
        """The rows of a ``pyarrow.Table``."""
        rows = self.recipe.block(table)
        ones = np.ones(rows.n)
        block = Block(
            y=np.asarray(rows.y, dtype=float),
            weights=ones if rows.weights is None else rows.weights,
            offset=np.zeros(rows.n) if rows.offset is None else rows.offset,
            Q=rows.X(self.fixed),
            slots=tuple(range(len(self.terms))),
            codes=tuple(
                own.codes(rows.labels[t])
                for (own, _), t in zip(self.terms, self.labels, strict=True)
            ),
            columns=tuple([rows.columns[place] for place in pool] for _, pool in self.terms),
            levels=tuple(slice(0, len(own.place)) for own, _ in self.terms),
            place={},
            runs={},
        )
        return merged(block, list(block.Q.T), self.merges)


@dataclass(frozen=True, eq=False)
class Locate:
    """A block over all levels -> one over the runs of levels and pairs of levels that it touches, with Q for X; picklable.

    ``inverse`` : (p, p), Q = X R^-1; ``pairs`` : per pair of terms row * J + column of the pattern's pairs, sorted; ``J``
    levels per term.
    """

    inverse: np.ndarray
    J: tuple[int, ...]
    pairs: dict[tuple[int, int], np.ndarray]

    @classmethod
    def of(cls, R: np.ndarray, plan: Plan, pattern: CrossProducts) -> Locate:
        """What locates rows in a pattern."""
        J = tuple(size.J for size in plan.terms)
        inverse = np.linalg.inv(R) if len(R) else R
        return cls(
            inverse,
            J,
            {
                (t, s): own.rows.astype(np.int64) * J[s] + own.cols
                for (t, s), own in pattern.pairs.items()
            },
        )

    def __call__(self, block: Block) -> Block:
        """The block with its runs; one without rows stays as it is."""
        if not block.n:
            return block
        place, runs = {}, {}
        for (t, s), keys in self.pairs.items():
            found = np.searchsorted(
                keys, block.codes[t].astype(np.int64) * self.J[s] + block.codes[s]
            )
            runs[t, s] = slice(int(found.min()), int(found.max()) + 1)
            place[t, s] = (found - runs[t, s].start).astype(np.int32)
        levels = tuple(slice(int(code.min()), int(code.max()) + 1) for code in block.codes)
        codes = tuple(
            code - np.int32(run.start) for code, run in zip(block.codes, levels, strict=True)
        )
        Q = np.ascontiguousarray(block.Q @ self.inverse)
        return replace(block, Q=Q, codes=codes, levels=levels, place=place, runs=runs)


def chain(
    first: Callable[[pa.Table], Block], second: Callable[[Block], Block], table: pa.Table
) -> Block:
    """``second`` of ``first`` of a table."""
    return second(first(table))


class Spill:
    """Blocks of all rows on this machine, in memory or in a temporary folder that goes when this object does.

    ``folder`` is where, None where rows are in memory; ``n`` the rows after merging.
    """

    def __init__(
        self, n: int, J: int, row_bytes: int, how: str | None, progress: Progress | None = None
    ) -> None:
        self.buckets = max(1, -(-n * row_bytes // BUDGET))
        self.J, self.how, self.progress, self.n = J, how, progress, 0
        self._folder = tempfile.TemporaryDirectory(prefix="lmm-rows-") if self.buckets > 1 else None
        self.folder = None if self._folder is None else self._folder.name
        self._parts: list[Block] = []
        self._blocks: list[Block | str] = []

    def take(self, block: Block) -> Spill:
        """Put rows aside, sorted by level."""
        if self._folder is None:
            self._parts.append(block)
            return self
        limits = -(-np.arange(self.buckets + 1) * self.J // self.buckets)
        stops = np.searchsorted(block.codes[0], limits)
        for bucket, (start, stop) in enumerate(zip(stops[:-1], stops[1:], strict=True)):
            if stop > start:
                rows = slice(start, stop)
                with open(os.path.join(self._folder.name, f"bucket-{bucket}"), "ab") as file:
                    pickle.dump(taken(block, rows), file, protocol=5)
        return self

    def settle(self, locate: Locate) -> None:
        """Merge what came in parts, and cut it into blocks."""
        for bucket in range(self.buckets):
            parts = self._parts if self._folder is None else list(self._read(f"bucket-{bucket}"))
            self._parts = []
            if not parts:
                continue
            block = _joined(parts)
            if len(parts) > 1:
                block = merged(block, list(block.Q.T), self.how)
            del parts
            for start in range(0, block.n, BLOCK):
                own = locate(taken(block, slice(start, min(start + BLOCK, block.n))))
                self.n += own.n
                if self._folder is None:
                    self._blocks.append(own)
                    continue
                name = os.path.join(self._folder.name, f"block-{len(self._blocks)}")
                with open(name, "wb") as file:
                    pickle.dump(own, file, protocol=5)
                self._blocks.append(name)
            if self._folder is not None:
                os.remove(os.path.join(self._folder.name, f"bucket-{bucket}"))

    def _read(self, name: str) -> Iterator[Block]:
        assert self._folder is not None
        path = os.path.join(self._folder.name, name)
        if not os.path.exists(path):
            return
        with open(path, "rb") as file:
            while True:
                try:
                    yield pickle.load(file)
                except EOFError:
                    return

    def each(self, function: Callable[[Block], T], text: str) -> Iterator[tuple[Block, T]]:
        """Blocks one after another, and what ``function`` makes of each; many rows are shared among the idle cores.

        What comes does not depend on the number of threads, nor does its order. NumPy lets other threads run while it computes.
        """
        workers = min(threads.idle_cores(), MOST_THREADS) if self.n >= THREADED else 1
        bar = nullcontext(None) if self.progress is None else self.progress(text, self.n)
        with bar as done, ThreadPoolExecutor(workers) if workers > 1 else nullcontext(None) as pool:
            for block, answer in self._answers(function, pool, 2 * workers):
                yield block, answer
                if done is not None:
                    done(block.n)

    def _answers(
        self, function: Callable[[Block], T], pool: ThreadPoolExecutor | None, ahead: int
    ) -> Iterator[tuple[Block, T]]:
        if pool is None:
            for where in self._blocks:
                block = _load(where)
                yield block, function(block)
            return
        waiting: deque[Future[tuple[Block, T]]] = deque()
        for where in self._blocks:
            waiting.append(pool.submit(_loaded, function, where))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def map_reduce(self, reduction: Reduction[A]) -> A:
        """``reduction`` over all blocks."""
        sums = reduction.start()
        for block, _ in self.each(_nothing, reduction.text):
            sums = reduction.add(sums, block)
        return sums

    def close(self) -> None:
        """Delete the folder."""
        self._blocks = []
        if self._folder is not None:
            self._folder.cleanup()


def _load(where: Block | str) -> Block:
    if isinstance(where, Block):
        return where
    with open(where, "rb") as file:
        block: Block = pickle.load(file)
    return block


def _loaded(function: Callable[[Block], T], where: Block | str) -> tuple[Block, T]:
    block = _load(where)
    return block, function(block)


def _nothing(block: Block) -> None:
    return None


def _joined(blocks: list[Block]) -> Block:
    """Blocks over all levels one after another."""
    if len(blocks) == 1:
        return blocks[0]
    first = blocks[0]
    columns = []
    for t, term in enumerate(first.columns):
        columns.append(
            [
                None if z is None else np.concatenate([b.columns[t][a] for b in blocks])
                for a, z in enumerate(term)
            ]
        )
    return replace(
        first,
        y=np.concatenate([b.y for b in blocks]),
        weights=np.concatenate([b.weights for b in blocks]),
        offset=np.concatenate([b.offset for b in blocks]),
        Q=np.concatenate([b.Q for b in blocks]),
        codes=tuple(np.concatenate([b.codes[t] for b in blocks]) for t in range(len(first.codes))),
        columns=tuple(columns),
        kept={},
    )


class StreamedRows:
    """The rows of a generalized problem that are not in memory, as a :class:`lmm.model.laplace.passes.Source`.

    Attributes
    ----------
    plan, pattern, R, n : as of :class:`lmm.model.laplace.rows.Rows`; n counts the user's rows.
    passes : passes made so far.
    kept : rows left after equal ones were merged; None where that is not known.
    """

    distant = True
    at_once: ClassVar[int] = 20_000_000

    def __init__(
        self,
        plan: Plan,
        pattern: CrossProducts,
        R: np.ndarray,
        n: int,
        constant: float,
        prepared: Prepared,
        kept: int | None,
    ):
        self.plan, self.pattern, self.R, self.n, self._constant = plan, pattern, R, n, constant
        self._prepared: Prepared | None = prepared
        self.kept, self.passes = kept, 0
        self._sample: Block | None = None

    @property
    def p(self) -> int:
        """Fixed columns."""
        return len(self.R)

    @property
    def folder(self) -> str | None:
        """The temporary folder that the rows are in, where they are in one."""
        return getattr(self._prepared, "folder", None)

    @property
    def where(self) -> str:
        """What a pass reads, in words."""
        if self.kept is None:
            return "blocks on the cluster's workers"
        rows = f"blocks of {self.kept} rows" + (
            "" if self.kept == self.n else f" for {self.n}, equal ones merged"
        )
        return f"{rows}, in memory" if self.folder is None else f"{rows}, in {self.folder}"

    def predictor(self, gamma: np.ndarray, b: Sequence[np.ndarray]) -> None:
        """None: no row is kept."""

    def constant(self, family: Family) -> float:
        """The part of the log density that no parameter moves, of the rows before they were merged."""
        return self._constant

    def total(self, requests: Sequence[Callable[[Block], object]]) -> list[object]:
        """The requests' answers summed over all rows: one pass."""
        sizes = (
            [size.J for size in self.plan.terms],
            {key: len(own.rows) for key, own in self.pattern.pairs.items()},
        )
        start, text = partial(_start, len(requests), *sizes), "rows, passed over"
        if isinstance(self._prepared, Spill):
            self.passes += 1
            totals = start()
            for block, answers in self._prepared.each(partial(_answers, tuple(requests)), text):
                for total, answer in zip(totals, answers, strict=True):
                    total.add(answer, block)
            return [total.value for total in totals]
        return [
            total.value
            for total in self._pass(
                Reduction((), start, partial(_answer, tuple(requests)), _merge, text)
            )
        ]

    def sample(self) -> Block:
        """Rows that stand for all, evenly spaced."""
        if self._sample is None:
            step = max(1, (self.kept or self.n) // SAMPLE)
            self._sample = _joined(
                self._pass(
                    Reduction((), list, partial(_every, step), _both, "a sample of the rows")
                )
            )
        return self._sample

    def _pass(self, reduction: Reduction[A]) -> A:
        if self._prepared is None:
            raise ArgumentError(
                "this needs another pass over the rows of the data, which did not travel with the fit; ask for it before the fit is "
                "pickled, or fit again."
            )
        self.passes += 1
        return self._prepared.map_reduce(reduction)

    def __getstate__(self) -> dict[str, object]:
        own = self._prepared
        return {
            **self.__dict__,
            "_prepared": own
            if isinstance(own, Spill) and own.folder is None and own.progress is None
            else None,
        }

    def __del__(self) -> None:
        if getattr(self, "_prepared", None) is not None:
            self._prepared.close()  # type: ignore[union-attr]


def _start(count: int, levels: list[int], pairs: dict[tuple[int, int], int]) -> list[Total]:
    return [Total(levels, pairs) for _ in range(count)]


def _answers(requests: tuple[Callable[[Block], object], ...], block: Block) -> list[object]:
    return [request(block) for request in requests]


def _answer(
    requests: tuple[Callable[[Block], object], ...], totals: list[Total], block: Block
) -> list[Total]:
    if block.n:
        for request, total in zip(requests, totals, strict=True):
            total.add(request(block), block)
    return totals


def _merge(a: list[Total], b: list[Total]) -> list[Total]:
    for mine, other in zip(a, b, strict=True):
        mine.value = merge(mine.value, other.value)
    return a


def _every(step: int, blocks: list[Block], block: Block) -> list[Block]:
    """Some rows of a block, without what belongs to levels."""
    rows = slice(0, None, step)
    bare = replace(block, codes=(), columns=(), levels=(), place={}, runs={}, kept={})
    return [*blocks, taken(bare, rows)]


def _both(a: list[Block], b: list[Block]) -> list[Block]:
    return [*a, *b]
