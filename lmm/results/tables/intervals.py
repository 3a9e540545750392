"""Intervals of the parameters: Wald's, from profiles of a likelihood, quantiles of a posterior's draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lmm.design.design import Design
from lmm.errors import ArgumentError, nearest
from lmm.inference.tests.ddf import degrees_of_freedom
from lmm.results.rows.thresholds import threshold_table
from lmm.results.tables.fixed import fixed_effects, kept_positions, spread, standard_errors
from lmm.results.text.coverage import check_level, normal_quantile

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
    return places_of(variances, coefficients, parm)


def places_of(
    variances: list[str], coefficients: list[str], parm: str | Sequence[str] | None
) -> list[int]:
    """The same among given names."""
    everything = [*variances, *coefficients]
    if parm is None:
        return list(range(len(everything)))
    asked: set[int] = set()
    for name in [parm] if isinstance(parm, str) else list(parm):
        if name in (ALL_VARIANCES, ALL_COEFFICIENTS):
            asked |= set(
                range(len(variances))
                if name == ALL_VARIANCES
                else range(len(variances), len(everything))
            )
        elif name in everything or (name == "(Intercept)" and "Intercept" in everything):
            asked |= {
                i
                for i, other in enumerate(everything)
                if other == (name if name in everything else "Intercept")
            }
        else:
            options = ", ".join(map(repr, everything))
            raise ArgumentError(
                f"parm: {name!r} is not a parameter of this fit; there is {options}, 'theta_' for all variance parameters and 'beta_' for "
                f"all coefficients.{nearest(str(name), everything)}"
            )
    return sorted(asked)


def profile_rows(design: Design, q: int, places: Sequence[int]) -> list[int]:
    """Rows of the table, in which dropped coefficients stand, of parameters of the likelihood; ``q`` variance parameters come first."""
    kept = kept_positions(design)
    more = len(design.all_names) - len(kept)
    return [i if i < q else q + int(kept[i - q]) if i < q + len(kept) else i + more for i in places]


def profiled(design: Design, q: int, places: Sequence[int]) -> list[int]:
    """The inverse: parameters of the likelihood for rows of the table, without those of dropped coefficients."""
    size = q + len(design.all_names)
    back = {row: i for i, row in enumerate(profile_rows(design, q, range(q + len(design.names))))}
    return [
        back[i] if i < size else i - len(design.dropped) for i in places if i >= size or i in back
    ]


def profile_places(known: Uncertainty, parm: str | Sequence[str]) -> list[int]:
    """Parameters of the likelihood that ``parm`` names."""
    return profiled(known.design, len(known.variance_names), chosen(known, parm))


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

    variances, coefficients = rows(known)
    q = len(variances)
    kept = profiled(known.design, q, places)
    found = profile_table.profile(
        known.design, known.problem, known.estimator, known.estimate, kept, level
    )
    table = pd.DataFrame(np.nan, index=[*variances, *coefficients], columns=["lower", "upper"])
    table.iloc[profile_rows(known.design, q, found.places)] = found.confint(level).to_numpy()
    table.attrs["messages"] = found.messages
    return table.iloc[places]


def bootstrapped(
    known: Uncertainty, table: pd.DataFrame, parm: str | Sequence[str] | None, ddf: str | None
) -> pd.DataFrame:
    """Intervals from a bootstrap, whose rows are those of the likelihood, with rows for dropped coefficients."""
    no_ddf(ddf, "boot")
    design, variances = known.design, known.variance_names
    q, own = len(variances), list(table.index[len(variances) + len(design.names) :])
    coefficients = [*design.all_names, *own]
    out = pd.DataFrame(np.nan, index=[*variances, *coefficients], columns=["lower", "upper"])
    out.iloc[profile_rows(design, q, range(len(table)))] = table.to_numpy()
    return out.iloc[places_of(variances, coefficients, parm)]


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
