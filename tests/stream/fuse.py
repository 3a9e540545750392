"""A function for formulas that kills the worker it runs on, once, and data whose fits are worth comparing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

#: name of the variable that tells workers where the fuse lies
FUSE = "LMM_TEST_FUSE"
#: the value of x whose partition kills its worker
MARK = 4321.0


def light(path: Path) -> None:
    """The next worker that meets ``MARK`` dies; the process that lights the fuse does not."""
    path.write_text(str(os.getpid()))
    os.environ[FUSE] = str(path)


def deadly(x: Any) -> Any:
    """``x``; kills the worker whose rows hold ``MARK`` while the fuse is there: the Python process, or the executor above it."""
    path = os.environ.get(FUSE, "")
    if (
        np.any(np.asarray(x) == MARK)
        and os.path.exists(path)
        and Path(path).read_text() != str(os.getpid())
    ):
        os.rename(path, path + ".burnt")
        os.kill(executor() if "SPARK_EXECUTOR_DIRS" in os.environ else os.getpid(), signal.SIGKILL)
    return x


def executor() -> int:
    """The process above the daemon that this Python process was forked from."""
    status = Path(f"/proc/{os.getppid()}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def table(n: int = 3000, seed: int = 5) -> pd.DataFrame:
    """Two crossed factors, one with text labels, a slope, a categorical predictor, weights; ``MARK`` in the last quarter."""
    rng = np.random.default_rng(seed)
    g, h = rng.integers(0, 60, n), rng.integers(0, 20, n)
    x = rng.normal(2.0, 1.0, n)
    kind = np.array(["low", "mid", "high"])[rng.integers(0, 3, n)]
    y = (
        1
        + 0.4 * x
        + rng.normal(0, 1, 60)[g]
        + rng.normal(0, 0.5, 60)[g] * x
        + rng.normal(0, 0.7, 20)[h]
        + rng.normal(0, 1, n)
    )
    names = np.array([f"id {i}" for i in rng.permutation(60)])
    data = pd.DataFrame(
        {
            "y": y,
            "x": x,
            "g": names[g],
            "h": h,
            "kind": kind,
            "w": rng.uniform(0.5, 2, n),
            "m": np.zeros(n),
        }
    )
    data.loc[n - n // 8, "m"] = MARK
    data["count"] = rng.poisson(np.exp(0.3 + 0.1 * x + rng.normal(0, 0.4, 60)[g]))
    return data


def same(a: Any, b: Any, tolerance: float = 1e-8) -> None:
    """Two fits of the same rows."""
    assert a.nobs == b.nobs
    assert list(a.params.index) == list(b.params.index)
    assert np.allclose(a.params, b.params, rtol=0, atol=tolerance)
    assert np.allclose(a.bse, b.bse, rtol=0, atol=tolerance)
    assert np.allclose(a.theta, b.theta, rtol=0, atol=tolerance)
    assert abs(a.llf - b.llf) <= tolerance * max(1.0, abs(b.llf))
    assert a.sigma == b.sigma or abs(a.sigma - b.sigma) <= tolerance
    for group, effects in b.ranef().items():
        assert list(a.ranef()[group].index) == list(effects.index)
        assert np.allclose(a.ranef()[group], effects, rtol=0, atol=tolerance)
