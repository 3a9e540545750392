"""Distribution functions against sums and integrals of the densities."""

from __future__ import annotations

import numpy as np
import pytest

import lmm
from lmm.families import (
    Beta,
    BetaBinomial,
    Binomial,
    ConwayMaxwellPoisson,
    Gamma,
    Gaussian,
    GeneralizedPoisson,
    InverseGaussian,
    LogNormal,
    NegativeBinomial,
    NegativeBinomial1,
    Poisson,
    TruncatedNegativeBinomial,
    TruncatedNegativeBinomial1,
    TruncatedPoisson,
)
from lmm.inference.intervals.predictive import normal_quantiles


@pytest.mark.parametrize(
    ("family", "phi"),
    [
        (Poisson(), 1.0),
        (NegativeBinomial(), 0.7),
        (NegativeBinomial1(), 2.5),
        (GeneralizedPoisson(), 1.6),
        (ConwayMaxwellPoisson(), 0.5),
        (ConwayMaxwellPoisson(), 4.0),
        (TruncatedPoisson(), 1.0),
        (TruncatedNegativeBinomial(), 0.7),
        (TruncatedNegativeBinomial1(), 2.5),
    ],
)
def test_counts(family, phi):
    for mean in (0.02, 3.0, 40.0):
        y = np.arange(float(family.truncated), 200.0)
        density = np.exp(family.log_density(y, np.full(len(y), np.log(mean)), None, phi))
        np.testing.assert_allclose(family.cdf(y, mean, None, phi), np.cumsum(density), rtol=1e-9)
    assert family.cdf(np.array([-1.0, 2.7]), 3.0, None, phi).tolist() == [
        0.0,
        float(family.cdf(np.array(2.0), 3.0, None, phi)),
    ]


@pytest.mark.parametrize("family", [Binomial(), BetaBinomial()])
def test_proportions(family):
    trials, k = np.full(13, 12.0), np.arange(13.0)
    density = np.exp(family.log_density(k / trials, np.full(13, -0.4), trials, 3.0))
    np.testing.assert_allclose(
        family.cdf(k / trials, family.mean(np.full(13, -0.4)), trials, 3.0),
        np.cumsum(density),
        rtol=1e-10,
    )


@pytest.mark.parametrize("phi", [3.0, 40.0])
def test_shares(phi):
    y = np.linspace(1e-6, 1.0 - 1e-6, 20_001)
    density = np.exp(Beta().log_density(y, np.full(len(y), 0.6), None, phi))
    areas = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(y))])
    cdf = Beta().cdf(y, Beta().mean(np.array(0.6)), None, phi)
    np.testing.assert_allclose(cdf - cdf[0], areas, atol=2e-5)  # the error of the trapezoids


@pytest.mark.parametrize(
    "family", [Gamma("log"), InverseGaussian("log"), Gaussian("log"), LogNormal("log")]
)
@pytest.mark.parametrize("phi", [0.05, 1.3])
def test_continuous(family, phi):
    y = np.linspace(0.05, 9.0, 8001)
    # weights multiply the log density of a log-normal, whose distribution they leave as it is
    weights = None if family.name == "lognormal" else np.full(len(y), 2.0)
    density = np.exp(family.log_density(y, np.full(len(y), 0.6), weights, phi))
    areas = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(y))])
    cdf = family.cdf(y, np.exp(0.6), weights, phi)
    np.testing.assert_allclose(cdf - cdf[0], areas, atol=2e-5)  # the error of the trapezoids
    if family.name != "gaussian":
        assert family.cdf(np.array([0.0, -1.0]), np.exp(0.6), 1.0, phi).tolist() == [0.0, 0.0]


def test_inverse_gaussian_does_not_overflow():
    value = InverseGaussian().cdf(np.array([0.999, 1.0, 1.001]), np.ones(3), None, 1e-7)
    assert np.isfinite(value).all() and value[0] < 0.01 < value[1] < 0.99 < value[2]


def test_unknown_distribution_function():
    own = lmm.families.CustomFamily(lambda y, mu: -mu, name="mine")
    assert not own.has_cdf and Gamma().has_cdf
    with pytest.raises(lmm.ArgumentError, match="mine"):
        own.cdf(np.ones(2), np.ones(2))


@pytest.mark.parametrize(
    ("family", "phi"),
    [
        (LogNormal(), 0.7),
        (Beta(), 4.0),
        (Gamma("log"), 0.3),
        (Gamma("log"), 3e-6),
        (InverseGaussian("log"), 0.2),
        (Gaussian(), 1.7),
    ],
)
def test_quantiles_solve_the_mixture(family, phi):
    eta, sd, p = np.array([0.0, 0.8]), np.array([0.5, 0.0]), 0.3
    (q,) = normal_quantiles(family, eta, sd, (p,), None, phi)
    z = np.linspace(-9, 9, 200_001)
    w = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
    for i in range(2):
        assert w @ family.cdf(q[i], family.mean(eta[i] + sd[i] * z), None, phi) == pytest.approx(
            p, abs=3e-4 if phi < 1e-5 else 1e-7
        )
