"""The same call on a Spark DataFrame: a real cluster with executors of their own, one of which is killed in the middle of a fit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, DataError
from lmm.stream import Reduction, reducer_for
from tests.stream import fuse
from tests.stream.fuse import deadly, same  # noqa: F401  (deadly is called by formulas)

pyspark = pytest.importorskip("pyspark")
pytest.importorskip("pyarrow")
if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
    pytest.skip("Spark needs Java", allow_module_level=True)

from lmm.stream.clusters import spark_frames  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("spark")]
FORMULA = "y ~ x + kind + (1+x|g) + (1|h)"
#: small programs start faster without the second compiler
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return fuse.table()


@pytest.fixture(scope="module")
def spark(tmp_path_factory) -> Iterator[Any]:
    """A master, two workers, one executor on each."""
    path = str(tmp_path_factory.mktemp("fuse") / "fuse")
    settings = {
        "SPARK_HOME": os.path.dirname(pyspark.__file__),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_HOSTNAME": "localhost",
    }
    settings |= {fuse.FUSE: path, "SPARK_LOCAL_IP": "127.0.0.1", "OPENBLAS_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    for module in (fuse, sys.modules[__name__]):
        pyspark.cloudpickle.register_pickle_by_value(module)  # the executors do not have the tests
    options = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.executor.memory": "512m",
        "spark.executor.extraJavaOptions": JVM,
        "spark.driver.extraJavaOptions": JVM,
        f"spark.executorEnv.{fuse.FUSE}": path,
        "spark.executorEnv.PYTHONPATH": str(Path(lmm.__file__).parents[1]),
    }
    builder = pyspark.sql.SparkSession.builder.master("local-cluster[2,1,512]").appName("lmm")
    for name, value in options.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory) -> Path:
    """Six files, each a partition."""
    place = tmp_path_factory.mktemp("table")
    for i in range(6):
        data.iloc[500 * i : 500 * (i + 1)].to_parquet(place / f"part-{i}.parquet", index=False)
    return place


@pytest.fixture(scope="module")
def frame(spark, folder) -> Any:
    spark.conf.set("spark.sql.files.maxPartitionBytes", "20kb")
    found = spark.read.parquet(str(folder))
    assert found.rdd.getNumPartitions() >= 4
    return found


def test_a_fit_equals_the_one_in_memory_though_an_executor_is_killed(frame, data):
    path = Path(os.environ[fuse.FUSE])
    fuse.light(path)
    formula = "y ~ scale(x) + kind + deadly(m) + (1+x|g) + (1|h)"
    fit = lmm.lmer(formula, frame, weights="w")
    assert path.with_name("fuse.burnt").exists() and not path.exists()
    same(fit, lmm.lmer(formula, data, weights="w"))


def test_a_generalized_fit_equals_the_one_in_memory(frame, data):
    fit = lmm.glmer("count ~ x + (1|g)", frame, family="poisson")
    same(fit, lmm.glmer("count ~ x + (1|g)", data, family="poisson"))


def test_sums_that_meet_on_the_executors(frame, data, monkeypatch):
    """Nothing is small, and every row of pickled sums is cut into pieces: the tree of stages gives the same fit."""
    monkeypatch.setattr(spark_frames, "TINY", 0)
    monkeypatch.setattr(spark_frames, "SMALL", 0)
    monkeypatch.setattr(spark_frames, "FAN_IN", 2)
    same(lmm.lmer(FORMULA, frame), lmm.lmer(FORMULA, data))


def test_pieces_of_parts_come_in_any_order(monkeypatch):
    from lmm.stream.clusters.parts import Part

    monkeypatch.setattr(spark_frames, "PIECE", 100)
    parts = [Part(frozenset({i}), np.arange(100.0) + i) for i in range(3)]
    batches = [batch for part in parts for batch in spark_frames.pieces(part)]
    assert len(batches) > 20
    back = spark_frames._parts(
        batches[i] for i in np.random.default_rng(0).permutation(len(batches))
    )
    assert [part.numbers for part in back] == [part.numbers for part in parts]
    assert all(np.array_equal(a.value, b.value) for a, b in zip(back, parts, strict=True))


def test_passes_over_prepared_partitions_outlive_an_executor(frame, data):
    blocks = reducer_for(frame).prepared(("x", "m"), _squared)
    path = Path(os.environ[fuse.FUSE])
    for power in (1.0, 2.0):
        found = blocks.map_reduce(Reduction((), start, partial(add, power=power), merge))
        assert found == pytest.approx([len(data), (data["x"] ** (2 * power)).sum()], rel=1e-12)
    fuse.light(path)
    assert blocks.map_reduce(Reduction((), start, kill_once, merge)) == pytest.approx(
        [len(data), (data["x"] ** 2).sum()], rel=1e-12
    )
    assert not path.exists()
    blocks.close()


def _squared(table: Any) -> dict[str, np.ndarray]:
    return {"x": table.column("x").to_numpy() ** 2, "m": table.column("m").to_numpy()}


def start() -> np.ndarray:
    return np.zeros(2)


def add(sums: np.ndarray, block: dict[str, np.ndarray], power: float = 1.0) -> np.ndarray:
    return sums + [len(block["x"]), float((block["x"] ** power).sum())]


def kill_once(sums: np.ndarray, block: dict[str, np.ndarray]) -> np.ndarray:
    fuse.deadly(block["m"])
    return add(sums, block)


def merge(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + b


def test_partitions_without_rows_and_with_missing_values(spark, frame, data):
    from pyspark.sql import functions as F

    holes = frame.withColumn(
        "x",
        F.when(F.col("h") == 3, F.lit(None))
        .when(F.col("h") == 4, F.lit(float("nan")))
        .otherwise(F.col("x")),
    )
    fit = lmm.lmer(
        "y ~ x + (1|g)", holes.where("w < 1.5 or y < -1e9").union(frame.where("y < -1e9"))
    )
    kept = data[data["w"] < 1.5]
    memory = lmm.lmer("y ~ x + (1|g)", kept.assign(x=kept["x"].where(~kept["h"].isin([3, 4]))))
    same(fit, memory)
    assert fit.design.n_dropped == memory.design.n_dropped > 0
    with pytest.raises(DataError, match="the data has no rows"):
        lmm.lmer("y ~ x + (1|g)", frame.where("y < -1e9"))


def test_errors_come_back_as_ours(spark, frame, data, folder, tmp_path):
    from pyspark.sql import functions as F

    with pytest.raises(DataError, match="^the term x is infinite in 1 of"):
        lmm.lmer(
            "y ~ x + (1|g)",
            frame.withColumn(
                "x", F.when(F.col("m") > 0, F.lit(float("inf"))).otherwise(F.col("x"))
            ),
        )
    with pytest.raises(DataError, match="xx"):
        lmm.lmer("y ~ xx + (1|g)", frame)
    shutil.copytree(folder, tmp_path / "mixed")
    data.iloc[:50].assign(x="text").to_parquet(tmp_path / "mixed" / "part-9.parquet", index=False)
    mixed = spark.read.schema(frame.schema).parquet(str(tmp_path / "mixed"))
    with pytest.raises(
        DataError, match="the Spark DataFrame cannot be computed: .*part-9.parquet.*column \\[x\\]"
    ):
        lmm.lmer("y ~ x + (1|g)", mixed)


def test_predictions_stay_on_the_cluster(frame, data):
    fit = lmm.lmer(FORMULA, frame)
    found = fit.predict(frame, interval="prediction", re_form=False)
    assert found.columns == [*frame.columns, "fit", "se", "lower", "upper"]
    rows = found.toArrow().to_pandas().sort_values(["y", "x"])
    memory = lmm.lmer(FORMULA, data).predict(rows, interval="prediction", re_form=False)
    assert np.allclose(rows[["fit", "se", "lower", "upper"]], memory, rtol=0, atol=1e-7)
    with pytest.raises(ArgumentError, match="has a column 'fit' already"):
        fit.predict(frame.withColumnRenamed("w", "fit"))
