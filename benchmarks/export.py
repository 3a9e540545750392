"""Write problems and their data where R can read them: one file per data set and a manifest.

    python -m benchmarks.export DIRECTORY [PROBLEM ...] [--formats csv parquet]

``manifest.json`` holds, per problem, the formula for R and how to fit it, and, per data set, the
levels of each factor in order and a fingerprint of every column. The default is all reference problems.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.problems import PROBLEMS, REFERENCE, Problem, frame


def fingerprint(data: pd.DataFrame) -> dict[str, float]:
    """One number per column that changes with any value and its place: sum over rows of (1 + i mod 11) x_i, the codes of a factor."""
    place = 1.0 + np.arange(len(data)) % 11
    sums: dict[str, float] = {}
    for name, column in data.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            values = column.cat.codes.to_numpy(dtype=float)
        else:
            values = np.nan_to_num(column.to_numpy(dtype=float))
        sums[str(name)] = float(place @ values)
    return sums


def levels(data: pd.DataFrame) -> dict[str, list[str]]:
    """The levels of each categorical column."""
    return {
        str(name): [str(v) for v in c.cat.categories]
        for name, c in data.items()
        if isinstance(c.dtype, pd.CategoricalDtype)
    }


def entry(problem: Problem) -> dict[str, Any]:
    """What R needs to know of a problem."""
    return {"name": problem.name, "formula": problem.r_formula or problem.formula, "data": problem.data, "REML": problem.reml,
            "weights": problem.weights, "offset": problem.offset, "family": problem.family}  # fmt: skip


def write(folder: Path, problems: list[Problem], formats: Collection[str] = ("csv",)) -> None:
    """Fill the folder with files of these formats, "csv" and "parquet"."""
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {}
    for name in dict.fromkeys(p.data for p in problems):
        table = frame(name)
        if "csv" in formats:
            table.to_csv(folder / f"{name}.csv", index=False, na_rep="NA")
        if "parquet" in formats:
            table.to_parquet(folder / f"{name}.parquet", index=False)
        data[name] = {
            "levels": levels(table),
            "fingerprint": fingerprint(table),
            "rows": len(table),
        }
    manifest = {"problems": [entry(p) for p in problems], "data": data}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("problems", nargs="*", help="names; all reference problems by default")
    parser.add_argument("--formats", nargs="+", choices=("csv", "parquet"), default=["csv"])
    options = parser.parse_args()
    write(
        options.folder,
        [PROBLEMS[name] for name in options.problems] or list(REFERENCE),
        options.formats,
    )


if __name__ == "__main__":
    main()
