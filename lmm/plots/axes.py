"""What every picture shares: Axes in and out, colours, and axes with a place for each level of a factor.

Nothing here shows a figure or changes a style. Lines of reference and text take the colour of the style in use, so that a dark one works;
the two colours beside it (Okabe & Ito's blue and orange) differ in lightness too, and never alone tell two things apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes

from lmm.arguments import choice
from lmm.errors import ArgumentError

if TYPE_CHECKING:
    from lmm.results.fit import Fit

#: for points and estimates
BLUE = "#0072B2"
#: for curves through them
ORANGE = "#D55E00"
#: for several curves in one picture, apart in lightness, with their dashes
CURVES = (
    ("#0072B2", "-"),
    ("#E69F00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#56B4E9", (0, (5, 1, 1, 1, 1, 1))),
    ("#D55E00", (0, (1, 1))),
)
#: of points that belong to the curves
MARKERS = "osD^vP"
#: levels that are named on an axis; of more there is only the number
NAMED = 60
#: what pictures draw in and return: one Axes, several as an array
Drawn: TypeAlias = "Axes | np.ndarray"
#: points drawn one by one; more are counted in hexagons
POINTS = 5_000
#: characters of a level's name
WIDTH = 28


def ink() -> str:
    """The colour of text in the style in use."""
    return rcParams["text.color"]


def panels(
    count: int,
    ax: Drawn | None,
    size: tuple[float, float],
    what: str,
    columns: int | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> list[Axes]:
    """``count`` Axes: those given, or those of a new figure.

    Parameters
    ----------
    size : inches of one panel in a new figure.
    what : "ranef: one per column", for the error.
    columns : panels side by side; by default as many as make a figure about as wide as high.

    Raises
    ------
    ArgumentError : when another number of Axes was given.
    """
    if ax is not None:
        given = [one for one in np.ravel(np.asarray(ax, dtype=object)) if one is not None]
        if len(given) != count or not all(isinstance(one, Axes) for one in given):
            raise ArgumentError(
                f"{what}: ax must be {count} matplotlib Axes; {len(given)} {'was' if len(given) == 1 else 'were'} given."
            )
        return given
    square = int(np.ceil(np.sqrt(count)))
    wide = columns or (
        count if count <= 3 else min(range(square, square + 3), key=lambda w: -count % w + w)
    )
    high = -(-count // wide)
    figure, grid = plt.subplots(
        high,
        wide,
        figsize=(size[0] * wide, size[1] * high),
        squeeze=False,
        layout="constrained",
        sharex=sharex,
        sharey=sharey,
    )
    flat = list(grid.ravel())
    for spare in flat[count:]:
        figure.delaxes(spare)
        if sharex and high > 1:  # the panel above the gap has the labels
            flat[flat.index(spare) - wide].xaxis.set_tick_params(labelbottom=True)
    return flat[:count]


def handed_back(axes: Sequence[Axes]) -> Drawn:
    """One Axes as it is, several as an array."""
    if len(axes) == 1:
        return axes[0]
    out = np.empty(len(axes), dtype=object)
    out[:] = axes
    return out


def shorten(text: object, width: int = WIDTH) -> str:
    """A name of at most ``width`` characters, its middle left out; a dollar sign stays one and begins no formula."""
    text = str(text)
    head = (width - 1) // 2
    short = (
        text if len(text) <= width else f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
    )
    return short.replace("$", r"\$")


def level_height(J: int) -> float:
    """Inches of a figure with J levels on its vertical axis."""
    return (
        float(np.clip(0.17 * J + 1.1, 2.4, 7.0 if J <= NAMED else 6.0))
        if J <= 36 or J > NAMED
        else 0.15 * J + 1.1
    )


def weights(J: int) -> tuple[float, float, float]:
    """Width and opacity of the line of one of J levels, and the size of its marker: lighter the more there are."""
    if J <= NAMED:
        return 1.2, 0.8, 4.5
    return (
        float(np.clip(70.0 / J, 0.25, 1.0)),
        float(np.clip(0.75 * (NAMED / J) ** 0.25, 0.3, 0.75)),
        float(np.clip(260.0 / J, 1.0, 3.5)),
    )


def name_levels(
    ax: Axes, labels: Sequence[object] | pd.Index, group: str, drawn: int | None = None
) -> None:
    """Levels at 0, 1, ... of the vertical axis: their names, or their number where there are too many to read.

    ``drawn`` of them are drawn at most, which the label says.
    """
    J = len(labels)
    ax.set_ylim(-0.02 * J - 0.5, 1.02 * J - 0.5)
    if J <= NAMED:
        ax.set_yticks(
            range(J),
            [shorten(label) for label in labels],
            fontsize="small" if J <= 36 else "x-small",
        )
        ax.set_ylabel(shorten(group))
    else:
        ax.set_yticks([])
        part = f", {drawn:,} drawn" if drawn is not None and drawn < J else ""
        ax.set_ylabel(f"{shorten(group)} ({J:,} levels{part})")


def scatter(ax: Axes, x: np.ndarray, y: np.ndarray, label: str | None = None) -> None:
    """Points; hexagons, darker where there are more, for too many of them."""
    if len(x) > POINTS:
        ax.hexbin(
            x, y, gridsize=60, bins="log", cmap="Greys", mincnt=1, linewidths=0.0, label=label
        )
        return
    size = float(np.clip(4000.0 / max(len(x), 1), 6.0, 22.0))
    ax.scatter(
        x,
        y,
        s=size,
        color=BLUE,
        alpha=0.75 if len(x) < 500 else 0.45,
        linewidths=0.0,
        label=label,
        zorder=2,
    )


def headed(ax: Axes, title: str, look: str = "") -> None:
    """A title, and under it in small letters what to look for."""
    if not look:
        ax.set_title(title)
        return
    ax.set_title(title, pad=17.0)
    ax.annotate(
        look,
        (0.5, 1.0),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize="small",
        alpha=0.75,
        ha="center",
        va="bottom",
        annotation_clip=False,
    )


def some(count: int, most: int) -> np.ndarray:
    """Which of ``count`` things in a row to draw, (m,) increasing: all, or ``most`` evenly spaced ones, the ends among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.round(np.linspace(0, count - 1, most)).astype(np.intp))


def zero_line(ax: Axes, vertical: bool = False) -> None:
    """A thin line at zero, behind the rest."""
    (ax.axvline if vertical else ax.axhline)(0.0, color=ink(), alpha=0.4, linewidth=0.8, zorder=1)


def percent(level: float) -> str:
    """``95 %``."""
    return f"{100.0 * level:g} %"


def one_group(fit: Fit, group: str | None, what: str, own_rows: bool = False) -> int:
    """Position of a grouping factor's term; the first for None. With ``own_rows`` one whose rows belong to one level each."""
    terms = fit.design.terms
    names = [term.group for term in terms]
    t = 0 if group is None else names.index(choice(group, f"{what}: group", names))
    if own_rows:
        t = next((s for s, term in enumerate(terms) if not term.several), 0) if group is None else t
        terms[t].require_own_rows(what)
    return t
