"""Several devices, and what is chosen where there is an accelerator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm import api
from lmm.errors import ArgumentError
from lmm.estimators.criterion import Evaluator
from lmm.linalg import backend
from lmm.model.problem import build_problem
from tests.algebra import some_theta
from tests.designs import zoo

ROOT = Path(__file__).parents[2]


def test_eight_devices() -> None:
    """The number of devices is fixed when JAX starts, so these tests have a process of their own."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(ROOT / "tests/estimators/eight_devices.py")]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX's default device poses as an accelerator."""
    monkeypatch.setattr(backend, "has_accelerator", lambda: True)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("name", ["nested three deep", "nested and crossed"])
def test_the_criterion_as_an_accelerator_gets_it(name: str) -> None:
    """Sums over nested levels then gather; the numbers are the same."""
    design = zoo()[name]
    theta = some_theta(design)
    plain, own = Evaluator(build_problem(design), True), Evaluator(build_problem(design, "jax"), True)
    assert all(parent.sums is not None for member in own.data.system.chain for parent in member.parents)
    a, b = plain.in_theta(theta), own.in_theta(theta)
    assert b.objective == pytest.approx(a.objective, rel=1e-12)
    np.testing.assert_allclose(b.gradient, a.gradient, rtol=1e-9, atol=1e-10 * np.abs(a.gradient).max())


def crossed(levels: int) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    g = np.arange(4 * levels) % levels
    return pd.DataFrame({"y": rng.normal(size=levels)[g] + rng.normal(size=4 * levels), "g": g})


@pytest.mark.usefixtures("accelerator")
def test_large_fits_go_to_the_accelerator_and_small_ones_stay() -> None:
    small, large = crossed(50), crossed(api.ACCELERATE)
    assert "arrays: numpy" in str(lmm.lmer("y ~ 1 + (1|g)", small).design.plan)
    fit = lmm.lmer("y ~ 1 + (1|g)", large)
    assert "arrays: jax" in str(fit.design.plan)
    stay = lmm.lmer("y ~ 1 + (1|g)", large, control=lmm.Control(backend="numpy"))
    assert "arrays: numpy" in str(stay.design.plan)
    assert fit.llf == pytest.approx(stay.llf, rel=1e-12)


def test_devices_are_checked() -> None:
    for wrong in (0, 3, -1, True):
        with pytest.raises(ArgumentError, match="power of two"):
            lmm.Control(devices=wrong)
    with pytest.raises(ArgumentError, match="backend='jax'"):
        lmm.Control(devices=2, backend="numpy")
