"""Shrinkage: what each level would say by itself, and where the model draws it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from scipy.special import chdtri

from lmm.arguments import choice
from lmm.errors import ArgumentError
from lmm.inference.refits.separate_levels import separate_effects
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
    shorten,
    weights,
)

if TYPE_CHECKING:
    from lmm.results.fit import Fit

#: probabilities inside the ellipses of the estimated distribution of the levels
ELLIPSES = (0.5, 0.95)


def shrinkage(
    fit: Fit,
    group: str | None = None,
    x: str | None = None,
    y: str | None = None,
    ax: Drawn | None = None,
) -> Axes:
    """Arrows from each level's own estimates to the model's. See :meth:`lmm.plots.Plots.shrinkage`."""
    t = one_group(fit, group, "shrinkage", own_rows=True)
    term = fit.design.terms[t]
    names = list(term.columns)
    for given, what in ((x, "shrinkage: x"), (y, "shrinkage: y")):
        if given is not None:
            choice(given, what, names)
    first = names.index(x) if x is not None else 0
    rest = [j for j in range(term.k) if j != first]
    if y is not None and names.index(y) == first:
        raise ArgumentError(
            f"shrinkage: x and y are both {y!r}; give two columns of {', '.join(map(repr, names))}."
        )
    own, drawn, center = pooling(fit, t)
    if not rest:
        return _one_way(fit, t, own[:, 0], drawn[:, 0], float(center[0]), ax)
    return _two_way(
        fit, t, (first, rest[0] if y is None else names.index(y)), own, drawn, center, ax
    )


def pooling(fit: Fit, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients (J, k) of each level from its own rows and as the model has them, and the population's (k,), 0 without a fixed
    effect."""
    design, estimate = fit.design, fit.estimate
    term = design.terms[t]
    rest = np.asarray(fit._eta) - term.times(estimate.modes[t])
    own = separate_effects(
        design.y,
        rest,
        np.asarray(term.values),
        term.codes,
        term.J,
        design.weights,
        estimate.distribution,
        estimate.density_phi,
    )
    fixed = dict(zip(design.names, estimate.beta, strict=True))
    center = np.array([float(fixed.get(name, 0.0)) for name in term.columns])
    return center + own, center + estimate.modes[t], center


def _one_way(
    fit: Fit, t: int, own: np.ndarray, drawn: np.ndarray, center: float, ax: Drawn | None
) -> Axes:
    term = fit.design.terms[t]
    one = panels(1, ax, (5.0, level_height(term.J)), "shrinkage")[0]
    order = np.argsort(drawn, kind="stable")
    places, known = np.arange(term.J), np.isfinite(own[order])
    one.axvline(center, color=ink(), alpha=0.5, linewidth=0.9, linestyle="--", label="population")
    width, alpha, size = weights(term.J)
    one.hlines(
        places[known],
        own[order][known],
        drawn[order][known],
        color=ink(),
        alpha=0.7 * alpha,
        linewidth=width,
    )
    _points(one, own[order], places, ORANGE, size + 0.5, "its rows alone", ring=True)
    _points(one, drawn[order], places, BLUE, size, "model")
    name_levels(one, term.levels[order], term.group)
    one.set_xlabel(f"{shorten(term.columns[0], 40)}{fit.estimate.distribution.scale_note}")
    _finish(one, fit, t, own[:, None])
    return one


def _two_way(
    fit: Fit,
    t: int,
    columns: tuple[int, int],
    own: np.ndarray,
    drawn: np.ndarray,
    center: np.ndarray,
    ax: Drawn | None,
) -> Axes:
    term = fit.design.terms[t]
    one = panels(1, ax, (5.0, 4.6), "shrinkage")[0]
    a, b = columns
    few = term.J <= NAMED
    T = fit.estimate.factors[t]
    cov = (fit.estimate.scale2 * T @ T.T)[np.ix_(columns, columns)]
    ellipses(one, center[list(columns)], cov)
    known = np.isfinite(own).all(axis=1)
    move = drawn - own
    start, step = own[known][:, columns], move[known][:, columns]
    head: dict[str, Any] = {
        "headwidth": 4.5,
        "headlength": 6.0,
        "headaxislength": 5.5,
        "minlength": 0.5,
        "width": 0.0035 if few else 0.0018,
    }
    one.quiver(
        *start.T,
        *step.T,
        angles="xy",
        scale_units="xy",
        scale=1.0,
        color=ink(),
        alpha=0.5 if few else 0.25,
        zorder=2,
        **head,
    )
    size = 5.0 if few else 2.5
    _points(one, own[:, a], own[:, b], ORANGE, size, "its rows alone", ring=True)
    _points(one, drawn[:, a], drawn[:, b], BLUE, size, "model")
    one.plot(
        center[a],
        center[b],
        linestyle="",
        marker="+",
        markersize=11.0,
        markeredgewidth=1.8,
        color=ink(),
        label="population",
    )
    if term.J <= 24:
        for j in np.flatnonzero(known):
            name, place = shorten(term.levels[int(j)], 12), (own[j, a], own[j, b])
            one.annotate(
                name, place, (4, 3), textcoords="offset points", fontsize="xx-small", alpha=0.8
            )
    one.set_xlabel(f"{shorten(term.columns[a], 40)}{fit.estimate.distribution.scale_note}")
    one.set_ylabel(f"{shorten(term.columns[b], 40)}{fit.estimate.distribution.scale_note}")
    one.margins(0.08)
    _finish(one, fit, t, own)
    return one


def _points(
    ax: Axes, x: np.ndarray, y: np.ndarray, color: str, size: float, label: str, ring: bool = False
) -> None:
    edge = min(0.9, 0.22 * size) if ring else 0.0
    fill = "none" if ring else "full"
    ax.plot(
        x,
        y,
        linestyle="",
        marker="o",
        markersize=size,
        color=color,
        fillstyle=fill,
        markeredgewidth=edge,
        label=label,
    )


def ellipses(ax: Axes, center: np.ndarray, cov: np.ndarray) -> None:
    """Where the estimated distribution of the levels holds 50 and 95 % of them; a line where it is singular."""
    values, vectors = np.linalg.eigh(cov)
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    for p in ELLIPSES:
        minor, major = 2.0 * np.sqrt(float(chdtri(2.0, 1.0 - p)) * np.maximum(values, 0.0))
        at = (float(center[0]), float(center[1]))
        ax.add_patch(
            Ellipse(
                at,
                major,
                minor,
                angle=angle,
                fill=False,
                edgecolor=ink(),
                alpha=0.35,
                linewidth=0.9,
            )
        )


def _finish(ax: Axes, fit: Fit, t: int, own: np.ndarray) -> None:
    lost = int(np.sum(~np.isfinite(own).all(axis=1)))
    title = f"Shrinkage, {shorten(fit.design.terms[t].group)}"
    ax.set_title(
        title
        if not lost
        else f"{title}\n{lost} of {len(own)} levels have no estimate of their own",
        fontsize="medium",
    )
    ax.legend(fontsize="x-small", loc="best")
