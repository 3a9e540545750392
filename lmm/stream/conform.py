"""Chunks of one data set that do not look alike: missing columns, other types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lmm.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa


def conform(
    table: pa.Table,
    needed: tuple[str, ...],
    schema: dict[str, pa.DataType],
    where: str = "a part of the data",
) -> pa.Table:
    """The ``needed`` columns of a chunk in the types of ``schema``.

    Integers of all widths are alike, and so are floats, text of both sizes, and a dictionary and what it holds. Integers where
    floats are expected become floats; floats that are whole where integers are expected become integers. A column of nulls
    may have any type.

    Raises
    ------
    DataError : a column that the chunk lacks, or of another kind than in the rows before it; ``where`` says in what.
    """
    import pyarrow as pa

    names = table.schema.names
    lost = [name for name in needed if name not in names]
    if lost:
        raise DataError(
            f"column {lost[0]!r} is missing in {where}, although other parts have it.{nearest(lost[0], names)} Write it there, "
            "with missing values where it is not known."
        )
    columns = []
    for name in needed:
        column, wanted = table.column(name), schema[name]
        if isinstance(column, pa.Array):
            column = pa.chunked_array([column])
        columns.append(column if column.type == wanted else _cast(column, wanted, name, where))
    return pa.table(dict(zip(needed, columns, strict=True))) if needed else table.select([])


def empty_table(schema: Mapping[str, pa.DataType]) -> pa.Table:
    """A table of these types without rows."""
    import pyarrow as pa

    return pa.table({name: pa.array([], type) for name, type in schema.items()})


@contextmanager
def told(text: str, files: bool = True) -> Iterator[None]:
    """Errors of Arrow, and of the file system where ``files``, as DataError; ``text`` is what is read."""
    import pyarrow as pa

    kinds: tuple[type[Exception], ...] = (
        (pa.ArrowException, OSError) if files else (pa.ArrowException,)
    )
    try:
        yield
    except kinds as error:
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"{text} cannot be read: {cause if len(cause) <= 300 else cause[:297] + '...'}."
        ) from error


def is_nested(type: pa.DataType) -> bool:
    """Whether a type holds several values in one row."""
    import pyarrow as pa

    return bool(pa.types.is_nested(type))


def normal(type: pa.DataType) -> pa.DataType:
    """The type in which a column is worked on: codes of categories have one width, however many there are in a file."""
    import pyarrow as pa

    return (
        pa.dictionary(pa.int32(), type.value_type, type.ordered)
        if pa.types.is_dictionary(type)
        else type
    )


def _cast(column: pa.ChunkedArray, wanted: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    import pyarrow as pa

    given, mine = kind(column.type), kind(wanted)
    if given == "null":
        return pa.chunked_array([pa.nulls(len(column), wanted)])
    if given == mine == "number" or {given, mine} <= {"number", "whole"}:
        return _number(column, wanted, name, where)
    if given == mine:
        if pa.types.is_dictionary(wanted) and not pa.types.is_dictionary(column.type):
            return column.cast(wanted.value_type).dictionary_encode()
        if pa.types.is_dictionary(column.type) and pa.types.is_dictionary(wanted):
            parts = [
                pa.DictionaryArray.from_arrays(
                    one.indices.cast(pa.int32()),
                    one.dictionary.cast(wanted.value_type),
                    ordered=wanted.ordered,
                )
                for one in column.chunks
            ]
            return pa.chunked_array(parts, wanted)
        try:
            return column.cast(wanted)
        except pa.ArrowException:
            pass
    raise DataError(
        f"column {name!r} is {column.type} in {where}, but {wanted} in the rows before it; write it with one type."
    )


def _number(column: pa.ChunkedArray, wanted: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type) and pa.types.is_integer(wanted):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        return column.cast(wanted)
    except pa.ArrowInvalid:
        if pa.types.is_decimal(column.type) and pa.types.is_integer(wanted):
            raise DataError(
                f"column {name!r} is {column.type} in {where} and has whole numbers of more than 64 bits; write it as text, or as double."
            ) from None
        raise DataError(
            f"column {name!r} is {column.type} in {where}, but {wanted} in the rows before it, and its values are no {wanted}; "
            "write it with one type."
        ) from None


def common(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds the numbers of both; text where one has it as text; that of the one that has values; otherwise the first."""
    import pyarrow as pa

    if a == b or kind(b) == "null":
        return a
    if kind(a) == "null":
        return b
    if kind(a) in ("whole", "number") and kind(b) in ("whole", "number"):
        whole = kind(a) == kind(b) == "whole"
        return (
            pa.uint64()
            if whole and pa.uint64() in (a, b)
            else pa.int64()
            if whole
            else pa.float64()
        )
    if kind(a) == kind(b) and pa.types.is_dictionary(a) and not pa.types.is_dictionary(b):
        return b
    return a


def kind(type: pa.DataType) -> str:
    """What an Arrow type holds, up to its width."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(type):
        return kind(type.value_type)
    if types.is_null(type):
        return "null"
    if types.is_integer(type):
        return "whole"
    if types.is_floating(type) or types.is_decimal(type):
        return "number"
    if types.is_string(type) or types.is_large_string(type) or str(type) == "string_view":
        return "text"
    return str(type)
