"""``fit.plot``: the pictures of one fit, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmm.arguments import checked_methods
from lmm.plots import (
    fixed_effects,
    overview,
    pooling,
    predicted,
    profile_pictures,
    quantiles,
    random_effects,
    resampled,
    residual_pictures,
    simulated,
)
from lmm.plots.axes import Drawn

if TYPE_CHECKING:
    from lmm.results.fit import Fit
    from lmm.results.rows.bootstrap import Bootstrap
    from lmm.results.rows.influence import Influence
    from lmm.results.rows.simulated_residuals import SimulatedResiduals
    from lmm.results.tables.profile_table import Profile

Rng = None | int | np.random.Generator


@checked_methods
class Plots:
    """The pictures of one fit.

    Every method takes Axes to draw in (``ax=``, as many as there are panels) or makes a figure of its own, and returns its Axes, an array
    of them where there are several; :meth:`check` a Figure. None shows a figure or changes a style: labels, limits and titles are yours
    to change. The same are functions of :mod:`lmm.plots`, the fit their first argument.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> axes = fit.plot.ranef()
    >>> [ax.get_title() for ax in axes]
    ['Intercept', 'Days']
    >>> axes[0].figure.savefig("subjects.png")                                                              # doctest: +SKIP
    """

    def __init__(self, fit: Fit):
        self._fit = fit

    def __call__(
        self, rng: Rng = 0, group: str | None = None, labels: int = 3, nsim: int | None = None
    ) -> Figure:
        """``fit.plot()`` is :meth:`check`, six pictures on a page."""
        return self.check(rng, group, labels, nsim)

    # ---- parameters ----

    def coefficients(
        self, level: float = 0.95, intercept: bool = False, ax: Axes | None = None
    ) -> Axes:
        """Fixed effects with normal intervals; posterior means with quantiles of the draws.

        Parameters
        ----------
        level : coverage of the intervals.
        intercept : draw the intercept too; it is often on another scale than the rest.
        ax : where to draw.
        """
        return fixed_effects.coefficients(self._fit, level, intercept, ax)

    def ranef(
        self,
        group: str | None = None,
        column: str | None = None,
        level: float = 0.95,
        sort: bool | str = True,
        ax: Drawn | None = None,
    ) -> Drawn:
        """Random effects of every level with intervals, a panel for each column: a caterpillar.

        The intervals are normal, from the conditional variances given the parameters, as in lme4's ``dotplot``; of a posterior quantiles
        of its draws. Above 60 levels no names are written, and of more than 2,000 evenly spaced ones are drawn.

        Parameters
        ----------
        group : grouping factor; all of them by default.
        column : one column of effects; all by default.
        level : coverage of the intervals.
        sort : by the first column of the group (True), by a column by its name, or in the order of the levels (False).
        ax : where to draw, one Axes per panel.

        Raises
        ------
        ArgumentError : for a group or column that the model does not have.
        """
        return random_effects.ranef(self._fit, group, column, level, sort, ax)

    def ranef_qq(
        self, group: str | None = None, level: float = 0.95, rng: Rng = 0, ax: Drawn | None = None
    ) -> Drawn:
        """Random effects against normal quantiles, a panel per column, with bands that normal effects fill.

        Each mode is divided by its own standard deviation, the square root of the effects' variance less the conditional one (Lange &
        Ryan, 1989), so that levels with few rows count like others; posterior means are divided by theirs. Levels outside the
        simultaneous band are named.

        Parameters
        ----------
        group : grouping factor, the first by default.
        level : coverage of the bands, for each point and for all at once.
        rng : seed or generator of the 400 simulations that make the bands.
        ax : where to draw, one Axes per column.
        """
        return random_effects.ranef_qq(self._fit, group, level, rng, ax)

    def shrinkage(
        self,
        group: str | None = None,
        x: str | None = None,
        y: str | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """How far the model draws each level from its own estimate towards the population.

        A level's own estimate comes from its rows alone, everything else held as fitted: by least squares, in a generalized model by
        maximum likelihood on the scale of the link. With one column of effects the levels are under each other; with more, two columns
        are coordinates, and ellipses hold 50 and 95 % of the estimated distribution of the levels.

        Parameters
        ----------
        group : grouping factor, the first by default.
        x, y : columns of effects, the first two by default.
        ax : where to draw.
        """
        return pooling.shrinkage(self._fit, group, x, y, ax)

    def profile(
        self,
        profile: Profile | None = None,
        parm: str | Sequence[str] | None = None,
        absolute: bool = False,
        ax: Drawn | None = None,
    ) -> Drawn:
        """The profile zeta of each parameter against its value, with intervals of 50, 80, 90, 95 and 99 %.

        A straight line means that the likelihood is as good as normal, and so is the Wald interval.

        Parameters
        ----------
        profile : from ``fit.profile()``, which is called where none is given.
        parm : names of parameters, all by default.
        absolute : draw its absolute value, with the intervals as bars.
        ax : where to draw, one Axes per parameter.
        """
        return profile_pictures.profile(self._fit, profile, parm, absolute, ax)

    def profile_pairs(
        self,
        profile: Profile | None = None,
        parm: Sequence[str] | None = None,
        ax: Drawn | None = None,
    ) -> Drawn:
        """Joint likelihood regions of every pair of parameters: 50, 80, 90, 95 and 99 %, with the profile traces.

        Below the diagonal on the scale of the parameters, above it on that of their zetas. Contours are interpolated between the points
        where the traces meet them (Bates & Watts, 1988), as in lme4's ``splom``.

        Parameters
        ----------
        profile : from ``fit.profile()``, which is called where none is given.
        parm : names of two or more parameters, all by default.
        ax : where to draw, m x m Axes.

        Returns
        -------
        array (m, m) of Axes.
        """
        return profile_pictures.profile_pairs(self._fit, profile, parm, ax)

    def bootstrap(
        self, bootstrap: Bootstrap | None = None, parm: str | Sequence[str] | None = None, level: float = 0.95, type: str = "percentile",
        nsim: int = 500, rng: Rng = 0, ax: Drawn | None = None,
    ) -> Drawn:  # fmt: skip
        """Distribution of the bootstrap's replicates, with the estimate and an interval.

        Parameters
        ----------
        bootstrap : from ``fit.bootstrap()``, which is called with ``nsim`` and ``rng`` where none is given.
        parm : names of statistics, all by default.
        level, type : of the interval, as in its ``confint``.
        ax : where to draw, one Axes per statistic.
        """
        return resampled.bootstrap(self._fit, bootstrap, parm, level, type, nsim, rng, ax)

    def influence(
        self, influence: Influence | None = None, labels: int = 5, ax: Drawn | None = None
    ) -> Drawn:
        """Cook's distance and dfbetas of leaving out each level (or row) in turn, the largest by name.

        Parameters
        ----------
        influence : from ``fit.influence()``, which is called where none is given.
        labels : how many are named.
        ax : where to draw, two Axes.
        """
        return resampled.influence(self._fit, influence, labels, ax)

    # ---- rows ----

    def residuals(
        self, type: str | None = None, span: float = 2.0 / 3.0, ax: Axes | None = None
    ) -> Axes:
        """Residuals against fitted values with a lowess through them.

        Of a linear model y - fitted (times the root of the weight); of a generalized one Pearson residuals against the linear predictor;
        of an ordinal one probability residuals. The lowess (Cleveland, 1979) is robust in a linear model, and goes through 20,000 rows at
        most. More than 5,000 rows are counted in hexagons. Pearson residuals of single binary trials are averaged in bins of the
        predictor's fixed part, with limits of two standard errors (Gelman & Hill, 2007).

        Parameters
        ----------
        type : another type of :meth:`lmm.Fit.residuals`.
        span : share of the rows in a window of the lowess.
        ax : where to draw.
        """
        return residual_pictures.residuals(self._fit, type, span, ax)

    def scale_location(self, span: float = 2.0 / 3.0, ax: Axes | None = None) -> Axes:
        """Square root of the absolute scaled residuals against fitted values with a lowess: level where the variance is the same.

        Parameters
        ----------
        span : share of the rows in a window of the lowess.
        ax : where to draw.
        """
        return residual_pictures.scale_location(self._fit, span, ax)

    def residuals_by_group(
        self, group: str | None = None, sort: bool = True, ax: Axes | None = None
    ) -> Axes:
        """Residuals of each level as a box: quartiles, median, and whiskers of 1.5 box lengths; above 60 levels thin lines over the range.

        Parameters
        ----------
        group : grouping factor, the first by default.
        sort : by the median, or in the order of the levels.
        ax : where to draw.
        """
        return residual_pictures.residuals_by_group(self._fit, group, sort, ax)

    def qq(
        self,
        ax: Axes | None = None,
        bands: str | None = "simulated",
        rng: Rng = 0,
        nsim: int | None = None,
        level: float = 0.95,
    ) -> Axes:
        """Residuals against the quantiles that they should have, with bands from simulations.

        Of a linear model scaled residuals against the normal distribution: responses are simulated from the fit, the fixed effects, modes
        and sigma estimated again at its variance parameters, and the residuals sorted. The dark band holds ``level`` of the simulations
        at each point, the light one that share of them everywhere at once; the line is their median. Of other models simulated residuals
        against the uniform distribution.

        Of more than 20,000 rows of a linear model studentised residuals are beside samples of as many independent normal ones, unless
        ``nsim`` is given; of a generalized model some of the rows are simulated, drawn at random.

        Parameters
        ----------
        ax : where to draw.
        bands : "simulated", or None for none.
        rng : seed or generator.
        nsim : simulations, 20 or more; 200, fewer for more than 2,000 rows.
        level : coverage of the bands.
        """
        return quantiles.qq(self._fit, ax, bands, rng, nsim, level)

    def simulated_residuals(
        self,
        residuals: SimulatedResiduals | None = None,
        nsim: int = 250,
        rng: Rng = 0,
        level: float = 0.95,
        ax: Drawn | None = None,
    ) -> Drawn:
        """Simulated (quantile) residuals: against the uniform distribution, and against the rank of the prediction with running quartiles.

        Parameters
        ----------
        residuals : from ``fit.simulated_residuals()``, which is called with ``nsim`` and ``rng`` where none is given.
        level : coverage of the bands.
        ax : where to draw, two Axes.
        """
        return simulated.simulated_residuals(self._fit, residuals, nsim, rng, level, ax)

    def simulated_responses(
        self, nsim: int = 50, rng: Rng = 0, level: float = 0.95, ax: Axes | None = None
    ) -> Axes:
        """Distribution of the response beside that of responses simulated from the fit: densities, or shares of each count or category.

        Parameters
        ----------
        nsim : simulations, random effects drawn anew in each.
        rng : seed or generator.
        level : coverage of the intervals of counts.
        ax : where to draw.
        """
        return simulated.simulated_responses(self._fit, nsim, rng, level, ax)

    # ---- predictions ----

    def predictions(
        self, x: str, by: str | None = None, level: float = 0.95, interval: str | None = "confidence", data: bool = True, type: str =
        "response", groups: bool | str = False, marginal: bool = False, ax: Axes | None = None,
    ) -> Axes:  # fmt: skip
        """The population's prediction along one predictor with its band, over the data.

        Other predictors are at their mean, categories at the most frequent one. Of an ordinal model the probabilities of its categories.

        Parameters
        ----------
        x : a column of the fixed part, or of a random slope.
        by : another one: a curve for each level, or at the 10, 50 and 90 % quantiles of a number.
        level, interval, type, marginal : as in :meth:`lmm.Fit.predict`; interval None draws no band.
        data : draw the rows.
        groups : a thin line for each level of the first grouping factor, or of the one named; for 300 of more.
        ax : where to draw.

        Raises
        ------
        ArgumentError : for an ``x`` or ``by`` that the model does not have.
        """
        return predicted.predictions(
            self._fit, x, by, level, interval, data, type, groups, marginal, ax
        )

    def by_group(
        self, group: str | None = None, x: str | None = None, levels: Sequence[object] | None = None, level: float = 0.95, columns: int |
        None = None, ax: Drawn | None = None,
    ) -> Drawn:  # fmt: skip
        """A panel per level: its data, its own curve with a band, and the population's.

        Panels are in the order of the first random effect; of more than 36 levels, 36 evenly spaced in that order are drawn.

        Parameters
        ----------
        group : grouping factor, the first by default.
        x : a column of the fixed part or of a random slope; by default one that has a random slope, or varies within levels.
        levels : names of the levels to draw.
        level : coverage of the band.
        columns : panels side by side.
        ax : where to draw, one Axes per level.
        """
        return predicted.by_group(self._fit, group, x, levels, level, columns, ax)

    # ---- all at once ----

    def check(
        self, rng: Rng = 0, group: str | None = None, labels: int = 3, nsim: int | None = None
    ) -> Figure:
        """Six pictures on a page: responses beside simulated ones, residuals, their size, their quantiles, random effects, influence.

        Parameters
        ----------
        rng : seed or generator of everything simulated.
        group : whose random effects; the first grouping factor by default.
        labels : how many influential rows are named.
        nsim : simulations for the bands of the residuals, as in :meth:`qq`.
        """
        return overview.check(self._fit, rng, group, labels, nsim)

    def __repr__(self) -> str:
        names = ", ".join(name for name in dir(type(self)) if not name.startswith("_"))
        return f"Pictures of {self._fit.formula}: {names}"
