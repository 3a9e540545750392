"""How often 95 % intervals of coefficients hold the truth where residuals vary or are correlated, in small designs: by simulation.

    python -m benchmarks.residual_coverage [--design NAME ...] [--datasets 2000]

Each data set is drawn from a known model, whose coefficients are zero, and fitted by REML. One minus the coverage is the type I
error of the test of the same name: normal quantiles, and t with Satterthwaite's and Kenward-Roger's degrees of freedom.
Written to benchmarks/results/residual_coverage.json after every design.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

import lmm
from benchmarks.machine import describe

RESULT = Path(__file__).parent / "results" / "residual_coverage.json"
SEED = 30_000
METHODS: dict[str, dict[str, str]] = {
    "normal": {},
    "satterthwaite": {"ddf": "satterthwaite"},
    "kenward_roger": {"ddf": "kenward_roger"},
}
TITLES = {
    "normal": "normal (z)",
    "satterthwaite": "t, Satterthwaite",
    "kenward_roger": "t, Kenward-Roger",
}


@dataclass(frozen=True)
class ResidualStudy:
    """A data frame without response, the model, what draws a response, and which coefficients are looked at.

    ``options`` are ``residual=`` or ``dispformula=`` of :func:`lmm.lmer`.
    """

    name: str
    formula: str
    frame: pd.DataFrame
    draw: Callable[[np.random.Generator], np.ndarray]
    coefficients: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)


def groups(J: int) -> ResidualStudy:
    """J groups of six rows, every other one treated; the standard deviation of residuals grows fourfold along the covariate."""
    g = np.repeat(np.arange(J), 6)
    x = np.tile(np.linspace(-1.0, 1.0, 6), J)
    frame = pd.DataFrame({"group": [f"g{i}" for i in g], "treated": g % 2.0, "x": x})

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=J)[g] + np.exp(np.log(2.0) * x) * rng.normal(size=len(x))

    wanted = {"treated": "treatment, between groups", "x": "covariate, within groups"}
    model = {"dispformula": "~ x"}
    return ResidualStudy(
        f"dispersion, {J} groups", "y ~ treated + x + (1 | group)", frame, draw, wanted, model
    )


def strata(J: int) -> ResidualStudy:
    """J subjects of four rows; residuals of the treated half have three times the standard deviation of the others'."""
    g = np.repeat(np.arange(J), 4)
    treated = g % 2.0
    frame = pd.DataFrame(
        {"group": [f"g{i}" for i in g], "treated": treated, "x": np.tile(np.arange(4.0), J)}
    )

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=J)[g] + 3.0**treated * rng.normal(size=len(g))

    wanted = {"treated": "treatment, between groups", "x": "covariate, within groups"}
    model = {"dispformula": "~ treated"}
    return ResidualStudy(
        f"variance by arm, {J} subjects",
        "y ~ treated + x + (1 | group)",
        frame,
        draw,
        wanted,
        model,
    )


def visits(J: int, word: str) -> ResidualStudy:
    """J subjects at four visits, one row in seven lost; correlation 0.6 between visits next to each other, growing variances in ``us``."""
    g = np.repeat(np.arange(J), 4)
    visit = np.tile(np.arange(4), J)
    frame = pd.DataFrame(
        {"id": g, "treated": g % 2.0, "visit": [f"v{v}" for v in visit], "time": visit * 1.0}
    )
    kept = np.random.default_rng(1).permutation(len(g)) >= len(g) // 7
    R = 0.6 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    if word == "us":
        sd = np.array([1.0, 1.2, 1.5, 2.0])
        R = R * np.outer(sd, sd)

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.multivariate_normal(np.zeros(4), R, size=J).ravel()[kept]

    wanted = {"treated": "treatment, between subjects", "treated:time": "its slope over time"}
    model = {"residual": f"{word}(visit | id)"}
    return ResidualStudy(
        f"{word}, {J} subjects",
        "y ~ treated * time",
        frame[kept].reset_index(drop=True),
        draw,
        wanted,
        model,
    )


def designs() -> list[ResidualStudy]:
    """All of them, small ones first."""
    out = [groups(J) for J in (5, 10)] + [strata(J) for J in (10, 20, 40)]
    return out + [visits(J, word) for word in ("ar1", "us") for J in (10, 20, 40)]


def simulate(study: ResidualStudy, datasets: int, seed: int = SEED) -> list[dict[str, object]]:
    """One record per coefficient and method: data sets, the share of intervals that held the zero, their width, fits that failed."""
    wanted = list(study.coefficients)
    limits: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    failed, first = 0, None
    for i in range(datasets):
        y = study.draw(np.random.default_rng([seed, i]))
        if first is None:
            first = lmm.lmer(study.formula, study.frame.assign(y=y), **study.options)
        fit = first.refit(y)
        if not fit.convergence.converged:
            failed += 1
            continue
        for name, options in METHODS.items():
            own = fit.confint("wald", parm=wanted, **options).loc[wanted].to_numpy()
            limits[name].append(own)
    records: list[dict[str, object]] = []
    for name, found in limits.items():
        ends = np.array(found)
        inside = (ends[..., 0] <= 0.0) & (ends[..., 1] >= 0.0)
        for j, column in enumerate(wanted):
            share = float(inside[:, j].mean())
            records.append(
                {
                    "design": study.name,
                    "column": column,
                    "coefficient": study.coefficients[column],
                    "method": name,
                    "datasets": len(ends),
                    "coverage": share,
                    "mc_error": float(np.sqrt(share * (1.0 - share) / len(ends))),
                    "mean_width": float(np.mean(ends[:, j, 1] - ends[:, j, 0])),
                    "failed": failed,
                }
            )
    return records


def main() -> None:
    """Simulate the designs asked for and keep what the others gave before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--design", nargs="*")
    parser.add_argument("--datasets", type=int, default=2000)
    asked = parser.parse_args()
    known = json.loads(RESULT.read_text())["records"] if RESULT.exists() else []
    for study in designs():
        if asked.design and study.name not in asked.design:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lmm.LmmWarning)
            records = simulate(study, asked.datasets)
        known = [own for own in known if own["design"] != study.name] + records
        RESULT.write_text(json.dumps({"machine": describe(), "records": known}, indent=1) + "\n")
        for own in records:
            print(own["design"], own["column"], own["method"], own["coverage"], own["failed"])


if __name__ == "__main__":
    main()
