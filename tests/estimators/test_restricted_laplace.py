"""REML of generalized models against glmmTMB, against lmer where the response is Gaussian, and its derivatives against differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import integrate

import lmm
from lmm.estimators.laplace.restricted_laplace import RestrictedLaplace, RestrictedObjective

HERD = "cbind(incidence, size - incidence) ~ period + (1|herd)"


@pytest.fixture(scope="module")
def herds() -> lmm.Fit:
    return lmm.glmer(HERD, lmm.datasets.load("cbpp"), family="binomial", REML=True)


def test_as_glmmtmb(herds: lmm.Fit) -> None:
    """glmmTMB(cbind(incidence, size - incidence) ~ period + (1|herd), cbpp, family = binomial, REML = TRUE)."""
    assert herds.llf == pytest.approx(-93.1990671011, abs=1e-6)
    beta = [-1.3670151939, -0.9693482891, -1.1044541242, -1.5518862716]
    se = [0.23763973, 0.30550177, 0.32547873, 0.42648682]
    assert herds.fixef().to_numpy() == pytest.approx(beta, abs=1e-5)
    assert herds.bse.to_numpy() == pytest.approx(se, abs=1e-5)
    assert herds.theta.iloc[0] == pytest.approx(0.6818672786, abs=1e-5)
    assert "fit by REML (Laplace Approximation)" in str(herds.summary())
    assert herds.glance()["reml_criterion"].iloc[0] == pytest.approx(-2.0 * herds.llf)


@pytest.mark.filterwarnings("ignore:Laplace's log-likelihood is off")
def test_as_glmmtmb_with_a_dispersion() -> None:
    """glmmTMB(TICKS ~ YEAR + I(cHEIGHT / 100) ..., grouseticks, family = nbinom2, REML = TRUE): units move the criterion by log 100."""
    ticks = lmm.datasets.load("grouseticks")
    fit = lmm.glmer("TICKS ~ YEAR + cHEIGHT + (1|BROOD)", ticks, family="nbinom2", REML=True)
    assert fit.llf == pytest.approx(-897.714117854 + np.log(100.0), abs=1e-5)
    beta = [0.61268550298, 1.08316714289, -0.95378348340, -2.284661786]
    se = [0.1888543361, 0.2471682802, 0.2738244359, 0.30444867]
    assert fit.fixef().to_numpy() == pytest.approx(beta, abs=1e-4)
    assert fit.bse.to_numpy() == pytest.approx(se, rel=1e-4)
    assert fit.theta.iloc[0] == pytest.approx(0.9235738949, abs=1e-4)
    assert fit.sigma == pytest.approx(3.288656389, rel=1e-4)


def test_of_a_gaussian_response_it_is_reml() -> None:
    sleep = lmm.datasets.load("sleepstudy")
    formula = "Reaction ~ Days + (Days|Subject)"
    fit = lmm.glmer(formula, sleep, family="gaussian", REML=True)
    wanted = lmm.lmer(formula, sleep)
    assert fit.llf == pytest.approx(wanted.llf, abs=1e-8)
    assert fit.bse.to_numpy() == pytest.approx(wanted.bse.to_numpy(), rel=2e-5)
    assert fit.sigma == pytest.approx(wanted.sigma, rel=2e-5)
    assert fit.theta.to_numpy() / fit.sigma == pytest.approx(wanted.theta.to_numpy(), rel=1e-4)


def two_factors() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"a": rng.integers(0, 8, 160), "b": rng.integers(0, 6, 160)})
    data["x"] = rng.normal(size=160)
    eta = (
        0.5
        + 0.4 * data["x"]
        + 0.5 * rng.normal(size=8)[data["a"]]
        + 0.3 * rng.normal(size=6)[data["b"]]
    )
    data["y"] = rng.negative_binomial(3.0, 3.0 / (3.0 + np.exp(eta)))
    return data


@pytest.mark.parametrize("family", ["negative_binomial", "poisson"])
def test_its_gradient_is_that_of_differences(family: str) -> None:
    """Crossed factors, slopes and a dispersion: derivatives in theta and rho, the fixed effects moving along."""
    fit = lmm.glmer("y ~ x + (x|a) + (1|b)", two_factors(), family=family, REML=True)
    objective = RestrictedObjective(fit.problem, lmm.Control())
    theta = np.array([0.5, 0.1, 0.3, 0.4])
    psi = objective.pack(theta, fit.estimate.beta, 0.4)
    found = objective.in_theta(psi)
    for i in range(len(psi)):
        step = np.zeros(len(psi))
        step[i] = 1e-5
        ends = [objective.in_theta(psi + sign * step).objective for sign in (1.0, -1.0)]
        assert found.gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-5)


def test_one_group_of_counts_is_the_integral_over_the_mean() -> None:
    """Without random effects and with many counts Laplace's integral over an intercept is nearly the integral itself."""
    counts = np.random.default_rng(2).poisson(6.0, 80)
    data = pd.DataFrame({"y": counts, "g": np.arange(80) % 8})
    fit = lmm.glmer("y ~ 1 + (1|g)", data, family="poisson", REML=True)
    estimator = RestrictedLaplace()
    found = estimator.without_effects(fit.problem)
    family, top = lmm.families.Poisson(), np.log(counts.mean())

    def log_density(b: float) -> float:
        return float(family.log_density(counts.astype(float), np.full(80, b)).sum())

    peak = log_density(top)
    value, _ = integrate.quad(lambda b: np.exp(log_density(b) - peak), top - 0.5, top + 0.5)
    assert found == pytest.approx(-2.0 * (peak + np.log(value)), abs=2e-3)
    table = fit.ranova()
    assert table["llf"].iloc[1] == pytest.approx(-found / 2.0)


def test_what_follows_a_fit(herds: lmm.Fit) -> None:
    plain = lmm.glmer(HERD, lmm.datasets.load("cbpp"), family="binomial")
    assert herds.update(REML=False).llf == pytest.approx(plain.llf, abs=1e-9)
    assert plain.update(REML=True).llf == pytest.approx(herds.llf, abs=1e-9)
    smaller = herds.update(". ~ . - period")
    assert smaller.estimate.reml
    with pytest.warns(lmm.ComparisonWarning, match="ML instead of REML"):
        table = lmm.anova(smaller, herds)
    assert table["llf"].iloc[1] == pytest.approx(plain.llf, abs=1e-8)
    assert np.isinf(herds.emmeans("period")["df"]).all()
    again = herds.refit(herds.simulate(1, rng=1).iloc[:, 0])
    assert again.estimate.reml and again.llf != herds.llf
    many = herds.refit_many(herds.simulate(1, rng=1))
    assert many["sd_(Intercept)|herd"].iloc[0] == pytest.approx(again.theta.iloc[0], abs=1e-5)


def test_thresholds_are_not_integrated_over() -> None:
    wine = lmm.datasets.load("wine")
    with pytest.raises(lmm.ArgumentError, match="thresholds in place of an intercept"):
        lmm.glmer("rating ~ temp + (1|judge)", wine, family="ordinal", REML=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"nAGQ": 9}, "nAGQ=1"),
        ({"nAGQ": "laplace2"}, "nAGQ=1"),
        ({"REML": 1}, "must be True or False"),
        ({"control": lmm.Control(backend="jax")}, "runs on NumPy"),
        (
            {
                "family": lmm.families.Binomial("probit"),
                "control": lmm.Control(curvature="expected"),
            },
            "observed",
        ),
    ],
)
def test_what_it_does_not_take(arguments: dict[str, object], said: str) -> None:
    given = {"family": "binomial", "REML": True, **arguments}
    with pytest.raises(lmm.ArgumentError, match=said):
        lmm.glmer(HERD, lmm.datasets.load("cbpp"), **given)  # type: ignore[arg-type]
