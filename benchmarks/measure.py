"""Run one tool on one problem in a process of its own, under a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.problems import Problem

HERE = Path(__file__).parent
ROOT = HERE.parent

#: tool -> module of its runner; the two from R share a script
PYTHON = {
    "lmm": "lmm",
    "statsmodels": "statsmodels",
    "gpboost": "gpboost",
    "mixedlm": "mixedlm",
    "lme-python": "lme_python",
}
R = ("lme4", "glmmTMB")
TOOLS = ("lmm", "lme4", "glmmTMB", "statsmodels", "gpboost", "mixedlm", "lme-python")
#: those that fit generalized models from a formula by Laplace's method
GENERALIZED = ("lmm", "lme4", "glmmTMB")
#: model -> how it is fitted and printed from the shell by lmm and by R with its own copy of the data, and a word of the summary
SHELL = {
    "sleepstudy": (
        ["Reaction ~ Days + (Days|Subject)", "sleepstudy"],
        "lmer(Reaction ~ Days + (Days|Subject), sleepstudy)",
        "Days",
    ),
    "cbpp": (
        ["cbind(incidence, size - incidence) ~ period + (1|herd)", "cbpp", "--family", "binomial"],
        "glmer(cbind(incidence, size - incidence) ~ period + (1|herd), cbpp, family = binomial)",
        "period",
    ),
}


@dataclass(frozen=True)
class Settings:
    """How to run: seconds allowed, further fits and seconds for them, and the interpreter that has the other Python packages."""

    limit: float = 600.0
    repeat: int = 5
    budget: float = 30.0
    peers: str = sys.executable
    rscript: str = "Rscript"


def command(tool: str, job: Path, settings: Settings) -> list[str]:
    """The command line of a tool's runner."""
    if tool in R:
        return [settings.rscript, str(HERE / "runners" / "lmer.R"), str(job), tool]
    interpreter = sys.executable if tool == "lmm" else settings.peers
    return [interpreter, "-m", f"benchmarks.runners.{PYTHON[tool]}", str(job)]


def measure(problem: Problem, tool: str, data: Path, settings: Settings) -> dict[str, Any]:
    """The runner's answer, with ``problem``, ``tool`` and, where it did not finish, ``failed``."""
    manifest = json.loads((data / "manifest.json").read_text())["data"][problem.data]
    with tempfile.TemporaryDirectory() as scratch:
        job, out = Path(scratch) / "job.json", Path(scratch) / "answer.json"
        record = {
            "name": problem.name,
            "formula": problem.formula,
            "parquet": str(data / f"{problem.data}.parquet"),
            "csv": str(data / f"{problem.data}.csv"),
            "levels": manifest["levels"],
            "reml": problem.reml,
            "weights": problem.weights,
            "family": problem.family,
            "out": str(out),
            "started": time.time(),
            "repeat": settings.repeat,
            "budget": settings.budget,
        }
        job.write_text(json.dumps(record))
        failed = _run(command(tool, job, settings), settings.limit)
        answer = json.loads(out.read_text()) if out.exists() else {}
    about = {
        "problem": problem.name,
        "tool": tool,
        "rows": manifest["rows"],
        "reml": problem.reml and problem.family is None,
    }
    return {**about, **answer, "failed": failed}


def _run(line: list[str], limit: float) -> str:
    """Why the process did not end well, or nothing. It leads its own process group, so that nothing is left behind at the limit."""
    try:
        process = subprocess.Popen(
            line,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except FileNotFoundError:
        return f"{line[0]} is not installed"
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"stopped at {limit:g} s"
    if process.returncode == 0:
        return ""
    if process.returncode == -signal.SIGKILL:
        return "killed (out of memory?)"
    lines = [
        text for text in errors.splitlines() if text.strip() and text != "Execution halted"
    ]  # R says why before it
    return lines[-1][:160] if lines else f"exit {process.returncode}"


def shell(settings: Settings, repeat: int) -> dict[str, dict[str, list[float]]]:
    """Seconds from the shell to the printed summary per model of ``SHELL``: the command ``lmm`` and R in turn."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for model, (ours, theirs, word) in SHELL.items():
        lines = {
            "lmm": [sys.executable, "-m", "lmm.cli", *ours],
            "lme4": [
                settings.rscript,
                "-e",
                f"suppressMessages(library(lme4)); print(summary({theirs}))",
            ],
        }
        own = seconds[model] = {tool: [] for tool in lines}
        for _ in range(repeat):
            for tool, line in lines.items():
                own[tool] += _timed(line, word)
    return seconds


def _timed(line: list[str], word: str) -> list[float]:
    """The seconds that a command took if it ended well and printed the word, else nothing."""
    start = time.perf_counter()
    try:
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [time.perf_counter() - start] if done.returncode == 0 and word in done.stdout else []
