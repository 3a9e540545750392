"""The pictures of a fit, loaded by name when they are first asked for: nothing here imports matplotlib."""

from __future__ import annotations

import importlib

from lmm.estimators.optional import need


def of(fit: object) -> object:
    """The pictures of a fit; MissingPackageError where matplotlib is missing."""
    need("matplotlib", "fit.plot", "lmm[plot]")
    return importlib.import_module("lmm.plots").Plots(fit)
