"""Every setting of every estimator is checked when one is made, and NumPy's numbers are numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lmm
from lmm.errors import ArgumentError

KINDS = [
    lmm.ExpectationMaximization,
    lmm.LaplaceLikelihood,
    lmm.MacKay,
    lmm.MaximumLikelihood,
    lmm.MonteCarloEM,
    lmm.NUTS,
    lmm.PenalizedQuasiLikelihood,
    lmm.VariationalBayes,
]
#: checked against the model, which knows the groups
LATER = {"start_variances"}
#: what no setting takes
WRONG = [object(), 1j, -3, float("nan"), np.ones((2, 2)), {1, 2}, "no such word"]
PAIRS = [
    (kind, field.name)
    for kind in KINDS
    for field in dataclasses.fields(kind)
    if field.name not in LATER
]


@pytest.mark.parametrize(
    ("kind", "name"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.__name__
)
def test_a_setting_that_no_fit_can_use_is_refused_by_name(kind, name):
    for value in WRONG:
        with pytest.raises(ArgumentError, match=name):
            kind(**{name: value})


@pytest.mark.parametrize("kind", KINDS, ids=lambda v: v.__name__)
def test_numbers_of_numpy_are_taken(kind):
    for field in dataclasses.fields(kind):
        default = getattr(kind(), field.name)
        if type(default) is int:
            assert getattr(kind(**{field.name: np.int32(default)}), field.name) == default
        if type(default) is float:
            assert getattr(kind(**{field.name: np.float32(default)}), field.name) == pytest.approx(
                default, rel=1e-6
            )
        if type(default) is bool:
            assert getattr(kind(**{field.name: np.bool_(default)}), field.name) is default


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (lmm.VariationalBayes, "steps", 1.5),
        (lmm.VariationalBayes, "points", "x"),
        (lmm.VariationalBayes, "sigma", True),
        (lmm.VariationalBayes, "sigma", "free"),
        (lmm.NUTS, "rng", "a"),
        (lmm.NUTS, "target_acceptance", None),
        (lmm.NUTS, "draws", True),
        (lmm.MonteCarloEM, "warmup", None),
        (lmm.MonteCarloEM, "smoothing", 0.0),
        (lmm.MonteCarloEM, "growth", 0.5),
        (lmm.ExpectationMaximization, "tolerance", "a"),
        (lmm.MacKay, "start_error_variance", 0.0),
        (lmm.LaplaceLikelihood, "nagq", 1.5),
        (lmm.MaximumLikelihood, "reml", "no"),
    ],
)
def test_types_and_limits(kind, name, value):
    with pytest.raises(ArgumentError, match=f"^{kind.__name__}: {name}="):
        kind(**{name: value})


def test_restricted_or_not_is_obeyed_or_refused():
    data = lmm.datasets.load("Dyestuff")
    ml = lmm.lmer("Yield ~ 1 + (1|Batch)", data, REML=False)
    for method in ("mackay", "em", "pql"):
        fit = lmm.lmer("Yield ~ 1 + (1|Batch)", data, REML=False, method=method)
        assert fit.varcorr().stddev("Batch").iloc[0] == pytest.approx(
            ml.varcorr().stddev("Batch").iloc[0], rel=1e-4
        )
        assert fit.llf == pytest.approx(ml.llf, abs=1e-6)
    with pytest.raises(ArgumentError, match="method=lmm.MacKay\\(reml=False\\)"):
        lmm.lmer("Yield ~ 1 + (1|Batch)", data, REML=False, method=lmm.MacKay())
    with pytest.raises(ArgumentError, match="form='quick'"):
        lmm.MacKay(form="quick", reml=False)
    assert ml.update(method=lmm.MaximumLikelihood()).estimate.reml
