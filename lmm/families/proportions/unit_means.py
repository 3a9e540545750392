"""Families with a mean between 0 and 1, written in its logit c: p = mu and q = 1 - mu are accurate however near to an end.

Derivatives L1, L2, L3 in the mean become those in c by dmu/dc = v = pq, d2mu/dc2 = v (q - p), d3mu/dc3 = v (1 - 6v).
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy import special

from lmm.families.base import Array
from lmm.families.links import Four
from lmm.families.namespace import namespace
from lmm.families.peaks import Peaked

#: log of the least mean, and of the least 1 - mu, that is computed with
LEAST = -115.0


class UnitMeans(Peaked):
    """A family whose means are probabilities or shares, with c = logit(mu)."""

    default_link = "logit"
    link_names: ClassVar[tuple[str, ...]] = ("logit", "probit", "cloglog", "cauchit")
    mean_high = 1.0
    dispersion_scales_variance = False
    dispersion_name = "phi"

    @cached_property
    def _clip(self) -> tuple[float, float]:
        low, high = super()._clip
        low = max(low, float(self.link.link(np.array(np.exp(LEAST)))))
        # the largest predictor with log(1 - mu) >= LEAST, looked for on a scale on which it is near
        inner, outer = np.arcsinh([low, high])
        for _ in range(100):
            middle = 0.5 * (inner + outer)
            log_q = self.link.log_values(np.sinh(np.array([middle])))[1][0]
            inner, outer = (middle, outer) if log_q >= LEAST else (inner, middle)
        return low, float(np.sinh(inner))

    def _location(self, eta: Array) -> Array:
        log_p, log_q = self.link.log_values(eta)
        return log_p - log_q

    def _coordinate(self, eta: Array) -> Four:
        (p, p1, p2, p3), (q, q1, q2, q3) = self.link.log_probabilities(eta)
        return p - q, p1 - q1, p2 - q2, p3 - q3

    def _of_mean(self, mu: Array) -> Array:
        return np.asarray(special.logit(mu))

    @staticmethod
    def _shares(c: Array) -> tuple[Array, Array]:
        """p and q of c."""
        expit = namespace(c).special.expit
        return expit(c), expit(-c)
