"""How far the parameters of a fit may be off: what tables, intervals and predictions ask of it.

Of a generalized fit the joint covariance over (theta, beta, log phi) is twice the inverse of the exact Hessian of
-2 log-likelihood. The fixed effects' block carries the uncertainty of theta. With nAGQ=0 the fixed effects have the covariance
given theta alone. Of a linear fit fixed effects and variance parameters (theta, log sigma) are asymptotically independent.
Standard deviations and correlations of the random effects get standard errors by the delta method, from dG = dT T' + T dT'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.errors import ArgumentError, ConvergenceWarning, nearest, warn
from lmm.estimators.estimator import Estimator
from lmm.inference.intervals.coverage import normal_quantile
from lmm.inference.tests.ddf import Ddf
from lmm.linalg import threads
from lmm.model.conditional import covariances
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.results.tables import fixed
from lmm.results.tables.naming import in_table_order, parameter_names, quantity_names, theta_names
from lmm.results.tables.varcorr import varcorr

if TYPE_CHECKING:
    from lmm.inference.intervals.posterior_prediction import FromDraws
    from lmm.inference.intervals.predictions import FromModes, PredictionRows
    from lmm.results.tables.draws import PosteriorDraws


@dataclass(frozen=True, eq=False)
class Covariances:
    """Covariances of the parameters.

    Attributes
    ----------
    beta : (p, p) covariance of the fixed effects.
    joint : covariance of (theta, beta, log phi), zero rows for a theta on its boundary; None when there is none.
    message : why ``joint`` is missing although the model should have it, else None.
    """

    beta: np.ndarray
    joint: np.ndarray | None = None
    message: str | None = None


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What a fit says of the uncertainty of its numbers, here by a likelihood;
    :class:`lmm.results.posterior.PosteriorUncertainty` says it by draws.

    Nothing is computed before it is asked for.
    """

    #: methods of intervals, the default first, and the one that goes with a table
    methods: ClassVar[tuple[str, ...]] = ("profile", "wald", "boot")
    plain_method: ClassVar[str] = "wald"

    design: Design
    problem: Problem | GeneralizedProblem
    estimator: Estimator
    estimate: Estimate

    def profiled(self, places: list[int] | None) -> tuple[Uncertainty, list[int] | None]:
        """What is profiled, and the parameters of its likelihood that are meant."""
        return self, places

    def own_rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of these parameters in a table of those of the likelihood."""
        return table

    def of_component(self, name: str) -> Uncertainty:
        """What is known of a linear predictor: of the only one, or of that of a linear model's dispersion."""
        if name != "cond" and any(part.diagonal for part in self.design.residual):
            from lmm.results.components.dispersion_component import dispersion_component

            return dispersion_component(self, name)
        self.estimate.of_component(name)
        return self

    @cached_property
    def _covariances(self) -> Covariances:
        """Covariances at the estimate; a warning tells where they should be more than those given theta."""
        estimate = self.estimate
        if estimate.nagq == 0:
            return Covariances(self.given_theta)
        try:
            with threads.limited():
                joint = self.estimator.covariance(self.problem, estimate)
        except np.linalg.LinAlgError:
            joint = np.full((1, 1), np.nan)
        if joint is None:
            return Covariances(self.given_theta)
        if is_covariance(joint):
            m, p = len(estimate.theta), len(estimate.beta)
            return Covariances(joint[m : m + p, m : m + p], joint)
        message = (
            "The Hessian of the log-likelihood is not positive definite at the estimates; the standard errors of the fixed effects are "
            "those given the variance parameters, which have none."
        )
        warn(message, ConvergenceWarning)
        return Covariances(self.given_theta, None, message)

    @cached_property
    def _variances(self) -> np.ndarray:
        """Covariance (m + 1, m + 1) of (theta, log sigma) of a linear fit."""
        from lmm.inference.tests import variance_parameters

        return variance_parameters.covariance(self.problem, self.estimator, self.estimate)

    @property
    def given_theta(self) -> np.ndarray:
        """The covariance (p, p) that belongs to the estimate itself: given theta, or of a posterior."""
        return np.asarray(self.estimate.scale2 * self.estimate.beta_cov_unscaled)

    @property
    def beta(self) -> np.ndarray:
        """(p, p) covariance of the fixed effects."""
        return self._covariances.beta

    @property
    def joint(self) -> np.ndarray | None:
        """Covariance of (theta, beta, log phi), zero rows for a theta on its boundary; None when there is none."""
        return self._covariances.joint

    @property
    def message(self) -> str | None:
        """Why a generalized fit has no joint covariance, once that has been asked for."""
        return self._covariances.message if "_covariances" in vars(self) else None

    @property
    def draws(self) -> PosteriorDraws | None:
        """The named draws of a posterior."""
        return None

    @property
    def variance_names(self) -> list[str]:
        """Names of the variance parameters in tables of intervals."""
        return parameter_names(self.design.varying, self.estimate.residual_sd is not None)

    def full_covariance(self, beta: np.ndarray) -> pd.DataFrame:
        """The covariance of theta, coefficients, and ``log(sigma)``, ``log(dispersion)`` or thresholds, by name.

        ``beta`` (p, p) is that of the fixed effects; ArgumentError where there is none.
        """
        estimate, names = self.estimate, [*theta_names(self.design.varying), *self.design.names]
        if estimate.family is None:
            variances = self._variances
            m, p = len(variances) - 1, len(beta)
            place = np.r_[:m, m + p]
            out = np.zeros((m + p + 1, m + p + 1))
            out[np.ix_(place, place)] = variances
            out[m : m + p, m : m + p] = beta
            return pd.DataFrame(out, index=[*names, "log(sigma)"], columns=[*names, "log(sigma)"])
        joint = self.joint
        if joint is None:
            why = self.message or "a fit with nAGQ=0 has none; fit with nAGQ=1"
            raise ArgumentError(
                f"vcov(full=True): no covariance of all parameters: {why}.".replace("..", ".")
            )
        own, J = estimate.family.reported(estimate.phi)
        names += own
        turn = np.eye(len(names))
        turn[len(names) - len(own) :, len(names) - len(own) :] = J
        return pd.DataFrame(turn @ joint @ turn.T, index=names, columns=names)

    def standard_errors(self) -> np.ndarray:
        """Standard errors of the rows of ``VarCorr.to_frame()`` (``sdcor``), delta method; NaN on a boundary and where none is known."""
        components = varcorr(self.design, self.estimate)
        frame = components.to_frame()
        linear = self.estimate.family is None
        given = self.estimate.n_parameters == len(self.estimate.beta)
        joint = (None if given else self._variances) if linear else self.joint
        if joint is None:
            return np.full(len(frame), np.nan)
        jacobian = _jacobian(self.design, self.estimate, len(joint))
        with np.errstate(invalid="ignore"):
            variance = np.einsum("ij,jk,ik->i", jacobian, joint, jacobian, optimize=True)
            correlation = np.array([kind == "cor" for kind in components.kinds], dtype=bool)
            inside = ~correlation | (frame["sdcor"].abs() < 1.0 - 1e-10).to_numpy()
            return np.asarray(np.where((variance > 0.0) & inside, np.sqrt(variance), np.nan))

    def dispersion_se(self) -> float:
        """Standard error of the dispersion parameter phi (delta method on its logarithm); NaN where nothing is known."""
        errors = self.own_errors()
        return float(errors[0]) if len(errors) else float("nan")

    def own_errors(self) -> np.ndarray:
        """Standard errors of the family's own parameters phi (r,), by the delta method; NaN where nothing is known.

        Of a family of categories there are none here: its thresholds have a table of their own.
        """
        estimate = self.estimate
        J = estimate.distribution.phi_slopes(estimate.phi)
        if not len(J) or self.joint is None:
            return np.full(len(J), np.nan)
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.diagonal(J @ self.joint[-len(J) :, -len(J) :] @ J.T))

    def single_dispersion(self) -> tuple[str, float, float] | None:
        """Name, value and standard error of a dispersion that is one number in a model with several linear predictors; else None."""
        return None

    def mode_covariances(self) -> tuple[np.ndarray, ...]:
        """Per term (J, k, k) covariances of the random effects: given the data and theta."""
        return covariances(self.problem, self.estimate)

    def effect_limits(self, t: int, sd: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Limits (J, k) of the random effects of a term; ``sd`` (J, k) are the roots of their variances in ``mode_covariances``."""
        margin = normal_quantile(level) * sd
        modes = np.asarray(self.estimate.modes[t])
        return modes - margin, modes + margin

    def effect_scale(self, t: int) -> np.ndarray:
        """(J, k) standard deviations that the modes of a term should have if the model holds; NaN for a variance of zero.

        The variance of a mode is that of the effects less the conditional one, G - C_j (Lange & Ryan, 1989, Annals of Statistics 17).
        """
        T = self.estimate.factors[t]
        total = np.diag(T @ T.T) * self.estimate.scale2
        variance = total - np.diagonal(self.mode_covariances()[t], axis1=1, axis2=2)
        return np.sqrt(np.where(variance > 1e-10 * np.maximum(total, 1e-300), variance, np.nan))

    def coefficient_limits(self, level: float) -> pd.DataFrame:
        """``lower, upper`` of the coefficients, by ``plain_method``."""
        centre = fixed.fixed_effects(self.design, self.estimate)
        margin = normal_quantile(level) * fixed.standard_errors(self.design, self.beta)
        return pd.DataFrame({"lower": centre - margin, "upper": centre + margin})

    def variance_limits(self, level: float) -> pd.DataFrame:
        """Normal limits of correlations on the scale of atanh, of loadings on their own, of other parameters on that of the logarithm."""
        components, z = varcorr(self.design, self.estimate), normal_quantile(level)
        frame = components.to_frame()
        value, se = frame["sdcor"].to_numpy(dtype=float), self.standard_errors()
        correlation = np.array([kind == "cor" for kind in components.kinds], dtype=bool)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            on_log = value[:, None] * np.exp(np.outer(z * se / value, [-1.0, 1.0]))
            r = np.where(correlation, value, 0.0)
            on_z = np.tanh(np.arctanh(r)[:, None] + np.outer(z * se / (1.0 - r**2), [-1.0, 1.0]))
        limits = np.where(correlation[:, None], on_z, on_log)
        for row, kind in enumerate(components.kinds):
            if kind.startswith("loading"):
                limits[row] = value[row] + z * se[row] * np.array([-1.0, 1.0])
        table = fixed.limit_table(limits, components.names)
        own = self.dispersion()
        if own is None:
            return table
        margin = z * own["std_error"]
        limits = np.column_stack([own["estimate"] - margin, own["estimate"] + margin])
        names = quantity_names(self.design.residual[-1])
        return pd.concat([table, fixed.limit_table(limits, names)])

    def dispersion(self) -> pd.DataFrame | None:
        """``estimate, std_error, statistic, p_value`` of the coefficients of a linear model's ``dispformula``; None where it has none.

        The statistics are normal.
        """
        if not any(part.diagonal for part in self.design.residual):
            return None
        part = self.design.residual[-1]
        theta = self.estimate.theta[-part.structure.n_theta :]
        sigma = np.array([self.estimate.sigma])
        estimates = part.structure.described(theta[None], sigma)[0]
        columns = {"estimate": estimates, "std_error": fixed.deviations(self.dispersion_cov())}
        table = pd.DataFrame(columns, index=list(part.columns))
        statistic = (table["estimate"] / table["std_error"]).rename("statistic")
        return table.assign(statistic=statistic, p_value=fixed.normal_p_values(statistic))

    def dispersion_cov(self) -> np.ndarray:
        """(q, q) covariance of these coefficients."""
        q = self.design.residual[-1].structure.n_theta
        return np.asarray(self._variances[-1 - q : -1, -1 - q : -1])

    def intervals(
        self, method: str, level: float, places: list[int], ddf: str | None
    ) -> pd.DataFrame:
        """``lower, upper`` of some rows of the table of all parameters, by one of ``methods`` that need no refits."""
        from lmm.results.tables import intervals

        if method == "profile":
            return intervals.profile_intervals(self, level, places)
        return intervals.wald_intervals(self, level, ddf).iloc[places]

    def coefficient_table(self, ddf: Ddf | None) -> pd.DataFrame:
        """One row per coefficient: see :meth:`lmm.Fit.coef_table`."""
        return fixed.coefficient_table(self.design, self.estimate, self.beta, ddf)

    coefficient_errors = coefficient_table

    def contrast(
        self, L: object, rhs: object, ddf: Callable[[], Ddf], joint: bool, level: float
    ) -> pd.DataFrame:
        """Linear functions of the fixed effects: see :meth:`lmm.Fit.contrast`."""
        from lmm.results.tests import contrasts

        return contrasts.contrast_table(self.design, self.estimate, ddf(), L, rhs, joint, level)

    def error_variance(self, rows: PredictionRows) -> np.ndarray:
        """Variance of the predictor's error, one per complete row."""
        from lmm.inference.intervals import predictions

        return predictions.error_variance(rows, self.problem, self.estimate, self.beta)

    def predictive(self, rows: PredictionRows) -> FromModes | FromDraws:
        """What gives means, standard errors and intervals of these rows."""
        from lmm.inference.intervals.predictions import FromModes

        return FromModes(rows, self)

    def interval_method(self, method: str | None) -> str:
        """The method of intervals asked for, or the best that the fit has."""
        method = self.methods[0] if method is None else method
        if method not in self.methods:
            options = ", ".join(map(repr, self.methods))
            raise ArgumentError(
                f"confint(method={method!r}) is not one of {options}.{nearest(str(method), self.methods)}"
            )
        return method

    def __getstate__(self) -> dict[str, object]:
        """Everything, covariances that were computed too: of rows that do not travel they cannot be computed again."""
        return {name: own for name, own in vars(self).items() if name != "draws"}


def is_covariance(joint: np.ndarray) -> bool:
    """Finite, and positive definite in the parameters that are not fixed at a boundary."""
    if not np.isfinite(joint).all():
        return False
    diagonal = np.diagonal(joint)
    free = diagonal != 0.0
    if not (diagonal[free] > 0.0).all():
        return False
    sd = np.sqrt(diagonal[free])
    return bool(
        np.linalg.eigvalsh(joint[np.ix_(free, free)] / np.outer(sd, sd)).min(initial=1.0) > 0.0
    )


def _jacobian(design: Design, estimate: Estimate, size: int) -> np.ndarray:
    """d sdcor / d (theta, beta, log phi), of a linear fit d (theta, log sigma), (rows, size)."""
    out = []
    linear = estimate.family is None
    scale = float(estimate.sigma) if linear else 1.0
    start = 0
    for term in design.covarying:
        stop = start + term.structure.n_theta
        theta = np.asarray(estimate.theta[start:stop])
        values, slopes = term.structure.report(theta)
        for q, own in zip(
            term.structure.implied(), term.structure.implied_slopes(theta), strict=True
        ):
            row = np.zeros(size)
            row[start:stop] = scale * own if q.scales else own
            if linear and q.scales:
                row[-1] = scale * np.linalg.norm(term.structure.factor(theta)[q.row])
            out.append(row)
        for i, q in in_table_order(term.structure):
            row = np.zeros(size)
            row[start:stop] = scale * slopes[i] if q.scales else slopes[i]
            if linear and q.scales:
                row[-1] = scale * values[i]
            out.append(row)
        start = stop
    sigma = estimate.residual_sd
    if sigma is not None:
        row = np.zeros(size)
        if linear or estimate.family.has_dispersion:
            row[-1] = sigma if linear else sigma / 2.0  # sigma = sqrt(phi)
        out.append(row)
    return np.array(out).reshape(-1, size)
