"""Pictures of a profile: zeta of each parameter, and pairs of parameters with their joint confidence regions.

zeta is the signed square root of the likelihood-ratio statistic. Where it is a straight line in the parameter, a normal interval is right.

Contours of a pair come from the two profile traces, zeta_j along the profile of i and the reverse. On the contour of level L the pair of
zetas is L (cos t_i, cos t_j), t_i - t_j being the distance d and their mean the angle a; the traces give d at four points, where the
contour crosses them, and a periodic cubic spline in a gives the rest.

Bates & Watts (1988), Nonlinear Regression Analysis and Its Applications, section 6.1 and appendix A6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from scipy.interpolate import CubicSpline
from scipy.special import chdtri

from lmm.arguments import choice, instance
from lmm.errors import ArgumentError
from lmm.inference.intervals.coverage import normal_quantile
from lmm.plots.axes import BLUE, Drawn, handed_back, ink, panels, shorten

if TYPE_CHECKING:
    from lmm.results.fit import Fit
    from lmm.results.tables.profile_table import Profile

#: coverages of the lines and contours
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
#: level of a profile that reaches the joint region of the highest of them: P(|Z| < 3.035)
JOINT = 0.9977
#: points on a contour
SEGMENTS = 121


def profile(
    fit: Fit,
    profile: Profile | None = None,
    parm: str | Sequence[str] | None = None,
    absolute: bool = False,
    ax: Drawn | None = None,
) -> Drawn:
    """zeta against each parameter's value. See :meth:`lmm.plots.Plots.profile`."""
    found = (
        fit.profile()
        if profile is None
        else instance(profile, "plot.profile: profile", "Profile", "fit.profile()")
    )
    names = parameters(found, parm)
    axes = panels(len(names), ax, (3.2, 2.9), "profile, one per parameter")
    frame = found.to_frame()
    limit = normal_quantile(LEVELS[-1])
    for name, one in zip(names, axes, strict=True):
        own = frame[frame["parameter"] == name].sort_values("zeta")
        zeta = own["zeta"].to_numpy(dtype=float)
        fine = np.linspace(max(zeta.min(), -1.05 * limit), min(zeta.max(), 1.05 * limit), 201)
        along = np.asarray(found.value(name, fine), dtype=float)
        one.plot(along, np.abs(fine) if absolute else fine, color=BLUE, linewidth=1.6)
        for level in LEVELS:
            interval_lines(one, found, name, level, zeta, absolute)
        if not absolute:
            one.axhline(0.0, color=ink(), alpha=0.4, linewidth=0.8)
        shown = (along >= along[0]) & (along <= along[-1])
        span = float(np.ptp(along[shown])) or 1.0
        one.set_xlim(along.min() - 0.04 * span, along.max() + 0.04 * span)
        one.set_title(shorten(name, 34), fontsize="medium")
        one.set_ylabel("|ζ|" if absolute else "ζ", rotation=0)
    return handed_back(axes)


def interval_lines(
    ax: Axes, found: Profile, name: str, level: float, zeta: np.ndarray, absolute: bool
) -> None:
    """The interval of one coverage: vertical lines from zero to the curve, or a bar under it for |zeta|."""
    z = normal_quantile(level)
    ends = [
        (sign * z, float(found.value(name, sign * z)))
        for sign in (-1.0, 1.0)
        if zeta.min() <= sign * z <= zeta.max()
    ]
    for at, value in ends:
        ax.vlines(value, 0.0, abs(at) if absolute else at, color=ink(), alpha=0.55, linewidth=0.8)
    if absolute and len(ends) == 2:
        ax.hlines(z, ends[0][1], ends[1][1], color=ink(), alpha=0.55, linewidth=0.8)
        ax.annotate(
            f"{100.0 * level:g} %",
            (0.5 * (ends[0][1] + ends[1][1]), z),
            ha="center",
            va="bottom",
            fontsize="xx-small",
        )


def parameters(found: Profile, parm: str | Sequence[str] | None) -> list[str]:
    """The parameters to draw, in the profile's order."""
    known = [str(name) for name in found.parameters]
    if parm is None:
        return known
    wanted = [parm] if isinstance(parm, str) else list(parm)
    for name in wanted:
        choice(name, "profile: parm", known)
    return wanted


def profile_pairs(
    fit: Fit,
    profile: Profile | None = None,
    parm: Sequence[str] | None = None,
    ax: Drawn | None = None,
) -> Drawn:
    """Joint regions of every pair of parameters. See :meth:`lmm.plots.Plots.profile_pairs`."""
    given = "plot.profile_pairs: profile"
    found = (
        fit.profile(level=JOINT)
        if profile is None
        else instance(profile, given, "Profile", "fit.profile()")
    )
    names = parameters(found, parm)
    m = len(names)
    if m < 2:
        raise ArgumentError("profile_pairs: pairs need two parameters or more.")
    axes = np.array(
        panels(m * m, ax, (2.0, 1.9), "profile_pairs, one per pair", columns=m), dtype=object
    ).reshape(m, m)
    traces = Traces(found, names)
    radii = np.sqrt(chdtri(2.0, 1.0 - np.array(LEVELS)))
    radii = radii[
        radii <= 1.001 * normal_quantile(getattr(found, "level", JOINT))
    ]  # where the profile does not go there is no contour
    if not len(radii):
        raise ArgumentError(
            "profile_pairs: the profile is too short for a joint region; ask for profile(level=0.998)."
        )
    reach = 1.07 * float(radii[-1])
    for r in range(m):
        for c in range(m):
            one = axes[r, c]
            one.tick_params(labelsize="x-small")
            if r == c:
                one.text(
                    0.5,
                    0.5,
                    shorten(names[r], 22),
                    transform=one.transAxes,
                    ha="center",
                    va="center",
                    fontsize="small",
                    wrap=True,
                )
                one.set_xlim(-reach, reach)
                one.set_xticks([])
                one.set_yticks([])
                continue
            zeta = c > r
            _pair(one, traces, c, r, radii, zeta)
            one.set_xlim(*((-reach, reach) if zeta else traces.ends(c, reach)))
            one.set_ylim(*((-reach, reach) if zeta else traces.ends(r, reach)))
            inner = {
                "labelbottom": not zeta and r == m - 1,
                "labelleft": not zeta and c == 0,
                "labeltop": zeta and r == 0,
                "labelright": zeta and c == m - 1,
            }
            if ax is None:
                one.tick_params(
                    top=inner["labeltop"],
                    right=inner["labelright"],
                    bottom=not zeta,
                    left=not zeta,
                    **inner,
                )
    if ax is None:
        regions = ", ".join(f"{100.0 * level:g}" for level in LEVELS[: len(radii)])
        axes[0, 0].figure.suptitle(
            f"Below the diagonal: parameters. Above: their ζ. Regions of {regions} %",
            fontsize="small",
        )
    return axes


class Traces:
    """Profile traces among some parameters, on the scale of zeta.

    ``along(i, j)`` is the spline of zeta_j as a function of zeta_i along the profile of i.
    """

    def __init__(self, found: Profile, names: Sequence[str]):
        self.found, self.names = found, list(names)
        frame = found.to_frame()
        self._rows = {}
        for name in self.names:
            own = frame[frame["parameter"] == name].sort_values("zeta")
            self._rows[name] = own[np.isfinite(own["zeta"]) & ~own["zeta"].duplicated()]

    def range(self, i: int) -> tuple[float, float]:
        """The zetas that the profile of a parameter reaches."""
        zeta = self._rows[self.names[i]]["zeta"]
        return float(zeta.iloc[0]), float(zeta.iloc[-1])

    def along(self, i: int, j: int) -> CubicSpline:
        """zeta_j at zeta_i along the profile of i; straight lines beyond its ends."""
        rows = self._rows[self.names[i]]
        x = rows["zeta"].to_numpy(dtype=float)
        y = np.asarray(
            self.found.zeta(self.names[j], rows[self.names[j]].to_numpy(dtype=float)), dtype=float
        )
        use = np.isfinite(y)
        if use.sum() < 3:
            raise ArgumentError(
                f"profile_pairs: the profiles of {self.names[i]!r} and {self.names[j]!r} have too few points in common."
            )
        return CubicSpline(x[use], y[use], bc_type="natural")

    def value(self, i: int, zeta: np.ndarray) -> np.ndarray:
        """Values of a parameter; held at the ends of its profile."""
        low, high = self.range(i)
        return np.asarray(self.found.value(self.names[i], np.clip(zeta, low, high)), dtype=float)

    def ends(self, i: int, reach: float) -> tuple[float, float]:
        """The values of a parameter at -reach and reach, with a margin."""
        low, high = (float(v) for v in self.value(i, np.array([-reach, reach])))
        return low, high if high > low else low + 1.0


def contour(
    forward: CubicSpline, backward: CubicSpline, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """zeta_i and zeta_j (SEGMENTS,) on the contour of one radius.

    ``forward`` is the trace of zeta_j along i, ``backward`` that of zeta_i along j.
    """
    x_ends, y_ends = (np.array([spline.x[0], spline.x[-1]]) for spline in (forward, backward))

    def angle(spline: CubicSpline, at: float, ends: np.ndarray) -> float:
        inside = float(np.clip(at, *ends))
        return float(np.arccos(np.clip(float(spline(inside)) / radius, -1.0, 1.0)))

    pairs = [
        (0.0, angle(forward, radius, x_ends)),
        (angle(backward, radius, y_ends), 0.0),
        (np.pi, angle(forward, -radius, x_ends)),
        (angle(backward, -radius, y_ends), np.pi),
    ]
    a, d = np.empty(4), np.empty(4)
    for k, (ti, tj) in enumerate(pairs):
        mean, difference = 0.5 * (ti + tj), ti - tj
        a[k], d[k] = np.sign(difference) * mean, abs(difference)
    order = np.argsort(a)
    a, d = a[order], d[order]
    spline = CubicSpline(np.append(a, a[0] + 2.0 * np.pi), np.append(d, d[0]), bc_type="periodic")
    t = np.linspace(a[0], a[0] + 2.0 * np.pi, SEGMENTS)
    half = 0.5 * spline(t)
    return radius * np.cos(t + half), radius * np.cos(t - half)


def _pair(ax: Axes, traces: Traces, i: int, j: int, radii: np.ndarray, zeta: bool) -> None:
    """Contours and traces, i across and j up; on the scale of zeta or of the parameters."""
    forward, backward = traces.along(i, j), traces.along(j, i)
    reach = float(radii[-1])

    def place(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # a variance at zero, or a correlation at one, ends a region
        x, y = np.clip(x, *traces.range(i)), np.clip(y, *traces.range(j))
        return (x, y) if zeta else (traces.value(i, x), traces.value(j, y))

    for k, radius in enumerate(radii):
        x, y = place(*contour(forward, backward, float(radius)))
        ax.plot(
            x,
            y,
            color=BLUE,
            linewidth=0.8 if k < len(radii) - 2 else 1.1,
            label=f"{100.0 * LEVELS[k]:g} %",
        )
    for spline, across in ((forward, True), (backward, False)):
        t = np.linspace(max(-reach, spline.x[0]), min(reach, spline.x[-1]), 101)
        other = np.asarray(spline(t))
        x, y = place(*((t, other) if across else (other, t)))
        ax.plot(x, y, color=ink(), alpha=0.6, linewidth=0.8, linestyle="-" if across else "--")
