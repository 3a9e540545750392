"""Maximum likelihood or REML for many problems of one structure at once.

Every problem takes its own trust-region steps (:mod:`lmm.search.trust_region`) in the chart of the covariance structures
at one common theta, all of them side by side as arrays; those that have converged leave. One that ends on the boundary is
settled as a single fit is; one that should leave it, or that does not end, is finished by the estimator of single fits, so
that every answer is the one that gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lmm.covariance.structure import units
from lmm.design.rank import triangle_inverse
from lmm.estimators.restart import (
    CONFLICT,
    FAR,
    FEW,
    SMALL,
    Piece,
    free,
    has_one_direction,
    is_little,
    mirrors,
    subsets,
)
from lmm.linalg import threads
from lmm.model.gaussian import batch_levels, dense_effects
from lmm.model.gaussian.batched import Levels, Stacked, Values, explained
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.search.boundary import SNAP, escapes, is_near, snapped_theta, unit_start
from lmm.search.trust_region import Ends, minimize_each, put_values, take_values

B = TypeVar("B")
#: effects of one factor up to which problems side by side are faster than one after another, and fit in memory
LEVELS_LIMIT = 20_000
#: effects of several factors up to which a stack of dense matrices is faster than one problem after another
STACK_LIMIT = 120
#: numbers in one plane (levels x problems) of a block: small enough for the cache, large enough to be worth a call
PLANE = 1 << 15
#: evaluations after which a problem is left to the estimator of single fits
MAX_ROUNDS = 25
#: promised decrease of the criterion at which a problem is done: second derivatives are exact, so the last step squares it
TOLERANCE = 1e-12
#: promised decrease from which one step more, whose end is evaluated without derivatives, leaves less than that
LAST = 3e-6
#: relative standard deviation, per root mean square of the columns, of a start from below
NEAR = 0.1
#: least and largest variances to begin from, relative to those of the common start
SHARES = (1e-2, 1e4)


@dataclass(frozen=True, eq=False)
class Batch:
    """Estimates of R problems, the numbers of :class:`lmm.model.records.Estimate` with the problems first.

    Attributes
    ----------
    theta : (R, m), canonical.
    beta : (R, p) on the user's scale.
    beta_cov_unscaled : (R, p, p).
    sigma : (R,).
    objective : (R,), all constants included.
    modes : per term (R, J, k), where they were asked for.
    evaluations : (R,) of the criterion.
    failures : problem -> what went wrong; its numbers are NaN, or where the search stopped.
    phi : (R, r) the family's own parameters; None for a linear model.
    """

    theta: np.ndarray
    beta: np.ndarray
    beta_cov_unscaled: np.ndarray
    sigma: np.ndarray
    objective: np.ndarray
    modes: tuple[np.ndarray, ...]
    evaluations: np.ndarray
    failures: dict[int, str]
    phi: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Problems."""
        return len(self.sigma)


def join(parts: Sequence[Batch]) -> Batch:
    """Batches of one structure after each other."""
    starts = np.cumsum([0] + [batch.size for batch in parts])
    failures = {
        int(start) + i: why
        for start, batch in zip(starts, parts, strict=False)
        for i, why in batch.failures.items()
    }
    modes = tuple(
        np.concatenate(own) for own in zip(*(batch.modes for batch in parts), strict=True)
    )
    phi = (
        None
        if parts[0].phi is None
        else np.concatenate([batch.phi for batch in parts if batch.phi is not None])
    )

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(batch, name) for batch in parts])

    return Batch(
        theta=joined("theta"),
        beta=joined("beta"),
        beta_cov_unscaled=joined("beta_cov_unscaled"),
        sigma=joined("sigma"),
        objective=joined("objective"),
        modes=modes,
        evaluations=joined("evaluations"),
        failures=failures,
        phi=phi,
    )


def takes(problem: Problem) -> bool:
    """Whether the arrays of a batch can hold this structure."""
    linear = all(s.second(np.ones(s.n_theta)) is None for s in problem.structures)
    effects = sum(size.k * size.J for size in problem.plan.terms)
    linear = linear and not problem.plan.joint
    return linear and effects <= (LEVELS_LIMIT if problem.plan.by_level else STACK_LIMIT)


def block_size(problem: Problem) -> int:
    """Problems in one block."""
    sizes = problem.plan.terms
    if problem.plan.by_level:
        return int(np.clip(PLANE // sizes[0].J, 4, 4096))
    return int(np.clip((1 << 22) // sum(size.k * size.J for size in sizes) ** 2, 8, 4096))


class Chart:
    """Coordinates around one theta in which many problems of one structure take their steps."""

    def __init__(self, problem: Problem | GeneralizedProblem, theta: np.ndarray):
        self.problem, self.theta0 = problem, theta
        grams = problem.grams()
        charts = [
            s.chart(own, gram)
            for s, own, gram in zip(problem.structures, problem.split(theta), grams, strict=True)
        ]
        self.T0 = [T for T, _, _ in charts]
        self.dT = [dT for _, dT, _ in charts]
        self.cuts = np.cumsum([len(dT) for dT in self.dT])[:-1]

    def factors(self, steps: np.ndarray) -> list[np.ndarray]:
        """T (k, k, R) per term at steps (m, R)."""
        parts = zip(self.T0, self.dT, np.split(steps, self.cuts), strict=True)
        return [T[:, :, None] + np.einsum("iab,ir->abr", dT, own) for T, dT, own in parts]

    def factors_of(self, theta: np.ndarray) -> list[np.ndarray]:
        """T (k, k, R) per term of theta (R, m)."""
        cuts = np.cumsum([s.n_theta for s in self.problem.structures])[:-1]
        parts = zip(self.problem.structures, np.split(theta, cuts, axis=1), strict=True)
        return [
            np.moveaxis(
                np.array([s.factor(row) for row in own]).reshape(len(theta), s.k, s.k), 0, -1
            )
            for s, own in parts
        ]

    def steps(self, G: list[np.ndarray]) -> np.ndarray:
        """Steps (m, R) to relative covariances (k, k, R) per term, as near as the structures come."""
        parts = zip(
            self.problem.structures,
            self.problem.split(self.theta0),
            self.problem.grams(),
            G,
            strict=True,
        )
        return np.concatenate(
            [structure.steps(theta, gram, own) for structure, theta, gram, own in parts]
        )

    def problems(self, data: Any, which: np.ndarray) -> list[Any]:
        """The problems with these numbers, for what is told by their sizes."""
        return [self.problem] * len(which)

    def theta(self, steps: np.ndarray) -> np.ndarray:
        """Canonical theta (R, m) of steps (m, R)."""
        columns = []
        for structure, T in zip(self.problem.structures, self.factors(steps), strict=True):
            columns.append(structure.from_factor(np.moveaxis(T, -1, 0)))
        return np.concatenate(columns, axis=1)


class LinearChart(Chart):
    """The criterion of a linear structure's problems around one theta."""

    def __init__(self, problem: Problem, reml: bool, theta: np.ndarray):
        super().__init__(problem, theta)
        self.reml = reml

    def __call__(self, data: Levels | Stacked, steps: np.ndarray, order: int) -> Values:
        return self._at(data, self.factors(steps), order)

    def _at(self, data: Levels | Stacked, T: list[np.ndarray], order: int) -> Values:
        with np.errstate(all="ignore"):
            if isinstance(data, Levels):
                return batch_levels.levels(data, T[0], self.dT[0], self.reml, order)
            return dense_effects.stacked(data, T, self.dT, self.reml, order)

    def at_theta(self, data: Levels | Stacked, theta: np.ndarray) -> Values:
        """Values at theta (R, m) themselves; derivatives along the chart's directions, which do not belong to them, are of no use."""
        return self._at(data, self.factors_of(theta), 1)


def moment_steps(evaluate: Chart, data: Levels) -> np.ndarray:
    """Steps (m, R) to where each problem's own moments would have it, the columns t_d of the chart's T taken longer or shorter.

    With G = sum_d c_d t_d t_d', the moments of :mod:`lmm.model.gaussian.moments` are linear in (sigma^2, sigma^2 c).
    """
    T, p = evaluate.T0[0], len(data.X)
    k = len(T)
    At = np.einsum("ad,abjr->bdjr", T, data.A)
    inner = np.einsum("bdjr,bl->dljr", At, T)  # t_d'A_j t_l
    rss, N = data.gram[p, p], data.degrees
    left = np.empty((inner.shape[-1], k + 1, k + 1))
    left[:, 0, 0] = N[: len(left)]
    left[:, 0, 1:] = left[:, 1:, 0] = np.einsum("ddjr->rd", inner)
    left[:, 1:, 1:] = np.einsum("dljr,dljr->rdl", inner, inner)
    Ty = np.einsum("ad,ajr->djr", T, data.y)
    right = np.concatenate([rss[None], np.einsum("djr,djr->dr", Ty, Ty)])
    scale = np.sqrt(np.abs(np.diagonal(left, axis1=1, axis2=2)))
    scale = np.where(scale > 0, scale, 1.0)
    inverse = np.linalg.pinv(left / (scale[:, :, None] * scale[:, None]), rcond=1e-10) / (
        scale[:, :, None] * scale[:, None]
    )
    found = (np.broadcast_to(inverse, (right.shape[1], k + 1, k + 1)) @ right.T[:, :, None])[
        :, :, 0
    ].T
    with np.errstate(all="ignore"):
        sigma2 = np.clip(found[0], 0.02 * rss / N, rss / N)
        factor = np.sqrt(np.clip(found[1:] / sigma2, *SHARES))
    factor = np.where(np.isfinite(factor), factor, 1.0)
    columns = np.stack([np.where(np.arange(k) == d, T, 0.0).ravel() for d in range(k)], axis=1)
    directions = np.linalg.lstsq(evaluate.dT[0].reshape(-1, k * k).T, columns, rcond=None)[0]
    return np.asarray(directions @ (factor - 1.0))


def minimize(
    evaluate: LinearChart,
    data: Levels | Stacked,
    begin: np.ndarray,
    tolerance: float = TOLERANCE,
    rounds: int = MAX_ROUNDS,
) -> Ends[Values]:
    """Trust-region steps of problems side by side from ``begin`` (m, R) in the chart."""
    return minimize_each(
        lambda data, steps, values: evaluate(data, steps, 1 if values is None else 2),
        data,
        begin,
        tolerance=tolerance,
        radius=1.0,
        rounds=rounds,
        last=lambda data, steps: evaluate(data, steps, 0),
        near=LAST,
    )


def second_look(evaluate: LinearChart, data: Levels | Stacked, ends: Ends[Values]) -> Ends[Values]:
    """The ends of a block, or lower ones from above where another optimum may be: :func:`lmm.estimators.restart.second_look` for many.

    What is searched whether it begins lower or not is searched side by side.
    """
    problem = evaluate.problem
    vanished = ends.converged & near_boundary(evaluate, ends.theta)
    with np.errstate(all="ignore"):
        doubtful = vanished | (ends.converged & (conflict(evaluate, data, ends) > CONFLICT))
    choices = subsets(problem)
    effects = sum(size.k * size.J for size in problem.plan.terms)
    small = effects <= (SMALL if len(choices) > 1 else FEW)
    little = is_little(problem)
    which = np.flatnonzero(ends.converged if small else doubtful)
    if not len(which):
        return ends
    starts = [(which, from_above(evaluate, data.take(which), ends.theta[:, which], choices[0]))]
    below = which if little else np.flatnonzero(vanished) if effects <= SMALL else which[:0]
    if len(below):
        pieces = [
            (t, columns)
            for t, structure in enumerate(problem.structures)
            for columns in structure.pieces()
        ]
        starts += [(below, from_below(evaluate, ends.theta[:, below], piece)) for piece in pieces]
    empty = np.flatnonzero(vanished)
    if len(empty) and effects <= SMALL and problem.n_theta > 1:
        unit = [
            np.repeat(own[:, :, None], len(empty), axis=2)
            for own in problem.covariances(unit_start(problem))
        ]
        starts.append((empty, evaluate.steps(unit)))
        starts += [(empty[own], steps) for own, steps in mirrored(evaluate, ends.theta[:, empty])]
    which, begin = (
        np.concatenate([own for own, _ in starts]),
        np.concatenate([steps for _, steps in starts], axis=1),
    )
    look_again(evaluate, data, ends, which, begin, doubtful[which] | little)
    which = np.flatnonzero(doubtful)
    for choice in choices[1:] if len(which) else []:
        begin = from_above(evaluate, data.take(which), ends.theta[:, which], choice)
        look_again(evaluate, data, ends, which, begin, np.zeros(len(which), dtype=bool))
    return ends


def look_again(
    evaluate: LinearChart,
    data: Levels | Stacked,
    ends: Ends[Values],
    which: np.ndarray,
    begin: np.ndarray,
    thorough: np.ndarray,
) -> None:
    """Search the problems ``which``, one of them perhaps several times, from ``begin`` (m, R); a lower end is written over the one known.

    A problem that is not ``thorough`` (R,) is searched from where it is lower already.
    """
    lowest = ends.values.objective[which] - TOLERANCE
    np.add.at(ends.evaluations, which, 2)
    unsure = np.flatnonzero(~thorough)
    if len(unsure):
        with np.errstate(all="ignore"):
            thorough[unsure] = (
                evaluate(data.take(which[unsure]), begin[:, unsure], 0).objective < lowest[unsure]
            )
    which, begin, lowest = which[thorough], begin[:, thorough], lowest[thorough]
    if not len(which):
        return
    others = minimize(evaluate, data.take(which), begin)
    np.add.at(ends.evaluations, which, others.evaluations)
    better = np.flatnonzero(others.converged & (others.values.objective < lowest))
    better = better[np.argsort(others.values.objective[better], kind="stable")]
    better = better[np.unique(which[better], return_index=True)[1]]  # the lowest of each problem
    ends.theta[:, which[better]] = others.theta[:, better]
    put_values(ends.values, which[better], take_values(others.values, better))


def from_above(
    evaluate: LinearChart, data: Levels | Stacked, steps: np.ndarray, choice: list[Piece]
) -> np.ndarray:
    """Steps (m, R) to where searches down from infinite variances of some pieces, the others as they are, would arrive."""
    G = [np.einsum("acr,bcr->abr", T, T) for T in evaluate.factors(steps)]
    for t, columns in choice:
        block = np.ix_(columns, columns)
        G[t][block] = FAR**2 * free(evaluate.problem.grams()[t], columns)[:, :, None]
    values = evaluate(data, evaluate.steps(G), 0)
    variance = values.r2 / data.degrees
    for t, columns in choice:
        modes = values.modes[t][columns]
        own = np.einsum("ajr,bjr->abr", modes, modes) / (modes.shape[1] * variance)
        block = np.ix_(columns, columns)
        G[t][block] = np.where(
            np.isfinite(own) & (variance > 0), own, G[t][block] / FAR**2
        )  # no residual variance: of its size
    return evaluate.steps(G)


def from_below(evaluate: LinearChart, steps: np.ndarray, piece: Piece) -> np.ndarray:
    """Steps (m, R) with one piece near zero, where there is a slope to leave by."""
    G = [np.einsum("acr,bcr->abr", T, T) for T in evaluate.factors(steps)]
    G[piece[0]][np.ix_(piece[1], piece[1])] = (
        NEAR**2 * free(evaluate.problem.grams()[piece[0]], piece[1])[:, :, None]
    )
    return evaluate.steps(G)


def mirrored(evaluate: LinearChart, steps: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """:func:`lmm.estimators.restart.mirrored` of problems at ``steps`` (m, R): which of them, and the steps of those."""
    problem = evaluate.problem
    for t, structure in enumerate(problem.structures):
        for columns in structure.pieces():
            block = np.ix_(columns, columns)
            own = np.einsum("acr,bcr->abr", *2 * [evaluate.factors(steps)[t]])[block]
            which = np.flatnonzero(
                has_one_direction(np.moveaxis(own, -1, 0), problem.grams()[t][block], SNAP)
            )
            for mirror in mirrors(problem.grams()[t], columns) if len(which) else []:
                G = [np.einsum("acr,bcr->abr", T, T) for T in evaluate.factors(steps[:, which])]
                G[t][block] = np.einsum("ac,cdr,bd->abr", mirror, own[..., which], mirror)
                yield which, evaluate.steps(G)


def conflict(evaluate: LinearChart, data: Levels | Stacked, ends: Ends[Values]) -> np.ndarray:
    """:func:`lmm.estimators.restart.conflict` of problems at their ends, (R,)."""
    p = len(data.gram) - 1
    if not p:
        return np.zeros(ends.theta.shape[1])
    T = evaluate.factors(ends.theta)
    gram = np.moveaxis(data.gram[:p, :p], -1, 0) + 1e-10 * np.eye(
        p
    )  # rows left out may have made columns dependent
    loaded = gram + np.moveaxis(explained(data, T), -1, 0)
    own = np.linalg.solve(gram, np.moveaxis(data.gram[:p, p:], -1, 0))  # least squares
    variance = np.swapaxes(
        np.linalg.solve(gram, np.swapaxes(np.linalg.solve(gram, loaded), 1, 2)), 1, 2
    )
    spread = variance - np.moveaxis(ends.values.cov, -1, 0) + 1e-8 * variance * np.eye(p)
    d = ends.values.beta.T[:, :, None] - own
    sound = np.isfinite(spread).all(axis=(1, 2)) & np.isfinite(d).all(axis=(1, 2))
    h = np.zeros(len(d))
    h[sound] = np.einsum("rab,rab->r", d[sound], np.linalg.solve(spread[sound], d[sound]))
    return (h * data.degrees / ends.values.r2 - p) / np.sqrt(2.0 * p)


def near_boundary(evaluate: Chart, steps: np.ndarray) -> np.ndarray:
    """Problems that ended, at ``steps`` (m, R), with a direction of next to no variance, (R,) bool."""
    out = np.zeros(steps.shape[1], dtype=bool)
    for T, gram in zip(evaluate.factors(steps), evaluate.problem.grams(), strict=True):
        scaled = np.moveaxis(T, -1, 0) * units(gram)[:, None]
        finite = np.isfinite(scaled).all(axis=(1, 2))
        out[finite] |= np.linalg.svd(scaled[finite], compute_uv=False)[:, -1] < 10.0 * SNAP
    return out


def settle(
    evaluate: Any, data: Any, theta: np.ndarray, values: Any, which: np.ndarray, tolerance: float
) -> np.ndarray:
    """Set nearly zero variances to zero, in place, and tell which of the problems are then no minimum across the boundary.

    As :mod:`lmm.search.boundary` does for a single fit, the criterion of all taken in one evaluation.
    """
    problems = evaluate.problems(data, which)
    snapped = np.array(
        [snapped_theta(problem, own) for problem, own in zip(problems, theta[which], strict=True)]
    )
    at = evaluate.at_theta(data.take(which), snapped)
    better = at.objective <= values.objective[which] + tolerance
    theta[which[better]] = snapped[better]
    put_values(values, which[better], take_values(at, np.flatnonzero(better)))
    left = [
        next(escapes(problem, theta[r], [D[..., r] for D in values.D]), None) is not None
        for problem, r in zip(problems, which, strict=True)
    ]
    return which[np.array(left, dtype=bool)]


def start(problem: Problem | GeneralizedProblem, theta: np.ndarray) -> np.ndarray:
    """theta around which the problems are searched: the one given, away from the boundary."""
    parts = []
    for structure, own, gram in zip(
        problem.structures, problem.split(theta), problem.grams(), strict=True
    ):
        T = structure.factor(own)
        parts.append(structure.start(T @ T.T, gram) if is_near(structure, own, gram, 1e-2) else own)
    return np.concatenate(parts)


def fit_blocks(
    problem: Problem,
    reml: bool,
    theta: np.ndarray,
    blocks: Sequence[Callable[[], Levels | Stacked]],
    counts: Sequence[int],
    finish: Callable[[int, np.ndarray | None], tuple[Estimate | None, str | None]],
    offsets: np.ndarray | None,
    modes: bool,
    progress: Callable[[int], None] | None = None,
    first: bool = False,
    limit: int = MAX_ROUNDS,
) -> Batch:
    """Fit blocks of problems, two at a time where there are cores.

    Parameters
    ----------
    problem : whose structure, charts and columns all problems share.
    theta : where to begin.
    blocks : each gives the sums of ``counts[i]`` problems when called.
    finish : (index, theta or None) -> an Estimate by the estimator of single fits and None, or None and what went wrong.
    offsets : (R, p) least-squares coefficients that beta is measured from, on the user's scale.
    modes : keep the conditional modes.
    progress : told of the problems done.
    first : nobody has looked for these before: each begins from its own moments.
    limit : evaluations of a criterion after which a problem is left to ``finish``.
    """
    evaluate = LinearChart(problem, reml, start(problem, theta))
    firsts = np.cumsum([0, *counts])
    inverse = triangle_inverse(problem.R)

    def run(i: int) -> Batch:
        data, count = blocks[i](), counts[i]
        begin = (
            moment_steps(evaluate, data)
            if first and isinstance(data, Levels)
            else np.zeros((problem.n_theta, count))
        )
        ends = minimize(evaluate, data, begin, rounds=min(limit - 1, MAX_ROUNDS))
        ends = second_look(evaluate, data, ends)
        values, theta = ends.values, evaluate.theta(ends.theta)
        doubtful = ~ends.converged
        near = np.flatnonzero(ends.converged & near_boundary(evaluate, ends.theta))
        if len(near):
            put_values(values, near, evaluate(data.take(near), ends.theta[:, near], 1))
            doubtful[settle(evaluate, data, theta, values, near, TOLERANCE)] = True
        index = slice(firsts[i], firsts[i + 1])
        beta = values.beta.T @ inverse.T + (0.0 if offsets is None else offsets[index])
        cov = inverse @ np.moveaxis(values.cov, -1, 0) @ inverse.T
        sigma = np.sqrt(np.maximum(np.broadcast_to(values.r2 / data.degrees, (count,)), 0.0))
        batch = Batch(
            theta,
            beta,
            cov,
            sigma,
            values.objective,
            modes_by_problem(problem.on_levels(values.modes)) if modes else (),
            ends.evaluations,
            {},
        )
        for r in np.flatnonzero(doubtful):
            sound = np.isfinite(batch.theta[r]).all() and np.isfinite(values.objective[r])
            estimate, why = finish(int(firsts[i] + r), batch.theta[r] if sound else None)
            write_single(batch, int(r), estimate, why)
        if progress is not None:
            progress(count)
        return batch

    return run_blocks(run, range(len(blocks)))


def modes_by_problem(modes: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Modes per term (R, J, k), of (k, J, R)."""
    return tuple(np.ascontiguousarray(np.moveaxis(b, -1, 0).swapaxes(1, 2)) for b in modes)


def run_blocks(run: Callable[[B], Batch], blocks: Sequence[B]) -> Batch:
    """What ``run`` makes of all blocks, several at a time where there are cores."""
    with threads.limited():
        if len(blocks) == 1 or threads.cores() == 1:
            return join([run(block) for block in blocks])
        with ThreadPoolExecutor(threads.cores()) as pool:
            return join(list(pool.map(run, blocks)))


def write_single(batch: Batch, r: int, estimate: Estimate | None, why: str | None) -> None:
    """Write a single fit, or its failure, over a problem of a batch that nobody has seen yet."""
    if why is not None:
        batch.failures[r] = why
    if estimate is None:
        for array in (
            batch.theta,
            batch.beta,
            batch.beta_cov_unscaled,
            batch.sigma,
            batch.objective,
            *batch.modes,
        ):
            array[r] = np.nan
        return
    batch.theta[r], batch.beta[r], batch.beta_cov_unscaled[r] = (
        estimate.theta,
        estimate.beta,
        estimate.beta_cov_unscaled,
    )
    batch.sigma[r], batch.objective[r] = estimate.sigma, estimate.objective
    if batch.phi is not None:
        batch.phi[r] = estimate.phi
    batch.evaluations[r] += estimate.convergence.evaluations
    for mine, other in zip(batch.modes, estimate.modes, strict=False):
        mine[r] = other
