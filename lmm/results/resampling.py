"""Intervals for the parameters of a fit: Wald, profile, bootstrap, posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.results.parameters import FitBase
from lmm.results.tables import intervals

if TYPE_CHECKING:
    from lmm.results.tables import profile_table as profiles


@dataclass(frozen=True, eq=False, repr=False)
class Resampling(FitBase):
    """Confidence intervals, profiles, bootstrap, influence."""

    def confint(
        self,
        method: str | None = None,
        level: float = 0.95,
        parm: str | Sequence[str] | None = None,
        ddf: str | None = None,
        *,
        nsim: int = 1000,
        boot_type: str = "percentile",
        rng: None | int | np.random.Generator = None,
        component: str = "cond",
    ) -> pd.DataFrame:
        """Confidence intervals ``lower, upper``: ``sd_(Intercept)|Subject``, ..., ``sigma`` (where there is one), then coefficients.

        Parameters
        ----------
        method : "profile", the default: where the profile likelihood falls by the quantile of chi-square (:meth:`profile`; a REML
            fit is refitted by maximum likelihood; a quasi-likelihood has no profile, its default is "wald"). "wald": estimates and
            standard errors, standard deviations on the log scale, correlations on that of atanh. "boot": from refits to simulated
            responses (:meth:`bootstrap`). Of a posterior the default is "posterior", quantiles of the draws with equal tails (missing
            for a parameter that was given or point-estimated), beside "wald".
        level : coverage.
        parm : rows by name; ``"theta_"`` for all variance parameters, ``"beta_"`` for all coefficients.
        ddf : "satterthwaite" or "kenward_roger" gives "wald" intervals of a linear model's coefficients with t quantiles.
        nsim, boot_type, rng : replicates, kind of interval (:meth:`lmm.results.rows.bootstrap.Bootstrap.confint`) and randomness of "boot".
        component : as in :meth:`fixef`.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.confint(parm="Days").round(2).to_numpy().tolist()
        [[7.36, 13.58]]
        >>> fit.confint("wald", parm="Days", ddf="kenward_roger").round(2).to_numpy().tolist()
        [[7.21, 13.73]]
        """
        from lmm.results.rows import bootstrap

        if component != "cond" and method != "boot":
            options: dict[str, Any] = {"nsim": nsim, "boot_type": boot_type, "rng": rng}
            return self._component(component).confint(method, level, parm, ddf, **options)
        if boot_type != "percentile":
            arguments.choice(boot_type, "confint: boot_type", bootstrap.TYPES)
        if method is None and self.estimate.quasi:
            method = "wald"  # no likelihood to profile
        method = self._uncertainty.interval_method(method)
        if method == "boot":
            table = self._fit.bootstrap(nsim, rng=rng).confint(level, boot_type)
            known = self._uncertainty.of_component(component)
            return intervals.bootstrapped(known, known.own_rows(table), parm, ddf)
        return intervals.confidence_intervals(self._uncertainty, method, level, parm, ddf)

    def profile(
        self,
        parm: str | Sequence[str] | None = None,
        level: float = 0.99,
        component: str = "cond",
    ) -> profiles.Profile:
        """Profile likelihood of every parameter, or of those of ``parm``.

        Each parameter is held at values on both sides of its estimate while the likelihood is maximised over the others. Profiles
        are of the likelihood, not of the REML criterion: a REML fit is refitted by maximum likelihood, and ``messages`` say so.

        Parameters
        ----------
        parm : names as in :meth:`confint`; ``"theta_"`` for all variance parameters, ``"beta_"`` for all coefficients.
        level : how far to go: to the limits of this level.
        component : as in :meth:`fixef`.

        Raises
        ------
        ArgumentError : for a fit without a likelihood (a posterior, given variances, quasi-likelihood).

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"), REML=False)
        >>> fit.profile("Days").confint().round(2).to_numpy().tolist()
        [[7.36, 13.58]]
        """
        from lmm.results.tables import profile_table as profiles

        if component != "cond":
            return self._component(component).profile(parm, level)
        known = self._uncertainty
        places = None if parm is None else intervals.profiled(known, intervals.chosen(known, parm))
        return profiles.profile(*known.profiled(places), level)

    def conf_int(
        self, method: str | None = None, level: float = 0.95, **options: Any
    ) -> pd.DataFrame:
        """:meth:`confint` with the normal intervals that statsmodels gives by this name, or those of the posterior."""
        return self.confint(method or self._uncertainty.plain_method, level, **options)
