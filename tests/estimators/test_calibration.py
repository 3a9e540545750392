"""Simulation-based calibration of the sampler: parameters from the prior, data from the model, ranks of the truth among the draws.

If draws are from the posterior, the rank of each parameter's true value among L independent draws is uniform on 0..L, whatever the
model (Talts, Betancourt, Simpson, Vehtari & Gelman 2018, arXiv:1804.06788). The same test is run on data whose parameters come
from a prior three times as wide as the fit's, which it must reject.
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.special import chdtrc

import lmm
from lmm import priors

pytest.importorskip("blackjax")

SIMULATIONS, WRONG = 120, 50
THIN, DRAWS, BINS = 5, 495, 10
BATCHES, EACH = 4, 8
X = np.random.default_rng(0).standard_normal(BATCHES * EACH)
GROUP = np.repeat(np.arange(BATCHES), EACH)


def method(sigma: bool, seed: int) -> lmm.NUTS:
    """A short chain with priors that are also the simulation's; with one seed for all, the ranks would share its luck."""
    own = {"beta": priors.Normal(0.0, 1.0), "sd": priors.HalfNormal(1.0)} | (
        {"sigma": priors.HalfNormal(1.0)} if sigma else {}
    )
    return lmm.NUTS(chains=1, warmup=300, draws=DRAWS, priors=own, rng=seed)


def simulate(
    rng: np.random.Generator, family: str, width: float
) -> tuple[dict[str, float], np.ndarray]:
    """Parameters from the prior, ``width`` times as wide, the first group's effect, and a response."""
    intercept, slope = width * rng.standard_normal(2)
    sd, sigma = width * np.abs(rng.standard_normal(2))
    b = sd * rng.standard_normal(BATCHES)
    eta = intercept + slope * X + b[GROUP]
    truth = {"Intercept": intercept, "x": slope, "sd_(Intercept)|g": sd, "g": b[0]}
    if family == "gaussian":
        return truth | {"sigma": sigma}, eta + sigma * rng.standard_normal(len(X))
    return truth, (rng.random(len(X)) < 1.0 / (1.0 + np.exp(-eta))).astype(float)


@cache
def ranks(family: str, width: float, count: int) -> dict[str, np.ndarray]:
    """Ranks of the truth among thinned draws, per parameter (count,)."""
    out: dict[str, list[int]] = {}
    rng = np.random.default_rng([len(family), int(10 * width)])
    made = 0
    while made < count:
        truth, y = simulate(rng, family, width)
        if family == "bernoulli" and y.min() == y.max():
            # nothing to fit; leaving data out by what they are leaves the posterior of the others as it is
            continue
        made += 1
        data = pd.DataFrame({"y": y, "x": X, "g": GROUP})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # short chains
            if family == "gaussian":
                fit = lmm.lmer("y ~ x + (1|g)", data, method=method(True, made))
            else:
                fit = lmm.glmer(
                    "y ~ x + (1|g)", data, family="binomial", method=method(False, made)
                )
        for name, value in truth.items():
            draws = fit.draws["g"][0, :, 0, 0] if name == "g" else fit.draws[name][0]
            out.setdefault(name, []).append(int(np.sum(draws[::THIN] < value)))
    return {name: np.array(values) for name, values in out.items()}


def p_value(rank: np.ndarray) -> float:
    """Of the chi-square test that ranks are uniform on 0..L."""
    levels = DRAWS // THIN + 1
    observed = np.bincount(rank * BINS // levels, minlength=BINS)
    expected = len(rank) / BINS
    return float(chdtrc(BINS - 1, np.sum((observed - expected) ** 2) / expected))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gaussian", "bernoulli"])
def test_ranks_are_uniform(family: str) -> None:
    found = {name: p_value(rank) for name, rank in ranks(family, 1.0, SIMULATIONS).items()}
    assert min(found.values()) > 0.01 / len(found), found
    # the mean of uniform ranks, to 4 standard errors
    for name, rank in ranks(family, 1.0, SIMULATIONS).items():
        assert abs(rank.mean() / (DRAWS // THIN) - 0.5) < 4.0 / np.sqrt(12.0 * SIMULATIONS), name


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gaussian", "bernoulli"])
def test_a_wrong_prior_is_found_out(family: str) -> None:
    found = {name: p_value(rank) for name, rank in ranks(family, 3.0, WRONG).items()}
    assert min(found.values()) < 1e-4, found
