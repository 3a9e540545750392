"""Bootstrap, influence, and the same model for many responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.results.parameters import FitBase

if TYPE_CHECKING:
    from lmm.results.rows import bootstrap, influence


@dataclass(frozen=True, eq=False, repr=False)
class Refitting(FitBase):
    """Bootstrap, influence, and the same model for many responses."""

    def bootstrap(
        self,
        nsim: int = 1000,
        statistic: Callable[[object], object] | None = None,
        kind: str = "parametric",
        rng: None | int | np.random.Generator = None,
        *,
        group: str | None = None,
        progress: bool | None = None,
    ) -> bootstrap.Bootstrap:
        """The bootstrap distribution of the parameters, or of any statistic of the fit.

        Refits of a linear model run side by side, from the estimates; a replicate is what :meth:`refit` gives for the responses
        of :meth:`simulate` with the same ``rng``, so a seed gives the same replicates on every machine.

        Parameters
        ----------
        nsim : number of replicates.
        statistic : called with the :class:`lmm.Fit` of each replicate; returns a number, an array, a mapping or a Series. None takes all
            parameters, named as in :meth:`confint`.
        kind : "parametric" simulates from the fitted model; "semiparametric" draws the conditional modes and the residuals of a linear
            model again, scaled to the estimated variances; "cases" draws whole levels of ``group`` with replacement.
        rng : seed or generator.
        group : for "cases" the grouping factor whose levels are drawn; by default the one that holds all others.
        progress : True shows a progress bar, False none; None one where the work takes more than two seconds in a terminal or notebook.

        Returns
        -------
        :class:`lmm.results.rows.bootstrap.Bootstrap`: ``.replicates``, ``.confint(level, type)``, ``.std_error``, ``.bias``, ``.failures``.

        Raises
        ------
        ArgumentError : for a posterior; a kind that the model has not; crossed factors without ``group``.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.bootstrap(200, rng=1).confint().loc["Days"].round(1).tolist()
        [7.2, 13.1]
        """
        from lmm.results.rows import bootstrap

        return bootstrap.bootstrap(self._fit, nsim, statistic, kind, group, rng, progress)

    def influence(
        self, by: str = "group", group: str | None = None, *, progress: bool | None = None
    ) -> influence.Influence:
        """How much the estimates owe to each group, or to each row, from fits that leave it out.

        Parameters
        ----------
        by : "group", "row", or the name of a grouping factor.
        group : the grouping factor whose levels are left out; by default the one with the fewest.
        progress : as in :meth:`bootstrap`.

        Returns
        -------
        :class:`lmm.results.rows.influence.Influence`: ``.estimates``, ``.dfbeta``, ``.dfbetas``, ``.cooks_distance``, ``.failures``.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.influence("Subject").cooks_distance.idxmax()
        '309'
        """
        from lmm.results.rows import influence

        self.estimate.require_one_predictor("influence")
        return influence.influence(self._fit, by, group, progress)

    def refit_many(self, Y: object, *, progress: bool | None = None) -> pd.DataFrame:
        """The same model for many responses at once.

        Parameters
        ----------
        Y : DataFrame or array, a row per row used (or per row of the data), a column per response.
        progress : as in :meth:`bootstrap`.

        Returns
        -------
        DataFrame, a row per response: the parameters as in :meth:`confint`, ``se_`` columns with standard errors of the coefficients given
        theta, ``llf``, ``converged`` and ``message``.

        Examples
        --------
        >>> import lmm
        >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
        >>> fit.refit_many(fit.simulate(3, rng=1))["Days"].round(2).tolist()
        [11.48, 10.16, 12.4]
        """
        from lmm.results.tests import many_responses

        self.estimate.require_one_predictor("refit_many")
        return many_responses.refit_many(self._fit, Y, progress)
