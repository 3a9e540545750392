"""What is summed over chunks of rows, and who sums: the two halves of every pass over data that is not in memory.

A reduction is a monoid with an action of tables: for tables t1, t2, ... in any order and any grouping,

    add(add(start(), t1), t2)   equals   merge(add(start(), t1), add(start(), t2))

up to rounding, and ``merge(a, start())`` equals ``a``. A reducer may therefore sum one chunk after another (a file), or a
partition on each worker and merge the partial sums as a tree (a cluster).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from lmm.stream.row_progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

A = TypeVar("A")


@dataclass(frozen=True)
class Reduction(Generic[A]):
    """One pass over the rows; picklable where its three functions are (methods or partials of frozen records, no closures).

    Attributes
    ----------
    columns : names of the columns that ``add`` reads.
    start : the sums of no rows.
    add : the sums with the rows of a ``pyarrow.Table``; may change and return its first argument.
    merge : the sums of both; may change and return its first argument, leaves the second one alone.
    text : what the pass does, for a progress bar.
    """

    columns: tuple[str, ...]
    start: Callable[[], A]
    add: Callable[[A, pa.Table], A]
    merge: Callable[[A, A], A]
    text: str = "rows"


@runtime_checkable
class Reducer(Protocol):
    """Rows somewhere: a source of tables that are read one after another, or a cluster's partitions.

    Attributes
    ----------
    text : what it is, for messages and the summary: ``"rows.parquet"``, ``"Dask DataFrame, 8 partitions"``.
    schema : Arrow type by column name, in order.
    n_rows : rows, where that is known without reading them; else None.
    repeatable : whether the rows can be passed over more than once.
    """

    @property
    def text(self) -> str: ...

    @property
    def schema(self) -> dict[str, pa.DataType]: ...

    @property
    def n_rows(self) -> int | None: ...

    @property
    def repeatable(self) -> bool: ...

    def head(self, columns: tuple[str, ...], rows: int) -> pa.Table:
        """The first rows of these columns, at least one where there is any, as a ``pyarrow.Table``."""
        ...

    def map_reduce(self, reduction: Reduction[A]) -> A:
        """``reduction`` over all rows.

        Raises
        ------
        DataError : what ``add`` raises, and a pass over rows that can be read once only.
        """
        ...


#: where kinds of data are registered, by the package of their type: imported for such data only
ROOMS = {
    **dict.fromkeys(("path", "lmm", "pyarrow", "duckdb", "_duckdb"), "lmm.stream.sources"),
    **dict.fromkeys(("dask", "dask_expr"), "lmm.stream.clusters.dask_frames"),
    "pyspark": "lmm.stream.clusters.spark_frames",
}
_KINDS: list[tuple[Callable[[object], bool], Callable[[Any, Progress | None], Reducer]]] = []


def register(
    knows: Callable[[object], bool], make: Callable[[Any, Progress | None], Reducer]
) -> None:
    """Add a kind of data: ``knows(data)`` tells it without importing anything, ``make(data, progress)`` gives its reducer.

    ``progress`` is None or a function ``(text, total rows or None) -> context manager of a function (rows just done)``.
    """
    _KINDS.append((knows, make))


def reducer_for(data: object, progress: Progress | None = None) -> Reducer | None:
    """The reducer of data that is not a table in memory; None for one that is."""
    where = module_of(data)
    if where in ("builtins", "pathlib"):
        where = "" if isinstance(data, dict) else "path"
    if where not in ROOMS:
        return None
    importlib.import_module(ROOMS[where])
    return next((make(data, progress) for knows, make in _KINDS if knows(data)), None)


def module_of(data: object) -> str:
    """The package that the data's type comes from, told without importing it."""
    return type(data).__module__.partition(".")[0]
