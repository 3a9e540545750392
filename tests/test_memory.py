"""What does not fit is said before it is begun."""

from __future__ import annotations

import pytest

import lmm
from lmm import memory


def test_what_is_free_is_known_and_small_sizes_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = memory.available()
    assert free is None or free > 0
    monkeypatch.setattr(memory, "available", lambda: 10)
    memory.require(memory.SMALL - 1, "x", "y")
    with pytest.raises(
        lmm.CapacityError,
        match=r"x would take 1 GiB of memory, and 9.31e-09 GiB are free; take less\.",
    ):
        memory.require(2**30, "x", "take less")
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require(2**60, "x", "y")


def test_simulations_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"))
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    for call in (
        lambda: fit.simulate(10**7),
        lambda: fit.simulated_residuals(10**7),
        lambda: fit.check(10**7),
    ):
        with pytest.raises(
            lmm.CapacityError,
            match=r"180 rows would take .* GiB of memory, and 1 GiB are free; take fewer, nsim=",
        ):
            call()


@pytest.mark.parametrize("kind", ["parametric", "semiparametric", "cases"])
def test_replicates_that_do_not_fit_are_refused(kind: str) -> None:
    fit = lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"))
    with pytest.raises(
        lmm.CapacityError,
        match=r"bootstrap: 100,000,000,000 replicates of .* numbers would take .* take fewer, nsim=",
    ):
        fit.bootstrap(10**11, kind=kind)


def test_memory_that_runs_out_is_an_error_of_ours() -> None:
    fit = lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"))
    with pytest.raises(
        lmm.CapacityError,
        match=r"power: there is not enough memory \(Unable to allocate .*; ask for less at a time\.",
    ):
        lmm.power(fit, "Days", along="Subject", n=[10**14], nsim=2)
