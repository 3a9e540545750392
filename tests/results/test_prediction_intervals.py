"""Intervals for new observations of generalized fits, t intervals of the population, and weights of new rows."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import gammaln

import lmm
from tests.results.fits import fit, frame
from tests.results.posterior_fits import KnownPosterior


def counts(
    groups: int, per: int, rng: np.random.Generator, at: float = 0.7, sd: float = 0.5
) -> pd.DataFrame:
    """Poisson counts in groups, of a median exp(at)."""
    g = np.repeat(np.arange(groups), per)
    x = rng.normal(size=groups * per)
    eta = at + 0.4 * x + sd * rng.normal(size=groups)[g]
    return pd.DataFrame({"g": g, "x": x, "eta": eta, "y": rng.poisson(np.exp(eta))})


def herds() -> lmm.Fit:
    return lmm.glmer(
        "cbind(incidence, size - incidence) ~ period + (1|herd)", frame("cbpp"), family="binomial"
    )


def test_limits_are_quantiles_of_the_mixture():
    # P(Y <= y) = int P(Y <= y | exp(eta)) phi(eta), by sums of the density and 2,000 nodes
    data = counts(20, 8, np.random.default_rng(1))
    one = lmm.glmer("y ~ x + (1|g)", data, family="poisson")
    new = pd.DataFrame({"x": [0.0, 1.5], "g": [3, 99]})
    band = one.predict(new, allow_new_levels=True, interval="prediction", level=0.9)
    link = one.predict(new, allow_new_levels=True, type="link", se_fit=True)
    z = np.linspace(-8, 8, 2001)
    w = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
    y = np.arange(400)
    for i in range(2):
        eta = link["fit"][i] + link["se"][i] * z
        cdf = np.cumsum(w @ np.exp(y * eta[:, None] - np.exp(eta)[:, None] - gammaln(y + 1.0)))
        assert band["lower"][i] == np.searchsorted(cdf, 0.05) and band["upper"][
            i
        ] == np.searchsorted(cdf, 0.95)


def test_coverage_of_new_counts():
    # 12 data sets, 150 new counts of known and 300 of new groups each; counts of about 30 are nearly continuous
    rng = np.random.default_rng(5)
    inside: dict[str, list[float]] = {"known": [], "new": []}
    for _ in range(12):
        data = counts(25, 6, rng, 3.5)
        one = lmm.glmer("y ~ x + (1|g)", data, family="poisson")
        again = data.assign(y=rng.poisson(np.exp(data.eta)))
        other = counts(60, 5, rng, 3.5).assign(g=lambda d: d.g + 1000)
        for name, table in (("known", again), ("new", other)):
            band = one.predict(table, allow_new_levels=True, interval="prediction", level=0.9)
            inside[name].append(((table.y >= band["lower"]) & (table.y <= band["upper"])).mean())
    # Monte Carlo errors 0.007 and 0.015; the variance parameter's own uncertainty is not covered
    assert 0.89 < np.mean(inside["known"]) < 0.93
    assert 0.86 < np.mean(inside["new"]) < 0.94


def test_population_interval_has_the_effects_that_are_left_out():
    one = herds()
    new = pd.DataFrame({"period": list("1234"), "herd": ["99"] * 4})
    left_out = one.predict(new, re_form=False, interval="prediction", weights=30)
    # a new level's predictor has the same mean, and its variance is that of the population and of the effect
    fresh = one.predict(new, allow_new_levels=True, interval="prediction", weights=30)
    assert ((left_out[["lower", "upper"]] - fresh[["lower", "upper"]]).abs() < 1.5 / 30).all(
        axis=None
    )
    averaged = one.predict(new, re_form=False, interval="prediction", weights=30, marginal=True)
    assert (averaged["fit"] > left_out["fit"]).all()
    np.testing.assert_array_equal(averaged[["lower", "upper"]], left_out[["lower", "upper"]])


def test_proportions_are_of_whole_successes():
    one = herds()
    new = pd.DataFrame({"period": ["1", "2"], "herd": ["1", "2"]})
    band = one.predict(new, interval="prediction", weights=[7, 11])
    for end in ("lower", "upper"):
        np.testing.assert_allclose(band[end] * [7, 11], np.round(band[end] * [7, 11]), atol=1e-9)
    assert set(one.predict(new, interval="prediction")["upper"]) <= {0.0, 1.0}
    assert (
        (one.predict(interval="prediction")["upper"] * frame("cbpp")["size"] % 1)
        .round(6)
        .isin([0.0, 1.0])
        .all()
    )
    pd.testing.assert_frame_equal(
        band, one.predict(new.assign(n=[7, 11]), interval="prediction", weights="n")
    )


@pytest.mark.parametrize("family", ["gamma", "gaussian", "inverse_gaussian", "negative_binomial"])
def test_share_of_simulations_inside(family):
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(30), 6)
    mu = np.exp(4.0 + 0.4 * rng.normal(size=30)[g])
    y = (
        rng.negative_binomial(3.0, 3.0 / (3.0 + mu))
        if family == "negative_binomial"
        else rng.gamma(4.0, mu / 4.0)
    )
    chosen = {
        "gamma": lmm.families.Gamma("log"),
        "gaussian": lmm.families.Gaussian("log"),
        "inverse_gaussian": lmm.families.InverseGaussian("log"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = lmm.glmer("y ~ 1 + (1|g)", {"y": y, "g": g}, family=chosen.get(family, family))
    band = one.predict(interval="prediction", level=0.8, re_form=False)
    draws = one.simulate(400, rng=3)
    share = (draws.ge(band["lower"], axis=0) & draws.le(band["upper"], axis=0)).to_numpy().mean()
    # the intervals cover the estimates' uncertainty too, which the simulations do not have
    assert 0.79 < share < 0.83


def test_family_without_a_distribution_function_is_simulated():
    pytest.importorskip("jax")
    import jax.numpy as jnp
    from jax.scipy.special import gammaln as jgammaln

    own = lmm.families.CustomFamily(
        lambda y, mu: y * jnp.log(mu) - mu - jgammaln(y + 1),
        name="counts",
        variance=lambda mu: mu,
        sampler=lambda rng, mu: rng.poisson(mu),
    )
    data = counts(20, 8, np.random.default_rng(1))
    one = lmm.glmer("y ~ x + (1|g)", data, family=own)
    exact = lmm.glmer("y ~ x + (1|g)", data, family="poisson").predict(
        data.head(8), interval="prediction"
    )
    mine = one.predict(data.head(8), interval="prediction")
    assert (mine - exact).abs().max(axis=None) <= 1.0
    pd.testing.assert_frame_equal(mine, one.predict(data.head(8), interval="prediction"))


def test_posterior_predictive_counts():
    # draws from the very normal that the likelihood fit's standard errors come from
    data = counts(20, 8, np.random.default_rng(3), 3.0)
    likelihood = lmm.glmer("y ~ x + (1|g)", data, family="poisson")
    posterior = likelihood.update(method=KnownPosterior(likelihood))
    new = data.head(8).assign(g=lambda d: d.g.where(d.index < 6, 99))
    for arguments in ({"allow_new_levels": True}, {"re_form": False}):
        mine, want = (
            one.predict(new, interval="prediction", **arguments)[["lower", "upper"]]
            for one in (posterior, likelihood)
        )
        assert (mine - want).abs().max(axis=None) <= 2 and (mine != want).mean(axis=None) < 0.8


def test_missing_rows_and_what_there_is_none_of():
    one = herds()
    band = one.predict({"period": ["1", None], "herd": ["1", "2"]}, interval="prediction")
    assert band.iloc[1].isna().all() and band.iloc[0].notna().all()
    new = {"period": ["1"], "herd": ["1"]}
    for text, arguments in {
        "type='response'": {"type": "link", "interval": "prediction"},
        "positive": {"weights": -1, "interval": "prediction"},
        "their own": {"newdata": None, "weights": 3, "interval": "prediction"},
        "a number": {"weights": [1, 2, 3], "interval": "prediction"},
        "normal tests": {"ddf": "satterthwaite", "re_form": False, "se_fit": True},
    }.items():
        with pytest.raises(lmm.ArgumentError, match=text):
            one.predict(**{"newdata": new, **arguments})
    with pytest.raises(lmm.ArgumentError, match="quasi"):
        herds().update(method=lmm.PenalizedQuasiLikelihood(dispersion="estimated")).predict(
            new, interval="prediction"
        )


def test_weights_of_new_rows_of_a_linear_fit():
    one = fit("sleep")
    new = frame("sleepstudy").head(4)
    z = 1.959963984540054
    band = one.predict(new, interval="prediction", weights=[1.0, 2.0, 4.0, 0.5])
    np.testing.assert_allclose(
        ((band["upper"] - band["fit"]) / z) ** 2,
        band["se"] ** 2 + one.sigma**2 / np.array([1.0, 2.0, 4.0, 0.5]),
        rtol=1e-9,
    )


def test_t_intervals_of_the_population():
    one = fit("sleep")
    new = pd.DataFrame({"Days": [0.0, np.nan, 9.0]})
    band = one.predict(new, re_form=False, interval="confidence", ddf="kenward_roger")
    assert list(band.columns) == ["fit", "se", "df", "lower", "upper"]
    means = one.emmeans("Days", at={"Days": [0, 9]})
    for mine, theirs in (
        ("fit", "emmean"),
        ("se", "std_error"),
        ("df", "df"),
        ("lower", "lower"),
        ("upper", "upper"),
    ):
        np.testing.assert_allclose(band[mine].iloc[[0, 2]], means[theirs], rtol=1e-9)
    assert band.iloc[1].isna().all()
    for arguments in ({}, {"re_form": False, "interval": "prediction"}, {"re_form": False}):
        with pytest.raises(lmm.ArgumentError, match="ddf="):
            one.predict(new.dropna().assign(Subject="308"), ddf="satterthwaite", **arguments)
