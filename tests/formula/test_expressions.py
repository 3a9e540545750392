"""R's operators: what binds to what, checked by value against expressions with every bracket written."""

import numpy as np
import pandas as pd
import pytest

from lmm.errors import DataError, FormulaError
from lmm.formula.columns.engine import Columns, Evaluator
from lmm.formula.text.expressions import python

u = pd.Series([0, 1, 2, 3, 4, 5, 7, 2])
x = pd.Series([0.5, -1.5, 2.5, 3.5, -4.0, 5.0, 0.0, 1.0])
b = pd.Series([True, False, True, True, False, False, True, False])
f = pd.Series(list("abcabcab"))
DATA = {
    "u": u,
    "x": x,
    "b": b,
    "f": f,
    "c_": f.astype("category"),
    "n": pd.Series(pd.Categorical(u)),
}


def value(text, **more):
    columns = {**DATA, **more}
    found = Evaluator(Columns(columns, len(u)), {}, {}, {}).expression(python(text))
    return np.asarray(found)


# the values are those of R 4.2: with(d, <text>)
CASES = {
    "u > 2 & b": (u > 2) & b,
    "u > 2 | b": (u > 2) | b,
    "u > 2 && x < 4 || !b": ((u > 2) & (x < 4)) | ~b,
    "u == 2 | u == 3": (u == 2) | (u == 3),
    "!b & u > 1": ~b & (u > 1),
    "!(b & u > 1)": ~(b & (u > 1)),
    "!u > 2": ~(u > 2),
    "not u > 2 and b": ~(u > 2) & b,
    "f %in% c('a', 'b')": f.isin(["a", "b"]),
    "f in ['a', 'b']": f.isin(["a", "b"]),
    "f not in ['a', 'b']": ~f.isin(["a", "b"]),
    "!f %in% c('a')": f != "a",
    "u %in% 2:4": u.isin([2, 3, 4]),
    "u %in% c(1, 3:5)": u.isin([1, 3, 4, 5]),
    "u + 1 %in% c(1, 2)": u + 1,
    "2 * u %% 3": 2 * (u % 3),
    "-u %% 3": (-u) % 3,
    "u^2 %% 3": (u**2) % 3,
    "2^u %% 3": (2**u) % 3,
    "u %/% 2 * 2": (u // 2) * 2,
    "u %% 2 == 0 & x > 0": (u % 2 == 0) & (x > 0),
    "-u^2": -(u**2),
    "0 < x < 3": (x > 0) & (x < 3),
    "u == '2'": u == 2,
    "n == 2": u == 2,
    "n != '2'": u != 2,
    "n %in% c('1', '2')": u.isin([1, 2]),
    "c_ == 'a' | c_ == 'b'": f.isin(["a", "b"]),
    "b == TRUE & u != 1L": b & (u != 1),
    "x > -Inf": x > -np.inf,
}


@pytest.mark.parametrize("text", CASES)
def test_operators_bind_as_in_r(text):
    np.testing.assert_array_equal(value(text), np.asarray(CASES[text]))


@pytest.mark.parametrize("text", CASES)
def test_the_normal_form_means_the_same(text):
    once = python(text)
    assert python(once) == once
    np.testing.assert_array_equal(value(once), np.asarray(CASES[text]))


@pytest.mark.parametrize("text", ["x & b", "x | b", "!x", "f & b", "(0 + x | u)"])
def test_only_conditions_are_joined(text):
    with pytest.raises(DataError, match="joins conditions"):
        value(text)


def test_numbers_that_are_0_or_1_are_conditions():
    np.testing.assert_array_equal(
        value("u > 2 & k", k=pd.Series([1, 0] * 4)), (u > 2) & np.array([True, False] * 4)
    )


DEEP = ["+".join(["x"] * 20_000), "x" + "^2" * 5000, "not " * 5000 + "x"]


@pytest.mark.parametrize("text", ["", "x +", "x x", "f(x", "x %o% u", "x $ u", *DEEP])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(FormulaError):
        python(text)


def test_python_keeps_its_own_syntax():
    for text in [
        "x[1:3]",
        "lambda v: v + 1",
        "{'a': 1}",
        "x.clip(0, 2)",
        "f if x else u",
        "[v for v in x]",
        "x if u > 2 else f",
    ]:
        assert python(text) == text
