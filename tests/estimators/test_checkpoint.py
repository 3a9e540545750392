"""A fit that is killed goes on from its last iterate; a checkpoint of another fit, or none, is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError

#: a run that dies while it is told of its third evaluation
KILLED = """
    import os, signal, sys
    import lmm, lmm.api.lmer
    from contextlib import contextmanager

    @contextmanager
    def deadly(control):
        lines = []

        def callback(line):
            lines.append(line)
            if len(lines) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        yield callback

    lmm.api.lmer._watching = deadly
    control = lmm.Control(checkpoint=sys.argv[1])
    {fit}
    print("never")
"""
FITS = {
    "reml": 'lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"), control=control{more})',
    "em": 'lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"), method="em", control=control{more})',
    "crossed": 'lmm.lmer("diameter ~ 1 + (1|plate) + (1|sample)", lmm.datasets.load("Penicillin"), control=control{more})',
    "iterative": (
        'lmm.lmer("diameter ~ 1 + (1|plate) + (1|sample)", lmm.datasets.load("Penicillin"), '
        'control=lmm.Control(checkpoint=control.checkpoint, factorization="iterative"){more})'
    ),
    "binomial": (
        'lmm.glmer("cbind(incidence, size - incidence) ~ period + (1|herd)", lmm.datasets.load("cbpp"), '
        'family="binomial", control=control{more})'
    ),
    "agq": (
        'lmm.glmer("cbind(incidence, size - incidence) ~ period + (1|herd)", lmm.datasets.load("cbpp"), '
        'family="binomial", nAGQ=5, control=control{more})'
    ),
}


def run(name: str, control: lmm.Control, more: str = "") -> Any:
    """The fit of that name."""
    return eval(FITS[name].format(more=more), {"lmm": lmm, "control": control})


def kill(name: str, path: Path) -> None:
    """Start the fit in a process that dies in the middle."""
    code = textwrap.dedent(KILLED).format(fit=FITS[name].format(more=""))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("name", ["reml", "em", "crossed", "iterative", "binomial", "agq"])
def test_a_killed_fit_goes_on(name: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    kill(name, path)
    stored = json.loads(path.read_text())
    assert stored["evaluations"] in (2, 3)  # the third was written before anybody was told of it
    assert [p.name for p in tmp_path.iterdir()] == ["fit.json"]
    whole = run(name, lmm.Control())
    fit = run(name, lmm.Control(checkpoint=path))
    tolerance = 1e-4 if name == "iterative" else 1e-7  # probes are drawn anew
    assert fit.estimate.objective == pytest.approx(whole.estimate.objective, rel=tolerance / 100)
    np.testing.assert_allclose(fit.theta, whole.theta, rtol=100 * tolerance)
    np.testing.assert_allclose(fit.params, whole.params, rtol=10 * tolerance)
    assert fit.estimate.convergence.converged
    assert "resumed from a checkpoint after" in fit.estimate.convergence.message
    assert "resumed" not in whole.estimate.convergence.message
    if name != "iterative":
        assert fit.estimate.convergence.evaluations < whole.estimate.convergence.evaluations
        # it began where the other one was killed
        np.testing.assert_array_equal(fit.estimate.trace[0]["theta"], stored["theta"])
    assert not path.exists()


def test_an_undisturbed_fit_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    plain, fit = run("reml", lmm.Control()), run("reml", lmm.Control(checkpoint=str(path)))
    assert fit.estimate.objective == plain.estimate.objective
    assert fit.estimate.convergence.message == plain.estimate.convergence.message
    assert not list(tmp_path.iterdir())
    assert fit.estimator.control.checkpoint is None  # refits are fits of their own
    fit.bootstrap(3, rng=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::lmm.ConvergenceWarning")
def test_a_fit_that_stopped_at_a_limit_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    short = run("reml", lmm.Control(checkpoint=path, max_evaluations=2))
    assert not short.estimate.convergence.converged and path.exists()
    fit = run("reml", lmm.Control(checkpoint=path))
    assert fit.estimate.convergence.converged and not path.exists()
    assert "resumed from a checkpoint after 2 evaluations" in fit.estimate.convergence.message
    assert fit.estimate.objective == pytest.approx(
        run("reml", lmm.Control()).estimate.objective, rel=1e-10
    )


def interrupted(path: Path) -> None:
    """A checkpoint of "reml" left behind."""
    with pytest.raises(KeyboardInterrupt):
        seen: list[Any] = []

        def stop(line: dict[str, Any]) -> None:
            seen.append(line)
            if len(seen) == 3:
                raise KeyboardInterrupt

        fit = run("reml", lmm.Control())
        lmm.estimators.MaximumLikelihood(control=lmm.Control(checkpoint=path)).fit(
            fit.problem, None, stop
        )


def other(what: str, control: lmm.Control) -> Any:
    """Another fit than "reml"."""
    data = lmm.datasets.load("sleepstudy")
    formula, extra = "Reaction ~ Days + (Days|Subject)", {}
    if what == "method":
        extra = {"REML": False}
    elif what == "random effects":
        formula = "Reaction ~ Days + (1|Subject)"
    elif what == "fixed effects":
        formula = "Reaction ~ 1 + (Days|Subject)"
    elif what == "rows":
        data = data.iloc[1:]
    elif what == "the data":
        data = data.assign(Reaction=data["Reaction"] + (np.arange(len(data)) % 7))
    return lmm.lmer(formula, data, control=control, **extra)


@pytest.mark.parametrize("what", ["method", "random effects", "fixed effects", "rows", "the data"])
def test_a_checkpoint_of_another_fit_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    interrupted(path)
    before = path.read_text()
    with pytest.raises(ArgumentError, match=f"belongs to another fit, which differs in .*{what}"):
        other(what, lmm.Control(checkpoint=path))
    assert path.read_text() == before


def test_the_same_data_in_another_order_of_rows_is_the_same_fit(tmp_path: Path) -> None:
    """Sums then differ in their last digits."""
    path = tmp_path / "fit.json"
    interrupted(path)
    data = lmm.datasets.load("sleepstudy").sample(frac=1.0, random_state=3)
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", data, control=lmm.Control(checkpoint=path))
    assert "resumed" in fit.estimate.convergence.message


NO_CHECKPOINTS = [
    "",
    "{",
    "[]",
    '{"lmm checkpoint": 1}',
    "\x00\xff",
    "[" * 100_000,
    '{"lmm checkpoint": 1, "fit": 3, "numbers": "x"}',
]


@pytest.mark.parametrize("text", NO_CHECKPOINTS, ids=range(len(NO_CHECKPOINTS)))
def test_a_file_that_is_no_checkpoint_is_refused_and_kept(text: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArgumentError, match="is not a checkpoint of a fit"):
        run("reml", lmm.Control(checkpoint=path))
    assert path.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("damage", ["version", "nan", "cut", "nested", "evaluations"])
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    interrupted(path)
    stored = json.loads(path.read_text())
    if damage == "version":
        stored["lmm checkpoint"] = 99
    elif damage == "nan":
        stored["theta"][0] = float("nan")
    elif damage == "nested":
        stored["theta"] = [stored["theta"]]
    elif damage == "evaluations":
        stored["evaluations"] = 10**30
    else:
        stored["theta"] = stored["theta"][:-1]
    path.write_text(json.dumps(stored))
    with pytest.raises(ArgumentError, match="damaged|another version|parameters"):
        run("reml", lmm.Control(checkpoint=path))


def test_a_path_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "no such folder" / "fit.json", Path("/proc/fit.json")):
        with pytest.raises(ArgumentError, match="cannot be written"):
            run("reml", lmm.Control(checkpoint=path))
    with pytest.raises(ArgumentError, match="cannot be read"):
        run("reml", lmm.Control(checkpoint=tmp_path))
    with pytest.raises(ArgumentError, match="cannot be written"):
        run("reml", lmm.Control(checkpoint=tmp_path / ("q" * 300)))
    with pytest.raises(ArgumentError, match="is not a checkpoint"):
        run("reml", lmm.Control(checkpoint="/dev/zero"))
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(ArgumentError, match="cannot be written"):
            run("reml", lmm.Control(checkpoint=tmp_path / "fit.json"))
        tmp_path.chmod(0o700)


def test_an_interrupt_while_the_file_is_written_leaves_the_old_state_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit.json"
    interrupted(path)
    before = path.read_text()

    def stop(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        run("reml", lmm.Control(checkpoint=path))
    assert [file.name for file in tmp_path.iterdir()] == ["fit.json"] and path.read_text() == before


def test_settings_are_checked(tmp_path: Path) -> None:
    for wrong in (3, "", True):
        with pytest.raises(ArgumentError, match="path of a file"):
            lmm.Control(checkpoint=wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="evaluate_only"):
        lmm.Control(checkpoint="x", evaluate_only=True)
    path = tmp_path / "fit.json"
    data = lmm.datasets.load("sleepstudy")
    for method in ("mackay", "pql", "vi"):
        with pytest.raises(ArgumentError, match="checkpoint= is for maximum likelihood"):
            lmm.lmer(
                "Reaction ~ Days + (Days|Subject)",
                data,
                method=method,
                control=lmm.Control(checkpoint=path),
            )
    with pytest.raises(ArgumentError, match="checkpoint="):
        lmm.lmer_batch(
            "y ~ Days + (Days|Subject)",
            data,
            responses=pd.DataFrame({"y": data["Reaction"]}),
            control=lmm.Control(checkpoint=path),
        )
    assert not path.exists()
