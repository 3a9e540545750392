"""Files as they are found in the world: filtered, coded otherwise in each, given twice, changed between two passes, written into."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import tempfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import lmm
from lmm.stream import sources

duckdb = pytest.importorskip("duckdb")

pytestmark = pytest.mark.filterwarnings("ignore::lmm.errors.SingularFitWarning")
rng = np.random.default_rng(31)
n, J = 1200, 300
g = np.arange(n) % J
frame = pd.DataFrame(
    {
        "x": rng.normal(size=n),
        "g": [f"u{i:03d}" for i in g],
        "k": rng.choice(["lo", "mid", "hi"], n),
    }
)
frame["y"] = frame.x + (frame.k == "hi") + rng.normal(size=J)[g] + rng.normal(size=n)
frame["count"] = rng.poisson(np.exp(0.2 * frame.x + 0.5 * rng.normal(size=J)[g]))
frame["month"] = np.where(g < 100, 1, 2)
F = "y ~ x + k + (1|g)"


def numbers(fit) -> np.ndarray:
    return np.r_[fit.llf, fit.fixef()]


def as_category(table, levels=None):
    k = pd.Categorical(table.k, categories=levels)
    return table.assign(g=pd.Categorical(table.g), k=k)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rows").mkdir()
    for month in (1, 2):
        frame[frame.month == month].to_parquet(tmp_path / "rows" / f"{month}.parquet")
    return tmp_path / "rows"


def test_a_filtered_dataset_and_a_scanner(folder):
    right = numbers(lmm.lmer("y ~ x + (1|g)", frame[frame.x > -0.5]))
    chosen = ds.dataset(folder).filter(ds.field("x") > -0.5)
    np.testing.assert_allclose(numbers(lmm.lmer("y ~ x + (1|g)", chosen)), right, rtol=1e-7)
    np.testing.assert_allclose(
        numbers(lmm.lmer(F, chosen)), numbers(lmm.lmer(F, frame[frame.x > -0.5])), rtol=1e-7
    )
    np.testing.assert_allclose(
        numbers(lmm.lmer("y ~ x + (1|g)", chosen.scanner())), right, rtol=1e-7
    )
    other = folder / "3.parquet"
    frame.drop(columns="x").to_parquet(other)
    with pytest.raises(lmm.DataError, match=r"column 'x' is missing in '3.parquet'"):
        lmm.lmer(
            "y ~ x + (1|g)", ds.dataset([folder / "1.parquet", other]).filter(ds.field("y") > 0)
        )


WAYS = {
    "folder": lambda path: path,
    "list": lambda path: sorted(path.rglob("*.parquet")),
    "chunks": lambda path: lmm.Source(str(path / "**" / "*.parquet"), chunk=70),
    "Dataset": lambda path: ds.dataset(path, partitioning="hive"),
    "DuckDB": lambda path: duckdb.read_parquet(f"{path}/**/*.parquet"),
}
CODED = {
    "codes of different width": (as_category, as_category),
    "category, then text": (as_category, lambda table: table),
    "text, then category": (lambda table: table, as_category),
    "large text": (
        lambda table: table.assign(k=table.k.astype("large_string[pyarrow]")),
        as_category,
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("coded", CODED)
@pytest.mark.parametrize("hive", [False, True], ids=["flat", "hive"])
def test_categories_are_those_of_all_files(tmp_path, coded, way, hive):
    for month, change in enumerate(CODED[coded], 1):
        own = tmp_path / (f"m={month}" if hive else "") / f"{month}.parquet"
        own.parent.mkdir(exist_ok=True)
        change(frame[frame.month == month]).to_parquet(own)
    fit = lmm.lmer(F, WAYS[way](tmp_path))
    right = lmm.lmer(F, frame)
    assert (
        list(fit.fixef().index)
        == ["Intercept", "x", "k[T.lo]", "k[T.mid]"]
        == list(right.fixef().index)
    )
    np.testing.assert_allclose(numbers(fit), numbers(right), rtol=1e-7)
    assert fit.ranef()["g"].index.tolist() == right.ranef()["g"].index.tolist()


ORDERS = {
    "declared alike": (["lo", "mid", "hi"], ["lo", "mid", "hi"], "lo"),
    "one holds the other": (["lo", "hi"], ["lo", "mid", "hi"], "lo"),
    "contradicting": (["mid", "lo", "hi"], ["lo", "mid", "hi"], "hi"),
    "neither holds the other": (["mid", "hi"], ["lo", "hi"], "hi"),
}


@pytest.mark.parametrize("way", [name for name in WAYS if name != "DuckDB"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_reference_level_does_not_depend_on_the_order_of_the_files(tmp_path, order, way):
    first, second, reference = ORDERS[order]
    for turned in (False, True):
        path = tmp_path / str(turned)
        path.mkdir()
        for i, (levels, month) in enumerate([(first, 1), (second, 2)][:: -1 if turned else 1]):
            own = frame[(frame.month == month) & frame.k.isin(levels)]
            as_category(own, levels).to_parquet(path / f"{i}.parquet")
        fit = lmm.lmer("y ~ k + (1|month)", WAYS[way](path))
        assert f"k[T.{reference}]" not in fit.fixef().index and len(fit.fixef()) == 3
        memory = pa.concat_tables(
            [pq.read_table(p) for p in sorted(path.iterdir())], promote_options="permissive"
        )
        assert list(lmm.lmer("y ~ k + (1|month)", memory).fixef().index) == list(fit.fixef().index)
        np.testing.assert_allclose(fit.llf, lmm.lmer("y ~ k + (1|month)", memory).llf, rtol=1e-7)


def test_the_reference_level_does_not_depend_on_the_reader(tmp_path):
    """Text, and polars' categories, which declare nothing, in the order of the letters; what declares an order in that one."""
    polars = pytest.importorskip("polars")
    texts, declared = frame.sort_values("k", ascending=False), ["mid", "never", "lo", "hi"]
    coded = polars.from_pandas(texts).with_columns(polars.col("k").cast(polars.Categorical))
    enum = polars.from_pandas(texts).with_columns(polars.col("k").cast(polars.Enum(declared)))
    arrow = pa.Table.from_pandas(texts)
    codes = pa.array([declared.index(value) for value in texts.k])
    listed = pa.DictionaryArray.from_arrays(codes, pa.array(declared))
    place = arrow.schema.get_field_index("k")

    def written(name, table):
        path = tmp_path / f"{name}.parquet"
        if isinstance(table, pa.Table):
            pq.write_table(table, path, row_group_size=50)
        elif isinstance(table, pd.DataFrame):
            table.to_parquet(path)
        else:
            table.write_parquet(path)
        return path

    def with_k(values):
        return texts.assign(k=pd.Series(values, index=texts.index))

    texts.to_csv(tmp_path / "rows.csv", index=False)
    sorted_ones = [
        *(with_k(texts.k.astype(kind)) for kind in ("str", object, "string", "category")),
        with_k(texts.k.astype(pd.ArrowDtype(pa.large_string()))),
        {name: texts[name].to_numpy() for name in texts},
        polars.from_pandas(texts),
        coded,
        arrow,
        coded.to_arrow(),
        lmm.datasets.read(tmp_path / "rows.csv"),
        ds.dataset(tmp_path / "rows.csv", format="csv"),
        duckdb.from_df(texts),
    ]
    sorted_ones += [written(f"text{i}", own) for i, own in enumerate([texts, arrow, coded])]
    sorted_ones += [ds.dataset(path) for path in sorted_ones[-2:]]
    sorted_ones.append(ds.dataset(sorted_ones[-1].files[0]).scanner().to_reader())
    own_order = [
        as_category(texts, declared),
        with_k(pd.Categorical(texts.k, categories=declared, ordered=True)),
        with_k(pd.arrays.ArrowExtensionArray(listed)),
        enum,
        enum.to_arrow(),
        arrow.set_column(place, "k", listed),
    ]
    own_order += [written(f"own{i}", table) for i, table in enumerate(own_order)]
    own_order += [ds.dataset(path) for path in own_order[-2:]]
    for tables, rest in (
        (sorted_ones, ["k[T.lo]", "k[T.mid]"]),
        (own_order, ["k[T.lo]", "k[T.hi]"]),
    ):
        for table in tables:
            fit = lmm.lmer(F, table)
            assert list(fit.fixef().index) == ["Intercept", "x", *rest]


def test_columns_that_are_no_columns(folder, tmp_path):
    one = pq.read_table(folder / "1.parquet")
    twice = pa.Table.from_arrays([*one.columns, one.column("x")], names=[*one.column_names, "x"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    for data in (tmp_path / "twice.parquet", twice.to_reader(), twice):
        with pytest.raises(lmm.DataError, match="columns named 'x'; rename"):
            lmm.lmer("y ~ x + (1|g)", data)
    assert lmm.lmer("y ~ k + (1|g)", tmp_path / "twice.parquet").nobs == len(one)
    nested = one.append_column("s", pa.array([{"a": 1.0}] * len(one))).append_column(
        "l", pa.array([[1.0]] * len(one))
    )
    pq.write_table(nested, tmp_path / "nested.parquet")
    for data in (
        tmp_path / "nested.parquet",
        ds.dataset(tmp_path / "nested.parquet"),
        nested.to_reader(),
        nested,
    ):
        for name in ("s", "l"):
            for formula in (f"y ~ {name} + (1|g)", f"y ~ x + (1|{name})"):
                with pytest.raises(lmm.DataError, match=f"the column {name} holds"):
                    lmm.lmer(formula, data)


def test_a_file_counts_once(folder, tmp_path):
    path = folder / "1.parquet"
    os.symlink(path, tmp_path / "link.parquet")
    os.symlink(folder, folder / "again")
    for data in (
        [path, path],
        [path, tmp_path / "link.parquet"],
        ds.dataset([str(path), str(path)]),
        folder,
        str(folder / "**" / "*.parquet"),
    ):
        with pytest.raises(lmm.DataError, match="its rows would count twice"):
            lmm.lmer("y ~ x + (1|g)", data)


def rewritten(path):
    pq.read_table(path).slice(0, 50).to_pandas().to_parquet(path)


def touched(path):
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(
            table.schema.get_field_index("y"), "y", pa.array(table["y"].to_numpy()[::-1])
        ),
        path,
    )


CHANGES = {"shortened": rewritten, "rewritten": touched, "removed": os.remove}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", ["folder", "list", "chunks", "Dataset"])
def test_a_file_that_changes_between_two_passes_is_refused(folder, monkeypatch, way, change):
    kind = sources.Dataset if way == "Dataset" else sources.ParquetFiles
    original, calls = kind.tables, []

    def tables(self, columns, rows):
        calls.append(1)
        if len(calls) == 3:
            CHANGES[change](folder / "2.parquet")
        yield from original(self, columns, rows)

    monkeypatch.setattr(kind, "tables", tables)
    with pytest.raises(
        lmm.DataError, match=r"2.parquet' (has changed since it was first read|cannot be read)"
    ):
        lmm.glmer("count ~ x + k + (1|g)", WAYS[way](folder), family="poisson")


def test_a_relation_whose_rows_change_is_refused(monkeypatch):
    connection = duckdb.connect()
    connection.register("source", frame)
    connection.execute("create table held as select * from source")
    original, calls = sources.DuckTable.tables, []

    def tables(self, columns, rows):
        calls.append(1)
        if len(calls) == 3:
            connection.execute("insert into held select * from source limit 10")
        yield from original(self, columns, rows)

    monkeypatch.setattr(sources.DuckTable, "tables", tables)
    with pytest.raises(lmm.DataError, match="has 1210 rows now and had 1200 before"):
        lmm.lmer(F, connection.table("held"))


@pytest.mark.parametrize("change", ["shortened", "rewritten", "removed", "one more"])
def test_what_reads_the_rows_again_refuses_other_rows(folder, tmp_path, change):
    fit = lmm.lmer(F, folder, REML=False)
    again = pickle.loads(pickle.dumps(fit))
    assert numbers(fit.update(". ~ . - k")) == pytest.approx(
        numbers(lmm.lmer("y ~ x + (1|g)", folder, REML=False))
    )
    if change == "one more":
        shutil.copy(folder / "1.parquet", folder / "3.parquet")
    else:
        CHANGES[change](folder / "2.parquet")
    for one in (fit, again):
        with pytest.raises(
            lmm.DataError, match="since the fit, so that this would be of other rows"
        ):
            one.drop1()
        with pytest.raises(
            lmm.DataError,
            match=r"2.parquet' has changed since the fit|has come since|has gone since",
        ):
            one.update(". ~ . - k")
    assert fit.update(data=lmm.Source(str(folder / "1.parquet"))).nobs == (frame.month == 1).sum()
    if change != "one more":
        with pytest.raises(lmm.DataError, match=r"2.parquet'"):
            fit.write_predictions(tmp_path / "out.parquet")
        assert os.listdir(tmp_path) == ["rows"]


def test_predictions_go_beside_the_files_that_are_read(folder, tmp_path):
    for data in (folder, str(folder / "*.parquet"), ds.dataset(folder)):
        fit = lmm.lmer("y ~ x + (1|g)", data)
        for target in (folder / "predicted.parquet", folder / "1.parquet"):
            for given in ({}, {"newdata": tmp_path / "new.parquet"}):
                frame.head(30).to_parquet(tmp_path / "new.parquet")
                with pytest.raises(lmm.ArgumentError, match="among the files that are read"):
                    fit.write_predictions(target, **given)
        assert fit.write_predictions(tmp_path / "predicted.parquet") == n
        assert sorted(os.listdir(folder)) == ["1.parquet", "2.parquet"]
    with pytest.raises(lmm.ArgumentError, match="there is no folder"):
        fit.write_predictions(tmp_path / "nowhere" / "out.parquet")
    with pytest.raises(lmm.ArgumentError, match="must be the name of a file"):
        fit.write_predictions(3)


def test_an_interrupt_leaves_no_file_behind(folder, tmp_path, monkeypatch):
    fit = lmm.lmer("y ~ x + (1|g)", folder)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq.ParquetWriter, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit.write_predictions(tmp_path / "out.parquet")
    assert os.listdir(tmp_path) == ["rows"]


@pytest.mark.parametrize(
    "settings",
    [(3,), (None,), ([],), ([1],), ("a", 3), ("a", None, 0), ("a", None, 1.5), ("a", None, True)],
)
def test_a_source_says_what_is_wrong(settings):
    with pytest.raises(lmm.ArgumentError, match="Source"):
        lmm.Source(*settings)


def test_broken_files_are_told(tmp_path, folder):
    (tmp_path / "text.parquet").write_text("no Parquet")
    whole = (folder / "1.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "cut"):
        for data in (
            tmp_path / f"{name}.parquet",
            [folder / "2.parquet", tmp_path / f"{name}.parquet"],
        ):
            with pytest.raises(lmm.LmmError):
                lmm.lmer(F, data)


@pytest.mark.parametrize("when", ["take", "settle"])
def test_an_interrupt_leaves_no_folder_of_rows_behind(folder, tmp_path, monkeypatch, when):
    from lmm.stream import row_blocks

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(row_blocks, "BUDGET", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    original, made = row_blocks.Spill.take, []

    def take(self, block):
        made.extend(os.listdir(tmp_path / "temporary"))
        return interrupted() if when == "take" else original(self, block)

    monkeypatch.setattr(row_blocks.Spill, "take", take)
    monkeypatch.setattr(row_blocks.Spill, "settle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lmm.glmer("count ~ x + (1|g)", folder, family="poisson")
    gc.collect()
    assert made and os.listdir(tmp_path / "temporary") == []


def test_what_arrow_says_of_a_chunk_is_told_as_ours(folder, monkeypatch):
    from lmm.stream import recipe

    def failing(*_, **__):
        raise pa.ArrowNotImplementedError("Function 'f' has no kernel")

    monkeypatch.setattr(recipe, "check_weights", failing)
    with pytest.raises(lmm.DataError, match="rows cannot be read: Function 'f' has no kernel"):
        lmm.lmer("y ~ x + (1|g)", folder)
