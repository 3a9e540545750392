"""What a column was when the model was fitted, and new columns in that type.

A categorical is matched by the text of its levels, so that 1, 1.0, "1" and a category 1 are the same, whatever reader they came
from; truth values are also 0 and 1, and the words; numbers must be numbers, as text they are an error that names the column.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmm.errors import DataError
from lmm.formula.columns.functions import CODING
from lmm.formula.columns.levels import encode, matched, strings
from lmm.formula.text.tokens import scan, unquote

NUMBER, TRUTH, TEXT, CATEGORY, OTHER = "numbers", "truth values", "text", "categories", "other"
#: functions whose argument may be in any type that shows the same levels
_BY_LEVEL = {"C", "as.factor", *CODING} - {"as_numeric", "as_integer"}
_WORDS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


@dataclass(frozen=True, eq=False)
class Kind:
    """One of the words above, and of a categorical its levels in their order."""

    name: str
    categories: pd.Index | None = None
    ordered: bool = False


def kind_of(series: pd.Series) -> Kind:
    """The kind of a column."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return Kind(CATEGORY, dtype.categories, bool(dtype.ordered))
    if pd.api.types.is_bool_dtype(dtype):
        return Kind(TRUTH)
    if pd.api.types.is_numeric_dtype(dtype):
        return Kind(NUMBER)
    if pd.api.types.is_string_dtype(dtype) or getattr(dtype, "kind", "") == "O":
        return Kind(TEXT)
    return Kind(OTHER)


def conform(series: pd.Series, fitted: Kind, name: str, by_level: bool = False) -> pd.Series:
    """A column of new rows, none missing, in the type that it had in the fit.

    Parameters
    ----------
    by_level : whether a column of numbers only serves as levels, so that text may stand for them.

    Raises
    ------
    DataError : numbers or truth values that the column's values cannot be read as, named with what was expected.
    """
    given = kind_of(series)
    if fitted.name == CATEGORY:
        assert fitted.categories is not None
        if fitted.categories.dtype == bool and given.name != CATEGORY:
            series = _truth(series, name)
        values = matched(series, fitted.categories, name)
        return pd.Series(
            values.as_ordered() if fitted.ordered else values, index=series.index, name=series.name
        )
    if given.name == fitted.name or fitted.name == OTHER:
        return series
    if fitted.name == TEXT:
        found = encode(series, name)
        return pd.Series(
            strings(found.values).to_numpy(dtype=object)[found.codes],
            index=series.index,
            name=series.name,
            dtype="str",
        )
    if fitted.name == TRUTH:
        return _truth(series, name)
    if given.name == TRUTH:
        return series.astype(np.int64)
    if by_level or not len(series):
        return series
    raise DataError(
        f"column {name!r} was numbers when the model was fitted and is {given.name if given.name != OTHER else series.dtype} now; "
        f"make it numbers, for example by pd.to_numeric."
    )


def _truth(series: pd.Series, name: str) -> pd.Series:
    """True and False; 1 and 0, and the words, for them."""
    found = encode(series, name)
    known = [_WORDS.get(label.lower()) for label in strings(found.values)]
    if None in known:
        odd = strings(found.values)[known.index(None)]
        raise DataError(
            f"column {name!r} was true or false when the model was fitted, and {odd!r} is neither."
        )
    return pd.Series(np.array(known, dtype=bool)[found.codes], index=series.index, name=series.name)


def by_level(name: str, texts: Iterable[str]) -> bool:
    """Whether a column stands in expressions only as what ``factor()``, ``C()`` and the like are applied to."""
    for text in texts:
        tokens = scan(text)
        calls: list[str] = []
        for i, token in enumerate(tokens):
            if token.kind == "open":
                calls.append(tokens[i - 1].text if token.call and i else "")
            elif token.kind == "close":
                calls.pop()
            elif token.kind in ("name", "quoted") and unquote(token.text) == name:
                alone = tokens[i + 1].text in (",", ")") if i + 1 < len(tokens) else False
                if not (
                    calls and calls[-1] in _BY_LEVEL and alone and tokens[i - 1].text in ("(", ",")
                ):
                    return False
    return True
