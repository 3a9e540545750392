"""Effects at given variances: Henderson's equations as dense matrices, other fits' optima, and what cannot be given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators.given_variances import GivenVariances
from lmm.model.problem import build_problem
from tests.algebra import Algebra, thetas
from tests.designs import zoo

DESIGNS = zoo()
FORMULA = "Reaction ~ Days + (Days|Subject)"
LMER = {"Subject": [[612.1, 9.6], [9.6, 35.07]]}
HERDS = "cbind(incidence, size - incidence) ~ period + (1|herd)"


@pytest.fixture(scope="module")
def sleep() -> pd.DataFrame:
    return lmm.datasets.load("sleepstudy")


def test_published_figures(sleep: pd.DataFrame) -> None:
    """At the standard deviations 24.7404, 5.9221, correlation 0.066 and residual 25.5918 that lmer prints."""
    a, b, r = 24.7404, 5.9221, 0.066
    fit = lmm.solve(
        FORMULA, sleep, varcomp={"Subject": [[a * a, r * a * b], [r * a * b, b * b]]}, sigma=25.5918
    )
    assert fit.fixef().to_numpy() == pytest.approx([251.40510486, 10.46728596], abs=5e-8)
    assert fit.ranef()["Subject"].iloc[0].to_numpy() == pytest.approx([2.2629, 9.1983], abs=5e-5)
    # variances rounded to one and two decimals move the predictions a little; figures by dense matrices in R
    rounded = lmm.solve(FORMULA, sleep, varcomp=LMER, sigma=25.59)
    assert rounded.fixef().to_numpy() == pytest.approx([251.405104848, 10.467285960], abs=1e-8)
    assert rounded.ranef()["Subject"].iloc[0].to_numpy() == pytest.approx(
        [2.257769215, 9.199143680], abs=1e-8
    )


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("kind", ["interior", "singular", "zero"])
def test_hendersons_equations(name: str, kind: str) -> None:
    """beta, b, their covariance and the log-likelihood by n x n matrices, where a variance is zero too."""
    d, theta, sigma = DESIGNS[name], thetas(DESIGNS[name])[kind], 1.7
    a = Algebra(d, theta)
    varcomp = {t.group: sigma**2 * T @ T.T for t, T in zip(d.terms, a.T, strict=True)}
    estimate = GivenVariances(varcomp, sigma).fit(build_problem(d))
    beta = a.cov @ d.X.T @ a.Vinv @ a.y
    assert estimate.beta == pytest.approx(beta, rel=1e-8, abs=1e-9)
    np.testing.assert_allclose(estimate.beta_cov_unscaled, a.cov, rtol=1e-8, atol=1e-10)
    b = a.L @ a.L.T @ a.Zall.T @ a.P @ a.y
    for t, own, modes, T in zip(d.terms, a.slices, estimate.modes, estimate.factors, strict=True):
        np.testing.assert_allclose(modes, b[own].reshape(t.k, -1).T, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(sigma**2 * T @ T.T, varcomp[t.group], rtol=1e-9, atol=1e-12)
    r = a.y - d.X @ beta
    llf = -0.5 * (np.linalg.slogdet(2 * np.pi * sigma**2 * a.V)[1] + r @ a.Vinv @ r / sigma**2)
    assert -0.5 * estimate.objective == pytest.approx(llf, rel=1e-10)
    assert (estimate.sigma, estimate.n_parameters, estimate.convergence.converged) == (
        sigma,
        d.p,
        True,
    )


def test_at_the_estimates_it_is_the_fit(sleep: pd.DataFrame) -> None:
    """A fit's own variances, and evaluate_only, give the same effects."""
    ml = lmm.lmer(FORMULA, sleep, REML=False)
    fit = lmm.solve(FORMULA, sleep, varcomp=ml.varcorr(), sigma=ml.sigma)
    only = lmm.lmer(
        FORMULA, sleep, REML=False, start=ml.theta, control=lmm.Control(evaluate_only=True)
    )
    for other in (ml, only):
        assert fit.fixef().to_numpy() == pytest.approx(other.fixef().to_numpy(), rel=1e-10)
        assert fit.llf == pytest.approx(other.llf, abs=1e-9)
        assert fit.vcov().to_numpy() == pytest.approx(other.vcov().to_numpy(), rel=1e-8)
        assert fit.ranef()["Subject"].to_numpy() == pytest.approx(
            other.ranef()["Subject"].to_numpy(), rel=1e-6, abs=1e-8
        )
        assert fit.ranef_cov()["Subject"] == pytest.approx(other.ranef_cov()["Subject"], rel=1e-6)
    assert fit.df_model == 2
    assert fit.estimate.method == "given"
    assert "given" in str(fit.summary())


def test_ways_to_say_a_covariance(sleep: pd.DataFrame) -> None:
    frame = pd.DataFrame(
        [[35.07, 9.6], [9.6, 612.1]], index=["Days", "Intercept"], columns=["Days", "Intercept"]
    )
    a, b = (lmm.solve(FORMULA, sleep, varcomp=v, sigma=25.59) for v in (LMER, {"Subject": frame}))
    assert a.llf == b.llf
    one = [
        lmm.solve("Reaction ~ Days + (1|Subject)", sleep, varcomp={"Subject": v}, sigma=31)
        for v in (1378.0, [1378.0], [[1378.0]])
    ]
    assert len({fit.llf for fit in one}) == 1
    two = [
        lmm.solve("Reaction ~ Days + (Days||Subject)", sleep, varcomp={"Subject": v}, sigma=25)
        for v in ([600, 35], np.diag([600, 35]))
    ]
    assert two[0].llf == two[1].llf
    assert two[0].llf == pytest.approx(
        lmm.solve(FORMULA, sleep, varcomp={"Subject": [600, 35]}, sigma=25).llf, rel=1e-12
    )


def test_a_variance_of_zero_leaves_the_effect_out(sleep: pd.DataFrame) -> None:
    with_zero = lmm.solve(FORMULA, sleep, varcomp={"Subject": [612.1, 0.0]}, sigma=25.59)
    without = lmm.solve(
        "Reaction ~ Days + (1|Subject)", sleep, varcomp={"Subject": 612.1}, sigma=25.59
    )
    assert with_zero.llf == pytest.approx(without.llf, rel=1e-12)
    assert not with_zero.ranef()["Subject"]["Days"].any()
    least = lmm.solve(FORMULA, sleep, varcomp={"Subject": np.zeros((2, 2))}, sigma=25.59)
    slope, intercept = np.polyfit(sleep["Days"], sleep["Reaction"], 1)
    assert least.fixef().to_numpy() == pytest.approx([intercept, slope], rel=1e-9)


def test_what_follows_a_fit(sleep: pd.DataFrame) -> None:
    fit = lmm.solve(FORMULA, sleep, varcomp=LMER, sigma=25.59)
    assert fit.predict(sleep.head(3)).to_numpy() == pytest.approx(
        fit.fittedvalues.head(3).to_numpy()
    )
    again = fit.update(data=sleep[sleep["Days"] > 1])
    assert again.sigma == 25.59
    assert again.nobs == 144
    assert fit.objective(fit.theta) == pytest.approx(fit.estimate.objective, rel=1e-12)
    moved = fit.refit(sleep["Reaction"] + 10.0)
    assert moved.fixef().iloc[0] == pytest.approx(fit.fixef().iloc[0] + 10.0, rel=1e-10)
    assert moved.sigma == 25.59


def test_joint_mode_of_a_generalized_model() -> None:
    """The score of the joint log density in beta and in b is zero; lme4's nAGQ = 0 at the same variance."""
    data = lmm.datasets.load("cbpp")
    fit = lmm.solve(HERDS, data, varcomp={"herd": 0.4}, family="binomial")
    X, y, w = fit.design.X, fit.design.y, fit.design.weights
    residual = w * (y - fit.fittedvalues.to_numpy())
    assert X.T @ residual == pytest.approx(np.zeros(4), abs=1e-6)
    b = fit.ranef()["herd"]["Intercept"].to_numpy()
    by_herd = np.bincount(fit.design.terms[0].codes, residual)
    assert by_herd == pytest.approx(b / 0.4, abs=1e-6)
    quick = lmm.glmer(HERDS, data, family="binomial", nAGQ=0)
    same = lmm.solve(HERDS, data, varcomp=quick.varcorr(), family="binomial")
    assert same.llf == pytest.approx(quick.llf, abs=1e-7)
    assert same.fixef().to_numpy() == pytest.approx(quick.fixef().to_numpy(), abs=1e-5)
    gamma = lmm.solve(
        "Reaction ~ Days + (1|Subject)",
        lmm.datasets.load("sleepstudy"),
        varcomp={"Subject": 0.01},
        family="gamma",
        dispersion=0.01,
    )
    assert gamma.dispersion == 0.01
    assert gamma.convergence.converged


@pytest.mark.parametrize(
    ("varcomp", "message"),
    [
        ({"Subjet": LMER["Subject"]}, "Did you mean 'Subject'"),
        ({}, "no covariance for 'Subject'"),
        ([[612.1, 9.6], [9.6, 35.07]], "must map grouping factors"),
        ({"Subject": 612.1}, r"\(2, 2\) covariance"),
        ({"Subject": [1.0, 2.0, 3.0]}, r"\(2, 2\) covariance"),
        ({"Subject": [[1.0, 0.5], [0.4, 1.0]]}, "'Subject'.* not symmetric"),
        ({"Subject": [[1.0, 1.5], [1.5, 1.0]]}, "'Subject'.* not positive semidefinite"),
        ({"Subject": [-1.0, 1.0]}, "'Subject'.* negative"),
        ({"Subject": [np.nan, 1.0]}, "'Subject'.* not finite"),
        ({"Subject": ["a", "b"]}, "'Subject'.* must hold numbers"),
        (
            {"Subject": pd.DataFrame(np.eye(2), index=["a", "b"], columns=["a", "b"])},
            "Intercept, Days",
        ),
    ],
)
def test_what_is_no_covariance(sleep: pd.DataFrame, varcomp, message: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=message):
        lmm.solve(FORMULA, sleep, varcomp=varcomp, sigma=25.59)


def test_a_covariance_that_the_formula_excludes(sleep: pd.DataFrame) -> None:
    with pytest.raises(lmm.ArgumentError, match="'Subject'.* covariance of Intercept and Days"):
        lmm.solve("Reaction ~ Days + (Days||Subject)", sleep, varcomp=LMER, sigma=25.59)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "sigma is missing"),
        ({"sigma": -1.0}, "sigma=-1.0"),
        ({"sigma": 0}, "sigma=0"),
        ({"sigma": 1.0, "dispersion": 2.0}, "dispersion"),
        ({"sigma": 1.0, "control": "tight"}, "control"),
    ],
)
def test_scale_of_a_linear_model(sleep: pd.DataFrame, settings: dict, message: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=message):
        lmm.solve(FORMULA, sleep, varcomp=LMER, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "binomial", "sigma": 1.0}, "sigma is the residual"),
        ({"family": "binomial", "dispersion": 1.0}, "the binomial family has none"),
        ({"family": "gamma"}, "dispersion is missing"),
        ({"family": "gamma", "dispersion": -1.0}, "dispersion=-1.0"),
    ],
)
def test_dispersion_of_a_family(settings: dict, message: str) -> None:
    data = lmm.datasets.load("cbpp").assign(rate=lambda d: (d["incidence"] + 1) / d["size"])
    formula = "rate ~ period + (1|herd)" if settings["family"] == "gamma" else HERDS
    with pytest.raises(lmm.ArgumentError, match=message):
        lmm.solve(formula, data, varcomp={"herd": 0.4}, **settings)
