"""Six pictures of one fit on a page: does it look like the data?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmm.errors import ArgumentError
from lmm.plots.axes import CURVES, MARKERS, ink, one_group, panels, scatter, shorten, zero_line
from lmm.plots.quantiles import qq
from lmm.plots.random_effects import effect_quantiles, normal_band, standardised
from lmm.plots.rowwise import residuals, row_values, scale_location
from lmm.plots.simulated import simulated_responses

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def check(fit: Fit, rng: None | int | np.random.Generator = 0, group: str | None = None, labels: int = 3) -> Figure:
    """One figure of six panels. See :meth:`lmm.plots.Plots.check`."""
    generator = np.random.default_rng(rng)
    figure, axes = plt.subplots(2, 3, figsize=(13.0, 7.6), layout="constrained")
    simulated_responses(fit, rng=generator, ax=axes[0, 0])
    residuals(fit, ax=axes[0, 1])
    scale_location(fit, ax=axes[0, 2])
    qq(fit, ax=axes[1, 0], rng=generator)
    _effects(fit, axes[1, 1], group, generator)
    influential(fit, axes[1, 2], labels)
    figure.suptitle(shorten(str(fit.formula), 110), fontsize="medium")
    return figure


def _effects(fit: Fit, ax: Axes, group: str | None, rng: np.random.Generator) -> None:
    """Normality of the effects of one grouping factor, all its columns in one panel."""
    t = one_group(fit, group, "check")
    term = fit.design.terms[t]
    z = standardised(fit, t)
    band = normal_band(term.J, 0.95, rng)
    drawn = [j for j in range(term.k) if np.isfinite(z[:, j]).all()]
    for i, j in enumerate(drawn):
        effect_quantiles(
            ax, z[:, j], term.levels, band if i == 0 else None, 0.95, CURVES[i % len(CURVES)][0], MARKERS[i % len(MARKERS)], term.columns[j]
        )
    if not drawn:
        ax.text(0.5, 0.5, "estimated variance is zero", transform=ax.transAxes, ha="center", va="center")
    elif term.k > 1:
        ax.legend(loc="upper left", fontsize="x-small", frameon=False)
    ax.set_xlabel("normal quantile")
    ax.set_ylabel("standardised random effect")
    ax.set_title(f"Normality of random effects, {shorten(term.group)}")


def influential(fit: Fit, ax: Any = None, labels: int = 3) -> Axes:
    """Rows by leverage and residual, the most influential by name.

    Cook's distance given the variance parameters is about r^2 h / (p (1 - h)), h a row's leverage and r its residual over sigma sqrt(1 -
    h); its lines at 0.5 and 1 are drawn where they are in sight.
    """
    one = panels(1, ax, (4.8, 3.6), "influential")[0]
    try:
        leverage = fit.leverage().to_numpy(dtype=float)
    except ArgumentError:
        return _largest_effects(fit, one, labels)
    leverage = leverage[np.isfinite(leverage)]
    residual, label = row_values(fit, None, True)
    residual = residual / np.sqrt(np.maximum(1.0 - leverage, 1e-8))
    cook = residual**2 * leverage / np.maximum(1.0 - leverage, 1e-8) / max(fit.design.p, 1)
    scatter(one, leverage, residual)
    zero_line(one)
    low, high = one.get_ylim()
    h = np.linspace(1e-3, max(float(leverage.max()) * 1.08, 2e-3), 200)
    for distance in (0.5, 1.0):
        edge = np.sqrt(distance * max(fit.design.p, 1) * (1.0 - np.minimum(h, 0.999)) / h)
        for sign in (-1.0, 1.0):
            one.plot(h, sign * edge, color=ink(), alpha=0.5, linestyle="--", linewidth=0.8, label="_cook")
    one.set_ylim(low, high)
    one.set_xlim(0.0 if leverage.min() < 0.3 * leverage.max() else None, None)
    for i in np.argsort(-cook, kind="stable")[:labels]:
        one.annotate(shorten(fit.design.index[i], 12), (leverage[i], residual[i]), (4, 3), textcoords="offset points", fontsize="x-small")
    one.set_xlabel("leverage")
    one.set_ylabel(f"studentised {label.replace('scaled ', '')}")
    one.set_title("Influence of rows")
    return one


def _largest_effects(fit: Fit, ax: Axes, labels: int) -> Axes:
    """Standardised effects of every grouping factor side by side, the largest by name."""
    names, start = [], 0
    for t, term in enumerate(fit.design.terms):
        z = np.nan_to_num(standardised(fit, t))
        size = np.abs(z).max(axis=1)
        places = start + np.linspace(-0.35, 0.35, term.J)
        ax.plot(
            places,
            size,
            linestyle="",
            marker="o",
            markersize=4.0 if term.J <= 200 else 2.0,
            color=CURVES[0][0],
            alpha=0.7,
            markeredgewidth=0.0,
        )
        for j in np.argsort(-size, kind="stable")[:labels]:
            ax.annotate(
                shorten(term.levels[j], 12), (places[j], size[j]), (0, 4), textcoords="offset points", ha="center", fontsize="x-small"
            )
        names.append(shorten(term.group, 18))
        start += 1
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(0.0, ax.get_ylim()[1] * 1.06)
    ax.set_ylabel("|standardised random effect|")
    ax.set_title("Largest random effects")
    return ax
