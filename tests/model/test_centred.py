"""With correlated intercept and slope the origin of the covariate is of no consequence, however far it is from the data."""

import warnings

import numpy as np
import pandas as pd
import pytest

import lmm

SHIFTS = [0.0, 2e3, -2e4, 738e3, 2.45e6]


@pytest.fixture(scope="module")
def sleep() -> pd.DataFrame:
    data = lmm.datasets.load("sleepstudy")
    return data.assign(
        x=data["Days"].astype(float), w=np.linspace(0.5, 2.0, 180), q=np.tile(np.arange(6), 30)
    )


@pytest.mark.parametrize("shift", SHIFTS[1:])
@pytest.mark.parametrize("method", ["reml", "ml", "em"])
@pytest.mark.parametrize("more", ["", " + (1|q)"])
def test_estimates(sleep, shift, method, more) -> None:
    formula = f"Reaction ~ x + (x|Subject){more}"
    ref = lmm.lmer(formula, sleep, method=method, weights="w")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=lmm.ConvergenceWarning)
        fit = lmm.lmer(formula, sleep.assign(x=sleep["x"] + shift), method=method, weights="w")
    assert fit.convergence.converged
    assert fit.llf == pytest.approx(ref.llf, abs=1e-6)
    assert fit.sigma == pytest.approx(ref.sigma, rel=1e-6)
    assert fit.params["x"] == pytest.approx(ref.params["x"], rel=1e-6)
    assert fit.bse["x"] == pytest.approx(ref.bse["x"], rel=1e-6)
    T, other = ref.estimate.factors[0], fit.estimate.factors[0]
    assert np.linalg.norm(other[1]) == pytest.approx(
        np.linalg.norm(T[1]), rel=1e-6
    )  # the slopes' standard deviation
    back = np.array([[1.0, shift], [0.0, 1.0]]) @ other  # intercepts where they were
    np.testing.assert_allclose(back @ back.T, T @ T.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fit.ranef()["Subject"]["x"], ref.ranef()["Subject"]["x"], rtol=1e-5)


@pytest.mark.parametrize("shift", SHIFTS[1:])
def test_what_follows_a_fit(sleep, shift) -> None:
    moved = sleep.assign(x=sleep["x"] + shift)
    ref, fit = (lmm.lmer("Reaction ~ x + (x|Subject)", data) for data in (sleep, moved))
    for ddf in ("satterthwaite", "kenward_roger"):
        np.testing.assert_allclose(
            fit.coef_table(ddf=ddf).loc["x"], ref.coef_table(ddf=ddf).loc["x"], rtol=1e-4
        )
    rows = [3, 50, 120]
    new = (
        np.asarray(fit.predict(moved.iloc[rows], se_fit=True)),
        np.asarray(ref.predict(sleep.iloc[rows], se_fit=True)),
    )
    np.testing.assert_allclose(*new, rtol=1e-5)
    np.testing.assert_allclose(fit.leverage(), ref.leverage(), rtol=1e-5)
    np.testing.assert_allclose(fit.resid, ref.resid, atol=1e-4)
    assert fit.objective(fit.theta) == pytest.approx(ref.objective(ref.theta), abs=1e-6)
    y = sleep["Reaction"] + np.random.default_rng(0).normal(size=180)
    assert fit.refit(y).llf == pytest.approx(ref.refit(y).llf, abs=1e-6)
    start = lmm.lmer("Reaction ~ x + (x|Subject)", moved, start=fit.theta)
    assert start.llf == pytest.approx(ref.llf, abs=1e-6)
    V, W = (own.vcov(full=True) for own in (fit, ref))
    assert np.sqrt(np.asarray(V)[-1, -1]) == pytest.approx(
        np.sqrt(np.asarray(W)[-1, -1]), rel=1e-4
    )  # log sigma


def test_batches_and_bootstraps(sleep) -> None:
    moved = sleep.assign(x=sleep["x"] + 738e3)
    Y = np.column_stack(
        [sleep["Reaction"], sleep["Reaction"] + np.random.default_rng(1).normal(0, 20, 180)]
    )
    here, there = (lmm.lmer_batch("~ x + (x|Subject)", data, Y) for data in (sleep, moved))
    np.testing.assert_allclose(there.llf, here.llf, atol=1e-6)
    np.testing.assert_allclose(there.se[:, 1], here.se[:, 1], rtol=1e-5)
    a, b = (
        lmm.lmer("Reaction ~ x + (x|Subject)", data).influence("Subject").estimates["x"]
        for data in (sleep, moved)
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_nested_slopes_far_from_their_origin() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        g, x = rng.integers(0, 8, 80), rng.normal(size=80)
        data = pd.DataFrame(
            {
                "g": g,
                "h": rng.integers(0, 4, 80),
                "x": x,
                "y": rng.normal(0, 2, 8)[g] + rng.normal(size=80),
            }
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            near = lmm.lmer("y ~ 1 + (x|g/h)", data)
            far = lmm.lmer("y ~ 1 + (x|g/h)", data.assign(x=1e6 + x))
        assert far.llf == pytest.approx(near.llf, abs=1e-4)


def test_sums_over_chunks_say_that_a_covariate_is_too_far_away(sleep, tmp_path) -> None:
    path = tmp_path / "sleep.parquet"
    sleep.assign(x=sleep["x"] + 738e3, Subject=sleep["Subject"].astype(str)).to_parquet(path)
    with pytest.warns(
        lmm.ConvergenceWarning, match=r"x lies 25\d,\d\d\d standard deviations from zero"
    ):
        lmm.lmer("Reaction ~ x + (x|Subject)", str(path))
