"""A trust region on a quadratic model, for objectives that cost much more than an eigen-decomposition.

Each step minimises g's + s'Hs/2 within a radius by the eigen-decomposition of H (m, m), which may be
indefinite (More & Sorensen, 1983, SIAM J. Sci. Stat. Comput. 4). It stops when the decrease that the
model still promises is below a tolerance in units of the objective: for a deviance that is the squared
distance to the optimum in standard errors, so the test does not depend on anybody's units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmm.model.records import Convergence

#: share of the promised decrease under which a learned correction is doubted, and evaluations after which one doubt is enough
DOUBT, PATIENCE = 0.5, 12
#: why a search did not begin
NOWHERE = "the criterion cannot be computed where the search begins"
#: promised decrease under which the exact Hessian is worth its price
NEAR = 1.0
#: promised decrease under which the end of a search is in sight, and the difference under which it is one that is known
IN_SIGHT, KNOWN = 0.1, 0.01


@dataclass(frozen=True)
class Point:
    """An evaluated point: objective, gradient (m,), model Hessian (m, m), and whatever came with them.

    Gradient and Hessian refer to the local coordinates of the point, those in which ``move`` takes a step. ``rounding`` is what the
    objective may be off where it is the difference of large sums.
    """

    theta: np.ndarray
    objective: float
    gradient: np.ndarray
    hessian: np.ndarray
    payload: Any = None
    rounding: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Where the search ended and why."""

    point: Point
    converged: bool
    message: str
    iterations: int
    evaluations: int
    promised: float
    trace: tuple[dict[str, Any], ...]

    def convergence(self, seconds: dict[str, float]) -> Convergence:
        """The same as an estimate reports it, with seconds by stage."""
        return Convergence(
            converged=self.converged,
            message=self.message,
            iterations=self.iterations,
            evaluations=self.evaluations,
            gradient_evaluations=self.evaluations,
            scaled_gradient=float(np.sqrt(2.0 * max(self.promised, 0.0))) if np.isfinite(self.promised) else float("nan"),
            seconds=seconds,
        )


def step_within(gradient: np.ndarray, hessian: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
    """The minimiser of g's + s'Hs/2 over |s| <= radius, and the decrease it promises (>= 0)."""
    values, vectors = np.linalg.eigh(hessian)
    g = vectors.T @ gradient
    floor = max(1e-12 * float(np.abs(values).max(initial=0.0)), 1e-150)

    def at(shift: float) -> np.ndarray:
        return -g / np.maximum(values + shift, floor)

    shift = 0.0
    step = at(0.0) if values[0] > floor else None
    if step is None or np.linalg.norm(step) > radius:
        low = max(0.0, -float(values[0])) + floor
        high = low + float(np.linalg.norm(g)) / radius + 1e-300
        step = at(low)
        if np.linalg.norm(step) < radius:  # the hard case: go to the edge along the lowest direction
            step = step.copy()
            rest = np.sqrt(max(radius**2 - float(step[1:] @ step[1:]), 0.0))
            step[0] = -rest if g[0] > 0 else rest
        else:
            for _ in range(60):
                shift = np.sqrt(low * high) if low > 0 else high / 2
                step = at(shift)
                length = float(np.linalg.norm(step))
                if length > radius:
                    low = shift
                else:
                    high = shift
                    if length >= 0.999 * radius:  # the length, not the shift: it is steep where H is indefinite
                        break
            step = at(high)
    promised = -float(g @ step + 0.5 * (values * step) @ step)
    return vectors @ step, max(promised, 0.0)


@np.errstate(over="ignore", invalid="ignore")  # gradients far out may be of any size
def secant(correction: np.ndarray, new: Point, old: Point, step: np.ndarray) -> np.ndarray:
    """What the model Hessian lacks, learned from the change of the gradient along a step: symmetric rank one.

    The structured secant condition (H_new + C) s = g_new - g_old of Dennis, Gay & Welsch (1981, ACM
    Trans. Math. Softw. 7) makes the linear convergence of an approximate Hessian superlinear.
    """
    lacking = new.gradient - old.gradient - (new.hessian + correction) @ step
    along = float(lacking @ step)
    if not np.isfinite(along) or abs(along) <= 1e-8 * float(np.linalg.norm(lacking) * np.linalg.norm(step)):
        return correction
    return correction + np.outer(lacking, lacking) / along


def minimize(
    evaluate: Callable[[np.ndarray], Point],
    move: Callable[[np.ndarray, np.ndarray], np.ndarray],
    start: np.ndarray,
    *,
    tolerance: float,
    max_evaluations: int,
    radius: float,
    escape: Callable[[Point], Iterable[np.ndarray]] | None = None,
    refine: Callable[[Point], Point] | None = None,
    learn: bool = False,
    noise: float = 0.0,
    known: float = np.inf,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> Outcome:
    """Minimise from ``start`` (m,); ``move(theta, step)`` takes a step in the local coordinates at theta.

    ``escape(point)`` is asked at every stationary point for places to go on from: none when the point
    is a minimum also across the boundary. ``refine(point)`` gives a point near the optimum a better
    Hessian. With ``learn`` the model Hessian is corrected by what the gradients tell (:func:`secant`).
    ``noise`` is a difference of two objectives that means nothing, beside that of rounding. A search whose end is in sight and is the
    minimum ``known`` already is given up. ``callback`` sees each line of the trace.
    """
    trace: list[dict[str, Any]] = []

    def record(point: Point, promised: float, accepted: bool) -> None:
        trace.append({"objective": point.objective, "theta": point.theta, "decrease": promised, "radius": radius, "accepted": accepted})
        if callback is not None:
            callback(trace[-1])

    point = evaluate(start)
    evaluations, iterations = 1, 0
    record(point, np.nan, True)
    correction, doubts = np.zeros_like(point.hessian), 0
    first, unheard = radius, 0.0  # what rounding was seen to change
    if not np.isfinite(point.objective):
        return Outcome(point, False, NOWHERE, iterations, evaluations, float("nan"), tuple(trace))
    while True:
        step, promised = step_within(point.gradient, point.hessian + correction, radius)
        if refine is not None and tolerance < promised < NEAR:
            point = refine(point)
            step, promised = step_within(point.gradient, point.hessian, radius)
        at_edge = np.linalg.norm(step) >= 0.99 * radius
        if promised <= tolerance and not at_edge:
            others = list(escape(point)) if escape is not None else []
            if not others:
                message = "the next step promises less than the tolerance"
                return Outcome(point, True, message, iterations, evaluations, promised, tuple(trace))
            for other in others:
                candidate = evaluate(other)
                evaluations, iterations = evaluations + 1, iterations + 1
                better = candidate.objective < point.objective
                record(candidate, np.nan, better)
                if better:
                    break
            else:
                message = "stopped beside a boundary that should be left and could not be"
                return Outcome(point, False, message, iterations, evaluations, promised, tuple(trace))
            point = candidate
            continue
        if promised < IN_SIGHT and not at_edge and known < point.objective and abs(point.objective - promised - known) < KNOWN:
            return Outcome(point, False, "leads to the minimum that is known", iterations, evaluations, promised, tuple(trace))
        if evaluations >= max_evaluations:
            message = f"stopped at the limit of {max_evaluations} evaluations"
            return Outcome(point, False, message, iterations, evaluations, promised, tuple(trace))
        candidate = evaluate(move(point.theta, step))
        evaluations += 1
        iterations += 1
        actual = point.objective - candidate.objective
        doubt = noise + 1e-12 * abs(point.objective) + point.rounding
        ratio = (actual + doubt) / (promised + doubt) if np.isfinite(candidate.objective) else -1.0
        if ratio < 0.25:
            radius = 0.25 * float(np.linalg.norm(step))
        elif ratio > 0.75 and at_edge:
            radius = 3.0 * radius
        accepted = ratio > 1e-4
        record(candidate, promised, accepted)
        if learn and np.isfinite(candidate.objective):
            # what was learned elsewhere misleads: coordinates turn with the point, most near zero variances
            doubts = doubts + 1 if ratio < DOUBT else 0
            stale = doubts > 1 or (doubts == 1 and evaluations > PATIENCE)
            correction = np.zeros_like(correction) if stale else secant(correction, candidate, point, step)
        if accepted:
            point = candidate
        elif promised < tolerance and np.isfinite(actual):
            unheard = max(unheard, abs(actual))
        if not accepted and radius < 1e-12:  # local coordinates have no units
            step, promised = step_within(point.gradient, point.hessian + correction, first)
            if promised < unheard and np.linalg.norm(step) < 0.99 * first:
                message = "the next step promises less than the rounding of the criterion"
                return Outcome(point, True, message, iterations, evaluations, promised, tuple(trace))
            message = "stopped because no step, however small, improves the objective"
            if not np.isfinite(candidate.objective):
                message = "stopped beside parameters without a likelihood, such as means out of the range of the link"
            return Outcome(point, False, message, iterations, evaluations, promised, tuple(trace))
