"""Variances that the data do not determine are held at zero and named; all other numbers are those of the model without them."""

import warnings

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.design import build_design
from lmm.model.gaussian.determined import determined
from lmm.model.problem import build_problem


@pytest.fixture(scope="module")
def sleep() -> pd.DataFrame:
    data = lmm.datasets.load("sleepstudy")
    subject = data["Subject"].astype(str)
    return data.assign(
        S=subject,
        q="other " + subject,
        zero=0.0,
        three=3.0,
        twice=2 * data["Days"],
        Hours=24 * data["Days"] + 5,
    )


def fitted(formula, data, **given):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit = lmm.lmer(formula, data, **given)
    return fit, [(w.category, str(w.message)) for w in seen]


CASES = [
    (
        "Reaction ~ S + Days + (1|S)",
        None,
        "(1 | S), because its columns lie in the span of the fixed effects",
    ),
    (
        "Reaction ~ S + Days + (Days|S)",
        "Reaction ~ S + Days + (0 + Days|S)",
        "(1 | S), because its columns lie in the span",
    ),
    (
        "Reaction ~ S + Days + (Days||S)",
        "Reaction ~ S + Days + (0 + Days|S)",
        "(1 | S), because its columns lie in the span",
    ),
    (
        "Reaction ~ Days + (zero|S)",
        "Reaction ~ Days + (1|S)",
        "(0 + zero | S), because it is zero in every row",
    ),
    (
        "Reaction ~ Days + (three|S)",
        "Reaction ~ Days + (1|S)",
        "(0 + three | S), because it is a combination",
    ),
    (
        "Reaction ~ Days + (three||S)",
        "Reaction ~ Days + (1|S)",
        "(0 + three | S), because it is a combination",
    ),
    (
        "Reaction ~ Days + (Days + twice|S)",
        "Reaction ~ Days + (Days|S)",
        "(0 + twice | S), because it is a combination",
    ),
    (
        "Reaction ~ Days + (Days + Hours|S)",
        "Reaction ~ Days + (Days|S)",
        "(0 + Hours | S), because it is a combination",
    ),
    (
        "Reaction ~ Days + (1|S) + (1|q)",
        "Reaction ~ Days + (1|S)",
        "(1 | q), because it is a combination of the columns of S",
    ),
    (
        "Reaction ~ Days + (Days|S) + (1|q)",
        "Reaction ~ Days + (Days|S)",
        "(1 | q), because it is a combination of the columns of S",
    ),
]


CASES += [  # of sets of correlated columns the larger is kept, whichever is written first
    (
        "Reaction ~ Days + (1|S) + (Days|q)",
        "Reaction ~ Days + (Days|q)",
        "(1 | S), because it is a combination of the columns of q",
    ),
    (
        "Reaction ~ Days + (0 + three|S) + (Days|S)",
        "Reaction ~ Days + (Days|S)",
        "(0 + three | S), because it is a combination",
    ),
    (
        "Reaction ~ Days + (Days|S) + (0 + three|S)",
        "Reaction ~ Days + (Days|S)",
        "(0 + three | S), because it is a combination",
    ),
]


@pytest.mark.parametrize(("formula", "without", "said"), CASES)
@pytest.mark.parametrize("method", ["reml", "em"])
def test_the_fit_is_the_one_without_the_column(sleep, formula, without, said, method) -> None:
    fit, seen = fitted(formula, sleep, method=method)
    assert [category for category, _ in seen] == [lmm.SingularFitWarning]
    assert said in seen[0][1]
    assert said in str(fit.summary()).replace("\n    ", " ")
    assert fit.convergence.converged
    assert fit.theta.abs().max() < 10
    if without is None:  # nothing is left: least squares
        X = build_design(formula, sleep).X
        beta, rss = np.linalg.lstsq(X, sleep["Reaction"], rcond=None)[:2]
        np.testing.assert_allclose(fit.fixef(), beta, rtol=1e-9)
        assert fit.sigma == pytest.approx(np.sqrt(rss[0] / (180 - X.shape[1])))
        return
    other, _ = fitted(without, sleep, method=method)
    assert fit.llf == pytest.approx(other.llf, abs=1e-7)
    np.testing.assert_allclose(fit.fixef(), other.fixef(), rtol=1e-6)
    np.testing.assert_allclose(fit.bse, other.bse, rtol=1e-4)
    np.testing.assert_allclose(fit.predict(sleep), other.predict(sleep), rtol=1e-6)


def test_maximum_likelihood_determines_the_variance_of_a_fixed_factor(sleep) -> None:
    problem = build_problem(build_design("Reaction ~ S + Days + (1|S)", sleep))
    assert determined(problem, False).all
    assert not determined(problem, True).all


def test_a_covariate_that_is_constant_within_levels_is_determined(sleep) -> None:
    age = dict(zip(sleep["S"].unique(), np.linspace(20, 60, 18), strict=True))
    problem = build_problem(
        build_design("Reaction ~ Days + (age|S)", sleep.assign(age=sleep["S"].map(age)))
    )
    assert determined(problem, True).all


def test_the_coefficients_of_pastes_are_those_of_lme4() -> None:
    # lme4 1.1-31: strength ~ batch + (1|batch/cask), logLik -102.7245; the intercept is the mean of batch A
    pastes = lmm.datasets.load("Pastes")
    fit, seen = fitted("strength ~ batch + (1|batch/cask)", pastes)
    assert fit.llf == pytest.approx(-102.7245, abs=1e-3)
    assert fit.params["Intercept"] == pytest.approx(
        pastes.loc[pastes["batch"] == "A", "strength"].mean()
    )
    assert "(1 | batch)" in seen[0][1]


def test_batches_hold_what_single_fits_hold(sleep) -> None:
    Y = sleep[["Reaction"]].assign(other=np.random.default_rng(0).normal(size=180))
    batch = lmm.lmer_batch("~ S + Days + (Days|S)", sleep, Y)
    fit, _ = fitted("Reaction ~ S + Days + (Days|S)", sleep)
    np.testing.assert_allclose(batch.theta[0], fit.theta, atol=1e-5)
    np.testing.assert_allclose(batch.beta[0], fit.fixef(), rtol=1e-6)


@pytest.mark.parametrize("x", [np.full(80, 3.0), np.zeros(80)])
def test_nested_slopes_of_a_constant(x) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        g = rng.integers(0, 8, 80)
        data = pd.DataFrame(
            {
                "g": g,
                "h": rng.integers(0, 4, 80),
                "x": x,
                "y": rng.normal(0, 2, 8)[g] + rng.normal(size=80),
            }
        )
        fit, seen = fitted("y ~ 1 + (x|g/h)", data)
        other, _ = fitted("y ~ 1 + (1|g/h)", data)
        assert fit.llf == pytest.approx(other.llf, abs=1e-6)
        assert sum("Not determined" in text for _, text in seen) == 2


def test_an_intercept_beside_slopes_on_indicators_has_a_variance() -> None:
    # it is the covariance of correlated slopes, where that is positive and below both variances
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(40), 8)
    late = np.tile([0.0, 1.0], 160)
    y = (
        rng.normal(size=40)[g]
        + rng.normal(size=(40, 2))[g, late.astype(int)]
        + rng.normal(size=320)
    )
    data = pd.DataFrame({"g": g, "late": late, "early": 1.0 - late, "y": y})
    fit, seen = fitted("y ~ 1 + (1 + early + late || g)", data)
    correlated, _ = fitted("y ~ 1 + (0 + early + late | g)", data)
    assert seen == []
    assert fit.theta.min() > 0.1
    assert fit.llf == pytest.approx(correlated.llf, abs=1e-7)
    np.testing.assert_allclose(fit.bse, correlated.bse, rtol=1e-4)


WITHOUT = {
    "(x|g)": "(1|g)",
    "(x||g)": "(1|g)",
    "(x|g) + (1|h)": "(1|g) + (1|h)",
    "(1|h) + (0 + x|g)": "(1|h)",
}


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize("shift", [0.0, 30.0, 1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("random", WITHOUT)
def test_the_span_of_the_fixed_effects_is_seen_wherever_their_origin_lies(
    random, shift, chunks, tmp_path
):
    """One row has the whole slope, and a fixed effect of its own, whose column lies far from zero."""
    rng = np.random.default_rng(0)
    n = 60
    g, h, x = rng.integers(0, 8, n), rng.integers(0, 5, n), np.r_[1.0, np.zeros(n - 1)]
    y = rng.normal(size=8)[g] + rng.normal(size=5)[h] + rng.normal(size=n)
    data = pd.DataFrame({"y": y, "g": g, "h": h, "x": x, "z": x + shift * x.std()})
    data.to_parquet(tmp_path / "rows.parquet")
    fit, seen = fitted(
        f"y ~ z + {random}", lmm.Source(tmp_path / "rows.parquet", chunk=25) if chunks else data
    )
    without, _ = fitted(f"y ~ z + {WITHOUT[random]}", data)
    assert any(
        "Not determined, g: the data say nothing of the variance of (0 + x | g)" in text
        for _, text in seen
    )
    assert fit.llf == pytest.approx(without.llf, abs=1e-6)
    assert fit.bse["z"] == pytest.approx(without.bse["z"], rel=1e-5)


def between(levels: int, seed: int = 0) -> pd.DataFrame:
    """A covariate that is constant within groups."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(levels), 8)
    x = rng.normal(size=levels)[g]
    return pd.DataFrame(
        {
            "y": rng.normal(size=levels)[g] * 3 + rng.normal(size=len(g)),
            "x": x,
            "z": rng.normal(size=len(g)),
            "g": g,
        }
    )


@pytest.mark.parametrize(
    ("formula", "levels", "groups"),
    [
        ("y ~ z + (x|g)", 2, "g"),  # one difference of means, three variances and covariances
        ("y ~ x + I(x**2) + (x||g)", 4, "g"),  # one degree of freedom is left between the groups
        ("y ~ x + z + I(x**2) + (x||g)", 4, "g"),
    ],
)
def test_a_ridge_of_variances_is_said_in_every_order_of_the_rows(formula, levels, groups):
    """Fewer degrees of freedom between the levels than variances: the criterion is the same along a curve of them."""
    data = between(levels)
    found = [fitted(formula, data.sample(frac=1.0, random_state=seed)) for seed in range(3)]
    for fit, seen in found:
        if fit.is_singular():
            continue
        assert any(
            f"Not determined, {groups}: other variances and correlations of Intercept, x give the same"
            in text
            for _, text in seen
        )
    assert np.ptp([fit.llf for fit, _ in found]) < 1e-6
    assert not all(fit.is_singular() for fit, _ in found)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_variances_that_are_hard_to_tell_are_no_ridge(scale):
    """One row of eighty tells two grouping factors from each other: a wide valley, but no ridge."""
    rng = np.random.default_rng(1)
    g = np.r_[np.arange(60), np.arange(20)]
    h = np.r_[np.arange(60), np.arange(20)]
    h[-1] = 60
    x = rng.normal(size=80)
    y = rng.normal(size=60)[g] + rng.normal(size=61)[h] + x + rng.normal(size=80)
    for formula in ("y ~ x + (1|g) + (1|h)", "y ~ 1 + (1|g) + (1|h)"):
        _, seen = fitted(formula, pd.DataFrame({"y": y * scale, "x": x * scale, "g": g, "h": h}))
        assert not any("other variances" in text for _, text in seen)
