"""The printed summary: lme4's lines and figures, ruled like a statsmodels table.

``Summary`` holds cells already formatted; ``str``, HTML, Markdown and LaTeX are four ways to set the
same cells. Nothing is printed from inside.
"""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lmm.design.records import Design
from lmm.model.records import Estimate
from lmm.results import criteria, fixed, rows
from lmm.results.notes import notes
from lmm.results.numberformat import abbreviate, coefficient_columns, format_column, statistic_column, zap_small
from lmm.results.render import Table, latex_escape
from lmm.results.varcorr import varcorr

#: correlations of the fixed effects are printed up to this many coefficients.
MAX_CORRELATION = 12
DIGITS = 4
_TITLES = {
    "reml": "Linear mixed model fit by REML",
    "ml": "Linear mixed model fit by maximum likelihood",
}


@dataclass(frozen=True, eq=False)
class Summary:
    """A fit set as text.

    Attributes
    ----------
    title : what was fitted and how.
    header : (label, value) lines: formula, data, weights.
    criterion : the REML criterion as one line, or None where ``information`` holds the ML figures.
    information : AIC, BIC, logLik, -2*log(L), df.resid of an ML fit, or None.
    residuals : five numbers of the scaled residuals.
    random : variances, standard deviations, correlations.
    counts : observations and levels, one line.
    fixed : coefficients.
    correlation : correlations of the coefficients, or None.
    correlation_note : why there is no correlation table.
    notes : sentences about the fit.
    tables : the same figures as DataFrames, unrounded: "residuals", "random", "fixed", "correlation", "information".
    """

    title: str
    header: tuple[tuple[str, str], ...]
    criterion: str | None
    information: Table | None
    residuals: Table
    random: Table
    counts: str
    fixed: Table
    correlation: Table | None
    correlation_note: str | None
    notes: tuple[str, ...]
    tables: dict[str, pd.DataFrame] = field(repr=False)

    def _sections(self) -> list[tuple[str, Table, str | None]]:
        """(heading, table, line below) in order."""
        out: list[tuple[str, Table, str | None]] = []
        if self.information is not None:
            out.append(("", self.information, None))
        out += [("Scaled residuals:", self.residuals, None), ("Random effects:", self.random, self.counts)]
        out.append(("Fixed effects:", self.fixed, self.correlation_note))
        if self.correlation is not None:
            out.append(("Correlation of Fixed Effects:", self.correlation, None))
        return out

    def __str__(self) -> str:
        label_width = max(len(label) for label, _ in self.header) + 1
        bodies = [(heading, table.to_text(indent=1 if table is self.random else 0), below) for heading, table, below in self._sections()]
        width = max(60, len(self.title), *(len(line) for _, body, _ in bodies for line in body.splitlines()))
        double, single = "=" * width, "-" * width
        header = []
        for label, value in self.header:
            lead = f"{label + ':':>{label_width}} "
            header += _wrap(value, max(width, 78), lead, " " * len(lead))
        lines = [self.title.center(width).rstrip(), double, *header, single]
        if self.criterion is not None:
            lines += [self.criterion]
        for i, (heading, body, below) in enumerate(bodies):
            if heading:
                lines += ([""] if i or self.criterion is not None else []) + [heading]
            body_lines = body.splitlines()
            ruled = heading in ("Random effects:", "Fixed effects:")
            lines += [single, body_lines[0], single, *body_lines[1:], single] if ruled else body_lines
            if below:
                lines += textwrap.wrap(below, width)
        lines.append(double)
        if self.notes:
            lines.append("Notes:")
            for number, note in enumerate(self.notes, 1):
                lines += _wrap(note, max(width, 78), f"[{number}] ", "    ")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<h4>{html.escape(self.title)}</h4>"]
        parts += [f"<div><b>{html.escape(label)}:</b> <code>{html.escape(value)}</code></div>" for label, value in self.header]
        if self.criterion is not None:
            parts.append(f"<div>{html.escape(self.criterion)}</div>")
        for heading, table, below in self._sections():
            parts.append((f"<h5>{html.escape(heading.rstrip(':'))}</h5>" if heading else "") + table.to_html())
            if below:
                parts.append(f"<div>{html.escape(below)}</div>")
        if self.notes:
            parts.append("<ol>" + "".join(f"<li>{html.escape(note)}</li>" for note in self.notes) + "</ol>")
        return '<div class="lmm-summary">\n' + "\n".join(parts) + "\n</div>"

    def as_html(self) -> str:
        """The summary as an HTML fragment, as notebooks show it."""
        return self._repr_html_()

    def as_markdown(self) -> str:
        """The summary as Markdown with pipe tables."""
        parts = [f"### {self.title}", "\n".join(f"- {label}: `{value}`" for label, value in self.header)]
        if self.criterion is not None:
            parts.append(self.criterion)
        for heading, table, below in self._sections():
            parts += [f"**{heading.rstrip(':')}**"] if heading else []
            parts.append(table.to_markdown())
            if below:
                parts.append(below)
        parts += ["\n".join(f"{i}. {note}" for i, note in enumerate(self.notes, 1))] if self.notes else []
        return "\n\n".join(parts) + "\n"

    def as_latex(self) -> str:
        """The summary as LaTeX: one ``table`` with booktabs tabulars (``\\usepackage{booktabs}``)."""
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_escape(self.title)}}}"]
        lines += [rf"{latex_escape(label)}: \texttt{{{latex_escape(value)}}}\\" for label, value in self.header]
        if self.criterion is not None:
            lines.append(latex_escape(self.criterion) + r"\\")
        for heading, table, below in self._sections():
            lines += [r"\medskip", rf"\textbf{{{latex_escape(heading.rstrip(':'))}}}\\"] if heading else [r"\medskip"]
            lines.append(table.to_latex() + r"\\")
            if below:
                lines.append(latex_escape(below) + r"\\")
        lines += [latex_escape(note) + r"\\" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"


def summarise(design: Design, estimate: Estimate, fitted: np.ndarray, ddf: str | None = None) -> Summary:
    """Collect and format every part of the summary; ``fitted`` are the (n,) conditional means."""
    coefficients = fixed.coefficient_table(design, estimate, ddf)
    quantiles = np.quantile(rows.residuals(design, fitted, estimate.sigma, "pearson", scaled=True), [0.0, 0.25, 0.5, 0.75, 1.0])
    five = ("Min", "1Q", "Median", "3Q", "Max")
    components = varcorr(design, estimate)
    correlation = correlation_of_fixed_effects(design, estimate)
    tables = {
        "residuals": pd.DataFrame([quantiles], columns=list(five), index=["scaled residuals"]),
        "random": components.to_frame(),
        "fixed": coefficients,
        "correlation": correlation,
        "information": information_frame(estimate, design.n),
    }
    p = len(design.names)
    hidden = None
    if p > MAX_CORRELATION:
        hidden = f"Correlation matrix not shown, as p = {p} > {MAX_CORRELATION}; fit.vcov() has the covariances."
    return Summary(
        title=_TITLES.get(estimate.method, f"Linear mixed model fit by {estimate.method}"),
        header=tuple(header_lines(design)),
        criterion=criterion_line(estimate, 1) if estimate.reml else None,
        information=None if estimate.reml else information_table(estimate, design.n, 1),
        residuals=Table(five, (tuple(format_column(zap_small(quantiles, DIGITS + 1), DIGITS)),), "r" * 5, "residuals"),
        random=components.table(DIGITS, variances=True),
        counts=counts_line(design),
        fixed=coefficients_as_text(coefficients),
        correlation=None if hidden or p < 2 else correlation_as_text(correlation),
        correlation_note=hidden,
        notes=tuple(notes(design, estimate)),
        tables=tables,
    )


def _wrap(text: str, width: int, first: str, rest: str) -> list[str]:
    """Lines of a paragraph; names are never broken."""
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)


def header_lines(design: Design) -> list[tuple[str, str]]:
    """Formula, and weights, offset and subset where the call had them."""
    call = design.extra.get("call", {})
    lines = [("Formula", str(design.formula))]
    for label, key in (("Weights", "weights"), ("Offset", "offset"), ("Subset", "subset")):
        value = call.get(key)
        if value is not None:
            lines.append((label, value if isinstance(value, str) else "given as an array"))
    return lines


def information_frame(estimate: Estimate, n: int) -> pd.DataFrame:
    """One row: AIC, BIC, log-likelihood, criterion, residual degrees of freedom."""
    values = [criteria.aic(estimate), criteria.bic(estimate, n), -estimate.objective / 2, estimate.objective, n - estimate.n_parameters]
    return pd.DataFrame([values], columns=["aic", "bic", "llf", "deviance" if not estimate.reml else "reml_criterion", "df_resid"])


def information_table(estimate: Estimate, n: int, decimals: int) -> Table:
    """The line of information criteria of an ML fit."""
    head = ("AIC", "BIC", "logLik", "-2*log(L)", "df.resid")
    *values, df_resid = information_frame(estimate, n).iloc[0]
    return Table(head, ((*(f"{v:.{decimals}f}" for v in values), f"{df_resid:.0f}"),), "r" * 5, "information")


def criterion_line(estimate: Estimate, decimals: int) -> str:
    """The REML criterion, rounded, in at most seven digits."""
    return f"REML criterion at convergence: {format_column([round(estimate.objective, decimals)], 7)[0]}"


def counts_line(design: Design) -> str:
    """``Number of obs: 180, groups:  Subject, 18``."""
    return f"Number of obs: {design.n}, groups:  " + "; ".join(f"{term.group}, {term.J}" for term in design.terms)


def coefficients_as_text(coefficients: pd.DataFrame) -> Table:
    """Estimate, standard error, t value with the decimals that lme4 prints."""
    estimate, std_error = coefficient_columns(coefficients["estimate"].to_numpy(), coefficients["std_error"].to_numpy(), DIGITS)
    statistic = statistic_column(coefficients["statistic"].to_numpy(), DIGITS)
    cells = tuple(zip(map(str, coefficients.index), estimate, std_error, statistic, strict=True))
    return Table(("", "Estimate", "Std. Error", "t value"), cells, "lrrr", "fixed")


def correlation_of_fixed_effects(design: Design, estimate: Estimate) -> pd.DataFrame:
    """(p, p) correlations of the kept coefficients."""
    C = fixed.covariance(estimate)
    se = np.sqrt(np.diagonal(C))
    names = list(design.names)
    return pd.DataFrame(C / np.outer(se, se), index=names, columns=names)


def correlation_as_text(correlation: pd.DataFrame) -> Table:
    """Lower triangle, three decimals, column titles cut short."""
    names = list(correlation.index)
    values = correlation.to_numpy()
    titles = abbreviate(names, 6)
    p = len(names)
    cells = tuple((names[i], *(f"{values[i, j]:.3f}" if j < i else "" for j in range(p - 1))) for i in range(1, p))
    return Table(("", *titles[:-1]), cells, "l" + "r" * (p - 1), "correlation")


def short_text(design: Design, estimate: Estimate) -> str:
    """What a fit prints by itself: criterion, standard deviations, counts, coefficients."""
    lines = [_TITLES.get(estimate.method, f"Linear mixed model fit by {estimate.method}")]
    header = header_lines(design)
    width = max(len(label) for label, _ in header)
    lines += [f"{label:>{width}}: {value}" for label, value in header]
    if estimate.reml:
        lines.append(criterion_line(estimate, 4))
    else:
        lines.append(information_table(estimate, design.n, 4).to_text())
    lines += ["Random effects:", varcorr(design, estimate).table(DIGITS).to_text(indent=1), counts_line(design), "Fixed effects:"]
    coefficients = fixed.fixed_effects(design, estimate)
    lines += _in_rows(list(map(str, coefficients.index)), format_column(coefficients.to_numpy(), DIGITS))
    lines += [f"Note: {note}" for note in notes(design, estimate)]
    return "\n".join(lines)


def _in_rows(names: list[str], values: list[str], width: int = 78) -> list[str]:
    """Names over values, all cells as wide as the widest, broken into lines."""
    cell = max((len(text) for text in (*names, *values)), default=0) + 1
    per_line = max(1, width // cell)
    lines = []
    for first in range(0, len(names), per_line):
        part = slice(first, first + per_line)
        lines += ["".join(f"{text:>{cell}}" for text in texts[part]) for texts in (names, values)]
    return lines
