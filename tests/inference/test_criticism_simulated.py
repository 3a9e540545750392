"""Simulated residuals: uniform when the model holds, and not when it does not; what fit.check() makes of them."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.inference.criticism import extremes
from lmm.inference.criticism import quantile_residuals as quantiles
from lmm.inference.criticism.normality import quantile_correlation

LEVELS, PER = 40, 6


def grouped(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups, a predictor, and a linear predictor."""
    g = np.repeat(np.arange(LEVELS), PER)
    x = rng.standard_normal(LEVELS * PER)
    return g, x, 1.0 + 0.4 * x + 0.5 * rng.standard_normal(LEVELS)[g]


@cache
def fitted(kind: str) -> lmm.Fit:
    """Fits of a Poisson model to counts that are what it says, and that are not."""
    rng = np.random.default_rng(11)
    g, x, eta = grouped(rng)
    mu = np.exp(eta)
    y = {
        "right": lambda: rng.poisson(mu),
        "overdispersed": lambda: rng.negative_binomial(0.8, 0.8 / (0.8 + mu)),
        "zeros": lambda: rng.poisson(mu) * (rng.random(len(mu)) > 0.3),
        "underdispersed": lambda: rng.binomial(12, np.minimum(mu / 12, 0.95)),
    }[kind]()
    return lmm.glmer("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g}), family="poisson")


# ---- the numbers ----


def test_ranks_are_uniform_among_exchangeable_counts():
    rng = np.random.default_rng(1)
    u = np.concatenate(
        [
            quantiles.randomised_ranks(
                rng.poisson(1.5, 500).astype(float), rng.poisson(1.5, (500, 40)), rng
            )
            for _ in range(20)
        ]
    )
    assert u.min() > 0 and u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # chi-squared(19), 0.1 %


@pytest.mark.parametrize("discrete", [False, True])
def test_ranks_of_simulations_are_those_of_each_among_all(discrete):
    rng = np.random.default_rng(2)
    simulations = (
        rng.poisson(2.0, (50, 30)).astype(float) if discrete else rng.standard_normal((50, 30))
    )
    ranks = np.floor(quantiles.simulated_ranks(simulations, discrete, rng) * 30).astype(int)
    np.testing.assert_array_equal(np.sort(ranks, axis=1), np.broadcast_to(np.arange(30), (50, 30)))
    order = np.take_along_axis(simulations, np.argsort(ranks, axis=1), axis=1)
    assert (np.diff(order, axis=1) >= 0).all()


def test_monte_carlo_p_values():
    simulated = np.arange(1.0, 100.0)  # 99 of them
    assert quantiles.monte_carlo(1000.0, simulated, False).p_value == 0.01
    assert quantiles.monte_carlo(1000.0, simulated, True).p_value == 0.02
    assert quantiles.monte_carlo(-5.0, simulated, False).p_value == 1.0
    assert quantiles.monte_carlo(50.0, simulated, True).p_value == 1.0
    assert quantiles.monte_carlo(50.0, simulated, False).expected == 50.0


def test_dispersion_is_the_ratio_of_variances():
    rng = np.random.default_rng(3)
    sd = rng.uniform(0.5, 4.0, 4000)
    simulations = sd[:, None] * rng.standard_normal((4000, 200))
    found = quantiles.dispersion(1.5 * sd * rng.standard_normal(4000), simulations)
    assert (
        found.statistic == pytest.approx(2.25, abs=4 * 2.25 * np.sqrt(2 / 4000))
        and found.p_value < 0.02
    )


def test_outliers_are_beyond_all_simulations():
    simulations = np.random.default_rng(4).random((30, 100))
    y = simulations.mean(axis=1)
    assert quantiles.outliers(y, simulations).statistic == 0
    y[:3], y[3] = 2.0, -1.0
    assert quantiles.outliers(y, simulations).statistic == 4
    ties = np.zeros((30, 100))
    assert quantiles.outliers(np.zeros(30), ties).statistic == 0


def test_a_normal_sample_is_normal_and_an_exponential_one_is_not():
    rng = np.random.default_rng(5)
    p = [quantile_correlation(rng.standard_normal(25), rng)[1] for _ in range(200)]
    assert abs(np.mean(np.array(p) < 0.1) - 0.1) < 0.065  # three standard errors
    assert quantile_correlation(rng.exponential(size=60), rng)[1] < 0.01
    assert np.isnan(quantile_correlation(np.ones(10), rng)[1])


# ---- level: the tests are right although rows share random effects ----


def test_all_tests_hold_their_level_in_a_model_with_strong_groups():
    rng = np.random.default_rng(6)
    g = np.repeat(np.arange(10), 12)
    frame = pd.DataFrame({"y": rng.poisson(2.0, 120).astype(float), "g": g})
    control = lmm.Control(evaluate_only=True)
    start = {"theta": [0.8], "beta": [0.7]}
    truth = lmm.glmer(
        "y ~ 1 + (1 | g)", frame, family="poisson", start=np.array([0.8, 0.7]), control=control
    )
    assert start["theta"] == truth.theta.to_list()
    y = truth.simulate(150, rng=7).to_numpy()
    p = pd.DataFrame(
        [
            truth.refit(column).simulated_residuals(60, rng=rng).tests()["p_value"]
            for column in y.T
            if np.ptp(column) > 0
        ]
    )
    share = (
        p.drop(columns="spread") <= 0.2
    ).mean()  # all fitted values are equal: spread has no meaning
    limit = 3.5 * np.sqrt(0.2 * 0.8 / len(p))
    assert (share < 0.2 + limit).all()
    assert (
        share[["uniformity", "dispersion"]] > 0.2 - limit
    ).all()  # counts of outliers and zeros are discrete, hence conservative


# ---- power: what is wrong is found ----


def test_a_right_model_passes():
    table = fitted("right").simulated_residuals(rng=1).tests()
    assert (table["p_value"] > 0.05).all()
    assert table.loc["dispersion", "statistic"] == pytest.approx(1.0, abs=0.4)


def test_overdispersion_is_detected():
    for conditional, level in ((False, 0.05), (True, 0.01)):  # effects drawn anew hide some of it
        table = fitted("overdispersed").simulated_residuals(rng=1, conditional=conditional).tests()
        assert (
            table.loc["dispersion", "p_value"] < level
            and table.loc["dispersion", "statistic"] > 1.3
        )
    assert table.loc["outliers", "p_value"] < 0.01


def test_underdispersion_is_detected():
    table = fitted("underdispersed").simulated_residuals(rng=1, conditional=True).tests()
    assert table.loc["dispersion", "statistic"] < 0.9 and table.loc["dispersion", "p_value"] < 0.05


def test_zero_inflation_is_detected():
    table = fitted("zeros").simulated_residuals(rng=1).tests()
    assert (
        table.loc["zero_inflation", "p_value"] < 0.01
        and table.loc["zero_inflation", "statistic"] > 1.2
    )


def test_variance_that_grows_with_the_mean_is_detected():
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(30), 10)
    x = rng.uniform(0, 3, 300)
    frame = pd.DataFrame(
        {
            "y": 2 * x
            + 0.5 * rng.standard_normal(30)[g]
            + np.exp(0.6 * x) * rng.standard_normal(300),
            "x": x,
            "g": g,
        }
    )
    table = lmm.lmer("y ~ x + (1 | g)", frame).simulated_residuals(rng=1).tests()
    assert table.loc["spread", "p_value"] < 0.01 and table.loc["spread", "statistic"] > 0.1
    assert np.isnan(table.loc["zero_inflation", "p_value"])


# ---- what comes back ----


def test_values_are_on_the_users_index_and_reproducible():
    frame = lmm.datasets.load("sleepstudy").assign(Reaction=lambda d: d["Reaction"].astype(float))
    frame.index = [f"row {i}" for i in range(len(frame))]
    frame.loc["row 7", "Reaction"] = np.nan
    fit = lmm.lmer("Reaction ~ Days + (1 | Subject)", frame, na_action="exclude")
    found = fit.simulated_residuals(50, rng=3)
    assert found.values.index.equals(frame.index) and found.values.isna().sum() == 1
    assert found.fitted.index.equals(frame.index)
    assert found.simulations.shape == (179, 50) and found.nsim == 50
    pd.testing.assert_series_equal(found.values, fit.simulated_residuals(50, rng=3).values)
    pd.testing.assert_frame_equal(found.tests(), fit.simulated_residuals(50, rng=3).tests())
    assert (
        "uniformity" in str(found)
        and "<table>" in found._repr_html_()
        and "zero_inflation" not in str(found)
    )


def test_residuals_by_group():
    fit = fitted("right")
    found = fit.simulated_residuals(100, rng=2)
    by = found.by("g")
    assert len(by.values) == LEVELS and by.values.between(0, 1).all()
    np.testing.assert_allclose(
        by.observed, pd.Series(fit.design.y).groupby(fit.design.terms[0].codes).sum()
    )
    assert list(by.values.index) == list(fit.design.terms[0].levels)
    same = found.by(fit.design.terms[0].codes)
    np.testing.assert_allclose(same.observed, by.observed)
    assert len(found.by("x").values) == LEVELS * PER
    with pytest.raises(lmm.ArgumentError, match="neither a grouping factor"):
        found.by("group")
    with pytest.raises(lmm.ArgumentError, match="of groups already"):
        by.by("g")


def test_binomial_responses_are_compared_as_successes():
    herds = lmm.datasets.load("cbpp")
    fit = lmm.glmer(
        "cbind(incidence, size - incidence) ~ period + (1 | herd)", herds, family="binomial"
    )
    found = fit.simulated_residuals(60, rng=1)
    np.testing.assert_array_equal(found.observed, herds["incidence"])
    assert np.array_equal(found.simulations, np.round(found.simulations))
    assert np.isfinite(found.tests().loc["zero_inflation", "p_value"])


def test_bad_numbers_of_simulations_are_refused():
    for nsim in (5, 2.5, True):
        with pytest.raises(lmm.ArgumentError, match="must be a (positive )?whole number"):
            fitted("right").simulated_residuals(nsim)  # type: ignore[arg-type]


# ---- check ----


def test_the_t_value_of_a_row_is_that_of_a_mean_of_its_own():
    """Given theta, by dense generalized least squares with the row's indicator, of REML and ML."""
    rng = np.random.default_rng(14)
    g, x, w = np.repeat(np.arange(5), 4), rng.standard_normal(20), rng.uniform(0.5, 2.0, 20)
    frame = pd.DataFrame({"y": x + rng.standard_normal(5)[g] + rng.standard_normal(20), "x": x})
    frame["g"] = g
    for reml in (True, False):
        fit = lmm.lmer("y ~ x + (1 | g)", frame, weights=w, REML=reml)
        V = np.diag(1.0 / w) + float(fit.theta.iloc[0]) ** 2 * (g[:, None] == g)
        X = np.column_stack([np.ones(20), x])
        expected = []
        for row in np.eye(20):
            root = np.linalg.cholesky(V)
            wide = np.linalg.solve(root, np.column_stack([X, row]))
            beta, rss = np.linalg.lstsq(wide, np.linalg.solve(root, frame["y"]))[:2]
            expected.append(beta[2] / np.sqrt(np.linalg.inv(wide.T @ wide)[2, 2] * rss[0] / 17))
        share = fit.rstudent().to_numpy() * (1.0 if reml else np.sqrt(18 / 20))
        np.testing.assert_allclose(extremes.t_values(share, 18.0), expected, rtol=1e-9)


def test_kurtosis_is_scipys_and_tails_are_of_both_sides():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(15)
    for values in (rng.standard_normal(25), rng.standard_t(4, 800), rng.random(60)):
        found, p = extremes.kurtosis(values)
        assert found == pytest.approx(stats.kurtosis(values, fisher=False), rel=1e-12)
        assert p == pytest.approx(stats.kurtosistest(values, alternative="greater")[1], rel=1e-9)
    y = np.array([0.0, 2.0, 9.0])
    tails = extremes.family_tails(lmm.families.Poisson(), y, np.full(3, 2.0), None, 1.0)
    poisson = stats.poisson(2.0)
    expected = [2 * poisson.cdf(0), 1.0, 2 * poisson.sf(8)]
    np.testing.assert_allclose(tails, expected, rtol=1e-12)
    share = np.array([0.0, 0.8])
    tails = extremes.family_tails(
        lmm.families.Binomial(), share, np.array([0.5, 0.1]), np.array([4.0, 10.0]), 1.0
    )
    expected = [2 * 0.5**4, 2 * stats.binom(10, 0.1).sf(7)]
    np.testing.assert_allclose(tails, expected, rtol=1e-9)
    far = extremes.extreme(np.array([0.5, 1e-6, 1e-4, 0.01]), 0.01)
    assert far.row == 1 and far.p_value == 4e-6 and list(far.beyond) == [1, 2]


def test_check_finds_rows_far_out_and_heavy_tails_by_label_and_the_same_at_every_call():
    rng = np.random.default_rng(16)
    n = 3000
    g, x = np.repeat(np.arange(30), 100), rng.standard_normal(n)
    clean = x + 3.0 * rng.standard_normal(30)[g] + rng.standard_normal(n)
    frame = pd.DataFrame({"y": clean, "x": x, "g": g}, index=[f"row {i}" for i in range(n)])
    right = lmm.lmer("y ~ x + (1 | g)", frame).check(20)
    assert (right.table.loc[["largest residual", "residual tails"], "status"] == "ok").all()
    frame.iloc[:10, 0] += np.linspace(6.0, 9.0, 10)
    frame.iloc[9, 0] += 3.0
    fit = lmm.lmer("y ~ x + (1 | g)", frame)
    wrong = fit.check(20)
    pd.testing.assert_frame_equal(wrong.table, fit.check(20).table)
    assert (wrong.table.loc[["largest residual", "residual tails"], "status"] == "warning").all()
    assert "'row 9'" in wrong.table.loc["largest residual", "what"]
    assert "Rows 'row 9', " in wrong.table.loc["largest residual", "advice"]
    y = rng.poisson(np.exp(1.0 + 0.3 * rng.standard_normal(30))[g[::10] % 30]).astype(float)
    y[4] = 40.0
    poisson = pd.DataFrame({"y": y, "g": g[::10]})
    table = lmm.glmer("y ~ 1 + (1 | g)", poisson, family="poisson").check(20).table
    assert table.loc["largest residual", "status"] == "warning"
    assert "4 is the most extreme" in table.loc["largest residual", "what"]
    assert "Row 4 lies" in table.loc["largest residual", "advice"]


def test_check_simulates_some_of_many_rows_and_says_how_many(monkeypatch):
    from lmm.results.rows import simulated_residuals

    monkeypatch.setattr(simulated_residuals, "SIMULATED", 20 * 60)
    monkeypatch.setattr(simulated_residuals, "ROWS", 10)
    for fit in (fitted("right"), lmm.lmer("y ~ x + (1 | g)", fitted("right").design.frame.data)):
        found = fit.check(20)
        assert "60 rows, drawn at random from the 240" in str(found)
        assert "60 rows" in found._repr_html_() and found.table.loc["distribution", "p_value"] > 0
    monkeypatch.undo()
    assert "drawn at random" not in str(fitted("right").check(20))


def test_check_says_what_is_wrong_and_what_to_do():
    table = fitted("overdispersed").check(rng=1).table
    assert (
        table.loc["overdispersion", "status"] == "warning"
        and "negative_binomial" in table.loc["overdispersion", "advice"]
    )
    assert table.loc["convergence", "status"] == "ok" and table.loc["convergence", "advice"] == ""
    text = str(fitted("overdispersed").check(rng=1))
    assert text.index("overdispersion:") < text.index("convergence")
    assert "things to look at in" in text


def test_check_finds_nothing_where_nothing_is_wrong():
    found = fitted("right").check(rng=1)
    assert found.ok and str(found).startswith("Nothing found wrong")
    assert set(found.table.index) >= {
        "convergence",
        "singularity",
        "rank",
        "distribution",
        "outliers",
        "zeros",
        "overdispersion",
    }


def test_check_of_collinear_singular_and_deficient_models():
    rng = np.random.default_rng(9)
    g = np.repeat(np.arange(20), 8)
    x = rng.standard_normal(160)
    frame = pd.DataFrame(
        {
            "y": x + rng.standard_normal(160),
            "x": x,
            "near": x + 0.05 * rng.standard_normal(160),
            "twice": 2 * x,
            "g": g,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lmm.lmer("y ~ x + near + twice + (x | g)", frame).check(rng=1)
    assert (found.table.loc[["collinearity", "singularity", "rank"], "status"] == "warning").all()
    assert "twice" in found.table.loc["rank", "advice"]
    assert (
        "Leaving" in found.table.loc["singularity", "advice"]
        or "||" in found.table.loc["singularity", "advice"]
    )
    assert "<table>" in found._repr_html_()


def test_check_finds_a_row_that_moves_the_fit_and_groups_that_are_not_normal():
    rng = np.random.default_rng(10)
    g = np.repeat(np.arange(40), 8)
    x = rng.standard_normal(320)
    effects = np.where(np.arange(40) < 36, rng.standard_normal(40), 12.0)
    y = x + effects[g] + rng.standard_normal(320)
    x[5], y[5] = 40.0, -80.0
    table = lmm.lmer("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g})).check(rng=1).table
    assert (
        table.loc["influence", "status"] == "warning" and "row 5" in table.loc["influence", "what"]
    )
    assert table.loc["random effects, g", "status"] == "warning"


def test_check_finds_a_group_that_moves_the_fit():
    rng = np.random.default_rng(12)
    g = np.repeat(np.arange(12), 8)
    x = rng.standard_normal(96) * 0.3
    x[:8] += 8.0
    y = 0.2 * x + rng.standard_normal(12)[g] + rng.standard_normal(96)
    y[:8] += 25.0
    table = lmm.lmer("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g})).check(rng=1).table
    assert (
        table.loc["influence, g", "status"] == "warning"
        and "'0'" in table.loc["influence, g", "what"]
    )


def test_effects_that_hardly_any_rows_tell_of_are_not_tested_for_normality():
    ticks = lmm.datasets.load("grouseticks")
    fit = lmm.glmer("TICKS ~ YEAR + (1 | INDEX) + (1 | LOCATION)", ticks, family="poisson")
    found = fit.check(rng=1).table
    assert "random effects, LOCATION" in found.index and "random effects, INDEX" not in found.index


def test_models_of_several_predictors_are_checked_and_have_no_leverages(monkeypatch):
    from lmm.results.rows import simulated_residuals

    rng = np.random.default_rng(17)
    g, x, eta = grouped(rng)
    frame = pd.DataFrame({"x": x, "g": g, "k": rng.poisson(np.exp(eta)) * (rng.random(240) > 0.3)})
    frame["y"] = eta + np.exp(0.3 * x) * rng.standard_normal(240)
    fits = [
        lmm.glmer("k ~ x + (1 | g)", frame, family="poisson", ziformula="~ 1"),
        lmm.lmer("y ~ x + (1 | g)", frame, dispformula="~ x"),
    ]
    for some in (False, True):
        if some:
            monkeypatch.setattr(simulated_residuals, "SIMULATED", 20 * 60)
            monkeypatch.setattr(simulated_residuals, "ROWS", 10)
        for fit in fits:
            found = fit.check(20)
            assert found.table.loc["distribution", "status"] == "ok"
            assert ("60 rows" in found.note) == some
    with pytest.raises(lmm.ArgumentError, match="several linear predictors"):
        fits[0].leverage()


def test_levels_that_do_not_stand_alone_are_not_left_out_by_a_check() -> None:
    """Related levels and shared rows: the other checks are made."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(list("abcdefghij"), 8), "x": rng.normal(size=80)})
    data["h"], data["y"] = rng.permutation(data["g"].tolist()), data["x"] + rng.normal(size=80)
    labels = sorted(set(data["g"]))
    K = pd.DataFrame(0.5 * np.eye(10) + 0.5, index=labels, columns=labels)
    shared = lmm.lmer("y ~ x + (1|mm(g, h))", data)
    related = lmm.lmer("y ~ x + (1|g)", data, covariance={"g": K})
    for fit in (shared, related):
        names = [name for name in fit.check().table.index if "influence" in name]
        assert names == ["influence"]
    with pytest.raises(lmm.ArgumentError, match="are related, or share rows"):
        related.influence()


def test_a_gaussian_response_with_a_random_dispersion_is_summarised_and_checked() -> None:
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 10), "x": rng.normal(size=120)})
    spread = np.exp(0.5 * rng.normal(size=12))[data["g"]]
    data["y"] = data["x"] + rng.normal(size=12)[data["g"]] + spread * rng.normal(size=120)
    fit = lmm.glmer("y ~ x + (1|g)", data, family="gaussian", dispformula="~ 1 + (1|g)")
    assert "Dispersion model" in str(fit.summary())
    assert fit.residuals("pearson").std() == pytest.approx(1.0, abs=0.15)
    assert "distribution" in str(fit.check())
