"""Every reference problem, fitted here and by lme4.

How close is close: lme4 was run until restarting it gained less than 1e-9 in deviance. A point
that misses the optimum by g in deviance misses it by sqrt(g) standard errors of theta, so
two such fits may differ by 3e-5 of them, and a boundary (a variance of zero, a correlation of 1), where the
deviance is linear in the variance, by 3e-5 in a standard deviation relative to sigma. Tolerances are a few
times that. Where we find a deviance lower by g, sqrt(g) is added, for the reference is then off by that much.
The objective at a fixed theta involves no optimiser and is held to 1e-8 relative.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from functools import cache

import numpy as np
import pandas as pd
import pytest

import lmm
from benchmarks.problems import PROBLEMS, SHIPPED
from lmm.results import Fit
from tests.reference_data import FOLDER, AtTheta, Numbers, all_cases, load_case, numbers, plain

CASES = all_cases()
EVALUATIONS = 12


@cache
def fitted(name: str) -> Fit:
    """The fit of a problem, once for all tests."""
    problem, data, arguments, _ = load_case(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        return lmm.lmer(problem.formula, data, **arguments)


@cache
def evaluated(name: str, reml: bool) -> Fit:
    """The problem at theta = (1, ..., 1), without optimising, under either criterion."""
    problem, data, arguments, r = load_case(name)
    control = lmm.Control(evaluate_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        return lmm.lmer(
            problem.formula,
            data,
            **{**arguments, "REML": reml},
            control=control,
            start=np.ones(len(r.theta)),
        )


def slack(fit: Fit, r: Numbers) -> float:
    """How far, in standard errors of theta, the reference may be from an optimum that lies below it."""
    return math.sqrt(max(0.0, 2 * (fit.llf - r.llf)))


def plain_series(series: pd.Series) -> dict[str, float]:
    """A Series as a dict under plain names, missing (dropped) entries left out."""
    return {plain(str(k)): float(v) for k, v in series.items() if not pd.isna(v)}


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", [c for c in CASES if PROBLEMS[c].same_theta])
def test_objective_at_fixed_theta(name: str, reml: bool) -> None:
    """The profiled deviance and the REML criterion are lme4's at three thetas, whatever the optimum."""
    fit = evaluated(name, reml)
    order = [plain(str(k)) for k in fit.theta.index]

    def check(at: AtTheta) -> None:
        assert set(order) == set(at.theta), f"theta is {order}, lme4's is {list(at.theta)}"
        ours = fit.objective(np.array([at.theta[k] for k in order]))
        theirs = at.reml if reml else at.ml
        assert ours == pytest.approx(theirs, rel=1e-8), f"at {at.theta}"

    for at in numbers(name).at:
        check(at)
    assert -2 * fit.llf == pytest.approx(fit.objective(np.ones(len(order))), rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_criterion(name: str) -> None:
    """The criterion reached is lme4's or lower; AIC, BIC and the counts follow."""
    fit, r = fitted(name), numbers(name)
    worse = -2 * (fit.llf - r.llf)
    assert worse <= 1e-6, f"worse than lme4 by {worse:.3g} in deviance"
    assert fit.convergence.converged, fit.convergence.message
    assert fit.nobs == r.nobs
    assert fit.df_model == r.npar
    gained = -worse
    assert gained <= 1e-5, (
        f"lower than lme4 by {gained:.3g} in deviance: the reference is not at the optimum"
    )
    assert fit.aic == pytest.approx(r.aic, abs=2e-5)
    assert fit.bic == pytest.approx(r.bic, abs=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_fixed_effects(name: str) -> None:
    """Coefficients to 3e-4 of a standard error, standard errors as closely relative to themselves, and the same columns dropped."""
    fit, r = fitted(name), numbers(name)
    tolerance = 3e-4 + 3 * slack(fit, r)
    beta, se = plain_series(fit.fixef()), plain_series(fit.bse)
    assert set(beta) == set(r.fixef.index)
    assert {plain(d) for d in fit.design.dropped} == set(r.dropped)
    for k in r.fixef.index:
        assert abs(beta[k] - r.fixef[k]) <= tolerance * r.se[k], (
            f"{k}: {beta[k]} against {r.fixef[k]}, standard error {r.se[k]}"
        )
        assert se[k] == pytest.approx(r.se[k], rel=tolerance), k
    if r.vcov is not None:
        ours = fit.vcov()
        ours.index = ours.columns = [plain(str(k)) for k in ours.index]
        scale = np.outer(r.se, r.se)
        error = (
            np.abs(ours.loc[r.vcov.index, r.vcov.columns].to_numpy() - r.vcov.to_numpy()) / scale
        )
        assert error.max() <= 2 * tolerance, error


@pytest.mark.parametrize("name", [c for c in CASES if PROBLEMS[c].same_theta])
def test_variances(name: str) -> None:
    """sigma to 1e-5, and each covariance of the random effects relative to the standard deviations it joins.

    A standard deviation near zero is known to 3e-5 sigma, not relatively: sigma / 100 is added to the scale.
    """
    fit, r = fitted(name), numbers(name)
    tolerance = 2e-4 + 3 * slack(fit, r)
    assert fit.sigma == pytest.approx(r.sigma, rel=1e-5 + slack(fit, r))
    table = fit.varcorr().to_frame()
    names = [
        ["" if pd.isna(v) else plain(str(v)) for v in table[c]] for c in ("grp", "var1", "var2")
    ]
    values = zip(table["vcov"].astype(float), table["sdcor"].astype(float), strict=True)
    ours = dict(zip(zip(*names, strict=True), values, strict=True))
    sd = {(g, a): s for (g, a, b), (_, s) in r.varcorr.items() if not b}
    for (g, a, b), (vcov, sdcor) in r.varcorr.items():
        row = ours.get((g, a, b), ours.get((g, b, a)))
        assert row is not None, f"no row for {(g, a, b)} in {sorted(ours)}"
        scale = (sd[g, a] + r.sigma / 100) * (sd[g, b or a] + r.sigma / 100)
        own_vcov, own_sdcor = row
        assert abs(own_vcov - vcov) <= tolerance * scale, f"{(g, a, b)}: {own_vcov} against {vcov}"
        if not b:
            assert own_sdcor == pytest.approx(math.sqrt(own_vcov), rel=1e-12)
        elif min(sd[g, a], sd[g, b]) > 0.05 * r.sigma:
            assert abs(own_sdcor - sdcor) <= 20 * tolerance, (
                f"correlation of {(g, a, b)}: {own_sdcor} against {sdcor}"
            )
    assert fit.is_singular() == r.singular


@pytest.mark.parametrize("name", [c for c in CASES if PROBLEMS[c].same_theta])
def test_modes(name: str) -> None:
    """Conditional modes to 1e-3 of their conditional standard deviation, those to 1e-3 relative, and the sum of squares of all levels."""
    fit, r = fitted(name), numbers(name)
    tolerance = 1e-3 + 3 * slack(fit, r)
    modes = {plain(g): table for g, table in fit.ranef().items()}
    covariances = {plain(g): blocks for g, blocks in fit.ranef_cov().items()}
    for (group, column), want in r.ranef.items():
        table = modes[group]
        assert len(table) == want.n
        place = [plain(str(c)) for c in table.columns].index(column)
        rows = [[str(i) for i in table.index].index(level) for level in want.levels]
        ours = table.to_numpy()[:, place]
        sd = np.sqrt(np.asarray(covariances[group])[:, place, place])
        # a mode whose variance is estimated as zero has no conditional standard deviation to measure by
        scale = np.fmax(np.nan_to_num(want.sd), r.sigma / 100)
        assert (np.abs(ours[rows] - want.mode) <= tolerance * scale).all(), (
            f"{group} {column}: {ours[rows]} against {want.mode}"
        )
        assert (np.abs(sd[rows] - np.nan_to_num(want.sd)) <= tolerance * scale).all(), (
            f"{group} {column}: {sd[rows]} against {want.sd}"
        )
        assert math.sqrt(ours @ ours) == pytest.approx(
            math.sqrt(want.sum_sq), rel=tolerance, abs=tolerance * r.sigma
        )
    assert np.sum(np.asarray(fit.fittedvalues, dtype=float) ** 2) == pytest.approx(
        r.fitted_sum_sq, rel=1e-5 + slack(fit, r)
    )


@pytest.mark.parametrize(
    "name",
    [
        c
        for c in CASES
        if PROBLEMS[c].data in (*SHIPPED, "sleep_weighted", "sleep_missing", "verbagg")
    ],
)
def test_few_evaluations(name: str) -> None:
    """Analytic derivatives pay: a dozen evaluations of the objective for any model of the shipped data, in each of its searches."""
    fit = fitted(name)
    searches = Counter(line.get("search", 0) for line in fit.estimate.trace)
    assert max(searches.values()) <= EVALUATIONS
    assert len(searches) > 1 or fit.convergence.evaluations <= EVALUATIONS


def test_every_problem_has_numbers_and_none_is_left_over() -> None:
    """The folder of references holds the registry's problems and nothing else."""
    assert {p.stem for p in FOLDER.glob("*.json")} == set(CASES)


def test_the_singular_problems_are_singular() -> None:
    """The boundary is really there in the data that claim it."""
    for name in (
        "dyestuff2_singular",
        "no_site_singular",
        "perfect_correlation",
        "perfect_negative",
        "slopes_4_rank2",
        "maximal_singular",
    ):
        assert numbers(name).singular, name
