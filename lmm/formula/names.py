"""Which columns and which of the caller's variables a formula uses.

Columns come first, then arrays in the caller's scope with one value per row, then other variables
and functions; a name that is none of these is an error before anything is evaluated.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import DataError
from lmm.formula.functions import DOTTED, DOTTED_ARGUMENTS
from lmm.formula.scan import scan
from lmm.formula.table import Table


@lru_cache(maxsize=1024)
def names_in(text: str) -> tuple[tuple[str, bool, tuple[int, int]], ...]:
    """Names in an expression: (name without backticks, whether it is called, place in ``text``)."""
    tokens, out = scan(text), []
    for i, token in enumerate(tokens):
        if token.kind not in ("name", "quoted"):
            continue
        before, after = tokens[i - 1] if i else None, tokens[i + 1] if i + 1 < len(tokens) else None
        if after is not None and after.text == "=":  # a keyword argument
            continue
        if before is not None and before.stop == token.start and before.kind in ("close", "string") and token.text.startswith("."):
            continue  # an attribute: f(x).name
        called = after is not None and after.kind == "open" and after.call and after.text == "("
        out.append((token.text.strip("`"), called, (token.start, token.stop)))
    return tuple(out)


@dataclass
class Names:
    """What a set of expressions uses, by where it is found."""

    columns: dict[str, None] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


def resolve(texts: Iterable[str], columns: Collection[str], n: int, context: Mapping[str, Any], known: Collection[str]) -> Names:
    """Sort the names in ``texts``; ``known`` are the functions that formulas always have.

    ``unknown`` maps a name that is found nowhere to the expression that uses it.
    """
    found = Names()
    for text in texts:
        binds = any(t.text in ("lambda", "for") for t in scan(text) if t.kind == "name")
        for name, called, _ in names_in(text):
            root = name.split(".", 1)[0] if not name.startswith(".") else name
            if name in columns and not called:
                found.columns[name] = None
            elif not called and root in columns or (called and "." in name and root in columns):
                found.columns[root] = None
            elif keyword.iskeyword(name) or (called and name in DOTTED):
                continue
            elif root in context and _usable(context[root], called and root == name, root in known):
                value = context[root]
                if not (called and root == name) and _is_array(value) and len(value) == n:
                    found.arrays[root] = value
                else:
                    found.context[root] = value
            elif root not in known and not hasattr(builtins, root) and not binds:
                found.unknown[name] = text
    return found


def _is_array(value: Any) -> bool:
    """Whether a value of the caller's may be a column: one-dimensional, of any package."""
    if isinstance(value, list | tuple):
        return not any(isinstance(inner, list | tuple) for inner in value[:1])
    foreign = type(value).__module__.partition(".")[0] in ("polars", "pyarrow") and hasattr(value, "to_numpy")
    known = isinstance(value, np.ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray)
    return (known or foreign) and len(getattr(value, "shape", (0,))) == 1


def _usable(value: Any, called: bool, known: bool) -> bool:
    """R looks for functions only where one is called, and ``math.log`` would fail on a column."""
    if called and not callable(value):
        return False
    return not (known and getattr(value, "__module__", None) == "math")


def refuse_unknown(found: Names, table: Table, arguments: Mapping[str, str], formula: str | None = None) -> None:
    """DataError for names that are neither columns nor variables, with the nearest column.

    ``arguments`` says which expressions came from an argument, by its name; the others are parts of ``formula``.
    """
    if not found.unknown:
        return
    name, text = next(iter(found.unknown.items()))
    where = arguments.get(text)
    called = any(is_call for other, is_call, _ in names_in(text) if other == name)
    if called:
        message = f"{name}() is no function that formulas know, and there is none of that name in scope."
    else:
        message = table.unknown([other for other, used in found.unknown.items() if arguments.get(used) == where])
    if where is not None:
        raise DataError(f"{where}: {message}")
    if formula is not None:
        start, stop = next((span for other, _, span in names_in(formula) if other == name), (0, 0))
        message += f"\n\n    {formula}\n    {' ' * start}{'^' * (stop - start)}"
    raise DataError(message)


def alias(name: str) -> str:
    """A Python identifier that stands for an awkward column name while an expression is evaluated."""
    return "column_" + "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)


def aliased(text: str, awkward: Collection[str]) -> str:
    """``text`` as Python can parse it: ``a.b`` or ``class`` by their aliases, ``as.factor(x)`` as ``as_factor(x)``."""
    out, at = [], 0
    tokens = scan(text)
    for token, after in zip(tokens, (*tokens[1:], None), strict=True):
        if token.kind not in ("name", "quoted"):
            continue
        column = token.text.strip("`")
        if after is not None and after.call and after.text == "(":
            name = DOTTED.get(token.text)
        elif after is not None and after.text == "=":
            name = DOTTED_ARGUMENTS.get(token.text)
        else:
            name = alias(column) if column in awkward else None
        if name is not None:
            out += [text[at : token.start], name]
            at = token.stop
    return "".join(out) + text[at:]


def readable(text: str, awkward: Collection[str]) -> str:
    """The inverse of :func:`aliased`, on a column name or a message."""
    for name in awkward:
        at = text.find(alias(name))
        while at >= 0:
            inside = text.count("(", 0, at) > text.count(")", 0, at)  # formulaic keeps backticks inside calls
            shown = f"`{name}`" if inside and not name.replace(".", "").isidentifier() else name
            text = text[:at] + shown + text[at + len(alias(name)) :]
            at = text.find(alias(name))
    for name, python in DOTTED.items():
        if python in text:
            text = text.replace(python + "(", name + "(")
    for name, python in DOTTED_ARGUMENTS.items():
        if python in text:
            text = text.replace(python + "=", name + "=")
    return text
