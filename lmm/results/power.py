"""Power by simulation: how often a test finds an effect of a given size, for samples of given sizes.

Data of n levels of a grouping factor are made from the levels there are, in turn; responses are simulated from the model, the model is
fitted to each, and the share of tests that reject is the power. Its interval is Clopper & Pearson's (1934, Biometrika 26).

    t     the estimate over its standard error against t with Kenward-Roger's degrees of freedom at the parameters simulated from
          (linear models)
    z     the same against the normal distribution
    lrt   twice the gain in log-likelihood over the model without the coefficients, both by maximum likelihood

Green & MacLeod (2016), Methods in Ecology and Evolution 7, for the procedure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import betaincinv, chdtrc, ndtr, stdtr

from lmm.arguments import checked, instance
from lmm.arguments import generator as random_generator
from lmm.design.rank import independent_columns
from lmm.design.records import Design
from lmm.errors import ArgumentError, LmmError, nearest
from lmm.estimators.control import Control
from lmm.estimators.likelihood import MaximumLikelihood
from lmm.inference import refits
from lmm.inference.ddf import degrees_of_freedom
from lmm.inference.simulated_responses import simulate_array
from lmm.model.records import Estimate
from lmm.results.assumed import assume
from lmm.results.bootstrap import term_of
from lmm.results.progress import bar

if TYPE_CHECKING:
    from lmm.results.fit import Fit

TESTS = ("t", "z", "lrt")


@checked
def power(
    fit: Fit,
    coefficient: str | Sequence[str],
    *,
    parameters: Mapping[str, float] | None = None,
    along: str | None = None,
    n: int | Sequence[int] | None = None,
    nsim: int = 1000,
    alpha: float = 0.05,
    test: str | None = None,
    rng: None | int | np.random.Generator = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Power of a test of one coefficient, or of several at once, by simulation.

    Parameters
    ----------
    fit : a pilot's fit, or any fit of the model to data of the planned design.
    coefficient : name of a coefficient; several names are tested together (``test="lrt"``).
    parameters : what to assume instead of the estimates, named as the rows of :meth:`lmm.Fit.confint`:
        ``{"Days": 5, "sd_Days|Subject": 8, "sigma": 30}``.
    along : grouping factor whose number of levels varies; by default the one that holds all others.
    n : numbers of its levels; None for those of the fit. Levels beyond those of the data repeat them in turn, with all that lies within.
    nsim : data sets simulated for each n.
    alpha : level of the test.
    test : "t" (the default of a linear model), "z" (of a generalized one) or "lrt" (of several coefficients).
    rng, progress : as in :meth:`lmm.Fit.bootstrap`.

    Returns
    -------
    DataFrame, a row per n: ``n``, ``nobs``, ``power`` with its 95 % limits ``lower, upper``, ``rejected``, ``nsim``, ``failures`` (fits
    that failed or did not converge, counted as not rejecting).

    Raises
    ------
    ArgumentError : for an unknown coefficient, parameter, test or grouping factor; DataError where n levels do not identify the model.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> table = lmm.power(fit, "Days", parameters={"Days": 5}, n=[6, 18, 36], nsim=200, rng=1)
    >>> table["power"].is_monotonic_increasing
    True
    """
    instance(fit, "power: fit", "Fit", "lmm.lmer() or lmm.glmer()")
    design, estimate = fit.design, fit.estimate
    refusal = "power: for linear and generalized fits by maximum likelihood."
    estimate.require_likelihood(refusal)
    estimate.distribution.require_mean(refusal)
    names = [coefficient] if isinstance(coefficient, str) else list(coefficient)
    for name in names:
        if name not in design.names:
            raise ArgumentError(
                f"power: there is no coefficient {name!r}; there is {', '.join(design.names)}.{nearest(name, design.names)}"
            )
    if test is None:
        test = "lrt" if len(names) > 1 else "t" if estimate.family is None else "z"
    if test not in TESTS:
        raise ArgumentError(f"power: test={test!r} is not one of {', '.join(map(repr, TESTS))}.{nearest(test, TESTS)}")
    if len(names) != 1 and test != "lrt":
        raise ArgumentError(f"power: test={test!r} is of one coefficient; several take test='lrt'.")
    if test == "t" and estimate.family is not None:
        raise ArgumentError("power: test='t' needs a linear model; a generalized one has 'z' and 'lrt'.")
    truth = assume(design, estimate, None if parameters is None else dict(parameters))
    t = term_of(design, along, "power") if (along is not None or n is not None) else None
    sizes = [design.terms[t].J if t is not None else 0] if n is None else [int(size) for size in np.atleast_1d(np.asarray(n))]
    if t is not None and min(sizes) < 2:
        raise ArgumentError(f"power: n={min(sizes)} levels of {design.terms[t].group} are too few; a variance needs two.")
    generator = random_generator(rng)
    rows = []
    with bar(len(sizes) * nsim, "power", progress) as told:
        for size in sizes:
            own = design if t is None or n is None else extended(design, t, size)
            p, failed = p_values(own, fit, truth, names, test, nsim, generator, told)
            rejected = int(np.sum(p < alpha))
            low, high = clopper_pearson(rejected, nsim)
            label = design.terms[0].J if t is None else size
            rows.append((label, own.n, rejected / nsim, low, high, rejected, nsim, failed))
    return pd.DataFrame(rows, columns=["n", "nobs", "power", "lower", "upper", "rejected", "nsim", "failures"])


def extended(design: Design, t: int, size: int) -> Design:
    """The design with ``size`` levels of term t, those of the data in turn."""
    which, codes = refits.copies(design, t, np.arange(size) % design.terms[t].J)
    return refits.design_of_rows(design, which, codes)


def p_values(
    design: Design, fit: Fit, truth: Estimate, names: list[str], test: str, nsim: int, rng: np.random.Generator, told: refits.Progress
) -> tuple[np.ndarray, int]:
    """P-values (nsim,) of simulated data sets, NaN where a fit failed, and the number of those."""
    problem = refits.problem_of(design, fit.problem)
    estimator = fit._method
    place = [design.names.index(name) for name in names]
    out, failed = [], 0
    if test == "lrt":
        if truth.family is None:
            estimator = MaximumLikelihood(reml=False, control=estimator.control)
        smaller = _without(design, place)
        small_problem = refits.problem_of(smaller, fit.problem)
        small_truth = replace(truth, beta=np.delete(truth.beta, place), beta_cov_unscaled=np.zeros((smaller.p, smaller.p)))
    df = np.inf
    width = max(1, refits.HELD // design.n)
    for first in range(0, nsim, width):
        Y = simulate_array(design, truth, min(width, nsim - first), rng, False)
        if test == "t" and not first:
            df = _denominator(problem, design, truth, Y[:, 0], place[0])
        full = refits.of_responses(design, problem, estimator, truth, [Y], False, told)
        bad = set(full.failures)
        if test == "lrt":
            less = refits.of_responses(smaller, small_problem, estimator, small_truth, [Y], False, None)
            bad |= set(less.failures)
            p = chdtrc(len(place), np.maximum(less.objective - full.objective, 0.0))
        else:
            scale = truth.distribution.scale2(full.sigma)
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
    return design.with_mean(X=X, names=names, dropped=(), all_names=names, R=independent_columns(X, design.weights)[1])


def _denominator(problem: Any, design: Design, truth: Estimate, y: np.ndarray, place: int) -> float:
    """Kenward-Roger's degrees of freedom at the parameters simulated from; inf where they cannot be had."""
    evaluator = MaximumLikelihood(reml=True, control=Control(evaluate_only=True))
    at = evaluator.fit(problem.with_response(replace(design, y=np.ascontiguousarray(y))), truth.theta)
    at = replace(at, sigma=truth.sigma)
    try:
        ddf = degrees_of_freedom(problem, evaluator, at, at.beta_cov_unscaled * at.scale2, "kenward_roger")
        return float(ddf.t(np.eye(design.p)[[place]])[1][0])
    except (LmmError, np.linalg.LinAlgError):
        return float("inf")


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact limits of a proportion."""
    tail = (1.0 - level) / 2.0
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1.0 - tail))
    return low, high
