"""Modules that are imported when they are first used: what follows a fit costs nothing to one who only fits.

if TYPE_CHECKING:
    from lmm.results import bootstrap
else:
    bootstrap = Later("lmm.results.bootstrap")
"""

from __future__ import annotations

import importlib
from typing import Any


class Later:
    """Stands for a module; every attribute is the module's own."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
