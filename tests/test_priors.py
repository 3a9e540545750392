"""Priors are normalised densities, and every parameter finds the one that was meant for it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate

import lmm
from lmm.errors import ArgumentError
from lmm.priors import LKJ, Exponential, HalfNormal, HalfStudentT, Normal, Scales, StudentT, resolve

REAL = [Normal(1.0, 2.0), StudentT(4.0, -1.0, 0.5)]
POSITIVE = [HalfNormal(1.5), HalfStudentT(3.0, 2.0), HalfStudentT(1.0, 0.3), Exponential(0.7)]
SCALES = Scales(5.0, 2.0, (1.0, 4.0), ((1.0, 4.0), (1.0,)))
NAMES = ("Intercept", "x")
LABELS = (("g", ("Intercept", "x")), ("h", ("Intercept",)))


@pytest.mark.parametrize("prior", REAL + POSITIVE, ids=repr)
def test_a_prior_integrates_to_one(prior):
    low = 0.0 if prior.support == "positive" else -np.inf
    total, error = integrate.quad(lambda x: np.exp(prior.log_density(x, np)), low, np.inf)
    assert abs(total - 1.0) < 1e-7 + error


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.5])
def test_lkj_partial_correlations_integrate_to_one(eta):
    for k in (2, 3, 5):
        for column in range(k - 1):
            total, _ = integrate.quad(lambda z, c=column, k=k: np.exp(LKJ(eta).log_partial(z, c, k, np)), -1.0, 1.0)
            assert abs(total - 1.0) < 1e-6


def test_lkj_is_a_power_of_the_determinant():
    """Density of R = product over partials times dz/dR; for k = 3 the Jacobian is that of r_32 given the first column."""
    rng = np.random.default_rng(0)
    constants = []
    for _ in range(20):
        z21, z31, z32 = rng.uniform(-0.9, 0.9, 3)
        r32 = z21 * z31 + z32 * np.sqrt((1 - z21**2) * (1 - z31**2))
        R = np.array([[1, z21, z31], [z21, 1, r32], [z31, r32, 1]])
        log_p = LKJ(2.5).log_partial(z21, 0, 3, np) + LKJ(2.5).log_partial(z31, 0, 3, np) + LKJ(2.5).log_partial(z32, 1, 3, np)
        log_p -= 0.5 * np.log((1 - z21**2) * (1 - z31**2))
        constants.append(log_p - 1.5 * np.log(np.linalg.det(R)))
    assert np.ptp(constants) < 1e-12


def test_defaults_follow_the_units():
    found = resolve(None, NAMES, LABELS, SCALES)
    assert found.beta == (Normal(5.0, 20.0), Normal(0.0, 5.0))
    assert found.sd == ((HalfNormal(5.0), HalfNormal(1.25)), (HalfNormal(5.0),))
    assert found.cor == (LKJ(1.0), LKJ(1.0)) and found.sigma == HalfNormal(5.0)


def test_the_most_particular_name_wins():
    given = {"beta": Normal(0, 3), "x": StudentT(3.0), "sd": HalfNormal(9.0), "h": Exponential(2.0), "sd_(Intercept)|g": HalfNormal(7.0)}
    found = resolve({**given, "cor|g": LKJ(4.0), "sigma": Exponential(3.0)}, NAMES, LABELS, SCALES)
    assert found.beta == (Normal(0, 3), StudentT(3.0))
    assert found.sd == ((HalfNormal(7.0), HalfNormal(9.0)), (Exponential(2.0),))
    assert found.cor == (LKJ(4.0), LKJ(1.0)) and found.sigma == Exponential(3.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flor": Normal()}, "'flor' is no parameter"),
        ({"x": HalfNormal()}, "'x' needs a prior of lmm.priors for a coefficient"),
        ({"sd": Normal()}, "'sd' needs a prior of lmm.priors for a standard deviation"),
        ({"cor": HalfNormal()}, "'cor' needs a prior of lmm.priors for correlations"),
        ({"sigma": 2.0}, "'sigma' needs a prior"),
        ([Normal()], "priors must be a mapping"),
    ],
)
def test_a_wrong_prior_is_refused(given, words):
    with pytest.raises(ArgumentError, match=words):
        resolve(given, NAMES, LABELS, SCALES)


def test_a_scale_must_be_positive():
    with pytest.raises(ArgumentError, match="HalfNormal: scale=-1"):
        lmm.priors.HalfNormal(-1)
