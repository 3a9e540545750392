"""What a generalized fit should confess: separation, and a dispersion that has run off to its limit."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmm.model.problem import GeneralizedProblem
from lmm.model.quadrature import quadrature

#: linear predictors beyond this give probabilities that are 0 or 1 to seven digits
EXTREME = 16.0
#: negative binomial dispersions beyond these leave a Poisson distribution
POISSON_SIZE, POISSON_EXCESS = 1e5, 1e-5
#: quadrature points that check Laplace's approximation for one and for two random effects per level, the row
#: evaluations that they may cost, and the error of the log-likelihood that is told
CHECK_POINTS, CHECK_COST, FAR_OFF = {1: 25, 2: 9}, 20_000_000, 0.5


def laplace_error(problem: GeneralizedProblem, T: np.ndarray, state: Any, observed: bool, objective: float) -> str | None:
    """A sentence when Laplace's log-likelihood is far from the integral, which quadrature gives for one factor; else None."""
    points = CHECK_POINTS.get(len(T), 0)
    if problem.source.distant or len(problem.plan.terms) > 1 or not points or problem.n * points ** len(T) > CHECK_COST:
        return None
    exact = quadrature(problem.family, problem.rows, T, state.gamma, state.phi, state.laplace, points, observed).objective
    error = (exact - objective) / 2.0
    if abs(error) < FAR_OFF:
        return None
    return (
        f"Laplace's log-likelihood is off by {error:.2f} here ({points}-point quadrature at the same parameters), because levels "
        f"of {problem.plan.terms[0].group} hold little data for their variance. Use nAGQ={points} or more."
    )


def diagnose(problem: GeneralizedProblem, names: tuple[str, ...], beta: np.ndarray, theta: list[np.ndarray], phi: Any) -> list[str]:
    """Sentences about an estimate that the data do not bound; empty when there is nothing to say.

    Parameters
    ----------
    names : p names of the fixed columns.
    beta : (p,) on the user's scale; ``theta`` per term; ``phi`` the dispersion.
    """
    out = []
    rows, family = problem.rows, problem.family
    if family.name in ("binomial", "ordinal"):
        parted = "the successes from the failures" if family.name == "binomial" else "the categories"
        X = problem.source.sample().Q @ rows.R
        reach = np.abs(beta) * (X.max(axis=0) - X.min(axis=0)) if len(beta) else np.zeros(0)
        far = [name for name, r in zip(names, reach, strict=True) if r > EXTREME]
        if far:
            out.append(
                f"Fitted probabilities reach 0 and 1: {', '.join(far)} separates {parted}, and its coefficient "
                "grows without bound. Its estimate and standard error mean nothing; leave it out or merge its levels."
            )
        wide = [size.group for size, own in zip(problem.plan.terms, theta, strict=True) if np.max(np.abs(own), initial=0.0) > EXTREME]
        if wide:
            out.append(
                f"The variance of {', '.join(wide)} grows without bound: the response hardly varies within its levels. "
                "Its estimate means nothing; leave the term out."
            )
    if (family.name == "negative_binomial" and phi > POISSON_SIZE) or (family.name == "negative_binomial1" and phi < POISSON_EXCESS):
        out.append("The counts vary no more than Poisson counts: the negative binomial's dispersion is at its limit. Use family='poisson'.")
    return out
