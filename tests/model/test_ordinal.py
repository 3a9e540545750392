"""Laplace's approximation and quadrature of cumulative models: against dense matrices, integrals and differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.families import Ordinal
from lmm.model.laplace.laplace import laplace
from lmm.model.problem import GeneralizedProblem, build_generalized
from tests.algebra import Algebra, thetas
from tests.designs import zoo
from tests.generalized import Case, DenseLaplace, derivative, flat

DESIGNS = zoo()
KINDS = [Ordinal(link) for link in Ordinal.link_names] + [
    Ordinal("probit", "equidistant"),
    Ordinal("cloglog", "equidistant"),
]
kinds = pytest.mark.parametrize("family", KINDS, ids=str)


def made(name: str, family: Ordinal, kind: str = "interior") -> tuple[Case, GeneralizedProblem]:
    """Categories drawn from a design without its constant, with frequencies and an offset."""
    d, rng = DESIGNS[name], np.random.default_rng(4)
    known = family.of(("none", "some", "much", "all"))
    phi = np.array([-0.8, 0.7]) if family.equidistant else np.array([-0.8, 0.1, 1.1])
    X, names = d.X[:, 1:], d.names[1:]
    weights, offset = rng.integers(1, 4, d.n).astype(float), 0.3 * rng.normal(size=d.n)
    d = replace(d.with_mean(X=X, names=names, all_names=names, offset=offset), weights=weights)
    beta = np.array([0.5, -0.6])[: d.p]
    some = Algebra(d, 0.6 * thetas(d)["interior"])
    y = known.simulate(
        rng, d.offset + d.X @ beta + some.Zall @ some.L @ rng.normal(size=some.q), None, phi
    )
    d = replace(d, y=y)
    c = Case(d, known, 0.6 * thetas(d)[kind], beta, phi)
    return c, build_generalized(d, known)


@kinds
@pytest.mark.parametrize(
    "name, observed", [("crossed", True), ("crossed", False), ("slopes crossed", True)]
)
def test_laplace_is_its_definition(name: str, family: Ordinal, observed: bool) -> None:
    c, p = made(name, family)
    T = [s.factor(own) for s, own in zip(p.structures, p.split(c.theta), strict=True)]
    u = [np.zeros((size.k, size.J)) for size in p.plan.terms]
    mine, exact = (
        laplace(c.family, p.rows, T, p.rows.R @ c.beta, c.phi, u, observed),
        DenseLaplace(c, observed),
    )
    assert mine.objective == pytest.approx(exact.objective, rel=1e-10)
    np.testing.assert_allclose(flat(mine.mode.b), exact.b, atol=3e-6)


CASES = [
    (family, "crossed", "interior", curvature)
    for family in KINDS
    for curvature in ("observed", "expected")
]
CASES += [
    (family, *where, "observed")
    for family in KINDS[::3]
    for where in (("slope", "singular"), ("nested", "zero"))
]


@pytest.mark.parametrize("family, name, kind, curvature", CASES, ids=str)
def test_gradient(family: Ordinal, name: str, kind: str, curvature: str) -> None:
    c, p = made(name, family, kind)
    objective = Objective(p, curvature)
    psi = objective.pack(c.theta, c.beta, c.phi)
    numeric = derivative(lambda at: objective.in_theta(at).objective, psi)
    np.testing.assert_allclose(
        objective.in_theta(psi).gradient, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max()
    )


@pytest.mark.parametrize(
    "family, name",
    [*((family, "scalar") for family in KINDS), (KINDS[0], "slope"), (KINDS[3], "slope")],
    ids=str,
)
def test_gradient_of_quadrature(family: Ordinal, name: str) -> None:
    c, p = made(name, family)
    objective = Objective(p, None, points=3)
    psi = objective.pack(c.theta, c.beta, c.phi)
    numeric = derivative(lambda at: objective.in_theta(at).objective, psi)
    np.testing.assert_allclose(
        objective.in_theta(psi).gradient, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max()
    )


@kinds
def test_gradient_with_the_fixed_effects_in_the_inner_loop(family: Ordinal) -> None:
    c, p = made("crossed", family)
    objective = Objective(p, None, points=0)
    psi = objective.pack(c.theta, c.beta, c.phi)
    assert len(psi) == p.n_theta + c.family.n_parameters
    numeric = derivative(lambda at: objective.in_theta(at).objective, psi)
    np.testing.assert_allclose(
        objective.in_theta(psi).gradient, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max()
    )


@kinds
def test_quadrature_is_the_integral(family: Ordinal) -> None:
    c, p = made("scalar", family)
    d = c.design
    fixed = d.offset + d.X @ c.beta
    joint, u = np.zeros(d.terms[0].J), 0.02 * np.arange(-500, 501)  # the trapezoidal rule
    for at in u:
        density = c.family.log_density(d.y, fixed + c.theta[0] * at, d.weights, c.phi)
        joint += (
            0.02
            * np.exp(np.bincount(d.terms[0].codes, density) - 0.5 * at * at)
            / np.sqrt(2 * np.pi)
        )
    total = float(np.log(joint).sum())
    objective = Objective(p, None, points=25)
    assert objective.in_theta(objective.pack(c.theta, c.beta, c.phi)).objective == pytest.approx(
        -2.0 * total, rel=1e-9
    )


@kinds
def test_model_hessian_is_close_to_the_hessian(family: Ordinal) -> None:
    """Along every parameter of its own and fixed effect: within a factor that keeps a search short."""
    c, p = made("crossed", family)
    objective = Objective(p)
    psi = objective.pack(c.theta, c.beta, c.phi)
    model, exact = objective.in_theta(psi).hessian[2:, 2:], objective.hessian(psi)[2:, 2:]
    assert np.linalg.eigvalsh(model).min() > 0
    ratios = np.linalg.eigvals(np.linalg.solve(model, exact)).real
    assert 0.6 < ratios.min() and ratios.max() < 1.7


def test_a_far_origin_of_a_predictor_does_not_matter() -> None:
    """Thresholds absorb it; the search goes on in centred columns."""
    c, p = made("crossed", Ordinal())
    shift = np.array([2000.0, 0.0])
    moved = build_generalized(c.design.with_mean(X=c.design.X + shift), c.family)
    near, far = Objective(p), Objective(moved)
    one, two = near.pack(c.theta, c.beta, c.phi), far.pack(c.theta, c.beta, c.phi + shift @ c.beta)
    np.testing.assert_allclose(two, one, rtol=1e-8, atol=1e-8)
    a, b = near.in_theta(one), far.in_theta(two)
    assert b.objective == pytest.approx(a.objective, rel=1e-11)
    np.testing.assert_allclose(b.gradient, a.gradient, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(b.hessian, a.hessian, rtol=1e-6, atol=1e-6 * np.abs(a.hessian).max())
