"""The command line of benchmarks whose tasks run in processes of their own, and then in R."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

HERE = Path(__file__).parent


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
