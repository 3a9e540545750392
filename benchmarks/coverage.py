"""How often 95 % intervals of coefficients hold the truth in small unbalanced designs: by simulation.

    python -m benchmarks.coverage [--design NAME ...] [--datasets 2000] [--bootstraps 1000] [--nsim 999]

Each data set is drawn from a known model and fitted by REML. The intervals: Wald with normal quantiles, t with Satterthwaite's
and with Kenward-Roger's degrees of freedom, profile likelihood, and of the parametric bootstrap percentiles, BCa and studentized
ones; bootstraps for the first data sets alone. Written to benchmarks/results/coverage.json and coverage.md after every design.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import lmm
from benchmarks.machine import describe

RESULTS = Path(__file__).parent / "results"
LEVEL, SEED = 0.95, 20_000
ANALYTIC = {"wald": {"method": "wald"}} | {
    "satterthwaite": {"method": "wald", "ddf": "satterthwaite"},
    "kenward_roger": {"method": "wald", "ddf": "kenward_roger"},
    "profile": {"method": "profile"},
}
BOOTSTRAP = ("percentile", "bca", "studentized")
TITLES = {
    "wald": "Wald, normal",
    "satterthwaite": "t, Satterthwaite",
    "kenward_roger": "t, Kenward-Roger",
    "profile": "profile likelihood",
    "percentile": "bootstrap, percentile",
    "bca": "bootstrap, BCa",
    "studentized": "bootstrap, studentized",
}


@dataclass(frozen=True)
class DesignOfStudy:
    """A data frame without response, the model, the truth and which coefficients are looked at.

    ``factors`` are T (k, k) of each random term, covariance T T'; all coefficients are zero and sigma is one.
    """

    name: str
    text: str
    formula: str
    frame: pd.DataFrame
    factors: tuple[np.ndarray, ...]
    coefficients: dict[str, str]

    def responses(self) -> Callable[[np.random.Generator], np.ndarray]:
        """What draws a response."""
        y = np.random.default_rng(0).normal(size=len(self.frame))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lmm.LmmWarning)
            terms = lmm.lmer(self.formula, self.frame.assign(y=y)).design.terms

        def draw(rng: np.random.Generator) -> np.ndarray:
            y = rng.normal(size=len(self.frame))
            for term, T in zip(terms, self.factors, strict=True):
                b = rng.normal(size=(term.J, term.k)) @ T.T
                y += np.sum(term.values * b[term.codes], axis=1)
            return y

        return draw


def random_intercept() -> DesignOfStudy:
    """Seven groups of 2 to 14 rows, three of them treated."""
    sizes = (2, 3, 3, 4, 6, 8, 14)
    group = np.repeat(np.arange(7), sizes)
    x = np.concatenate([np.linspace(-1, 1, size) + 0.1 * i for i, size in enumerate(sizes)])
    frame = pd.DataFrame(
        {
            "group": [f"g{i}" for i in group],
            "treated": np.isin(group, (0, 3, 5)).astype(float),
            "x": x,
        }
    )
    text = "7 groups of 2, 3, 3, 4, 6, 8 and 14 rows, three of them treated; sd of groups 2"
    wanted = {"treated": "treatment, between groups", "x": "covariate, within groups"}
    return DesignOfStudy(
        "random intercept", text, "y ~ treated + x + (1|group)", frame, (2.0 * np.eye(1),), wanted
    )


def random_slope() -> DesignOfStudy:
    """Eight subjects seen 3 to 10 times, at the beginning or all along."""
    visits = (3, 3, 4, 5, 6, 8, 10, 10)
    subject = np.repeat(np.arange(8), visits)
    frame = pd.DataFrame(
        {
            "subject": [f"s{i}" for i in subject],
            "time": np.concatenate([np.arange(v) / 2.0 for v in visits]),
        }
    )
    text = "8 subjects with 3, 3, 4, 5, 6, 8, 10 and 10 visits, 0.5 apart; sds of intercepts 2 and of slopes 1.5, correlation 0.3"
    T = np.array([[2.0, 0.0], [1.5 * 0.3, 1.5 * np.sqrt(1 - 0.09)]])
    return DesignOfStudy(
        "random slope", text, "y ~ time + (time|subject)", frame, (T,), {"time": "slope over time"}
    )


def split_plot() -> DesignOfStudy:
    """Four blocks of two whole plots of three subplots, five of the 24 lost."""
    frame = pd.DataFrame(
        [(f"b{b}", f"v{v}", n) for b in range(4) for v in range(2) for n in range(3)],
        columns=["block", "variety", "dose"],
    )
    frame = frame.drop(index=[1, 6, 8, 15, 22]).reset_index(drop=True)
    text = "4 blocks x 2 varieties on whole plots x 3 doses on subplots, 5 of the 24 lost; sds of blocks 2 and of whole plots 2"
    wanted = {"variety[T.v1]": "variety, between whole plots", "dose": "dose, within whole plots"}
    return DesignOfStudy(
        "split plot",
        text,
        "y ~ variety + dose + (1|block/variety)",
        frame,
        (2.0 * np.eye(1), 2.0 * np.eye(1)),
        wanted,
    )


DESIGNS = (random_intercept, random_slope, split_plot)


def simulate(
    study: DesignOfStudy, datasets: int, bootstraps: int, nsim: int, seed: int = SEED
) -> list[dict[str, object]]:
    """One record per coefficient and method: data sets, the share of intervals that held the zero, their mean width, failures.

    ``datasets`` for the analytic intervals, ``bootstraps`` for the others; methods with none have no record.
    """
    draw, columns = study.responses(), list(study.coefficients)
    limits: dict[str, list[np.ndarray]] = {name: [] for name in (*ANALYTIC, *BOOTSTRAP)}
    seconds = dict.fromkeys(limits, 0.0)
    first = None
    for i in range(max(datasets, bootstraps)):
        rng = np.random.default_rng([seed, i])
        y = draw(rng)
        first = lmm.lmer(study.formula, study.frame.assign(y=y)) if first is None else first
        fit = first.refit(y)
        for name, options in ANALYTIC.items() if i < datasets else ():
            start = time.perf_counter()
            limits[name].append(
                _limits(
                    lambda fit=fit, options=options: fit.confint(
                        level=LEVEL, parm=columns, **options
                    ),
                    columns,
                )
            )
            seconds[name] += time.perf_counter() - start
        if i < bootstraps:
            start = time.perf_counter()
            replicates = fit.bootstrap(nsim, rng=rng, progress=False)
            spent = time.perf_counter() - start
            for kind in BOOTSTRAP:
                start = time.perf_counter()
                limits[kind].append(
                    _limits(lambda r=replicates, kind=kind: r.confint(LEVEL, kind), columns)
                )
                seconds[kind] += time.perf_counter() - start + spent
    out: list[dict[str, object]] = []
    for j, column in enumerate(columns):
        for name, found in limits.items():
            if not found:
                continue
            own = np.array([table[j] for table in found]).reshape(-1, 2)
            known = np.isfinite(own).all(axis=1)
            held = (own[known, 0] <= 0.0) & (own[known, 1] >= 0.0)
            n = int(known.sum())
            share = float(held.mean()) if n else float("nan")
            record = {
                "design": study.name,
                "coefficient": study.coefficients[column],
                "column": column,
                "method": name,
                "datasets": n,
            }
            record |= {
                "coverage": share,
                "mc_error": float(np.sqrt(share * (1 - share) / max(n, 1))),
                "failures": int((~known).sum()),
            }
            record |= {
                "mean_width": float(np.mean(np.ptp(own[known], axis=1))),
                "milliseconds": 1e3 * seconds[name] / max(len(found), 1),
            }
            out.append(record)
    return out


def _limits(interval: Callable[[], pd.DataFrame], columns: list[str]) -> np.ndarray:
    """(coefficients, 2); missing where the method gave up."""
    try:
        return interval().loc[columns, ["lower", "upper"]].to_numpy()
    except (lmm.LmmError, np.linalg.LinAlgError):
        return np.full((len(columns), 2), np.nan)


def table(records: list[dict[str, object]]) -> pd.DataFrame:
    """Coverage in per cent with its Monte Carlo error: methods down, coefficients across."""
    frame = pd.DataFrame(records)
    frame["cell"] = [
        f"{100 * c:.1f} ± {100 * e:.1f}"
        for c, e in zip(frame.coverage, frame.mc_error, strict=True)
    ]
    frame["column"] = frame.design + ": " + frame.coefficient
    wide = frame.pivot(index="method", columns="column", values="cell")
    wide = wide.loc[[m for m in TITLES if m in wide.index], list(dict.fromkeys(frame.column))]
    return wide.rename(index=TITLES).rename_axis(index=None, columns=None)


def write(about: dict[str, object], study: DesignOfStudy, new: list[dict[str, object]]) -> None:
    """The JSON, and the table as text; other designs and methods stay as they are in the file."""
    file = RESULTS / "coverage.json"
    old = json.loads(file.read_text()) if file.exists() else {"designs": {}, "records": []}
    order = [make().name for make in DESIGNS]
    done = {(r["design"], r["method"]) for r in new}
    kept = [r for r in old["records"] if (r["design"], r["method"]) not in done]
    place = {name: i for i, name in enumerate(TITLES)}
    records = sorted(
        [*kept, *new], key=lambda r: (order.index(r["design"]), r["column"], place[r["method"]])
    )
    designs = {**old["designs"], study.name: {"text": study.text, "formula": study.formula}}
    designs = {name: designs[name] for name in order if name in designs}
    file.write_text(json.dumps({**about, "designs": designs, "records": records}, indent=1) + "\n")
    wide = table(records)
    lines = ["| |" + "|".join(wide.columns) + "|", "|" + "---|" * (len(wide.columns) + 1)]
    lines += [
        "|" + "|".join([str(name), *row]) + "|"
        for name, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    head = [
        f"Coverage of {LEVEL:.0%} intervals in per cent, plus or minus one Monte Carlo standard error.",
        "",
    ]
    machine: dict[str, str] = about["machine"]  # type: ignore[assignment]
    foot = ["", *(f"- {key}: {value}" for key, value in machine.items())]
    (RESULTS / "coverage.md").write_text("\n".join([*head, *lines, *foot]) + "\n")


def main() -> None:
    """Run the designs and write what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--design", action="append", help="part of a design's name; several times for several"
    )
    parser.add_argument(
        "--datasets",
        type=int,
        default=2000,
        help="for the analytic intervals; 0 leaves them as they are",
    )
    parser.add_argument(
        "--bootstraps",
        type=int,
        default=1000,
        help="for those of the bootstrap; 0 leaves them as they are",
    )
    parser.add_argument("--nsim", type=int, default=999)
    options = parser.parse_args()
    warnings.simplefilter("ignore", lmm.LmmWarning)
    about = {"machine": describe(), "level": LEVEL, "nsim": options.nsim, "seed": SEED}
    for make in DESIGNS:
        study = make()
        if options.design and not any(part in study.name for part in options.design):
            continue
        start = time.perf_counter()
        new = simulate(study, options.datasets, options.bootstraps, options.nsim)
        write(about, study, new)
        print(f"{study.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
