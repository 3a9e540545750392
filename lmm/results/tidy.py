"""Tidy tables in the manner of broom.mixed: one row per coefficient, per fit, per observation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmm.design.records import Design
from lmm.errors import ArgumentError, nearest
from lmm.model.conditional import covariances
from lmm.model.problem import Problem
from lmm.model.records import Estimate
from lmm.results import criteria
from lmm.results.fixed import coefficient_table
from lmm.results.intervals import normal_quantile
from lmm.results.rows import align, fixed_predictor
from lmm.results.varcorr import varcorr

EFFECTS = ("fixed", "ran_pars", "ran_vals")
COLUMNS = ("effect", "group", "level", "term", "estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high")


def tidy(
    design: Design, problem: Problem, estimate: Estimate, effects: str | Sequence[str], conf_int: bool, conf_level: float
) -> pd.DataFrame:
    """One row per parameter of the effects asked for. See :meth:`lmm.Fit.tidy`."""
    wanted = [effects] if isinstance(effects, str) else list(effects)
    for effect in wanted:
        if effect not in EFFECTS:
            raise ArgumentError(f"tidy: effects={effect!r} is not one of {', '.join(map(repr, EFFECTS))}.{nearest(effect, EFFECTS)}")
    quantile = normal_quantile(conf_level)
    parts = []
    for effect in wanted:
        if effect == "fixed":
            part = fixed_rows(design, estimate)
        elif effect == "ran_pars":
            part = parameter_rows(design, estimate)
        else:
            part = mode_rows(design, problem, estimate)
        if conf_int and effect != "ran_pars":
            part["conf_low"] = part["estimate"] - quantile * part["std_error"]
            part["conf_high"] = part["estimate"] + quantile * part["std_error"]
        parts.append(part)
    present = {column for part in parts for column in part}
    if conf_int:
        present |= {"conf_low", "conf_high"}
    return pd.concat(parts, ignore_index=True).reindex(columns=[c for c in COLUMNS if c in present])


def fixed_rows(design: Design, estimate: Estimate) -> pd.DataFrame:
    """``effect, term, estimate, std_error, statistic`` per coefficient."""
    table = coefficient_table(design, estimate, None)
    return pd.DataFrame(
        {"effect": "fixed", "term": table.index, **{c: table[c].to_numpy() for c in ("estimate", "std_error", "statistic")}}
    )


def parameter_rows(design: Design, estimate: Estimate) -> pd.DataFrame:
    """Standard deviations ``sd__Days`` and correlations ``cor__Intercept.Days``, the residual as ``sd__Observation``."""
    frame = varcorr(design, estimate).to_frame()
    terms = []
    for first, second in zip(frame["var1"], frame["var2"], strict=True):
        if first is None:
            terms.append("sd__Observation")
        else:
            terms.append(f"sd__{first}" if second is None else f"cor__{first}.{second}")
    return pd.DataFrame({"effect": "ran_pars", "group": frame["grp"], "term": terms, "estimate": frame["sdcor"]})


def mode_rows(design: Design, problem: Problem, estimate: Estimate) -> pd.DataFrame:
    """Conditional modes with conditional standard deviations, one row per level and column."""
    parts = []
    for term, modes, cov in zip(design.terms, estimate.modes, covariances(problem, estimate), strict=True):
        sd = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
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
    return pd.concat(parts, ignore_index=True)


def glance(design: Design, estimate: Estimate) -> pd.DataFrame:
    """One row: ``nobs, sigma, llf, aic, bic, reml_criterion`` (or ``deviance``), ``df_resid``."""
    row = {
        "nobs": design.n,
        "sigma": estimate.sigma,
        "llf": -estimate.objective / 2.0,
        "aic": criteria.aic(estimate),
        "bic": criteria.bic(estimate, design.n),
        "reml_criterion" if estimate.reml else "deviance": estimate.objective,
        "df_resid": design.n - estimate.n_parameters,
    }
    return pd.DataFrame([row])


def augment(design: Design, estimate: Estimate, fitted: np.ndarray) -> pd.DataFrame:
    """The user's rows with ``.fitted``, ``.resid`` and ``.fixed`` (the population part) beside them.

    The leading dot, as in broom, keeps the new columns apart from the user's own.
    """
    added, index = align(design, np.column_stack([fitted, design.y - fitted, fixed_predictor(design, estimate)]))
    data = design.frame.data
    subset = design.extra.get("subset")
    if subset is not None:
        data = data[np.asarray(subset)]
    if len(index) != len(data):
        data = data[np.asarray(design.kept)]
    return pd.concat([data, pd.DataFrame(added, index=data.index, columns=[".fitted", ".resid", ".fixed"])], axis=1)
