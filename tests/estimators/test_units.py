"""Generalized fits say the same whatever units predictors and responses are in."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm import families as F

rng = np.random.default_rng(7)
G = np.repeat(np.arange(24), 8)
X = rng.random(len(G))
B = rng.normal(size=(24, 2))
ETA = 0.3 + 0.5 * X + 0.5 * B[G, 0] + 0.6 * B[G, 1] * X
#: a positive predictor, for links that need one
POSITIVE = 1.0 + 0.5 * X + 0.15 * np.clip(B[G, 0], -2, 2) + 0.1 * np.clip(B[G, 1], -2, 2) * X


def _responses() -> dict[str, np.ndarray]:
    mu, shape = np.exp(ETA), 6.0
    return {
        "poisson": rng.poisson(mu),
        "negative_binomial": rng.negative_binomial(3.0, 3.0 / (3.0 + mu)),
        "binomial": rng.random(len(G)) < 1.0 / (1.0 + np.exp(-ETA)),
        "gamma log": rng.gamma(shape, mu / shape),
        "gamma inverse": rng.gamma(shape, 1.0 / POSITIVE / shape),
        "gamma identity": rng.gamma(shape, POSITIVE / shape),
        "inverse_gaussian 1/mu^2": rng.wald(POSITIVE**-0.5, 8.0),
        "inverse_gaussian log": rng.wald(mu, 8.0),
        "gaussian log": np.exp(0.3 * ETA) + 0.2 * rng.normal(size=len(G)),
        "gaussian inverse": 1.0 / POSITIVE + 0.05 * rng.normal(size=len(G)),
        "gaussian identity": ETA + rng.normal(size=len(G)),
        "poisson sqrt": rng.poisson(POSITIVE**2),
        "poisson identity": rng.poisson(3.0 * POSITIVE),
        "ordinal": np.digitize(ETA + rng.logistic(size=len(G)), [-0.5, 0.8, 2.0]),
    }


Y = _responses()
FAMILIES = {
    "poisson": "poisson",
    "negative_binomial": "negative_binomial",
    "binomial": F.Binomial(link="probit"),
    "gamma log": F.Gamma(link="log"),
    "gamma inverse": "gamma",
    "gamma identity": F.Gamma(link="identity"),
    "inverse_gaussian 1/mu^2": "inverse_gaussian",
    "inverse_gaussian log": F.InverseGaussian(link="log"),
    "gaussian log": F.Gaussian(link="log"),
    "gaussian inverse": F.Gaussian(link="inverse"),
    "gaussian identity": F.Gaussian(link="identity"),
    "poisson sqrt": F.Poisson(link="sqrt"),
    "poisson identity": F.Poisson(link="identity"),
    "ordinal": "ordinal",
}
SCALED = [name for name in FAMILIES if name.startswith(("gamma", "inverse", "gaussian"))]


def fit(
    name: str, formula: str, y: np.ndarray, x: np.ndarray, **more: object
) -> tuple[lmm.Fit, list[type]]:
    data = pd.DataFrame({"y": y, "x": x, "g": G})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = lmm.glmer(formula, data, family=FAMILIES[name], **more)
        z = found.fixef()["x"] / found.bse["x"]
    assert np.isfinite(z)
    return found, [w.category for w in caught]


def same(
    one: tuple[lmm.Fit, list[type]], other: tuple[lmm.Fit, list[type]], jacobian: float = 0.0
) -> None:
    (a, said), (b, heard) = one, other
    assert b.fixef()["x"] / b.bse["x"] == pytest.approx(a.fixef()["x"] / a.bse["x"], rel=1e-4)
    assert b.llf + jacobian == pytest.approx(a.llf, abs=1e-5)
    assert b.is_singular() == a.is_singular() and b.convergence.converged == a.convergence.converged
    assert said == heard


@pytest.mark.parametrize(
    "formula, unit", [("y ~ x + (x|g)", 1e-6), ("y ~ x + (1|g) + (0 + x|g)", 1e6)]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_units_of_a_predictor(name: str, formula: str, unit: float) -> None:
    same(fit(name, formula, Y[name], X), fit(name, formula, Y[name], unit * X))


@pytest.mark.parametrize("name", ["poisson", "ordinal", "gamma inverse", "inverse_gaussian log"])
def test_origin_of_a_slope(name: str) -> None:
    """Intercept and slope vary together, so that the model does not depend on the origin of x."""
    plain = fit(name, "y ~ x + (x|g)", Y[name], X)
    for origin in (
        200.0,
        2_000.0 if name == "ordinal" else 738_000.0,
    ):  # thresholds that large lose digits of their own
        far = fit(name, "y ~ x + (x|g)", Y[name], X + origin)
        same(plain, far)
        np.testing.assert_allclose(far[0].ranef()["g"]["x"], plain[0].ranef()["g"]["x"], atol=1e-4)


def test_origin_of_a_slope_of_many_responses() -> None:
    near, far = (
        lmm.glmer_batch(
            "~ x + (x|g)", pd.DataFrame({"x": x, "g": G}), Y["poisson"][:, None], family="poisson"
        )
        for x in (X, X + 2000.0)
    )
    np.testing.assert_allclose((far.beta / far.se)[:, 1], (near.beta / near.se)[:, 1], rtol=1e-5)
    np.testing.assert_allclose(far.llf, near.llf, atol=1e-6)


@pytest.mark.parametrize("name", SCALED)
def test_units_of_the_response(name: str) -> None:
    formula = "y ~ x + (x|g)"
    plain = fit(name, formula, Y[name], X)
    for unit in (1e-8, 1e8):
        same(plain, fit(name, formula, unit * Y[name], X), len(G) * np.log(unit))


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_a_predictor_of_many_responses(unit: float) -> None:
    Ys = pd.DataFrame({"a": Y["poisson"], "b": Y["negative_binomial"]})
    plain, other = (
        lmm.glmer_batch("~ x + (x|g)", pd.DataFrame({"x": x, "g": G}), Ys, family="poisson")
        for x in (X, unit * X)
    )
    np.testing.assert_allclose(other.beta / other.se, plain.beta / plain.se, rtol=1e-6)
    single = lmm.glmer(
        "y ~ x + (x|g)", pd.DataFrame({"y": Y["poisson"], "x": X, "g": G}), family="poisson"
    )
    np.testing.assert_allclose(plain.se[0], single.bse, rtol=1e-5)


@pytest.mark.parametrize("family", ["inverse_gaussian", "gamma"])
def test_many_responses_each_in_its_own_units(family: str) -> None:
    sleep = lmm.datasets.load("sleepstudy")
    Ys = {f"{unit:g}": unit * sleep["Reaction"] for unit in (1.0, 1e-3, 1e6)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = lmm.glmer_batch(
            "~ Days + (1|Subject)", sleep[["Days", "Subject"]], pd.DataFrame(Ys), family=family
        )
        single = [
            lmm.glmer("y ~ Days + (1|Subject)", sleep.assign(y=y), family=family)
            for y in Ys.values()
        ]
    np.testing.assert_allclose(batch.se, [fit.bse for fit in single], rtol=1e-5)
    np.testing.assert_allclose(batch.llf, [fit.llf for fit in single], atol=1e-6)
    z = batch.beta / batch.se
    np.testing.assert_allclose(z[1:], np.broadcast_to(z[0], (2, 2)), rtol=1e-6)
    assert not batch.singular.any()


def test_a_response_in_milliseconds_is_not_singular() -> None:
    sleep = lmm.datasets.load("sleepstudy")
    found = lmm.glmer("Reaction ~ Days + (1|Subject)", sleep, family="inverse_gaussian")
    assert found.theta.iloc[0] == pytest.approx(3.25917e-6, rel=1e-4)  # 3.25917 with seconds
    assert not found.is_singular() and not found.messages


@pytest.mark.parametrize(
    "family", ["negative_binomial", F.Binomial(link="probit"), F.Binomial(link="cloglog")], ids=str
)
def test_the_default_information_is_that_which_is_nearer_to_the_integral(
    family: str | F.Family,
) -> None:
    draw = np.random.default_rng(4)
    g, x = np.repeat(np.arange(100), 6), draw.normal(size=600)
    eta = -0.8 + 0.6 * x + 1.5 * draw.normal(size=100)[g]
    if isinstance(family, str):
        y = draw.negative_binomial(1.0, 1.0 / (1.0 + np.exp(eta)))
    else:
        y = (draw.random(600) < family.mean(eta)).astype(int)
    data = pd.DataFrame({"y": y, "x": x, "g": g})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        integral = lmm.glmer("y ~ x + (1|g)", data, family=family, nAGQ=25)

        def distance(**more: object) -> float:
            """The largest, in standard errors."""
            found = lmm.glmer("y ~ x + (1|g)", data, family=family, **more).fixef()
            return float(((found - integral.fixef()) / integral.bse).abs().max())

        assert distance() == distance(control=lmm.Control(curvature="observed")) < 0.05
        assert distance(control=lmm.Control(curvature="expected")) > 0.1
