"""Quantile plots with the bands that simulations fill: of residuals, of simulated residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from scipy.special import ndtri

from lmm.arguments import choice
from lmm.arguments import generator as random_generator
from lmm.errors import ArgumentError
from lmm.inference.criticism import hat
from lmm.inference.criticism.envelope import (
    Envelope,
    envelope,
    normal_quantiles,
    order_statistics,
    plotting_positions,
    positions,
)
from lmm.inference.criticism.quantile_residuals import simulated_ranks
from lmm.inference.refits.conditional_residuals import scaled_residuals
from lmm.inference.refits.simulated_responses import simulate_array
from lmm.plots.axes import BLUE, Drawn, headed, ink, panels, percent
from lmm.results.rows.row_values import residuals as row_residuals
from lmm.results.rows.simulated_residuals import of_rows, some_of_many

#: what to look for, with bands and without
BAND, LINE = "points should lie in the band", "points should lie on the line"
#: rows above which studentised residuals are compared with independent normal ones, and samples of these
ROWS, CURVES = 20_000, 400

if TYPE_CHECKING:
    from lmm.results.fit import Fit
    from lmm.results.rows.simulated_residuals import SimulatedResiduals


def qq(
    fit: Fit,
    ax: Drawn | None = None,
    bands: str | None = "simulated",
    rng: None | int | np.random.Generator = 0,
    nsim: int | None = None,
    level: float = 0.95,
) -> Axes:
    """Residuals against the quantiles that they should have. See :meth:`lmm.plots.Plots.qq`."""
    if bands is not None:
        choice(bands, "qq: bands", ["simulated"])
    if fit.family is not None:
        return uniform_quantiles(
            simulated_of(fit, simulations(0, nsim), rng), ax, bands, rng, level, fit.nobs
        )
    one = panels(1, ax, (4.2, 3.8), "qq")[0]
    observed = row_residuals(fit.design, fit.estimate, fit._eta, "pearson", True)
    at, label, band = positions(fit.nobs), "scaled residual", None
    simple = not fit.design.residual and fit.problem.plan.exact
    if nsim is None and fit.nobs > ROWS and simple:
        observed = hat.studentised(
            observed, observed, hat.leverages(fit.design, fit.problem, fit.estimate)
        )
        observed, label = observed[np.isfinite(observed)], "studentised residual"
        at = positions(len(observed))
        if bands is not None:
            uniform = order_statistics(len(observed), at, CURVES, random_generator(rng))
            band = envelope(ndtri(uniform), level)
    elif bands is not None and not fit.design.residual and (fit.nobs <= ROWS or simple):
        band = residual_band(fit, at, rng, nsim, level)
    observed = np.sort(observed)
    expected = normal_quantiles(len(observed))
    draw_quantiles(one, expected, observed, expected[at], band, level)
    if band is None:
        one.plot(
            expected[[0, -1]],
            expected[[0, -1]],
            color=ink(),
            alpha=0.6,
            linewidth=1.0,
            label="_expected",
        )
    one.set_xlabel("normal quantile")
    one.set_ylabel(label)
    headed(one, "Normality of residuals", BAND if band is not None else LINE)
    return one


def residual_band(
    fit: Fit, at: np.ndarray, rng: None | int | np.random.Generator, nsim: int | None, level: float
) -> Envelope:
    """Where sorted scaled residuals of the fitted model lie, at the places ``at``."""
    nsim, rng = simulations(fit.nobs, nsim), random_generator(rng)
    curves = np.empty((nsim, len(at)))
    given = fit._method.sigma  # a number, or how it is estimated
    known = float(given) if isinstance(given, int | float) else None
    for i in range(nsim):
        y = simulate_array(fit.design, fit.estimate, 1, rng, False)
        curves[i] = np.sort(
            scaled_residuals(fit.design, fit.problem.as_linear(), fit.estimate, y, known)[:, 0]
        )[at]
    return envelope(curves, level)


def uniform_quantiles(
    simulated: SimulatedResiduals,
    ax: Drawn | None,
    bands: str | None,
    rng: None | int | np.random.Generator,
    level: float,
    rows: int = 0,
) -> Axes:
    """Simulated residuals, perhaps of some of the ``rows``, against the uniform distribution.

    The bands are filled by those of the simulations, each taken for the data.
    """
    one = panels(1, ax, (4.2, 3.8), "qq")[0]
    values = simulated.values.to_numpy(dtype=float)
    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    at, expected, band = positions(n), plotting_positions(n), None
    if bands is not None:
        ranks = simulated_ranks(simulated.simulations, simulated.discrete, random_generator(rng))
        band = envelope(np.sort(ranks, axis=0)[at].T, level)
    draw_quantiles(one, expected, values, expected[at], band, level)
    if band is None:
        one.plot([0.0, 1.0], [0.0, 1.0], color=ink(), alpha=0.6, linewidth=1.0, label="_expected")
    one.set_xlabel("uniform quantile")
    one.set_ylabel("simulated residual")
    look = BAND if band is not None else LINE
    if n < rows:
        look = f"{look} ({n:,} of {rows:,} rows)"
    headed(one, "Distribution of residuals", look)
    return one


def simulated_of(fit: Fit, nsim: int, rng: None | int | np.random.Generator) -> SimulatedResiduals:
    """Simulated residuals for a picture: of all rows, or of some of too many."""
    generator = random_generator(rng)
    which = some_of_many(fit.nobs, nsim, generator)
    return of_rows(fit.design, fit.estimate, fit._eta, which, nsim, generator)


def simulations(n: int, nsim: int | None) -> int:
    """How many simulations a band is made of, fewer for more rows; ArgumentError for fewer than 20."""
    if nsim is None:
        return 200 if n <= 2_000 else 100 if n <= 20_000 else 40
    if isinstance(nsim, bool) or not isinstance(nsim, (int, np.integer)) or nsim < 20:
        raise ArgumentError(f"nsim={nsim!r} must be a whole number, 20 or more.")
    return int(nsim)


def draw_quantiles(
    ax: Axes, expected: np.ndarray, observed: np.ndarray, at: np.ndarray, band: Envelope | None, level: float,
    color: str = BLUE, marker: str = "o", label: str = "_observed",
) -> None:  # fmt: skip
    """Points, and with a band the line that they should follow and its limits (``at`` are the quantiles where these are known)."""
    if band is not None:
        ax.fill_between(
            at,
            band.all_lower,
            band.all_upper,
            color=ink(),
            alpha=0.12,
            linewidth=0.0,
            label=f"{percent(level)}, all at once",
        )
        ax.fill_between(
            at,
            band.lower,
            band.upper,
            color=ink(),
            alpha=0.22,
            linewidth=0.0,
            label=f"{percent(level)}, each",
        )
        ax.plot(at, band.center, color=ink(), alpha=0.6, linewidth=1.0, label="_expected")
    places = positions(len(observed), 2_000)
    size = 4.5 if len(observed) <= 100 else 3.0
    ax.plot(
        expected[places],
        observed[places],
        linestyle="",
        marker=marker,
        markersize=size,
        color=color,
        markeredgewidth=0.0,
        label=label,
    )
    if band is not None:
        ax.legend(loc="upper left", fontsize="x-small", frameon=False)
