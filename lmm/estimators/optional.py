"""Packages that only some methods need."""

from __future__ import annotations

import importlib.util

from lmm.errors import ArgumentError


def need(package: str, what: str, extra: str = "lmm[bayes]") -> None:
    """ArgumentError where an optional package is missing; ``extra`` is what pip is to install."""
    if importlib.util.find_spec(package) is None:
        raise ArgumentError(
            f"{what} needs {package.replace('_', '-')}; install it with: pip install '{extra}'"
        )
