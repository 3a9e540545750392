"""Settings are checked where they are made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

import lmm
from lmm.estimators.start import check_start
from lmm.model.problem import build_problem
from tests.designs import zoo


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "torch"}, r"backend='torch' is not one of 'auto', 'numpy', 'jax'"),
        ({"backend": "nunpy"}, r"Did you mean 'numpy'\?"),
        ({"tolerance": 0.0}, "tolerance=0.0 must be a positive number"),
        ({"tolerance": float("nan")}, "tolerance=nan must be a positive number"),
        ({"radius": -1.0}, "radius=-1.0 must be a positive number"),
        ({"max_evaluations": 0}, "max_evaluations=0 must be at least 1"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=message):
        lmm.Control(**settings)


def test_control_is_frozen_and_comparable() -> None:
    control = lmm.Control(tolerance=1e-6)
    assert control == lmm.Control(tolerance=1e-6) != lmm.Control()
    with pytest.raises(FrozenInstanceError):
        control.tolerance = 1.0  # type: ignore[misc]


def test_start_by_array_or_by_key() -> None:
    d = zoo()["slope"]
    problem = build_problem(d)
    for start in ([1, 2, 3], np.array([1.0, 2.0, 3.0]), {"theta": (1, 2, 3)}):
        found = check_start(start, d, problem)
        assert found is not None and np.array_equal(found, [1.0, 2.0, 3.0])
    assert check_start(None, d, problem) is None


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ([1.0], r"start has shape \(1,\); this model has 3 parameters: a: Intercept; a: x1.Intercept; a: x1"),
        ([1.0, np.nan, 1.0], "not finite"),
        (["a", "b", "c"], "must hold numbers"),
        ({"beta": [1, 2, 3]}, "the one key 'theta'; it was given 'beta'"),
    ],
)
def test_bad_starts(start: object, message: str) -> None:
    d = zoo()["slope"]
    with pytest.raises(lmm.ArgumentError, match=message):
        check_start(start, d, build_problem(d))


def test_a_start_is_required_where_nothing_is_searched() -> None:
    d = zoo()["slope"]
    with pytest.raises(lmm.ArgumentError, match="evaluate_only=True needs start="):
        check_start(None, d, build_problem(d), required=True)
