"""-2 log-likelihood of a linear mixed model as a function of everything that a profile holds or lets go.

Coordinates z = (x, tau[, c]): x gives the absolute factors sigma T of all terms (:mod:`lmm.covariance.coordinates`), tau =
log sigma, c a coefficient held at its value; the other coefficients are profiled out. With T = T_abs e^-tau and
V = W^-1 + Z G Z', G = T T',

    f = log|M| + r2(G) e^-2tau + 2 n tau + n log 2 pi - sum log w,     dG / dtau = -2 G,

so tau moves f directly and through a direction -2 G in every term, and with D = df / dG, rho_i = e'dG_i e

    df / dx_i = <D, dG_i>,                  df / dtau = 2 n - 2 r2 / sigma^2 - 2 <D, G>,
    d2f / dx_i dtau = 2 rho_i / sigma^2 + ...,     d2f / dtau2 = 4 r2 / sigma^2 + ...,

the dots standing for second derivatives along the directions (:mod:`lmm.model.gaussian.hessian`). A coefficient beta_j = c is one
coordinate of the orthonormal columns after a rotation: its column moves to the response, in the sums, without a pass over
rows, and with b_j, v_j its estimate and variance / sigma^2 when nothing is held, df / dc = 2 (c - b_j) / (v_j sigma^2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from lmm.covariance import Covariance
from lmm.covariance.coordinates import Coordinates
from lmm.covariance.spatial import SMOOTH
from lmm.covariance.structure import directions
from lmm.estimators.likelihood.profiled import Evaluator, Frame, curvature
from lmm.linalg.devices import backend
from lmm.linalg.elimination import Vectors
from lmm.model.gaussian import deviance, hessian
from lmm.search.trust_region import Point

#: kinds of what is held that is no parameter of a covariance
OTHERS = ("sigma", "coefficient", "threshold", "spacing")
#: from the coordinate that is held to the parameter, and back, where they differ
VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cor": np.sin,
    "sigma": np.exp,
    "range": np.exp,
    "smoothness": np.exp,
}
COORDINATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cor": np.arcsin,
    "sigma": np.log,
    "range": np.log,
    "smoothness": np.log,
}


@dataclass(frozen=True)
class Held:
    """Which parameter a profile holds.

    ``kind`` is that of a covariance's :class:`lmm.covariance.structure.Quantity`, "sigma", "coefficient", "threshold" or "spacing" (of
    equidistant thresholds). ``term`` is the random term of a quantity and ``first``, ``second`` its entry; of a coefficient or
    threshold ``first`` is its place.
    """

    kind: str
    first: int = 0
    second: int | None = None
    term: int = 0

    @property
    def bounds(self) -> tuple[float, float]:
        """How far the held coordinate goes: a standard deviation to zero, the arcsine of a correlation to a right angle."""
        limits = {"sd": (0.0, np.inf), "cor": (-0.5 * np.pi, 0.5 * np.pi), "smoothness": SMOOTH}
        return limits.get(self.kind, (-np.inf, np.inf))


@dataclass(frozen=True, eq=False)
class Place:
    """Parameters on no particular coordinates: absolute factors per term (k, k), and the rest as a surface has it."""

    factors: list[np.ndarray]
    rest: np.ndarray


def coordinates(
    structures: tuple[Covariance, ...], held: Held
) -> tuple[list[Coordinates], int | None]:
    """Coordinates per term, and where the held one stands if it is one of theirs."""
    out = [s.coordinates() for s in structures]
    if held.kind in OTHERS:
        return out, None
    out[held.term] = structures[held.term].holding(held.first, held.second)
    before = sum(s.n_theta for s in structures[: held.term])
    return out, before + (out[held.term].held or 0)


def rotation(direction: np.ndarray) -> np.ndarray:
    """Orthogonal (p, p) whose first column is ``direction`` / |direction|: a Householder reflection."""
    unit = direction / np.linalg.norm(direction)
    v = unit.copy()
    sign = -1.0 if unit[0] > 0 else 1.0
    v[0] -= sign
    B = np.eye(len(unit)) - 2.0 * np.outer(v, v) / (v @ v)
    B[:, 0] *= sign
    return B


class LinearSurface:
    """f on the coordinates that hold one parameter; ``sigma_known`` keeps the residual standard deviation where it is.

    Attributes
    ----------
    held : place in z of the coordinate that is held.
    free : (len z,) which coordinates may be let go, the held one among them.
    exact : whether the Hessian is exact.
    crossed : whether it tells how the others follow the held one.
    """

    def __init__(self, base: Evaluator, held: Held, sigma_known: bool = False):
        self.base, self.problem, self.which = base, base.problem, held
        self.coordinates, place = coordinates(self.problem.structures, held)
        self.bounds = held.bounds
        self.m = self.problem.n_theta
        self.coefficient = held.kind == "coefficient"
        self.held = place if place is not None else self.m + int(self.coefficient)
        self.free = np.ones(self.m + 1 + int(self.coefficient), dtype=bool)
        self.free[self.m] = not sigma_known
        self.exact, self.crossed = base.cheap, not self.coefficient
        self.sizes = [s.n_theta for s in self.problem.structures]
        if self.coefficient:
            p = self.problem.p
            across = solve_triangular(
                self.problem.R, np.eye(p)[held.first], trans="T"
            )  # beta_j = beta0_j + across'gamma
            self.length, self.B = float(np.linalg.norm(across)), rotation(across)
        # where each direction of a term counts: its own coordinates, and tau for the last of each
        self.C = np.zeros((self.m + 1, self.m + len(self.sizes)))
        at = row = 0
        for size in self.sizes:
            self.C[row + np.arange(size), at + np.arange(size)] = 1.0
            self.C[self.m, at + size] = 1.0
            at, row = at + size + 1, row + size

    def enter(self, place: Place) -> np.ndarray:
        """z of a place, whose ``rest`` is (log sigma, beta...)."""
        x = [c.enter(T) for c, T in zip(self.coordinates, place.factors, strict=True)]
        tail = (
            [place.rest[0], place.rest[1 + self.which.first]]
            if self.coefficient
            else [place.rest[0]]
        )
        return np.concatenate([*x, tail])

    def place(self, point: Point) -> Place:
        """The parameters at a point."""
        factors, beta = point.payload
        return Place(factors, np.concatenate([[point.theta[self.m]], beta]))

    def values(self, h: np.ndarray) -> np.ndarray:
        """The parameter, on the user's scale, at values of the held coordinate."""
        return VALUES.get(self.which.kind, np.asarray)(h)

    def held_at(self, values: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`values`."""
        return COORDINATES.get(self.which.kind, np.asarray)(values)

    def reported(self, place: Place) -> tuple[float | None, np.ndarray, np.ndarray]:
        """sigma, coefficients, and the family's own parameters, none here."""
        return float(np.exp(place.rest[0])), place.rest[1:], np.zeros(0)

    def _split(self, z: np.ndarray) -> list[np.ndarray]:
        return self.problem.split(z[: self.m])

    def at(self, z: np.ndarray) -> Point:
        """f, its gradient and Hessian (exact where that is cheap, else the average information) at z.

        Second derivatives with respect to c are those of c alone.
        """
        sigma = float(np.exp(z[self.m]))
        absolute = [c.at(x) for c, x in zip(self.coordinates, self._split(z), strict=True)]
        frame = Frame(
            [T / sigma for T, _, _ in absolute],
            [d / sigma for _, d, _ in absolute],
            [None if b is None else b / sigma for _, _, b in absolute],
        )
        G = [T @ T.T for T in frame.T]
        dG = [
            np.concatenate([directions(d, T), -2.0 * own[None]])
            for d, T, own in zip(frame.dT, frame.T, G, strict=True)
        ]
        try:
            objective, r2, beta, D, H, rho = self._evaluate(z, frame.T, dG, sigma**2)
        except (np.linalg.LinAlgError, FloatingPointError):
            return self._nowhere(z)
        n, s2, m = self.problem.n, sigma**2, self.m
        if not np.isfinite(objective):
            return self._nowhere(z)
        slopes = np.concatenate(
            [np.einsum("ab,iab->i", d, own) for d, own in zip(D, dG, strict=True)]
        )
        gradient = self.C @ slopes
        gradient[m] += 2.0 * n - 2.0 * r2 / s2
        H = self.C @ H @ self.C.T
        H[:m, :m] += curvature(D, frame)
        across = -2.0 * gradient[:m]
        H[m, m] += (
            4.0 * sum(float(np.sum(d * own)) for d, own in zip(D, G, strict=True)) + 4.0 * r2 / s2
        )
        explicit = 2.0 * (self.C @ rho) / s2
        H[:m, m] += across + explicit[:m]
        H[m, :m] += across + explicit[:m]
        H[m, m] += 2.0 * explicit[m]
        if self.coefficient:
            gradient, H, beta = self._with_coefficient(z, frame.T, sigma**2, gradient, H, beta)
        inverse = solve_triangular(self.problem.R, beta) if self.problem.p else beta
        factors = [T for T, _, _ in absolute]
        return Point(
            np.asarray(z, dtype=float),
            objective,
            gradient,
            H,
            (factors, self.problem.beta0 + inverse),
        )

    def _nowhere(self, z: np.ndarray) -> Point:
        return Point(np.asarray(z, dtype=float), np.inf, np.zeros(len(z)), np.eye(len(z)), None)

    def _shift(self, z: np.ndarray) -> np.ndarray:
        """(p, p + 1): [X y] with the held column taken out of X, and off y."""
        p = self.problem.p
        M = np.zeros((p, p + 1))
        M[:-1, :p] = self.B[:, 1:].T
        M[-1, :p], M[-1, p] = -self._held_gamma(z) * self.B[:, 0], 1.0
        return M

    def _held_gamma(self, z: np.ndarray) -> float:
        return float(z[self.m + 1] - self.problem.beta0[self.which.first]) / self.length

    def _data(self, z: np.ndarray) -> deviance.Data:
        """The sums for the criterion, the held column moved to the response."""
        data = self.problem.data
        if not self.coefficient:
            return data
        M = self._shift(z)
        rhs = Vectors(tuple(np.tensordot(M, own, 1) for own in data.rhs.chain), M @ data.rhs.tail)
        return data._replace(rhs=rhs, gram=M @ data.gram @ M.T)

    def _evaluate(
        self, z: np.ndarray, T: list[np.ndarray], dG: list[np.ndarray], variance: float
    ) -> tuple[float, float, np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
        """f, r2, beta, D per term, second derivatives along the directions and rho."""
        problem, data = self.problem, self._data(z)
        if self.exact:
            parts = hessian.pieces(
                problem.cross, problem.collect(data.rhs), data.gram, T, dG, False
            )
            D = [Q - E / variance for Q, E in zip(parts.Q, parts.E, strict=True)]
            return (
                float(
                    deviance.objective(
                        np, parts.logdet, parts.head, problem.n, data.constant, False, variance
                    )
                ),
                float(parts.head.r2),
                parts.head.beta,
                D,
                hessian.in_directions(parts, problem.n, variance),
                parts.rho,
            )
        plan = problem.arranged
        data = data._replace(variance=np.asarray(variance))
        chain, tail = plan.chain, plan.tail
        well = tuple(
            not self.base.jax and bool(np.linalg.svd(T[t], compute_uv=False)[-1] > 1e-3)
            for t in tail
        )
        arrays: list[Any] = [[own[t] for t in which] for own in (T, dG) for which in (chain, tail)]
        static: dict[str, Any] = {"layout": plan.layout, "well": well, "reml": False, "known": True}
        if self.base.jax:
            value, derived = backend.call(deviance.derivatives, data, *arrays, **static)
        else:
            value, derived = deviance.derivatives(np, data, *arrays, **static)
        order = np.argsort(chain + tail)
        D = [derived.D[i] for i in order]
        stops = np.cumsum([0, *(len(dG[t]) for t in chain + tail)])
        index = np.concatenate([np.arange(stops[i], stops[i + 1]) for i in order])
        rho = []
        for own, factor, modes in zip(dG, T, problem.collect(derived.modes), strict=True):
            inverse = np.linalg.pinv(factor)
            e = inverse.T @ (inverse @ modes[0])  # b = T T'e
            rho.append(np.einsum("iab,ab->i", own, e @ e.T))
        return (
            float(value.objective),
            float(value.r2),
            np.asarray(value.beta),
            D,
            derived.AI[np.ix_(index, index)],
            np.concatenate(rho),
        )

    def _with_coefficient(
        self,
        z: np.ndarray,
        T: list[np.ndarray],
        variance: float,
        gradient: np.ndarray,
        H: np.ndarray,
        beta: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Derivatives in c added, and all of gamma."""
        center, cov = self._free_coefficients(T)
        own, gamma = self._held_gamma(z), self.B[:, 0]
        weight = 2.0 / (float(gamma @ cov @ gamma) * variance)
        slope = weight * (own - float(gamma @ center)) / self.length
        size = len(gradient)
        wide = np.zeros((size + 1, size + 1))
        wide[:size, :size] = H
        wide[size, size] = weight / self.length**2
        return np.append(gradient, slope), wide, self.B @ np.concatenate([[own], beta])

    def _free_coefficients(self, T: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """beta and (Q'V^-1Q)^-1 with none held."""
        problem, plan = self.problem, self.problem.arranged
        chain_T, tail_T = ([T[t] for t in which] for which in (plan.chain, plan.tail))
        if self.base.jax:
            value = backend.call(
                deviance.deviance, problem.data, chain_T, tail_T, layout=plan.layout, reml=False
            )
        else:
            value = deviance.deviance(np, problem.data, chain_T, tail_T, plan.layout, False)
        return value.beta, value.cov
