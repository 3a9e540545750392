"""Zero variances: telling a minimum on the boundary from a stationary point, and reporting it as exactly zero.

At a stationary theta the conditions of the minimum over G >= 0 are D >= 0 on the null space of G; a
direction in which they fail leads down across the boundary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lmm.estimators.criterion import Evaluator
from lmm.estimators.trust_region import Outcome
from lmm.model.problem import GeneralizedProblem, Problem

#: standard deviations below this, relative to sigma and per root mean square of the column, are tried at exactly zero
SNAP = 1e-4


def escapes(problem: Problem | GeneralizedProblem, theta: np.ndarray, D: list[np.ndarray]) -> Iterator[np.ndarray]:
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


def snapped_theta(problem: Problem | GeneralizedProblem, theta: np.ndarray) -> np.ndarray:
    """A canonical theta with what is all but zero beside the boundary at zero."""
    snapped = []
    for structure, own, gram in zip(problem.structures, problem.split(theta), problem.grams(), strict=True):
        unitless = structure.standardised(own, gram)
        near = bool(np.any(structure.boundary(unitless) < SNAP))
        snapped.append(np.where(np.abs(unitless) < SNAP, 0.0, own) if near else own)
    return np.concatenate(snapped)


def snap(problem: Problem, evaluate: Evaluator, outcome: Outcome, tolerance: float) -> Outcome:
    """A theta that is all but on the boundary, on it, when that costs nothing."""
    theta = problem.canonical(outcome.point.theta)
    new = snapped_theta(problem, theta)
    if not np.array_equal(new, theta):
        point = evaluate(new)
        if point.objective <= outcome.point.objective + tolerance:
            return replace(outcome, point=point, evaluations=outcome.evaluations + 1)
    return outcome


def is_singular(problem: Problem | GeneralizedProblem, theta: np.ndarray) -> bool:
    """Whether a variance has vanished, or a correlation become one."""
    terms = zip(problem.structures, problem.split(theta), problem.grams(), strict=True)
    return any(np.any(s.boundary(s.standardised(own, gram)) < SNAP) for s, own, gram in terms)


def unit_start(problem: Problem | GeneralizedProblem) -> np.ndarray:
    """theta at which every term has the variance of the residual."""
    return np.concatenate([s.start(np.linalg.pinv(gram), gram) for s, gram in zip(problem.structures, problem.grams(), strict=True)])
