"""The same kernels under JAX: the same numbers, few compilations, nobody's settings touched, and no deadlock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators import MaximumLikelihood
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.linalg.devices import backend
from lmm.model.conditional import covariances
from lmm.model.problem import Problem, build_problem
from tests.algebra import some_theta, thetas
from tests.designs import zoo

DESIGNS = zoo()
JAX = lmm.Control(backend="jax")


@cache
def problems(name: str) -> tuple[Problem, Problem]:
    return build_problem(DESIGNS[name]), build_problem(DESIGNS[name], "jax")


@pytest.mark.parametrize(
    ("name", "reml"),
    [
        ("scalar", False),
        ("slope", True),
        ("blocks", True),
        ("crossed", True),
        ("slopes crossed", True),
        ("nested three deep", False),
        ("nested and crossed", True),
        ("weights and offset", True),
        ("no fixed effects", True),
    ],
)
def test_criterion_and_derivatives(name: str, reml: bool) -> None:
    """The whole evaluation, of an arrangement with levels padded to a bucket."""
    plain, padded = (Evaluator(own, reml) for own in problems(name))
    assert padded.problem.plan.backend == "jax"
    theta = some_theta(DESIGNS[name])
    a, b = plain.in_theta(theta), padded.in_theta(theta)
    assert b.objective == pytest.approx(a.objective, rel=1e-12)
    np.testing.assert_allclose(
        b.gradient, a.gradient, rtol=1e-10, atol=1e-10 * np.abs(a.gradient).max()
    )
    np.testing.assert_allclose(
        b.hessian, a.hessian, rtol=1e-9, atol=1e-10 * np.abs(a.hessian).max()
    )
    for mine, other in zip(
        b.payload.D + b.payload.modes, a.payload.D + a.payload.modes, strict=True
    ):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9)
    assert all(
        isinstance(leaf, np.ndarray | np.generic)
        for leaf in jax.tree.leaves((b.payload.value, b.payload.D, b.payload.modes))
    )


@pytest.mark.parametrize("name", ["slope", "crossed"])
def test_singular_factors(name: str) -> None:
    theta = thetas(DESIGNS[name])["singular"]
    a, b = (Evaluator(own, True).in_theta(theta) for own in problems(name))
    assert b.objective == pytest.approx(a.objective, rel=1e-12)
    for mine, other in zip(b.payload.D, a.payload.D, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9 * np.abs(other).max())


QUICK = ("slope", "crossed", "slopes crossed")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DESIGNS],
)
def test_whole_fit(name: str) -> None:
    """Step by step the same search, and what follows a fit works on padded sums."""
    plain, padded = problems(name)
    a, b = (MaximumLikelihood().fit(own) for own in (plain, padded))
    assert b.objective == pytest.approx(a.objective, rel=1e-12)
    assert b.beta == pytest.approx(a.beta, rel=1e-10, abs=1e-12)
    assert b.theta == pytest.approx(a.theta, rel=1e-8, abs=1e-10)
    assert b.sigma == pytest.approx(a.sigma, rel=1e-10)
    assert [m.shape for m in b.modes] == [m.shape for m in a.modes]
    assert len(b.trace) == len(a.trace)
    for mine, other in zip(covariances(padded, b), covariances(plain, a), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-10)
    theta = some_theta(DESIGNS[name])
    assert MaximumLikelihood().objective(padded, theta) == pytest.approx(
        MaximumLikelihood().objective(plain, theta), rel=1e-12
    )


def grouped(n: int, J: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g, x = np.arange(n) % J, rng.normal(size=n)
    b = rng.normal(size=(J, 2))
    return pd.DataFrame({"y": x + b[g, 0] + b[g, 1] * x + rng.normal(size=n), "x": x, "g": g})


def test_a_structure_is_compiled_once_for_all_data_in_its_bucket() -> None:
    """The second fit, other rows and another number of levels compile nothing; a larger bucket does."""
    small, same, larger = backend.bucket(900), backend.bucket(1000), backend.bucket(1025)
    assert small == same != larger
    lmm.lmer("y ~ x + (x|g)", grouped(4000, 900, 0), control=JAX)
    before = dict(backend.traces)
    for n, J, seed in [(4000, 900, 0), (4000, 900, 1), (7001, 1000, 2), (3333, 897, 3)]:
        lmm.lmer("y ~ x + (x|g)", grouped(n, J, seed), control=JAX)
    assert dict(backend.traces) == before
    lmm.lmer("y ~ x + (x|g)", grouped(4000, 1025, 0), control=JAX)
    assert dict(backend.traces) != before


def test_fits_from_threads_leave_every_threads_settings_alone() -> None:
    """Double precision is ours for the time of a call, in that thread only."""
    data = grouped(2000, 200, 5)
    wanted = lmm.lmer("y ~ x + (x|g)", data, control=lmm.Control(backend="numpy")).llf
    before = (str(jnp.zeros(1).dtype), bool(jax.config.jax_enable_x64))

    def work(_: int) -> tuple[float, str, bool]:
        fit = lmm.lmer("y ~ x + (x|g)", data, control=JAX)
        return fit.llf, str(jnp.zeros(1).dtype), bool(jax.config.jax_enable_x64)

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(work, i) for i in range(6)]
        while not all(job.done() for job in jobs):
            assert str(jnp.ones(2).sum().dtype) == before[0]
    for job in jobs:
        llf, *own = job.result()
        assert llf == pytest.approx(wanted, rel=1e-12)
        assert tuple(own) == before
    assert (str(jnp.zeros(1).dtype), bool(jax.config.jax_enable_x64)) == before


def python(code: str, timeout: float, **environment: str) -> str:
    """Standard output of a fresh interpreter; a hang ends in subprocess.TimeoutExpired."""
    env = {
        key: value for key, value in os.environ.items() if not key.startswith("JAX_")
    } | environment
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_small_fit_does_not_import_jax() -> None:
    code = """
        import sys, lmm
        fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        str(fit.summary()), fit.ranef_cov(), fit.predict(), fit.confint("wald")
        assert fit.convergence.converged
        print([name for name in sys.modules if name.split(".")[0] in ("jax", "jaxlib")])
    """
    assert python(code, 60).strip() == "[]"


STRESS = """
    import json, sys
    import numpy as np, pandas as pd
    import lmm

    levels, out = 100_000, {}
    for k in (1, 2, 3, 6, 8):
        rng = np.random.default_rng(k)
        g = np.arange((k + 1) * levels) % levels
        data = {f"x{i}": rng.normal(size=len(g)) for i in range(1, max(k, 2))}
        Z = np.column_stack([np.ones(len(g))] + [data[f"x{i}"] for i in range(1, k)])
        y = data["x1"] + np.sum(Z * rng.normal(size=(levels, k))[g], axis=1) + rng.normal(size=len(g))
        start = None if k <= 3 else [1.0 if i == j else 0.1 for j in range(k) for i in range(j, k)]
        control = lmm.Control(backend=sys.argv[1], evaluate_only=start is not None)
        formula = "y ~ x1 + (" + " + ".join(["1", *(f"x{i}" for i in range(1, k))]) + "|g)"
        fit = lmm.lmer(formula, pd.DataFrame({"y": y, "g": g, **data}), control=control, start=start)
        out[k] = [fit.llf, fit.sigma, *fit.fixef(), *fit.theta]
    if sys.argv[1] == "jax":
        import jax, jax.numpy as jnp
        out["settings"] = [str(jnp.zeros(1).dtype), jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion]
    print(json.dumps(out))
"""


@cache
def stress(array: str, **environment: str) -> dict:
    return json.loads(
        python(
            f"import sys; sys.argv[1:] = [{array!r}]\n" + textwrap.dedent(STRESS),
            120,
            **environment,
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, ["float32", False, "standard"]),
        ({"JAX_ENABLE_X64": "1"}, ["float64", True, "standard"]),
        ({"JAX_NUMPY_DTYPE_PROMOTION": "strict"}, ["float32", False, "strict"]),
    ],
    ids=["plain", "x64", "strict"],
)
def test_many_groups_never_hang(environment: dict[str, str], settings: list) -> None:
    """100,000 groups with up to eight effects each, whatever the user's settings of JAX: done in time, and NumPy's numbers."""
    found, wanted = dict(stress("jax", **environment)), stress("numpy")
    assert found.pop("settings") == settings
    assert found.keys() == wanted.keys()
    for k, numbers in wanted.items():
        assert found[k] == pytest.approx(numbers, rel=1e-7, abs=1e-9), k
        assert found[k][0] == pytest.approx(numbers[0], rel=1e-12), k
