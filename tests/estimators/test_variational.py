"""Variational Bayes: published optima, agreement of the optimisers, and what a user may get wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("optax")

import lmm  # noqa: E402
from lmm.errors import ArgumentError  # noqa: E402
from lmm.linalg.devices import backend  # noqa: E402
from lmm.priors import HalfNormal, Normal  # noqa: E402

RADON = "log_radon ~ floor + (1|county)"
PRIORS = {"county": HalfNormal(1.0), "Intercept": Normal(0.0, 1.0), "floor": Normal(0.0, 1.0)}


@pytest.fixture(scope="module")
def radon() -> pd.DataFrame:
    return lmm.datasets.load("radon")


@pytest.fixture(scope="module")
def fixed(radon):
    return lmm.lmer(
        RADON, radon, method=lmm.VariationalBayes("mean_field", sigma=1.0, priors=PRIORS)
    )


def test_radon_with_a_fixed_residual(fixed):
    """The optimum by an independent quadrature."""
    np.testing.assert_allclose(fixed.fixef(), [1.4329, -0.6667], atol=1e-4)
    assert abs(fixed.varcorr()["county"].iloc[0, 0] ** 0.5 - 0.2690) < 1e-4
    assert abs(fixed.elbo - -1148.500) < 1e-3
    assert fixed.sigma == 1.0 and np.isnan(fixed.llf) and fixed.convergence.converged


def test_radon_with_the_residual_that_maximises_the_bound(radon):
    fit = lmm.lmer(RADON, radon, method=lmm.VariationalBayes("mean_field", priors=PRIORS))
    np.testing.assert_allclose(fit.fixef(), [1.4571, -0.6881], atol=1e-4)
    assert abs(fit.varcorr()["county"].iloc[0, 0] ** 0.5 - 0.3322) < 1e-4
    assert abs(fit.sigma - 0.7559) < 1e-4 and abs(fit.elbo - -1092.661) < 1e-3


def test_adam_ends_where_the_quasi_newton_method_does(radon, fixed):
    fit = lmm.lmer(
        RADON,
        radon,
        method=lmm.VariationalBayes("mean_field", sigma=1.0, priors=PRIORS, optimizer="adam"),
    )
    assert fit.convergence.converged and abs(fit.elbo - fixed.elbo) < 2e-3
    np.testing.assert_allclose(fit.fixef(), fixed.fixef(), atol=1e-3)
    assert (
        len(fit.trace) == fit.convergence.iterations
        and fit.trace["elbo"].iloc[-1] > fit.trace["elbo"].iloc[0]
    )


def test_a_second_fit_compiles_nothing(radon, fixed):
    before = backend.traces["vi"]
    again = lmm.lmer(
        RADON, radon.assign(log_radon=radon["log_radon"] * 1.1), method=fixed.estimator
    )
    assert backend.traces["vi"] == before and again.elbo != fixed.elbo


def test_the_partial_family_has_the_standard_errors_of_the_likelihood(radon):
    """Mean-field loses the dependence of intercept and effects; the flat default priors leave REML's errors."""
    reml = lmm.lmer(RADON, radon)
    fit = lmm.lmer(RADON, radon, method="vi")
    np.testing.assert_allclose(fit.bse, reml.bse, rtol=0.06)
    np.testing.assert_allclose(fit.fixef(), reml.fixef(), atol=0.02)
    narrow = lmm.lmer(RADON, radon, method=lmm.VariationalBayes("mean_field"))
    assert narrow.bse["Intercept"] < 0.6 * reml.bse["Intercept"]
    assert narrow.elbo < fit.elbo


def test_small_crossed_factors_keep_their_variance():
    """Without its effects among the parameters a factor that others are nested in ends at zero."""
    data = lmm.datasets.load("grouseticks")
    model = "TICKS ~ YEAR + cHEIGHT + (1|BROOD) + (1|LOCATION)"
    fit = lmm.glmer(model, data, family="poisson", method="vi")
    laplace = lmm.glmer(model, data, family="poisson")
    sd, known = (
        np.array([f.varcorr()[g].iloc[0, 0] ** 0.5 for g in ("BROOD", "LOCATION")])
        for f in (fit, laplace)
    )
    np.testing.assert_allclose(sd, known, rtol=0.15)
    np.testing.assert_allclose(fit.bse, laplace.bse, rtol=0.1)


def test_draws_are_those_of_the_approximation(fixed):
    draws = fixed.draws
    np.testing.assert_allclose(
        draws["floor"].mean(), fixed.fixef()["floor"], atol=4 * fixed.bse["floor"] / np.sqrt(1000)
    )
    np.testing.assert_allclose(draws["floor"].std(), fixed.bse["floor"], rtol=0.1)
    b = draws["county"][0, :, :, 0]
    assert b.shape == (1000, 85)
    np.testing.assert_allclose(b.mean(axis=0), fixed.ranef()["county"].iloc[:, 0], atol=0.05)
    np.testing.assert_allclose(
        b.std(axis=0), np.sqrt(fixed.ranef_cov()["county"][:, 0, 0]), rtol=0.15
    )


def test_a_seed_gives_the_same_draws(radon):
    one, two = (
        lmm.lmer(RADON, radon, method=lmm.VariationalBayes(sigma=1.0, rng=7)).draws["floor"]
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)


def test_the_order_of_rows_and_names_of_levels_do_not_matter(radon, fixed):
    mixed = radon.sample(frac=1.0, random_state=1).assign(
        county=lambda d: "z" + d["county"].astype(str).str[::-1]
    )
    fit = lmm.lmer(RADON, mixed, method=fixed.estimator)
    assert abs(fit.elbo - fixed.elbo) < 1e-4
    np.testing.assert_allclose(fit.fixef(), fixed.fixef(), atol=1e-3)


def test_correlated_slopes_and_a_posterior_of_the_residual():
    data = lmm.datasets.load("sleepstudy")
    fit = lmm.lmer(
        "Reaction ~ Days + (Days|Subject)", data, method=lmm.VariationalBayes(sigma="posterior")
    )
    np.testing.assert_allclose(fit.fixef(), [251.405, 10.467], atol=0.05)
    assert 22 < fit.varcorr().to_frame()["sdcor"].iloc[0] < 32
    assert fit.draws["sigma"].std() > 1.0
    assert (
        fit.elbo
        > lmm.lmer(
            "Reaction ~ Days + (Days|Subject)",
            data,
            method=lmm.VariationalBayes("full_rank", sigma="posterior"),
        ).elbo
    )


def test_minibatches_reach_the_neighbourhood_of_the_optimum():
    rng = np.random.default_rng(0)
    n, g = 4000, np.repeat(np.arange(100), 40)
    x = rng.normal(size=n)
    data = pd.DataFrame(
        {
            "y": rng.binomial(1, 1 / (1 + np.exp(-0.3 - 0.8 * x - rng.normal(size=100)[g]))),
            "x": x,
            "g": g.astype(str),
        }
    )
    full = lmm.glmer("y ~ x + (1|g)", data, family="binomial", method="vi")
    part = lmm.glmer(
        "y ~ x + (1|g)",
        data,
        family="binomial",
        method=lmm.VariationalBayes(batch_size=400, tolerance=1e-4),
    )
    assert part.convergence.converged
    np.testing.assert_allclose(part.fixef(), full.fixef(), atol=0.5 * full.bse.max())
    assert abs(part.elbo - full.elbo) < 2.0


def test_batch_size_of_a_linear_model_is_told_to_be_needless(radon, fixed):
    fit = lmm.lmer(
        RADON,
        radon,
        method=lmm.VariationalBayes("mean_field", sigma=1.0, priors=PRIORS, batch_size=100),
    )
    assert abs(fit.elbo - fixed.elbo) < 1e-6
    assert "batch_size was not used" in str(fit.summary())


def test_too_few_steps_are_said_to_be_too_few(radon):
    with pytest.warns(lmm.ConvergenceWarning, match="raise steps="):
        fit = lmm.lmer(RADON, radon, method=lmm.VariationalBayes(steps=20, tolerance=1e-12))
    assert not fit.convergence.converged


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"approximation": "meanfield"}, "approximation='meanfield' is not one of 'mean_field'"),
        ({"transform": "exp"}, "transform='exp' is not one of"),
        ({"sigma": "free"}, "sigma='free' must be"),
        ({"sigma": -1.0}, "sigma=-1.0 must be a positive number"),
        ({"steps": 0}, "steps=0 must be a positive whole number"),
        ({"optimizer": "sgd"}, "optimizer='sgd' must be"),
        ({"optimizer": "lbfgs", "batch_size": 10}, "L-BFGS needs all rows"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ArgumentError, match=words):
        lmm.VariationalBayes(**settings)


def test_a_link_with_an_edge_is_refused():
    data = lmm.datasets.load("cbpp")
    with pytest.raises(
        ArgumentError, match="link 'identity' takes linear predictors between 0 and inf only"
    ):
        lmm.glmer(
            "incidence ~ period + (1|herd)",
            data,
            family=lmm.families.Poisson("identity"),
            method="vi",
        )


def test_a_prior_for_no_parameter_is_refused(radon):
    with pytest.raises(ArgumentError, match="'flor' is no parameter of this model"):
        lmm.lmer(RADON, radon, method=lmm.VariationalBayes(priors={"flor": Normal()}))
