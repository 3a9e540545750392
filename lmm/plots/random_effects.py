"""Pictures of the random effects: a caterpillar with intervals, and their normality."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import ndtri

from lmm.arguments import choice
from lmm.arguments import generator as random_generator
from lmm.inference.criticism.envelope import (
    Envelope,
    envelope,
    normal_quantiles,
    order_statistics,
    positions,
)
from lmm.plots.axes import (
    BLUE,
    Drawn,
    handed_back,
    ink,
    level_height,
    name_levels,
    one_group,
    panels,
    percent,
    shorten,
    some,
    weights,
    zero_line,
)
from lmm.plots.quantiles import draw_quantiles

#: levels that a caterpillar draws at most
LEVELS = 2_000

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def ranef(
    fit: Fit,
    group: str | None = None,
    column: str | None = None,
    level: float = 0.95,
    sort: bool | str = True,
    ax: Drawn | None = None,
) -> Drawn:
    """Random effects of every level with intervals, a panel per column. See :meth:`lmm.plots.Plots.ranef`."""
    terms = fit.design.terms
    which = range(len(terms)) if group is None else [one_group(fit, group, "ranef")]
    if column is not None:
        names = list(dict.fromkeys(name for t in which for name in terms[t].columns))
        choice(column, "ranef: column", names)
    wanted = [
        (t, j) for t in which for j, name in enumerate(terms[t].columns) if column in (None, name)
    ]
    tallest = max(terms[t].J for t, _ in wanted)
    widest = max(len({j for s, j in wanted if s == t}) for t, _ in wanted)
    axes = panels(
        len(wanted),
        ax,
        (3.6, level_height(tallest)),
        "ranef, one per column",
        columns=widest if widest > 1 and column is None else None,
    )
    modes = fit.ranef()
    for (t, j), one in zip(wanted, axes, strict=True):
        term = terms[t]
        first = next(i for s, i in wanted if s == t)
        lower, upper = intervals(fit, t, j, level)
        frame = modes[term.group]
        if sort is True:
            order = np.argsort(frame.iloc[:, first].to_numpy(), kind="stable")
        elif sort is False:
            order = np.arange(term.J)[::-1]  # the first level on top
        else:
            order = np.argsort(
                frame[choice(sort, "ranef: sort", term.columns)].to_numpy(), kind="stable"
            )
        _caterpillar(one, frame.iloc[order, j].to_numpy(), lower[order], upper[order])
        name_levels(one, frame.index[order], term.group, LEVELS)
        if ax is None and j != first:
            one.set_ylabel("")
            one.set_yticklabels([])
        name = shorten(term.columns[j], 34)
        one.set_title(
            name if len(term.columns) > 1 or len(terms) == 1 else f"{name}, {shorten(term.group)}"
        )
        one.set_xlabel(f"{fit.estimate.centre_of_effects}, {percent(level)} interval")
    return handed_back(axes)


def intervals(fit: Fit, t: int, j: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits (J,) of one column of effects: normal from conditional variances, or quantiles of a posterior's draws."""
    known = fit._uncertainty
    sd = np.sqrt(np.maximum(np.diagonal(known.mode_covariances()[t], axis1=1, axis2=2), 0.0))
    lower, upper = known.effect_limits(t, sd, level)
    return lower[:, j], upper[:, j]


def _caterpillar(ax: Axes, values: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    """Values (J,) with their limits, one above the other; of too many evenly spaced ones."""
    J = len(values)
    width, alpha, size = weights(J)
    drawn = some(J, LEVELS)
    zero_line(ax, vertical=True)
    ax.hlines(drawn, lower[drawn], upper[drawn], color=ink(), alpha=alpha, linewidth=width)
    ax.plot(
        values[drawn],
        drawn,
        linestyle="",
        marker="o",
        markersize=size,
        color=BLUE,
        markeredgewidth=0.0,
    )
    ax.margins(x=0.04)


def ranef_qq(
    fit: Fit,
    group: str | None = None,
    level: float = 0.95,
    rng: None | int | np.random.Generator = 0,
    ax: Drawn | None = None,
) -> Drawn:
    """Standardised random effects against normal quantiles, a panel per column. See :meth:`lmm.plots.Plots.ranef_qq`."""
    t = one_group(fit, group, "ranef_qq")
    term = fit.design.terms[t]
    z = standardised(fit, t)
    axes = panels(term.k, ax, (3.6, 3.4), "ranef_qq, one per column")
    band = normal_band(term.J, level, rng)
    for j, one in enumerate(axes):
        if np.isfinite(z[:, j]).all():
            effect_quantiles(one, z[:, j], term.levels, band, level)
        else:
            one.text(
                0.5,
                0.5,
                "estimated variance is zero",
                transform=one.transAxes,
                ha="center",
                va="center",
            )
        one.set_title(f"{shorten(term.columns[j])}, {shorten(term.group)}")
        one.set_xlabel("normal quantile")
        one.set_ylabel("standardised random effect" if j == 0 or ax is not None else "")
    return handed_back(axes)


def normal_band(J: int, level: float, rng: None | int | np.random.Generator) -> Envelope:
    """Where J sorted standard normal values lie, at the places of :func:`lmm.inference.criticism.envelope.positions`."""
    uniform = order_statistics(J, positions(J), 400, random_generator(rng))
    return envelope(ndtri(uniform), level)


def effect_quantiles(
    ax: Axes,
    z: np.ndarray,
    levels: pd.Index,
    band: Envelope | None,
    level: float,
    color: str = BLUE,
    marker: str = "o",
    label: str = "_observed",
) -> None:
    """Standardised effects (J,) of one column against normal quantiles; those outside the simultaneous band by name."""
    order = np.argsort(z, kind="stable")
    expected, at = normal_quantiles(len(z)), positions(len(z))
    draw_quantiles(ax, expected, z[order], expected[at], band, level, color, marker, label)
    if band is not None:
        lower, upper = (
            np.interp(expected, expected[at], side) for side in (band.all_lower, band.all_upper)
        )
        label_outside(ax, expected, z[order], lower, upper, levels[order])


def standardised(fit: Fit, t: int) -> np.ndarray:
    """Modes (J, k) over the standard deviations that they should have; NaN for a variance of zero.

    Levels with few rows are drawn to zero and vary less. Posterior means are taken per their own standard deviation.
    """
    modes, T = np.asarray(fit.estimate.modes[t]), fit.estimate.factors[t]
    total = np.diag(T @ T.T) * fit.estimate.scale2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total > 0.0, modes / fit._uncertainty.effect_scale(t), np.nan))


def label_outside(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    names: pd.Index,
    most: int = 5,
) -> None:
    """Names beside the points that leave a band by the most; those near the middle are not what is to be named."""
    beyond = np.where(np.abs(y) > 1.0, np.maximum(y - upper, lower - y), -1.0)
    for i in np.argsort(-beyond)[:most]:
        if beyond[i] > 0.0:
            left = x[i] > 0.0
            ax.annotate(
                shorten(names[i], 16),
                (x[i], y[i]),
                (-5 if left else 5, 0),
                textcoords="offset points",
                fontsize="x-small",
                ha="right" if left else "left",
                va="center",
            )
