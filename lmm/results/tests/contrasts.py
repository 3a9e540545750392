"""Linear functions of the fixed effects with their tests: arrays, names with weights, or text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.errors import ArgumentError, ComparisonWarning, nearest, warn
from lmm.inference.intervals.coverage import check_level, t_quantile, tails
from lmm.inference.tests import hypotheses
from lmm.inference.tests.ddf import Ddf
from lmm.inference.tests.distributions import t_p_values
from lmm.inference.tests.satterthwaite import decomposed
from lmm.model.records import Estimate
from lmm.results.tables.draws import PosteriorDraws
from lmm.results.tables.fixed import kept_positions


def contrast_table(
    design: Design, estimate: Estimate, ddf: Ddf, L: object, rhs: object, joint: bool, level: float
) -> pd.DataFrame:
    """See :meth:`lmm.Fit.contrast`."""
    level = check_level(level)
    labels, matrix, right = read(design, L, rhs)
    value = matrix @ estimate.beta
    _say_unbounded(design, estimate, matrix)
    if joint:
        _check_consistent(matrix, right, labels)
        test = ddf.f(matrix, value - right)
        if ddf.method is None:
            tested = {"chisq": test.f * test.num_df, "df": test.num_df, "p_value": test.p}
        else:
            tested = {"f_value": test.f, "num_df": test.num_df, "den_df": test.den_df}
            tested["p_value"] = test.p
        return pd.DataFrame(tested, index=["joint"])
    se, df = ddf.t(matrix)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (value - right) / se
        margin = t_quantile(level, df) * se
    columns = {
        "estimate": value,
        "std_error": se,
        "df": df,
        "statistic": statistic,
        "p_value": t_p_values(statistic, df),
        "lower": value - margin,
        "upper": value + margin,
    }
    return pd.DataFrame(columns, index=labels)


def drawn_contrasts(
    design: Design, draws: PosteriorDraws, L: object, rhs: object, joint: bool, level: float
) -> pd.DataFrame:
    """Mean, standard deviation and quantiles of L beta over the draws of a posterior."""
    level = check_level(level)
    labels, matrix, right = read(design, L, rhs)
    if joint or np.any(right != 0.0):
        raise ArgumentError(
            "contrast: a posterior has no tests, so that joint= and right-hand sides have no place; leave them out for mean, standard "
            "deviation and quantiles of L beta."
        )
    beta = np.stack([draws[name] for name in draws.coefficients], axis=-1)
    values = beta.reshape(-1, len(draws.coefficients)) @ matrix.T
    lower, upper = np.quantile(values, tails(level), axis=0)
    columns = {
        "estimate": values.mean(axis=0),
        "std_error": values.std(axis=0, ddof=1),
        "lower": lower,
        "upper": upper,
    }
    return pd.DataFrame(columns, index=labels)


def unbounded(design: Design, estimate: Estimate, L: np.ndarray) -> list[str]:
    """Coefficients that grow without bound in the fit and that contrasts L (q, p) involve."""
    lost = set(estimate.unbounded)
    return [
        name
        for name, column in zip(design.names, np.asarray(L).T, strict=True)
        if name in lost and np.any(column != 0.0)
    ]


def _say_unbounded(design: Design, estimate: Estimate, L: np.ndarray) -> None:
    names = unbounded(design, estimate, L)
    if names:
        what = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        warn(
            f"contrast: the data do not bound {what}: tests and intervals of what involves them mean nothing.",
            ComparisonWarning,
        )


def _check_consistent(L: np.ndarray, rhs: np.ndarray, labels: list[str]) -> None:
    """ArgumentError where rows of L depend on each other and their right-hand sides do not alike."""
    left, size, _, length = decomposed(L / np.maximum(np.abs(L).max(axis=0), 1e-300))
    scaled = rhs / length
    off = scaled - left @ (left.T @ scaled)
    if len(size) < len(L) and np.abs(off).max() > 1e-8 * np.abs(scaled).max():
        worst = [
            labels[i]
            for i in np.argsort(-np.abs(off), kind="stable")[:3]
            if abs(off[i]) > 1e-8 * np.abs(scaled).max()
        ]
        raise ArgumentError(
            f"contrast: the hypotheses contradict each other, so that they cannot hold jointly: {', '.join(map(repr, sorted(worst)))} "
            "are linear functions of the others with another right-hand side. Leave one out, or give rhs= that agrees."
        )


def read(design: Design, L: object, rhs: object) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels, weights (r, p) of the kept coefficients, and right-hand sides (r,) of what a user gives as contrasts."""
    right: np.ndarray | float = 0.0
    if isinstance(L, str) or (
        isinstance(L, Sequence) and len(L) and all(isinstance(text, str) for text in L)
    ):
        found = hypotheses.parse(L, list(design.all_names))
        labels, weights, right = list(found.labels), found.L, found.rhs
    else:
        labels, weights = _weights(design, L)
    if weights.shape[1] == len(design.all_names):
        weights = _kept(design, weights, labels)
    return labels, weights, right + _right_hand_side(rhs, len(weights))


def _weights(design: Design, L: object) -> tuple[list[str], np.ndarray]:
    """Labels, and weights of all coefficients or of those that were kept, from names with weights or an array."""
    names = list(design.all_names)
    if isinstance(L, pd.Series):
        L = {L.name if isinstance(L.name, str) else "1": L.to_dict()}
    if isinstance(L, Mapping) and not L:
        raise ArgumentError("contrast: L={} names no coefficient.")
    if isinstance(L, Mapping):
        several = all(isinstance(v, Mapping | pd.Series) for v in L.values())
        rows = L if several else {_label(L): L}
        L = pd.DataFrame(
            [{str(k): v for k, v in dict(row).items()} for row in rows.values()],
            index=[str(label) for label in rows],
        )
    if isinstance(L, pd.DataFrame):
        unknown = [str(name) for name in L.columns if str(name) not in names]
        if unknown:
            hint = nearest(unknown[0], names) or f" The coefficients are {', '.join(names)}."
            raise ArgumentError(f"contrast: the model has no coefficient {unknown[0]!r}.{hint}")
        table = (
            L.set_axis([str(name) for name in L.columns], axis=1).reindex(columns=names).fillna(0.0)
        )
        return [str(label) for label in L.index], _numbers(table.to_numpy())
    weights = np.atleast_2d(_numbers(L))
    if weights.ndim == 2 and weights.shape[1] in (len(names), design.p):
        return [str(i + 1) for i in range(len(weights))], weights
    raise ArgumentError(
        f"contrast: L has shape {np.shape(np.asarray(L))}; it needs a column for each of the {len(names)} coefficients: {', '.join(names)}."
    )


def _label(weights: Mapping[object, object]) -> str:
    """``2 a - b`` of a mapping of weights."""
    text = ""
    for name, weight in weights.items():
        if not isinstance(weight, int | float | np.number) or isinstance(weight, bool):
            raise ArgumentError(
                f"contrast: the weight of {name!r} must be a number, not {weight!r}."
            )
        size = "" if abs(weight) == 1 else f"{abs(float(weight)):g} "
        text += (" - " if weight < 0 else " + ") + f"{size}{name}"
    return "-" + text[3:] if text.startswith(" - ") else text.removeprefix(" + ")


def _numbers(values: object) -> np.ndarray:
    try:
        out = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "contrast: L must be text such as 'a - b = 0', a dict of coefficient name -> weight, a DataFrame with such columns, "
            "or an array."
        ) from error
    if not np.isfinite(out).all():
        raise ArgumentError("contrast: L holds values that are not finite.")
    return out


def _right_hand_side(rhs: object, count: int) -> np.ndarray:
    try:
        out = np.asarray(rhs, dtype=float)
    except (TypeError, ValueError):
        out = np.array(np.nan)
    if out.shape not in ((), (1,), (count,)) or not np.isfinite(out).all():
        raise ArgumentError(
            f"contrast: rhs must be a finite number or {count} of them, one per contrast."
        )
    return np.broadcast_to(out, (count,))


def _kept(design: Design, weights: np.ndarray, labels: list[str]) -> np.ndarray:
    """Weights of the kept columns from those of all; ArgumentError where a dropped one is meant."""
    kept = kept_positions(design)
    lost = np.setdiff1d(np.arange(len(design.all_names)), kept)
    used = np.argwhere(weights[:, lost] != 0.0)
    if len(used):
        row, column = used[0]
        raise ArgumentError(
            f"contrast {labels[row]!r}: the coefficient {design.all_names[lost[column]]!r} was dropped, for its column depends on others; "
            "a contrast of the others cannot tell what belongs to it."
        )
    return np.asarray(weights[:, kept])
