"""What a runner is handed and what it gives back.

A job is a JSON file: the problem, paths of its data and when the process was started. The
answer is a JSON file that is written after the first fit and again after the last, so that a
process stopped at its time limit still tells what it managed.

- ``cold``: seconds from the start of the process to the first fitted object, reading the data left out.
- ``first``: seconds of the first fit, formula to fitted object. ``warm``: seconds of each further fit.
- ``memory``: peak resident memory of the process in MB, data included.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


class CannotFit(Exception):
    """The tool has no way to fit this model; the message says what is missing."""


@dataclass(frozen=True)
class Job:
    """One problem for one tool."""

    name: str
    formula: str
    parquet: str
    csv: str
    levels: dict[str, list[str]]
    reml: bool
    weights: str | None
    out: str
    started: float
    repeat: int
    budget: float
    family: str | None = None


@dataclass(frozen=True)
class Fitted:
    """What a tool says of its fit."""

    loglik: float
    evaluations: int | None
    note: str = ""


@dataclass
class Answer:
    """The answer's fields, see the module."""

    cold: float | None = None
    first: float | None = None
    warm: list[float] = field(default_factory=list)
    evaluations: int | None = None
    loglik: float | None = None
    memory: float | None = None
    read: float | None = None
    note: str = ""
    cannot: str = ""
    version: str = ""


def split_formula(formula: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Response, fixed part and (columns, group) of each random term of a plain formula.

    >>> split_formula("y ~ x + (1+x|g) + (1|h)")
    ('y', 'x', [('1+x', 'g'), ('1', 'h')])
    """
    response, right = (side.strip() for side in formula.split("~", 1))
    bar = r"\(([^|()]+)\|([^|()]+)\)"
    terms = [(columns.strip(), group.strip()) for columns, group in re.findall(bar, right)]
    fixed = re.sub(r"\s*\+\s*$", "", re.sub(rf"\+?\s*{bar}", "", right).strip())
    return response, fixed or "1", terms


def peak_memory() -> float:
    """Peak resident memory in MB of this process since it was executed.

    ``ru_maxrss`` would count the parent's memory at the fork; Linux's VmHWM starts anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found.group(1)) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def run(fit: Callable[[Job, pd.DataFrame], Fitted], version: str) -> None:
    """Time ``fit`` on the job named on the command line; the tool is already imported, so that its import is in ``cold``."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    answer = Answer(version=version)
    start = time.perf_counter()
    data = pd.read_parquet(job.parquet)
    answer.read = time.perf_counter() - start
    try:
        _time(fit, job, data, answer)
    except CannotFit as reason:
        answer.cannot = str(reason)
    _write(job, answer)


def _time(
    fit: Callable[[Job, pd.DataFrame], Fitted], job: Job, data: pd.DataFrame, answer: Answer
) -> None:
    """First fit, then further ones until ``repeat`` of them or ``budget`` seconds."""
    start = time.perf_counter()
    fitted = fit(job, data)
    answer.first = time.perf_counter() - start
    answer.cold = time.time() - job.started - (answer.read or 0.0)
    answer.loglik, answer.evaluations, answer.note = fitted.loglik, fitted.evaluations, fitted.note
    answer.memory = peak_memory()
    _write(job, answer)
    begin = time.perf_counter()
    while len(answer.warm) < job.repeat and (
        not answer.warm or time.perf_counter() - begin < job.budget
    ):
        start = time.perf_counter()
        fit(job, data)
        answer.warm.append(time.perf_counter() - start)
    answer.memory = peak_memory()


def _write(job: Job, answer: Answer) -> None:
    record: dict[str, Any] = asdict(answer)
    Path(job.out).write_text(json.dumps(record))
