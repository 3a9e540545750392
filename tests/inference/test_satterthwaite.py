"""Satterthwaite's method: the derivatives it rests on, and what its degrees of freedom must not depend on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators import MaximumLikelihood
from lmm.estimators.control import Control
from lmm.inference.tests import traces, variance_parameters
from lmm.inference.tests.ddf import degrees_of_freedom, method_name
from lmm.inference.tests.marginal_precision import marginal
from lmm.inference.tests.satterthwaite import covariance_jacobian, independent, pooled
from lmm.inference.tests.variance_parameters import positive_inverse, second_derivatives
from lmm.inference.tests.variance_parameters import variance_parameters as parameters_of
from lmm.model.records import Draws, PosteriorEstimate
from tests.inference.dense import DESIGNS, evaluated, problem_of

every = pytest.mark.parametrize("name", DESIGNS)
kinds = pytest.mark.parametrize("kind", ["interior", "singular", "zero"])


def difference(function, x: np.ndarray, h: float = 3e-5) -> np.ndarray:
    """Derivatives along the last axis of the result, second order."""
    return np.stack([(function(x + e) - function(x - e)) / (2 * h) for e in np.eye(len(x)) * h], -1)


@every
@pytest.mark.parametrize(
    ("kind", "reml"), [("interior", True), ("interior", False), ("singular", True), ("zero", False)]
)
def test_hessian_is_that_of_the_criterion_with_sigma_as_a_parameter(
    name: str, kind: str, reml: bool
) -> None:
    problem = problem_of(name)
    _, estimate = evaluated(name, kind, reml)

    def gradient(x: np.ndarray) -> np.ndarray:
        known = MaximumLikelihood(reml=reml, sigma=float(np.exp(x[-1])))
        slope = known.gradient(problem, x[:-1])
        e = 1e-3
        up, down = (
            MaximumLikelihood(reml=reml, sigma=float(np.exp(x[-1] + s))).objective(problem, x[:-1])
            for s in (e, -e)
        )
        return np.append(slope, (up - down) / (2 * e))

    mine = second_derivatives(problem, estimate)
    numeric = difference(gradient, np.append(estimate.theta, np.log(estimate.sigma)))
    size = (
        np.sqrt(np.outer(np.abs(np.diagonal(mine)), np.abs(np.diagonal(mine))))
        + 1e-6 * np.abs(mine).max()
    )
    assert np.abs((mine - numeric) / size).max() < 1e-5


@pytest.mark.parametrize("name", ["crossed", "slopes crossed", "nested and crossed"])
def test_hessian_beyond_the_dense_limit_is_by_differences(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, (_, estimate) = problem_of(name), evaluated(name)
    exact = second_derivatives(problem, estimate)
    monkeypatch.setattr(traces, "LIMIT", 1)
    again = second_derivatives(problem, estimate)
    assert not np.array_equal(again, exact)
    assert again == pytest.approx(exact, rel=1e-6, abs=1e-7 * np.abs(exact).max())


@pytest.mark.parametrize(
    "name", [n for n in DESIGNS if n not in ("no fixed effects", "seven columns")]
)
@kinds
def test_jacobian_is_the_derivative_of_the_covariance(name: str, kind: str) -> None:
    problem = problem_of(name)
    _, estimate = evaluated(name, kind)
    estimator = MaximumLikelihood(control=Control(evaluate_only=True))

    def covariance(x: np.ndarray) -> np.ndarray:
        return np.exp(2 * x[-1]) * estimator.fit(problem, x[:-1]).beta_cov_unscaled

    numeric = difference(covariance, np.append(estimate.theta, np.log(estimate.sigma)))
    mine = covariance_jacobian(marginal(problem, estimate), estimate)
    assert np.moveaxis(mine, 0, -1) == pytest.approx(
        numeric, rel=1e-5, abs=1e-7 * np.abs(numeric).max()
    )


def test_a_variance_of_zero_is_held_there() -> None:
    with pytest.warns(lmm.SingularFitWarning):
        fit = lmm.lmer("Yield ~ 1 + (1|Batch)", lmm.datasets.load("Dyestuff2"))
    known = parameters_of(fit.problem, fit.estimator, fit.estimate)
    assert known.cov.tolist() == [[0.0, 0.0], [0.0, pytest.approx(1.0 / (2 * 29))]]
    assert known.message is None
    assert fit.coef_table(ddf="satterthwaite")["df"].tolist() == pytest.approx([29.0])


def test_flat_and_negative_directions_are_left_out() -> None:
    inverse, flat, negative = positive_inverse(np.diag([4.0, 0.0, -2.0]))
    assert (flat, negative) == (1, 1)
    assert inverse == pytest.approx(np.diag([0.25, 0.0, 0.0]))


def test_a_hessian_that_is_not_positive_definite_is_spoken_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    monkeypatch.setattr(
        variance_parameters,
        "second_derivatives",
        lambda problem, estimate: np.diag([1.0, -1.0, 0.0, 2.0]),
    )
    with pytest.warns(
        lmm.DegreesOfFreedomWarning, match="1 negative eigenvalue and 1 zero eigenvalue"
    ):
        fit.coef_table(ddf="satterthwaite")


def test_known_sigma_has_no_variance() -> None:
    data = lmm.datasets.load("sleepstudy")
    fit = lmm.lmer(
        "Reaction ~ Days + (Days|Subject)", data, method=lmm.MaximumLikelihood(sigma=25.0)
    )
    assert not parameters_of(fit.problem, fit.estimator, fit.estimate).cov[-1].any()
    assert fit.coef_table(ddf="satterthwaite")["df"].tolist() == pytest.approx(
        [17.0, 17.0], rel=0.2
    )


def test_every_method_that_ends_at_the_optimum_has_the_same() -> None:
    data = lmm.datasets.load("sleepstudy").iloc[:170]
    fits = [
        lmm.lmer("Reaction ~ Days + (Days|Subject)", data, method=method)
        for method in ("reml", "em", "mackay")
    ]
    tables = [fit.coef_table(ddf="satterthwaite")["df"].to_numpy() for fit in fits]
    assert tables[1] == pytest.approx(tables[0], rel=1e-3)
    assert tables[2] == pytest.approx(tables[0], rel=1e-3)


def unbalanced() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    n = 110
    d = pd.DataFrame(
        {
            "a": rng.choice(list("pqr"), n, p=[0.5, 0.3, 0.2]),
            "x": rng.normal(2, 1, n),
            "g": rng.integers(0, 9, n),
        }
    )
    d["h"] = rng.integers(0, 5, n)
    d["y"] = (
        d["x"]
        + (d["a"] == "q")
        + rng.normal(size=9)[d["g"]]
        + rng.normal(size=5)[d["h"]]
        + rng.normal(size=n)
    )
    return d


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward_roger"])
def test_tests_do_not_depend_on_units_order_or_coding(ddf: str) -> None:
    data, formula = unbalanced(), "y ~ a * x + (1|g) + (1|h)"
    control = lmm.Control(tolerance=1e-12)
    base = lmm.lmer(formula, data, control=control)
    table, terms = base.coef_table(ddf=ddf), base.anova(ddf=ddf)
    shuffled = lmm.lmer(formula, data.sample(frac=1, random_state=1), control=control)
    assert shuffled.coef_table(ddf=ddf).to_numpy() == pytest.approx(
        table.to_numpy(), rel=1e-5, abs=1e-10
    )
    scaled = lmm.lmer(formula, data.assign(y=1e4 * data["y"], x=1e-5 * data["x"]), control=control)
    assert scaled.coef_table(ddf=ddf)[["df", "statistic"]].to_numpy() == pytest.approx(
        table[["df", "statistic"]].to_numpy(), rel=1e-5
    )
    assert scaled.anova(ddf=ddf)[["den_df", "f_value"]].to_numpy() == pytest.approx(
        terms[["den_df", "f_value"]].to_numpy(), rel=1e-5
    )
    for coding in ("sum", "helmert"):
        other = lmm.lmer(formula, data, contrasts={"a": coding}, control=control).anova(ddf=ddf)
        assert other.to_numpy() == pytest.approx(terms.to_numpy(), rel=1e-5, abs=1e-12)


def test_a_joint_test_of_one_contrast_is_its_t_test() -> None:
    fit = lmm.lmer("y ~ a * x + (1|g) + (1|h)", unbalanced())
    L = np.array([[0.0, 1.0, -1.0, 0.5, 0.0, 0.0]])
    for ddf in ("satterthwaite", "kenward_roger", None):
        one, joint = (
            fit.contrast(L, ddf=ddf),
            fit.contrast(np.vstack([L, 2 * L]), ddf=ddf, joint=True).iloc[0],
        )
        assert joint["p_value"] == pytest.approx(one["p_value"].iloc[0], rel=1e-6)


def test_pooled_degrees_of_freedom() -> None:
    assert pooled(np.array([7.0])) == 7.0
    assert pooled(np.array([5.0, 5.0 + 1e-10])) == pytest.approx(5.0)
    assert pooled(np.array([5.0, 1.5])) == 2.0
    E = 10 / 8 + 6 / 4
    assert pooled(np.array([10.0, 6.0])) == pytest.approx(2 * E / (E - 2))
    assert pooled(np.array([np.inf, np.inf])) == np.inf
    assert pooled(np.array([np.inf, 6.0])) == pytest.approx(10.0)  # E = 1 + 6/4


def test_dependent_and_badly_scaled_contrasts_keep_their_rank() -> None:
    V = np.array([[2.0, 1.0], [1.0, 3.0]])
    three = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert len(independent(three, V)[0]) == 2
    scale = np.diag([1.0, 1e-9])
    values, turn = independent(scale, V)
    assert len(values) == 2
    assert turn @ scale @ V @ scale @ turn.T == pytest.approx(
        np.diag(values), rel=1e-6, abs=1e-6 * values.min()
    )
    assert len(independent(np.zeros((2, 2)), V)[0]) == 0
    unbounded = np.array([[1e9, -1e9], [-1e9, 1e9 + 0.1]])
    values, turn = independent(np.eye(2), unbounded)
    assert len(values) == 2 and turn @ unbounded @ turn.T == pytest.approx(
        np.diag(values), rel=1e-6
    )
    for none in (np.full((2, 2), np.nan), np.array([[1.0, 2.0], [2.0, 1.0]])):
        assert (
            len(independent(np.eye(2), none)[0]) == 2
            and np.isnan(independent(np.eye(2), none)[0]).all()
        )


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward_roger", None])
@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_the_same_hypotheses_in_other_rows_are_the_same_test(ddf: str | None, unit: float) -> None:
    """Their rank is that of the rows, however nearly their estimates are the same."""
    sleep = lmm.datasets.load("sleepstudy").assign(Days=lambda d: d.Days * unit)
    fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", sleep)
    first = fit.contrast(np.eye(2), joint=True, ddf=ddf).iloc[0].to_numpy()
    for e in (1.0, 1e-2, 1e-4, 1e-6, 1e-8):
        again = (
            fit.contrast(
                np.array([[1.0, 0.0], [1.0, e * unit], [2.0, e * unit]]), joint=True, ddf=ddf
            )
            .iloc[0]
            .to_numpy()
        )
        assert again == pytest.approx(first, rel=1e-3 if e > 1e-8 else 1e-2)


def test_names_of_methods() -> None:
    assert {method_name(name) for name in ("Satterthwaite", "SATTERTHWAITE", "satterthwaite")} == {
        "satterthwaite"
    }
    assert {
        method_name(name)
        for name in ("Kenward-Roger", "KR", "kr", "kenward_roger", "Kenward Roger")
    } == {"kenward_roger"}
    for bad in ("sattertwaite", "", 3, True):
        with pytest.raises(lmm.ArgumentError, match="is not one of"):
            method_name(bad)  # type: ignore[arg-type]


def test_other_kinds_of_fits_say_why_not() -> None:
    fit = lmm.glmer(
        "cbind(incidence, size - incidence) ~ period + (1|herd)",
        lmm.datasets.load("cbpp"),
        family="binomial",
    )
    with pytest.raises(lmm.ArgumentError, match="generalized"):
        fit.contrast("Intercept", ddf="satterthwaite")
    with pytest.raises(lmm.ArgumentError, match="linear models"):
        parameters_of(fit.problem, fit.estimator, fit.estimate)
    linear = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    posterior = PosteriorEstimate(
        **vars(linear.estimate), draws=Draws(np.zeros((1, 1, 2)), ()), mode_cov=()
    )
    with pytest.raises(lmm.ArgumentError, match="posterior"):
        degrees_of_freedom(
            linear.problem, linear.estimator, posterior, linear.vcov().to_numpy(), None
        )
