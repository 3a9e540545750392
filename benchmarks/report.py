"""The table of a run, in Markdown. Every figure comes from a runner's answer."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.problems import PROBLEMS

HEAD = "| tool | cold, s | first, s | warm, s | lme4's warm / this | evaluations | peak MB | log-likelihood | note |"
RULE = "|---|---:|---:|---:|---:|---:|---:|---:|---|"
LEGEND = (
    "Cold: from the start of a process to the first fitted object, imports included, reading the data left out.",
    "First: the first fit in that process, from formula to fitted object. Warm: median of further fits.",
    "Peak memory is the whole process with its data. Log-likelihoods of REML and ML fits are not comparable.",
)


def seconds(value: float | None) -> str:
    """Three significant digits, at least milliseconds."""
    if value is None:
        return ""
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def warm(answer: dict[str, Any]) -> float | None:
    """Median of the fits after the first."""
    times = answer.get("warm") or []
    return median(times) if times else None


def row(answer: dict[str, Any], lme4: float | None) -> str:
    """One tool on one problem."""
    own = warm(answer)
    times = lme4 / own if lme4 and own and answer["tool"] != "lme4" else None
    ratio = "" if times is None else f"{times:.1f}" if times < 10 else f"{times:.0f}"
    loglik, memory, count = answer.get("loglik"), answer.get("memory"), answer.get("evaluations")
    unable = f"cannot fit it: {answer['cannot']}" if answer.get("cannot") else ""
    note = "; ".join(text for text in (unable, answer.get("failed"), answer.get("note")) if text)
    cells = [answer["tool"], seconds(answer.get("cold")), seconds(answer.get("first")), seconds(own), ratio,
             "" if count is None else str(count), "" if memory is None else f"{memory:.0f}",
             "" if loglik is None else f"{loglik:.4f}", note]  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def table(
    machine: dict[str, str], answers: list[dict[str, Any]], shell: dict[str, dict[str, list[float]]]
) -> str:
    """The whole report."""
    lines = ["# Benchmarks", "", "Made by `make bench`; nothing in it is typed by hand.", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    versions = {a["tool"]: a["version"] for a in answers if a.get("version")}
    lines += [f"- {tool}: {version}" for tool, version in versions.items()]
    lines += ["", *LEGEND]
    for model, times in shell.items():
        if not any(times.values()):
            continue
        lines += ["", f"## From the shell to the printed {model} summary", ""]
        lines += ["| tool | s, median | s, least | runs |", "|---|---:|---:|---:|"]
        lines += [
            f"| {tool} | {median(t):.3f} | {min(t):.3f} | {len(t)} |"
            for tool, t in times.items()
            if t
        ]
    for name in dict.fromkeys(a["problem"] for a in answers):
        problem = PROBLEMS[name]
        own = [a for a in answers if a["problem"] == name]
        lme4 = next((warm(a) for a in own if a["tool"] == "lme4"), None)
        about = f": {problem.about}" if problem.about else ""
        criterion = (
            f"{problem.family}, Laplace" if problem.family else "REML" if problem.reml else "ML"
        )
        lines += [
            "",
            f"## {name}{about}",
            "",
            f"`{problem.formula}`, {criterion}, {own[0]['rows']:,} rows",
            "",
            HEAD,
            RULE,
        ]
        lines += [row(a, lme4) for a in own]
    return "\n".join(lines) + "\n"
