"""Tables as users have them: every kind of column, and what is no column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp

import lmm
from lmm.formula import Table
from lmm.formula.columns.levels import DeclaredOrder

pytestmark = pytest.mark.filterwarnings("ignore::lmm.errors.SingularFitWarning")
rng = np.random.default_rng(2)
n = 40
data = pd.DataFrame(
    {"y": rng.normal(size=n), "x": rng.normal(size=n), "g": np.repeat(np.arange(8), 5)}
)
F = "y ~ x + (1|g)"
BAD = {
    "two dimensions": data.x.to_numpy()[:, None],
    "no dimension": np.array(2.0),
    "a number": 2.0,
    "a set": set(data.x),
    "text": "x",
    "a mapping": {1: 2},
    "sparse": sp.csc_matrix(data[["x"]]),
    "a sparse array": sp.coo_array(data.x.to_numpy()),
    "a frame": data[["x"]],
    "another length": data.x.to_numpy()[1:],
    "a generator": (v for v in data.x),
    "lists": [[v] for v in data.x],
    "records": [{"a": v} for v in data.x],
    "structured": np.zeros(n, dtype=[("a", float)]),
    "complex": data.x.to_numpy() + 1j,
    "dates": pd.date_range("2020", periods=n),
    "None": None,
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_column_is_refused_by_name(kind):
    with pytest.raises(lmm.LmmError, match=r"'?\bx\b'?"):
        lmm.lmer(F, {"y": data.y.to_numpy(), "x": BAD[kind], "g": data.g.to_numpy()})
    if kind in ("lists", "records", "complex", "dates"):
        with pytest.raises(lmm.LmmError, match=r"\bx\b"):
            lmm.lmer(F, data.assign(x=BAD[kind]))
        with pytest.raises(lmm.LmmError, match=r"\bx\b"):
            lmm.lmer("x ~ 1 + (1|g)", data.assign(x=BAD[kind]))


GOOD = {
    "array": np.asarray,
    "list": lambda v: v.tolist(),
    "tuple": lambda v: tuple(v.tolist()),
    "Series": pd.Series,
    "Index": pd.Index,
    "extension": lambda v: pd.array(v.tolist()),
    "polars": lambda v: pl.Series(v.tolist()),
    "pyarrow": lambda v: pa.array(v.tolist()),
    "chunks": lambda v: pa.chunked_array([v.tolist()[:7], v.tolist()[7:]]),
    "masked": np.ma.masked_array,
    "objects": lambda v: np.array(v.tolist(), dtype=object),
    "strided": lambda v: np.repeat(v, 2)[::2],
    "big-endian": lambda v: v.astype(v.dtype.newbyteorder(">")),
    "half the width": lambda v: (
        v.astype("int32") if v.dtype.kind == "i" else v.astype(np.longdouble)
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_columns_of_every_kind_in_a_mapping(kind):
    right = lmm.lmer(F, data)
    fit = lmm.lmer(F, {name: GOOD[kind](data[name].to_numpy()) for name in data})
    np.testing.assert_allclose(
        np.r_[fit.llf, fit.fixef()], np.r_[right.llf, right.fixef()], rtol=1e-9
    )
    new = {name: GOOD[kind](data[name].to_numpy()) for name in ("x", "g")}
    np.testing.assert_allclose(fit.predict(new), right.predict(data), rtol=1e-6)


@pytest.mark.parametrize(
    "given", [3, None, [1, 2], np.ones((3, 2)), "text", object()], ids=lambda v: type(v).__name__
)
def test_what_is_no_table(given):
    fit = lmm.lmer(F, data)
    if given is not None:
        with pytest.raises(lmm.LmmError, match="newdata must"):
            fit.predict(given)
    if not isinstance(given, str):
        with pytest.raises(lmm.DataError, match="data must be a table"):
            lmm.lmer(F, given)
    with pytest.raises(lmm.DataError, match=r"Collect it first"):
        lmm.lmer(F, pl.from_pandas(data).lazy())


def test_names_that_are_used_more_than_once():
    numbered = data[["y", "g"]].assign(**{"1": data.x})
    numbered[1] = data.x
    with pytest.raises(lmm.DataError, match="2 columns named '1'"):
        lmm.lmer("y ~ `1` + (1|g)", numbered)
    assert lmm.lmer("y ~ 1 + (1|g)", numbered).nobs == n
    table = pa.Table.from_arrays(
        [pa.array(data[name]) for name in ("y", "x", "g", "x", "x")],
        names=["y", "x", "g", "x", "x"],
    )
    with pytest.raises(lmm.DataError, match="3 columns named 'x'"):
        lmm.lmer(F, table)
    assert lmm.lmer("y ~ 1 + (1|g)", table).nobs == n


@pytest.mark.parametrize("formula", ["y ~ x + (1|h)", "y ~ x + (1|h:g)"])
def test_half_characters_are_labels_or_refused(formula):
    """pandas 3 cannot hold them as text; where an older one does they are labels like any other."""
    whole, half = (
        data.assign(h=pd.Series([mark + str(v) for v in data.g], dtype=object))
        for mark in ("x", "\ud800")
    )
    try:
        fit = lmm.lmer(formula, half)
    except lmm.LmmError as error:
        assert "ud800" in str(error).lower() or "half a character" in str(error)
    else:
        assert fit.llf == pytest.approx(lmm.lmer(formula, whole).llf, abs=1e-8)


@pytest.mark.parametrize("dtype", ["boolean", "bool[pyarrow]", object])
def test_a_missing_truth_value_leaves_its_row_out(dtype):
    flags = pd.Series([None, *(data.x[1:] > 0)], dtype=dtype)
    column = Table(pd.DataFrame({"b": flags})).column("b")
    assert column.isna().tolist() == [True] + [False] * (n - 1)
    right = lmm.lmer("y ~ b + (1|g)", data.assign(b=data.x > 0).iloc[1:])
    plain = [None, *(data.x[1:] > 0).tolist()]
    for table in (
        data.assign(b=flags),
        pl.from_pandas(data).with_columns(b=pl.Series(plain)),
        {**data, "b": plain},
    ):
        fit = lmm.lmer("y ~ b + (1|g)", table)
        assert list(fit.fixef().index) == list(right.fixef().index)
        np.testing.assert_allclose(fit.fixef(), right.fixef(), rtol=1e-7)


def test_orders_that_dictionaries_declare():
    def rank(*orders):
        found = []
        for turned in (orders, orders[::-1]):
            declared = DeclaredOrder()
            for one in turned:
                declared.add(np.array(one))
            place = declared.rank(np.arange(1 + max(max(one) for one in orders)))
            found.append(None if place is None else place.tolist())
        assert found[0] == found[1]
        return found[0]

    assert rank([2, 0, 1]) == [1, 2, 0]
    assert rank([0, 1], [0, 2, 1], [2]) == [0, 2, 1]
    assert rank([0, 1], [1, 0]) is None
    assert rank([0, 1], [1, 2]) is None
    assert rank([0, 1], [1, 2], [0, 1, 2]) == [0, 1, 2]


def test_arrow_dictionaries_in_memory():
    first = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None], pa.int8()), pa.array(["lo", "hi"])
    )
    second = pa.DictionaryArray.from_arrays(
        pa.array([2, 1, 0], pa.int8()), pa.array(["lo", "mid", "hi"])
    )
    column = Table(pa.table({"k": pa.chunked_array([first, second])})).column("k")
    assert column.tolist()[:2] == ["lo", "hi"] and column.isna().tolist() == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert list(column.cat.categories) == ["lo", "mid", "hi"]
    turned = pa.DictionaryArray.from_arrays(
        pa.array([2, 1, 0], pa.int8()), pa.array(["hi", "mid", "lo"])
    )
    assert list(
        Table(pa.table({"k": pa.chunked_array([first, turned])})).column("k").cat.categories
    ) == ["hi", "lo", "mid"]
    wide = pa.DictionaryArray.from_arrays(
        pa.array(list(range(127)) + [None], pa.int8()), pa.array([f"u{i:03d}" for i in range(128)])
    )
    assert Table(pa.table({"k": wide})).column("k").tolist()[126] == "u126"
