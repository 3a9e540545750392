"""Other local optima: when a search must look for one, where it begins again, and which optimum is kept.

A criterion has several minima in theta where the data tell two stories: the slope of a covariate between groups differs from the
one within them, one level differs from all others, or there are few rows per random effect. A search from below may then end at a
small or zero variance although another optimum is lower. Two signs ask for a second look: a variance that vanished, and
generalized least-squares coefficients farther from those of least squares than their difference allows,

    h = d'(X'VX - (X'V^-1X)^-1)^-1 d / sigma^2,   X orthonormal, d the difference of the coefficients

(Hausman, 1978, Econometrica 46), about chi-squared with p degrees of freedom where there is one story only. The second look begins
from above: with variances of FAR times that of the residual the modes are those of fixed effects, and their mean squares are where
a search down from infinity would arrive, whatever the size of the variances. All terms are raised together, and each alone. Where a
variance vanished in a small model, a search begins also below, with each of the others at zero, as variances compete for the same
differences, with the sign of a slope turned, as a correlation of one may have the wrong one, and with every term at the variance
of the residual. With up to FEW effects and a term of several columns about one search in 250 ends at the higher of two optima
without any sign: there looks from above and below are always taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np

from lmm.covariance.unstructured import orthogonaliser
from lmm.errors import LmmError
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.search.boundary import is_singular, unit_start
from lmm.search.trust_region import Outcome, Point

#: columns of one term whose variances belong together: (term, columns)
Piece = tuple[int, np.ndarray]

#: relative standard deviation, per root mean square of the columns, at which random effects count as free
FAR = 1e3
#: standard deviations, relative to the size of the predictor, from which a search for a generalized model begins again
HEIGHTS = (1.0, 10.0, 100.0)
#: variance along a direction, relative to the largest, that counts as none
EMPTY = 1e-10
#: standard deviations of h above its mean from which least squares and generalized least squares are in conflict
CONFLICT = 3.0
#: random effects up to which a start from above is tried without a doubt: of variances that compete, of a single one
SMALL, FEW = 400, 30


def subsets(problem: Problem | GeneralizedProblem) -> list[list[Piece]]:
    """What is raised at a time: all terms together, and each piece alone where there are several."""
    every = [
        (t, columns)
        for t, structure in enumerate(problem.structures)
        for columns in structure.pieces()
    ]
    return [every] if len(every) == 1 else [every, *([piece] for piece in every)]


def raised(
    problem: Problem | GeneralizedProblem, theta: np.ndarray, which: list[Piece], size: float
) -> np.ndarray:
    """theta (m,) with some pieces at uncorrelated standard deviations of ``size`` where their columns are made orthonormal."""
    G, grams = problem.covariances(theta), problem.grams()
    for t, columns in which:
        G[t][np.ix_(columns, columns)] = size**2 * free(grams[t], columns)
    return problem.theta_of(G)


def free(gram: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Covariance of uncorrelated effects of size one where some columns, of cross-products ``gram`` (k, k), are made orthonormal."""
    own = gram[np.ix_(columns, columns)]
    if len(columns) == 1:
        return np.asarray(1.0 / np.maximum(own, 1e-300))
    unit = np.sqrt(np.maximum(np.diagonal(own), 1e-300))
    scale = np.outer(unit, unit)
    return np.asarray(np.linalg.pinv(own / scale, hermitian=True) / scale)


def heights(problem: Problem | GeneralizedProblem, theta: np.ndarray) -> list[list[np.ndarray]]:
    """theta well above zero from which a search that ended at ``theta`` looks again.

    Height by height all terms raised together, and each alone; and only the directions without a variance of a term that has some.
    """
    return [
        [
            *(raised(problem, theta, which, size) for which in subsets(problem)),
            *_filled(problem, theta, size),
        ]
        for size in HEIGHTS
    ]


def _filled(
    problem: Problem | GeneralizedProblem, theta: np.ndarray, size: float
) -> Iterator[np.ndarray]:
    """theta (m,) with standard deviations of ``size`` along the directions that a piece of rank one or more has no variance in."""
    G, grams = problem.covariances(theta), problem.grams()
    for t, structure in enumerate(problem.structures):
        for columns in structure.pieces():
            block = np.ix_(columns, columns)
            values, axes = np.linalg.eigh(grams[t][block])
            if len(columns) == 1 or not values[0] > EMPTY * values[-1]:
                continue
            root = axes * np.sqrt(
                values
            )  # of the Gram matrix: where it is I, directions have no units
            spread, directions = np.linalg.eigh(root.T @ G[t][block] @ root)
            none = spread <= EMPTY * spread[-1]
            if not none.any() or none.all():
                continue
            along = np.linalg.solve(root.T, directions[:, none])
            own = [g.copy() for g in G]
            own[t][block] += size**2 * along @ along.T
            yield problem.theta_of(own)


def from_above(
    problem: Problem, evaluate: Evaluator, theta: np.ndarray, choices: list[list[Piece]]
) -> Iterator[np.ndarray]:
    """Where a search down from infinite variances of some pieces, the others as in theta (m,), would arrive: choice by choice.

    Where free random effects leave no residual variance, it is the size of that variance.
    """
    for which in choices:
        try:
            variance, modes = evaluate.modes(raised(problem, theta, which, FAR))
        except (LmmError, np.linalg.LinAlgError, FloatingPointError):
            yield raised(problem, theta, which, 1.0)
            continue
        G = problem.covariances(theta)
        for t, columns in which:
            own = modes[t][columns]
            G[t][np.ix_(columns, columns)] = own @ own.T / (own.shape[1] * variance)
        if all(np.all(np.isfinite(own)) for own in G):
            yield problem.theta_of(G)


def from_below(problem: Problem, theta: np.ndarray) -> Iterator[np.ndarray]:
    """theta (m,) with one piece of it at zero, piece by piece of those that are not."""
    for t, structure in enumerate(problem.structures):
        for columns in structure.pieces():
            G = problem.covariances(theta)
            if np.any(G[t][np.ix_(columns, columns)]):
                G[t][np.ix_(columns, columns)] = 0.0
                yield problem.theta_of(G)


def mirrored(problem: Problem, theta: np.ndarray) -> Iterator[np.ndarray]:
    """theta (m,) with the sign of one column's effects turned against the others', for pieces with one direction of variance left."""
    for t, structure in enumerate(problem.structures):
        for columns in structure.pieces():
            G, block = problem.covariances(theta), np.ix_(columns, columns)
            own = G[t][block].copy()
            if has_one_direction(own, problem.grams()[t][block]):
                for mirror in mirrors(problem.grams()[t], columns):
                    G[t][block] = mirror @ own @ mirror.T
                    yield problem.theta_of(G)


def has_one_direction(G: np.ndarray, gram: np.ndarray, least: float = EMPTY) -> np.ndarray:
    """Whether all correlations of several effects are one in absolute value, bool (...), of G (..., k, k) and ``gram`` (k, k).

    ``least`` : the variance along a second direction, relative to that along the first, that counts as none.
    """
    if len(gram) == 1:
        return np.zeros(G.shape[:-2], dtype=bool)
    U = orthogonaliser(gram)
    spread = np.linalg.eigvalsh(U @ G @ U.T)
    return np.asarray((spread[..., -1] > 0.0) & (spread[..., -2] <= least * spread[..., -1]))


def mirrors(gram: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    """M (k, k) per column but the first: M b are effects with the sign of that column's turned, what the columns before it share with it
    taken out, so that the origin of a slope does not matter."""
    U = orthogonaliser(gram[np.ix_(columns, columns)])
    signs = 1.0 - 2.0 * np.eye(len(columns))[1:]
    return [np.linalg.solve(U, sign[:, None] * U) for sign in signs]


def conflict(problem: Problem, evaluate: Evaluator, point: Point) -> float:
    """h of the module at an evaluated point, in standard deviations above its mean."""
    p = problem.p
    if not p:
        return 0.0
    value = point.payload.value
    variance = np.eye(p)  # X'VX
    for structure, own, columns in zip(
        problem.structures, problem.split(point.theta), problem.shared(), strict=True
    ):
        loaded = (structure.factor(own).T @ columns).reshape(p, -1)
        variance += loaded @ loaded.T
    spread = variance - np.asarray(value.cov) + 1e-8 * np.diag(np.diagonal(variance))
    d = np.asarray(value.beta)
    try:
        h = float(d @ np.linalg.solve(spread, d)) / evaluate.variance(value)
    except np.linalg.LinAlgError:
        return np.inf
    return (h - p) / float(np.sqrt(2.0 * p))


def second_look(
    problem: Problem,
    evaluate: Evaluator,
    outcome: Outcome,
    search: Callable[[np.ndarray, float], Outcome],
    tolerance: float,
) -> Outcome:
    """The outcome of a search, or of a better one from above or below; ``search`` takes a start and the lowest criterion known.

    Where nothing is in doubt, small models are searched again only from a start that is lower already, unless they are very small.
    """
    theta = outcome.point.theta
    if not outcome.converged:
        return outcome
    singular = is_singular(problem, theta)
    doubtful = singular or conflict(problem, evaluate, outcome.point) > CONFLICT
    effects = sum(size.k * size.J for size in problem.plan.terms)
    choices = subsets(problem)
    if not doubtful and effects > (SMALL if len(choices) > 1 else FEW):
        return outcome
    little = is_little(problem)
    above = from_above(problem, evaluate, theta, choices if doubtful else choices[:1])
    below = list(from_below(problem, theta)) if effects <= SMALL and singular or little else []
    if effects <= SMALL and singular and len(theta) > 1:
        below += [*mirrored(problem, theta), unit_start(problem)]
    starts = chain(islice(above, 1), below, above)
    return look_again(
        outcome, starts, evaluate.objective, search, tolerance, int(doubtful or little) + len(below)
    )


def is_little(problem: Problem | GeneralizedProblem) -> bool:
    """Whether so few random effects have several variances to share at a level that several optima are common without a sign of them."""
    effects = sum(size.k * size.J for size in problem.plan.terms)
    return effects <= FEW and any(size.k > 1 for size in problem.plan.terms)


def lowest_start(problem: Problem, evaluate: Evaluator, theta: np.ndarray) -> np.ndarray:
    """theta (m,), or a start from above where the criterion is lower."""
    return min(
        [theta, *from_above(problem, evaluate, theta, subsets(problem))], key=evaluate.objective
    )


def look_again(
    outcome: Outcome,
    starts: Iterable[np.ndarray],
    objective: Callable[[np.ndarray], float],
    search: Callable[[np.ndarray, float], Outcome],
    tolerance: float,
    thorough: int = 1,
) -> Outcome:
    """The lowest of a search and of others from ``starts``, with the evaluations and the trace of all.

    The first ``thorough`` starts are searched from, and every other whose ``objective`` is lower than what has been found by then. A
    start or search that fails is passed over; the outcome given is kept unless another is lower by more than ``tolerance``. Where there
    were several searches, each line of the trace has the number of its own, "search".
    """
    best, spent, steps, traces = outcome, outcome.evaluations, outcome.iterations, [outcome.trace]
    for i, theta in enumerate(starts):
        spent += 2
        try:
            if i >= thorough and not objective(theta) < best.point.objective - tolerance:
                continue
            other = search(theta, best.point.objective)
        except (LmmError, np.linalg.LinAlgError, FloatingPointError):
            continue
        spent, steps = spent + other.evaluations, steps + other.iterations
        traces.append(other.trace)
        if (
            other.converged >= best.converged
            and other.point.objective < best.point.objective - tolerance
        ):
            best = other
    numbered = tuple({**line, "search": i} for i, lines in enumerate(traces) for line in lines)
    return replace(
        best,
        evaluations=spent,
        iterations=steps,
        trace=numbered if len(traces) > 1 else outcome.trace,
    )
