"""Which columns and which of the caller's variables a formula uses.

Columns come first, then arrays in the caller's scope with one value per row, then other variables
and functions; a name that is none of these is an error before anything is evaluated.
"""

from __future__ import annotations

import builtins
import keyword
import re
import unicodedata
from collections.abc import Collection, Container, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError, DataError, nearest
from lmm.formula.columns.functions import DOTTED, DOTTED_ARGUMENTS
from lmm.formula.columns.table import Table
from lmm.formula.text.tokens import operator_word, quote, scan, unquote

#: how names begin that the package itself gives while an expression is evaluated
RESERVED = ("_column_", "_operator_")
#: builtins that stand in an expression without being called, as in ``x.astype(int)``
TYPES = frozenset(("int", "float", "str", "bool"))
_LETTER = re.compile("_([0-9a-f]+)_")
_ALIAS = re.compile(r"(?<!\w)_column_\w*")


@lru_cache(maxsize=1024)
def names_in(text: str) -> tuple[tuple[str, bool, tuple[int, int]], ...]:
    """Names in an expression: (name without backticks, whether it is called, place in ``text``)."""
    tokens, out = scan(text), []
    for i, token in enumerate(tokens):
        if token.kind not in ("name", "quoted") or operator_word(tokens, i):
            continue
        before, after = tokens[i - 1] if i else None, tokens[i + 1] if i + 1 < len(tokens) else None
        if after is not None and after.text == "=":  # a keyword argument
            continue
        if (
            before is not None
            and before.stop == token.start
            and before.kind in ("close", "string")
            and token.text.startswith(".")
        ):
            continue  # an attribute: f(x).name
        called = after is not None and after.kind == "open" and after.call and after.text == "("
        out.append((unquote(token.text), called, (token.start, token.stop)))
    return tuple(out)


@lru_cache(maxsize=512)
def _handed_over(text: str) -> frozenset[str]:
    """Names that stand inside a call without being called: ``int`` in ``x.astype(int)``, ``f`` in ``apply(f, x)``."""
    tokens, out, calls = scan(text), set(), 0
    for token in tokens:
        if token.kind == "open":
            calls += token.call or calls > 0
        elif token.kind == "close":
            calls -= calls > 0
        elif token.kind == "name" and calls:
            out.add(token.text)
    return frozenset(out)


@lru_cache(maxsize=512)
def awkward_names(text: str) -> frozenset[str]:
    """Names that evaluation would misread if they are columns: ``a.b``, ``class``, anything in backticks, and ``log`` beside ``log(x)``."""
    out = set()
    for name, called, (start, _) in names_in(text):
        odd = not name.isidentifier() or keyword.iskeyword(name) or name.startswith(RESERVED)
        if called or odd or text[start] == "`" or unicodedata.normalize("NFKC", name) != name:
            out.add(name)
    return frozenset(out)


def as_expression(given: object, columns: Container[str] | Table, argument: str) -> Any:
    """What ``weights=``, ``offset=`` or ``subset=`` was given; of text the expression, a column of that very name first."""
    if not isinstance(given, str):
        return given
    if not given.strip():
        raise ArgumentError(
            f"{argument}={given!r} is empty; give a column's name, an expression, an array, or None."
        )
    return quote(given) if given in columns else given


@dataclass
class Names:
    """What a set of expressions uses, by where it is found."""

    columns: dict[str, None] = field(default_factory=dict)
    arrays: dict[str, object] = field(default_factory=dict)
    context: dict[str, object] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    known: Mapping[str, object] = field(default_factory=dict)


def resolve(
    texts: Iterable[str],
    columns: Collection[str],
    n: int,
    context: Mapping[str, object],
    known: Mapping[str, object],
) -> Names:
    """Sort the names in ``texts``; ``known`` are the functions that formulas always have.

    ``unknown`` maps a name that is found nowhere to the expression that uses it.
    """
    found = Names(known=known)
    for text in texts:
        tokens, handed = scan(text), _handed_over(text)
        binds = any(
            t.text in ("lambda", "for") and operator_word(tokens, i) for i, t in enumerate(tokens)
        )
        for name, called, _ in names_in(text):
            root = name.split(".", 1)[0] if not name.startswith(".") else name
            if name in columns and not called:
                found.columns[name] = None
            elif not called and root in columns or (called and "." in name and root in columns):
                found.columns[root] = None
            elif keyword.iskeyword(name) or (called and name in DOTTED):
                continue
            elif (
                root in context
                and not root.startswith(RESERVED)
                and _usable(
                    context[root],
                    called and root == name,
                    root in known,
                    name in handed or root != name,
                )
            ):
                value = context[root]
                if not (called and root == name) and _is_array(value) and len(value) == n:
                    found.arrays[root] = value
                else:
                    found.context[root] = value
            elif not _known(name, called, handed=name in handed, functions=known) and not binds:
                found.unknown[name] = text
    return found


def _is_array(value: object) -> TypeGuard[Sized]:
    """Whether a value of the caller's may be a column: one-dimensional, of any package."""
    if isinstance(value, list | tuple):
        return not any(isinstance(inner, list | tuple) for inner in value[:1])
    foreign = type(value).__module__.partition(".")[0] in ("polars", "pyarrow") and hasattr(
        value, "to_numpy"
    )
    known = isinstance(value, np.ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray)
    return (known or foreign) and len(getattr(value, "shape", (0,))) == 1


def _usable(value: object, called: bool, known: bool, handed: bool) -> bool:
    """R looks for functions only where one is called, and ``math.log`` would fail on a column."""
    if callable(value) and not (called or handed):
        return False
    if called and not callable(value):
        return False
    return not (known and getattr(value, "__module__", None) == "math")


def _known(name: str, called: bool, handed: bool, functions: Mapping[str, object]) -> bool:
    """Whether a name means something although it is neither a column nor a variable of the caller."""
    root = name.split(".", 1)[0]
    if root.startswith(RESERVED):
        return False
    if root in functions:  # a function that is not called is a column that is missing
        return (
            called
            or root != name
            or not callable(functions[root])
            or (handed and isinstance(functions[root], type))
        )
    return hasattr(builtins, root) and (called or (handed and root in TYPES))


def refuse_unknown(
    found: Names, table: Table, arguments: Mapping[str, str], formula: str | None = None
) -> None:
    """DataError for names that are neither columns nor variables, with the nearest column.

    ``arguments`` says which expressions came from an argument, by its name; the others are parts of ``formula``.
    """
    if not found.unknown:
        return
    name, text = next(iter(found.unknown.items()))
    where = arguments.get(text)
    called = any(is_call for other, is_call, _ in names_in(text) if other == name)
    if called:
        spelt = {python: dotted for dotted, python in DOTTED.items()}
        functions = sorted(
            spelt.get(word, word)
            for word, value in found.known.items()
            if callable(value) and not word.startswith("_")
        )
        message = f"{name}() is no function that formulas know, and there is none of that name in scope.{nearest(name, functions)}"
        message += f" Formulas know {', '.join(functions)}; any other is taken from where the model is fitted."
    else:
        message = table.unknown(
            [other for other, used in found.unknown.items() if arguments.get(used) == where]
        )
    if where is not None:
        raise DataError(f"{where}: {message}")
    if formula is not None:
        start, stop = next((span for other, _, span in names_in(formula) if other == name), (0, 0))
        message += f"\n\n    {formula}\n    {' ' * start}{'^' * (stop - start)}"
    raise DataError(message)


def alias(name: str) -> str:
    """A Python identifier that stands for an awkward column name while an expression is evaluated; no two names share one."""
    return RESERVED[0] + "".join(
        c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name
    )


def aliased(text: str, awkward: Collection[str]) -> str:
    """``text`` as Python can parse it: ``a.b`` or ``class`` by their aliases, ``as.factor(x)`` as ``as_factor(x)``."""
    others: dict[tuple[int, int], str | None] = {}
    for token, after in pairwise(scan(text)):
        if token.kind == "name" and after.text == "=":  # an argument's name
            others[token.start, token.stop] = DOTTED_ARGUMENTS.get(token.text)
    for name, called, (start, stop) in names_in(text):
        if called:
            other = DOTTED.get(name)
        elif name in awkward:
            other = alias(name)
        else:
            other = name if text[start] == "`" and name.isidentifier() else None
        others[start, stop] = other
    out, at = [], 0
    for (start, stop), other in sorted(others.items()):
        if other is not None:
            out += [text[at:start], other]
            at = stop
    return "".join(out) + text[at:]


def readable(text: str, awkward: Collection[str]) -> str:
    """The inverse of :func:`aliased`, on the name of a model column or on a message."""
    if awkward and RESERVED[0] in text:

        def name_of(found: re.Match[str]) -> str:
            letters = found.group().removeprefix(RESERVED[0])
            name = _LETTER.sub(lambda code: chr(int(code.group(1), 16)), letters)
            if name not in awkward:
                return found.group()
            inside = text.count("(", 0, found.start()) > text.count(")", 0, found.start())
            return quote(name) if inside else name

        text = _ALIAS.sub(name_of, text)
    for name, python in DOTTED.items():
        if python in text:
            text = re.sub(rf"(?<!\w){python}\(", f"{name}(", text)
    for name, python in DOTTED_ARGUMENTS.items():
        if python in text:
            text = text.replace(python + "=", name + "=")
    return text
