"""``python -m benchmarks.stream_generalized``: generalized fits of a Parquet file in passes over blocks of rows, and in memory.

Makes each file once in a temporary folder, then fits it, each time in a process of its own: streamed and in memory, with equal
rows merged and without. Writes ``stream_generalized.md`` and ``stream_generalized.json`` to ``benchmarks/results`` (or ``--out``).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks.machine import describe, sentence

HERE = Path(__file__).parent
PIECE = 1_000_000


@dataclass(frozen=True)
class Task:
    """A file and a model of it; ``merges`` whether rows are equal often enough for that to matter."""

    formula: str
    family: str
    make: Callable[[int, int, np.random.Generator], dict[str, object]]
    merges: bool


def counts(n: int, levels: int, rng: np.random.Generator) -> dict[str, object]:
    """Counts by person, a score from 0 to 4 and a category."""
    u = np.random.default_rng(0).standard_normal(levels)
    g, x, kind = rng.integers(0, levels, n), rng.integers(0, 5, n), rng.integers(0, 3, n)
    eta = -1.0 + 0.1 * x + 0.3 * (kind == 1) + 0.5 * u[g]
    return {
        "y": rng.poisson(np.exp(eta)),
        "x": x,
        "kind": np.array(["a", "b", "c"])[kind],
        "id": g.astype(np.int32),
    }


def answers(n: int, levels: int, rng: np.random.Generator) -> dict[str, object]:
    """Answers of persons to a hundred items with a predictor of their own: no two rows are alike."""
    fixed = np.random.default_rng(0)
    u, v = fixed.standard_normal(levels), fixed.standard_normal(100)
    g, h, x = rng.integers(0, levels, n), rng.integers(0, 100, n), rng.standard_normal(n)
    p = 1.0 / (1.0 + np.exp(0.5 - 0.4 * x - u[g] - 0.5 * v[h]))
    return {
        "y": (rng.random(n) < p).astype(np.int8),
        "x": x,
        "id": g.astype(np.int32),
        "item": h.astype(np.int32),
    }


TASKS = {
    "counts": Task("y ~ x + kind + (1 | id)", "poisson", counts, True),
    "answers": Task("y ~ x + (1 | id) + (1 | item)", "binomial", answers, False),
}


def write_file(task: Task, path: Path, rows: int, levels: int) -> None:
    """Row groups of a million rows, uncompressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(1), None
    for start in range(0, rows, PIECE):
        table = pa.table(task.make(min(PIECE, rows - start), levels, rng))
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression="none")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def fit(task: Task, path: Path, streamed: bool, merging: bool) -> dict[str, Any]:
    """Fit the model; reading is part of it."""
    import pandas as pd

    import lmm
    from lmm.families import FAMILIES

    family = FAMILIES[task.family]
    if not merging:
        family = type(family.__name__, (family,), {"merges": None})
    start, began = perf_counter(), process_time()
    result = lmm.glmer(
        task.formula, str(path) if streamed else pd.read_parquet(path), family=family()
    )
    seconds = perf_counter() - start
    out = {
        "seconds": seconds,
        "cpu": process_time() - began,
        "llf": result.llf,
        "evaluations": result.convergence.evaluations,
        "passes": result.convergence.passes,
    }
    rows = result.problem.source
    out["kept"] = rows.kept if streamed else rows.n
    own = result.convergence.seconds
    out["search"] = own["optimise"]
    began = process_time()
    result.vcov()
    return {
        **out,
        "vcov": process_time() - began,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def child(*arguments: str) -> dict[str, Any]:
    """A step in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stream_generalized", *arguments],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def write(folder: Path, machine: dict[str, str], found: dict[str, dict[str, Any]]) -> None:
    """The table and what it was made of."""
    heads = (
        "model",
        "rows",
        "how",
        "rows kept",
        "fit, s",
        "its CPU time, s",
        "passes",
        "standard errors, CPU s",
        "peak memory, GB",
        "log-likelihood",
    )
    rows = [
        "# Generalized models in passes over blocks of rows",
        "",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
    ]
    for name, own in found.items():
        formula = TASKS[name].formula.replace("|", "\\|")
        for how, step in own["fits"].items():
            cells = [
                f"{name} ({TASKS[name].family}): `{formula}`",
                f"{own['n'] / 1e6:g} M",
                how,
                f"{step['kept'] / 1e6:.2f} M",
            ]
            cells += [
                f"{step['seconds']:.1f}",
                f"{step['cpu']:.1f}",
                str(step["passes"] or ""),
                f"{step['vcov']:.1f}",
            ]
            cells += [f"{step['memory']:.2f}", f"{step['llf']:.6f}"]
            rows.append(f"| {' | '.join(cells)} |")
    described = sentence(machine)
    rows += [
        "",
        f"Peak memory is that of the whole process, Python and its packages included. {described}.",
    ]
    (folder / "stream_generalized.md").write_text("\n".join(rows) + "\n")
    (folder / "stream_generalized.json").write_text(
        json.dumps({"machine": machine, "tasks": found}, indent=1) + "\n"
    )


def main() -> None:
    """Make the files, fit each in every way."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stream_generalized", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=float, default=1e7)
    parser.add_argument("--levels", type=float, default=1e5)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.one:
        name, path, where, how = options.one
        print(json.dumps(fit(TASKS[name], Path(path), where == "streamed", how == "merged")))
        return
    if options.make:
        name, path, rows, levels = options.make
        write_file(TASKS[name], Path(path), int(rows), int(levels))
        return
    machine, found = describe(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, task in TASKS.items():
            path = Path(folder) / f"{name}.parquet"
            child("--make", name, str(path), str(int(options.rows)), str(int(options.levels)))
            fits = {}
            for where in ("streamed", "in memory"):
                for how in ("merged", "as they are") if task.merges else ("as they are",):
                    fits[f"{where}, {how}"] = child("--one", name, str(path), where, how)
                    print(
                        f"{name}, {where}, {how}: {fits[f'{where}, {how}']['seconds']:.1f} s",
                        flush=True,
                    )
            found[name] = {"n": int(options.rows), "bytes": path.stat().st_size, "fits": fits}
            path.unlink()
    write(options.out, machine, found)


if __name__ == "__main__":
    main()
