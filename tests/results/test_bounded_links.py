"""Links whose range ends: intervals and simulations are of effects within it, and say what was left out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm import families as F

CASES: dict[str, tuple[Any, Any]] = {
    "inverse gamma": (F.Gamma(), lambda rng, e: rng.gamma(20, 1 / e / 20)),
    "inverse gaussian": (
        F.Gaussian(link="inverse"),
        lambda rng, e: 1 / e + 0.1 * rng.normal(size=len(e)),
    ),
    "inverse inverse_gaussian": (
        F.InverseGaussian(link="inverse"),
        lambda rng, e: rng.wald(1 / e, 30),
    ),
    "default inverse_gaussian": (F.InverseGaussian(), lambda rng, e: rng.wald(1 / np.sqrt(e), 30)),
    "identity poisson": (F.Poisson(link="identity"), lambda rng, e: rng.poisson(3 * e)),
    "sqrt poisson": (F.Poisson(link="sqrt"), lambda rng, e: rng.poisson(e**2)),
    "log binomial": (F.Binomial(link="log"), lambda rng, e: rng.binomial(1, np.exp(-e))),
}
NEW = pd.DataFrame({"x": [0.0, 0.5, 1.0]})


def fitted(name: str, sd: float = 0.45) -> Any:
    family, respond = CASES[name]
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(30), 10), rng.random(300)
    e = 1 + 0.5 * x + np.clip(sd * rng.normal(size=30)[g], -0.9, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        return lmm.glmer(
            "y ~ x + (1|g)", pd.DataFrame({"y": respond(rng, e), "x": x, "g": g}), family=family
        )


@pytest.mark.parametrize("name", CASES)
def test_intervals_are_those_of_predictors_within_the_range(name: str) -> None:
    fit = fitted(name)
    family, rng = fit.family, np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        found = fit.predict(NEW, re_form=False, interval="prediction")
    link = fit.predict(NEW, re_form=False, type="link", se_fit=True)
    for i in range(len(NEW)):
        sd = np.sqrt(link["se"][i] ** 2 + fit.theta.iloc[0] ** 2)
        eta = link["fit"][i] + sd * rng.normal(size=60_000)
        y = family.simulate(rng, family.mean(eta[family.inside(eta)]), None, fit.estimate.phi)
        for end, p in (("lower", 0.025), ("upper", 0.975)):
            assert (
                np.mean(y < found.loc[i, end]) - 0.003 < p < np.mean(y <= found.loc[i, end]) + 0.003
            )


@pytest.mark.parametrize("name", CASES)
def test_simulations_stay_within_the_range(name: str) -> None:
    fit = fitted(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = fit.simulate(100, rng=1).to_numpy()
    said = [str(w.message) for w in caught if "drawn again" in str(w.message)]
    assert len(said) == 1 and "within its range" in said[0]
    assert np.isfinite(y).all() and y.max() < 1e6
    if not fit.family.discrete and fit.family.name != "gaussian":
        assert y.min() > 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.simulate(5, rng=1, use_u=True)


def test_the_share_that_is_left_out_is_said() -> None:
    with pytest.warns(
        lmm.LmmWarning, match="leads to no possible mean of the gamma family, in 2 of 3 rows"
    ):
        fitted("inverse gamma").predict(NEW, re_form=False, interval="prediction")


def test_a_predictor_beyond_the_range_has_no_mean() -> None:
    fit = fitted("inverse gamma", 0.25)
    far = pd.DataFrame({"x": [0.5, -9.0]})
    with pytest.warns(
        lmm.LmmWarning, match="1 of 2 rows lies beyond the range of the inverse link"
    ):
        found = fit.predict(far, re_form=False, interval="confidence")
    assert np.isfinite(found.iloc[0]).all() and found.iloc[1].isna().all()
    assert np.isfinite(fit.predict(far, re_form=False, type="link")).all()


def test_an_end_of_an_interval_beyond_the_range_is_the_end_of_the_means() -> None:
    fit = fitted("inverse gamma")
    x = (0.02 - fit.fixef()["Intercept"]) / fit.fixef()["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        found = fit.predict(pd.DataFrame({"x": [x]}), re_form=False, interval="confidence").iloc[0]
    assert (
        found["fit"] == pytest.approx(50.0) and found["upper"] == np.inf and 0 < found["lower"] < 50
    )


def test_a_model_that_leads_out_of_the_range_too_often_is_refused() -> None:
    fit = fitted("inverse gamma")
    with pytest.raises(
        lmm.ArgumentError, match="no possible mean of the gamma family in too many rows"
    ):
        fit.simulate(5, rng=1, parameters={"Intercept": -3.0})
