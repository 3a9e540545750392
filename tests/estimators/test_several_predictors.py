"""Models with several linear predictors against glmmTMB, and their numerics against differences and dense arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

import lmm
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.families.base import Family
from lmm.families.joint import joint_derivatives
from lmm.families.joint.joint_density import JointDensity
from lmm.model.joint.joint_problem import JointProblem

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "several_predictors.json").read_text()
)
FAMILIES = {
    "poisson": lmm.families.Poisson(),
    "nbinom2": lmm.families.NegativeBinomial(),
    "nbinom1": lmm.families.NegativeBinomial1(),
    "Gamma": lmm.families.Gamma(link="log"),
}


def ticks() -> pd.DataFrame:
    data = lmm.datasets.load("grouseticks").copy()
    data["lost"] = np.where(data["INDEX"].astype(int) % 4 == 0, 0, data["TICKS"])
    data["height"] = (data["HEIGHT"] - data["HEIGHT"].mean()) / data["HEIGHT"].std()
    return data


def fitted(case: dict[str, Any]) -> lmm.Fit:
    family = FAMILIES["Gamma" if "amma" in case["family"] else case["family"]]
    disp = case["disp"] if family.has_dispersion else None
    return lmm.glmer(
        case["formula"], ticks(), family=family, ziformula=case["zi"], dispformula=disp
    )


@pytest.mark.filterwarnings("ignore::lmm.LmmWarning")
@pytest.mark.parametrize("name", REFERENCE)
def test_glmmtmb_gives_the_same_numbers(name: str) -> None:
    """glmmTMB's optimiser stops about 1e-4 standard errors from its maximum; the log-likelihood is flat there."""
    case = REFERENCE[name]
    fit = fitted(case)
    assert fit.llf == pytest.approx(case["llf"], abs=2e-5)
    assert fit.df_model == case["df"]
    for component, se in case["se"].items():
        table = fit.coef_table(component=component)
        np.testing.assert_allclose(table["std_error"], se, rtol=2e-3)
        off = (table["estimate"] - np.atleast_1d(case["coef"][component])) / np.array(se)
        assert np.abs(off).max() < 2e-3
    for component, groups in case["sd"].items():
        for group, sd in (groups or {}).items():
            found = fit.varcorr(component).stddev(group).to_numpy()
            np.testing.assert_allclose(found, np.atleast_1d(sd), rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(fit.fittedvalues[:5], case["fitted"], rtol=2e-3)
    if fit.estimate.density.inflated:
        np.testing.assert_allclose(fit.predict(type="zprob")[:5], case["zprob"], rtol=2e-3)
    conditional = fit.predict(type="conditional")[:5]
    np.testing.assert_allclose(conditional, case["conditional"], rtol=2e-3)


SMALL = {
    "zip": (lmm.families.Poisson(), "~ x + (1|g)", None),
    "zinb1": (lmm.families.NegativeBinomial1(), "~ x + (1|g)", "~ x + (1|g)"),
    "zinb2": (lmm.families.NegativeBinomial(), "~ (1|h)", "~ x + (0 + x|g)"),
    "hurdle": (lmm.families.Gamma(link="log"), "~ x + (1|g)", "~ (1|g)"),
    "binomial": (lmm.families.Binomial(), "~ x + (1|g)", None),
}


def small(name: str) -> JointProblem:
    """The problem of a search that is cut short."""
    rng = np.random.default_rng(5)
    n = 90
    data = pd.DataFrame({"g": np.arange(n) % 9, "h": np.arange(n) % 5, "x": rng.normal(size=n)})
    data = data.astype({"g": str, "h": str})
    rate = np.exp(1.0 + 0.3 * data["x"])
    data["y"] = rng.poisson(rate) * (rng.random(n) > 0.3)
    data["fail"] = 8 - np.minimum(data["y"], 8)
    family, zi, disp = SMALL[name]
    data["y"] = np.minimum(data["y"], 8) if name == "binomial" else data["y"].astype(float)
    response = "cbind(y, fail)" if name == "binomial" else "y"
    fit = lmm.glmer(
        f"{response} ~ x + (1 + x|g)",
        data,
        family=family,
        ziformula=zi,
        dispformula=disp,
        control=lmm.Control(max_evaluations=3),
    )
    assert isinstance(fit.problem, JointProblem)
    return fit.problem


@pytest.mark.filterwarnings("ignore::lmm.LmmWarning")
@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_is_that_of_differences_and_j_that_of_dense_arithmetic(name: str) -> None:
    problem = small(name)
    objective = Objective(problem)
    theta = 0.5 + 0.1 * np.arange(problem.n_theta)
    psi = objective.pack(theta, 0.4 * np.cos(np.arange(problem.p)), 1.0)
    point = objective.in_theta(psi)
    for i in range(len(psi)):
        h = 1e-4 * np.eye(len(psi))[i]
        near, far = (
            [objective.in_theta(psi + s * k * h).objective for s in (1, -1)] for k in (1, 2)
        )
        slope = (8.0 * (near[0] - near[1]) - (far[0] - far[1])) / 12e-4
        assert point.gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-6 * abs(point.objective))
    assert point.objective == pytest.approx(dense(problem, psi, theta), abs=1e-6)


def dense(problem: JointProblem, psi: np.ndarray, theta: np.ndarray) -> float:
    """-2 log-likelihood by Laplace's formula on dense arrays of the user's rows, the mode by SciPy."""
    density, rows = problem.density, problem.rows
    m, n = density.m, rows.n // problem.family.blocks
    y, weights = rows.y[:n], rows.weights[:n]
    Z = np.hstack([term.Z.toarray() for term in problem.terms])
    T = np.zeros((Z.shape[1], Z.shape[1]))
    at = 0
    for term, factor in zip(problem.terms, problem.factors(theta), strict=True):
        for _ in range(term.J):
            T[at : at + term.k, at : at + term.k] = factor
            at += term.k
    fixed = (rows.offset + rows.Q @ psi[problem.n_theta :])[: m * n].reshape(m, n)
    own = Z[: m * n].reshape(m, n, -1) @ T

    def value(u: np.ndarray) -> float:
        return float(0.5 * u @ u - np.sum(density.log_density(y, list(fixed + own @ u), weights)))

    def slope(u: np.ndarray) -> np.ndarray:
        r, _ = joint_derivatives.second_order(density, y, fixed + own @ u, weights)
        return u - np.einsum("an,anq->q", r, own)

    u = optimize.minimize(value, np.zeros(T.shape[0]), jac=slope, method="BFGS", tol=1e-10).x
    _, W = joint_derivatives.second_order(density, y, fixed + own @ u, weights)
    M = np.eye(len(u)) + np.einsum("anq,abn,bnr->qr", own, W, own)
    return 2.0 * value(u) + float(np.linalg.slogdet(M)[1])


@pytest.mark.parametrize(
    "inner",
    [lmm.families.Poisson(), lmm.families.NegativeBinomial(), lmm.families.NegativeBinomial1()],
)
def test_densities_of_counts_add_up_to_one_and_agree_with_mean_variance_and_cdf(inner: Any) -> None:
    density = JointDensity(inner, True)
    etas = np.array([[0.4], [-0.8], [0.2]][: density.m]) * np.ones(400)
    y = np.arange(400.0)
    p = np.exp(density.log_density(y, list(etas)))
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert density.mean(etas)[0] == pytest.approx(p @ y, rel=1e-10)
    assert density.variance(etas)[0] == pytest.approx(p @ y**2 - (p @ y) ** 2, rel=1e-9)
    np.testing.assert_allclose(density.cdf(y, etas), np.cumsum(p), atol=1e-12)
    drawn = density.simulate(np.random.default_rng(1), np.repeat(etas[:, :1], 200_000, axis=1))
    assert drawn.mean() == pytest.approx(p @ y, rel=0.02)
    assert drawn.var() == pytest.approx(density.variance(etas)[0], rel=0.03)


@pytest.mark.parametrize("name", SMALL)
def test_derivatives_of_the_density_are_those_of_differences(name: str) -> None:
    inner, zi, _ = SMALL[name]
    density, rng, n = JointDensity(inner, zi is not None), np.random.default_rng(2), 40
    y = rng.integers(0, 9, n) / (8.0 if name == "binomial" else 1.0)
    etas, weights = rng.normal(size=(density.m, n)), np.full(n, 8.0)
    found = joint_derivatives.slopes(density, y, etas, weights, True)
    for a in range(density.m):
        h = np.zeros((density.m, 1))
        h[a] = 1e-5
        ends = [joint_derivatives.slopes(density, y, etas + s * h, weights, False) for s in (1, -1)]
        values = [joint_derivatives.log_density(density, y, etas + s * h, weights) for s in (1, -1)]
        for own, (up, down) in (
            (found.first[a], values),
            (found.second[:, a], [end.first for end in ends]),
            (found.third[:, :, a], [end.second for end in ends]),
        ):
            np.testing.assert_allclose(
                (up - down) / 2e-5, own, rtol=1e-6, atol=1e-7 * np.abs(own).max()
            )


def test_a_family_that_gives_no_third_derivatives_has_those_of_differences() -> None:
    inner, y = lmm.families.NegativeBinomial1(), np.arange(12.0)
    c, phi = np.linspace(-1.0, 2.0, 12), np.linspace(0.2, 3.0, 12)
    given = inner._dispersion_third(y, c, 1.0, phi)
    found = Family._dispersion_third(inner, y, c, 1.0, phi)
    np.testing.assert_allclose(np.array(found), np.array(given), rtol=1e-8, atol=1e-9)


@pytest.mark.filterwarnings("ignore::lmm.LmmWarning")
def test_the_order_of_rows_and_the_names_of_levels_do_not_matter() -> None:
    case, data = REFERENCE["zinb1_disp"], ticks()
    first = fitted(case)
    other = data.sample(frac=1.0, random_state=3)
    other["BROOD"] = "b" + other["BROOD"].astype(str).str[::-1]
    again = lmm.glmer(
        case["formula"], other, family=FAMILIES["nbinom1"], ziformula="~ 1", dispformula="~ height"
    )
    assert again.llf == pytest.approx(first.llf, abs=1e-8)
    np.testing.assert_allclose(again.fixef("all"), first.fixef("all"), atol=1e-5)


@pytest.mark.filterwarnings("ignore::lmm.LmmWarning")
def test_quadrature_is_the_integral_and_its_gradient_that_of_differences() -> None:
    """Two random effects of a level, one of the mean and one of the zeros: the integral by a fine grid."""
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"g": np.arange(72) % 6, "x": rng.normal(size=72)}).astype({"g": str})
    data["y"] = rng.poisson(np.exp(1.0 + 0.3 * data["x"])) * (rng.random(72) > 0.3)
    fit = lmm.glmer("y ~ x + (1|g)", data, family="poisson", ziformula="~ (1|g)")
    problem = fit.problem
    assert isinstance(problem, JointProblem)
    objective = Objective(problem, points=15)
    psi = objective.pack(np.array([0.5, 0.7]), fit.estimate.whole.beta, 1.0)
    point = objective.in_theta(psi)
    for i in range(len(psi)):
        h = 1e-4 * np.eye(len(psi))[i]
        ends = [objective.in_theta(psi + s * h).objective for s in (1, -1)]
        assert point.gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-5)
    n, density = len(data), problem.density
    etas = (problem.rows.offset + problem.rows.Q @ psi[2:])[: 2 * n].reshape(2, n)
    grid = np.linspace(-7.0, 7.0, 141)
    u, v = (own.ravel() for own in np.meshgrid(grid, grid))
    weight = np.exp(-0.5 * (u**2 + v**2)) / (2.0 * np.pi) * (grid[1] - grid[0]) ** 2
    total = 0.0
    for code in range(6):
        rows = problem.rows.codes[0][:n] == code
        y, at = data["y"].to_numpy(dtype=float)[rows, None], etas[:, rows, None]
        log = density.log_density(y, [at[0] + 0.5 * u, at[1] + 0.7 * v]).sum(axis=0)
        total += np.log(np.exp(log) @ weight)
    assert point.objective == pytest.approx(-2.0 * total, abs=1e-4)
