"""Intervals of a fit's parameters, and what refits by the hundred tell. Methods unpack and delegate."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lmm.results import intervals
from lmm.results.selecting import Selecting


@dataclass(frozen=True, eq=False, repr=False)
class Resampling(Selecting):
    """Confidence intervals, profiles, bootstrap, influence."""

    def confint(self, method: str | None = None, level: float = 0.95) -> pd.DataFrame:
        """Confidence intervals ``lower, upper``: ``sd_(Intercept)|Subject``, ..., ``sigma`` (where there is one), then coefficients.

        Parameters
        ----------
        method : "wald", normal intervals for the fixed effects (variance rows are missing, as in lme4).
            "profile", the default, and "boot" are not available yet and say so. Of a posterior the default is "posterior",
            quantiles of the draws with equal tails, for every row (missing for a parameter that was given or point-estimated).
        level : coverage.
        """
        return intervals.confidence_intervals(self.design, self.estimate, self._uncertainty, method, level)

    def conf_int(self, method: str | None = None, level: float = 0.95) -> pd.DataFrame:
        """:meth:`confint` with the normal intervals that statsmodels gives by this name, or those of the posterior."""
        return self.confint(method or ("wald" if self.draws is None else None), level)
