"""Responses, families and arguments that glmer() cannot use: each its own error, which names what is wrong."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, DataError, LmmWarning, PredictionError, ResponseError


@cache
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 90
    return pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "g": rng.integers(0, 9, n).astype(str),
            "h": rng.integers(0, 6, n).astype(str),
            "binary": rng.integers(0, 2, n),
            "count": rng.poisson(3.0, n),
            "positive": rng.gamma(2.0, 1.0, n),
            "trials": 10,
            "proportion": rng.binomial(10, 0.4, n) / 10,
            "word": rng.choice(["no", "yes"], n),
        }
    )


def fit(formula: str, table: pd.DataFrame | None = None, **arguments):
    return lmm.glmer(formula, data() if table is None else table, **arguments)


def with_value(column: str, value: object) -> pd.DataFrame:
    """One value of a column replaced."""
    table = (
        data().astype({column: object})
        if isinstance(value, str)
        else data().astype({column: float})
    )
    table.loc[4, column] = value
    return table


BAD_RESPONSES = {
    "negative counts": (
        "count",
        with_value("count", -1),
        "poisson",
        "count.*negative|negative.*count",
    ),
    "fractional counts": (
        "count",
        with_value("count", 2.5),
        "poisson",
        "count.*whole|whole.*count",
    ),
    "negative binomial, fractional": (
        "count",
        with_value("count", 2.5),
        "negative_binomial",
        "count",
    ),
    "three for a binary": (
        "binary",
        with_value("binary", 3),
        "binomial",
        r"0 or 1.*the first is 3",
    ),
    "three levels": ("word", with_value("word", "maybe"), "binomial", "3 levels.*two"),
    "proportions without trials": ("proportion", None, "binomial", "weights="),
    "zero for a gamma": ("positive", with_value("positive", 0.0), "gamma", "positive"),
    "negative for an inverse Gaussian": (
        "positive",
        with_value("positive", -2.0),
        "inverse_gaussian",
        "positive",
    ),
    "infinite": ("positive", with_value("positive", np.inf), "gamma", "infinite"),
    "constant counts": ("count", data().assign(count=4), "poisson", "constant"),
    "constant successes": ("binary", data().assign(binary=1), "binomial", "constant: success"),
    "constant failures": ("binary", data().assign(binary=0), "binomial", "constant: failure"),
    "one level": ("word", data().assign(word="yes"), "binomial", "constant"),
    "text for a count": ("word", None, "poisson", "numeric"),
}


@pytest.mark.parametrize("name", BAD_RESPONSES)
def test_a_response_that_the_family_cannot_have(name: str) -> None:
    column, table, family, says = BAD_RESPONSES[name]
    with pytest.raises(ResponseError, match=says) as raised:
        fit(f"{column} ~ x + (1|g)", table, family=family)
    assert repr(column) in str(raised.value)


def test_fractional_successes() -> None:
    with pytest.warns(LmmWarning, match="is not a whole number of successes in .* the first is"):
        fit(
            "proportion ~ x + (1|g)",
            data().assign(proportion=0.333 * data()["proportion"]),
            family="binomial",
            weights="trials",
        )


def test_fractional_trials() -> None:
    with pytest.raises(ResponseError, match="whole number of trials"):
        fit("binary ~ x + (1|g)", data().assign(trials=2.5), family="binomial", weights="trials")


def test_fractional_counts_of_successes_and_failures() -> None:
    with pytest.raises(ResponseError, match="whole counts"):
        fit("cbind(count, trials - 0.5) ~ x + (1|g)", family="binomial")


def test_more_successes_than_trials() -> None:
    with pytest.raises(ResponseError, match="negative counts"):
        fit("cbind(trials, 5 - trials) ~ x + (1|g)", family="binomial")


def test_no_trials() -> None:
    with pytest.raises(ResponseError, match="no trials in any row"):
        fit("cbind(count * 0, trials * 0) ~ x + (1|g)", family="binomial")


def test_two_columns_for_a_count() -> None:
    with pytest.raises(ResponseError, match="cbind.*binomial"):
        fit("cbind(count, trials) ~ x + (1|g)", family="poisson")


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("poison", "'poisson'"),
        ("binomal", "'binomial'"),
        ("quasipoisson", "no likelihood"),
        ("quasibinomial", "no likelihood"),
        (None, "unknown family None"),
        (3, "unknown family 3"),
    ],
)
def test_unknown_families(family, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        fit("count ~ x + (1|g)", family=family)


def test_a_link_that_the_family_does_not_have() -> None:
    with pytest.raises(ArgumentError, match="no link 'logit'; its links are log"):
        lmm.families.Poisson(link="logit")
    with pytest.raises(ArgumentError, match="'probit'"):
        lmm.families.Binomial(link="probitt")


@pytest.mark.parametrize("nagq", [-1, 2.5, "seven", True, None])
def test_points_of_quadrature(nagq) -> None:
    with pytest.raises(ArgumentError, match="nAGQ"):
        fit("binary ~ x + (1|g)", family="binomial", nAGQ=nagq)


def test_quadrature_over_two_factors() -> None:
    with pytest.raises(ArgumentError, match="single grouping factor"):
        fit("binary ~ x + (1|g) + (1|h)", family="binomial", nAGQ=5)


def test_quadrature_over_many_effects() -> None:
    with pytest.raises(ArgumentError, match="nAGQ"):
        fit("binary ~ x + (x + count + positive|g)", family="binomial", nAGQ=5)


def test_weights_must_suit() -> None:
    with pytest.raises((DataError, ArgumentError), match="weights"):
        fit("count ~ x + (1|g)", family="poisson", weights=-np.ones(90))
    with pytest.raises((DataError, ArgumentError), match="weights|columns"):
        fit("proportion ~ x + (1|g)", family="binomial", weights="tirals")


def test_control_is_a_control() -> None:
    with pytest.raises(ArgumentError, match="Control"):
        fit("count ~ x + (1|g)", family="poisson", control={"tolerance": 1e-4})
    with pytest.raises(ArgumentError, match="curvature"):
        lmm.Control(curvature="expectd")


def test_new_data_that_cannot_be_predicted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LmmWarning)
        f = fit("count ~ x + (1|g)", family="poisson")
    with pytest.raises((PredictionError, DataError), match="x"):
        f.predict(pd.DataFrame({"g": ["1", "2"]}))
    with pytest.raises(PredictionError, match="elsewhere"):
        f.predict(pd.DataFrame({"x": [0.0], "g": ["elsewhere"]}))
    assert np.all(np.isfinite(f.predict(pd.DataFrame({"x": [0.0, 1.0], "g": ["1", "2"]}))))
