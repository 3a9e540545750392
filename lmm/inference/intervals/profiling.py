"""Profiles of the likelihood: one parameter held at a value, the deviance minimised over the others.

With d(v) the smallest deviance at which the parameter has the value v, and d_0 that of the estimates,

    zeta(v) = sign(v - v_0) sqrt(d(v) - d_0),     zeta'(v) = d'(v) / (2 zeta(v)),

and d'(v) is the partial derivative at the constrained minimum. Limits of level 1 - alpha are where zeta = -+z_{1 - alpha/2}.
A path starts at the estimates and goes on from its last point: the next value is where the slope of zeta expects the next
step, the other parameters start on the curve through the last points, and Newton's method within a trust region settles
them. With an exact Hessian the promise of a short last step is taken at its word (its error is of third order).

Bates & Watts (1988), Nonlinear Regression Analysis, chapter 6; Bates et al. (2015), section 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lmm.inference.intervals.surface import Place
from lmm.search.trust_region import ACCEPTED, Point, gain_ratio, next_radius, secant, step_within

#: distance of neighbouring points in zeta
STEP = 0.65
#: promised decrease at which a point counts as settled, with an exact Hessian and without
SETTLED_EXACT, SETTLED = 3e-5, 1e-7
#: decrease below the deviance of the fit that is not rounding: the fit was no minimum
LOWER = 1e-4
MAX_POINTS, MAX_EVALUATIONS = 60, 60
#: a radius, in standard deviations, within which nothing to gain means that there is nothing to gain
FAR = 1.0
#: rise of zeta under which a step leads nowhere, and how many such steps, each longer than the one before, end a side
LEVEL, PATIENCE = 1e-3, 5


class Surface(Protocol):
    """What a path needs: see :class:`lmm.inference.intervals.surface.LinearSurface`."""

    held: int
    free: np.ndarray
    exact: bool
    crossed: bool
    bounds: tuple[float, float]

    def at(self, z: np.ndarray) -> Point:
        """The deviance with derivatives."""

    def place(self, point: Point) -> Place:
        """The parameters at a point."""


class LowerPoint(Exception):
    """A point of lower deviance than the fit's, on the way."""

    def __init__(self, place: Place):
        self.place = place


@dataclass(frozen=True, eq=False)
class SettledPoint:
    """A constrained minimum: its z, deviance, slope along the held coordinate, and the evaluated point beside it."""

    z: np.ndarray
    objective: float
    slope: float
    tangent: np.ndarray | None
    point: Point


@dataclass(frozen=True, eq=False)
class ProfilePath:
    """A profile of one parameter in the coordinate that was held, ascending.

    Attributes
    ----------
    held : (r,) values of the coordinate.
    zeta : (r,) signed square roots.
    slope : (r,) d zeta / d held.
    places : the parameters at each point.
    ends : why it ends below and above: "cutoff", "bound" (the parameter can go no further), "flat" (zeta stays short of the
        cutoff however far one goes) or "lost" (no constrained minimum was found further on).
    """

    held: np.ndarray
    zeta: np.ndarray
    slope: np.ndarray
    places: tuple[Place, ...]
    ends: tuple[str, str]


class Corrector:
    """Minimises over all but the held coordinate; what it learns about the Hessian stays for the next point."""

    def __init__(self, surface: Surface):
        self.surface = surface
        self.correction: np.ndarray | None = None

    def settle(self, z: np.ndarray, free: np.ndarray) -> SettledPoint | None:
        """The minimum over the ``free`` coordinates from z; None where it is not found."""
        surface = self.surface
        point = surface.at(z)
        if not _is_finite(point):
            return None
        radius, tolerance = 2.0, SETTLED_EXACT if surface.exact else SETTLED
        for _ in range(MAX_EVALUATIONS):
            if self.correction is not None and not np.isfinite(self.correction).all():
                self.correction = None
            H = point.hessian if self.correction is None else point.hessian + self.correction
            own = H[np.ix_(free, free)]
            scale = np.sqrt(np.maximum(np.abs(np.diagonal(own)), 1e-300))
            step = np.zeros(len(z))
            if free.any():
                own_step, promised = step_within(
                    point.gradient[free] / scale, own / np.outer(scale, scale), radius
                )
                step[free] = own_step / scale
                at_edge = float(np.linalg.norm(own_step)) >= 0.99 * radius
            else:
                promised, at_edge = 0.0, False
            if promised <= tolerance and (not at_edge or radius >= FAR):
                return self._finish(point, H, step, promised, free)
            candidate = surface.at(point.theta + step)
            finite = _is_finite(candidate)
            ratio = float(
                gain_ratio(
                    point.objective,
                    candidate.objective if finite else np.inf,
                    promised,
                    1e-12 * abs(point.objective),
                )
            )
            if not surface.exact and finite:
                known = np.zeros_like(H) if self.correction is None else self.correction
                self.correction = (
                    secant(known, candidate, point, step) if ratio > 0.25 else np.zeros_like(H)
                )
            radius = float(next_radius(radius, ratio, np.linalg.norm(step[free] * scale), at_edge))
            if ratio < 0.25 and radius < 1e-9:
                return self._finish(point, H, np.zeros(len(z)), 0.0, free)
            if ratio > ACCEPTED:
                point = candidate
        return None

    def _finish(
        self, point: Point, H: np.ndarray, step: np.ndarray, promised: float, free: np.ndarray
    ) -> SettledPoint:
        """The minimum beside a point, one short step away."""
        held = self.surface.held
        slope, tangent = float(point.gradient[held]), None
        if self.surface.crossed:
            slope += float(H[held] @ step)
            if free.any() and not free[held]:
                tangent = np.zeros(len(step))
                tangent[held] = 1.0
                tangent[free] = -np.linalg.lstsq(H[np.ix_(free, free)], H[free, held], rcond=1e-10)[
                    0
                ]
        return SettledPoint(point.theta + step, point.objective - promised, slope, tangent, point)


def _is_finite(point: Point) -> bool:
    """Whether a point can be gone on from: far out a deviance can be finite where its derivatives are not."""
    return bool(
        np.isfinite(point.objective)
        and np.isfinite(point.gradient).all()
        and np.isfinite(point.hessian).all()
    )


def follow(
    surface: Surface, start: np.ndarray, cutoff: float, endless: tuple[bool, bool] = (False, False)
) -> ProfilePath:
    """The profile of the held coordinate from the estimates z = ``start`` to zeta = -+``cutoff``, or to its bounds.

    ``endless`` says on which sides the deviance is known never to rise.

    Raises
    ------
    LowerPoint : the deviance falls below that of the start, which was no minimum.
    """
    corrector = Corrector(surface)
    free = surface.free.copy()
    everything = corrector.settle(start, free)
    if everything is None:
        raise ArithmeticError("the deviance is not finite at the estimates")
    if everything.objective < surface.at(start).objective - LOWER:
        raise LowerPoint(surface.place(surface.at(everything.z)))
    free[surface.held] = False
    at = float(np.clip(everything.z[surface.held], *surface.bounds))
    origin = corrector.settle(
        np.where(free, everything.z, np.where(np.arange(len(start)) == surface.held, at, start)),
        free,
    )
    if origin is None:
        raise ArithmeticError("the deviance is not finite at the estimates")
    curvature = (
        0.0 if any(endless) else _curvature(surface, origin, free)
    )  # where a search gave up, it says nothing
    sides: list[list[tuple[SettledPoint, float]]] = []
    ends: list[str] = []
    for sign, bound, known in zip((-1.0, 1.0), surface.bounds, endless, strict=True):
        points, end = (
            ([], "flat")
            if known
            else _side(surface, corrector, origin, free, sign, bound, cutoff, curvature)
        )
        sides.append(points)
        ends.append(end)
    settled = [*(own for own, _ in reversed(sides[0])), origin, *(own for own, _ in sides[1])]
    zeta = np.array([*(z for _, z in reversed(sides[0])), 0.0, *(z for _, z in sides[1])])
    held = np.array([own.z[surface.held] for own in settled])
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.array([own.slope for own in settled]) / (2.0 * zeta)
    middle = len(sides[0])
    slope[middle] = _slope_at_origin(held, zeta, slope, middle)
    slope = np.where(np.isfinite(slope), np.maximum(slope, 0.0), 0.0)
    return ProfilePath(
        held, zeta, slope, tuple(surface.place(own.point) for own in settled), (ends[0], ends[1])
    )


def _curvature(surface: Surface, origin: SettledPoint, free: np.ndarray) -> float:
    """Second derivative of the profiled deviance at the estimates, as far as the Hessian tells."""
    H, held = origin.point.hessian, surface.held
    if origin.tangent is None:
        return float(H[held, held])
    return float(H[held] @ origin.tangent)


def _side(
    surface: Surface,
    corrector: Corrector,
    origin: SettledPoint,
    free: np.ndarray,
    sign: float,
    bound: float,
    cutoff: float,
    curvature: float,
) -> tuple[list[tuple[SettledPoint, float]], str]:
    """Points on one side of the estimates with their zeta, outwards, and why they end."""
    held = surface.held
    points: list[tuple[SettledPoint, float]] = []
    path = [origin]
    room = abs(bound - origin.z[held])
    if room == 0.0:
        return points, "bound"
    unit = room / 8.0 if np.isfinite(room) else 0.1 + 0.1 * abs(origin.z[held])
    rate = np.sqrt(2.0 / curvature) if curvature > 1e-12 else unit / STEP  # d held / d zeta
    rate, last_rate, zeta, level = min(rate, room / STEP), np.nan, 0.0, 0
    while len(points) < MAX_POINTS and level < PATIENCE:
        wanted = min(STEP, cutoff + 0.02 - zeta)
        length = rate * wanted
        if np.isfinite(last_rate) and last_rate > 0.0:
            length *= float(np.clip(1.5 - 0.5 * last_rate / rate, 0.5, 1.5))
        found = None
        for _ in range(12):
            value = path[-1].z[held] + sign * length
            at_bound = bool(sign * (value - bound) > -0.02 * min(length, room))
            value = bound if at_bound else value
            found = corrector.settle(_predict(path, held, value, free), free)
            if found is None and len(path) > 1:
                found = corrector.settle(
                    np.where(
                        free, path[-1].z, np.where(np.arange(len(free)) == held, value, path[-1].z)
                    ),
                    free,
                )
            if found is not None:
                rise = found.objective - origin.objective
                if rise < -LOWER:
                    raise LowerPoint(surface.place(surface.at(found.z)))
                new = float(np.sqrt(max(rise, 0.0)))
                if new - zeta <= 2.5 * STEP:
                    break
                length *= max(0.25, STEP / (new - zeta))
            else:
                length *= 0.25
        if found is None or found.z[held] == path[-1].z[held]:
            return points, "lost"
        points.append((found, sign * new))
        path.append(found)
        if at_bound:
            return points, "bound"
        if new >= cutoff:
            return points, "cutoff"
        moved = abs(found.z[held] - path[-2].z[held])
        slope = sign * found.slope / (2.0 * new) if new > 1e-6 else 0.0
        # where zeta rises hardly at all the steps grow
        last_rate, rate = rate, min(1.0 / slope if slope > 0.0 else np.inf, 2.5 * moved / wanted)
        level = level + 1 if new - zeta < LEVEL and rate > last_rate else 0
        zeta = max(new, zeta)
    return points, "flat"


def _predict(path: list[SettledPoint], held: int, value: float, free: np.ndarray) -> np.ndarray:
    """Where the free coordinates should be at the next value: the parabola through the last points, or the tangent."""
    last = path[-1]
    step = value - last.z[held]
    z = last.z.copy()
    z[held] = value
    if last.tangent is not None:
        out = last.z + last.tangent * step
        if len(path) > 1:
            back = last.z[held] - path[-2].z[held]
            out = out + (path[-2].z - last.z + last.tangent * back) * (step / back) ** 2
        z[free] = out[free]
        return z
    if len(path) > 1:
        back = last.z[held] - path[-2].z[held]
        first = (last.z - path[-2].z) / back
        out = last.z + first * step
        if len(path) > 2:
            further = path[-2].z[held] - path[-3].z[held]
            second = (first - (path[-2].z - path[-3].z) / further) / (back + further)
            out = out + second * step * (step + back)
        z[free] = out[free]
    return z


def _slope_at_origin(held: np.ndarray, zeta: np.ndarray, slope: np.ndarray, middle: int) -> float:
    """d zeta / d held at the estimates, where it is 0 / 0: that of the polynomial through the neighbours and their slopes."""
    near = [i for i in (middle - 1, middle + 1) if 0 <= i < len(held)]
    if len(near) == 1:
        step = 2 * near[0] - middle
        near += [step] if 0 <= step < len(held) else []
    if not near:
        return 0.0
    width = max(abs(held[i] - held[middle]) for i in near)
    rows, values = [], []
    powers = np.arange(1, 2 * len(near) + 1)
    for i in near:
        t = (held[i] - held[middle]) / width
        rows += [t**powers, powers * t ** (powers - 1.0)]
        values += [zeta[i], slope[i] * width]
    return float(np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0][0] / width)


@dataclass(frozen=True, eq=False)
class Curve:
    """A monotone cubic through points with slopes (Fritsch & Carlson 1980), zeta over the held coordinate, and its inverse."""

    x: np.ndarray
    y: np.ndarray
    slope: np.ndarray

    @staticmethod
    def of(path: ProfilePath) -> Curve:
        """The curve of a path; where zeta is not monotone, its running extreme."""
        y = path.zeta.copy()
        middle = int(np.argmin(np.abs(y)))
        y[middle:] = np.maximum.accumulate(y[middle:])
        y[: middle + 1] = np.minimum.accumulate(y[: middle + 1][::-1])[::-1]
        secants = np.diff(y) / np.diff(path.held) if len(y) > 1 else np.zeros(0)
        limit = np.full(len(y), np.inf)
        limit[:-1] = np.minimum(limit[:-1], 3.0 * secants)
        limit[1:] = np.minimum(limit[1:], 3.0 * secants)
        return Curve(path.held, y, np.minimum(path.slope, np.where(np.isfinite(limit), limit, 0.0)))

    def at(self, x: np.ndarray) -> np.ndarray:
        """Zeta at values of the coordinate; beyond the ends along the last slope."""
        x = np.asarray(x, dtype=float)
        if len(self.x) == 1:
            return np.zeros_like(x)
        i = np.clip(np.searchsorted(self.x, x) - 1, 0, len(self.x) - 2)
        h = self.x[i + 1] - self.x[i]
        t = np.clip((x - self.x[i]) / h, 0.0, 1.0)
        out = (
            self.y[i] * (1.0 + 2.0 * t) * (1.0 - t) ** 2
            + self.y[i + 1] * t**2 * (3.0 - 2.0 * t)
            + h * t * (1.0 - t) * (self.slope[i] * (1.0 - t) - self.slope[i + 1] * t)
        )
        beyond = np.where(
            x > self.x[-1],
            (x - self.x[-1]) * self.slope[-1],
            np.where(x < self.x[0], (x - self.x[0]) * self.slope[0], 0.0),
        )
        return np.asarray(out + beyond)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """The coordinate at values of zeta; the end of the curve for what lies beyond it."""
        y = np.asarray(y, dtype=float)
        low, high = np.full(y.shape, self.x[0]), np.full(y.shape, self.x[-1])
        i = np.clip(np.searchsorted(self.y, y, side="left") - 1, 0, max(len(self.x) - 2, 0))
        inside = (y >= self.y[0]) & (y <= self.y[-1])
        if len(self.x) > 1:
            low, high = np.where(inside, self.x[i], low), np.where(inside, self.x[i + 1], high)
        low, high = (
            np.where(y > self.y[-1], self.x[-1], low),
            np.where(y < self.y[0], self.x[0], high),
        )
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self.at(middle) < y
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray(0.5 * (low + high))


def polished(surface: Surface, start: np.ndarray) -> Place | None:
    """The minimum over all coordinates from ``start``."""
    found = Corrector(surface).settle(start, surface.free)
    at = None if found is None else surface.at(found.z)
    return None if at is None or at.payload is None else surface.place(at)
