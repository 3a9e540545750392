"""What is known of each data set: columns with their units, source, licence, reference.

The words are in ``catalogue.toml``; the counts and kinds are read from the data themselves.
"""

from __future__ import annotations

import textwrap
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from lmm.datasets.store import load, resolve

_CATALOGUE = Path(__file__).parent / "catalogue.toml"


@dataclass(frozen=True)
class Column:
    """One column: its kind (``"85 levels"``, ``"integer"``, ``"real"``), its unit (or ``""``) and its meaning."""

    kind: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Description:
    """A data set in words; printing it shows everything on one screen.

    Attributes
    ----------
    name : how it is loaded.
    title : what it is.
    rows : number of rows.
    columns : name -> :class:`Column`, in the order of the table.
    source : where the table was taken from.
    licence : what is known of the terms under which it is distributed.
    reference : the publication to cite.
    note : how the table differs from its source, or ``""``.
    example : a formula that is usually fitted to it.
    """

    name: str
    title: str
    rows: int
    columns: dict[str, Column]
    source: str
    licence: str
    reference: str
    note: str
    example: str

    def __str__(self) -> str:
        widths = [
            max(len(text) for text in texts)
            for texts in zip(*((n, c.kind, c.unit) for n, c in self.columns.items()), strict=True)
        ]
        lines = [f"{self.name}: {self.title}", f"{self.rows} rows, {len(self.columns)} columns", ""]
        for name, column in self.columns.items():
            cells = [
                cell.ljust(width)
                for cell, width in zip((name, column.kind, column.unit), widths, strict=True)
            ]
            lines.append("  " + "  ".join([*cells, column.meaning]))
        lines.append("")
        for label in ("source", "licence", "reference", "note", "example"):
            if text := getattr(self, label):
                lines += textwrap.wrap(
                    text,
                    110,
                    initial_indent=f"{label.capitalize():<10} ",
                    subsequent_indent=" " * 11,
                )
        return "\n".join(lines)

    __repr__ = __str__


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads(_CATALOGUE.read_text(encoding="utf-8"))


def _kind(column: pd.Series) -> str:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return f"{len(column.dtype.categories)} levels" + (
            ", ordered" if column.dtype.ordered else ""
        )
    return "integer" if column.dtype.kind == "i" else "real"


def describe(name: str) -> Description:
    """Title, columns with units, source, licence and reference of a data set.

    Parameters
    ----------
    name : one of :func:`lmm.datasets.names`, in any case.

    Raises
    ------
    ArgumentError : no data set has this name; the nearest one is offered.

    Examples
    --------
    >>> describe("radon").rows
    919
    >>> describe("radon").columns["activity"]
    Column(kind='real', unit='pCi/L', meaning='radon measured')
    """
    name = resolve(name)
    words, frame = _words()[name], load(name)
    columns = {
        column: Column(_kind(frame[column]), *words["columns"][column]) for column in frame.columns
    }
    texts = {
        key: words.get(key, "")
        for key in ("title", "source", "licence", "reference", "note", "example")
    }
    return Description(name=name, rows=len(frame), columns=columns, **texts)
