"""R's functions: values from R 4.2 where R has them, memory where new data must not be looked at."""

import numpy as np
import pandas as pd
import pytest

from lmm.errors import DataError, LmmWarning
from lmm.formula.columns.engine import FUNCTIONS, Columns, Evaluator, wilkinson
from lmm.formula.columns.functions import cut, dummy, factor, ifelse, interaction, ns, relevel

x = np.array([0.1, 0.4, 0.9, 1.3, 2.2, 2.8, 3.7, 4.0, 5.5, 7.0])

# R: ns(x, df = 3), rows 2, 5, 10; predict(ns(x, df = 3), c(-1, 3, 9)); ns(x, knots = c(1, 3), intercept = TRUE), rows 1, 5, 10
NS = [
    [-0.0523636505416, 0.145280311754, -0.0920108641107],
    [0.0494072683331, 0.575324154806, -0.3584509120790],
    [-0.1512301013025, 0.412445730825, 0.7387843704776],
]
NS_NEW = [
    [0.197354437891, -0.538239376065, 0.340884938175],
    [0.295318494205, 0.500998159369, -0.277394675722],
    [-0.860347322721, 0.528219971056, 1.332127351664],
]
NS_FULL = [
    [-0.185027013632, -0.253462914169, 0.633657285421, -0.3801943712529],
    [0.604876514318, 0.277617897760, 0.155562452002, -0.0789374712011],
    [0.000000000000, -0.157894736842, 0.394736842105, 0.7631578947368],
]
# R: bs(x, df = 5), rows 1, 4, 9; poly(x, 2), rows 1, 5, 10
BS = [
    [0.0, 0.0, 0.0, 0.0, 0.0],
    [0.444444444444, 0.4975845410628, 0.0579710144928, 0.0, 0.0],
    [0.0, 0.0260037445392, 0.2469982471734, 0.564714011293, 0.162283996995],
]
POLY = [
    [-0.3946972456650, 0.407121893550],
    [-0.0865692843652, -0.258253715990],
    [0.6177231986058, 0.586866273915],
]


def matrix(text, values=x):
    evaluator = Evaluator(Columns({"x": pd.Series(values)}, len(values)), {}, {}, {})
    return evaluator.matrices({"a": wilkinson("0 + " + text, text)})["a"].values


def test_natural_splines_are_those_of_r():
    state = {}
    np.testing.assert_allclose(
        np.column_stack(list(ns(x, df=3, _state=state).values()))[[1, 4, 9]], NS, atol=1e-11
    )
    np.testing.assert_allclose(
        np.column_stack(list(ns(np.array([-1.0, 3.0, 9.0]), _state=state).values())),
        NS_NEW,
        atol=1e-11,
    )
    np.testing.assert_allclose(
        np.column_stack(list(ns(x, knots=[1, 3], intercept=True).values()))[[0, 4, 9]],
        NS_FULL,
        atol=1e-11,
    )
    np.testing.assert_allclose(matrix("ns(x, df=3)")[[1, 4, 9]], NS, atol=1e-11)


def test_b_splines_and_polynomials_are_those_of_r():
    np.testing.assert_allclose(matrix("bs(x, df=5)")[[0, 3, 8]], BS, atol=1e-11)
    np.testing.assert_allclose(matrix("poly(x, 2)")[[0, 4, 9]], POLY, atol=1e-11)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("I(x^2)", x**2),
        ("sqrt(x)", np.sqrt(x)),
        ("log(x)", np.log(x)),
        ("log(x, 2)", np.log2(x)),
        ("log2(x)", np.log2(x)),
        ("log10(x)", np.log10(x)),
        ("log1p(x)", np.log1p(x)),
        ("exp(x)", np.exp(x)),
        ("expm1(x)", np.expm1(x)),
        ("abs(x - 3)", np.abs(x - 3)),
        ("scale(x)", (x - x.mean()) / x.std(ddof=1)),
        ("center(x)", x - x.mean()),
        ("I(x - mean(x))", x - x.mean()),
        ("I((x - median(x)) / sd(x))", (x - np.median(x)) / x.std(ddof=1)),
        ("ifelse(x > 2, 1, 0)", (x > 2).astype(float)),
        ("pmin(x, 2)", np.minimum(x, 2)),
        ("as_numeric(x)", x),
    ],
)
def test_numeric_functions(text, value):
    np.testing.assert_allclose(matrix(text.replace("^", "**"))[:, 0], value, rtol=1e-12)


def test_names_of_the_list_are_there():
    wanted = "factor C I ns bs poly scale center sqrt log log2 log10 log1p exp expm1 abs cbind relevel ifelse interaction cut"
    assert set(wanted.split()) <= set(FUNCTIONS)


def test_factor_orders_numbers_as_numbers():
    assert list(factor([10, 2, 10]).cat.categories) == [2, 10]
    assert list(factor(["b", "a"], levels=["b", "a"]).cat.categories) == ["b", "a"]
    assert list(factor([1, 2, 1], labels=["one", "two"])) == ["one", "two", "one"]
    with pytest.raises(DataError, match="3 labels for 2 levels"):
        factor([1, 2], labels=["a", "b", "c"])


def test_relevel_moves_one_level_first():
    assert list(relevel(["a", "b", "c"], "c").cat.categories) == ["c", "a", "b"]
    assert list(relevel([1, 2, 3], 2).cat.categories) == [2, 1, 3]
    with pytest.raises(DataError, match="'z' is no level"):
        relevel(["a"], "z")


def test_interaction_varies_the_first_factor_fastest():
    # R: levels(interaction(c("b", "a", "b"), c("x", "y", "y"), drop = TRUE)) without the unobserved a.x
    assert list(interaction(["b", "a", "b"], ["x", "y", "y"]).cat.categories) == [
        "b.x",
        "a.y",
        "b.y",
    ]
    assert list(interaction(["b", "a", "b"], ["x", "y", "y"])) == ["b.x", "a.y", "b.y"]


def test_cut_keeps_its_limits_on_new_data():
    state = {}
    first = cut(x, 3, _state=state)
    again = cut(x[:2], 3, _state=state)
    assert list(again) == list(first[:2])


def test_ifelse_can_choose_text():
    assert list(ifelse(np.array([True, False]), "a", "b")) == ["a", "b"]


def test_dummy_marks_levels_and_remembers_them():
    state = {}
    assert list(dummy(["b", "a", "b"], "b")) == [1, 0, 1]
    columns = dummy(["b", "a", "c"], _state=state)
    assert {k: list(v) for k, v in columns.items()} == {"b": [1, 0, 0], "c": [0, 0, 1]}
    assert {k: list(v) for k, v in dummy(["c"], _state=state).items()} == {"b": [0], "c": [1]}
    with pytest.raises(DataError, match="'z' is no level"):
        dummy(["a", "b"], "z")


def test_extremes_of_several_columns_leave_them_as_they_are():
    x, y, z = (pd.Series(v) for v in ([1.0, 5.0], [2.0, 4.0], [3.0, 3.0]))
    assert FUNCTIONS["pmin"](x, y, z).tolist() == [1, 3] and FUNCTIONS["pmax"](
        x, y, z
    ).tolist() == [3, 5]
    assert z.tolist() == [3, 3]
    with pytest.raises(TypeError):
        FUNCTIONS["sqrt"](x, z)


def test_labels_given_twice_make_one_level():
    state = {}
    made = FUNCTIONS["factor"](pd.Series([1, 2, 3]), labels=["low", "high", "high"], _state=state)
    assert made.tolist() == ["low", "high", "high"] and list(made.cat.categories) == ["low", "high"]
    assert FUNCTIONS["factor"](
        pd.Series(["3", "9"]), labels=["low", "high", "high"], _state=state
    ).tolist() == ["high", "9"]


def test_intervals_are_counted_from_one():
    assert FUNCTIONS["cut"](pd.Series([0.5, 1.5]), [0, 1, 2], labels=False).tolist() == [1, 2]


def test_splines_have_the_values_of_r():
    # splines::bs(c(0, 1, 2.5), degree = 2, knots = 1, Boundary.knots = c(0, 2)), beyond the boundary in the last row
    with pytest.warns(LmmWarning, match="beyond the boundary knots, 0 and 2"):
        basis = FUNCTIONS["bs"](pd.Series([0, 1, 2.5]), knots=1, degree=2, Boundary_knots=[0, 2])
    np.testing.assert_allclose(
        np.column_stack(list(basis.values())),
        [[0, 0, 0], [0.5, 0.5, 0], [0.125, -1.375, 2.25]],
        atol=1e-12,
    )
