"""``python -m benchmarks.scale``: crossed effects with the margins of MovieLens, from 25,000 rows to 25 million.

Fits ``rating ~ 1 + (1|user) + (1|movie)`` by lmm, at some sizes by gpboost and lme4 too, every fit in a process of its own, and
writes ``scale.md`` and ``scale.json`` to ``benchmarks/results`` (or ``--out``). Seconds are those of one call, integer columns
to fitted object; peak memory is the process's, data included. ``--growth`` adds three decades of rows, users and movies in
proportion, with the floor: what the products of the conjugate gradients cost where every vector entry that they fetch comes
at the rate of this machine's cache, and the rows are read once at that of its memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.machine import describe, sentence
from benchmarks.movies import ITEMS_PER_ROW, MOVIES, ROWS, USERS, USERS_PER_ROW, movies

HERE = Path(__file__).parent
FORMULA = "rating ~ 1 + (1|user) + (1|movie)"
#: seconds of one iteration with 16 vectors per 25 million pairs, and bytes read per second
ITERATION, PAIRS, BANDWIDTH = 0.15, 25e6, 17.6e9
#: iterations of 16 vectors per evaluation: probes, fixed effects, directions, and the products around them
ITERATIONS = 6


def cases() -> list[dict[str, Any]]:
    """Tool and data of each fit of the table."""
    one = {"rows": 1_000_000, "users": 6_040, "items": 3_706, "clusters": 0, "within": 0.0}
    five = {"rows": 5_000_000, "users": 32_500, "items": 25_000, "clusters": 0, "within": 0.0}
    full = {"rows": ROWS, "users": USERS, "items": MOVIES, "clusters": 0, "within": 0.0}
    out = [{"tool": tool, **one} for tool in ("lmm", "lmm, exact", "gpboost", "lme4")]
    out += [{"tool": tool, **five} for tool in ("lmm", "gpboost")]
    return [*out, {"tool": "lmm", **full}, {"tool": "lmm", **full, "clusters": 200, "within": 0.95}]


def decades() -> list[dict[str, Any]]:
    """The same model at growing sizes, factorised as is chosen and iteratively throughout."""
    rows = np.geomspace(25_000, ROWS, 7).round(-3).astype(int)
    return [
        {
            "tool": tool,
            "rows": int(n),
            "users": int(n * USERS_PER_ROW),
            "items": int(n * ITEMS_PER_ROW),
            "clusters": 0,
            "within": 0.0,
        }
        for n in rows
        for tool in ("lmm", "lmm, iterative")
    ]


def by_lmm(data: dict[str, np.ndarray], factorization: str) -> dict[str, Any]:
    """Seconds, standard deviations and what the fit says of itself."""
    import lmm

    few = movies(500, 20, 10)
    lmm.lmer(
        FORMULA, few, control=lmm.Control(factorization=factorization)
    )  # imports are not counted
    start = perf_counter()
    fit = lmm.lmer(FORMULA, data, control=lmm.Control(factorization=factorization))
    seconds = perf_counter() - start
    out = {
        "seconds": seconds,
        "sd": [*(fit.sigma * fit.theta).tolist(), fit.sigma],
        "evaluations": fit.convergence.evaluations,
    }
    found = fit.estimate.monte_carlo
    if found is not None:
        out |= {
            "relative": float(found.relative.max()),
            "probes": found.probes,
            "steps": list(found.steps),
            "llf_error": found.log_likelihood,
        }
    pairs = fit.problem.cross.pairs[0, 1].blocks.shape[-1]
    stages = {k: round(v, 2) for k, v in fit.convergence.seconds.items()}
    return {
        **out,
        "llf": float(fit.llf),
        "converged": fit.convergence.converged,
        "pairs": pairs,
        "stages": stages,
    }


def by_gpboost(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """Maximum likelihood by gpboost, its model's set-up included."""
    import gpboost

    groups = np.column_stack([data["user"], data["movie"]])
    start = perf_counter()
    model = gpboost.GPModel(group_data=groups, likelihood="gaussian")
    model.fit(y=data["rating"], X=np.ones((len(groups), 1)))
    seconds = perf_counter() - start
    variances = np.asarray(model.get_cov_pars()).ravel()[:3]
    return {
        "seconds": seconds,
        "sd": np.sqrt(variances[[1, 2, 0]]).tolist(),
        "llf": -float(model.get_current_neg_log_likelihood()),
    }


def by_lme4(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """lme4's first fit."""
    with tempfile.TemporaryDirectory() as folder:
        for name, column in data.items():
            column.tofile(Path(folder) / name)
        script = (
            "suppressMessages(library(lme4)); f <- commandArgs(TRUE)[1]; n <- as.numeric(commandArgs(TRUE)[2])\n"
            "d <- data.frame(user = factor(readBin(file.path(f, 'user'), 'integer', n)), "
            "movie = factor(readBin(file.path(f, 'movie'), 'integer', n)), rating = readBin(file.path(f, 'rating'), 'double', n))\n"
            f"t <- system.time(m <- lmer({FORMULA}, d))[['elapsed']]\n"
            "sd <- as.data.frame(VarCorr(m))$sdcor; mem <- grep('VmHWM', readLines('/proc/self/status'), value = TRUE)\n"
            "cat('ANSWER', t, sd, as.numeric(logLik(m)), gsub('[^0-9]', '', mem), '\\n')\n"
        )
        path = Path(folder) / "fit.R"
        path.write_text(script)
        rows = str(len(data["rating"]))
        done = subprocess.run(
            ["Rscript", str(path), folder, rows], capture_output=True, text=True, check=True
        )
    answer = [float(v) for v in done.stdout.split("ANSWER")[1].split()]
    return {"seconds": answer[0], "sd": answer[1:4], "llf": answer[4], "memory": answer[5] / 2**20}


def run_one(case: dict[str, Any]) -> None:
    """Fit one case in this process and print the answer."""
    warnings.simplefilter("ignore")
    data = movies(case["rows"], case["users"], case["items"], 1, case["clusters"], case["within"])
    tool = case["tool"]
    if tool == "gpboost":
        answer = by_gpboost(data)
    elif tool == "lme4":
        answer = by_lme4(data)
    else:
        small = case["rows"] <= 1_000_000 and "growth" not in case
        answer = by_lmm(
            data,
            "exact"
            if tool.endswith("exact")
            else "iterative"
            if tool.endswith("iterative") or small
            else "auto",
        )
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**case, "memory": own, **answer}))


def run(case: dict[str, Any], limit: float) -> dict[str, Any] | None:
    """The same in a fresh process; None where the tool is absent, failed or took longer than ``limit`` seconds."""
    if case["tool"] == "lme4" and shutil.which("Rscript") is None:
        return None
    command = [sys.executable, "-m", "benchmarks.scale", "--one", json.dumps(case)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {**case, "seconds": None, "limit": limit}
    if done.returncode:
        print(f"{case['tool']}, {case['rows']} rows: {done.stderr.strip().splitlines()[-1]}")
        return None
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{case['tool']}, {case['rows']:,} rows, {case['clusters']} clusters: {answer['seconds']:.1f} s, {answer['memory']:.2f} GB",
        flush=True,
    )
    return answer


def floor(answer: dict[str, Any]) -> float:
    """Seconds below which a fit of this many evaluations cannot be, see the module."""
    return float(
        answer["evaluations"] * ITERATIONS * ITERATION * answer["pairs"] / PAIRS
        + 16 * answer["rows"] / BANDWIDTH
    )


def write(
    folder: Path,
    machine: dict[str, str],
    answers: list[dict[str, Any]],
    growth: list[dict[str, Any]],
) -> None:
    """The table and what it was made of."""
    lines = ["# Crossed effects at scale", "", f"`{FORMULA}`", ""]
    lines += [
        "| rows | users x movies | pairing | tool | seconds | peak memory, GB | standard deviations | Monte Carlo error | iterations |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for a in answers:
        pairing = (
            f"{a['clusters']} clusters, {100 * a['within']:.0f} % within"
            if a["clusters"]
            else "at random"
        )
        seconds = (
            f"{a['seconds']:.1f}" if a["seconds"] is not None else f"more than {a['limit']:.0f}"
        )
        deviations = ", ".join(f"{v:.4f}" for v in a.get("sd", []))
        error = (
            f"{100 * a['relative']:.2g} % of a standard error, {a['llf_error']:.2g} in the log-likelihood"
            if "relative" in a
            else ""
        )
        steps = ", ".join(str(s) for s in a.get("steps", [])[:2])
        tool = f"{a['tool']}, iterative" if "relative" in a else a["tool"]
        cells = (
            f"{a['rows']:,}",
            f"{a['users']:,} x {a['items']:,}",
            pairing,
            tool,
            seconds,
            f"{a.get('memory', float('nan')):.2f}",
        )
        lines.append("| " + " | ".join((*cells, deviations, error, steps)) + " |")
    described = sentence(machine)
    lines += [
        "",
        "Seconds of one fit, from columns in memory to the fitted model; standard deviations of users, movies, residual; iterations of",
    ]
    lines += [
        f"conjugate gradients for the fixed effects and the directions, last evaluation. {described}."
    ]
    (folder / "scale.md").write_text("\n".join(lines) + "\n")
    for a in growth:
        a["floor"] = floor(a)
    (folder / "scale.json").write_text(
        json.dumps({"machine": machine, "answers": answers, "growth": growth}, indent=1) + "\n"
    )


def main() -> None:
    """Every case in a process of its own."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--growth", action="store_true", help="three decades of sizes too")
    parser.add_argument("--tools", nargs="+", help="tools to run; the others' answers are kept")
    parser.add_argument("--most", type=float, default=ROWS, help="leave larger data out")
    parser.add_argument("--limit", type=float, default=1_500.0, help="seconds allowed to a fit")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.one:
        run_one(json.loads(options.one))
        return
    machine, path = describe(), options.out / "scale.json"
    before = json.loads(path.read_text()) if path.exists() else {"answers": [], "growth": []}
    answers: list[dict[str, Any]] = []
    for case in cases():
        kept = next((a for a in before["answers"] if all(a[k] == v for k, v in case.items())), None)
        asked = case["rows"] <= options.most and (
            options.tools is None or case["tool"] in options.tools
        )
        answer = run(case, options.limit) if asked else kept
        if answer is not None:
            answers.append(answer)
        write(options.out, machine, answers, before["growth"])
    growth = before["growth"]
    if options.growth:
        growth = [
            a
            for a in (run({**case, "growth": True}, options.limit) for case in decades())
            if a is not None and a["seconds"] is not None
        ]
    write(options.out, machine, answers, growth)


if __name__ == "__main__":
    main()
