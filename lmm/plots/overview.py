"""Six pictures of one fit on a page: does it look like the data?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmm.arguments import generator as random_generator
from lmm.errors import ArgumentError
from lmm.plots.axes import (
    CURVES,
    MARKERS,
    Drawn,
    headed,
    ink,
    one_group,
    panels,
    scatter,
    shorten,
    zero_line,
)
from lmm.plots.quantiles import BAND, qq
from lmm.plots.random_effects import effect_quantiles, normal_band, standardised
from lmm.plots.residual_pictures import residuals, row_values, scale_location
from lmm.plots.simulated import simulated_responses

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def check(
    fit: Fit,
    rng: None | int | np.random.Generator = 0,
    group: str | None = None,
    labels: int = 3,
    nsim: int | None = None,
) -> Figure:
    """One figure of six panels. See :meth:`lmm.plots.Plots.check`."""
    generator = random_generator(rng)
    figure, axes = plt.subplots(2, 3, figsize=(13.0, 7.6), layout="constrained")
    simulated_responses(fit, rng=generator, ax=axes[0, 0])
    residuals(fit, ax=axes[0, 1])
    scale_location(fit, ax=axes[0, 2])
    qq(fit, ax=axes[1, 0], rng=generator, nsim=nsim)
    if fit.design.terms:
        _effects(fit, axes[1, 1], group, generator)
    else:
        axes[1, 1].set_axis_off()
    if fit.design.residual or len(fit.estimate.components) > 1:  # which have no leverages
        axes[1, 2].set_axis_off()
    else:
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
        name = shorten(term.columns[j]) if term.k > 1 else "_observed"
        look = (CURVES[i % len(CURVES)][0], MARKERS[i % len(MARKERS)], name)
        effect_quantiles(ax, z[:, j], term.levels, band if i == 0 else None, 0.95, *look)
    if not drawn:
        ax.text(
            0.5, 0.5, "estimated variance is zero", transform=ax.transAxes, ha="center", va="center"
        )
    elif term.k > 1:
        ax.legend(loc="upper left", fontsize="x-small", frameon=False)
    ax.set_xlabel("normal quantile")
    ax.set_ylabel("standardised random effect")
    title = f"Normality of random effects, {shorten(term.group)}"
    headed(ax, title, BAND if drawn else "")


def influential(fit: Fit, ax: Drawn | None = None, labels: int = 3) -> Axes:
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
    right = 1.08 * float(leverage.max())
    h = np.linspace(1e-3, min(right, 0.999), 200)
    for distance in (0.5, 1.0):
        edge = np.sqrt(distance * max(fit.design.p, 1) * (1.0 - h) / h)
        for sign in (-1.0, 1.0):
            one.plot(
                h, sign * edge, color=ink(), alpha=0.5, linestyle="--", linewidth=0.8, label="_cook"
            )
    one.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    one.set_xlim(0.0, right)
    largest = np.argsort(-cook, kind="stable")[:labels]
    one.plot(
        leverage[largest],
        residual[largest],
        linestyle="",
        marker="o",
        markersize=6.0,
        fillstyle="none",
        color=ink(),
        label="_largest",
    )
    for i in largest:
        place, left = (leverage[i], residual[i]), leverage[i] > 0.8 * right
        ha = "right" if left else "left"
        one.annotate(
            shorten(fit.design.index[i], 12),
            place,
            (-5 if left else 5, 4),
            textcoords="offset points",
            fontsize="x-small",
            ha=ha,
        )
    one.locator_params(axis="x", nbins=6)
    one.set_xlabel("leverage")
    one.set_ylabel(f"studentised {label.replace('scaled ', '')}")
    headed(one, "Influence of rows", "rows beyond the dashed lines move the fit")
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
                shorten(term.levels[j], 12),
                (places[j], size[j]),
                (0, 4),
                textcoords="offset points",
                ha="center",
                fontsize="x-small",
            )
        names.append(shorten(term.group, 18))
        start += 1
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(0.0, ax.get_ylim()[1] * 1.06)
    ax.set_ylabel("|standardised random effect|")
    ax.set_title("Largest random effects")
    return ax
