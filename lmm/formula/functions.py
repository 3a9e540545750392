"""R's functions that formulas use and Python lacks: factor(), cut(), ns(), ifelse(), ...

``PLAIN`` need no memory. ``STATEFUL`` take ``_state``, a dict filled on the data of the fit and read
back on new data, so that a knot or a mean is never computed from the new rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import DataError
from lmm.formula.levels import encode, strings
from lmm.formula.splines import natural_spline, quantile_knots

#: R's names with a dot that Python could not parse as a call
DOTTED = {name: name.replace(".", "_") for name in ("as.factor", "as.numeric", "as.integer", "as.character", "is.na")}


def factor(x: Any, levels: Sequence[Any] | None = None, labels: Sequence[Any] | None = None, ordered: bool = False) -> pd.Series:
    """A categorical: levels sorted (numbers as numbers), or in the order given; unused levels dropped."""
    series = x if isinstance(x, pd.Series) else pd.Series(x)
    if levels is None:
        found = encode(series, "factor()")
        values = pd.Categorical.from_codes(found.codes, categories=found.values, ordered=ordered)
    else:
        values = pd.Categorical(series, categories=list(levels), ordered=ordered)
    if labels is not None:
        if len(labels) != len(values.categories):
            raise DataError(f"factor() got {len(labels)} labels for {len(values.categories)} levels.")
        values = pd.Categorical.from_codes(values.codes, categories=pd.Index(labels), ordered=ordered)
    return pd.Series(values, index=series.index)


def relevel(x: Any, ref: Any) -> pd.Series:
    """The factor ``x`` with ``ref`` as its first level."""
    series = factor(x)
    categories = list(series.cat.categories)
    names = [str(c) for c in categories]
    if str(ref) not in names:
        raise DataError(f"relevel(): {ref!r} is no level; the levels are {', '.join(names[:12])}.")
    first = names.index(str(ref))
    return series.cat.reorder_categories([categories[first], *categories[:first], *categories[first + 1 :]])


def interaction(*factors: Any, sep: str = ".") -> pd.Series:
    """One categorical of the combinations that occur, ``a.b``, the first factor varying fastest as in R."""
    series = [factor(f) for f in factors]
    codes = np.zeros(len(series[0]), dtype=np.int64)
    size, names = 1, np.array([""], dtype=object)
    for i, one in enumerate(series):
        labels = strings(one.cat.categories).to_numpy(dtype=object)
        codes = np.where((codes < 0) | (one.cat.codes.to_numpy() < 0), -1, codes + size * one.cat.codes.to_numpy())
        names = np.concatenate([names + (sep + label if i else label) for label in labels])
        size *= len(labels)
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(names)), index=series[0].index).cat.remove_unused_categories()


def ifelse(test: Any, yes: Any, no: Any) -> pd.Series:
    """``yes`` where ``test`` holds, else ``no``."""
    index = test.index if isinstance(test, pd.Series) else None
    values = np.where(np.asarray(test, dtype=bool), yes, no)
    return pd.Series(values, index=index)


def log(x: Any, base: float | None = None) -> Any:
    """Natural logarithm, or to ``base``."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def cbind(*columns: Any) -> np.ndarray:
    """Columns side by side, (n, len(columns))."""
    return np.column_stack([np.asarray(c) for c in columns])


def _numbers(x: Any) -> Any:
    """as.numeric(): a categorical becomes 1..J as in R, text is read as numbers."""
    series = x if isinstance(x, pd.Series) else pd.Series(x)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return series.cat.codes.astype(float) + 1
    return pd.to_numeric(series).astype(float)


def cut(
    x: Any, breaks: Any, labels: Any = None, right: bool = True, include_lowest: bool = False, _state: dict[str, Any] | None = None
) -> pd.Series:
    """Intervals of ``x`` as a categorical; ``breaks`` are limits, or a number of equal intervals over the fitted data."""
    state = _state if _state is not None else {}
    series = x if isinstance(x, pd.Series) else pd.Series(x)
    if "breaks" not in state:
        limits = np.sort(np.asarray(breaks, dtype=float)) if np.ndim(breaks) else pd.cut(series, int(breaks), retbins=True)[1]
        state["breaks"] = limits
    return pd.Series(pd.cut(series, state["breaks"], labels=labels, right=right, include_lowest=include_lowest), index=series.index)


def ns(
    x: Any, df: int | None = None, knots: Any = None, intercept: bool = False, _state: dict[str, Any] | None = None
) -> dict[int, np.ndarray]:
    """Natural cubic splines, R's basis; linear beyond the boundary knots, which are the range of the fitted data."""
    state = _state if _state is not None else {}
    values = np.asarray(x, dtype=float)
    if "knots" not in state:
        state["boundary"] = (float(values.min()), float(values.max()))
        inner = np.atleast_1d(np.asarray(knots, dtype=float)) if knots is not None else None
        state["knots"] = inner if inner is not None else quantile_knots(values, (df or 1) - 1 - int(intercept))
    basis = natural_spline(values, state["knots"], state["boundary"], intercept)
    return {j + 1: basis[:, j] for j in range(basis.shape[1])}


def dummy(f: Any, level: Any = None, _state: dict[str, Any] | None = None) -> Any:
    """lme4's dummy(): a 0/1 column for one level, or for each level but the first."""
    state = _state if _state is not None else {}
    labels = strings(factor(f).cat.categories).to_numpy(dtype=object)[factor(f).cat.codes.to_numpy()]
    if "levels" not in state:
        state["levels"] = strings(factor(f).cat.categories).tolist()
    if level is None:
        return {name: (labels == name).astype(float) for name in state["levels"][1:]}
    if str(level) not in state["levels"]:
        raise DataError(f"dummy(): {level!r} is no level; the levels are {', '.join(state['levels'][:12])}.")
    return (labels == str(level)).astype(float)


def _summary(compute: Callable[[np.ndarray], Any]) -> Callable[..., float]:
    """A number computed once, from the data of the fit: ``x - mean(x)`` is the same shift on new data."""

    def remembered(x: Any, _state: dict[str, Any] | None = None) -> float:
        state = _state if _state is not None else {}
        if "value" not in state:
            state["value"] = float(compute(np.asarray(x, dtype=float)))
        return float(state["value"])

    return remembered


_NUMPY = ("sqrt", "log1p", "expm1", "log2", "log10", "exp", "sin", "cos", "tan", "floor", "round", "sign")

PLAIN: dict[str, Any] = {
    **{name: getattr(np, name) for name in _NUMPY},
    "abs": np.abs,
    "ceiling": np.ceil,
    "log": log,
    "pmin": np.minimum,
    "pmax": np.maximum,
    "factor": factor,
    "as_factor": factor,
    "ordered": lambda x, levels=None: factor(x, levels, ordered=True),
    "relevel": relevel,
    "interaction": interaction,
    "ifelse": ifelse,
    "cbind": cbind,
    "c": lambda *values: np.array(values),
    "as_numeric": _numbers,
    "as_integer": lambda x: np.trunc(_numbers(x)),
    "as_character": lambda x: pd.Series(x).astype("str"),
    "is_na": pd.isna,
    "TRUE": True,
    "FALSE": False,
    "pi": np.pi,
}

STATEFUL: dict[str, Any] = {
    "cut": cut,
    "ns": ns,
    "dummy": dummy,
    "mean": _summary(np.mean),
    "median": _summary(np.median),
    "sd": _summary(lambda v: np.std(v, ddof=1)),
    "var": _summary(lambda v: np.var(v, ddof=1)),
    "min": _summary(np.min),
    "max": _summary(np.max),
}
