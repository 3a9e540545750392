"""From the numbers of a method to its estimate, with what follows from them."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict, TypeVar, Unpack

import numpy as np

from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Draws, Estimate, MonteCarlo, Report

Kind = TypeVar("Kind", bound=Estimate)


class Told(TypedDict):
    """Fields of an :class:`lmm.model.records.Estimate`; those that are not required follow from the others, or have a default."""

    method: str
    beta: np.ndarray
    modes: tuple[np.ndarray, ...]
    convergence: Convergence
    reml: NotRequired[bool]
    n_parameters: NotRequired[int]
    trace: NotRequired[tuple[dict[str, Any], ...]]
    messages: NotRequired[tuple[str, ...]]
    nagq: NotRequired[int]
    eta: NotRequired[np.ndarray | None]
    report: NotRequired[Report]
    elbo: NotRequired[float]
    monte_carlo: NotRequired[MonteCarlo | None]
    unbounded: NotRequired[dict[str, tuple[bool, bool]]]
    endless: NotRequired[np.ndarray | None]
    draws: NotRequired[Draws]
    mode_cov: NotRequired[tuple[np.ndarray, ...]]


class Numbers(Told):
    """All that an estimate is assembled from."""

    beta_cov_unscaled: np.ndarray
    theta: np.ndarray
    objective: float
    sigma: NotRequired[float]
    phi: NotRequired[Any]


def assemble_estimate(
    problem: Problem | GeneralizedProblem, kind: type[Kind], **numbers: Unpack[Numbers]
) -> Kind:
    """The estimate of a problem: factors follow from theta, sigma from phi, and all parameters are counted as estimated."""
    own: dict[str, Any] = {
        "reml": False,
        "factors": tuple(problem.factors(numbers["theta"])),
        "sigma": problem.distribution.sigma(numbers.get("phi", 1.0)),
        "n_parameters": problem.n_theta + problem.p + problem.n_own,
        "family": problem.family,
    }
    return kind(**{**own, **numbers})


def as_columns(effects: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Modes (J, k) per term from effects (k, J)."""
    return tuple(np.ascontiguousarray(b.T) for b in effects)
