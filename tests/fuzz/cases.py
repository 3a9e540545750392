"""Random models and data: structure drawn by hypothesis, numbers by NumPy from a drawn seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st

#: how the rows fall on the levels of a grouping factor
SPREADS = ("balanced", "random", "dominant", "geometric")
#: what a numeric covariate looks like
SHAPES = (
    "normal",
    "uniform",
    "whole",
    "rising",
    "between",
    "within",
    "heavy",
    "constant",
    "nearly constant",
)
FIXED = (
    "x",
    "z",
    "f",
    "flag",
    "x:z",
    "x:f",
    "f:flag",
    "f*x",
    "I(x^2)",
    "poly(x, 2)",
    "scale(z)",
    "factor(g)",
    "pmax(x, 0)",
)
#: random terms, and the effects that they spend; no effect may stand in two terms
RANDOM = {
    "(1|g)": {"g"},
    "(1|h)": {"h"},
    "(x|g)": {"g", "g x"},
    "(x||g)": {"g", "g x"},
    "(0 + x|g)": {"g x"},
    "(z|h)": {"h"},
    "(1|g/h)": {"g", "g:h"},
    "(1|g:h)": {"g:h"},
    "(f|g)": {"g", "g f"},
    "(0 + flag|g)": {"g", "g flag"},
    "(x + z|g)": {"g", "g x"},
    "(x + z||g)": {"g", "g x"},
    "(flag||h)": {"h"},
    "(1|f)": {"f"},
}
FAMILIES = (
    "bernoulli",
    "binomial",
    "poisson",
    "negative_binomial",
    "gamma",
    "inverse_gaussian",
    "log gaussian",
    "probit",
    "cloglog",
    "ordinal",
)


@dataclass(frozen=True)
class Case:
    """A model and its data.

    ``fixed`` and ``random`` are terms; ``y_unit`` is what the response was multiplied by, ``family`` None for a linear model.
    """

    frame: pd.DataFrame
    fixed: tuple[str, ...]
    random: tuple[str, ...]
    intercept: bool = True
    response: str = "y"
    family: str | None = None
    weights: str | None = None
    reml: bool = True
    y_unit: float = 1.0

    @property
    def formula(self) -> str:
        """The formula, as a user would write it."""
        return f"{self.response} ~ " + " + ".join(
            ["1" if self.intercept else "0", *self.fixed, *self.random]
        )

    def uses(self, name: str) -> list[str]:
        """The terms in which a column occurs."""
        letters = "".join
        return [
            t
            for t in (*self.fixed, *self.random)
            if name in letters(c if c.isalnum() else " " for c in t).split()
        ]

    def __repr__(self) -> str:
        given = ", ".join(
            f"{k}={getattr(self, k)!r}"
            for k in ("family", "weights", "reml")
            if getattr(self, k) is not None
        )
        return (
            f"{self.formula!r}, {given}, {len(self.frame)} rows\n{self.frame.to_csv(index=False)}"
        )


@st.composite
def linear(draw: st.DrawFn) -> Case:
    """A linear model and a response that it, or a simpler one, could have made."""
    frame, rng = _frame(draw, 8, 90)
    case = _model(draw, frame)
    eta = _predictor(draw, frame, rng)
    noise = draw(st.sampled_from((1.0, 1.0, 0.1, 5.0)))
    y = eta + noise * rng.normal(size=len(frame))
    y = np.round(y) if draw(st.integers(0, 9)) == 0 else y
    frame["y"] = (
        np.where(rng.random(len(frame)) < 0.1, np.nan, y) if draw(st.integers(0, 4)) == 0 else y
    )
    kind = draw(st.sampled_from(("none", "none", "even", "wide")))
    if kind != "none":
        frame["w"] = (
            rng.uniform(0.5, 2.0, len(frame))
            if kind == "even"
            else 10.0 ** rng.uniform(-3, 3, len(frame))
        )
        case = replace(case, weights="w")
    return replace(case, reml=draw(st.booleans()))


@st.composite
def generalized(draw: st.DrawFn, least: int = 12, several: int = 2) -> Case:
    """A generalized model of one of the families; at least so many rows, and one in ``several`` with a second random term."""
    frame, rng = _frame(draw, least, 90)
    case = _model(draw, frame, several)
    family = draw(st.sampled_from(FAMILIES))
    eta = np.clip(_predictor(draw, frame, rng) / 2.0, -4.0, 4.0)
    mean, n = np.exp(eta), len(frame)
    response = "y"
    if family in ("bernoulli", "probit", "cloglog"):
        frame["y"] = rng.binomial(1, 1.0 / (1.0 + 1.0 / mean))
    elif family == "binomial":
        frame["size"] = rng.integers(1, 12, n)
        frame["y"] = rng.binomial(frame["size"], 1.0 / (1.0 + 1.0 / mean))
        response = "cbind(y, size - y)"
    elif family == "poisson":
        frame["y"] = rng.poisson(mean)
    elif family == "negative_binomial":
        frame["y"] = rng.poisson(mean * rng.gamma(2.0, 0.5, n))
    elif family == "gamma":
        frame["y"] = mean * rng.gamma(3.0, 1.0 / 3.0, n)
    elif family == "inverse_gaussian":
        frame["y"] = rng.wald(mean, 4.0 * mean)
    elif family == "log gaussian":
        frame["y"] = mean + 0.3 * rng.normal(size=n)
    else:
        frame["y"] = pd.Categorical(
            np.digitize(eta + rng.logistic(size=n), [-1.0, 1.0]), ordered=True
        )
    return replace(case, family=family, response=response, reml=False)


def _frame(draw: st.DrawFn, least: int, most: int) -> tuple[pd.DataFrame, np.random.Generator]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(least, most))
    frame = pd.DataFrame({"g": _codes(draw, rng, n, 12), "h": _codes(draw, rng, n, 6)})
    for name in "xz":
        frame[name] = _covariate(draw(st.sampled_from(SHAPES)), rng, frame["g"].to_numpy())
    levels = np.array(["a", "b", "c", "d"])[: draw(st.integers(2, 4))]
    frame["f"] = (
        pd.Categorical(rng.choice(levels, n)) if draw(st.booleans()) else rng.choice(levels, n)
    )
    frame["flag"] = rng.random(n) < draw(st.sampled_from((0.5, 0.1)))
    return frame, rng


def _codes(draw: st.DrawFn, rng: np.random.Generator, n: int, most: int) -> np.ndarray:
    J, spread = draw(st.integers(2, most)), draw(st.sampled_from(SPREADS))
    if spread == "balanced":
        return np.arange(n) % J if draw(st.booleans()) else np.sort(np.arange(n) % J)
    share = {
        "random": np.ones(J),
        "dominant": np.r_[2.0 * J, np.ones(J - 1)],
        "geometric": 0.6 ** np.arange(J),
    }[spread]
    return rng.choice(J, n, p=share / share.sum())


def _covariate(shape: str, rng: np.random.Generator, g: np.ndarray) -> np.ndarray:
    n = len(g)
    if shape == "uniform":
        return rng.random(n)
    if shape == "whole":
        return rng.integers(0, 5, n).astype(float)
    if shape == "rising":
        return np.arange(n) + 0.0
    if shape == "between":
        return rng.normal(size=g.max() + 1)[g]
    if shape == "within":
        return 2.0 * g + rng.normal(size=n)
    if shape == "heavy":
        return rng.standard_t(2, n)
    if shape == "constant":
        return np.full(n, 3.0)
    if shape == "nearly constant":
        return np.where(np.arange(n) == 0, 1.0, 0.0)
    return rng.normal(size=n)


def _model(draw: st.DrawFn, frame: pd.DataFrame, several: int = 2) -> Case:
    fixed = draw(st.lists(st.sampled_from(FIXED), max_size=3, unique=True))
    if "factor(g)" in fixed and draw(st.integers(0, 3)):  # it is rare
        fixed.remove("factor(g)")
    first = draw(st.sampled_from(list(RANDOM)))
    others = [term for term, effects in RANDOM.items() if not effects & RANDOM[first]]
    random = (
        [first, draw(st.sampled_from(others))]
        if draw(st.integers(1, several)) == several
        else [first]
    )
    return Case(
        frame, tuple(fixed), tuple(random), intercept=bool(fixed == [] or draw(st.integers(0, 7)))
    )


def _predictor(draw: st.DrawFn, frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    x, g, h = (frame[name].to_numpy() for name in "xgh")
    sd = [draw(st.sampled_from((0.0, 0.5, 2.0))) for _ in range(3)]
    spread = max(float(np.std(x)), 1e-6)
    slope = draw(st.sampled_from((0.0, 1.0, -1.0))) / spread
    own = rng.normal(size=(3, max(g.max(), h.max()) + 1))
    eta = (
        1.0
        + slope * x
        + sd[0] * own[0][g]
        + sd[1] * own[1][g] * (x - x.mean()) / spread
        + sd[2] * own[2][h]
    )
    if draw(st.integers(0, 5)) == 0:  # between groups the slope has the other sign
        eta -= 2.0 * slope * pd.Series(x).groupby(g).transform("mean").to_numpy()
    return eta


# --- the same model, written or measured otherwise --------------------------------------------------------------------------


@st.composite
def variants(draw: st.DrawFn) -> dict[str, Any]:
    """Which changes to make at once; each leaves the model what it is."""
    kinds = draw(
        st.sets(
            st.sampled_from(("rows", "labels", "terms", "y unit", "x unit", "shift")), min_size=1
        )
    )
    return {
        "kinds": kinds,
        "seed": draw(st.integers(0, 2**32 - 1)),
        "power": draw(st.sampled_from((-6, -3, 3, 6))),
    }


def vary(case: Case, kinds: set[str], seed: int, power: int) -> Case:
    """The case with its rows, labels, terms, units or origins changed, as far as its model allows."""
    rng = np.random.default_rng(seed)
    frame = case.frame.copy()
    if "rows" in kinds:
        frame = frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)
    if (
        "labels" in kinds and "factor(g)" not in case.fixed
    ):  # a group's reference level is a choice of the model
        for name in "gh":
            frame[name] = np.array([f"level {k}" for k in rng.permutation(100)])[frame[name]]
    if "terms" in kinds:
        case = replace(
            case,
            fixed=tuple(rng.permutation(case.fixed)),
            random=tuple(rng.permutation(case.random)),
        )
    unit = 10.0**power
    if "y unit" in kinds and case.family is None:
        frame["y"] = frame["y"] * unit
        case = replace(case, y_unit=unit)
    if "x unit" in kinds:
        frame["x"] = frame["x"] * unit
    if "shift" in kinds and shiftable(case, "z"):
        frame["z"] = frame["z"] + 1e4 * max(float(frame["z"].std()), 1e-3)
    return replace(case, frame=frame)


def shiftable(case: Case, name: str) -> bool:
    """Whether the model does not depend on the origin of a column: it stands with an intercept wherever it occurs."""
    fixed_alone = {"z", "scale(z)"}
    random_with_intercept = {"(z|h)"}
    return (
        case.intercept
        and "z" in case.fixed
        and set(case.uses(name)) <= fixed_alone | random_with_intercept
    )
