"""Any table -> columns by name, without touching the rest of it.

pandas, polars and pyarrow tables (anything that narwhals reads) and mappings of arrays are taken.
Only the columns that a formula uses are ever converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from lmm.errors import DataError, nearest

_NUMERIC_OBJECTS = {"integer", "floating", "mixed-integer-float", "decimal", "boolean"}


class Table:
    """A view of the user's data: column names, row index, and one column at a time.

    Parameters
    ----------
    data : pandas DataFrame, polars or pyarrow table, or mapping of names to equally long arrays.

    Raises
    ------
    DataError : when ``data`` is not a table, or its columns differ in length.
    """

    def __init__(self, data: Any):
        self.native = data
        self._foreign: Any = None
        if isinstance(data, pd.DataFrame):
            self.frame: pd.DataFrame | None = data
        elif isinstance(data, Mapping):
            self.frame = _from_mapping(data)
        else:
            self.frame = None
            try:
                self._foreign = nw.from_native(data, eager_only=True)
            except TypeError:
                kind = type(data).__name__
                lazy = " Collect it first." if kind == "LazyFrame" else ""
                raise DataError(f"data must be a table (pandas, polars, pyarrow, or a dict of arrays), not {kind}.{lazy}") from None
        source = self._foreign if self.frame is None else self.frame
        self._keys = {str(name): name for name in source.columns}
        self.n: int = len(source)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names as strings."""
        return tuple(self._keys)

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    @cached_property
    def index(self) -> pd.Index:
        """The user's row labels; 0..N-1 where the table has none."""
        return pd.RangeIndex(self.n) if self.frame is None else self.frame.index

    def column(self, name: str) -> pd.Series:
        """One column as a Series in plain types: numbers as NumPy numbers where nothing is missing."""
        if self.frame is None:
            return _plain(_foreign_column(self._foreign[self._keys[name]]), name)
        found = self.frame[self._keys[name]]
        if isinstance(found, pd.DataFrame):
            raise DataError(f"the data has {found.shape[1]} columns named {name!r}; rename them so that each name is used once.")
        return _plain(found, name)

    def to_pandas(self) -> pd.DataFrame:
        """The whole table as pandas; the user's own object where it is one."""
        if self.frame is not None:
            return self.frame
        return pd.DataFrame({name: _foreign_column(self._foreign[key]) for name, key in self._keys.items()})

    def unknown(self, names: Iterable[str]) -> str:
        """Sentence naming columns that are missing, with the nearest ones that exist."""
        words = [f"{name!r}" for name in names]
        what = f"column {words[0]} is" if len(words) == 1 else f"columns {', '.join(words)} are"
        first = words[0].strip("'")
        other_case = next((key for key in self._keys if key.lower() == first.lower()), None)
        hint = f" Did you mean {other_case!r}?" if other_case else nearest(first, self._keys)
        shown = ", ".join(list(self._keys)[:12]) + (", ..." if len(self._keys) > 12 else "")
        return f"{what} not in the data.{hint} It has: {shown}."


def _from_mapping(data: Mapping[Any, Any]) -> pd.DataFrame:
    lengths = {}
    for name, values in data.items():
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise DataError(f"data must map names to arrays, but {name!r} is {type(values).__name__}.")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns differ in length: {', '.join(f'{k} {v}' for k, v in list(lengths.items())[:8])}.")
    plain = {k: v.reset_index(drop=True) if isinstance(v, pd.Series) else v for k, v in data.items()}
    return pd.DataFrame(plain, copy=False)


def _foreign_column(series: Any) -> pd.Series:
    """A narwhals series as pandas, through NumPy, so that pyarrow is not needed for polars."""
    dtype, name = series.dtype, series.name
    if dtype == nw.Boolean or dtype.is_numeric():
        if not series.is_null().any():
            return pd.Series(series.to_numpy(), name=name)
        return pd.Series(series.cast(nw.Float64).to_numpy(), name=name)
    if dtype == nw.Categorical or dtype == nw.Enum:
        values = series.cast(nw.String).to_list()
        if dtype == nw.Enum:
            order = list(getattr(dtype, "categories", None) or series.to_native().dtype.categories)
        elif type(series.to_native()).__module__.startswith("pyarrow"):
            order = [c for chunk in series.to_native().chunks for c in chunk.dictionary.to_pylist()]
            order = list(dict.fromkeys(str(c) for c in order))
        else:
            order = sorted({v for v in values if v is not None})
        return pd.Series(pd.Categorical(values, categories=order), name=name)
    if dtype == nw.String:
        return pd.Series(series.to_list(), name=name)
    return series.to_pandas()


def _plain(series: pd.Series, name: str) -> pd.Series:
    """Extension and object columns in the types that formulas understand; others untouched."""
    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind != "O":
            return series
        kind = pd.api.types.infer_dtype(series, skipna=True)
        if kind in _NUMERIC_OBJECTS:
            return pd.Series(pd.to_numeric(series.astype(float)), index=series.index, name=series.name)
        return series
    if isinstance(dtype, (pd.CategoricalDtype, pd.DatetimeTZDtype, pd.PeriodDtype)):
        return series
    if pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype):
        if series.isna().any():
            values = series.to_numpy(dtype=float, na_value=np.nan)
        else:
            kind = "bool" if pd.api.types.is_bool_dtype(dtype) else ("int64" if pd.api.types.is_integer_dtype(dtype) else "float64")
            values = series.to_numpy(dtype=kind)
        return pd.Series(values, index=series.index, name=series.name)
    if pd.api.types.is_string_dtype(dtype) and dtype != "str":
        return series.astype(object)
    if isinstance(dtype, pd.ArrowDtype):
        if "dictionary" in str(dtype):
            return series.astype("category")
    return series


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
