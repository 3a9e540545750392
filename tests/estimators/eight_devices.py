"""A CPU that poses as eight devices: run by tests/estimators/test_devices.py in a process of its own."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators.criterion import Evaluator
from lmm.linalg import backend, sharded
from lmm.model.problem import build_problem
from tests.algebra import some_theta
from tests.designs import zoo


def test_there_are_eight() -> None:
    assert len(jax.devices()) == 8


@pytest.mark.parametrize(("q", "count", "block"), [(93, 8, 4), (37, 2, 1024)])
def test_algebra(q: int, count: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation on the dense tail against NumPy: a size that does not divide, two blocks a device and more."""
    monkeypatch.setattr(sharded, "BLOCK", block)
    backend._jitted.cache_clear()
    rng = np.random.default_rng(0)
    A = rng.standard_normal((q, 2 * q))
    S, b = A @ A.T / q, rng.standard_normal((3, q))
    mesh = sharded.mesh_for(count, q)
    assert mesh.size == count
    with backend.over(mesh):
        logdet, forth, back, inverse, gram = backend.call(tail_operations, S, b, A.T)
    L = np.linalg.cholesky(S + np.eye(q))
    close(logdet, 2 * np.log(np.diagonal(L)).sum())
    close(forth, np.linalg.solve(L, b.T).T)
    close(back, np.linalg.solve(L.T, b.T).T)
    close(inverse, np.linalg.inv(S + np.eye(q)))
    close(gram, A @ A.T)


def tail_operations(xp, S, b, Y):
    """log|I + S|, L^-1 b, L^-T b, (I + S)^-1 and Y'Y over the mesh."""
    mesh = backend.mesh()
    factor = sharded.factorize(mesh, S)
    return (
        factor.logdet,
        sharded.forward(mesh, factor, b),
        sharded.backward(mesh, factor, b),
        sharded.inverse(mesh, factor),
        sharded.gram(mesh, Y),
    )


@pytest.mark.parametrize(("name", "devices"), [("crossed", 8), ("slopes crossed", 2)])
def test_criterion(name: str, devices: int) -> None:
    """Objective, gradient, model Hessian and modes over eight devices are those of one NumPy array."""
    design = zoo()[name]
    theta = some_theta(design)
    plain, own = Evaluator(build_problem(design), True), Evaluator(on(build_problem(design, "jax"), devices), True)
    assert own.mesh.size == devices
    a, b = plain.in_theta(theta), own.in_theta(theta)
    close(b.objective, a.objective, 1e-10)
    close(own.objective(theta), a.objective, 1e-10)
    close(b.gradient, a.gradient, 1e-10)
    close(b.hessian, a.hessian, 1e-9)
    for mine, other in zip(b.payload.modes, a.payload.modes, strict=True):
        close(mine, other, 1e-9)


def on(problem, devices):
    """The problem with its tail on so many devices."""
    return replace(problem, plan=replace(problem.plan, devices=devices))


def crossed() -> pd.DataFrame:
    """Two crossed factors of 200 and 90 levels."""
    rng = np.random.default_rng(1)
    n = 3000
    data = pd.DataFrame({"a": rng.integers(0, 200, n), "b": rng.integers(0, 90, n), "x": rng.normal(size=n)})
    data["y"] = data.x + rng.normal(size=200)[data.a] + rng.normal(size=90)[data.b] + rng.normal(size=n)
    return data


def test_shares() -> None:
    """The large arrays lie in shares, one on each device."""
    fit = lmm.lmer("y ~ x + (1|a) + (1|b)", crossed())
    system = Evaluator(on(build_problem(fit.design, "jax"), 8), True).data.system
    for array, axis in ((system.C, 0), (system.chain[0].coupling.B, 1)):
        shards = array.addressable_shards
        assert len({shard.device for shard in shards}) == 8
        assert all(shard.data.shape[axis] * 8 == array.shape[axis] for shard in shards)


def test_whole_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """lmer() over eight devices, asked for and by itself, ends where NumPy ends and says how it went."""
    data = crossed()
    wanted = lmm.lmer("y ~ x + (1|a) + (1|b)", data)
    fit = lmm.lmer("y ~ x + (1|a) + (1|b)", data, control=lmm.Control(devices=8))
    close(fit.llf, wanted.llf, 1e-10)
    close(fit.theta, wanted.theta, 1e-6)
    assert "shared by 8 devices" in str(fit.design.plan)
    assert "shared" not in str(wanted.design.plan)
    one = lmm.lmer("y ~ x + (1|a) + (1|b)", data, control=lmm.Control(devices=1, backend="jax"))
    assert "shared" not in str(one.design.plan)
    monkeypatch.setattr(sharded, "WORTH", 50)
    by_itself = lmm.lmer("y ~ x + (1|a) + (1|b)", data, control=lmm.Control(backend="jax"))
    assert "shared by 8 devices" in str(by_itself.design.plan)
    close(by_itself.llf, wanted.llf, 1e-10)
    with pytest.raises(lmm.errors.ArgumentError, match="JAX has 8"):
        lmm.lmer("y ~ x + (1|a) + (1|b)", data, control=lmm.Control(devices=16))


def close(mine, other, tolerance=1e-11) -> None:
    """Equal relative to the largest value."""
    mine, other = np.asarray(mine), np.asarray(other)
    assert mine.shape == other.shape
    error = np.abs(mine - other).max() / max(np.abs(other).max(), 1e-300)
    assert error < tolerance, error
