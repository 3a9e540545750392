"""Zero variances: telling a minimum on the boundary from a stationary point, and reporting it as exactly zero.

At a stationary theta the conditions of the minimum over G >= 0 are D >= 0 on the null space of G; a
direction in which they fail leads down across the boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from lmm.covariance import Covariance
from lmm.model.problem_kinds import AnyProblem
from lmm.search.trust_region import Outcome, Point

#: standard deviations below this, relative to sigma and per root mean square of the column, are tried at exactly zero
SNAP = 1e-4


def escapes(problem: AnyProblem, theta: np.ndarray, D: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Other theta to try, when a stationary theta with derivatives D (k, k) per term is not a minimum over G >= 0."""
    split = problem.split(theta)
    slopes = []
    for s, own, d, gram in zip(problem.structures, split, D, problem.grams(), strict=True):
        slopes.append(s.descent(own, d, gram))
    t = int(np.argmin([slope for slope, _ in slopes]))
    slope, dG = slopes[t]
    if slope > -1.0:  # a share of 0.001 of the residual variance would gain less than 0.001
        return
    G = problem.structures[t].factor(split[t])
    G = G @ G.T
    for share in (0.1, 0.01, 0.001):
        new = list(split)
        new[t] = problem.structures[t].from_matrix(G + share * dG)
        yield np.concatenate(new)


def distances(
    structure: Covariance, theta: np.ndarray, small: float, gram: Callable[[], np.ndarray]
) -> np.ndarray:
    """Distances of one term's constrained parameters to the boundary, relative to sigma.

    Where one is below ``small`` but not zero it may be so because of its column's units, or of the response's in the linear
    predictor: those of the term are then taken per root mean square of the columns, by their ``gram``, and size of the predictor.
    """
    own = structure.boundary(theta)
    if np.any((own > 0) & (own < small)):
        return structure.boundary(structure.standardised(theta, gram()))
    return own


def is_near(
    structure: Covariance, theta: np.ndarray, gram: np.ndarray, small: float = SNAP
) -> bool:
    """Whether a variance of one term has all but vanished, or a correlation become one, whatever the columns' units."""
    return bool(np.any(structure.boundary(structure.standardised(theta, gram)) < small))


def snapped_theta(problem: AnyProblem, theta: np.ndarray, small: float = SNAP) -> np.ndarray:
    """A canonical theta with nearly zero parameters set to zero in the terms that are near the boundary."""
    snapped = []
    for structure, own, gram in zip(
        problem.structures, problem.split(theta), problem.grams(), strict=True
    ):
        unitless = structure.standardised(own, gram)
        snapped.append(
            np.where(np.abs(unitless) < small, 0.0, own)
            if is_near(structure, own, gram, small)
            else own
        )
    return np.concatenate(snapped)


def snap(
    problem: AnyProblem,
    evaluate: Callable[[np.ndarray], Point],
    outcome: Outcome,
    allowed: float,
    small: float = SNAP,
) -> Outcome:
    """Set nearly zero variances to zero if that raises the criterion by no more than ``allowed``; theta comes first in a point."""
    m = problem.n_theta
    theta, rest = problem.canonical(outcome.point.theta[:m]), outcome.point.theta[m:]
    new = snapped_theta(problem, theta, small)
    if not np.array_equal(new, theta):
        point = evaluate(np.concatenate([new, rest]))
        if point.objective <= outcome.point.objective + allowed:
            return replace(outcome, point=point, evaluations=outcome.evaluations + 1)
    return outcome


def is_singular(problem: AnyProblem, theta: np.ndarray) -> bool:
    """Whether a variance has vanished, or a correlation become one."""
    terms = zip(problem.structures, problem.split(theta), problem.grams(), strict=True)
    return any(is_near(structure, own, gram) for structure, own, gram in terms)


def unit_start(problem: AnyProblem) -> np.ndarray:
    """theta at which every term has the variance of the residual."""
    return np.concatenate(
        [
            s.start(np.linalg.pinv(gram), gram)
            for s, gram in zip(problem.structures, problem.grams(), strict=True)
        ]
    )
