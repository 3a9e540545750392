"""What the user has set for JAX changes nothing: strict promotion of types and ranks, checks for NaN."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("optax")
pytest.importorskip("blackjax")

SCRIPT = """
import warnings
import jax
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_nans", True)
import lmm
warnings.simplefilter("ignore")
data, herds = lmm.datasets.load("sleepstudy"), lmm.datasets.load("cbpp")
lmm.lmer("Reaction ~ Days + (Days|Subject)", data, control=lmm.Control(backend="jax"))
methods = [
    lmm.VariationalBayes(steps=40, draws=5, sigma="posterior"),
    lmm.NUTS(chains=2, warmup=10, draws=10),
    lmm.MonteCarloEM(warmup=10, iterations=50),
]
for method in methods:
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", data, method=method)
    assert abs(fit.fixef()["Days"] - 10.5) < 5.0
for method in (lmm.VariationalBayes(steps=40, draws=5), methods[1]):
    lmm.glmer("incidence / size ~ period + (1|herd)", herds, family="binomial", weights="size", method=method)
print(jax.config.jax_numpy_rank_promotion, jax.config.jax_numpy_dtype_promotion, jax.config.jax_debug_nans, jax.config.jax_enable_x64)
"""


def test_settings_of_jax_are_neither_heeded_nor_changed():
    out = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.split() == ["raise", "strict", "True", "False"]
