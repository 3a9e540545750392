"""Generalized searches that end at a zero variance look again: dominant levels hide the other maximum from them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm import families as F

FAMILIES = {
    "poisson": "poisson",
    "bernoulli": "binomial",
    "gamma": F.Gamma(link="log"),
    "nb": "negative_binomial",
    "ordinal": "ordinal",
}
GRID = (0.3, 1.0, 2.5)


def response(kind: str, eta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mu = np.exp(eta)
    if kind == "poisson":
        return rng.poisson(mu)
    if kind == "bernoulli":
        return rng.binomial(1, 1.0 / (1.0 + np.exp(-eta)))
    if kind == "gamma":
        return rng.gamma(2.0, mu / 2.0)
    if kind == "nb":
        return rng.negative_binomial(2.0, 2.0 / (2.0 + mu))
    return np.digitize(eta + rng.logistic(size=len(eta)), [-1.0, 0.0, 1.0])


def dominated(kind: str, seed: int, sizes: list[int], sd: float) -> pd.DataFrame:
    """One level with most of the rows."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=len(g))
    return pd.DataFrame(
        {"y": response(kind, 0.5 * x + sd * rng.normal(size=len(sizes))[g], rng), "x": x, "g": g}
    )


def known() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    g = np.repeat(np.arange(21), [100] + [1] * 20)
    x, b = rng.normal(size=120), rng.normal(0, 1, 21)
    rng.binomial(1, np.full(120, 0.5))
    return pd.DataFrame({"g": g, "x": x, "y": rng.poisson(np.exp(0.5 * x + b[g]))})


def fit(
    data: pd.DataFrame, family: object, formula: str = "y ~ x + (1|g)", **more: object
) -> lmm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lmm.glmer(formula, data, family=family, **more)


def test_lme4s_optimum_of_a_dominated_factor() -> None:
    """lme4 and glmmTMB: -168.8839, sd 0.8713, intercept 0.033 (0.319); the other maximum is -171.895 at zero."""
    found = fit(known(), "poisson")
    assert found.llf == pytest.approx(-168.8839, abs=1e-4) and found.theta.iloc[0] == pytest.approx(
        0.8713, abs=1e-4
    )
    assert found.fixef()["Intercept"] == pytest.approx(0.033, abs=1e-3) and found.bse[
        "Intercept"
    ] == pytest.approx(0.319, abs=1e-3)
    assert fit(known(), "poisson", nAGQ=25).theta.iloc[0] == pytest.approx(0.875, abs=1e-3)
    assert fit(known(), "poisson", nAGQ=0).theta.iloc[0] == pytest.approx(0.847, abs=1e-3)
    assert fit(known(), "poisson", "y ~ x + (x|g)").llf == pytest.approx(-168.559, abs=1e-3)  # lme4
    turned = known().sample(frac=1.0, random_state=1)
    assert fit(turned, "poisson").llf == pytest.approx(found.llf, abs=1e-6)


@pytest.mark.parametrize("sizes, sd", [([300] + [1] * 20, 0.5), ([1000, 10, 10, 10], 1.0)], ids=str)
@pytest.mark.parametrize("kind", FAMILIES)
def test_no_end_is_below_what_a_grid_of_starts_finds(
    kind: str, sizes: list[int], sd: float
) -> None:
    data = dominated(kind, 0, sizes, sd)
    best = max(fit(data, FAMILIES[kind], start=np.array([theta])).llf for theta in GRID)
    assert fit(data, FAMILIES[kind]).llf > best - 1e-5


def test_many_responses_look_again_too() -> None:
    data = dominated("poisson", 0, [100] + [1] * 20, 1.0)
    rng = np.random.default_rng(1)
    Y = np.column_stack(
        [rng.poisson(np.exp(0.5 * data["x"] + rng.normal(size=21)[data["g"]])) for _ in range(4)]
    )
    batch = lmm.glmer_batch("~ x + (1|g)", data[["x", "g"]], Y, family="poisson")
    best = [
        max(fit(data.assign(y=y), "poisson", start=np.array([theta])).llf for theta in GRID)
        for y in Y.T
    ]
    assert (batch.llf > np.array(best) - 1e-5).all()


def test_an_effect_that_lost_its_variance_is_raised_beside_one_that_has_some() -> None:
    """Three of four groups end in the last category wherever ``flag`` is false: a wide effect of that, beside the other, fits best."""
    counts = {
        (0, False): (1, 1, 4),
        (0, True): (4, 6, 4),
        (1, False): (0, 0, 2),
        (1, True): (2, 2, 4),
    }
    counts |= {
        (2, False): (0, 0, 2),
        (2, True): (0, 2, 2),
        (3, False): (0, 0, 2),
        (3, True): (0, 0, 1),
    }
    rows = [
        (g, flag, y)
        for (g, flag), own in counts.items()
        for y, times in enumerate(own)
        for _ in range(times)
    ]
    data = pd.DataFrame(rows, columns=["g", "flag", "y"])
    for unit in ([0, 1], [1, 0]):  # whichever of the two comes first
        data["f"] = pd.Categorical(data["flag"].astype(int), categories=unit)
        found = fit(data, "ordinal", "y ~ 1 + (0 + f|g)")
        wide = fit(
            data,
            "ordinal",
            "y ~ 1 + (0 + f|g)",
            start=[20.0, 0.75, 0.1] if unit[0] == 0 else [0.75, 20.0, 0.1],
        )
        assert found.convergence.converged and wide.convergence.converged
        assert found.llf == pytest.approx(wide.llf, abs=1e-5)
