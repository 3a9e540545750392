"""Files, readers and databases as tables of a bounded number of rows, one after another.

    a path, a glob or a list of paths        Parquet files; a folder is a (partitioned) data set
    pyarrow.dataset.Dataset                  any format and file system that pyarrow reads
    pyarrow.RecordBatchReader                once only
    DuckDB relation; Source(path, table=)    a table, view or query; "file.duckdb::table" for short

A chunk is read while the one before it is worked on.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmm.errors import ArgumentError, DataError, nearest
from lmm.stream.conform import common, conform
from lmm.stream.reducers import Reduction, module_of, register

#: rows of a chunk
CHUNK = 1_000_000
#: bytes of a column that are read at a time
BUFFER = 2**20
#: what separates a DuckDB file from the name of a table
SEPARATOR = "::"


@dataclass(frozen=True)
class Source:
    """Where rows are to be read from, where a path alone does not say it.

    Parameters
    ----------
    path : Parquet files (path, glob, list of either, folder), or a DuckDB file.
    table : of a DuckDB file the table or view; may be left out where there is one only.
    chunk : rows read at a time.

    Examples
    --------
    >>> import lmm
    >>> lmm.Source("ratings.duckdb", table="ratings")
    Source(path='ratings.duckdb', table='ratings', chunk=1000000)
    """

    path: Any
    table: str | None = None
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        if not isinstance(self.chunk, int) or self.chunk < 1:
            raise ArgumentError(f"chunk={self.chunk!r} must be a positive number of rows.")


class Stream:
    """Tables one after another; the reducer of everything that is read in one place."""

    text = "a stream"
    repeatable = True

    def __init__(self, chunk: int = CHUNK, progress: Any = None) -> None:
        self.chunk, self.progress = chunk, progress

    @property
    def schema(self) -> dict[str, Any]:
        """Arrow type by column name."""
        raise NotImplementedError

    @property
    def n_rows(self) -> int | None:
        """Rows, where known."""
        return None

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[Any, str]]:
        """Tables of at most about ``rows`` rows, and where each comes from."""
        raise NotImplementedError

    def batches(self, columns: tuple[str, ...]) -> Iterator[Any]:
        """``pyarrow.Table`` after table with these columns, each read while the one before it is used."""
        schema = {name: self.schema[name] for name in columns}
        found = ((table, where) for table, where in self.tables(columns, self.chunk))
        with ThreadPoolExecutor(1, thread_name_prefix="lmm-read") as pool:
            following = pool.submit(next, found, None)
            while True:
                got = following.result()
                if got is None:
                    return
                following = pool.submit(next, found, None)
                yield conform(got[0], columns, schema, got[1])

    def head(self, columns: tuple[str, ...], rows: int) -> Any:
        """The first rows."""
        import pyarrow as pa

        schema = {name: self.schema[name] for name in columns}
        parts, count = [], 0
        for table, where in self.tables(columns, rows):
            parts.append(conform(table, columns, schema, where).slice(0, rows - count))
            count += parts[-1].num_rows
            if count >= rows:
                break
        return pa.concat_tables(parts) if parts else pa.table({name: pa.array([], type) for name, type in schema.items()})

    def map_reduce(self, reduction: Reduction[Any]) -> Any:
        """``reduction`` over all chunks, one after another."""
        sums = reduction.start()
        with self.progress(reduction.text, self.n_rows) if self.progress else nullcontext(_nothing) as done:
            for table in self.batches(reduction.columns):
                sums = reduction.add(sums, table)
                done(table.num_rows)
        return sums


def _nothing(rows: int) -> None:
    """No progress is shown."""


class ParquetFiles(Stream):
    """Parquet files in the order of their names; the first one says what the columns are."""

    def __init__(self, paths: list[str], text: str, chunk: int = CHUNK, progress: Any = None) -> None:
        super().__init__(chunk, progress)
        self.paths, self.text = paths, text

    def _open(self, path: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # page by page: buffers made ahead are kept until the whole file has been read
            return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
        except (pa.ArrowInvalid, OSError) as error:
            cause = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"{path!r} is no Parquet file: {cause}. CSV and other formats are read by pyarrow.dataset.dataset(path)."
            ) from None

    @cached_property
    def _footers(self) -> tuple[dict[str, Any], int]:
        """Types of the columns of the first file, and the rows of all.

        A number has the type that holds those of all files, and a column without a value in the first file that of a later one;
        any other difference is an error once the file is read.
        """
        types: dict[str, Any] = {}
        total = 0
        for path in self.paths:
            with self._open(path) as file:
                total += file.metadata.num_rows
                own = {field.name: field.type for field in file.schema_arrow}
                types = {name: common(type, own.get(name, type)) for name, type in types.items()} if types else own
        return types, total

    @property
    def schema(self) -> dict[str, Any]:
        return self._footers[0]

    @property
    def n_rows(self) -> int | None:
        return self._footers[1]

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[Any, str]]:
        import pyarrow as pa

        for path in self.paths:
            with self._open(path) as file:
                lost = [name for name in columns if name not in file.schema_arrow.names]
                if lost:
                    yield file.schema_arrow.empty_table(), repr(os.path.basename(path))  # the message names the column
                    continue
                for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
                    yield pa.table(batch.columns, names=batch.schema.names), repr(os.path.basename(path))


class Dataset(Stream):
    """A ``pyarrow.dataset.Dataset``."""

    def __init__(self, dataset: Any, text: str = "", chunk: int = CHUNK, progress: Any = None) -> None:
        super().__init__(chunk, progress)
        self.dataset = dataset
        self.text = text or f"{type(dataset).__name__} of pyarrow"

    @cached_property
    def schema(self) -> dict[str, Any]:
        return {field.name: field.type for field in self.dataset.schema}

    @cached_property
    def n_rows(self) -> int | None:
        try:
            return int(self.dataset.count_rows())
        except Exception:  # whatever a file system or format raises: a bar without a total is enough
            return None

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[Any, str]]:
        import pyarrow as pa
        import pyarrow.dataset as ds

        partitions = set(_partition_names(self.dataset))
        for fragment in self.dataset.get_fragments():  # a column that one file lacks would be filled with missing values
            if hasattr(fragment, "physical_schema"):
                lost = set(columns) - partitions - set(fragment.physical_schema.names)
                if lost:
                    where = repr(os.path.basename(getattr(fragment, "path", "") or "a fragment"))
                    yield pa.table({name: pa.array([], self.schema[name]) for name in columns if name not in lost}), where
        try:
            options = {"batch_size": rows, "batch_readahead": 2, "fragment_readahead": 1}
            if type(getattr(self.dataset, "format", None)).__name__ == "ParquetFileFormat":
                lean = ds.ParquetFragmentScanOptions(use_buffered_stream=True, buffer_size=BUFFER, pre_buffer=False)
                options["fragment_scan_options"] = lean
            scanner = self.dataset.scanner(columns=list(columns), **options)
            for batch in scanner.to_batches():
                yield pa.table(batch.columns, names=batch.schema.names), "a part of the data"
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"the data cannot be read with one type for each column: {str(error).splitlines()[0]}") from None


def _partition_names(dataset: Any) -> list[str]:
    partitioning = getattr(dataset, "partitioning", None)
    return list(partitioning.schema.names) if partitioning is not None else []


class Reader(Stream):
    """A ``pyarrow.RecordBatchReader``: rows that pass by once. The first ones are kept until they are used."""

    repeatable = False

    def __init__(self, reader: Any, chunk: int = CHUNK, progress: Any = None) -> None:
        super().__init__(chunk, progress)
        self.reader, self.text = reader, "RecordBatchReader"
        self._kept: list[Any] = []
        self._used = False

    @cached_property
    def schema(self) -> dict[str, Any]:
        return {field.name: field.type for field in self.reader.schema}

    def head(self, columns: tuple[str, ...], rows: int) -> Any:
        import pyarrow as pa

        while sum(batch.num_rows for batch in self._kept) < rows:
            batch = next(self._read(), None)
            if batch is None:
                break
            self._kept.append(batch)
        return pa.Table.from_batches(self._kept, self.reader.schema).select(list(columns)).slice(0, rows)

    def _read(self) -> Iterator[Any]:
        import pyarrow as pa

        while True:
            try:
                yield self.reader.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"the reader failed: {str(error).splitlines()[0]}") from None

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[Any, str]]:
        import pyarrow as pa

        if self._used:
            raise DataError(
                "this RecordBatchReader has been read to its end, and its rows cannot be read again; give the file or a "
                "pyarrow.dataset.Dataset, or a new reader."
            )
        self._used = True
        waiting, count = self._kept, sum(batch.num_rows for batch in self._kept)
        self._kept = []
        for batch in self._read():
            waiting.append(batch)
            count += batch.num_rows
            if count >= rows:
                yield pa.Table.from_batches(waiting).select(list(columns)), "a batch of the reader"
                waiting, count = [], 0
        if waiting:
            yield pa.Table.from_batches(waiting).select(list(columns)), "a batch of the reader"


class DuckTable(Stream):
    """A table, view or relation of DuckDB; ``opened`` gives the relation for as long as it is read."""

    def __init__(self, opened: Callable[[], AbstractContextManager[Any]], text: str, chunk: int = CHUNK, progress: Any = None) -> None:
        super().__init__(chunk, progress)
        self.opened, self.text = opened, text

    @contextmanager
    def _relation(self) -> Iterator[Any]:
        import duckdb

        try:
            with self.opened() as relation:
                yield relation
        except duckdb.Error as error:
            raise DataError(f"{self.text} cannot be read: {str(error).splitlines()[0]}") from None

    @cached_property
    def schema(self) -> dict[str, Any]:
        with self._relation() as relation:
            return {field.name: field.type for field in _arrow_reader(relation.limit(0), 1).schema}

    @cached_property
    def n_rows(self) -> int | None:
        with self._relation() as relation:
            return int(relation.count("*").fetchone()[0])

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[Any, str]]:
        import pyarrow as pa

        names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        with self._relation() as relation:
            for batch in _arrow_reader(relation.project(names), rows):
                yield pa.table(batch.columns, names=batch.schema.names), "a part of the data"


def _arrow_reader(relation: Any, rows: int) -> Any:
    """DuckDB renamed it in 1.4."""
    name = "to_arrow_reader" if hasattr(relation, "to_arrow_reader") else "fetch_record_batch"
    return getattr(relation, name)(rows)


def _is_path(data: Any) -> bool:
    return isinstance(data, (str, Path, Source)) or (
        isinstance(data, (list, tuple)) and bool(data) and all(isinstance(d, (str, Path)) for d in data)
    )


def _is_arrow(data: Any) -> bool:
    return module_of(data) == "pyarrow" and type(data).__name__ in ARROW


def _is_duck(data: Any) -> bool:
    return module_of(data) in ("duckdb", "_duckdb") and type(data).__name__ == "DuckDBPyRelation"


ARROW = ("FileSystemDataset", "InMemoryDataset", "UnionDataset", "Dataset", "RecordBatchReader", "Scanner")


def _from_path(data: Any, progress: Any) -> Stream:
    source = data if isinstance(data, Source) else Source(data)
    path, table = source.path, source.table
    _need("pyarrow")
    if isinstance(path, (str, Path)):
        name = os.path.expanduser(os.fspath(path))
        if "://" in name:
            return _remote(name, source.chunk, progress)
        if table is None and SEPARATOR in name:
            name, table = name.rsplit(SEPARATOR, 1)
        if table is not None or (os.path.isfile(name) and _is_duck_file(name)):
            return _duck_file(name, table, source.chunk, progress)
        if os.path.isdir(name):
            return _folder(name, source.chunk, progress)
    elif table is not None:
        raise ArgumentError("table= names a table of one DuckDB file, but several paths are given.")
    given = [os.path.expanduser(os.fspath(p)) for p in ([path] if isinstance(path, (str, Path)) else path)]
    paths: list[str] = []
    for one in given:
        found = [one] if os.path.exists(one) else sorted(glob.glob(one, recursive=True))
        if not found:
            raise DataError(_nothing_there(one))
        paths += [p for p in found if not os.path.isdir(p)]
    text = given[0] if len(given) == 1 else f"{len(paths)} Parquet files"
    return ParquetFiles(paths, text, source.chunk, progress)


def _nothing_there(path: str) -> str:
    """Sentence on a path or a pattern that leads to nothing, with what lies beside it."""
    folder = os.path.dirname(path) or "."
    if any(c in path for c in "*?["):
        return f"no file matches {path!r}."
    if not os.path.isdir(folder):
        return f"there is no file {path!r}; the folder {folder!r} does not exist."
    return f"there is no file {path!r}.{nearest(os.path.basename(path), os.listdir(folder))}"


def _remote(path: str, chunk: int, progress: Any) -> Stream:
    """A file system that pyarrow knows by its address: ``s3://``, ``gs://``, ``hdfs://``."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        return Dataset(ds.dataset(path, format="parquet", partitioning="hive"), path, chunk, progress)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path!r} cannot be opened: {str(error).splitlines()[0]}") from None


def _folder(path: str, chunk: int, progress: Any) -> Stream:
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        dataset = ds.dataset(path, format="parquet", partitioning="hive", exclude_invalid_files=False)
        files = dataset.files
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path!r} is no folder of Parquet files: {str(error).splitlines()[0]}") from None
    if not files:
        raise DataError(f"the folder {path!r} has no Parquet files.")
    if set(dataset.schema.names) == set(ds.dataset(files[0], format="parquet").schema.names):
        return ParquetFiles(sorted(files), path, chunk, progress)
    return Dataset(dataset, path, chunk, progress)


def _is_duck_file(path: str) -> bool:
    """DuckDB's files have its name at byte 8."""
    with open(path, "rb") as file:
        return file.read(12)[8:] == b"DUCK"


def _duck_file(path: str, table: str | None, chunk: int, progress: Any) -> Stream:
    if not os.path.exists(path):
        raise DataError(_nothing_there(path))
    if not _is_duck_file(path):
        raise DataError(f"{path!r} is no DuckDB file, so that it has no table {table!r}.")
    _need("duckdb")
    with _connected(path) as connection:
        names = [row[0] for row in connection.execute("select table_name from information_schema.tables order by 1").fetchall()]
    if table is None:
        if len(names) != 1:
            example = f" Say which: '{path}{SEPARATOR}{names[0]}'." if names else ""
            raise DataError(f"{path!r} has {len(names)} tables: {', '.join(names[:12])}.{example}")
        table = names[0]
    found = table
    if found not in names and found.rpartition(".")[2] not in names:
        raise DataError(f"{path!r} has no table {found!r}.{nearest(found, names)} It has: {', '.join(names[:12])}.")

    @contextmanager
    def opened() -> Iterator[Any]:
        with _connected(path) as connection:
            yield connection.table(found)

    return DuckTable(opened, f"{path}{SEPARATOR}{found}", chunk, progress)


@contextmanager
def _connected(path: str) -> Iterator[Any]:
    """A connection for as long as it is read: read-only, or as this process has the file open already."""
    import duckdb

    try:
        connection = duckdb.connect(path, read_only=True)
    except duckdb.ConnectionException:
        connection = duckdb.connect(path)
    except duckdb.Error as error:
        raise DataError(f"{path!r} cannot be opened by DuckDB: {str(error).splitlines()[0]}") from None
    try:
        yield connection
    finally:
        connection.close()


def _need(package: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise ArgumentError(f"reading these data in chunks needs {package}; install it with: pip install 'lmm[large]'") from error


def _from_arrow(data: Any, progress: Any) -> Stream:
    kind = type(data).__name__
    if kind == "RecordBatchReader":
        return Reader(data, progress=progress)
    if kind == "Scanner":
        return Reader(data.to_reader(), progress=progress)
    return Dataset(data, progress=progress)


def _from_duck(data: Any, progress: Any) -> Stream:
    return DuckTable(lambda: nullcontext(data), "DuckDB relation", progress=progress)


register(_is_path, _from_path)
register(_is_arrow, _from_arrow)
register(_is_duck, _from_duck)
