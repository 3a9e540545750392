"""P-values of simulated data sets: the model fitted to each, and its coefficients tested.

    t     the estimate over its standard error against t with Kenward-Roger's degrees of freedom at the parameters simulated from
          (linear models)
    z     the same against the normal distribution
    lrt   twice the gain in log-likelihood over the model without the coefficients, both by maximum likelihood

Green & MacLeod (2016), Methods in Ecology and Evolution 7, for the procedure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import betaincinv, chdtrc, ndtr, stdtr

from lmm.design.design import Design
from lmm.design.rank import independent_columns
from lmm.errors import LmmError
from lmm.estimators.control import Control
from lmm.estimators.estimator import Estimator
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.inference.refits import refits
from lmm.inference.tests.ddf import degrees_of_freedom
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate


def extended(design: Design, t: int, size: int) -> Design:
    """The design with ``size`` levels of term t, those of the data in turn."""
    which, codes = refits.copies(design, t, np.arange(size) % design.terms[t].J)
    return refits.design_of_rows(design, which, codes)


def p_values(
    design: Design,
    like: Problem | GeneralizedProblem,
    estimator: Estimator,
    truth: Estimate,
    place: list[int],
    test: str,
    slabs: Iterable[np.ndarray],
    told: refits.Progress,
) -> tuple[np.ndarray, int]:
    """P-values (nsim,) of the coefficients at ``place`` in simulated data sets, NaN where a fit failed, and the number of those.

    Parameters
    ----------
    like : a problem of the kind and family of the one to be fitted.
    truth : what was simulated from.
    test : "t", "z" or "lrt".
    slabs : responses (n, any number) of simulated data sets.
    """
    problem = like.of(design)
    out: list[np.ndarray] = []
    failed = 0
    if test == "lrt":
        if truth.family is None:
            estimator = MaximumLikelihood(reml=False, control=estimator.control)
        elif estimator.reml:
            estimator = estimator.by_likelihood() or estimator
        smaller = _without(design, place)
        small_problem = like.of(smaller)
        small_truth = replace(
            truth,
            beta=np.delete(truth.beta, place),
            beta_cov_unscaled=np.zeros((smaller.p, smaller.p)),
        )
    df = np.inf
    for Y in slabs:
        if test == "t" and not out:
            df = _denominator(problem, design, truth, Y[:, 0], place[0])
        full = refits.of_responses(design, problem, estimator, truth, [Y], False, told)
        bad = set(full.failures)
        if test == "lrt":
            less = refits.of_responses(
                smaller, small_problem, estimator, small_truth, [Y], False, None
            )
            bad |= set(less.failures)
            p = chdtrc(len(place), np.maximum(less.objective - full.objective, 0.0))
        else:
            scale = truth.distribution.scale(full.sigma) ** 2
            se = np.sqrt(full.beta_cov_unscaled[:, place[0], place[0]] * scale)
            z = -np.abs(full.beta[:, place[0]] / se)
            p = 2.0 * (ndtr(z) if np.isinf(df) else stdtr(df, z))
        p[sorted(bad)] = np.nan
        failed += len(bad)
        out.append(p)
    return np.concatenate(out), failed


def _without(design: Design, place: list[int]) -> Design:
    X = np.delete(design.X, place, axis=1)
    names = tuple(name for i, name in enumerate(design.names) if i not in place)
    return design.with_mean(
        X=X, names=names, dropped=(), all_names=names, R=independent_columns(X, design.weights)[1]
    )


def _denominator(problem: Any, design: Design, truth: Estimate, y: np.ndarray, place: int) -> float:
    """Kenward-Roger's degrees of freedom at the parameters simulated from; inf where they cannot be had."""
    evaluator = MaximumLikelihood(reml=True, control=Control(evaluate_only=True))
    at = evaluator.fit(
        problem.with_response(replace(design, y=np.ascontiguousarray(y))), truth.theta
    )
    at = replace(at, sigma=truth.sigma)
    try:
        ddf = degrees_of_freedom(
            problem, evaluator, at, at.beta_cov_unscaled * at.scale2, "kenward_roger"
        )
        return float(ddf.t(np.eye(design.p)[[place]])[1][0])
    except (LmmError, np.linalg.LinAlgError):
        return float("inf")


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact limits of a proportion."""
    tail = (1.0 - level) / 2.0
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = (
        1.0
        if successes == trials
        else float(betaincinv(successes + 1, trials - successes, 1.0 - tail))
    )
    return low, high
