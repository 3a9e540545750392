"""Influence of groups and of rows: what the estimates would be without them, from fits without them.

With t the estimates of all data and t_(i) those without unit i, p coefficients and V their covariance,

    dfbeta    beta_(i) - beta
    dfbetas   the same over the standard errors of the fit without i
    Cook's    (beta_(i) - beta)' V^-1 (beta_(i) - beta) / p

Cook (1977), Technometrics 19; Belsley, Kuh & Welsch (1980), Regression Diagnostics. Variance parameters move too: ``.estimates``
has them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.errors import GroupingError
from lmm.estimators.likelihood.many_linear import write_single
from lmm.inference.refits import left_out, refits
from lmm.results.rows.bootstrap import failures_of, reported, term_of
from lmm.results.tables import parameter_table
from lmm.results.tables.fixed import deviations
from lmm.results.text.progress_bar import bar

if TYPE_CHECKING:
    from lmm.results.fit import Fit


@dataclass(frozen=True, eq=False)
class Influence:
    """Fits that leave one unit out each.

    Attributes
    ----------
    by : the grouping factor whose levels were left out, or "row".
    estimates : (units x parameters) DataFrame of the estimates without each, indexed by level or by the user's row; NaN where a fit failed.
    full : the same of all data, Series.
    std_errors : (units x coefficients) standard errors of the coefficients without each.
    vcov : (p x p) covariance of the coefficients of all data.
    failures : unit -> what went wrong, Series of text.
    """

    by: str
    estimates: pd.DataFrame
    full: pd.Series
    std_errors: pd.DataFrame
    vcov: pd.DataFrame
    failures: pd.Series

    @property
    def dfbeta(self) -> pd.DataFrame:
        """Coefficients without each unit less those of all data."""
        names = list(self.std_errors.columns)
        return self.estimates[names] - self.full[names]

    @property
    def dfbetas(self) -> pd.DataFrame:
        """:attr:`dfbeta` over the standard errors without the unit; beyond 2 / sqrt(units) is worth a look."""
        return self.dfbeta / self.std_errors

    @property
    def cooks_distance(self) -> pd.Series:
        """Cook's distance of each unit; beyond 4 / units is worth a look."""
        distance = left_out.cooks_distance(self.dfbeta.to_numpy(), self.vcov.to_numpy())
        return pd.Series(distance, index=self.estimates.index, name="cooks_distance")

    def to_frame(self) -> pd.DataFrame:
        """``cooks_distance`` and dfbetas, the most influential first."""
        frame = pd.concat([self.cooks_distance, self.dfbetas.add_prefix("dfbetas_")], axis=1)
        return frame.sort_values("cooks_distance", ascending=False)

    def __str__(self) -> str:
        lines = [
            f"Influence of {len(self.estimates)} {'rows' if self.by == 'row' else 'levels of ' + self.by}, the largest first"
        ]
        lines.append(self.to_frame().head(6).round(4).to_string())
        if len(self.failures):
            lines.append(f"{len(self.failures)} fits failed (see .failures)")
        return "\n".join(lines)

    __repr__ = __str__


def influence(fit: Fit, by: str, group: str | None, progress: bool | None) -> Influence:
    """Refits without each level or row. See :meth:`lmm.Fit.influence`."""
    design, estimate = fit.design, fit.estimate
    estimate.require_likelihood(
        "influence: this fit is a posterior distribution; fit a likelihood method, or compare posteriors by hand."
    )
    exchangeable = [term for term in design.units if term.exchangeable]
    groups = [term.group for term in exchangeable]
    if by not in ("group", "row"):
        for unit in (unit for unit in design.units if unit.group == by):
            unit.require_own_rows("influence by level")
        if by in groups and group is None:
            by, group = "group", by
        else:
            arguments.choice(by, "influence: by", ("group", "row", *groups))
    if by == "row":
        rows, part = list(np.arange(design.n)[:, None]), np.arange(design.n)
        name, index = "row", design.index
    else:
        whose = groups[-1] if group is None and groups else group
        term = design.units[term_of(design, whose, "influence")]
        name, part = term.group, term.codes
        rows = term.rows_of_levels()
        index = pd.Index(term.levels, name=name)
    single = left_out.left_single(design, part, len(rows))
    if len(single) == len(rows):
        left = "one of its rows" if by == "row" else f"a level of {name!r}"
        raise GroupingError(
            f"influence: without {left} grouping factor {single[0]!r} has one level left; a random effect needs at least two."
        )
    with bar(len(rows), "influence", progress) as told:
        batch = refits.without(design, fit.problem, fit._method, estimate, rows, told)
    for i, factor in single.items():
        why = f"GroupingError: grouping factor {factor!r} has one level left; a random effect needs at least two."
        write_single(batch, i, None, why)
    scale = estimate.distribution.scale(batch.sigma) ** 2
    errors = deviations(batch.beta_cov_unscaled * scale[:, None, None])
    return Influence(
        name,
        parameter_table.of_batch(design, estimate, batch).set_axis(index),
        parameter_table.of_estimate(design, estimate).rename("full"),
        pd.DataFrame(
            errors, index=index, columns=parameter_table.names(design, estimate)[1][: design.p]
        ),
        fit.vcov(),
        reported(failures_of(batch, index), batch.size, "influence"),
    )
