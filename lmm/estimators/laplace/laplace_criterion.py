"""-2 log-likelihood of a generalized model as a function of psi = (theta, gamma, rho).

gamma are the fixed effects of the orthonormal columns, X beta = Q gamma; rho are the family's own parameters, the log
of a dispersion or thresholds. Gradient and model Hessian refer to the charts of the covariance structures, in which a
step is taken. Thresholds carry the level of the response, so psi then holds the coefficients of the centred columns,
Q - 1 q' = Qc L' with Qc orthonormal, and the first threshold less q'gamma: no pair of them is nearly collinear. Where predictors
have the units of the response, theta and gamma are measured by the size of the predictor, so that no units enter the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from lmm.covariance.structure import directions
from lmm.design.rank import triangle_inverse
from lmm.errors import ArgumentError
from lmm.estimators.laplace import separation
from lmm.estimators.likelihood.profiled import Frame, curvature, slope
from lmm.families.base import Phi
from lmm.linalg import small
from lmm.model.gaussian import dense_effects
from lmm.model.gaussian.crossproducts import dense_matrix
from lmm.model.laplace.laplace import Laplace, Way, by_leverages, laplace_task
from lmm.model.laplace.modes import MODE_TOLERANCE, find_modes, follow
from lmm.model.laplace.passes import Source, Task, drive
from lmm.model.laplace.quadrature import quadrature
from lmm.model.laplace.second_order import correction
from lmm.model.problem import GeneralizedProblem
from lmm.model.records import Estimate
from lmm.search.boundary import SNAP, escapes, snap
from lmm.search.trust_region import Outcome, Point

#: random effects up to which the observed information of crossed factors is taken from one dense matrix
DENSE = 1_500
#: size of the second-order term per level, in the log-likelihood, up to which the expansion is trusted
EXPANSION = 0.02
#: decrement of a mode relative to the square of the decrease that a step promises, and the largest, while a search is under way
CLOSER, ROUGH = 1e-6, 1e-6
#: rounding of the sum of log densities, relative to that of the part that depends on the predictor
ROUNDING = 8.0 * float(np.finfo(float).eps)


@dataclass(frozen=True)
class LaplaceState:
    """What an evaluation leaves: the Laplace terms, the local coordinates, and the parameters' parts."""

    laplace: Laplace
    frame: Frame
    theta: np.ndarray
    gamma: np.ndarray
    phi: Phi


class Objective:
    """J of one problem; it remembers the modes of its last good point, from which the next search for them starts."""

    #: whether values of J can be compared however far apart they are, which takes the exact factorisation
    comparable = True
    #: promised decrease at which a search ends in any case, and a difference of J that means nothing
    least, noise = 0.0, 0.0
    #: how often the fixed effects' share is taken from the average information of G: once for its mean of observed and expected
    profiling = 1.0

    def __init__(
        self,
        problem: GeneralizedProblem,
        curvature: str = "observed",
        points: int = 1,
        second_order: bool = False,
    ):
        if self.comparable:
            problem.plan.require_exact("The exact gradient of Laplace's approximation")
        self.second_order = second_order
        self.points, self.free = points, points == 0
        # quadrature nodes sit on the mode, so what is left of the search for it does not cancel
        self.tolerance = MODE_TOLERANCE if points <= 1 else MODE_TOLERANCE * 1e-7
        self.gamma = np.zeros(problem.p)
        self.observed = curvature == "observed" or not problem.family.has_information
        self.problem, self.family, self.rows, self.structures = (
            problem,
            problem.family,
            problem.rows,
            problem.structures,
        )
        # quadrature and the second-order term look at rows one by one
        self.source: Source = problem.rows if points > 1 or second_order else problem.source
        self.m = problem.n_theta
        self.grams = problem.grams()
        # a grid of nodes turns with the factor T, so that the integral is a function of G only where T stays triangular
        linear = all(s.second(np.ones(s.n_theta)) is None for s in self.structures)
        self.triangular = points > 1 and linear and any(s.k > 1 for s in self.structures)
        self.u = [np.zeros((size.k, size.J)) for size in problem.plan.terms]
        self.lowest = np.inf
        self.last: Point | None = None
        self.promised = np.inf
        #: whether modes far from the end of a search are found only as closely as the next step needs
        self.searching = False
        # the part of the density that no parameter moves
        self.constant = None if self.family.has_own_constant else self.rows.constant(self.family)
        self.turn: np.ndarray | None = None
        if not self.free and not self.family.has_intercept:
            self.turn = centring(self.rows.Q, self.family.n_parameters)
        elif (
            not self.free and problem.eta_scale != 1.0
        ):  # psi holds the coefficients relative to the size of the predictor
            self.turn = np.diag(
                np.repeat([problem.eta_scale, 1.0], [problem.p, self.family.n_parameters])
            )

    def pack(self, theta: np.ndarray, beta: np.ndarray, phi: Phi) -> np.ndarray:
        """psi of parameters on the user's scale."""
        return self.enter(np.concatenate([theta, self.rows.R @ beta, self.family.to_rho(phi)]))

    def enter(self, parameters: np.ndarray) -> np.ndarray:
        """psi of (theta, gamma, rho): without gamma, which is kept as a start, when the inner loop finds it."""
        if self.turn is not None:
            return np.concatenate(
                [parameters[: self.m], np.linalg.solve(self.turn, parameters[self.m :])]
            )
        if not self.free:
            return parameters
        self.gamma = parameters[self.m : self.m + self.rows.p]
        return np.delete(parameters, slice(self.m, self.m + self.rows.p))

    def split(self, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        """theta, gamma and phi."""
        rest = psi[self.m :] if self.turn is None else self.turn @ psi[self.m :]
        gamma, rho = (self.gamma, rest) if self.free else (rest[: self.rows.p], rest[self.rows.p :])
        return psi[: self.m], gamma, self.family.from_rho(rho)

    def __call__(self, psi: np.ndarray) -> Point:
        """J, gradient and model Hessian in the charts' coordinates at psi."""
        return self.in_frame(psi, self._charts(psi))

    def _charts(self, psi: np.ndarray) -> Frame:
        if self.triangular:
            frame, B = self._own_frame(psi), self.scaling()[: self.m, : self.m]
            return Frame(frame.T, [np.tensordot(B.T, frame.dT[0], 1)], frame.second)
        own = self.problem.split(psi[: self.m])
        charts = [
            s.chart(o, gram) for s, o, gram in zip(self.structures, own, self.grams, strict=True)
        ]
        return Frame(*map(list, zip(*charts, strict=True)))

    def in_theta(self, psi: np.ndarray) -> Point:
        """The same with respect to theta itself."""
        return self.in_frame(psi, self._own_frame(psi))

    def _own_frame(self, psi: np.ndarray) -> Frame:
        pairs = list(zip(self.structures, self.problem.split(psi[: self.m]), strict=True))
        return Frame(
            [s.factor(o) for s, o in pairs],
            [s.jacobian(o) for s, o in pairs],
            [s.second(o) for s, o in pairs],
        )

    def move(self, psi: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The psi reached by a step in the local coordinates."""
        if self.last is not None and np.array_equal(psi, self.last.theta):
            self.promised = -float(
                step @ self.last.gradient + 0.5 * step @ self.last.hessian @ step
            )
        if self.triangular:
            return np.concatenate(
                [
                    psi[: self.m] + self.scaling()[: self.m, : self.m] @ step[: self.m],
                    psi[self.m :] + step[self.m :],
                ]
            )
        own, steps = self.problem.split(psi[: self.m]), self.problem.split(step[: self.m])
        moved = [
            s.move(o, gram, d)
            for s, o, gram, d in zip(self.structures, own, self.grams, steps, strict=True)
        ]
        return np.concatenate([*moved, psi[self.m :] + step[self.m :]])

    @property
    def way(self) -> Way:
        """How the determinant and its derivatives are found."""
        return by_leverages

    def in_frame(self, psi: np.ndarray, frame: Frame) -> Point:
        """The same with the factors and coordinates of ``frame``, whatever the theta in psi."""
        return drive(self.source, [self.evaluation(psi, frame)])[0]

    def evaluation(self, psi: np.ndarray, frame: Frame) -> Task[Point]:
        """:meth:`in_frame` as a task of passes."""
        theta, gamma, phi = self.split(psi)
        u, b = self._start(frame.T, gamma, phi)
        try:
            at = yield from laplace_task(
                self.family,
                self.source,
                frame.T,
                gamma,
                phi,
                u,
                b,
                self.observed,
                self.free,
                self.constant,
                self._tolerance(),
                self.way,
            )
        except (np.linalg.LinAlgError, FloatingPointError):
            return Point(psi, np.inf, np.zeros(len(psi)), np.eye(len(psi)))
        if not np.isfinite(at.objective):
            return Point(psi, np.inf, np.zeros(len(psi)), np.eye(len(psi)))
        if self.second_order:
            shift = self._second_order(psi, frame, at)
            if abs(shift[0]) > 2.0 * EXPANSION * self.rows.plan.terms[0].J:
                if not np.isfinite(self.lowest):
                    raise self._diverges(shift[0])
                return Point(psi, np.inf, np.zeros(len(psi)), np.eye(len(psi)))
            objective = at.objective + shift[0]
            d_theta = slope(at.D, frame) + shift[1][: self.m]
            rest = (
                self._turned(np.concatenate([at.d_gamma, at.parameters.gradient]))
                + shift[1][self.m :]
            )
        elif self.points <= 1:
            objective = at.objective
            rest = (
                at.parameters.gradient
                if self.free
                else self._turned(np.concatenate([at.d_gamma, at.parameters.gradient]))
            )
            d_theta = slope(at.D, frame)
        else:
            exact = quadrature(
                self.family, self.rows, frame.T[0], gamma, phi, at, self.points, self.observed
            )
            objective, rest = (
                exact.objective,
                self._turned(np.concatenate([exact.d_gamma, exact.d_rho])),
            )
            d_theta = np.einsum("ab,iab->i", exact.d_T, frame.dT[0])
        state = LaplaceState(at, frame, theta, at.mode.gamma, phi)
        rounding = ROUNDING * abs(at.mode.sums.kernel)
        point = Point(
            psi,
            objective,
            np.concatenate([d_theta, rest]),
            self._model(at, frame),
            state,
            rounding,
        )
        if objective < self.lowest:
            self.remember(point)
        return point

    def remember(self, point: Point) -> None:
        """Look for the next modes from those of this point."""
        mode = point.payload.laplace.mode
        self.lowest, self.u, self.gamma, self.last = point.objective, mode.u, mode.gamma, point

    def _start(
        self, T: list[np.ndarray], gamma: np.ndarray, phi: Phi
    ) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        """Where to look for the modes: where those of the best point go to first order, or where they are."""
        state = self.last.payload if self.last is not None else None
        if state is None or self.free:
            return self.u, None
        near: Laplace = state.laplace
        score = None
        if near.slopes.mixed:
            step = self.family.to_rho(phi) - self.family.to_rho(state.phi)
            score = [np.tensordot(step, own, 1) for own in near.slopes.mixed]
        found = follow(T, near.mode, gamma, score, near.slopes.ZwQ, self.problem.eta_scale)
        return (self.u, None) if found is None else (found.u, found.b)

    def _tolerance(self) -> float:
        """Decrement at which a mode is found: what is left of it enters J and its gradient to second order only."""
        if not self.searching:
            return self.tolerance
        return float(np.clip(CLOSER * self.promised**2, self.tolerance, ROUGH))

    def _turned(self, gradient: np.ndarray) -> np.ndarray:
        """Derivatives in (gamma, rho) as derivatives in that part of psi."""
        return gradient if self.turn is None else self.turn.T @ gradient

    def _diverges(self, shift: float) -> ArgumentError:
        group = self.rows.plan.terms[0].group
        return ArgumentError(
            f"nAGQ='laplace2' does not hold here: the second-order term is {-shift / 2:.1f} in the log-likelihood, too much for an "
            f"expansion, because levels of {group} hold little data for their variance. Use nAGQ=25."
        )

    def _second_order(self, psi: np.ndarray, frame: Frame, at: Laplace) -> tuple[float, np.ndarray]:
        """-2 c of the second-order expansion and its gradient in the coordinates of ``frame``, by central differences."""

        def value(shift: np.ndarray) -> float:
            T = [
                t + np.tensordot(own, j, 1)
                for t, own, j in zip(
                    frame.T, self.problem.split(shift[: self.m]), frame.dT, strict=True
                )
            ]
            _, gamma, phi = self.split(psi + shift)
            mode = find_modes(self.family, self.rows, T, gamma, phi, at.mode.u)
            return -2.0 * correction(self.family, self.rows, phi, mode)

        steps = 1e-4 * np.eye(len(psi))
        gradient = np.array([(value(h) - value(-h)) / 2e-4 for h in steps])
        return -2.0 * correction(self.family, self.rows, self.split(psi)[2], at.mode), gradient

    def _observed(self, at: Laplace, dG: list[np.ndarray], average: np.ndarray) -> np.ndarray:
        """What the observed information of G has beyond the average one, v'Qv - tr(E_i Q E_j Q), where a structure needs it.

        It vanishes in expectation where G is free. Where G is held to few dimensions, D is far from zero in the others, and its
        curvature there is balanced by this alone. Of very many crossed effects it is taken level by level.
        """
        plan = self.problem.plan
        if not plan.exact or not any(structure.confined for structure in self.structures):
            return np.zeros_like(average)
        sizes = tuple((size.k, size.J) for size in plan.terms)
        if not plan.by_level and sum(k * J for k, J in sizes) <= DENSE:
            A = dense_matrix(self.source.pattern.with_blocks(at.working.diag, at.working.pairs))
            return average - dense_effects.information_trace(A, sizes, at.factorisation.T, dG)
        out, stops = np.zeros_like(average), np.cumsum([0, *map(len, dG)])
        N = at.factorisation.inverse_blocks()
        for t, (own, A) in enumerate(zip(dG, at.working.diag, strict=True)):
            Q = A - small.multiply(small.multiply(A, N[t]), A)
            EQ = np.einsum("iab,bcj->iacj", own, Q)
            span = slice(stops[t], stops[t + 1])
            out[span, span] = average[span, span]
            out[span, span] -= np.einsum("iacj,kcaj->ik", EQ, EQ, optimize=True)
        return out

    def _model(self, at: Laplace, frame: Frame) -> np.ndarray:
        """Average information of the working linear model, with the curvature of G."""
        dG = [directions(d, t) for d, t in zip(frame.dT, frame.T, strict=True)]
        m, p = self.m, self.rows.p
        size = m + p + self.family.n_parameters
        H = np.zeros((size, size))
        v: list[np.ndarray] = []
        start = 0
        for t, own in enumerate(dG):
            e = at.factorisation.related(t, at.e[t])
            block = np.zeros((m, *e.shape))
            block[start : start + len(own)] = (own.reshape(-1, len(e)) @ e).reshape(
                len(own), *e.shape
            )
            v.append(block)
            start += len(own)
        average = at.quadratics(dG, v)
        H[:m, :m] = average + self._observed(at, dG, average) + curvature(at.D, frame)
        H[m : m + p, m : m + p] = 2.0 * at.information
        cross = sum(
            (
                a.reshape(m, -1) @ F.reshape(p, a[0].size).T
                for a, F in zip(v, at.fixed, strict=True)
            ),
            np.zeros((m, p)),
        )
        H[:m, m : m + p], H[m : m + p, :m] = cross, cross.T
        if size > m + p:
            H[m + p :, m + p :] = 2.0 * at.parameters.information
            H[m : m + p, m + p :] = 2.0 * at.parameters.with_gamma
            for a, g in zip(v, at.parameters.with_G, strict=False):
                H[:m, m + p :] += a.reshape(m, -1) @ g.reshape(len(g), -1).T
            H[m + p :, : m + p] = H[: m + p, m + p :].T
        if self.turn is not None:
            H[:, m:] = H[:, m:] @ self.turn
            H[m:] = self.turn.T @ H[m:]
        if self.free:  # beta profiled: its Schur complement
            keep = np.r_[0:m, m + p : size]
            middle = (
                np.linalg.solve(H[m : m + p, m : m + p], H[m : m + p, keep])
                if p
                else np.zeros((0, len(keep)))
            )
            taken = H[keep, m : m + p] @ middle
            taken[:m, :m] *= self.profiling
            H = H[np.ix_(keep, keep)] - taken
        return (H + H.T) / 2

    def look(self, theta: np.ndarray, point: Point) -> tuple[float, np.ndarray]:
        """J at another theta with the fixed effects that the joint mode has there, about their best, and that psi.

        The family's own parameters stay those of ``point``.
        """
        _, gamma, phi = self.split(point.theta)
        T = self.problem.factors(theta)
        u = [np.zeros_like(own) for own in self.u]
        task = laplace_task(
            self.family,
            self.source,
            T,
            gamma,
            phi,
            u,
            None,
            self.observed,
            True,
            self.constant,
            ROUGH,
            self.way,
        )
        try:
            at = drive(self.source, [task])[0]
        except (np.linalg.LinAlgError, FloatingPointError):
            return np.inf, point.theta
        found = at.mode.gamma if np.isfinite(at.objective) else gamma
        return at.objective, self.enter(np.concatenate([theta, found, self.family.to_rho(phi)]))

    def forget(self) -> None:
        """Look for the next modes without regard to those found so far."""
        self.u = [np.zeros_like(own) for own in self.u]
        self.lowest, self.last, self.promised = np.inf, None, np.inf

    def escapes(self, point: Point) -> Iterator[np.ndarray]:
        """Points across the boundary to try, when a stationary point is not a minimum over G >= 0."""
        if point.payload is None:  # a start without a likelihood
            return
        for theta in escapes(self.problem, point.theta[: self.m], point.payload.laplace.D):
            yield np.concatenate([theta, point.theta[self.m :]])

    def snap(self, outcome: Outcome, tolerance: float) -> Outcome:
        """Set nearly zero variances to zero if the likelihood allows it."""
        return snap(self.problem, self, outcome, 100 * tolerance, 10 * SNAP)

    def scaling(self) -> np.ndarray:
        """B (M, M): psi = B s, in whose coordinates s steps mean the same whatever the units and origins of the data."""
        B = np.eye(self.m + self.rows.p * (not self.free) + self.family.n_parameters)
        start = 0
        for s, gram in zip(self.structures, self.grams, strict=True):
            own = slice(start, start := start + s.n_theta)
            B[own, own] = s.scaling(gram)
        return B

    def hessian(self, psi: np.ndarray, B: np.ndarray | None = None) -> np.ndarray:
        """Second derivatives of J with respect to s, psi = ``B`` s (to psi without), by central differences of the exact gradient.

        The modes are found more closely than a search needs: a step of 1e-4 magnifies their error. They are followed to the ends
        of a step to first order, which mostly is close enough: one pass for the density and one for the leverages there.
        """
        B = np.eye(len(psi)) if B is None else B
        H = B.T @ self.differences(psi, B, attrgetter("gradient"))
        return np.asarray((H + H.T) / 2)

    def differences(
        self, psi: np.ndarray, B: np.ndarray, what: Callable[[Point], np.ndarray]
    ) -> np.ndarray:
        """Central differences along s, psi = ``B`` s, of ``what`` (r,) is said of a point: (r, number of parameters)."""
        columns: list[np.ndarray] = []
        usual, self.tolerance = self.tolerance, min(self.tolerance, 1e-3 * MODE_TOLERANCE)
        widths = 1e-4 * np.maximum(1.0, np.abs(np.linalg.solve(B, psi)))
        steps = (B * widths).T
        at_once = self._at_once()
        for start in range(0, len(psi), at_once):
            those = steps[start : start + at_once]
            ends = [psi + sign * step for step in those for sign in (1.0, -1.0)]
            found = drive(self.source, [self.evaluation(end, self._own_frame(end)) for end in ends])
            values = [what(point) for point in found]
            columns += [
                (values[2 * i] - values[2 * i + 1]) / (2.0 * widths[start + i])
                for i in range(len(those))
            ]
        self.tolerance = usual
        return np.column_stack(columns)

    def search(self, run: Callable[[np.ndarray], Outcome], start: np.ndarray) -> Outcome:
        """``run`` from ``start``; with modes found closely where it ended where it began, as no step asked for them."""
        outcome = run(start)
        self.searching = False
        return (
            outcome.then(run(outcome.point.theta))
            if outcome.converged and self.is_rough(outcome.point)
            else outcome
        )

    def reported(self, estimate: Estimate, point: Point) -> Estimate:
        """The estimate with what is to be said of its numbers."""
        return estimate

    def over_fixed(self, point: Point) -> float:
        """What the integral over the fixed effects adds at a point, where there is one."""
        return 0.0

    def is_rough(self, point: Point) -> bool:
        """Whether the modes at a point were found so roughly that an end there is not to be trusted."""
        return point.payload is not None and bool(
            point.payload.laplace.mode.decrement > 1e3 * self.tolerance
        )

    def _at_once(self) -> int:
        """Parameters whose two points are evaluated in the same passes, by the memory of their sums."""
        pattern = self.source.pattern
        levels = sum(
            A.shape[0] * A.shape[-1] * (2 * self.rows.p + 2 * A.shape[0] + 8) for A in pattern.diag
        )
        pairs = sum(2 * own.blocks.size for own in pattern.pairs.values())
        return max(1, int(self.source.at_once // (2 * (levels + pairs))))

    def covariance(self, psi: np.ndarray, endless: np.ndarray | None = None) -> np.ndarray:
        """Covariance of (theta, beta, rho), on the user's scale; zero rows for parameters on the boundary.

        Along the directions ``endless`` (p + r, d) of (beta, rho) the likelihood has no maximum.
        """
        B = self.scaling()
        H = self.hessian(psi, B)
        p = self.rows.p
        back = np.eye(len(psi))
        back[self.m : self.m + p, self.m : self.m + p] = triangle_inverse(self.problem.R)
        if self.turn is not None:
            back[self.m :, self.m :] = back[self.m :, self.m :] @ self.turn
        free = self.let_go(psi)
        out = np.zeros_like(H)
        back = back @ B
        if endless is not None:
            endless = np.concatenate(
                [
                    np.zeros((self.m, endless.shape[1])),
                    np.linalg.solve(back[self.m :, self.m :], endless),
                ]
            )[free]
        out[np.ix_(free, free)] = separation.inverse(H[np.ix_(free, free)] / 2.0, endless)
        return np.asarray(back @ out @ back.T)

    def let_go(self, psi: np.ndarray) -> np.ndarray:
        """Which parameters are not held at a boundary, boolean (len psi,)."""
        pairs = zip(self.structures, self.problem.split(psi[: self.m]), strict=True)
        held = [s.held(own) for s, own in pairs]
        return ~np.concatenate([*held, np.zeros(len(psi) - self.m, dtype=bool)])


def centring(Q: np.ndarray, r: int) -> np.ndarray:
    """(p + r, p + r): (gamma, rho) from the coefficients of the centred columns and rho with its first element shifted alike."""
    p = Q.shape[1]
    mean = Q.mean(axis=0)
    out = np.eye(p + r)
    if p:
        centred = Q - mean
        out[:p, :p] = np.linalg.inv(np.linalg.cholesky(centred.T @ centred / len(Q))).T
        out[p, :p] = mean @ out[:p, :p]
    return out
