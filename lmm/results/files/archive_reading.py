"""Numbered nodes and arrays -> the graph that they stand for, made from a closed list of parts. See :mod:`lmm.results.files.archive`."""

from __future__ import annotations

import base64
import builtins
import datetime
import decimal
import enum
import fractions
import functools
import importlib
import importlib.util
import io
import math
import pathlib
import types
import zipfile
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmm.formula.columns.table import Table
from lmm.model.laplace.rows import Block
from lmm.results.files.archive_records import (
    BUILTINS,
    FUNCTIONS,
    LARGEST_REPEAT,
    LEFT_BEHIND,
    LIBRARIES,
    MASKED,
    Broken,
    Needed,
    record,
)
from lmm.stream.absent import ABSENT, Witnesses
from lmm.stream.linear_rows import Origin
from lmm.stream.row_blocks import Spill
from lmm.stream.sources import Source


def _npy(whole: bytearray) -> np.ndarray:
    """An array from the bytes of an ``.npy`` file, over these bytes."""
    stream = io.BytesIO(whole)
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise Broken("an array of another version")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject or dtype.kind not in "biufcmMSU":
        raise Broken("an array of objects")
    return _shaped(whole, stream.tell(), dtype, list(shape), fortran)


def _small(descr: object, shape: list[int], fortran: bool, raw: str) -> np.ndarray:
    return _shaped(
        bytearray(base64.b64decode(raw, validate=True)), 0, _dtype(descr), shape, fortran
    )


def _shaped(
    data: bytearray, start: int, dtype: np.dtype, shape: list[int], fortran: bool
) -> np.ndarray:
    if _size(shape) * dtype.itemsize != len(data) - start:
        raise Broken("an array whose shape does not fit its bytes")
    if not dtype.itemsize or not _size(shape):
        return np.zeros(tuple(shape), dtype)
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(
        tuple(shape), order="F" if fortran else "C"
    )


def _size(shape: object) -> int:
    if (
        not isinstance(shape, list)
        or len(shape) > 32
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise Broken("a shape that is none")
    return math.prod(shape)


def _dtype(descr: object) -> np.dtype:
    if not isinstance(descr, str):
        raise Broken("a type that is none")
    dtype = np.dtype(descr)
    if dtype.hasobject or dtype.kind not in "biufcmMSU":
        raise Broken("an array of objects")
    return dtype


def _texts(blob: np.ndarray, stops: np.ndarray, kinds: np.ndarray) -> list[object]:
    raw, start = blob.tobytes(), 0
    out: list[object] = []
    for stop, kind in zip(stops.tolist(), kinds.tolist(), strict=True):
        out.append(
            (None, pd.NA, float("nan"))[kind - 1]
            if kind
            else raw[start:stop].decode("utf-8", "surrogatepass")
        )
        start = stop
    return out


def _string(storage: str, missing: str) -> pd.StringDtype:
    """The type of a column of text; without pyarrow kept as Python's."""
    if storage not in ("python", "pyarrow") or (
        storage == "pyarrow" and importlib.util.find_spec("pyarrow") is None
    ):
        storage = "python"
    kind: Any = pd.StringDtype
    try:
        return kind(storage, na_value=pd.NA if missing == "na" else float("nan"))
    except TypeError:  # an older pandas
        return kind(storage)


def _origin(data: object, text: object, marks: Mapping[str, Any]) -> Origin:
    made = Origin(_source_of(data), None, str(text))
    made.marks = dict(marks)
    return made


def _source_of(data: object) -> object:
    if isinstance(data, tuple) and len(data) == 4 and data[0] == "Source":
        return Source(*data[1:])
    if isinstance(data, list):
        return [str(one) for one in data]
    return None if data is None else str(data)


def _timestamp(text: str, tz: str | None) -> pd.Timestamp:
    found = pd.Timestamp(text)
    return found if tz is None else found.tz_convert(tz)


def _generator(state: dict[str, object]) -> np.random.Generator:
    kinds = {
        name: getattr(np.random, name)
        for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
    }
    bits = kinds[str(state["bit_generator"])](0)
    bits.state = state
    return np.random.Generator(bits)


def _module(name: str) -> types.ModuleType:
    if name not in LIBRARIES:
        raise Broken(f"the module {name!r}")
    return importlib.import_module(name)


def _ufunc(library: str, name: str) -> np.ufunc:
    if library not in ("numpy", "scipy.special"):
        raise Broken(f"the module {library!r}")
    found = getattr(importlib.import_module(library), str(name), None)
    if not isinstance(found, np.ufunc):
        raise Broken(f"the function {name!r}")
    return found


def _builtin(name: str) -> object:
    if name not in BUILTINS:
        raise Broken(f"the function {name!r}")
    return getattr(builtins, name)


def _math(name: str) -> object:
    found = getattr(math, str(name), None)
    if not isinstance(found, types.BuiltinFunctionType):
        raise Broken(f"the function {name!r}")
    return found


def _arrow_type(raw: np.ndarray) -> object:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(raw.tobytes())).field("x").type


def _arrow_table(raw: np.ndarray) -> object:
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(raw.tobytes())) as reader:
        return reader.read_all()


def _table(data: object, witnesses: bool) -> Table:
    if not isinstance(data, pd.DataFrame):
        raise Broken("a table that is none")
    return Witnesses(data) if witnesses else Table(data)


def _index(stored: object, name: Hashable) -> pd.Index:
    values = _column(stored)
    dtype = values.dtype if isinstance(values, np.ndarray) else None
    return pd.Index(values, name=name, dtype=dtype)


def _series(stored: object, index: pd.Index, name: Hashable) -> pd.Series:
    values = _column(stored)
    dtype = values.dtype if isinstance(values, np.ndarray) else None
    return pd.Series(values, index=index, name=name, dtype=dtype)


def _column(stored: object) -> Any:
    """The values of a column of pandas."""
    if not isinstance(stored, tuple):
        return stored
    kind, a, b, c = stored
    if kind == "categorical":
        return pd.Categorical.from_codes(a, categories=b, ordered=c)
    if kind == "string":
        return pd.array(a, dtype=_string(b, c))
    if kind == "masked" and a in MASKED:
        return pd.Series(b, dtype=a).mask(c).array
    if kind == "datetimetz":
        return pd.DatetimeIndex(a.view(f"M8[{b}]")).tz_localize("UTC").tz_convert(c).array
    if kind == "period":
        periods: Any = pd.PeriodIndex
        return periods.from_ordinals(a, freq=b).array
    if kind == "interval":
        return pd.arrays.IntervalArray.from_arrays(a, b, closed=c)
    if kind == "arrow":
        return pd.arrays.ArrowExtensionArray(a.column("x"))
    raise Broken("a column of an unknown kind")


def _class(name: object) -> type:
    found = record(name) if isinstance(name, str) else None
    if found is None:
        raise Broken(f"a record {str(name)[:80]!r}")
    return found


def _enum(name: str, member: str) -> object:
    kind = _class(name)
    if not issubclass(kind, enum.Enum):
        raise Broken(f"a record {name!r}")
    return kind.__members__[member]


#: kind of node -> what makes it from what is written in it
FROM_TEXT: dict[str, Callable[..., object]] = {
    "small": _small,
    "dtype": _dtype,
    "absent": lambda: ABSENT,
    "nat": lambda: pd.NaT,
    "na": lambda: pd.NA,
    "timestamp": _timestamp,
    "timedelta": pd.Timedelta,
    "period value": lambda ordinal, freq: pd.Period(ordinal=ordinal, freq=freq),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "pytimedelta": datetime.timedelta,
    "bytes": lambda raw: base64.b64decode(raw, validate=True),
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "range": range,
    "path": lambda text: pathlib.Path(str(text)),
    "module": _module,
    "ufunc": _ufunc,
    "builtin": _builtin,
    "math": _math,
    "enum": _enum,
}
#: kind of node -> what makes it from the values that its entries stand for
FROM_VALUES: dict[str, Callable[..., object]] = {
    "scalar": lambda array: array[()],
    "interval value": pd.Interval,
    "complex": complex,
    "sparse rows": lambda data, indices, indptr, rows, columns: sp.csr_array(
        (data, indices, indptr), shape=(rows, columns)
    ),
    "slice": slice,
    "generator": _generator,
    "origin": _origin,
    "arrow type": _arrow_type,
    "arrow table": _arrow_table,
    "table": _table,
    "range index": lambda start, stop, step, name: pd.RangeIndex(start, stop, step, name=name),
    "index": _index,
    "series": _series,
    "column": _column,
}
#: kind of node -> what makes it from lists of such values
FROM_LIST: dict[str, Callable[..., object]] = {
    "tuple": tuple,
    "list": list,
    "set": set,
    "frozenset": frozenset,
    "multi index": lambda levels, codes, names: pd.MultiIndex(levels, codes, names=names),
}


class ArchiveReader:
    """Makes the nodes again, each from those before it."""

    def __init__(
        self,
        file: zipfile.ZipFile,
        calls: Mapping[str, Callable[..., object]],
        functions: Mapping[str, object],
    ):
        self.file, self.calls, self.functions = file, {**calls, **FUNCTIONS}, functions
        self.made: list[Any] = []
        self.makers: dict[str, Callable[..., object]] = FROM_TEXT | {
            name[6:].replace("_", " "): getattr(self, name)
            for name in dir(self)
            if name.startswith("_make_")
        }

    def value(self, stored: object) -> Any:
        """The value that an entry stands for."""
        if stored is None or isinstance(stored, bool | int | float | str):
            return stored
        if isinstance(stored, dict) and len(stored) == 1:
            if "f" in stored and stored["f"] in ("nan", "inf", "-inf"):
                return float(stored["f"])
            number = stored.get("r")
            if type(number) is int and 0 <= number < len(self.made):
                return self.made[number]
        raise Broken("an entry that is neither a value nor an earlier node")

    def read(self, nodes: list[object]) -> None:
        """All nodes in order."""
        for node in nodes:
            self.made.append(self._made(node))

    def _made(self, node: object) -> object:
        if isinstance(node, list) and node:
            kind, *parts = node
            if kind in self.makers:
                return self.makers[kind](*parts)
            if kind in FROM_VALUES:
                return FROM_VALUES[kind](*map(self.value, parts))
            if kind in FROM_LIST:
                return FROM_LIST[kind](*map(self._all, parts))
        raise Broken("a node of an unknown kind")

    def _all(self, stored: object) -> list[Any]:
        if not isinstance(stored, list):
            raise Broken("a list was expected")
        return [self.value(one) for one in stored]

    def _make_dict(self, pairs: list[tuple[object, object]]) -> dict[object, object]:
        return {self.value(k): self.value(v) for k, v in pairs}

    def _make_array(self, name: object) -> np.ndarray:
        if not isinstance(name, str) or not name.startswith("arrays/") or not name.endswith(".npy"):
            raise Broken("an array with another name")
        info = self.file.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Broken("an array that is compressed")
        whole = bytearray(info.file_size)
        view, at = memoryview(whole), 0
        with self.file.open(info) as member:
            while count := member.readinto(view[at:]):  # type: ignore[attr-defined]
                at += count
        if at != info.file_size:
            raise Broken("an array that ends too early")
        return _npy(whole)

    def _make_repeated(self, small: object, shape: list[int]) -> np.ndarray:
        array, size = self.value(small), _size(shape)
        if not isinstance(array, np.ndarray) or size > LARGEST_REPEAT:
            raise Broken("an array that is too large")
        return np.broadcast_to(array, tuple(shape))

    def _make_objects(self, values: object, shape: list[int]) -> np.ndarray:
        stored = self.value(values)
        if isinstance(stored, tuple) and len(stored) == 4 and stored[0] == "text":
            stored = _texts(*stored[1:])
        if not isinstance(stored, list) or _size(shape) != len(stored):
            raise Broken("objects of another number")
        out = np.empty(len(stored), dtype=object)
        out[:] = stored
        return out.reshape(shape)

    def _make_call(self, name: str) -> Callable[..., object]:
        return self.calls[name]

    def _make_partial(
        self, name: str, given: object, named: dict[str, object]
    ) -> functools.partial[object]:
        return functools.partial(
            self.calls[name], *self._all(given), **{str(k): self.value(v) for k, v in named.items()}
        )

    def _make_frame(self, columns: object, values: list[object], index: object) -> pd.DataFrame:
        labels = self.value(index)
        made = {j: _series(self.value(own), labels, None) for j, own in enumerate(values)}
        frame = pd.DataFrame(made, index=labels, copy=False)
        frame.columns = self.value(columns)
        return frame

    def _make_record(self, name: str, base: object, stored: dict[str, object]) -> object:
        kind: Any = _class(name)
        if issubclass(kind, enum.Enum):
            raise Broken(f"a record {name!r}")
        made: Any
        if issubclass(kind, tuple):
            values = self._all(base)
            if hasattr(kind, "_fields"):
                return kind._make(values)
            made = tuple.__new__(kind, values)
        elif issubclass(kind, str):
            made = str.__new__(kind, base)
        elif issubclass(kind, float):
            made = float.__new__(kind, self.value(base))
        else:
            made = object.__new__(kind)
        declared = {field.name: field for field in fields(kind)} if is_dataclass(kind) else None
        state = {field: self.value(own) for field, own in stored.items()}
        for field, own in state.items():
            inherited = getattr(kind, field, None)
            if (
                field.startswith("__")
                or callable(inherited)
                or (isinstance(inherited, property) and inherited.fset is None)
            ):
                raise Broken(f"a field {field[:80]!r} of {name}")
            if declared is not None and field not in declared and not field.startswith("_"):
                raise Broken(f"a field {field[:80]!r} of {name}")
            if field in ("context", "contrasts") and isinstance(own, dict):
                own = {
                    key: self.functions.get(key, one) if isinstance(one, Needed) else one
                    for key, one in own.items()
                }
            object.__setattr__(made, field, own)
        for field, own in (declared or {}).items():
            if field in state or f"_{field}" in state or field in LEFT_BEHIND:
                continue
            if own.default is not MISSING:
                object.__setattr__(made, field, own.default)
            elif own.default_factory is not MISSING:
                object.__setattr__(made, field, own.default_factory())
            else:
                raise Broken(f"no field {field!r} of {name}")
        if name == "formulaic.parser.types.term:Term":
            made._hash = hash(":".join(made._factor_key))
        if isinstance(made, Spill):
            in_memory = (
                getattr(made, "_folder", 1) is getattr(made, "folder", 1) is None
                and getattr(made, "progress", 1) is None
            )
            if not in_memory or not all(
                isinstance(block, Block) for block in [*made._parts, *made._blocks]
            ):
                raise Broken("rows that are not in memory")
        return made
