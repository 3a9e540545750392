"""Incomplete rows go before anything is computed from them, and the user's index stays attached."""

import numpy as np
import pandas as pd
import pytest

from lmm.design import build_design
from lmm.errors import DataError
from lmm.formula import Given
from lmm.formula.columns.engine import ModelMatrix
from lmm.formula.columns.table import missing
from lmm.formula.evaluate import check_finite


@pytest.fixture
def data():
    rng = np.random.default_rng(5)
    n = 80
    frame = pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "g": rng.integers(0, 8, n).astype(float),
            "f": pd.Categorical(rng.choice(["a", "b", "c"], n)),
            "w": rng.uniform(1, 2, n),
            "o": rng.normal(size=n),
            "unused": np.nan,
            "two words": np.arange(n),
            "class": np.arange(n) % 3,
        },
        index=rng.permutation(n) + 1000,
    )
    return frame


HOLES = {"y": 2, "x": 5, "g": 11, "f": 23, "w": 30, "o": 41}


def with_holes(data):
    data = data.copy()
    for column, row in HOLES.items():
        data.loc[data.index[row], column] = np.nan
    return data


def test_rows_missing_in_any_used_column_are_dropped(data):
    holes = with_holes(data)
    design = build_design("y ~ scale(x) + f + offset(o) + (x|g)", holes, Given(weights="w"))
    complete = holes.drop(columns="unused").dropna()
    assert design.n == len(complete) == 74 and design.n_dropped == 6
    assert design.index.equals(complete.index) and design.full_index.equals(data.index)
    np.testing.assert_array_equal(np.flatnonzero(~design.kept), sorted(HOLES.values()))
    np.testing.assert_array_equal(design.y, complete["y"])
    np.testing.assert_array_equal(design.weights, complete["w"])
    np.testing.assert_array_equal(design.offset, complete["o"])
    np.testing.assert_allclose(
        design.X[:, 1], (complete["x"] - complete["x"].mean()) / complete["x"].std(), rtol=1e-12
    )
    assert design.terms[0].levels[design.terms[0].codes].tolist() == [
        str(int(g)) for g in complete["g"]
    ]


def test_unused_columns_do_not_matter(data):
    assert build_design("y ~ x + (1|g)", data).n == 80


@pytest.mark.parametrize("column", HOLES)
def test_each_column_alone(data, column):
    holes = data.copy()
    holes.loc[holes.index[7], column] = np.nan
    design = build_design("y ~ x + f + offset(o) + (1|g)", holes, Given(weights="w"))
    assert design.n == 79 and not design.kept[7]


def test_fail_names_every_column(data):
    with pytest.raises(DataError, match=r"'y' \(1 rows\), 'x' \(1 rows\), 'g' \(1 rows\)"):
        build_design("y ~ x + (1|g)", with_holes(data), Given(na_action="fail"))
    assert build_design("y ~ x + (1|g)", data, Given(na_action="fail")).n == 80


def test_exclude_keeps_the_rows_to_pad(data):
    design = build_design("y ~ x + (1|g)", with_holes(data), Given(na_action="exclude"))
    assert (
        design.na_action == "exclude"
        and design.n == 77
        and len(design.full_index) == len(design.kept) == 80
    )


def test_subset_comes_before_missing_rows(data):
    holes = with_holes(data)
    design = build_design("y ~ x + (1|g)", holes, Given(subset=holes["w"] > 1.5))
    asked = holes[holes["w"] > 1.5]
    assert design.full_index.equals(asked.index) and len(design.kept) == len(asked)
    assert design.index.equals(asked.dropna(subset=["y", "x", "g"]).index)


SUBSETS = {
    "x > 0 & f != 'a'": lambda d: (d["x"] > 0) & (d["f"] != "a"),
    "x > 0 and f != 'a'": lambda d: (d["x"] > 0) & (d["f"] != "a"),
    "(x > 0) | !(f == 'a')": lambda d: (d["x"] > 0) | (d["f"] != "a"),
    "not x > 0 or w > 1.5 && g == 3": lambda d: ~(d["x"] > 0) | ((d["w"] > 1.5) & (d["g"] == 3)),
    "-1 < x < 1": lambda d: (d["x"] > -1) & (d["x"] < 1),
    "x^2 < limit": lambda d: d["x"] ** 2 < 0.5,
    "`two words` > 2 & class != 1": lambda d: (d["two words"] > 2) & (d["class"] != 1),
    "f.isin(['a', 'b'])": lambda d: d["f"].isin(["a", "b"]),
}


@pytest.mark.parametrize("text", SUBSETS)
def test_conditions_bind_as_in_r(data, text):
    rows = SUBSETS[text](data)
    assert 0 < rows.sum() < 80
    for subset in (text, rows, rows.to_numpy(), SUBSETS[text]):
        design = build_design("y ~ (1|g)", data, Given(subset=subset, context={"limit": 0.5}))
        assert design.index.equals(data.index[rows])


def test_a_missing_condition_leaves_the_row_out(data):
    holes = data.assign(x=data["x"].where(data["x"] < 1))
    design = build_design("y ~ (1|g)", holes, Given(subset="x > 0"))
    assert design.index.equals(data.index[(data["x"] > 0) & (data["x"] < 1)])


def test_weights_given_as_an_array_follow_the_rows(data):
    holes = with_holes(data)
    weights = np.arange(1.0, 81.0)
    design = build_design("y ~ x + (1|g)", holes, Given(weights=weights, subset=holes["w"] > 1.5))
    np.testing.assert_array_equal(design.weights, weights[data.index.isin(design.index)])


def test_infinity_is_not_missing(data):
    holes = data.copy()
    holes.loc[holes.index[3], "x"] = np.inf
    holes.loc[holes.index[4], "x"] = np.nan
    with pytest.raises(DataError, match="the term x is infinite in 1 of 79 rows"):
        build_design("y ~ x + (1|g)", holes)


def test_huge_numbers_are_not_infinite():
    values = np.asfortranarray(np.tile([[1.0, 1.7e308]], (4, 1)))
    check_finite(ModelMatrix(values, ("Intercept", "x"), ("1", "x"), None))
    values[2, 1] = -np.inf
    with pytest.raises(DataError, match="the term x is infinite in 1 of 4 rows"):
        check_finite(ModelMatrix(values, ("Intercept", "x"), ("1", "x"), None))
    assert missing(pd.Series([1.7e308, 1.7e308])) is None
