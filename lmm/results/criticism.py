"""Whether a model fits its data, and how much it explains. Methods unpack and delegate."""

from __future__ import annotations

from dataclasses import dataclass

from lmm.results.resampling import Resampling


@dataclass(frozen=True, eq=False, repr=False)
class Criticism(Resampling):
    """Variance explained, simulated residuals, checks."""
