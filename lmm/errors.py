"""Every way a fit can be refused or doubted, by stage.

All errors derive from :class:`LmmError`, itself a ``ValueError``; all warnings from
:class:`LmmWarning`. A message names the user's own columns and says what to do next.
"""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Iterable

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """Text with control characters, which a terminal would obey, as Python writes them: ``\\x1b``."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


class LmmError(ValueError):
    """Base class of every error that lmm raises on purpose."""

    def __init__(self, message: object = "", *more: object):
        super().__init__(shown(message) if isinstance(message, str) else message, *more)


class FormulaError(LmmError):
    """The formula cannot be read; the message repeats it with a caret under the place.

    Parameters
    ----------
    message : what is wrong and what to write instead.
    formula : the text as the user wrote it.
    span : half-open character range of the offending part, or None.
    """

    def __init__(
        self, message: str, formula: str | None = None, span: tuple[int, int] | None = None
    ):
        self.formula, self.span = formula, span
        if formula is not None:
            line = _CONTROL.sub(
                "\N{REPLACEMENT CHARACTER}", formula.replace("\n", " ")
            )  # one character each: the caret keeps its place
            message += f"\n\n    {line}"
            if span is not None:
                start, stop = span
                message += "\n    " + " " * start + "^" * max(1, stop - start)
        super().__init__(message)


class DataError(LmmError):
    """The data cannot serve the formula: a missing column, nothing left, a wrong type."""


class ResponseError(DataError):
    """The response is not what the model needs: not numeric, constant, infinite, out of range."""


class GroupingError(DataError):
    """A grouping factor cannot carry a random effect: one level, or as many levels as rows."""


class ArgumentError(LmmError):
    """An argument has a value that no model can use; the nearest valid one is offered."""


class MissingPackageError(ArgumentError, ImportError):
    """What was asked for needs a package that is not installed; the message says how to install it. It is an ImportError too.

    Parameters
    ----------
    message : what needs it, and what to install.
    package : its name on PyPI.
    """

    def __init__(self, message: str, package: str = ""):
        super().__init__(message)
        self.name, self.msg = package, str(self.args[0])


class PredictionError(LmmError):
    """New data cannot be predicted: new levels, missing columns."""


class CapacityError(LmmError):
    """What was asked for does not fit in memory."""


class LmmWarning(UserWarning):
    """Base class of every warning that lmm gives."""


class ConvergenceWarning(LmmWarning):
    """The optimiser stopped before the convergence test was met."""


class SingularFitWarning(LmmWarning):
    """A variance is estimated as zero, or a correlation as one in absolute value."""


class RankWarning(LmmWarning):
    """Columns of the fixed-effects matrix depend on others and were dropped."""


class ComparisonWarning(LmmWarning):
    """Models are compared otherwise than they were fitted, or their comparison means less than it seems."""


class DegreesOfFreedomWarning(LmmWarning):
    """Degrees of freedom rest on less than they should, or on another fit than this one."""


class PriorWarning(LmmWarning):
    """A prior was given for a parameter that the method does not give a distribution to."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the choice nearest to ``word``, or an empty string."""
    match = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def warn(message: str, category: type[LmmWarning]) -> None:
    """Warn at the first line of code outside this package, however deep inside it the warning arises."""
    level = 1
    while True:
        try:
            module = sys._getframe(level).f_globals.get("__name__", "")
        except ValueError:  # the package itself is what runs
            break
        level += 1
        if module.partition(".")[0] != __package__:
            break
    warnings.warn(shown(message), category, stacklevel=level)
