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
        return lmm.glmer("y ~ x + (1|g)", pd.DataFrame({"y": y, "x": x, "g": G}), family=family, **more)


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
        density = FAMILIES[name].log_density(y.astype(float), found.estimate.eta, None, found.estimate.phi).sum()
        assert np.isfinite(found.llf) and found.llf < density + 1e-6  # an integral over random effects is below the density at their modes
        assert found.convergence.converged or "link" in found.convergence.message or "no step" in found.convergence.message


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
    assert found.llf == pytest.approx(24 * binom.logpmf(5, 10, 0.5), abs=1e-8) and found.theta.iloc[0] == 0.0
