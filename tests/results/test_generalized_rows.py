"""Residuals, predictions, population averages and simulations of generalized fits, row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm import families
from lmm.model.records import Estimate
from lmm.results.rows import generalized, row_values
from tests.results.generalized_fits import cbpp, counts, reaction, ticks

# R 4.2, at y, eta, prior weights w: with mu = fam$linkinv(eta), pearson (y-mu)*sqrt(w/fam$variance(mu)),
# working (y-mu)/fam$mu.eta(eta), deviance sign(y-mu)*sqrt(fam$dev.resids(y,mu,w)); negative binomial from MASS
RESIDUALS = {
    "probit": (
        families.Binomial("probit"), 1.0, [0, 0.25, 1], [-0.5, 0.2, 1.3], [3, 8, 2],
        [-1.156991928, -1.886426427, 0.4629796642], [-0.8763644565, -0.8420045036, 0.564867129], [-1.487843571, -1.890907024, 0.6381592361],
    ),
    "poisson": (
        families.Poisson(), 1.0, [0, 2, 7], [-0.5, 0.2, 1.3], [1, 1, 1],
        [-0.7788007831, 0.704503918, 1.738779608], [-1, 0.6374615062, 0.9077225512], [-1.10139063, 0.6445108522, 1.543157614],
    ),
    "gamma": (
        families.Gamma("inverse"), 0.3, [0.4, 2, 7], [0.5, 0.2, 1.3], [1, 2, 0.5],
        [-0.8, -0.8485281374, 5.727564928], [0.4, 0.12, -10.53], [-1.272350512, -1.124794616, 2.427287702],
    ),
    "inverse gaussian": (
        families.InverseGaussian("log"), 0.3, [0.4, 2, 7], [0.5, 0.2, 1.3], [1, 2, 0.5],
        [-0.589854162, 0.8157170016, 0.3350786168], [-0.7573877361, 0.6374615062, 0.9077225512], [-1.197535159, 0.6374615062, 0.2425990564],
    ),
    "gaussian": (
        families.Gaussian("log"), 0.3, [0.4, 2, 7], [0.5, 0.2, 1.3], [1, 2, 0.5],
        [-1.248721271, 1.101102779, 2.355162912], [-0.7573877361, 0.6374615062, 0.9077225512], [-1.248721271, 1.101102779, 2.355162912],
    ),
    "negative binomial": (
        families.NegativeBinomial(), 2.5, [0, 2, 7], [-0.5, 0.2, 1.3], [1, 1, 1],
        [-0.6986482278, 0.5774309784, 1.106870251], [-1, 0.6374615062, 0.9077225512], [-1.042151208, 0.5126385626, 0.9166841642],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RESIDUALS)
def test_residuals_are_those_of_r(case):
    family, phi, y, eta, w, pearson, working, deviance = RESIDUALS[case]
    design = replace(cbpp().design, y=np.array(y, dtype=float), weights=np.array(w, dtype=float))
    estimate: Estimate = replace(cbpp().estimate, family=family, phi=phi)
    for kind, want in (("pearson", pearson), ("working", working), ("deviance", deviance)):
        np.testing.assert_allclose(
            row_values.residuals(design, estimate, np.array(eta), kind, False), want, rtol=1e-8
        )
    assert generalized.deviance(design, estimate, np.array(eta)) == pytest.approx(
        np.square(deviance).sum()
    )


def test_residuals_of_a_fit():
    fit = cbpp()
    y = lmm.datasets.load("cbpp").eval("incidence / size")
    np.testing.assert_allclose(fit.residuals("response"), y - fit.fittedvalues)
    pd.testing.assert_series_equal(fit.resid, fit.residuals("deviance"))
    np.testing.assert_allclose(fit.residuals("pearson", scaled=True), fit.residuals("pearson"))
    np.testing.assert_allclose(
        reaction().residuals("pearson", scaled=True),
        reaction().residuals("pearson") / reaction().sigma,
    )
    np.testing.assert_allclose(
        ticks().residuals("pearson", scaled=True), ticks().residuals("pearson")
    )
    with pytest.raises(lmm.ArgumentError, match="pearson"):
        fit.residuals("pearso")


def test_rows_left_out_are_padded():
    data = lmm.datasets.load("cbpp").astype({"incidence": float})
    data.loc[3, "incidence"] = np.nan
    fit = lmm.glmer(str(cbpp().formula), data, family="binomial", na_action="exclude", nAGQ=0)
    assert (
        len(fit.resid) == 56
        and list(fit.resid.index[fit.resid.isna()]) == [3]
        and np.isnan(fit.fittedvalues[3])
    )


def test_predictions_are_those_of_lme4():
    """predict(m, newdata, allow.new.levels=TRUE), also type="response" and re.form=NA, of lme4's cbpp fit."""
    new = pd.DataFrame({"period": ["1", "2", "3", "4"], "herd": ["1", "2", "3", "99"]})
    fit = cbpp()
    link = fit.predict(new, type="link", allow_new_levels=True)
    np.testing.assert_allclose(
        link,
        [-0.808512091624784, -2.68976211863528, -2.12094867753655, -2.97884606077611],
        atol=2e-5,
    )
    response = fit.predict(new, allow_new_levels=True)
    np.testing.assert_allclose(
        response,
        [0.308207650551257, 0.0635801797837691, 0.107077331924921, 0.0483907388709071],
        atol=2e-6,
    )
    population = fit.predict(new[["period"]], re_form=False, type="link")
    np.testing.assert_allclose(
        population,
        [-1.39853210982465, -2.39086490697976, -2.52720424311399, -2.97884606077611],
        atol=2e-5,
    )
    pd.testing.assert_series_equal(fit.predict(), fit.fittedvalues, check_names=False)


def test_standard_errors_of_the_population():
    fit, new = cbpp(), {"period": ["1", "4"]}
    link = fit.predict(new, re_form=False, type="link", interval="confidence")
    V = fit.vcov().to_numpy()
    x = np.array([[1.0, 0, 0, 0], [1, 0, 0, 1]])
    np.testing.assert_allclose(link["se"], np.sqrt(np.einsum("ij,jk,ik->i", x, V, x)))
    response = fit.predict(new, re_form=False, interval="confidence")
    mu = response["fit"]
    np.testing.assert_allclose(response["se"], link["se"] * mu * (1 - mu))
    for end in ("lower", "upper"):
        np.testing.assert_allclose(response[end], 1 / (1 + np.exp(-link[end])))


def test_intervals_of_a_decreasing_link_are_in_order():
    data = lmm.datasets.load("sleepstudy")
    data = data.assign(Rt=data.Reaction / 100)
    fit = lmm.glmer("Rt ~ Days + (1|Subject)", data, family="gamma")
    table = fit.predict({"Days": [0, 5]}, re_form=False, interval="confidence")
    assert (
        (table["lower"] < table["fit"]).all()
        and (table["fit"] < table["upper"]).all()
        and (table["se"] > 0).all()
    )


@pytest.mark.parametrize(
    "make",
    [lambda: counts()[0], cbpp, ticks, reaction],
    ids=["poisson", "binomial", "negative binomial", "gamma"],
)
def test_standard_errors_with_random_effects_are_henderson(make):
    """The mixed-model equations of the working linear model, inverted whole."""
    fit = make()
    design, e = fit.design, fit.estimate
    W = e.family.expected_weights(e.eta, design.weights, e.phi).weight
    A = np.hstack([design.X, design.Z.toarray()])
    H = A.T @ (W[:, None] * A)
    at = design.p
    for term, T in zip(design.terms, e.factors, strict=True):
        q = term.J * term.k
        H[at : at + q, at : at + q] += np.kron(np.eye(term.J), np.linalg.inv(T @ T.T))
        at += q
    want = np.sqrt(np.einsum("ij,jk,ik->i", A, np.linalg.inv(H), A))
    link = fit.predict(type="link", se_fit=True)
    np.testing.assert_allclose(link["se"], want, rtol=1e-6)
    np.testing.assert_allclose(
        fit.predict(se_fit=True)["se"], want * np.abs(e.family.link.d1(e.eta)), rtol=1e-6
    )


def test_a_new_level_brings_its_whole_variance():
    fit, data = counts()
    new = data.head(4).assign(g=99)
    keep = fit.predict(new, re_form="~ (1|h)", type="link", se_fit=True)
    whole = fit.predict(new, type="link", se_fit=True, allow_new_levels=True)
    G = fit.varcorr()["g"].to_numpy()
    z = np.column_stack([np.ones(4), new.x])
    np.testing.assert_allclose(whole["fit"], keep["fit"])
    np.testing.assert_allclose(
        whole["se"] ** 2, keep["se"] ** 2 + np.einsum("ij,jk,ik->i", z, G, z), rtol=1e-8
    )


def test_population_average_of_counts_has_a_closed_form():
    """E exp(eta + s t) = exp(eta + s^2 / 2), with s^2 = z'Gz summed over both factors."""
    fit, _ = counts()
    new = pd.DataFrame(
        {"x": [-1.0, 0.0, 2.0], "time": [1.0, 2.0, 3.0]}
    )  # no grouping columns: levels do not matter
    z = np.column_stack([np.ones(3), new.x])
    s2 = np.einsum("ij,jk,ik->i", z, fit.varcorr()["g"].to_numpy(), z) + float(
        fit.varcorr()["h"].iloc[0, 0]
    )
    eta = z @ fit.params.to_numpy() + np.log(new.time)
    table = fit.predict(new, re_form=False, marginal=True, interval="confidence")
    np.testing.assert_allclose(table["fit"], np.exp(eta + s2 / 2), rtol=1e-9)
    # log of the average: eta + s^2/2, with G = T T'
    joint, T = fit.vcov(full=True).to_numpy(), fit.estimate.factors
    order = [term.group for term in fit.design.terms]
    assert order == ["g", "h"]
    u = z @ T[0]
    jacobian = np.column_stack(
        [u[:, 0] * z[:, 0], u[:, 0] * z[:, 1], u[:, 1] * z[:, 1], np.full(3, T[1][0, 0]), z]
    )
    se = np.sqrt(np.einsum("ij,jk,ik->i", jacobian, joint, jacobian))
    np.testing.assert_allclose(table["se"], se * table["fit"], rtol=1e-7)
    np.testing.assert_allclose(np.log(table["upper"] / table["fit"]), 1.959964 * se, rtol=1e-6)
    rows = fit.predict(re_form=False, marginal=True)
    assert len(rows) == 400 and (rows > fit.predict(re_form=False)).all()


def test_population_average_is_what_simulation_gives():
    fit = cbpp()
    draws = fit.simulate(4000, rng=5)
    want = fit.predict(re_form=False, marginal=True)
    error = draws.std(axis=1) / np.sqrt(4000)
    assert ((draws.mean(axis=1) - want).abs() < 4.5 * error).all()


def test_population_average_without_the_joint_covariance():
    table = cbpp(0).predict({"period": ["1"]}, re_form=False, marginal=True, se_fit=True)
    assert (
        0
        < table.loc[0, "se"]
        < cbpp().predict({"period": ["1"]}, re_form=False, marginal=True, se_fit=True).loc[0, "se"]
        * 1.2
    )


def test_population_average_arguments():
    fit = cbpp()
    with pytest.raises(lmm.ArgumentError, match="re_form=False"):
        fit.predict(marginal=True)
    with pytest.raises(lmm.ArgumentError, match="response"):
        fit.predict(re_form=False, marginal=True, type="link")
    linear = lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"))
    pd.testing.assert_series_equal(
        linear.predict(re_form=False, marginal=True), linear.predict(re_form=False)
    )


def test_missing_predictors_give_missing_averages():
    fit, _ = counts()
    out = fit.predict(
        {"x": [0.0, np.nan], "time": [1.0, 1.0]}, re_form=False, marginal=True, se_fit=True
    )
    assert np.isfinite(out.iloc[0]).all() and out.iloc[1].isna().all()


def test_simulations_follow_the_family():
    fit, data = counts()
    draws = fit.simulate(300, rng=1, use_u=True).to_numpy()
    assert (draws == np.round(draws)).all() and (draws >= 0).all()
    mu = fit.fittedvalues.to_numpy()
    z = (draws.mean(axis=1) - mu) / np.sqrt(mu / 300)
    assert abs(z.mean()) < 4 / np.sqrt(400) and 0.8 < z.std() < 1.2
    anew = fit.simulate(300, rng=1).to_numpy()  # groups drawn anew vary more
    assert anew.var(axis=1).sum() > 1.2 * draws.var(axis=1).sum()
    gamma = reaction().simulate(400, rng=2, use_u=True)
    cv = gamma.std(axis=1) / gamma.mean(axis=1)
    np.testing.assert_allclose(cv.mean(), reaction().sigma, rtol=0.02)
    trials = lmm.datasets.load("cbpp")["size"].to_numpy()
    successes = cbpp().simulate(3, rng=3).to_numpy() * trials[:, None]
    np.testing.assert_allclose(successes, np.round(successes), atol=1e-9)
