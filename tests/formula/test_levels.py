"""Grouping factors become codes: order of levels, labels, missing values, joining and looking up."""

import numpy as np
import pandas as pd
import pytest

from lmm.errors import GroupingError
from lmm.formula.columns.levels import encode, join, lookup, strings

CASES = {
    "integers": (np.array([5, 3, 5, 11]), [1, 0, 1, 2], ["3", "5", "11"]),
    "negative": (np.array([-2, 7, -2]), [0, 1, 0], ["-2", "7"]),
    "far apart": (np.array([10**15, -5, 10**15]), [1, 0, 1], ["-5", "1000000000000000"]),
    "small unsigned": (np.array([200, 3, 200], dtype=np.uint8), [1, 0, 1], ["3", "200"]),
    "small signed": (np.array([-100, 100, -100], dtype=np.int8), [0, 1, 0], ["-100", "100"]),
    "whole floats": (np.array([3.0, 2.0, np.nan]), [1, 0, -1], ["2", "3"]),
    "fractions": (np.array([0.5, 0.25]), [1, 0], ["0.25", "0.5"]),
    "text sorts as text": (pd.Series(["b10", "b2", None]), [0, 1, -1], ["b10", "b2"]),
    "categories keep their order": (
        pd.Categorical(["lo", "hi", "lo"], categories=["lo", "hi"]),
        [0, 1, 0],
        ["lo", "hi"],
    ),
    "unused categories go": (
        pd.Categorical(["c", "a", None], categories=["c", "b", "a"]),
        [0, 1, -1],
        ["c", "a"],
    ),
    "truth values": (np.array([True, False]), [1, 0], ["False", "True"]),
    "several types": (pd.Series(["a", 1, "a"], dtype=object), [1, 0, 1], ["1", "a"]),
    "dates": (
        pd.Series(pd.to_datetime(["2020-01-02", "2020-01-01"])),
        [1, 0],
        ["2020-01-01 00:00:00", "2020-01-02 00:00:00"],
    ),
    "nullable": (pd.Series([4, None, 2], dtype="Int64"), [1, -1, 0], ["2", "4"]),
}


@pytest.mark.parametrize("name", CASES)
def test_codes_and_labels(name):
    values, codes, labels = CASES[name]
    found = encode(values, name)
    assert found.codes.dtype == np.int32
    assert found.codes.tolist() == codes
    assert strings(found.values).tolist() == labels


def test_lists_are_refused():
    with pytest.raises(GroupingError, match="told apart"):
        encode(pd.Series([[1], [2]]), "g")
    with pytest.raises(GroupingError, match="one column"):
        encode(np.zeros((3, 2)), "g")


def test_joined_levels_are_the_observed_pairs_first_factor_slowest():
    a, b = encode(pd.Series(["y", "x", "x", "y"]), "a"), encode(np.array([2, 10, 2, 2]), "b")
    both = join([a, b])
    assert strings(both.values).tolist() == ["x:2", "x:10", "y:2"]
    assert both.codes.tolist() == [2, 1, 0, 2]


def test_joining_keeps_missing_values():
    both = join(
        [encode(pd.Series(["x", None, "y"]), "a"), encode(np.array([1.0, 1.0, np.nan]), "b")]
    )
    assert both.codes.tolist() == [0, -1, -1]
    assert strings(both.values).tolist() == ["x:1"]


@pytest.mark.parametrize("sizes", [(3, 4, 2), (500, 700, 2)])
def test_joining_agrees_with_tuples(sizes):
    rng = np.random.default_rng(4)
    columns = [rng.integers(0, size, 400) for size in sizes]
    both = join([encode(c, "c") for c in columns])
    rows = list(zip(*[c.tolist() for c in columns], strict=True))
    levels = sorted(set(rows))
    assert strings(both.values).tolist() == [":".join(map(str, level)) for level in levels]
    assert both.codes.tolist() == [levels.index(row) for row in rows]


def test_lookup_matches_labels_across_types():
    fitted = encode(np.array([1, 2, 30]), "g").values
    codes, unseen = lookup(fitted, encode(pd.Series(["30", "7", "1"]), "g"))
    assert codes.tolist() == [2, -1, 0]
    assert unseen.tolist() == ["7"]
