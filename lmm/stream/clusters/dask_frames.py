"""Dask DataFrames: each partition is summed where it lies, and the sums meet in a tree of tasks.

The tasks are ``dask.delayed`` ones and run on whatever scheduler is current: that of a ``distributed.Client``, or the
threads of this process. When a worker is lost, the scheduler runs again what the worker held, from the partition on.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lmm import __version__
from lmm.errors import DataError, LmmError
from lmm.model.laplace.rows import Block
from lmm.stream.clusters.parts import (
    ABSENT,
    FAN_IN,
    Part,
    Prepared,
    combine,
    evaluate,
    evaluate_prepared,
    finished,
    guarded,
    preparation,
    sliced,
)
from lmm.stream.conform import conform
from lmm.stream.reducers import A, Reduction, module_of, register

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pyarrow as pa
    from dask.delayed import Delayed

#: times that a task which raised an error of another kind than ours is run again
RETRIES = 2
#: rows that suffice as the first ones where partitions are small
ENOUGH = 1000


@dataclass(frozen=True, eq=False)
class DaskReducer:
    """The partitions of a ``dask.dataframe.DataFrame`` as a :class:`lmm.stream.Reducer`."""

    frame: dd.DataFrame
    repeatable: bool = True
    n_rows: int | None = None

    @property
    def text(self) -> str:
        """What the data is."""
        return f"Dask DataFrame, {self.frame.npartitions} partitions"

    @cached_property
    def schema(self) -> dict[str, pa.DataType]:
        """Arrow type by column; one of Python objects, or of categories not yet known, has that of the first rows."""
        import pyarrow as pa

        empty = self.frame._meta
        names = tuple(name for name in empty.columns if isinstance(name, str))
        vague = tuple(
            name
            for name in names
            if str(empty[name].dtype) in ("object", "category") and not _is_known(empty[name])
        )
        types = {
            name: pa.array(empty[name], from_pandas=True).type
            for name in names
            if name not in vague
        }
        if vague:
            types |= _types(self.head(vague, ENOUGH))
        return {name: types[name] for name in names}

    def head(self, columns: tuple[str, ...], rows: int) -> pa.Table:
        """The first rows of the first partitions, as a ``pyarrow.Table``: as many as ``rows``, or else ``ENOUGH``."""
        import dask
        import pyarrow as pa

        found: list[pa.Table] = []
        for number, partition in enumerate(self._partitions(columns)):
            first = self._compute(
                dask.delayed(_first, pure=False)(partition, number, columns, rows), columns
            )
            if first.error is not None:
                raise first.error
            found.append(
                conform(
                    first.value, columns, _types(found[0] if found else first.value), _where(number)
                )
            )
            if sum(len(table) for table in found) >= min(rows, ENOUGH):
                break
        return pa.concat_tables(found).slice(0, rows)

    def map_reduce(self, reduction: Reduction[A]) -> A:
        """``reduction`` over all rows; see :meth:`lmm.stream.Reducer.map_reduce`."""
        import dask

        with dask.annotate(retries=RETRIES):
            what = shipped(reduction)
            parts = self._parts(what, reduction.columns)
            root = tree(parts, what)
        return finished(self._compute(root, reduction.columns), len(parts), reduction)

    def prepared(self, columns: tuple[str, ...], prepare: Callable[[pa.Table], Block]) -> Prepared:
        """What ``prepare`` makes of the rows' tables, kept on the workers; a lost worker's blocks are made again."""
        import dask

        with dask.annotate(retries=RETRIES):
            blocks = self._parts(shipped(preparation(columns, prepare)), columns)
            return PreparedDask(self, columns, list(dask.persist(*blocks)))

    def _parts(self, reduction: Delayed, columns: tuple[str, ...]) -> list[Delayed]:
        """A task per partition, whose result is its part."""
        import dask

        schema = pickle.dumps({name: self.schema[name] for name in columns})
        leaf = dask.delayed(_leaf, pure=False, traverse=False)
        return [
            leaf(reduction, partition, number, schema, __version__)
            for number, partition in enumerate(self._partitions(columns))
        ]

    def _partitions(self, columns: tuple[str, ...]) -> list[Delayed]:
        """One delayed pandas table per partition, of these columns."""
        return list(self.frame[list(columns)].to_delayed())

    def _compute(self, task: Delayed, columns: tuple[str, ...]) -> Any:
        """The value of a task; what fails in the user's own part of the graph becomes a DataError."""
        import dask

        try:
            return dask.compute(task)[0]
        except LmmError:
            raise
        except Exception as error:
            if (
                type(error).__module__.partition(".")[0] == "distributed"
            ):  # workers killed, a lost connection
                raise
            self._blame(columns)
            raise

    def _blame(self, columns: tuple[str, ...]) -> None:
        """Raise DataError where partitions cannot be computed, or lack a column."""
        import dask

        look = dask.delayed(_columns, pure=False)
        try:
            found = dask.compute(*[look(part) for part in self.frame.to_delayed()])
        except Exception as error:
            raise DataError(
                f"the Dask DataFrame cannot be computed: {type(error).__name__}: {error}"
            ) from error
        for number, names in enumerate(found):
            for name in columns:
                if name not in names:
                    raise DataError(
                        f"column {name!r} is missing in {_where(number)}, although other parts have it."
                    )


@dataclass(frozen=True, eq=False)
class PreparedDask:
    """Blocks kept by the workers; see :class:`lmm.stream.clusters.parts.Prepared`."""

    reducer: DaskReducer
    columns: tuple[str, ...]
    blocks: list[Delayed]

    def map_reduce(self, reduction: Reduction[A]) -> A:
        """``reduction`` over all blocks."""
        import dask

        leaf = dask.delayed(_leaf_prepared, pure=False, traverse=False)
        with dask.annotate(retries=RETRIES):
            what = shipped(reduction)
            parts = [leaf(what, block, __version__) for block in self.blocks]
            root = tree(parts, what)
        return finished(self.reducer._compute(root, self.columns), len(parts), reduction)

    def close(self) -> None:
        """Let the workers forget the blocks."""
        self.blocks.clear()


def tree(parts: list[Delayed], what: object) -> Delayed:
    """The task that has the sum of all parts."""
    import dask

    merge = dask.delayed(_merge, pure=False)
    while len(parts) > 1:
        groups = [parts[i : i + FAN_IN] for i in range(0, len(parts), FAN_IN)]
        parts = [merge(what, group) if len(group) > 1 else group[0] for group in groups]
    return parts[0]


def shipped(value: object) -> Delayed:
    """A task whose result is ``value``, pickled: it goes once to each worker, from here or from another worker.

    It stays pickled on the way, because a function of a notebook can be pickled where it was written only; and it is a task,
    because one that a lost worker held is run again.
    """
    import cloudpickle
    import dask

    return dask.delayed(bytes, pure=False, traverse=False)(cloudpickle.dumps(value))


def unpacked(value: bytes) -> Any:
    """What was shipped; DataError where it needs a module that this worker does not have."""
    try:
        return pickle.loads(value)
    except ImportError as error:
        raise DataError(ABSENT.format(name=error.name)) from None


def _leaf(
    reduction: bytes, frame: dd.DataFrame, number: int, schema: bytes, version: str
) -> Part[object]:
    return evaluate(unpacked(reduction), _tables(frame, number, schema), number, version)


def _leaf_prepared(reduction: bytes, blocks: Part[list[Block]], version: str) -> Part[object]:
    return evaluate_prepared(unpacked(reduction), blocks, version)


def _merge(reduction: bytes, parts: list[Part[object]]) -> Part[object]:
    return combine(parts, unpacked(reduction).merge)


def _first(frame: dd.DataFrame, number: int, columns: tuple[str, ...], rows: int) -> Part[pa.Table]:
    return guarded(frozenset({number}), lambda: arrow(frame[:rows], columns, _where(number)))


def _columns(frame: dd.DataFrame) -> list[Hashable]:
    return list(frame.columns)


def _is_known(column: dd.Series) -> bool:
    """Whether an empty column tells the type of the values."""
    from dask.dataframe.utils import has_known_categories

    return column.dtype == "category" and bool(has_known_categories(column))


def _types(table: pa.Table) -> dict[str, pa.DataType]:
    return dict(zip(table.schema.names, table.schema.types, strict=True))


def _where(number: int) -> str:
    return f"partition {number} of the Dask DataFrame"


def _tables(frame: dd.DataFrame, number: int, schema: bytes) -> Iterator[pa.Table]:
    """A partition in blocks of rows, in the types of ``schema``."""
    types = pickle.loads(schema)
    yield from sliced(
        conform(arrow(frame, tuple(types), _where(number)), tuple(types), types, _where(number))
    )


def arrow(frame: dd.DataFrame, columns: tuple[str, ...], where: str) -> pa.Table:
    """Those of the columns that a pandas table has, as a ``pyarrow.Table``; DataError for a column that mixes types."""
    import pyarrow as pa

    out = {}
    for name in columns:
        if name in frame.columns:
            try:
                out[name] = pa.array(frame[name], from_pandas=True)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(f"column {name!r} mixes types in {where}: {error}") from None
    return pa.table(out)


def _is_dask(data: object) -> bool:
    return module_of(data) == "dask" and type(data).__name__ == "DataFrame"


register(_is_dask, lambda data, progress: DaskReducer(data))
