"""Reference numbers from lme4, by problem, on our scale and under one spelling of names.

    problem, data, arguments, r = load_case("sleep_reml")
    fit = lmm.lmer(problem.formula, data, **arguments)
    fit.llf, r.llf

The numbers are in ``tests/reference/lme4``; ``tests/reference/make_reference.R`` made them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.export import fingerprint
from benchmarks.problems import PROBLEMS, REFERENCE, Basis, Problem, frame

FOLDER = Path(__file__).parent / "reference" / "lme4"


def plain(name: str) -> str:
    """One spelling of a coefficient or group name: R's "recipeB:temperature185" and formulaic's "recipe[T.B]:temperature[T.185]".

    The innermost factor of a/b/c is "c:(b:a)" in lme4: the brackets go.
    """
    name = name.replace("(Intercept)", "Intercept").replace("**", "^")
    name = re.sub(r":\(([^()]*)\)", r":\1", name)
    return re.sub(r"\[(?:T\.)?([^\]]*)\]", r"\1", name).replace(" ", "").replace("`", "")


@dataclass(frozen=True)
class Modes:
    """Conditional modes and standard deviations of the first levels of one column of one group."""

    levels: tuple[str, ...]
    mode: np.ndarray
    sd: np.ndarray
    n: int
    sum_sq: float


@dataclass(frozen=True)
class AtTheta:
    """lme4's ML deviance and REML criterion at one theta, by plain theta name."""

    theta: dict[str, float]
    ml: float
    reml: float


@dataclass(frozen=True)
class Numbers:
    """A fit by lme4, names plain, fixed effects in the columns of our formula."""

    nobs: int
    npar: int
    criterion: float
    aic: float
    bic: float
    singular: bool
    sigma: float
    theta: dict[str, float]
    fixef: pd.Series
    se: pd.Series
    vcov: pd.DataFrame | None
    dropped: tuple[str, ...]
    varcorr: dict[tuple[str, str, str], tuple[float, float]]
    ranef: dict[tuple[str, str], Modes]
    fitted_sum_sq: float
    at: tuple[AtTheta, ...]

    @property
    def llf(self) -> float:
        """Log-likelihood as lme4's logLik reports it."""
        return -self.criterion / 2


def all_cases() -> list[str]:
    """Names of the problems that have numbers from R."""
    return [p.name for p in REFERENCE]


@cache
def numbers(name: str) -> Numbers:
    """R's numbers for a problem."""
    raw = json.loads((FOLDER / f"{name}.json").read_text())
    problem = PROBLEMS[name]
    _same_rows(problem, raw["fingerprint"])
    shift_reml = 0.0  # the ML deviance knows no basis
    beta, se = pd.Series(raw["fixef"], dtype=float), pd.Series(raw["se"], dtype=float)
    vcov = (
        None
        if raw["vcov"] is None or raw["vcov"] == {}
        else pd.DataFrame(np.atleast_2d(raw["vcov"]), beta.index, beta.index)
    )
    if problem.basis is not None:
        beta, vcov = _other_basis(problem.basis, beta, vcov)
        se = pd.Series(np.sqrt(np.diag(vcov)), vcov.index)
        shift_reml = 2 * float(np.log(abs(np.linalg.det(problem.basis.matrix()))))
    shift = shift_reml if problem.reml else 0.0
    names = [plain(t) for t in raw["theta"]]
    at = tuple(
        AtTheta(dict(zip(names, a["theta"], strict=True)), a["ml"], a["reml"] + shift_reml)
        for a in raw["at"]
    )
    for item in (beta, se):
        item.index = [plain(k) for k in item.index]
    if vcov is not None:
        vcov.index = vcov.columns = beta.index
    # a term split in two is "subj" and "subj.1" in lme4's VarCorr: the number goes
    rows = [
        (re.sub(r"\.\d+$", "", plain(g)), plain(a or ""), plain(b or ""), v, s)
        for g, a, b, v, s in raw["varcorr"]
        if s is not None
    ]
    heads = {
        (plain(g), plain(c)): m for g, columns in raw["ranef"].items() for c, m in columns.items()
    }
    return Numbers(
        nobs=raw["nobs"],
        npar=raw["npar"],
        criterion=raw["criterion"] + shift,
        aic=raw["aic"] + shift,
        bic=raw["bic"] + shift,
        singular=raw["singular"],
        sigma=raw["sigma"],
        theta={plain(k): v for k, v in raw["theta"].items()},
        fixef=beta,
        se=se,
        vcov=vcov,
        dropped=tuple(plain(d) for d in raw["dropped"]),
        varcorr={(g, a, b): (v, s) for g, a, b, v, s in rows},
        ranef={
            k: Modes(
                tuple(m["levels"]),
                np.array(m["mode"]),
                np.array(m["sd"], float),
                m["n"],
                m["sum_sq"],
            )
            for k, m in heads.items()
        },
        fitted_sum_sq=raw["fitted_sum_sq"],
        at=at,
    )


def load_case(name: str) -> tuple[Problem, pd.DataFrame, dict[str, Any], Numbers]:
    """A problem, its data, keyword arguments for ``lmm.lmer``, and R's numbers."""
    problem = PROBLEMS[name]
    arguments: dict[str, Any] = {"REML": problem.reml}
    if problem.weights:
        arguments["weights"] = problem.weights
    if problem.offset:
        arguments["offset"] = problem.offset
    return problem, frame(problem.data), arguments, numbers(name)


def _same_rows(problem: Problem, stored: dict[str, float]) -> None:
    """Stop before comparing fits of different data."""
    here = fingerprint(frame(problem.data))
    for column, value in stored.items():
        if not np.isclose(here[column], value, rtol=1e-9, atol=1e-9):
            raise AssertionError(
                f"data set {problem.data!r}: column {column!r} is not what R was given; run make_reference.R again."
            )


def _other_basis(
    basis: Basis, beta: pd.Series, vcov: pd.DataFrame | None
) -> tuple[pd.Series, pd.DataFrame]:
    """R's coefficients and covariance in our columns."""
    assert vcov is not None, "a problem in another basis stores its vcov"
    inverse = np.linalg.inv(basis.matrix())
    names, ours = list(basis.names), list(basis.ours)
    moved = inverse @ vcov.loc[names, names].to_numpy() @ inverse.T
    return pd.Series(inverse @ beta[names].to_numpy(), ours), pd.DataFrame(moved, ours, ours)
