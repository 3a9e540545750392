"""Packages that only some methods need."""

from __future__ import annotations

import importlib.util

from lmm.errors import MissingPackageError


def need(package: str, what: str, extra: str = "lmm[bayes]") -> None:
    """MissingPackageError where an optional package is missing; ``extra`` is what pip is to install."""
    if importlib.util.find_spec(package) is None:
        name = package.replace("_", "-")
        raise MissingPackageError(
            f"{what} needs {name}; install it with: pip install '{extra}'", name
        )
