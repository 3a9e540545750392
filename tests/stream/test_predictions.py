"""The second pass: predictions of every row, written as Parquet."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n = 900
    g, h = rng.integers(0, 30, n), rng.integers(0, 12, n)
    x = rng.normal(size=n)
    y = 1 + x + rng.normal(size=30)[g] + 0.5 * rng.normal(size=12)[h] * x + rng.normal(size=n)
    data = pd.DataFrame(
        {
            "y": y,
            "x": x,
            "g": [f"g{i}" for i in g],
            "h": h,
            "size": np.array(["s", "l"])[h % 2],
            "w": rng.uniform(1, 2, n),
        }
    )
    data["extra"] = np.arange(n)
    data.loc[::50, "x"] = np.nan
    return data


@pytest.fixture(scope="module")
def path(data, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "rows.parquet"
    data.to_parquet(path)
    return str(path)


@pytest.mark.parametrize(
    ("formula", "settings"),
    [
        ("y ~ x + (1 | g) + (0 + x | h)", {}),
        ("y ~ x * size + (x | g:h)", {}),
        ("y ~ scale(x) + offset(w) + (1 | size/h)", {"weights": "w"}),
        ("y ~ x + (1 | g)", {"subset": "h > 3"}),
        ("y ~ x + (1 | g)", {"na_action": "exclude"}),
        ("y ~ 0 + (1 | g)", {}),
    ],
)
def test_they_are_those_of_the_fit_in_memory(formula, settings, data, path, tmp_path):
    target = tmp_path / "out.parquet"
    fit = lmm.lmer(formula, lmm.Source(path, chunk=128), **settings)
    count = fit.write_predictions(target, columns=["extra"])
    out = pq.read_table(target).to_pandas()
    wanted = lmm.lmer(formula, data, **settings).augment()
    assert count == len(out) == len(wanted)
    assert out["extra"].tolist() == wanted["extra"].tolist()
    for name in (".fitted", ".resid", ".fixed"):
        np.testing.assert_allclose(out[name], wanted[name], rtol=1e-6, atol=1e-6)
    assert os.listdir(tmp_path) == ["out.parquet"]


def test_other_data_is_predicted(data, path, tmp_path):
    fit = lmm.lmer("y ~ x + (1 | g)", path)
    other = data[:50].assign(g=["new", *data["g"][1:50]]).drop(columns="y")
    other.to_parquet(tmp_path / "new.parquet")
    assert (
        fit.write_predictions(tmp_path / "out.parquet", tmp_path / "new.parquet", columns=["g"])
        == 50
    )
    out = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert list(out) == ["g", ".fitted"]
    np.testing.assert_allclose(out[".fitted"], fit.predict(other, allow_new_levels=True).to_numpy())
    in_memory = lmm.lmer("y ~ x + (1 | g)", data)
    assert in_memory.write_predictions(tmp_path / "out.parquet", tmp_path / "new.parquet") == 50


def test_what_cannot_be_written_is_refused_in_words(data, path, tmp_path):
    fit = lmm.lmer("y ~ x + (1 | g)", path)
    with pytest.raises(ArgumentError, match="files that are read"):
        fit.write_predictions(path)
    with pytest.raises(ArgumentError, match="is a folder"):
        fit.write_predictions(tmp_path)
    with pytest.raises(ArgumentError, match="no column 'extr'. Did you mean 'extra'"):
        fit.write_predictions(tmp_path / "a.parquet", columns=["extr"])
    with pytest.raises(ArgumentError, match=r"fit.augment\(\)"):
        lmm.lmer("y ~ x + (1 | g)", data).write_predictions(tmp_path / "a.parquet")
    with pytest.raises(ArgumentError, match=r"fit.predict\(newdata\)"):
        fit.write_predictions(tmp_path / "a.parquet", data)
    with pytest.raises(DataError, match="there is no file"):
        fit.write_predictions(tmp_path / "a.parquet", tmp_path / "absent.parquet")
    assert os.listdir(tmp_path) == []


def test_a_reader_is_exhausted_by_the_fit(data, tmp_path):
    reader = pa.Table.from_pandas(data).to_reader(max_chunksize=100)
    fit = lmm.lmer("y ~ x + (1 | g)", reader)
    assert fit.estimate.objective == pytest.approx(
        lmm.lmer("y ~ x + (1 | g)", data).estimate.objective, rel=1e-10
    )
    with pytest.raises(DataError, match="read to its end"):
        fit.write_predictions(tmp_path / "a.parquet")
    assert os.listdir(tmp_path) == []
