"""A fit as other packages want it. Methods unpack and delegate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm.inference.ddf import Ddf, degrees_of_freedom
from lmm.results import marginal_effects, regression_table
from lmm.results.criticism import Criticism


@dataclass(frozen=True, eq=False, repr=False)
class Interchange(Criticism):
    """Marginal means and adapters to other packages."""

    def marginaleffects(self, type: str = "response") -> Any:
        """This fit for the package marginaleffects: its ``predictions, comparisons, slopes, hypotheses`` and their averages work on it.

        They are those of the population, with random effects set to zero (R's ``re.form = NA``); standard errors come from
        :meth:`vcov`, tests and intervals are normal. ``vcov="kenward_roger"`` in their calls takes the adjusted covariance.

        Parameters
        ----------
        type : "response", means (of an ordinal model the probabilities of all categories), or "link", linear predictors.

        Returns
        -------
        an instance of marginaleffects' ``ModelAbstract``, whose data are the rows used.

        Raises
        ------
        ArgumentError : marginaleffects 0.6 or later is not installed, or the formula uses an array that is no column.

        Examples
        --------
        >>> import lmm
        >>> from marginaleffects import avg_slopes                                                      # doctest: +SKIP
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> avg_slopes(fit.marginaleffects())                                                           # doctest: +SKIP
        """
        return marginal_effects.adapter(self, self.design, self.estimate, self._uncertainty, type, self._covariance)

    def _covariance(self, method: str) -> np.ndarray:
        return self._degrees_of_freedom(method).cov

    def _degrees_of_freedom(self, method: str | None) -> Ddf:
        return degrees_of_freedom(self.problem, self.estimator, self.estimate, self._uncertainty.beta, method)

    def maketables(self, ddf: str | None = None) -> regression_table.TableModel:
        """This fit as a column of the package maketables: ``maketables.ETable([fit1.maketables(), fit2.maketables()])``.

        The standard deviations and correlations of the random effects and the numbers of levels stand under the coefficients.
        A fit itself may be given too: maketables takes it for one of statsmodels, with normal p-values and without these rows.

        Parameters
        ----------
        ddf : degrees of freedom of tests and intervals, as of :meth:`coef_table`.
        """
        return regression_table.table_model(self.design, self.estimate, self.coef_table(ddf), ddf)

    @property
    def endog_names(self) -> str:
        """The response as written."""
        return self.design.response

    @property
    def __maketables_coef_table__(self) -> pd.DataFrame:
        return self.maketables().__maketables_coef_table__

    def __maketables_stat__(self, key: str) -> Any:
        return self.maketables().__maketables_stat__(key)

    @property
    def __maketables_depvar__(self) -> str:
        return self.design.response

    @property
    def __maketables_default_stat_keys__(self) -> list[str]:
        return self.maketables().__maketables_default_stat_keys__
