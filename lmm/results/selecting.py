"""Which terms a model needs: single-term deletions and stepwise selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from lmm.arguments import caller
from lmm.inference.tests.ddf import method_name
from lmm.results.parameters import FitBase

if TYPE_CHECKING:
    from lmm.results.tests import stepwise


@dataclass(frozen=True, eq=False, repr=False)
class Selecting(FitBase):
    """Models with a term less, fixed or random."""

    def ranova(self, reduce_terms: bool = True) -> pd.DataFrame:
        """Each random term left out in turn, tested by the likelihood ratio, as lmerTest's ``ranova``.

        Both models are fitted by the criterion of this fit, REML or maximum likelihood. Where no random term is left, the smaller
        model is ordinary least squares, or the generalized linear model.

        Parameters
        ----------
        reduce_terms : take the slopes of ``(x | g)`` out one at a time, with their correlations, and keep its intercept; False
            takes whole terms.

        Returns
        -------
        DataFrame ``npar, llf, aic, lrt, df, p_value, p_mixture``, ``<none>`` first, then rows such as ``"Days in (Days | Subject)"``
        and ``"(1 | g)"``. ``p_value`` is that of chi-squared on ``df``, too large because a variance cannot be negative; ``p_mixture``
        is that of the mixture 1/2 chi2(df - 1) + 1/2 chi2(df): exact in large samples where one variance goes with its
        covariances (Stram & Lee, 1994), an upper bound where several do.

        Raises
        ------
        ArgumentError : for a posterior, or a method that maximises no likelihood.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.ranova()[["npar", "lrt", "df"]].round(3)
                                  npar     lrt   df
        <none>                       6     NaN  NaN
        Days in (Days | Subject)     4  42.837  2.0
        """
        from lmm.results.tests import deletion

        self.estimate.require_one_predictor("ranova")
        scope = caller()
        found = deletion.drop_random(self._fit, scope, reduce_terms)
        return deletion.boundary_tests(found)

    def drop1(self, test: str = "chisq", ddf: str | None = "satterthwaite") -> pd.DataFrame:
        """Each fixed term left out in turn that no other term contains, as lme4's and lmerTest's ``drop1``.

        Parameters
        ----------
        test : "chisq", likelihood ratios of fits by maximum likelihood (one by REML is fitted again), or "f", of a linear model,
            which tests the columns that the term alone gives to the model and fits nothing again.
        ddf : denominator degrees of freedom of "f": "satterthwaite", "kenward_roger", or None for Wald's chi-square.

        Returns
        -------
        "chisq": DataFrame ``npar, aic, lrt, p_value``, ``<none>`` first; ``npar`` is the number of parameters of the term.
        "f": ``sum_sq, mean_sq, num_df, den_df, f_value, p_value``, a row per term.

        Raises
        ------
        ArgumentError : for a posterior, or a method that maximises no likelihood.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("angle ~ recipe * temp + (1|recipe:replicate)", lmm.datasets.load("cake"))
        >>> fit.drop1().round(3)
                     npar       aic    lrt  p_value
        <none>        NaN  1712.073    NaN      NaN
        recipe:temp   2.0  1708.158  0.084    0.959
        """
        from lmm.results.tests import deletion

        context = caller()
        if ddf is not None:
            method_name(ddf)
        if deletion.check_test(test, self._fit) == "f":
            return deletion.marginal_tests(self._fit, context, ddf)[0]
        return deletion.likelihood_ratios(deletion.drop_fixed(self._fit, context))

    def step(
        self,
        alpha_random: float = 0.1,
        alpha_fixed: float = 0.05,
        ddf: str | None = "satterthwaite",
    ) -> stepwise.Steps:
        """Backward elimination: random terms first, then fixed ones, the least needed at each step, as lmerTest's ``step``.

        Parameters
        ----------
        alpha_random : a random term whose likelihood ratio test (:meth:`ranova`, ``p_value``) has a larger p-value goes. The last
            one stays: without it the model is no mixed model. 1 keeps all.
        alpha_fixed : the same for fixed terms, by F tests (:meth:`drop1`) or, in a generalized model, likelihood ratios. 1 keeps all.
        ddf : denominator degrees of freedom of the F tests of a linear model.

        Returns
        -------
        :class:`lmm.results.tests.stepwise.Steps`: ``.random`` and ``.fixed``, the tables, and ``.fit``, the model that is left. It prints.

        P-values of the model that is left do not know of the search for it.

        Raises
        ------
        ArgumentError : for a posterior, or a method that maximises no likelihood.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("angle ~ recipe * temp + (1|recipe:replicate)", lmm.datasets.load("cake"))
        >>> str(fit.step().fit.formula)
        'angle ~ 1 + temp + (1 | recipe:replicate)'
        """
        self.estimate.require_one_predictor("step")
        from lmm.results.tests import stepwise

        context = caller()
        return stepwise.backward(self._fit, context, alpha_random, alpha_fixed, ddf)
