"""Pictures of the residuals: against fitted values, their size, by level of a grouping factor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lmm.inference.criticism.smoothing import lowess
from lmm.plots.axes import (
    BLUE,
    NAMED,
    ORANGE,
    Drawn,
    headed,
    ink,
    level_height,
    name_levels,
    one_group,
    panels,
    scatter,
    shorten,
    some,
    weights,
    zero_line,
)
from lmm.results.rows.row_values import residuals as row_residuals

#: points that a curve is drawn through at most, and bins of binary residuals
SMOOTHED, BINS = 20_000, 80

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def residuals(
    fit: Fit, type: str | None = None, span: float = 2.0 / 3.0, ax: Drawn | None = None
) -> Axes:
    """Residuals against fitted values with a smooth. See :meth:`lmm.plots.Plots.residuals`."""
    one = panels(1, ax, (4.8, 3.6), "residuals")[0]
    y, label = row_values(fit, type, False)
    if type is None and is_binary(fit):
        x, one_label = population_predictor(fit)
        bins = binned(x, y)
        draw_bins(one, bins, 0.0, 2.0 / np.sqrt(bins.size))
        headed(one, "Binned residuals", "19 of 20 means should lie between the lines")
        label = f"mean {label}"
    else:
        x, one_label = predictor(fit)
        scatter(one, x, y)
        zero_line(one)
        smooth(one, fit, x, y, span)
        headed(one, "Residuals against fitted values", "the curve should be level, at zero")
    one.set_xlabel(one_label)
    one.set_ylabel(label)
    return one


def scale_location(fit: Fit, span: float = 2.0 / 3.0, ax: Drawn | None = None) -> Axes:
    """Size of scaled residuals against fitted values. See :meth:`lmm.plots.Plots.scale_location`."""
    one = panels(1, ax, (4.8, 3.6), "scale_location")[0]
    y, label = row_values(fit, None, True)
    if is_binary(fit):
        x, one_label = population_predictor(fit)
        mu = fit.estimate.distribution.mean(np.asarray(fit._eta))
        bins = binned(x, y**2)
        variance = binned(x, 1.0 / np.maximum(mu * (1.0 - mu), 1e-12) - 4.0)
        draw_bins(one, bins, float(np.mean(y**2)), 2.0 * np.sqrt(variance.y / bins.size))
        headed(one, "Size of residuals", "19 of 20 means should lie between the lines")
        label = f"mean squared {label}"
    else:
        x, one_label = predictor(fit)
        y = np.sqrt(np.abs(y))
        scatter(one, x, y)
        smooth(one, fit, x, y, span)
        headed(one, "Size of residuals", "the curve should be level")
        one.set_ylim(bottom=0.0)
        label = f"√|{label}|"
    one.set_xlabel(one_label)
    one.set_ylabel(label)
    return one


class Bins(NamedTuple):
    """Means (m,) of x and y in bins of x, and how many points each bin has."""

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray


def binned(x: np.ndarray, y: np.ndarray) -> Bins:
    """About sqrt(n) bins at quantiles of x, no more than 80; equal values of x are in one bin (Gelman & Hill, 2007, section 5.6)."""
    wanted = int(np.clip(np.sqrt(len(x)), 1, BINS))
    edges = np.unique(np.quantile(x, np.linspace(0.0, 1.0, wanted + 1)))
    place = np.searchsorted(edges[1:-1], x, side="right")
    count = np.bincount(place)
    used = count > 0
    count = count[used]
    return Bins(np.bincount(place, x)[used] / count, np.bincount(place, y)[used] / count, count)


def draw_bins(ax: Axes, bins: Bins, centre: float, reach: np.ndarray) -> None:
    """The means of y and, about what is expected, the limits of two standard errors."""
    ax.axhline(centre, color=ink(), alpha=0.4, linewidth=0.8, zorder=1)
    for sign in (-1.0, 1.0):
        ax.plot(
            bins.x, centre + sign * reach, color=ink(), alpha=0.6, linewidth=0.9, label="_limits"
        )
    ax.plot(
        bins.x,
        bins.y,
        linestyle="",
        marker="o",
        markersize=4.0,
        color=BLUE,
        markeredgewidth=0.0,
        label="_means",
    )


def is_binary(fit: Fit) -> bool:
    """Whether every response is the outcome of one trial, so that residuals lie on two curves, and there are bins to average them in."""
    if not fit.estimate.distribution.weights_are_trials:
        return False
    if float(np.ptp(fit.design.rows.fixed_part(fit.estimate.beta))) == 0.0:
        return False
    y, weights = fit.design.y, fit.design.weights
    single = weights is None or bool(np.all(weights == 1.0))
    return single and bool(np.all((y == 0.0) | (y == 1.0)))


def residuals_by_group(
    fit: Fit, group: str | None = None, sort: bool = True, ax: Drawn | None = None
) -> Axes:
    """Residuals of each level as a box. See :meth:`lmm.plots.Plots.residuals_by_group`."""
    term = fit.design.terms[one_group(fit, group, "residuals_by_group")]
    y, label = row_values(fit, None, False)
    one = panels(1, ax, (5.2, level_height(term.J)), "residuals_by_group")[0]
    parts = np.split(y[np.lexsort((y, term.codes))], np.cumsum(term.counts())[:-1])
    five = five_numbers(parts)
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
    headed(one, "Residuals by level", "boxes should be about zero, and alike")
    return one


def five_numbers(parts: list[np.ndarray]) -> np.ndarray:
    """(J, 5) least value, quartiles and largest value of sorted values, quantiles as NumPy's."""
    values = np.concatenate(parts)
    count = np.array([len(part) for part in parts])
    starts = np.cumsum(count) - count
    place = (count[:, None] - 1.0) * np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, count[:, None] - 1)
    low, high = values[starts[:, None] + below], values[starts[:, None] + above]
    return np.asarray(low + (place - below) * (high - low))


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


def population_predictor(fit: Fit) -> tuple[np.ndarray, str]:
    """Linear predictors (n,) without the random effects, and what they are called.

    Against these the residuals of a right model have no trend. Predicted effects are drawn to zero, so that residuals rise with them.
    """
    fixed = fit.design.rows.fixed_part(fit.estimate.beta)
    return fixed, f"fixed part of {shorten(fit.design.response, 22)} ({fit.family.link.name})"


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
    """Lowess through the points, of too many through evenly spaced ones in the order of x.

    It is robust in a linear model, and has local means in others, whose residuals are skewed.
    """
    if len(x) > SMOOTHED:
        order = np.argsort(x)[some(len(x), SMOOTHED)]
        x, y = x[order], y[order]
    at, curve = lowess(x, y, span, fit.estimate.distribution.smoothing_rounds)
    ax.plot(at, curve, color=ORANGE, linewidth=1.8, label="lowess", zorder=3)
