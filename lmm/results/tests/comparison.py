"""One model fitted by several methods, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError
from lmm.results import updating
from lmm.results.rows.thresholds import threshold_table
from lmm.results.text.numberformat import coefficient_columns
from lmm.results.text.render import TextTable, html_lines, markdown_escape

if TYPE_CHECKING:
    from lmm.results.fit import Fit

#: rows of the table that are about the fit rather than a parameter
FIT_ROWS = ("llf", "elbo", "seconds", "converged")
DIGITS = 4


@dataclass(frozen=True, eq=False, repr=False)
class MethodComparison:
    """Estimates of the same model by several methods; prints as a table, standard errors in brackets.

    Attributes
    ----------
    table : DataFrame, a row per coefficient, standard deviation, correlation and residual, then ``llf``, ``elbo``,
        ``seconds`` and ``converged`` (1 or 0); columns (method, "estimate" or "std_error"). Of a posterior these are its mean and
        standard deviation. NaN for what a method does not give.
    fits : label -> :class:`lmm.Fit`.
    """

    table: pd.DataFrame
    fits: dict[str, Fit]

    def __getitem__(self, label: str) -> Fit:
        """The fit of one method."""
        if label not in self.fits:
            raise ArgumentError(
                f"{label!r} is not one of the methods compared: {', '.join(map(repr, self.fits))}."
            )
        return self.fits[label]

    def as_table(self) -> TextTable:
        """The cells as text: estimates with their standard errors in brackets, each row on common decimals."""
        estimates = self.table.xs("estimate", axis=1, level=1)
        errors = self.table.xs("std_error", axis=1, level=1)
        rows = []
        parameters = len(self.table) - len(FIT_ROWS)
        for i, name in enumerate(map(str, self.table.index)):
            if i < parameters:
                pairs = zip(
                    *coefficient_columns(estimates.to_numpy()[i], errors.to_numpy()[i], DIGITS),
                    strict=True,
                )
                rows.append((name, *(_cell(value, error) for value, error in pairs)))
            elif estimates.iloc[i].notna().any():
                rows.append((name, *(_fit_cell(name, value) for value in estimates.iloc[i])))
        return TextTable(
            ("", *map(str, estimates.columns)),
            tuple(rows),
            "l" + "r" * estimates.shape[1],
            "comparison",
        )

    def __str__(self) -> str:
        return "\n".join([self.as_table().to_text(), *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"{self.as_table().to_html()}\n{html_lines(self._notes())}"

    def as_markdown(self) -> str:
        """The table as Markdown."""
        return (
            "\n\n".join([self.as_table().to_markdown(), *map(markdown_escape, self._notes())])
            + "\n"
        )

    def as_latex(self) -> str:
        """The table as a LaTeX ``tabular`` with booktabs rules."""
        return self.as_table().to_latex() + "\n"

    def _notes(self) -> list[str]:
        out = []
        posterior = [label for label, fit in self.fits.items() if fit.draws is not None]
        if posterior:
            out.append(
                f"In brackets the standard error; of {', '.join(posterior)} the posterior standard deviation."
            )
        known = [fit.estimate.reml for fit in self.fits.values() if np.isfinite(fit.llf)]
        if len(set(known)) > 1:
            out.append(
                "The llf of REML is that of the residuals of the fixed effects: not to be compared with the others."
            )
        return out


def compare(
    fit: Fit,
    methods: Sequence[object] | Mapping[str, object],
    context: Mapping[str, object],
    changes: dict[str, Any],
) -> MethodComparison:
    """Fit by each method and tabulate. See :meth:`lmm.Fit.compare_methods`."""
    if isinstance(methods, str) or not isinstance(methods, Sequence | Mapping) or not methods:
        raise ArgumentError(
            "compare_methods: methods is a list of names and estimators such as ['reml', 'ml'], or a mapping label -> either."
        )
    if "method" in changes:
        raise ArgumentError(
            "compare_methods: the methods are the first argument; method= is not one of the changes."
        )
    pairs = (
        list(methods.items())
        if isinstance(methods, Mapping)
        else [(_label(method), method) for method in methods]
    )
    changed = bool(changes)
    formula = changes.pop("formula", None)
    fits: dict[str, Fit] = {}
    for wanted, method in pairs:
        label, count = wanted, 1
        while label in fits:
            count += 1
            label = f"{wanted} ({count})"
        if not changed and _is_own(fit, method):
            fits[label] = fit
        else:
            fits[label] = updating.repeat_call(
                fit.design, formula, {**changes, "method": method}, context
            )
    return MethodComparison(_table(fits), fits)


def _label(method: object) -> str:
    return (
        method if isinstance(method, str) else str(getattr(method, "name", type(method).__name__))
    )


def _is_own(fit: Fit, method: object) -> bool:
    """Whether this is the method that made the fit."""
    return (
        method.lower() == fit.estimate.method
        if isinstance(method, str)
        else method is fit.estimator
    )


def _table(fits: Mapping[str, Fit]) -> pd.DataFrame:
    """Parameters, then what is said of each fit in the last rows, whatever the parameters are called."""
    columns = {label: _column(fit) for label, fit in fits.items()}
    last = len(FIT_ROWS)
    table = pd.concat(
        [
            pd.concat({k: c.iloc[part] for k, c in columns.items()}, axis=1, sort=False)
            for part in (slice(-last), slice(-last, None))
        ]
    )
    table.columns = table.columns.set_names(["method", None])
    return table


def _column(fit: Fit) -> pd.DataFrame:
    """``estimate, std_error`` by name of one fit."""
    components = fit.varcorr()
    frame = components.to_frame()
    family = fit.estimate.distribution
    thresholds = threshold_table(fit.estimate, fit._uncertainty)
    names = [*fit.design.all_names, *thresholds.index, *components.names]
    estimate = [*fit.fixef(), *thresholds["estimate"], *frame["sdcor"]]
    error = [*fit.bse, *thresholds["std_error"], *fit._uncertainty.standard_errors()]
    if family.has_own_constant and not family.has_residual_sd:
        own = fit.family_parameters()
        names += [*own.index]
        estimate += [*own["estimate"]]
        error += [*own["std_error"]]
    convergence = fit.convergence
    names += FIT_ROWS
    estimate += [fit.llf, fit.elbo, sum(convergence.seconds.values()), float(convergence.converged)]
    error += [np.nan] * len(FIT_ROWS)
    return pd.DataFrame(
        {"estimate": estimate, "std_error": error}, index=pd.Index(names), dtype=float
    )


def _fit_cell(name: str, value: float) -> str:
    if not np.isfinite(value):
        return ""
    return ("no", "yes")[int(value)] if name == "converged" else f"{value:.2f}"


def _cell(value: str, error: str) -> str:
    return "" if value == "NaN" else value if error == "NaN" else f"{value} ({error})"
