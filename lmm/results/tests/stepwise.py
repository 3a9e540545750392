"""Backward elimination of random terms, then of fixed ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError
from lmm.results.tests import deletion
from lmm.results.tests.neighbours import check_likelihood, with_formula
from lmm.results.text.numberformat import format_column, p_value_column
from lmm.results.text.render import TextTable, html_lines

if TYPE_CHECKING:
    from lmm.results.fit import Fit

DIGITS = 5
LAST = "The last random term stays; the p-value of its row is that of the model without any."


@dataclass(frozen=True, eq=False, repr=False)
class Steps:
    """A backward elimination; prints both tables and the model found.

    Attributes
    ----------
    random : DataFrame as of :meth:`lmm.Fit.ranova` with ``eliminated`` first: 1, 2, ... in the order in which terms went (each row
        tested in the model of that step), 0 for those that stay, NaN for ``<none>``.
    fixed : the same of the fixed terms; ``num_df, den_df, f_value, ...`` of F tests, ``npar, aic, lrt, p_value`` of likelihood ratios.
    fit : the model that is left.
    notes : sentences about the search.
    """

    random: pd.DataFrame
    fixed: pd.DataFrame
    fit: Fit
    notes: tuple[str, ...] = ()

    def as_tables(self) -> tuple[TextTable, TextTable]:
        """Both tables as text."""
        return as_table(self.random, "random"), as_table(self.fixed, "fixed")

    def __str__(self) -> str:
        random, fixed = (table.to_text() for table in self.as_tables())
        parts = [
            "Random terms eliminated:",
            random,
            "",
            "Fixed terms eliminated:",
            fixed,
            "",
            f"Model found: {self.fit.formula}",
        ]
        return "\n".join([*parts, *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        random, fixed = (table.to_html() for table in self.as_tables())
        notes = html_lines((f"Model found: {self.fit.formula}", *self.notes))
        return f"<div>Random terms eliminated:</div>{random}<div>Fixed terms eliminated:</div>{fixed}{notes}"


def as_table(frame: pd.DataFrame, name: str) -> TextTable:
    """Cells as text, missing ones empty."""
    columns = []
    for column in frame:
        values = frame[column].to_numpy(dtype=float)
        text = (
            p_value_column(values, 4)
            if str(column).startswith("p_")
            else format_column(values, DIGITS)
        )
        columns.append(
            ["" if np.isnan(value) else cell for value, cell in zip(values, text, strict=True)]
        )
    head = ("", *map(str, frame.columns))
    return TextTable.of_columns(head, [map(str, frame.index), *columns], name)


def backward(
    fit: Fit,
    context: Mapping[str, object],
    alpha_random: float,
    alpha_fixed: float,
    ddf: str | None,
) -> Steps:
    """The elimination. See :meth:`lmm.Fit.step`."""
    check_likelihood(fit, "step")
    for name, alpha in (("alpha_random", alpha_random), ("alpha_fixed", alpha_fixed)):
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, int | float | np.number)
            or not 0.0 <= alpha <= 1.0
        ):
            raise ArgumentError(f"step: {name}={alpha!r} must be a probability, 0 to 1.")
    random, left, notes = _random(fit, context, alpha_random)
    fixed, found = _fixed(left, context, alpha_fixed, ddf)
    return Steps(random, fixed, found, notes)


def _random(
    fit: Fit, context: Mapping[str, object], alpha: float
) -> tuple[pd.DataFrame, Fit, tuple[str, ...]]:
    gone: list[pd.DataFrame] = []
    while True:
        found = deletion.drop_random(fit, context)
        table = deletion.boundary_tests(found)
        if not gone:
            gone.append(table.iloc[:1].assign(eliminated=np.nan))
        p = table["p_value"].to_numpy()[1:]
        worst = int(np.nanargmax(p)) + 1 if np.isfinite(p).any() else 0
        if not worst or not p[worst - 1] > alpha or found[worst].fit is None:
            break
        gone.append(table.iloc[worst : worst + 1].assign(eliminated=float(len(gone))))
        fit = found[worst].fit  # type: ignore[assignment]
    stays = bool(worst and p[worst - 1] > alpha)
    return _joined([*gone, table.iloc[1:].assign(eliminated=0.0)]), fit, (LAST,) if stays else ()


def _fixed(
    fit: Fit, context: Mapping[str, object], alpha: float, ddf: str | None
) -> tuple[pd.DataFrame, Fit]:
    gone: list[pd.DataFrame] = []
    while True:
        if fit.family is None:
            table, formulas = deletion.marginal_tests(fit, context, ddf)
        else:
            found = deletion.drop_fixed(fit, context)
            table = deletion.likelihood_ratios(found).iloc[1:]
            formulas = {d.label: d.formula for d in found[1:]}
        p = table["p_value"].to_numpy(dtype=float)
        worst = int(np.nanargmax(p)) if np.isfinite(p).any() else -1
        if worst < 0 or not p[worst] > alpha:
            break
        gone.append(table.iloc[worst : worst + 1].assign(eliminated=float(len(gone) + 1)))
        fit = with_formula(fit, formulas[str(table.index[worst])], context)
    return _joined([*gone, table.assign(eliminated=0.0)]), fit


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """One below the other, ``eliminated`` first."""
    table = pd.concat(parts)
    return table[["eliminated", *(name for name in table.columns if name != "eliminated")]]
