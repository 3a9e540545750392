"""Families with a mean anywhere on the real line, written in the mean itself."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lmm.families.base import Array, Family
from lmm.families.links import Four


class RealMeans(Family):
    """A family whose means are real numbers, with c = mu."""

    default_link = "identity"
    link_names: ClassVar[tuple[str, ...]] = ("identity", "log", "inverse")
    mean_low = -np.inf

    def _location(self, eta: Array) -> Array:
        return self.link.inverse(eta)

    def _coordinate(self, eta: Array) -> Four:
        return self.link.inverse(eta), *self.link.derivatives(eta)

    def _of_mean(self, mu: Array) -> Array:
        return np.asarray(mu, dtype=float)
