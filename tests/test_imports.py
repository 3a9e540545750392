"""Imports run one way; JAX, formulaic and the optional packages enter where they may, and nowhere else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "lmm").rglob("*.py"))

# what each room may import, apart from itself and BASE
ALLOWED = {
    "errors": set(),
    "arguments": set(),
    "atomic": set(),
    "memory": set(),
    "types": set(),
    "versions": set(),
    "datasets": set(),
    "covariance": set(),
    "known": set(),
    "linalg": {"covariance", "known"},
    "families": set(),
    "priors": set(),
    "formula": {"covariance"},
    "design": {"formula", "covariance", "families", "known"},
    "model": {"design", "families", "covariance", "linalg", "priors", "known"},
    "search": {"model", "design", "families", "covariance", "linalg"},
    "stream": {"model", "design", "formula", "families", "covariance", "linalg"},
}
ALLOWED["estimators"] = ALLOWED["search"] | {"search", "stream", "priors"}
ALLOWED["inference"] = ALLOWED["search"] | {"search", "estimators", "formula"}
ALLOWED["results"] = ALLOWED["inference"] | {"inference", "stream"}
ALLOWED["plots"] = ALLOWED["results"] | {"results"}
ALLOWED["api"] = ALLOWED["plots"] | {"plots"}
ALLOWED["cli"] = ALLOWED["api"] | {"api", "datasets"}
ALLOWED["__main__"] = {"cli"}

# packages that a function may import for itself: optional ones, and JAX, which a small fit never loads
OPTIONAL = {
    "jax",
    "jaxlib",
    "matplotlib",
    "polars",
    "pyarrow",
    "IPython",
    "tqdm",
    "narwhals",
    "threadpoolctl",
}
OPTIONAL |= {
    "blackjax",
    "optax",
    "arviz_base",
    "arviz_stats",
    "marginaleffects",
    "maketables",
    "duckdb",
}
OPTIONAL |= {"dask", "cloudpickle", "pyspark", "py4j"}
# what any room may import: these stand on nothing
BASE = {"errors", "arguments", "atomic", "memory", "types"}
JAX_FREE = {"errors", "datasets", "formula", "design", "covariance", "results", "cli"}
SLOW_SCIPY = {"scipy.stats", "scipy.optimize"}
# as slow, and needed by splines alone: any room may import it inside a function
LATE_SCIPY = "scipy.interpolate"


def room(path: Path) -> str:
    """First part of the module's name below ``lmm``, or ``""`` for ``lmm/__init__.py``."""
    parts = path.relative_to(ROOT / "lmm").with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def targets(node: ast.AST, path: Path) -> list[str]:
    """Dotted names that an import statement asks for, relative ones made absolute."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    base = node.module or ""
    if node.level:
        package = ["lmm", *path.relative_to(ROOT / "lmm").parts[:-1]]
        base = ".".join(package[: len(package) - node.level + 1] + ([base] if base else []))
    return [f"{base}.{alias.name}" for alias in node.names]


def typing_only(test: ast.expr) -> bool:
    """True for ``TYPE_CHECKING`` and ``typing.TYPE_CHECKING``."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(path: Path) -> Iterator[tuple[str, int, bool, bool]]:
    """(target, line, inside a function, for type checkers only) of every import in a file."""

    def walk(node: ast.AST, inside: bool, typing: bool) -> Iterator[tuple[str, int, bool, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for target in targets(child, path):
                    yield target, child.lineno, inside, typing
            elif isinstance(child, ast.If) and typing_only(child.test):
                for part in child.body:
                    yield from walk(ast.Module([part], []), inside, True)
                for part in child.orelse:
                    yield from walk(ast.Module([part], []), inside, typing)
            else:
                yield from walk(
                    child,
                    inside
                    or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
                    typing,
                )

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


def complaints(path: Path) -> Iterator[str]:
    """Every import of a file that goes against the architecture."""
    here = room(path)
    where = path.relative_to(ROOT)
    for target, line, inside, typing in imports(path):
        top, *below = target.split(".")
        place = f"{where}:{line}: {target}"
        if top == "lmm" and below and here:
            other = below[0]
            if (ROOT / "lmm" / other).is_dir() or (ROOT / "lmm" / f"{other}.py").is_file():
                if other not in {here, *BASE} and other not in ALLOWED[here]:
                    yield f"{place}: {here} may not import {other}"
        if (
            inside
            and top not in OPTIONAL
            and top != "lmm"
            and not target.startswith((*SLOW_SCIPY, LATE_SCIPY))
        ):
            yield f"{place}: imported inside a function"
        if typing:
            continue
        if top in {"jax", "jaxlib"} and here in JAX_FREE:
            yield f"{place}: JAX in {here}"
        if target.startswith(tuple(SLOW_SCIPY)) and here in JAX_FREE:
            yield f"{place}: slow to import"
        if target.startswith(LATE_SCIPY) and not inside and here in JAX_FREE:
            yield f"{place}: slow to import"
        if top in OPTIONAL - {"jax", "jaxlib", "narwhals"} and not inside and here != "plots":
            yield f"{place}: an optional package, imported by the whole module"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_architecture(path):
    assert list(complaints(path)) == []


def test_one_file_alone_imports_formulaic():
    users = {
        path
        for path in FILES
        for target, *_ in imports(path)
        if target.split(".")[0] == "formulaic"
    }
    assert len(users) == 1 and room(users.pop()) == "formula"


def test_a_wrong_import_is_found(tmp_path, monkeypatch):
    """The checker itself: one file with every kind of fault."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name in ("design", "results", "formula"):
        (tmp_path / "lmm" / name).mkdir(parents=True)
    path = tmp_path / "lmm" / "design" / "bad.py"
    path.write_text(
        "from lmm.results import Fit\nfrom ..results import Fit\nfrom ..formula import parse\nimport jax.numpy\nimport polars\n"
        "from scipy.stats import norm\ndef f():\n    import json\n    import polars\n"
    )
    found = list(complaints(path))
    assert [c.split(": ")[-1] for c in found] == [
        "design may not import results",
        "design may not import results",
        "JAX in design",
        "an optional package, imported by the whole module",
        "slow to import",
        "imported inside a function",
    ]


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.strip()


def test_importing_lmm_brings_nothing():
    """Nothing of the package but its first file either: that is what makes the import immediate."""
    code = """
import sys
import lmm
print(sorted({"numpy", "pandas", "scipy", "jax", "formulaic", "narwhals"} & set(sys.modules)))
print([name for name in sys.modules if name.startswith("lmm.")])
"""
    assert run(code).splitlines() == ["[]", "[]"]


def test_every_public_name_resolves_and_is_listed():
    code = "import lmm; print([n for n in lmm.__all__ if n not in dir(lmm) or getattr(lmm, n, None) is None])"
    assert run(code) == "[]"
    assert (
        run("import lmm\ntry:\n    lmm.lmr\nexcept AttributeError as e:\n    print(e)")
        == "module 'lmm' has no attribute 'lmr'"
    )
    assert (
        run("from lmm import *; print(LmmError.__name__, datasets.__name__)")
        == "LmmError lmm.datasets"
    )


def test_type_checkers_see_every_public_name():
    """The names under TYPE_CHECKING are those of ``__all__``."""
    import lmm

    seen = {
        target.rsplit(".", 1)[1]
        for target, _, _, typing in imports(ROOT / "lmm" / "__init__.py")
        if typing
    }
    assert seen == set(lmm.__all__) - {"__version__"}


def test_a_fit_imports_nothing_of_what_follows_it():
    code = """
import sys
import lmm
fit = lmm.lmer("log_radon ~ floor + (1|county)", lmm.datasets.load("radon"))
str(fit.summary())
late = ("results.bootstrap", "results.profile", "results.deletion", "results.checks", "results.marginal_means", "inference.kenward_roger")
print([name for name in late if f"lmm.{name}" in sys.modules])
fit.coef_table(ddf="kenward_roger")
print("lmm.inference.tests.kenward_roger" in sys.modules)
"""
    assert run(code).splitlines() == ["[]", "True"]
