"""What bad input gets: one case per line, the class and the user's own names in the text."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from lmm.design import build_design
from lmm.errors import (
    ArgumentError,
    DataError,
    FormulaError,
    GroupingError,
    LmmError,
    ResponseError,
)
from lmm.formula import Given

rng = np.random.default_rng(1)
n = 60
data = pd.DataFrame(
    {
        "yield": rng.normal(size=n),
        "x": rng.normal(size=n),
        "g": rng.integers(0, 6, n),
        "text": rng.choice(list("pq"), n),
        "one": 1,
        "row": np.arange(n),
        "w": rng.uniform(0.5, 1, n),
        "pair": np.arange(n) // 2,
    }
)
F = "yield ~ x + (1|g)"
THREE = np.array(list("abc"))[np.arange(n) % 3]
ROUNDED = [f"{v:.2f}" for v in np.arange(n) % 25 / 7]
hole = np.arange(n) == 3


def change(**columns):
    return data.assign(**columns)


CASES = {
    # what is wrong: (formula, data, arguments, class, part of the message)
    "unknown column": (
        "yield ~ xx + (1|g)",
        data,
        {},
        DataError,
        r"column 'xx' is not in the data. Did you mean 'x'\?(.|\n)*\n +\^\^$",
    ),
    "other case": ("Yield ~ x + (1|g)", data, {}, DataError, "Did you mean 'yield'"),
    "unknown group": (
        "yield ~ x + (1|pairs)",
        data,
        {},
        DataError,
        "'pairs' is not in the data. Did you mean 'pair'",
    ),
    "unknown function": ("yield ~ foo(x) + (1|g)", data, {}, DataError, r"foo\(\) is no function"),
    "unknown weights": (F, data, {"weights": "ww"}, DataError, "weights: column 'ww'"),
    "unknown in subset": (F, data, {"subset": "xx > 0"}, DataError, "subset: column 'xx'"),
    "no random term": ("yield ~ x", data, {}, FormulaError, "no random term"),
    "one level": ("yield ~ x + (1|one)", data, {}, GroupingError, "'one' has one level"),
    "one level in the subset": (F, data, {"subset": "g == 2"}, GroupingError, "'g' has one level"),
    "as many levels as rows": (
        "yield ~ x + (1|row)",
        data,
        {},
        GroupingError,
        "'row' has 60 levels for 60 rows",
    ),
    "as many effects as rows": (
        "yield ~ x + (x|pair)",
        data,
        {},
        GroupingError,
        r"60 random effects \(30 levels x 2 columns\) for 60",
    ),
    "response is text": (
        "text ~ x + (1|g)",
        data,
        {},
        ResponseError,
        "'text' must be numeric, but it is text",
    ),
    "response is categorical": (
        "text ~ (1|g)",
        data.astype({"text": "category"}),
        {},
        ResponseError,
        "must be numeric, but it is cat",
    ),
    "response is constant": ("one ~ x + (1|g)", data, {}, ResponseError, "'one' is constant"),
    "response is infinite": (
        F,
        change(**{"yield": data["yield"].mask(hole, np.inf)}),
        {},
        ResponseError,
        "infinite in 1 of 60 rows",
    ),
    "response becomes nan": (
        "sqrt(yield) ~ x + (1|g)",
        data,
        {},
        ResponseError,
        r"'sqrt\(yield\)' is not a number",
    ),
    "response has two columns": (
        "cbind(yield, x) ~ (1|g)",
        data,
        {},
        ResponseError,
        "one response column",
    ),
    "response is a number": ("3 ~ x + (1|g)", data, {}, ResponseError, "one value per row"),
    "predictor is infinite": (
        F,
        change(x=data["x"].mask(hole, -np.inf)),
        {},
        DataError,
        "the term x is infinite in 1 of 60",
    ),
    "log of a negative": (
        "yield ~ log(x) + (1|g)",
        data,
        {},
        DataError,
        r"the term log\(x\) is not a number",
    ),
    "log of zero": (
        "yield ~ log(g) + (1|pair)",
        data,
        {},
        DataError,
        r"the term log\(g\) is infinite",
    ),
    "slope is infinite": (
        "yield ~ (log(g)|text)",
        data,
        {},
        DataError,
        r"the term log\(g\) is infinite",
    ),
    "date as a number": (
        "yield ~ t + (1|g)",
        change(t=pd.date_range("2020", periods=n)),
        {},
        DataError,
        "the term t has type datetime64",
    ),
    "category without a value": (
        "yield ~ cut(x, [0, 1]) + (1|g)",
        data,
        {},
        DataError,
        r"cut\(x, \[0, 1\]\) has no value in",
    ),
    "group without a value": ("yield ~ (1|cut(x, [0, 1]))", data, {}, DataError, "has no value in"),
    "group of lists": (
        "yield ~ (1|l)",
        change(l=[[1]] * n),
        {},
        DataError,
        "the column l holds list values",
    ),
    "awkward name": (
        "yield ~ log(`a b`) + (1|g)",
        change(**{"a b": "t"}),
        {},
        DataError,
        r"cannot evaluate log\(`a b`\): ",
    ),
    "awkward term": (
        "yield ~ a.b + (1|g)",
        change(**{"a.b": pd.date_range("2020", periods=n)}),
        {},
        DataError,
        "the term a.b has type",
    ),
    "function fails": (
        "yield ~ np.reshape(x, (7, 3)) + (1|g)",
        data,
        {},
        DataError,
        r"cannot evaluate",
    ),
    "degree of text": (
        "yield ~ poly(x, 'a') + (1|g)",
        data,
        {},
        ArgumentError,
        r"poly\(\): degree='a' must be a positive whole number",
    ),
    "degree zero": ("yield ~ poly(x, 0) + (1|g)", data, {}, ArgumentError, r"poly\(\): degree=0"),
    "degree beyond the points": (
        "yield ~ poly(x, 60) + (1|g)",
        data,
        {},
        ArgumentError,
        "needs more than 60 distinct values",
    ),
    "negative df": ("yield ~ ns(x, df=-3) + (1|g)", data, {}, ArgumentError, r"ns\(\): df=-3"),
    "df below the degree": (
        "yield ~ bs(x, df=2) + (1|g)",
        data,
        {},
        ArgumentError,
        r"bs\(\): df=2 must be a whole number, 3 or more",
    ),
    "boundary knots": (
        "yield ~ ns(x, df=3, Boundary.knots=c(1, 0)) + (1|g)",
        data,
        {},
        ArgumentError,
        "the smaller first",
    ),
    "one level of a predictor": (
        "yield ~ x + one + (1|g)",
        change(one="a"),
        {},
        DataError,
        r"predictor one has one level .*\('a'\)",
    ),
    "one level left by subset": (
        "yield ~ f + (1|g)",
        change(f=THREE),
        {"subset": "f == 'a'"},
        DataError,
        r"f has one level .*\('a'\)",
    ),
    "one level of a slope": (
        "yield ~ x + (one|g)",
        change(one="a"),
        {},
        DataError,
        "predictor one has one level",
    ),
    "numbers as text": (
        F,
        change(x=data["x"].astype(str)),
        {},
        DataError,
        "column 'x' is text with 60 levels that look like numbers;",
    ),
    "numbers as text, one a dot": (
        F,
        change(x=data["x"].astype(str).mask(hole, ".")),
        {},
        DataError,
        r"though '\.' is none; make it num",
    ),
    "rounded numbers as text": (
        F,
        change(x=ROUNDED),
        {},
        DataError,
        "column 'x' is text with 25 levels that look like numbers;",
    ),
    "a level in each row": (
        F,
        change(x=[f"r{i}" for i in range(n)]),
        {},
        DataError,
        "x has as many levels as there are rows",
    ),
    "contrasts are a list": (
        F,
        data,
        {"contrasts": ["sum"]},
        ArgumentError,
        r"contrasts=\['sum'\] must be columns to codings",
    ),
    "contrasts are text": (
        F,
        data,
        {"contrasts": "sum"},
        ArgumentError,
        "contrasts='sum' must be columns to codings",
    ),
    **{
        f"contrasts {i}": (
            "yield ~ f + (1|g)",
            change(f=THREE),
            {"contrasts": {"f": value}},
            ArgumentError,
            f"'f'.*{words}",
        )
        for i, (value, words) in enumerate(
            [
                (3, "a matrix of numbers"),
                ("summ", "no coding.*Did you mean 'sum'"),
                (("treatment", "b"), "write relevel"),
                (np.ones((2, 2)), "has 3 levels; a matrix of contrasts for it is 3 x 2, not 2 x 2"),
                (np.ones((3, 3)), "not 3 x 3"),
                (np.ones((3, 2)), "depend on each other"),
                (np.full((3, 2), np.nan), "a matrix of numbers"),
                ({"a": [1, 2]}, "not 2 x 1"),
                (lambda *a: 1, "a matrix of numbers"),
            ]
        )
    },
    "contrasts of a group": (
        "yield ~ x + (1|text)",
        data,
        {"contrasts": {"text": "sum"}},
        ArgumentError,
        "no predictor by itself",
    ),
    "levels given, others there": (
        "yield ~ C(g, levels=[1]) + (1|pair)",
        data,
        {},
        DataError,
        "values that are none of the levels given",
    ),
    **{
        f"numbers of text: {call}": (
            f"yield ~ {call} + (1|g)",
            change(f=THREE, one=column),
            {},
            DataError,
            words,
        )
        for call in (
            "I(x - mean(one))",
            "scale(one)",
            "poly(one, 2)",
            "ns(one, 2)",
            "bs(one, 3)",
            "cut(one, 2)",
            "cr(one, df=3)",
        )
        for column, words in (
            (pd.Categorical(np.arange(n) % 5), "but it is cat"),
            ((np.arange(n) % 5).astype(str), "it is text"),
        )
    },
    "mean of two": (
        "yield ~ I(x - mean(x, g)) + (1|g)",
        data,
        {},
        ArgumentError,
        r"mean\(\) takes one column",
    ),
    "two quantiles": (
        "yield ~ I(x - quantile(x, c(0.1, 0.2))) + (1|g)",
        data,
        {},
        ArgumentError,
        "one column and a probability",
    ),
    "one interval": ("yield ~ cut(x, 1) + (1|g)", data, {}, ArgumentError, r"cut\(\): breaks=1"),
    "everything missing": (
        F,
        change(x=np.nan),
        {},
        DataError,
        r"no complete row is left of 60: missing values in 'x' \(60 rows\)",
    ),
    "no rows": (F, data.iloc[:0], {}, DataError, "no rows"),
    "missing and fail": (
        F,
        change(x=data["x"].mask(hole)),
        {"na_action": "fail"},
        DataError,
        r"missing values in 'x' \(1 rows\)",
    ),
    "na_action misspelt": (
        F,
        data,
        {"na_action": "exlude"},
        ArgumentError,
        "Did you mean 'exclude'",
    ),
    "negative weights": (F, data, {"weights": -data["w"]}, ArgumentError, "60 are negative"),
    "zero weights": (
        F,
        data,
        {"weights": data["w"].mask(hole, 0)},
        ArgumentError,
        "1 are zero.*subset",
    ),
    "missing weights": (
        F,
        data,
        {"weights": data["w"].mask(hole)},
        ArgumentError,
        "1 missing values",
    ),
    "infinite weights": (F, data, {"weights": "w/0"}, DataError, "weights must be finite"),
    "weights of wrong length": (
        F,
        data,
        {"weights": [1, 2]},
        ArgumentError,
        r"one value per row of the data \(60\).*\(2,\)",
    ),
    "no weights at all": (F, data, {"weights": []}, ArgumentError, "one value per row"),
    "weights are text": (F, data, {"weights": "text"}, DataError, "weights must be numeric"),
    "weights are a function": (
        F,
        data,
        {"weights": len},
        ArgumentError,
        "weights must be a column name",
    ),
    "offset of wrong length": (
        F,
        data,
        {"offset": [1, 2]},
        ArgumentError,
        "offset must have one value per row",
    ),
    "offset is text": (
        "yield ~ offset(text) + (1|g)",
        data,
        {},
        DataError,
        r"offset\(text\) must be numeric",
    ),
    "subset of wrong length": (
        F,
        data,
        {"subset": [True]},
        ArgumentError,
        "boolean mask over the 60 rows",
    ),
    "subset of numbers": (F, data, {"subset": data["row"]}, ArgumentError, "boolean mask"),
    "subset is empty": (F, data, {"subset": "x > 99"}, DataError, "leaves no rows"),
    "data is a number": (F, 5, {}, DataError, "must be a table .* not int"),
    "data is an array": (F, np.ones((3, 2)), {}, DataError, "must be a table"),
    "data is lazy": (F, pl.from_pandas(data).lazy(), {}, DataError, "Collect it first"),
    "columns of unequal length": (
        F,
        {"yield": [1, 2], "x": [1], "g": [1, 2]},
        {},
        DataError,
        "differ in length",
    ),
    "a column that is no array": (
        F,
        {"yield": [1, 2], "x": 1, "g": [1, 2]},
        {},
        DataError,
        "'x' is int",
    ),
    "two columns of one name": (
        F,
        pd.concat([data, data[["x"]]], axis=1),
        {},
        DataError,
        "2 columns named 'x'",
    ),
    "contrasts misspelt": (
        "yield ~ text + (1|g)",
        data,
        {"contrasts": {"text": "helmet"}},
        ArgumentError,
        "Did you mean 'helmert'",
    ),
    "contrasts of nothing": (
        F,
        data,
        {"contrasts": {"xx": "sum"}},
        ArgumentError,
        "names 'xx', which the formula does not use",
    ),
    "contrasts of numbers": (
        F,
        data,
        {"contrasts": {"x": "sum"}},
        ArgumentError,
        "'x', which is numeric",
    ),
    "formula is no string": (3, data, {}, FormulaError, "is a string"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    formula, table, arguments, kind, message = CASES[name]
    with pytest.raises(kind, match=message) as caught:
        build_design(formula, table, Given(**arguments))
    assert isinstance(caught.value, LmmError) and isinstance(caught.value, ValueError)


def test_a_family_may_have_as_many_levels_as_rows():
    class Any:
        def response(self, values, name):
            return np.asarray(values, dtype=float), None

    assert build_design("yield ~ x + (1|row)", data, family=Any()).terms[0].J == 60


def test_independent_effects_are_counted_one_by_one():
    assert build_design("yield ~ x + (x||pair)", data).terms[0].k == 2
