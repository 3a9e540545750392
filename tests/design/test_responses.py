"""Many responses as the user has them: numbers from every kind of table, and what is wrong with single ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lmm.design import response_table as module
from lmm.design.response_table import faults, read_responses
from lmm.errors import DataError
from lmm.formula import Table

DATA = Table(pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["u", "v", "w"], "c": [4, 5, 6]}))
Y = np.array([[1.0, np.nan], [2.0, 5.0], [4.0, 6.0]])


@pytest.mark.parametrize(
    "given",
    [
        Y,
        pd.DataFrame(Y),
        pd.DataFrame(Y).astype("Float64"),
        pd.DataFrame(Y, dtype=object),
        {"p": Y[:, 0], "q": list(Y[:, 1])},
        sp.csr_array(np.nan_to_num(Y, nan=0.0)),
    ],
    ids=["array", "frame", "nullable", "objects", "mapping", "sparse"],
)
def test_every_kind_of_table_gives_its_numbers(given):
    found = read_responses(given, DATA)
    expected = np.nan_to_num(Y, nan=0.0) if sp.issparse(given) else Y
    np.testing.assert_array_equal(found.values, expected)
    assert found.values.dtype == np.float64 and len(found.names) == 2


def test_names_of_columns():
    found = read_responses(["c", "a"], DATA)
    assert list(found.names) == ["c", "a"]
    np.testing.assert_array_equal(found.values, [[4, 1], [5, 2], [6, 3]])
    assert list(read_responses("a", DATA).names) == ["a"]
    with pytest.raises(DataError, match="'b' must be numeric"):
        read_responses(["a", "b"], DATA)


def test_a_frame_of_floats_is_not_copied():
    frame = pd.DataFrame(np.asfortranarray(Y))
    assert np.shares_memory(read_responses(frame, DATA).values, frame.to_numpy())


@pytest.mark.parametrize("piece", [2, 1 << 20])
def test_faults(monkeypatch, piece):
    monkeypatch.setattr(module, "PIECE", piece)
    good, gap, flat = [1.0, 2.0, 3.0], [1.0, np.nan, 3.0], [2.0, 2.0, 2.0]
    columns = [
        good,
        gap,
        flat,
        [np.nan] * 3,
        [1.0, np.inf, np.nan],
        [np.nan, 2.0, 2.0],
        [-np.inf, 1.0, 2.0],
    ]
    why, missing = faults(np.array(columns).T)
    assert sorted(why) == [2, 3, 4, 5, 6]
    expected = {
        2: "constant (2)",
        3: "missing in every row",
        4: "infinite in 1 of 3 rows",
        5: "constant (2)",
        6: "infinite in 1",
    }
    assert all(why[i].startswith(text) for i, text in expected.items())
    assert missing.tolist() == [False, True, False, True, True, True, False]
