"""``python -m benchmarks.gpu``: the same fits by JAX on a GPU and by NumPy beside it, on the machine that this is run on.

Writes ``gpu.md`` and ``gpu.json`` to ``benchmarks/results`` (or ``--out``). Where JAX's default device is a CPU it says so
and makes no table. A task is run in a process of its own, which then has the device's memory for itself; "first" is its first
call, compilation included, "again" the least of ``--repeat`` more. What NumPy does in the same process is timed where it is
possible in minutes. ``--allow-cpu`` and ``--quick`` are for trying the script: small sizes, and whatever device there is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

import lmm
from benchmarks import simulate
from benchmarks.machine import describe
from lmm.linalg.devices import backend
from lmm.linalg.sparse.sparse_product import make_product

HERE = Path(__file__).parent
#: seconds allowed to one task
LIMIT = 3600.0


@dataclass(frozen=True)
class Fit:
    """A model to be fitted twice; ``beside`` : whether NumPy does it too."""

    formula: str
    data: Callable[[], Any]
    beside: bool = True

    def run(self, repeat: int) -> dict[str, Any]:
        """Seconds on the device and by NumPy, and how far the log-likelihoods are apart."""
        data = self.data()
        times, fit = timed(lambda: self.fit(data, "jax"), repeat)
        answer = {
            "first": times[0],
            "again": min(times[1:], default=times[0]),
            "evaluations": fit.estimate.convergence.evaluations,
            "how": "iterative" if fit.design.plan.iterative else "exact",
        }
        if self.beside:
            other, plain = timed(lambda: self.fit(data, "numpy"), min(repeat, 1))
            answer |= {"numpy": min(other), "difference": abs(fit.llf - plain.llf)}
        return answer

    def fit(self, data: Any, arrays: str) -> Any:
        """One fit, from the table to the estimates."""
        return lmm.lmer(self.formula, data, control=lmm.Control(backend=arrays))


@dataclass(frozen=True)
class Product:
    """A sparse matrix times vectors, arrays where they are used."""

    entries: int
    rows: int
    cols: int
    vectors: int

    def run(self, repeat: int) -> dict[str, Any]:
        """Seconds for B v and B'u together."""
        rng = np.random.default_rng(1)
        popularity = np.exp(2.0 * rng.standard_normal(self.cols))
        row = np.sort(rng.integers(0, self.rows, self.entries))
        col = np.searchsorted(
            np.cumsum(popularity), rng.random(self.entries) * popularity.sum()
        ).clip(max=self.cols - 1)
        blocks = np.ones((1, 1, self.entries))
        v, u = (
            rng.standard_normal((self.vectors, 1, self.cols)),
            rng.standard_normal((self.vectors, 1, self.rows)),
        )
        plain = make_product(row, col, blocks, self.rows, self.cols)
        there = make_product(row, col, blocks, self.rows, self.cols, backend="jax")
        on_device = backend.put((v, u))
        times, squares = timed(lambda: backend.call(both, there, *on_device), max(repeat, 3))
        other, wanted = timed(lambda: both(np, plain, v, u), max(repeat, 3))
        difference = float(max(abs(a - b) / abs(b) for a, b in zip(squares, wanted, strict=True)))
        return {
            "first": times[0],
            "again": min(times[1:]),
            "numpy": min(other[1:]),
            "difference": difference,
            "how": "",
            "evaluations": None,
        }


def both(xp: Any, product: Any, v: Any, u: Any) -> Any:
    """|B v|^2 and |B'u|^2: the products stay where they are."""
    return xp.sum(product.apply(xp, v) ** 2), xp.sum(product.apply_transpose(xp, u) ** 2)


def timed(call: Callable[[], Any], repeat: int) -> tuple[list[float], Any]:
    """Seconds of each of 1 + ``repeat`` calls, and the last answer."""
    times, out = [], None
    for _ in range(1 + repeat):
        start = perf_counter()
        out = call()
        times.append(perf_counter() - start)
    return times, out


def crossed(q: int) -> pd.DataFrame:
    """Two crossed factors paired at random, q levels in the smaller one, twenty rows to each of its levels."""
    rng = np.random.default_rng(q)
    n, J = 20 * q, q + q // 4
    a, b = rng.permutation(np.arange(n) % J), rng.permutation(np.arange(n) % q)
    return pd.DataFrame(
        {
            "a": a,
            "b": b,
            "y": rng.standard_normal(J)[a]
            + 0.7 * rng.standard_normal(q)[b]
            + rng.standard_normal(n),
        }
    )


def ratings(rows: int, users: int, items: int, **clusters: Any) -> dict[str, np.ndarray]:
    """Ratings with MovieLens's margins."""
    made: dict[str, np.ndarray] = importlib.import_module("benchmarks.movies").movies(
        rows, users, items, seed=1, **clusters
    )
    return made


CROSSED, SLOPE, MOVIES = (
    "y ~ 1 + (1|a) + (1|b)",
    "y ~ x + (1+x|g)",
    "rating ~ 1 + (1|user) + (1|movie)",
)


def tasks(quick: bool) -> dict[str, Fit | Product]:
    """What is timed; ``quick`` sizes for trying the script."""
    if quick:
        return {
            "2,000 rows, slope, 200 groups": Fit(SLOPE, lambda: simulate.grouped(1, 2_000, 200)),
            "dense tail of 60": Fit(CROSSED, lambda: crossed(60)),
            "sparse product, 20,000 entries x 4": Product(20_000, 900, 300, 4),
            "ratings, 5,000 rows": Fit(MOVIES, lambda: ratings(5_000, 100, 60), beside=False),
        }
    tails: dict[str, Fit | Product] = {
        f"dense tail of {q:,}": Fit(CROSSED, lambda q=q: crossed(q), q <= 5_000)
        for q in (5_000, 10_000, 20_000, 30_000)
    }
    return {
        "InstEval, three crossed factors": Fit(
            "y ~ service + (1|s) + (1|d) + (1|dept)", lambda: lmm.datasets.load("InstEval")
        ),
        "1M rows, slope, 100,000 groups": Fit(
            SLOPE, lambda: simulate.grouped(142, 1_000_000, 100_000)
        ),
        "10M rows, slope, 1M groups": Fit(
            SLOPE, lambda: simulate.grouped(143, 10_000_000, 1_000_000)
        ),
        "100M rows, slope, 10M groups": Fit(
            SLOPE, lambda: simulate.grouped(144, 100_000_000, 10_000_000), beside=False
        ),
        **tails,
        "sparse product, 20M entries x 16": Product(20_000_000, 160_000, 59_000, 16),
        "ratings, 25M rows, 162,541 x 59,047": Fit(
            MOVIES, lambda: ratings(25_000_000, 162_541, 59_047)
        ),
        "the same, 200 clusters, 95 % within": Fit(
            MOVIES, lambda: ratings(25_000_000, 162_541, 59_047, clusters=200, within=0.95)
        ),
    }


def device() -> dict[str, str]:
    """JAX's default devices: kind, number, memory, driver."""
    jax = importlib.import_module("jax")
    devices = jax.devices()
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    driver = ""
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
        )
        driver = (
            asked.stdout.strip().splitlines()[0]
            if asked.returncode == 0 and asked.stdout.strip()
            else ""
        )
    return {
        "platform": str(devices[0].platform),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "device memory": f"{limit / 2**30:.1f} GiB" if limit else "unknown",
        "driver": driver or "unknown",
    }


def run_one(name: str, quick: bool, repeat: int) -> None:
    """Time one task in this process and print its answer."""
    warnings.simplefilter("ignore")
    answer = tasks(quick)[name].run(repeat)
    jax = importlib.import_module("jax")
    peak = max(
        ((d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.devices()), default=0
    )
    print(json.dumps(answer | {"memory": peak / 2**30}))


def table(machine: dict[str, str], answers: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per task; a task that failed says how."""
    rows = [
        "# On a GPU",
        "",
        "| | first call | again | NumPy | times | evaluations | factorisation | difference | device memory, GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in answers.items():
        if "error" in own:
            rows.append(f"| {name} | {own['error']} | | | | | | | |")
            continue
        beside = own.get("numpy")
        cells = [f"{own['first']:.3g}", f"{own['again']:.3g}"]
        cells += ["", ""] if beside is None else [f"{beside:.3g}", f"{beside / own['again']:.1f}"]
        cells += ["" if own["evaluations"] is None else str(own["evaluations"]), own["how"]]
        cells += [
            "" if "difference" not in own else f"{own['difference']:.1e}",
            f"{own['memory']:.2f}" if own["memory"] else "",
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    rows += [
        "",
        "Seconds. Fits are whole calls, from the table to the estimates; the sparse product is B v and B'u, arrays in place. ",
    ]
    rows[-1] += (
        "The difference is that of the log-likelihoods; of the product, relative. "
        + "; ".join(f"{k}: {v}" for k, v in machine.items())
        + "."
    )
    return "\n".join(rows) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Run every task in a process of its own and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument(
        "--allow-cpu", action="store_true", help="also where JAX has no GPU; needs --out"
    )
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    if options.one:
        run_one(options.one, options.quick, options.repeat)
        return
    found = device()
    if found["platform"] == "cpu" and not options.allow_cpu:
        print(
            f"JAX's default device here is a CPU ({found['device']}), not a GPU: no table is made."
        )
        return
    if options.out is None and (options.quick or found["platform"] == "cpu"):
        parser.error(
            "figures of small sizes or of a CPU do not belong among the results: give --out"
        )
    folder = options.out or HERE / "results"
    machine, answers = {**found, **describe()}, {}
    for name in tasks(options.quick):
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            "--one",
            name,
            "--repeat",
            str(options.repeat),
            *(["--quick"] if options.quick else []),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT, cwd=HERE.parent
            )
            answers[name] = (
                json.loads(done.stdout.splitlines()[-1])
                if done.returncode == 0
                else {"error": last_line(done.stderr)}
            )
        except subprocess.TimeoutExpired:
            answers[name] = {"error": f"not done after {LIMIT:.0f} s"}
        print(name, answers[name], flush=True)
        folder.mkdir(
            parents=True, exist_ok=True
        )  # written as it grows, so that what was measured is kept
        (folder / "gpu.md").write_text(table(machine, answers))
        (folder / "gpu.json").write_text(
            json.dumps({"machine": machine, "answers": answers}, indent=1) + "\n"
        )


def last_line(text: str) -> str:
    """What an error ended with."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:120].replace("|", "/") if lines else "failed without a word"


if __name__ == "__main__":
    main()
