"""The command line of benchmarks whose tasks run in processes of their own, and then in R."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd

from benchmarks.machine import describe

HERE = Path(__file__).parent


def timed(call: Callable[[], Any], repeat: int) -> None:
    """Time a call in this process, the first one apart, for a minute at most, and print the seconds and the peak memory in GB."""
    warnings.simplefilter("ignore")
    start = perf_counter()
    call()
    first, times = perf_counter() - start, []
    while len(times) < repeat and sum(times) + first < 60.0:
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"first": first, "warm": min(times, default=first), "memory": memory}))


def seconds(value: float | None) -> str:
    """Three digits, nothing for None."""
    return "" if value is None else f"{value:.3g}"


def r_seconds(script: Path, data: dict[str, pd.DataFrame], limit: float) -> dict[str, float]:
    """The seconds that an R script prints as "TASK <tab> name <tab> seconds", those before ``limit``; empty where there is no R.

    ``data`` are written as ``name.csv`` into the folder that the script is told.
    """
    if shutil.which("Rscript") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        for name, frame in data.items():
            frame.to_csv(Path(folder) / f"{name}.csv", index=False)
        try:
            out = subprocess.run(
                ["Rscript", str(script), folder], capture_output=True, timeout=limit
            ).stdout
        except subprocess.TimeoutExpired as late:
            out = late.stdout or b""
    lines = [line for line in out.decode().splitlines() if line.startswith("TASK\t")]
    return {name: float(took) for _, name, took in (line.split("\t") for line in lines)}


def command_line(
    module: str,
    doc: str | None,
    names: Iterable[str],
    run_one: Callable[[str, int], None],
    run_r: Callable[[Path, float], dict[str, float]],
    write: Callable[[Path, dict[str, str], dict[str, Any], dict[str, float]], None],
) -> None:
    """Run every task of ``benchmarks.<module>`` in a process of its own, then ``<module>.R``, and write what came of it."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=(doc or "").splitlines()[0]
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds allowed to R")
    parser.add_argument("--no-r", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.one:
        run_one(options.one, options.repeat)
        return
    machine, ours = describe(), {}
    for name in names:
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{module}",
            "--one",
            name,
            "--repeat",
            str(options.repeat),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            continue
        ours[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {ours[name]['warm']:.3f} s", flush=True)
    theirs = {} if options.no_r else run_r(HERE / f"{module}.R", options.limit)
    write(options.out, machine, ours, theirs)
