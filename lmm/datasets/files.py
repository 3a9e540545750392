"""Tables from files: CSV and Parquet, told apart by the ending of the name.

In a CSV file ``NA`` and an empty field are missing values, and nothing else is: ``None``, ``null``, ``n/a`` are levels of a factor like
any other text. A column is numeric where all of it is numbers (``NaN`` and ``Inf`` among them); whole numbers keep all their digits.
"""

from __future__ import annotations

import csv
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.common import get_handle  # type: ignore[import-not-found]

from lmm.datasets.store import load
from lmm.errors import ArgumentError, DataError, MissingPackageError, nearest

COMPRESSED = {".gz", ".bz2", ".zip", ".xz", ".zst"}
SEPARATORS = {".csv": ",", ".txt": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = {".parquet", ".pq"}
#: what is missing in a CSV file
MISSING = ("", "NA")
#: whole numbers up to this one are exact as floats
EXACT = 2.0**53


def _ending(path: Path) -> str:
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in COMPRESSED else suffix


def _no_file(path: Path, source: str) -> DataError:
    folder = path.parent
    there = (
        [p.name for p in folder.iterdir() if _ending(p) in SEPARATORS.keys() | PARQUET]
        if folder.is_dir()
        else []
    )
    return DataError(f"no file {source!r}.{nearest(path.name, there)}")


def read(source: str | Path) -> pd.DataFrame:
    """The table at a path, or the shipped data set of that name.

    Parameters
    ----------
    source : path of a CSV file (``.csv``, ``.txt``; ``.tsv`` and ``.tab`` with tabs; compressed or not) or a Parquet file
        (``.parquet``, ``.pq``); or, where no such file exists, one of :func:`lmm.datasets.names`.

    Raises
    ------
    DataError : there is no such file and no such data set, or the file cannot be read; a CSV file has two columns of one name, or rows
        with fewer or more fields than columns. The message is one line.

    Examples
    --------
    >>> read("Dyestuff").shape
    (30, 2)
    """
    path = Path(source)
    kind = _ending(path)
    try:
        there = path.exists()
    except (OSError, ValueError) as error:
        raise DataError(
            f"no file can be called {str(source)[:60]!r}: {getattr(error, 'strerror', None) or error}."
        ) from None
    if not there:
        if kind or len(path.parts) > 1:
            raise _no_file(path, str(source))
        try:
            return load(str(source))
        except ArgumentError as error:
            raise DataError(f"no file {str(source)!r}, and {error}") from None
    try:
        return (
            pd.read_parquet(path) if kind in PARQUET else _read_csv(path, SEPARATORS.get(kind, ","))
        )
    except DataError:
        raise
    except ImportError as error:
        raise MissingPackageError(
            f"reading {str(source)!r} needs pyarrow; install it with: pip install 'lmm[large]'",
            "pyarrow",
        ) from error
    except (
        OSError,
        ValueError,
    ) as error:  # the parsing errors of pandas and pyarrow are ValueErrors
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"cannot read {str(source)!r}: {reason}") from None


def _read_csv(path: Path, separator: str) -> pd.DataFrame:
    """A CSV file as R's ``read.csv`` takes it; rows that are too short are refused, where R fills them up."""
    with get_handle(path, "r", encoding="utf-8", compression="infer") as file:
        header = next((row for row in csv.reader(file.handle, delimiter=separator) if row), [])
    twice = [name for name, count in Counter(name for name in header if name).items() if count > 1]
    if twice:
        raise DataError(
            f"{str(path)!r} has {header.count(twice[0])} columns named {twice[0]!r}; rename them so that each name is used once."
        )
    settings: dict[str, Any] = {
        "sep": separator,
        "keep_default_na": False,
        "na_values": list(MISSING),
        "low_memory": False,
    }
    table = pd.read_csv(path, **settings)
    if len(table.columns) > 1 and len(table) and table.iloc[:, -1].isna().any():
        _refuse_short_rows(path, separator, len(table.columns))
    floats = table.select_dtypes("float64")
    long = [
        name for name in floats if floats[name].isna().any() and (floats[name].abs() > EXACT).any()
    ]
    for name in long:  # with a missing value beside them whole numbers became floats
        try:
            table[name] = pd.read_csv(path, usecols=[name], dtype={name: "Int64"}, **settings)[
                name
            ].array
        except (TypeError, ValueError):
            continue
    for name in table.columns:
        if pd.api.types.is_string_dtype(table[name].dtype):
            table[name] = _as_numbers(table[name])
    return table


def _refuse_short_rows(path: Path, separator: str, width: int) -> None:
    """DataError for the first row that has fewer fields than there are columns; their names may follow a column of row names."""
    with get_handle(path, "r", encoding="utf-8", compression="infer") as file:
        rows = (
            (row, i) for i, row in enumerate(csv.reader(file.handle, delimiter=separator), 1) if row
        )
        for row, place in islice(rows, 1, None):
            if len(row) < width:
                raise DataError(
                    f"{str(path)!r} has {len(row)} fields in row {place}, but {width} columns; write NA for a missing value."
                )


def _as_numbers(text: pd.Series) -> pd.Series:
    """A column that was read as text for a ``NaN`` in it, or for whole numbers that no 64 bits hold, as numbers; other text as it is."""
    text = text.where(~text.isin(MISSING))
    present = text.dropna()
    numbers = present[~present.isin(("NaN", "nan"))]
    if not len(numbers) or not _is_number(numbers.iloc[0]) or not _is_number(numbers.iloc[-1]):
        return text
    if len(numbers) == len(present) and numbers.str.fullmatch(r"[+-]?[0-9]+").all():
        out = text.astype(object)
        out[present.index] = pd.Series([int(v) for v in present], index=present.index, dtype=object)
        return out
    try:
        return text.astype(float)
    except ValueError:
        return text


def _is_number(value: object) -> bool:
    """Whether a field is a number as Python reads it, which takes underscores too."""
    if not isinstance(value, str) or "_" in value:
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True
