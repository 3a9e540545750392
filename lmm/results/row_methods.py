"""What a fit says of rows, its own or new ones, and the same model fitted again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, cast

import numpy as np
import pandas as pd

from lmm.arguments import caller
from lmm.errors import ArgumentError
from lmm.results import updating
from lmm.results.joint_uncertainty import JointUncertainty
from lmm.results.parameters import FitBase
from lmm.results.rows import joint_prediction, partitions, prediction, row_values, simulation
from lmm.results.tables import tidy
from lmm.results.tests import comparison
from lmm.results.tests.comparison import MethodComparison
from lmm.stream.reducers import reducer_for
from lmm.stream.row_progress import rows_bar


@dataclass(frozen=True, eq=False, repr=False)
class Rowwise(FitBase):
    """Fitted values, residuals, predictions, simulations, and other fits of the same model."""

    # ---- rows ----

    @property
    def fittedvalues(self) -> pd.Series:
        """g^-1(X beta + Z b + offset) on the user's index, g the identity in a linear model.

        Means of a generalized model, probabilities of a binomial one, of the category observed in an ordinal one.
        With ``na_action="exclude"`` NaN in incomplete rows.
        """
        return row_values.as_series(
            self.design, row_values.fitted(self.design, self.estimate, self._eta), "fitted"
        )

    @property
    def resid(self) -> pd.Series:
        """Residuals on the user's index: response minus fitted value; deviance residuals of a generalized model."""
        return self.residuals()

    def residuals(self, type: str | None = None, scaled: bool = False) -> pd.Series:
        """Residuals on the user's index.

        Parameters
        ----------
        type : "response", y - fitted, the default of a linear model; "deviance", the default of a generalized one; "pearson";
            "working". Of a linear model "working" is "response", and "pearson" and "deviance" are sqrt(w) (y - fitted). An
            ordinal one has "probability", P(Y < y) - P(Y > y) (its default), "deviance" and "working". With structured residuals
            "pearson" is divided by the standard deviation of each row. "normalized", of a linear model, is L^-1 (y - fitted) with
            L L' the covariance of the residuals: independent and of variance one if the model holds (Pinheiro & Bates, 2000).
        scaled : divide by sigma, where that is a residual standard deviation.
        """
        return row_values.as_series(
            self.design,
            row_values.residuals(self.design, self.estimate, self._eta, type, scaled),
            "resid",
        )

    def predict(
        self,
        newdata: object = None,
        re_form: object = None,
        type: str = "response",
        allow_new_levels: bool = False,
        se_fit: bool = False,
        interval: str | None = None,
        level: float = 0.95,
        marginal: bool = False,
        weights: object = None,
        ddf: str | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Predicted values, for new data or for the rows of the fit.

        Parameters
        ----------
        newdata : table with the columns of the formula, m rows; None for the rows of the fit. A Dask or Spark DataFrame is
            predicted partition by partition, when the result is computed.
        re_form : None uses all random effects; False (or "~0") none, the population's mean; a formula
            such as "~ (1|g)" those it names. Grouping columns of effects left out need not be there.
        type : "response", means, or "link", linear predictors; the same for a linear model, of which "disp" is the residual standard
            deviation of a row of weight one. Of an ordinal one "response" or
            "prob", a column of probabilities per category; "cumulative", those of a category or a lower one; "class", the
            most probable category. Of a model with several linear predictors "response" is (1 - p) times "conditional", the mean of the
            family itself, with p the probability of an excess zero, "zprob"; "disp" is the dispersion.
        allow_new_levels : predict levels that the fit never saw, and missing ones, with a random effect of zero, as lme4 does.
        se_fit : add ``se``, the standard error of the predictor given theta. It covers the fixed effects
            and the random effects used, a new level's whole variance included. Of a generalized model that of the
            working linear model at the modes, or from :meth:`vcov` with re_form=False; times dmu/deta for "response".
        interval : "confidence" for the predictor; "prediction" for a new observation, which adds the
            residual variance (over the weight) and the variance of random effects left out. Of a generalized model
            confidence intervals are normal in the linear predictor; prediction intervals are the quantiles with equal tails of
            the family's distribution averaged over a normal predictor, whole counts or proportions of whole successes where the
            response is discrete.
        level : coverage of the interval, from normal quantiles.
        marginal : with ``re_form=False``, the average over the population of random effects,
            E[g^-1(x'beta + z'b)], rather than the mean of a typical level, g^-1(x'beta). Its standard error
            includes that of the variance parameters. The same for a linear model.
        weights : prior weights of new observations, a column of newdata, a number or (m,): trials of a binomial one. Ones by default.
        ddf : "satterthwaite" or "kenward_roger", with ``re_form=False``: standard errors and confidence intervals of a linear
            model by t with these degrees of freedom, which ``df`` reports. None for the normal distribution.

        Of a posterior ``fit`` is at the posterior means, ``se`` the standard deviation over the draws of the predictor (or of the
        mean) and an interval the quantiles of the predictive distribution, all uncertainty included. Where a method keeps no
        draws of the effects, normal, from their posterior covariances.

        Returns
        -------
        Series (m,); with ``se_fit`` or ``interval`` a DataFrame ``fit, se, lower, upper``. Rows with
        missing values are NaN. Of a Dask DataFrame the same as a Dask Series or DataFrame; of a Spark DataFrame a Spark
        DataFrame with these columns beside its own.

        Raises
        ------
        PredictionError : missing columns or new levels.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.predict({"Days": [0, 5], "Subject": ["308", "309"]}).round(2).tolist()
        [253.66, 220.24]
        """
        options = partitions.Options(
            re_form=re_form,
            type=type,
            allow_new_levels=allow_new_levels,
            se_fit=se_fit,
            interval=interval,
            level=level,
            marginal=marginal,
            weights=weights,
            ddf=ddf,
        )
        by_partition = partitions.predicted(self._fit, newdata, options)
        if by_partition is not None:
            return by_partition
        known = self._uncertainty
        if isinstance(known, JointUncertainty):
            if marginal or weights is not None or ddf is not None:
                raise ArgumentError(
                    "predict: marginal=, weights= and ddf= are not for a model with several linear predictors."
                )
            asked = joint_prediction.Asked(
                newdata, re_form, type, allow_new_levels, se_fit, interval, level
            )
            return joint_prediction.predict(known, asked)
        return prediction.predict(
            known,
            newdata,
            re_form,
            type,
            allow_new_levels,
            se_fit,
            interval,
            level,
            marginal,
            weights,
            None if ddf is None else lambda: self._ddf(ddf),
        )

    def simulate(
        self,
        nsim: int = 1,
        rng: None | int | np.random.Generator = None,
        *,
        use_u: bool = False,
        parameters: Mapping[str, float] | None = None,
    ) -> pd.DataFrame:
        """New responses from the fitted model, a column per simulation, prior weights honoured.

        Of a binomial model they are proportions of the trials, of an ordinal one categories.

        Parameters
        ----------
        nsim : number of simulations.
        rng : seed or generator.
        use_u : keep the conditional modes of the random effects and draw the rest alone; by default
            random effects are drawn anew, as in lme4.
        parameters : what to assume instead of some estimates, named as the rows of :meth:`confint`: ``{"Days": 5, "sigma": 30}``.

        Other parameters are the estimates, of a posterior its means: their own uncertainty is not part of the simulations.

        Returns
        -------
        DataFrame (rows x nsim), columns ``sim_1, ...``, on the user's index.
        """
        from lmm.results.rows import assumed

        estimate = assumed.assume(
            self.design, self.estimate, None if parameters is None else dict(parameters)
        )
        return simulation.simulate(self.design, estimate, nsim, rng, use_u)

    def augment(self) -> pd.DataFrame:
        """The user's rows with ``.fitted``, ``.resid`` and ``.fixed`` beside them; of a generalized model also ``.eta``."""
        return tidy.augment(self.design, self.estimate, self._eta)

    # ---- other fits ----

    def write_predictions(
        self,
        path: object,
        newdata: object = None,
        columns: Collection[str] | None = None,
        *,
        progress: bool | None = None,
    ) -> int:
        """Write fitted values and residuals as Parquet, in a second pass over data that is read in chunks.

        Parameters
        ----------
        path : file to write; it has its name when it is complete.
        newdata : other data to predict, anything that :func:`lmm.lmer` reads in chunks; None for the rows of the fit.
        columns : columns of the data that are written beside the predictions; None for those that the model uses, of
            ``newdata`` for all.
        progress : show a progress bar with rows per second; None as in ``control=lmm.Control(progress=...)``.

        Returns
        -------
        Rows written. The rows of the fit have ``.fitted``, ``.resid`` and ``.fixed`` (and ``.eta``) as in :meth:`augment`, in the
        order of the data; incomplete ones are left out, or have no value under ``na_action="exclude"``. Other data have
        ``.fitted``, with an effect of zero for levels that the fit never saw.

        Raises
        ------
        ArgumentError : the fit was made from a table in memory and there is no ``newdata``, or the rows can be read once only.

        Examples
        --------
        >>> import lmm, tempfile, os
        >>> folder = tempfile.mkdtemp()
        >>> lmm.datasets.load("sleepstudy").to_parquet(os.path.join(folder, "sleep.parquet"))
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", os.path.join(folder, "sleep.parquet"))
        >>> fit.write_predictions(os.path.join(folder, "fitted.parquet"))
        180
        """
        from lmm.results.rows import written

        show = self._method.control.progress if progress is None else bool(progress)
        bar = rows_bar if show else None
        if newdata is None:
            self.design.rows.require_chunks(
                "write_predictions is for data that is read in chunks; this fit has fit.augment(), a DataFrame."
            )
            return written.write(
                self.design, self.estimate, path, self.design.chunks.origin.open(), columns, bar
            )
        reducer = reducer_for(newdata)
        if reducer is None:
            raise ArgumentError(
                "write_predictions: newdata in memory is predicted by fit.predict(newdata)."
            )
        return written.write_new(self._fit, path, reducer, columns, bar)

    def refit(self, y: object, start: np.ndarray | None = None) -> Self:
        """The same model for another response: a new Fit; nothing that does not involve y is computed again.

        Parameters
        ----------
        y : (n,) values for the rows used, or one per row of the data; of a binomial model (n, 2) successes and failures as well.
        start : theta to begin from; moments of the new response otherwise.

        Raises
        ------
        DataError, ResponseError : wrong length; not numeric, missing or constant.
        """
        design, problem, estimate = updating.refitted(self._fit, y, start)
        return replace(self, design=design, problem=problem, estimate=estimate)

    def update(self, formula: str | None = None, **changes: object) -> Self:
        """The call repeated with a changed formula or arguments.

        Parameters
        ----------
        formula : with ``.`` for the part that was there: ". ~ . + x", ". ~ . - (1|g)", "log(.) ~ .". Terms that are taken away are gone:
            their columns are needed neither by the new fit nor by its predictions.
        changes : any argument of :func:`lmm.lmer` (or of ``glmer``, whichever made the fit), ``data`` included.

        Raises
        ------
        FormulaError : for a formula that cannot be read, or a random term or offset to take away that is not there.
        ArgumentError : for an argument that the call has not.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> str(fit.update(". ~ . - (Days|Subject) + (1|Subject)", REML=False).formula)
        'Reaction ~ Days + (1 | Subject)'
        """
        scope = caller()
        return cast(Self, updating.repeat_call(self.design, formula, changes, scope))

    def compare_methods(
        self, methods: Sequence[object] | Mapping[str, object], **changes: object
    ) -> MethodComparison:
        """The same model fitted by several methods, side by side.

        Parameters
        ----------
        methods : names (``["reml", "vi"]``) or estimators with their settings, or a mapping label -> either. This fit stands for
            its own method unless there are ``changes``.
        changes : other arguments of :meth:`update` for every fit.

        Returns
        -------
        :class:`lmm.results.MethodComparison`, with ``.table`` and ``.fits``.

        Raises
        ------
        ArgumentError : for a method that is not for this kind of model.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.compare_methods(["reml", "ml"]).table.loc["sigma"].xs("estimate", level=1).round(3).to_dict()
        {'reml': 30.991, 'ml': 30.895}
        """
        scope = caller()
        return comparison.compare(self._fit, methods, scope, changes)
