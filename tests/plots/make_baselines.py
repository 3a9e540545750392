"""Draw the stored images anew: ``python tests/plots/make_baselines.py [NAME ...]``; then look at them."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import matplotlib

ROOT = Path(__file__).parents[2]
BASELINE = Path(__file__).parent / "baseline"


def main(names: list[str]) -> None:
    matplotlib.use("Agg")
    # an installed package that is called ``tests`` too would hide this folder
    sys.modules["tests"] = ModuleType("tests")
    sys.modules["tests"].__path__ = [str(ROOT / "tests")]
    pictures = import_module("tests.plots.pictures")
    BASELINE.mkdir(exist_ok=True)
    for name in names or pictures.PICTURES:
        pictures.save(name, BASELINE / f"{name}.png")
    (BASELINE / "matplotlib.txt").write_text(".".join(matplotlib.__version__.split(".")[:2]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
