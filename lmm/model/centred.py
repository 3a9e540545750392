"""Random slopes whose origin is far from the data, measured from their means instead.

A model with correlated intercept and slope does not depend on the origin of the covariate: with z B in place of z, where B takes the
mean from a column, and B^-1 T in place of T, everything is the same but for rounding. Cross-products of a column whose mean is many
standard deviations from zero (a year, a Julian day) lose the digits that a variance of slopes is told by. Such a problem carries a
second one in the centred columns, in which it is fitted and in which its covariances are computed; theta, modes and covariances of
modes come back in the user's columns.

Methods that walk or climb through the covariances take the means off wherever a column is correlated with a constant one z_0:

    z_c = H'z = (z_0, z_a - m_a z_0, ...),      b = H b_c,      Cov(b) = H Cov(b_c) H',

m_a the (weighted) mean of column a. Effects, standard deviations and correlations of b_c stay what they are when a covariate gets another
zero, while those of b tend to a correlation of one the farther that zero is from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lmm.covariance import Covariance
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate

#: standard deviations between a column's mean and zero from which sums without centring are told of
TOO_FAR = 1e3


def distant(problem: Problem) -> list[str]:
    """Sentences for random slopes whose means are too far from zero for sums that were made without centring, as over chunks."""
    out = []
    for (group, columns), structure, gram in zip(
        problem.labels, problem.structures, problem.grams(), strict=False
    ):
        joined = next(
            (own for own in structure.free_blocks() if "Intercept" in [columns[a] for a in own]), ()
        )
        one = columns.index("Intercept") if len(joined) else 0
        for a in joined:
            if a == one:
                continue
            mean = gram[one, a] / gram[one, one]
            variance = gram[a, a] / gram[one, one] - mean**2
            if mean**2 > TOO_FAR**2 * variance > 1e-14 * TOO_FAR**2 * mean**2:
                away = abs(mean) / np.sqrt(variance)
                out.append(
                    f"{columns[a]} lies {away:,.0f} standard deviations from zero, and sums over its rows lose the digits that tell "
                    f"the variance of its slopes by {group}. Measure it from a value near its mean, I({columns[a]} - {mean:.6g})."
                )
    return out


def changed(
    structures: Sequence[Covariance],
    parts: Sequence[np.ndarray],
    bases: Sequence[np.ndarray | None],
) -> np.ndarray:
    """theta (m,) of B T from theta per term."""
    out = []
    for structure, own, B in zip(structures, parts, bases, strict=True):
        if B is None:
            out.append(np.asarray(own, dtype=float))
            continue
        out.append(structure.from_factor(B @ structure.factor(own)))
    return np.concatenate(out)


def inverses(bases: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """B^-1 per term."""
    return [None if B is None else np.linalg.inv(B) for B in bases]


def inner_theta(problem: Problem | GeneralizedProblem, theta: np.ndarray) -> np.ndarray:
    """theta in the centred columns of a problem that has them."""
    assert problem.centred is not None
    return changed(problem.structures, problem.split(theta), inverses(problem.centred.bases))


def outer_theta(problem: Problem | GeneralizedProblem, theta: np.ndarray) -> np.ndarray:
    """theta in the user's columns from that in the centred ones."""
    assert problem.centred is not None
    return changed(problem.structures, problem.split(theta), problem.centred.bases)


def outer_jacobian(problem: Problem | GeneralizedProblem, estimate: Estimate) -> np.ndarray:
    """d theta / d theta (m, m), of the user's columns by the centred ones, by central differences of a smooth map."""
    theta = inner_theta(problem, np.asarray(estimate.theta))
    columns = []
    for i, own in enumerate(theta):
        step = np.zeros_like(theta)
        step[i] = 1e-5 * max(abs(own), 1e-3)
        columns.append(
            (outer_theta(problem, theta + step) - outer_theta(problem, theta - step))
            / (2.0 * step[i])
        )
    return np.stack(columns, axis=1)


def outward(problem: Problem | GeneralizedProblem, estimate: Estimate) -> Estimate:
    """An estimate of the centred problem in the user's columns."""
    assert problem.centred is not None
    theta = outer_theta(problem, estimate.theta)
    factors = tuple(problem.factors(theta))
    modes = tuple(
        b if B is None else np.ascontiguousarray(b @ B.T)
        for b, B in zip(estimate.modes, problem.centred.bases, strict=True)
    )
    trace = tuple({**line, "theta": outer_theta(problem, line["theta"])} for line in estimate.trace)
    return replace(estimate, theta=theta, factors=factors, modes=modes, trace=trace)


def inward(problem: Any, estimate: Estimate) -> tuple[Any, Estimate]:
    """Problem and estimate in the centred columns; both as they are where there are none."""
    if getattr(problem, "centred", None) is None:
        return problem, estimate
    assert problem.centred is not None
    theta, inner = inner_theta(problem, np.asarray(estimate.theta)), problem.centred.problem
    factors = tuple(problem.factors(theta))
    modes = tuple(
        b if B is None else b @ B.T
        for b, B in zip(estimate.modes, inverses(problem.centred.bases), strict=True)
    )
    return inner, replace(estimate, theta=theta, factors=factors, modes=modes)


def frames(problem: Problem | GeneralizedProblem, keep: Sequence[bool]) -> tuple[np.ndarray, ...]:
    """H (k, k) per term; the identity where there is nothing to centre, and for the terms to ``keep`` as written."""
    out = []
    for structure, (_, columns), gram, kept in zip(
        problem.structures, problem.labels, problem.grams(), keep, strict=True
    ):
        H = np.eye(structure.k)
        for own in structure.free_blocks():
            constant = next((a for a in own if columns[a] == "Intercept"), None)
            if constant is not None and not kept:
                others = [a for a in own if a != constant]
                H[constant, others] = -gram[constant, others] / gram[constant, constant]
        out.append(H)
    return tuple(out)


def centre(
    problem: Problem | GeneralizedProblem, H: tuple[np.ndarray, ...]
) -> Problem | GeneralizedProblem:
    """The problem with the columns z_c = H'z of every term."""
    if all(np.array_equal(own, np.eye(len(own))) for own in H):
        return problem
    if (
        problem.centred is not None
    ):  # its columns z B have kept their digits, and z H = (z B)(B^-1 H)
        own = zip(problem.centred.bases, H, strict=True)
        return centre(
            problem.centred.problem,
            tuple(h if B is None else np.linalg.solve(B, h) for B, h in own),
        )
    return problem.sheared(H)


def theta_of(
    problem: Problem | GeneralizedProblem, H: tuple[np.ndarray, ...], theta: np.ndarray
) -> np.ndarray:
    """theta (m,) of b_c, from that of b."""
    out = []
    for structure, own, h in zip(problem.structures, problem.split(theta), H, strict=True):
        out.append(structure.from_factor(np.linalg.solve(h, structure.factor(own))))
    return np.concatenate(out)
