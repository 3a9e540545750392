"""The numbers of every documented example, to hold one version of the package against another.

    python tools/examples.py write before.json [page ...]
    python tools/examples.py compare before.json after.json

``write`` runs the code cells of all pages of ``docs/`` and the examples in docstrings, each page in a process of its own, and
keeps the numbers of what a cell shows and of every fit that it makes. ``compare`` lists what differs by more than 1e-10 of the
largest number beside it; wall-clock seconds are left out.
"""

from __future__ import annotations

import ast
import concurrent.futures
import contextlib
import doctest
import importlib
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
HEADER = re.compile(r"\A---\n.*?^---\n", re.MULTILINE | re.DOTALL)
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?|-?\d+")
TOLERANCE = 1e-10


def numbers(value: object) -> list[float]:
    """The numbers in a value: of a fit its parameters, of tables their numeric columns, of all else its text."""
    import lmm

    if isinstance(value, lmm.Fit):
        estimate = value.estimate
        parts = (estimate.beta, estimate.theta, [value.sigma, value.llf], value.bse)
        return [x for part in parts for x in np.asarray(part, dtype=float).ravel().tolist()]
    if isinstance(value, pd.DataFrame | pd.Series):
        table = value.to_frame() if isinstance(value, pd.Series) else value
        keep = [
            c
            for c, kind in zip(table.columns, table.dtypes, strict=True)
            if kind.kind in "fiu" and "second" not in str(c)
        ]
        return table[keep].to_numpy(dtype=float).ravel().tolist()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return value.astype(float).ravel().tolist()
    if isinstance(value, float | int | np.number):
        return [float(value)]
    if isinstance(value, dict):
        return [x for part in value.values() for x in numbers(part)]
    if isinstance(value, list | tuple):
        return [x for part in value for x in numbers(part)]
    lines = [
        line
        for line in str(value).splitlines()
        if " at 0x" not in line and not re.search(r"second|\d ?m?s\b", line)
    ]
    return [float(x) for x in NUMBER.findall("\n".join(lines))]


def run_cells(cells: list[str]) -> dict[str, list[float]]:
    """What each cell shows, prints and fits, by its number."""
    import lmm

    space: dict[str, object] = {"__name__": "__main__"}
    out: dict[str, list[float]] = {}
    for i, cell in enumerate(cells):
        before, text = dict(space), io.StringIO()
        tree = ast.parse(
            "\n".join(
                line
                for line in HEADER.sub("", cell).splitlines()
                if not line.startswith(("%", "!", ":"))
            )
        )
        last = (
            ast.Expression(tree.body.pop().value)
            if tree.body and isinstance(tree.body[-1], ast.Expr)
            else None
        )
        try:
            with contextlib.redirect_stdout(text):
                exec(compile(tree, f"<cell {i}>", "exec"), space)
                shown = (
                    eval(compile(last, f"<cell {i}>", "eval"), space) if last is not None else None
                )
        except Exception as problem:  # a page shows errors too
            out[f"{i} raised"] = numbers(f"{type(problem).__name__}: {problem}")
            continue
        out[f"{i} printed"] = numbers(text.getvalue())
        if shown is not None:
            out[f"{i} shown"] = numbers(shown)
        for name, value in space.items():
            if isinstance(value, lmm.Fit) and value is not before.get(name):
                out[f"{i} {name}"] = numbers(value)
    return out


def run_page(page: str) -> dict[str, list[float]]:
    """The numbers of one page of the documentation or one module's docstrings."""
    warnings.simplefilter("ignore")
    os.environ["MPLBACKEND"] = "agg"
    if page.endswith(".md"):
        cells = CELL.findall((ROOT / page).read_text(encoding="utf-8"))
        os.chdir(tempfile.mkdtemp())
        return run_cells(cells)
    found = doctest.DocTestFinder().find(importlib.import_module(page), page)
    return {
        f"{test.name} {key}": value
        for test in found
        for key, value in run_cells([example.source for example in test.examples]).items()
    }


def pages() -> list[str]:
    """All pages that have cells, and the modules that have examples."""
    texts = [
        p
        for p in sorted((ROOT / "docs").rglob("*.md"))
        if "_build" not in p.parts and CELL.search(p.read_text(encoding="utf-8"))
    ]
    modules = [
        p for p in sorted((ROOT / "lmm").rglob("*.py")) if ">>>" in p.read_text(encoding="utf-8")
    ]
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in modules
    ]
    return [str(p.relative_to(ROOT)) for p in texts] + names


def write(path: str, chosen: list[str]) -> None:
    """Run the pages and keep their numbers."""
    spawn = multiprocessing.get_context("spawn")
    out: dict[str, dict[str, list[float]]] = {}
    for page in chosen or pages():
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            try:
                out[page] = pool.submit(run_page, page).result()
            except Exception as problem:
                out[page] = {f"did not run: {problem}": []}
        failed = next((key for key in out[page] if key.startswith("did not run")), None)
        print(f"{page}: {failed or f'{sum(map(len, out[page].values()))} numbers'}", flush=True)
    Path(path).write_text(json.dumps(out), encoding="utf-8")


def by_example(path: str) -> dict[str, list[float]]:
    """Numbers by example, wherever its module lies."""
    pages = json.loads(Path(path).read_text(encoding="utf-8"))
    return {
        (
            f"{page} {key}"
            if page.endswith(".md")
            else ".".join(key.split(" ")[0].split(".")[-2:]) + key[len(key.split(" ")[0]) :]
        ): value
        for page, found in pages.items()
        for key, value in found.items()
    }


def compare(first: str, second: str) -> int:
    """Print what differs; the number of examples that do."""
    a, b = by_example(first), by_example(second)
    alone = {first: a.keys() - b.keys(), second: b.keys() - a.keys()}
    for path, keys in alone.items():
        for key in sorted(keys):
            print(f"{key}: only in {path}")
    differ = 0
    for key in sorted(a.keys() & b.keys()):
        x, y = np.array(a[key]), np.array(b[key])
        if len(x) != len(y):
            print(f"{key}: {len(x)} numbers, then {len(y)}")
            differ += 1
            continue
        size = np.abs(x[np.isfinite(x)]).max(initial=0.0)
        apart = ~np.isclose(x, y, rtol=0.0, atol=TOLERANCE * size, equal_nan=True)
        if apart.any():
            print(f"{key}: differs by {np.max(np.abs(x - y)[apart]) / (size or 1.0):.1e}")
            differ += 1
    both = [key for key in a if key in b]
    print(
        f"{len(both)} examples with {sum(len(a[key]) for key in both):,} numbers; {differ} differ"
    )
    return differ + sum(map(len, alone.values()))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "write":
        write(rest[0], rest[1:])
    else:
        sys.exit(compare(*rest) > 0)
