"""Kenward and Roger's method against n x n matrices, and in balanced designs against the exact tests."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.inference.tests import traces as traces_module
from lmm.inference.tests.ddf import degrees_of_freedom
from lmm.inference.tests.kenward_roger import kenward_roger
from lmm.inference.tests.traces import traces
from lmm.model.gaussian.crossproducts import cross_products
from tests.algebra import Algebra, thetas
from tests.inference.dense import DESIGNS, Dense, evaluated, problem_of

every = pytest.mark.parametrize("name", DESIGNS)
kinds = pytest.mark.parametrize("kind", ["interior", "singular", "zero"])


@every
@kinds
def test_traces_are_those_of_the_dense_matrix(name: str, kind: str) -> None:
    design, problem = DESIGNS[name], problem_of(name)
    dG = [s.linear_basis() for s in problem.structures]
    _, estimate = evaluated(name, kind)
    products, single = traces(problem.cross, list(estimate.factors), dG, ("a", "b", "c", "d"))
    algebra = Algebra(design, thetas(design)[kind])
    w = np.ones(design.n) if design.weights is None else design.weights
    V = np.diag(1.0 / w) + sum(
        Z @ np.kron(T @ T.T, np.eye(t.J)) @ Z.T
        for Z, T, t in zip(algebra.Z, algebra.T, design.terms, strict=True)
    )
    inverse = np.linalg.inv(V)
    V_i = [
        Z @ np.kron(d, np.eye(t.J)) @ Z.T
        for Z, own, t in zip(algebra.Z, dG, design.terms, strict=True)
        for d in own
    ]
    left = [inverse @ one for one in V_i]
    expected = np.array([[np.sum(one * other.T) for other in left] for one in left])
    assert products == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())
    assert single == pytest.approx([np.trace(one) for one in left], rel=1e-9)


@pytest.mark.parametrize(
    "name", [n for n in DESIGNS if n not in ("no fixed effects", "seven columns")]
)
@kinds
def test_covariance_and_tests_are_those_of_the_definitions(name: str, kind: str) -> None:
    agrees_with_the_definitions(name, kind, None)


@pytest.mark.parametrize(
    "name", ["slope", "seven columns", "nested and crossed", "weights and offset"]
)
def test_a_known_sigma_is_no_parameter(name: str) -> None:
    agrees_with_the_definitions(name, "interior", 1.3)


def agrees_with_the_definitions(name: str, kind: str, sigma: float | None) -> None:
    design, problem = DESIGNS[name], problem_of(name)
    estimator, estimate = evaluated(name, kind, True, sigma)
    mine, dense = (
        kenward_roger(problem, estimator, estimate),
        Dense(design, estimate, sigma is not None),
    )
    assert mine.unadjusted == pytest.approx(dense.phi, rel=1e-8)
    assert mine.cov == pytest.approx(dense.cov, rel=1e-7)
    rng = np.random.default_rng(1)
    for L in (
        np.eye(design.p),
        np.eye(design.p)[1:],
        rng.normal(size=(1, design.p)),
        rng.normal(size=(2, design.p)),
    ):
        value = L @ estimate.beta
        f, df = dense.f(L, value)
        test = mine.f(L, value)
        assert (test.f, test.den_df, test.num_df) == pytest.approx((f, df, len(L)), rel=1e-6)
    se, df = mine.t(np.eye(design.p))
    assert se == pytest.approx(np.sqrt(np.diagonal(dense.cov)), rel=1e-7)
    assert df == pytest.approx(
        [dense.f(row[None], row[:1])[1] for row in np.eye(design.p)], rel=1e-6
    )


def test_without_fixed_effects_there_is_nothing_to_test() -> None:
    found = kenward_roger(problem_of("no fixed effects"), *evaluated("no fixed effects"))
    assert found.cov.shape == (0, 0)
    assert len(found.t(np.zeros((0, 0)))[0]) == 0


def balanced(seed: int, groups: int = 7, rows: int = 4) -> pd.DataFrame:
    """A treatment between groups and one within them, every cell alike."""
    rng = np.random.default_rng(seed)
    frame = pd.MultiIndex.from_product(
        [range(groups * 3), range(rows)], names=["g", "within"]
    ).to_frame(index=False)
    frame["between"] = [f"b{g % 3}" for g in frame["g"]]
    frame["within"] = [f"w{i}" for i in frame["within"]]
    frame["y"] = rng.normal(size=groups * 3)[frame["g"]] + rng.normal(size=len(frame))
    return frame


def test_balanced_split_plot_has_the_exact_tests() -> None:
    data = balanced(1)
    fit = lmm.lmer("y ~ between * within + (1|g)", data)
    table = fit.anova(ddf="kenward_roger")
    assert table["den_df"].tolist() == pytest.approx(
        [18.0, 54.0, 54.0], rel=1e-8
    )  # 3 (7 - 1), and (4 - 1) times that
    means = data.groupby(["g", "between"], observed=True)["y"].mean().reset_index()
    between = means.groupby("between")["y"]
    ms = 7 * between.mean().var(ddof=1)
    error = between.var(ddof=1).mean()
    assert table.loc["between", "f_value"] == pytest.approx(ms / error, rel=1e-4)
    assert fit.vcov(ddf="kenward_roger").to_numpy() == pytest.approx(
        fit.vcov().to_numpy(), rel=1e-6
    )


def test_known_groups_mean_the_t_test() -> None:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(9), 5)
    fit = lmm.lmer(
        "y ~ 1 + (1|g)",
        pd.DataFrame({"y": 3 + rng.normal(size=9)[g] + rng.normal(size=45), "g": g}),
    )
    means = np.bincount(g, fit.design.y) / 5
    table = fit.coef_table(ddf="KR").iloc[0]
    assert table["df"] == pytest.approx(8.0, rel=1e-8)
    assert table["std_error"] == pytest.approx(means.std(ddof=1) / 3.0, rel=1e-6)


def test_maximum_likelihood_is_fitted_again_by_reml_and_says_so() -> None:
    data = lmm.datasets.load("sleepstudy").iloc[:173]
    ml, reml = (
        lmm.lmer("Reaction ~ Days + (Days|Subject)", data, REML=reml) for reml in (False, True)
    )
    with pytest.warns(lmm.DegreesOfFreedomWarning, match="fitted again by REML"):
        table = ml.coef_table(ddf="KR")
    assert table["df"].tolist() == pytest.approx(reml.coef_table(ddf="KR")["df"].tolist(), rel=1e-5)
    assert any("REML" in note for note in ml.summary(ddf="KR").notes)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward_roger"])
def test_nothing_of_the_rows_dimension_is_formed(ddf: str) -> None:
    rng, n = np.random.default_rng(2), 50_000
    d = pd.DataFrame(
        {"x": rng.normal(size=n), "g": rng.integers(0, 30, n), "h": rng.integers(0, 12, n)}
    )
    d["y"] = d["x"] + rng.normal(size=30)[d["g"]] + rng.normal(size=12)[d["h"]] + rng.normal(size=n)
    fit = lmm.lmer("y ~ x + (x|g) + (1|h)", d)
    tracemalloc.start()
    degrees_of_freedom(fit.problem, fit.estimator, fit.estimate, fit.vcov().to_numpy(), ddf)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n  # less than a single vector over the rows


def test_crossed_factors_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_module, "LIMIT", 10)
    with pytest.raises(lmm.CapacityError, match=r"b \(12 levels\).*satterthwaite"):
        traces(
            cross_products(DESIGNS["crossed"].terms, np.zeros((240, 1)), None),
            [np.eye(1), np.eye(1)],
            [np.ones((1, 1, 1))] * 2,
            ("a", "b"),
        )


def test_nested_factors_have_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kenward_roger(problem_of("nested three deep"), *evaluated("nested three deep")).cov
    monkeypatch.setattr(traces_module, "LIMIT", 12)
    assert np.array_equal(
        kenward_roger(problem_of("nested three deep"), *evaluated("nested three deep")).cov, before
    )
