"""Values given beside the data: matched by their labels, read as numbers, and never shared with the user."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import lmm
from lmm.formula.columns.given import aligned, numeric

pytestmark = pytest.mark.filterwarnings("ignore::lmm.errors.SingularFitWarning")
rng = np.random.default_rng(21)
n = 60
data = pd.DataFrame(
    {
        "x": rng.normal(size=n),
        "g": np.repeat(np.arange(10), 6),
        "w": rng.uniform(0.2, 4, n),
        "z": rng.normal(size=n),
    }
)
data["y"] = 2 + data.x + rng.normal(size=10)[data.g] + rng.normal(size=n) / np.sqrt(data.w)
named = data.set_axis([f"row{i}" for i in range(n)])
order = np.random.default_rng(5).permutation(n)
F = "y ~ x + (1|g)"


def numbers(fit) -> np.ndarray:
    return np.r_[fit.llf, fit.fixef(), fit.sigma]


def scope_value(table, values):
    zz = values  # noqa: F841  (the formula finds it here)
    return lmm.lmer("y ~ x + zz + (1|g)", table)


def scope_function(table, values):
    def other(v):
        return values

    return lmm.lmer("y ~ x + other(x) + (1|g)", table)


def scope_method(table, values):
    zz = values  # noqa: F841
    return lmm.lmer("y ~ x + zz.abs() + (1|g)", table)


def batch(table, values):
    made = lmm.lmer_batch("~ x + (1|g)", table, values.to_frame("r"))
    return made["r"]


USES = {
    "weights": ("w", lambda table, values: lmm.lmer(F, table, weights=values)),
    "offset": ("z", lambda table, values: lmm.lmer(F, table, offset=values)),
    "subset": ("x", lambda table, values: lmm.lmer(F, table, subset=values > 0)),
    "subset function": ("x", lambda table, values: lmm.lmer(F, table, subset=lambda t: values > 0)),
    "refit": ("z", lambda table, values: lmm.lmer(F, table).refit(values)),
    "refit_many": ("z", lambda table, values: lmm.lmer(F, table).refit_many(values.to_frame())),
    "batch": ("y", batch),
    "batch of a mapping": (
        "z",
        lambda table, values: lmm.lmer_batch("~ x + (1|g)", table, {"r": values})["r"],
    ),
    "variable": ("z", scope_value),
    "method of a variable": ("z", scope_method),
    "function": ("z", scope_function),
}


def result(made) -> np.ndarray:
    return (
        made.iloc[0, :4].to_numpy(dtype=float) if isinstance(made, pd.DataFrame) else numbers(made)
    )


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("table", [data, named], ids=["numbered", "named"])
def test_labels_and_not_places_say_which_value_belongs_to_a_row(use, table):
    column, call = USES[use]
    right = result(call(table, table[column]))
    np.testing.assert_allclose(result(call(table, table[column].iloc[order])), right, rtol=1e-8)
    with pytest.raises(lmm.LmmError, match="index"):
        call(table, table[column].set_axis([f"other{i}" for i in range(n)]))
    if use not in ("variable", "method of a variable", "function", "subset function"):
        shuffled = table.iloc[order]
        np.testing.assert_allclose(result(call(shuffled, table[column])), right, rtol=1e-6)


@pytest.mark.parametrize(
    "table", [pl.from_pandas(data), pa.Table.from_pandas(data)], ids=["polars", "pyarrow"]
)
def test_a_table_without_labels_is_numbered(table):
    right = numbers(lmm.lmer(F, data, weights=data.w))
    np.testing.assert_allclose(
        numbers(lmm.lmer(F, table, weights=data.w.iloc[order])), right, rtol=1e-8
    )
    with pytest.raises(
        lmm.ArgumentError, match="weights: its index is not that of the data: 'row0' is no label"
    ):
        lmm.lmer(F, table, weights=named.w)


def test_a_mapping_of_series_is_put_into_the_order_of_the_first():
    turned = named.iloc[order]
    right = numbers(lmm.lmer(F, data))
    fit = lmm.lmer(F, {"y": named.y, "x": turned.x, "g": data.g.to_numpy()})
    np.testing.assert_allclose(numbers(fit), right, rtol=1e-8)
    assert fit.resid.index.equals(named.index)
    np.testing.assert_allclose(numbers(lmm.lmer(F, {"y": named.y, "x": turned.x, "g": named.g}, weights=turned.w)),
                               numbers(lmm.lmer(F, data, weights="w")), rtol=1e-8)  # fmt: skip
    with pytest.raises(lmm.DataError, match="x: its index is not that of the data: 0 is no label"):
        lmm.lmer(F, {"y": named.y, "x": data.x, "g": data.g.to_numpy()})


def test_labels_that_occur_twice_are_matched_where_the_order_is_the_same():
    twice = data.set_axis(np.arange(n) // 2)
    assert numbers(lmm.lmer(F, twice, weights=twice.w)) == pytest.approx(
        numbers(lmm.lmer(F, data, weights="w"))
    )
    with pytest.raises(lmm.ArgumentError, match="more than once"):
        lmm.lmer(F, twice, weights=twice.w.iloc[::-1])
    with pytest.raises(lmm.ArgumentError, match=r"59 values and the data has 60 rows"):
        lmm.lmer(F, data, weights=data.w.iloc[1:])


def test_a_refit_takes_the_rows_used_or_all_rows_by_label():
    gaps = named.assign(x=named.x.where(np.arange(n) % 7 > 0))
    for subset in (None, named.z > -1):
        fit = lmm.lmer(F, gaps, subset=subset)
        right = numbers(fit.refit(named.z[fit.resid.index].to_numpy()))
        for given in (named.z.iloc[order], named.z, named.z[fit.resid.index].iloc[::-1]):
            np.testing.assert_allclose(numbers(fit.refit(given)), right, rtol=1e-8)


@pytest.mark.parametrize(
    "values",
    [
        [1, None, 3],
        np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
        np.ma.masked_array(np.array([1, "?", 3], dtype=object), mask=[False, True, False]),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1, None, 3], dtype="Float64"),
        pd.Series([1, None, 3], dtype="int64[pyarrow]"),
        pd.array([1, None, 3], dtype="UInt8"),
        [decimal.Decimal(1), None, decimal.Decimal(3)],
        pl.Series([1, None, 3]),
        pa.chunked_array([[1, None, 3]]),
        pd.DataFrame({"a": [1.0, None, 3.0]})["a"],
    ],
    ids=lambda v: type(v).__name__ + str(getattr(v, "dtype", "")),
)
def test_numbers_of_every_kind(values):
    np.testing.assert_array_equal(numeric(values, "w"), [1, np.nan, 3])


BAD = {
    "complex": np.array([1 + 1j, 2, 3]),
    "dates": pd.date_range("2020", periods=3),
    "NumPy's dates": np.array(["2020-01-01", "2020-01-02", "2020-01-03"], dtype="M8[D]"),
    "Python's dates": [datetime.date(2020, 1, i) for i in (1, 2, 3)],
    "zoned dates": pd.Series(pd.date_range("2020", periods=3, tz="UTC")),
    "durations": pd.Series(pd.to_timedelta([1, 2, 3], unit="s")),
    "NumPy's durations": np.array([1, 2, 3], dtype="m8[s]"),
    "periods": pd.Series(pd.period_range("2020", periods=3)),
    "categories": pd.Categorical([1, 2, 3]),
    "text": ["1", "2", "3"],
    "NumPy's text": np.array(["1", "2", "3"]),
    "pandas' text": pd.Series(["1", "2", "3"]),
    "arrow's dates": pd.Series(pd.date_range("2020", periods=3)).astype("timestamp[ns][pyarrow]"),
    "structured": np.zeros(3, dtype=[("a", float)]),
    "jagged": [[1], [1, 2], [3]],
    "huge": np.array([10**400, 1, 2], dtype=object),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_number_is_refused_by_name(kind):
    with pytest.raises(lmm.DataError, match="^thing "):
        numeric(BAD[kind], "thing")
    small = pd.DataFrame({"y": [1.0, 2, 4, 3, 5, 7], "g": list("aabbcc")})
    many = (
        BAD[kind].repeat(2)
        if isinstance(BAD[kind], np.ndarray | pd.Index | pd.Categorical)
        else None
    )
    many = (
        pd.Series(BAD[kind]).repeat(2).reset_index(drop=True)
        if many is None and kind != "jagged"
        else many
    )
    if many is None:
        many = BAD[kind] * 2
    for call, name in (
        (lambda: lmm.lmer("y ~ 1 + (1|g)", small, weights=many), "weights"),
        (lambda: lmm.lmer("y ~ 1 + (1|g)", small, offset=many), "offset"),
        (lambda: lmm.lmer_batch("~ 1 + (1|g)", small, many), "responses"),
        (lambda: lmm.lmer("y ~ 1 + (1|g)", small).refit(many), "response"),
        (lambda: lmm.lmer("y ~ 1 + (1|g)", small).refit_many(many), "refit_many"),
    ):
        with pytest.raises(lmm.LmmError, match=name):
            call()
    if kind in ("jagged", "structured", "huge"):
        return
    wide = small.assign(v=many)
    for call in (
        lambda: lmm.lmer("y ~ 1 + (1|g)", wide, weights="v"),
        lambda: lmm.lmer("y ~ 1 + (1|g)", wide, offset="v"),
        lambda: lmm.lmer("y ~ offset(v) + (1|g)", wide),
        lambda: lmm.lmer("v ~ 1 + (1|g)", wide),
        lambda: lmm.lmer_batch("~ 1 + (1|g)", wide, ["v"]),
    ):
        with pytest.raises(lmm.LmmError, match=r"weights|offset|'v'"):
            call()


def test_masks_are_heeded_in_batches_and_refits():
    Y = np.column_stack([data.y, data.z])
    masked = np.ma.masked_array(Y.copy(), mask=np.zeros(Y.shape, dtype=bool))
    masked.data[:5] = 1e6
    masked.mask[:5] = True
    right = lmm.lmer_batch("~ x + (1|g)", data, np.where(np.arange(n)[:, None] < 5, np.nan, Y))
    found = lmm.lmer_batch("~ x + (1|g)", data, masked)
    np.testing.assert_array_equal(found.beta, right.beta)
    assert found.nobs.tolist() == [55, 55]
    with pytest.raises(lmm.DataError, match="missing"):
        lmm.lmer(F, data).refit_many(masked)
    with pytest.raises(lmm.ResponseError, match="not a number in 5"):
        lmm.lmer(F, data).refit(masked[:, 0])
    with pytest.raises(lmm.ArgumentError, match="weights has 1 missing"):
        lmm.lmer(F, data, weights=np.ma.masked_less(data.w.to_numpy(), np.sort(data.w)[1]))
    by_mapping = lmm.lmer(F, {"y": masked[:, 0], "x": data.x.to_numpy(), "g": data.g.to_numpy()})
    np.testing.assert_allclose(by_mapping.fixef(), right.beta[0], rtol=1e-6)


def test_identical_labels_are_not_copied():
    same = named.w
    assert aligned(same, named.index, "weights") is same
    assert aligned(np.ones(3), data.index, "weights").shape == (3,)
