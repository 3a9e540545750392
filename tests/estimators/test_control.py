"""Settings are checked where they are made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

import lmm
from lmm.estimators.given_start import check_start
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
        ({"max_evaluations": 0}, "max_evaluations=0 must be a positive whole number"),
        ({"max_evaluations": 2.5}, r"max_evaluations=2.5 must be"),
        ({"tolerance": float("inf")}, "tolerance=inf must be a positive number"),
        ({"probes": 3}, "probes=3 must be a whole number, 4 or more"),
        ({"devices": 3}, "devices=3 must be 1, 2, 4, 8, ...: a power of two"),
        ({"devices": 2.0}, "devices=2.0 must be"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"checkpoint": "a\0b"}, "checkpoint=.* must be the path of a file"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=message):
        lmm.Control(**settings)


WRONG = [(), [], {}, object(), np.ones(2), 1j, b"x"]


@pytest.mark.parametrize("field", [field.name for field in fields(lmm.Control)])
@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
def test_no_setting_takes_a_value_of_another_kind(field: str, value: object) -> None:
    if field == "checkpoint" and isinstance(value, bytes):
        return  # a path
    with pytest.raises(lmm.ArgumentError, match=f"^{field}=.* (must be|is not one of) "):
        lmm.Control(**{field: value})  # type: ignore[arg-type]


def test_numbers_of_numpy_are_settings() -> None:
    control = lmm.Control(
        tolerance=np.float32(1e-6),
        max_evaluations=np.int64(9),
        probes=np.int32(8),
        seed=np.uint8(3),
        verbose=np.False_,
    )  # type: ignore[arg-type]
    fit = lmm.lmer(
        "Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"), control=control
    )
    assert fit.convergence.converged


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


def test_fixed_effects_of_a_linear_model_need_no_start() -> None:
    """They are profiled out of its criterion."""
    d = zoo()["slope"]
    assert check_start({"beta": [1, 2, 3]}, d, build_problem(d)) is None


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            [1.0],
            r"start has shape \(1,\); this model has 3 parameters: a: Intercept; a: x1.Intercept; a: x1",
        ),
        ([1.0, np.nan, 1.0], "not finite"),
        (["a", "b", "c"], "must hold numbers"),
        ({"gamma": [1, 2, 3]}, "'theta'"),
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
