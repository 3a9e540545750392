"""``python -m benchmarks.after``: what follows a fit, timed beside lme4, lmerTest and pbkrtest.

Writes ``after.md`` and ``after.json`` to ``benchmarks/results`` (or ``--out``). Each task is run once before it is timed, and then on a
copy of the fit that remembers nothing; the time is the
least of ``--repeat``. R refits a hundredth to a fifth as often, multiplied up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lmm
from benchmarks.beside_r import command_line, r_seconds, seconds, timed
from benchmarks.machine import sentence

SLEEP = "Reaction ~ Days + (Days|Subject)"
INSTEVAL = "y ~ service + (1|s) + (1|d) + (1|dept)"


def many_rows() -> pd.DataFrame:
    """1,000 rows, 50 groups, a slope, and 10,000 responses."""
    rng = np.random.default_rng(1)
    g, x, z = np.repeat(np.arange(50), 20), rng.normal(size=1000), rng.normal(size=(1000, 2))
    y = rng.normal(size=1000) + rng.normal(size=50)[g] + x * (0.5 * rng.normal(size=50)[g] + 1)
    return pd.DataFrame(
        {"y": y, "x": x, "z1": z[:, 0], "z2": z[:, 1], "g": [f"g{i:02d}" for i in g]}
    )


def ten_thousand() -> pd.DataFrame:
    """10,000 rows, 500 groups of unequal size crossed with 40 items."""
    rng = np.random.default_rng(2)
    g, h = np.sort(rng.integers(500, size=10_000)), rng.integers(40, size=10_000)
    x = rng.normal(size=10_000)
    y = (
        1
        + 0.3 * x
        + rng.normal(size=500)[g]
        + 0.5 * rng.normal(size=500)[g] * x
        + rng.normal(size=40)[h]
        + rng.normal(size=10_000)
    )
    return pd.DataFrame(
        {"y": y, "x": x, "g": [f"g{i:03d}" for i in g], "h": [f"h{i:02d}" for i in h]}
    )


def tasks() -> dict[str, Callable[[], Callable[[], Any]]]:
    """Name -> what makes ready and gives the call that is timed."""

    def sleep(**arguments: Any) -> lmm.Fit:
        return lmm.lmer(SLEEP, lmm.datasets.load("sleepstudy"), **arguments)

    def bootstrap() -> Callable[[], Any]:
        fit = sleep()
        return lambda: fit.bootstrap(1000, rng=1)

    def responses() -> Callable[[], Any]:
        fit = lmm.lmer("y ~ x + z1 + z2 + (x|g)", many_rows())
        Y = fit.simulate(10_000, rng=1).to_numpy()
        return lambda: fit.refit_many(Y)

    def profile() -> Callable[[], Any]:
        fit = sleep(REML=False)
        return lambda: replace(fit).profile()

    def influence() -> Callable[[], Any]:
        fit = sleep()
        return lambda: fit.influence("row")

    def satterthwaite() -> Callable[[], Any]:
        fit = sleep()
        return lambda: replace(fit).coef_table(ddf="satterthwaite")

    def kenward_roger() -> Callable[[], Any]:
        fit = lmm.lmer("y ~ x + (x|g) + (1|h)", ten_thousand())
        return lambda: replace(fit).coef_table(ddf="kenward_roger")

    def insteval(ddf: str) -> Callable[[], Callable[[], Any]]:
        def ready() -> Callable[[], Any]:
            fit = lmm.lmer(INSTEVAL, lmm.datasets.load("InstEval"))
            return lambda: replace(fit).coef_table(ddf=ddf)

        return ready

    def counts() -> Callable[[], Any]:
        fit = lmm.glmer(
            "cbind(incidence, size - incidence) ~ period + (1|herd)",
            lmm.datasets.load("cbpp"),
            family="binomial",
        )
        return lambda: replace(fit).profile()

    def counts_bootstrap() -> Callable[[], Any]:
        fit = lmm.glmer(
            "cbind(incidence, size - incidence) ~ period + (1|herd)",
            lmm.datasets.load("cbpp"),
            family="binomial",
        )
        return lambda: fit.bootstrap(100, rng=1)

    return {
        "sleepstudy, 1,000 parametric bootstrap refits": bootstrap,
        "10,000 responses of 1,000 rows, random slope, 50 groups": responses,
        "sleepstudy, profile of all parameters": profile,
        "sleepstudy, influence of each of 180 rows": influence,
        "sleepstudy, Satterthwaite's table": satterthwaite,
        "10,000 rows, 500 groups with slopes x 40 items, Kenward-Roger's table": kenward_roger,
        "InstEval, 73,421 rows, Satterthwaite's table": insteval("satterthwaite"),
        "InstEval, 73,421 rows, Kenward-Roger's table": insteval("kenward_roger"),
        "cbpp, binomial, profile of all parameters": counts,
        "cbpp, binomial, 100 bootstrap refits": counts_bootstrap,
    }


def run_one(name: str, repeat: int) -> None:
    """Time one task in this process and print its answer."""
    timed(tasks()[name](), repeat)


def run_r(script: Path, limit: float) -> dict[str, float]:
    """R's seconds by task; empty where there is no R."""
    return r_seconds(script, {"many_rows": many_rows(), "ten_thousand": ten_thousand()}, limit)


def write(
    folder: Path,
    machine: dict[str, str],
    ours: dict[str, dict[str, float]],
    theirs: dict[str, float],
) -> None:
    """The table and what it was made of."""

    rows = [
        "# After a fit",
        "",
        "| task | lmm, first call | lmm, warm | peak memory, GB | R |",
        "|---|---|---|---|---|",
    ]
    for name, own in ours.items():
        rows.append(
            f"| {name} | {seconds(own['first'])} | {seconds(own['warm'])} | {own['memory']:.2f} | {seconds(theirs.get(name))} |"
        )
    described = sentence(machine)
    rows += ["", f"Seconds, fits and imports not counted. {described}."]
    rows.append(
        "R: bootMer, refit, profile, influence of lme4; lmerTest; pbkrtest. Blank where R was not run, or cannot."
    )
    (folder / "after.md").write_text("\n".join(rows) + "\n")
    (folder / "after.json").write_text(
        json.dumps({"machine": machine, "lmm": ours, "R": theirs}, indent=1) + "\n"
    )


if __name__ == "__main__":
    command_line("after", __doc__, tasks(), run_one, run_r, write)
