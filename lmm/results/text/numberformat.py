"""Columns of numbers as R sets them: significant digits asked for, decimals shared by the column.

R's rule (``formatReal``): every number is rounded to ``digits`` significant digits, trailing zeros
are dropped, and the whole column takes the decimals of the number that still needs most; scientific
notation only where the fixed form would be wider. Readers of mixed-model output know these figures,
so tables follow the rule to the digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def _significant(value: float, digits: int) -> tuple[int, int]:
    """Decimal exponent of ``value`` rounded to ``digits`` figures, and how many of them are needed."""
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    return int(exponent), max(1, len(mantissa.replace(".", "").rstrip("0")))


def format_column(
    values: Sequence[float] | np.ndarray, digits: int, nsmall: int = 0, missing: str = "NaN"
) -> list[str]:
    """Numbers as text with common decimals, unpadded.

    Parameters
    ----------
    values : numbers of one column; missing ones are written as ``missing``.
    digits : significant digits that the most demanding number gets.
    nsmall : decimals at least, in fixed notation.

    Examples
    --------
    >>> format_column([612.1, 35.0717, 654.94], 4)
    ['612.10', '35.07', '654.94']
    """
    numbers = [float(v) for v in values]
    finite = [v for v in numbers if math.isfinite(v)]
    left, decimals, figures, exponent_width = 1, 0, 1, 2
    for value in finite:
        exponent, needed = (0, 1) if value == 0 else _significant(value, digits)
        left = max(left, exponent + 1)
        decimals = max(decimals, needed - exponent - 1)
        figures = max(figures, needed)
        exponent_width = max(exponent_width, len(str(abs(exponent))))
    fixed_width = left + decimals + (decimals > 0)
    scientific_width = figures + (figures > 1) + 2 + exponent_width
    if fixed_width <= scientific_width:
        pattern = f".{max(decimals, nsmall)}f"
    else:
        pattern = f".{figures - 1}e"
    out = []
    for value in numbers:
        if math.isfinite(value):
            out.append(format(value, pattern))
        else:
            out.append(missing if math.isnan(value) else str(value))
    return out


def zap_small(values: np.ndarray, digits: int) -> np.ndarray:
    """Round to ``digits`` significant digits of the largest entry, so that noise beside it prints as zero."""
    values = np.asarray(values, dtype=float)
    finite = np.abs(values[np.isfinite(values)])
    largest = finite.max() if finite.size else 0.0
    # floor(. + 1/2): the decimals are a real number in R, rounded when used
    decimals = max(0, math.floor(digits - math.log10(largest) + 0.5)) if largest > 0 else digits
    return np.round(values, decimals)


def coefficient_columns(
    estimate: np.ndarray, std_error: np.ndarray, digits: int
) -> tuple[list[str], list[str]]:
    """Estimates and standard errors on the same decimals, as in R's ``printCoefmat``."""
    both = np.concatenate([estimate, std_error])
    sizes = np.abs(both[np.isfinite(both) & (both != 0)])
    smallest = math.floor(math.log10(sizes.min())) if sizes.size else 0
    text = format_column(np.round(both, max(1, digits - 1 - smallest)), digits)
    # a number that rounding made zero is given its own figures
    for i, value in enumerate(both):
        if value != 0 and math.isfinite(value) and float(text[i]) == 0:
            text[i] = format_column([value], max(1, digits - 1))[0]
    return text[: len(estimate)], text[len(estimate) :]


def statistic_column(statistic: np.ndarray, digits: int) -> list[str]:
    """Test statistics: at most ``digits - 1`` decimals."""
    return format_column(np.round(statistic, max(1, min(5, digits - 1))), digits)


def p_value_column(
    p_values: np.ndarray, digits: int, eps: float = float(np.finfo(float).eps)
) -> list[str]:
    """P-values: fixed notation from 1e-4 up, scientific below, and ``< 2e-16`` for what rounding cannot tell from zero.

    Examples
    --------
    >>> p_value_column([1.789e-9, 0.0012116, 0.0], 3)
    ['1.79e-09', '0.00121', '< 2e-16']
    """
    p = np.asarray(p_values, dtype=float)
    out = ["NaN"] * len(p)
    for group in ((p >= 1e-4), (p >= eps) & (p < 1e-4)):
        rows = np.flatnonzero(group)
        for i, text in zip(rows, format_column(p[rows], digits), strict=True):
            out[i] = text
    tiny = np.flatnonzero(p < eps)
    width = max((len(out[i]) for i in np.flatnonzero(p >= eps)), default=0)
    for i in tiny:
        out[i] = f"<{' ' if width > 6 else ''}{format_column([eps], max(1, digits - 2))[0]}"
    return out


def abbreviate(names: Sequence[str], minlength: int) -> list[str]:
    """Short forms that stay distinct, at least ``minlength`` characters where the name has them.

    From the right, lower-case vowels go first, then lower-case letters, and only then anything; the
    first character of a word stays as long as it can.

    Examples
    --------
    >>> abbreviate(["(Intercept)", "Days"], 6)
    ['(Intr)', 'Days']
    """
    short = [_shorten(name, minlength) for name in names]
    length = minlength
    while len(set(short)) < len(set(names)) and length < max(map(len, names)):
        length += 1
        clashes = {s for s in short if short.count(s) > 1}
        short = [
            _shorten(name, length) if s in clashes else s
            for name, s in zip(names, short, strict=True)
        ]
    return short


def _shorten(name: str, minlength: int) -> str:
    characters = list(name)

    def starts_word(i: int) -> bool:
        return i == 0 or characters[i - 1] == " "

    for droppable in ("aeiou", "abcdefghijklmnopqrstuvwxyz"):
        for i in range(len(characters) - 1, 0, -1):
            if len(characters) <= minlength:
                return "".join(characters)
            if characters[i] in droppable and not starts_word(i):
                del characters[i]
    for i in range(len(characters) - 1, 0, -1):
        if len(characters) <= minlength:
            break
        if not starts_word(i):
            del characters[i]
    return "".join(characters)
