"""What was estimated and by which criterion: parameters with their names, their uncertainty, likelihoods, convergence.

This is what every capability of a fit stands on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.design.design import Design
from lmm.errors import ArgumentError, DegreesOfFreedomWarning, nearest, warn
from lmm.estimators.estimator import Estimator, adopted
from lmm.formula import Formula
from lmm.inference.session import session_ddf
from lmm.inference.tests.counted_ddf import COUNTED
from lmm.inference.tests.ddf import Asymptotic, Ddf, check, degrees_of_freedom
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Estimate
from lmm.results.posterior import uncertainty
from lmm.results.rows import generalized, thresholds
from lmm.results.tables import (
    coefficients,
    components,
    criteria,
    fixed,
    naming,
    random_effects_table,
    trace_table,
)
from lmm.results.tables.draws import PosteriorDraws
from lmm.results.tables.varcorr import VarCorr, varcorr
from lmm.results.uncertainty import Uncertainty

if TYPE_CHECKING:
    from lmm.results.fit import Fit


@dataclass(frozen=True, eq=False, repr=False)
class FitBase:
    """The five fields of a :class:`lmm.Fit`, and all that is a number about the model rather than about a row."""

    formula: Formula
    design: Design
    problem: Problem | GeneralizedProblem
    estimator: object
    estimate: Estimate

    @property
    def _method(self) -> Estimator:
        """The estimator, with what it does not say of itself at the default."""
        return adopted(self.estimator)

    @property
    def _fit(self) -> Fit:
        """The whole: what a capability hands to functions that ask for others."""
        return cast("Fit", self)

    # ---- parameters ----

    def fixef(self, component: str = "cond") -> pd.Series:
        """Fixed effects by coefficient name; NaN for a column that was dropped because it depends on others.

        Parameters
        ----------
        component : of a model with several linear predictors the one that is meant: "cond", that of the mean, "zi", of zero inflation,
            "disp", of the dispersion, or "all". The same in every method that has it.
        """
        if component != "cond":
            return self._component(component).fixef()
        return fixed.fixed_effects(self.design, self.estimate)

    def ranef(self, component: str = "cond") -> dict[str, pd.DataFrame]:
        """Conditional modes of the random effects: group -> DataFrame (levels x columns), in the response's units."""
        if component != "cond":
            return self._component(component).ranef()
        return random_effects_table.conditional_modes(self.design, self.estimate)

    def ranef_cov(self) -> dict[str, np.ndarray]:
        """Conditional covariances of the random effects given the data and theta: group -> array (levels, k, k).

        As in lme4 the uncertainty of the fixed effects is not part of them. Of a posterior its covariances, all uncertainty
        included.
        """
        covariances = self._uncertainty.mode_covariances()
        return {
            term.group: np.array(cov)
            for term, cov in zip(self.design.terms, covariances, strict=True)
        }

    def coef(self) -> dict[str, pd.DataFrame]:
        """Coefficients of each level, fixed plus random: group -> DataFrame (levels x coefficients)."""
        return random_effects_table.level_coefficients(self.design, self.estimate)

    def varcorr(self, component: str = "cond") -> VarCorr:
        """Standard deviations and correlations of the random effects; prints as lme4's ``VarCorr``."""
        if component != "cond":
            return self._component(component).varcorr()
        return varcorr(self.design, self.estimate)

    def residual_cov(self, stratum: str | None = None) -> pd.DataFrame:
        """Covariance (k, k) of the residuals of a subject that was seen at all places, of rows of weight one.

        Parameters
        ----------
        stratum : the level whose covariance is meant, where there are strata, ``"us(visit | arm/id)"``.

        Raises
        ------
        ArgumentError : residuals are independent and of one variance, or the stratum is not known.

        Examples
        --------
        >>> import lmm
        >>> fev = lmm.datasets.load("fev")
        >>> fit = lmm.lmer("FEV1 ~ ARMCD * AVISIT", fev, residual="ar1(AVISIT | USUBJID)")
        >>> fit.residual_cov().iloc[0].round(2).to_dict()
        {'VIS1': 50.5, 'VIS2': 17.97, 'VIS3': 6.39, 'VIS4': 2.27}
        """
        parts = self.design.residual
        if not parts:
            raise ArgumentError(
                "residual_cov: residuals are independent and of one variance, sigma ** 2; residual= gives them a structure."
            )
        own = [part for part in parts if part.recipe is not None]
        if not own:
            raise ArgumentError(
                "residual_cov: residuals are independent, and dispformula= tells their standard deviations: predict(type='disp')."
            )
        names = [part.stratum_name for part in own]
        if len(own) == 1 and stratum is None:
            stratum = names[0]
        if stratum not in names:
            raise ArgumentError(
                f"residual_cov: stratum={stratum!r} is not one of {', '.join(map(repr, names))}.{nearest(str(stratum), names)}"
            )
        which = names.index(stratum)
        nugget = sum(
            float(T[0, 0]) ** 2
            for part, T in zip(parts, self.estimate.residual, strict=True)
            if part.recipe is None
        )
        T, part = self.estimate.residual[which], own[which]
        values = self.estimate.sigma**2 * (T @ T.T + nugget * np.eye(part.k))
        return pd.DataFrame(values, index=list(part.columns), columns=list(part.columns))

    def varcorr_se(self, component: str = "cond") -> pd.DataFrame:
        """Standard errors of standard deviations and correlations; posterior standard deviations of a posterior's.

        They are rough where there are few levels, for the distributions are skewed: :meth:`confint` has better intervals.

        Returns
        -------
        DataFrame ``grp, var1, var2, sdcor, std_error``, the rows of ``varcorr().to_frame()``. Delta method on the covariance
        of the parameters, from the exact Hessian of the criterion; NaN where that is missing (nAGQ=0, given variances), for a
        variance of zero and a correlation of one.
        """
        if component != "cond":
            return self._component(component).varcorr_se()
        frame = self.varcorr().to_frame().drop(columns="vcov")
        return frame.assign(std_error=self._uncertainty.standard_errors())

    @property
    def family(self) -> Any:
        """Distribution of the response with its link (:class:`lmm.families.Family`); None for a linear model."""
        return self.estimate.family

    @property
    def sigma(self) -> float:
        """Residual standard deviation, in the response's units.

        Of a generalized model what the family reports for its dispersion: its square root where it scales the variance,
        itself otherwise, 1 for a family without one.
        """
        return float(self.estimate.sigma)

    @property
    def dispersion(self) -> float:
        """The family's dispersion parameter (theta of a negative binomial), 1 without one; sigma^2 of a linear model.

        Where a method estimates one for a family without it (quasi-likelihood), that. Of a family with several parameters the first.
        """
        return self.estimate.dispersion

    def family_parameters(self) -> pd.DataFrame:
        """The family's own parameters: ``estimate, std_error``, a row each; no rows where it has none.

        A dispersion, and shapes beside it: the degrees of freedom of :class:`lmm.families.StudentT`, the power of
        :class:`lmm.families.Tweedie`. Standard errors by the delta method from the joint covariance of all parameters.
        """
        names = self.estimate.distribution.own_names
        single, errors = self._uncertainty.single_dispersion(), self._uncertainty.own_errors()
        if single is not None:
            names, values, errors = ["dispersion"], np.array([single[1]]), np.array([single[2]])
        else:
            values = np.ravel(np.asarray(self.estimate.phi, dtype=float))[: len(names)]
        columns = {"estimate": values, "std_error": errors}
        return pd.DataFrame(columns, index=pd.Index(names, name="parameter"))

    def dispersion_se(self) -> float:
        """Standard error of :attr:`dispersion` in a generalized fit; NaN where the family has none."""
        return self._uncertainty.dispersion_se()

    def thresholds(self) -> pd.Series:
        """The thresholds (K-1,) of an ordinal fit, ``1|2, 2|3, ...`` by the categories they part; ArgumentError for another one.

        Their standard errors are in ``summary().tables["thresholds"]``, their covariances in ``vcov(full=True)``.
        """
        return thresholds.thresholds(self.estimate)

    @property
    def theta(self) -> pd.Series:
        """Relative covariance parameters: the lower triangle of each T, column by column, named as in lme4."""
        return pd.Series(
            np.array(self.estimate.theta),
            index=naming.theta_names(self.design.varying),
            name="theta",
        )

    @cached_property
    def _uncertainty(self) -> Uncertainty:
        return uncertainty(self.design, self.problem, self._method, self.estimate)

    def _component(self, component: str) -> Fit:
        """The fit as tables of one linear predictor read it; itself where there is one, or where it is that one."""
        known = self._uncertainty.of_component(component)
        if known is self._uncertainty:
            return self._fit
        if component not in self._components:
            fit = replace(self._fit, design=known.design, estimate=known.estimate)
            vars(fit)["_uncertainty"] = known
            self._components[component] = fit
        return self._components[component]

    @property
    def _whole(self) -> Fit:
        """The fit with the parameters of all its linear predictors, as a search has them."""
        return self._component("all") if len(self.estimate.components) > 1 else self._fit

    @cached_property
    def _components(self) -> dict[str, Fit]:
        return {}

    @cached_property
    def _known_ddf(self) -> dict[str | None, Ddf]:
        return {}

    def _ddf(self, ddf: str | None, what: str | None = None) -> Ddf:
        """Degrees of freedom by a method's name, computed once; "auto" is the usual method of this kind of model.

        ``what`` is the method asked for where a posterior has none at all.
        """
        if what is not None:
            self.estimate.require_likelihood(coefficients.no_tests(what))
        if ddf in (None, "auto"):
            usual = self.estimate.distribution.default_ddf if ddf == "auto" else None
            ddf = self._method.ddf or (session_ddf(self.estimate) if usual else None) or usual
        name = None if ddf is None else check(self.estimate, ddf)
        if name is None:
            return Asymptotic(self._uncertainty.beta)
        if name in COUNTED:
            return COUNTED[name](self.design, self._uncertainty.beta)
        if name not in self._known_ddf:
            found = degrees_of_freedom(
                self.problem, self._method, self.estimate, self._uncertainty.beta, name
            )
            if found.message is not None:
                warn(found.message, DegreesOfFreedomWarning)
            self._known_ddf[name] = found
        return self._known_ddf[name]

    def _table_ddf(self, ddf: str | None) -> str | None:
        """The method that a table of coefficients has: the one named, the fit's own, or the session's."""
        return ddf or self._method.ddf or session_ddf(self.estimate)

    def vcov(
        self, full: bool = False, ddf: str | None = None, component: str = "cond"
    ) -> pd.DataFrame:
        """Covariance (p, p) of the fixed effects; dropped columns have no row.

        Given theta in a linear model. In a generalized one from the exact Hessian over all parameters, computed once on first
        use (with nAGQ=0, or where the Hessian is not positive definite, given theta).

        Parameters
        ----------
        full : of all parameters: (theta, beta, log dispersion) of a generalized fit, (theta, beta, log sigma) of a linear one,
            whose fixed effects and variance parameters are asymptotically uncorrelated; zero rows for a theta on its boundary.
        ddf : "kenward_roger" for the covariance adjusted as Kenward and Roger do.
        component : as in :meth:`fixef`.

        Raises
        ------
        ArgumentError : ``full`` where there is no such covariance.
        """
        if component != "cond":
            return self._component(component).vcov(full, ddf)
        fixed_part = self._ddf(ddf).cov
        if not full:
            return fixed.covariance_frame(self.design, fixed_part)
        return self._uncertainty.full_covariance(fixed_part)

    cov_params = vcov

    @property
    def params(self) -> pd.Series:
        """The fixed effects, as :meth:`fixef`."""
        return self.fixef()

    @property
    def bse(self) -> pd.Series:
        """Standard errors of the fixed effects; posterior standard deviations of a posterior."""
        return fixed.standard_errors(self.design, self._uncertainty.beta)

    @property
    def tvalues(self) -> pd.Series:
        """Estimates over their standard errors; ArgumentError for a posterior."""
        self.estimate.require_likelihood(coefficients.no_tests("tvalues"))
        return fixed.statistics(self.design, self.estimate, self._uncertainty.beta)

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values from the standard normal, as statsmodels gives for mixed models.

        They ignore that theta is estimated and are too small with few groups. ArgumentError for a posterior.
        """
        self.estimate.require_likelihood(coefficients.no_tests("pvalues"))
        return fixed.normal_p_values(self.tvalues)

    # ---- criteria ----

    @property
    def llf(self) -> float:
        """Log-likelihood; for a REML fit -1/2 the REML criterion; NaN for a method that has none, and so are the criteria below.

        Of an iterative fit a float that carries its Monte Carlo error, ``fit.llf.mc_error``.
        """
        return criteria.log_likelihood(self.estimate)

    @property
    def aic(self) -> float:
        """-2 llf + 2 df_model, under REML too, as lme4 prints it."""
        return criteria.aic(self.estimate)

    @property
    def bic(self) -> float:
        """-2 llf + log(nobs) df_model."""
        return criteria.bic(self.estimate, self.design.n)

    @property
    def deviance(self) -> float:
        """-2 log-likelihood (ML). For a REML fit: the ML deviance at the REML estimates of theta.

        Of a generalized model the sum of squared deviance residuals, given the conditional modes, as in lme4; -2 ``llf``
        is -2 log-likelihood.
        """
        if self.family is not None:
            return generalized.deviance(self.design, self.estimate, self._eta)
        return criteria.ml_deviance(self.estimate, self.design.n)

    def overdispersion(self) -> float:
        """Pearson's chi-squared over :attr:`df_resid` of a generalized fit: well above 1, the counts vary more than the family says.

        Raises
        ------
        ArgumentError : for a linear model, which estimates its residual variance.
        """
        self.estimate.distribution.require_family(
            "overdispersion: a linear model estimates its residual variance; see fit.sigma."
        )
        return generalized.overdispersion(self.design, self.estimate, self._eta)

    @property
    def reml_criterion(self) -> float:
        """-2 restricted log-likelihood. For an ML fit: the criterion at the ML estimates of theta."""
        return criteria.reml_criterion(self.estimate, self.design.n)

    @property
    def elbo(self) -> float:
        """Evidence lower bound of a variational fit; NaN for other methods."""
        return float(self.estimate.elbo)

    @property
    def df_model(self) -> int:
        """Parameters estimated: fixed effects, covariance parameters, and the residual variance or dispersion where there is one."""
        return int(self.estimate.n_parameters)

    @property
    def df_resid(self) -> int:
        """nobs - df_model, lme4's ``df.residual``."""
        return self.nobs - self.df_model

    @property
    def nobs(self) -> int:
        """Rows used."""
        return self.design.n

    def objective(self, theta: object) -> float:
        """The minimised criterion at other parameters: profiled deviance (ML) or REML criterion.

        Of a generalized model -2 log-likelihood, at the estimates of whatever is not given.

        Parameters
        ----------
        theta : (m,) relative covariance parameters in the order of :attr:`theta`. For a generalized model theta, or theta
            followed by the kept coefficients and, where there is one, the dispersion.
        """
        names = naming.theta_names(self._component("all").design.varying)
        values = arguments.numbers_of(
            theta, "objective: theta", f"{len(names)} finite numbers, {', '.join(names)}"
        )
        everything = self.estimate.parameters
        if values.shape == self.estimate.whole_theta.shape:
            values = np.concatenate([values, everything[len(values) :]])
        if values.shape != everything.shape:
            raise ArgumentError(
                f"objective: theta must be {len(names)} finite numbers, {', '.join(names)}; its shape is {values.shape}."
            )
        return float(self._method.objective(self.problem, values))

    def is_singular(self, tol: float = 1e-4) -> bool:
        """Whether a variance is estimated as zero or a correlation as one.

        That is, a diagonal entry of T is below ``tol``, columns taken per their root mean square.
        """
        return components.is_singular(self.design, self.estimate, tol)

    def re_pca(self) -> dict[str, components.PrincipalComponents]:
        """Principal components of each group's random effects, relative to sigma."""
        return components.principal_components(self.design, self.estimate)

    @property
    def convergence(self) -> Convergence:
        """How the optimisation ended: converged, message, evaluations, scaled gradient, seconds by stage."""
        return self.estimate.convergence

    @property
    def draws(self) -> PosteriorDraws | None:
        """Draws from the posterior or its approximation, by name (:class:`lmm.results.PosteriorDraws`); None for other methods."""
        return self._uncertainty.draws

    @property
    def trace(self) -> pd.DataFrame:
        """What the method recorded, a row per ``iteration``: objective or loss, step sizes, parameters by their names."""
        return trace_table.trace_frame(self.design, self.estimate)

    @property
    def messages(self) -> tuple[str, ...]:
        """Text of every warning about this fit."""
        late = () if self._uncertainty.message is None else (self._uncertainty.message,)
        return (*self.design.messages, *self.estimate.messages, *late)

    @cached_property
    def _eta(self) -> np.ndarray:
        estimate = self.estimate
        if estimate.eta is None:
            return self.design.rows.predictor(estimate.beta, estimate.modes)
        values = np.array(estimate.eta)
        values.setflags(write=False)
        return values
