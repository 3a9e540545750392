"""A fit of data read in chunks equals the fit of the same data in memory."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import RankWarning, SingularFitWarning

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")


def make(n: int = 2400, seed: int = 3) -> pd.DataFrame:
    """Rows with every kind of column that a formula meets."""
    rng = np.random.default_rng(seed)
    g, h, inner = rng.integers(0, 40, n), rng.integers(0, 25, n), rng.integers(0, 3, n)
    x, z = rng.normal(3.0, 1.0, n), rng.normal(0.0, 2.0, n)
    u, v, s, w = (
        rng.normal(0, 1, 40),
        rng.normal(0, 0.7, 25),
        rng.normal(0, 0.4, 40),
        rng.normal(0, 0.5, 120),
    )
    size = np.array(["small", "large", "medium", "tiny"])[rng.integers(0, 4, n)]
    y = (
        2
        + 0.5 * x
        - 0.3 * z
        + u[g]
        + s[g] * x
        + v[h]
        + w[3 * g + inner]
        + (size == "large")
        + rng.normal(0, 1, n)
    )
    data = pd.DataFrame(
        {
            "y": y,
            "x": x,
            "z": z,
            "g": g + 1000,
            "h": h - 7,
            "name": np.array([f"id {i:03d}" for i in rng.permutation(40)])[g],
            "inner": inner,
            "size": size,
            "kind": pd.Categorical(
                np.array(["c", "a", "b"])[rng.integers(0, 3, n)],
                categories=["c", "b", "a", "never"],
            ),
            "dose": rng.integers(1, 4, n),
            "flag": rng.integers(0, 2, n).astype(bool),
            "w": rng.uniform(0.5, 2.0, n),
            "off": rng.normal(0, 1, n),
            "far": np.array([7, 2**40, -(2**45)])[rng.integers(0, 3, n)] + g,
            "year": 2000 + rng.integers(0, 20, n),
            "ratio": rng.integers(0, 30, n) / 4,
            "wanting": np.where(rng.random(n) < 0.1, np.nan, z),
            "lost": pd.array(
                np.where(rng.random(n) < 0.05, -1, rng.integers(0, 3, n)), dtype="Int64"
            ),
        }
    )
    data.loc[data["lost"] == -1, "lost"] = pd.NA
    data["sum"] = data["x"] + 2 * data["z"]
    return data


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return make()


@pytest.fixture(scope="module")
def path(data, tmp_path_factory) -> str:
    """Three files, the second without rows, row groups of 300."""
    folder = tmp_path_factory.mktemp("parts")
    for i, part in enumerate((data[:1000], data[:0], data[1000:])):
        part.to_parquet(folder / f"part-{i}.parquet", row_group_size=300)
    return str(folder / "part-*.parquet")


def same(streamed: lmm.Fit, memory: lmm.Fit, tolerance: float = 1e-8) -> None:
    a, b = streamed.estimate, memory.estimate
    assert a.objective == pytest.approx(b.objective, rel=1e-10)
    assert streamed.design.names == memory.design.names
    assert streamed.design.dropped == memory.design.dropped
    assert (streamed.design.n, streamed.design.n_dropped) == (
        memory.design.n,
        memory.design.n_dropped,
    )
    assert [t.group for t in streamed.design.terms] == [t.group for t in memory.design.terms]
    # near a boundary theta is known no better than the square root of the objective's precision
    scale = max(1.0, float(np.abs(b.theta).max(initial=0.0)))
    assert a.theta == pytest.approx(
        b.theta, abs=(1e-6 if np.any(np.abs(b.theta) < 1e-3) else 10 * tolerance) * scale
    )
    sd = np.sqrt(np.diagonal(b.beta_cov_unscaled)) * b.sigma
    assert np.all(np.abs(a.beta - b.beta) <= tolerance * np.maximum(np.abs(b.beta), sd) * 10)
    assert a.sigma == pytest.approx(b.sigma, rel=tolerance * 10)
    for t, s in zip(streamed.design.terms, memory.design.terms, strict=True):
        assert (
            t.columns == s.columns
            and list(t.levels) == list(s.levels)
            and t.structure == s.structure
        )
    for mine, theirs in zip(a.modes, b.modes, strict=True):
        assert np.abs(mine - theirs).max() <= 1e-6 * max(1.0, np.abs(theirs).max())
    assert (streamed.problem.location, streamed.problem.scale) == pytest.approx(
        (memory.problem.location, memory.problem.scale), rel=1e-10
    )


MODELS = [
    ("y ~ x + (x | g)", {}),
    ("y ~ x + (1 | g) + (1 | h)", {}),
    ("y ~ x + (1 | g/inner)", {}),
    ("y ~ x + (1 | name)", {}),
    ("y ~ x + (1 | g:inner) + (1 | h)", {}),
    ("y ~ x + (1 | name:kind)", {}),
    ("y ~ x + (1 | far)", {}),
    ("y ~ x + (1 | far:inner) + (1 | far)", {}),
    ("y ~ x + (1 | ratio)", {}),
    ("y ~ x + (1 | kind) + (1 | size)", {}),
    ("y ~ x + (1 | flag:size)", {}),
    ("y ~ x * z + (1 + z || g) + (x | h)", {}),
    ("y ~ size + kind + flag + (1 | g)", {}),
    ("y ~ size * kind + x:kind + (1 | g)", {"contrasts": {"size": "sum"}}),
    ("y ~ factor(dose) + C(inner) + (factor(dose) | h)", {}),
    ("y ~ 0 + size + (0 + flag | g)", {}),
    ("y ~ 0 + (1 | g)", {}),
    ("y ~ 1 + (1 | g)", {}),
    ("y ~ scale(x) + center(z) + (scale(x) | g)", {}),
    ("y ~ poly(x, 3) + I(z**2) + (1 | g)", {}),
    ("y ~ ns(x, knots=[2.5, 3.5]) + cut(z, 4) + (1 | g)", {}),
    ("y ~ bs(x, knots=[3.0]) + (1 | g)", {}),
    ("y ~ I(x - mean(x)) + I(z / sd(z)) + scale(log(w)) + (1 | g)", {}),
    ("y ~ x + dummy(size, 'large') + (dummy(size, 'large') | g)", {}),
    ("log(w) ~ scale(center(x)) + (1 | g)", {}),
    ("y ~ year + I(year**2) + (1 | g)", {}),
    ("y ~ x + wanting + factor(lost) + (1 | g)", {}),
    ("y ~ x + wanting + (1 | lost) + (1 | g)", {}),
    ("y ~ x + z + sum + (1 | g)", {}),
    ("y ~ x + z + size + factor(size) + (1 | g)", {}),
    ("y ~ x + offset(off) + (1 | g)", {"weights": "w"}),
    (
        "y ~ x + size + offset(2 * off) + (x | g) + (1 | h)",
        {"weights": "sqrt(w)", "offset": "off + 1"},
    ),
    ("y ~ x + (1 | g)", {"subset": "z > 0 & size != 'tiny'"}),
    ("y ~ x + size + (1 | g)", {"subset": "z > 0 & size != 'tiny'", "weights": "w / mean(w)"}),
    ("y ~ x + interaction(flag, dose) + (1 | factor(inner))", {}),
]


@pytest.mark.parametrize(
    ("formula", "settings"),
    MODELS,
    ids=[m[0] + (" " + ",".join(m[1]) if m[1] else "") for m in MODELS],
)
def test_it_equals_the_fit_in_memory(formula, settings, data, path):
    reml = len(formula) % 2 == 0
    with warnings.catch_warnings(record=True) as first:
        warnings.simplefilter("always")
        streamed = lmm.lmer(formula, lmm.Source(path, chunk=250), REML=reml, **settings)
    with warnings.catch_warnings(record=True) as second:
        warnings.simplefilter("always")
        memory = lmm.lmer(formula, data, REML=reml, **settings)
    same(streamed, memory)
    kinds = (RankWarning, SingularFitWarning)
    assert [str(w.message) for w in first if w.category in kinds] == [
        str(w.message) for w in second if w.category in kinds
    ]
    assert streamed.design.streamed and not memory.design.streamed
