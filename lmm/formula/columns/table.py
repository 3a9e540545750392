"""Any table -> columns by name, without touching the rest of it.

pandas, polars and pyarrow tables (anything that narwhals reads) and mappings of arrays are taken.
Only the columns that a formula uses are ever converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
import pandas as pd

from lmm.errors import DataError, nearest
from lmm.formula.columns.given import EXACT, NUMERIC_OBJECTS, aligned
from lmm.formula.columns.levels import DeclaredOrder

if TYPE_CHECKING:
    import pyarrow as pa

#: values that hold others, which no column of a model can be made of
_NESTED = (list, tuple, dict, set, frozenset, np.ndarray, pd.Series, pd.DataFrame)


class Table:
    """A view of the user's data: column names, row index, and one column at a time.

    What the user does to the data afterwards does not change it: a DataFrame is copied when either side writes, arrays of a
    mapping are copied at once. Series in a mapping are put into the order of the first one's labels, which name the rows.

    Parameters
    ----------
    data : pandas DataFrame, polars or pyarrow table, or mapping of names to equally long arrays.
    name : the argument, for messages.

    Raises
    ------
    DataError : when ``data`` is not a table, or its columns differ in length or in the labels of their rows.
    """

    def __init__(self, data: object, name: str = "data"):
        self._foreign: nw.DataFrame[Any] | None = None
        self._twice: dict[str, int] = {}
        self._coded: frozenset[str] = frozenset()
        if isinstance(data, pd.DataFrame):
            self.frame: pd.DataFrame | None = data.copy(deep=False)
        elif isinstance(data, Mapping):
            self.frame = _from_mapping(data, name)
        else:
            self.frame = None
            self._foreign = self._read(data, name)
        held = self.frame if self._foreign is None else self._foreign
        assert held is not None
        self.native: object = self.frame if self._foreign is None else self._foreign.to_native()
        names = [str(column) for column in held.columns]
        self._keys = dict(zip(names, held.columns, strict=True))
        if len(self._keys) < len(names):
            self._twice |= {
                column: names.count(column) for column in self._keys if names.count(column) > 1
            }
        self.n: int = len(held)
        index = () if self.frame is None else self.frame.index.names
        self._index_names = {
            str(name): name for name in index if name is not None and str(name) not in self._keys
        }

    def _read(self, data: Any, name: str) -> nw.DataFrame[Any]:
        """A table of another package as narwhals sees it."""
        if type(data).__module__.startswith("pyarrow") and hasattr(data, "column_names"):
            first = {column: i for i, column in reversed(list(enumerate(data.column_names)))}
            if len(first) < data.num_columns:
                self._twice = {
                    column: n for column in first if (n := data.column_names.count(column)) > 1
                }
                data = data.select(sorted(first.values()))
            self._coded = frozenset(own.name for own in data.schema if is_only_coded(own))
        try:
            found: nw.DataFrame[Any] = nw.from_native(data, eager_only=True)
        except TypeError:
            kind = type(data).__name__
            lazy = " Collect it first." if kind == "LazyFrame" else ""
            raise DataError(
                f"{name} must be a table (pandas, polars, pyarrow, or a dict of arrays), not {kind}.{lazy}"
            ) from None
        return found.clone()

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names as strings."""
        return tuple(self._keys)

    @property
    def names(self) -> tuple[str, ...]:
        """All that a formula may use: the columns, and the named levels of the index behind them, which ``.`` does not mean."""
        return (*self._keys, *self._index_names)

    def __contains__(self, name: str) -> bool:
        return name in self._keys or name in self._index_names

    @cached_property
    def index(self) -> pd.Index:
        """The user's row labels; 0..N-1 where the table has none."""
        return pd.RangeIndex(self.n) if self.frame is None else self.frame.index

    def column(self, name: str) -> pd.Series:
        """One column as a Series in plain types: numbers as NumPy numbers; whole numbers and booleans masked where one is missing.

        Whole numbers never pass through floats: beyond 64 bits they are Python's.
        """
        if name in self._twice:
            raise DataError(
                f"the data has {self._twice[name]} columns named {name!r}; rename them so that each name is used once."
            )
        if self._foreign is not None:
            return plain(self._foreign_column(self._keys[name]), name)
        assert self.frame is not None
        if name in self._index_names:
            values = self.frame.index.get_level_values(self._index_names[name])  # type: ignore[arg-type]
            return plain(pd.Series(values, index=self.frame.index, name=name), name)
        return plain(self.frame[self._keys[name]], name)

    def to_pandas(self) -> pd.DataFrame:
        """The whole table as pandas, which what is done to the user's own data does not change."""
        if self._foreign is None:
            assert self.frame is not None
            return self.frame
        return pd.DataFrame({name: self._foreign_column(key) for name, key in self._keys.items()})

    def _foreign_column(self, key: Any) -> pd.Series:
        """A column of another package's table; categories whose order nobody declared are sorted."""
        assert self._foreign is not None
        found = _foreign_column(self._foreign[key])
        return (
            found.cat.reorder_categories(sorted(found.cat.categories))
            if key in self._coded
            else found
        )

    def unknown(self, names: Iterable[str]) -> str:
        """Sentence naming columns that are missing, with the nearest ones that exist."""
        words = [f"{name!r}" for name in names]
        what = f"column {words[0]} is" if len(words) == 1 else f"columns {', '.join(words)} are"
        first = words[0].strip("'")
        other_case = next((key for key in self._keys if key.lower() == first.lower()), None)
        hint = f" Did you mean {other_case!r}?" if other_case else nearest(first, self._keys)
        shown = ", ".join(list(self._keys)[:12]) + (", ..." if len(self._keys) > 12 else "")
        return f"{what} not in the data.{hint} It has: {shown}."


def _from_mapping(data: Mapping[object, object], source: str) -> pd.DataFrame:
    columns = {name: _as_array(values, name, source) for name, values in data.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"the columns differ in length: {', '.join(f'{k} {v}' for k, v in list(lengths.items())[:8])}."
        )
    labels = [values.index for values in columns.values() if isinstance(values, pd.Series)]
    index = labels[0] if labels else pd.RangeIndex(next(iter(lengths.values()), 0))
    arrays = {
        k: aligned(v, index, str(k)).array if isinstance(v, pd.Series) else v
        for k, v in columns.items()
    }
    rows = {name: pd.Series(values, index=index, copy=False) for name, values in arrays.items()}
    return pd.DataFrame(rows, index=index, copy=False)


def _as_array(values: Any, name: object, source: str) -> Any:
    """One column of a mapping, its memory our own: a Series where it has labels, else an array."""
    if (
        isinstance(values, str | bytes | set | frozenset | Mapping)
        or not hasattr(values, "__len__")
        or hasattr(values, "toarray")
    ):
        if getattr(values, "shape", None) != ():
            raise DataError(
                f"{source} must map names to arrays, but {name!r} is {type(values).__name__}."
            )
    shape = getattr(values, "shape", None)
    if isinstance(shape, tuple) and len(shape) != 1:
        raise DataError(
            f"{source} must map names to arrays of one dimension, but {name!r} has shape {shape}."
        )
    if isinstance(values, np.ma.MaskedArray):
        return _masked(np.array(values.data), np.ma.getmaskarray(values))
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "V":
            raise DataError(
                f"{source} must map names to arrays of single values, but {name!r} is structured; give each field a name."
            )
        return np.array(values)
    if isinstance(values, pd.Series):
        return values.copy(deep=True)
    if isinstance(values, pd.Index | pd.api.extensions.ExtensionArray):
        return values.copy()
    if type(values).__module__.partition(".")[0] in ("polars", "pyarrow"):
        if hasattr(values, "dictionary_encode") and not hasattr(values, "num_chunks"):
            import pyarrow as pa

            values = pa.chunked_array([values])
        return _foreign_column(nw.from_native(values, series_only=True, allow_series=True)).array
    listed = list(values)
    exact = pd.api.types.infer_dtype(listed, skipna=True) in (
        "integer",
        "boolean",
        "mixed-integer-float",
    )
    try:
        return pd.Series(
            listed, dtype=object if exact else None
        ).array  # None beside whole numbers would make floats of them
    except TypeError:  # jagged or exotic
        raise DataError(
            f"{source} must map names to arrays, but {name!r} is {type(values).__name__}."
        ) from None


def _masked(values: np.ndarray, mask: np.ndarray) -> object:
    """Values some of which are missing, without a float in place of a whole number."""
    if not mask.any():
        return values
    if values.dtype.kind == "b":
        return pd.arrays.BooleanArray(values, mask)
    if values.dtype.kind in "iu":
        return pd.arrays.IntegerArray(
            values.astype("uint64" if values.dtype == np.uint64 else "int64"), mask
        )
    out = values.astype(float if values.dtype.kind == "f" else object)
    out[mask] = np.nan
    return out


def _foreign_column(series: nw.Series[Any]) -> pd.Series:
    """A narwhals series as pandas, through NumPy, so that pyarrow is not needed for polars."""
    dtype, name = series.dtype, series.name
    if dtype.is_nested():
        raise _nested(name, str(dtype))
    if dtype.is_decimal():
        return pd.Series(series.to_list(), name=name, dtype=object)
    if dtype == nw.Boolean or dtype.is_integer():
        absent = series.is_null()
        if not absent.any():
            return pd.Series(series.to_numpy(), name=name)
        filled = series.fill_null(False if dtype == nw.Boolean else 0)
        return pd.Series(
            _masked(np.array(filled.to_numpy()), np.array(absent.to_numpy(), dtype=bool)), name=name
        )
    if dtype.is_numeric():
        return pd.Series(
            (series.cast(nw.Float64) if series.is_null().any() else series).to_numpy(), name=name
        )
    if dtype == nw.Categorical or dtype == nw.Enum:
        values = series.cast(nw.String).to_list()
        if dtype == nw.Enum:
            order = list(getattr(dtype, "categories", None) or series.to_native().dtype.categories)
        elif type(series.to_native()).__module__.startswith("pyarrow"):
            return _dictionary(series.to_native(), name)
        else:
            order = sorted({v for v in values if v is not None})
        return pd.Series(pd.Categorical(values, categories=order), name=name)
    if dtype == nw.String:
        return pd.Series(series.to_list(), name=name)
    return series.to_pandas()


def plain(series: pd.Series, name: str) -> pd.Series:
    """Extension and object columns in the types that formulas understand; others untouched."""
    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        return _objects(series, name) if dtype.kind == "O" else series
    if isinstance(dtype, (pd.CategoricalDtype, pd.DatetimeTZDtype, pd.PeriodDtype)):
        return series
    if isinstance(dtype, pd.ArrowDtype):
        if "decimal" in str(dtype):
            return _objects(series.astype(object), name)
        if "dictionary" in str(dtype):
            return series.astype("category")
        if any(word in str(dtype) for word in ("list", "struct", "map")):
            raise _nested(name, str(dtype))
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_integer_dtype(dtype):
        boolean = pd.api.types.is_bool_dtype(dtype)
        kind = (
            "bool"
            if boolean
            else "uint64"
            if pd.api.types.is_unsigned_integer_dtype(dtype)
            else "int64"
        )
        absent = series.isna().to_numpy()
        values = (series.fillna(False if boolean else 0) if absent.any() else series).to_numpy(
            dtype=kind
        )
        return pd.Series(_masked(values, absent), index=series.index, name=series.name)
    if pd.api.types.is_numeric_dtype(dtype):
        return pd.Series(
            series.to_numpy(dtype=float, na_value=np.nan), index=series.index, name=series.name
        )
    if pd.api.types.is_string_dtype(dtype) and dtype != "str":
        return series.astype(object)
    return series


def _objects(series: pd.Series, name: str) -> pd.Series:
    """Python's numbers as NumPy's; whole ones that need more than 64 bits stay as they are."""
    kind = pd.api.types.infer_dtype(series, skipna=True)
    if kind not in NUMERIC_OBJECTS or kind == "empty":
        if kind.startswith("mixed"):
            inner = next((value for value in series if isinstance(value, _NESTED)), None)
            if inner is not None:
                raise _nested(name, type(inner).__name__)
        return series
    values = series.to_numpy(dtype=object)
    absent = np.asarray(pd.isna(values), dtype=bool)
    present = values[~absent].tolist()
    if kind in ("decimal", "mixed-integer-float"):
        big = [v for v in present if abs(v) > EXACT and np.isfinite(float(v)) and v == int(v)]
        if not any(float(v) != v for v in big):
            kind = "floating"
        elif all(np.isfinite(float(v)) and v == int(v) for v in present):
            kind, present = "integer", [int(v) for v in present]
        else:
            return series
    if kind == "floating":
        out = np.full(len(values), np.nan)
        out[~absent] = [float(v) for v in present]
        return pd.Series(out, index=series.index, name=series.name)
    for target in (bool,) if kind == "boolean" else (np.int64, np.uint64):
        try:
            numbers = np.array(present, dtype=target)
        except OverflowError:
            continue
        filled = np.zeros(len(values), dtype=target)
        filled[~absent] = numbers
        return pd.Series(_masked(filled, absent), index=series.index, name=series.name)
    exact = np.full(len(values), None, dtype=object)
    exact[~absent] = present
    return pd.Series(exact, index=series.index, name=series.name, dtype=object)


def _nested(name: object, kind: str) -> DataError:
    return DataError(
        f"the column {name} holds {kind} values, several in one row; make a column of each that the model uses."
    )


def is_only_coded(field: pa.Field) -> bool:
    """Whether an Arrow column is a polars Categorical, a dictionary for the sake of memory whose order nobody declared."""
    return any(key.startswith(b"_PL_CATEGORICAL") for key in field.metadata or {})


def _dictionary(values: pa.ChunkedArray | pa.DictionaryArray, name: object) -> pd.Series:
    """A dictionary-encoded Arrow column as a categorical, levels in the order that its dictionaries declare, else sorted."""
    import pyarrow as pa

    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    if not chunks:
        return pd.Series(pd.Categorical([]), name=name)
    listed = [pd.Index(chunk.dictionary.to_pylist()) for chunk in chunks]
    levels = listed[0].append(listed[1:]).unique() if len(listed) > 1 else listed[0]
    declared, codes = DeclaredOrder(), []
    for chunk, own in zip(chunks, listed, strict=True):
        place = levels.get_indexer(own)
        declared.add(place)
        codes.append(
            np.append(place, -1)[
                chunk.indices.cast(pa.int64()).fill_null(len(own)).to_numpy(zero_copy_only=False)
            ]
        )
    rank = declared.rank(np.arange(len(levels)))
    order = np.argsort(rank) if rank is not None else levels.argsort()
    back = np.append(np.argsort(order), -1)
    return pd.Series(
        pd.Categorical.from_codes(back[np.concatenate(codes)], categories=levels[order]), name=name
    )


def given_column(values: object, index: pd.Index, name: str) -> pd.Series:
    """A variable of the caller with one value per row, in the order of the rows, in plain types; its memory our own."""
    return plain(pd.Series(_as_array(aligned(values, index, name), name, "scope")), name)


def taken(series: pd.Series, rows: np.ndarray | None) -> object:
    """The values of some rows (of all: None) as an array; NumPy's own where nothing is missing among them."""
    array = series.array if rows is None else series.array[rows]
    if (
        isinstance(array, pd.arrays.IntegerArray | pd.arrays.BooleanArray)
        and not array.isna().any()
    ):
        return array.to_numpy(
            dtype="bool" if isinstance(array, pd.arrays.BooleanArray) else str(array.dtype).lower()
        )
    return array


def whole_rows(series: pd.Series, rows: np.ndarray | None, index: pd.Index, name: str) -> pd.Series:
    """Some rows of a column (all: None) under another index and name; nothing is copied where all are kept.

    Raises
    ------
    DataError : text that holds half a character.
    """
    try:
        return pd.Series(taken(series, rows), index=index, name=name, copy=False)
    except UnicodeEncodeError as error:
        cure = "clean it with .str.encode('utf-8', 'replace').str.decode('utf-8')"
        raise DataError(
            f"column {name!r} holds {error.object!r}, with half a character (a lone surrogate) in it; {cure}."
        ) from None


def as_floats(series: pd.Series) -> pd.Series:
    """Numbers that an expression computes with as NumPy's; NaN where one is missing. Others as they are.

    Masked whole numbers that no float holds stay masked.

    Raises
    ------
    DataError : whole numbers beyond 64 bits, where two of them are one float.
    """
    if isinstance(series.array, pd.arrays.IntegerArray):
        big = (series > EXACT) | (series < -EXACT)
        return (
            series
            if big.any()
            else pd.Series(
                series.to_numpy(dtype=float, na_value=np.nan), index=series.index, name=series.name
            )
        )
    if series.dtype != object or not len(series) or not isinstance(series.iloc[0], Real | Decimal):
        return series
    floats = series.astype(float)
    if floats.nunique() < series.nunique():
        raise DataError(
            f"column {series.name!r} has whole numbers of more than 64 bits, some of which are one and the same as floats; make them "
            "text to use them as labels, or use them as a grouping factor."
        )
    return floats


def missing(series: pd.Series) -> np.ndarray | None:
    """Mask of missing values, or None when there is none; one pass, no temporary for complete numbers."""
    values = series.array
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes = series.cat.codes.to_numpy()
        return codes < 0 if codes.size and codes.min() < 0 else None
    if isinstance(series.dtype, np.dtype):
        if series.dtype.kind in "iub":
            return None
        if series.dtype.kind == "f":
            numbers = np.asarray(values)
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(np.add.reduce(numbers)):
                    return None
    mask = series.isna().to_numpy()
    return mask if mask.any() else None
