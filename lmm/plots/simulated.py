"""The data beside data that the fitted model makes: their distribution, and residuals by simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from lmm.arguments import generator as random_generator
from lmm.arguments import instance
from lmm.inference.criticism.smoothing import bandwidth, density, lowess
from lmm.inference.refits.refits import some_rows
from lmm.inference.refits.simulated_responses import simulate_array
from lmm.plots.axes import (
    BLUE,
    ORANGE,
    Drawn,
    handed_back,
    headed,
    ink,
    panels,
    percent,
    scatter,
    shorten,
)
from lmm.plots.quantiles import simulated_of, uniform_quantiles
from lmm.results.rows.simulated_residuals import some_of_many

if TYPE_CHECKING:
    from lmm.results.fit import Fit
    from lmm.results.rows.simulated_residuals import SimulatedResiduals

#: a response with no more distinct values than these is counted, not smoothed
DISTINCT = 30
#: rows that a density is made of at most
ROWS = 20_000


def simulated_responses(
    fit: Fit,
    nsim: int = 50,
    rng: None | int | np.random.Generator = 0,
    level: float = 0.95,
    ax: Drawn | None = None,
) -> Axes:
    """The response's distribution beside simulated ones. See :meth:`lmm.plots.Plots.simulated_responses`."""
    one = panels(1, ax, (4.8, 3.6), "simulated_responses")[0]
    design, generator = fit.design, random_generator(rng)
    which = some_of_many(fit.nobs, nsim, generator)
    if which is not None:
        design = some_rows(design, which, {})
    draws, y = simulate_array(design, fit.estimate, nsim, generator, False), design.y
    label = shorten(fit.design.response, 40)
    if fit.estimate.distribution.weights_are_trials and design.weights is not None:
        draws, y = np.round(draws * design.weights[:, None]), np.round(y * design.weights)
        label = f"successes in {label}"
    if fit.estimate.distribution.discrete:
        _frequencies(fit, one, y, draws, level)
    else:
        _densities(one, y, draws)
    one.set_xlabel(label)
    look = "observed and simulated should agree"
    if which is not None:
        look = f"{look} ({len(which):,} of {fit.nobs:,} rows)"
    headed(one, f"Observed and simulated ({nsim})", look)
    one.legend(fontsize="x-small")
    return one


def _densities(ax: Axes, y: np.ndarray, draws: np.ndarray) -> None:
    """Densities; the share over the distance of a response that takes few values, such as marks."""
    low, high = np.quantile(draws, [0.001, 0.999])
    margin = 2.0 * bandwidth(y)
    at = np.linspace(min(low, y.min()) - margin, max(high, y.max()) + margin, 201)
    thin = max(1, len(y) // ROWS)
    alpha = float(np.clip(8.0 / draws.shape[1], 0.08, 0.5))
    for i, column in enumerate(draws.T):
        curve = density(column[::thin], at)
        ax.plot(
            at,
            curve,
            color=ink(),
            alpha=alpha,
            linewidth=0.7,
            label="_simulated" if i else "simulated",
        )
    values, counts = np.unique(y, return_counts=True)
    if len(values) <= min(DISTINCT, len(y) // 5):
        gap = float(np.min(np.diff(values)))
        ax.bar(
            values,
            counts / (len(y) * gap),
            width=0.5 * gap,
            color=BLUE,
            alpha=0.55,
            linewidth=0.0,
            label="observed",
        )
    else:
        ax.plot(at, density(y, at), color=BLUE, linewidth=2.2, label="observed")
    ax.set_ylim(bottom=0.0)
    ax.set_ylabel("density")


def _frequencies(fit: Fit, ax: Axes, y: np.ndarray, draws: np.ndarray, level: float) -> None:
    """Shares of rows at each value, or of many counts in cells that grow."""
    names = [shorten(category, 14) for category in fit.estimate.distribution.category_names]
    edges = np.arange(len(names) + 1.0)
    if not names:
        edges, names = cells(y, draws)

    def share(of: np.ndarray) -> np.ndarray:
        return np.histogram(of, np.append(edges[:-1], np.inf))[0] / len(of)

    simulated = np.array([share(column) for column in draws.T])
    tail = 0.5 * (1.0 - level)
    lower, center, upper = np.quantile(simulated, [tail, 0.5, 1.0 - tail], axis=0)
    places = np.arange(len(names))
    ax.bar(places, share(y), width=0.8, color=BLUE, alpha=0.55, linewidth=0.0, label="observed")
    ax.vlines(
        places, lower, upper, color=ink(), linewidth=1.4, label=f"simulated, {percent(level)}"
    )
    ax.plot(places, center, linestyle="", marker="o", markersize=3.5, color=ink(), label="_median")
    many = max(map(len, names)) > 2 and len(names) > 10
    ax.set_xticks(places, names, fontsize="x-small" if many else None, rotation=90 if many else 0)
    ax.set_ylabel("share of rows")


def cells(y: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Edges (m+1,) and names (m,) of cells of whole numbers: one each where there are few, else a fifth wider one after another.

    The last cell is open where simulations go beyond it.
    """
    top = int(max(y.max(), np.quantile(draws, 0.99)))
    edges = [0]
    while edges[-1] <= top:
        edges.append(edges[-1] + (1 if top < DISTINCT else max(1, edges[-1] // 5)))
    names = [
        f"{a}" if b == a + 1 else f"{a}–{b - 1}" for a, b in zip(edges, edges[1:], strict=False)
    ]
    if draws.max() >= edges[-1]:
        names[-1] = f"≥{edges[-2]}"
    return np.array(edges, dtype=float), names


def simulated_residuals(
    fit: Fit,
    residuals: SimulatedResiduals | None = None,
    nsim: int = 250,
    rng: None | int | np.random.Generator = 0,
    level: float = 0.95,
    ax: Drawn | None = None,
) -> Drawn:
    """Simulated residuals: their distribution, and by rank of the prediction. See :meth:`lmm.plots.Plots.simulated_residuals`."""
    if residuals is not None:
        instance(
            residuals,
            "plot.simulated_residuals: residuals",
            "SimulatedResiduals",
            "fit.simulated_residuals()",
        )
    found = simulated_of(fit, nsim, rng) if residuals is None else residuals
    axes = panels(2, ax, (4.2, 3.8), "simulated_residuals, two")
    rows = fit.nobs if residuals is None else 0
    uniform_quantiles(found, axes[0], "simulated", rng, level, rows)
    by_rank(axes[1], found.values.to_numpy(dtype=float), np.asarray(found.fitted, dtype=float))
    return handed_back(axes)


def by_rank(
    ax: Axes,
    values: np.ndarray,
    fitted: np.ndarray,
    quantiles: tuple[float, ...] = (0.25, 0.5, 0.75),
) -> None:
    """Values in [0, 1] against the rank of the prediction, with running quantiles that should be level."""
    use = np.isfinite(values) & np.isfinite(fitted)
    values, fitted = values[use], fitted[use]
    rank = np.argsort(np.argsort(fitted, kind="stable"), kind="stable") / max(len(fitted) - 1, 1)
    scatter(ax, rank, values)
    for q in quantiles:
        ax.axhline(q, color=ink(), alpha=0.6, linestyle="--", linewidth=0.8, zorder=3)
        at, curve = running_quantile(rank, values, q)
        ax.plot(at, curve, color=ORANGE, linewidth=1.6, zorder=4, label=f"{q:g} quantile")
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("rank of prediction")
    ax.set_ylabel("simulated residual")
    headed(ax, "Residuals against predictions", "the curves should be level, on the dashed lines")


def running_quantile(
    x: np.ndarray, y: np.ndarray, q: float, points: int = 40, share: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of y in windows of a share of the points, along the windows' means of x, smoothed by lowess."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    n = len(x)
    window = min(n, max(10, int(share * n)))
    starts = np.unique(np.round(np.linspace(0, n - window, points)).astype(np.intp))
    raw = np.array([np.quantile(y[start : start + window], q) for start in starts])
    middle = np.array([x[start : start + window].mean() for start in starts])
    return lowess(middle, raw, 0.3, 0) if len(starts) > 3 else (middle, raw)
