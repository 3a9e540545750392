"""The GPU benchmark says when there is no GPU, runs on whatever there is when asked to, and tells a failure."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from benchmarks import gpu

ON_CPU = jax.default_backend() == "cpu"


@pytest.mark.skipif(not ON_CPU, reason="there is a GPU")
def test_without_a_gpu_no_table_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--out", str(tmp_path)])
    assert "no table is made" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not ON_CPU, reason="there is a GPU")
def test_figures_of_small_sizes_do_not_land_among_the_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--quick", "--allow-cpu"])
    assert "give --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [name for name in gpu.tasks(quick=True) if "product" in name or "slope" in name]
)
def test_a_task_agrees_with_numpy(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.run_one(name, quick=True, repeat=1)
    answer = json.loads(capsys.readouterr().out)
    assert answer["difference"] < 1e-8
    assert 0 < answer["again"] and 0 < answer["first"] and 0 < answer["numpy"]


def test_the_script_runs_its_tasks_in_processes_and_tells_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {
        "sparse product, 20,000 entries x 4": gpu.tasks(True)["sparse product, 20,000 entries x 4"],
        "no such | task": gpu.Product(1, 1, 1, 1),
    }
    monkeypatch.setattr(gpu, "tasks", lambda quick: two)
    gpu.main(["--quick", "--allow-cpu", "--repeat", "1", "--out", str(tmp_path)])
    text, answers = (
        (tmp_path / "gpu.md").read_text(),
        json.loads((tmp_path / "gpu.json").read_text()),
    )
    assert answers["answers"]["no such | task"].keys() == {"error"}
    assert "KeyError" in answers["answers"]["no such | task"]["error"]
    assert answers["answers"]["sparse product, 20,000 entries x 4"]["difference"] < 1e-12
    assert all(line.count("|") in (0, 10, 11) for line in text.splitlines())
    assert answers["machine"]["device"] in text


def test_the_problems_are_those_announced() -> None:
    names = " ".join(gpu.tasks(quick=False))
    for part in (
        "InstEval",
        "1M groups",
        "10M groups",
        "5,000",
        "10,000",
        "20,000",
        "30,000",
        "20M entries x 16",
        "162,541 x 59,047",
    ):
        assert part in names
