"""The printed summary: lme4's lines and figures, ruled like a statsmodels table.

``Summary`` holds cells already formatted; ``str``, HTML, Markdown and LaTeX are four ways to set the
same cells. Nothing is printed from inside.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.families.joint.joint_density import TITLES as TITLES_OF_COMPONENTS
from lmm.inference.tests.ddf import TITLES, Ddf
from lmm.model.records import Estimate
from lmm.results.rows import generalized, row_values
from lmm.results.rows.thresholds import as_text as thresholds_as_text
from lmm.results.rows.thresholds import threshold_table, thresholds
from lmm.results.tables import criteria, fixed
from lmm.results.tables.coefficients import LEGEND, coefficients_as_text
from lmm.results.tables.varcorr import varcorr
from lmm.results.text.notes import notes
from lmm.results.text.numberformat import abbreviate, format_column, zap_small
from lmm.results.text.render import (
    TextTable,
    html_escape,
    html_lines,
    latex_escape,
    markdown_code,
    markdown_escape,
)
from lmm.results.uncertainty import Uncertainty

#: correlations of the fixed effects are printed up to this many coefficients.
MAX_CORRELATION = 12
DIGITS = 4
HINT = (
    'For df and p-values: summary(ddf="satterthwaite"), or lmm.options(ddf="satterthwaite") once.'
)
LABELS_OF_COMPONENTS = {"zi": "Zeros", "disp": "Dispersion"}
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
    header : (label, value) lines: family, formula, weights.
    criterion : the REML criterion, or what the method reports in its place, a line each; None where ``information`` has it.
    information : AIC, BIC, logLik, -2*log(L), df.resid of an ML fit, or None.
    residuals : five numbers of the scaled residuals, or None (ordinal models).
    random : variances, standard deviations, correlations.
    counts : observations and levels, one line.
    scale : lines about a generalized model's dispersion.
    fixed : coefficients.
    correlation : correlations of the coefficients, or None.
    correlation_note : why there is no correlation table.
    legend : what the stars mean, or None without stars.
    hint : how to get degrees of freedom and p-values, where there are none.
    thresholds : thresholds of an ordinal model, or None.
    dispersion : coefficients of the logarithm of the residual standard deviation, or None.
    notes : sentences about the fit.
    more : headings and tables of further linear predictors.
    tables : the same figures as DataFrames, unrounded: "residuals", "random", "fixed", "correlation", "information", "thresholds",
        "dispersion"; of further predictors "zi", "disp", "zi_random", "disp_random".
    """

    title: str
    header: tuple[tuple[str, str], ...]
    criterion: str | None
    information: TextTable | None
    residuals: TextTable | None
    random: TextTable
    counts: str
    fixed: TextTable
    correlation: TextTable | None
    correlation_note: str | None
    notes: tuple[str, ...]
    tables: dict[str, pd.DataFrame] = field(repr=False)
    scale: tuple[str, ...] = ()
    legend: str | None = None
    hint: str | None = None
    thresholds: TextTable | None = None
    dispersion: TextTable | None = None
    more: tuple[tuple[str, TextTable], ...] = ()

    @property
    def _criterion_lines(self) -> list[str]:
        return [] if self.criterion is None else self.criterion.splitlines()

    def _sections(self) -> list[tuple[str, TextTable, tuple[str, ...]]]:
        """(heading, table, lines below) in order."""
        out: list[tuple[str, TextTable, tuple[str, ...]]] = []
        if self.information is not None:
            out.append(("", self.information, ()))
        if self.residuals is not None:
            out.append(("Scaled residuals:", self.residuals, ()))
        out.append(("Random effects:", self.random, (self.counts, *self.scale)))
        if self.fixed.rows or self.thresholds is None:
            out.append(
                (
                    "Fixed effects:",
                    self.fixed,
                    tuple(line for line in (self.legend, self.hint, self.correlation_note) if line),
                )
            )
        if self.thresholds is not None:
            out.append(("Threshold coefficients:", self.thresholds, ()))
        if self.dispersion is not None:
            out.append(("Dispersion model (log residual sd):", self.dispersion, ()))
        out += [(heading, table, ()) for heading, table in self.more]
        if self.correlation is not None:
            out.append(("Correlation of Fixed Effects:", self.correlation, ()))
        return out

    def __str__(self) -> str:
        label_width = max(len(label) for label, _ in self.header) + 1
        bodies = [
            (heading, table.to_text(indent=1 if table is self.random else 0), below)
            for heading, table, below in self._sections()
        ]
        width = max(
            60,
            len(self.title),
            *(len(line) for _, body, _ in bodies for line in body.splitlines()),
        )
        double, single = "=" * width, "-" * width
        header = []
        for label, value in self.header:
            lead = f"{label + ':':>{label_width}} "
            header += _wrap(value, max(width, 78), lead, " " * len(lead))
        lines = [self.title.center(width).rstrip(), double, *header, single]
        lines += self._criterion_lines
        for i, (heading, body, below) in enumerate(bodies):
            if heading:
                lines += ([""] if i or self._criterion_lines else []) + [heading]
            body_lines = body.splitlines()
            ruled = heading and heading != "Scaled residuals:" and not heading.startswith("Corr")
            lines += (
                [single, body_lines[0], single, *body_lines[1:], single] if ruled else body_lines
            )
            for line in below:
                lines += textwrap.wrap(line, width)
        lines.append(double)
        if self.notes:
            lines.append("Notes:")
            for number, note in enumerate(self.notes, 1):
                lines += _wrap(note, max(width, 78), f"[{number}] ", "    ")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<h4>{html_escape(self.title)}</h4>"]
        parts += [
            f"<div><b>{html_escape(label)}:</b> <code>{html_escape(value)}</code></div>"
            for label, value in self.header
        ]
        if self._criterion_lines:
            parts.append(html_lines(self._criterion_lines))
        for heading, table, below in self._sections():
            parts.append(
                (f"<h5>{html_escape(heading.rstrip(':'))}</h5>" if heading else "")
                + table.to_html()
            )
            parts.append(html_lines(below))
        if self.notes:
            parts.append(f"<ol>{html_lines(self.notes, 'li')}</ol>")
        return '<div class="lmm-summary">\n' + "\n".join(parts) + "\n</div>"

    def as_html(self) -> str:
        """The summary as an HTML fragment, as notebooks show it."""
        return self._repr_html_()

    def as_markdown(self) -> str:
        """The summary as Markdown with pipe tables."""
        header = "\n".join(
            f"- {markdown_escape(label)}: {markdown_code(value)}" for label, value in self.header
        )
        parts = [f"### {markdown_escape(self.title)}", header]
        parts += map(markdown_escape, self._criterion_lines)
        for heading, table, below in self._sections():
            parts += [f"**{markdown_escape(heading.rstrip(':'))}**"] if heading else []
            parts.append(table.to_markdown())
            parts += map(markdown_escape, below)
        if self.notes:
            notes = (f"{i}. {markdown_escape(note)}" for i, note in enumerate(self.notes, 1))
            parts.append("\n".join(notes))
        return "\n\n".join(parts) + "\n"

    def as_latex(self) -> str:
        """The summary as LaTeX: one ``table`` with booktabs tabulars (``\\usepackage{booktabs}``)."""

        def lines(texts: Iterable[str]) -> list[str]:
            return [latex_escape(text) + r"\\" for text in texts]

        out = [r"\begin{table}", r"\centering", rf"\caption{{{latex_escape(self.title)}}}"]
        for label, value in self.header:
            out.append(rf"{latex_escape(label)}: \texttt{{{latex_escape(value)}}}\\")
        out += lines(self._criterion_lines)
        for heading, table, below in self._sections():
            out.append(r"\medskip")
            if heading:
                out.append(rf"\textbf{{{latex_escape(heading.rstrip(':'))}}}\\")
            out += [table.to_latex() + r"\\", *lines(below)]
        out += lines(self.notes)
        return "\n".join([*out, r"\end{table}"]) + "\n"


def summarise(
    design: Design, estimate: Estimate, known: Uncertainty, eta: np.ndarray, ddf: Ddf | None = None
) -> Summary:
    """Collect and format every part of the summary; ``eta`` (n,) are linear predictors at the conditional modes."""
    coefficients = known.coefficient_table(ddf)
    residuals = residual_quantiles(design, estimate, eta)
    components = varcorr(design, estimate)
    correlation = correlation_of_fixed_effects(design, known.beta if ddf is None else ddf.cov)
    tables = {
        **({} if residuals is None else {"residuals": residuals}),
        "random": components.to_frame(),
        "fixed": coefficients,
        "correlation": correlation,
        "information": information_frame(estimate, design.n),
    }
    own = threshold_table(estimate, known)
    if len(own):
        tables["thresholds"] = own
    dispersion = known.dispersion()
    if dispersion is not None:
        tables["dispersion"] = dispersion
    more = further_components(known, tables)
    p = len(design.names)
    hidden = None
    if p > MAX_CORRELATION:
        hidden = f"Correlation matrix not shown, as p = {p} > {MAX_CORRELATION}; fit.vcov() has the covariances."
    return Summary(
        title=title_line(estimate) + tests_line(ddf),
        header=tuple(header_lines(design, estimate)),
        criterion=criterion_text(estimate, 1),
        information=information_table(estimate, design.n, 1) if has_information(estimate) else None,
        residuals=None if residuals is None else residuals_as_text(residuals),
        random=components.table(DIGITS, variances=True),
        counts=counts_line(design),
        fixed=coefficients_as_text(coefficients, DIGITS, estimate.spread),
        correlation=None if hidden or p < 2 else correlation_as_text(correlation),
        correlation_note=hidden,
        notes=(
            *notes(design, estimate),
            *(text for text in (known.message, None if ddf is None else ddf.message) if text),
        ),
        tables=tables,
        scale=tuple(scale_lines(design, estimate, known, eta)),
        legend=LEGEND
        if "p_value" in coefficients and (coefficients["p_value"] < 0.1).any()
        else None,
        hint=HINT if "statistic" in coefficients and "p_value" not in coefficients else None,
        thresholds=thresholds_as_text(own, DIGITS),
        dispersion=None
        if dispersion is None
        else coefficients_as_text(dispersion, DIGITS, estimate.spread),
        more=more,
    )


def further_components(
    known: Uncertainty, tables: dict[str, pd.DataFrame]
) -> tuple[tuple[str, TextTable], ...]:
    """Headings and tables of the linear predictors beside that of the mean, whose figures are put into ``tables``.

    A dispersion that is one number has no table: it is among the lines about the scale.
    """
    out = []
    for name in known.estimate.components[1:]:
        own = known.of_component(name)
        if name == "disp" and np.isfinite(known.estimate.dispersion):
            continue
        title = TITLES_OF_COMPONENTS[name]
        if own.design.terms:
            components = varcorr(own.design, own.estimate)
            tables[f"{name}_random"] = components.to_frame()
            out.append((f"{title}, random effects:", components.table(DIGITS, variances=True)))
        tables[name] = own.coefficient_table(None)
        text = coefficients_as_text(tables[name], DIGITS, own.estimate.spread)
        out.append((f"{title}, fixed effects:", text))
    return tuple(out)


def residual_quantiles(design: Design, estimate: Estimate, eta: np.ndarray) -> pd.DataFrame | None:
    """One row, five numbers of the scaled Pearson residuals; None for categories, which have none, and without the rows."""
    if not estimate.distribution.has_mean or design.streamed:
        return None
    quantiles = np.quantile(
        row_values.residuals(design, estimate, eta, "pearson", scaled=True),
        [0.0, 0.25, 0.5, 0.75, 1.0],
    )
    return pd.DataFrame(
        [quantiles], columns=["Min", "1Q", "Median", "3Q", "Max"], index=["scaled residuals"]
    )


def residuals_as_text(residuals: pd.DataFrame) -> TextTable:
    """The five numbers, those that rounding made zero."""
    cells = format_column(zap_small(residuals.to_numpy()[0], DIGITS + 1), DIGITS)
    return TextTable(tuple(residuals.columns), (tuple(cells),), "r" * 5, "residuals")


def _wrap(text: str, width: int, first: str, rest: str) -> list[str]:
    """Lines of a paragraph; names are never broken."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def title_line(estimate: Estimate) -> str:
    """What was fitted and how."""
    if estimate.report is not None:
        return estimate.report.title
    if estimate.family is None:
        return _TITLES.get(estimate.method, f"Linear mixed model fit by {estimate.method}")
    how = (
        "Laplace Approximation"
        if estimate.nagq == 1
        else f"Adaptive Gauss-Hermite Quadrature, nAGQ = {estimate.nagq}"
    )
    if estimate.method == "laplace2":
        how = "second-order Laplace Approximation"
    criterion = "REML" if estimate.reml else "maximum likelihood"
    return f"{estimate.family.model_title} mixed model fit by {criterion} ({how})"


def tests_line(ddf: Ddf | None) -> str:
    """What the t tests rest on, after the title."""
    return "" if ddf is None or ddf.method is None else f". t-tests use {TITLES[ddf.method]}"


def scale_lines(
    design: Design, estimate: Estimate, known: Uncertainty, eta: np.ndarray
) -> list[str]:
    """The family's own parameters with their standard errors, or the overdispersion of a family without one."""
    family = estimate.distribution
    single = known.single_dispersion()
    if single is not None:
        name, value, se = single
        line = f"{name} of the {family.title} family: {format_column([value], DIGITS)[0]}"
        told = f" ({estimate.spread} {format_column([se], DIGITS)[0]})"
        return [line + (told if np.isfinite(se) else "")]
    if family.has_own_constant:
        lines = []
        errors = known.own_errors()
        for name, value, se in zip(
            family.own_names, np.atleast_1d(estimate.phi), errors, strict=True
        ):
            head = "Dispersion parameter" if name == "dispersion" else f"Parameter {name}"
            line = f"{head} of the {family.title} family: {format_column([value], DIGITS)[0]}"
            told = f" ({estimate.spread} {format_column([se], DIGITS)[0]})"
            lines.append(line + (told if np.isfinite(se) else ""))
        return lines
    if generalized.tells_overdispersion(design, estimate):
        ratio = generalized.overdispersion(design, estimate, eta)
        return [
            f"Overdispersion (Pearson chi-squared / df.resid): {format_column([ratio], DIGITS)[0]}"
        ]
    return []


def header_lines(design: Design, estimate: Estimate) -> list[tuple[str, str]]:
    """Family, formula, and residual structure, weights, offset and subset where the call had them."""
    call, family, shape = design.arguments(), estimate.distribution, ""
    if family.has_own_constant and not family.has_residual_sd:
        own = np.atleast_1d(estimate.phi)
        shape = f"({', '.join(format_column([value], DIGITS)[0] for value in own)})"
    lines = [*family.headed(shape), ("Formula", str(design.formula))]
    if design.residual and design.residual[-1].diagonal:
        lines.append(("Dispersion", str(dict(design.formula.components)["disp"])))
    for name, formula in design.formula.components:
        if name != "disp" or not np.isfinite(estimate.dispersion):
            lines.append((LABELS_OF_COMPONENTS.get(name, name), str(formula)))
    for label, key in (
        ("Residual", "residual"),
        ("Weights", "weights"),
        ("Offset", "offset"),
        ("Subset", "subset"),
    ):
        value = call.get(key)
        if value is not None:
            lines.append((label, value if isinstance(value, str) else "given as an array"))
    return lines


def information_frame(estimate: Estimate, n: int) -> pd.DataFrame:
    """One row: AIC, BIC, log-likelihood, criterion, residual degrees of freedom, or what the method reports in their place."""
    if reported(estimate):
        return pd.DataFrame(
            [[value for _, value in reported(estimate)]],
            columns=[label for label, _ in reported(estimate)],
        )
    values = [
        criteria.aic(estimate),
        criteria.bic(estimate, n),
        -estimate.objective / 2,
        estimate.objective,
        n - estimate.n_parameters,
    ]
    criterion = "reml_criterion" if estimate.reml else estimate.distribution.criterion_name
    return pd.DataFrame([values], columns=["aic", "bic", "llf", criterion, "df_resid"])


def information_table(estimate: Estimate, n: int, decimals: int) -> TextTable:
    """The line of information criteria of an ML fit."""
    head = ("AIC", "BIC", "logLik", "-2*log(L)", "df.resid")
    *values, df_resid = information_frame(estimate, n).iloc[0]
    return TextTable(
        head, ((*(f"{v:.{decimals}f}" for v in values), f"{df_resid:.0f}"),), "r" * 5, "information"
    )


def has_information(estimate: Estimate) -> bool:
    """Whether the criterion is a log-likelihood with its information criteria, and the method reports nothing in their place."""
    return not reported(estimate) and not estimate.reml and bool(np.isfinite(estimate.objective))


def reported(estimate: Estimate) -> tuple[tuple[str, float], ...]:
    """(label, value) pairs that the method reports in place of information criteria."""
    return () if estimate.report is None else estimate.report.criterion


def criterion_text(estimate: Estimate, decimals: int) -> str | None:
    """The REML criterion, rounded to ``decimals``, or what the method reports, a line each; in at most seven digits."""
    if reported(estimate):
        return "\n".join(
            f"{label}: {format_column([value], 7)[0]}" for label, value in reported(estimate)
        )
    if not estimate.reml or not np.isfinite(estimate.objective):
        return None
    return f"REML criterion at convergence: {format_column([round(estimate.objective, decimals)], 7)[0]}"


def counts_line(design: Design) -> str:
    """``Number of obs: 180, groups:  Subject, 18``."""
    groups = "; ".join(f"{term.group}, {term.J}" for term in design.units)
    return f"Number of obs: {design.n}" + (f", groups:  {groups}" if groups else "")


def correlation_of_fixed_effects(design: Design, cov: np.ndarray) -> pd.DataFrame:
    """(p, p) correlations of the kept coefficients."""
    names = list(design.names)
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # a covariance that is none, at a fit without an optimum
        se = fixed.deviations(cov)
        return pd.DataFrame(cov / np.outer(se, se), index=names, columns=names)


def correlation_as_text(correlation: pd.DataFrame) -> TextTable:
    """Lower triangle, three decimals, column titles cut short."""
    names = list(correlation.index)
    values = correlation.to_numpy()
    titles = abbreviate(names, 6)
    p = len(names)
    cells = tuple(
        (names[i], *(f"{values[i, j]:.3f}" if j < i else "" for j in range(p - 1)))
        for i in range(1, p)
    )
    return TextTable(("", *titles[:-1]), cells, "l" + "r" * (p - 1), "correlation")


def short_text(design: Design, estimate: Estimate) -> str:
    """What a fit prints by itself: criterion, standard deviations, counts, coefficients."""
    lines = [title_line(estimate)]
    header = header_lines(design, estimate)
    width = max(len(label) for label, _ in header)
    lines += [f"{label:>{width}}: {value}" for label, value in header]
    lines += (criterion_text(estimate, 4) or "").splitlines()
    if has_information(estimate):
        lines.append(information_table(estimate, design.n, 4).to_text())
    lines += [
        "Random effects:",
        varcorr(design, estimate).table(DIGITS).to_text(indent=1),
        counts_line(design),
        "Fixed effects:",
    ]
    coefficients = fixed.fixed_effects(design, estimate)
    lines += _in_rows(
        list(map(str, coefficients.index)), format_column(coefficients.to_numpy(), DIGITS)
    )
    for name in estimate.components[1:]:
        own = design.component(name), estimate.of_component(name)
        values = fixed.fixed_effects(*own)
        lines += [f"{TITLES_OF_COMPONENTS[name]}:"]
        lines += _in_rows(list(map(str, values.index)), format_column(values.to_numpy(), DIGITS))
    boundaries = estimate.distribution.boundaries
    if boundaries:
        lines += [
            "Thresholds:",
            *_in_rows(boundaries, format_column(thresholds(estimate).to_numpy(), DIGITS)),
        ]
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
