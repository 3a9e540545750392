"""``python -m benchmarks.batch``: many responses at once, beside a loop over them here and in R.

Writes ``batch.md`` and ``batch.json`` to ``benchmarks/results`` (or ``--out``). A task is run in a process of its own; "first" is its
first call, "warm" the least of ``--repeat`` more. Loops fit a few of the responses one by one, multiplied up: how many, the table says.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

import lmm
from benchmarks.beside_r import command_line, seconds
from benchmarks.machine import sentence

ROWS, GROUPS = 1_000, 50


@dataclass(frozen=True)
class Task:
    """Responses of one model; ``fit`` fits all of them, ``one`` a single one given the data with a column ``y``.

    ``here`` and ``there`` are the numbers of single fits that are timed here and in R.
    """

    make: Callable[[], tuple[pd.DataFrame, np.ndarray]]
    fit: Callable[[pd.DataFrame, np.ndarray], Any]
    one: Callable[[pd.DataFrame], Any]
    here: int
    there: int


def predictors() -> pd.DataFrame:
    """1,000 rows, 50 groups of 20, 8 items, three covariates."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 3))
    g, h = np.repeat(np.arange(GROUPS), ROWS // GROUPS), rng.integers(8, size=ROWS)
    return pd.DataFrame(
        {
            "x": x[:, 0],
            "z1": x[:, 1],
            "z2": x[:, 2],
            "g": [f"g{i:02d}" for i in g],
            "h": [f"h{i}" for i in h],
        }
    )


def predictor(R: int, seed: int, slope: float) -> tuple[pd.DataFrame, np.ndarray]:
    """The data, and linear predictors (n, R) with random intercepts and slopes."""
    data, rng = predictors(), np.random.default_rng(seed)
    x, g = data["x"].to_numpy()[:, None], pd.factorize(data["g"])[0]
    eta = 0.5 + 0.2 * x + 0.6 * rng.normal(size=(GROUPS, R))[g]
    if slope:
        eta += slope * rng.normal(size=(GROUPS, R))[g] * x
    return data, eta


def gaussian(R: int, slope: float = 0.5, missing: float = 0.0) -> tuple[pd.DataFrame, np.ndarray]:
    """Normal responses, some of them missing."""
    data, Y = predictor(R, 2, slope)
    rng = np.random.default_rng(3)
    Y += rng.normal(size=Y.shape)
    if missing:
        Y[rng.random(Y.shape) < missing] = np.nan
    return data, Y


def crossed(R: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Normal responses with an intercept per item too."""
    data, Y = gaussian(R, 0.0)
    return data, Y + 0.5 * np.random.default_rng(4).normal(size=(8, R))[pd.factorize(data["h"])[0]]


def poisson(R: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Counts."""
    data, eta = predictor(R, 5, 0.0)
    return data, np.random.default_rng(6).poisson(np.exp(eta)).astype(float)


def binary(R: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Zeros and ones, random slopes."""
    data, eta = predictor(R, 7, 0.5)
    return data, np.random.default_rng(8).binomial(1, 1.0 / (1.0 + np.exp(-eta))).astype(float)


SLOPE, ITEMS, COUNTS = (
    "~ x + z1 + z2 + (x|g)",
    "~ x + z1 + z2 + (1|g) + (1|h)",
    "~ x + z1 + z2 + (1|g)",
)
TASKS = {
    "10,000 normal responses, random slope": Task(
        lambda: gaussian(10_000),
        lambda data, Y: lmm.lmer_batch(SLOPE, data, Y, progress=False),
        lambda data: lmm.lmer("y" + SLOPE, data),
        100,
        200,
    ),
    "10,000 normal responses, random slope, 5 % of the values missing": Task(
        lambda: gaussian(10_000, missing=0.05),
        lambda data, Y: lmm.lmer_batch(SLOPE, data, Y, progress=False),
        lambda data: lmm.lmer("y" + SLOPE, data),
        100,
        50,
    ),
    "1,000 normal responses, two crossed factors": Task(
        lambda: crossed(1_000),
        lambda data, Y: lmm.lmer_batch(ITEMS, data, Y, progress=False),
        lambda data: lmm.lmer("y" + ITEMS, data),
        100,
        100,
    ),
    "1,000 Poisson responses, random intercept": Task(
        lambda: poisson(1_000),
        lambda data, Y: lmm.glmer_batch(COUNTS, data, Y, family="poisson", progress=False),
        lambda data: lmm.glmer("y" + COUNTS, data, family="poisson"),
        40,
        20,
    ),
    "the same with standard errors": Task(
        lambda: poisson(1_000),
        lambda data, Y: lmm.glmer_batch(COUNTS, data, Y, family="poisson", progress=False).se,
        lambda data: lmm.glmer("y" + COUNTS, data, family="poisson").bse,
        40,
        20,
    ),
    "1,000 binary responses, random slope": Task(
        lambda: binary(1_000),
        lambda data, Y: lmm.glmer_batch(SLOPE, data, Y, family="binomial", progress=False),
        lambda data: lmm.glmer("y" + SLOPE, data, family="binomial"),
        20,
        10,
    ),
}


def run_one(name: str, repeat: int) -> None:
    """Time one task in this process and print its answer."""
    warnings.simplefilter("ignore")
    task = TASKS[name]
    data, Y = task.make()
    task.one(data.assign(y=Y[:, 0]))  # imports are not counted
    assert lmm.lmer_batch and lmm.glmer_batch
    times = []
    while len(times) <= repeat and sum(times) < 60.0:
        start = perf_counter()
        task.fit(data, Y)
        times.append(perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    frames = [data.assign(y=Y[:, r]) for r in range(task.here + 1)]
    task.one(frames[-1])
    start = perf_counter()
    for frame in frames[:-1]:
        task.one(frame)
    loop = (perf_counter() - start) / task.here * Y.shape[1]
    print(
        json.dumps(
            {
                "first": times[0],
                "warm": min(times[1:], default=times[0]),
                "loop": loop,
                "memory": memory,
            }
        )
    )


def run_r(script: Path, limit: float) -> dict[str, float]:
    """R's seconds by task, multiplied up; empty where there is no R or no lme4."""
    if shutil.which("Rscript") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        for i, task in enumerate(TASKS.values()):
            data, Y = task.make()
            columns = pd.DataFrame(
                Y[:, : task.there], columns=[f"y{r + 1}" for r in range(task.there)]
            )
            pd.concat([data, columns], axis=1).to_csv(
                Path(folder) / f"task{i + 1}.csv", index=False
            )
        pd.DataFrame({"name": list(TASKS)}).to_csv(Path(folder) / "tasks.csv", index=False)
        try:
            out = subprocess.run(
                ["Rscript", str(script), folder], capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return {}
    lines = [line.split("\t") for line in out.stdout.splitlines() if line.startswith("TASK\t")]
    return {
        name: float(seconds) / TASKS[name].there * TASKS[name].make()[1].shape[1]
        for _, name, seconds in lines
    }


def write(
    folder: Path,
    machine: dict[str, str],
    ours: dict[str, dict[str, float]],
    theirs: dict[str, float],
) -> None:
    """The table and what it was made of."""

    rows = [
        "# Many responses at once",
        "",
        "| 1,000 rows, 50 groups, four fixed effects | first call | warm | memory, GB | loop of lmm | loop of lme4 | times lme4 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in ours.items():
        other = theirs.get(name)
        times = "" if other is None else f"{other / own['warm']:.0f}"
        cells = [
            seconds(own["first"]),
            seconds(own["warm"]),
            f"{own['memory']:.2f}",
            seconds(own["loop"]),
            seconds(other),
            times,
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    described = sentence(machine)
    counted = ", ".join(f"{task.here} and {task.there}" for task in TASKS.values())
    rows += [
        "",
        f"Seconds for the whole call, from tables to estimates, imports not counted. {described}.",
    ]
    rows.append(
        f"Loops are of single fits to the first responses, multiplied up: {counted} of them, here and in lme4, in the order of the rows. "
        "lme4: refit() of a fit where no value is missing, else lmer(); glmer() with its defaults."
    )
    (folder / "batch.md").write_text("\n".join(rows) + "\n")
    (folder / "batch.json").write_text(
        json.dumps({"machine": machine, "lmm": ours, "R": theirs}, indent=1) + "\n"
    )


if __name__ == "__main__":
    command_line("batch", __doc__, TASKS, run_one, run_r, write)
