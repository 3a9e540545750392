"""Everything that can be asked of one fit, asked: what is wrong and what to do about it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.arguments import generator as random_generator
from lmm.arguments import whole
from lmm.inference.criticism import extremes, hat
from lmm.inference.criticism.normality import quantile_correlation, standardised_modes
from lmm.inference.criticism.quantile_residuals import SimulatedTest
from lmm.inference.tests.likelihood_ratio import chi_squared_p
from lmm.results.rows import generalized, influence, row_values, simulated_residuals
from lmm.results.tests.collinearity_table import inflation
from lmm.results.tests.neighbours import is_maximised, quietly
from lmm.results.text import notes
from lmm.results.text.progress_bar import bar
from lmm.results.text.render import TextTable, html_escape

if TYPE_CHECKING:
    from lmm.results.fit import Fit

OK, WARNING = "ok", "warning"
#: p-value under which a test is a warning: there are half a dozen of them
ALPHA = 0.01
#: squared adjusted inflation factor above which columns are hard to tell apart, and Cook's distance of a row that moves the fit
COLLINEAR, INFLUENTIAL = 10.0, 1.0
#: levels that normality is judged from at least
LEVELS = 10
#: rows that a message names
NAMED = 3
#: what fits without each level may take
SECONDS = 2.0
WIDTH = 110


@dataclass(frozen=True)
class Finding:
    """One check: what was measured, whether it is well, and what to do where it is not."""

    check: str
    bad: bool
    what: str
    advice: str
    value: float = float("nan")
    p_value: float = float("nan")

    @property
    def row(self) -> tuple[str, float, float, str, str]:
        """``status, value, p_value, what, advice``."""
        status, advice = (WARNING, self.advice) if self.bad else (OK, "")
        return status, self.value, self.p_value, self.what, advice


@dataclass(frozen=True, eq=False, repr=False)
class Checks:
    """What :meth:`lmm.Fit.check` found; prints what is wrong and what to do, then what is well.

    Attributes
    ----------
    table : DataFrame indexed by check: ``status`` ("ok", "warning"), ``value``, ``p_value``, ``what`` the value is, ``advice``.
    note : which rows were simulated where these are not all; else empty.
    """

    table: pd.DataFrame
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return bool((self.table["status"] == OK).all())

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        bad = self.table[self.table["status"] == WARNING]
        count = {0: "Nothing found wrong", 1: "1 thing to look at"}.get(
            len(bad), f"{len(bad)} things to look at"
        )
        yield f"{count} in {len(self.table)} checks."
        for name, row in bad.iterrows():
            yield ""
            yield f"{name}: {_measure(row)}"
            yield textwrap.fill(
                str(row["advice"]), WIDTH, initial_indent="  ", subsequent_indent="  "
            )
        well = self.table[self.table["status"] == OK]
        if len(well):
            yield ""
            rows = tuple((str(name), _measure(row)) for name, row in well.iterrows())
            yield TextTable(("ok", ""), rows, "ll").to_text()
        if self.note:
            yield ""
            yield self.note

    def _repr_html_(self) -> str:
        def cell(text: object) -> str:
            return f'<td style="text-align:left">{html_escape(str(text))}</td>'

        rows = "\n".join(
            f"<tr>{cell(name)}{cell(row['status'])}{cell(_measure(row))}{cell(row['advice'])}</tr>"
            for name, row in self.table.iterrows()
        )
        head = "<tr><th>check</th><th>status</th><th></th><th>advice</th></tr>"
        note = f"\n<p>{html_escape(self.note)}</p>" if self.note else ""
        return f"<table>\n<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>{note}"


def _measure(row: pd.Series) -> str:
    text = str(row["what"])
    if np.isfinite(row["value"]):
        text += f" {row['value']:.3g}"
    if np.isfinite(row["p_value"]):
        text += f" (p = {row['p_value']:.3g})"
    return text


def check(
    fit: Fit, nsim: int, rng: None | int | np.random.Generator, progress: bool | None
) -> Checks:
    """See :meth:`lmm.Fit.check`."""
    nsim = whole(nsim, "check: nsim", least=simulated_residuals.FEWEST)
    generator = random_generator(rng)
    which = simulated_residuals.some_of_many(fit.nobs, nsim, generator)
    parts = [
        partial(_estimation, fit),
        partial(_simulated, fit, which, nsim, generator),
        partial(_extremes, fit),
        partial(_overdispersion, fit),
        partial(_collinearity, fit),
    ]
    if not fit.design.residual and fit.problem.plan.exact:  # both need conditional variances
        parts.append(partial(_normality, fit, generator))
        if len(fit.design.predictors) == 1:
            parts.append(partial(_influence, fit))
    found: list[Finding] = []
    with bar(len(parts), "check", progress, "check") as told:
        for part in parts:
            found += part()
            told(1)
    columns = ["status", "value", "p_value", "what", "advice"]
    index = pd.Index([f.check for f in found], name="check")
    note = (
        ""
        if which is None
        else f"Simulations are of {len(which):,} rows, drawn at random from the {fit.nobs:,}."
    )
    return Checks(pd.DataFrame([f.row for f in found], index=index, columns=columns), note)


def _estimation(fit: Fit) -> Iterator[Finding]:
    advice = "The estimates are no optimum: simplify the random effects, or raise the limits with control=lmm.Control(max_evaluations=...)."
    what = fit.convergence.message.rstrip(".")
    yield Finding("convergence", not fit.convergence.converged, what, advice)
    said = notes.singular_notes(fit.design, fit.estimate, 1e-4)
    what = "singular" if said else "every variance is away from its boundary"
    yield Finding("singularity", bool(said), what, " ".join(said))
    dropped = fit.design.dropped
    names, were = ", ".join(dropped), "was" if len(dropped) == 1 else "were"
    advice = f"{names} cannot be told from the other columns and {were} dropped; leave out of the formula what says the same twice."
    what = "fixed columns that depend on others:"
    yield Finding("rank", bool(dropped), what, advice, float(len(dropped)))
    others = [
        m for m in fit.estimate.messages if not m.startswith((notes.UNCONVERGED, "Singular fit, "))
    ]
    if others:
        yield Finding("estimates", True, "the fit says", " ".join(others))


def _simulated(
    fit: Fit, which: np.ndarray | None, nsim: int, rng: np.random.Generator
) -> Iterator[Finding]:
    tests = simulated_residuals.of_rows(
        fit.design, fit.estimate, fit._eta, which, nsim, rng
    ).tests()
    found = {
        name: SimulatedTest(*map(float, row))
        for name, row in zip(tests.index, tests.to_numpy(), strict=True)
    }
    advice = (
        "The response is not distributed as the model says. Look at fit.plot.qq(); a transformed response, another family, or a missing "
        "predictor are the usual cures."
    )
    yield _test(
        "distribution", found["uniformity"], "distance of simulated residuals to uniform", advice
    )
    if np.isfinite(found["spread"].p_value):
        advice = (
            "The variance changes with the mean otherwise than the model says. Model the log of a positive response, or take a family "
            "whose variance grows with the mean; known variances are weights=."
        )
        yield _test(
            "spread", found["spread"], "correlation of residual size and fitted value", advice
        )
    advice = "Single rows lie where the model puts none: look at them (fit.simulated_residuals().values near 0 or 1) before one goes."
    what = f"rows beyond all simulations ({found['outliers'].expected:.2g} expected):"
    yield _test("outliers", found["outliers"], what, advice)
    if np.isfinite(found["zero_inflation"].p_value):
        advice = "There are fewer zeros than the family makes: perhaps they were never recorded."
        if found["zero_inflation"].statistic > 1.0:
            advice = (
                "There are more zeros than the family makes: a negative binomial family or a missing predictor may account for them, else "
                "they come from a process of their own."
            )
        yield _test("zeros", found["zero_inflation"], "zeros over zeros expected", advice)


def _test(check: str, test: SimulatedTest, what: str, advice: str) -> Finding:
    return Finding(check, test.p_value < ALPHA, what, advice, test.statistic, test.p_value)


def _extremes(fit: Fit) -> Iterator[Finding]:
    """Single rows too far from their fitted values, and tails of the residuals of a linear model."""
    family = fit.estimate.distribution
    if family.linear:
        yield from _far_residuals(fit)
    elif family.has_cdf and len(fit.design.predictors) == 1:
        yield from _far_responses(fit)


def _far_residuals(fit: Fit) -> Iterator[Finding]:
    design, estimate = fit.design, fit.estimate
    type = "normalized" if design.residual else "pearson"
    standardized = row_values.residuals(design, estimate, fit._eta, type, True)
    df = float(fit.nobs - design.p)
    single = len(estimate.components) == 1
    if single and not design.residual and fit.problem.plan.exact:
        leverage = hat.leverages(design, fit.problem, estimate)
        standardized = hat.studentised(standardized, standardized, leverage)
    if not np.isfinite(standardized).any() or df < 2.0:
        return
    given = fit._method.sigma  # a number, or how it is estimated
    share = standardized
    if isinstance(given, int | float):
        df = np.inf
    elif not estimate.reml:  # sigma^2 of maximum likelihood is RSS / n
        share = standardized * np.sqrt(df / fit.nobs)
    t = extremes.t_values(share, df)
    far = extremes.extreme(extremes.student_tails(t, df - 1.0), ALPHA)
    limit = extremes.limit(fit.nobs, df - 1.0, ALPHA)
    rows = _rows_named(fit, far.beyond, np.abs(t))
    advice = (
        f"{rows} further out than the largest of {fit.nobs:,} normal residuals would be (|t| > {limit:.3g} "
        "in 1 % of samples): look at them (fit.rstudent()), and fit with and without them."
    )
    what = f"of {fit.nobs:,} rows, that of {_label(fit, far.row)!r} is"
    yield Finding("largest residual", far.p_value < ALPHA, what, advice, t[far.row], far.p_value)
    value, p = extremes.kurtosis(standardized[np.isfinite(standardized)])
    if np.isfinite(p):
        advice = (
            "Residuals have heavier tails than normal ones: standard errors and intervals of predictions rest on few rows. Look at "
            "fit.plot.qq(); a transformed response, or a variance that differs between rows (weights=, residual=), may account for them."
        )
        yield Finding("residual tails", p < ALPHA, "kurtosis (3 expected)", advice, value, p)


def _far_responses(fit: Fit) -> Iterator[Finding]:
    design, estimate = fit.design, fit.estimate
    family = estimate.distribution
    tails = extremes.family_tails(
        family, design.y, family.mean(fit._eta), design.weights, estimate.phi
    )
    far = extremes.extreme(tails, ALPHA)
    advice = (
        f"{_rows_named(fit, far.beyond, -tails)} where the family, given the predicted effects, puts hardly any response: look at them, "
        "and fit with and without them."
    )
    what = f"of {fit.nobs:,} rows, {_label(fit, far.row)!r} is the most extreme, with a tail of"
    value = float(tails[far.row])
    yield Finding("largest residual", far.p_value < ALPHA, what, advice, value, far.p_value)


def _label(fit: Fit, row: int) -> object:
    return fit.design.index[row]


def _rows_named(fit: Fit, rows: np.ndarray, distance: np.ndarray) -> str:
    """The furthest rows by their labels, and how many there are, as the subject of a sentence."""
    order = rows[np.argsort(-distance[rows], kind="stable")]
    if not len(order):
        return ""
    names = ", ".join(repr(_label(fit, int(row))) for row in order[:NAMED])
    if len(order) == 1:
        return f"Row {names} lies"
    more = f" and {len(order) - NAMED:,} more" if len(order) > NAMED else ""
    return f"Rows {names}{more} lie"


def _overdispersion(fit: Fit) -> Iterator[Finding]:
    if not generalized.tells_overdispersion(fit.design, fit.estimate):
        return
    ratio = fit.overdispersion()
    p = chi_squared_p(ratio * fit.df_resid, fit.df_resid)
    cure = (
        "family='negative_binomial'"
        if fit.family.name == "poisson"
        else "a random effect with a level per row, (1 | row)"
    )
    advice = f"The response varies more than the family says, and standard errors are too small: use {cure}."
    what = "Pearson's chi-squared over its degrees of freedom"
    yield Finding("overdispersion", p < ALPHA, what, advice, ratio, p)


def _collinearity(fit: Fit) -> Iterator[Finding]:
    table = inflation(fit.design, fit._uncertainty.beta)
    if (
        len(table) < 2 or fit.estimate.unbounded
    ):  # the covariance of coefficients without bound is that of where they stopped
        return
    squared = table["adjusted"] ** 2
    worst, largest = str(squared.idxmax()), float(squared.max())
    advice = (
        f"{worst} can hardly be told from other predictors: its standard error is {np.sqrt(largest):.1f} times what it would be alone. "
        "Centre predictors that enter in products or powers, or leave one of those that say the same out."
    )
    what = f"largest variance inflation, of {worst},"
    yield Finding("collinearity", largest > COLLINEAR, what, advice, largest)


def _normality(fit: Fit, rng: np.random.Generator) -> Iterator[Finding]:
    """The least normal column of each grouping factor, where its levels are many and known well enough to tell.

    Effects predicted from a few counts are not normal even when the true ones are.
    """
    fewest = fit.estimate.distribution.rows_per_level
    covariances = fit._uncertainty.mode_covariances()
    for term, modes, cov, T in zip(
        fit.design.terms, fit.estimate.modes, covariances, fit.estimate.factors, strict=True
    ):
        if term.J < LEVELS or fit.nobs < fewest * term.J:
            continue
        z = standardised_modes(modes, cov, fit.estimate.scale2 * T @ T.T)
        tested = [(*quantile_correlation(z[:, a], rng), term.columns[a]) for a in range(term.k)]
        tested = [t for t in tested if np.isfinite(t[1])]
        if not tested:
            continue
        r, p, column = min(tested, key=lambda t: t[1])
        p = min(1.0, p * len(tested))
        advice = (
            f"The effects of {term.group} are not normal: a few levels far from the others, or two kinds of levels? Look at "
            "fit.plot.ranef(); a predictor of the groups may part them. Fixed effects are little affected."
        )
        what = f"correlation of {column} with normal quantiles"
        yield Finding(f"random effects, {term.group}", p < ALPHA, what, advice, r, p)


def _influence(fit: Fit) -> Iterator[Finding]:
    """Rows by the closed form, and levels by fits without them where those are few and quick."""
    if fit.design.p == 0 or fit.draws is not None or len(fit.estimate.components) > 1:
        return
    if fit.estimate.distribution.has_mean:
        cook = fit.cooks_distance(of="fixed")
        advice = "A single row moves the fixed effects by as much as they are uncertain: fit with and without it (fit.influence(by='row'))."
        yield from _largest("influence", "row", cook, advice)
    if not is_maximised(fit):
        return
    for term in fit.design.terms:
        if (
            not term.exchangeable
            or term.J * fit.convergence.seconds.get("optimise", np.inf) > SECONDS
            or not 3 <= term.J < fit.nobs
        ):
            continue
        with quietly():
            cook = influence.influence(fit, "group", term.group, False).cooks_distance
        advice = f"A single level moves the fixed effects by as much as they are uncertain: see fit.influence(group={term.group!r})."
        yield from _largest(f"influence, {term.group}", "level", cook, advice)


def _largest(check: str, unit: str, cook: pd.Series, advice: str) -> Iterator[Finding]:
    worst = float(cook.max())
    if np.isfinite(worst):
        what = f"largest Cook's distance, of {unit} {cook.idxmax()!r},"
        yield Finding(check, worst > INFLUENTIAL, what, advice, worst)
