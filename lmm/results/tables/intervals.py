"""Intervals of the parameters: Wald's, from profiles of a likelihood, quantiles of a posterior's draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lmm.errors import ArgumentError, nearest
from lmm.inference.intervals.coverage import check_level, normal_quantile
from lmm.inference.tests.ddf import degrees_of_freedom
from lmm.results.rows.thresholds import threshold_table
from lmm.results.tables.fixed import (
    fixed_effects,
    kept_positions,
    limit_table,
    spread,
    standard_errors,
)

if TYPE_CHECKING:
    from lmm.results.uncertainty import Uncertainty

#: names that stand for all variance parameters, and for all coefficients
ALL_VARIANCES, ALL_COEFFICIENTS = "theta_", "beta_"


def rows(known: Uncertainty) -> tuple[list[str], list[str]]:
    """Names of the rows: variance parameters, then coefficients with the thresholds of an ordinal model."""
    return known.variance_names, [
        *known.design.all_names,
        *known.estimate.distribution.threshold_names,
    ]


def chosen(known: Uncertainty, parm: str | Sequence[str] | None) -> list[int]:
    """Positions of the rows that ``parm`` names, ascending. A name that two rows have (a predictor called sigma) means both."""
    variances, coefficients = rows(known)
    everything = [*variances, *coefficients]
    if parm is None:
        return list(range(len(everything)))
    groups = {
        ALL_VARIANCES: range(len(variances)),
        ALL_COEFFICIENTS: range(len(variances), len(everything)),
    }
    asked: set[int] = set()
    for name in [parm] if isinstance(parm, str) else list(parm):
        own = "Intercept" if name == "(Intercept)" and name not in everything else name
        found = groups.get(name) or [i for i, other in enumerate(everything) if other == own]
        if not found and name not in groups:
            options = ", ".join(map(repr, everything))
            raise ArgumentError(
                f"parm: {name!r} is not a parameter of this fit; there is {options}, 'theta_' for all variance parameters and 'beta_' for "
                f"all coefficients.{nearest(str(name), everything)}"
            )
        asked.update(found)
    return sorted(asked)


def likelihood_rows(known: Uncertainty) -> list[int]:
    """Rows of the parameters that a likelihood has: all but those of dropped coefficients."""
    design, q = known.design, len(known.variance_names)
    after = q + len(design.all_names)
    own = range(after, after + len(known.estimate.distribution.threshold_names))
    return [*range(q), *(q + kept_positions(design)).tolist(), *own]


def profiled(known: Uncertainty, places: Sequence[int]) -> list[int]:
    """Parameters of the likelihood at these rows."""
    kept = likelihood_rows(known)
    return [kept.index(i) for i in places if i in kept]


def confidence_intervals(
    known: Uncertainty,
    method: str,
    level: float,
    parm: str | Sequence[str] | None = None,
    ddf: str | None = None,
) -> pd.DataFrame:
    """``lower, upper`` of every parameter, or of those of ``parm``: "wald", "profile" or "posterior"; see :meth:`lmm.Fit.confint`."""
    check_level(level)
    places = chosen(known, parm)
    no_ddf(ddf, method)
    return known.intervals(method, level, places, ddf)


def profile_intervals(known: Uncertainty, level: float, places: list[int]) -> pd.DataFrame:
    """Where the profile likelihood of these rows falls by the quantile of chi-square; missing for dropped coefficients."""
    from lmm.results.tables import profile_table

    found = profile_table.profile(known, profiled(known, places), level)
    kept = [likelihood_rows(known)[i] for i in found.places]
    table = _placed(known, found.confint(level), kept).iloc[places]
    table.attrs["messages"] = found.messages
    return table


def bootstrapped(
    known: Uncertainty, table: pd.DataFrame, parm: str | Sequence[str] | None, ddf: str | None
) -> pd.DataFrame:
    """Intervals from a bootstrap, whose rows are those of the likelihood, with rows for dropped coefficients."""
    no_ddf(ddf, "boot")
    return _placed(known, table, likelihood_rows(known)).iloc[chosen(known, parm)]


def empty_rows(known: Uncertainty) -> pd.DataFrame:
    """The table of all parameters without limits."""
    return _placed(known, limit_table(np.zeros((0, 2)), []), [])


def _placed(known: Uncertainty, limits: pd.DataFrame, places: list[int]) -> pd.DataFrame:
    """Limits at their rows of the table of all parameters."""
    variances, coefficients = rows(known)
    names = [*variances, *coefficients]
    out = limit_table(np.full((len(names), 2), np.nan), names)
    out.iloc[places] = limits.to_numpy()
    return out


def no_ddf(ddf: str | None, method: str) -> None:
    """ArgumentError for degrees of freedom where there are none."""
    if ddf is not None and method != "wald":
        raise ArgumentError(
            f"ddf={ddf!r}: degrees of freedom go with method='wald', not with {method!r}."
        )


def wald_intervals(known: Uncertainty, level: float, ddf: str | None = None) -> pd.DataFrame:
    """Estimate -+ quantile times standard error: of coefficients normal, or t with degrees of freedom ``ddf``.

    Standard deviations are taken on the log scale and correlations on Fisher's z, atanh, so that no limit leaves their range.
    Missing on a boundary, where there is no standard error. Of a posterior the draws on these scales give means and standard deviations.
    """
    design, estimate = known.design, known.estimate
    fixed, z = fixed_effects(design, estimate), normal_quantile(level)
    if ddf is None:
        margin = z * standard_errors(design, known.beta)
    else:
        se, df = degrees_of_freedom(known.problem, known.estimator, estimate, known.beta, ddf).t(
            np.eye(len(estimate.beta))
        )
        margin = pd.Series(spread(design, se * stdtrit(df, 0.5 + level / 2.0)), index=fixed.index)
    tables = [pd.DataFrame({"lower": fixed - margin, "upper": fixed + margin})]
    own = threshold_table(estimate, known)
    if len(own):
        margin = z * own["std_error"]
        tables.append(
            pd.DataFrame({"lower": own["estimate"] - margin, "upper": own["estimate"] + margin})
        )
    return pd.concat([known.variance_limits(level).reindex(known.variance_names), *tables])
