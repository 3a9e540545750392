"""Tests of a fit's parameters."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lmm.errors import ArgumentError
from lmm.results.parameters import FitBase


@dataclass(frozen=True, eq=False, repr=False)
class Testing(FitBase):
    """Tests of coefficients and of terms, fixed and random."""

    def coef_table(self, ddf: str | None = None, component: str = "cond") -> pd.DataFrame:
        """``estimate, std_error, statistic`` per coefficient, with ``ddf`` also ``df`` and ``p_value``.

        Without degrees of freedom a linear model has no p-values; a generalized one has ``p_value``, normal. A posterior has
        ``estimate, posterior_sd, lower, upper`` (95 %) and, from chains, ``r_hat, ess_bulk``.

        Parameters
        ----------
        ddf : of a linear model "satterthwaite" or "kenward_roger" (whose standard errors are adjusted), else None.
        component : as in :meth:`fixef`.

        Raises
        ------
        ArgumentError : an unknown name, or degrees of freedom of a generalized model or a posterior.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.coef_table(ddf="satterthwaite")["df"].round(3).tolist()
        [17.0, 17.0]
        """
        if component != "cond":
            return self._component(component).coef_table(ddf)
        return self._uncertainty.coefficient_table(self._ddf(self._table_ddf(ddf)))

    def anova(
        self, type: int | str = 3, ddf: str | None = "auto", component: str = "cond"
    ) -> pd.DataFrame:
        """Tests of the terms of the fixed part, one row per term.

        Parameters
        ----------
        type : 1 or "I", each term after those before it; 2, after all terms that do not contain it; 3, of estimable functions
            that weigh the levels of the other factors alike, whatever the coding of the factors.
        ddf : of a linear model "satterthwaite" ("auto"), "kenward_roger", or None for Wald's chi-square tests, which a
            generalized model always has.
        component : as in :meth:`fixef`.

        Returns
        -------
        DataFrame ``sum_sq, mean_sq, num_df, den_df, f_value, p_value``, a mean square being the F value (before Kenward and
        Roger's factor) times sigma^2; of chi-square tests ``chisq, df, p_value``. A term whose columns were all dropped has
        ``num_df`` 0 and nothing else.

        Raises
        ------
        ArgumentError : an unknown type or method, and for a posterior.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("angle ~ recipe*temperature + (1|recipe:replicate)", lmm.datasets.load("cake"))
        >>> fit.anova()[["num_df", "den_df", "f_value"]].round(3).loc["temperature"].tolist()
        [5.0, 210.0, 20.52]
        """
        from lmm.results.tests import term_tests

        if component == "all":
            raise ArgumentError(
                "anova: component='all' has no terms of its own; ask each component."
            )
        if component != "cond":
            return self._component(component).anova(type, ddf)
        number = term_tests.check_type(type)
        return term_tests.anova_table(self.design, self.estimate, self._ddf(ddf, "anova"), number)

    def contrast(
        self,
        L: object,
        rhs: object = 0.0,
        ddf: str | None = "auto",
        joint: bool = False,
        level: float = 0.95,
        component: str = "cond",
    ) -> pd.DataFrame:
        """Linear functions L beta of the fixed effects, tested against ``rhs``.

        Parameters
        ----------
        L : what is tested: a text such as ``"Days = 10"``, ``"a - b"`` or ``"a = b = 0"``, or a list of such; a dict of coefficient
            name -> weight, or of label -> such a dict; a DataFrame with coefficients as columns; or an array (r, p) in the order of
            :meth:`fixef`.
        rhs : value or values under the hypothesis, beside what a text says.
        ddf : as in :meth:`anova`.
        joint : one test that all hold, in place of one each.
        level : coverage of the intervals.
        component : as in :meth:`fixef`; of "all" the coefficients are ``x``, ``zi.x``, ``disp.x``.

        Returns
        -------
        DataFrame ``estimate, std_error, df, statistic, p_value, lower, upper``, a row per contrast (``df`` is inf for normal
        tests); with ``joint`` one row ``f_value, num_df, den_df, p_value``, or ``chisq, df, p_value`` without ``ddf``.
        The estimate is that of L beta, a text's constants on its right-hand side. Of a posterior it has
        ``estimate, std_error, lower, upper``, the mean, standard deviation and quantiles of the draws.

        Raises
        ------
        FormulaError : a text that cannot be read, with a caret under the place.
        ArgumentError : weights of the wrong shape, an unknown or dropped coefficient, a joint test of a posterior.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.contrast("Days = 10")[["estimate", "df", "p_value"]].round(3).loc["Days = 10"].tolist()
        [10.467, 17.0, 0.766]
        """
        if component != "cond":
            return self._component(component).contrast(L, rhs, ddf, joint, level)
        return self._uncertainty.contrast(L, rhs, lambda: self._ddf(ddf), joint, level)
