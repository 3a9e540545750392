"""Fixed effects with their intervals, one under the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from lmm.errors import ArgumentError
from lmm.plots.axes import BLUE, Drawn, ink, level_height, panels, percent, shorten, zero_line

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def coefficients(
    fit: Fit, level: float = 0.95, intercept: bool = False, ax: Drawn | None = None
) -> Axes:
    """Fixed effects with intervals. See :meth:`lmm.plots.Plots.coefficients`."""
    values = fit.params
    table = fit._uncertainty.coefficient_limits(level)
    lower, upper = table["lower"], table["upper"]
    keep = values.notna() & (
        np.ones(len(values), dtype=bool) if intercept else values.index != "Intercept"
    )
    if not keep.any():
        raise ArgumentError(
            "coefficients: the model has no fixed effects but its intercept; intercept=True draws that."
        )
    names = list(values.index[keep])
    one = panels(1, ax, (5.0, level_height(len(names))), "coefficients")[0]
    places = np.arange(len(names))[::-1]
    zero_line(one, vertical=True)
    one.hlines(places, lower[keep], upper[keep], color=ink(), linewidth=1.5)
    one.plot(values[keep], places, linestyle="", marker="o", markersize=6.0, color=BLUE)
    one.set_yticks(
        places,
        [shorten(name, 40) for name in names],
        fontsize="small" if len(names) <= 40 else "xx-small",
    )
    one.set_ylim(-0.6, len(names) - 0.4)
    scale = fit.estimate.distribution.scale_note
    one.set_xlabel(f"{fit.estimate.centre}{scale}, {percent(level)} interval")
    one.set_title(f"Fixed effects on {shorten(fit.design.response, 36)}")
    return one
