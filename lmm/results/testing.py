"""Tests of a fit's parameters. Methods unpack and delegate to :mod:`lmm.inference`."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lmm.results import coefficients
from lmm.results.rowwise import Rowwise


@dataclass(frozen=True, eq=False, repr=False)
class Testing(Rowwise):
    """Tests of coefficients and of terms, fixed and random."""

    def coef_table(self, ddf: str | None = None) -> pd.DataFrame:
        """``estimate, std_error, statistic`` per coefficient.

        A linear model has no p-values, for want of degrees of freedom; a generalized one has ``p_value``, normal. A posterior has
        ``estimate, posterior_sd, lower, upper`` (95 %) and, from chains, ``r_hat, ess_bulk``.
        """
        return coefficients.coefficient_table(self.design, self.estimate, self._uncertainty, ddf)
