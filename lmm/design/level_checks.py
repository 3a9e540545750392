"""Checks that the data can carry the model, before any arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmm.design.terms import RandomTerm
from lmm.errors import ArgumentError, ConvergenceWarning, GroupingError, warn
from lmm.formula import Bar
from lmm.formula.text.parse import NONE

#: weights between which their squares, and those of sums of them, are numbers in double precision
WEIGHTS = (1e-70, 1e70)
#: difference of the mean variance of related levels from one that is told
UNIT = 1e-6
#: ratio of weights from which the light rows lose digits
UNLIKE = 1e7


def check_weights(weights: np.ndarray | None) -> None:
    """ArgumentError unless every prior weight is positive."""
    if weights is None:
        return
    if weights.min() > 0:
        for extreme in (weights.min(), weights.max()):
            if not WEIGHTS[0] < extreme < WEIGHTS[1]:
                raise ArgumentError(
                    f"weights have values of size {extreme:.0e}, whose squares double precision does not hold; rescale them."
                )
        return
    negative, zero = int((weights < 0).sum()), int((weights == 0).sum())
    if negative:
        raise ArgumentError(f"weights must be positive; {negative} are negative.")
    raise ArgumentError(
        f"weights must be positive; {zero} are zero. Leave these rows out with subset= instead."
    )


def unlike_weights(weights: np.ndarray | None, family: object) -> tuple[str, ...]:
    """A warning, and its text, where weights of a linear model are so unlike that sums over rows lose the digits of the light ones."""
    if weights is None or family is not None or weights.max() < UNLIKE * weights.min():
        return ()
    text = (
        f"weights differ by a factor of {weights.max() / weights.min():.0e}: beside the heaviest rows the others are near rounding errors, "
        "and estimates of models with several random effects, and degrees of freedom, may lose their digits. Limit the largest weights; "
        "beyond a million times the others they change nothing but the likelihood's constant."
    )
    warn(text, ConvergenceWarning)
    return (text,)


def check_levels(term: RandomTerm) -> None:
    """GroupingError for a grouping factor with a single level."""
    if term.J < 2 and not all(structure.alone for structure in term.structure.sides()):
        raise GroupingError(
            f"grouping factor {term.group!r} has one level in the rows used ({term.levels[0]!r}); a random effect needs at least two."
        )


def related_notes(term: RandomTerm) -> tuple[str, ...]:
    """What a reader must know of a term whose levels are related."""
    if term.relation is None:
        return ()
    rows = np.flatnonzero(term.counts())
    text = f"the covariance of {term.group} is known up to its scale: {term.J} levels, {len(rows)} with rows"
    mean = float(term.relation.variances[rows].mean())
    if abs(mean - 1.0) > UNIT:
        text += (
            f". Its diagonal has the mean {mean:.4g}, so that the variance reported of {term.group}, times {mean:.4g}, is that of a level "
            "in the mean"
        )
    return (f"{text}.",)


def check_effects(term: RandomTerm, bars: Sequence[Bar], n: int) -> None:
    """GroupingError where a linear model has as many effects of one kind as rows: they and the residual are one.

    ``bars`` are the term's, in the order of its columns.
    """
    J = term.J
    if term.several:  # Z Z' is not that of the residuals, however many levels there are
        return
    for bar, structure in zip(bars, term.structure.sides(), strict=True):
        k = structure.inseparable()
        if J * k < n:
            continue
        if k == 1:
            raise GroupingError(
                f"grouping factor {term.group!r} has {J} levels for {n} rows; {bar} cannot be told from the residual in a linear model. "
                "There must be fewer levels than rows."
            )
        columns, hint = bar.columns.removeprefix(NONE), ""
        if columns != bar.columns:
            hint = (
                " Effects of one row each are residuals: leave the term out and give "
                f"residual='{bar.structure}({columns} | {bar.group})'."
            )
        raise GroupingError(
            f"the term {bar} has {J * k} random effects ({J} levels x {k} columns) for {n} rows; they cannot be told from the residual "
            f"in a linear model. Use fewer columns, or a coarser grouping factor.{hint}"
        )
