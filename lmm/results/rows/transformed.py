"""Functions of the response on the left of a formula, and how to get back: ``log(y)``, ``log(y + 1)``, ``sqrt(y)`` ..."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lmm.formula.text.names import names_in

Function = Callable[[np.ndarray], np.ndarray]

#: a call, with or without NumPy's name, and a sum with a number in it
_CALL = re.compile(r"\s*(?:np\.|numpy\.)?(\w+)\s*\((.*)\)\s*", re.DOTALL)
_SHIFT = re.compile(r"(.+?)\s*([+-])\s*(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*", re.DOTALL)
_LEFT_SHIFT = re.compile(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*\+\s*(.+)", re.DOTALL)
BASES = {"log": math.e, "log2": 2.0, "log10": 10.0}


@dataclass(frozen=True, eq=False)
class Transformed:
    """A transformed response.

    Attributes
    ----------
    text : as written.
    inverse, slope : back to what was transformed, and its derivative; None where the function is not known.
    base : of a logarithm, whose differences are those of ratios; else 0.
    """

    text: str
    inverse: Function | None = None
    slope: Function = np.ones_like
    base: float = 0.0


def transformed(text: str) -> Transformed | None:
    """What a response is, None for a column as it is.

    Examples
    --------
    >>> import numpy as np
    >>> transformed("y") is None, float(transformed("log(y + 1)").inverse(np.zeros(1))[0])
    (True, 0.0)
    """
    inner = text.strip()
    while inner.startswith("I(") and _closes(inner, 1):
        inner = inner[2:-1].strip()
    found = _CALL.fullmatch(inner)
    if found is None or not _closes(inner, inner.index("(")):
        plain = (
            all(inner.strip("`") == name for name, _, _ in names_in(inner))
            if inner.isidentifier() or inner.startswith("`")
            else False
        )
        return None if plain or re.fullmatch(r"[\w.]+", inner) else Transformed(text)
    name, argument = found.group(1), found.group(2)
    shift = _shift(argument)
    if name in BASES:
        base = BASES[name]
        log = np.log(base)
        return Transformed(
            text,
            lambda x: np.exp(log * x) - shift,
            lambda x: log * np.exp(log * x),
            0.0 if shift else base,
        )
    if name == "log1p":
        return Transformed(text, lambda x: np.expm1(x) - shift, np.exp)
    if name == "exp":
        with_log: Function = lambda x: np.log(x) - shift  # noqa: E731
        return Transformed(text, with_log, lambda x: 1.0 / x)
    if name == "sqrt":
        return Transformed(text, lambda x: np.maximum(x, 0.0) ** 2 - shift, lambda x: 2.0 * x)
    return Transformed(text)


def _closes(text: str, start: int) -> bool:
    """Whether the bracket opened at ``start`` is closed by the last character."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _shift(argument: str) -> float:
    """c of an argument ``y + c`` or ``c + y`` with y a column; 0 otherwise."""
    for pattern, column, number in ((_SHIFT, 1, 3), (_LEFT_SHIFT, 2, 1)):
        found = pattern.fullmatch(argument)
        if found is not None and re.fullmatch(r"\s*(`[^`]+`|[\w.]+)\s*", found.group(column)):
            sign = -1.0 if pattern is _SHIFT and found.group(2) == "-" else 1.0
            return sign * float(found.group(number))
    return 0.0
