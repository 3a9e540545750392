"""The uncertainty of a posterior: everything from its draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.errors import ArgumentError
from lmm.estimators.estimator import Estimator
from lmm.estimators.monte_carlo import chain_diagnostics
from lmm.inference.intervals.coverage import normal_quantile, tails
from lmm.inference.tests.ddf import Ddf
from lmm.model.joint.joint_estimate import JointEstimate
from lmm.model.joint.joint_problem import JointProblem
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate, PosteriorEstimate
from lmm.results.joint_uncertainty import joint_uncertainty
from lmm.results.tables import coefficients
from lmm.results.tables.draws import PosteriorDraws, describe
from lmm.results.tables.fixed import fixed_effects, limit_table, spread, standard_errors
from lmm.results.tables.varcorr import varcorr
from lmm.results.uncertainty import Covariances, Uncertainty

if TYPE_CHECKING:
    from lmm.inference.intervals.posterior_prediction import FromDraws
    from lmm.inference.intervals.predictions import FromModes, PredictionRows


@dataclass(frozen=True, eq=False)
class PosteriorUncertainty(Uncertainty):
    """Uncertainty by the draws of a posterior or of its approximation."""

    methods: ClassVar[tuple[str, ...]] = ("posterior", "wald")
    plain_method: ClassVar[str] = "posterior"

    estimate: PosteriorEstimate

    @cached_property
    def _covariances(self) -> Covariances:
        """The posterior covariance of the fixed effects alone."""
        return Covariances(self.given_theta)

    @cached_property
    def draws(self) -> PosteriorDraws:
        """The draws by name."""
        return PosteriorDraws(self.design, self.estimate)

    @property
    def variance_names(self) -> list[str]:
        """What was drawn besides the coefficients."""
        return list(self.draws.variances)

    def full_covariance(self, beta: np.ndarray) -> pd.DataFrame:
        """Refused: the draws have it."""
        raise ArgumentError(
            "vcov(full=True): the draws have it, fit.draws.to_frame().drop(columns=['chain', 'draw']).cov()."
        )

    def standard_errors(self) -> np.ndarray:
        """Posterior standard deviations; NaN for a parameter that was given, or estimated by a single number."""
        draws = self.draws
        errors = []
        for name in varcorr(self.design, self.estimate).names:
            varies = name in draws and chain_diagnostics.varies(draws[name])
            errors.append(float(np.std(draws[name], ddof=1)) if varies else np.nan)
        return np.array(errors)

    def dispersion_se(self) -> float:
        """Posterior standard deviation of phi; NaN where it is a single number."""
        phi = self.estimate.draws.phi
        return float("nan") if phi is None else float(np.std(phi, ddof=1))

    def mode_covariances(self) -> tuple[np.ndarray, ...]:
        """Posterior covariances, all uncertainty included."""
        return self.estimate.mode_cov

    def effect_limits(self, t: int, sd: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of the draws where the effects were kept, else normal limits."""
        kept = self.estimate.draws.effects
        if not kept:
            return super().effect_limits(t, sd, level)
        lower, upper = np.quantile(kept[t], tails(level), axis=(0, 1))
        return lower, upper

    def effect_scale(self, t: int) -> np.ndarray:
        """The standard deviation of the posterior means over the levels."""
        modes = np.asarray(self.estimate.modes[t])
        return np.broadcast_to(np.std(modes, axis=0, ddof=1), modes.shape)

    def interval_method(self, method: str | None) -> str:
        """ "posterior" or "wald"."""
        if method in Uncertainty.methods and method not in self.methods:
            self.estimate.require_likelihood(
                f"confint(method={method!r}): there is no likelihood to go by; method='posterior' gives quantiles of the draws."
            )
        return super().interval_method(method)

    def intervals(
        self, method: str, level: float, places: list[int], ddf: str | None
    ) -> pd.DataFrame:
        """Quantiles of the draws with equal tails, or normal limits."""
        from lmm.results.tables import intervals

        if method == "wald":
            return intervals.wald_intervals(self, level, ddf).iloc[places]
        return self.quantiles(level).iloc[places]

    def quantiles(self, level: float) -> pd.DataFrame:
        """Quantiles of the draws of all parameters, with equal tails.

        Missing for a coefficient that was dropped, and for a parameter that is a single number rather than a distribution.
        """
        variances = self.variance_names
        frame = describe(self.draws, [*variances, *self.draws.coefficients], level)
        table = np.where(frame[["sd"]] > 0.0, frame[["lower", "upper"]], np.nan)
        q = len(variances)
        values = np.vstack(
            [table[:q], np.column_stack([spread(self.design, column) for column in table[q:].T])]
        )
        names = [*variances, *self.design.all_names]
        return limit_table(values, names)

    def coefficient_limits(self, level: float) -> pd.DataFrame:
        """Quantiles of the draws."""
        return self.quantiles(level).iloc[len(self.variance_names) :]

    def variance_limits(self, level: float) -> pd.DataFrame:
        """From means and standard deviations of the draws on these scales; missing for what is a single number."""
        z, limits = normal_quantile(level), []
        for name in self.draws.variances:
            values = self.draws[name]
            if not chain_diagnostics.varies(values[..., None])[0]:
                limits.append([np.nan, np.nan])
                continue
            to, back = (np.arctanh, np.tanh) if name.startswith("cor") else (np.log, np.exp)
            on_scale = to(values)
            limits.append(
                list(back(on_scale.mean() + z * on_scale.std(ddof=1) * np.array([-1.0, 1.0])))
            )
        return limit_table(np.reshape(limits, (-1, 2)), self.variance_names)

    def coefficient_table(self, ddf: Ddf | None) -> pd.DataFrame:
        """``estimate, posterior_sd, lower, upper`` and, for chains, ``r_hat, ess_bulk``."""
        return coefficients.posterior_table(self.design, self.estimate, self.beta, self.draws)

    def coefficient_errors(self, ddf: Ddf | None) -> pd.DataFrame:
        """``estimate, std_error``."""
        return pd.concat(
            [fixed_effects(self.design, self.estimate), standard_errors(self.design, self.beta)],
            axis=1,
        )

    def contrast(
        self, L: object, rhs: object, ddf: Callable[[], Ddf], joint: bool, level: float
    ) -> pd.DataFrame:
        """Mean, standard deviation and quantiles of the draws of contrasts."""
        from lmm.results.tests import contrasts

        return contrasts.drawn_contrasts(self.design, self.draws, L, rhs, joint, level)

    def predictive(self, rows: PredictionRows) -> FromModes | FromDraws:
        """From the draws, where they hold all that the rows need."""
        from lmm.inference.intervals import posterior_prediction

        needed = any(
            term is not None and mask.any()
            for term, mask in zip(rows.terms, rows.keep, strict=True)
        )
        draws = self.estimate.draws_for(effects=needed)
        return (
            super().predictive(rows)
            if draws is None
            else posterior_prediction.FromDraws(rows, self.estimate, draws)
        )

    def error_variance(self, rows: PredictionRows) -> np.ndarray:
        """From the posterior covariances of fixed and random effects, taken as independent."""
        from lmm.inference.intervals import posterior_prediction

        return posterior_prediction.normal_variance(rows, self.estimate, self.beta)


def uncertainty(
    design: Design, problem: Problem | GeneralizedProblem, estimator: Estimator, estimate: Estimate
) -> Uncertainty:
    """What a fit says of its uncertainty."""
    if isinstance(estimate, PosteriorEstimate):
        return PosteriorUncertainty(design, problem, estimator, estimate)
    if isinstance(estimate, JointEstimate):
        assert isinstance(problem, JointProblem)
        return joint_uncertainty(design, problem, estimator, estimate)
    return Uncertainty(design, problem, estimator, estimate)
