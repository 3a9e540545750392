"""A fit as other packages want it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from lmm.results.parameters import FitBase

if TYPE_CHECKING:
    from lmm.results.tables import regression_table
    from lmm.results.tests import marginal_means


@dataclass(frozen=True, eq=False, repr=False)
class Interchange(FitBase):
    """Marginal means and adapters to other packages."""

    def emmeans(
        self,
        specs: object = (),
        by: object = None,
        at: Mapping[str, object] | None = None,
        ddf: str | None = "auto",
        type: str = "link",
        contrast: object = None,
        adjust: str | None = None,
        level: float = 0.95,
        weights: str = "equal",
    ) -> marginal_means.MarginalMeans:
        """Estimated marginal means of the fixed effects, or contrasts between them, as R's emmeans has them.

        A mean is an average of predictions without random effects over the combinations of the levels of all other factors,
        covariates at their means; a covariate of no more than two values counts as a factor. A factor that is nested in another, in
        the data or as ``a/b`` in the formula, has a mean per level of that one, and averages are over the combinations that can be.

        Parameters
        ----------
        specs : variables whose combinations the means are for: ``"recipe"``, ``["a", "b"]``, ``"a * b"``; ``"a | b"`` is
            ``specs="a", by="b"`` and ``"pairwise ~ a | b"`` names the contrast too. Empty for the overall mean.
        by : variables within whose levels contrasts are taken and adjusted.
        at : values of variables in place of their levels or their mean, ``{"temp": [180, 200]}``.
        ddf : "kenward_roger", "satterthwaite", or None for normal tests. "auto" is the first for REML fits of up to 3000 rows, the
            second for other linear models, None for the rest; ``attrs["ddf"]`` says which it was.
        type : "link", the scale of the linear predictor; "response" for means through the inverse link, and for contrasts under a log
            link ratios, under a logit link odds ratios. Of a linear model of ``log(y)``, ``log10(y)``, ``log(y + 1)``, ``sqrt(y)`` ...
            "response" carries back to y; the notes say so, or that it is not done.
        contrast : "pairwise", "revpairwise", "trt.vs.ctrl" (the first is the control), "consec", "eff", "poly", or a mapping of names
            to coefficients.
        adjust : "tukey", "dunnett", "holm", "bonferroni", "sidak", "fdr" or "none"; by default "tukey" for all pairs, "dunnett"
            for comparisons with a control, "holm" for consecutive ones, "fdr" for effects, none for the rest.
        level : joint coverage of the limits (Bonferroni's for methods without intervals).
        weights : "equal"; "proportional" to how often the combinations averaged over occur; "cells", to each cell's own count.

        Returns
        -------
        DataFrame with the variables and ``emmean`` (``response``), ``std_error, df, lower, upper``; of contrasts ``contrast``, the
        variables of ``by``, ``estimate`` (``ratio``, ``odds_ratio``), ``std_error, df, lower, upper, statistic, p_value``. NaN where a mean
        is not estimable. It prints its notes, ``attrs["notes"]``. Of a posterior means, standard deviations and quantiles of the draws.

        Raises
        ------
        ArgumentError : for a variable that the fixed effects do not use, a level that does not occur, or an unknown method.

        Examples
        --------
        >>> import lmm
        >>> cake = lmm.lmer("angle ~ recipe + temp + (1|recipe:replicate)", lmm.datasets.load("cake"))
        >>> cake.emmeans("recipe")["emmean"].round(3).tolist()
        [33.122, 31.644, 31.6]
        >>> cake.emmeans("recipe", contrast="pairwise")[["contrast", "p_value"]].round(3).values.tolist()
        [['A - B', 0.82], ['A - C', 0.81], ['B - C', 1.0]]
        """
        from lmm.results.tests import marginal_means

        ask = marginal_means.request(specs, by, contrast, adjust, type, level, weights, ddf)
        return marginal_means.tabulate(self.design, self.estimate, self._ddf, at, ask)

    def emtrends(
        self,
        var: str,
        specs: object = (),
        by: object = None,
        at: Mapping[str, object] | None = None,
        ddf: str | None = "auto",
        contrast: object = None,
        adjust: str | None = None,
        level: float = 0.95,
        weights: str = "equal",
    ) -> marginal_means.MarginalMeans:
        """Slopes of the linear predictor in a covariate, averaged as :meth:`emmeans` averages means, or contrasts between them.

        Parameters
        ----------
        var : a covariate; the slope is at its mean unless ``at`` says otherwise.
        specs, by, at, ddf, contrast, adjust, level, weights : as of :meth:`emmeans`.

        Returns
        -------
        DataFrame with the variables and ``<var>_trend``, ``std_error, df, lower, upper, statistic, p_value``; of contrasts as there.

        Examples
        --------
        >>> import lmm
        >>> cake = lmm.lmer("angle ~ recipe * temp + (1|recipe:replicate)", lmm.datasets.load("cake"))
        >>> cake.emtrends("temp", "recipe")["temp_trend"].round(3).tolist()
        [0.154, 0.165, 0.156]
        """
        from lmm.results.tests import marginal_means

        ask = marginal_means.request(specs, by, contrast, adjust, "link", level, weights, ddf)
        return marginal_means.trends(self.design, self.estimate, self._ddf, var, at, ask)

    def marginaleffects(self, type: str = "response") -> object:
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
        from lmm.results.files import marginal_effects

        return marginal_effects.adapter(self._fit, type, lambda ddf: self._ddf(ddf).cov)

    def maketables(self, ddf: str | None = None) -> regression_table.TableModel:
        """This fit as a column of the package maketables: ``maketables.ETable([fit1.maketables(), fit2.maketables()])``.

        The standard deviations and correlations of the random effects and the numbers of levels stand under the coefficients.
        A fit itself may be given too: maketables takes it for one of statsmodels, with normal p-values and without these rows.

        Parameters
        ----------
        ddf : degrees of freedom of tests and intervals, as of :meth:`coef_table`.
        """
        from lmm.results.tables import regression_table

        return regression_table.table_model(
            self.design, self.estimate, self._fit.coef_table(ddf), ddf
        )

    @property
    def endog_names(self) -> str:
        """The response as written."""
        return self.design.response

    @property
    def __maketables_coef_table__(self) -> pd.DataFrame:
        return self.maketables().__maketables_coef_table__

    def __maketables_stat__(self, key: str) -> object:
        return self.maketables().__maketables_stat__(key)

    @property
    def __maketables_depvar__(self) -> str:
        return self.design.response

    @property
    def __maketables_default_stat_keys__(self) -> list[str]:
        return self.maketables().__maketables_default_stat_keys__
