"""What a generalized fit should confess: separation, and a dispersion that has run off to its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lmm.estimators.laplace.laplace_criterion import LaplaceState
from lmm.estimators.laplace.separation import Separation, separation
from lmm.families.base import Family, Phi
from lmm.model.laplace.quadrature import integral
from lmm.model.laplace.rows import Block
from lmm.model.problem import GeneralizedProblem

#: standard deviation of the random part of the predictor, in units of the link, from which it is asked whether it has a limit
LARGE = 8.0
#: range of the fixed part of the predictor, in the same units, from which rows that are not in memory are looked at for separation
EXTREME = 16.0
#: excess variance, relative to that of the family without a dispersion, that no data can tell from none
POISSON = 1e-4
#: coefficients named in one sentence
NAMED = 4
#: quadrature points that check Laplace's approximation for one and for two random effects per level, the row
#: evaluations that they may cost, and the error of the log-likelihood that is told
CHECK_POINTS, CHECK_COST, FAR_OFF = {1: 25, 2: 9}, 20_000_000, 0.5


@dataclass(frozen=True)
class Diagnosis:
    """Sentences about an estimate, :attr:`lmm.model.records.Estimate.unbounded`, and the directions (p + r, d) in orthonormal columns."""

    messages: tuple[str, ...] = ()
    unbounded: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    directions: np.ndarray | None = None


def laplace_error(
    problem: GeneralizedProblem,
    T: np.ndarray,
    state: LaplaceState,
    observed: bool,
    objective: float,
) -> str | None:
    """A sentence when Laplace's log-likelihood is far from the integral, which quadrature gives for one factor; else None."""
    points = CHECK_POINTS.get(len(T), 0)
    if (
        problem.source.distant
        or not problem.plan.by_level
        or problem.related
        or not points
        or problem.n * points ** len(T) > CHECK_COST
    ):
        return None
    exact = integral(problem.family, problem.rows, T, state.gamma, state.phi, state.laplace, points)
    error = (exact - objective) / 2.0
    rounding = 16.0 * float(np.finfo(float).eps) * abs(state.laplace.mode.sums.kernel)
    if abs(error) < FAR_OFF + rounding:
        return None
    return (
        f"Laplace's log-likelihood is off by {error:.2f} here ({points}-point quadrature at the same parameters), because levels "
        f"of {problem.plan.terms[0].group} hold little data for their variance. Use nAGQ={points} or more."
    )


def diagnose(
    problem: GeneralizedProblem,
    beta: np.ndarray,
    factors: Sequence[np.ndarray],
    phi: Phi,
    eta: np.ndarray | None,
) -> Diagnosis:
    """What of an estimate the data do not bound.

    Parameters
    ----------
    beta : (p,) on the user's scale.
    factors : per term T (k, k) of the covariance T T'.
    phi : the family's own parameters.
    eta : (n,) linear predictor of ``problem.rows`` at the modes; None where the rows are not in memory.
    """
    family = problem.family
    messages: list[str] = []
    unbounded: dict[str, tuple[bool, bool]] = {}
    found = _separation(problem, beta, phi, eta)
    if found is not None:
        unbounded = _moved(problem, found)
        columns = tuple(name for name in problem.names if name in unbounded)
        if columns:
            messages.append(_separated(problem, found, columns))
    wide = [] if eta is None else _without_limit(problem, factors, phi, eta)
    if wide:
        messages.append(
            f"The variance of {', '.join(wide)} grows without bound: the response hardly varies within its levels. "
            "Its estimate means nothing; leave the term out."
        )
    if family.has_dispersion and family.excess(problem.source.sample().y.mean(), phi) < POISSON:
        messages.append(family.no_excess)
    if shape := family.shape_note(phi):
        messages.append(shape)
    return Diagnosis(tuple(messages), unbounded, None if found is None else found.directions)


def _unit(family: Family) -> float:
    """The size of a predictor in units of the link: one for the logit."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a power link has no value there
        slope = float(family.link.d1(np.zeros(1))[0])
    return 0.25 / slope if np.isfinite(slope) and slope > 0.0 else 1.0


def _separation(
    problem: GeneralizedProblem, beta: np.ndarray, phi: Phi, eta: np.ndarray | None
) -> Separation | None:
    family = problem.family
    if eta is not None:
        return separation(family, problem.rows.y, problem.rows.weights, problem.rows.Q, eta, phi)
    rows = problem.source.sample()
    if not problem.p or np.ptp(rows.Q @ (problem.rows.R @ beta)) < EXTREME * _unit(family):
        return None
    found = separation(family, rows.y, rows.weights, rows.Q, None, phi)
    return (
        None
        if found is None or problem.source.total([Against(family, found.ray, phi)])[0]
        else found
    )


@dataclass(frozen=True, eq=False)
class Against:
    """Asks how many rows a direction of the fixed effects moves the wrong way."""

    family: Family
    ray: np.ndarray
    phi: Phi

    def __call__(self, block: Block) -> float:
        """Rows of a block that do not move the right way, or not at all where they have no limit."""
        moved = block.Q @ self.ray
        still = block.weights > 0.0
        wrong = 0
        for limit in self.family.limits(block.y, np.zeros(block.n), self.phi):
            still[limit.rows] = False
            wrong += int(
                np.sum((limit.sign * moved[limit.rows] < -1e-6) & (block.weights[limit.rows] > 0.0))
            )
        return float(wrong + np.sum(np.abs(moved[still]) > 1e-6))


def _moved(problem: GeneralizedProblem, found: Separation) -> dict[str, tuple[bool, bool]]:
    """Columns and thresholds that change along the directions of a separation, and whether they can fall and rise."""
    R, p = problem.rows.R, problem.p
    own = len(found.directions) - p
    functions = np.eye(p + own)
    functions[:p, :p] = np.linalg.solve(R.T, np.eye(p)).T
    size = np.abs(functions @ found.directions).max(axis=1, initial=0.0) * np.concatenate(
        [np.linalg.norm(R, axis=0), np.ones(own)]
    )
    names = [*problem.names, *(problem.family.threshold_names if own else ())]
    return {
        names[j]: found.sides(functions[j])
        for j in np.flatnonzero(size > 1e-6 * size.max(initial=0.0))
    }


def _separated(problem: GeneralizedProblem, found: Separation, names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:NAMED]) + (
        f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    )
    part, its, them, grows = (
        ("separate", "their", "them", "s grow")
        if len(names) > 1
        else ("separates", "its", "it", " grows")
    )
    plural = "s" if len(names) > 1 else ""
    where = None if problem.where is None else problem.where(found.rows)
    head, parted, all_are = problem.family.separation(
        problem.rows.y[found.rows] if where else np.zeros(0)
    )
    return (
        f"{head}: {listed} {part} {parted}{f' ({all_are} where {where})' if where else ''}, and {its} coefficient{grows} without bound. "
        f"{its.capitalize()} estimate{plural} and standard error{plural} mean nothing; leave {them} out or merge levels."
    )


def _without_limit(
    problem: GeneralizedProblem, factors: Sequence[np.ndarray], phi: Phi, eta: np.ndarray
) -> list[str]:
    """Groups of the terms whose variance is large and whose rows are all at the end of the response that their effects drive them to.

    While one of them is not, an infinite variance would make it impossible.
    """
    family, rows = problem.family, problem.rows
    wide: list[str] = []
    last: np.ndarray | None = None
    for t, (size, T, gram) in enumerate(
        zip(problem.plan.terms, factors, problem.grams(), strict=True)
    ):
        if np.sqrt(max(float(np.sum(gram * (T @ T.T))), 0.0)) < LARGE * _unit(family):
            continue
        if last is None:
            last = _log_probability(family, rows, eta, phi)
        touched = np.zeros(rows.n, dtype=bool)
        for column in rows.columns[t]:
            touched |= True if column is None else column != 0.0
        if touched.any() and np.all(last[touched] > -np.log(2.0)):
            wide.append(size.group)
    return wide


def _log_probability(family: Family, rows: Block, eta: np.ndarray, phi: Phi) -> np.ndarray:
    """(n,) log probability of the side of the response that each row is on; minus infinity for rows that are at no end of it."""
    out, at_end = np.zeros(rows.n), rows.weights == 0.0
    for limit in family.limits(rows.y, eta, phi):
        out[limit.rows] = np.minimum(out[limit.rows], limit.log_probability)
        at_end[limit.rows] = True
    return np.where(at_end, out, -np.inf)
