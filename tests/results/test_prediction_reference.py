"""Predictions and their standard errors against R: lme4's predict(), and Henderson's equations inverted whole."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm

REFERENCE = Path(__file__).parents[1] / "reference"
RECORD = json.loads((REFERENCE / "prediction.json").read_text())
#: the models of make_prediction.R: formula, data, arguments, and the re_form of "some"
MODELS = {
    "sleep": ("Reaction ~ Days + (Days | Subject)", "sleepstudy", {}, "~ (1|Subject)"),
    "weighted": (
        "Reaction ~ Days + (Days | Subject)",
        "sleepstudy",
        {"weights": [1.0, 2.0, 0.5, 1.5] * 45},
        None,
    ),
    "pastes": ("strength ~ 1 + (1 | batch/cask)", "Pastes", {}, "~ (1|batch)"),
    "cbpp": (
        "cbind(incidence, size - incidence) ~ period + (1 | herd)",
        "cbpp",
        {"family": "binomial"},
        None,
    ),
    "counts": ("count ~ a * b + x + (1 | g)", "unbalanced", {"family": "poisson"}, None),
}


@cache
def fit(name: str) -> lmm.Fit:
    formula, data, arguments, _ = MODELS[name]
    table = (
        pd.read_csv(REFERENCE / "unbalanced.csv")
        if data == "unbalanced"
        else lmm.datasets.load(data)
    )
    return (lmm.glmer if "family" in arguments else lmm.lmer)(formula, table, **arguments)


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_r(name):
    record, one = RECORD[name], fit(name)
    new = pd.DataFrame(record["newdata"])
    rtol = 1e-6 if one.family is None else 1e-5  # lme4 stops about so far from the optimum
    whole = one.predict(new, allow_new_levels=True, type="link", se_fit=True)
    population = one.predict(new, re_form=False, type="link", se_fit=True)
    np.testing.assert_allclose(whole["fit"], record["link"], rtol=rtol)
    np.testing.assert_allclose(whole["se"], record["se"], rtol=rtol)
    np.testing.assert_allclose(population["fit"], record["population"], rtol=rtol)
    # lme4's covariance of a generalized fit comes from finite differences
    np.testing.assert_allclose(
        population["se"], record["population_se"], rtol=1e-6 if one.family is None else 1e-4
    )
    if "some" in record:
        some = one.predict(new, re_form=MODELS[name][3], allow_new_levels=True)
        np.testing.assert_allclose(some, record["some"], rtol=rtol)
    if "response" in record:
        np.testing.assert_allclose(
            one.predict(new, allow_new_levels=True), record["response"], rtol=rtol
        )
