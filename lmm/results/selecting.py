"""Which terms a model needs: single-term deletions and stepwise selection. Methods unpack and delegate."""

from __future__ import annotations

from dataclasses import dataclass

from lmm.results.testing import Testing


@dataclass(frozen=True, eq=False, repr=False)
class Selecting(Testing):
    """Models with a term less, fixed or random."""
