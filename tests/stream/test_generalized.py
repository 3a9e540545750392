"""Generalized fits of rows that are not in memory equal those in memory, in few passes; what cannot be done is refused in words."""

from __future__ import annotations

import gc
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError, DataError, RankWarning, ResponseError
from lmm.stream import row_blocks as stream_rows

duckdb = pytest.importorskip("duckdb")

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

#: each search ends where the next step promises 1e-12 of the deviance: 1e-6 standard errors
CLOSE = lmm.Control(tolerance=1e-12)


def make(n: int = 3000, seed: int = 4) -> pd.DataFrame:
    """Counts, binary answers, proportions and times, with factors of all kinds and values that are missing."""
    rng = np.random.default_rng(seed)
    g, h, inner, x = (
        rng.integers(0, 40, n),
        rng.integers(0, 7, n),
        rng.integers(0, 3, n),
        rng.integers(0, 4, n),
    )
    kind = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    eta = (
        -0.3
        + 0.2 * x
        + 0.6 * rng.normal(size=40)[g]
        + 0.4 * rng.normal(size=7)[h]
        + 0.3 * (kind == "b")
    )
    eta += 0.2 * rng.normal(size=40)[g] * x + 0.3 * rng.normal(size=120)[3 * g + inner]
    p, trials = 1.0 / (1.0 + np.exp(-eta)), rng.integers(1, 9, n)
    successes = rng.binomial(trials, p)
    data = pd.DataFrame(
        {
            "count": rng.poisson(np.exp(eta)),
            "more": rng.negative_binomial(2, 2 / (2 + np.exp(eta))),
            "yes": rng.random(n) < p,
            "wins": successes,
            "losses": trials - successes,
            "trials": trials,
            "share": successes / trials,
            "time": rng.gamma(3.0, np.exp(eta) / 3.0),
            "exposure": rng.uniform(0.5, 2.0, n),
            "x": x.astype(float),
            "z": rng.normal(10.0, 2.0, n),
            "kind": kind,
            "g": np.array([f"id {i}" for i in rng.permutation(40)])[g],
            "h": h + 1000,
            "inner": inner,
        }
    )
    data.loc[rng.integers(0, n, 40), "x"] = np.nan
    data["count"] = data["count"].astype(float)
    data.loc[rng.integers(0, n, 20), "count"] = np.nan
    return data


DATA = make()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    where = tmp_path_factory.mktemp("rows") / "rows.parquet"
    DATA.to_parquet(where)
    return str(where)


def source(path: str, chunk: int = 700) -> Any:
    return lmm.Source(path, chunk=chunk)


FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "poisson": (
        "count ~ x + kind + offset(log(exposure)) + (1 | g) + (1 | h)",
        {"family": "poisson"},
    ),
    "slopes": ("count ~ x + (1 + x | g)", {"family": "poisson"}),
    "binary": ("yes ~ x + kind + (1 | g) + (1 | h)", {"family": "binomial"}),
    "another link": ("yes ~ x + (1 + x || g)", {"family": lmm.families.Binomial("cloglog")}),
    "successes and failures": (
        "cbind(wins, losses) ~ x * kind + (1 | g / inner)",
        {"family": "binomial"},
    ),
    "proportions": ("share ~ scale(z) + (1 | g)", {"family": "binomial", "weights": "trials"}),
    "joint mode": ("yes ~ x + (1 | g) + (1 | h)", {"family": "binomial", "nAGQ": 0}),
    "no fixed effects": ("yes ~ 0 + (1 | g)", {"family": "binomial"}),
    "negative binomial": ("more ~ x + (1 | g)", {"family": "negative_binomial"}),
    "gamma": ("time ~ x + (1 | g) + (1 | h)", {"family": lmm.families.Gamma("log")}),
    "gamma, weighted": (
        "time ~ x + (1 | g)",
        {"family": lmm.families.Gamma("log"), "weights": "exposure"},
    ),
    "a subset": ("count ~ x + (1 | g)", {"family": "poisson", "subset": "z > 9"}),
    "contrasts": ("yes ~ kind + (1 | g)", {"family": "binomial", "contrasts": {"kind": "sum"}}),
}


@pytest.mark.parametrize("name", FITS)
def test_equals_the_fit_in_memory(name: str, path: str) -> None:
    """Log-likelihood to 1e-10, estimates to a hundred thousandth of a standard error, standard errors to 1e-5."""
    formula, options = FITS[name]
    want = lmm.glmer(formula, DATA, **options, control=CLOSE)
    fit = lmm.glmer(formula, source(path), **options, control=CLOSE)
    assert fit.design.streamed
    assert fit.llf == pytest.approx(want.llf, rel=1e-10)
    assert fit.nobs == want.nobs
    assert (fit.fixef().index == want.fixef().index).all()
    V = want.vcov().to_numpy()
    se = np.sqrt(np.diag(V))
    np.testing.assert_allclose(
        fit.estimate.beta, want.estimate.beta, atol=1e-5 * se.min(initial=1.0)
    )
    np.testing.assert_allclose(fit.theta, want.theta, atol=5e-6)
    np.testing.assert_allclose(fit.vcov().to_numpy(), V, atol=1e-5 * V.max(initial=0.0))
    for group, modes in want.ranef().items():
        assert (fit.ranef()[group].index == modes.index).all()
        np.testing.assert_allclose(fit.ranef()[group], modes, atol=1e-5)
    if want.estimate.family.has_dispersion:
        assert fit.estimate.phi == pytest.approx(want.estimate.phi, rel=1e-5)


@pytest.mark.parametrize("name", ["poisson", "binary", "successes and failures"])
def test_few_passes(name: str, path: str) -> None:
    """Fewer than thirty, the start among them, and a handful more for the standard errors of all parameters."""
    formula, options = FITS[name]
    fit = lmm.glmer(formula, source(path), **options)
    assert 0 < fit.convergence.passes < 30
    assert fit.convergence.passes == fit.problem.rows.passes
    fit.vcov()
    assert fit.problem.rows.passes - fit.convergence.passes < 12


def test_passes_in_memory_are_not_counted() -> None:
    assert lmm.glmer("yes ~ x + (1 | g)", DATA, family="binomial").convergence.passes == 0


def test_equal_rows_are_merged_over_chunks(path: str) -> None:
    """As many rows are kept as are distinct in all of the data, however it is cut."""
    distinct = DATA.dropna(subset=["x"]).groupby(["x", "kind", "g", "h"]).ngroups
    for chunk in (300, 10_000):
        fit = lmm.glmer(
            "yes ~ x + kind + (1 | g) + (1 | h)", source(path, chunk), family="binomial"
        )
        assert fit.problem.rows.kept == distinct < 0.8 * fit.nobs


def test_rows_on_disk(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are too many go to a folder of small blocks, which is gone when the fit is."""
    want = lmm.glmer("count ~ x + z + (1 | g) + (1 | h)", DATA, family="poisson")
    monkeypatch.setattr(stream_rows, "BUDGET", 40_000)
    monkeypatch.setattr(stream_rows, "BLOCK", 400)
    fit = lmm.glmer("count ~ x + z + (1 | g) + (1 | h)", source(path), family="poisson")
    folder = fit.problem.rows.folder
    assert folder is not None
    files = [os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)]
    assert len(files) > 7 and max(files) < 60_000
    assert fit.llf == pytest.approx(want.llf, rel=1e-10)
    np.testing.assert_allclose(fit.vcov(), want.vcov(), rtol=1e-4, atol=1e-7)
    del fit
    gc.collect()
    assert not os.path.exists(folder)


def test_threads_change_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks worked on by several threads are added up in the same order: the same numbers to the last bit."""
    monkeypatch.setattr(stream_rows, "BLOCK", 100)
    formula, options = FITS["poisson"]
    alone = lmm.glmer(formula, source(path), **options)
    used: list[int] = []

    class Pool(stream_rows.ThreadPoolExecutor):
        def __init__(self, workers: int):
            used.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(stream_rows, "THREADED", 100)
    monkeypatch.setattr(stream_rows, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(stream_rows.threads, "idle_cores", lambda: 3)
    fit = lmm.glmer(formula, source(path), **options)
    assert set(used) == {3} and len(used) >= fit.convergence.passes
    assert fit.llf == alone.llf
    np.testing.assert_array_equal(fit.estimate.beta, alone.estimate.beta)
    np.testing.assert_array_equal(fit.vcov(), alone.vcov())


def test_a_fit_that_was_pickled(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small rows travel with it; of rows in a folder only what needs no pass is left."""
    fit = lmm.glmer("count ~ x + (1 | g)", source(path), family="poisson")
    other = pickle.loads(pickle.dumps(fit))
    np.testing.assert_allclose(other.vcov(), fit.vcov())
    monkeypatch.setattr(stream_rows, "BUDGET", 20_000)
    fit = lmm.glmer("count ~ x + z + (1 | g)", source(path), family="poisson")
    other = pickle.loads(pickle.dumps(fit))
    assert other.llf == fit.llf
    with pytest.raises(ArgumentError, match="did not travel with the fit"):
        other.vcov()


def test_dependent_columns(path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        want = lmm.glmer("yes ~ x + I(2 * x) + (1 | g)", DATA, family="binomial")
        fit = lmm.glmer("yes ~ x + I(2 * x) + (1 | g)", source(path), family="binomial")
    assert fit.design.dropped == want.design.dropped
    assert fit.llf == pytest.approx(want.llf, rel=1e-10)


def test_what_follows_a_fit(path: str) -> None:
    """Conditional covariances, predictions with their intervals, tests, profiles and a summary need sums only."""
    formula, options = FITS["poisson"]
    want = lmm.glmer(formula, DATA, **options, control=CLOSE)
    fit = lmm.glmer(formula, source(path), **options, control=CLOSE)
    some = DATA.dropna().head(30)
    np.testing.assert_allclose(
        fit.predict(some, se_fit=True), want.predict(some, se_fit=True), rtol=1e-5
    )
    np.testing.assert_allclose(fit.anova().iloc[:, 0], want.anova().iloc[:, 0], rtol=1e-4)
    np.testing.assert_allclose(
        fit.update(". ~ . - kind").llf, want.update(". ~ . - kind").llf, rtol=1e-9
    )
    np.testing.assert_allclose(
        fit.ranova().select_dtypes("number"),
        want.ranova().select_dtypes("number"),
        rtol=1e-4,
        atol=1e-12,
    )
    assert "poisson" in str(fit.summary()) and "Residual" not in str(fit.varcorr())
    assert np.isnan(fit.glance()["deviance"].iloc[0]) and fit.glance()["llf"].iloc[0] == fit.llf
    with pytest.raises(ArgumentError, match="write_predictions"):
        fit.residuals()


def test_predictions_of_every_row(path: str, tmp_path: Path) -> None:
    """Fitted values and residuals, written in a pass over the file."""
    want = lmm.glmer("yes ~ x + (1 | g)", DATA, family="binomial", control=CLOSE)
    fit = lmm.glmer("yes ~ x + (1 | g)", source(path), family="binomial", control=CLOSE)
    fit.write_predictions(str(tmp_path / "out.parquet"))
    found = pd.read_parquet(tmp_path / "out.parquet").dropna(subset=[".fitted"])
    np.testing.assert_allclose(found[".fitted"], want.predict(type="response"), atol=1e-6)
    np.testing.assert_allclose(found[".resid"], want.residuals(), atol=1e-5)


def later(tmp_path: Path, column: str, value: Any) -> str:
    """A file whose last row has this value in a column."""
    data = DATA.copy()
    data[column] = data[column].astype(object if isinstance(value, str) else float)
    data.loc[data.index[-1], column] = value
    data.loc[data.index[-1], "x"] = 1.0
    path = tmp_path / "bad.parquet"
    data.to_parquet(path)
    return str(path)


@pytest.mark.parametrize(
    "column, value, formula, family, message",
    [
        ("count", -3.0, "count ~ x + (1 | g)", "poisson", "'count' must be a count, 0 or more"),
        ("count", 1.5, "count ~ x + (1 | g)", "poisson", "'count' must be whole counts"),
        ("count", np.inf, "count ~ x + (1 | g)", "poisson", "'count' is infinite"),
        (
            "yes",
            2.0,
            "yes ~ x + (1 | g)",
            "binomial",
            r"'yes' must be 0 or 1.*outside \[0, 1\], the first is 2",
        ),
        ("yes", 0.5, "yes ~ x + (1 | g)", "binomial", "'yes' holds proportions"),
        ("time", 0.0, "time ~ x + (1 | g)", "gamma", "'time' must be positive"),
        (
            "wins",
            -1.0,
            "cbind(wins, losses) ~ x + (1 | g)",
            "binomial",
            r"cbind\(wins, losses\).* negative counts",
        ),
    ],
)
def test_a_bad_response_in_a_later_chunk(
    column: str, value: Any, formula: str, family: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ResponseError, match=message):
        lmm.glmer(formula, source(later(tmp_path, column, value)), family=family)


def test_a_constant_response(tmp_path: Path) -> None:
    """Constant chunks are fine, constant data are not."""
    data = DATA.sort_values("yes")
    data.to_parquet(tmp_path / "sorted.parquet")
    want = lmm.glmer("yes ~ x + (1 | g)", DATA, family="binomial")
    assert lmm.glmer(
        "yes ~ x + (1 | g)", source(str(tmp_path / "sorted.parquet")), family="binomial"
    ).llf == pytest.approx(want.llf)
    data.assign(yes=True).to_parquet(tmp_path / "all.parquet")
    with pytest.raises(ResponseError, match="'yes' is constant: success in every row"):
        lmm.glmer("yes ~ x + (1 | g)", source(str(tmp_path / "all.parquet")), family="binomial")


def test_refused(path: str) -> None:
    """What needs rows one by one, all responses at once, or rows that have gone by."""
    for options, message in (
        ({"nAGQ": 7}, "nAGQ=7 needs its rows in memory"),
        ({"nAGQ": "laplace2"}, "'laplace2' needs its rows in memory"),
        ({"method": "pql"}, "'pql' needs its rows in memory"),
    ):
        with pytest.raises(ArgumentError, match=message):
            lmm.glmer("yes ~ x + (1 | g)", path, family="binomial", **options)
    with pytest.raises(ArgumentError, match="must know all categories"):
        lmm.glmer("h ~ x + (1 | g)", path, family="ordinal")
    with pytest.raises(
        ResponseError, match="'kind' is text; where rows are read in parts, write it as 0"
    ):
        lmm.glmer("kind ~ x + (1 | g)", path, family="binomial")
    with pytest.raises(
        ArgumentError,
        match="passes over its rows several times, and RecordBatchReader can be read once only",
    ):
        lmm.glmer("yes ~ x + (1 | g)", pa.Table.from_pandas(DATA).to_reader(), family="binomial")


def test_data_that_change_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that the first pass did not see is an error, not another level's rows."""
    from lmm.stream import generalized_rows

    where = tmp_path / "rows.parquet"
    DATA.to_parquet(where)
    connection = duckdb.connect()
    connection.register("data", DATA)
    usual = generalized_rows._prepared

    def changed(*arguments: Any) -> Any:
        DATA.assign(g="somebody else").to_parquet(where)
        connection.execute(
            "create or replace table held as select * replace ('somebody else' as g) from data"
        )
        return usual(*arguments)

    monkeypatch.setattr(generalized_rows, "_prepared", changed)
    with pytest.raises(DataError, match="rows.parquet' has changed since it was first read"):
        lmm.glmer("yes ~ x + (1 | g)", str(where), family="binomial")
    connection.execute("create or replace table held as select * from data")
    with pytest.raises(DataError, match="the data changed meanwhile"):
        lmm.glmer("yes ~ x + (1 | g)", connection.table("held"), family="binomial")


def test_other_sources(path: str) -> None:
    """A pyarrow Dataset and a DuckDB relation."""
    import pyarrow.dataset as ds

    want = lmm.glmer("yes ~ x + (1 | g)", DATA, family="binomial")
    assert lmm.glmer("yes ~ x + (1 | g)", ds.dataset(path), family="binomial").llf == pytest.approx(
        want.llf, rel=1e-10
    )
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.connect().read_parquet(path)
    assert lmm.glmer("yes ~ x + (1 | g)", relation, family="binomial").llf == pytest.approx(
        want.llf, rel=1e-10
    )


def test_partitions_of_a_data_frame() -> None:
    """Blocks stay with the partitions of a Dask frame; only sums travel."""
    dd = pytest.importorskip("dask.dataframe")
    formula, options = FITS["poisson"]
    want = lmm.glmer(formula, DATA, **options, control=CLOSE)
    fit = lmm.glmer(formula, dd.from_pandas(DATA, npartitions=3), **options, control=CLOSE)
    assert fit.llf == pytest.approx(want.llf, rel=1e-10)
    np.testing.assert_allclose(fit.theta, want.theta, atol=5e-6)
    assert fit.convergence.passes < 30 and fit.problem.rows.kept is None
