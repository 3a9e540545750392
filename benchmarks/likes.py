"""``python -m benchmarks.likes``: binary and count responses with two large crossed factors, exactly and iteratively.

Margins and pairing are those of :mod:`benchmarks.movies`. Writes ``likes.md`` and ``likes.json`` to ``benchmarks/results`` (or
``--out``). First, 60,000 rows fitted exactly and iteratively with ten seeds of the random probes: the largest difference of any
estimate in its standard errors beside what the fits state, and the root mean square of the log-likelihood's in its stated
errors. Then time and memory of larger fits, every one in a process of its own: seconds of one call, columns to fitted
object, and of the standard errors; peak memory is the process's, data included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.movies import movies

HERE = Path(__file__).parent
FORMULA = "y ~ x + (1|user) + (1|movie)"
SEEDS = 10
CASES: list[dict[str, Any]] = [
    {
        "family": "binomial",
        "rows": 60_000,
        "users": 1_500,
        "items": 700,
        "clusters": 0,
        "exact": True,
    },
    {
        "family": "poisson",
        "rows": 60_000,
        "users": 1_500,
        "items": 700,
        "clusters": 20,
        "exact": True,
    },
    {
        "family": "binomial",
        "rows": 1_000_000,
        "users": 20_000,
        "items": 10_000,
        "clusters": 0,
        "exact": False,
    },
    {
        "family": "binomial",
        "rows": 1_000_000,
        "users": 20_000,
        "items": 10_000,
        "clusters": 100,
        "exact": False,
    },
    {
        "family": "binomial",
        "rows": 5_000_000,
        "users": 80_000,
        "items": 30_000,
        "clusters": 100,
        "exact": False,
    },
]


def responses(
    family: str, rows: int, users: int, items: int, clusters: int
) -> dict[str, np.ndarray]:
    """Columns ``y``, ``x``, ``user``, ``movie``; in clusters 80 % of a user's rows fall in his own."""
    drawn = movies(rows, users, items, 1, clusters, 0.8 if clusters else 0.0)
    rng = np.random.default_rng(101)
    x = rng.standard_normal(rows)
    eta = (
        -0.3
        + 0.4 * x
        + 0.7 * rng.standard_normal(users)[drawn["user"]]
        + 0.6 * rng.standard_normal(items)[drawn["movie"]]
    )
    y = (
        rng.random(rows) < 1.0 / (1.0 + np.exp(-eta))
        if family == "binomial"
        else rng.poisson(np.exp(0.7 * eta))
    )
    return {"y": y.astype(float), "x": x, "user": drawn["user"], "movie": drawn["movie"]}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    import lmm

    case = dict(case)
    exact, family = case.pop("exact"), case["family"]
    for how in ("exact", "iterative"):  # imports
        lmm.glmer(
            FORMULA,
            responses(family, 500, 20, 10, 0),
            family=family,
            control=lmm.Control(factorization=how),
        )
    data = responses(**case)
    begin = perf_counter()
    fit = lmm.glmer(FORMULA, data, family=family, control=lmm.Control(factorization="iterative"))
    seconds = perf_counter() - begin
    errors = fit.estimator.covariance(fit.problem, fit.estimate)
    said = fit.estimate.monte_carlo
    out = {
        "levels": [int(size.J) for size in fit.problem.plan.terms],
        "seconds": seconds,
        "seconds_errors": perf_counter() - begin - seconds,
        "evaluations": fit.convergence.evaluations,
        "probes": said.probes,
        "stated": float(said.relative.max()),
        "stated_log_likelihood": said.log_likelihood,
    }
    if exact:
        begin = perf_counter()
        right = lmm.glmer(FORMULA, data, family=family, control=lmm.Control(factorization="exact"))
        out["seconds_exact"] = perf_counter() - begin
        spread = np.sqrt(np.diagonal(right.estimator.covariance(right.problem, right.estimate)))
        fits = [
            lmm.glmer(
                FORMULA, data, family=family, control=lmm.Control(factorization="iterative", seed=s)
            )
            for s in range(1, SEEDS + 1)
        ]
        estimates = np.array([[*f.theta, *f.params] for f in fits]) - [*right.theta, *right.params]
        out["difference"] = float(np.max(np.abs(estimates / spread)))
        out["stated"] = float(np.max([f.estimate.monte_carlo.relative.max() for f in fits]))
        apart = np.array([float(f.llf) - right.llf for f in fits]) / [
            f.estimate.monte_carlo.log_likelihood for f in fits
        ]
        out["difference_log_likelihood"] = float(np.sqrt(np.mean(apart**2)))
        out["standard_errors"] = float(np.max(np.abs(np.sqrt(np.diagonal(errors)) / spread - 1.0)))
    out["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e9 if sys.platform == "darwin" else 1e6
    )
    return out


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = [
        "| family | rows | levels met | pairing | s, fit | s, standard errors | s, exact fit | GB "
        "| stated error / SE | difference / SE | of log-likelihood / stated |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        pairing = f"{line['clusters']} clusters" if line["clusters"] else "random"
        apart = (
            (f"{line['difference']:.4f}", f"{line['difference_log_likelihood']:.2f}")
            if "difference" in line
            else ("", "")
        )
        exact = f"{line['seconds_exact']:.1f}" if "seconds_exact" in line else ""
        head.append(
            f"| {line['family']} | {line['rows']:,} | {line['levels'][0]:,} x {line['levels'][1]:,} | {pairing} | {line['seconds']:.1f} | "
            f"{line['seconds_errors']:.1f} | {exact} | {line['gigabytes']:.2f} | {line['stated']:.4f} | {apart[0]} | {apart[1]} |"
        )
    return "\n".join(head) + "\n"


def main() -> None:
    """All cases, or one of them as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.likes", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--case", type=int, help="measure one case here and print it")
    asked = parser.parse_args()
    if asked.case is not None:
        print(json.dumps(measure(CASES[asked.case])))
        return
    lines = []
    for i, case in enumerate(CASES):
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.likes", "--case", str(i)],
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        lines.append({**case, **json.loads(told.stdout.splitlines()[-1])})
        print(lines[-1], flush=True)
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "likes.json").write_text(
            json.dumps({"machine": describe(), "lines": lines}, indent=1) + "\n"
        )
        (asked.out / "likes.md").write_text(table(lines))


if __name__ == "__main__":
    main()
