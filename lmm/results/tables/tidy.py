"""Tidy tables in the manner of broom.mixed: one row per coefficient, per fit, per observation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.design.design import Design
from lmm.inference.intervals.coverage import check_level
from lmm.inference.tests.ddf import Ddf
from lmm.model.records import Estimate
from lmm.results.rows import generalized
from lmm.results.rows.row_values import align, fitted, residuals
from lmm.results.rows.thresholds import threshold_table
from lmm.results.tables import criteria
from lmm.results.tables.fixed import deviations, normal_p_values
from lmm.results.tables.varcorr import varcorr
from lmm.results.uncertainty import Uncertainty

EFFECTS = ("fixed", "ran_pars", "ran_vals")
COLUMNS = (
    "effect",
    "group",
    "level",
    "term",
    "estimate",
    "std_error",
    "statistic",
    "df",
    "p_value",
    "conf_low",
    "conf_high",
)


def tidy(
    known: Uncertainty,
    effects: str | Sequence[str],
    conf_level: float,
    limits: pd.DataFrame | None,
    ddf: Ddf | None = None,
) -> pd.DataFrame:
    """One row per parameter of the effects asked for. See :meth:`lmm.Fit.tidy`.

    ``limits`` are the intervals of all parameters, as :meth:`lmm.Fit.confint` gives them; None leaves intervals out.
    """
    wanted = [effects] if isinstance(effects, str) else list(effects)
    for effect in wanted:
        arguments.choice(effect, "tidy: effects", EFFECTS)
    check_level(conf_level)
    parts = []
    for effect in wanted:
        if effect == "fixed":
            part = fixed_rows(known, ddf)
        elif effect == "ran_pars":
            part = parameter_rows(known)
        else:
            part = mode_rows(known)
        if limits is not None:
            part["conf_low"], part["conf_high"] = conf_limits(
                known, effect, part, limits, conf_level
            )
        parts.append(part)
    present = {column for part in parts for column in part}
    return pd.concat(parts, ignore_index=True).reindex(columns=[c for c in COLUMNS if c in present])


def fixed_rows(known: Uncertainty, ddf: Ddf | None) -> pd.DataFrame:
    """``effect, term, estimate, std_error, statistic`` per coefficient, ``df, p_value`` where there are such; thresholds after them."""
    table = known.coefficient_errors(ddf)
    out = pd.DataFrame(
        {"effect": "fixed", "term": table.index, **{c: table[c].to_numpy() for c in table}}
    )
    own = threshold_table(known.estimate, known)
    if own.empty:
        return out
    own["p_value"] = normal_p_values(own["statistic"])
    return pd.concat(
        [out, own.rename_axis("term").reset_index().assign(effect="threshold")], ignore_index=True
    )


def parameter_rows(known: Uncertainty) -> pd.DataFrame:
    """Standard deviations ``sd__Days`` and correlations ``cor__Intercept.Days``, the residual as ``sd__Observation``."""
    components = varcorr(known.design, known.estimate)
    frame = components.to_frame()
    terms = []
    for kind, first, second in zip(components.kinds, frame["var1"], frame["var2"], strict=True):
        if first is None:
            terms.append("sd__Observation")
        else:
            names = [name for name in (first, second) if name and name != kind]
            terms.append("__".join([kind, *filter(None, [".".join(names)])]))
    out = pd.DataFrame(
        {"effect": "ran_pars", "group": frame["grp"], "term": terms, "estimate": frame["sdcor"]}
    )
    return out.assign(std_error=known.standard_errors())


def conf_limits(
    known: Uncertainty, effect: str, part: pd.DataFrame, limits: pd.DataFrame, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Limits for the rows of one kind of effect: conditional modes have normal ones, or quantiles of their draws."""
    design, estimate = known.design, known.estimate
    if effect == "ran_vals":
        errors = part["std_error"].to_numpy()
        lower, upper, start = [], [], 0
        for t, term in enumerate(design.terms):
            stop = start + term.J * term.k
            low, high = known.effect_limits(t, errors[start:stop].reshape(term.J, term.k), level)
            lower.append(low.ravel())
            upper.append(high.ravel())
            start = stop
        return np.concatenate(lower), np.concatenate(upper)
    names = varcorr(design, estimate).names
    q = len(limits) - len(design.all_names) - len(estimate.distribution.threshold_names)
    if effect != "ran_pars":
        table = limits.iloc[q:]
        return table["lower"].to_numpy(), table["upper"].to_numpy()
    table = limits.iloc[:q].reindex(names)
    implied = ~table.index.isin(limits.index[:q])
    if implied.any():  # no parameters: their intervals are normal ones
        table[implied] = known.variance_limits(level).reindex(names)[implied]
    return table["lower"].to_numpy(), table["upper"].to_numpy()


def mode_rows(known: Uncertainty) -> pd.DataFrame:
    """Conditional modes with conditional standard deviations, one row per level and column."""
    parts = []
    for term, modes, cov in zip(
        known.design.terms, known.estimate.modes, known.mode_covariances(), strict=True
    ):
        sd = deviations(cov)
        parts.append(
            pd.DataFrame(
                {
                    "effect": "ran_vals",
                    "group": term.group,
                    "level": np.repeat(np.asarray(term.levels, dtype=object), term.k),
                    "term": np.tile(np.array(term.columns, dtype=object), term.J),
                    "estimate": np.array(modes).ravel(),
                    "std_error": sd.ravel(),
                }
            )
        )
    columns = ["effect", "group", "level", "term", "estimate", "std_error"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def glance(design: Design, estimate: Estimate, eta: np.ndarray) -> pd.DataFrame:
    """One row: ``nobs, sigma, llf, aic, bic, reml_criterion`` (or ``deviance``), ``df_resid``; ``elbo`` of a variational fit."""
    if estimate.family is None or estimate.reml:
        deviance = estimate.objective
    else:  # of rows that were not kept it is not known
        deviance = np.nan if design.streamed else generalized.deviance(design, estimate, eta)
    row = {
        "nobs": design.n,
        "sigma": estimate.sigma,
        "llf": -estimate.objective / 2.0,
        "aic": criteria.aic(estimate),
        "bic": criteria.bic(estimate, design.n),
        "reml_criterion" if estimate.reml else "deviance": deviance,
        "df_resid": design.n - estimate.n_parameters,
    }
    if np.isfinite(estimate.elbo):
        row["elbo"] = estimate.elbo
    return pd.DataFrame([row])


def augment(design: Design, estimate: Estimate, eta: np.ndarray) -> pd.DataFrame:
    """The user's rows with ``.fitted``, ``.resid`` and ``.fixed`` (the population part) beside them.

    Of a generalized model ``.fitted`` are means, ``.resid`` deviance residuals,
    ``.eta`` and ``.fixed`` linear predictors. The leading dot, as in broom, keeps the new columns apart from the user's own.
    """
    columns = {
        ".fitted": fitted(design, estimate, eta),
        ".resid": residuals(design, estimate, eta, None, False),
        ".fixed": design.rows.fixed_part(estimate.beta),
    }
    columns |= dict.fromkeys(estimate.distribution.eta_columns, eta)
    added, index = align(design, np.column_stack(list(columns.values())))
    data = design.frame.data
    subset = design.subset
    if subset is not None:
        data = data[np.asarray(subset)]
    if len(index) != len(data):
        data = data[np.asarray(design.kept)]
    return pd.concat([data, pd.DataFrame(added, index=data.index, columns=list(columns))], axis=1)
