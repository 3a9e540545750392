"""A CPU that poses as eight devices: run by tests/estimators/test_devices.py in a process of its own."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.linalg.devices import backend, sharded
from lmm.model.laplace import device_rows
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


@pytest.mark.parametrize(("name", "devices"), [("slopes crossed", 8)])
def test_criterion(name: str, devices: int) -> None:
    """Objective, gradient, model Hessian and modes over eight devices are those of one NumPy array."""
    design = zoo()[name]
    theta = some_theta(design)
    plain, own = (
        Evaluator(build_problem(design), True),
        Evaluator(on(build_problem(design, "jax"), devices), True),
    )
    assert own.mesh.size == devices
    a, b = plain.in_theta(theta), own.in_theta(theta)
    close(b.objective, a.objective, 1e-10)
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
    data = pd.DataFrame(
        {"a": rng.integers(0, 200, n), "b": rng.integers(0, 90, n), "x": rng.normal(size=n)}
    )
    data["y"] = (
        data.x + rng.normal(size=200)[data.a] + rng.normal(size=90)[data.b] + rng.normal(size=n)
    )
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
    assert [
        sharded.count_for(*asked)
        for asked in ((1, 9000), (None, 90), (None, 9000), (4, 90), (None, 0))
    ] == [1, 1, 8, 4, 1]
    monkeypatch.setattr(sharded, "WORTH", 50)
    by_itself = lmm.lmer("y ~ x + (1|a) + (1|b)", data, control=lmm.Control(backend="jax"))
    assert "shared by 8 devices" in str(by_itself.design.plan)
    close(by_itself.llf, wanted.llf, 1e-10)
    with pytest.raises(lmm.errors.ArgumentError, match="JAX has 8"):
        lmm.lmer("y ~ x + (1|a) + (1|b)", data, control=lmm.Control(devices=16))


def rows() -> pd.DataFrame:
    """Counts and zeros and ones under two crossed factors and a slope; a number of rows that eight does not divide."""
    rng = np.random.default_rng(3)
    n = 1003
    data = pd.DataFrame(
        {
            "a": rng.integers(0, 40, n),
            "b": rng.integers(0, 12, n),
            "x": rng.normal(size=n),
            "t": rng.uniform(0.5, 2.0, n),
        }
    )
    eta = 0.3 * data.x + 0.7 * rng.normal(size=40)[data.a] + 0.5 * rng.normal(size=12)[data.b]
    return data.assign(y=rng.binomial(1, 1 / (1 + np.exp(-eta))), c=rng.poisson(np.exp(eta)))


@pytest.mark.parametrize(
    ("formula", "family", "points"),
    [("y ~ x + (1+x|a) + (1|b)", "binomial", 1), ("c ~ x + offset(t) + (1|a/b)", "poisson", 0)],
)
def test_passes_over_rows(formula: str, family: str, points: int) -> None:
    """-2 log-likelihood, gradient and model Hessian from shares of the rows are those of all rows in NumPy."""
    problem = lmm.glmer(formula, rows(), family=family).problem
    problem = replace(problem, merged=None)
    shared = device_rows.on_devices(problem, 8)
    parameters = np.full(problem.n_theta + problem.p, 0.3)
    found = []
    for own in (problem, shared):
        objective = Objective(own, None, points)
        found.append(objective.in_theta(objective.enter(parameters)))
    a, b = found
    close(b.objective, a.objective, 1e-12)
    close(b.gradient, a.gradient, 1e-11)
    close(b.hessian, a.hessian, 1e-11)
    share, mesh = shared.source.placed()
    assert mesh.size == 8
    assert len({shard.device for shard in share.y.addressable_shards}) == 8
    assert share.y.addressable_shards[0].data.shape[0] == 1


def test_a_whole_generalized_fit() -> None:
    wanted = lmm.glmer("c ~ x + (1|a)", rows(), family="poisson")
    fit = lmm.glmer("c ~ x + (1|a)", rows(), family="poisson", control=lmm.Control(devices=8))
    assert "passes over the rows: jax, shared by 8 devices" in str(fit.design.plan)
    assert "passes" not in str(wanted.design.plan)
    close(fit.llf, wanted.llf, 1e-11)
    close(fit.theta, wanted.theta, 1e-6)
    close(fit.bse, wanted.bse, 1e-5)


def close(mine, other, tolerance=1e-11) -> None:
    """Equal relative to the largest value."""
    mine, other = np.asarray(mine), np.asarray(other)
    assert mine.shape == other.shape
    error = np.abs(mine - other).max() / max(np.abs(other).max(), 1e-300)
    assert error < tolerance, error
