"""The fits that the tests of pictures share, each made once."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

import lmm
from lmm.results import Fit
from lmm.results.tables.profile_table import Profile


@cache
def sleep() -> Fit:
    """Intercepts and slopes of 18 subjects, by maximum likelihood."""
    return lmm.lmer(
        "Reaction ~ Days + (Days | Subject)", lmm.datasets.load("sleepstudy"), REML=False
    )


@cache
def profile() -> Profile:
    """Of the subjects' model, far enough for joint regions of 99 %."""
    return sleep().profile(level=0.9977)


@cache
def radon() -> Fit:
    """85 counties, more than are named on an axis."""
    return lmm.lmer("log_radon ~ floor + (1 | county)", lmm.datasets.load("radon"))


@cache
def herds() -> Fit:
    """Binomial, four periods, 15 herds."""
    return lmm.glmer(
        "cbind(incidence, size - incidence) ~ period + (1 | herd)",
        lmm.datasets.load("cbpp"),
        family="binomial",
    )


@cache
def ticks() -> Fit:
    """Counts with a long tail, three grouping factors."""
    data = lmm.datasets.load("grouseticks")
    data = data.assign(YEAR=data.YEAR.astype(str))
    return lmm.glmer(
        "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", data, family="poisson"
    )


@cache
def wine() -> Fit:
    """Ordered categories."""
    return lmm.glmer(
        "rating ~ temp + contact + (1 | judge)", lmm.datasets.load("wine"), family="ordinal"
    )


@cache
def machines() -> Fit:
    """Three correlated effects per level."""
    return lmm.lmer("score ~ Machine + (Machine | Worker)", lmm.datasets.load("Machines"))


def table(n: int = 240, levels: int = 20, seed: int = 3) -> pd.DataFrame:
    """A plain table: y, x, z, weights w, groups g and h."""
    rng = np.random.default_rng(seed)
    d = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "z": rng.normal(size=n),
            "g": rng.integers(0, levels, n),
            "h": rng.integers(0, 6, n),
        }
    )
    d["w"] = rng.uniform(0.5, 2.0, n)
    effects = 0.8 * rng.normal(size=(levels, 2))
    d["y"] = (
        1.0
        + 0.5 * d.x
        + effects[d.g, 0]
        + 0.4 * effects[d.g, 1] * d.x
        + rng.normal(size=n) / np.sqrt(d.w)
    )
    d["f"] = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    return d


def quiet(formula: str, data: Any, **options: Any) -> Fit:
    """A fit without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            lmm.glmer(formula, data, **options)
            if "family" in options
            else lmm.lmer(formula, data, **options)
        )
