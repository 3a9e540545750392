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
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

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


class Reader:
    """Makes the nodes again, each from those before it."""

    def __init__(
        self,
        file: zipfile.ZipFile,
        calls: Mapping[str, Callable[..., Any]],
        functions: Mapping[str, Any],
    ):
        self.file, self.calls, self.functions = file, {**calls, **FUNCTIONS}, functions
        self.made: list[Any] = []
        self.makers = {
            name[6:].replace("_", " "): getattr(self, name)
            for name in dir(self)
            if name.startswith("_make_")
        }

    def value(self, stored: Any) -> Any:
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

    def read(self, nodes: list[Any]) -> None:
        """All nodes in order."""
        for node in nodes:
            if not isinstance(node, list) or not node or node[0] not in self.makers:
                raise Broken("a node of an unknown kind")
            self.made.append(self.makers[node[0]](*node[1:]))

    def _all(self, stored: Any) -> list[Any]:
        if not isinstance(stored, list):
            raise Broken("a list was expected")
        return [self.value(one) for one in stored]

    def _make_tuple(self, values: Any) -> tuple[Any, ...]:
        return tuple(self._all(values))

    def _make_list(self, values: Any) -> list[Any]:
        return self._all(values)

    def _make_set(self, values: Any) -> set[Any]:
        return set(self._all(values))

    def _make_frozenset(self, values: Any) -> frozenset[Any]:
        return frozenset(self._all(values))

    def _make_dict(self, pairs: Any) -> dict[Any, Any]:
        return {self.value(k): self.value(v) for k, v in pairs}

    # arrays

    def _make_array(self, name: Any) -> np.ndarray:
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

    def _make_small(self, descr: Any, shape: Any, fortran: Any, raw: Any) -> np.ndarray:
        dtype = _dtype(descr)
        data = bytearray(base64.b64decode(raw, validate=True))
        return _shaped(data, 0, dtype, shape, fortran)

    def _make_repeated(self, small: Any, shape: Any) -> np.ndarray:
        array, size = self.value(small), _size(shape)
        if not isinstance(array, np.ndarray) or size > LARGEST_REPEAT:
            raise Broken("an array that is too large")
        return np.broadcast_to(array, tuple(shape))

    def _make_objects(self, values: Any, shape: Any) -> np.ndarray:
        stored = self.value(values)
        if isinstance(stored, tuple) and len(stored) == 4 and stored[0] == "text":
            stored = _texts(*stored[1:])
        if not isinstance(stored, list) or _size(shape) != len(stored):
            raise Broken("objects of another number")
        out = np.empty(len(stored), dtype=object)
        out[:] = stored
        return out.reshape(shape)

    def _make_scalar(self, array: Any) -> Any:
        return self.value(array)[()]

    def _make_dtype(self, descr: Any) -> np.dtype[Any]:
        return _dtype(descr)

    # single values

    def _make_absent(self) -> Any:
        return ABSENT

    def _make_nat(self) -> Any:
        return pd.NaT

    def _make_na(self) -> Any:
        return pd.NA

    def _make_timestamp(self, text: str, tz: str | None) -> Any:
        found = pd.Timestamp(text)
        return found if tz is None else found.tz_convert(tz)

    def _make_timedelta(self, text: str) -> Any:
        return pd.Timedelta(text)

    def _make_period_value(self, ordinal: int, freq: str) -> Any:
        return pd.Period(ordinal=ordinal, freq=freq)

    def _make_interval_value(self, left: Any, right: Any, closed: Any) -> Any:
        return pd.Interval(self.value(left), self.value(right), closed)

    def _make_datetime(self, text: str) -> Any:
        return datetime.datetime.fromisoformat(text)

    def _make_date(self, text: str) -> Any:
        return datetime.date.fromisoformat(text)

    def _make_time(self, text: str) -> Any:
        return datetime.time.fromisoformat(text)

    def _make_pytimedelta(self, days: int, seconds: int, microseconds: int) -> Any:
        return datetime.timedelta(days, seconds, microseconds)

    def _make_complex(self, real: Any, imaginary: Any) -> complex:
        return complex(self.value(real), self.value(imaginary))

    def _make_bytes(self, raw: str) -> bytes:
        return base64.b64decode(raw, validate=True)

    def _make_Decimal(self, text: str) -> Any:
        return decimal.Decimal(text)

    def _make_Fraction(self, text: str) -> Any:
        return fractions.Fraction(text)

    def _make_slice(self, start: Any, stop: Any, step: Any) -> slice:
        return slice(self.value(start), self.value(stop), self.value(step))

    def _make_range(self, start: int, stop: int, step: int) -> range:
        return range(start, stop, step)

    def _make_path(self, text: str) -> pathlib.Path:
        return pathlib.Path(str(text))

    def _make_generator(self, state: Any) -> np.random.Generator:
        stored = self.value(state)
        kinds = {
            name: getattr(np.random, name)
            for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
        }
        bits = kinds[stored["bit_generator"]](0)
        bits.state = stored
        return np.random.Generator(bits)

    # functions that have names

    def _make_module(self, name: str) -> Any:
        if name not in LIBRARIES:
            raise Broken(f"the module {name!r}")
        return importlib.import_module(name)

    def _make_ufunc(self, library: str, name: str) -> Any:
        if library not in ("numpy", "scipy.special"):
            raise Broken(f"the module {library!r}")
        found = getattr(importlib.import_module(library), str(name), None)
        if not isinstance(found, np.ufunc):
            raise Broken(f"the function {name!r}")
        return found

    def _make_builtin(self, name: str) -> Any:
        if name not in BUILTINS:
            raise Broken(f"the function {name!r}")
        return getattr(builtins, name)

    def _make_math(self, name: str) -> Any:
        found = getattr(math, str(name), None)
        if not isinstance(found, types.BuiltinFunctionType):
            raise Broken(f"the function {name!r}")
        return found

    def _make_call(self, name: str) -> Any:
        return self.calls[name]

    def _make_partial(self, name: str, given: Any, named: Any) -> Any:
        return functools.partial(
            self.calls[name], *self._all(given), **{str(k): self.value(v) for k, v in named.items()}
        )

    def _make_origin(self, data: Any, text: str, marks: Any) -> Origin:
        made = Origin(_source_of(self.value(data)), None, str(text))
        made.marks = dict(self.value(marks))
        return made

    def _make_arrow_type(self, raw: Any) -> Any:
        import pyarrow as pa

        return pa.ipc.read_schema(pa.py_buffer(self.value(raw).tobytes())).field("x").type

    def _make_arrow_table(self, raw: Any) -> Any:
        import pyarrow as pa

        with pa.ipc.open_stream(pa.py_buffer(self.value(raw).tobytes())) as reader:
            return reader.read_all()

    # pandas

    def _make_table(self, frame: Any, witnesses: Any) -> Table:
        data = self.value(frame)
        if not isinstance(data, pd.DataFrame):
            raise Broken("a table that is none")
        return Witnesses(data) if witnesses else Table(data)

    def _make_range_index(self, start: int, stop: int, step: int, name: Any) -> pd.Index:
        return pd.RangeIndex(start, stop, step, name=self.value(name))

    def _make_multi_index(self, levels: Any, codes: Any, names: Any) -> pd.Index:
        return pd.MultiIndex(
            levels=self._all(levels), codes=self._all(codes), names=self._all(names)
        )

    def _make_index(self, column: Any, name: Any) -> pd.Index:
        values = self._column(column)
        return pd.Index(
            values,
            name=self.value(name),
            dtype=values.dtype if isinstance(values, np.ndarray) else None,
        )

    def _make_series(self, column: Any, index: Any, name: Any) -> pd.Series:
        values = self._column(column)
        dtype = values.dtype if isinstance(values, np.ndarray) else None
        return pd.Series(values, index=self.value(index), name=self.value(name), dtype=dtype)

    def _make_frame(self, columns: Any, values: Any, index: Any) -> pd.DataFrame:
        labels = self.value(index)
        made: dict[int, Any] = {}
        for j, column in enumerate(values):
            own = self._column(column)
            made[j] = pd.Series(
                own, index=labels, dtype=own.dtype if isinstance(own, np.ndarray) else None
            )
        frame = pd.DataFrame(made, index=labels, copy=False)
        frame.columns = self.value(columns)
        return frame

    def _make_column(self, column: Any) -> Any:
        return self._column(column)

    def _column(self, stored: Any) -> Any:
        found = self.value(stored)
        if not isinstance(found, tuple):
            return found
        kind, a, b, c = found
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

    # records

    def _class(self, name: Any) -> type:
        found = record(name) if isinstance(name, str) else None
        if found is None:
            raise Broken(f"a record {str(name)[:80]!r}")
        return found

    def _make_enum(self, name: str, member: str) -> Any:
        kind = self._class(name)
        if not issubclass(kind, enum.Enum):
            raise Broken(f"a record {name!r}")
        return kind.__members__[member]

    def _make_record(self, name: str, base: Any, stored: Any) -> Any:
        kind: Any = self._class(name)
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


def _shaped(
    data: bytearray, start: int, dtype: np.dtype[Any], shape: Any, fortran: Any
) -> np.ndarray:
    if _size(shape) * dtype.itemsize != len(data) - start:
        raise Broken("an array whose shape does not fit its bytes")
    if not dtype.itemsize or not _size(shape):
        return np.zeros(tuple(shape), dtype)
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(
        tuple(shape), order="F" if fortran else "C"
    )


def _size(shape: Any) -> int:
    if (
        not isinstance(shape, list)
        or len(shape) > 32
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise Broken("a shape that is none")
    return math.prod(shape)


def _dtype(descr: Any) -> np.dtype[Any]:
    if not isinstance(descr, str):
        raise Broken("a type that is none")
    dtype = np.dtype(descr)
    if dtype.hasobject or dtype.kind not in "biufcmMSU":
        raise Broken("an array of objects")
    return dtype


def _texts(blob: Any, stops: Any, kinds: Any) -> list[Any]:
    raw, out, start = blob.tobytes(), [], 0
    for stop, kind in zip(stops.tolist(), kinds.tolist(), strict=True):
        out.append(
            (None, pd.NA, float("nan"))[kind - 1]
            if kind
            else raw[start:stop].decode("utf-8", "surrogatepass")
        )
        start = stop
    return out


def _string(storage: str, missing: str) -> Any:
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


def _source_of(data: Any) -> Any:
    if isinstance(data, tuple) and len(data) == 4 and data[0] == "Source":
        return importlib.import_module("lmm.stream.sources").Source(*data[1:])
    if isinstance(data, list):
        return [str(one) for one in data]
    return None if data is None else str(data)
