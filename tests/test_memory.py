"""What does not fit is said before it is begun."""

from __future__ import annotations

import pytest

import lmm
from lmm import memory


def test_what_is_free_is_known_and_small_sizes_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    free = memory.available()
    assert free is None or free > 0
    monkeypatch.setattr(memory, "available", lambda: 10)
    memory.require(memory.SMALL - 1, "x", "y")
    with pytest.raises(lmm.CapacityError, match=r"x would take 1 GiB of memory, and 9.31e-09 GiB are free; take less\."):
        memory.require(2**30, "x", "take less")
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require(2**60, "x", "y")


def test_simulations_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"))
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    for call in (lambda: fit.simulate(10**7), lambda: fit.simulated_residuals(10**7), lambda: fit.check(10**7)):
        with pytest.raises(lmm.CapacityError, match=r"180 rows would take .* GiB of memory, and 1 GiB are free; take fewer, nsim="):
            call()
