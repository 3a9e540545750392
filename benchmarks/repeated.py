"""``python -m benchmarks.repeated``: repeated measures with structured residuals, timed beside nlme and glmmTMB.

Writes ``repeated.md`` and ``repeated.json`` to ``benchmarks/results`` (or ``--out``). A fit and its table of coefficients with
Kenward-Roger's degrees of freedom are timed together, from the table of data on; R's functions have no such degrees of freedom
and are timed without.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lmm
from benchmarks.beside_r import command_line, r_seconds, seconds, timed
from benchmarks.machine import sentence

FEV = "FEV1 ~ RACE + SEX + ARMCD * AVISIT"
TRIAL = "y ~ base + arm * visit"


def fev() -> pd.DataFrame:
    """197 patients, four visits, 537 rows."""
    return lmm.datasets.load("fev")


def trial(subjects: int = 1000, visits: int = 10) -> pd.DataFrame:
    """Subjects in two arms, visits missing by drop-out and at random, unstructured residuals."""
    rng = np.random.default_rng(3)
    sd = np.linspace(1.0, 2.0, visits)
    r = 0.8 ** np.abs(np.subtract.outer(np.arange(visits), np.arange(visits)))
    base = rng.normal(size=subjects)
    arm = np.arange(subjects) % 2
    y = rng.multivariate_normal(np.zeros(visits), r * np.outer(sd, sd), size=subjects)
    y += 0.5 * base[:, None] + 0.1 * arm[:, None] * np.arange(visits)
    seen = np.arange(visits) < rng.integers(3, visits + 4, size=subjects)[:, None]
    seen &= rng.uniform(size=y.shape) > 0.05
    frame = pd.DataFrame(
        {
            "id": np.repeat([f"s{i:04d}" for i in range(subjects)], visits),
            "arm": np.repeat(np.array(["control", "active"])[arm], visits),
            "base": np.repeat(base, visits),
            "visit": np.tile([f"v{j:02d}" for j in range(visits)], subjects),
            "y": y.ravel(),
        }
    )
    return frame[seen.ravel()].reset_index(drop=True)


def tasks() -> dict[str, Callable[[], Callable[[], Any]]]:
    """Name -> what prepares a task and returns what is timed."""

    def fitted(formula: str, data: pd.DataFrame, residual: str) -> Callable[[], Any]:
        return lambda: lmm.lmer(formula, data, residual=residual).coef_table(ddf="kenward_roger")

    def bootstrap() -> Callable[[], Any]:
        fit = lmm.lmer(FEV, fev(), residual="us(AVISIT | USUBJID)")
        return lambda: fit.bootstrap(nsim=1000, rng=1)

    return {
        "fev, 537 rows, unstructured": lambda: fitted(FEV, fev(), "us(AVISIT | USUBJID)"),
        "fev, 537 rows, ar1h": lambda: fitted(FEV, fev(), "hetar1(AVISIT | USUBJID)"),
        "trial, 1,000 subjects x 10 visits, unstructured": lambda: fitted(
            TRIAL, trial(), "us(visit | id)"
        ),
        "trial, 1,000 subjects x 10 visits, ar1": lambda: fitted(TRIAL, trial(), "ar1(visit | id)"),
        "fev, unstructured, 1,000 bootstrap refits": bootstrap,
    }


def run_one(name: str, repeat: int) -> None:
    """Time one task in this process and print its answer."""
    timed(tasks()[name](), repeat)


def run_r(script: Path, limit: float) -> dict[str, float]:
    """R's seconds by task; empty where there is no R."""
    return r_seconds(script, {"fev": fev().dropna(), "trial": trial()}, limit)


def write(
    folder: Path,
    machine: dict[str, str],
    ours: dict[str, dict[str, float]],
    theirs: dict[str, float],
) -> None:
    """The table and what it was made of."""

    rows = [
        "# Repeated measures",
        "",
        "| model | lmm, first call | lmm, warm | peak memory, GB | nlme::gls | glmmTMB |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in ours.items():
        peers = " | ".join(seconds(theirs.get(f"{name}, {peer}")) for peer in ("gls", "glmmTMB"))
        rows.append(
            f"| {name} | {seconds(own['first'])} | {seconds(own['warm'])} | {own['memory']:.2f} | {peers} |"
        )
    rows += ["", f"Seconds, REML. {sentence(machine)}."]
    rows.append(
        "lmm's include Kenward-Roger's table, the others' a fit alone. Blank where R was not run, took longer than allowed, or has none."
    )
    (folder / "repeated.md").write_text("\n".join(rows) + "\n")
    (folder / "repeated.json").write_text(
        json.dumps({"machine": machine, "lmm": ours, "R": theirs}, indent=1) + "\n"
    )


if __name__ == "__main__":
    command_line("repeated", __doc__, tasks(), run_one, run_r, write)
