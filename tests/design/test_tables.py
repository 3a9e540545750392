"""The same numbers from pandas, polars, pyarrow and a dict of arrays, whatever their types."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from lmm.design import build_design

rng = np.random.default_rng(8)
n = 90
plain = pd.DataFrame(
    {
        "y": np.where(np.arange(n) == 4, np.nan, rng.normal(size=n)),
        "x": rng.integers(0, 9, n),
        "b": rng.random(n) < 0.5,
        "s": rng.choice(["v", "u", "w"], n),
        "c": pd.Categorical(rng.choice(["lo", "mid", "hi"], n), categories=["lo", "mid", "hi"]),
        "g": rng.integers(100, 110, n),
    }
)
FORMULA = "y ~ x + b + s + c + log(x + 1) + (x|g) + (1|c:s)"


def nullable():
    return plain.convert_dtypes().assign(c=plain["c"])


def polars():
    frame = pl.from_pandas(plain.astype({"c": "str"}))
    return frame.with_columns(
        pl.col("c").cast(pl.Enum(["lo", "mid", "hi"])), pl.col("y").fill_nan(None)
    )


TABLES = {
    "pandas": lambda: plain,
    "pandas nullable": nullable,
    "pandas arrow": lambda: (
        plain.drop(columns="c").convert_dtypes(dtype_backend="pyarrow").assign(c=plain["c"])
    ),
    "pandas objects": lambda: plain.astype({"y": object, "x": object, "s": object, "g": object}),
    "polars": polars,
    "pyarrow": lambda: pa.Table.from_pandas(plain),
    "dict of arrays": lambda: {name: plain[name].array for name in plain},
    "dict of lists": lambda: {**{name: plain[name].tolist() for name in plain}, "c": plain["c"]},
    "shuffled columns": lambda: plain[list("gcsbxy")],
    "single precision": lambda: plain.astype({"x": "int8", "g": "uint16"}),
}


@pytest.fixture(scope="module")
def expected():
    return build_design(FORMULA, plain)


@pytest.mark.parametrize("kind", TABLES)
def test_every_table_gives_the_same_design(kind, expected):
    design = build_design(FORMULA, TABLES[kind]())
    assert design.names == expected.names
    np.testing.assert_array_equal(design.y, expected.y)
    np.testing.assert_array_equal(design.X, expected.X)
    np.testing.assert_array_equal(design.kept, expected.kept)
    for ours, theirs in zip(design.terms, expected.terms, strict=True):
        assert (ours.group, ours.columns, ours.levels.tolist()) == (
            theirs.group,
            theirs.columns,
            theirs.levels.tolist(),
        )
        np.testing.assert_array_equal(ours.codes, theirs.codes)
        np.testing.assert_array_equal(ours.values, theirs.values)
    new = build_design(FORMULA, plain).frame
    np.testing.assert_array_equal(new.new_X(TABLES[kind]())[design.kept], expected.X)


def test_expected_design_is_right(expected):
    rows = plain.drop(index=4)
    columns = [
        np.ones(n - 1),
        rows["x"],
        rows["b"],
        rows["s"] == "v",
        rows["s"] == "w",
        rows["c"] == "mid",
        rows["c"] == "hi",
    ]
    np.testing.assert_array_equal(expected.X[:, :7], np.column_stack(columns).astype(float))


@pytest.mark.parametrize("kind", TABLES)
def test_the_whole_table_stays_reachable(kind):
    frame = build_design(FORMULA, TABLES[kind]()).frame
    assert sorted(frame.data.columns) == sorted(plain.columns) and len(frame.data) == n
    again = build_design(FORMULA, frame.data)
    np.testing.assert_array_equal(again.X, build_design(FORMULA, plain).X)


def test_polars_categories_sort_as_text():
    frame = polars().with_columns(pl.col("c").cast(pl.String).cast(pl.Categorical))
    assert build_design("y ~ c + (1|g)", frame).names == ("Intercept", "c[T.lo]", "c[T.mid]")
    assert build_design("y ~ (1|c)", frame).terms[0].levels.tolist() == ["hi", "lo", "mid"]


def test_ids_are_not_hashed_into_something_else():
    ids = np.array([7, 2**40, -3, 7, 2**40, -3])
    frame = pd.DataFrame({"y": [1.0, 2, 3, 4, 5, 7], "id": ids})
    design = build_design("y ~ (1|id)", frame)
    assert design.terms[0].levels[design.terms[0].codes].tolist() == [str(i) for i in ids]
