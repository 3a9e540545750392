"""Partial sums of partitions, added up over a tree of tasks: each partition is in the total exactly once.

A part is what a task returns, never what it adds to something shared: a task that is run again, because its worker
was lost, replaces its result. (An accumulator would count such a partition twice.) Each part carries the numbers of
the partitions that it holds; two parts that share one are refused, and so is a total that lacks one. Errors that a
user can cure travel as parts too: they come back as themselves, and no scheduler tries again what must fail again.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from lmm import __version__
from lmm.errors import DataError, LmmError
from lmm.stream.conform import told
from lmm.stream.reducers import A, Reduction

if TYPE_CHECKING:
    import pyarrow as pa

B = TypeVar("B")
#: rows that are summed at a time, which bounds what a worker needs beside its partition
ROWS = 250_000
#: parts that one task merges
FAN_IN = 4
#: message where a worker lacks a module: lmm itself, or one of the user's
ABSENT = "the workers cannot import {name!r}: install it on every worker, the same version as here."


class Prepared(Protocol):
    """What was made of the rows once and is kept on the workers, for passes that come again and again."""

    def map_reduce(self, reduction: Reduction[A]) -> A:
        """``reduction`` over all blocks: ``add`` gets what ``prepare`` returned, ``columns`` is not used."""
        ...

    def close(self) -> None:
        """Let the workers forget the blocks."""
        ...


@dataclass(frozen=True, eq=False)
class Part(Generic[A]):
    """The sums of some partitions.

    Attributes
    ----------
    numbers : the partitions that are in it.
    value : their sums; None where they have no rows.
    error : what was wrong in the first partition that failed; None when nothing was.
    """

    numbers: frozenset[int]
    value: A | None = None
    error: LmmError | None = None


def evaluate(
    reduction: Reduction[A], blocks: Iterable[pa.Table], number: int, version: str
) -> Part[A]:
    """The part of one partition.

    Parameters
    ----------
    reduction : what is summed.
    blocks : the partition's rows in order, in one or more tables.
    number : the partition's number.
    version : lmm's version where the fit was asked for.
    """

    def total() -> A | None:
        check_version(version)
        value: A | None = None
        for block in blocks:
            value = reduction.add(reduction.start() if value is None else value, block)
        return value

    return guarded(frozenset({number}), total)


def guarded(numbers: frozenset[int], compute: Callable[[], A | None]) -> Part[A]:
    """The part with the value computed, or with the error that tells the user what is wrong."""
    try:
        with told(f"partition {min(numbers)}", files=False):
            return Part(numbers, compute())
    except LmmError as error:
        return Part(numbers, error=error.with_traceback(None))


def combine(parts: Iterable[Part[A]], merge: Callable[[A, A], A]) -> Part[A]:
    """The sum of parts in the order of their partitions, so that it does not depend on which task ended first.

    The parts stay as they are: a scheduler may hold them for a task that it runs again.
    """
    first, *others = sorted(parts, key=lambda part: min(part.numbers))
    total = copy.deepcopy(first) if others else first
    for part in others:
        both = total.numbers & part.numbers
        if both:
            raise DataError(
                f"partition {min(both)} came twice: the data frame's partitions are not the same each time they are computed."
            )
        total = _sum(total, part, merge)
    return total


def _sum(a: Part[A], b: Part[A], merge: Callable[[A, A], A]) -> Part[A]:
    """Both parts, in place of the first."""
    numbers, mine, other = a.numbers | b.numbers, a.value, b.value
    if a.error is not None or b.error is not None:
        return Part(numbers, error=a.error or b.error)
    if other is None:
        return Part(numbers, mine)
    if mine is None:
        return Part(numbers, copy.deepcopy(other))
    return guarded(numbers, lambda: merge(mine, other))


def finished(part: Part[A], count: int, reduction: Reduction[A]) -> A:
    """The sums of all ``count`` partitions; raises the error of one that failed."""
    if part.error is not None:
        raise part.error
    lost = frozenset(range(count)) ^ part.numbers
    if lost:
        raise DataError(
            f"partition {min(lost)} is not in the sum: the data frame's partitions changed while they were computed."
        )
    return reduction.start() if part.value is None else part.value


def check_version(version: str) -> None:
    """DataError where this process has another version than the one that asks: its sums may mean something else."""
    if version != __version__:
        raise DataError(
            f"the workers have lmm {__version__}, the fit is asked for by lmm {version}: install the same version on both."
        )


def sliced(table: pa.Table) -> Iterator[pa.Table]:
    """A ``pyarrow.Table`` in blocks of at most :data:`ROWS` rows, without a copy; no block where it has no row."""
    for start in range(0, len(table), ROWS):
        yield table.slice(start, ROWS)


def preparation(columns: tuple[str, ...], prepare: Callable[[pa.Table], B]) -> Reduction[list[B]]:
    """The pass that gives the list of blocks, each what ``prepare`` makes of a table."""
    return Reduction(columns, list, partial(_prepared, prepare), operator.add)


def _prepared(prepare: Callable[[pa.Table], B], blocks: list[B], table: pa.Table) -> list[B]:
    return [*blocks, prepare(table)]


def evaluate_prepared(reduction: Reduction[A], blocks: Part[list[B]], version: str) -> Part[A]:
    """The part of a partition whose blocks are kept."""
    if blocks.error is not None:
        return Part(blocks.numbers, error=blocks.error)
    return evaluate(reduction, blocks.value or (), min(blocks.numbers), version)
