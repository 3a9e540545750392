"""Generalized fits beside lme4's glmer and glmmTMB.

glmer stops where its derivative-free search does, and finds the modes to 1e-12 of the penalised deviance: a
log-likelihood may be above its own, not below it by more than 1e-4. glmmTMB minimises by nlminb with the exact
gradient; 1e-3 allows for its stopping rule. Fixed effects agree to a hundredth of a standard error.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.results import Fit
from tests.reference_data import plain

CASES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "reference" / "generalized.json").read_text()
)
BY_GLMER = [name for name, case in CASES.items() if case["by"] == "glmer"]
EVALUATIONS = 16


@cache
def frame(name: str) -> pd.DataFrame:
    """The data set with the columns that the R script adds."""
    data = lmm.datasets.load(name)
    if name == "cbpp":
        return data.assign(
            prop=data["incidence"] / data["size"], obs=[str(i) for i in range(len(data))]
        )
    if name == "grouseticks":
        return data.assign(cHEIGHT=(data["HEIGHT"] - data["HEIGHT"].mean()) / 100)
    return data.assign(Rt=data["Reaction"] / 100) if name == "sleepstudy" else data


@cache
def fitted(name: str) -> Fit:
    case = CASES[name]
    family = type(lmm.families.get(case["family"]))(link=case["link"])
    # glmmTMB puts the observed information into the determinant, glmer the expected one
    control = lmm.Control(curvature="observed" if case["by"] == "glmmTMB" else "expected")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        return lmm.glmer(
            case["formula"],
            frame(case["data"]),
            family=family,
            weights=case["weights"],
            control=control,
        )


@cache
def covariance(name: str) -> np.ndarray:
    """Of (theta, beta, log phi)."""
    fit = fitted(name)
    return fit.estimator.covariance(fit.problem, fit.estimate)


def fixed(name: str) -> pd.DataFrame:
    """Coefficients and standard errors of both, in R's names and order."""
    fit, case = fitted(name), CASES[name]
    m, p = len(fit.estimate.theta), len(fit.estimate.beta)
    ours = pd.DataFrame(
        {"beta": fit.estimate.beta, "se": np.sqrt(np.diag(covariance(name))[m : m + p])}
    )
    ours.index = pd.Index([plain(str(k)) for k in fit.fixef().index])
    for column, key in (("r_beta", "fixef"), ("r_se", "se")):
        ours[column] = pd.Series({plain(k): v for k, v in case[key].items()})
    assert not ours.isna().any().any(), f"{list(ours.index)} are not R's {list(case['fixef'])}"
    return ours


@pytest.mark.parametrize("name", CASES)
def test_likelihood(name: str) -> None:
    """Never worse than R; hardly better, for then the definitions would differ."""
    fit, case = fitted(name), CASES[name]
    tolerance = 1e-3 if case["by"] == "glmmTMB" else 1e-4
    assert fit.llf == pytest.approx(
        case["loglik"], abs=max(tolerance, 5e-3 if case["by"] == "glmer.nb" else 0.0)
    )
    assert fit.llf >= case["loglik"] - tolerance
    assert fit.estimate.convergence.converged, fit.estimate.convergence.message
    assert fit.estimate.n_parameters == case["npar"]


@pytest.mark.parametrize("name", CASES)
def test_evaluations(name: str) -> None:
    assert fitted(name).estimate.convergence.evaluations <= EVALUATIONS


@pytest.mark.parametrize("name", CASES)
def test_fixed_effects(name: str) -> None:
    table = fixed(name)
    distance = (table["beta"] - table["r_beta"]).abs() / table["r_se"]
    assert distance.max() <= 1e-2, table


@pytest.mark.parametrize("name", CASES)
def test_standard_errors(name: str) -> None:
    """From the Hessian over all parameters. R's come from differences of the objective; glmer.nb's hold the dispersion fixed."""
    table = fixed(name)
    np.testing.assert_allclose(
        table["se"], table["r_se"], rtol=0.02 if CASES[name]["by"] == "glmer.nb" else 3e-3
    )


@pytest.mark.parametrize("name", CASES)
def test_standard_deviations(name: str) -> None:
    fit, case = fitted(name), CASES[name]
    ours = {
        plain(t.group): np.sqrt(np.diag(T @ T.T))
        for t, T in zip(fit.design.terms, fit.estimate.factors, strict=True)
    }
    assert set(ours) == {plain(group) for group in case["sd"]}
    for group, sds in case["sd"].items():
        np.testing.assert_allclose(
            ours[plain(group)], sds, rtol=5e-3 if case["by"] == "glmer.nb" else 1e-3, err_msg=group
        )


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["by"] != "glmer"])
def test_dispersions(name: str) -> None:
    """sigma, or the shape of a negative binomial: to a hundredth of its standard error or a thousandth."""
    fit, wanted = fitted(name), CASES[name]["sigma"]
    se = np.sqrt(covariance(name)[-1, -1])  # of the logarithm
    assert np.log(fit.sigma / wanted) == pytest.approx(0.0, abs=max(1e-3, 2e-2 * se))


def test_standard_errors_of_cbpp() -> None:
    """With theta's share, which glmer's differences get right and its formula given theta does not."""
    m = len(fitted("cbpp").estimate.theta)
    se = np.sqrt(np.diag(covariance("cbpp")))
    np.testing.assert_allclose(se[m:], [0.23247, 0.30664, 0.32664, 0.42744], atol=2e-5)
    given_theta = np.sqrt(np.diag(fitted("cbpp").estimate.beta_cov_unscaled))
    assert given_theta[0] < 0.99 * se[m]


def test_toenail_reaches_the_optimum() -> None:
    fit = fitted("toenail")
    assert fit.llf == pytest.approx(-626.16277, abs=1e-5)
    assert fit.estimate.theta == pytest.approx([4.70841], abs=1e-4)


def test_grouseticks_reaches_the_optimum() -> None:
    """Where glmer at its defaults stops above it."""
    assert -2 * fitted("grouseticks").llf <= 1780.54267


def test_a_proportion_with_trials_is_the_same_fit() -> None:
    one, other = fitted("cbpp"), fitted("cbpp_proportion")
    assert one.llf == pytest.approx(other.llf, abs=1e-8)
    np.testing.assert_allclose(one.estimate.beta, other.estimate.beta, atol=1e-6)
