"""The criterion of a linear model whose random effects are eliminated together, by the contract of a factorisation.

With b_t ~ N(0, K_t (x) G_t), K_t = I where levels are independent, the formulas of :mod:`lmm.model.gaussian.deviance` hold with sums over
pairs of levels, weighted by K, in place of sums over levels:

    D_t = sum_ij K_ij ([Q_P]_ij - e_i e_j' / sigma^2),   v = (dG (x) K) e.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmm.covariance.structure import directions
from lmm.estimators.likelihood.profiled import (
    EXPLAINED,
    ROUNDING,
    Evaluator,
    Frame,
    Payload,
    curvature,
    nothing_left,
    nowhere,
    slope,
)
from lmm.linalg.factorisation import Factorisation
from lmm.model.gaussian import deviance
from lmm.model.gaussian.deviance import Data, Profiled
from lmm.model.gaussian.hessian import by_differences
from lmm.search.trust_region import Point


class Solved(NamedTuple):
    """At given T: what was profiled out, the factorisation, N Z'W[Q y] and Z'V^-1[Q y] (p + 1, k, J) per term, root of (Q'V^-1Q)^-1."""

    value: Profiled
    at: Factorisation
    modes: list[np.ndarray]
    residuals: list[np.ndarray]
    root: np.ndarray


class Along(NamedTuple):
    """D (k, k) per term, average information along all directions, rho = e'v, effects b (k, J) per term."""

    D: list[np.ndarray]
    AI: np.ndarray
    rho: np.ndarray
    modes: list[np.ndarray]


class JointEvaluator(Evaluator):
    """The deviance of one problem as a function of theta; ``sigma`` where it is known."""

    def prepare(self) -> None:
        """The system, with the order of its elimination; the exact Hessian costs more than it saves."""
        self.cheap = False
        self.system = self.problem.penalized_system()

    def solved(self, T: list[np.ndarray], data: Data, rhs: list[np.ndarray], known: bool) -> Solved:
        """The deviance at T for right-hand sides (p + 1, k, J) per term, those of the problem or others; ``known``: at sigma^2 of the data.

        Raises
        ------
        numpy.linalg.LinAlgError : where it cannot be computed.
        """
        at = self.system.factorize(T)
        modes, residuals, inner = at.solve(rhs)
        value, root = deviance.profile(np, data, np.asarray(at.logdet), inner, self.reml, known)
        return Solved(value, at, modes, residuals, root)

    def along(self, found: Solved, dG: list[np.ndarray], s2: float, known: bool) -> Along:
        """Derivatives at variance ``s2`` along directions dG (m_t, k, k) of each term; ``known``: it does not follow them."""
        combine = np.append(-np.asarray(found.value.beta), 1.0)
        e = [np.tensordot(combine, own, 1) for own in found.residuals]
        related = [found.at.related(t, own) for t, own in enumerate(e)]
        D = []
        for t, trace in enumerate(found.at.traces()):
            d = trace - e[t] @ related[t].T / s2
            if self.reml and len(combine) > 1:
                half = np.tensordot(found.root, found.residuals[t][:-1], 1)
                d = d - np.einsum("paj,pbj->ab", half, found.at.related(t, half))
            D.append((d + d.T) / 2.0)

        def quadratic(v: list[np.ndarray]) -> np.ndarray:
            Av = self.system.multiply(v)
            direct = sum(
                a.reshape(len(a), -1) @ b.reshape(len(b), -1).T for a, b in zip(v, Av, strict=True)
            )
            return np.asarray(direct - found.at.solve(Av).inner)

        m = sum(len(own) for own in dG)
        v, first = [], 0
        for own, Ke in zip(dG, related, strict=True):
            wide = np.zeros((m, *Ke.shape))
            wide[first : first + len(own)] = np.einsum("iab,bj->iaj", own, Ke)
            v.append(wide)
            first += len(own)
        quad = quadratic(v)
        if len(found.root):
            onto = found.root @ sum(
                f[:-1].reshape(len(f) - 1, -1) @ own.reshape(m, -1).T
                for f, own in zip(found.residuals, v, strict=True)
            )
            quad = quad - onto.T @ onto
        rho = sum(own.reshape(m, -1) @ each.ravel() for own, each in zip(v, e, strict=True))
        variance = s2 if known else None
        AI = deviance.second_derivatives(
            None, quad, np.asarray(rho), found.value.r2, self.degrees, variance
        )
        modes = [np.tensordot(combine, own, 1) for own in found.modes]
        return Along(D, np.asarray((AI + AI.T) / 2.0), np.asarray(rho), modes)

    def _at(self, T: list[np.ndarray]) -> Solved:
        return self.solved(T, self.data, self.problem.right_hand_sides(), self.known)

    def objective(self, theta: np.ndarray) -> float:
        """The deviance alone."""
        return float(self._at(self.problem.factors(theta)).value.objective)

    def modes(self, theta: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """sigma^2 and the conditional modes (k, J) per term at theta."""
        found = self._at(self.problem.factors(theta))
        combine = np.append(-np.asarray(found.value.beta), 1.0)
        return self.variance(found.value), [np.tensordot(combine, own, 1) for own in found.modes]

    def hessian(self, point: Point) -> np.ndarray:
        """Second derivatives with respect to theta at a point of :meth:`in_theta`, by differences of the exact gradient."""
        return by_differences(lambda theta: self.in_theta(theta).gradient, point.theta)

    def _evaluate(self, theta: np.ndarray, frame: Frame) -> Point:
        problem = self.problem
        dG = [directions(d, t) for d, t in zip(frame.dT, frame.T, strict=True)]
        try:
            found = self._at(frame.T)
            value = found.value
            if not np.isfinite(value.objective):
                return nowhere(theta)
            if not self.known and value.r2 < EXPLAINED * problem.cross.gram[-1, -1]:
                raise nothing_left(problem)
            at = self.along(found, dG, self.variance(value), self.known)
        except np.linalg.LinAlgError:
            return nowhere(theta)
        rounding = ROUNDING * self.degrees * float(problem.cross.gram[-1, -1]) / float(value.r2)
        return Point(
            np.asarray(theta, dtype=float),
            float(value.objective),
            slope(at.D, frame),
            at.AI + curvature(at.D, frame),
            Payload(value, at.D, at.modes, frame),
            rounding,
        )
