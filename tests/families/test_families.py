"""What every family promises, over the registry: derivatives, information, normalisation, moments, R's values."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import stats

import lmm
from lmm.errors import ArgumentError
from lmm.families import (
    ALIASES,
    FAMILIES,
    Beta,
    BetaBinomial,
    Binomial,
    CustomFamily,
    Family,
    Gamma,
    Gaussian,
    InverseGaussian,
    NegativeBinomial,
    NegativeBinomial1,
    Poisson,
    SkewNormal,
    StudentT,
)
from tests.families.cases import (
    ALL,
    CUSTOM_GAMMA,
    CUSTOM_POISSON,
    WEIGHTED,
    means,
    phis,
    poisson_density,
    responses,
    support,
    weights,
)

every = pytest.mark.parametrize("family", ALL, ids=str)
dispersed = pytest.mark.parametrize("family", [f for f in ALL if f.has_dispersion], ids=str)


def slope(function, x: np.ndarray, h: float = 1e-3) -> np.ndarray:
    """Derivative by central differences of sixth order."""
    steps = ((1, 45.0), (2, -9.0), (3, 1.0))
    return sum(c * (function(x + k * h) - function(x - k * h)) for k, c in steps) / (60.0 * h)


def near(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    scale = 1.0 + np.abs(wanted)
    assert np.max(np.abs(found - wanted) / scale) < tolerance


def row_variance(family: Family, mu: float, w: float, phi: float) -> float:
    """Of a response with weight w, a dispersion that scales it included."""
    scale = phi if family.has_residual_sd else 1.0
    return float(scale * family.row_variance(np.array([mu]), np.array([w]), phi)[0])


@every
def test_derivatives_in_the_linear_predictor_are_those_of_the_log_density(family: Family):
    eta, w = family.link.link(means(family)), weights(family)
    step = 1e-3 * np.min(np.abs(eta[eta != 0]))
    for phi in phis(family):
        y = responses(family, phi)
        d = family.derivatives(y, eta, w, phi)
        near(d.d1, slope(lambda e, y=y, phi=phi: family.log_density(y, e, w, phi), eta, step), 1e-6)
        near(
            d.d2,
            slope(lambda e, y=y, phi=phi: family.derivatives(y, e, w, phi).d1, eta, step),
            1e-6,
        )
        near(
            d.d3,
            slope(lambda e, y=y, phi=phi: family.derivatives(y, e, w, phi).d2, eta, step),
            1e-6,
        )
        info = family.expected_weights(eta, w, phi)
        near(
            info.slope,
            slope(lambda e, phi=phi: family.expected_weights(e, w, phi).weight, eta, step),
            1e-6,
        )
        assert all(x.shape == eta.shape for x in (*d, *info))


@dispersed
def test_derivatives_in_the_dispersion_are_those_of_the_log_density(family: Family):
    eta, w = family.link.link(means(family)), weights(family)
    for phi in phis(family):
        y = responses(family, phi)
        rho = np.full(5, np.log(phi))
        d = family.d_phi(y, eta, w, phi)
        at = lambda f, y=y: lambda r: np.array([f(np.exp(x))[i] for i, x in enumerate(r)])  # noqa: E731
        near(d.first, slope(at(lambda p, y=y: family.log_density(y, eta, w, p)), rho), 1e-6)
        near(d.second, slope(at(lambda p, y=y: family.d_phi(y, eta, w, p).first), rho), 1e-6)
        near(d.eta, slope(at(lambda p, y=y: family.derivatives(y, eta, w, p).d1), rho), 1e-6)
        near(d.eta_eta, slope(at(lambda p, y=y: family.derivatives(y, eta, w, p).d2), rho), 1e-6)
        near(d.weight, slope(at(lambda p: family.expected_weights(eta, w, p).weight), rho), 1e-6)


@pytest.mark.parametrize("family", [f for f in ALL if f.shaped], ids=str)
def test_derivatives_in_several_parameters_are_those_of_the_log_density(family: Family):
    eta, w = family.link.link(means(family)), weights(family)
    for phi in phis(family):
        y, rho = responses(family, phi), family.to_rho(phi)
        np.testing.assert_allclose(family.from_rho(rho), phi, rtol=1e-12)
        d = family.parameter_derivatives(y, eta, w, phi)
        assert np.array_equal(d.first, family.parameter_scores(y, eta, w, phi))
        for i in range(family.n_parameters):

            def along(f, i=i, rho=rho):
                """Derivative of f(phi) in rho_i."""
                return slope(
                    lambda t: f(family.from_rho(rho + t * np.eye(len(rho))[i])), np.array(0.0)
                )

            near(d.first[i], along(lambda p, y=y: family.log_density(y, eta, w, p)), 1e-6)
            sums = along(lambda p, y=y: family.parameter_scores(y, eta, w, p).sum(axis=1))
            near(d.second[i], sums, 1e-6)
            near(d.eta[i], along(lambda p, y=y: family.derivatives(y, eta, w, p).d1), 1e-6)
            near(d.eta_eta[i], along(lambda p, y=y: family.derivatives(y, eta, w, p).d2), 1e-6)
            if family.has_information:
                found = along(lambda p: family.expected_weights(eta, w, p).weight)
                near(d.weight[i], found, 1e-6)
            near(family.phi_slopes(phi)[:, i], along(lambda p: p), 1e-6)


def test_dispersion_derivatives_vanish_where_there_is_no_dispersion():
    for family in (Binomial(), Poisson()):
        assert all(not x.any() for x in family.d_phi(np.array([0.0, 1.0]), np.zeros(2)))


@every
def test_densities_are_normalised_and_information_is_the_expected_curvature(family: Family):
    """Sums over counts, trapezoidal sums over log y or y: total 1, mean mu, variance, E[d1] = 0, E[-d2]."""
    for phi in phis(family):
        for mu, w in zip(means(family), weights(family), strict=True):
            # where weights multiply the log density it is normalised at weight 1 alone
            w = w if family.name in WEIGHTED else 1.0
            eta = family.link.link(np.array([mu]))
            y, dy = support(family, mu, w, phi)
            e, ws = np.full(y.shape, eta[0]), np.full(y.shape, w)
            mass = np.exp(family.log_density(y, e, ws, phi)) * dy
            d = family.derivatives(y, e, ws, phi)
            assert mass.sum() == pytest.approx(1.0, abs=1e-9)
            mean = family.expected(eta, phi)[0]
            assert (mass * y).sum() == pytest.approx(mean, rel=1e-8, abs=1e-8)
            variance = row_variance(family, mu, w, phi)
            assert (mass * (y - mean) ** 2).sum() == pytest.approx(variance, rel=1e-7)
            if not family.has_information:
                assert (mass * d.d1).sum() == pytest.approx(0.0, abs=1e-7)
                assert -(mass * d.d2).sum() == pytest.approx((mass * d.d1**2).sum(), rel=1e-7)
                continue
            information = family.expected_weights(eta, np.array([w]), phi).weight[0]
            assert (mass * d.d1).sum() == pytest.approx(0.0, abs=1e-7 * (1 + np.sqrt(information)))
            assert -(mass * d.d2).sum() == pytest.approx(information, rel=1e-7)
            assert (mass * d.d1**2).sum() == pytest.approx(information, rel=1e-7)


@every
def test_simulated_responses_have_the_moments(family: Family):
    n, phi = 20_000, phis(family)[-1]
    mu = means(family)[3]
    w = np.full(n, 2.0) if family.name in WEIGHTED else None
    y = family.simulate(np.random.default_rng(5), np.full(n, mu), w, phi)
    mean = family.expected(family.link.link(np.array([mu])), phi)[0]
    variance = row_variance(family, mu, 1.0 if w is None else 2.0, phi)
    assert y.mean() == pytest.approx(mean, abs=4.5 * np.sqrt(variance / n))
    kurtosis = np.mean(((y - mean) ** 2 / variance - 1) ** 2)
    assert y.var() == pytest.approx(variance, rel=4.5 * np.sqrt(kurtosis / n))
    assert np.array_equal(y, family.simulate(np.random.default_rng(5), np.full(n, mu), w, phi))


@every
def test_saturated_log_likelihood_is_the_largest_and_deviance_is_what_is_lost(family: Family):
    mu, w = means(family), weights(family)
    for phi in phis(family):
        y = responses(family, phi)
        top = family.saturated(y, w, phi)
        for eta in (family.link.link(mu), family.link.link(mu[::-1])):
            value = family.log_density(y, eta, w, phi)
            assert np.all(top >= value - 1e-9)
            scale = phi if family.name in {"gaussian", "gamma", "inverse_gaussian"} else 1.0
            lost = family.unit_deviance(y, family.mean(eta), w, phi)
            assert lost == pytest.approx(2 * scale * (top - value), rel=1e-7, abs=1e-7)


@every
def test_start_is_inside_and_the_clipped_predictor_is_finite(family: Family):
    phi = phis(family)[0]
    y = responses(family, phi)
    w = weights(family)
    mu = family.initial_mu(y, w)
    assert np.isfinite(family.link.link(mu)).all()
    assert np.isfinite(family.log_density(y, family.link.link(mu), w, phi)).all()
    eta = np.array([-np.inf, -1e9, 0.0, 1e9, np.inf])
    with np.errstate(all="ignore"):
        d = family.derivatives(y, eta, w, phi)
        assert not np.isnan(family.log_density(y, eta, w, phi)).any()
        assert not np.isnan(np.array(d)).any()
        assert family.log_density(y, np.full(5, np.nan), w, phi) == pytest.approx(
            np.full(5, -np.inf)
        )
    assert np.isneginf(family.log_density(y, eta, w, phi)[~family.inside(eta)]).all()


@every
def test_family_is_frozen_hashable_and_equal_to_its_copy(family: Family):
    if isinstance(family, CustomFamily):
        copy = CustomFamily(
            family.density,
            family.name,
            dispersion=family.dispersion,
            variance=family.variance_function,
            sampler=family.sampler,
        )
    else:
        copy = pickle.loads(pickle.dumps(family))
        assert type(family)(family.link) == family
    assert copy == family and hash(copy) == hash(family)
    assert family != ALL[ALL.index(family) - 1]
    with pytest.raises(AttributeError):
        family.link = None  # type: ignore[misc]


def test_log_densities_equal_those_of_r():
    """R 4.2: dbinom(3, 10, pnorm(.3), log = TRUE), dgamma(1.7, shape = 1/.3, scale = exp(.2)*.3, log = TRUE), ... as named."""
    one = np.ones(1)
    log, inverse_gaussian = (
        lambda f, y, eta, w=None, phi=1.0: f.log_density(y * one, eta * one, w, phi)[0],
        InverseGaussian("log"),
    )  # noqa: E731
    found_and_r = [
        (
            log(Binomial("probit"), 0.3, 0.3, 10 * one),
            -3.391458469165353,
        ),  # dbinom(3, 10, pnorm(.3))
        (
            log(Binomial("cloglog"), 0.3, -0.4, 10 * one),
            -2.054271349436445,
        ),  # dbinom(3, 10, 1 - exp(-exp(-.4)))
        (
            log(Binomial("cauchit"), 2 / 7, -1.2, 7 * one),
            -1.223010573826021,
        ),  # dbinom(2, 7, pcauchy(-1.2))
        (log(Poisson(), 4.0, 1.1), -1.782219854294379),  # dpois(4, exp(1.1))
        (
            log(Gamma("log"), 1.7, 0.2, None, 0.3),
            -1.076553958309021,
        ),  # dgamma(1.7, shape = 1/.3, scale = exp(.2)*.3)
        (
            log(Gamma("log"), 1.7, 0.2, 2 * one, 0.3),
            -0.9215910039082125,
        ),  # dgamma(1.7, shape = 2/.3, scale = exp(.2)*.3/2)
        (
            log(inverse_gaussian, 1.7, 0.2, None, 0.3),
            -1.263424284672077,
        ),  # statmod::dinvgauss(1.7, exp(.2), dispersion = .3)
        (log(Gaussian(), 1.7, 0.2, 2 * one, 0.3), -7.470378540761732),  # dnorm(1.7, .2, sqrt(.3/2))
        (
            log(NegativeBinomial(), 5.0, 0.9, None, 1.3),
            -2.874074896450163,
        ),  # dnbinom(5, size = 1.3, mu = exp(.9))
        (
            log(NegativeBinomial1(), 5.0, 0.9, None, 1.3),
            -2.79637583064311,
        ),  # dnbinom(5, size = exp(.9)/1.3, prob = 1/2.3)
        (
            log(NegativeBinomial(), 0.0, 0.9, None, 1.3),
            -1.38053387136544,
        ),  # dnbinom(0, size = 1.3, mu = exp(.9))
        (
            log(NegativeBinomial1(), 0.0, 0.9, None, 1.3),
            -1.575866053909375,
        ),  # dnbinom(0, size = exp(.9)/1.3, prob = 1/2.3)
        (
            log(NegativeBinomial(), 3000.0, np.log(3100.0), None, 1e9),
            -6.552678125853999,
        ),  # dnbinom(3000, size = 1e9, mu = 3100)
        (log(Binomial("probit"), 0.0, 30.0), -454.3212439563432),  # pnorm(-30, log.p = TRUE)
        (log(Binomial("cauchit"), 1.0, -1e6), -14.96024044381401),  # pcauchy(-1e6, log.p = TRUE)
    ]
    found, r = np.transpose(found_and_r)
    # the terms of the one with theta = 1e9 are near 24,000 each
    assert found == pytest.approx(r, rel=3e-12)


def test_log_densities_equal_those_of_scipy():
    y, eta = np.array([-1.3, 0.2, 4.0]), np.array([0.4, 0.0, -1.0])
    t = StudentT().log_density(y, eta, None, np.array([1.7, 3.5]))
    assert t == pytest.approx(stats.t.logpdf(y, 3.5, eta, 1.7), rel=1e-12)
    for psi in (-6.0, 0.0, 1.5):
        delta = psi / np.sqrt(1.0 + psi**2)
        omega = 1.7 / np.sqrt(1.0 - 2.0 * delta**2 / np.pi)
        xi = eta - omega * delta * np.sqrt(2.0 / np.pi)
        own = SkewNormal().log_density(y, eta, None, np.array([1.7, psi]))
        assert own == pytest.approx(stats.skewnorm.logpdf(y, psi, xi, omega), rel=1e-10)
        cdf = SkewNormal().cdf(y, eta, None, np.array([1.7, psi]))
        assert cdf == pytest.approx(stats.skewnorm.cdf(y, psi, xi, omega), abs=1e-10)
    share, mu = np.array([0.02, 0.5, 0.97]), Beta().mean(eta)
    beta = Beta().log_density(share, eta, None, 7.0)
    assert beta == pytest.approx(stats.beta.logpdf(share, 7 * mu, 7 * (1 - mu)), rel=1e-11)
    k, n = np.array([0.0, 3.0, 9.0]), np.array([4.0, 5.0, 9.0])
    mixed = BetaBinomial().log_density(k / n, eta, n, 2.0)
    assert mixed == pytest.approx(stats.betabinom.logpmf(k, n, 2 * mu, 2 * (1 - mu)), rel=1e-11)


def test_unit_deviances_equal_those_of_r():
    """R 4.2: Gamma()$dev.resids(1.7, 2.2, 2), inverse.gaussian()$dev.resids(1.7, 2.2, 2), ..., MASS::negative.binomial(1.3)."""
    assert Gamma().unit_deviance(1.7, 2.2, 2.0) == pytest.approx(0.1222255281174904)
    assert InverseGaussian().unit_deviance(1.7, 2.2, 2.0) == pytest.approx(0.06076810889645119)
    assert Binomial().unit_deviance(0.3, 0.45, 10.0) == pytest.approx(0.9434781467874437)
    assert Poisson().unit_deviance(4.0, 2.5) == pytest.approx(0.7600290339658851)
    assert NegativeBinomial().unit_deviance(5.0, 2.5, phi=1.3) == pytest.approx(0.5615598656186025)


def test_negative_binomials_go_over_into_the_poisson():
    y, eta = np.arange(40.0), np.linspace(-1, 4, 40)
    limit, d = Poisson().log_density(y, eta), Poisson().derivatives(y, eta)
    for family, phi in ((NegativeBinomial(), 1e12), (NegativeBinomial1(), 1e-12)):
        assert family.log_density(y, eta, None, phi) == pytest.approx(limit, abs=1e-8)
        found = family.derivatives(y, eta, None, phi)
        assert all(a == pytest.approx(b, rel=1e-8, abs=1e-8) for a, b in zip(found, d, strict=True))
        assert family.expected_weights(eta, None, phi).weight == pytest.approx(
            np.exp(eta), rel=1e-8
        )
        assert np.abs(family.d_phi(y, eta, None, phi).first).max() < 1e-8


def test_gamma_density_is_accurate_for_a_small_dispersion():
    """At shape 1e10 the gamma is normal to 1e-4; a density by gammaln alone is off by 1e-5 there, its slope by more."""
    phi, y = 1e-10, np.array([1.0, 1.0 + 1e-5])
    normal = -0.5 * (np.log(2 * np.pi * phi) + (y - 1) ** 2 / phi)
    assert Gamma("log").log_density(y, np.zeros(2), None, phi) == pytest.approx(normal, abs=1e-4)
    d = Gamma("log").d_phi(np.ones(1), np.zeros(1), None, phi)
    assert d.first == pytest.approx(-0.5, rel=1e-8) and d.second[0] == pytest.approx(0.0, abs=1e-8)


def test_custom_families_equal_the_built_in_ones():
    eta, w = np.linspace(-2, 3, 9), np.linspace(0.5, 3, 9)
    for custom, own, y, phi in (
        (CUSTOM_POISSON, Poisson(), np.arange(9.0), 1.0),
        (CUSTOM_GAMMA, Gamma("log"), np.linspace(0.2, 5, 9), 0.4),
    ):
        weight = w if phi == 1.0 else None
        assert custom.log_density(y, eta, weight, phi) == pytest.approx(
            own.log_density(y, eta, weight, phi), rel=1e-10, abs=1e-10
        )
        for ours, theirs in (
            (custom.derivatives(y, eta, weight, phi), own.derivatives(y, eta, weight, phi)),
            (custom.expected_weights(eta, weight, phi), own.expected_weights(eta, weight, phi)),
            (custom.d_phi(y, eta, weight, phi), own.d_phi(y, eta, weight, phi)),
        ):
            assert np.array(ours) == pytest.approx(np.array(theirs), rel=1e-10, abs=1e-10)
        assert custom.saturated(y, weight, phi) == pytest.approx(
            own.saturated(y, weight, phi), rel=1e-10, abs=1e-10
        )


def test_custom_family_says_what_is_missing():
    family = CustomFamily(poisson_density, "counts")
    with pytest.raises(ArgumentError, match="no variance"):
        family.expected_weights(np.zeros(2))
    with pytest.raises(ArgumentError, match="cannot simulate"):
        family.simulate(np.random.default_rng(0), np.ones(2))
    with pytest.raises(ArgumentError, match="real, positive, unit"):
        CustomFamily(poisson_density, mean="counts")


def test_families_are_found_by_name():
    for name, kind in FAMILIES.items():
        assert type(lmm.families.get(name)) is kind
        assert lmm.families.get(kind) == lmm.families.get(name) == lmm.families.get(kind())
        assert kind().link.name == kind.default_link in kind.link_names
    assert {ALIASES[a] for a in ("Gamma", "inverse.gaussian", "nbinom2", "nbinom1")} < set(FAMILIES)
    assert lmm.families.get("nbinom1") == NegativeBinomial1()


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: lmm.families.get("binomal"), "Did you mean 'binomial'"),
        (lambda: lmm.families.get("poison"), "Did you mean 'poisson'"),
        (lambda: lmm.families.get("quasipoisson"), "no likelihood"),
        (lambda: lmm.families.get(3), "unknown family 3"),
        (lambda: lmm.families.Binomial(link="probbit"), "Did you mean 'probit'"),
        (lambda: lmm.families.Poisson(link="logit"), "its links are log, sqrt, identity"),
        (lambda: lmm.families.links.get("lgo"), "Did you mean 'log'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(ask, message):
    with pytest.raises(ArgumentError, match=message):
        ask()


def test_reported_sigma_is_that_of_each_family():
    assert (
        Gaussian("log").sigma(0.09)
        == Gamma().sigma(0.09)
        == InverseGaussian().sigma(0.09)
        == pytest.approx(0.3)
    )
    assert NegativeBinomial().sigma(2.5) == NegativeBinomial1().sigma(2.5) == 2.5


@pytest.mark.parametrize(
    "family", [f for f in ALL if f.has_dispersion and not isinstance(f, CustomFamily)], ids=str
)
def test_dispersion_to_begin_from_is_near_the_truth(family: Family):
    phi, mu = phis(family)[-1], np.full(50_000, means(family)[3])
    y = family.simulate(np.random.default_rng(8), mu, None, phi)
    if family.weights_are_trials:
        w = np.full(50_000, 5.0)
        y = family.simulate(np.random.default_rng(8), mu, w, phi)
        assert family.initial_phi(y, mu, w) == pytest.approx(phi, rel=0.15)
        return
    assert family.initial_phi(y, mu) == pytest.approx(phi, rel=0.15)


@pytest.mark.parametrize("family", ALL, ids=repr)
def test_what_scales_the_variance_is_what_sigma_is_the_root_of(family: Family) -> None:
    """A dispersion multiplies the variance at every mean, or it does not; ``sigma`` says which."""
    if not family.has_dispersion:
        return
    mu = means(family)
    proportional = np.allclose(family.variance(mu, 4.0), 4.0 * family.variance(mu, 1.0), rtol=1e-12)
    assert proportional == family.scales_variance()
    assert family.sigma(4.0) == (2.0 if family.dispersion_scales_variance else 4.0)
