"""Shape buckets, the border between NumPy and JAX, and the opt-in cache of compiled kernels."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmm.linalg.devices import backend


@given(st.integers(1, 10**9))
def test_bucket_holds_the_size_and_wastes_at_most_a_fifth(size: int) -> None:
    padded = backend.bucket(size)
    assert padded >= size
    assert padded == 8 or padded - size <= 0.2 * padded
    assert backend.bucket(padded) == padded


def test_buckets_grow_with_the_size_and_are_few() -> None:
    padded = [backend.bucket(size) for size in range(1, 5000)]
    assert padded == sorted(padded)
    assert len(set(padded)) <= 4 * 10 + 1


def kernel(xp, a, b, *, power: int):
    return {"sum": a @ b, "power": [a**power, xp.float64(1) / 3]}


def test_call_is_double_precision_numpy_in_and_out_and_traced_once_per_shape() -> None:
    rng = np.random.default_rng(0)
    backend.traces.clear()
    for n, power, count in [(5, 2, 1), (5, 2, 1), (6, 2, 2), (5, 3, 3), (6, 3, 4), (5, 2, 4)]:
        a, b = rng.normal(size=n), rng.normal(size=n)
        out = backend.call(kernel, a, b, power=power)
        assert out["sum"] == pytest.approx(a @ b, rel=1e-15)
        np.testing.assert_allclose(out["power"][0], a**power, rtol=1e-14)
        assert float(out["power"][1]) == 1 / 3
        assert all(
            isinstance(leaf, np.ndarray) and leaf.dtype == np.float64
            for leaf in jax.tree.leaves(out)
        )
        assert backend.traces["kernel"] == count


def test_put_keeps_double_precision_whatever_the_default() -> None:
    array = backend.put({"a": np.array([1 / 3])})["a"]
    assert isinstance(array, jax.Array)
    assert array.dtype == np.float64
    assert float(array[0]) == 1 / 3


def test_errors_in_a_kernel_leave_the_settings_alone() -> None:
    def broken(xp, a):
        raise RuntimeError("inside")

    before = jnp.zeros(1).dtype
    with pytest.raises(RuntimeError, match="inside"):
        backend.call(broken, np.ones(3))
    assert jnp.zeros(1).dtype == before


CODE = """
    import sys
    import numpy as np, pandas as pd
    import jax, jax.numpy as jnp
    import lmm
    if sys.argv[2] == "own":
        jax.config.update("jax_compilation_cache_dir", sys.argv[3])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    settings = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    if sys.argv[2] != "none":
        assert lmm.enable_compile_cache(sys.argv[1]) == __import__("pathlib").Path(sys.argv[1])
    rng = np.random.default_rng(0)
    g = np.arange(300) % 30
    data = pd.DataFrame({"y": rng.normal(size=30)[g] + rng.normal(size=300), "g": g})
    lmm.lmer("y ~ 1 + (1|g)", data, control=lmm.Control(backend="jax"))
    assert (jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs) == settings
    jax.jit(lambda x: x * 2 + 12345)(jnp.ones(7))  # the user's own kernel
"""


def run(tmp_path: Path, mode: str) -> None:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("JAX_")
    } | {"HOME": str(tmp_path / "home")}
    arguments = [
        sys.executable,
        "-c",
        textwrap.dedent(CODE),
        str(tmp_path / "ours"),
        mode,
        str(tmp_path / "theirs"),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr


def kernels(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*-cache")) if folder.exists() else []


def test_compile_cache_holds_our_kernels_alone(tmp_path: Path) -> None:
    run(tmp_path, "ours")
    first = kernels(tmp_path / "ours")
    assert first
    assert not any("lambda" in name for name in first)
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o700
    run(tmp_path, "ours")
    assert kernels(tmp_path / "ours") == first  # found again, nothing new


def test_a_cache_of_the_users_own_is_used_as_it_is(tmp_path: Path) -> None:
    run(tmp_path, "own")
    assert not kernels(tmp_path / "ours")
    assert any("lambda" in name for name in kernels(tmp_path / "theirs"))


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    run(tmp_path, "none")
    assert not list(tmp_path.rglob("*-cache"))
