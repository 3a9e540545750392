"""Packages that only some methods need."""

from __future__ import annotations

import importlib.util

from lmm.errors import ArgumentError


def need(package: str, what: str) -> None:
    """ArgumentError where an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise ArgumentError(f"{what} needs {package.replace('_', '-')}; install it with: pip install 'lmm[bayes]'")
