"""Several devices, and what is chosen where there is an accelerator."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.api import glmer, lmer
from lmm.errors import ArgumentError
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.linalg.devices import backend
from lmm.model.problem import build_problem
from tests.algebra import some_theta
from tests.designs import zoo

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_eight_devices() -> None:
    """The number of devices is fixed when JAX starts, so these tests have a process of their own."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests/estimators/eight_devices.py"),
    ]
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX's default device poses as an accelerator."""
    monkeypatch.setattr(backend, "has_accelerator", lambda: True)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("name", ["nested and crossed"])
def test_the_criterion_as_an_accelerator_gets_it(name: str) -> None:
    """Sums over nested levels then gather; the numbers are the same."""
    design = zoo()[name]
    theta = some_theta(design)
    plain, own = (
        Evaluator(build_problem(design), True),
        Evaluator(build_problem(design, "jax"), True),
    )
    assert all(
        parent.sums is not None for member in own.data.system.chain for parent in member.parents
    )
    a, b = plain.in_theta(theta), own.in_theta(theta)
    assert b.objective == pytest.approx(a.objective, rel=1e-12)
    np.testing.assert_allclose(
        b.gradient, a.gradient, rtol=1e-9, atol=1e-10 * np.abs(a.gradient).max()
    )


def crossed(levels: int) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    g = np.arange(4 * levels) % levels
    return pd.DataFrame({"y": rng.normal(size=levels)[g] + rng.normal(size=4 * levels), "g": g})


@pytest.mark.usefixtures("accelerator")
def test_large_fits_go_to_the_accelerator_and_small_ones_stay() -> None:
    small, large = crossed(50), crossed(lmer.ACCELERATE)
    assert "arrays: numpy" in str(lmm.lmer("y ~ 1 + (1|g)", small).design.plan)
    fit = lmm.lmer("y ~ 1 + (1|g)", large)
    assert "arrays: jax" in str(fit.design.plan)
    stay = lmm.lmer("y ~ 1 + (1|g)", large, control=lmm.Control(backend="numpy"))
    assert "arrays: numpy" in str(stay.design.plan)
    assert fit.llf == pytest.approx(stay.llf, rel=1e-12)


COUNTS = [
    ("c ~ x + (x|g)", "poisson", True),
    ("c ~ 0 + (1|g)", "poisson", True),
    ("cbind(s, 5 - s) ~ x + offset(o) + (1|g) + (1|h)", "binomial", True),
    ("s2 ~ x + (1|g/h)", "binomial", True),
    ("c ~ x + (1|g)", lmm.families.Poisson(link="sqrt"), True),
    ("c ~ x + (x|g)", "negative_binomial", True),
    ("c ~ x + (1|g) + (1|h)", "negative_binomial1", True),
    ("s2 ~ x + (1|g)", lmm.families.Binomial(link="probit"), True),
    ("s2 ~ x + (1|g) + (1|h)", lmm.families.Binomial(link="cloglog"), True),
    ("s2 ~ x + (1|g)", lmm.families.Binomial(link="cauchit"), True),
    ("a ~ x + (x|g)", lmm.families.Gamma(link="log"), True),
    ("a ~ x + (1|g)", lmm.families.Gamma(), True),
    ("a ~ x + (1|g) + (1|h)", lmm.families.InverseGaussian(link="log"), True),
    ("a ~ x + (1|g)", lmm.families.Gaussian(link="log"), True),
    ("s ~ x + (1|g)", "ordinal", False),
]


@pytest.mark.parametrize(("formula", "family", "there"), COUNTS, ids=range(len(COUNTS)))
def test_passes_over_rows_by_jax(formula: str, family: object, there: bool) -> None:
    """A fit whose rows JAX sums is the fit by NumPy; a family without formulas there stays and says nothing else."""
    rng = np.random.default_rng(5)
    n = 600
    data = pd.DataFrame(
        {
            "g": rng.integers(0, 30, n),
            "h": rng.integers(0, 7, n),
            "x": rng.normal(size=n),
            "o": rng.normal(size=n) / 3,
        }
    )
    eta = 0.5 + 0.3 * data.x + 0.6 * rng.normal(size=30)[data.g] + 0.4 * rng.normal(size=7)[data.h]
    data = data.assign(c=rng.poisson(np.exp(eta)), s=rng.binomial(5, 1 / (1 + np.exp(-eta))))
    data = data.assign(
        s2=(data["s"] > 2).astype(int), a=np.exp(0.4 * eta) * rng.gamma(8.0, 1 / 8.0, n)
    )
    wanted = lmm.glmer(formula, data, family=family)
    fit = lmm.glmer(formula, data, family=family, control=lmm.Control(backend="jax"))
    assert ("passes over the rows: jax" in str(fit.design.plan)) == there
    assert fit.llf == pytest.approx(wanted.llf, rel=1e-10)
    np.testing.assert_allclose(fit.theta, wanted.theta, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fit.bse, wanted.bse, rtol=1e-4)
    again = pickle.loads(pickle.dumps(fit))
    assert again.llf == fit.llf
    np.testing.assert_allclose(again.predict(), wanted.predict(), atol=1e-5)


@pytest.mark.usefixtures("accelerator")
def test_many_rows_go_to_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    g = rng.integers(0, 20, 400)
    data = pd.DataFrame(
        {
            "g": g,
            "x": rng.normal(size=400),
            "y": (rng.normal(size=20)[g] + rng.normal(size=400) > 0).astype(int),
        }
    )
    assert "passes" not in str(lmm.glmer("y ~ x + (1|g)", data, family="binomial").design.plan)
    monkeypatch.setattr(glmer, "ACCELERATE", 300)
    assert "passes over the rows: jax" in str(
        lmm.glmer("y ~ x + (1|g)", data, family="binomial").design.plan
    )


def test_devices_are_checked() -> None:
    for wrong, why in (
        (0, "positive whole"),
        (-1, "positive whole"),
        (True, "positive whole"),
        (3, "power of two"),
    ):
        with pytest.raises(ArgumentError, match=why):
            lmm.Control(devices=wrong)
    with pytest.raises(ArgumentError, match="backend='jax'"):
        lmm.Control(devices=2, backend="numpy")
