"""Responses as users have them, and the error that each bad one gets."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from lmm.design import build_design
from lmm.errors import LmmWarning, ResponseError
from lmm.families import (
    Binomial,
    Gamma,
    Gaussian,
    InverseGaussian,
    NegativeBinomial,
    NegativeBinomial1,
    Poisson,
)
from lmm.formula import Given

GOOD = [0.0, 1, 1, 0, 1]
BINARY = {
    "numbers": np.array(GOOD),
    "integers": pd.Series([0, 1, 1, 0, 1]),
    "boolean": pd.Series([False, True, True, False, True]),
    "nullable boolean": pd.Series([False, True, True, False, True], dtype="boolean"),
    "text": pd.Series(["no", "yes", "yes", "no", "yes"]),
    "objects": pd.Series(["no", "yes", "yes", "no", "yes"], dtype=object),
    "array of text": np.array(["no", "yes", "yes", "no", "yes"]),
    "categorical": pd.Series(
        pd.Categorical(["up", "down", "down", "up", "down"], categories=["up", "down"])
    ),
    "unused level": pd.Series(
        pd.Categorical(["b", "a", "a", "b", "a"], categories=["c", "b", "a"])
    ),
    "categorical numbers": pd.Series(pd.Categorical([2, 1, 1, 2, 1], categories=[2, 1])),
}


@pytest.mark.parametrize("values", BINARY.values(), ids=list(BINARY))
def test_binary_responses(values):
    y, trials = Binomial().response(values, "won")
    assert y.dtype == float and y.tolist() == GOOD and trials is None
    Binomial().check(y, None, "won")


def test_two_columns_of_counts():
    y, trials = Binomial().response(np.array([[1, 3], [0, 2], [5, 0]]), "cbind(a, b)")
    assert y.tolist() == [0.25, 0.0, 1.0] and trials.tolist() == [4.0, 2.0, 5.0]
    Binomial().check(y, trials, "cbind(a, b)")


def test_proportions_with_trials():
    y, trials = Binomial().response(pd.Series([1 / 3, 0.5, 1.0]), "share")
    assert trials is None
    Binomial().check(y, np.array([3.0, 4.0, 7.0]), "share")


BAD = {
    "three": (Binomial(), [0, 1, 3.0], r"'won' must be 0 or 1.*the first is 3"),
    "negative": (Binomial(), [0, 1, -1.0], r"'won' .*outside \[0, 1\]"),
    "three levels": (
        Binomial(),
        pd.Series(["a", "b", "c"]),
        r"'won' has 3 levels \('a', 'b', 'c'\)",
    ),
    "one level": (Binomial(), pd.Series(["a", "a"]), r"'won' is constant \('a'"),
    "all failures": (Binomial(), [0.0, 0, 0], "'won' is constant: failure"),
    "all successes": (Binomial(), pd.Series([True, True]), "'won' is constant: success"),
    "all failures in two columns": (
        Binomial(),
        np.array([[0, 3], [0, 2]]),
        "'won' is constant: failure",
    ),
    "negative counts in two columns": (
        Binomial(),
        np.array([[1, -3], [0, 2]]),
        "'won' has negative counts in 1 of 2",
    ),
    "fractions in two columns": (
        Binomial(),
        np.array([[1, 2.5], [0, 2]]),
        "'won' must be whole counts",
    ),
    "no trials": (Binomial(), np.array([[0, 0], [0, 0]]), "'won' has no trials in any row"),
    "three columns": (
        Binomial(),
        np.ones((4, 3)),
        r"'won' must be one column, but its shape is \(4, 3\)",
    ),
    "infinite in two columns": (Binomial(), np.array([[np.inf, 1], [1, 2]]), "'won' is infinite"),
    "two columns for counts": (Poisson(), np.ones((4, 2)), "cbind.* is for the binomial"),
    "negative counts": (Poisson(), [1, -2.0, 3], "'won' must be a count.*first is -2"),
    "rates": (
        Poisson(),
        [1, 2.5, 3],
        r"'won' must be whole counts.*2\.5.*offset\(log\(exposure\)\)",
    ),
    "negative counts, NB": (
        NegativeBinomial(),
        [1, -2.0, 3],
        "'won' must be a count.*negative_binomial",
    ),
    "rates, NB1": (NegativeBinomial1(), [1, 2.5, 3], "'won' must be whole counts"),
    "constant counts": (Poisson(), [3.0, 3, 3], r"'won' is constant \(3\)"),
    "constant": (Gaussian(), [1.5, 1.5], r"'won' is constant \(1\.5\)"),
    "zero": (Gamma(), [0, 1.0, 2], "'won' must be positive for the gamma family; 1 of 3"),
    "negative, IG": (
        InverseGaussian(),
        [-1, 1.0, 2],
        "'won' must be positive for the inverse_gaussian family",
    ),
    "infinite": (Gamma(), [np.inf, 1.0, 2], "'won' is infinite in 1 of 3"),
    "missing": (Gaussian(), [np.nan, 1.0, 2], "'won' is not a number in 1 of 3"),
    "text": (
        Poisson(),
        pd.Series(["2", "3"]),
        "'won' must be numeric, but it is text; the first value is '2'",
    ),
    "categorical": (
        Gamma(),
        pd.Series([1, 2], dtype="category"),
        "'won' must be numeric, but it is categorical",
    ),
    "dates": (
        Binomial(),
        pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])),
        "'won' must be numeric, but it is datetime",
    ),
}


@pytest.mark.parametrize("family, values, message", BAD.values(), ids=list(BAD))
def test_bad_responses_are_refused_by_name(family, values, message):
    values = np.array(values) if isinstance(values, list) else values
    with pytest.raises(ResponseError, match=message):
        family.response(values, "won")


def test_proportions_without_weights_are_refused():
    y, _ = Binomial().response(np.array([0.25, 0.5, 1.0]), "share")
    with pytest.raises(
        ResponseError, match="'share' holds proportions .2 of 3.*weights=, or write cbind"
    ):
        Binomial().check(y, None, "share")


def test_trials_that_are_not_whole_are_refused():
    with pytest.raises(
        ResponseError,
        match="'share' must be a whole number of trials; 1 of 3 are not, the first is 2.5",
    ):
        Binomial().check(np.array([0.25, 0.0, 1.0]), np.array([4.0, 2.5, 3.0]), "share")


def test_successes_that_are_not_whole_are_told():
    with pytest.warns(
        LmmWarning,
        match=r"'share' times its weights is not a whole number.* 1 of 3 rows, the first is 0.25 x 3 = 0.75",
    ):
        Binomial().check(np.array([0.25, 0.0, 1.0]), np.array([3.0, 2.0, 3.0]), "share")


def test_proportions_in_single_precision_are_whole():
    k = np.arange(1, 200_000, 997)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Binomial().check(
            (k / 200_000).astype(np.float32).astype(float), np.full(len(k), 200_000.0), "share"
        )


def test_rows_without_trials_weigh_nothing():
    y, trials = Binomial().response(np.array([[0, 0], [1, 2], [2, 0]]), "won")
    assert y.tolist() == [0.0, 1 / 3, 1.0] and trials.tolist() == [0.0, 3.0, 2.0]


def test_equal_proportions_are_not_constant():
    y, _ = Binomial().response(np.array([[1, 1], [2, 2]]), "cbind(a, b)")
    assert y.tolist() == [0.5, 0.5]


def test_families_read_the_response_of_a_design():
    """The three forms of a binomial response give the same y and trials."""
    data = pd.DataFrame(
        {"won": [1, 2, 0, 4], "lost": [3, 1, 2, 0], "x": [0.1, 0.5, 0.2, 0.9], "g": list("aabb")}
    )
    data["n"] = data["won"] + data["lost"]
    data["share"] = data["won"] / data["n"]
    two = build_design("cbind(won, lost) ~ x + (1|g)", data, family=Binomial())
    share = build_design("share ~ x + (1|g)", data, Given(weights="n"), family=Binomial())
    assert two.y.tolist() == share.y.tolist() == [0.25, 2 / 3, 0.0, 1.0]
    assert two.weights.tolist() == share.weights.tolist() == [4.0, 3.0, 2.0, 4.0]
    data["result"] = ["win", "loss", "win", "loss"]
    text = build_design("result ~ x + (1|g)", data, family=Binomial())
    assert text.y.tolist() == [1.0, 0.0, 1.0, 0.0] and text.weights is None
