"""MacKay's empirical Bayes: ridge regression and an update of the variances in turn, as published and corrected.

Given variances, fixed and random effects solve Henderson's equations, a ridge regression of y on [X Z]. Then, in the
form in which it is often published ("quick"), for term t with J levels

    g_ta     = the sample variance (divisor J - 1) of the predicted effects b_ta1 .. b_taJ, covariances zero,
    sigma^2  = RSS / (n - edf),  edf = trace of the hat matrix of [X Z] = p + sum_t tr(G_t Q_t),

with RSS the (weighted) residual sum of squares and Q_t = sum_j [Z'PZ]_jj. Predicted effects are shrunken: their
variance is that of the effects less the mean of their conditional variances C_jj, so the quick form is biased towards
zero, the more the less data there are per level; and effects that are correlated are shrunken as if they were not.

"corrected" puts both back, G <- (1/J) sum_j (b_j b_j' + C_jj), which is the EM algorithm for REML
(:mod:`lmm.estimators.em`), whose optimum also satisfies sigma^2 = RSS / (n - edf).

MacKay (1992), Neural Comput. 4, "Bayesian interpolation"; Harville (1977), J. Am. Stat. Assoc. 72.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

import numpy as np

from lmm.covariance.structure import units
from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.estimators.em import optimum, promised
from lmm.estimators.estimator import LINEAR, Callback, Estimator
from lmm.estimators.given_variances import given_covariances
from lmm.estimators.likelihood.maximum_likelihood import finish, first_theta, of_determined
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.estimators.restart import lowest_start
from lmm.estimators.settings import (
    CONTROL,
    COUNT,
    FLAG,
    POSITIVE,
    check_settings,
    one_of,
    or_none,
    refuse_evaluation,
)
from lmm.linalg import threads
from lmm.model.problem import Problem
from lmm.model.records import Estimate, Report
from lmm.search.trust_region import Outcome, Point

FORMS = ("corrected", "quick")
#: share of the residual variance below which a variance that falls is zero: in the quick form zero is where it stays
VANISHED = 1e-8


class Variances(NamedTuple):
    """A state of the quick form: variances (k,) per term, and the residual's."""

    effects: list[np.ndarray]
    residual: float

    def flat(self) -> np.ndarray:
        """All of them, (m,)."""
        return np.concatenate([*self.effects, [self.residual]])


@dataclass(frozen=True)
class MacKay(Estimator):
    """MacKay's empirical Bayes, by ridge regressions and updates of the variances.

    Parameters
    ----------
    form : "corrected", which is REML (or ML); or "quick", the published update without conditional variances and covariances.
    control : ``backend`` and ``verbose`` are used.
    start_variances : variances to begin from, by grouping factor, ``{"Subject": [410, 22]}`` (the corrected form takes
        covariance matrices too); None for moments of the data.
    start_error_variance : residual variance to begin from; None for a quarter of the response's where
        ``start_variances`` are given, else for moments.
    tolerance : quick: largest relative change of a variance that ends the iteration; corrected: promised decrease of
        the criterion. None for 1e-10 and 1e-12.
    max_iterations : iterations after which the fit stops unconverged.
    reml : of the corrected form, restricted maximum likelihood or maximum likelihood.

    Raises
    ------
    ArgumentError : unknown form, or a setting that no iteration can use.

    Example
    -------
    >>> import lmm
    >>> data = lmm.datasets.load("sleepstudy")
    >>> quick = lmm.lmer("Reaction ~ Days + (Days|Subject)", data, method=lmm.MacKay(form="quick"))
    >>> (quick.varcorr().stddev("Subject") ** 2).round(3).to_dict()
    {'Intercept': 302.905, 'Days': 31.089}
    """

    form: str = "corrected"
    control: Control = Control()
    start_variances: object = None
    start_error_variance: float | None = None
    tolerance: float | None = None
    max_iterations: int = 10_000
    reml: bool = True
    name = "mackay"
    maximises = True
    models = (LINEAR,)

    def __post_init__(self) -> None:
        check_settings(
            self,
            form=one_of(*FORMS),
            control=CONTROL,
            start_error_variance=or_none(POSITIVE),
            tolerance=or_none(POSITIVE),
            max_iterations=COUNT,
            reml=FLAG,
        )
        if self.form == "quick" and not self.reml:
            raise ArgumentError(
                "MacKay: form='quick' has degrees of freedom for the fixed effects, as REML has; leave out REML=False."
            )
        refuse_evaluation(self, "MacKay's method iterates")

    def fit(
        self, problem: Problem, start: np.ndarray | None = None, callback: Callback | None = None
    ) -> Estimate:
        """Iterate to the fixed point.

        Parameters
        ----------
        problem : the sums of a design.
        start : theta (m,) to begin from, in place of ``start_variances``.
        callback : called with each line of the trace; of the quick form "objective" (the REML criterion there), "theta",
            "sigma", "sd" (of all effects, then the residual), "effective" (degrees of freedom of the fit) and "decrease" (largest
            relative change of a variance).
        """
        begin = perf_counter()
        evaluate = Evaluator(problem, self.reml)
        if self.form == "corrected":
            without = (
                of_determined(self, problem, evaluate, start, callback)
                if self.start_variances is None
                else None
            )
            if without is not None:
                return without
            tolerance = 1e-12 if self.tolerance is None else self.tolerance
            theta = self._start_theta(problem, start)
            outcome = optimum(evaluate, theta, tolerance, self.max_iterations, True, callback)
            estimate = finish(
                problem, evaluate, outcome, self.name, {"optimise": perf_counter() - begin}
            )
            how = "REML" if self.reml else "maximum likelihood"
            return replace(
                estimate,
                report=Report(
                    f"Linear mixed model fit by {how} (MacKay's empirical Bayes, corrected)"
                ),
            )
        return self._quick(problem, evaluate, start, callback, begin)

    def _quick(
        self,
        problem: Problem,
        evaluate: Evaluator,
        start: np.ndarray | None,
        callback: Callback | None,
        begin: float,
    ) -> Estimate:
        tolerance = 1e-10 if self.tolerance is None else self.tolerance
        now, trace, change = self._start_variances(problem, evaluate, start), [], np.inf
        for _ in range(self.max_iterations):
            theta = relative(problem, now)
            point = evaluate(theta)
            new, effective = update(evaluate, point, now)
            new = vanish(problem, new)
            old, fresh = now.flat(), new.flat()
            change = float(np.max(np.abs(fresh - old) / np.maximum(np.maximum(old, fresh), 1e-300)))
            line = {
                "objective": criterion(problem, point, evaluate, now.residual),
                "theta": theta,
                "sigma": float(np.sqrt(now.residual)),
                "sd": np.sqrt(now.flat()),
                "effective": effective,
                "decrease": change,
            }
            trace.append(line)
            if callback is not None:
                callback(line)
            now = new
            if change <= tolerance:
                break
        converged = change <= tolerance
        message = (
            "the variances repeat themselves"
            if converged
            else f"stopped at the limit of {self.max_iterations} iterations"
        )
        known = Evaluator(problem, True, float(np.sqrt(now.residual)))
        point = known(relative(problem, now))
        outcome = Outcome(
            point, converged, message, len(trace), len(trace) + 1, float("nan"), tuple(trace)
        )
        estimate = finish(problem, known, outcome, self.name, {"optimise": perf_counter() - begin})
        count = sum(len(own) for own in now.effects)
        report = Report(
            "Linear mixed model fit by MacKay's empirical Bayes (quick form)",
            notes=tuple(notes(problem, evaluate, point)),
        )
        return replace(estimate, n_parameters=problem.p + count + 1, report=report)

    def _start_theta(self, problem: Problem, start: np.ndarray | None) -> np.ndarray:
        """theta of the corrected form's start."""
        if start is not None or self.start_variances is None:
            return first_theta(problem, start)
        C = given_covariances(
            self.start_variances, problem.labels, problem.structures, "start_variances"
        )
        residual = self._start_residual(problem)
        return problem.theta_of([own / residual for own in C])

    def _start_variances(
        self, problem: Problem, evaluate: Evaluator, start: np.ndarray | None
    ) -> Variances:
        theta = self._start_theta(problem, start)
        if start is None and self.start_variances is None:
            theta = lowest_start(problem, evaluate, theta)
        factors = problem.factors(theta)
        if self.start_error_variance is None and (
            start is not None or self.start_variances is None
        ):
            residual = evaluate.variance(evaluate(theta).payload.value)
        else:
            residual = self._start_residual(problem)
        return Variances([np.sum(T * T, axis=1) * residual for T in factors], residual)

    def _start_residual(self, problem: Problem) -> float:
        given = self.start_error_variance
        return problem.scale**2 / 4.0 if given is None else float(given)

    @threads.limited()
    def objective(self, problem: Problem, theta: np.ndarray) -> float:
        """The REML criterion at theta (m,), or -2 log-likelihood."""
        return Evaluator(problem, self.reml).objective(theta)


def relative(problem: Problem, now: Variances) -> np.ndarray:
    """theta (m,) of variances without covariances."""
    return problem.theta_of([np.diag(own / now.residual) for own in now.effects])


def update(evaluate: Evaluator, point: Point, now: Variances) -> tuple[Variances, float]:
    """The quick form's next variances, and the effective degrees of freedom of the ridge regression at these."""
    problem, payload = evaluate.problem, point.payload
    profiled = evaluate.variance(payload.value)
    effective, penalty = float(problem.p), 0.0
    for D, b, own in zip(payload.D, payload.modes, now.effects, strict=True):
        g = own / now.residual
        u2 = float(
            np.sum((b * b)[g > 0] / g[g > 0, None])
        )  # b'G^-1 b, of the effects that have a variance
        penalty += u2
        effective += (
            float(g @ np.diagonal(D)) + u2 / profiled
        )  # tr(G Q), D = Q - e e'/sigma^2 and b = G e
    rss = float(payload.value.r2) - penalty
    effects = [np.var(b, axis=1, ddof=1) for b in payload.modes]
    return Variances(effects, rss / (problem.n - effective)), effective


def vanish(problem: Problem, now: Variances) -> Variances:
    """Variances that have fallen to nothing, at zero."""
    effects = [
        np.where(own * units(gram) ** 2 < VANISHED * now.residual, 0.0, own)
        for own, gram in zip(now.effects, problem.grams(), strict=True)
    ]
    return Variances(effects, now.residual)


def criterion(problem: Problem, point: Point, evaluate: Evaluator, residual: float) -> float:
    """The REML criterion at the point's theta and a residual variance that is not the one profiled out there."""
    ratio = evaluate.variance(point.payload.value) / residual
    return point.objective + evaluate.degrees * (ratio - np.log(ratio) - 1.0)


def notes(problem: Problem, evaluate: Evaluator, point: Point) -> list[str]:
    """What the quick form leaves out, and how far from the REML optimum it ends."""
    out = [
        "The quick form takes the variance of the predicted effects for that of the effects: shrinkage makes it too small. "
        "form='corrected' adds the conditional variances and is REML."
    ]
    slopes = [
        group
        for (group, _), s in zip(problem.labels, problem.structures, strict=True)
        if len(s.pieces()) < s.k
    ]
    if slopes:
        out.append(
            f"Covariances of the effects of {', '.join(slopes)} are taken as zero, although the formula has them."
        )
    free = evaluate(point.theta)
    out.append(
        f"A Newton step of REML from here would lower the criterion by about {promised(free):.3g}."
    )
    return out
