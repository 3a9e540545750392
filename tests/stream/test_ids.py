"""Long ids keep every digit, from every reader, also beside missing values: as groups, as predictors, in new data, in files."""

from __future__ import annotations

import decimal
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import lmm

duckdb = pytest.importorskip("duckdb")

n, J = 120, 12
rng = np.random.default_rng(5)
v = np.repeat(np.arange(J), n // J)
y = rng.normal(0, 2, J)[v] + rng.normal(size=n)
k = rng.choice(["a", "b"], n)
few = np.arange(n) % 3
IDS = {
    "64 bits": [10**18 + 50 * int(i) for i in v],
    "next to each other": [2**60 + int(i) for i in v],
    "unsigned": [2**63 + 50 * int(i) for i in v],
    "beyond 64 bits": [2**64 + 1000 * int(i) for i in v],
    "of both signs": [-1 if i == 0 else 2**63 + 50 * int(i) for i in v],
}
WIDE = ("beyond 64 bits", "of both signs")
FORMULAS = (
    "y ~ 1 + (1|g)",
    "y ~ k + (1|g)",
    "y ~ 1 + (1|g:k)",
    "y ~ C(f) + (1|g)",
    "y ~ factor(f) + (1|k:g)",
)


def gaps(ids):
    return [None, *ids[1:]]


def columns(kind):
    """g has a missing value in the first row, f three levels of neighbouring ids."""
    ids = gaps(IDS[kind])
    return ids, gaps([IDS[kind][-1] + int(i) for i in few])


def arrow_type(kind):
    return pa.uint64() if kind == "unsigned" else pa.int64()


def of_arrow(kind):
    g, f = columns(kind)
    return pa.table(
        {"g": pa.array(g, arrow_type(kind)), "f": pa.array(f, arrow_type(kind)), "y": y, "k": k}
    )


def in_pandas(make):
    return lambda kind, folder: pd.DataFrame(
        {"g": make(columns(kind)[0], kind), "f": make(columns(kind)[1], kind), "y": y, "k": k}
    )


def parquet(kind, folder):
    path = folder / f"{kind.replace(' ', '')}.parquet"
    pq.write_table(of_arrow(kind), path)
    return path


def decimals(kind, folder):
    table = of_arrow(kind)
    for i, name in ((0, "g"), (1, "f")):
        values = [
            None if value is None else decimal.Decimal(value)
            for value in table.column(name).to_pylist()
        ]
        table = table.set_column(i, name, pa.array(values, pa.decimal128(38, 0)))
    return table


def dask(kind, folder):
    frames = pytest.importorskip("dask.dataframe")
    whole = "UInt64" if kind == "unsigned" else "Int64"
    return frames.from_pandas(
        in_pandas(lambda ids, _: pd.array(ids, dtype=whole))(kind, folder), npartitions=3
    )


SHORT = {
    "nullable": in_pandas(
        lambda ids, kind: pd.array(ids, dtype="UInt64" if kind == "unsigned" else "Int64")
    ),
    "arrow in pandas": in_pandas(
        lambda ids, kind: pd.array(ids, dtype=pd.ArrowDtype(arrow_type(kind)))
    ),
    "polars": lambda kind, folder: pl.DataFrame(of_arrow(kind)),
    "pyarrow": lambda kind, folder: of_arrow(kind),
    "decimals": decimals,
    "Parquet": parquet,
    "chunks": lambda kind, folder: lmm.Source(parquet(kind, folder), chunk=50),
    "Dataset": lambda kind, folder: ds.dataset(parquet(kind, folder)),
    "DuckDB": lambda kind, folder: duckdb.from_arrow(of_arrow(kind)),
    "Dask": dask,
}
ANY = {
    "objects": in_pandas(lambda ids, kind: pd.Series(ids, dtype=object)),
    "objects with NaN": in_pandas(lambda ids, kind: pd.Series([np.nan, *ids[1:]], dtype=object)),
    "Decimals": in_pandas(
        lambda ids, kind: pd.Series(
            [None if i is None else decimal.Decimal(i) for i in ids], dtype=object
        )
    ),
    "mapping of lists": lambda kind, folder: {
        "g": columns(kind)[0],
        "f": columns(kind)[1],
        "y": y,
        "k": k,
    },
    "mapping of objects": lambda kind, folder: {
        "g": np.array(columns(kind)[0], dtype=object),
        "f": columns(kind)[1],
        "y": y,
        "k": k,
    },
}
PAIRS = [(kind, name) for kind in IDS for name in (*ANY, *(SHORT if kind not in WIDE else ()))]


def as_text(kind):
    g, f = ([None if i is None else str(i) for i in ids] for ids in columns(kind))
    return pd.DataFrame({"g": g, "f": f, "y": y, "k": k})


@pytest.fixture(scope="module")
def right():
    return {
        (kind, formula): lmm.lmer(formula, as_text(kind)) for kind in IDS for formula in FORMULAS
    }


@pytest.mark.filterwarnings("ignore::lmm.errors.SingularFitWarning")
@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_every_digit_counts(kind, name, tmp_path, right):
    table = {**SHORT, **ANY}[name](kind, tmp_path)
    for formula in FORMULAS:
        if "(f)" in formula and kind == "beyond 64 bits":
            with pytest.raises(
                lmm.DataError, match="column 'f' has whole numbers of more than 64 bits"
            ):
                lmm.lmer(formula, table)
            continue
        fit, text = lmm.lmer(formula, table), right[kind, formula]
        assert fit.nobs == n - 1 and len(fit.fixef()) == len(text.fixef())
        assert fit.llf == pytest.approx(text.llf, rel=1e-7)
        group = fit.design.terms[0].group
        assert sorted(fit.ranef()[group].index) == sorted(text.ranef()[group].index)
    ids = [IDS[kind][0], None, IDS[kind][-1]]
    fit, text = lmm.lmer(FORMULAS[0], table), right[kind, FORMULAS[0]]
    expected = text.predict(
        {"g": [None if i is None else str(i) for i in ids]}, allow_new_levels=True
    )
    for new in ({"g": ids}, pd.DataFrame({"g": pd.Series(ids, dtype=object)})):
        np.testing.assert_allclose(fit.predict(new, allow_new_levels=True), expected, rtol=1e-5)
    if kind not in WIDE:
        new = pa.table({"g": pa.array(ids, arrow_type(kind))})
        np.testing.assert_allclose(fit.predict(new, allow_new_levels=True), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["64 bits", "unsigned"])
def test_predictions_of_rows_in_files(kind, tmp_path):
    fit = lmm.lmer(FORMULAS[0], parquet(kind, tmp_path))
    new = tmp_path / "new.parquet"
    pq.write_table(of_arrow(kind).slice(0, 30), new)
    for given in ({}, {"newdata": new}):
        fit.write_predictions(tmp_path / "out.parquet", **given)
        out = pq.read_table(tmp_path / "out.parquet")
        kept = [i for i in gaps(IDS[kind])[: 30 if given else n] if given or i is not None]
        assert out.column("g").to_pylist() == kept
        expected = fit.predict({"g": kept}, allow_new_levels=True)
        np.testing.assert_allclose(out.column(".fitted").to_numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "digits"), [("float64", 53), ("float32", 24)])
def test_floats_too_short_for_ids_are_doubted(dtype, digits):
    low = pd.DataFrame({"g": (2.0**digits - 2 * v).astype(dtype), "y": y})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lmm.lmer("y ~ 1 + (1|g)", low)
    with pytest.warns(
        lmm.LmmWarning,
        match=rf"'g' has whole numbers beyond 2\^{digits} that are stored as floats \({dtype}\)",
    ):
        fit = lmm.lmer(
            "y ~ 1 + (1|g)", pd.DataFrame({"g": (2.0**digits + 64 * v).astype(dtype), "y": y})
        )
    assert "stored as floats" in fit.design.messages[0]
