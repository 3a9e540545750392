"""What every link promises, over the registry: inverse, derivatives in all three forms, accuracy in both tails."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.families import Binomial, Link
from lmm.families.links import LINKS, Logit
from tests.families.test_families import slope

every = pytest.mark.parametrize("link", LINKS.values(), ids=list(LINKS))
binary = pytest.mark.parametrize(
    "link", [LINKS[name] for name in Binomial.link_names], ids=list(Binomial.link_names)
)


def predictors(link: Link) -> np.ndarray:
    if np.isfinite(link.mean_high):
        return np.array([-4.0, -1.3, -0.2, 0.1, 1.4])
    return np.array([0.05, 0.4, 1.0, 3.0, 8.0])


@every
def test_link_inverts_its_inverse_and_is_monotone(link: Link):
    eta = predictors(link)
    mu = link.inverse(eta)
    assert link.link(mu) == pytest.approx(eta, rel=1e-12)
    assert np.all(np.diff(mu) > 0) or np.all(np.diff(mu) < 0)


@every
def test_derivatives_of_the_mean_and_of_its_logarithm(link: Link):
    eta = predictors(link)
    h = 2e-3 * np.min(np.abs(eta))
    full = lambda f, i: lambda e: np.asarray(f(e)[i]) + 0.0 * e  # noqa: E731
    for function, value in (
        (link.derivatives, link.inverse),
        (lambda e: link.log_derivatives(e)[1:], lambda e: np.log(link.inverse(e))),
    ):
        for i, lower in enumerate((value, full(function, 0), full(function, 1))):
            assert full(function, i)(eta) == pytest.approx(slope(lower, eta, h), rel=1e-8, abs=1e-8)
    assert link.d1(eta) == pytest.approx(slope(link.inverse, eta, h), rel=1e-8)


@binary
def test_log_probabilities_and_their_derivatives(link: Link):
    eta = (
        np.array([-20.0, -3.0, -1.1, -0.3])
        if link.name == "log"
        else np.array([-60.0, -20.0, -3.0, -0.2, 0.1, 2.5])
    )
    for side in range(2):

        def full(i, side=side):
            return lambda e: np.asarray(link.log_probabilities(e)[side][i]) + 0.0 * e

        for i in (1, 2, 3):
            assert full(i)(eta) == pytest.approx(slope(full(i - 1), eta, 1e-3), rel=1e-6, abs=1e-9)
    values, slopes = link.log_values(eta), link.log_slopes(eta)
    for side, value, own in zip(link.log_probabilities(eta), values, slopes, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(side, (value, *own), strict=True))
    p, q = (np.exp(side[0]) for side in link.log_probabilities(eta))
    assert p + q == pytest.approx(np.ones(len(eta)), rel=1e-12)
    assert p == pytest.approx(link.inverse(eta), rel=1e-12)


def test_log_probabilities_are_exact_far_out():
    """Leading terms of the expansions of log F and its derivatives as eta -> -inf."""
    for name, eta, wanted in (
        ("logit", -700.0, (-700.0, 1.0, -np.exp(-700.0))),
        ("probit", -1e6, (-5e11 - np.log(1e6 * np.sqrt(2 * np.pi)), 1e6 + 1e-6, -1.0 + 1e-12)),
        ("cloglog", -200.0, (-200.0, 1.0, -np.exp(-200.0) / 2)),
        ("cauchit", -1e9, (-np.log(np.pi * 1e9), 1e-9, 1e-18)),
    ):
        value, d1, d2, _ = LINKS[name].log_probabilities(np.array([eta]))[0]
        assert (value[0], d1[0], d2[0]) == pytest.approx(wanted, rel=1e-12)


def test_probit_series_meets_the_direct_formula():
    """On the two sides of eta = -25, where one takes over from the other."""
    e = np.array([-25.0, np.nextafter(-25.0, -100.0)])
    _, ratio, second, third = LINKS["probit"].log_derivatives(e)
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-14)
    assert second[0] == pytest.approx(second[1], rel=1e-12)
    assert third[0] == pytest.approx(
        third[1], rel=1e-7
    )  # the direct formula cancels to eight digits here


class GumbelMinimum(Link):
    """A link of one's own: mu = exp(-exp(-eta)), given by three functions."""

    name = "loglog"
    mean_low, mean_high = 0.0, 1.0

    def link(self, mu):
        return -np.log(-np.log(mu))

    def inverse(self, eta):
        return np.exp(-np.exp(-eta))

    def derivatives(self, eta):
        t = np.exp(-eta)
        d = t * np.exp(-t)
        return d, d * (t - 1), d * ((t - 1) ** 2 - t)


def test_a_link_of_ones_own_serves_a_family():
    """loglog at eta is cloglog at -eta with failures for successes."""
    eta, y = np.linspace(-1.5, 2.0, 6), np.array([0.0, 1, 0, 1, 1, 0])
    own, other = Binomial(GumbelMinimum()), Binomial("cloglog")
    assert own.log_density(y, eta) == pytest.approx(other.log_density(1 - y, -eta))
    for a, b, sign in zip(
        own.derivatives(y, eta), other.derivatives(1 - y, -eta), (-1, 1, -1), strict=True
    ):
        assert a == pytest.approx(sign * b)
    assert own.expected_weights(eta).weight == pytest.approx(other.expected_weights(-eta).weight)


def test_links_are_equal_by_what_they_are():
    assert (
        Logit() == LINKS["logit"]
        and Logit() != LINKS["probit"]
        and hash(Logit()) == hash(LINKS["logit"])
    )
