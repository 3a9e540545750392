"""The benchmark harness: data pass unchanged, a tool is timed in its own process, and a failure is told, not hidden."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import __main__ as bench
from benchmarks import export, measure
from benchmarks.generalized import poisson
from benchmarks.measure import Settings
from benchmarks.movies import movies
from benchmarks.problems import FRAMES, PROBLEMS, TIMED, frame
from benchmarks.report import table
from benchmarks.runners.protocol import split_formula
from benchmarks.simulate import Draw


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported data of two problems."""
    path = tmp_path_factory.mktemp("data")
    export.write(
        path, [PROBLEMS["sleep_reml"], PROBLEMS["three_crossed"]], formats=("csv", "parquet")
    )
    return path


@pytest.mark.parametrize("name", ["sleepstudy", "three_crossed"])
def test_files_carry_the_rows_exactly(folder: Path, name: str) -> None:
    """CSV and Parquet hold the same values as the frame, to the last bit."""
    data = frame(name)
    levels = json.loads((folder / "manifest.json").read_text())["data"][name]["levels"]
    csv = pd.read_csv(folder / f"{name}.csv", dtype=dict.fromkeys(levels, str))
    for column, order in levels.items():
        csv[column] = pd.Categorical(csv[column], categories=order)
    assert export.fingerprint(csv) == export.fingerprint(data)
    assert export.fingerprint(pd.read_parquet(folder / f"{name}.parquet")) == export.fingerprint(
        data
    )


@pytest.mark.parametrize("name", [n for n in FRAMES if not n.endswith(("1m", "10m"))])
def test_simulated_data_repeat(name: str) -> None:
    """A seed gives the same rows again, and changing one value changes the fingerprint."""
    first, second = FRAMES[name](), FRAMES[name]()
    pd.testing.assert_frame_equal(first, second)
    numeric = first.select_dtypes("number").columns[0]
    print_before = export.fingerprint(first)
    changed = first.astype({numeric: float})
    changed.loc[changed.index[5], numeric] += 0.5
    assert export.fingerprint(changed) != print_before


def test_pupils_are_as_described() -> None:
    """24,600 rows, 4,100 pupils on six occasions, 300 teachers each in one of 40 schools, pupils who move."""
    data = frame("pupils")
    assert len(data) == 24_600
    assert data["pupil"].nunique() == 4100
    assert (data.groupby("pupil").size() == 6).all()
    assert data["teacher"].nunique() == 300
    assert (data.groupby("teacher", observed=True)["school"].nunique() == 1).all()
    assert (data.groupby("pupil")["school"].nunique() > 1).any()


def test_lmm_is_timed_in_its_own_process(folder: Path) -> None:
    """The runner reports times, evaluations, memory and the log-likelihood that lme4 gives (-871.8141)."""
    answer = measure.measure(PROBLEMS["sleep_reml"], "lmm", folder, Settings(limit=120, repeat=2))
    assert answer["failed"] == ""
    assert answer["loglik"] == pytest.approx(-871.8141, abs=1e-4)
    assert len(answer["warm"]) == 2
    assert 0 < answer["first"] < answer["cold"] < 120
    assert 20 < answer["memory"] < 4000
    assert answer["evaluations"] >= 1


@pytest.fixture(scope="module")
def generalized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported data of a binomial and a Poisson model."""
    path = tmp_path_factory.mktemp("generalized")
    export.write(path, [PROBLEMS["cbpp"], PROBLEMS["seizures"]], formats=("csv", "parquet"))
    return path


def test_generalized_models_are_timed_with_their_family(generalized: Path) -> None:
    """The runner fits cbpp by Laplace's method (-92.02628), and the table says binomial."""
    answer = measure.measure(PROBLEMS["cbpp"], "lmm", generalized, Settings(limit=120, repeat=1))
    assert answer["failed"] == ""
    assert answer["loglik"] == pytest.approx(-92.02628, abs=1e-4)
    assert not answer["reml"]
    assert "binomial, Laplace, 56 rows" in table({}, [answer], {})


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="needs R")
@pytest.mark.parametrize("name", ["cbpp", "seizures"])
def test_r_fits_the_same_generalized_model(generalized: Path, name: str) -> None:
    """glmer and lmm see the same rows, family, link and offset: their log-likelihoods agree."""
    settings = Settings(limit=120, repeat=1, budget=0.0)
    ours, theirs = (
        measure.measure(PROBLEMS[name], tool, generalized, settings) for tool in ("lmm", "lme4")
    )
    if "no package called" in theirs["failed"]:
        pytest.skip("needs R's packages")
    assert theirs["failed"] == ""
    assert theirs["loglik"] == pytest.approx(ours["loglik"], abs=0.01)
    assert theirs["loglik"] <= ours["loglik"] + 1e-5


def test_births_are_as_described() -> None:
    """2,159 births of 1,595 mothers in 161 communities, mothers numbered anew in each."""
    data = frame("births")
    assert len(data) == 2159
    assert data["community"].nunique() == 161
    assert len(data.groupby(["community", "mother"], observed=True)) == 1595
    assert data["mother"].nunique() < 100


def test_poisson_counts_have_mean_and_variance() -> None:
    """40,000 counts of mean 3: mean and variance within five standard errors."""
    counts = poisson(Draw(1), np.full(40_000, np.log(3.0)))
    assert counts.mean() == pytest.approx(3.0, abs=5 * np.sqrt(3 / 40_000))
    assert counts.var() == pytest.approx(3.0, abs=5 * np.sqrt((3 + 2 * 9) / 40_000))


def test_a_process_over_its_limit_is_stopped_and_said_so(folder: Path) -> None:
    """No tool holds the others up."""
    answer = measure.measure(PROBLEMS["sleep_reml"], "lmm", folder, Settings(limit=0.05))
    assert answer["failed"] == "stopped at 0.05 s"
    assert "loglik" not in answer


def test_a_tool_that_is_not_there_is_said_so(folder: Path) -> None:
    """Neither R nor a Python package is required."""
    settings = Settings(rscript="no-such-Rscript", peers=sys.executable)
    assert (
        measure.measure(PROBLEMS["sleep_reml"], "lme4", folder, settings)["failed"]
        == "no-such-Rscript is not installed"
    )


@pytest.mark.parametrize("problem", TIMED, ids=lambda p: p.name)
def test_formulas_of_timed_problems_split(problem: Any) -> None:
    """Tools without formulas for random terms get the parts; together they are the formula."""
    response, fixed, terms = split_formula(problem.formula)
    again = f"{response} ~ {fixed} + " + " + ".join(f"({c}|{g})" for c, g in terms)
    assert again.replace(" ", "") == problem.formula.replace(" ", "")


def test_table_shows_figures_and_failures() -> None:
    """A row per tool: times, the ratio to lme4, or why there is none."""
    base = {"problem": "sleepstudy", "rows": 180, "reml": True, "failed": "", "loglik": -871.81407}
    answers: list[dict[str, Any]] = [
        {
            **base,
            "tool": "lmm",
            "cold": 0.9,
            "first": 0.02,
            "warm": [0.01, 0.03, 0.01],
            "evaluations": 5,
            "memory": 150.0,
        },
        {
            **base,
            "tool": "lme4",
            "cold": 1.4,
            "first": 0.06,
            "warm": [0.03],
            "evaluations": 43,
            "memory": 200.0,
        },
        {**base, "tool": "statsmodels", "loglik": None, "cannot": "crossed factors"},
        {**base, "tool": "gpboost", "loglik": None, "failed": "stopped at 60 s"},
    ]
    text = table({"processor": "P"}, answers, {"sleepstudy": {"lmm": [1.0, 1.2, 1.1], "lme4": []}})
    assert "| lmm | 0.900 | 0.0200 | 0.0100 | 3.0 | 5 | 150 | -871.8141 |" in text
    assert "| lmm | 1.100 | 1.000 | 3 |" in text
    assert "cannot fit it: crossed factors" in text
    assert "stopped at 60 s" in text


def test_an_added_run_replaces_only_its_own_answers(tmp_path: Path) -> None:
    """``--add`` keeps other answers and refuses those of another machine."""
    machine = {
        "processor": "P",
        "cores": "2",
        "memory": "8 GiB",
        "system": "S",
        "date": "Tuesday",
        "load at the start": "0.10",
    }
    one, two = (
        {"problem": "a", "tool": "lmm", "first": 1.0},
        {"problem": "b", "tool": "lmm", "first": 2.0},
    )
    (tmp_path / "results.json").write_text(
        json.dumps({"machine": {**machine, "date": "Monday"}, "shell": {}, "answers": [one, two]})
    )
    kept = bench.before(tmp_path / "results.json", machine)
    again = {**one, "first": 0.5}
    assert bench.merged(kept["answers"], again) == [again, two]
    assert bench.merged(kept["answers"], {**one, "tool": "lme4"}) == [
        one,
        two,
        {**one, "tool": "lme4"},
    ]
    assert machine["date"] == "Monday, added to Tuesday"
    with pytest.raises(SystemExit, match="another machine"):
        bench.before(tmp_path / "results.json", {**machine, "processor": "Q"})


def test_the_table_in_the_repository_is_that_of_its_answers() -> None:
    """``results/table.md``, which the documentation shows, comes from ``results.json``."""
    found = json.loads((measure.HERE / "results" / "results.json").read_text())
    assert (measure.HERE / "results" / "table.md").read_text() == table(
        found["machine"], found["answers"], found["shell"]
    )


def test_fingerprint_sees_order() -> None:
    """Two rows exchanged are other data."""
    data = pd.DataFrame({"x": np.arange(5.0)})
    assert export.fingerprint(data) != export.fingerprint(data.iloc[::-1].reset_index(drop=True))


def test_ratings_have_the_margins_they_promise() -> None:
    d = movies(200_000, 1_300, 470, seed=2)
    user, movie = np.bincount(d["user"]), np.bincount(d["movie"])
    assert len(d["rating"]) == 200_000 and len(user) == 1_300 and user.min() >= 15
    assert np.all(np.diff(d["user"]) >= 0)
    assert np.median(user) < user.mean() < user.max() / 5  # a long tail
    assert np.sort(movie)[::-1][:47].sum() > 0.5 * len(
        d["movie"]
    )  # a tenth of the films has half of the ratings
    again = movies(200_000, 1_300, 470, seed=2)
    assert all(np.array_equal(d[name], again[name]) for name in d)


def test_clustered_ratings_stay_at_home() -> None:
    """Pairs of users who share a film share far more of them when there are clusters."""

    def shared(clusters: int) -> float:
        d = movies(50_000, 400, 300, seed=3, clusters=clusters, within=0.95)
        counts = np.zeros((400, 300))
        np.add.at(counts, (d["user"], d["movie"]), 1.0)
        likeness = np.corrcoef(counts)
        return float(np.quantile(likeness[np.triu_indices(400, 1)], 0.02))

    assert shared(10) < shared(0) - 0.1
