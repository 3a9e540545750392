"""The ordinal family: derivatives in eta and in the thresholds' parameters, information, responses and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, ResponseError
from lmm.families import Binomial, Ordinal

KINDS = [
    Ordinal(link, thresholds).of(tuple("abcde"))
    for link in Ordinal.link_names
    for thresholds in ("flexible", "equidistant")
]
kinds = pytest.mark.parametrize("family", KINDS, ids=str)
ETA = np.array([-2.0, -0.4, 0.0, 0.9, 1.7, 0.2, -1.1])
Y = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 2.0, 0.0])
W = np.array([1.0, 2.0, 0.5, 3.0, 1.0, 1.0, 4.0])


def phi_of(family: Ordinal) -> np.ndarray:
    return np.array([-1.2, 0.8]) if family.equidistant else np.array([-1.2, -0.5, 0.1, 1.4])


def slope(f, x: np.ndarray, h: float = 1e-3) -> np.ndarray:
    """Central differences of fourth order, one row per element of x."""
    units = h * np.eye(len(x))
    return np.array(
        [(8 * (f(x + u) - f(x - u)) - (f(x + 2 * u) - f(x - 2 * u))) / (12 * h) for u in units]
    )


@kinds
def test_probabilities_are_those_of_the_definition(family: Ordinal) -> None:
    phi = phi_of(family)
    p = family.probabilities(ETA, phi)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(
        np.cumsum(p, axis=1)[:, :-1],
        family.link.inverse(family.cuts(phi) - ETA[:, None]),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        family.cumulative(ETA, phi), np.cumsum(p, axis=1)[:, :-1], rtol=1e-12
    )
    chosen = np.log(p[np.arange(len(Y)), Y.astype(int)])
    np.testing.assert_allclose(family.log_density(Y, ETA, None, phi), chosen, rtol=1e-12)
    np.testing.assert_allclose(family.log_density(Y, ETA, W, phi), W * chosen, rtol=1e-12)


@kinds
def test_derivatives_in_the_parameters(family: Ordinal) -> None:
    rho = family.to_rho(phi_of(family))
    d = family.parameter_derivatives(Y, ETA, W, phi_of(family))

    def at(f):
        return lambda rho: f(family.from_rho(rho))

    first = slope(at(lambda phi: family.log_density(Y, ETA, W, phi)), rho)
    np.testing.assert_allclose(d.first, first, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        family.parameter_scores(Y, ETA, W, phi_of(family)), d.first, rtol=1e-14
    )
    np.testing.assert_allclose(
        d.eta,
        slope(at(lambda phi: family.derivatives(Y, ETA, W, phi).d1), rho),
        rtol=1e-8,
        atol=1e-9,
    )
    np.testing.assert_allclose(
        d.eta_eta,
        slope(at(lambda phi: family.derivatives(Y, ETA, W, phi).d2), rho),
        rtol=1e-8,
        atol=1e-9,
    )
    np.testing.assert_allclose(
        d.weight,
        slope(at(lambda phi: family.expected_weights(ETA, W, phi).weight), rho),
        rtol=1e-8,
        atol=1e-9,
    )
    # the part of the second derivative that is not in the gradient: J' H J
    J = family.cuts_jacobian(phi_of(family)) @ family.phi_jacobian(phi_of(family))
    cuts = family.cuts(phi_of(family))
    flexible = Ordinal(family.link).of(family.categories)

    def score(alpha: np.ndarray) -> np.ndarray:
        own = flexible.parameter_scores(Y, ETA, W, alpha).sum(axis=1)
        return np.linalg.solve(flexible.phi_jacobian(alpha).T, own)

    np.testing.assert_allclose(d.second, J.T @ slope(score, cuts) @ J, rtol=1e-7, atol=1e-8)
    assert np.linalg.eigvalsh(d.second).max() < 0


@kinds
def test_parameters_there_and_back(family: Ordinal) -> None:
    phi = phi_of(family)
    np.testing.assert_allclose(family.from_rho(family.to_rho(phi)), phi, rtol=1e-14)
    names, J = family.reported(phi)
    np.testing.assert_allclose(slope(family.from_rho, family.to_rho(phi)).T, J, atol=1e-9)
    assert names == (
        ["threshold.1", "spacing"] if family.equidistant else ["a|b", "b|c", "c|d", "d|e"]
    )
    assert family.n_parameters == len(phi)
    family.check_parameters(phi)
    with pytest.raises(ArgumentError, match="spacing" if family.equidistant else "increasing"):
        family.check_parameters(phi * [1.0, -1.0] if family.equidistant else phi[::-1])


@kinds
def test_expected_information_is_the_mean_of_the_observed(family: Ordinal) -> None:
    phi = phi_of(family)
    p = family.probabilities(ETA, phi)
    each = [family.derivatives(np.full(len(ETA), float(k)), ETA, None, phi) for k in range(5)]
    np.testing.assert_allclose(sum(p[:, k] * d.d1 for k, d in enumerate(each)), 0.0, atol=1e-14)
    info = family.expected_weights(ETA, None, phi)
    np.testing.assert_allclose(
        info.weight, -sum(p[:, k] * d.d2 for k, d in enumerate(each)), rtol=1e-12
    )
    np.testing.assert_allclose(
        info.slope,
        np.diag(slope(lambda eta: family.expected_weights(eta, None, phi).weight, ETA)),
        atol=1e-9,
    )


@pytest.mark.parametrize("link", Ordinal.link_names)
def test_two_categories_are_a_binomial_response(link: str) -> None:
    """P(y = 1) = 1 - F(alpha - eta), a success where F is symmetric; otherwise a failure of the binomial with -eta."""
    family, alpha = Ordinal(link).of((0, 1)), np.array([0.3])
    y = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    mine, other = (
        family.derivatives(y, ETA, W, alpha),
        Binomial(link).derivatives(1 - y, alpha - ETA, W),
    )
    np.testing.assert_allclose(
        family.kernel(y, ETA, W, alpha), Binomial(link).kernel(1 - y, alpha - ETA, W), rtol=1e-13
    )
    for sign, a, b in zip((-1, 1, -1), mine, other, strict=True):
        np.testing.assert_allclose(a, sign * b, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(family.parameter_scores(y, ETA, W, alpha)[0], other.d1, rtol=1e-12)


@kinds
def test_draws_have_the_probabilities(family: Ordinal) -> None:
    phi, n = phi_of(family), 40_000
    for eta in (-1.0, 0.6):
        shares = (
            np.bincount(
                family.simulate(np.random.default_rng(5), np.full(n, eta), None, phi).astype(int),
                minlength=5,
            )
            / n
        )
        p = family.probabilities(np.array([eta]), phi)[0]
        assert (np.abs(shares - p) < 5 * np.sqrt(p * (1 - p) / n)).all()


def test_start_without_predictors_is_the_observed_shares() -> None:
    family = Ordinal("cloglog").of(("a", "b", "c"))
    y = np.repeat([0.0, 1.0, 2.0], [5, 3, 2])
    np.testing.assert_allclose(
        family.probabilities(np.zeros(1), family.initial_phi(y, None))[0], [0.5, 0.3, 0.2]
    )
    spaced = Ordinal(thresholds="equidistant").of(tuple("abcde"))
    cuts = spaced.cuts(spaced.initial_phi(np.repeat(np.arange(5.0), [4, 9, 3, 2, 2]), None))
    np.testing.assert_allclose(np.diff(cuts), np.diff(cuts)[0])
    assert np.diff(cuts)[0] > 0


@pytest.mark.parametrize(
    "values, categories, said",
    [
        (
            pd.Series(
                ["low", "mid", "high", "low"], dtype=pd.CategoricalDtype(["low", "mid", "high"])
            ),
            ("low", "mid", "high"),
            "",
        ),
        (
            pd.Series(pd.Categorical(["b", "a", "d", "a"], ["d", "b", "a"], ordered=True)),
            ("d", "b", "a"),
            "",
        ),
        (
            pd.Series(pd.Categorical(["b", "a", "d"], ["d", "c", "b", "a"])),
            ("d", "b", "a"),
            "category 'c' occurs in no row of 'y' and was",
        ),
        (
            pd.Series(pd.Categorical(["b", "a", "d"], list("edxba"))),
            ("d", "b", "a"),
            "categories 'e', 'x' occur in no row of 'y' and were",
        ),
        (pd.Series([3, 1, 10, 3]), (1, 3, 10), ""),
        (pd.Series([3.0, 1.0, 10.0]), (1, 3, 10), ""),
        (
            pd.Series(["no", "maybe", "yes"]),
            ("maybe", "no", "yes"),
            "sorted order: maybe < no < yes",
        ),
    ],
)
def test_responses(values: pd.Series, categories: tuple, said: str) -> None:
    family, messages = Ordinal("probit").bind(values, "y", getattr(values.dtype, "categories", ()))
    assert family.categories == categories and family.link.name == "probit"
    assert (not messages and not said) or said in messages[0]
    y, trials = family.response(values, "y")
    assert trials is None and [categories[int(k)] for k in y] == list(values)


@pytest.mark.parametrize(
    "values, words",
    [
        (["a"] * 4, "'rating' is constant"),
        (["a", "b", "a"], "'rating' has two categories.*Binomial"),
        ([True, False, True], "'rating' has two categories"),
        ([1.0, 2.5, 3.0], "'rating' must be categorical, text or whole numbers.*2.5"),
        ([1.0, np.inf, 3.0], "'rating' is infinite"),
        (np.arange(200), "'rating' has 200 different values"),
        (np.ones((4, 2)), "'rating' must be one column"),
    ],
)
def test_refused_responses(values, words: str) -> None:
    with pytest.raises(ResponseError, match=words):
        Ordinal().bind(values if np.ndim(values) == 2 else pd.Series(values), "rating")


def test_a_new_response_must_be_of_the_same_categories() -> None:
    family = Ordinal().of(("a", "b", "c"))
    np.testing.assert_array_equal(
        family.response(np.array(["c", "a", "b"]), "rating")[0], [2, 0, 1]
    )
    with pytest.raises(ResponseError, match="'rating' holds 'd', which is none of"):
        family.response(np.array(["c", "a", "d", "b"]), "rating")
    with pytest.raises(ResponseError, match="no row of the response 'rating' is 'b'"):
        family.response(np.array(["c", "a"]), "rating")


def test_misspelt_settings_are_named() -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'probit'"):
        Ordinal("probti")
    with pytest.raises(ArgumentError, match="no link 'log'; its links are logit, probit, cloglog"):
        Ordinal("log")
    with pytest.raises(ArgumentError, match="Did you mean 'equidistant'"):
        Ordinal(thresholds="equidistantt")

    class Own(lmm.families.links.Logit):
        name = "own"

    with pytest.raises(ArgumentError, match="no link 'own'"):
        Ordinal(Own())


def test_a_family_is_a_value() -> None:
    family = Ordinal("probit", "equidistant").of(("a", "b", "c"))
    assert family == pickle.loads(pickle.dumps(family)) and hash(family) == hash(
        pickle.loads(pickle.dumps(family))
    )
    assert family != Ordinal("probit").of(("a", "b", "c")) and family != Ordinal(
        "probit", "equidistant"
    )
    assert repr(family) == "Ordinal(link='probit', thresholds='equidistant')"
    assert (
        lmm.families.get("ordinal")
        == lmm.families.get("cumulative")
        == Ordinal()
        == lmm.families.get(Ordinal)
    )
