"""R's functions that formulas use and Python lacks: factor(), cut(), ns(), ifelse(), ...

``PLAIN`` need no memory. ``STATEFUL`` take ``_state``, a dict filled on the data of the fit and read
back on new data, so that a knot, a mean or the number of a level is never computed from the new rows.
``CODING`` are those that remember levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lmm.arguments import whole
from lmm.errors import ArgumentError, DataError, LmmWarning, warn
from lmm.formula.columns.given import numeric
from lmm.formula.columns.levels import UnseenLevels, encode, matched, strings
from lmm.formula.columns.levels import labels as labels_of
from lmm.formula.columns.splines import bspline, natural_spline, quantile_knots

#: R's names of arguments with a dot
DOTTED_ARGUMENTS = {
    name: name.replace(".", "_") for name in ("Boundary.knots", "include.lowest", "na.rm")
}
#: R's names with a dot that Python could not parse as a call
DOTTED = {
    name: name.replace(".", "_")
    for name in ("as.factor", "as.numeric", "as.integer", "as.character", "is.na")
}

#: what a function remembers of the data of the fit
Memory = dict[str, Any]
State = Memory | None


def _series(x: object) -> pd.Series:
    x = getattr(x, "__wrapped__", x)
    return x if isinstance(x, pd.Series) else pd.Series(x)


def numbers(x: object, name: str) -> np.ndarray:
    """The argument of a function that computes with numbers; text and categories are none, even if they look like them."""
    return numeric(getattr(x, "__wrapped__", x), f"the argument of {name}()")


def _coded(
    x: object,
    name: str,
    state: Memory,
    levels: Sequence[object] | None = None,
    ordered: bool = False,
) -> pd.Series:
    """A categorical of the levels remembered, or else of those that occur, or are given; a level that is new stands behind them."""
    series = _series(x)
    if "levels" in state:
        values = matched(series, state["levels"], name)
    elif levels is None:
        found = encode(series, name)
        values = pd.Categorical.from_codes(found.codes, categories=found.values)
    else:
        values = matched(series, pd.Index(list(levels)), name)
        new = values.codes >= len(levels)
        values = pd.Categorical.from_codes(
            np.where(new, -1, values.codes), categories=values.categories[: len(levels)]
        )
    state.setdefault("levels", values.categories)
    return pd.Series(values.as_ordered() if ordered else values, index=series.index)


def factor(
    x: object,
    levels: Sequence[object] | None = None,
    labels: Sequence[object] | None = None,
    ordered: bool = False,
    _state: State = None,
) -> pd.Series:
    """A categorical: levels sorted (numbers as numbers), or in the order given; unused levels dropped."""
    state = _state if _state is not None else {}
    out = _coded(x, "factor()", state, levels, ordered)
    if labels is None:
        return out
    known = len(state["levels"])
    if len(labels) != known:
        raise DataError(f"factor() got {len(labels)} labels for {known} levels.")
    names = list(
        dict.fromkeys([*labels, *out.cat.categories[known:]])
    )  # levels of one label become one
    place = np.array(
        [names.index(label) for label in [*labels, *out.cat.categories[known:]]] + [-1]
    )
    return pd.Series(
        pd.Categorical.from_codes(
            place[out.cat.codes], categories=pd.Index(names), ordered=ordered
        ),
        index=out.index,
    )


def relevel(x: object, ref: object, _state: State = None) -> pd.Series:
    """The factor ``x`` with ``ref`` as its first level."""
    state = _state if _state is not None else {}
    if "levels" not in state:
        levels = encode(_series(x), "relevel()").values
        names = strings(levels)
        if str(ref) not in names:
            raise DataError(
                f"relevel(): {ref!r} is no level; the levels are {', '.join(names[:12])}."
            )
        first = names.tolist().index(str(ref))
        state["levels"] = levels[[first, *(i for i in range(len(levels)) if i != first)]]
    return _coded(x, "relevel()", state)


def interaction(*factors: object, sep: str = ".", _state: State = None) -> pd.Series:
    """One categorical of the combinations that occur, ``a.b``, the first factor varying fastest as in R."""
    state = _state if _state is not None else {}
    series = [_coded(f, "interaction()", {}) for f in factors]
    codes = np.zeros(len(series[0]), dtype=np.int64)
    size, names = 1, np.array([""], dtype=object)
    for i, one in enumerate(series):
        labels = strings(one.cat.categories).to_numpy(dtype=object)
        codes = np.where(
            (codes < 0) | (one.cat.codes.to_numpy() < 0),
            -1,
            codes + size * one.cat.codes.to_numpy(),
        )
        names = np.concatenate([names + (sep + label if i else label) for label in labels])
        size *= len(labels)
    if len(set(names)) < len(names):
        raise DataError(
            f"interaction(): two combinations have the same label; use a sep= that is in no level, not {sep!r}."
        )
    joined = pd.Categorical.from_codes(
        codes, categories=pd.Index(names, dtype="str")
    ).remove_unused_categories()
    return _coded(pd.Series(joined, index=series[0].index), "interaction()", state)


def ifelse(test: ArrayLike, yes: ArrayLike, no: ArrayLike) -> pd.Series:
    """``yes`` where ``test`` holds, else ``no``."""
    index = test.index if isinstance(test, pd.Series) else None
    values = np.where(np.asarray(test, dtype=bool), yes, no)
    return pd.Series(values, index=index)


def log(x: ArrayLike, base: float | None = None) -> object:
    """Natural logarithm, or to ``base``."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def combine(*values: object) -> np.ndarray:
    """R's c(): single values and vectors in one vector."""
    parts = [np.atleast_1d(np.asarray(value)) for value in values]
    return np.concatenate(parts) if parts else np.array([])


def seq(start: float, stop: float, by: float | None = None) -> np.ndarray:
    """Numbers from ``start`` to ``stop``, both included where ``by`` leads there, in steps of one: R's ``from:to``."""
    step = by if by is not None else (1 if stop >= start else -1)
    return np.asarray(start + step * np.arange(int(np.floor((stop - start) / step + 1e-10)) + 1))


def cbind(*columns: object) -> np.ndarray:
    """Columns side by side, (n, len(columns))."""
    return np.column_stack([np.asarray(c) for c in columns])


def mm(*columns: object, **more: object) -> object:
    """Right of a bar alone, where it is not called: rows that belong to several groups."""
    raise DataError("mm(...) stands right of a bar, (1 | mm(a, b)), and nowhere else.")


def as_numeric(x: object, _state: State = None) -> Any:
    """as.numeric(): a categorical becomes 1..J as in R, text is read as numbers."""
    state = _state if _state is not None else {}
    series = _series(x)
    if isinstance(series.dtype, pd.CategoricalDtype):
        levels = state.setdefault("levels", series.cat.categories)
        values = matched(series, levels, "as.numeric()")
        if len(values.categories) > len(levels):
            raise UnseenLevels(
                "the argument of as.numeric()", list(values.categories[len(levels) :])
            )
        return pd.Series(np.where(values.codes < 0, np.nan, values.codes + 1.0), index=series.index)
    return pd.to_numeric(series).astype(float)


def as_integer(x: object, _state: State = None) -> Any:
    """as.integer(): as.numeric(), cut off after the point."""
    return np.trunc(as_numeric(x, _state))


def as_character(x: object) -> pd.Series:
    """as.character(): the text of each value, ``1`` for 1.0."""
    series = _coded(x, "as.character()", {})
    return pd.Series(labels_of(series), index=series.index, dtype="str")


def cut(
    x: object,
    breaks: ArrayLike,
    labels: Any = None,
    right: bool = True,
    include_lowest: bool = False,
    _state: State = None,
) -> pd.Series:
    """Intervals of ``x`` as a categorical; ``breaks`` are limits, or a number of equal intervals over the fitted data."""
    state = _state if _state is not None else {}
    series = pd.Series(numbers(x, "cut"), index=_series(x).index)
    if "breaks" not in state:
        if np.ndim(breaks):
            state["breaks"] = np.sort(np.asarray(breaks, dtype=float))
        else:
            state["breaks"] = pd.cut(series, whole(breaks, "cut(): breaks", least=2), retbins=True)[
                1
            ]
    found = pd.Series(
        pd.cut(series, state["breaks"], labels=labels, right=right, include_lowest=include_lowest),
        index=series.index,
    )
    return found.astype(float) + 1.0 if labels is False else found  # R counts intervals from 1


def _limits(given: ArrayLike | None, name: str, values: np.ndarray) -> tuple[float, float]:
    """Boundary knots: two increasing numbers, by default the range of the data."""
    if given is None:
        return float(values.min()), float(values.max())
    ends = np.asarray(given, dtype=float)
    if ends.shape != (2,) or not ends[0] < ends[1]:
        raise ArgumentError(f"{name}: Boundary.knots must be two numbers, the smaller first.")
    return float(ends[0]), float(ends[1])


def ns(
    x: object,
    df: int | None = None,
    knots: ArrayLike | None = None,
    intercept: bool = False,
    Boundary_knots: ArrayLike | None = None,
    _state: State = None,
) -> dict[int, np.ndarray]:
    """Natural cubic splines, R's basis; linear beyond the boundary knots, which are the range of the fitted data."""
    state = _state if _state is not None else {}
    values = numbers(x, "ns")
    if "knots" not in state:
        df = 1 + int(intercept) if df is None else whole(df, "ns(): df", least=1 + int(intercept))
        state["boundary"] = _limits(Boundary_knots, "ns()", values)
        inner = np.atleast_1d(np.asarray(knots, dtype=float)) if knots is not None else None
        state["knots"] = (
            inner if inner is not None else quantile_knots(values, df - 1 - int(intercept))
        )
    basis = natural_spline(values, state["knots"], state["boundary"], intercept)
    return {j + 1: basis[:, j] for j in range(basis.shape[1])}


def bs(
    x: object,
    df: int | None = None,
    knots: ArrayLike | None = None,
    degree: int = 3,
    intercept: bool = False,
    Boundary_knots: ArrayLike | None = None,
    _state: State = None,
) -> dict[int, np.ndarray]:
    """B-splines, R's basis; beyond the boundary knots, which are the range of the fitted data, the outer polynomials go on, as in R."""
    state = _state if _state is not None else {}
    values = numbers(x, "bs")
    degree = whole(degree, "bs(): degree", least=1)
    if "knots" not in state:
        if df is not None and knots is not None:
            raise ArgumentError("bs(): give df or knots, not both.")
        count = (
            0
            if df is None
            else whole(df, "bs(): df", least=degree + int(intercept)) - degree - int(intercept)
        )
        low, high = state["boundary"] = _limits(Boundary_knots, "bs()", values)
        inner = np.atleast_1d(np.asarray(knots, dtype=float)) if knots is not None else None
        if inner is None:
            inner = quantile_knots(values[(values >= low) & (values <= high)], count)
        state["knots"] = np.concatenate(
            [[low] * (degree + 1), np.sort(inner), [high] * (degree + 1)]
        )
    low, high = state["boundary"]
    if len(values) and (values.min() < low or values.max() > high):
        warn(
            f"bs(): values lie beyond the boundary knots, {low:g} and {high:g}; there the outer polynomials go on, as in R, and soon leave "
            "all bounds. Widen Boundary.knots, or use ns(), which is linear there.",
            LmmWarning,
        )
    basis = bspline(values, state["knots"], degree + 1)
    return {j: basis[:, j] for j in range(0 if intercept else 1, basis.shape[1])}


def poly(
    x: object, degree: int = 1, raw: bool = False, _state: State = None
) -> dict[int, np.ndarray]:
    """Orthonormal polynomials over the fitted data, by their three-term recurrence, or with ``raw`` the powers; degrees 1 to ``degree``."""
    state = _state if _state is not None else {}
    values = numbers(x, "poly")
    if values.ndim != 1:
        raise ArgumentError("poly() takes one column; write one call for each.")
    degree = whole(degree, "poly(): degree", least=1)
    if raw:
        return {k: values**k for k in range(1, degree + 1)}
    if "alpha" not in state:
        points = len(np.unique(values))
        if degree >= points:
            raise ArgumentError(
                f"poly(): degree {degree} needs more than {degree} distinct values, and there are {points}."
            )
    P = orthonormal(values, degree, state)
    return {k: P[:, k] for k in range(1, degree + 1)}


def orthonormal(values: np.ndarray, degree: int, state: Memory) -> np.ndarray:
    """Polynomials at ``values``, (n, degree + 1), orthonormal over the rows whose recurrence ``state`` remembers, or else over these."""
    fitting = "alpha" not in state
    alpha, norms = state.setdefault("alpha", {}), state.setdefault("norms2", {})
    P = np.ones((len(values), degree + 1))
    for k in range(degree + 1):
        if k:
            P[:, k] = (values - alpha[k - 1]) * P[:, k - 1]
        if k > 1:
            P[:, k] -= norms[k - 1] / norms[k - 2] * P[:, k - 2]
        if fitting:
            norms[k] = np.sum(P[:, k] ** 2)
            if k < degree:
                alpha[k] = np.sum(values * P[:, k] ** 2) / norms[k]
    return P / np.sqrt([norms[k] for k in range(degree + 1)])


def dummy(f: object, level: object = None, _state: State = None) -> object:
    """lme4's dummy(): a 0/1 column for one level, or for each level but the first."""
    state = _state if _state is not None else {}
    coded = _coded(f, "dummy()", state)
    codes, known = coded.cat.codes.to_numpy(), strings(state["levels"])
    if len(coded.cat.categories) > len(known):
        raise UnseenLevels("the argument of dummy()", list(coded.cat.categories[len(known) :]))
    if level is None:
        return {name: (codes == i).astype(float) for i, name in enumerate(known) if i}
    if str(level) not in known:
        raise DataError(f"dummy(): {level!r} is no level; the levels are {', '.join(known[:12])}.")
    return (codes == known.get_loc(str(level))).astype(float)


def _summary(name: str, compute: Callable[..., SupportsFloat]) -> Callable[..., float]:
    """A number computed once, from the data of the fit: ``x - mean(x)`` is the same shift on new data."""

    def remembered(x: object, *more: object, na_rm: bool = False, _state: State = None) -> float:
        state = _state if _state is not None else {}
        if len(more) != (name == "quantile") or any(
            not isinstance(p, (int, float)) or not 0 <= p <= 1 for p in more
        ):
            takes = (
                "one column and a probability, quantile(x, 0.9)"
                if name == "quantile"
                else "one column"
            )
            raise ArgumentError(f"{name}() takes {takes}; it is one number.")
        if "value" not in state:
            state["value"] = float(compute(numbers(x, name), *more))
        return float(state["value"])

    return remembered


def _of_one(function: Callable[..., object]) -> Callable[[object], object]:
    """A universal function of one argument; a second one would be the array that it writes into."""
    return lambda x: function(x)


_NUMPY = ("sqrt", "log1p", "expm1", "log2", "log10", "exp", "sin", "cos", "tan", "floor", "sign")

PLAIN: dict[str, object] = {
    **{name: _of_one(getattr(np, name)) for name in _NUMPY},
    "abs": _of_one(np.abs),
    "ceiling": _of_one(np.ceil),
    "round": np.round,
    "log": log,
    "pmin": lambda *columns: reduce(np.minimum, columns),
    "pmax": lambda *columns: reduce(np.maximum, columns),
    "ifelse": ifelse,
    "cbind": cbind,
    "mm": mm,
    "c": combine,
    "seq": seq,
    "as_character": as_character,
    "is_na": pd.isna,
    "TRUE": True,
    "FALSE": False,
    "pi": np.pi,
    "Inf": np.inf,
    "NaN": np.nan,
}

CODING: dict[str, object] = {
    "factor": factor,
    "as_factor": factor,
    "ordered": lambda x, levels=None, labels=None, _state=None: factor(
        x, levels, labels, True, _state
    ),
    "relevel": relevel,
    "interaction": interaction,
    "as_numeric": as_numeric,
    "as_integer": as_integer,
    "dummy": dummy,
}

STATEFUL: dict[str, object] = {
    **CODING,
    "cut": cut,
    "ns": ns,
    "bs": bs,
    "poly": poly,
    "mean": _summary("mean", np.mean),
    "median": _summary("median", np.median),
    "sd": _summary("sd", lambda v: np.std(v, ddof=1)),
    "var": _summary("var", lambda v: np.var(v, ddof=1)),
    "min": _summary("min", np.min),
    "max": _summary("max", np.max),
    "sum": _summary("sum", np.sum),
    "quantile": _summary("quantile", np.quantile),
}
