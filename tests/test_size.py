"""The package does not grow beyond what has been reached: see ``tools/size.py``. Lower a bound when you have got below it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: most of each, for the whole package
BOUNDS = {
    "characters": 1_990_000,
    "Any": 455,
    "branches": 70,
    "parameters": 36,
    "long functions": 28,
}


@pytest.fixture(scope="module")
def size() -> Any:
    spec = importlib.util.spec_from_file_location("size", ROOT / "tools" / "size.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["size"] = module
    spec.loader.exec_module(module)
    return module


def test_the_package_keeps_within_its_bounds(size: Any) -> None:
    counts = size.count(ROOT / "lmm")
    found = {
        "characters": sum(counts.code),
        "Any": counts.any,
        "branches": sum(counts.branches.values()),
        "parameters": sum(n > 8 for n in counts.parameters),
        "long functions": sum(n > 60 for n in counts.functions),
    }
    over = {
        name: f"{value} > {BOUNDS[name]}" for name, value in found.items() if value > BOUNDS[name]
    }
    assert not over
    assert counts.documented == counts.files


def test_what_counts_as_code_and_as_a_branch_on_a_kind(size: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    lines = [
        '"""Doc.',
        "",
        'More."""',
        "",
        "# why",
        "x = 1",
        "",
        "",
        "def f(fit, family):",
        '    """Doc."""',
        "    if family is None:",
    ]
    lines += ["        return 1", "    return 2 if fit.streamed else [a for a in fit if a]"]
    path.write_text("\n".join(lines) + "\n")
    counts = size.count(tmp_path)
    assert (counts.files, counts.lines, counts.doc) == (1, 13, 4)
    assert len(counts.code) == 5 and counts.code[0] == len("x = 1")
    assert (
        sum(counts.branches.values()) == 2
        and counts.comprehensions == 1
        and counts.functions == [4]
    )
