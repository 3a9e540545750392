"""Estimated marginal means, contrasts between them and trends: tables of linear functions of the fixed effects.

A mean is l'beta over the reference grid (:mod:`lmm.results.tests.reference_grid`), its standard error and degrees of freedom those
of a contrast (:mod:`lmm.inference.tests.ddf`). On the response's scale means are carried by the inverse link, standard errors
by its slope, limits as they are; contrasts under a log or logit link become ratios and odds ratios.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.design.design import Design
from lmm.errors import ArgumentError, nearest
from lmm.formula.text.tokens import QUOTED, unquote
from lmm.inference.intervals.coverage import check_level, tails
from lmm.inference.tests import multiplicity
from lmm.inference.tests.contrast_coefficients import ADJUSTMENTS, coefficients, contrast_kind
from lmm.inference.tests.ddf import KENWARD_ROGER, TITLES, Ddf
from lmm.model.records import Draws, Estimate
from lmm.results.rows.transformed import Function, Transformed, transformed
from lmm.results.tables.fixed import kept_positions
from lmm.results.tests.dependence import dependencies
from lmm.results.tests.predictors import interactions, variables
from lmm.results.tests.reference_grid import Grid, Linear, averages, reference_grid
from lmm.results.text.render import html_lines

TYPES = ("link", "response")
AUTO = "auto"
#: rows up to which Kenward-Roger's method is taken where none is named
SMALL = 3000
#: step of a trend, as a share of the covariate's range
STEP = 1e-3
_NAME = re.compile(f"(?:{QUOTED.pattern}|[^+*:,`])+")
RATIOS = {"log": "ratio", "logit": "odds_ratio"}

#: a fit's degrees of freedom by the name of a method
Degrees = Callable[[str | None], Ddf]


class MarginalMeans(pd.DataFrame):
    """A DataFrame that prints its notes below (``attrs["notes"]``); what is made from it is a plain DataFrame."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        return "\n".join(
            [
                self.to_string(index=False, float_format=lambda v: f"{v:.4g}"),
                "",
                *self.attrs.get("notes", ()),
            ]
        )

    def _repr_html_(self) -> str:
        body = pd.DataFrame(self).to_html(index=False, float_format=lambda v: f"{v:.4g}", border=0)
        return body + html_lines(self.attrs.get("notes", ()), "p", "margin:0;font-size:smaller")


@dataclass(frozen=True)
class Request:
    """What is asked for: the variables, the factors within whose levels contrasts are taken, and how."""

    specs: tuple[str, ...]
    by: tuple[str, ...]
    contrast: object
    adjust: str | None
    type: str
    level: float
    weights: str
    ddf: str | None


def request(
    specs: object,
    by: object,
    contrast: object,
    adjust: str | None,
    type: str,
    level: float,
    weights: str,
    ddf: str | None,
) -> Request:
    """The arguments read: ``"pairwise ~ a | b"`` names contrast, specs and by at once."""
    text = specs if isinstance(specs, str) else None
    if text is not None:
        left, tilde, right = _parted(text, "~")
        if tilde:
            contrast, text = left.strip() or contrast, right
        text, _, conditional = _parted(text, "|")
        specs = _split(text)
        by = [*_split(conditional), *_names(by)]
    arguments.choice(type, "emmeans: type", TYPES)
    groups = tuple(dict.fromkeys(_names(by)))
    own = tuple(name for name in dict.fromkeys(_names(specs)) if name not in groups)
    if contrast is not None:
        kind = contrast_kind(contrast)
        adjust = multiplicity.check_method(
            adjust or ADJUSTMENTS[kind], kind in ("pairwise", "revpairwise")
        )
    else:
        adjust = multiplicity.check_method(adjust or "none", False)
    return Request(own, groups, contrast, adjust, type, check_level(level), weights, ddf)


def _names(given: object) -> list[str]:
    if given is None:
        return []
    if isinstance(given, str):
        return _split(given)
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise ArgumentError(
            f"emmeans: variables are named by a string or a list of strings, not {given!r}."
        )
    return list(given)


def _parted(text: str, mark: str) -> tuple[str, str, str]:
    """``text.partition(mark)``, at a mark that is not in backticks."""
    for found in re.finditer(f"{QUOTED.pattern}|{re.escape(mark)}", text):
        if found.group() == mark:
            return text[: found.start()], mark, text[found.end() :]
    return text, "", ""


def _split(text: str) -> list[str]:
    """Names joined by ``+``, ``*``, ``:`` or commas; ``1`` for none."""
    pieces = [piece.group().strip() for piece in _NAME.finditer(text)]
    return [unquote(piece) for piece in pieces if piece and piece != "1"]


def tabulate(
    design: Design,
    estimate: Estimate,
    degrees: Degrees,
    at: Mapping[str, object] | None,
    ask: Request,
) -> MarginalMeans:
    """Means over the reference grid, or contrasts between them. See :meth:`lmm.Fit.emmeans`."""
    if ask.type == "response":
        estimate.distribution.require_mean(
            "emmeans: {kind} model has marginal means of its linear predictor, type='link'; predict() has probabilities."
        )
    grid = reference_grid(design, at)
    ask = _with_outer(grid, ask)
    means = averages(grid, [*ask.specs, *ask.by], ask.weights)
    return _table(design, estimate, degrees, grid, means, ask, "emmean")


def trends(
    design: Design,
    estimate: Estimate,
    degrees: Degrees,
    var: str,
    at: Mapping[str, object] | None,
    ask: Request,
) -> MarginalMeans:
    """Slopes in a covariate, averaged like means: central differences of the grid. See :meth:`lmm.Fit.emtrends`."""
    known = {v.name: v for v in variables(design)}
    if var not in known or known[var].categorical:
        options = [name for name, v in known.items() if not v.categorical]
        raise ArgumentError(
            f"emtrends: {var!r} is no covariate of the fixed effects; those are {', '.join(options) or 'none'}.{nearest(var, options)}"
        )
    values = known[var].values.to_numpy(dtype=float)
    half = 0.5 * STEP * (float(np.ptp(values)) or 1.0)
    # a covariate of two values is taken at its mean here: its slope is that of a straight line
    at = {**({} if at and var in at else {var: [float(values.mean())]}), **(at or {})}
    upper, lower = (reference_grid(design, at, (var, sign * half)) for sign in (1.0, -1.0))
    none = np.zeros(len(upper.L))
    grid = Grid(
        upper.levels,
        upper.codes,
        (upper.L - lower.L) / (2.0 * half),
        none,
        upper.frequency,
        none,
        upper.nests,
    )
    ask = _with_outer(grid, ask)
    means = averages(grid, [*ask.specs, *ask.by], ask.weights)
    return _table(design, estimate, degrees, grid, means, ask, f"{var}_trend")


def _with_outer(grid: Grid, ask: Request) -> Request:
    """A nested factor has a mean per level of what it is nested in, as in R's emmeans."""
    named = (*ask.specs, *ask.by)
    outer = tuple(
        dict.fromkeys(
            other for name in named for other in grid.nests.get(name, ()) if other not in named
        )
    )
    return replace(ask, specs=(*ask.specs, *outer))


def _table(
    design: Design,
    estimate: Estimate,
    degrees: Degrees,
    grid: Grid,
    means: Linear,
    ask: Request,
    name: str,
) -> MarginalMeans:
    method = chosen_method(design, estimate, ask.ddf)
    notes = _averaged(design, grid, means, ask)
    found = (
        means.table.groupby(list(ask.by), sort=False, observed=True).indices
        if ask.by
        else {(): range(len(means.table))}
    )
    groups = [np.asarray(rows) for rows in found.values()]
    weights: list[np.ndarray] = []
    if ask.contrast is not None:
        means, groups, weights = _contrasts(means, groups, ask)
        name = "estimate"
    L, ok = (
        means.L[:, kept_positions(design)],
        dependencies(design).estimable(means.L, means.constant),
    )
    L = np.where(ok[:, None], L, 0.0)
    value = np.where(ok, L @ estimate.beta + np.where(ok, means.offset, 0.0), np.nan)
    known, draws = None, estimate.draws_for(effects=False)
    if draws is not None:
        columns = _posterior(draws, L, means.offset, ok, value, ask.level)
    else:
        known = degrees(method)
        columns = _numbers(known, L, ok, value, groups, ask, weights)
        if known.message:
            notes.append(known.message)
    lost = bool(columns["estimate"].isna().any())
    columns, said = _scaled(
        estimate,
        transformed(design.response) if estimate.family is None else None,
        columns,
        ask,
        name,
    )
    notes += said
    if known is not None:
        notes.append(
            f"degrees of freedom: {TITLES[known.method] if known.method else 'infinite (normal tests and intervals)'}"
        )
    if lost:
        notes.append("NaN: not estimable, for want of observations")
    if ask.adjust != "none" and max(map(len, groups)) > 1:
        notes.append(
            f"adjusted for several tests: {ask.adjust}"
            + (" (limits: bonferroni)" if ask.adjust in ("holm", "fdr") else "")
        )
    out = MarginalMeans(pd.concat([means.table, columns], axis=1))
    out.attrs.update(
        notes=tuple(notes),
        ddf=None if known is None else known.method,
        adjust=ask.adjust,
        type=ask.type,
        level=ask.level,
    )
    return out


def chosen_method(design: Design, estimate: Estimate, ddf: str | None) -> str | None:
    """``"auto"``: Kenward-Roger's method for REML fits of up to ``SMALL`` rows, else Satterthwaite's; none for generalized models."""
    if ddf != AUTO:
        return ddf
    usual = estimate.distribution.default_ddf
    return KENWARD_ROGER if usual and estimate.reml and design.n <= SMALL else usual


def _averaged(design: Design, grid: Grid, means: Linear, ask: Request) -> list[str]:
    """What the means are averages over, and a warning where they hide an interaction."""
    over = [
        name for name, values in grid.levels.items() if name not in means.table and len(values) > 1
    ]
    nested = [f"{name} is nested in {' and '.join(outer)}" for name, outer in grid.nests.items()]
    if not over:
        return nested
    hidden = [
        term for term in interactions(design) if term & set(over) and term & {*ask.specs, *ask.by}
    ]
    said = [*nested, f"averaged over {', '.join(over)}, weights {ask.weights}"]
    if hidden:
        with_them = [name for name in over if any(name in term for term in hidden)]
        said.append(
            f"{', '.join(with_them)}: part of an interaction, so that no level need have differences like these averages'"
        )
    return said


def _contrasts(
    means: Linear, groups: list[np.ndarray], ask: Request
) -> tuple[Linear, list[np.ndarray], list[np.ndarray]]:
    """Contrasts of the means within each group, where each group's are, and their weights of its means."""
    tables, L, offset, constant, places, weights, start = [], [], [], [], [], [], 0
    for rows in groups:
        labels = [
            " ".join(_text(v) for v in row)
            for row in means.table.iloc[rows][list(ask.specs)].itertuples(index=False)
        ]
        names, M = coefficients(ask.contrast, labels)
        own = pd.DataFrame({"contrast": names})
        for group in ask.by:
            own[group] = pd.Series(
                [means.table[group].iloc[rows[0]]] * len(names), dtype=means.table[group].dtype
            )
        tables.append(own)
        L.append(M @ means.L[rows])
        offset.append(M @ means.offset[rows])
        constant.append(M @ means.constant[rows])
        weights.append(M)
        places.append(np.arange(start, start + len(names)))
        start += len(names)
    table = pd.concat(tables, ignore_index=True)
    return (
        Linear(table, np.vstack(L), np.concatenate(offset), np.concatenate(constant)),
        places,
        weights,
    )


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


def _numbers(
    known: Ddf,
    L: np.ndarray,
    ok: np.ndarray,
    value: np.ndarray,
    groups: list[np.ndarray],
    ask: Request,
    weights: list[np.ndarray],
) -> pd.DataFrame:
    """``estimate, std_error, df, lower, upper`` and, of contrasts and trends, ``statistic, p_value``, on the scale of the predictor."""
    se, df = (np.where(ok, x, np.nan) for x in known.t(L))
    with np.errstate(invalid="ignore", divide="ignore"):
        t = value / se
    p = multiplicity.two_sided(t, df)
    margin = np.full(len(value), np.nan)
    assert ask.adjust is not None
    for i, rows in enumerate(groups):
        n = int(ok[rows].sum())
        # Tukey's family are the means that have a part in what can be estimated
        families = int((weights[i][ok[rows]] != 0.0).any(axis=0).sum()) if weights else 0
        p[rows] = multiplicity.adjusted(p[rows], t[rows], df[rows], ask.adjust, families)
        margin[rows] = se[rows] * multiplicity.critical_values(
            ask.level, df[rows], ask.adjust, n, families
        )
    columns = {
        "estimate": value,
        "std_error": se,
        "df": df,
        "lower": value - margin,
        "upper": value + margin,
    }
    return pd.DataFrame(columns | {"statistic": t, "p_value": p})


def _posterior(
    record: Draws,
    L: np.ndarray,
    offset: np.ndarray,
    ok: np.ndarray,
    value: np.ndarray,
    level: float,
) -> pd.DataFrame:
    """Means, standard deviations and quantiles of the draws."""
    draws = record.beta.reshape(record.count, record.beta.shape[-1]) @ L.T + offset
    lower, upper = np.quantile(draws, tails(level), axis=0)
    columns = {
        "estimate": value,
        "std_error": draws.std(axis=0, ddof=1),
        "lower": lower,
        "upper": upper,
    }
    return pd.DataFrame({name: np.where(ok, column, np.nan) for name, column in columns.items()})


def _scaled(
    estimate: Estimate, response: Transformed | None, columns: pd.DataFrame, ask: Request, name: str
) -> tuple[pd.DataFrame, list[str]]:
    """The columns on the scale asked for and under their names."""
    means = name == "emmean"
    if means:  # that a mean is zero is seldom a question
        columns = columns.drop(columns=["statistic", "p_value"], errors="ignore")
    if response is not None:
        return _transformed_back(response, columns, ask, name)
    family = estimate.distribution
    if ask.type in family.predictor_types:
        return columns.rename(columns={"estimate": name}), list(family.predictor_notes)
    link = family.link.name
    if not means and name != "estimate":
        slopes = [f"slopes of the linear predictor ({link} link)"]
        return columns.rename(columns={"estimate": name}), slopes
    if not means and link not in RATIOS:
        return columns, [f"contrasts on the scale of the linear predictor ({link} link)"]
    said = "limits carried over from the scale of the linear predictor"
    if means:
        back = partial(family.expected, phi=estimate.phi)
        slope = partial(family.expected_slope, phi=estimate.phi)
        return _turned(columns, back, slope, "response"), [said]
    said += ", and so are tests, of a ratio of 1"
    return _turned(columns, np.exp, np.exp, RATIOS[link]), [said]


def _transformed_back(
    response: Transformed, columns: pd.DataFrame, ask: Request, name: str
) -> tuple[pd.DataFrame, list[str]]:
    """Means of a transformed response carried back, differences of logarithms as ratios; as they are where that has no meaning."""
    means, scale = name == "emmean", f"on the scale of {response.text}"
    ratios = name == "estimate" and response.base
    if ask.type == "link" or response.inverse is None or not (means or ratios):
        lost = ask.type != "link" and response.inverse is None
        why = ", which is not carried back" if lost else ""
        return columns.rename(columns={"estimate": name}), [scale + why]
    said = f"carried back from the scale of {response.text}, limits too"
    if means:
        return _turned(columns, response.inverse, response.slope, "response"), [said]
    log = np.log(response.base)
    ratio = _turned(columns, lambda v: np.exp(log * v), lambda v: log * np.exp(log * v), "ratio")
    return ratio, [f"{said}; tests are of a ratio of 1"]


def _turned(columns: pd.DataFrame, turn: Function, slope: Function, name: str) -> pd.DataFrame:
    """Estimates and limits on another scale, with standard errors by the delta method."""
    estimate, one, other = (columns[of].to_numpy() for of in ("estimate", "lower", "upper"))
    one, other = turn(one), turn(other)
    falls = one > other
    out = columns.assign(
        estimate=turn(estimate),
        std_error=columns["std_error"] * np.abs(slope(estimate)),
        lower=np.where(falls, other, one),
        upper=np.where(falls, one, other),
    )
    return out.rename(columns={"estimate": name})
