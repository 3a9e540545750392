"""Pictures of the residuals: against fitted values, their size, by level of a grouping factor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from lmm.inference.criticism.smoothing import lowess
from lmm.plots.axes import (
    BLUE,
    NAMED,
    ORANGE,
    Drawn,
    ink,
    level_height,
    name_levels,
    one_group,
    panels,
    scatter,
    shorten,
    weights,
    zero_line,
)
from lmm.results.rows.row_values import residuals as row_residuals

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def residuals(
    fit: Fit, type: str | None = None, span: float = 2.0 / 3.0, ax: Drawn | None = None
) -> Axes:
    """Residuals against fitted values with a smooth. See :meth:`lmm.plots.Plots.residuals`."""
    one = panels(1, ax, (4.8, 3.6), "residuals")[0]
    y, label = row_values(fit, type, False)
    x, one_label = predictor(fit)
    scatter(one, x, y)
    zero_line(one)
    smooth(one, fit, x, y, span)
    one.set_xlabel(one_label)
    one.set_ylabel(label)
    one.set_title("Residuals against fitted values")
    return one


def scale_location(fit: Fit, span: float = 2.0 / 3.0, ax: Drawn | None = None) -> Axes:
    """Size of scaled residuals against fitted values. See :meth:`lmm.plots.Plots.scale_location`."""
    one = panels(1, ax, (4.8, 3.6), "scale_location")[0]
    y, label = row_values(fit, None, True)
    y = np.sqrt(np.abs(y))
    x, one_label = predictor(fit)
    scatter(one, x, y)
    smooth(one, fit, x, y, span)
    one.set_ylim(bottom=0.0)
    one.set_xlabel(one_label)
    one.set_ylabel(f"√|{label}|")
    one.set_title("Size of residuals")
    return one


def residuals_by_group(
    fit: Fit, group: str | None = None, sort: bool = True, ax: Drawn | None = None
) -> Axes:
    """Residuals of each level as a box. See :meth:`lmm.plots.Plots.residuals_by_group`."""
    term = fit.design.terms[one_group(fit, group, "residuals_by_group")]
    y, label = row_values(fit, None, False)
    one = panels(1, ax, (5.2, level_height(term.J)), "residuals_by_group")[0]
    parts = [y[rows] for rows in term.rows_of_levels()]
    five = np.array([np.quantile(part, [0.0, 0.25, 0.5, 0.75, 1.0]) for part in parts])
    rank = np.argsort(five[:, 2], kind="stable") if sort else np.arange(term.J)[::-1]
    zero_line(one, vertical=True)
    places, few = np.arange(term.J), term.J <= NAMED
    five, levels = five[rank], term.levels[rank]
    if few:
        ends = [whiskers(parts[j], b) for b, j in zip(five, rank, strict=True)]
        one.hlines(
            places,
            [low for low, _, _ in ends],
            [high for _, high, _ in ends],
            color=ink(),
            linewidth=0.9,
        )
        one.barh(
            places,
            five[:, 3] - five[:, 1],
            left=five[:, 1],
            height=0.6,
            color=BLUE,
            alpha=0.55,
            linewidth=0.0,
            zorder=2,
        )
        one.vlines(five[:, 2], places - 0.3, places + 0.3, color=ink(), linewidth=1.6, zorder=3)
        beyond = [
            (value, place)
            for place, (_, _, values) in zip(places, ends, strict=True)
            for value in values
        ]
        one.plot(
            *np.array(beyond).reshape(-1, 2).T,
            linestyle="",
            marker=".",
            markersize=4.0,
            color=ink(),
            alpha=0.7,
            label="_beyond",
        )
    else:
        width, alpha, size = weights(term.J)
        one.hlines(places, five[:, 0], five[:, 4], color=ink(), alpha=0.5 * alpha, linewidth=width)
        one.hlines(places, five[:, 1], five[:, 3], color=BLUE, alpha=0.9, linewidth=2.0 * width)
        one.plot(
            five[:, 2],
            places,
            linestyle="",
            marker="o",
            markersize=size,
            color=ink(),
            markeredgewidth=0.0,
        )
    name_levels(one, levels, term.group)
    one.set_xlabel(label if few else f"{label}: range, quartiles, median")
    one.set_title("Residuals by level")
    return one


def whiskers(values: np.ndarray, five: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The furthest values within one and a half box lengths of the box, and those beyond."""
    reach = 1.5 * (five[3] - five[1])
    inside = values[(values >= five[1] - reach) & (values <= five[3] + reach)]
    low, high = min(inside.min(), five[1]), max(inside.max(), five[3])
    return float(low), float(high), values[(values < low) | (values > high)]


def predictor(fit: Fit) -> tuple[np.ndarray, str]:
    """Fitted values (n,) of a linear model, linear predictors of a generalized one, and what they are called."""
    eta = np.asarray(fit._eta)
    if fit.family is None:
        return eta, f"fitted {shorten(fit.design.response, 36)}"
    return eta, f"linear predictor of {shorten(fit.design.response, 22)} ({fit.family.link.name})"


def row_values(fit: Fit, type: str | None, scaled: bool) -> tuple[np.ndarray, str]:
    """Residuals (n,) that have one variance and, where the model holds, mean zero in every row; and what they are called."""
    linear = fit.family is None
    if type is None:
        plain = linear and fit.design.weights is None and not scaled
        type = "response" if plain else fit.estimate.distribution.standard_residual
    values = row_residuals(fit.design, fit.estimate, fit._eta, type, scaled)
    if linear and (scaled or type == "response"):
        return values, "scaled residual" if scaled else "residual"
    return values, f"{'Pearson' if type == 'pearson' else type} residual"


def smooth(ax: Axes, fit: Fit, x: np.ndarray, y: np.ndarray, span: float) -> None:
    """Lowess through the points: robust in a linear model, local means in others, whose residuals are skewed."""
    at, curve = lowess(x, y, span, fit.estimate.distribution.smoothing_rounds)
    ax.plot(at, curve, color=ORANGE, linewidth=1.8, label="lowess", zorder=3)
