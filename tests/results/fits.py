"""The fits that these tests share, made once, and lme4's record of the same."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lmm
from lmm.results import Fit

PRINTED = json.loads((Path(__file__).parents[1] / "reference" / "printed.json").read_text())

#: formula, data, REML: the cases of make_printed.R
CASES = {
    "sleep": ("Reaction ~ Days + (Days | Subject)", "sleepstudy", True),
    "sleep_ml": ("Reaction ~ Days + (Days | Subject)", "sleepstudy", False),
    "sleep_intercept": ("Reaction ~ Days + (1 | Subject)", "sleepstudy", True),
    "sleep_gap": ("Reaction ~ Days + (1 | Subject)", "sleepgap", True),
    "machines": ("score ~ Machine + (Machine | Worker)", "Machines", True),
    "penicillin": ("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin", True),
    "pastes_ml": ("strength ~ 1 + (1 | batch / cask)", "Pastes", False),
    "dyestuff2": ("Yield ~ 1 + (1 | Batch)", "Dyestuff2", True),
    "cake": ("angle ~ recipe * temperature + (1 | recipe:replicate)", "cake", True),
    "insteval": ("y ~ service + (1 | s) + (1 | d) + (1 | dept)", "InstEval", True),
}


@cache
def frame(name: str) -> pd.DataFrame:
    """A shipped data set; ``sleepgap`` is sleepstudy without two responses."""
    if name != "sleepgap":
        return lmm.datasets.load(name)
    data = lmm.datasets.load("sleepstudy").astype({"Reaction": float})
    data.loc[[2, 49], "Reaction"] = np.nan
    return data


@cache
def fit(case: str) -> Fit:
    """Our own fit of a case."""
    formula, data, reml = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        return lmm.lmer(formula, frame(data), REML=reml)


@cache
def at_reference(case: str) -> Fit:
    """A case evaluated at lme4's theta, so that printed figures do not hang on the last digit of an optimum."""
    formula, data, reml = CASES[case]
    theta = np.array(list(PRINTED["fits"][case]["theta"].values()), dtype=float)
    return lmm.lmer(
        formula, frame(data), REML=reml, start=theta, control=lmm.Control(evaluate_only=True)
    )


def r_name(name: str) -> str:
    """A coefficient's name as R spells it."""
    return (
        name.replace("Intercept", "(Intercept)")
        .replace("((", "(")
        .replace("))", ")")
        .replace("[T.", "")
        .replace("]", "")
    )


def record(case: str) -> dict[str, Any]:
    """lme4's figures for a case."""
    return PRINTED["fits"][case]
