"""A fit as other packages want it. Methods unpack and delegate."""

from __future__ import annotations

from dataclasses import dataclass

from lmm.results.criticism import Criticism


@dataclass(frozen=True, eq=False, repr=False)
class Interchange(Criticism):
    """Marginal means and adapters to other packages."""
