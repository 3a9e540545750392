"""The command line: what it prints, what it refuses, and what it loads."""

from __future__ import annotations

import io
import subprocess
import sys
import types
import warnings
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import lmm
from lmm import cli

ROOT = Path(__file__).parents[1]
SLEEP = "Reaction ~ Days + (Days|Subject)"


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty folder; returns (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        try:
            status = cli.main([str(a) for a in argv])
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def sleepstudy(tmp_path) -> pd.DataFrame:
    """The sleepstudy data, also written to sleep.csv, sleep.tsv, sleep.csv.gz and sleep.parquet."""
    frame = lmm.datasets.load("sleepstudy")
    frame.to_csv(tmp_path / "sleep.csv", index=False)
    frame.to_csv(tmp_path / "sleep.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "sleep.csv.gz", index=False)
    frame.to_parquet(tmp_path / "sleep.parquet", index=False)
    return frame


@pytest.mark.parametrize(
    "source",
    ["sleepstudy", "SleepStudy", "sleep.csv", "sleep.tsv", "sleep.csv.gz", "sleep.parquet"],
)
def test_prints_the_summary_of_a_file_or_a_shipped_set(run, sleepstudy, source):
    expected = str(lmm.lmer(SLEEP, sleepstudy).summary())
    assert run(SLEEP, source) == (0, expected + "\n", "")


def test_ml(run, sleepstudy):
    status, out, _ = run(SLEEP, "sleepstudy", "--ml")
    assert status == 0 and out == str(lmm.lmer(SLEEP, sleepstudy, REML=False).summary()) + "\n"


def test_weights_and_offset(run, sleepstudy, tmp_path):
    sleepstudy["w"], sleepstudy["off"] = [1.0, 2.0, 0.5] * 60, 2.0 * sleepstudy["Days"]
    sleepstudy.to_csv(tmp_path / "weighted.csv", index=False)
    status, out, _ = run(SLEEP, "weighted.csv", "--weights", "w", "--offset", "off")
    assert (
        status == 0
        and out == str(lmm.lmer(SLEEP, sleepstudy, weights="w", offset="off").summary()) + "\n"
    )


def test_tidy_writes_coefficients_and_variance_components(run, sleepstudy, tmp_path):
    assert run(SLEEP, "sleepstudy", "--tidy", "out.csv")[0] == 0
    table, fit = pd.read_csv(tmp_path / "out.csv"), lmm.lmer(SLEEP, sleepstudy)
    expected = fit.tidy(effects=["fixed", "ran_pars"])
    assert table["effect"].tolist() == ["fixed"] * 2 + ["ran_pars"] * 4
    assert table["estimate"].to_numpy() == pytest.approx(
        expected["estimate"].to_numpy(float), rel=1e-12
    )


REFUSED = [
    ("no such file", (SLEEP, "slep.csv"), "lmm: no file 'slep.csv'. Did you mean 'sleep.csv'?\n"),
    ("no such folder", (SLEEP, "no/where.csv"), "lmm: no file 'no/where.csv'.\n"),
    (
        "no such data set",
        (SLEEP, "slepstudy"),
        "lmm: no file 'slepstudy', and no data set is called 'slepstudy'. Did you mean 'sleepstudy'?",
    ),
    ("a folder", (SLEEP, "."), "lmm: cannot read '.': "),
    ("an empty file", (SLEEP, "empty.csv"), "lmm: cannot read 'empty.csv': "),
    ("not Parquet", (SLEEP, "wrong.parquet"), "lmm: cannot read 'wrong.parquet': "),
    ("no such column", ("Reaction ~ Dayz + (Days|Subject)", "sleepstudy"), "lmm: "),
    (
        "nowhere to write",
        (SLEEP, "sleepstudy", "--tidy", "no/where.csv"),
        "lmm: --tidy: cannot write 'no/where.csv': ",
    ),
    (
        "quadrature without family",
        (SLEEP, "sleepstudy", "--nagq", "9"),
        "lmm: --nagq is for generalized models: give --family too.\n",
    ),
]


@pytest.mark.parametrize(("argv", "line"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refuses_in_one_line(run, sleepstudy, tmp_path, argv, line):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "wrong.parquet").write_text("a,b\n1,2\n")
    status, _, err = run(*argv)
    assert status == 2
    assert err.startswith(line) and err.count("\n") == 1


def test_parquet_without_its_package_says_what_to_install(run, sleepstudy, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    status, _, err = run(SLEEP, "sleep.parquet")
    assert (
        status == 2
        and err
        == "lmm: reading 'sleep.parquet' needs pyarrow; install it with: pip install 'lmm[large]'\n"
    )


def test_unknown_column_is_named_with_the_nearest(run):
    _, _, err = run("Reaction ~ Dayz + (Days|Subject)", "sleepstudy")
    assert (
        err
        == "lmm: column 'Dayz' is not in the data. Did you mean 'Days'? It has: Reaction, Days, Subject.\n"
    )


def test_malformed_formula_is_shown_with_a_caret(run):
    status, out, err = run("Reaction ~ Days * (1|Subject)", "sleepstudy")
    lines = err.splitlines()
    assert (status, out) == (2, "")
    assert lines[0].startswith("lmm: ")
    formula = next(
        i for i, line in enumerate(lines) if line.strip() == "Reaction ~ Days * (1|Subject)"
    )
    assert "^" in lines[formula + 1]


def test_warnings_are_one_line_and_the_summary_is_printed(run):
    status, out, err = run("Yield ~ 1 + (1|Batch)", "Dyestuff2")
    assert status == 0 and "Batch" in out
    assert err.startswith("lmm: warning: ") and err.count("\n") == 1


def test_warnings_outside_are_left_as_they_were(run):
    before = warnings.showwarning, list(warnings.filters)
    run("Yield ~ 1 + (1|Batch)", "Dyestuff2")
    assert (warnings.showwarning, warnings.filters) == before


@pytest.fixture
def glmer(monkeypatch):
    """A recorder in the place of lmm.glmer."""
    calls = []

    def record(formula, data, **options):
        calls.append((formula, options))
        done = types.SimpleNamespace(converged=True)
        return types.SimpleNamespace(summary=lambda ddf: "fitted", convergence=done)

    monkeypatch.setattr(lmm, "glmer", record, raising=False)
    return calls


def test_family_calls_glmer(run, glmer):
    assert run("y ~ (1|herd)", "cbpp", "--family", "binomial", "--nagq", "9") == (0, "fitted\n", "")
    assert glmer == [("y ~ (1|herd)", {"family": "binomial", "nAGQ": 9})]
    status, _, err = run("y ~ (1|herd)", "cbpp", "--family", "binomial", "--ml")
    assert status == 2 and err.startswith("lmm: --ml is for linear models")


def test_help_and_version(run):
    status, out, _ = run("--help")
    assert (
        status == 0
        and 'lmm "Reaction ~ Days + (Days|Subject)" sleepstudy' in out
        and "InstEval" in out
    )
    assert run("--version") == (0, f"lmm {lmm.__version__}\n", "")
    assert run(SLEEP)[0] == 2


def test_python_names_of_the_command_line_are_not_in_scope_of_the_formula(run):
    for name in ("options", "data", "argv"):
        status, _, err = run(f"Reaction ~ {name} + (1|Subject)", "sleepstudy")
        assert status == 2 and f"'{name}'" in err


def test_a_reader_that_leaves_early_is_no_error():
    command = f'"{sys.executable}" -m lmm.cli "{SLEEP}" sleepstudy | head -1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fresh_process_imports_only_what_a_small_fit_needs():
    """What takes long to import is not, so that sleepstudy is on the screen about as soon as formulaic and linear algebra are loaded."""
    heavy = {"jax", "scipy.stats", "scipy.optimize", "matplotlib"}
    code = f"import sys; from lmm import cli; cli.main([{SLEEP!r}, 'sleepstudy']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "parquet"])
def test_a_dash_is_standard_input_and_output(run, sleepstudy, tmp_path, monkeypatch, kind):
    content = (tmp_path / f"sleep.{kind}").read_bytes()
    given = types.SimpleNamespace(buffer=io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", given)
    status, out, err = run(SLEEP, "-", "--tidy", "-", "--ddf", "satterthwaite")
    assert (status, err) == (0, "")
    fit = lmm.lmer(SLEEP, sleepstudy)
    expected = fit.tidy(effects=["fixed", "ran_pars"], ddf="satterthwaite")
    found = pd.read_csv(io.StringIO(out))
    pd.testing.assert_frame_equal(found[["estimate", "df"]], expected[["estimate", "df"]])
    given.buffer = io.BytesIO(b"")
    status, _, err = run(SLEEP, "-")
    assert status == 2 and err.startswith("lmm: cannot read standard input: ")


def test_degrees_of_freedom_by_name(run, sleepstudy):
    expected = str(lmm.lmer(SLEEP, sleepstudy).summary(ddf="kenward_roger"))
    assert run(SLEEP, "sleepstudy", "--ddf", "Kenward-Roger") == (0, expected + "\n", "")


def test_what_is_wrong_with_the_options_is_told_before_the_data_are_read(
    run, monkeypatch, tmp_path
):
    def reading(*_: object) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(lmm.datasets, "read", reading)
    for argv, text in {
        ("--tidy", "no/where.csv"): "--tidy: cannot write 'no/where.csv': No such file",
        ("--tidy", str(tmp_path)): "Is a directory",
        ("--ddf", "satterthwait"): "Did you mean 'satterthwaite'?",
        ("--ddf", "kr", "--family", "poisson"): "--ddf is for linear models",
    }.items():
        status, out, err = run(SLEEP, "sleepstudy", *argv)
        assert (status, out) == (2, "") and text in err and err.count("\n") == 1


def test_a_fit_that_did_not_converge_is_printed_and_ends_in_status_1(run, monkeypatch):
    control = lmm.Control(max_evaluations=1)
    monkeypatch.setattr(lmm, "lmer", partial(lmm.lmer, control=control), raising=False)
    status, out, err = run(SLEEP, "sleepstudy")
    assert status == 1 and "Random effects" in out and "did not converge" in err


@pytest.mark.parametrize(
    "argv",
    [
        (SLEEP, "sleepstudy", "--weights", ""),
        (SLEEP, "sleepstudy", "--offset", " "),
        ("Reaction ~ Days + (1|" + "(" * 5000 + "Subject" + ")" * 5000 + ")", "sleepstudy"),
        ("Reaction ~ I(" + "-" * 5000 + "Days) + (1|Subject)", "sleepstudy"),
        (SLEEP, "a" * 5000),
        (SLEEP, "\0"),
        (SLEEP, "sleepstudy", "--tidy", "\0"),
        (SLEEP, "::"),
        (SLEEP, "[a"),
        (SLEEP, ""),
    ],
    ids=str,
)
def test_anything_that_is_wrong_is_one_line(run, argv):
    status, out, err = run(*argv)
    assert status == 2 and out in (
        "",
        str(lmm.lmer(SLEEP, lmm.datasets.load("sleepstudy")).summary()) + "\n",
    )
    assert (
        "Traceback" not in err
        and err.startswith("lmm: ")
        and err.rstrip("\n").count("\n") in (0, 3, 4)
    )


def test_a_fault_within_and_an_interrupt(run, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(lmm.datasets, "read", failing)
    assert run(SLEEP, "x.csv") == (
        2,
        "",
        "lmm: RuntimeError: two lines; this is a fault of lmm, please report it\n",
    )

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(lmm.datasets, "read", interrupted)
    assert run(SLEEP, "x.csv") == (130, "", "lmm: interrupted\n")
