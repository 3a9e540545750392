"""What is built and installed: the wheel, its size and contents, and the versions that are admitted."""

from __future__ import annotations

import ast
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import lmm
from lmm import versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources alone and without the network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lmm", source / "lmm", ignore=shutil.ignore_patterns("__pycache__"))
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(source),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_wheel_is_small_and_complete(wheel):
    assert wheel.stat().st_size < 3_000_000
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "lmm").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert shipped <= inside
    assert all(name.startswith(("lmm/", f"lmm-{lmm.__version__}.dist-info/")) for name in inside)
    assert {
        "lmm/py.typed",
        "lmm/datasets/catalogue.toml",
        "lmm/datasets/tables/InstEval.npz",
    } <= inside
    for name in ("LICENSE", "lmm/datasets/LICENCES.md"):
        assert f"lmm-{lmm.__version__}.dist-info/licenses/{name}" in inside


def test_wheel_works_where_the_sources_are_not(wheel, tmp_path):
    """Unpacked elsewhere and imported from there: data sets and the command line need no file of the checkout."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import lmm; print(lmm.__file__, len(lmm.datasets.load('InstEval')))"
    out = [
        subprocess.run(
            [sys.executable, *argv], capture_output=True, text=True, cwd=tmp_path, check=True
        ).stdout
        for argv in (["-c", code], ["-m", "lmm", "--version"])
    ]
    assert "".join(out).splitlines() == [
        f"{tmp_path}/lmm/__init__.py 73421",
        f"lmm {lmm.__version__}",
    ]


def pins() -> dict[str, str]:
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_oldest_versions_are_the_lower_bounds():
    bounds = dict(
        re.fullmatch(r"([a-z-]+)>=([\d.]+)", requirement).groups()
        for requirement in PROJECT["dependencies"]
    )
    assert bounds == pins()


def test_every_import_has_its_requirement():
    """Each third-party package imported at the top of a module of lmm is a core dependency; matplotlib in lmm/plots is the extra's."""
    top = set()
    for path in (ROOT / "lmm").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            else:
                continue
            own = {name.split(".")[0] for name in names}
            top |= own - {"matplotlib"} if path.parent.name == "plots" else own
    third = top - set(sys.stdlib_module_names) - {"lmm", "__future__"}
    assert third <= {name.replace("-", "_") for name in pins()}


def test_version_is_in_the_changelog():
    assert f"## {lmm.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_extras_are_the_promised_ones():
    extras = PROJECT["optional-dependencies"]
    assert {"plot", "test", "docs", "bench", "all"} <= set(extras)
    named = set(re.search(r"\[(.*)\]", extras["all"][0]).group(1).split(","))
    assert named == {"plot", "bayes", "interop", "large", "dask"}
    assert named | {"spark"} == set(versions.EXTRAS)
    developers = {"test", "test-core", "dev", "docs", "bench"}
    assert set(extras) == named | developers | {"all", "spark"}


def test_no_newer_python_is_shut_out():
    assert PROJECT["requires-python"] == ">=3.11"


def test_the_licences_of_the_data_are_those_of_the_catalogue():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "data_licences.py")], capture_output=True, check=True
    )
    text = done.stdout.decode()
    assert (ROOT / "lmm" / "datasets" / "LICENCES.md").read_text() == text
    assert all(f"## {name}\n" in text for name in lmm.datasets.names())


def test_versions_of_all_that_is_needed_are_told(capsys):
    found = versions.versions()
    assert found["lmm"] == lmm.__version__ and set(versions.NEEDED) == set(pins())
    assert all(found[name] != "-" for name in pins())
    lmm.show_versions()
    assert capsys.readouterr().out.count("\n") == len(found)


def test_a_missing_package_is_an_import_error_and_ours(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.std", None)
    frame = lmm.datasets.load("sleepstudy")
    with pytest.raises(ImportError, match="progress=True needs tqdm; install it with") as caught:
        lmm.lmer("Reaction ~ Days + (Days|Subject)", frame).check(progress=True)
    assert isinstance(caught.value, lmm.MissingPackageError | lmm.LmmError)
    assert caught.value.name == "tqdm"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.name) == (str(caught.value), "tqdm")
