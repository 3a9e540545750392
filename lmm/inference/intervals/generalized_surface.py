"""-2 log-likelihood of a generalized mixed model on coordinates that hold one parameter.

z = (x, w): x gives the factors T of all terms (:mod:`lmm.covariance.coordinates`), w the fixed effects and the family's own
parameters, psi_rest = B w. B is orthogonal, its first column along a, when a linear function a'psi_rest is held: a
coefficient, which is (R^-1 gamma)_j, or the logarithm of a dispersion. A threshold alpha_k = rho_0 + sum_i<=k exp(rho_i)
takes the place of rho_0.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.likelihood.profiled import Frame
from lmm.inference.intervals.surface import (
    COORDINATES,
    VALUES,
    Held,
    Place,
    coordinates,
    rotation,
)
from lmm.model.problem import GeneralizedProblem
from lmm.search.trust_region import Point


class GeneralizedSurface:
    """f on the coordinates that hold one parameter; attributes as in :class:`lmm.inference.intervals.surface.LinearSurface`."""

    exact, crossed = False, True

    def __init__(self, problem: GeneralizedProblem, objective: Objective, held: Held):
        self.problem, self.objective, self.which = problem, objective, held
        self.coordinates, place = coordinates(problem.structures, held)
        self.bounds = held.bounds
        self.m, self.p = problem.n_theta, problem.p
        size = self.p + problem.family.n_parameters
        self.turn = np.eye(size) if objective.turn is None else objective.turn
        self.B, self.length = np.eye(size), 1.0
        if held.kind == "coefficient":
            row = solve_triangular(problem.rows.R, np.eye(self.p)[held.first], trans="T")
            a = self.turn[: self.p].T @ row
            self.length, self.B = float(np.linalg.norm(a)), rotation(a)
            place = self.m
        elif held.kind in ("sigma", "spacing"):
            place = self.m + self.p + int(held.kind == "spacing")
        elif held.kind == "threshold":
            a = self.turn[self.p]
            self.length, self.B = float(np.linalg.norm(a)), rotation(a)
            place = self.m
        assert place is not None
        self.held = place
        self.free = np.ones(self.m + size, dtype=bool)

    def enter(self, place: Place) -> np.ndarray:
        """z of a place, whose ``rest`` is that part of psi."""
        x = [c.enter(T) for c, T in zip(self.coordinates, place.factors, strict=True)]
        w = self.B.T @ place.rest
        if self.which.kind == "threshold":
            w = w.copy()
            w[0] += self._steps(self.turn @ place.rest) / self.length
        return np.concatenate([*x, w])

    def place(self, point: Point) -> Place:
        """The parameters at a point."""
        return Place(*point.payload)

    def values(self, h: np.ndarray) -> np.ndarray:
        """The parameter, on the user's scale, at values of the held coordinate."""
        kind = self.which.kind
        if kind in ("sigma", "spacing"):
            return np.exp(0.5 * h if kind == "sigma" else h)
        return np.asarray(VALUES[kind](h) if kind in VALUES else np.asarray(h) * self.length)

    def held_at(self, values: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`values`."""
        kind = self.which.kind
        if kind in ("sigma", "spacing"):
            return np.log(values) * (2.0 if kind == "sigma" else 1.0)
        return np.asarray(
            COORDINATES[kind](values) if kind in COORDINATES else np.asarray(values) / self.length
        )

    def reported(self, place: Place) -> tuple[float | None, np.ndarray, np.ndarray]:
        """sigma, coefficients, and the thresholds of an ordinal family."""
        rest = self.turn @ place.rest
        beta = solve_triangular(self.problem.rows.R, rest[: self.p]) if self.p else rest[:0]
        family = self.problem.family
        phi = family.from_rho(rest[self.p :])
        sigma = float(family.sigma(phi)) if family.has_dispersion else None
        return (
            sigma,
            beta,
            np.atleast_1d(phi) if family.threshold_names else np.zeros(0),
        )

    def _steps(self, rest: np.ndarray) -> float:
        """alpha_k - rho_0 of the threshold that is held."""
        return float(np.exp(rest[self.p + 1 : self.p + 1 + self.which.first]).sum())

    def at(self, z: np.ndarray) -> Point:
        """f, its gradient and the Hessian of the working linear model at z."""
        terms = [
            c.at(x) for c, x in zip(self.coordinates, self.problem.split(z[: self.m]), strict=True)
        ]
        frame = Frame(
            [T for T, _, _ in terms], [dT for _, dT, _ in terms], [bent for _, _, bent in terms]
        )
        w = z[self.m :]
        J, bend = self.B, None
        if self.which.kind == "threshold":
            w, J, bend = self._lowered(w)
        rest = self.B @ w
        point = self.objective.in_frame(np.concatenate([z[: self.m], rest]), frame)
        if point.payload is None:
            return Point(np.asarray(z, dtype=float), np.inf, np.zeros(len(z)), np.eye(len(z)), None)
        self.objective.remember(point)
        m, H = self.m, point.hessian.copy()
        H[:, m:] = H[:, m:] @ J
        H[m:] = J.T @ H[m:]
        slope = J.T @ point.gradient[m:]
        if bend is not None:
            H[m:, m:] += bend * float(self.B[:, 0] @ point.gradient[m:])
        gradient = np.concatenate([point.gradient[:m], slope])
        return Point(np.asarray(z, dtype=float), point.objective, gradient, H, (frame.T, rest))

    def _lowered(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """w with rho_0 in the place of the threshold, d psi_rest / dw, and the second derivative of that place."""
        rows = (self.turn @ self.B)[self.p + 1 : self.p + 1 + self.which.first]
        # a has no share in rho_i, i > 0, so these steps do not depend on the held coordinate
        steps = np.exp(rows @ w)
        lowered = w.copy()
        lowered[0] -= steps.sum() / self.length
        J = np.eye(len(w))
        J[0] -= steps @ rows / self.length
        return lowered, self.B @ J, -(rows.T * steps) @ rows / self.length
