"""Data in many forms, good and bad: what can be read gives the same fit, what cannot is refused by name."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm import cli
from lmm.errors import ArgumentError, DataError, FormulaError, GroupingError, ResponseError
from lmm.stream.reducers import reducer_for

pa = pytest.importorskip("pyarrow")
ds = pytest.importorskip("pyarrow.dataset")
pq = pytest.importorskip("pyarrow.parquet")
FORMULA = "y ~ x + (1 | g)"
N = 600


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    g = rng.integers(0, 20, N)
    y = rng.normal(size=20)[g] + rng.normal(size=N)
    return pd.DataFrame(
        {
            "y": y,
            "x": rng.normal(size=N),
            "g": g,
            "s": rng.choice(["a", "b"], N),
            "w": rng.uniform(1, 2, N),
        }
    )


@pytest.fixture(scope="module")
def wanted(rows) -> float:
    return lmm.lmer(FORMULA, rows).llf


@pytest.fixture
def put(tmp_path) -> Callable[..., str]:
    def write(name: str, data: pd.DataFrame) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        data.to_parquet(tmp_path / name, index=False)
        return str(tmp_path / name)

    return write


# ---- what is read ----


def test_files_folders_and_lists(rows, wanted, put, tmp_path):
    one, two = put("parts/1.parquet", rows[:250]), put("parts/2.parquet", rows[250:])
    put("parts/0.parquet", rows[:0])  # a file without rows
    for data in (
        tmp_path / "parts",
        str(tmp_path / "parts" / "*.parquet"),
        [one, two],
        lmm.Source([one, two], chunk=7),
    ):
        fit = lmm.lmer(FORMULA, data)
        assert fit.llf == pytest.approx(wanted, rel=1e-10) and fit.nobs == N


def test_a_partitioned_folder(rows, put, tmp_path):
    for level, part in rows.groupby("s"):
        put(f"hive/s={level}/rows.parquet", part.drop(columns="s"))
    fit = lmm.lmer("y ~ x + s + (1 | g)", tmp_path / "hive")
    assert fit.llf == pytest.approx(lmm.lmer("y ~ x + s + (1 | g)", rows).llf, rel=1e-10)


def test_datasets_and_readers(rows, wanted, put):
    path, table = put("rows.parquet", rows), pa.Table.from_pandas(rows)
    for data in (
        ds.dataset(path),
        ds.dataset(table),
        table.to_reader(max_chunksize=64),
        ds.dataset(path).scanner(),
    ):
        assert lmm.lmer(FORMULA, data).llf == pytest.approx(wanted, rel=1e-10)


def test_duckdb(rows, wanted, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    path = str(tmp_path / "rows.duckdb")
    with duckdb.connect(path) as connection:
        connection.execute("create table ratings as select * from rows")
        connection.execute("create view women as select * from ratings where x > 0")
        for relation in (connection.table("ratings"), connection.sql("select * from ratings")):
            assert lmm.lmer(FORMULA, relation).llf == pytest.approx(wanted, rel=1e-10)
        assert lmm.lmer(FORMULA, f"{path}::ratings").llf == pytest.approx(
            wanted, rel=1e-10
        )  # open in this process
    for data in (f"{path}::ratings", lmm.Source(path, table="ratings", chunk=100)):
        fit = lmm.lmer(FORMULA, data)
        assert fit.llf == pytest.approx(wanted, rel=1e-10)
        assert fit.write_predictions(tmp_path / "out.parquet") == N
    assert lmm.lmer("y ~ s + scale(x) + (1 | g)", f"{path}::women").nobs == int(
        (rows["x"] > 0).sum()
    )
    with pytest.raises(DataError, match="no table 'rating'. Did you mean 'ratings'"):
        lmm.lmer(FORMULA, f"{path}::rating")
    with pytest.raises(DataError, match="2 tables: ratings, women. Say which"):
        lmm.lmer(FORMULA, path)
    with pytest.raises(DataError, match="no DuckDB file"):
        rows.to_csv(tmp_path / "rows.csv")
        lmm.lmer(FORMULA, f"{tmp_path}/rows.csv::ratings")


def test_a_million_text_levels():
    """Ids of text, each chunk with levels that no other has."""
    rng = np.random.default_rng(1)
    n, J = 1_500_000, 1_000_000
    g = np.concatenate([rng.permutation(J), rng.integers(0, J, n - J)])
    y = rng.normal(size=J)[g] + rng.normal(size=n)
    ids = pa.array(np.char.add("user ", np.arange(J).astype(str)))
    table = pa.table({"y": y, "g": ids.take(pa.array(g))})
    fit = lmm.lmer("y ~ 1 + (1 | g)", ds.dataset(table))
    assert fit.design.terms[0].J == J and fit.nobs == n
    assert fit.sigma == pytest.approx(1.0, abs=0.02)
    assert list(fit.design.terms[0].levels[:3]) == ["user 0", "user 1", "user 10"]


@pytest.mark.parametrize("groups", [1, 40])
def test_what_has_been_read_is_let_go(groups, tmp_path):
    """Chunks do not pile up, be the file of many row groups or of one; 48 MB in all, chunks of 1.2 MB."""
    n = 2_000_000
    rng = np.random.default_rng(0)
    table = pa.table({name: rng.normal(size=n) for name in ("x", "y", "z")})
    pq.write_table(
        table,
        tmp_path / "rows.parquet",
        row_group_size=n // groups,
        use_dictionary=False,
        compression="none",
    )
    del table
    sources = [lmm.Source(tmp_path / "rows.parquet"), ds.dataset(tmp_path / "rows.parquet")]
    for data in (
        sources if groups > 1 else sources[:1]
    ):  # a data set of pyarrow's is read by row groups
        stream = reducer_for(data)
        stream.chunk = 50_000
        before, most, rows = pa.total_allocated_bytes(), 0, 0
        for chunk in stream.batches(("x", "y", "z")):
            most, rows = max(most, pa.total_allocated_bytes() - before), rows + chunk.num_rows
        assert rows == n and most < 24e6


def test_the_command_line_reads_in_chunks(rows, wanted, put, tmp_path, capsys):
    put("parts/1.parquet", rows[:250])
    put("parts/2.parquet", rows[250:])
    assert cli.main([FORMULA, str(tmp_path / "parts" / "*.parquet")]) == 0
    assert f"{-2 * wanted:.1f}" in capsys.readouterr().out
    assert cli.main([FORMULA, str(tmp_path / "none*")]) == 2
    assert "no file matches" in capsys.readouterr().err


def test_progress_says_rows_per_second(rows, put):
    pytest.importorskip("tqdm")
    text = io.StringIO()
    with redirect_stderr(text):
        lmm.lmer(FORMULA, put("rows.parquet", rows), control=lmm.Control(progress=True))
    assert "600/600" in text.getvalue() and "rows/s" in text.getvalue()


def test_numbers_of_several_widths(rows, put, tmp_path):
    put("a/1.parquet", rows[:300].assign(g=rows["g"][:300].astype("int8"), x=1))
    put("a/2.parquet", rows[300:].assign(g=rows["g"][300:] + 100_000))
    put("b/1.parquet", rows[:300].assign(x=np.nan).astype({"x": object}))
    put("b/2.parquet", rows[300:].assign(g=rows["g"][300:].astype(float)))
    memory = rows.assign(
        g=np.where(np.arange(N) < 300, rows["g"], rows["g"] + 100_000),
        x=np.where(np.arange(N) < 300, 1, rows["x"]),
    )
    assert lmm.lmer(FORMULA, tmp_path / "a").llf == pytest.approx(
        lmm.lmer(FORMULA, memory).llf, rel=1e-10
    )
    fit = lmm.lmer(FORMULA, tmp_path / "b")  # no value at all in the first file
    assert fit.llf == pytest.approx(lmm.lmer(FORMULA, rows[300:]).llf, rel=1e-10)
    assert fit.design.n_dropped == 300 and fit.design.terms[0].levels[0] == "0"


# ---- what is not ----


def test_parts_that_do_not_look_alike(rows, put, tmp_path):
    put("type/1.parquet", rows[:300])
    put("type/2.parquet", rows[300:].assign(x=rows["x"].astype(str)))
    with pytest.raises(
        DataError, match=r"column 'x' is \w+ in '2.parquet', but double in the rows before it"
    ):
        lmm.lmer(FORMULA, tmp_path / "type")
    put("ids/1.parquet", rows[:300])
    put("ids/2.parquet", rows[300:].assign(g="g" + rows["g"].astype(str)))
    with pytest.raises(DataError, match=r"column 'g' is \w+ in '2.parquet', but int64"):
        lmm.lmer(FORMULA, tmp_path / "ids")
    put("lost/1.parquet", rows[:300])
    put("lost/2.parquet", rows[300:].drop(columns="x"))
    for data in (tmp_path / "lost", ds.dataset(tmp_path / "lost")):
        with pytest.raises(
            DataError, match="column 'x' is missing in '2.parquet', although other parts have it"
        ):
            lmm.lmer(FORMULA, data)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize(
    ("column", "error"), [("x", DataError), ("y", ResponseError), ("w", DataError)]
)
def test_infinities_are_refused_in_any_chunk(column, value, error, rows, put):
    data = rows.copy()
    data.loc[500, column] = value
    with pytest.raises(error, match="infinite in 1"):
        lmm.lmer(FORMULA, lmm.Source(put("rows.parquet", data), chunk=100), weights="w")


def test_nan_is_missing(rows, put):
    data = rows.copy()
    data.loc[[3, 500], "x"], data.loc[7, "y"] = np.nan, np.nan
    fit = lmm.lmer(FORMULA, lmm.Source(put("rows.parquet", data), chunk=100))
    assert (fit.nobs, fit.design.n_dropped) == (597, 3)
    with pytest.raises(
        DataError,
        match=r"missing values in 'x' \(1 rows\), 'y' \(1 rows\)|missing values in 'y'|missing values in 'x'",
    ):
        lmm.lmer(FORMULA, lmm.Source(put("rows.parquet", data), chunk=100), na_action="fail")
    with pytest.raises(
        DataError, match=r"no complete row is left of 600: missing values in 'x' \(600 rows\)"
    ):
        lmm.lmer(FORMULA, put("rows.parquet", rows.assign(x=np.nan)))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"y": 1.0}, ResponseError, r"constant \(1\)"),
        ({"y": lambda d: 2 * d["x"] + 1}, ResponseError, "exactly"),
        ({"g": 1}, GroupingError, "one level"),
        ({"g": range(N)}, GroupingError, "600 levels for 600 rows"),
        ({"y": lambda d: d["s"]}, ResponseError, "must be numeric, but it is text"),
        ({"w": -1.0}, ArgumentError, "weights must be positive"),
    ],
)
def test_rows_that_cannot_carry_the_model(change, error, text, rows, put):
    with pytest.raises(error, match=text):
        lmm.lmer(
            FORMULA, lmm.Source(put("rows.parquet", rows.assign(**change)), chunk=100), weights="w"
        )


def test_paths_that_lead_nowhere(rows, put, tmp_path):
    put("rows.parquet", rows)
    (tmp_path / "text.parquet").write_text("this is a file of text, and long enough")
    (tmp_path / "none").mkdir()
    cases = {
        tmp_path / "row.parquet": "there is no file .* Did you mean 'rows.parquet'",
        tmp_path / "z*.parquet": "no file matches",
        "/no such folder/rows.parquet": "the folder '/no such folder' does not exist",
        tmp_path / "text.parquet": "is no Parquet file",
        tmp_path / "none": "has no Parquet files",
        f"{tmp_path}/rows.duckdb::ratings": "there is no file",
    }
    for path, text in cases.items():
        with pytest.raises(DataError, match=text):
            lmm.lmer(FORMULA, path)
    with pytest.raises(DataError, match="the data has no rows"):
        lmm.lmer(FORMULA, put("empty.parquet", rows[:0]))
    with pytest.raises(DataError, match="data must be a table"):
        lmm.lmer(FORMULA, [])
    with pytest.raises(ArgumentError, match="chunk=0"):
        lmm.Source("rows.parquet", chunk=0)


def test_arguments_that_would_need_the_rows(rows, put):
    path = put("rows.parquet", rows)
    for name, value in (
        ("weights", np.ones(N)),
        ("offset", np.ones(N)),
        ("subset", rows["x"] > 0),
        ("subset", lambda d: d["x"] > 0),
    ):
        with pytest.raises(
            ArgumentError, match=f"{name} must be the name of a column or an expression"
        ):
            lmm.lmer(FORMULA, path, **{name: value})
    z = np.ones(N)
    with pytest.raises(ArgumentError, match="'z' is an array in scope"):
        lmm.lmer("y ~ z + (1 | g)", path)
    assert len(z) == N
    for formula, text in {
        "y ~ ns(x, 3) + (1 | g)": r"give the knots: ns\(x, knots=",
        "y ~ bs(x, df=5) + (1 | g)": r"give the knots: bs\(x, knots=",
        "y ~ I(x - median(x)) + (1 | g)": r"median\(x\) has to see all rows at once",
    }.items():
        with pytest.raises(ArgumentError, match=text):
            lmm.lmer(formula, path)
    with pytest.raises(ArgumentError, match=r"subset: mean\(\) has to see all rows"):
        lmm.lmer(FORMULA, path, subset="x > mean(x)")
    with pytest.raises(DataError, match="subset leaves no rows"):
        lmm.lmer(FORMULA, path, subset="x > 100")
    with pytest.raises(DataError, match="column 'xx' is not in the data. Did you mean 'x'"):
        lmm.lmer("y ~ xx + (1 | g)", path)
    with pytest.raises(FormulaError, match="no random term"):
        lmm.lmer("y ~ x", path)


def test_readers_pass_once(rows):
    table = pa.Table.from_pandas(rows)
    reader = table.to_reader(max_chunksize=100)
    fit = lmm.lmer("y ~ x + s + (1 | g)", reader)  # levels in the first rows
    with pytest.raises(DataError, match="no rows"):
        lmm.lmer(FORMULA, reader)
    with pytest.raises(ArgumentError, match="cannot be read again"):
        fit.update(REML=False)
    with pytest.raises(ArgumentError, match=r"scale\(x\) needs a summary of all rows"):
        lmm.lmer("y ~ scale(x) + (1 | g)", table.to_reader())
    late = pd.concat([rows] * 40, ignore_index=True).assign(
        s=lambda d: np.where(d.index > 23_000, "late", d["s"])
    )
    with pytest.raises(DataError, match="levels that the rows read before it do not have: 'late'"):
        lmm.lmer("y ~ x + s + (1 | g)", pa.Table.from_pandas(late).to_reader(max_chunksize=1000))


def test_a_predictor_with_too_many_levels(put):
    n = 6_000
    data = pd.DataFrame(
        {"y": np.arange(n) % 7.0, "g": np.arange(n) % 20, "s": np.arange(n).astype(str)}
    )
    with pytest.raises(
        DataError,
        match=r"more than 5000 levels, a column for each; write it as a grouping factor, \(1 \| s\)",
    ):
        lmm.lmer("y ~ s + (1 | g)", put("rows.parquet", data))


def test_without_the_package_the_error_says_how_to_get_it(rows, put, monkeypatch):
    path = put("rows.parquet", rows)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ArgumentError, match=r"needs pyarrow; install it with: pip install 'lmm\[large\]'"
    ):
        lmm.lmer(FORMULA, path)
