"""What a CSV file says, read as R reads it: missing values, levels, numbers, long ids, and what is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.datasets import read


@pytest.fixture
def of(tmp_path):
    def make(text: str, name: str = "rows.csv") -> pd.DataFrame:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read(path)

    return make


@pytest.mark.parametrize(
    "word", ["None", "null", "nan", "NaN", "n/a", "N/A", "NULL", "#N/A", "<NA>", "-nan", "", "NA"]
)
def test_only_na_and_empty_fields_are_missing(of, word):
    column = of(f"a,b\n{word},1\nlow,2\nhigh,3\n")["a"]
    assert column.isna().tolist() == [word in ("", "NA"), False, False]
    assert column.tolist()[1:] == ["low", "high"]
    if word not in ("", "NA"):
        assert column[0] == word


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["1", "NA", "3"], [1, np.nan, 3]),
        (["1", "", "3"], [1, np.nan, 3]),
        (["1.5", "NaN", "NA"], [1.5, np.nan, np.nan]),
        (["nan", "2", "3"], [np.nan, 2, 3]),
        (["1e3", "Inf", "-Inf"], [1e3, np.inf, -np.inf]),
    ],
)
def test_numbers(of, fields, expected):
    column = of("a,b\n" + "".join(f"{field},1\n" for field in fields))["a"]
    assert pd.api.types.is_numeric_dtype(column.dtype)
    np.testing.assert_array_equal(column.to_numpy(dtype=float, na_value=np.nan), expected)


@pytest.mark.parametrize(
    "fields", [["1", "None"], ["1", "null"], ["1", "x"], ["1_000", "2"], ["1", "1,5"]]
)
def test_numbers_in_a_column_of_text_stay_text(of, fields):
    column = of("a,b\n" + "".join(f'"{field}",1\n' for field in fields))["a"]
    assert column.tolist() == fields


@pytest.mark.parametrize(
    "ids",
    [
        [2**60 + 1, 2**60 + 2],
        [2**63 + 1, 2**63 + 2],
        [2**64 + 1, 2**64 + 2],
        [2**63 + 1, -1],
        [-(2**63) - 1, 3],
    ],
)
@pytest.mark.parametrize("gap", [False, True])
def test_long_whole_numbers_keep_their_digits(of, ids, gap):
    column = of("a,b\n" + "NA,1\n" * gap + "".join(f"{i},1\n" for i in ids))["a"]
    assert [int(v) for v in column.dropna()] == ids
    assert column.isna().sum() == gap


def test_columns_of_one_name_are_refused(of):
    with pytest.raises(lmm.DataError, match="has 2 columns named 'x'"):
        of("y,x,x\n1,2,3\n")
    assert list(of(",y\n1,2\n")) == ["Unnamed: 0", "y"]


@pytest.mark.parametrize("rows", ["1,2,3\n4,5\n", "1,2,3\n\n4\n6,7,8\n", '1,2,"a\nb"\n4,5\n'])
def test_short_rows_are_refused(of, rows, tmp_path):
    with pytest.raises(lmm.DataError, match="fields in row [0-9], but 3 columns; write NA"):
        of("y,x,z\n" + rows)
    with gzip.open(tmp_path / "rows.csv.gz", "wt") as file:
        file.write("y,x,z\n" + rows)
    with pytest.raises(lmm.DataError, match="but 3 columns"):
        read(tmp_path / "rows.csv.gz")
    with pytest.raises(lmm.DataError, match="cannot read"):
        of("y,x,z\n1,2,3\n1,2,3,4\n")
    assert of("y,x,z\n1,2,\n3,4,5\n").shape == (2, 3)


def test_row_names_of_r(of):
    table = of('"y","x"\n"a",1,2\n"b",3,NA\n')
    assert table.index.tolist() == ["a", "b"] and table["y"].tolist() == [1, 3]


def test_a_type_is_that_of_the_whole_column(of):
    many = 300_000
    column = of("a,b\n" + "1,1\n" * many + "x,1\n")["a"]
    assert column.iloc[0] == "1" and column.iloc[-1] == "x"
