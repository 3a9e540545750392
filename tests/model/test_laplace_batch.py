"""Laplace's approximation side by side is that of single responses, and its gradient the derivative of it, for every family."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.design import build_design
from lmm.estimators.laplace import many_generalized as search
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.formula import Given
from lmm.model.laplace import laplace_batch
from lmm.model.problem import build_generalized

FAMILIES = {
    "poisson": lmm.families.Poisson(),
    "logit": lmm.families.Binomial(),
    "cloglog": lmm.families.Binomial(link="cloglog"),
    "negative binomial": lmm.families.NegativeBinomial(),
    "gamma": lmm.families.Gamma(link="log"),
    "inverse Gaussian": lmm.families.InverseGaussian(link="log"),
    "Gaussian": lmm.families.Gaussian(link="log"),
}
R = 5


def problem(family, curvature="observed", columns="x"):
    """One factor of nine levels, some of them thin, R responses, weights that are whole numbers and an offset."""
    rng = np.random.default_rng(2)
    n = 70
    data = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "g": rng.integers(9, size=n),
            "w": rng.integers(1, 4, n),
            "o": 0.1 * rng.normal(size=n),
        }
    )
    eta = 0.6 + 0.2 * data["x"].to_numpy() + 0.3 * rng.normal(size=9)[data["g"]]
    y = np.column_stack(
        [family.simulate(rng, family.mean(eta), data["w"].to_numpy(float), 1.5) for _ in range(R)]
    )
    design = build_design(
        f"y ~ x + offset(o) + ({columns}|g)",
        data.assign(y=y[:, 0]),
        Given(weights="w"),
        family=family,
    )
    own = build_generalized(design, family)
    evaluate = search.GeneralizedChart(own, np.linspace(0.6, 0.3, own.n_theta), curvature)
    return own, evaluate, y


def point(own, evaluate, y):
    rng = np.random.default_rng(3)
    data = search.data_of(evaluate.shared, y)
    psi = 0.1 * rng.normal(size=(own.n_theta + own.p + own.family.n_parameters, R))
    psi[own.n_theta] += 0.5
    return data, psi


@pytest.mark.parametrize("curvature", ["expected", "observed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_as_single_responses(name, curvature):
    """Objective to 1e-10, at one theta in its own coordinates; gradient and model Hessian to the root of what a mode leaves, 1e-13."""
    family = FAMILIES[name]
    own, evaluate, y = problem(family, curvature)
    data, psi = point(own, evaluate, y)
    theta = np.linspace(0.6, 0.3, own.n_theta)
    jacobian = own.structures[0].jacobian(theta)
    placed = evaluate.place(data, psi, data.u)
    found = laplace_batch.laplace(
        placed, evaluate.factors_of(np.repeat(theta[None], R, axis=0))[0], jacobian
    )
    for r in range(R):
        single = Objective(
            own.__class__(
                **{**vars(own), "rows": own.rows.__class__(**{**vars(own.rows), "y": y[:, r]})}
            ),
            curvature,
        )
        expected = single.in_theta(np.concatenate([theta, psi[own.n_theta :, r]]))
        assert np.isfinite(expected.objective)
        np.testing.assert_allclose(found.objective[r], expected.objective, rtol=1e-10)
        scale = np.abs(expected.gradient).max()
        np.testing.assert_allclose(found.gradient[:, r], expected.gradient, atol=2e-6 * scale)
        np.testing.assert_allclose(
            found.hessian[..., r], expected.hessian, atol=2e-6 * np.abs(expected.hessian).max()
        )


@pytest.mark.parametrize("columns", ["1", "x", "x + I(x^2)"])
@pytest.mark.parametrize("name", ["logit", "cloglog", "negative binomial", "gamma"])
def test_gradient_is_the_derivative(name, columns):
    own, evaluate, y = problem(FAMILIES[name], None, columns)
    y[3:9, 1] = np.nan
    data, psi = point(own, evaluate, y)
    here = evaluate(data, psi, data.u)
    assert np.isfinite(here.objective).all()
    for i in range(len(psi)):
        step = np.zeros_like(psi)
        step[i] = 1e-5
        slope = (
            evaluate(data, psi + step, here.u).objective
            - evaluate(data, psi - step, here.u).objective
        ) / 2e-5
        np.testing.assert_allclose(here.gradient[i], slope, atol=2e-5 * (1.0 + np.abs(slope).max()))


def test_missing_responses_weigh_nothing():
    """The objective of a response with holes is that of its rows alone."""
    own, evaluate, y = problem(FAMILIES["gamma"])
    y[:20, 2] = np.nan
    data, psi = point(own, evaluate, y)
    found = evaluate(data, psi, data.u).objective[2]
    rows = own.rows
    kept = np.arange(20, len(y))
    smaller = {name: getattr(rows, name)[kept] for name in ("weights", "offset", "Q")}
    whole = {**vars(rows), **smaller, "y": y[kept, 2], "codes": (rows.codes[0][kept],)}
    columns = ([None if z is None else z[kept] for z in rows.columns[0]],)
    single = Objective(
        own.__class__(**{**vars(own), "rows": rows.__class__(**{**whole, "columns": columns})})
    )
    theta = evaluate.theta(psi[: own.n_theta])[2]
    np.testing.assert_allclose(
        found, single.in_theta(np.concatenate([theta, psi[own.n_theta :, 2]])).objective, rtol=1e-10
    )


def test_responses_go_at_their_own_pace(monkeypatch):
    """Leaving the others behind on the way to the modes changes nothing."""
    own, evaluate, y = problem(FAMILIES["poisson"])
    y[:, 1] *= 50.0
    data, psi = point(own, evaluate, y)
    psi[own.n_theta, 1] += 4.0
    first = evaluate(data, psi, data.u)
    monkeypatch.setattr(laplace_batch, "COMPACT", 0.0)
    second = evaluate(data, psi, data.u)
    np.testing.assert_allclose(first.objective, second.objective, rtol=1e-12)
    np.testing.assert_allclose(first.gradient, second.gradient, rtol=1e-5, atol=1e-5)


def test_what_is_not_taken():
    own, _, _ = problem(FAMILIES["poisson"])
    assert search.takes(own) and not search.takes(problem(lmm.families.NegativeBinomial1())[0])
    assert not search.takes(problem(FAMILIES["poisson"], columns="x + I(x^2) + I(x^3)")[0])
