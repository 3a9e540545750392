"""Quadrature, the second-order expansion and nAGQ=0: gradients, known integrals, and what a fit says of itself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad

import lmm
from lmm import families
from lmm.design import build_design
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.model.problem import build_generalized

CBPP = "cbind(incidence, size - incidence) ~ period + (1|herd)"


def objective(
    formula: str, data: pd.DataFrame, family: Any, points: int, **options: Any
) -> Objective:
    """The criterion of a model at a number of points."""
    return Objective(
        build_generalized(build_design(formula, data, family=family), family),
        None,
        points,
        **options,
    )


def sleep() -> pd.DataFrame:
    """sleepstudy with counts and a rescaled response."""
    data = lmm.datasets.load("sleepstudy")
    return data.assign(rate=data.Reaction / 100, count=np.round(data.Reaction / 40).astype(int))


CASES = {
    "binomial": (CBPP, "cbpp", families.Binomial(), [0.7, -1.2, -0.9, -1.0, -1.5]),
    "probit": (CBPP, "cbpp", families.Binomial(link="probit"), [0.7, -0.7, -0.5, -0.5, -0.8]),
    "poisson slope": (
        "count ~ Days + (Days|Subject)",
        "sleep",
        families.Poisson(),
        [0.3, 0.05, 0.1, 1.9, 0.03],
    ),
    "poisson singular": (
        "count ~ Days + (Days|Subject)",
        "sleep",
        families.Poisson(),
        [0.3, 0.05, 0.0, 1.9, 0.03],
    ),
    "gamma slope": (
        "rate ~ Days + (Days|Subject)",
        "sleep",
        families.Gamma(link="log"),
        [0.1, 0.01, 0.03, 0.9, 0.03, -4.0],
    ),
    "negative binomial": (
        "count ~ Days + (1|Subject)",
        "sleep",
        families.NegativeBinomial(),
        [0.3, 1.9, 0.03, 1.0],
    ),
}


def at(name: str, points: int, **options: Any) -> tuple[Objective, np.ndarray]:
    """Criterion and psi of a case."""
    formula, data, family, values = CASES[name]
    o = objective(
        formula,
        sleep() if data == "sleep" else lmm.datasets.load("cbpp"),
        family,
        points,
        **options,
    )
    psi = np.array(values)
    psi[o.m : o.m + o.rows.p] = o.rows.R @ psi[o.m : o.m + o.rows.p]
    return o, psi


def differences(o: Objective, psi: np.ndarray, h: float = 1e-4) -> np.ndarray:
    """Central differences of fourth order."""

    def f(x: np.ndarray) -> float:
        return o.in_theta(x).objective

    units = h * np.eye(len(psi))
    return np.array(
        [
            (8 * (f(psi + u) - f(psi - u)) - (f(psi + 2 * u) - f(psi - 2 * u))) / (12 * h)
            for u in units
        ]
    )


@pytest.mark.parametrize("points", [2, 5])
@pytest.mark.parametrize("name", list(CASES))
def test_gradient_of_quadrature(name: str, points: int) -> None:
    """The nodes move with mode and scale: the gradient holds that too, at a few points as at many."""
    o, psi = at(name, points)
    want = differences(o, psi)
    np.testing.assert_allclose(o.in_theta(psi).gradient, want, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("name", ["binomial", "poisson slope", "negative binomial"])
def test_gradient_of_the_second_order(name: str) -> None:
    """Exact for Laplace's part, by differences for the correction: 1e-5 of the largest."""
    o, psi = at(name, 1, second_order=True)
    want = differences(o, psi, 1e-3)
    np.testing.assert_allclose(o.in_theta(psi).gradient, want, atol=1e-5 * np.abs(want).max())


def test_gradient_with_fixed_effects_in_the_inner_loop() -> None:
    """nAGQ=0: theta alone outside, beta moves with it."""
    family = families.Binomial(link="cloglog")
    o = objective(CBPP + " + (1|obs)", lmm.datasets.load("cbpp"), family, 0)
    psi = np.array([0.6, 0.5])
    want = differences(o, psi)
    np.testing.assert_allclose(o.in_theta(psi).gradient, want, atol=1e-6 * np.abs(want).max())


def test_one_point_is_laplace() -> None:
    """The rule with one node is Laplace's approximation, so all share one scale."""
    from lmm.model.laplace.quadrature import quadrature

    o, psi = at("poisson slope", 1)
    point = o.in_theta(psi)
    state = point.payload
    one = quadrature(o.family, o.rows, state.frame.T[0], state.gamma, 1.0, state.laplace, 1, False)
    assert one.objective == pytest.approx(point.objective, abs=1e-9)


def test_quadrature_is_the_integral() -> None:
    """25 points against scipy's adaptive integration, herd by herd, to 1e-8."""
    o, psi = at("binomial", 25)
    family, rows = o.family, o.rows
    theta, gamma, _ = o.split(psi)
    eta = rows.offset + rows.Q @ gamma
    total = 0.0
    for j in range(rows.plan.terms[0].J):
        own = rows.codes[0] == j

        def integrand(u: float, own: np.ndarray = own) -> float:
            density = family.log_density(
                rows.y[own], eta[own] + theta[0] * u, rows.weights[own], 1.0
            ).sum()
            return float(np.exp(density - 0.5 * u * u) / np.sqrt(2 * np.pi))

        total += np.log(quad(integrand, -10, 10, epsabs=1e-14, epsrel=1e-12, limit=200)[0])
    assert o.in_theta(psi).objective == pytest.approx(-2 * total, abs=1e-8)


def test_log_likelihoods_share_a_scale() -> None:
    """cbpp: Laplace, 9 and 25 points and the second order agree to their known errors (true value at 25 points)."""
    data = lmm.datasets.load("cbpp")
    fit = {n: lmm.glmer(CBPP, data, family="binomial", nAGQ=n) for n in (0, 1, 9, 25, "laplace2")}
    assert fit[25].llf == pytest.approx(
        -91.983369, abs=1e-5
    )  # R: 25-point glmer plus the saturated constant
    assert abs(fit[9].llf - fit[25].llf) < 1e-5
    assert abs(fit["laplace2"].llf - fit[25].llf) < 0.05 * abs(fit[1].llf - fit[25].llf)
    assert fit[0].llf < fit[1].llf
    assert [fit[n].estimate.method for n in (0, 1, 9, "laplace2")] == [
        "pirls",
        "laplace",
        "agq",
        "laplace2",
    ]


@pytest.mark.parametrize("n", [2, "laplace2"])
def test_several_factors_are_refused(n: Any) -> None:
    """Quadrature needs one factor; the message names the two."""
    with pytest.raises(lmm.ArgumentError, match="obs, herd"):
        lmm.glmer(CBPP + " + (1|obs)", lmm.datasets.load("cbpp"), family="binomial", nAGQ=n)


@pytest.mark.parametrize("n", [-1, 1.5, 101, "laplace3", True])
def test_bad_points(n: Any) -> None:
    """nAGQ is a number from 0 to 100, or 'laplace2'."""
    with pytest.raises(lmm.ArgumentError, match="nAGQ"):
        lmm.glmer(CBPP, lmm.datasets.load("cbpp"), family="binomial", nAGQ=n)


def test_a_poor_laplace_approximation_is_told() -> None:
    """toenail: seven binary visits a patient and a standard deviation of 4.7."""
    with pytest.warns(lmm.ConvergenceWarning, match="Laplace's log-likelihood is off by 0.78"):
        fit = lmm.glmer(
            "outcome ~ treatment + visit + (1|patientID)",
            lmm.datasets.load("toenail"),
            family="binomial",
        )
    assert fit.convergence.converged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lmm.glmer(CBPP, lmm.datasets.load("cbpp"), family="binomial")


def separated() -> pd.DataFrame:
    """A binary response with one row that a column picks out."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = (rng.random(200) < 1 / (1 + np.exp(-x))).astype(int)
    y[3] = 1
    return pd.DataFrame(
        {"y": y, "x": x, "only": (np.arange(200) == 3).astype(float), "g": rng.integers(0, 10, 200)}
    )


def test_separation_is_told() -> None:
    """The column is named, and every number stays finite."""
    with pytest.warns(lmm.ConvergenceWarning, match="only separates the successes"):
        fit = lmm.glmer("y ~ x + only + (1|g)", separated(), family="binomial")
    assert np.isfinite(fit.llf) and np.isfinite(fit.fixef()).all()


def test_a_response_constant_within_groups_is_told() -> None:
    """Its variance has no maximum; the group is named."""
    data = separated()
    data["same"] = data.groupby("g").y.transform("first")
    with pytest.warns(lmm.ConvergenceWarning, match="variance of g grows without bound"):
        lmm.glmer("same ~ x + (1|g)", data, family="binomial")


def test_poisson_counts_in_a_negative_binomial_are_told() -> None:
    """theta runs off to infinity and the fit says to use Poisson, whose log-likelihood it has."""
    data = separated().assign(c=np.random.default_rng(5).binomial(20, 0.2, 200))
    with pytest.warns(lmm.ConvergenceWarning, match="Use family='poisson'"):
        fit = lmm.glmer("c ~ x + (1|g)", data, family="negative_binomial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        poisson = lmm.glmer("c ~ x + (1|g)", data, family="poisson")
    assert fit.llf == pytest.approx(poisson.llf, abs=1e-3)


def test_a_family_of_the_users_own() -> None:
    """A Poisson family written as a log density, derivatives by JAX: the fit of the built-in one."""
    import jax.numpy as jnp
    from jax.scipy.special import gammaln

    own = lmm.families.CustomFamily(
        lambda y, mu: y * jnp.log(mu) - mu - gammaln(y + 1.0), "own", "log", variance=lambda mu: mu
    )
    data = lmm.datasets.load("grouseticks")
    formula = "TICKS ~ YEAR + cHEIGHT + (1|BROOD) + (1|LOCATION)"
    mine, built_in = (lmm.glmer(formula, data, family=family) for family in (own, "poisson"))
    assert mine.llf == pytest.approx(built_in.llf, abs=1e-6)
    np.testing.assert_allclose(mine.fixef(), built_in.fixef(), atol=1e-5)


def test_zero_variance_is_left_when_it_is_no_minimum() -> None:
    """theta = 0 is always stationary; started there, the fit still finds the optimum."""
    data = lmm.datasets.load("cbpp")
    fit = lmm.glmer(CBPP, data, family="binomial", start=[0.0])
    assert fit.llf == pytest.approx(lmm.glmer(CBPP, data, family="binomial").llf, abs=1e-7)


def test_the_second_order_is_refused_where_it_diverges() -> None:
    """toenail's patients hold too little data for the expansion: an error, not a runaway likelihood."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(lmm.ArgumentError, match="patientID hold little data"):
            lmm.glmer(
                "outcome ~ treatment * time + (1|patientID)",
                lmm.datasets.load("toenail"),
                family="binomial",
                nAGQ="laplace2",
            )
