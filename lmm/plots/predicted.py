"""Predictions over the data: the population's curve with its band, and each level's own.

Predictors that a picture does not vary are held at their mean, or at the most frequent category; within a level at the mean or
category of its own rows, those of random slopes among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lmm.arguments import choice
from lmm.errors import ArgumentError
from lmm.formula import Formula
from lmm.formula.columns.levels import encode
from lmm.plots.axes import (
    BLUE,
    CURVES,
    MARKERS,
    ORANGE,
    Drawn,
    handed_back,
    ink,
    one_group,
    panels,
    percent,
    scatter,
    shorten,
    some,
)
from lmm.plots.axes import POINTS as MANY
from lmm.results.tests.predictors import Variable, columns_in, variables

if TYPE_CHECKING:
    from lmm.results.fit import Fit

#: points on a curve
POINTS = 101
#: levels that have a panel each, and a line each in one panel
PANELS, LINES = 36, 300
#: quantiles at which a second, numeric predictor is held
SECOND = (0.1, 0.5, 0.9)
#: rows of which a sample is drawn where x has categories, and those of one level
SAMPLE = 2_000


def predictions(
    fit: Fit,
    x: str,
    by: str | None = None,
    level: float = 0.95,
    interval: str | None = "confidence",
    data: bool = True,
    type: str = "response",
    groups: bool | str = False,
    marginal: bool = False,
    ax: Drawn | None = None,
) -> Axes:
    """Predictions of the population along one predictor. See :meth:`lmm.plots.Plots.predictions`."""
    known = {v.name: v for v in _with_slopes(fit)}
    choice(x, "predictions: x", list(known))
    if by is not None:
        choice(by, "predictions: by", [name for name in known if name != x])
    one = panels(1, ax, (5.2, 3.8), "predictions")[0]
    along = known[x]
    base = _typical(fit, list(known.values()))
    if fit.estimate.distribution.category_types and type != "link":
        return _categories(fit, one, along, base, by, groups, type, marginal)
    second = [None] if by is None else _second(known[by])
    group = (
        None
        if groups is False
        else fit.design.terms[
            one_group(fit, None if groups is True else groups, "predictions", own_rows=True)
        ].group
    )
    if data and _shows_response(fit, type):
        _draw_data(fit, one, along, None if by is None else known[by], second)
    if group is not None:
        _level_curves(fit, one, along, group, type)
    at = _grid(along)
    for i, value in enumerate(second):
        rows = _rows(base, {x: at} if value is None else {x: at, str(by): [value] * len(at)})
        drawn = fit.predict(
            rows, re_form=False, type=type, interval=interval, level=level, marginal=marginal
        )
        frame = drawn if isinstance(drawn, pd.DataFrame) else drawn.to_frame("fit")
        color, dash = CURVES[i % len(CURVES)] if by is not None else (BLUE, "-")
        label = None if value is None else f"{shorten(by)} = {_shown(value)}"
        if along.categorical:
            place = np.arange(len(at)) + (
                0.0 if len(second) == 1 else 0.36 * (i / (len(second) - 1) - 0.5)
            )
            if interval is not None:
                one.vlines(
                    place, frame["lower"], frame["upper"], color=color, linewidth=2.0, zorder=4
                )
            one.plot(
                place,
                frame["fit"],
                linestyle="",
                marker=MARKERS[i % len(MARKERS)],
                markersize=6.0,
                color=color,
                label=label,
                zorder=5,
            )
        else:
            if interval is not None:
                one.fill_between(
                    at,
                    frame["lower"],
                    frame["upper"],
                    color=color,
                    alpha=0.22,
                    linewidth=0.0,
                    zorder=3,
                )
            one.plot(
                at, frame["fit"], color=color, linestyle=dash, linewidth=2.0, label=label, zorder=4
            )
    _name(one, fit, along, type)
    shown = known if groups is not False or marginal else {v.name for v in _predictors(fit)}
    held = {name: value for name, value in base.items() if name in shown and name not in (x, by)}
    band = "" if interval is None else f"{percent(level)} {interval} band"
    one.set_title("\n".join(part for part in (band, _held(held)) if part), fontsize="small")
    if (
        by is not None and along.categorical and ax is None
    ):  # intervals leave a legend no certain place inside
        one.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif by is not None:
        one.legend(fontsize="small")
    return one


def by_group(
    fit: Fit, group: str | None = None, x: str | None = None, levels: Sequence[object] | None = None, level: float = 0.95, columns: int |
    None = None, ax: Drawn | None = None,
) -> Drawn:  # fmt: skip
    """A panel per level: its data, its curve and the population's. See :meth:`lmm.plots.Plots.by_group`."""
    fit.estimate.distribution.require_mean(
        "by_group: categories are no numbers to draw a curve through; plot.predictions(x) draws their probabilities."
    )
    t = one_group(fit, group, "by_group", own_rows=True)
    term = fit.design.terms[t]
    along = _along(fit, t, x)
    which = _which_levels(fit, t, levels)
    size = (1.9, 1.75) if len(which) > 6 else (3.0, 2.6)
    axes = panels(
        len(which), ax, size, "by_group, one per level", columns=columns, sharex=True, sharey=True
    )
    at = _grid(along, 41)
    table = _level_rows(fit, term.group, which, along, at)
    own = fit.predict(table, re_form=_only(fit, term.group), interval="confidence", level=level)
    population = fit.predict(table, re_form=False)
    values, where = (
        along.values.to_numpy(),
        np.arange(len(at)) if along.categorical else np.asarray(at, dtype=float),
    )
    if along.categorical:
        values = encode(along.values, along.name).codes
    parts = term.rows_of_levels()
    for i, (j, one) in enumerate(zip(which, axes, strict=True)):
        rows = slice(i * len(at), (i + 1) * len(at))
        mine = parts[j][some(len(parts[j]), SAMPLE)]
        one.plot(
            values[mine],
            fit.design.y[mine],
            linestyle="",
            marker="o",
            markersize=3.0,
            color=ink(),
            alpha=0.7,
            markeredgewidth=0.0,
            label="data",
        )
        one.plot(
            where,
            population.iloc[rows],
            color=ORANGE,
            linestyle="--",
            linewidth=1.1,
            label="population",
        )
        one.fill_between(
            where,
            own["lower"].iloc[rows],
            own["upper"].iloc[rows],
            color=BLUE,
            alpha=0.2,
            linewidth=0.0,
        )
        one.plot(where, own["fit"].iloc[rows], color=BLUE, linewidth=1.5, label="level")
        one.set_title(shorten(term.levels[j], 18), fontsize="small", pad=3.0)
        one.tick_params(labelsize="x-small")
        if along.categorical:
            one.set_xticks(where, [shorten(v, 8) for v in at])
    if ax is None:
        figure: Any = axes[0].figure
        figure.supxlabel(shorten(along.name, 40), fontsize="medium")
        figure.supylabel(shorten(fit.design.response, 40), fontsize="medium")
        part = f"{len(which)} of {term.J:,} levels of " if len(which) < term.J else ""
        gap = " " if figure.get_figwidth() > 8.0 else "\n"
        figure.suptitle(
            f"{part}{shorten(term.group)}:{gap}each level (line, {percent(level)} band),{gap}population (dashed)",
            fontsize="medium",
        )
    return handed_back(axes)


def _predictors(fit: Fit) -> list[Variable]:
    return variables(fit.design)


def _with_slopes(fit: Fit) -> list[Variable]:
    """The predictors, and those of the random slopes that are not among them."""
    return variables(fit.design, with_slopes=True)


def _grid(variable: Variable, points: int = POINTS) -> list[Any]:
    """Values along a predictor: its levels, or equally spaced over its range."""
    if variable.categorical:
        return variable.levels
    values = variable.values.to_numpy(dtype=float)
    return list(np.linspace(values.min(), values.max(), points))


def _second(variable: Variable) -> list[object]:
    """Values at which a second predictor is held: its levels, or quantiles."""
    if variable.categorical or len(variable.levels) <= 3:
        return variable.levels
    return [float(v) for v in np.quantile(variable.values.to_numpy(dtype=float), SECOND)]


def _middle(values: pd.Series, categorical: bool) -> object:
    """The mean, or the most frequent category, of equally frequent ones the first in order."""
    return values.mode().iloc[0] if categorical else float(values.mean())


def _typical(fit: Fit, known: list[Variable]) -> dict[str, object]:
    """One row: predictors at their middle, and the grouping factors at the levels of the first row."""
    design = fit.design
    texts = [text for bar in design.formula.bars for text in bar.factors]
    row = {
        name: design.rows.used(design.frame.table.column(name)).iloc[0]
        for name in columns_in(design, texts)
    }
    return row | {v.name: _middle(v.values, v.categorical) for v in known}


def _rows(base: dict[str, object], varied: dict[str, Sequence[object]]) -> pd.DataFrame:
    m = len(next(iter(varied.values())))
    return pd.DataFrame({name: varied.get(name, [value] * m) for name, value in base.items()})


def _only(fit: Fit, group: str) -> Formula:
    """The model's random terms of one grouping factor, as a ``re_form``."""
    return replace(
        fit.design.formula, bars=tuple(bar for bar in fit.design.formula.bars if bar.group == group)
    )


def _level_rows(
    fit: Fit, group: str, which: Sequence[int], along: Variable, at: list[object]
) -> pd.DataFrame:
    """New rows, for each level the grid of one predictor with the others at the middle of the level's own rows."""
    design = fit.design
    term = next(term for term in design.terms if term.group == group)
    parts = term.rows_of_levels()
    texts = [text for bar in design.formula.bars for text in bar.factors]
    mine = [text for bar in design.formula.bars if bar.group == group for text in bar.factors]
    labels = columns_in(design, mine)
    columns: dict[str, list[object]] = {}
    known = {v.name: v for v in _with_slopes(fit)}
    for name in dict.fromkeys([*columns_in(design, texts), *known]):
        if name == along.name:
            columns[name] = list(at) * len(which)
            continue
        if name in known and name not in labels:
            variable = known[name]
            middles = [_middle(variable.values.iloc[parts[j]], variable.categorical) for j in which]
        else:
            values = design.rows.used(design.frame.table.column(name))
            middles = [values.iloc[parts[j][0]] for j in which]
        columns[name] = [value for value in middles for _ in at]
    return pd.DataFrame(columns)


def _level_curves(fit: Fit, ax: Axes, along: Variable, group: str, type: str) -> None:
    """A thin line for every level of a grouping factor; of too many for evenly spaced ones."""
    term = next(term for term in fit.design.terms if term.group == group)
    at, drawn = _grid(along, 41), [int(j) for j in some(term.J, LINES)]
    table = _level_rows(fit, group, drawn, along, at)
    curves = np.asarray(fit.predict(table, re_form=_only(fit, group), type=type)).reshape(
        len(drawn), len(at)
    )
    where = np.arange(len(at)) if along.categorical else np.asarray(at)
    alpha = float(np.clip(12.0 / len(drawn), 0.04, 0.5))
    ax.plot(where, curves.T, color=ink(), alpha=alpha, linewidth=0.8, zorder=2.5, label="_level")


def _shows_response(fit: Fit, type: str) -> bool:
    return fit.family is None or (type == "response") or fit.family.link.name == "identity"


def _draw_data(
    fit: Fit, ax: Axes, along: Variable, by: Variable | None, second: Sequence[object]
) -> None:
    """The rows; of too many in categories a sample."""
    y, rng = fit.design.y, np.random.default_rng(0)
    if along.categorical:
        values = encode(along.values, along.name).codes + rng.uniform(-0.12, 0.12, len(y))
    else:
        values = along.values.to_numpy(dtype=float)
    rows = np.arange(len(y))
    if along.categorical and len(y) > SAMPLE:
        rows = np.sort(rng.choice(len(y), SAMPLE, replace=False))
    if by is None or not (by.categorical or len(by.levels) <= 3):
        if len(rows) > MANY:
            scatter(ax, values, y)
        else:
            binary = set(np.unique(y)) <= {0.0, 1.0}
            look: dict[str, Any] = (
                {"marker": "|", "alpha": 0.25}
                if binary
                else {"marker": "o", "markersize": 3.5, "alpha": 0.35, "markeredgewidth": 0.0}
            )
            ax.plot(
                values[rows], y[rows], linestyle="", color=ink(), zorder=2, label="_data", **look
            )
        return
    for i, value in enumerate(second):
        mine = rows[(by.values == value).to_numpy()[rows]]
        color, marker = CURVES[i % len(CURVES)][0], MARKERS[i % len(MARKERS)]
        look = {"marker": marker, "markersize": 3.5, "alpha": 0.4, "markeredgewidth": 0.0}
        ax.plot(values[mine], y[mine], linestyle="", color=color, zorder=2, label="_data", **look)


def _categories(
    fit: Fit,
    ax: Axes,
    along: Variable,
    base: dict[str, object],
    by: object,
    groups: object,
    type: str,
    marginal: bool,
) -> Axes:
    """Probabilities of an ordinal model's categories along one predictor."""
    if by is not None or groups is not False:
        raise ArgumentError(
            "predictions: of an ordinal model the curves are its categories; by= and groups= go with type='link'."
        )
    if type not in ("response", "prob", "cumulative"):
        raise ArgumentError(
            f"predictions: type={type!r} is not drawn; an ordinal model has 'response', 'cumulative' and 'link'."
        )
    at = _grid(along)
    table = fit.predict(_rows(base, {along.name: at}), re_form=False, type=type, marginal=marginal)
    where = np.arange(len(at)) if along.categorical else np.asarray(at, dtype=float)
    for i, name in enumerate(table.columns):
        color, dash = CURVES[i % len(CURVES)]
        ax.plot(
            where,
            table[name],
            color=color,
            linestyle=dash,
            linewidth=1.8,
            marker="o" if along.categorical else None,
            label=shorten(name),
        )
    ax.set_ylim(-0.02, None)
    ax.legend(title=shorten(fit.design.response), fontsize="small", title_fontsize="small")
    _name(ax, fit, along, "link")
    ax.set_ylabel("cumulative probability" if type == "cumulative" else "probability")
    ax.set_title(
        _held(
            {
                name: value
                for name, value in base.items()
                if name != along.name and name in {v.name for v in _predictors(fit)}
            }
        ),
        fontsize="small",
    )
    return ax


def _name(ax: Axes, fit: Fit, along: Variable, type: str) -> None:
    ax.set_xlabel(shorten(along.name, 40))
    if along.categorical:
        levels = along.levels
        ax.set_xticks(
            range(len(levels)),
            [shorten(v, 16) for v in levels],
            rotation=0 if len("".join(map(str, levels))) < 50 else 30,
        )
        ax.set_xlim(-0.5, len(levels) - 0.5)
    ax.set_ylabel(
        shorten(fit.design.response, 40)
        if _shows_response(fit, type)
        else f"linear predictor of {shorten(fit.design.response)} ({fit.family.link.name})"
    )


def _held(held: dict[str, object]) -> str:
    text = ", ".join(f"{shorten(name)} = {_shown(value)}" for name, value in held.items())
    return f"at {text[:66]}{'…' if len(text) > 66 else ''}" if text else ""


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else shorten(value, 20)


def _along(fit: Fit, t: int, x: str | None) -> Variable:
    """The predictor of a picture by level: the one given, else the first that varies within levels, slopes first."""
    known = {v.name: v for v in _with_slopes(fit)}
    if x is not None:
        return known[choice(x, "by_group: x", list(known))]
    term = fit.design.terms[t]
    slopes = columns_in(
        fit.design, [bar.columns for bar in fit.design.formula.bars if bar.group == term.group]
    )
    for name in dict.fromkeys([*slopes, *known]):
        if name in known:
            codes = pd.factorize(known[name].values)[0]
            last = np.zeros(term.J, dtype=codes.dtype)
            last[term.codes] = codes
            if (last[term.codes] != codes).any():
                return known[name]
    raise ArgumentError(
        f"by_group: no predictor varies within the levels of {term.group}; plot.ranef() shows the levels."
    )


def _which_levels(fit: Fit, t: int, levels: Sequence[object] | None) -> list[int]:
    """Positions of the levels that get panels, by the size of their first effect; evenly spaced ones of too many."""
    term = fit.design.terms[t]
    order = np.argsort(fit.estimate.modes[t][:, 0], kind="stable")
    if levels is not None:
        known = [str(label) for label in term.levels]
        return [known.index(choice(str(label), "by_group: levels has", known)) for label in levels]
    if len(order) > PANELS:
        order = order[np.round(np.linspace(0, len(order) - 1, PANELS)).astype(np.intp)]
    return [int(j) for j in order]
