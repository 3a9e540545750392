"""What the documentation promises: examples in docstrings run, and the names in its tables exist."""

from __future__ import annotations

import doctest
import importlib
import re
import warnings
from pathlib import Path

import pytest

import lmm

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "lmm").rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


#: optional packages that a module's examples need
NEEDED = {
    "chain_diagnostics": "arviz_stats",
    "variational_bayes": "optax",
    "monte_carlo_em": "blackjax",
    "nuts": "blackjax",
    "accessor": "matplotlib",
    "row_methods": "pyarrow",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    if name.split(".")[-1] in NEEDED:
        pytest.importorskip(NEEDED[name.split(".")[-1]])
    module = importlib.import_module(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = doctest.testmod(
            module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        )
    assert result.attempted > 0 and result.failed == 0


@pytest.fixture(scope="module")
def fit() -> lmm.Fit:
    return lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))


def promised() -> list[str]:
    """Dotted names below ``fit`` and ``lmm`` in the right-hand column of the translation tables."""
    rows = [
        line
        for line in (ROOT / "docs" / "from_lme4.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    ours = [row.replace(r"\|", "").split("|")[2] for row in rows]
    code = [text for cell in ours for text in re.findall(r"`([^`]*)`", cell)]
    return sorted({name for text in code for name in re.findall(r"\b(?:fit|lmm)(?:\.\w+)+", text)})


@pytest.mark.parametrize("name", promised())
def test_names_in_the_translation_from_lme4_exist(name, fit):
    first, *rest = name.split(".")
    if first == "lmm" and (ROOT / "lmm" / rest[0]).is_dir():
        importlib.import_module(f"lmm.{rest[0]}")
    if rest[0] == "plot":
        pytest.importorskip("matplotlib")
    value = fit if first == "fit" else lmm
    for part in rest:
        value = getattr(value, part)


def test_translation_from_lme4_is_long_enough_to_be_believed():
    assert len(promised()) > 40


def test_readme_shows_what_the_command_line_prints(capsys):
    """The block after ``make demo`` in README.md is the real output."""
    from lmm import cli

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command, shown = re.search(r"```\n\$ (lmm .*)\n([\s\S]*?)```", readme).groups()
    formula, data = re.fullmatch(r'lmm "(.*)" (\w+)', command).groups()
    assert cli.main([formula, data]) == 0
    printed = capsys.readouterr().out
    strip = lambda text: [line.rstrip() for line in text.rstrip().splitlines()]  # noqa: E731
    assert strip(shown) == strip(printed)
    assert f'$(BIN)/lmm "{formula}" {data}' in (ROOT / "Makefile").read_text()
