"""``make bench``: named problems, tool by tool, each in a process of its own.

    python -m benchmarks                                   # all problems, all tools
    python -m benchmarks --quick                           # the small ones, few repeats
    python -m benchmarks --problems insteval --tools lmm lme4 --limit 120
    python -m benchmarks --peers /path/to/python           # interpreter with statsmodels, gpboost, mixedlm, lme-python

Generalized models are fitted by lmm, lme4 and glmmTMB. ``--add`` keeps the answers that the folder holds already and
replaces those that are measured again, provided that they come from the same machine.

Writes ``table.md`` and ``results.json`` to ``benchmarks/results`` (or ``--out``) after every answer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.measure import GENERALIZED, HERE, ROOT, TOOLS, R, Settings, measure, shell
from benchmarks.problems import PROBLEMS, TIMED
from benchmarks.report import seconds, table, warm

QUICK = ("sleepstudy", "insteval", "verbagg_lmm", "pupils_24k")


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--problems",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(p.name for p in TIMED)} and the reference problems",
    )
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}; two repeats")
    parser.add_argument(
        "--limit", type=float, default=600.0, help="seconds allowed to a tool on a problem"
    )
    parser.add_argument("--repeat", type=int, default=5, help="fits after the first, at most")
    parser.add_argument(
        "--budget", type=float, default=30.0, help="seconds after which no further fit is begun"
    )
    parser.add_argument(
        "--peers", default=sys.executable, help="Python interpreter of the other Python tools"
    )
    parser.add_argument(
        "--add", action="store_true", help="keep what the folder holds of other problems and tools"
    )
    parser.add_argument(
        "--no-shell", action="store_true", help="leave the time from the shell to the summary out"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    names = options.problems or (QUICK if options.quick else [p.name for p in TIMED])
    unknown = [name for name in names if name not in PROBLEMS]
    if unknown:
        parser.error(f"no problem named {', '.join(unknown)}; there are {', '.join(PROBLEMS)}")
    options.problems = [PROBLEMS[name] for name in names]
    if options.quick:
        options.repeat = min(options.repeat, 2)
    return options


def before(path: Path, machine: dict[str, str]) -> dict[str, Any]:
    """What an earlier run left, or nothing; SystemExit when it was another machine's."""
    if not path.exists():
        return {"shell": {}, "answers": []}
    found: dict[str, Any] = json.loads(path.read_text())
    if any(
        found["machine"].get(part) != machine[part]
        for part in ("processor", "cores", "memory", "system")
    ):
        raise SystemExit(f"--add: {path} is from another machine or system: {found['machine']}")
    if found["answers"]:
        machine["date"] = f"{found['machine']['date']}, added to {machine['date']}"
        machine["load at the start"] = (
            f"{found['machine']['load at the start']}, then {machine['load at the start']}"
        )
    return found


def merged(answers: list[dict[str, Any]], answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers with this one added, or in the place of the same tool's on the same problem."""
    same = [(a["problem"], a["tool"]) == (answer["problem"], answer["tool"]) for a in answers]
    if any(same):
        return [answer if hit else a for hit, a in zip(same, answers, strict=True)]
    return [*answers, answer]


def main() -> None:
    """Measure and write."""
    options = arguments()
    settings = Settings(options.limit, options.repeat, options.budget, options.peers)
    options.out.mkdir(parents=True, exist_ok=True)
    machine = describe()
    kept = (
        before(options.out / "results.json", machine)
        if options.add
        else {"shell": {}, "answers": []}
    )
    spawned = kept["shell"] if options.no_shell else shell(settings, options.repeat)
    answers: list[dict[str, Any]] = kept["answers"]
    formats = ["csv"] * bool(set(options.tools) & set(R)) + ["parquet"] * bool(
        set(options.tools) - set(R)
    )
    for problem in options.problems:
        with tempfile.TemporaryDirectory() as scratch:
            # the data are made by another process, which takes its memory with it
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.export",
                    scratch,
                    problem.name,
                    "--formats",
                    *formats,
                ],
                cwd=ROOT,
                check=True,
            )
            for tool in [t for t in options.tools if problem.family is None or t in GENERALIZED]:
                answer = measure(problem, tool, Path(scratch), settings)
                answers = merged(answers, answer)
                said = (
                    answer["failed"]
                    or answer.get("cannot")
                    or f"first {seconds(answer.get('first'))} s, warm {seconds(warm(answer))} s"
                )
                print(f"{problem.name:<16} {tool:<12} {said}", flush=True)
                (options.out / "table.md").write_text(table(machine, answers, spawned))
                (options.out / "results.json").write_text(
                    json.dumps({"machine": machine, "shell": spawned, "answers": answers}, indent=1)
                )
    print(f"{options.out / 'table.md'}")


if __name__ == "__main__":
    main()
