"""Simulated residuals with the user's rows on them, their tests, and the same by group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lmm.arguments import checked_methods, whole
from lmm.arguments import generator as random_generator
from lmm.design.design import Design
from lmm.errors import ArgumentError, nearest
from lmm.inference.criticism import quantile_residuals as quantiles
from lmm.inference.refits.refits import some_rows
from lmm.inference.refits.simulated_responses import simulate_array
from lmm.memory import require
from lmm.model.records import Estimate
from lmm.results.rows import row_values
from lmm.results.text.numberformat import format_column, p_value_column
from lmm.results.text.render import TextTable, html_lines

FEWEST = 20
#: numbers in all simulations of a picture or a check at most, of which a row gets ``nsim``; and rows at the least
SIMULATED, ROWS = 10_000_000, 2_000
TESTS = ("uniformity", "dispersion", "outliers", "zero_inflation", "spread")


@checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class SimulatedResiduals:
    """Residuals in [0, 1], uniform when the model holds; prints their tests.

    Attributes
    ----------
    values : Series of the residuals on the user's index (of :meth:`by`, on the groups).
    fitted : Series beside it: the mean of a typical level, or given the random effects where these were kept (``conditional``); of an
        ordinal model the linear predictor.
    observed : (n,) responses of the rows used, counts as whole numbers.
    simulations : (n, nsim) simulated ones.
    discrete : whether responses can be equal.
    conditional : whether the simulations kept the random effects of the fit.
    counts : whether zeros have a meaning of their own.
    """

    values: pd.Series
    fitted: pd.Series
    observed: np.ndarray
    simulations: np.ndarray
    discrete: bool
    conditional: bool
    counts: bool
    _design: Design | None
    _ranks: np.ndarray
    _means: np.ndarray
    _seed: int

    @property
    def nsim(self) -> int:
        """Simulations."""
        return self.simulations.shape[1]

    @cached_property
    def _table(self) -> pd.DataFrame:
        rng = np.random.default_rng(self._seed)
        simulated = quantiles.simulated_ranks(self.simulations, self.discrete, rng)
        found = {
            "uniformity": quantiles.uniformity(self._ranks, simulated),
            "dispersion": quantiles.dispersion(self.observed, self.simulations),
            "outliers": quantiles.outliers(self.observed, self.simulations),
            "zero_inflation": quantiles.zeros(self.observed, self.simulations)
            if self.counts
            else quantiles.NOT_MEANT,
            "spread": quantiles.spread(self._ranks, simulated, self._means),
        }
        return pd.DataFrame.from_dict(
            found, orient="index", columns=["statistic", "expected", "p_value"]
        )

    def tests(self) -> pd.DataFrame:
        """Tests of the residuals against the simulations, each of which is taken for the data in turn.

        Returns
        -------
        DataFrame ``statistic, expected, p_value`` with the rows

        - ``uniformity``: Kolmogorov and Smirnov's distance between the residuals and the uniform distribution;
        - ``dispersion``: mean square of the distances to the mean, in units of the simulations' variance: above 1 overdispersion;
        - ``outliers``: number of rows beyond all simulations;
        - ``zero_inflation``: zeros over zeros expected, of counts (missing for other responses);
        - ``spread``: correlation of the residuals' distance to 1/2 with the rank of the fitted value.

        ``expected`` is the mean over the simulations. No p-value is smaller than 1 / (nsim + 1), or twice that of a test with two
        sides (dispersion, zero_inflation, spread). They hold for dependent rows. They do not know that the parameters were
        estimated from the same data, to which these have adapted: they are too large, and what they find is there.
        """
        return self._table.copy()

    def by(self, group: object) -> SimulatedResiduals:
        """Residuals of the groups' sums, to see what single rows cannot show.

        Parameters
        ----------
        group : a grouping factor of the model, a column of the data, or one value per row.
        """
        if self._design is None:
            raise ArgumentError("by: these residuals are of groups already.")
        codes, labels = _groups(self._design, group)
        keep = codes >= 0
        codes, n = codes[keep], len(labels)
        y = np.bincount(codes, self.observed[keep], n)
        simulated = np.column_stack(
            [np.bincount(codes, column[keep], n) for column in self.simulations.T]
        )
        means = np.bincount(codes, self._means[keep], n) / np.bincount(codes, minlength=n)
        index = pd.Index(labels, name=group if isinstance(group, str) else None)
        rng = np.random.default_rng(self._seed)
        u = quantiles.randomised_ranks(y, simulated, rng)
        return SimulatedResiduals(
            pd.Series(u, index=index, name="simulated_residual"),
            pd.Series(means, index=index, name="fitted"),
            y,
            simulated,
            self.discrete,
            self.conditional,
            self.counts,
            None,
            u,
            means,
            self._seed,
        )

    def as_table(self) -> TextTable:
        """The tests as text."""
        found = self._table.dropna(subset="p_value")
        columns = [
            [format_column([v], 4)[0] for v in found[name]] for name in ("statistic", "expected")
        ]
        p = p_value_column(found["p_value"].to_numpy(), 3)
        head = ("", "statistic", "expected", "p_value")
        return TextTable.of_columns(head, [map(str, found.index), *columns, p], "tests")

    def _title(self) -> str:
        kept = ", random effects kept" if self.conditional else ""
        of = "rows" if self._design is not None else "groups"
        return f"Simulated residuals of {len(self.observed)} {of}, {self.nsim} simulations{kept}"

    def __str__(self) -> str:
        return f"{self._title()}\n{self.as_table().to_text()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"{html_lines([self._title()])}\n{self.as_table().to_html()}"


def simulated_residuals(
    design: Design,
    estimate: Estimate,
    eta: np.ndarray,
    nsim: int,
    rng: None | int | np.random.Generator,
    conditional: bool,
) -> SimulatedResiduals:
    """See :meth:`lmm.Fit.simulated_residuals`; ``eta`` the linear predictor given the random effects."""
    nsim = whole(nsim, "simulated_residuals: nsim", least=FEWEST)
    # the simulations, and where they are tested their ranks
    require(
        2.2 * 8.0 * design.n * nsim,
        f"simulated_residuals: {nsim} simulations of {design.n:,} rows",
        "take fewer, nsim=",
    )
    generator = random_generator(rng)
    family = estimate.distribution
    simulations = simulate_array(design, estimate, nsim, generator, bool(conditional))
    y = np.asarray(design.y, dtype=float)
    counts = family.discrete and family.has_mean
    if counts:
        trials = (
            design.weights
            if family.weights_are_trials and design.weights is not None
            else np.ones(design.n)
        )
        y = np.round(y * trials)
        for column in simulations.T:
            np.round(column * trials, out=column)
        counts = not family.weights_are_trials or bool(np.any(trials > 1.0))
    u = quantiles.randomised_ranks(y, simulations, generator)
    predictor = eta if conditional else design.rows.fixed_part(estimate.beta)
    means = estimate.distribution.expected(predictor, estimate.phi)
    return SimulatedResiduals(
        row_values.as_series(design, u, "simulated_residual"),
        row_values.as_series(design, means, "fitted"),
        y,
        simulations,
        family.discrete,
        bool(conditional),
        counts,
        design,
        u,
        np.asarray(means),
        int(generator.integers(2**32)),
    )


def some_of_many(n: int, nsim: int, rng: np.random.Generator) -> np.ndarray | None:
    """Which of n rows to simulate for a picture or a check, in order: all (None), or a random part of too many."""
    most = max(ROWS, SIMULATED // nsim)
    return None if n <= most else np.sort(rng.choice(n, most, replace=False))


def of_rows(
    design: Design,
    estimate: Estimate,
    eta: np.ndarray,
    which: np.ndarray | None,
    nsim: int,
    rng: np.random.Generator,
) -> SimulatedResiduals:
    """The residuals of some rows, which have the joint distribution that they have among all."""
    if which is not None:
        design, eta = some_rows(design, which, {}), eta[which]
    return simulated_residuals(design, estimate, eta, nsim, rng, False)


def _groups(design: Design, group: object) -> tuple[np.ndarray, pd.Index]:
    """Code per row used, -1 where it is missing, and the labels of the codes."""
    if isinstance(group, str):
        for term in design.terms:
            if term.group == group:
                term.require_own_rows("by")
                return np.asarray(term.codes), term.levels
        table = design.frame.table
        if group not in table:
            names = [*(term.group for term in design.terms), *table.columns]
            raise ArgumentError(
                f"by: {group!r} is neither a grouping factor of the model nor a column of its data.{nearest(group, names)}"
            )
        group = np.asarray(table.column(group))[design.rows_used]
    codes, labels = pd.factorize(design.aligned(group, "by"), sort=True)
    return codes, pd.Index(labels)
