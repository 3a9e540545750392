"""The packed tables: one ``.npz`` per data set, columns as arrays.

A categorical column ``c`` is kept as ``codes:c`` (the smallest unsigned integers) and ``levels:c`` (or ``ordered:c``
where the order of the levels has a meaning); any other column is ``values:c``. Reading one is a few array copies, without
parsing text: the 73,421 rows of InstEval take some ten milliseconds.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError, nearest

_TABLES = Path(__file__).parent / "tables"


@cache
def names() -> tuple[str, ...]:
    """Names of the data sets that :func:`load` knows, sorted without regard to case.

    >>> "radon" in names()
    True
    """
    return tuple(sorted((path.stem for path in _TABLES.glob("*.npz")), key=str.lower))


def resolve(name: str) -> str:
    """The catalogue's spelling of ``name``, whatever its case.

    Raises
    ------
    ArgumentError : no data set has this name; the nearest one is offered.
    """
    spelling = {known.lower(): known for known in names()}
    try:
        return spelling[name.lower()]
    except (KeyError, AttributeError):
        known = ", ".join(names())
        raise ArgumentError(
            f"no data set is called {name!r}.{nearest(name, names())} There are: {known}."
        ) from None


def load(name: str) -> pd.DataFrame:
    """A shipped data set as a new DataFrame.

    Parameters
    ----------
    name : one of :func:`names`, in any case.

    Returns
    -------
    DataFrame with a range index. Factors are categorical, their levels in the order of the source; counts and codes are
    ``int64``, measurements ``float64``. The units are in :func:`lmm.datasets.describe`.

    Raises
    ------
    ArgumentError : no data set has this name; the nearest one is offered.

    Examples
    --------
    >>> load("sleepstudy").head(2)
       Reaction  Days Subject
    0  249.5600     0     308
    1  258.7047     1     308
    """
    columns: dict[str, object] = {}
    with np.load(_TABLES / f"{resolve(name)}.npz", allow_pickle=False) as arrays:
        for key in arrays.files:
            kind, column = key.split(":", 1)
            if kind == "values":
                columns[column] = arrays[key]
            elif kind == "codes":
                ordered = f"ordered:{column}" in arrays.files
                levels = arrays[f"{'ordered' if ordered else 'levels'}:{column}"]
                dtype = pd.CategoricalDtype(pd.Index(levels.tolist(), dtype="str"), ordered=ordered)
                columns[column] = pd.Categorical.from_codes(
                    arrays[key].astype(np.int16), dtype=dtype
                )
    return pd.DataFrame(columns)
