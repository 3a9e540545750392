"""-2 log-likelihood of a linear model with structured residuals as a function of everything that a profile holds or lets go.

Coordinates z = (x[, c]): x gives the factors T of all covariances, those of the residuals among them, in units of the problem
(:mod:`lmm.covariance.coordinates`); c is a coefficient held at its value, whose column then belongs to the response.
Derivatives are those of :mod:`lmm.model.marginal.dense_deviance`; in c, with b and v the coefficient's estimate and variance
given the covariances, df / dc = 2 (c - b) / v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.linalg import solve_triangular

from lmm.covariance.structure import Quantity
from lmm.estimators.likelihood.profiled import block_diagonal, nowhere
from lmm.inference.intervals.surface import (
    COORDINATES,
    OTHERS,
    VALUES,
    Held,
    Place,
    coordinates,
    rotation,
)
from lmm.model.marginal.clusters import Stack
from lmm.model.marginal.dense_deviance import MarginalDeviance
from lmm.model.marginal.marginal_problem import MarginalProblem
from lmm.search.trust_region import Point


class MarginalSurface:
    """f on the coordinates that hold one parameter; attributes as of :class:`lmm.inference.intervals.surface.LinearSurface`."""

    exact = True

    def __init__(self, problem: MarginalProblem, held: Held):
        self.problem, self.which, self.bounds = problem, held, held.bounds
        self.coordinates, place = coordinates(problem.structures, held)
        self.m = problem.n_theta
        self.coefficient = held.kind == "coefficient"
        self.held = self.m if place is None else place
        self.free = np.ones(self.m + int(self.coefficient), dtype=bool)
        self.crossed = not self.coefficient
        self.unit, self.shift = self._on_users_scale()
        if self.coefficient:
            across = solve_triangular(problem.R, np.eye(problem.p)[held.first], trans="T")
            self.length, self.B = float(np.linalg.norm(across)), rotation(across)

    def _on_users_scale(self) -> tuple[float, float]:
        """Factor and summand between the held coordinate and the parameter."""
        if self.which.kind in OTHERS:
            return 1.0, 0.0
        held, unit = self.which, self.problem.unit
        own = Quantity(held.kind, held.first, held.first, ())
        for q in self.problem.structures[held.term].quantities():
            if (q.kind, q.row) == (held.kind, held.first):
                own = q
        shift = own.on_scale(0.0, unit)
        return own.on_scale(1.0, unit) - shift, shift

    def enter(self, place: Place) -> np.ndarray:
        """z of a place, whose ``rest`` is (log sigma, beta...)."""
        unit = self.problem.unit
        x = [c.enter(T / unit) for c, T in zip(self.coordinates, place.factors, strict=True)]
        own = [place.rest[1 + self.which.first]] if self.coefficient else []
        return np.concatenate([*x, own])

    def place(self, point: Point) -> Place:
        """The parameters at a point."""
        factors, beta = point.payload
        return Place(factors, np.concatenate([[0.0], beta]))

    def values(self, h: np.ndarray) -> np.ndarray:
        """The parameter, on the user's scale, at values of the held coordinate."""
        if self.which.kind in VALUES:
            return VALUES[self.which.kind](h)
        return np.asarray(h) * self.unit + self.shift

    def held_at(self, values: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`values`."""
        if self.which.kind in COORDINATES:
            return COORDINATES[self.which.kind](values)
        return (np.asarray(values) - self.shift) / self.unit

    def reported(self, place: Place) -> tuple[float | None, np.ndarray, np.ndarray]:
        """No sigma, the coefficients, and no parameters of a family."""
        return None, place.rest[1:], np.zeros(0)

    def at(self, z: np.ndarray) -> Point:
        """f, its gradient and Hessian at z."""
        problem = self.problem
        split = problem.split(z[: self.m])
        parts = [c.local(x) for c, x in zip(self.coordinates, split, strict=True)]
        local = [own for _, own in parts]
        G, dG = [own.G for own in local], [own.dG for own in local]
        try:
            at = MarginalDeviance.at(self._stacks(z), G, False)
            D = at.slopes()
            pairs = list(zip(local, D, strict=True))
            gradient = np.concatenate([own.slopes(d) for own, d in pairs])
            H = at.second(dG).hessian + block_diagonal([own.bend(d) for own, d in pairs])
            gamma = at.beta
            if self.coefficient:
                gradient, H, gamma = self._with_coefficient(z, G, gradient, H, gamma)
        except (np.linalg.LinAlgError, FloatingPointError):
            return replace(nowhere(z), payload=None)
        if not (np.isfinite(at.value) and np.isfinite(H).all()):
            return replace(nowhere(z), payload=None)
        inverse = solve_triangular(problem.R, gamma) if problem.p else gamma
        return Point(
            np.asarray(z, dtype=float),
            at.value + problem.deviance_constant(False),
            gradient,
            H,
            ([problem.unit * T for T, _ in parts], problem.beta0 + problem.unit * inverse),
        )

    def _held_gamma(self, z: np.ndarray) -> float:
        beta0 = float(self.problem.beta0[self.which.first])
        return (float(z[self.m]) - beta0) / (self.length * self.problem.unit)

    def _stacks(self, z: np.ndarray) -> Sequence[Stack]:
        """The rows, the held column taken out of X and off y."""
        if not self.coefficient:
            return self.problem.stacks
        p = self.problem.p
        M = np.zeros((p, p + 1))
        M[:-1, :p] = self.B[:, 1:].T
        M[-1, :p], M[-1, p] = -self._held_gamma(z) * self.B[:, 0], 1.0
        return [replace(stack, lines=stack.lines @ M.T) for stack in self.problem.stacks]

    def _with_coefficient(
        self,
        z: np.ndarray,
        G: list[np.ndarray],
        gradient: np.ndarray,
        H: np.ndarray,
        gamma: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Derivatives in c added, and all of gamma."""
        whole = self.problem.deviance(G, False)
        own, column = self._held_gamma(z), self.B[:, 0]
        unit = self.length * self.problem.unit
        weight = 2.0 / float(column @ whole.cov @ column)
        first = weight * (own - float(column @ whole.beta)) / unit
        size = len(gradient)
        wide = np.zeros((size + 1, size + 1))
        wide[:size, :size] = H
        wide[size, size] = weight / unit**2
        return np.append(gradient, first), wide, self.B @ np.concatenate([[own], gamma])
