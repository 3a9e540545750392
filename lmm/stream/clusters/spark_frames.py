"""Spark DataFrames: ``mapInArrow`` sums each partition where it lies, and further stages of the same kind merge the sums.

Only the DataFrame interface is used, so that Spark Connect serves too. A partition's sums are rows (part, piece, failed, data)
of pickled bytes, kept by the executors until the tree has been built on them. Where sums are brought together, they are
shuffled by the number of their partition, never row by row in turn: a stage that is run again, because an executor was lost,
sends every part to the same place as before, whatever its bytes are.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from lmm import __version__
from lmm.errors import DataError
from lmm.model.laplace.rows import Block
from lmm.stream.clusters.parts import (
    ABSENT,
    FAN_IN,
    ROWS,
    Part,
    Prepared,
    combine,
    evaluate,
    evaluate_prepared,
    finished,
    preparation,
)
from lmm.stream.conform import conform
from lmm.stream.reducers import A, Reducer, Reduction, module_of, register
from lmm.stream.row_progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: bytes of one row of pickled sums
PIECE = 16 * 2**20
#: a part smaller than this comes to the driver at once; sums that together are smaller than SMALL are merged there
TINY, SMALL = 32 * 2**10, 8 * 2**20
#: columns of a data frame of pickled parts
PIECES = "part int, piece int, failed boolean, data binary"
#: conditions that Spark names in brackets when rows or columns are not what they should be
DATA = (
    "[FAILED_READ_FILE",
    "[CAST_INVALID",
    "[UNRESOLVED_COLUMN",
    "[PARQUET_",
    "[CANNOT_MERGE",
    "[INCOMPATIBLE_",
    "[DIVIDE_BY_ZERO",
)


@dataclass(frozen=True, eq=False)
class SparkReducer:
    """The partitions of a ``pyspark.sql.DataFrame`` as a :class:`lmm.stream.Reducer`."""

    frame: DataFrame
    repeatable: bool = True
    n_rows: int | None = None
    text: str = "Spark DataFrame"

    @cached_property
    def schema(self) -> dict[str, pa.DataType]:
        """Arrow type by column; columns of types that Arrow does not have are left out."""
        from pyspark.errors import PySparkException
        from pyspark.sql.pandas.types import to_arrow_type

        types = {}
        for field in self.frame.schema.fields:
            try:
                types[field.name] = to_arrow_type(field.dataType)
            except PySparkException:
                continue
        return types

    def head(self, columns: tuple[str, ...], rows: int) -> pa.Table:
        """The first rows, as a ``pyarrow.Table``."""
        with explained():
            return conform(
                self._select(columns).limit(rows).toArrow(),
                columns,
                self.schema,
                "the Spark DataFrame",
            )

    def map_reduce(self, reduction: Reduction[A]) -> A:
        """``reduction`` over all rows; see :meth:`lmm.stream.Reducer.map_reduce`."""
        with explained():
            return total(self._parts(reduction), reduction)

    def prepared(self, columns: tuple[str, ...], prepare: Callable[[pa.Table], Block]) -> Prepared:
        """What ``prepare`` makes of the rows' tables, kept by the executors; a lost executor's blocks are made again."""
        with explained():
            return PreparedSpark(self._parts(preparation(columns, prepare)).persist())

    def _parts(self, reduction: Reduction[A]) -> DataFrame:
        """The data frame of the partitions' parts."""
        schema = {name: self.schema[name] for name in reduction.columns}
        leaf = partial(_leaf, reduction=reduction, schema=schema, version=__version__)
        return self._select(reduction.columns).mapInArrow(leaf, PIECES)

    def _select(self, columns: tuple[str, ...]) -> DataFrame:
        escaped = [name.replace("`", "``") for name in columns]
        return self.frame.select(*[f"`{name}`" for name in escaped])


@dataclass(frozen=True, eq=False)
class PreparedSpark:
    """Blocks kept by the executors; see :class:`lmm.stream.clusters.parts.Prepared`."""

    blocks: DataFrame

    def map_reduce(self, reduction: Reduction[A]) -> A:
        """``reduction`` over all blocks."""
        with explained():
            return total(
                self.blocks.mapInArrow(
                    partial(_leaf_prepared, reduction=reduction, version=__version__), PIECES
                ),
                reduction,
            )

    def close(self) -> None:
        """Let the executors forget the blocks."""
        with suppress(Exception):  # the session may have ended before the fit is let go
            self.blocks.unpersist()


def total(leaves: DataFrame, reduction: Reduction[A]) -> A:
    """The sum of a data frame of parts: brought together ``FAN_IN`` at a time by the executors, the last few by the driver."""
    from pyspark.sql import functions as F

    leaves = leaves.persist()
    try:
        size = F.length("data")
        held = leaves.select(
            "part",
            "piece",
            "failed",
            size.alias("size"),
            F.when(size < TINY, F.col("data")).alias("data"),
        ).collect()
        count = len({row.part for row in held})
        failed = [row.part for row in held if row.failed]
        rows, parts = held, leaves
        if failed:
            parts = leaves.where(leaves.part == min(failed))
        elif sum(row.size for row in held) > SMALL:
            merge = partial(_merge, merge=reduction.merge)
            groups = count
            while groups > FAN_IN:
                groups = -(-groups // FAN_IN)
                parts = parts.repartition(groups, F.col("part") % groups).mapInArrow(merge, PIECES)
        if parts is not leaves or any(row.data is None for row in held):
            rows = parts.collect()
        found = joined((row.part, row.piece, row.data) for row in rows)
    finally:
        leaves.unpersist()
    if not found:
        return reduction.start()
    return finished(combine(found, reduction.merge), count, reduction)


@contextmanager
def explained() -> Iterator[None]:
    """Errors of Spark that tell of the user's data or installation as DataErrors with their first lines; all others as they are."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException, PythonException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        absent = re.search(r"No module named '([\w.]+)'", text)
        if absent:
            raise DataError(ABSENT.format(name=absent[1])) from error
        if isinstance(error, PythonException):
            raise
        cause = next(
            (line.strip() for line in text.splitlines() if any(sign in line for sign in DATA)), None
        )
        if cause is None:
            raise
        raise DataError(
            f"the Spark DataFrame cannot be computed: {cause[cause.index('[') :]}"
        ) from error


def _leaf(
    batches: Iterator[pa.RecordBatch],
    reduction: Reduction[A],
    schema: dict[str, pa.DataType],
    version: str,
) -> Iterator[pa.RecordBatch]:
    number = _number()
    yield from pieces(evaluate(reduction, _tables(batches, number, schema), number, version))


def _leaf_prepared(
    batches: Iterator[pa.RecordBatch], reduction: Reduction[A], version: str
) -> Iterator[pa.RecordBatch]:
    for blocks in _parts(batches):
        yield from pieces(evaluate_prepared(reduction, blocks, version))


def _merge(
    batches: Iterator[pa.RecordBatch], merge: Callable[[A, A], A]
) -> Iterator[pa.RecordBatch]:
    parts = _parts(batches)
    if parts:
        yield from pieces(combine(parts, merge))


def _number() -> int:
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None  # it is a task that asks
    return context.partitionId()


def _tables(
    batches: Iterable[pa.RecordBatch], number: int, schema: dict[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """A partition's batches put together to blocks of at least ``ROWS`` rows, the last one smaller."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []

    def block() -> pa.Table:
        return conform(
            pa.Table.from_batches(waiting),
            tuple(schema),
            schema,
            f"partition {number} of the Spark DataFrame",
        )

    for batch in batches:
        if batch.num_rows:
            waiting.append(batch)
            if sum(held.num_rows for held in waiting) >= ROWS:
                yield block()
                waiting = []
    if waiting:
        yield block()


def pieces(part: Part[A]) -> Iterator[pa.RecordBatch]:
    """A part as rows of at most ``PIECE`` bytes, each an Arrow batch of its own."""
    import pyarrow as pa

    data, number = pickle.dumps(part, protocol=5), min(part.numbers)
    for piece, start in enumerate(range(0, len(data), PIECE)):
        fields = {
            "part": pa.array([number], pa.int32()),
            "piece": pa.array([piece], pa.int32()),
            "failed": pa.array([part.error is not None]),
            "data": pa.array([memoryview(data)[start : start + PIECE]], pa.binary()),
        }
        yield pa.RecordBatch.from_pydict(fields)


def joined(rows: Iterable[tuple[int, int, bytes | pa.Buffer]]) -> list[Part[Any]]:
    """The parts of rows (part, piece, data) in any order."""
    held: dict[int, dict[int, bytes | pa.Buffer]] = {}
    for number, piece, data in rows:
        held.setdefault(number, {})[piece] = data
    return [
        pickle.loads(b"".join(found[piece] for piece in sorted(found)))
        for _, found in sorted(held.items())
    ]


def _parts(batches: Iterable[pa.RecordBatch]) -> list[Part[Any]]:
    return joined(
        (number.as_py(), piece.as_py(), data.as_buffer())
        for batch in batches
        for number, piece, data in zip(batch["part"], batch["piece"], batch["data"], strict=True)
    )


def _is_spark(data: object) -> bool:
    return module_of(data) == "pyspark" and type(data).__name__ == "DataFrame"


def _reducer(data: Any, progress: Progress | None) -> Reducer:
    return SparkReducer(
        data.to_spark() if type(data).__module__.startswith("pyspark.pandas") else data
    )


register(_is_spark, _reducer)
