"""Predictions, their standard errors and intervals, against dense linear algebra; simulated responses."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

import lmm
from tests.results.fits import fit, frame


def dense_joint_covariance(one: lmm.Fit) -> np.ndarray:
    """Covariance of (beta_hat, b_hat - b) over sigma^2: Henderson's equations, inverted whole."""
    design = one.design
    n, w = design.n, np.ones(design.n) if design.weights is None else design.weights
    W = np.hstack([design.X, design.Z.toarray()])
    H = W.T @ (w[:, None] * W)
    at = design.p
    for term, T in zip(design.terms, one.estimate.factors, strict=True):
        q = term.J * term.k
        H[at : at + q, at : at + q] += np.kron(np.eye(term.J), np.linalg.inv(T @ T.T))
        at += q
    assert at == W.shape[1] and n == len(W)
    return np.linalg.inv(H)


@pytest.fixture(scope="module")
def crossed() -> tuple[lmm.Fit, pd.DataFrame]:
    """A fit with slopes, two crossed factors, weights and an offset, from 300 simulated rows."""
    rng = np.random.default_rng(7)
    n = 300
    data = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "g": rng.integers(0, 25, n),
            "h": rng.integers(0, 9, n),
            "w": rng.uniform(0.5, 2, n),
        }
    )
    data["o"] = rng.normal(size=n)
    b, c = rng.normal(size=(25, 2)), rng.normal(size=9)
    data["y"] = (
        3
        + data.x
        + data.o
        + b[data.g, 0]
        + 0.7 * b[data.g, 1] * data.x
        + c[data.h]
        + rng.normal(size=n) / np.sqrt(data.w)
    )
    return lmm.lmer("y ~ x + offset(o) + (x|g) + (1|h)", data, weights="w"), data


def test_standard_errors_are_henderson(crossed):
    one, data = crossed
    joint = one.sigma**2 * dense_joint_covariance(one)
    W = np.hstack([one.design.X, one.design.Z.toarray()])
    mine = one.predict(se_fit=True)
    assert list(mine.columns) == ["fit", "se"]
    np.testing.assert_allclose(
        mine["se"], np.sqrt(np.einsum("ij,jk,ik->i", W, joint, W)), rtol=1e-8
    )
    np.testing.assert_allclose(mine["fit"], one.fittedvalues, rtol=1e-12)
    new = one.predict(data, se_fit=True)
    np.testing.assert_allclose(new["se"], mine["se"], rtol=1e-10)


def test_standard_errors_with_some_of_the_terms(crossed):
    one, data = crossed
    joint = one.sigma**2 * dense_joint_covariance(one)
    Z = one.design.Z.toarray()
    kept = {"~ (1|h)": slice(50, 59), "~ (x|g)": slice(0, 50), "~ (1|g)": slice(0, 50, 2)}
    for re_form, columns in kept.items():
        part = np.zeros_like(Z)
        part[:, columns] = Z[:, columns]
        W = np.hstack([one.design.X, part])
        want = np.sqrt(np.einsum("ij,jk,ik->i", W, joint, W))
        np.testing.assert_allclose(
            one.predict(data, re_form=re_form, se_fit=True)["se"], want, rtol=1e-8
        )
    population = np.sqrt(
        np.einsum("ij,jk,ik->i", one.design.X, one.vcov().to_numpy(), one.design.X)
    )
    np.testing.assert_allclose(
        one.predict(data, re_form=False, se_fit=True)["se"], population, rtol=1e-10
    )


def test_terms_add_up_to_the_whole(crossed):
    one, data = crossed
    none, g, h, both = (one.predict(data, re_form=f) for f in ("~0", "~ (x|g)", "~ (1|h)", None))
    np.testing.assert_allclose(both - none, (g - none) + (h - none), atol=1e-10)
    np.testing.assert_allclose(none, one.predict(data, re_form=False))


def test_new_level_has_no_effect_and_its_whole_variance(crossed):
    one, data = crossed
    new = data.head(5).assign(g=999)
    with pytest.raises(lmm.PredictionError, match="999"):
        one.predict(new)
    known_h = one.predict(new, re_form="~ (1|h)", se_fit=True)
    mine = one.predict(new, allow_new_levels=True, se_fit=True)
    np.testing.assert_allclose(mine["fit"], known_h["fit"])
    z = np.column_stack([np.ones(5), new.x])
    extra = np.einsum("ij,jk,ik->i", z, one.varcorr()["g"].to_numpy(), z)
    np.testing.assert_allclose(mine["se"] ** 2, known_h["se"] ** 2 + extra, rtol=1e-9)


def test_intervals(crossed):
    one, data = crossed
    z = 1.959963984540054  # 0.975 quantile of the standard normal
    confidence = one.predict(data, interval="confidence")
    assert list(confidence.columns) == ["fit", "se", "lower", "upper"]
    np.testing.assert_allclose(confidence["upper"] - confidence["fit"], z * confidence["se"])
    wide = one.predict(data, interval="prediction")
    np.testing.assert_allclose(
        ((wide["upper"] - wide["fit"]) / z) ** 2, confidence["se"] ** 2 + one.sigma**2, rtol=1e-9
    )
    own = one.predict(interval="prediction")
    np.testing.assert_allclose(
        ((own["upper"] - own["fit"]) / z) ** 2,
        confidence["se"] ** 2 + one.sigma**2 / data.w,
        rtol=1e-9,
    )
    half = one.predict(data, interval="confidence", level=0.5)
    assert np.all(half["upper"] - half["lower"] < confidence["upper"] - confidence["lower"])


def test_population_prediction_interval_counts_every_random_effect(crossed):
    one, data = crossed
    z = 1.959963984540054
    columns = np.column_stack([np.ones(len(data)), data.x])
    marginal = (
        np.einsum("ij,jk,ik->i", columns, one.varcorr()["g"].to_numpy(), columns)
        + one.varcorr()["h"].iloc[0, 0]
    )
    mine = one.predict(data.assign(g=-1, h=-1), re_form=False, interval="prediction")
    np.testing.assert_allclose(
        ((mine["upper"] - mine["fit"]) / z) ** 2,
        mine["se"] ** 2 + marginal + one.sigma**2,
        rtol=1e-9,
    )
    pd.testing.assert_frame_equal(
        one.predict(data[["x", "o"]], re_form=False, interval="prediction"), mine
    )


def test_prediction_intervals_cover():
    # 40 draws of 300 rows: the share of new responses inside a 90 % interval has sd below 0.3 %
    one = fit("sleep")
    band = one.predict(interval="prediction", level=0.9, re_form=False)
    draws = one.simulate(2000, rng=3)
    inside = draws.ge(band["lower"], axis=0) & draws.le(band["upper"], axis=0)
    assert inside.to_numpy().mean() == pytest.approx(0.9, abs=0.02)


def test_rows_with_missing_values_are_missing():
    new = pd.DataFrame(
        {"Days": [1.0, np.nan, 2.0], "Subject": ["308", "309", None]}, index=["a", "b", "c"]
    )
    mine = fit("sleep").predict(new, se_fit=True)
    assert list(mine.index) == ["a", "b", "c"]
    assert mine["fit"].isna().tolist() == [False, True, True] == mine["se"].isna().tolist()
    assert fit("sleep").predict(new[["Days"]], re_form=False).isna().tolist() == [
        False,
        True,
        False,
    ]


def test_bad_arguments_are_refused():
    one = fit("sleep")
    wrong = {
        "'response'": {"type": "respons"},
        "'prediction'": {"interval": "predict"},
        "0 and 1": {"level": 95, "se_fit": True},
    }
    for word, arguments in wrong.items():
        with pytest.raises(lmm.ArgumentError, match=word):
            one.predict(**arguments)
    with pytest.raises(lmm.PredictionError, match="Days"):
        one.predict(pd.DataFrame({"Subject": ["308"]}))
    with pytest.raises(lmm.FormulaError, match="Subjec"):
        one.predict(re_form="~ (1|Subjec)")


def test_index_and_order_of_rows():
    data = frame("sleepstudy").set_axis([f"r{i}" for i in range(180)])
    one = lmm.lmer("Reaction ~ Days + (Days|Subject)", data)
    assert one.predict().index.equals(data.index)
    back = data.iloc[::-1]
    pd.testing.assert_series_equal(one.predict(back), one.predict().iloc[::-1], check_names=False)


def test_dropped_columns_do_not_count():
    data = frame("sleepstudy").assign(twice=lambda d: 2 * d.Days)
    with pytest.warns(lmm.RankWarning):
        one = lmm.lmer("Reaction ~ Days + twice + (Days|Subject)", data)
    np.testing.assert_allclose(one.predict(data), fit("sleep").predict(), rtol=1e-8)


def test_simulation_has_the_marginal_moments(crossed):
    one, data = crossed
    nsim = 4000
    draws = one.simulate(nsim, rng=1)
    assert (
        draws.shape == (300, nsim)
        and draws.columns[0] == "sim_1"
        and draws.index.equals(data.index)
    )
    Z = one.design.Z.toarray()
    G = np.zeros((59, 59))
    G[:50, :50] = np.kron(np.eye(25), one.varcorr()["g"].to_numpy())
    G[50:, 50:] = np.eye(9) * one.varcorr()["h"].iloc[0, 0]
    V = Z @ G @ Z.T + np.diag(one.sigma**2 / data.w)
    values = draws.to_numpy()
    z = (values.mean(axis=1) - one.predict(re_form=False)) / np.sqrt(np.diag(V) / nsim)
    assert np.abs(z).max() < 5  # 300 correlated standard normals
    got = np.cov(values)
    spread = np.sqrt((np.outer(np.diag(V), np.diag(V)) + V**2) / nsim)
    assert np.abs((got - V) / spread).max() < 6  # 45,000 of them


def test_simulation_with_the_modes_kept(crossed):
    one, data = crossed
    nsim = 2000
    values = one.simulate(nsim, rng=2, use_u=True).to_numpy()
    error = one.sigma / np.sqrt(data.w.to_numpy())
    assert np.abs((values.mean(axis=1) - one.fittedvalues) / (error / np.sqrt(nsim))).max() < 5
    np.testing.assert_allclose(values.std(axis=1) / error, 1, atol=0.1)


def test_simulation_is_reproducible():
    one = fit("sleep")
    pd.testing.assert_frame_equal(
        one.simulate(2, rng=5), one.simulate(2, rng=np.random.default_rng(5))
    )
    assert not one.simulate(1, rng=5).equals(one.simulate(1, rng=6))
    assert one.simulate(2, rng=5)["sim_1"].equals(one.simulate(1, rng=5)["sim_1"])
    for nsim in (0, -1, 2.5, True):
        with pytest.raises(lmm.ArgumentError, match="nsim"):
            one.simulate(nsim)


def test_simulate_then_refit_recovers():
    one = fit("sleep")
    sigmas = [one.refit(y).sigma for _, y in itertools.islice(one.simulate(60, rng=8).items(), 60)]
    # sd of sigma_hat is about sigma / sqrt(2 * 144); sixty of them
    assert np.mean(sigmas) == pytest.approx(one.sigma, abs=5 * one.sigma / np.sqrt(2 * 144 * 60))
