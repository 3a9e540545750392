"""A graph of record, arrays and tables -> numbered nodes and arrays in a zip. See :mod:`lmm.results.files.archive`."""

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
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lmm.design.design import Call
from lmm.errors import ArgumentError
from lmm.formula.columns.table import Table
from lmm.results.files.archive_records import (
    BUILTINS,
    CALLS,
    FUNCTIONS,
    LEFT_BEHIND,
    LIBRARIES,
    MASKED,
    SMALL,
    Needed,
    name_of,
    record,
)
from lmm.stream.absent import ABSENT, Absent, Witnesses
from lmm.stream.linear_rows import Origin
from lmm.stream.sources import Source

#: the name of a kind, and what it is made of: values of JSON, and numbers of nodes
Node: TypeAlias = list[object]
MOMENTS = (datetime.datetime, datetime.date, datetime.time)
SPARSE = (sp.csr_array, sp.csc_array, sp.coo_array, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix)


class ArchiveWriter:
    """Numbers the nodes of a graph; ``arrays`` are written as it goes."""

    def __init__(self, file: zipfile.ZipFile):
        self.file = file
        self.nodes: list[Node] = []
        self.known: dict[int, int] = {}
        self.alive: list[object] = []
        self.open: set[int] = set()
        self.members = 0
        self.left_out: list[str] = []
        self.needed: dict[str, None] = {}

    def value(self, value: object, where: str) -> object:
        """What stands for a value: itself, or the number of its node."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"f": repr(value)}
        number = self.known.get(id(value))
        if number is None:
            if id(value) in self.open:
                raise ArgumentError(f"save: {where} refers to itself, which a file cannot hold.")
            self.open.add(id(value))
            node = self._node(value, where)
            self.open.discard(id(value))
            number = len(self.nodes)
            self.nodes.append(node)
            self.known[id(value)] = number
            self.alive.append(value)  # so that no other object takes its id
        return {"r": number}

    def _all(self, values: Iterable[object], where: str) -> Node:
        return [self.value(value, where) for value in values]

    def _node(self, value: object, where: str) -> Node:
        kind = type(value)
        if type(value).__module__.split(".")[0] in ("jax", "jaxlib") and hasattr(
            value, "__array__"
        ):
            value = np.asarray(value)
            kind = np.ndarray
        if type(value) is np.ndarray:
            return self._array(value, where)
        if isinstance(value, np.generic):
            return ["scalar", self.value(np.array(value), where)]
        if isinstance(value, Iterable) and kind in (tuple, list, set, frozenset):
            return [kind.__name__, self._all(value, where)]
        if type(value) is dict:
            return [
                "dict",
                [[self.value(k, where), self.value(v, f"{where}.{k}")] for k, v in value.items()],
            ]
        known = self._pandas(value, where) or self._other(value, where)
        if known is not None:
            return known
        name = name_of(kind)
        if record(name) is None:
            raise ArgumentError(
                f"save: this fit holds {_what(value)} ({where}), which a file cannot hold; pickle the fit instead."
            )
        return self._record(value, name, where)

    def _record(self, value: object, name: str, where: str) -> Node:
        if isinstance(value, enum.Enum):
            return ["enum", name, value.name]
        base: object = None
        if isinstance(value, tuple):
            base = self._all(tuple(value), where)
        elif isinstance(value, str):
            base = str(value)
        elif isinstance(value, float):
            base = self.value(float(value), where)
        state = value.__getstate__()
        parts = state if isinstance(state, tuple) else (state,)
        own_choice = type(value).__getstate__ is not object.__getstate__
        kept = {}
        for field, own in ((field, own) for part in parts if part for field, own in part.items()):
            computed = isinstance(getattr(type(value), field, None), functools.cached_property)
            if (
                field in LEFT_BEHIND
                or (computed and not own_choice)
                or (field == "kept" and type(own) is dict)
            ):
                continue  # what is kept to save time
            kept[field] = self._field(value, field, own, f"{where}.{field}")
        return ["record", name, base, kept]

    def _field(self, owner: object, field: str, value: object, where: str) -> object:
        """A field; a function of the caller is left out by its name where it can be given again."""
        if field in ("context", "contrasts") and type(value) is dict:
            value = {name: self._caller(own, str(name)) for name, own in value.items()}
        elif field == "arguments" and isinstance(owner, Call):
            contrasts = owner.arguments.get("contrasts")
            if isinstance(contrasts, dict):
                own = {name: self._caller(one, str(name)) for name, one in contrasts.items()}
                value = {**owner.arguments, "contrasts": own}
        return self.value(value, where)

    def _caller(self, value: object, name: str) -> object:
        if (
            _function(value) is None
            and (callable(value) or isinstance(value, types.ModuleType))
            and record(name_of(type(value))) is None
        ):
            self.needed[name] = None
            return Needed(name)
        return value

    def _array(self, value: np.ndarray, where: str) -> Node:
        if value.dtype == object:
            return ["objects", self._objects(value.ravel(), where), list(value.shape)]
        if value.dtype.kind not in "biufcmMSU":
            raise ArgumentError(
                f"save: an array of type {value.dtype} ({where}) cannot be written."
            )
        if value.size > 1 and 0 in value.strides:
            small = value[
                tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.strides)
            ]
            return ["repeated", self.value(np.array(small), where), list(value.shape)]
        fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        if value.nbytes <= SMALL:
            raw = base64.b64encode(value.tobytes("F" if fortran else "C")).decode()
            return [
                "small",
                np.lib.format.dtype_to_descr(value.dtype),
                list(value.shape),
                fortran,
                raw,
            ]
        name = f"arrays/{self.members}.npy"
        self.members += 1
        with self.file.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, value, allow_pickle=False)
        return ["array", name]

    def _objects(self, values: np.ndarray, where: str) -> object:
        """Objects one by one; text as one array of bytes."""
        kinds = np.zeros(len(values), dtype=np.uint8)
        texts = []
        for i, own in enumerate(values):
            if type(own) is str:
                texts.append(own.encode("utf-8", "surrogatepass"))
            elif own is None or own is pd.NA or (type(own) is float and own != own):
                kinds[i] = 1 if own is None else 2 if own is pd.NA else 3
                texts.append(b"")
            else:
                return self.value([self._scalar(own, where) for own in values], where)
        stops = np.cumsum([len(one) for one in texts], dtype=np.int64)
        blob = np.frombuffer(b"".join(texts), dtype=np.uint8)
        return self.value(("text", blob, stops, kinds), where)

    def _scalar(self, value: object, where: str) -> object:
        if (
            isinstance(value, str | int | float | complex | bool | type(None) | bytes | np.generic)
            or self._other(value, where) is not None
        ):
            return value
        raise ArgumentError(f"save: {_what(value)} ({where}) cannot be written.")

    def _other(self, value: object, where: str) -> Node | None:
        """Values of Python, NumPy and pandas that are neither containers nor columns."""
        if value is ABSENT or isinstance(value, Absent):
            return ["absent"]
        if value is pd.NaT:
            return ["nat"]
        if value is pd.NA:
            return ["na"]
        if isinstance(value, pd.Timestamp):
            return ["timestamp", value.isoformat(), None if value.tz is None else str(value.tz)]
        if isinstance(value, pd.Timedelta):
            return ["timedelta", value.isoformat()]
        if isinstance(value, pd.Period):
            return ["period value", value.ordinal, _frequency(pd.PeriodIndex([value]).dtype)]
        if isinstance(value, pd.Interval):
            return [
                "interval value",
                self.value(value.left, where),
                self.value(value.right, where),
                value.closed,
            ]
        if isinstance(value, datetime.date | datetime.time) and type(value) in MOMENTS:
            return [type(value).__name__, value.isoformat()]
        if type(value) is datetime.timedelta:
            return ["pytimedelta", value.days, value.seconds, value.microseconds]
        if isinstance(value, SPARSE):
            rows = value.tocsr()
            parts = (rows.data, rows.indices, rows.indptr, *rows.shape)
            return ["sparse rows", *self._all(parts, where)]
        if type(value) is complex:
            return ["complex", self.value(value.real, where), self.value(value.imag, where)]
        if type(value) is bytes:
            return ["bytes", base64.b64encode(value).decode()]
        if type(value) in (decimal.Decimal, fractions.Fraction):
            return [type(value).__name__, str(value)]
        if type(value) is slice:
            return ["slice", *self._all((value.start, value.stop, value.step), where)]
        if type(value) is range:
            return ["range", value.start, value.stop, value.step]
        if isinstance(value, pathlib.PurePath):
            return ["path", str(value)]
        if isinstance(value, np.random.Generator):
            return ["generator", self.value(value.bit_generator.state, where)]
        if isinstance(value, np.dtype) and value.kind in "biufcmMSU":
            return ["dtype", np.lib.format.dtype_to_descr(value)]
        function = _function(value)
        if function is not None:
            return function
        if type(value) is functools.partial and _call(value.func):
            named = {name: self.value(own, where) for name, own in value.keywords.items()}
            return ["partial", _call(value.func), self._all(value.args, where), named]
        if isinstance(value, Origin):
            marks = self.value(dict(value.marks), where)
            return ["origin", self.value(_source(value.data), where), value.text, marks]
        if type(value).__module__ == "pyarrow.lib":
            return self._arrow(value, where)
        return None

    def _arrow(self, value: object, where: str) -> Node | None:
        import pyarrow as pa

        if isinstance(value, pa.DataType):
            raw = pa.schema([("x", value)]).serialize().to_pybytes()
            return ["arrow type", self.value(np.frombuffer(raw, dtype=np.uint8), where)]
        if isinstance(value, pa.ChunkedArray | pa.Array):
            value = pa.table({"x": value})
        if not isinstance(value, pa.Table):
            return None
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        return ["arrow table", self.value(np.frombuffer(sink.getvalue(), dtype=np.uint8), where)]

    def _pandas(self, value: object, where: str) -> Node | None:
        if isinstance(value, Table):
            frame = value.rows.to_pandas() if isinstance(value, Witnesses) else value.to_pandas()
            return [
                "table",
                self.value(self._storable(frame), "data"),
                isinstance(value, Witnesses),
            ]
        if type(value) is pd.RangeIndex:
            return [
                "range index",
                value.start,
                value.stop,
                value.step,
                self.value(value.name, where),
            ]
        if type(value) is pd.MultiIndex:
            codes = [np.asarray(own) for own in value.codes]
            return [
                "multi index",
                self._all(value.levels, where),
                self._all(codes, where),
                self._all(value.names, where),
            ]
        if isinstance(value, pd.Index):
            return ["index", self._column(value.array, where), self.value(value.name, where)]
        if type(value) is pd.Series:
            return [
                "series",
                self._column(value.array, where),
                self.value(value.index, where),
                self.value(value.name, where),
            ]
        if type(value) is pd.DataFrame:
            columns = [
                self._column(value.iloc[:, j].array, f"{where}.{value.columns[j]}")
                for j in range(value.shape[1])
            ]
            return [
                "frame",
                self.value(value.columns, where),
                columns,
                self.value(value.index, where),
            ]
        if isinstance(value, pd.Categorical):
            return ["column", self._column(value, where)]
        return None

    def _storable(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns that can be written."""
        bad = []
        for j in range(frame.shape[1]):
            if frame.iloc[:, j].dtype == object:
                try:
                    for own in frame.iloc[:, j].array:
                        if type(own) not in (str, float, int, bool, type(None)):
                            self._scalar(own, "data")
                except ArgumentError:
                    bad.append(j)
        self.left_out += [str(frame.columns[j]) for j in bad]
        return frame.iloc[:, [j for j in range(frame.shape[1]) if j not in bad]] if bad else frame

    def _column(self, values: Any, where: str) -> object:
        """A pandas array by its parts."""
        dtype = values.dtype
        if isinstance(dtype, np.dtype) or isinstance(values, pd.arrays.NumpyExtensionArray):
            return self.value(np.asarray(values), where)
        parts: tuple[object, ...]
        if isinstance(dtype, pd.CategoricalDtype):
            parts = (
                "categorical",
                np.asarray(values.codes),
                values.categories,
                bool(values.ordered),
            )
        elif isinstance(dtype, pd.StringDtype):
            missing = getattr(dtype, "na_value", pd.NA)
            objects = np.array(values.astype(object), dtype=object)
            parts = ("string", objects, dtype.storage, "na" if missing is pd.NA else "nan")
        elif dtype.name in MASKED:
            parts = ("masked", dtype.name, np.array(values._data), np.array(values._mask))
        elif isinstance(dtype, pd.DatetimeTZDtype):
            parts = ("datetimetz", values.asi8, dtype.unit, str(dtype.tz))
        elif isinstance(dtype, pd.PeriodDtype):
            parts = ("period", values.asi8, _frequency(dtype), None)
        elif isinstance(dtype, pd.IntervalDtype):
            parts = ("interval", pd.Index(values.left), pd.Index(values.right), values.closed)
        elif isinstance(dtype, pd.SparseDtype):
            return self.value(np.asarray(values), where)
        elif isinstance(dtype, pd.ArrowDtype):
            parts = ("arrow", values._pa_array, None, None)
        else:
            raise ArgumentError(
                f"save: a column of type {dtype} ({where}) cannot be written; turn it into numbers, text or a category."
            )
        return self.value(parts, where)


def _frequency(dtype: object) -> str:
    """D of period[D]."""
    return str(dtype)[len("period[") : -1]


def _source(data: object) -> object:
    """Where rows came from as text, and None for what has no name."""
    if isinstance(data, Source):
        return ("Source", _path_text(data.path), data.table, data.chunk)
    parts = data if isinstance(data, list | tuple) else [data]
    named = all(isinstance(one, str | pathlib.PurePath) for one in parts)
    return _path_text(data) if named else None


def _path_text(path: object) -> str | list[str]:
    return [str(one) for one in path] if isinstance(path, list | tuple) else str(path)


def _what(value: object) -> str:
    name = getattr(value, "__qualname__", None)
    if callable(value) and name:
        return f"the function {name!r}"
    if "Custom" in type(value).__name__:
        return f"a {type(value).__name__}, which is code of yours"
    return f"an object of type {type(value).__name__}"


def _call(value: object) -> str | None:
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    return name if name in CALLS or FUNCTIONS.get(name) is value else None


def _function(value: object) -> Node | None:
    """A function or module that has a name in Python, NumPy or SciPy, or one of ours that repeats a call."""
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__] if value.__name__ in LIBRARIES else None
    if isinstance(value, np.ufunc):
        for library in ("numpy", "scipy.special"):
            function = str(value.__name__)
            if getattr(importlib.import_module(library), function, None) is value:
                return ["ufunc", library, function]
        return None
    name = str(getattr(value, "__name__", ""))
    if name in BUILTINS and getattr(builtins, name) is value:
        return ["builtin", name]
    if (
        isinstance(value, types.BuiltinFunctionType)
        and getattr(value, "__module__", None) == "math"
    ):
        return ["math", name]
    call = _call(value)
    return None if call is None else ["call", call]
