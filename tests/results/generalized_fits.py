"""Generalized fits that these tests share, each made once."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

import lmm
from lmm.results import Fit

CBPP = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


@cache
def cbpp(nAGQ: int = 1, link: str = "logit") -> Fit:
    """Incidence of pleuropneumonia by period and herd."""
    return lmm.glmer(CBPP, lmm.datasets.load("cbpp"), family=lmm.families.Binomial(link), nAGQ=nAGQ)


@cache
def ticks() -> Fit:
    """Negative binomial counts, two crossed factors."""
    data = lmm.datasets.load("grouseticks")
    data = data.assign(YEAR=data.YEAR.astype(str))
    return lmm.glmer(
        "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", data, family="negative_binomial"
    )


@cache
def reaction() -> Fit:
    """Gamma reaction times, log link, correlated slopes, in units of 100 ms."""
    data = lmm.datasets.load("sleepstudy")
    return lmm.glmer(
        "Rt ~ Days + (Days | Subject)",
        data.assign(Rt=data.Reaction / 100),
        family=lmm.families.Gamma("log"),
    )


@cache
def counts() -> tuple[Fit, pd.DataFrame]:
    """Poisson counts with slopes, two crossed factors and an offset: 400 simulated rows."""
    rng = np.random.default_rng(11)
    n = 400
    data = pd.DataFrame(
        {"x": rng.normal(size=n), "g": rng.integers(0, 20, n), "h": rng.integers(0, 9, n)}
    )
    data["time"] = rng.uniform(0.5, 3.0, n)
    b, c = 0.5 * rng.normal(size=(20, 2)), 0.4 * rng.normal(size=9)
    eta = 0.4 + 0.3 * data.x + b[data.g, 0] + b[data.g, 1] * data.x + c[data.h] + np.log(data.time)
    data["y"] = rng.poisson(np.exp(eta))
    return lmm.glmer("y ~ x + offset(log(time)) + (x | g) + (1 | h)", data, family="poisson"), data
