"""Intervals of the parameters: Wald's, from profiles of a likelihood, quantiles of a posterior's draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lmm.design.records import Design
from lmm.errors import ArgumentError, nearest
from lmm.estimators import chain_diagnostics
from lmm.estimators.base import Estimator
from lmm.inference.ddf import degrees_of_freedom
from lmm.later import Later
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.results import ordinal
from lmm.results.coverage import check_level, normal_quantile
from lmm.results.draws import PosteriorDraws, describe
from lmm.results.fixed import fixed_effects, kept_positions, spread, standard_errors
from lmm.results.naming import parameter_names
from lmm.results.uncertainty import Uncertainty
from lmm.results.uncertainty import standard_errors as variance_errors
from lmm.results.varcorr import varcorr

if TYPE_CHECKING:
    from lmm.results import profile
else:
    profile = Later("lmm.results.profile")

METHODS = ("profile", "wald", "boot")
POSTERIOR = ("posterior", "wald")
#: names that stand for all variance parameters, and for all coefficients
ALL_VARIANCES, ALL_COEFFICIENTS = "theta_", "beta_"


def method_name(known: Uncertainty, method: str | None) -> str:
    """The kind of interval asked for, or the best that the fit has: "profile", "wald", "boot" or "posterior"."""
    if known.draws is not None and method in ("profile", "boot"):
        raise ArgumentError(
            f"confint(method={method!r}): there is no likelihood to go by; method='posterior' gives quantiles of the draws."
        )
    methods = METHODS if known.draws is None else POSTERIOR
    method = methods[0] if method is None else method
    if method not in methods:
        raise ArgumentError(f"confint(method={method!r}) is not one of {', '.join(map(repr, methods))}.{nearest(str(method), methods)}")
    return method


def rows(design: Design, estimate: Estimate, known: Uncertainty) -> tuple[list[str], list[str]]:
    """Names of the rows: variance parameters, then coefficients with the thresholds of an ordinal model."""
    variances = parameter_names(design.terms, estimate.residual_sd is not None) if known.draws is None else list(known.draws.variances)
    return variances, [*design.all_names, *ordinal.threshold_names(estimate)]


def chosen(design: Design, estimate: Estimate, known: Uncertainty, parm: str | Sequence[str] | None) -> list[int]:
    """Positions of the rows that ``parm`` names, ascending. A name that two rows have (a predictor called sigma) means both."""
    variances, coefficients = rows(design, estimate, known)
    return places_of(variances, coefficients, parm)


def places_of(variances: list[str], coefficients: list[str], parm: str | Sequence[str] | None) -> list[int]:
    """The same among given names."""
    everything = [*variances, *coefficients]
    if parm is None:
        return list(range(len(everything)))
    asked: set[int] = set()
    for name in [parm] if isinstance(parm, str) else list(parm):
        if name in (ALL_VARIANCES, ALL_COEFFICIENTS):
            asked |= set(range(len(variances)) if name == ALL_VARIANCES else range(len(variances), len(everything)))
        elif name in everything or (name == "(Intercept)" and "Intercept" in everything):
            asked |= {i for i, other in enumerate(everything) if other == (name if name in everything else "Intercept")}
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
    return [back[i] if i < size else i - len(design.dropped) for i in places if i >= size or i in back]


def profile_places(design: Design, estimate: Estimate, known: Uncertainty, parm: str | Sequence[str]) -> list[int]:
    """Parameters of the likelihood that ``parm`` names."""
    return profiled(design, len(rows(design, estimate, known)[0]), chosen(design, estimate, known, parm))


def confidence_intervals(
    design: Design,
    problem: Problem | GeneralizedProblem,
    estimator: Estimator,
    estimate: Estimate,
    known: Uncertainty,
    method: str,
    level: float,
    parm: str | Sequence[str] | None = None,
    ddf: str | None = None,
) -> pd.DataFrame:
    """``lower, upper`` of every parameter, or of those of ``parm``: "wald", "profile" or "posterior"; see :meth:`lmm.Fit.confint`."""
    check_level(level)
    places = chosen(design, estimate, known, parm)
    no_ddf(ddf, method)
    if method == "posterior":
        assert known.draws is not None
        return posterior_intervals(design, known.draws, level).iloc[places]
    if method == "profile":
        variances, coefficients = rows(design, estimate, known)
        kept = profiled(design, len(variances), places)
        found = profile.profile(design, problem, estimator, estimate, kept, level)
        table = pd.DataFrame(np.nan, index=[*variances, *coefficients], columns=["lower", "upper"])
        table.iloc[profile_rows(design, len(variances), found.places)] = found.confint(level).to_numpy()
        table.attrs["messages"] = found.messages
        return table.iloc[places]
    return wald_intervals(design, problem, estimator, estimate, known, level, ddf).iloc[places]


def bootstrapped(
    design: Design, estimate: Estimate, known: Uncertainty, table: pd.DataFrame, parm: str | Sequence[str] | None, ddf: str | None
) -> pd.DataFrame:
    """Intervals from a bootstrap, whose rows are those of the likelihood, with rows for dropped coefficients."""
    no_ddf(ddf, "boot")
    variances, _ = rows(design, estimate, known)
    q, own = len(variances), list(table.index[len(variances) + len(design.names) :])
    coefficients = [*design.all_names, *own]
    out = pd.DataFrame(np.nan, index=[*variances, *coefficients], columns=["lower", "upper"])
    out.iloc[profile_rows(design, q, range(len(table)))] = table.to_numpy()
    return out.iloc[places_of(variances, coefficients, parm)]


def no_ddf(ddf: str | None, method: str) -> None:
    """ArgumentError for degrees of freedom where there are none."""
    if ddf is not None and method != "wald":
        raise ArgumentError(f"ddf={ddf!r}: degrees of freedom go with method='wald', not with {method!r}.")


def wald_intervals(
    design: Design,
    problem: Problem | GeneralizedProblem,
    estimator: Estimator,
    estimate: Estimate,
    known: Uncertainty,
    level: float,
    ddf: str | None = None,
) -> pd.DataFrame:
    """Estimate -+ quantile times standard error: of coefficients normal, or t with degrees of freedom ``ddf``.

    Standard deviations are taken on the log scale and correlations on Fisher's z, atanh, so that no limit leaves their range.
    Missing on a boundary, where there is no standard error. Of a posterior the draws on these scales give means and standard deviations.
    """
    fixed, z = fixed_effects(design, estimate), normal_quantile(level)
    if ddf is None:
        margin = z * standard_errors(design, known.beta)
    else:
        se, df = degrees_of_freedom(problem, estimator, estimate, known.beta, ddf).t(np.eye(len(estimate.beta)))
        margin = pd.Series(spread(design, se * stdtrit(df, 0.5 + level / 2.0)), index=fixed.index)
    tables = [pd.DataFrame({"lower": fixed - margin, "upper": fixed + margin})]
    if ordinal.is_ordinal(estimate.family):
        own = ordinal.threshold_table(estimate, known)
        margin = z * own["std_error"]
        tables.append(pd.DataFrame({"lower": own["estimate"] - margin, "upper": own["estimate"] + margin}))
    variances = rows(design, estimate, known)[0]
    own = drawn_variances(known.draws, level) if known.draws is not None else variance_intervals(design, estimate, known, level)
    own = own.reindex(variances)
    return pd.concat([own, *tables])


def drawn_variances(draws: PosteriorDraws, level: float) -> pd.DataFrame:
    """Normal limits of a posterior's standard deviations and correlations on those scales; missing for what is a single number."""
    z, limits = normal_quantile(level), []
    for name in draws.variances:
        values = draws[name]
        if not chain_diagnostics.varies(values[..., None])[0]:
            limits.append([np.nan, np.nan])
            continue
        to, back = (np.arctanh, np.tanh) if name.startswith("cor_") else (np.log, np.exp)
        on_scale = to(values)
        limits.append(list(back(on_scale.mean() + z * on_scale.std(ddof=1) * np.array([-1.0, 1.0]))))
    return pd.DataFrame(np.reshape(limits, (-1, 2)), index=list(draws.variances), columns=["lower", "upper"])


def variance_intervals(design: Design, estimate: Estimate, known: Uncertainty, level: float) -> pd.DataFrame:
    """Wald limits of standard deviations and correlations on the scales of their logarithm and of atanh."""
    components, z = varcorr(design, estimate), normal_quantile(level)
    frame = components.to_frame()
    value, se = frame["sdcor"].to_numpy(dtype=float), variance_errors(design, estimate, known)
    correlation = frame["var2"].notna().to_numpy()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        on_log = value[:, None] * np.exp(np.outer(z * se / value, [-1.0, 1.0]))
        r = np.where(correlation, value, 0.0)
        on_z = np.tanh(np.arctanh(r)[:, None] + np.outer(z * se / (1.0 - r**2), [-1.0, 1.0]))
    limits = np.where(correlation[:, None], on_z, on_log)
    return pd.DataFrame(limits, index=components.names, columns=["lower", "upper"])


def posterior_intervals(design: Design, draws: PosteriorDraws, level: float) -> pd.DataFrame:
    """Quantiles of the draws with equal tails, rows as above.

    Missing for a coefficient that was dropped, and for a parameter that is a single number rather than a distribution.
    """
    variances = draws.variances
    frame = describe(draws, [*variances, *draws.coefficients], level)
    table = np.where(frame[["sd"]] > 0.0, frame[["lower", "upper"]], np.nan)
    q = len(variances)
    values = np.vstack([table[:q], np.column_stack([spread(design, column) for column in table[q:].T])])
    return pd.DataFrame(values, index=[*variances, *design.all_names], columns=["lower", "upper"])
