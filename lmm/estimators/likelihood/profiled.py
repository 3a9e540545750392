"""The criterion of one problem as a function of theta, in coordinates fit for stepping.

The model Hessian is the average information carried to the coordinates s, G = T(s) T(s)',

    H_ij = AI_ij + <D, d2G / ds_i ds_j>,   g_i = <D, dG_i> = 2 <D T, dT_i>,

whose second term holds the curvature near a zero variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from lmm.covariance import Covariance
from lmm.covariance.structure import bent, directions
from lmm.errors import ResponseError
from lmm.linalg import elimination, tail
from lmm.linalg.devices import backend, sharded
from lmm.model.gaussian import deviance, hessian
from lmm.model.problem import Problem
from lmm.model.records import MonteCarlo
from lmm.search.trust_region import Outcome, Point
from lmm.types import Kernel

#: error of a sum of squares, relative to its size
ROUNDING = 4.0 * float(np.finfo(float).eps)
#: smallest singular value of T for which the tail's traces divide by it
WELL = 1e-3
#: random effects up to which steps near the optimum use the exact Hessian: several factors, one factor.
#: Above, it costs more than it saves: the average information is off by about 1 / sqrt(levels).
REFINE_LIMIT, REFINE_LIMIT_ONE = 400, 20_000
#: residual over total sum of squares below which nothing is left to estimate
EXPLAINED = 1e-10


class Frame(NamedTuple):
    """Local coordinates per term in the design's order: T (k, k), dT (m_t, k, k), d2T (m_t, m_t, k, k) or None."""

    T: list[np.ndarray]
    dT: list[np.ndarray]
    second: list[np.ndarray | None]


@dataclass(frozen=True)
class Payload:
    """What an evaluation leaves: profiled values, D and modes per term in the design's order, the coordinates."""

    value: deviance.Profiled
    D: list[np.ndarray]
    modes: list[np.ndarray]
    frame: Frame


class ReportedPoint(NamedTuple):
    """A point with its criterion as it is reported, its Monte Carlo errors, messages and the seconds that this took."""

    point: Point
    monte_carlo: MonteCarlo | None = None
    messages: tuple[str, ...] = ()
    seconds: dict[str, float] = {}


class Evaluator:
    """The deviance of one problem as a function of theta; ``sigma`` where it is known."""

    #: whether values of the criterion can be compared however far apart they are
    comparable = True
    #: promised decrease at which a search ends in any case, and a difference of the criterion that means nothing
    least, noise = 0.0, 0.0

    def __init__(self, problem: Problem, reml: bool, sigma: float | None = None):
        self.problem, self.reml, self.sigma = problem, reml, sigma
        self.known = sigma is not None
        self.degrees = problem.n - (problem.p if reml else 0)
        self.data = problem.deviance_data(reml, sigma)
        self.grams = problem.grams()
        self.sizes = [(size.k, size.J) for size in problem.plan.terms]
        self.jax = problem.plan.backend == "jax"
        effects = sum(k * J for k, J in self.sizes)
        self.cheap = effects <= (REFINE_LIMIT_ONE if problem.plan.by_level else REFINE_LIMIT)
        self.mesh = (
            sharded.mesh_for(problem.plan.devices, tail.size(problem.arranged.layout))
            if self.jax
            else None
        )
        if self.jax:
            system = (
                elimination.without_scatter(self.data.system)
                if backend.has_accelerator()
                else self.data.system
            )
            self.data = deviance.Data(
                elimination.on_devices(self.mesh, system), *backend.put(tuple(self.data[1:]))
            )
        self.prepare()

    def prepare(self) -> None:
        """What another way of factorising needs beforehand."""

    def _call(self, kernel: Kernel, *arrays: object, **static: Any) -> Any:
        if self.jax:
            with backend.over(self.mesh):
                return backend.call(kernel, self.data, *arrays, **static)
        with np.errstate(all="ignore"):  # what is not finite is refused
            return kernel(np, self.data, *arrays, **static)

    @property
    def _kind(self) -> dict[str, bool]:
        return {"reml": self.reml, "known": self.known}

    def variance(self, value: deviance.Profiled) -> float:
        """sigma^2 at an evaluation: the known one, or the one profiled out."""
        return self.sigma**2 if self.sigma is not None else float(value.r2) / self.degrees

    def _arrange(self, per_term: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Per-term arrays of the chain's terms and of the tail's."""
        plan = self.problem.plan
        return [per_term[t] for t in plan.chain], [per_term[t] for t in plan.tail]

    def _in_order(self, arranged: Sequence[object]) -> list[Any]:
        """Per-term values in the plan's order, in the design's."""
        return [arranged[i] for i in np.argsort(self.problem.plan.order)]

    def objective(self, theta: np.ndarray) -> float:
        """The deviance alone."""
        chain_T, tail_T = self._arrange([s.factor(own) for s, own in self._terms(theta)])
        value = self._call(
            deviance.deviance, chain_T, tail_T, layout=self.problem.arranged.layout, **self._kind
        )
        return float(value.objective)

    def modes(self, theta: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """sigma^2 and the conditional modes (k, J) per term at theta, without derivatives where they would cost more."""
        if self.jax:  # the kernel of the search is compiled already
            payload = self(theta).payload
            if payload is None:
                raise np.linalg.LinAlgError("the criterion cannot be computed here")
            return self.variance(payload.value), [np.asarray(own) for own in payload.modes]
        chain_T, tail_T = self._arrange([s.factor(own) for s, own in self._terms(theta)])
        value, state = self._call(
            deviance.state, chain_T, tail_T, layout=self.problem.arranged.layout, reml=self.reml
        )
        combine = np.append(-value.beta, 1.0)
        return self.variance(value), [
            np.tensordot(combine, own, 1) for own in self.problem.collect(state.modes)
        ]

    def _terms(self, theta: np.ndarray) -> list[tuple[Covariance, np.ndarray]]:
        return list(zip(self.problem.structures, self.problem.split(theta), strict=True))

    def __call__(self, theta: np.ndarray) -> Point:
        """Criterion, gradient and model Hessian at theta in the coordinates of the structures' charts."""
        charts = [
            s.chart(own, gram)
            for (s, own), gram in zip(self._terms(theta), self.grams, strict=True)
        ]
        return self._evaluate(theta, Frame(*map(list, zip(*charts, strict=True))))

    def in_theta(self, theta: np.ndarray) -> Point:
        """The same with gradient and model Hessian with respect to theta itself."""
        terms = self._terms(theta)
        frame = Frame(
            [s.factor(o) for s, o in terms],
            [s.jacobian(o) for s, o in terms],
            [s.second(o) for s, o in terms],
        )
        return self._evaluate(theta, frame)

    def move(self, theta: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The theta reached by a step in the charts' coordinates."""
        steps = self.problem.split(step)
        return np.concatenate(
            [
                s.move(o, g, d)
                for (s, o), g, d in zip(self._terms(theta), self.grams, steps, strict=True)
            ]
        )

    def _evaluate(self, theta: np.ndarray, frame: Frame) -> Point:
        problem, plan = self.problem, self.problem.arranged
        chain_T, tail_T = self._arrange(frame.T)
        chain_dG, tail_dG = self._arrange(
            [directions(d, t) for d, t in zip(frame.dT, frame.T, strict=True)]
        )
        # a compiled kernel takes the form that serves any T, so that one compilation serves the whole fit
        well = tuple(
            not self.jax and bool(np.linalg.svd(t, compute_uv=False)[-1] > WELL) for t in tail_T
        )
        try:
            value, derived = self._call(
                deviance.derivatives,
                chain_T,
                tail_T,
                chain_dG,
                tail_dG,
                layout=plan.layout,
                well=well,
                **self._kind,
            )
        except (np.linalg.LinAlgError, FloatingPointError):
            return nowhere(theta)
        if not np.isfinite(value.objective):
            return nowhere(theta)
        if not self.known and value.r2 < EXPLAINED * problem.cross.gram[-1, -1]:
            raise nothing_left(problem)
        D = self._in_order(derived.D)
        gradient = slope(D, frame)
        model = self._permute(derived.AI) + curvature(D, frame)
        modes = [m[0] for m in problem.collect(derived.modes)]
        payload = Payload(value, D, modes, frame)
        rounding = (
            ROUNDING * self.degrees * float(problem.cross.gram[-1, -1]) / float(value.r2)
        )  # r2 is what is left of y'Wy
        return Point(
            np.asarray(theta, dtype=float),
            float(value.objective),
            gradient,
            model,
            payload,
            rounding,
        )

    def search(self, run: Callable[[np.ndarray], Outcome], start: np.ndarray) -> Outcome:
        """``run`` from ``start``, theta (m,)."""
        return run(start)

    def settle(self, point: Point) -> ReportedPoint:
        """What is reported of the point where a search ended."""
        return ReportedPoint(point)

    def refine(self, point: Point) -> Point:
        """The point with its exact Hessian, where that is cheap."""
        if not self.cheap:
            return point
        try:
            return replace(point, hessian=self.hessian(point))
        except np.linalg.LinAlgError:  # the average information, which was computed, will do
            return point

    def hessian(self, point: Point) -> np.ndarray:
        """Exact second derivatives at an evaluated point, in its coordinates."""
        problem, frame = self.problem, point.payload.frame
        dG = [directions(d, t) for d, t in zip(frame.dT, frame.T, strict=True)]
        rhs = problem.collect(problem.data.rhs)
        parts = hessian.pieces(problem.cross, rhs, problem.data.gram, frame.T, dG, self.reml)
        variance = None if self.sigma is None else self.sigma**2
        return hessian.in_directions(parts, self.degrees, variance) + curvature(
            point.payload.D, frame
        )

    def _permute(self, AI: np.ndarray) -> np.ndarray:
        """AI from the plan's order of the terms to the design's."""
        plan, structures = self.problem.plan, self.problem.structures
        place = np.cumsum([0] + [structures[t].n_theta for t in plan.order])
        where = {t: np.arange(place[i], place[i + 1]) for i, t in enumerate(plan.order)}
        index = np.concatenate([where[t] for t in range(len(structures))])
        return AI[np.ix_(index, index)]


def slope(D: list[np.ndarray], frame: Frame) -> np.ndarray:
    """<D, dG / ds_i> (m,) for D per term (k, k)."""
    return np.concatenate(
        [
            2.0 * np.einsum("ab,iab->i", d @ t, j)
            for d, t, j in zip(D, frame.T, frame.dT, strict=True)
        ]
    )


def curvature(D: list[np.ndarray], frame: Frame) -> np.ndarray:
    """<D, d2G / ds_i ds_j> over all terms, block-diagonal (m, m)."""
    parts = zip(D, frame.T, frame.dT, frame.second, strict=True)
    return block_diagonal([bent(d, t, j, second) for d, t, j, second in parts])


def block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    """The blocks along the diagonal; SciPy's function costs as much as a small evaluation."""
    if len(blocks) == 1:
        return blocks[0]
    m = sum(len(block) for block in blocks)
    out, at = np.zeros((m, m)), 0
    for block in blocks:
        own = slice(at, at + len(block))
        out[own, own] = block
        at = own.stop
    return out


def nowhere(theta: np.ndarray) -> Point:
    """A point where the criterion cannot be computed, which no step may end in."""
    m = len(theta)
    return Point(np.asarray(theta, dtype=float), np.inf, np.zeros(m), np.eye(m))


def as_residuals(problem: Problem) -> str:
    """A sentence that spells the structure of a term with as many effects as rows as one of the residuals; empty where there is none."""
    for structure, (group, columns) in zip(problem.structures, problem.labels, strict=True):
        at = 0
        for side in structure.sides():
            stems = {name.partition("[")[0] for name in columns[at : at + side.k]}
            at += side.k
            size = next(size for size in problem.plan.terms if size.group == group)
            if side.k > 1 and len(stems) == 1 and side.k * size.J >= problem.n:
                return (
                    " Effects of one row each are residuals: leave the term out and give "
                    f"residual='{side.name}({stems.pop()} | {group})'."
                )
    return ""


def nothing_left(problem: Problem) -> ResponseError:
    """The error for a residual variance of zero."""
    groups = ", ".join(size.group for size in problem.plan.terms)
    effects = sum(size.k * size.J for size in problem.plan.terms)
    if effects + problem.p >= problem.n:
        return ResponseError(
            f"{problem.p} fixed and {effects} random effects of {groups} explain the {problem.n} rows exactly and leave no residual "
            f"variance: the likelihood grows without bound. Use fewer columns or terms.{as_residuals(problem)}"
        )
    return ResponseError(
        f"The random effects of {groups} explain the response exactly and leave no residual variance: the response does not vary "
        "within their levels. Fit one row per level, or leave out the random term that copies the response."
    )
