"""Links with a bounded range: searches begin among the possible means and stay there."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import lmm
from lmm import families as F

G = np.repeat(np.arange(20), 8)


def fit(y: np.ndarray, x: np.ndarray, family: object, **more: object) -> lmm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        return lmm.glmer(
            "y ~ x + (1|g)", pd.DataFrame({"y": y, "x": x, "g": G}), family=family, **more
        )


def draws(name: str, rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    if name == "log binomial":
        return (rng.random(len(eta)) < 0.9 * np.exp(-np.abs(eta) / 3)).astype(int)
    if name == "poisson identity":
        return rng.poisson(np.maximum(eta + 1, 0.05))
    if name == "negative binomial sqrt":
        return rng.negative_binomial(2, 2 / (2 + np.maximum(eta + 1, 0.05) ** 2))
    return rng.gamma(5, np.maximum(eta + 1, 0.1) ** (-1 if name == "gamma inverse" else 1) / 5)


FAMILIES = {
    "log binomial": F.Binomial(link="log"),
    "poisson identity": F.Poisson(link="identity"),
    "negative binomial sqrt": F.NegativeBinomial(link="sqrt"),
    "gamma inverse": F.Gamma(),
    "gamma identity": F.Gamma(link="identity"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_start_is_found(name: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.random(len(G))
        y = draws(name, rng, 0.5 * x + 0.4 * rng.normal(size=20)[G])
        found = fit(y, x, FAMILIES[name])
        density = (
            FAMILIES[name]
            .log_density(y.astype(float), found.estimate.eta, None, found.estimate.phi)
            .sum()
        )
        assert (
            np.isfinite(found.llf) and found.llf < density + 1e-6
        )  # an integral over random effects is below the density at their modes
        assert (
            found.convergence.converged
            or "link" in found.convergence.message
            or "no step" in found.convergence.message
        )


def test_gamma_responses_begin_at_lme4s_optimum() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=160)
    y = rng.gamma(2, np.exp(0.5 * x + rng.normal(0, 0.5, 20)[G]) / 2)
    assert fit(y, x, "gamma").llf == pytest.approx(-161.4154, abs=1e-3)


@pytest.mark.parametrize("link", ["logit", "probit", "cauchit"])
def test_a_constant_proportion_of_one_half(link: str) -> None:
    data = pd.DataFrame({"s": 5, "f": 5, "g": np.repeat(np.arange(6), 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        found = lmm.glmer("cbind(s, f) ~ 1 + (1|g)", data, family=F.Binomial(link=link))
    assert (
        found.llf == pytest.approx(24 * binom.logpmf(5, 10, 0.5), abs=1e-8)
        and found.theta.iloc[0] == 0.0
    )


@pytest.mark.parametrize(
    "family",
    [F.Gamma(link="log"), F.Gaussian(link="log"), F.InverseGaussian(link="log"), F.Gamma()],
    ids=str,
)
def test_a_response_that_the_model_explains_exactly_is_refused(family: F.Family) -> None:
    x = np.random.default_rng(1).random(len(G))
    with pytest.raises(lmm.ResponseError, match="explains the response exactly"):
        fit(family.mean(1 + x), x, family)


@pytest.mark.parametrize("family, size", [("negative_binomial1", 1e6), ("poisson", 1e12)])
def test_large_counts_converge_within_rounding(family: str, size: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.random(len(G))
    mu = size * np.exp(0.5 * x + 0.3 * rng.normal(size=20)[G])
    y = rng.poisson(mu) if family == "poisson" else rng.negative_binomial(mu / 20.0, 1.0 / 21.0)
    found = fit(y, x, family)
    assert found.convergence.converged and found.fixef()["x"] == pytest.approx(
        0.5, abs=4 * found.bse["x"] + 1e-5
    )
    assert not any("Laplace" in message for message in found.messages)


@pytest.mark.parametrize("points", [2, 3, 5])
def test_quadrature_of_correlated_slopes_converges(points: int) -> None:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(40), 12), rng.normal(size=480)
    b = rng.normal(size=(40, 2))
    eta = 0.2 + 0.5 * x + b[g, 0] + 0.5 * (0.5 * b[g, 0] + b[g, 1]) * x
    data = pd.DataFrame({"y": rng.binomial(1, 1 / (1 + np.exp(-eta))), "x": x, "g": g})
    found = lmm.glmer("y ~ x + (x|g)", data, family="binomial", nAGQ=points)
    assert found.convergence.converged and found.convergence.evaluations < 30
    best, at = -2.0 * found.llf, np.concatenate([found.theta, found.fixef()])
    for i in range(len(at)):
        for step in (-1e-3, 1e-3):
            assert found.objective(at + step * np.eye(len(at))[i]) > best


def test_what_is_wrong_with_a_custom_density_is_said() -> None:
    jnp = pytest.importorskip("jax.numpy")
    rng = np.random.default_rng(1)
    x = rng.random(len(G))
    y = rng.poisson(np.exp(x))
    for density, message in (
        (lambda y, mu: y * np.log(mu) - mu, "jax.numpy"),
        (lambda y, mu, phi: y * jnp.log(mu) - phi * mu, "dispersion=True"),
    ):
        with pytest.raises(lmm.ArgumentError, match=message):
            fit(y, x, F.CustomFamily(density))
    with pytest.raises(
        lmm.ResponseError, match="no finite log density .* in 1 of 160 rows, the first value is 1"
    ):
        shares = np.append(rng.beta(2, 3, size=159), 1.0)
        fit(shares, x, F.CustomFamily(lambda y, mu: jnp.log(mu) / mu + jnp.log1p(-y), mean="unit"))
    found = fit(y, x, F.CustomFamily(lambda y, mu: y * jnp.log(mu) - mu))
    assert found.fixef().to_numpy() == pytest.approx(
        fit(y, x, "poisson").fixef().to_numpy(), abs=1e-6
    )


def test_a_summary_says_which_level_is_modelled() -> None:
    rng = np.random.default_rng(1)
    x = rng.random(len(G))
    text = str(fit(np.where(rng.random(len(G)) < 0.5, "yes", "no"), x, "binomial").summary())
    assert "the probability of 'yes'; 'no' is failure" in text
    with pytest.raises(lmm.ArgumentError, match=r"family=lmm.families.Binomial\(link='probit'\)"):
        fit(x, x, "binomial(link='probit')")


def test_a_start_may_name_its_coefficients() -> None:
    rng = np.random.default_rng(1)
    x = rng.random(len(G))
    y = rng.poisson(np.exp(x))
    one, other = (
        fit(y, x, "poisson", start={"theta": [0.1], "beta": beta})
        for beta in ({"x": 1.0, "Intercept": 0.5}, [0.5, 1.0])
    )
    assert one.llf == other.llf
    with pytest.raises(lmm.ArgumentError, match="must name the coefficients Intercept, x"):
        fit(y, x, "poisson", start={"theta": [0.1], "beta": {"x": 1.0}})
