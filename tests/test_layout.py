"""Where things are: folders of a size to take in, names that occur once, and a first line that says what a file computes."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "lmm").rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]
#: most modules in a folder
MOST = 15


def test_a_folder_holds_few_enough_modules() -> None:
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in MODULES)
    assert {folder: n for folder, n in counts.items() if n > MOST} == {}


def test_the_name_of_a_module_occurs_once() -> None:
    counts = Counter(path.name for path in MODULES)
    assert [name for name, n in counts.items() if n > 1] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_says_what_is_computed(path: Path) -> None:
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    assert len(first.split()) >= 4, first
    assert first[-1] in ".:!?", "one sentence, on one line"


def test_the_page_on_the_code_names_every_folder_and_only_files_that_exist() -> None:
    page = (ROOT / "docs" / "code.md").read_text(encoding="utf-8")
    folders = {
        str(path.parent.relative_to(ROOT / "lmm"))
        for path in MODULES
        if path.parent != ROOT / "lmm"
    }
    assert [folder for folder in folders if f"`{folder}/`" not in page] == []
    named = re.findall(r"`((?:\w+/)+\w+\.py)", page)
    assert len(named) > 30
    assert [
        name for name in named if not (ROOT / "lmm" / name).exists() and not (ROOT / name).exists()
    ] == []
