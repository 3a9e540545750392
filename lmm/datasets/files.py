"""Tables from files: CSV and Parquet, told apart by the ending of the name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lmm.datasets.store import load
from lmm.errors import ArgumentError, DataError, nearest

COMPRESSED = {".gz", ".bz2", ".zip", ".xz", ".zst"}
SEPARATORS = {".csv": ",", ".txt": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = {".parquet", ".pq"}


def _ending(path: Path) -> str:
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in COMPRESSED else suffix


def _no_file(path: Path, source: str) -> DataError:
    folder = path.parent
    there = [p.name for p in folder.iterdir() if _ending(p) in SEPARATORS.keys() | PARQUET] if folder.is_dir() else []
    return DataError(f"no file {source!r}.{nearest(path.name, there)}")


def read(source: str | Path) -> pd.DataFrame:
    """The table at a path, or the shipped data set of that name.

    Parameters
    ----------
    source : path of a CSV file (``.csv``, ``.txt``; ``.tsv`` and ``.tab`` with tabs; compressed or not) or a Parquet file
        (``.parquet``, ``.pq``); or, where no such file exists, one of :func:`lmm.datasets.names`.

    Raises
    ------
    DataError : there is no such file and no such data set, or the file cannot be read. The message is one line.

    Examples
    --------
    >>> read("Dyestuff").shape
    (30, 2)
    """
    path = Path(source)
    kind = _ending(path)
    if not path.exists():
        if kind or len(path.parts) > 1:
            raise _no_file(path, str(source))
        try:
            return load(str(source))
        except ArgumentError as error:
            raise DataError(f"no file {str(source)!r}, and {error}") from None
    try:
        return pd.read_parquet(path) if kind in PARQUET else pd.read_csv(path, sep=SEPARATORS.get(kind, ","))
    except ImportError:
        raise DataError(f"reading {str(source)!r} needs a package for Parquet files: pip install pyarrow") from None
    except (OSError, ValueError) as error:  # the parsing errors of pandas and pyarrow are ValueErrors
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"cannot read {str(source)!r}: {reason}") from None
