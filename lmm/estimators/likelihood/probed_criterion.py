"""The criterion of a problem with iterative terms: a score by random probes, and its Monte Carlo error.

No step needs log|H| (:mod:`lmm.model.probes.score_by_probes`): the search looks for a zero of the score with average-information steps.
What the trust region asks, whether a step went down, is answered by the parts that are known exactly and, for log|M|, by the
trapezoid rule along the step, sum_t <Q_0 + Q_1, G_1 - G_0> / 2. The probes are the same at every theta, so that the score is
a smooth function. At the end log|H| is found by Lanczos quadrature, for the log-likelihood that is reported.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from scipy.special import ndtr, stdtrit

from lmm.covariance import Covariance
from lmm.covariance.structure import directions
from lmm.estimators.control import Control
from lmm.estimators.likelihood.profiled import (
    EXPLAINED,
    WELL,
    Evaluator,
    Frame,
    Payload,
    ReportedPoint,
    curvature,
    nothing_left,
    nowhere,
    slope,
)
from lmm.linalg.conjugate import log_quadratics
from lmm.linalg.devices import backend
from lmm.model.probes import score_by_probes
from lmm.model.problem import Problem
from lmm.model.records import MonteCarlo
from lmm.search.trust_region import Outcome, Point

#: relative residual of the probes' systems while searching, and for the log-determinant
TOLERANCE, LANCZOS = 3e-5, 1e-4
#: promised decrease of the deviance at which a search with probes ends: 0.001 standard errors
ENOUGH = 1e-6
#: difference of the deviance along a step that the trapezoid rule and the probes leave unsure
UNSURE = 1e-3
#: probes at the most; a factor by which more are taken than seem needed
MOST, MARGIN = 1_024, 1.3
#: numbers in the probes and their solutions at the most, 2 GB
ROOM = 250_000_000
#: probes at the least where a search ends in problems of up to so many rows, which they cost next to nothing
FIRM, CHEAP = 64, 10_000
#: stated errors that the truth is as seldom away as a normal variable, however few the probes
SELDOM = 3.0
#: eigenvalues of T'AT, A the mean of a term's blocks, above which traces divide by T
APART = 0.1
#: eigenvalues of the model Hessian relative to the largest below which a direction is on a boundary
FLAT = 1e-10


@dataclass(frozen=True)
class Sampled(Payload):
    """A payload with what the probes say of each derivative: per term (m, k, k) of sum_l Q_ll, their means, G, and log|M| so far."""

    probes: list[np.ndarray]
    traces: list[np.ndarray]
    G: list[np.ndarray]
    rest: float
    steps: tuple[int, ...]


class ProbedCriterion(abc.ABC):
    """A criterion whose gradient comes from random probes (count, q)."""

    probes: np.ndarray
    q: int

    @property
    def most(self) -> int:
        """Probes at the most."""
        return int(np.clip(ROOM // max(self.q, 1), 16, MOST))

    @property
    @abc.abstractmethod
    def firm(self) -> int:
        """Probes at the least where a search ends."""

    @abc.abstractmethod
    def errors(self, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """Monte Carlo covariance of the zero of the gradient in the point's coordinates, and that error in standard errors."""

    @abc.abstractmethod
    def more_probes(self, count: int) -> None:
        """Add probes up to ``count``."""


class StochasticEvaluator(Evaluator, ProbedCriterion):
    """:class:`Evaluator` for a problem with iterative terms. It keeps the probes, and the solutions to begin from."""

    comparable = False
    least, noise = ENOUGH, UNSURE

    def __init__(
        self,
        problem: Problem,
        reml: bool,
        sigma: float | None = None,
        control: Control | None = None,
    ):
        super().__init__(problem, reml, sigma)
        self.control = control or Control()
        self.cheap = False
        self.coupled = backend.put(problem.coupled) if self.jax else problem.coupled
        self.q = sum(
            problem.arranged.terms[t].k * problem.arranged.terms[t].J
            for t in problem.plan.iterative
        )
        self.rng = np.random.default_rng(self.control.seed)
        self.probes = self._signs(min(self.control.probes, self.most))
        self.solutions = np.zeros_like(self.probes)
        self.anchor: Point | None = None

    @property
    def firm(self) -> int:
        return FIRM if self.problem.n <= CHEAP else 0

    def more_probes(self, count: int) -> None:
        """Add probes up to ``count``."""
        more = self._signs(count - len(self.probes))
        self.probes = np.concatenate([self.probes, more])
        self.solutions = np.concatenate([self.solutions, np.zeros_like(more)])
        self.anchor = None

    def _signs(self, count: int) -> np.ndarray:
        """Probes (count, q): the same whether or not levels are padded, and zero where they only pad."""
        parts = []
        for t in self.problem.plan.iterative:
            size, padded = self.problem.plan.terms[t], self.problem.arranged.terms[t].J
            own = score_by_probes.signs(self.rng, count, size.k * size.J).reshape(
                count, size.k, size.J
            )
            own = np.pad(own, [(0, 0), (0, 0), (0, padded - size.J)])
            parts.append(own.reshape(count, size.k * padded))
        return np.concatenate(parts, axis=1)

    def _split(
        self, per_term: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Per-term arrays of the chain's terms, of the tail's and of the iterative ones."""
        return *self._arrange(per_term), [per_term[t] for t in self.problem.plan.iterative]

    def _evaluate(self, theta: np.ndarray, frame: Frame) -> Point:
        problem, plan = self.problem, self.problem.plan
        chain_T, tail_T, own_T = self._split(frame.T)
        dG = [directions(frame.dT[t], frame.T[t]) for t in plan.order]
        well = tuple(not self.jax and _regular(t) for t in tail_T)
        means = [self.grams[t] * (problem.n / self.sizes[t][1]) for t in plan.iterative]
        bases = [score_by_probes.basis_for(T, A, APART) for T, A in zip(own_T, means, strict=True)]
        arrays = (self.coupled, self.probes, self.solutions, chain_T, tail_T, own_T, bases, dG)
        try:
            value, found = self._call(
                score_by_probes.derivatives,
                *arrays,
                layout=problem.arranged.layout,
                well=well,
                tolerance=TOLERANCE,
                **self._kind,
            )
        except (np.linalg.LinAlgError, FloatingPointError):
            return nowhere(theta)
        if not np.isfinite(value.objective) or found.residual > 1.0:
            return nowhere(theta)
        if not self.known and value.r2 < EXPLAINED * problem.cross.gram[-1, -1]:
            raise nothing_left(problem)
        self.solutions = np.asarray(found.solutions)
        D, traces, probes = (self._in_order(each) for each in (found.D, found.traces, found.probes))
        model = self._permute(found.AI) + curvature(D, frame)
        G = [t @ t.T for t in frame.T]
        modes = [
            own[:, : size.J]
            for own, size in zip(self._in_order(found.modes), plan.terms, strict=True)
        ]
        payload = Sampled(
            value, D, modes, frame, probes, traces, G, 0.0, tuple(int(s) for s in found.steps)
        )
        point = Point(
            np.asarray(theta, dtype=float),
            float(value.objective),
            slope(D, frame),
            model,
            payload,
        )
        return self._placed(point)

    def _placed(self, point: Point) -> Point:
        """The point with log|H| by the trapezoid rule from the best one so far (zero at the first)."""
        if self.anchor is not None:
            before, now = self.anchor.payload, point.payload
            change = sum(
                float(np.sum((a + b) * (G1 - G0))) / 2.0
                for a, b, G0, G1 in zip(before.traces, now.traces, before.G, now.G, strict=True)
            )
            known_change = self._known_part(point) - self._known_part(self.anchor)
            rest = before.rest + change - known_change
            point = replace(
                point, objective=point.objective + rest, payload=replace(now, rest=rest)
            )
        if self.anchor is None or point.objective < self.anchor.objective:
            self.anchor = point
        return point

    def _known_part(self, point: Point) -> float:
        """log|M| less log|H| and constants, given back from the deviance's other parts."""
        value, degrees = point.payload.value, self.degrees
        s2 = self.variance(value)
        out = float(value.objective) - float(value.r2) / s2 - degrees * np.log(2.0 * np.pi * s2)
        if self.reml and self.problem.p:
            out += float(np.linalg.slogdet(value.cov)[1])
        return out

    def logdet_rest(self, T: list[np.ndarray]) -> tuple[float, float, float]:
        """log|M| less log|H|, log|H| by Lanczos quadrature, and the Monte Carlo error of that."""
        chain_T, tail_T, own_T = self._split(T)
        arrays = (self.coupled, self.probes, chain_T, tail_T, own_T)
        known, alpha, beta, control = self._call(
            score_by_probes.log_determinant,
            *arrays,
            layout=self.problem.arranged.layout,
            tolerance=LANCZOS,
        )
        each = log_quadratics(alpha, beta, np.sum(self.probes**2, axis=1))
        each = score_by_probes.controlled(np, each, control)
        return (
            float(known),
            float(each.mean()),
            widening(len(each)) * float(each.std(ddof=1) / np.sqrt(len(each))),
        )

    def objective(self, theta: np.ndarray) -> float:
        """The criterion at theta, log|H| by Lanczos quadrature."""
        return self.settled(self.in_theta(theta))[0].objective

    def search(self, run: Callable[[np.ndarray], Outcome], start: np.ndarray) -> Outcome:
        """``run`` from ``start``, and again with more probes until they are enough."""
        return search(self, run, start, self.control.accuracy)

    def hessian(self, point: Point) -> np.ndarray:
        """The average information at an evaluated point."""
        return point.hessian

    def settle(self, point: Point) -> ReportedPoint:
        """The log-likelihood by Lanczos quadrature, and the Monte Carlo errors."""
        begin = perf_counter()
        point, error = self.settled(point)
        found = self.monte_carlo(point, error)
        return ReportedPoint(
            point,
            found,
            note(found, self.control.accuracy),
            {"log-determinant": perf_counter() - begin},
        )

    def settled(self, point: Point) -> tuple[Point, float]:
        """The point with log|H| by Lanczos quadrature in its objective, and the Monte Carlo error of that."""
        _, logdet, error = self.logdet_rest(point.payload.frame.T)
        value = float(point.payload.value.objective) + logdet
        return replace(point, objective=value), error

    def errors(self, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """Monte Carlo covariance (m, m) of the zero of the score in the point's coordinates, and that error in standard errors (m,)."""
        payload: Sampled = point.payload
        m = len(self.probes)
        each = np.stack([slope([p[i] for p in payload.probes], payload.frame) for i in range(m)])
        noise = np.atleast_2d(np.cov(each.T)) * widening(m) ** 2 / m
        cov, inverse = spread_of_zero(noise, point.hessian)
        return cov, in_standard_errors(cov, inverse)

    def monte_carlo(self, point: Point, logdet_error: float) -> MonteCarlo:
        """The errors of a fit that ended at this point."""
        cov, relative = self.errors(point)
        J = to_theta(self._terms(point.theta), point.payload.frame)
        theta_cov = J @ cov @ J.T
        return MonteCarlo(
            probes=len(self.probes),
            seed=self.control.seed,
            theta=np.sqrt(np.maximum(np.diagonal(theta_cov), 0.0)),
            relative=relative,
            log_likelihood=logdet_error / 2.0,
            steps=point.payload.steps,
        )


def widening(m: int) -> float:
    """Factor on a standard error told by m probes, by which SELDOM of them are exceeded as seldom as by a normal variable.

    The spread over a few probes may be small by chance: Student's t. Of the degrees of freedom that the mean and the coefficient of a
    control variate leave, half are counted, for what probes say has heavy tails.
    """
    return float(stdtrit(max((m - 2) / 2, 1.0), float(ndtr(SELDOM)))) / SELDOM


def to_theta(terms: Sequence[tuple[Covariance, np.ndarray]], frame: Frame) -> np.ndarray:
    """d theta / d s of a frame's coordinates s (m, m), by least squares between the changes of G that each makes.

    ``terms`` : structure and theta per term.
    """
    blocks = []
    for (structure, own), dT, T in zip(terms, frame.dT, frame.T, strict=True):
        in_s = directions(dT, T).reshape(len(dT), -1)
        in_theta = directions(structure.jacobian(own), structure.factor(own)).reshape(len(dT), -1)
        blocks.append(np.linalg.lstsq(in_theta.T, in_s.T, rcond=1e-10)[0])
    size = sum(len(b) for b in blocks)
    out, at = np.zeros((size, size)), 0
    for block in blocks:
        out[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return out


def _regular(T: np.ndarray) -> bool:
    return bool(np.linalg.svd(T, compute_uv=False)[-1] > WELL)


def spread_of_zero(noise: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the zero of a gradient with covariance ``noise``, and half that of the parameters, H^-1, off the boundary."""
    values, vectors = np.linalg.eigh(hessian)
    inside = values > FLAT * max(float(values[-1]), 1e-300)
    inverse = (vectors[:, inside] / values[inside]) @ vectors[:, inside].T
    return inverse @ noise @ inverse, inverse


def in_standard_errors(cov: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Errors with covariance ``cov`` in standard errors of the parameters, whose covariance is twice ``inverse``."""
    spread = 2.0 * np.diagonal(inverse)
    return np.sqrt(np.divide(np.diagonal(cov), spread, out=np.zeros(len(cov)), where=spread > 0.0))


def search(
    evaluate: ProbedCriterion,
    run: Callable[[np.ndarray], Outcome],
    start: np.ndarray,
    accuracy: float,
) -> Outcome:
    """``run`` from ``start``, then with more probes from where it ended, until the Monte Carlo error is ``accuracy`` standard errors.

    A small problem ends with ``FIRM`` probes at the least, by which the error is well known.
    """
    outcome = run(start)
    while True:
        worst = float(np.max(evaluate.errors(outcome.point)[1], initial=0.0))
        count = len(evaluate.probes)
        if (
            not outcome.converged
            or count >= evaluate.most
            or (worst <= accuracy and count >= evaluate.firm)
        ):
            return outcome
        wanted = max(count * (worst / accuracy) ** 2 * MARGIN, count + 4) if worst > accuracy else 0
        evaluate.more_probes(int(min(max(wanted, evaluate.firm), evaluate.most)))
        outcome = outcome.then(run(outcome.point.theta))


def evaluator(
    problem: Problem, reml: bool, sigma: float | None = None, control: Control | None = None
) -> Evaluator:
    """The criterion of a problem, whichever way it is factorised."""
    if problem.plan.joint:
        from lmm.estimators.likelihood.joint_criterion import JointEvaluator

        return JointEvaluator(problem, reml, sigma)
    if problem.plan.exact:
        return Evaluator(problem, reml, sigma)
    return StochasticEvaluator(problem, reml, sigma, control)


def note(monte_carlo: MonteCarlo, accuracy: float) -> tuple[str, ...]:
    """A sentence where the probes' error is larger than it should be."""
    worst = float(np.max(monte_carlo.relative, initial=0.0))
    if worst <= accuracy:
        return ()
    return (
        f"the Monte Carlo error of a variance parameter is {100 * worst:.2g} % of its standard error with {monte_carlo.probes} random "
        "probes, the most that fit in memory; its digits beyond that mean nothing.",
    )
