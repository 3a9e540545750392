"""``fit.plot`` loads matplotlib when it is asked for, and says what to install where it is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import lmm
from tests.results.fits import fit

ROOT = Path(__file__).parents[2]


def test_a_fit_and_its_summary_import_no_matplotlib():
    code = """
import sys, lmm
fit = lmm.lmer("Reaction ~ Days + (Days | Subject)", lmm.datasets.load("sleepstudy"))
str(fit.summary()), dir(fit), type(fit).plot
print("matplotlib" in sys.modules, "lmm.plots" in sys.modules)
"""
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split() == [
        "False",
        "False",
    ]


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(
        lmm.ArgumentError,
        match=r"fit\.plot needs matplotlib; install it with: pip install 'lmm\[plot\]'",
    ):
        _ = fit("sleep").plot
