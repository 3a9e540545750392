"""Whether a model fits its data, and how much it explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.arguments import caller
from lmm.errors import ArgumentError
from lmm.results.parameters import FitBase
from lmm.results.rows import row_values

if TYPE_CHECKING:
    from lmm.results.rows import findings, simulated_residuals


@dataclass(frozen=True, eq=False, repr=False)
class Criticism(FitBase):
    """Variance explained, simulated residuals, checks."""

    # ---- variance explained ----

    def r2(self, approximation: str = "lognormal") -> pd.Series:
        """Nakagawa's R2: ``marginal``, of the fixed effects, and ``conditional``, of fixed and random effects together.

        Shares of the variance on the scale of the linear predictor. A family adds the variance of its latent variable (binomial
        and ordinal models: logit pi^2/3, probit 1, cloglog pi^2/6), or an approximation at the mean of the model without
        predictors, which is fitted for it. Random slopes count by the mean variance over the rows (Johnson, 2014); a term with a
        level per row is residual. Of a posterior at its means.

        Parameters
        ----------
        approximation : for a log link "lognormal", "delta" or "trigamma"; other links have "delta" whatever this says.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.r2().round(3).to_dict()
        {'marginal': 0.279, 'conditional': 0.799}

        Notes
        -----
        Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14; Johnson (2014), Methods Ecol. Evol. 5.
        """
        from lmm.results.tests import r2

        self.estimate.require_one_predictor("r2")
        context = caller()
        return r2.r_squared(r2.decomposition(self._fit, approximation, context))

    def icc(
        self, by_group: bool = False, approximation: str = "lognormal"
    ) -> pd.Series | pd.DataFrame:
        """Intraclass correlation: the share of the random effects in the variance.

        Parameters
        ----------
        by_group : per grouping factor, instead of all together.
        approximation : as in :meth:`r2`.

        Returns
        -------
        Series ``adjusted`` (of what the fixed effects leave) and ``unadjusted`` (of everything); by group a DataFrame
        ``variance, icc``, whose shares add up to the adjusted one.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("diameter ~ 1 + (1|plate) + (1|sample)", lmm.datasets.load("Penicillin"))
        >>> fit.icc(by_group=True).round(3)["icc"].to_dict()
        {'plate': 0.151, 'sample': 0.785}
        """
        from lmm.results.tests import r2

        self.estimate.require_one_predictor("icc")
        context = caller()
        found = r2.decomposition(self._fit, approximation, context)
        return r2.intraclass_by_group(found) if by_group else r2.intraclass(found)

    # ---- residuals and rows ----

    def simulated_residuals(
        self,
        nsim: int = 250,
        rng: None | int | np.random.Generator = None,
        conditional: bool = False,
    ) -> simulated_residuals.SimulatedResiduals:
        """Residuals by simulation, uniform on (0, 1) when the model holds, whatever its family.

        Each is the randomised rank of the response among responses simulated from the fit.

        Parameters
        ----------
        nsim : simulations, 20 or more.
        rng : seed or generator.
        conditional : keep the random effects of the fit in the simulations; by default they are drawn anew, so that the tests are
            about the whole model.

        Returns
        -------
        :class:`lmm.results.rows.simulated_residuals.SimulatedResiduals`: ``.values`` on the user's index, ``.tests()``, ``.by(group)``; it
        prints. Of a posterior at its means.

        Examples
        --------
        >>> import lmm
        >>> herds = lmm.datasets.load("cbpp")
        >>> fit = lmm.glmer("cbind(incidence, size - incidence) ~ period + (1|herd)", herds, family="binomial")
        >>> residuals = fit.simulated_residuals(rng=1)
        >>> bool(residuals.values.between(0, 1).all()), list(residuals.tests().index)
        (True, ['uniformity', 'dispersion', 'outliers', 'zero_inflation', 'spread'])
        """
        from lmm.results.rows import simulated_residuals

        return simulated_residuals.simulated_residuals(
            self.design, self.estimate, self._eta, nsim, rng, conditional
        )

    def leverage(self) -> pd.Series:
        """Diagonal of the matrix that makes fitted values of responses, given the variance parameters, on the user's index.

        Fixed and random effects both; the sum is the effective number of parameters. Of a generalized model that of its working
        linear model at the modes.

        Raises
        ------
        ArgumentError : for an ordinal model, whose rows have no single fitted value.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> round(float(fit.leverage().sum()), 2)
        29.02
        """
        return row_values.as_series(self.design, self._leverage("leverage"), "leverage")

    def cooks_distance(self, of: str = "fitted") -> pd.Series:
        """Cook's distance of each row given the variance parameters, on the user's index, from one fit.

        (r / (1 - h))^2 k / (sigma^2 p) with r the Pearson residual and h the leverage. Refits without a row or a group are in
        :meth:`influence`.

        Parameters
        ----------
        of : "fitted", k = h, which is lme4's: random effects count as much as fixed ones. "fixed": k is the fixed effects' part
            of the leverage, so that it is the distance that they move when the row is left out.

        Raises
        ------
        ArgumentError : for an ordinal model, and one without fixed effects.
        """
        from lmm.inference.criticism import hat

        if of not in ("fitted", "fixed"):
            raise ArgumentError(f"cooks_distance: of={of!r} is not one of 'fitted', 'fixed'.")
        if not self.design.p:
            raise ArgumentError(
                "cooks_distance: the model has no fixed effects that a row could move."
            )
        leverage = self._leverage("cooks_distance")
        part = (
            leverage
            if of == "fitted"
            else hat.fixed_leverages(self.design, self.problem, self.estimate)
        )
        pearson = row_values.residuals(self.design, self.estimate, self._eta, "pearson", False)
        sigma = self.estimate.residual_sd or 1.0
        return row_values.as_series(
            self.design,
            hat.cooks_distances(pearson, leverage, part, sigma, self.design.p),
            "cooks_distance",
        )

    def rstudent(self) -> pd.Series:
        """Studentised residuals given the variance parameters, on the user's index, as lme4's: sign(d) sqrt(d^2 + h r^2 / (1 - h)) / sigma.

        d are deviance residuals, r Pearson residuals, h the leverages; of a linear model it is r / (sigma sqrt(1 - h)).

        Raises
        ------
        ArgumentError : for an ordinal model.
        """
        from lmm.inference.criticism import hat

        leverage = self._leverage("rstudent")
        deviance, pearson = (
            row_values.residuals(self.design, self.estimate, self._eta, type, True)
            for type in ("deviance", "pearson")
        )
        return row_values.as_series(
            self.design, hat.studentised(deviance, pearson, leverage), "rstudent"
        )

    def _leverage(self, what: str) -> np.ndarray:
        from lmm.inference.criticism import hat

        self.estimate.require_one_predictor(what)
        self.estimate.distribution.require_mean(
            f"{what}: the rows of {{kind}} model have no single fitted value."
        )
        self.estimate.require_one_predictor(what)
        if self.design.residual:
            raise ArgumentError(
                f"{what}: residuals that are correlated or of several variances have no leverage row by row; influence() refits without a "
                "row or a subject."
            )
        return hat.leverages(self.design, self.problem, self.estimate)

    # ---- the whole model ----

    def vif(self) -> pd.DataFrame:
        """Variance inflation of each term of the fixed part by the others.

        Returns
        -------
        DataFrame ``columns, vif, adjusted``: the number of coefficients, the generalized variance inflation factor (Fox & Monette,
        1992), and its 1/(2 columns)-th power, by which standard errors grow and which compares between terms.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("angle ~ recipe + temp + (1|recipe:replicate)", lmm.datasets.load("cake"))
        >>> fit.vif().round(6)
                columns  vif  adjusted
        recipe        2  1.0       1.0
        temp          1  1.0       1.0
        """
        from lmm.results.tests import collinearity_table

        return collinearity_table.inflation(self.design, self._uncertainty.beta)

    def check(
        self,
        nsim: int = 250,
        rng: None | int | np.random.Generator = 0,
        progress: bool | None = None,
    ) -> findings.Checks:
        """Everything that can be asked of the fit: prints what is wrong and what to do about it.

        Convergence, singularity, rank; distribution, spread, outliers and zeros by simulated residuals; single rows that lie too far
        out and tails that are too heavy; overdispersion; collinearity; normality of the random effects; rows that move the fit. A
        test is a warning below 0.01.

        Parameters
        ----------
        nsim : simulations of the response. Of many rows 40,000 drawn at random are simulated (fewer where ``nsim`` is above 250), so
            that memory and time are bounded; the printed result says so. What is said of single rows is of all rows.
        rng : seed or generator; the default is a seed, so that every call gives the same numbers.
        progress : a bar of the checks done: True (needs tqdm), False, or None, after two seconds where somebody can see it.

        Returns
        -------
        :class:`lmm.results.rows.findings.Checks`, with ``.table`` and ``.ok``.

        Notes
        -----
        ``outliers`` counts rows beyond all simulations, whose random effects are new. ``largest residual`` is about single rows given
        the predicted effects: the largest studentised residual of a linear model beside what n normal ones have, and of a generalized
        model the smallest tail probability, both times the number of rows (Bonferroni). ``residual tails`` is the kurtosis of the
        studentised residuals (Anscombe & Glynn, 1983, Biometrika 70).

        Examples
        --------
        >>> import lmm
        >>> ticks = lmm.datasets.load("grouseticks")
        >>> fit = lmm.glmer("TICKS ~ YEAR + (1|LOCATION)", ticks, family="poisson")
        >>> fit.check().table.loc["overdispersion", "status"]
        'warning'
        """
        from lmm.results.rows import findings

        return findings.check(self._fit, nsim, rng, progress)
