"""Checks of arguments: what is right comes back in the wanted type, what is wrong is named."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lmm import arguments
from lmm.errors import ArgumentError

NO_NUMBER = [
    None,
    "a",
    "1",
    True,
    np.True_,
    1 + 1j,
    [],
    {},
    object(),
    np.ones(3),
    float("nan"),
    float("inf"),
    -float("inf"),
    10**400,
]


@pytest.mark.parametrize("value", [1, 2.5, np.int64(3), np.float32(1.5), Fraction(1, 2)])
def test_numbers_are_taken(value):
    found = arguments.number(value, "x", above=0)
    assert type(found) is float and found == value


@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda v: str(v)[:12])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ArgumentError, match=r"^tau=.* must be a finite number\.$"):
        arguments.number(value, "tau")


def test_limits_of_numbers():
    for value, limits in (
        (0, {"above": 0}),
        (1, {"below": 1}),
        (-1, {"least": 0}),
        (2, {"most": 1}),
    ):
        with pytest.raises(ArgumentError, match="tau="):
            arguments.number(value, "tau", **limits)
    assert arguments.number(0, "tau", least=0, most=0) == 0.0
    with pytest.raises(
        ArgumentError, match=r"alpha=2 must be a number greater than 0 and less than 1\."
    ):
        arguments.number(2, "alpha", above=0, below=1)


@pytest.mark.parametrize(
    "value", [*NO_NUMBER[:-1], 1.0, np.float64(2.0), 0], ids=lambda v: str(v)[:12]
)
def test_whole_numbers(value):
    with pytest.raises(ArgumentError, match=r"^f: nsim=.* must be a positive whole number\.$"):
        arguments.whole(value, "f: nsim", least=1)
    assert type(arguments.whole(np.int32(7), "nsim")) is int


@pytest.mark.parametrize("value", [None, 0, 1, "True", np.ones(2), []], ids=lambda v: str(v)[:12])
def test_flags(value):
    with pytest.raises(ArgumentError, match=r"^use_u=.* must be True or False\.$"):
        arguments.flag(value, "use_u")
    assert arguments.flag(np.True_, "use_u") is True


@pytest.mark.parametrize(
    "value", [3, ["numpy"], np.array(["numpy"]), object(), {}, "nunpy"], ids=lambda v: str(v)[:12]
)
def test_choices(value):
    with pytest.raises(ArgumentError, match="^backend=.* is not one of 'numpy', 'jax'"):
        arguments.choice(value, "backend", ("numpy", "jax"))
    assert arguments.choice(np.str_("jax"), "backend", ("numpy", "jax")) == "jax"
    assert arguments.choice(None, "ddf", ("a", None)) is None


def test_names():
    known = ["Intercept", "Days"]
    for value in ("Days", ["Days"], ("Days",), pd.Index(["Days"]), np.array(["Days", "Days"])):
        assert arguments.names(value, "parm", known) == ["Days"]
    for value in (None, 1, [], [1], {"Days": 1}, object(), "days", ["Days", "x"], np.ones((2, 2))):
        with pytest.raises(ArgumentError, match="^parm=.*'Intercept', 'Days'|must be a name"):
            arguments.names(value, "parm", known)


def test_seeds_and_generators():
    own = np.random.default_rng(1)
    assert arguments.generator(own) is own
    for value in (None, 3, np.int64(3), np.random.SeedSequence(1), [1, 2]):
        assert isinstance(arguments.generator(value), np.random.Generator)
    for value in ("a", -1, 1.5, True, [], {}, object(), float("nan"), [-1], np.array([0.5])):
        with pytest.raises(ArgumentError, match="^rng=.*numpy.random.Generator"):
            arguments.generator(value)
    for value in (None, "a", -1, 1.5, 2**32):
        with pytest.raises(ArgumentError, match="^seed="):
            arguments.seed(value)


def test_arrays_of_numbers():
    assert arguments.numbers_of([1, 2], "theta", "numbers").tolist() == [1.0, 2.0]
    assert arguments.numbers_of(np.array([1, 2.5], dtype=object), "theta", "numbers").tolist() == [
        1.0,
        2.5,
    ]
    for value in (
        "a",
        None,
        {},
        object(),
        ["a"],
        [None],
        [np.nan],
        [1j],
        [True],
        np.array(["2020-01-01"], "M8[D]"),
        {1.0},
    ):
        with pytest.raises(ArgumentError, match="^theta=.* must be numbers"):
            arguments.numbers_of(value, "theta", "numbers")


def test_paths():
    assert arguments.file_path(Path("a") / "b", "path") == str(Path("a") / "b")
    for value in (None, 3, "", "a\0b", [], object()):
        with pytest.raises(ArgumentError, match="^path=.* must be the path of a file"):
            arguments.file_path(value, "path")


def test_long_values_are_cut_and_failing_reprs_are_survived():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(ArgumentError, match=r"^x=<Odd> must be"):
        arguments.number(Odd(), "x")
    with pytest.raises(ArgumentError, match=r"^x=<ndarray of shape \(1000,\)> must be"):
        arguments.number(np.zeros(1000), "x")
    with pytest.raises(ArgumentError) as caught:
        arguments.number("q" * 10_000, "x")
    assert len(str(caught.value)) < 200
