"""Pictures of what refits tell: replicates of a bootstrap, and what leaving out a level or a row changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lmm.arguments import choice, instance
from lmm.errors import ArgumentError
from lmm.inference.criticism.smoothing import bandwidth, density
from lmm.plots.axes import (
    BLUE,
    ORANGE,
    Drawn,
    handed_back,
    ink,
    panels,
    percent,
    shorten,
    zero_line,
)

if TYPE_CHECKING:
    from lmm.results.fit import Fit
    from lmm.results.rows.bootstrap import Bootstrap
    from lmm.results.rows.influence import Influence


def bootstrap(
    fit: Fit, bootstrap: Bootstrap | None = None, parm: str | Sequence[str] | None = None, level: float = 0.95, type: str = "percentile",
    nsim: int = 500, rng: None | int | np.random.Generator = 0, ax: Drawn | None = None,
) -> Drawn:  # fmt: skip
    """Distribution of each statistic over the replicates. See :meth:`lmm.plots.Plots.bootstrap`."""
    given = "plot.bootstrap: bootstrap"
    found = (
        fit.bootstrap(nsim, rng=rng)
        if bootstrap is None
        else instance(bootstrap, given, "Bootstrap", "fit.bootstrap()")
    )
    names = [str(name) for name in found.replicates.columns]
    if parm is not None:
        wanted = [parm] if isinstance(parm, str) else list(parm)
        names = [choice(name, "bootstrap: parm", names) for name in wanted]
    axes = panels(len(names), ax, (3.4, 2.7), "bootstrap, one per statistic")
    limits = found.confint(level=level, type=type)
    for name, one in zip(names, axes, strict=True):
        values = found.replicates[name].to_numpy(dtype=float)
        _replicates(one, values[np.isfinite(values)])
        for end in map(float, limits.to_numpy()[list(limits.index).index(name)]):
            if np.isfinite(end):
                one.axvline(end, color=ink(), linestyle="--", linewidth=1.0, label="_limit")
        one.axvline(float(found.estimates[name]), color=ORANGE, linewidth=1.8, label="_estimate")
        one.set_title(shorten(name, 34), fontsize="medium")
        one.set_yticks([])
    if ax is None:
        figure = axes[0].figure
        count, lost = len(found.replicates), len(found.failures)
        failed = f" ({lost:,} failed)" if lost else ""
        figure.suptitle(
            f"{count:,} {found.kind} replicates{failed}: estimate (solid), {percent(level)} {type} interval (dashed)",
            fontsize="small",
        )
    return handed_back(axes)


def _replicates(ax: Axes, values: np.ndarray) -> None:
    """A histogram with its density; a bar where the values do not vary. Values on a boundary are seen as a bar of their own."""
    if not len(values):
        ax.text(
            0.5, 0.5, "no replicate is finite", transform=ax.transAxes, ha="center", va="center"
        )
        return
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        ax.bar(
            [values[0]], [1.0], width=0.1 * max(abs(float(values[0])), 1.0), color=BLUE, alpha=0.45
        )
        return
    low, high = np.quantile(values, [0.001, 0.999])
    ax.hist(
        values,
        bins=np.linspace(
            low, high, int(np.clip(2.0 * len(values) ** (1 / 3), 10, 40)) + 1
        ).tolist(),
        density=True,
        color=BLUE,
        alpha=0.4,
        linewidth=0.0,
    )
    at = np.linspace(
        max(values.min(), low - 2 * bandwidth(values)),
        min(values.max(), high + 2 * bandwidth(values)),
        201,
    )
    ax.plot(at, density(values, at), color=BLUE, linewidth=1.4)


def influence(
    fit: Fit, influence: Influence | None = None, labels: int = 5, ax: Drawn | None = None
) -> Drawn:
    """Cook's distances and dfbetas of leaving out each level or row. See :meth:`lmm.plots.Plots.influence`."""
    found = (
        fit.influence()
        if influence is None
        else instance(influence, "plot.influence: influence", "Influence", "fit.influence()")
    )
    if found.dfbetas.shape[1] == 0:
        raise ArgumentError("influence: the model has no fixed effects to move.")
    axes = panels(2, ax, (4.6, 4.2), "influence, two")
    distances(axes[0], found.cooks_distance, labels)
    units = f"{len(found.cooks_distance):,} {'rows' if found.by == 'row' else f'levels of {shorten(found.by)}'}"
    axes[0].set_xlabel(f"{units}, left out in turn (dashed: 4/{len(found.cooks_distance):,})")
    axes[0].set_title("Cook's distance")
    _dfbetas(axes[1], found.dfbetas, labels)
    axes[1].set_title("dfbetas")
    return handed_back(axes)


def distances(ax: Axes, cook: pd.Series, labels: int) -> None:
    """A stem per level or row, the largest by name."""
    values, places = cook.to_numpy(dtype=float), np.arange(len(cook))
    ax.vlines(
        places, 0.0, values, color=ink(), alpha=0.6, linewidth=1.0 if len(cook) <= 200 else 0.5
    )
    if len(cook) <= 200:
        ax.plot(places, values, linestyle="", marker="o", markersize=4.0, color=BLUE)
    cut = 4.0 / len(cook)
    ax.axhline(cut, color=ink(), alpha=0.5, linestyle="--", linewidth=0.8, label="_cut")
    ax.set_ylim(0.0, 1.12 * max(float(np.nanmax(values, initial=0.0)), cut))
    ax.set_xlim(-1.0 - 0.02 * len(cook), len(cook) + 0.02 * len(cook))
    ax.set_xticks([])
    for i in np.argsort(-np.nan_to_num(values), kind="stable")[:labels]:
        ax.annotate(
            shorten(cook.index[i], 14),
            (i, values[i]),
            (0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="x-small",
        )


def _dfbetas(ax: Axes, table: pd.DataFrame, labels: int) -> None:
    """A row of points per coefficient, the largest of all by name."""
    values = table.to_numpy(dtype=float)
    names = list(table.columns)
    places = np.arange(len(names))[::-1]
    zero_line(ax, vertical=True)
    for place, column in zip(places, values.T, strict=True):
        ax.plot(
            column,
            np.full(len(column), place),
            linestyle="",
            marker="|",
            markersize=11.0,
            color=BLUE,
            alpha=float(np.clip(30.0 / len(column), 0.15, 0.9)),
        )
    cut = 2.0 / np.sqrt(len(table))
    for sign in (-1.0, 1.0):
        ax.axvline(sign * cut, color=ink(), alpha=0.5, linestyle="--", linewidth=0.8)
    largest = np.argsort(-np.nan_to_num(np.abs(values)), axis=None, kind="stable")[:labels]
    for j, place in enumerate(places):
        mine = sorted(
            (int(flat) // len(names) for flat in largest if int(flat) % len(names) == j),
            key=lambda i: float(values[i, j]),
        )
        for turn, i in enumerate(mine):  # above, below, above: neighbours may be close
            up = turn % 2 == 0
            at = (0, 7 if up else -7)
            look: dict[str, Any] = {
                "ha": "center",
                "va": "bottom" if up else "top",
                "fontsize": "x-small",
            }
            ax.annotate(
                shorten(table.index[i], 12),
                (values[i, j], place),
                at,
                textcoords="offset points",
                **look,
            )
    ax.margins(x=0.12)
    ax.set_yticks(
        places,
        [shorten(name, 24) for name in names],
        fontsize="small" if len(names) <= 25 else "xx-small",
    )
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(f"change in standard errors (dashed: ±2/√{len(table):,})")
