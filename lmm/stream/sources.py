"""Files, readers and databases as tables of a bounded number of rows, one after another.

    a path, a glob or a list of paths        Parquet files; a folder is a (partitioned) data set
    pyarrow.dataset.Dataset                  any format and file system that pyarrow reads
    pyarrow.RecordBatchReader                once only
    DuckDB relation; Source(path, table=)    a table, view or query; "file.duckdb::table" for short

A chunk is read while the one before it is worked on. Files are marked by size, time and row groups when they are first opened, and
every later pass compares: rows that another program writes meanwhile would be counted in one pass and not in the next.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmm.arguments import shown, whole
from lmm.errors import ArgumentError, DataError, MissingPackageError, nearest
from lmm.formula.columns.table import is_only_coded
from lmm.stream.conform import common, conform, empty_table, normal, told
from lmm.stream.reducers import A, Reduction, module_of, register
from lmm.stream.row_progress import Progress

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as parquet

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
        several = (
            isinstance(self.path, list | tuple)
            and bool(self.path)
            and all(isinstance(p, str | os.PathLike) for p in self.path)
        )
        if not isinstance(self.path, str | os.PathLike) and not several:
            raise ArgumentError(
                f"Source: path={shown(self.path)} must be a path, a pattern, or a list of paths."
            )
        if self.table is not None and not isinstance(self.table, str):
            raise ArgumentError(f"Source: table={shown(self.table)} must be the name of a table.")
        whole(self.chunk, "Source: chunk", least=1)


class Stream:
    """Tables one after another; the reducer of everything that is read in one place."""

    text = "a stream"
    repeatable = True

    def __init__(self, chunk: int = CHUNK, progress: Progress | None = None) -> None:
        self.chunk, self.progress = chunk, progress
        self._rows: int | None = None  # of the first whole pass

    @property
    def schema(self) -> dict[str, pa.DataType]:
        """Arrow type by column name."""
        raise NotImplementedError

    @property
    def n_rows(self) -> int | None:
        """Rows, where known."""
        return None

    @property
    def twice(self) -> frozenset[str]:
        """Names that several columns have."""
        return frozenset()

    @property
    def marks(self) -> Mapping[str, object]:
        """What tells whether the rows are still the same: by file its size, time and row groups."""
        return {}

    def holds(self, target: str) -> bool:
        """Whether a file of that name would be one of those that are read."""
        return False

    def _mark(self, name: str) -> object:
        """What one of the marks is now."""
        return mark(name)

    def _check(self) -> None:
        """DataError where a mark is not what it was."""
        for name, first in self.marks.items():
            check_mark(name, self._mark(name), first)

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[pa.Table, str]]:
        """Tables of at most about ``rows`` rows, and where each comes from."""
        raise NotImplementedError

    def _types(self, columns: tuple[str, ...]) -> dict[str, pa.DataType]:
        """Types of some columns; DataError for a name that several have."""
        for name in columns:
            if name in self.twice:
                raise DataError(
                    f"{self.text} has several columns named {name!r}; rename them so that each name is used once."
                )
        return {name: self.schema[name] for name in columns}

    def batches(self, columns: tuple[str, ...]) -> Iterator[pa.Table]:
        """``pyarrow.Table`` after table with these columns, each read while the one before it is used."""
        schema = self._types(columns)
        found = ((table, where) for table, where in self.tables(columns, self.chunk))
        count = 0
        with ThreadPoolExecutor(1, thread_name_prefix="lmm-read") as pool:
            following = pool.submit(next, found, None)
            while True:
                with told(self.text):
                    got = following.result()
                if got is None:
                    break
                following = pool.submit(next, found, None)
                count += got[0].num_rows
                yield conform(got[0], columns, schema, got[1])

        if self._rows is None:
            self._rows = count
        elif count != self._rows:
            raise DataError(
                f"{self.text} has {count} rows now and had {self._rows} before; fit again when no other program writes to it."
            )

    def head(self, columns: tuple[str, ...], rows: int) -> pa.Table:
        """The first rows."""
        import pyarrow as pa

        schema = self._types(columns)
        parts, count = [], 0
        with told(self.text):
            for table, where in self.tables(columns, rows):
                parts.append(conform(table, columns, schema, where).slice(0, rows - count))
                count += parts[-1].num_rows
                if count >= rows:
                    break
        return pa.concat_tables(parts) if parts else empty_table(schema)

    def map_reduce(self, reduction: Reduction[A]) -> A:
        """``reduction`` over all chunks, one after another."""
        sums = reduction.start()
        with (
            told(self.text),
            self.progress(reduction.text, self.n_rows)
            if self.progress
            else nullcontext(_nothing) as done,
        ):
            for table in self.batches(reduction.columns):
                sums = reduction.add(sums, table)
                done(table.num_rows)
        return sums


def _nothing(rows: int) -> None:
    """No progress is shown."""


def repeated(names: Iterable[str]) -> frozenset[str]:
    """The names that occur more than once."""
    return frozenset(name for name, count in Counter(names).items() if count > 1)


def types_of(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Arrow type by column name, as columns are worked on."""
    return {
        field.name: normal(field.type.value_type if is_only_coded(field) else field.type)
        for field in schema
    }


def as_table(batch: pa.RecordBatch) -> pa.Table:
    """A batch as a table, whose columns may share a name."""
    import pyarrow as pa

    return pa.table(batch.columns, names=batch.schema.names)


def mark(path: str) -> tuple[int, int, int]:
    """Size, time of the last change and number of a file; DataError where it is gone."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{path!r} cannot be read: {error.strerror}.") from None
    return found.st_size, found.st_mtime_ns, found.st_ino


def row_groups(metadata: parquet.FileMetaData) -> tuple[int, ...]:
    """Rows and bytes of a Parquet file and of each of its row groups."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return (
        metadata.num_rows,
        metadata.serialized_size,
        *(size for group in groups for size in (group.num_rows, group.total_byte_size)),
    )


def check_mark(path: str, now: object, first: object) -> None:
    """DataError for a file that is not what it was when it was first opened."""
    if now != first:
        raise DataError(
            f"{path!r} has changed since it was first read; fit again when no other program writes to it."
        )


def refuse_twice(paths: Iterable[str]) -> None:
    """DataError where two names lead to one file, whose rows would count twice."""
    known: dict[tuple[int, int], str] = {}
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue  # reading says what is wrong with it
        place = (found.st_dev, found.st_ino)
        other = known.get(place)
        known[place] = path
        if other is not None:
            names = (
                f"{path!r} is given twice"
                if other == path
                else f"{other!r} and {path!r} are one and the same file"
            )
            raise DataError(
                f"{names}; its rows would count twice. Name each file once, and leave out links to files and folders."
            )


def inside(target: str, folder: str) -> bool:
    """Whether a path leads into a folder."""
    own, outer = os.path.realpath(target), os.path.realpath(folder)
    return own.startswith(os.path.join(outer, ""))


class ParquetFiles(Stream):
    """Parquet files in the order of their names; all of them say what the types of the columns are.

    ``given`` are the paths, patterns or the folder that led to them.
    """

    def __init__(
        self,
        paths: list[str],
        text: str,
        chunk: int = CHUNK,
        progress: Progress | None = None,
        given: tuple[str, ...] = (),
    ) -> None:
        super().__init__(chunk, progress)
        self.paths, self.text, self.given = paths, text, given
        refuse_twice(paths)

    def _open(self, path: str) -> parquet.ParquetFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # page by page: buffers made ahead are kept until the whole file has been read
            return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
        except (pa.ArrowException, OSError) as error:
            cause = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"{path!r} is no Parquet file: {cause}. CSV and other formats are read by pyarrow.dataset.dataset(path)."
            ) from None

    @cached_property
    def _footers(
        self,
    ) -> tuple[dict[str, pa.DataType], int, frozenset[str], dict[str, tuple[object, object]]]:
        """Types of the columns, the rows of all files, names that several columns have, and the mark of each file.

        A number has the type that holds those of all files, a column without a value in the first file the type of a later one, and
        a column that is text in one file and categories in another is text; any other difference is an error once the file is read.
        """
        types: dict[str, pa.DataType] = {}
        marks: dict[str, tuple[object, object]] = {}
        total, twice = 0, set[str]()
        for path in self.paths:
            before = mark(path)
            with self._open(path) as file:
                total += file.metadata.num_rows
                marks[path] = (before, row_groups(file.metadata))
                own = types_of(file.schema_arrow)
                twice |= repeated(file.schema_arrow.names)
                types = (
                    {name: common(type, own.get(name, type)) for name, type in types.items()}
                    if types
                    else own
                )
        return types, total, frozenset(twice), marks

    @property
    def schema(self) -> dict[str, pa.DataType]:
        return self._footers[0]

    @property
    def n_rows(self) -> int | None:
        return self._footers[1]

    @property
    def twice(self) -> frozenset[str]:
        return self._footers[2]

    @property
    def marks(self) -> Mapping[str, object]:
        return self._footers[3]

    def holds(self, target: str) -> bool:
        real = os.path.realpath(target)
        return (
            any(os.path.realpath(path) == real for path in self.paths)
            or any(os.path.isdir(one) and inside(target, one) for one in self.given)
            or any(
                fnmatch.fnmatch(real, os.path.realpath(one))
                for one in self.given
                if any(c in one for c in "*?[")
            )
        )

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[pa.Table, str]]:

        for path in self.paths:
            first, where = self._footers[3][path], repr(os.path.basename(path))
            check_mark(path, mark(path), first[0])
            with self._open(path) as file:
                check_mark(path, row_groups(file.metadata), first[1])
                lost = [name for name in columns if name not in file.schema_arrow.names]
                if lost:
                    yield file.schema_arrow.empty_table(), where  # the message names the column
                    continue
                for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
                    yield as_table(batch), where
            check_mark(path, mark(path), first[0])


class Dataset(Stream):
    """A ``pyarrow.dataset.Dataset``, filtered or not."""

    def __init__(
        self,
        dataset: ds.Dataset,
        text: str = "",
        chunk: int = CHUNK,
        progress: Progress | None = None,
        given: tuple[str, ...] = (),
    ) -> None:
        super().__init__(chunk, progress)
        self.dataset, self.given = dataset, given
        self.text = text or f"{type(dataset).__name__} of pyarrow"
        refuse_twice(self.paths)

    @cached_property
    def paths(self) -> list[str]:
        """Its files, where they are on this machine."""
        parts = getattr(self.dataset, "children", None) or [self.dataset]
        local = [
            part
            for part in parts
            if type(getattr(part, "filesystem", None)).__name__ == "LocalFileSystem"
        ]
        return [path for part in local for path in part.files]

    @cached_property
    def marks(self) -> Mapping[str, object]:
        return {path: mark(path) for path in self.paths}

    def holds(self, target: str) -> bool:
        real = os.path.realpath(target)
        folders = {os.path.dirname(os.path.realpath(path)) for path in self.paths}
        return os.path.dirname(real) in folders or any(
            os.path.isdir(one) and inside(target, one) for one in self.given
        )

    @cached_property
    def _fragments(self) -> list[tuple[str, ds.Fragment]]:
        """The name and the own schema of each file, where it has one."""
        try:
            found = [
                (getattr(one, "path", "") or "a fragment", getattr(one, "physical_schema", None))
                for one in self.dataset.get_fragments()
            ]
        except ValueError:  # of a filtered dataset; its files are those of the whole
            whole = self.dataset
            if not hasattr(whole, "files"):
                return []
            return [
                (path, whole.format.inspect(path, filesystem=whole.filesystem))
                for path in whole.files
            ]
        return [(path, schema) for path, schema in found if schema is not None]

    @cached_property
    def _readable(self) -> ds.Dataset:
        """The dataset with a type for each category column that holds the codes of all files; text where a file has it as text."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        schema = self.dataset.schema
        for i, field in enumerate(schema):
            own = {
                s.field(field.name).type
                for _, s in self._fragments
                if s.get_field_index(field.name) >= 0
            }
            kinds = {pa.types.is_dictionary(type) for type in own}
            if len(own) > 1 and True in kinds:
                held = next(type.value_type for type in own if pa.types.is_dictionary(type))
                wanted = held if False in kinds else pa.dictionary(pa.int32(), held)
                schema = schema.set(i, pa.field(field.name, wanted, metadata=field.metadata))
        if (
            schema is self.dataset.schema
            or schema.equals(self.dataset.schema)
            or type(self.dataset) is not ds.FileSystemDataset
        ):
            return self.dataset
        try:
            return ds.FileSystemDataset(
                list(self.dataset.get_fragments()),
                schema,
                self.dataset.format,
                self.dataset.filesystem,
            )
        except ValueError:  # filtered: the files are read as they are
            return self.dataset

    @cached_property
    def schema(self) -> dict[str, pa.DataType]:
        with told(self.text):
            return types_of(self._readable.schema)

    @cached_property
    def twice(self) -> frozenset[str]:
        return repeated(self.dataset.schema.names)

    @cached_property
    def n_rows(self) -> int | None:
        try:
            return int(self.dataset.count_rows())
        except (
            Exception
        ):  # whatever a file system or format raises: a bar without a total is enough
            return None

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[pa.Table, str]]:
        import pyarrow.dataset as ds

        self._check()
        partitions = set(_partition_names(self.dataset))
        # a column that one file lacks would be filled with missing values
        for path, own in self._fragments:
            lost = set(columns) - partitions - set(own.names)
            if lost:
                where = repr(os.path.basename(path))
                rest = {name: self.schema[name] for name in columns if name not in lost}
                yield empty_table(rest), where
        options = {"batch_size": rows, "batch_readahead": 2, "fragment_readahead": 1}
        if type(getattr(self.dataset, "format", None)).__name__ == "ParquetFileFormat":
            lean = ds.ParquetFragmentScanOptions(
                use_buffered_stream=True, buffer_size=BUFFER, pre_buffer=False
            )
            options["fragment_scan_options"] = lean
        scanner = self._readable.scanner(columns=list(columns), **options)
        for batch in scanner.to_batches():
            yield as_table(batch), "a part of the data"
        self._check()


def _partition_names(dataset: ds.Dataset) -> list[str]:
    partitioning = getattr(dataset, "partitioning", None)
    return list(partitioning.schema.names) if partitioning is not None else []


class BatchReader(Stream):
    """A ``pyarrow.RecordBatchReader``: rows that pass by once. The first ones are kept until they are used."""

    repeatable = False

    def __init__(
        self, reader: pa.RecordBatchReader, chunk: int = CHUNK, progress: Progress | None = None
    ) -> None:
        super().__init__(chunk, progress)
        self.reader, self.text = reader, "RecordBatchReader"
        self._kept: list[pa.Table] = []
        self._used = False

    @cached_property
    def schema(self) -> dict[str, pa.DataType]:
        return types_of(self.reader.schema)

    @cached_property
    def twice(self) -> frozenset[str]:
        return repeated(self.reader.schema.names)

    def head(self, columns: tuple[str, ...], rows: int) -> pa.Table:
        import pyarrow as pa

        schema = self._types(columns)
        while sum(batch.num_rows for batch in self._kept) < rows:
            batch = next(self._read(), None)
            if batch is None:
                break
            self._kept.append(batch)
        return conform(
            pa.Table.from_batches(self._kept, self.reader.schema)
            .select(list(columns))
            .slice(0, rows),
            columns,
            schema,
        )

    def _read(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        while True:
            try:
                yield self.reader.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"the reader failed: {str(error).splitlines()[0]}") from None

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[pa.Table, str]]:
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

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[duckdb.DuckDBPyRelation]],
        text: str,
        chunk: int = CHUNK,
        progress: Progress | None = None,
        path: str = "",
    ) -> None:
        super().__init__(chunk, progress)
        self.opened, self.text, self.path = opened, text, path

    @cached_property
    def marks(self) -> Mapping[str, object]:
        """What its file was, and what had not been written into it yet."""
        return {self.text: self._mark(self.text)} if self.path else {}

    def _mark(self, name: str) -> object:
        waiting = self.path + ".wal"
        return mark(self.path), mark(waiting)[:2] if os.path.exists(waiting) else None

    def holds(self, target: str) -> bool:
        return bool(self.path) and os.path.realpath(target) == os.path.realpath(self.path)

    @contextmanager
    def _relation(self) -> Iterator[duckdb.DuckDBPyRelation]:
        import duckdb

        try:
            with self.opened() as relation:
                yield relation
        except duckdb.Error as error:
            raise DataError(f"{self.text} cannot be read: {str(error).splitlines()[0]}") from None

    @cached_property
    def schema(self) -> dict[str, pa.DataType]:
        with self._relation() as relation:
            return types_of(_arrow_reader(relation.limit(0), 1).schema)

    @cached_property
    def n_rows(self) -> int | None:
        with self._relation() as relation:
            return int(relation.count("*").fetchall()[0][0])

    def tables(self, columns: tuple[str, ...], rows: int) -> Iterator[tuple[pa.Table, str]]:

        names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        self._check()
        with self._relation() as relation:
            for batch in _arrow_reader(relation.project(names), rows):
                yield as_table(batch), "a part of the data"
        self._check()


def _arrow_reader(relation: duckdb.DuckDBPyRelation, rows: int) -> pa.RecordBatchReader:
    """DuckDB renamed it in 1.4."""
    name = "to_arrow_reader" if hasattr(relation, "to_arrow_reader") else "fetch_record_batch"
    return getattr(relation, name)(rows)


def _is_path(data: object) -> bool:
    return isinstance(data, (str, Path, Source)) or (
        isinstance(data, (list, tuple))
        and bool(data)
        and all(isinstance(d, (str, Path)) for d in data)
    )


def _is_arrow(data: object) -> bool:
    return module_of(data) == "pyarrow" and type(data).__name__ in ARROW


def _is_duck(data: object) -> bool:
    return module_of(data) in ("duckdb", "_duckdb") and type(data).__name__ == "DuckDBPyRelation"


ARROW = (
    "FileSystemDataset",
    "InMemoryDataset",
    "UnionDataset",
    "Dataset",
    "RecordBatchReader",
    "Scanner",
)


def _from_path(data: Any, progress: Progress | None) -> Stream:
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
    given = [
        os.path.expanduser(os.fspath(p))
        for p in ([path] if isinstance(path, (str, Path)) else path)
    ]
    paths: list[str] = []
    for one in given:
        found = [one] if os.path.exists(one) else sorted(glob.glob(one, recursive=True))
        if not found:
            raise DataError(_nothing_there(one))
        paths += [p for p in found if not os.path.isdir(p)]
    text = given[0] if len(given) == 1 else f"{len(paths)} Parquet files"
    return ParquetFiles(paths, text, source.chunk, progress, tuple(given))


def _nothing_there(path: str) -> str:
    """Sentence on a path or a pattern that leads to nothing, with what lies beside it."""
    folder = os.path.dirname(path) or "."
    if any(c in path for c in "*?["):
        return f"no file matches {path!r}."
    if not os.path.isdir(folder):
        return f"there is no file {path!r}; the folder {folder!r} does not exist."
    return f"there is no file {path!r}.{nearest(os.path.basename(path), os.listdir(folder))}"


def _remote(path: str, chunk: int, progress: Progress | None) -> Stream:
    """A file system that pyarrow knows by its address: ``s3://``, ``gs://``, ``hdfs://``."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        return Dataset(
            ds.dataset(path, format="parquet", partitioning="hive"), path, chunk, progress
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path!r} cannot be opened: {str(error).splitlines()[0]}") from None


def _folder(path: str, chunk: int, progress: Progress | None) -> Stream:
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        dataset = ds.dataset(
            path, format="parquet", partitioning="hive", exclude_invalid_files=False
        )
        files = dataset.files
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path!r} is no folder of Parquet files: {str(error).splitlines()[0]}"
        ) from None
    if not files:
        raise DataError(f"the folder {path!r} has no Parquet files.")
    if set(dataset.schema.names) == set(ds.dataset(files[0], format="parquet").schema.names):
        return ParquetFiles(sorted(files), path, chunk, progress, (path,))
    return Dataset(dataset, path, chunk, progress, (path,))


def _is_duck_file(path: str) -> bool:
    """DuckDB's files have its name at byte 8."""
    with open(path, "rb") as file:
        return file.read(12)[8:] == b"DUCK"


def _duck_file(path: str, table: str | None, chunk: int, progress: Progress | None) -> Stream:
    if not os.path.exists(path):
        raise DataError(_nothing_there(path))
    if not _is_duck_file(path):
        raise DataError(f"{path!r} is no DuckDB file, so that it has no table {table!r}.")
    _need("duckdb")
    with _connected(path) as connection:
        names = [
            row[0]
            for row in connection.execute(
                "select table_name from information_schema.tables order by 1"
            ).fetchall()
        ]
    if table is None:
        if len(names) != 1:
            example = f" Say which: '{path}{SEPARATOR}{names[0]}'." if names else ""
            raise DataError(f"{path!r} has {len(names)} tables: {', '.join(names[:12])}.{example}")
        table = names[0]
    found = table
    if found not in names and found.rpartition(".")[2] not in names:
        raise DataError(
            f"{path!r} has no table {found!r}.{nearest(found, names)} It has: {', '.join(names[:12])}."
        )

    @contextmanager
    def opened() -> Iterator[duckdb.DuckDBPyRelation]:
        with _connected(path) as connection:
            yield connection.table(found)

    return DuckTable(opened, f"{path}{SEPARATOR}{found}", chunk, progress, path)


@contextmanager
def _connected(path: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for as long as it is read: read-only, or as this process has the file open already."""
    import duckdb

    try:
        connection = duckdb.connect(path, read_only=True)
    except duckdb.ConnectionException:
        connection = duckdb.connect(path)
    except duckdb.Error as error:
        raise DataError(
            f"{path!r} cannot be opened by DuckDB: {str(error).splitlines()[0]}"
        ) from None
    try:
        yield connection
    finally:
        connection.close()


def _need(package: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise MissingPackageError(
            f"reading these data in chunks needs {package}; install it with: pip install 'lmm[large]'",
            package,
        ) from error


def _from_arrow(data: Any, progress: Progress | None) -> Stream:
    kind = type(data).__name__
    if kind == "RecordBatchReader":
        return BatchReader(data, progress=progress)
    if kind == "Scanner":
        return BatchReader(data.to_reader(), progress=progress)
    return Dataset(data, progress=progress)


def _from_duck(data: Any, progress: Progress | None) -> Stream:
    return DuckTable(lambda: nullcontext(data), "DuckDB relation", progress=progress)


register(_is_path, _from_path)
register(_is_arrow, _from_arrow)
register(_is_duck, _from_duck)
