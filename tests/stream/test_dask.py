"""The same call on a Dask DataFrame: a real cluster of processes, one of which is killed in the middle of a fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, DataError, PredictionError, ResponseError
from lmm.stream import Reduction, reducer_for
from tests.stream import fuse
from tests.stream.fuse import deadly, same  # noqa: F401  (deadly is called by formulas)

pytest.importorskip("distributed")
cloudpickle = pytest.importorskip("cloudpickle")
dask = pytest.importorskip("dask")
dd = pytest.importorskip("dask.dataframe")
distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.xdist_group("dask")
FORMULA = "y ~ x + kind + (1+x|g) + (1|h)"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return fuse.table()


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[Any]:
    """Two workers, processes of their own."""
    os.environ[fuse.FUSE] = str(tmp_path_factory.mktemp("fuse") / "fuse")
    cloudpickle.register_pickle_by_value(fuse)  # the workers do not have the tests
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
    del os.environ[fuse.FUSE]


def parts_of(
    data: pd.DataFrame, *change: tuple[int, Callable[[pd.DataFrame], pd.DataFrame]]
) -> Any:
    """Six partitions; those named in ``change`` are changed, without Dask knowing."""
    pieces = [data.iloc[i : i + 500] for i in range(0, len(data), 500)]
    for number, function in change:
        pieces[number] = function(pieces[number])
    return dd.from_delayed(
        [dask.delayed(piece) for piece in pieces], meta=data.iloc[:0], verify_meta=False
    )


def pids(client: Any) -> set[int]:
    return set(client.run(os.getpid).values())


def test_a_fit_equals_the_one_in_memory_though_a_worker_is_killed(client, data):
    path = Path(os.environ[fuse.FUSE])
    fuse.light(path)
    before = pids(client)
    formula = "y ~ x + kind + deadly(m) + (1+x|g) + (1|h)"
    memory = lmm.lmer(formula, data, weights="w")
    fit = lmm.lmer(formula, dd.from_pandas(data, npartitions=8), weights="w")
    client.wait_for_workers(2)
    assert path.with_name("fuse.burnt").exists() and not path.exists()
    assert before - pids(client)
    same(fit, memory)


def test_a_generalized_fit_equals_the_one_in_memory_though_a_worker_is_killed(client, data):
    path = Path(os.environ[fuse.FUSE])
    fuse.light(path)
    formula = "count ~ x + deadly(m) + (1|g) + (1|h)"
    fit = lmm.glmer(formula, dd.from_pandas(data, npartitions=8), family="poisson")
    assert not path.exists()
    same(fit, lmm.glmer(formula, data, family="poisson"))


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_any_scheduler_and_kind_of_column(data, method):
    """Without a client Dask's own threads do the work; levels of text, integers and categories keep their order."""
    data = data.assign(
        kind=pd.Categorical(data["kind"], categories=["mid", "low", "high"]),
        code=data["h"].astype("category"),
    )
    formula = "y ~ scale(x) + kind + (1+x|g) + (1|code)"
    frame = dd.from_pandas(data, npartitions=3)
    with dask.config.set(scheduler="threads", num_workers=1):
        fit = lmm.lmer(formula, frame, method=method, subset="h > 1")
        unknown = lmm.lmer(
            formula,
            frame.assign(code=frame["code"].cat.as_unknown()),
            method=method,
            subset="h > 1",
        )
    memory = lmm.lmer(formula, data, method=method, subset="h > 1")
    same(fit, memory)
    same(unknown, memory)


def test_a_function_of_a_notebook_goes_with_the_formula(client, data):
    def halved(x: Any) -> Any:  # no worker could import it
        return x / 2

    fit = lmm.lmer("y ~ halved(x) + (1|g)", dd.from_pandas(data, npartitions=4))
    same(fit, lmm.lmer("y ~ halved(x) + (1|g)", data))


def test_partitions_without_rows_and_with_missing_values(client, data):
    whole = data.copy()
    whole.loc[500:520, "x"] = np.nan
    frame = parts_of(
        whole,
        (0, lambda part: part[:0]),
        (3, lambda part: part[:0]),
        (4, lambda part: part.assign(x=part["x"].astype(object))),
    )
    kept = pd.concat([whole.iloc[500:1500], whole.iloc[2000:]])
    fit, memory = lmm.lmer(FORMULA, frame), lmm.lmer(FORMULA, kept)
    same(fit, memory)
    assert fit.design.n_dropped == memory.design.n_dropped == 21


BAD = {
    "lacks a column": (
        lambda part: part.drop(columns="x"),
        DataError,
        "column 'x' is missing in partition 4 of the Dask DataFrame",
    ),
    "has text": (
        lambda part: part.assign(x=part["x"].astype(str)),
        DataError,
        "column 'x' is .*string in partition 4 .*, but double",
    ),
    "mixes types": (
        lambda part: part.assign(x=part["x"].astype(object).where(part["x"] > 1, "none")),
        DataError,
        "column 'x' mixes types in partition 4",
    ),
    "has infinities": (
        lambda part: part.assign(x=part["x"].where(part["x"] > 1, np.inf)),
        DataError,
        "the term x is infinite in",
    ),
    "has an infinite response": (
        lambda part: part.assign(y=np.inf),
        ResponseError,
        "'y'.*infinite",
    ),
    "has no complete row": (lambda part: part.assign(g=None), None, ""),
}


@pytest.mark.parametrize("what", BAD)
def test_a_partition_that_is_not_like_the_others(client, data, what):
    change, kind, message = BAD[what]
    frame = parts_of(data, (4, change))
    if kind is None:
        same(lmm.lmer(FORMULA, frame), lmm.lmer(FORMULA, data.drop(data.index[2000:2500])))
        return
    with pytest.raises(kind, match=message) as caught:
        lmm.lmer(FORMULA, frame)
    assert type(caught.value) is kind and "Traceback" not in str(caught.value)


def test_a_partition_that_cannot_be_computed_is_told_with_its_own_error(client, data):
    def broken(part: pd.DataFrame) -> pd.DataFrame:
        return part / 0 if len(part) == 0 else part.assign(x=part["nowhere"])

    frame = dd.from_pandas(data, npartitions=3).map_partitions(broken, meta=data.iloc[:0])
    with pytest.raises(
        DataError, match="the Dask DataFrame cannot be computed: KeyError: 'nowhere'"
    ):
        lmm.lmer(FORMULA, frame)


def test_no_rows_anywhere(client, data):
    with pytest.raises(DataError, match="the data has no rows"):
        lmm.lmer(FORMULA, dd.from_pandas(data.iloc[:0], npartitions=1))
    with pytest.raises(DataError, match="no complete row is left"):
        lmm.lmer(FORMULA, dd.from_pandas(data.assign(x=np.nan), npartitions=3))


def test_names_that_are_not_there(client, data):
    frame = dd.from_pandas(data, npartitions=2)
    with pytest.raises(DataError, match="xx"):
        lmm.lmer("y ~ xx + (1|g)", frame)
    with pytest.raises(ArgumentError, match="weights must be the name of a column"):
        lmm.lmer("y ~ x + (1|g)", frame, weights=data["w"])


def start() -> np.ndarray:
    return np.zeros(2)


def add(sums: np.ndarray, table: Any, power: float = 1.0, once: str = "") -> np.ndarray:
    if once and not os.path.exists(once):
        Path(once).touch()
        raise OSError("the file system is busy")
    return sums + [len(table), float((table.column("x").to_numpy() ** power).sum())]


def merge(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a += b
    return a


def kill_once(sums: np.ndarray, table: Any) -> np.ndarray:
    fuse.deadly(table.column("m").to_numpy())
    return add(sums, table)


def test_passes_over_prepared_partitions_outlive_a_worker(client, data):
    """What the dead worker kept is made again from its partitions; parameters change from pass to pass."""
    cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    blocks = reducer_for(dd.from_pandas(data, npartitions=8)).prepared(
        ("x", "m"), partial(_half, power=2.0)
    )
    for power in (1.0, 2.0):
        found = blocks.map_reduce(Reduction((), start, partial(add, power=power), merge))
        assert found == pytest.approx([len(data), (data["x"] ** (2 * power)).sum()], rel=1e-12)
    path = Path(os.environ[fuse.FUSE])
    fuse.light(path)
    assert blocks.map_reduce(Reduction((), start, kill_once, merge)) == pytest.approx(
        [len(data), (data["x"] ** 2).sum()], rel=1e-12
    )
    assert not path.exists()
    assert blocks.map_reduce(Reduction((), start, add, merge)) == pytest.approx(
        [len(data), (data["x"] ** 2).sum()], rel=1e-12
    )
    blocks.close()


def _half(table: Any, power: float) -> Any:
    import pyarrow as pa

    return pa.table({"x": table.column("x").to_numpy() ** power, "m": table.column("m")})


def test_a_task_that_fails_for_another_reason_is_tried_again(client, data, tmp_path):
    cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    reduction = Reduction(("x",), start, partial(add, once=str(tmp_path / "once")), merge)
    found = reducer_for(dd.from_pandas(data, npartitions=4)).map_reduce(reduction)
    assert found == pytest.approx([len(data), data["x"].sum()], rel=1e-12)
    assert (tmp_path / "once").exists()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"re_form": False},
        {"interval": "prediction", "level": 0.9},
        {"se_fit": True, "re_form": "~ (1|h)"},
        {"weights": "w"},
    ],
)
def test_predictions_stay_on_the_cluster(client, data, options):
    frame = dd.from_pandas(data.set_index(np.arange(len(data)) * 3), npartitions=5)
    fit = lmm.lmer(FORMULA, frame)
    lazy = fit.predict(frame, **options)
    assert type(lazy).__module__.startswith("dask") and lazy.npartitions == frame.npartitions
    found, memory = lazy.compute(), lmm.lmer(FORMULA, data).predict(frame.compute(), **options)
    assert list(found.index) == list(memory.index)
    assert type(found) is type(memory)
    assert np.allclose(found, memory, rtol=0, atol=1e-7)
    assert (
        lazy.dtypes.equals(found.dtypes)
        if isinstance(found, pd.DataFrame)
        else lazy.dtype == found.dtype
    )


def test_predictions_of_a_fit_in_memory(client, data):
    fit = lmm.lmer(FORMULA, data, weights="w")
    frame = dd.from_pandas(data, npartitions=3)
    residual = (frame["y"] - fit.predict(frame)).compute()
    assert np.allclose(residual, fit.resid, rtol=0, atol=1e-10)


def test_predictions_that_cannot_be_made_say_why(client, data):
    fit = lmm.lmer("y ~ x + (1|g)", data[data["g"] != "id 7"])
    with pytest.raises(PredictionError, match="new level in newdata: 'id 7'"):
        fit.predict(dd.from_pandas(data, npartitions=3)).compute()
    assert len(
        fit.predict(dd.from_pandas(data, npartitions=3), allow_new_levels=True).compute()
    ) == len(data)
    with pytest.raises(PredictionError, match="'x' is not in the data"):
        fit.predict(dd.from_pandas(data.drop(columns="x"), npartitions=3)).compute()
    with pytest.raises(ArgumentError, match="name of one of its columns"):
        fit.predict(dd.from_pandas(data, npartitions=3), weights=np.ones(len(data)))
    with pytest.raises(ArgumentError, match="the cluster writes by partition"):
        lmm.lmer("y ~ x + (1|g)", dd.from_pandas(data, npartitions=3)).write_predictions(
            "nowhere.parquet"
        )
