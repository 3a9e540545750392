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
PYTHON = {"lmm": "lmm", "statsmodels": "statsmodels", "gpboost": "gpboost", "mixedlm": "mixedlm", "lme-python": "lme_python"}
R = ("lme4", "glmmTMB")
TOOLS = ("lmm", "lme4", "glmmTMB", "statsmodels", "gpboost", "mixedlm", "lme-python")


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
            "out": str(out),
            "started": time.time(),
            "repeat": settings.repeat,
            "budget": settings.budget,
        }
        job.write_text(json.dumps(record))
        failed = _run(command(tool, job, settings), settings.limit)
        answer = json.loads(out.read_text()) if out.exists() else {}
    return {"problem": problem.name, "tool": tool, "rows": manifest["rows"], "reml": problem.reml, **answer, "failed": failed}


def _run(line: list[str], limit: float) -> str:
    """Why the process did not end well, or nothing. It leads its own process group, so that nothing is left behind at the limit."""
    try:
        process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
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
    lines = [text for text in errors.splitlines() if text.strip()]
    return lines[-1][:160] if lines else f"exit {process.returncode}"


def shell(settings: Settings, repeat: int) -> dict[str, list[float]]:
    """Seconds from the shell to the printed summary of sleepstudy, in turn: the command ``lmm``, and R reading lme4's own copy."""
    formula = "Reaction ~ Days + (Days|Subject)"
    lines = {
        "lmm": [sys.executable, "-m", "lmm.cli", formula, "sleepstudy"],
        "lme4": [settings.rscript, "-e", f"suppressMessages(library(lme4)); print(summary(lmer({formula}, sleepstudy)))"],
    }
    seconds: dict[str, list[float]] = {tool: [] for tool in lines}
    for _ in range(repeat):
        for tool, line in lines.items():
            start = time.perf_counter()
            done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode == 0 and "Days" in done.stdout:
                seconds[tool].append(time.perf_counter() - start)
    return seconds
