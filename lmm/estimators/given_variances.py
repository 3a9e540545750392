"""Fixed and random effects at variances that are given: Henderson's equations, solved once.

For a linear model with Cov(b_j) = C_t and residual variance sigma^2 / w,

    [X'WX  X'WZ             ] [beta]   [X'Wy]
    [Z'WX  Z'WZ + sigma^2 C^-1] [b   ] = [Z'Wy]

gives the generalised least-squares beta and the best linear unbiased predictions b; C need not have an inverse. For a
generalized model beta and b maximise the joint log density of y and b (as lme4's nAGQ = 0 does at given variances).

Henderson (1950), Ann. Math. Stat. 21; Henderson (1975), Biometrics 31; Breslow & Clayton (1993), J. Am. Stat. Assoc. 88.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from lmm.covariance import Covariance
from lmm.design.rank import triangle_inverse
from lmm.errors import ArgumentError, nearest
from lmm.estimators.assembly import as_columns, assemble_estimate
from lmm.estimators.control import Control
from lmm.estimators.estimator import Callback, Estimator
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood
from lmm.estimators.likelihood.maximum_likelihood import check_sigma, finish
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.families import Family
from lmm.linalg import threads
from lmm.model.laplace.laplace import laplace
from lmm.model.laplace.start_values import starting_values
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Estimate, Report
from lmm.search.trust_region import Outcome

#: asymmetry and negative eigenvalues of a given covariance, relative to its size, that are rounding
ROUNDING = 1e-8
NOTE = "The variances of the random effects{} were given, not estimated; standard errors take them as known."


@dataclass(frozen=True, eq=False)
class GivenVariances(Estimator):
    """Fixed and random effects at given variances; :func:`lmm.solve` is the way to it.

    Parameters
    ----------
    varcomp : covariances by grouping factor, see :func:`given_covariances`.
    sigma : residual standard deviation of a linear model.
    dispersion : dispersion parameter of a family that has one.
    control : ``curvature`` and ``backend`` are used.
    """

    varcomp: object
    sigma: float | None = None
    dispersion: float | None = None
    control: Control = Control()
    name = "given"

    def __post_init__(self) -> None:
        if self.sigma is not None:
            check_sigma(self.sigma)
        if self.dispersion is not None:
            check_sigma(self.dispersion, "dispersion", "the family's dispersion parameter")

    def fit(
        self,
        problem: Problem | GeneralizedProblem,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Estimate:
        """Solve for the fixed and random effects; ``start`` and ``callback`` are not needed."""
        if isinstance(problem, GeneralizedProblem):
            return self._generalized(problem)
        if self.sigma is None:
            raise ArgumentError(
                "sigma is missing: a linear model at given variances needs its residual standard deviation, sigma=."
            )
        if self.dispersion is not None:
            raise ArgumentError(
                "dispersion is for a family that has one; the residual standard deviation of a linear model is sigma=."
            )
        begin = perf_counter()
        evaluate = Evaluator(problem, False, self.sigma)
        point = evaluate(self._theta(problem, float(self.sigma)))
        outcome = Outcome.without_search(point, "solved at the given variances")
        estimate = finish(problem, evaluate, outcome, self.name, {"solve": perf_counter() - begin})
        title = "Linear mixed model at given variances (Henderson's equations)"
        report = Report(title, notes=(NOTE.format(" and of the residual"),))
        return replace(estimate, n_parameters=problem.p, report=report)

    def _generalized(self, problem: GeneralizedProblem) -> Estimate:
        begin = perf_counter()
        family, rows = problem.family, problem.rows
        family.require_mean(
            f"family {family.name!r} has parameters of its own to estimate; variances alone do not make it a joint mode."
        )
        phi = self._phi(family)
        theta = self._theta(problem, 1.0)
        T = problem.factors(theta)
        gamma = starting_values(problem)[problem.n_theta : problem.n_theta + problem.p]
        u = [np.zeros((size.k, size.J)) for size in problem.plan.terms]
        observed = self.control.curvature == "observed"
        at = laplace(family, rows, T, gamma, phi, u, observed, free=True)
        inverse = triangle_inverse(problem.R)
        found = bool(np.isfinite(at.objective))
        message = (
            "solved at the given variances"
            if found
            else "no joint mode of the fixed and random effects was found"
        )
        seconds = {**problem.seconds, "solve": perf_counter() - begin}
        convergence = Convergence(
            found, message, 0, at.mode.steps, at.mode.steps, float("nan"), seconds
        )
        return assemble_estimate(
            problem,
            Estimate,
            method=self.name,
            beta=inverse @ at.mode.gamma,
            beta_cov_unscaled=inverse @ np.linalg.inv(at.information) @ inverse.T,
            theta=theta,
            modes=as_columns(at.mode.b),
            objective=at.objective,
            n_parameters=problem.p,
            convergence=convergence,
            phi=phi,
            nagq=0,
            eta=at.mode.eta,
            report=Report(
                "Generalized linear mixed model at given variances (joint mode)",
                notes=(NOTE.format(""),),
            ),
        )

    def _phi(self, family: Family) -> float:
        if self.sigma is not None:
            raise ArgumentError(
                "sigma is the residual standard deviation of a linear model; with a family give dispersion= where it has one."
            )
        family.require_one_parameter("solve()")
        if family.has_dispersion != (self.dispersion is not None):
            if family.has_dispersion:
                raise ArgumentError(
                    f"dispersion is missing: the {family.name} family needs its {family.dispersion_name}, dispersion=."
                )
            raise ArgumentError(
                f"dispersion={self.dispersion!r}: the {family.name} family has none; leave it out."
            )
        return float(self.dispersion) if self.dispersion is not None else 1.0

    def _theta(self, problem: Problem | GeneralizedProblem, scale: float) -> np.ndarray:
        covariances = given_covariances(self.varcomp, problem.labels, problem.structures)
        return problem.theta_of([C / scale**2 for C in covariances])

    @threads.limited()
    def objective(self, problem: Problem | GeneralizedProblem, theta: np.ndarray) -> float:
        """-2 log-likelihood at other parameters: theta (m,) of a linear model, (theta, beta[, phi]) with a family."""
        return maximum_likelihood(problem, self.control, sigma=self.sigma).objective(problem, theta)


def given_covariances(
    varcomp: object,
    labels: Sequence[tuple[str, tuple[str, ...]]],
    structures: Sequence[Covariance],
    what: str = "varcomp",
) -> list[np.ndarray]:
    """Covariance (k, k) per term of what a user gives by grouping factor.

    Parameters
    ----------
    varcomp : mapping from grouping factor to a number (one effect), k variances (no covariances), a (k, k) array or a
        DataFrame named by the effects in any order; or the ``varcorr()`` of a fit.
    labels : per term its group and columns; ``structures`` its covariance structure.
    what : the argument's name, for messages.

    Raises
    ------
    ArgumentError : a group is missing or unknown, or its covariance is not one, or not of its term's structure.
    """
    groups = [group for group, _ in labels]
    if not isinstance(varcomp, Mapping):
        if not (hasattr(varcomp, "groups") and hasattr(varcomp, "__getitem__")):
            example = ", ".join(f"{group!r}: ..." for group in groups)
            raise ArgumentError(
                f"{what} must map grouping factors to covariances, {{{example}}}, not {type(varcomp).__name__}."
            )
        varcomp = {group: varcomp[group] for group in varcomp.groups}
    for group in varcomp:
        if group not in groups:
            known = ", ".join(map(repr, groups))
            raise ArgumentError(
                f"{what}: {group!r} is not a grouping factor of this model; it has {known}.{nearest(group, groups)}"
            )
    missing = [group for group in groups if group not in varcomp]
    if missing:
        raise ArgumentError(f"{what} has no covariance for {', '.join(map(repr, missing))}.")
    return [
        _covariance(varcomp[group], f"{what}[{group!r}]", columns, s)
        for (group, columns), s in zip(labels, structures, strict=True)
    ]


def _covariance(
    value: Any, name: str, columns: tuple[str, ...], structure: Covariance
) -> np.ndarray:
    k, effects = len(columns), ", ".join(columns)
    if hasattr(value, "columns") and hasattr(value, "index"):
        if not set(columns) == set(value.columns) == set(value.index) or len(value.columns) != k:
            raise ArgumentError(
                f"{name}: rows and columns of the table must be the effects {effects}."
            )
        value = value.loc[list(columns), list(columns)]
    try:
        C = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} must hold numbers, the covariance of {effects}.") from error
    if not np.isfinite(C).all():
        raise ArgumentError(f"{name} holds values that are not finite.")
    if C.ndim == 0:
        C = C.reshape(1)
    if C.ndim == 1 and C.shape == (k,):
        C = np.diag(C)
    if C.shape != (k, k):
        raise ArgumentError(
            f"{name} has shape {np.shape(value)}; the effects {effects} need a ({k}, {k}) covariance, or {k} variances."
        )
    if np.any(np.diagonal(C) < 0):
        raise ArgumentError(f"{name}: a variance is negative, {np.diagonal(C).min():g}.")
    sd = np.sqrt(np.diagonal(C))
    unit = np.where(sd > 0, sd, 1.0)
    R = C / np.outer(unit, unit)
    if np.abs(R - R.T).max() > ROUNDING:
        raise ArgumentError(f"{name} is not symmetric.")
    if np.linalg.eigvalsh((R + R.T) / 2)[0] < -ROUNDING:
        raise ArgumentError(
            f"{name} is not positive semidefinite: a correlation is beyond one, or variances and covariances do not fit."
        )
    C = (C + C.T) / 2
    piece = {int(a): number for number, columns in enumerate(structure.pieces()) for a in columns}
    fixed = [
        (i, j)
        for i in range(k)
        for j in range(i)
        if piece[i] != piece[j] and abs(R[i, j]) > ROUNDING
    ]
    if fixed:
        i, j = fixed[0]
        raise ArgumentError(
            f"{name} gives a covariance of {columns[j]} and {columns[i]}, which the formula has as independent; make it zero."
        )
    T = structure.factor(structure.from_matrix(C))
    if np.abs((T @ T.T - C) / np.outer(unit, unit)).max() > 1e3 * ROUNDING:
        raise ArgumentError(f"{name} does not have the structure {structure.name!r} of its term.")
    return C
