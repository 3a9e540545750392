"""``python -m benchmarks.stream``: fits of Parquet files in chunks, beside merely reading the files.

Makes each file once in a temporary folder (2 GB for 100 million rows), then, each in a process of its own: reads it with pyarrow
and encodes its grouping columns as dictionaries, which is the floor; fits the model; writes predictions of all rows. Writes
``stream.md`` and ``stream.json`` to ``benchmarks/results`` (or ``--out``).
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
from time import perf_counter

import numpy as np

from benchmarks.machine import describe, sentence

HERE = Path(__file__).parent
PIECE = 1_000_000


@dataclass(frozen=True)
class Task:
    """A file and a model of it; ``share`` of the rows and levels asked for."""

    formula: str
    share: float
    groups: tuple[str, ...]
    columns: tuple[str, ...]
    make: Callable[[int, int, int, np.random.Generator], dict[str, object]]


def slopes(start: int, n: int, levels: int, rng: np.random.Generator) -> dict[str, object]:
    """A factor of integers with a random slope."""
    u, s = _effects(levels)
    g, x = rng.integers(0, levels, n), rng.standard_normal(n)
    y = 3.0 + x + u[g] + 0.5 * s[g] * x + 2.0 * rng.standard_normal(n)
    return {"id": g.astype(np.int32), "x": x, "y": y}


def text(start: int, n: int, levels: int, rng: np.random.Generator) -> dict[str, object]:
    """The same with ids of text."""
    data = slopes(start, n, levels, rng)
    import pyarrow as pa

    names = pa.array(np.char.add("user-", np.arange(levels).astype(str)))
    return {**data, "id": names.take(pa.array(data["id"]))}


def crossed(start: int, n: int, levels: int, rng: np.random.Generator) -> dict[str, object]:
    """Two crossed factors, the smaller with a thousandth of the levels, a categorical predictor and weights."""
    u, s = _effects(levels)
    g, h, x = (
        rng.integers(0, levels, n),
        rng.integers(0, max(levels // 1000, 2), n),
        rng.standard_normal(n),
    )
    kind = rng.integers(0, 4, n)
    y = 3.0 + x + 0.2 * kind + u[g] + s[h] + 2.0 * rng.standard_normal(n)
    return {
        "id": g.astype(np.int32),
        "item": h.astype(np.int32),
        "x": x,
        "kind": np.array(["a", "b", "c", "d"])[kind],
        "w": 1.0 + rng.random(n),
        "y": y,
    }


def _effects(levels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(levels), rng.standard_normal(levels)


TASKS = {
    "random slope, ids of integers": Task(
        "y ~ x + (x | id)", 1.0, ("id",), ("id", "x", "y"), slopes
    ),
    "random slope, ids of text": Task("y ~ x + (x | id)", 0.1, ("id",), ("id", "x", "y"), text),
    "two crossed factors, a categorical predictor, weights": Task(
        "y ~ x * kind + (1 | id) + (1 | item)",
        0.1,
        ("id", "item", "kind"),
        ("id", "item", "x", "kind", "w", "y"),
        crossed,
    ),
}


def write_file(task: Task, path: Path, rows: int, levels: int) -> None:
    """Row groups of a million rows, uncompressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(1), None
    for start in range(0, rows, PIECE):
        table = pa.table(task.make(start, min(PIECE, rows - start), levels, rng))
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression="none")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def floor(task: Task, path: Path) -> dict[str, float]:
    """Read the columns, chunk after chunk, and encode the grouping columns."""
    import pyarrow.parquet as pq

    start = perf_counter()
    file = pq.ParquetFile(
        path, pre_buffer=False, buffer_size=2**20
    )  # the fastest, and in bounded memory
    for batch in file.iter_batches(batch_size=PIECE, columns=list(task.columns)):
        for name in task.groups:
            batch.column(name).dictionary_encode()
    return {"seconds": perf_counter() - start}


def fit(task: Task, path: Path) -> dict[str, float]:
    """Fit the model; the rows' share of the time beside the whole."""
    import lmm

    weights = "w" if "w" in task.columns else None
    start = perf_counter()
    result = lmm.lmer(task.formula, path, weights=weights)
    seconds = perf_counter() - start
    own = result.problem.seconds
    return {
        "seconds": seconds,
        "rows": own["rows"],
        "recipe": own["recipe"],
        "converged": float(result.convergence.converged),
    }


def predictions(task: Task, path: Path) -> dict[str, float]:
    """Fit, then write fitted values and residuals of all rows."""
    import lmm

    result = lmm.lmer(task.formula, path, weights="w" if "w" in task.columns else None)
    start = perf_counter()
    result.write_predictions(path.with_suffix(".out"), columns=["id"])
    return {"seconds": perf_counter() - start}


STEPS = {"floor": floor, "fit": fit, "predictions": predictions}


def run_one(name: str, step: str, path: Path) -> None:
    """One step in this process; its answer and the peak of this process's memory are printed."""
    answer = STEPS[step](TASKS[name], path)
    print(
        json.dumps({**answer, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20})
    )


def child(*arguments: str) -> dict[str, float]:
    """A step in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stream", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def write(folder: Path, machine: dict[str, str], found: dict[str, dict]) -> None:
    """The table and what it was made of."""
    heads = (
        "model",
        "rows",
        "file, GB",
        "read and encode, s",
        "fit, s",
        "of it rows, s",
        "fit / read",
        "rows per second",
    )
    heads = (*heads, "peak memory, GB", "predictions, s")
    rows = ["# Data in chunks", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, own in found.items():
        read, fitted, n = own["floor"]["seconds"], own["fit"]["seconds"], own["n"]
        formula = TASKS[name].formula.replace("|", "\\|")
        cells = [
            f"{name}: `{formula}`",
            f"{n / 1e6:g} M",
            f"{own['bytes'] / 1e9:.1f}",
            f"{read:.1f}",
            f"{fitted:.1f}",
        ]
        cells += [
            f"{own['fit']['rows'] + own['fit']['recipe']:.1f}",
            f"{fitted / read:.1f}",
            f"{n / fitted / 1e6:.2f} M",
        ]
        cells += [f"{own['fit']['memory']:.2f}", f"{own['predictions']['seconds']:.1f}"]
        rows.append(f"| {' | '.join(cells)} |")
    described = sentence(machine)
    rows += [
        "",
        f"A hundred rows for each `id` in the mean. Peak memory is that of the whole process. {described}.",
    ]
    (folder / "stream.md").write_text("\n".join(rows) + "\n")
    (folder / "stream.json").write_text(
        json.dumps({"machine": machine, "tasks": found}, indent=1) + "\n"
    )


def main() -> None:
    """Make the files, run every step."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stream", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=float, default=1e8)
    parser.add_argument("--levels", type=float, default=1e6)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.one:
        run_one(options.one[0], options.one[1], Path(options.one[2]))
        return
    if options.make:
        name, path, rows, levels = options.make
        write_file(TASKS[name], Path(path), int(rows), int(levels))
        return
    machine, found = describe(), {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, task) in enumerate(TASKS.items()):
            path, n = Path(folder) / f"{i}.parquet", int(options.rows * task.share)
            child("--make", name, str(path), str(n), str(int(options.levels * task.share)))
            found[name] = {"n": n, "bytes": path.stat().st_size} | {
                step: child("--one", name, step, str(path)) for step in STEPS
            }
            for file in Path(folder).iterdir():
                file.unlink()
            own = found[name]
            print(
                f"{name}: read {own['floor']['seconds']:.1f} s, fit {own['fit']['seconds']:.1f} s, {own['fit']['memory']:.2f} GB",
                flush=True,
            )
    write(options.out, machine, found)


if __name__ == "__main__":
    main()
