"""Priors are normalised densities, and every parameter finds the one that was meant for it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

import lmm
from lmm.errors import ArgumentError
from lmm.priors import (
    LKJ,
    Exponential,
    HalfNormal,
    HalfStudentT,
    LogNormal,
    Normal,
    Scales,
    StudentT,
    resolve,
)

REAL = [Normal(1.0, 2.0), StudentT(4.0, -1.0, 0.5)]
POSITIVE = [HalfNormal(1.5), HalfStudentT(3.0, 2.0), HalfStudentT(1.0, 0.3), Exponential(0.7)]
NAMES = ("Intercept", "x")
#: mean of x 3, its standard deviation 4
SCALES = Scales(
    5.0,
    2.0,
    np.array([[1.0, 3.0], [0.0, 4.0]]),
    np.array([1.0, 0.0]),
    ((1.0, 4.0), (1.0,)),
    (1, 0),
    2.0,
)
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
            total, _ = integrate.quad(
                lambda z, c=column, k=k: np.exp(LKJ(eta).log_partial(z, c, k, np)), -1.0, 1.0
            )
            assert abs(total - 1.0) < 1e-6


def test_lkj_is_a_power_of_the_determinant():
    """Density of R = product over partials times dz/dR; for k = 3 the Jacobian is that of r_32 given the first column."""
    rng = np.random.default_rng(0)
    constants = []
    for _ in range(20):
        z21, z31, z32 = rng.uniform(-0.9, 0.9, 3)
        r32 = z21 * z31 + z32 * np.sqrt((1 - z21**2) * (1 - z31**2))
        R = np.array([[1, z21, z31], [z21, 1, r32], [z31, r32, 1]])
        log_p = (
            LKJ(2.5).log_partial(z21, 0, 3, np)
            + LKJ(2.5).log_partial(z31, 0, 3, np)
            + LKJ(2.5).log_partial(z32, 1, 3, np)
        )
        log_p -= 0.5 * np.log((1 - z21**2) * (1 - z31**2))
        constants.append(log_p - 1.5 * np.log(np.linalg.det(R)))
    assert np.ptp(constants) < 1e-12


def test_defaults_follow_the_units():
    found = resolve(None, NAMES, LABELS, SCALES)
    assert found.beta == (None, None)
    beta = np.array([0.3, -1.7])
    expected = Normal(5.0, 20.0).log_density(beta[0] + 3.0 * beta[1], np) + Normal(
        0.0, 5.0
    ).log_density(beta[1], np)
    assert found.rest.log_density(beta, np) == pytest.approx(expected, rel=1e-12)
    assert found.sd == ((HalfNormal(5.0), HalfNormal(1.25)), (HalfNormal(5.0),))
    assert found.cor == (LKJ(1.0), LKJ(1.0)) and found.sigma == HalfNormal(5.0)


def test_a_given_intercept_is_that_of_the_formula_and_the_slope_keeps_its_default():
    found = resolve({"Intercept": Normal(1.0, 3.0)}, NAMES, LABELS, SCALES)
    assert found.beta == (Normal(1.0, 3.0), None)
    assert found.rest.log_density(np.array([77.0, -1.7]), np) == pytest.approx(
        Normal(0.0, 5.0).log_density(-1.7, np), rel=1e-12
    )


def test_with_a_given_slope_the_intercept_keeps_its_default_at_the_mean():
    found = resolve({"x": Normal(1.0, 3.0)}, NAMES, LABELS, SCALES)
    assert found.beta == (None, Normal(1.0, 3.0))
    expected = Normal(5.0, 20.0).log_density(0.3 - 3.0 * 1.7, np)
    assert found.rest.log_density(np.array([0.3, -1.7]), np) == pytest.approx(expected, rel=1e-12)


def test_without_a_constant_the_mean_counts_as_spread():
    found = resolve(
        None,
        ("x",),
        LABELS,
        Scales(30.0, 40.0, np.array([[2.0]]), None, SCALES.effects, (1, 0), 50.0),
    )
    assert found.rest.log_density(np.array([7.0]), np) == pytest.approx(
        Normal(0.0, 250.0).log_density(7.0, np), rel=1e-12
    )
    assert found.sd[1] == (HalfNormal(125.0),) and found.sigma == HalfNormal(125.0)


def test_the_most_particular_name_wins():
    given = {
        "beta": Normal(0, 3),
        "x": StudentT(3.0),
        "sd": HalfNormal(9.0),
        "h": Exponential(2.0),
        "sd_(Intercept)|g": HalfNormal(7.0),
    }
    found = resolve({**given, "cor|g": LKJ(4.0), "sigma": Exponential(3.0)}, NAMES, LABELS, SCALES)
    assert found.beta == (Normal(0, 3), StudentT(3.0))
    assert found.sd == ((HalfNormal(7.0), HalfNormal(9.0)), (Exponential(2.0),))
    assert found.cor == (LKJ(4.0), LKJ(1.0)) and found.sigma == Exponential(3.0)
    assert resolve({"cor_x.(Intercept)|g": LKJ(6.0), "cor": LKJ(2.0)}, NAMES, LABELS, SCALES).cor[
        0
    ] == LKJ(6.0)


def test_a_coefficient_called_as_another_parameter():
    """It takes the name that the draws give it; the plain name stays that of the other."""
    names = ("Intercept", "sigma")
    found = resolve({"b_sigma": Normal(1.0, 2.0), "sigma": HalfNormal(3.0)}, names, LABELS, SCALES)
    assert found.beta[1] == Normal(1.0, 2.0) and found.sigma == HalfNormal(3.0)
    found = resolve(
        {"b_g": Normal(1.0, 2.0), "g": HalfNormal(3.0)}, ("Intercept", "g"), LABELS, SCALES
    )
    assert found.beta[1] == Normal(1.0, 2.0) and found.sd[0] == (HalfNormal(3.0),) * 2


def dispersed(printed, root):
    return Scales(
        1.0, 1.0, SCALES.R, SCALES.constant, SCALES.effects, (1, 0), None, 0.5, printed, root
    )


def test_a_dispersion_takes_the_name_it_is_printed_under():
    assert resolve(
        {"theta": Exponential(2.0)}, NAMES, LABELS, dispersed("theta", False)
    ).phi == Exponential(2.0)
    assert resolve(
        {"phi": Exponential(2.0)}, NAMES, LABELS, dispersed("theta", False)
    ).phi == Exponential(2.0)
    phi = resolve({"sigma": HalfNormal(2.0)}, NAMES, LABELS, dispersed("sigma", True)).phi
    total, _ = integrate.quad(lambda x: np.exp(phi.log_density(x, np)), 0.0, 9.0)
    assert total == pytest.approx(stats.halfnorm(scale=2.0).cdf(3.0), abs=1e-7)
    with pytest.raises(ArgumentError, match="'phi' and 'sigma' are the same parameter"):
        resolve(
            {"sigma": HalfNormal(2.0), "phi": HalfNormal(2.0)},
            NAMES,
            LABELS,
            dispersed("sigma", True),
        )


def test_a_prior_of_a_parameter_that_is_held_is_said_to_be_unused():
    with pytest.warns(lmm.PriorWarning, match="the prior of 'sigma' is not used: sigma=1 fixes it"):
        resolve({"sigma": HalfNormal(2.0)}, NAMES, LABELS, SCALES, {"sigma": "sigma=1 fixes it."})
    with pytest.warns(lmm.PriorWarning, match="'theta' is not used"):
        resolve(
            {"theta": HalfNormal(2.0)},
            NAMES,
            LABELS,
            dispersed("theta", False),
            {"phi": "it is maximised."},
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flor": Normal()}, "'flor' is no parameter"),
        ({"x": HalfNormal()}, "'x' needs a prior of lmm.priors for a coefficient"),
        ({"sd": Normal()}, "'sd' needs a prior of lmm.priors for a standard deviation"),
        ({"cor": HalfNormal()}, "'cor' needs a prior of lmm.priors for correlations"),
        ({"sigma": 2.0}, "'sigma' needs a prior"),
        ({"phi": HalfNormal()}, "'phi' is no parameter"),
        ({"cor|h": LKJ()}, "'cor|h' is no parameter"),
        ({3: LKJ()}, "3 is no parameter"),
        ([Normal()], "priors must be a mapping"),
    ],
)
def test_a_wrong_prior_is_refused(given, words):
    with pytest.raises(ArgumentError, match=words.replace("|", "[|]")):
        resolve(given, NAMES, LABELS, SCALES)


def test_all_names_are_told():
    with pytest.raises(ArgumentError) as caught:
        resolve({"none": Normal()}, NAMES, LABELS, SCALES)
    for name in (
        "Intercept",
        "x",
        "beta",
        "sd_(Intercept)|g",
        "sd_x|g",
        "g",
        "sd|g",
        "sd",
        "cor_x.(Intercept)|g",
        "cor|g",
        "cor",
        "sigma",
        "sd|h",
    ):
        assert f" {name}," in str(caught.value) or f" {name}." in str(caught.value)
    assert "cor|h" not in str(caught.value)


WRONG = [None, "a", True, np.True_, float("nan"), float("inf"), np.inf, [1.0], 1j]


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_arguments_of_distributions_must_be_numbers(value):
    for kind in (Normal, StudentT, LogNormal):
        with pytest.raises(ArgumentError, match=f"{kind.__name__}: loc="):
            kind(loc=value)
    for kind in (Normal, StudentT, HalfNormal, HalfStudentT, Exponential, LogNormal):
        with pytest.raises(ArgumentError, match=f"{kind.__name__}: scale="):
            kind(scale=value)
    for kind in (StudentT, HalfStudentT):
        with pytest.raises(ArgumentError, match=f"{kind.__name__}: df="):
            kind(df=value)
    with pytest.raises(ArgumentError, match="LKJ: eta="):
        LKJ(value)


@pytest.mark.parametrize("value", [np.int64(2), np.float32(2.0), 2])
def test_numbers_of_numpy_are_numbers(value):
    prior = Normal(value, value)
    assert prior == Normal(2.0, 2.0) and type(prior.loc) is float and type(prior.scale) is float


def test_a_scale_must_be_positive():
    with pytest.raises(ArgumentError, match="HalfNormal: scale=-1"):
        lmm.priors.HalfNormal(-1)
