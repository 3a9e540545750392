"""Bootstrap, influence, many responses and power, as a user meets them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm

LME4 = json.loads((Path(__file__).parents[1] / "reference" / "influence.json").read_text())
CBPP = "cbind(incidence, size - incidence) ~ period + (1|herd)"


@pytest.fixture(scope="module")
def sleep() -> lmm.Fit:
    return lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))


@pytest.fixture(scope="module")
def cbpp() -> lmm.Fit:
    return lmm.glmer(CBPP, lmm.datasets.load("cbpp"), family="binomial")


@pytest.fixture(scope="module")
def boot(sleep):
    return sleep.bootstrap(400, rng=7)


def test_replicates_are_refits_of_simulated_responses(sleep, boot):
    simulated = sleep.simulate(400, rng=7)
    for i in (0, 17, 399):
        single = sleep.refit(simulated[f"sim_{i + 1}"])
        own = boot.replicates.loc[i]
        assert own["Days"] == pytest.approx(single.params["Days"], abs=1e-6)
        table = single.varcorr().to_frame()["sdcor"].to_numpy()
        assert own["sd_(Intercept)|Subject"] == pytest.approx(table[0], abs=1e-4)
        assert own["sigma"] == pytest.approx(single.sigma, rel=1e-6)


def test_a_seed_gives_the_same_replicates(sleep, boot):
    again = sleep.bootstrap(400, rng=np.random.default_rng(7))
    pd.testing.assert_frame_equal(again.replicates, boot.replicates)
    assert not sleep.bootstrap(5, rng=8).replicates.equals(boot.replicates.head(5))


def test_rows_are_named_as_intervals_are(sleep, boot):
    wald = sleep.confint(method="wald")
    assert list(boot.replicates.columns) == list(wald.index) == list(boot.confint().index)
    assert boot.estimates["sd_Days|Subject"] == pytest.approx(5.92213, abs=1e-4)
    assert boot.estimates["Days"] == sleep.params["Days"]


def test_spread_of_the_replicates_is_the_standard_error(sleep, boot):
    """400 replicates: a standard deviation is known to 3.5 %, so 4 of those."""
    assert boot.std_error["Days"] == pytest.approx(sleep.bse["Days"], rel=0.14)
    assert abs(boot.bias["Days"]) < 4 * sleep.bse["Days"] / 20


def test_interval_types(boot):
    tables = {
        kind: boot.confint(0.9, kind)
        for kind in ("percentile", "basic", "normal", "bca", "studentized")
    }
    t = boot.estimates
    q = boot.replicates["Days"].quantile([0.05, 0.95], interpolation="linear").to_numpy()
    np.testing.assert_allclose(
        tables["percentile"].loc["Days"], q, atol=0.1
    )  # two definitions of a quantile of 400
    np.testing.assert_allclose(
        tables["basic"].loc["Days"],
        2 * t["Days"] - tables["percentile"].loc["Days"].to_numpy()[::-1],
    )
    centre = t["Days"] - boot.bias["Days"]
    np.testing.assert_allclose(
        tables["normal"].loc["Days"],
        centre + np.array([-1, 1]) * 1.6448536 * boot.std_error["Days"],
        rtol=1e-6,
    )
    for table in tables.values():
        assert (table.loc["Days", "lower"] < t["Days"]) and (t["Days"] < table.loc["Days", "upper"])
    assert tables["studentized"].drop(["Intercept", "Days"]).isna().all(axis=None)
    assert not tables["bca"].isna().any(axis=None)
    # standard deviations are biased downwards: the corrected limits lie above the percentiles
    assert (
        tables["bca"].loc["sd_Days|Subject", "lower"]
        > tables["percentile"].loc["sd_Days|Subject", "lower"]
    )


def test_bca_is_the_percentile_interval_where_there_is_neither_bias_nor_skewness(boot, monkeypatch):
    from dataclasses import replace

    from lmm.results.rows import bootstrap

    monkeypatch.setattr(
        bootstrap, "without_levels", lambda fit: pd.DataFrame({"a": [-1.0, 0.0, 1.0]})
    )
    values = np.concatenate([-np.arange(1, 500), [0], np.arange(1, 500)]) / 100.0
    symmetric = replace(
        boot,
        replicates=pd.DataFrame({"a": values}),
        estimates=pd.Series({"a": 0.0}),
    )
    np.testing.assert_allclose(
        symmetric.confint(type="bca"), symmetric.confint(type="percentile"), atol=1e-12
    )


def test_statistic_of_ones_own(sleep):
    own = sleep.bootstrap(
        30,
        lambda fit: {
            "ratio": fit.params["Days"] / fit.params["Intercept"],
            "first": fit.ranef()["Subject"].iloc[0, 0],
        },
        rng=1,
    )
    simulated = sleep.simulate(30, rng=1)
    single = sleep.refit(simulated["sim_5"])
    assert own.replicates.loc[4, "ratio"] == pytest.approx(
        single.params["Days"] / single.params["Intercept"], rel=1e-6
    )
    assert own.replicates.loc[4, "first"] == pytest.approx(
        single.ranef()["Subject"].iloc[0, 0], abs=1e-3
    )
    assert sleep.bootstrap(3, lambda fit: fit.llf, rng=1).replicates.columns.tolist() == [
        "statistic"
    ]
    with pytest.raises(lmm.ArgumentError, match="of your own"):
        own.confint(type="bca")


def test_a_statistic_that_fails_is_counted_and_kept(sleep):
    calls = []

    def fussy(fit):
        calls.append(1)
        if len(calls) % 3 == 0:
            raise KeyError("third")
        return fit.params["Days"]

    with pytest.warns(lmm.ConvergenceWarning, match="4 of 12 refits"):
        own = sleep.bootstrap(12, fussy, rng=1)
    assert len(own.failures) == own.replicates["statistic"].isna().sum() == 4
    assert own.failures.str.contains("third").all() and "4 x KeyError" in str(own)


def test_other_kinds(sleep):
    for kind in ("semiparametric", "cases"):
        own = sleep.bootstrap(300, kind=kind, rng=2)
        assert own.kind == kind and not len(own.failures)
        assert own.std_error["Days"] == pytest.approx(
            sleep.bse["Days"], rel=0.2
        )  # 4 % of Monte Carlo error, other assumptions
    semi = sleep.bootstrap(300, kind="semiparametric", rng=2)
    assert semi.replicates["sd_Days|Subject"].mean() == pytest.approx(5.92, rel=0.1)
    assert semi.replicates["sigma"].mean() == pytest.approx(25.6, rel=0.05)


def test_crossed_factors_must_say_whose_levels_are_drawn():
    fit = lmm.lmer("diameter ~ 1 + (1|plate) + (1|sample)", lmm.datasets.load("Penicillin"))
    with pytest.raises(lmm.ArgumentError, match="group='plate'"):
        fit.bootstrap(5, kind="cases")
    own = fit.bootstrap(20, kind="cases", group="sample", rng=1)
    assert own.replicates.notna().all(axis=None)


def test_generalized_bootstrap(cbpp):
    own = cbpp.bootstrap(12, rng=3)
    simulated = cbpp.simulate(12, rng=3)
    single = cbpp.refit(simulated["sim_4"])
    np.testing.assert_allclose(
        own.replicates.loc[3, list(cbpp.params.index)].to_numpy(dtype=float),
        single.params,
        atol=1e-4,
    )
    assert "sigma" not in own.replicates
    with pytest.raises(lmm.ArgumentError, match="semiparametric"):
        cbpp.bootstrap(5, kind="semiparametric")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"nsim": 0}, "nsim=0"),
        ({"nsim": 2.5}, "nsim"),
        ({"kind": "parametrik"}, "Did you mean 'parametric'"),
        ({"group": "Subject"}, "kind='cases'"),
        ({"kind": "cases", "group": "subject"}, "no grouping factor 'subject'"),
    ],
)
def test_bad_arguments_of_bootstrap(sleep, arguments, words):
    with pytest.raises(lmm.ArgumentError, match=words):
        sleep.bootstrap(**{"nsim": 5, **arguments})


def test_bad_arguments_of_intervals(boot, sleep):
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'percentile'"):
        boot.confint(type="percentil")
    with pytest.raises(lmm.ArgumentError, match="level"):
        boot.confint(1.5)
    with pytest.raises(lmm.ArgumentError, match="fewer than two"):
        sleep.bootstrap(1, rng=1).confint()


# ---- influence ----


@pytest.mark.parametrize("case", ["sleep_group", "sleep_row", "penicillin_group", "cbpp_group"])
def test_influence_is_lme4s(case, sleep, cbpp):
    """Linear fits to 1e-4 of a standard error (lme4 stops its optimiser there); its generalized ones stop short of the optimum by more."""
    r = LME4[case]
    if case.startswith("sleep"):
        own = sleep.influence("Subject" if case.endswith("group") else "row")
    elif case.startswith("penicillin"):
        own = lmm.lmer(
            "diameter ~ 1 + (1|plate) + (1|sample)", lmm.datasets.load("Penicillin"), REML=False
        ).influence("sample")
    else:
        own = cbpp.influence()
    estimates, se = np.array(r["estimates"]), np.array(r["se"])
    tolerance = 1e-2 if case.startswith("cbpp") else 1e-3
    names = list(own.std_errors.columns)
    np.testing.assert_allclose(own.estimates[names].to_numpy() / se, estimates / se, atol=tolerance)
    if case == "sleep_group":
        assert list(own.estimates.index) == r["units"]
        sd = np.sqrt(np.array(r["variances"])[:, [0, 1, 3]])
        np.testing.assert_allclose(
            own.estimates[["sigma", "sd_(Intercept)|Subject", "sd_Days|Subject"]], sd, rtol=1e-3
        )
    if not case.startswith("cbpp"):
        np.testing.assert_allclose(own.std_errors, se, rtol=1e-3)
    full = own.full[names].to_numpy(dtype=float)
    moved = estimates - full
    V = np.array(r["vcov"]).reshape(len(names), len(names))
    cook = np.einsum("ia,ab,ib->i", moved, np.linalg.inv(V), moved) / len(names)
    np.testing.assert_allclose(own.cooks_distance, cook, atol=2e-2 * cook.max())


def test_influence_of_a_level_that_holds_a_coefficient_is_a_failure():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 8), "y": rng.normal(size=64)})
    data["only"] = (data.g == "c") * 1.0 * rng.normal(size=64)
    fit = lmm.lmer("y ~ only + (1|g)", data)
    with pytest.warns(lmm.ConvergenceWarning, match="1 of 8 refits"):
        own = fit.influence()
    assert list(own.failures.index) == ["c"] and "only" in own.failures["c"]
    assert own.estimates.loc["c"].isna().all() and own.estimates.drop("c").notna().all(axis=None)


def test_influence_says_what_it_may_leave_out(sleep):
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'Subject'"):
        sleep.influence("subject")
    with pytest.raises(lmm.ArgumentError, match="no grouping factor 'Day'"):
        sleep.influence(group="Day")


# ---- many responses ----


def test_many_responses_are_single_refits(sleep, cbpp):
    Y = sleep.simulate(6, rng=1).set_axis(list("abcdef"), axis=1)
    table = sleep.refit_many(Y)
    assert list(table.index) == list("abcdef") and table["converged"].all()
    single = sleep.refit(Y["d"])
    assert table.loc["d", "Days"] == pytest.approx(single.params["Days"], abs=1e-6)
    assert table.loc["d", "se_Days"] == pytest.approx(single.bse["Days"], rel=1e-5)
    assert table.loc["d", "llf"] == pytest.approx(single.llf, abs=1e-8)
    counts = cbpp.refit_many(cbpp.simulate(2, rng=1))
    assert counts["converged"].all() and "sigma" not in counts


def test_many_responses_bad_input(sleep):
    with pytest.raises(lmm.DataError, match="a column per response"):
        sleep.refit_many(np.ones(180))
    with pytest.raises(lmm.DataError, match="180"):
        sleep.refit_many(np.ones((7, 2)))
    Y = sleep.simulate(2, rng=1)
    Y.loc[3, "sim_2"] = np.nan
    with pytest.raises(lmm.DataError, match="'sim_2'"):
        sleep.refit_many(Y)


# ---- power ----


def test_power_rises_with_the_sample_and_holds_its_level(sleep):
    table = lmm.power(sleep, "Days", parameters={"Days": 5}, n=[6, 18, 36], nsim=300, rng=1)
    assert table["power"].is_monotonic_increasing and list(table["nobs"]) == [60, 180, 360]
    assert (table["lower"] < table["power"]).all() and (table["power"] < table["upper"]).all()
    null = lmm.power(sleep, "Days", parameters={"Days": 0.0}, n=[6], nsim=1500, rng=2)
    assert (
        null["lower"][0] < 0.05 < null["upper"][0] + 0.01
    )  # t with Kenward-Roger's degrees of freedom
    normal = lmm.power(sleep, "Days", parameters={"Days": 0.0}, n=[6], nsim=1500, rng=2, test="z")
    assert normal["lower"][0] > 0.06  # the normal test does not


def test_power_of_a_balanced_design_is_the_noncentral_t(sleep):
    """Slopes of n subjects are independent: a t test on n - 1 degrees of freedom, in closed form."""
    stats = pytest.importorskip("scipy.stats")
    x = np.arange(10) - 4.5
    slope_sd = np.sqrt(6.0**2 + 25.0**2 / np.sum(x**2))
    parameters = {
        "Days": 5.0,
        "sd_Days|Subject": 6.0,
        "cor_Days.(Intercept)|Subject": 0.0,
        "sd_(Intercept)|Subject": 25.0,
        "sigma": 25.0,
    }
    table = lmm.power(sleep, "Days", parameters=parameters, n=[12], nsim=2000, rng=3)
    nc, limit = 5.0 / (slope_sd / np.sqrt(12)), stats.t.ppf(0.975, 11)
    exact = stats.nct.sf(limit, 11, nc) + stats.nct.cdf(-limit, 11, nc)
    assert table["power"][0] == pytest.approx(exact, abs=0.03)  # three Monte Carlo errors


def test_power_of_several_coefficients_and_of_counts(cbpp):
    periods = [f"period[T.{k}]" for k in (2, 3, 4)]
    table = lmm.power(cbpp, periods, n=[3, 12], nsim=20, rng=1)
    assert table["power"][0] < table["power"][1] and table["power"][1] > 0.9
    none = lmm.power(cbpp, "period[T.4]", parameters={"period[T.4]": 0.0}, nsim=20, rng=1)
    assert none["power"][0] < 0.3


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"coefficient": "Day"}, "Did you mean 'Days'"),
        ({"test": "f"}, "test='f'"),
        ({"coefficient": ["Intercept", "Days"], "test": "t"}, "test='lrt'"),
        ({"parameters": {"sd_Days": 3}}, "no 'sd_Days'"),
        ({"parameters": {"sigma": -3}}, "sigma"),
        ({"parameters": {"cor_Days.(Intercept)|Subject": 1.7}}, "no covariance matrix"),
        ({"n": 1}, "variance needs two"),
        ({"along": "Days", "n": 5}, "no grouping factor 'Days'"),
        ({"alpha": 5}, "alpha"),
        ({"nsim": 0}, "nsim"),
    ],
)
def test_bad_arguments_of_power(sleep, arguments, words):
    with pytest.raises(lmm.ArgumentError, match=words):
        lmm.power(sleep, **{"coefficient": "Days", "nsim": 5, **arguments})


def test_a_predictor_called_sigma_keeps_its_column():
    data = lmm.datasets.load("sleepstudy").rename(columns={"Days": "sigma"})
    fit = lmm.lmer("Reaction ~ sigma + (1|Subject)", data)
    boot = fit.bootstrap(20, rng=1)
    assert list(boot.replicates.columns) == [
        "sd_(Intercept)|Subject",
        "sigma",
        "Intercept",
        "b_sigma",
    ]
    assert boot.estimates["b_sigma"] == fit.params["sigma"] and boot.estimates["sigma"] == fit.sigma
    assert np.isfinite(boot.confint(type="studentized").loc["b_sigma"]).all()
    assert np.isfinite(fit.influence().dfbetas["b_sigma"]).all()
    assert "se_b_sigma" in fit.refit_many(fit.simulate(2, rng=1))
    assert lmm.power(fit, "sigma", parameters={"b_sigma": 0.0}, nsim=20, rng=1)["power"][0] < 0.5


def test_simulations_from_assumed_parameters(sleep):
    assumed = {
        "Days": 100.0,
        "sd_Days|Subject": 0.0,
        "cor_Days.(Intercept)|Subject": 0.0,
        "sigma": 1e-6,
    }
    y = sleep.simulate(3, rng=1, parameters=assumed)
    slopes = y.groupby(sleep.design.frame.data["Subject"].astype(str)).apply(
        lambda own: own.iloc[-1] - own.iloc[0]
    )
    np.testing.assert_allclose(slopes, 900.0, atol=1e-3)
    assert not sleep.simulate(1, rng=1).equals(y[["sim_1"]])
    with pytest.raises(lmm.ArgumentError, match="no 'Day'"):
        sleep.simulate(parameters={"Day": 1})


def test_a_statistic_that_gives_no_numbers_is_refused(sleep):
    def failing(fit):
        return 1 / 0

    with pytest.raises(
        lmm.ArgumentError, match=r"statistic=.* fails on the fit itself: ZeroDivisionError"
    ):
        sleep.bootstrap(3, failing, rng=1)
    for value in ("a", None, {"a": "b"}, ["a", "b"], object(), 1j, {}, []):
        with pytest.raises(
            lmm.ArgumentError, match=r"statistic=.* gives .*; it must give a number"
        ):
            sleep.bootstrap(3, lambda fit, value=value: value, rng=1)
    for wrong in ("x", 3, {}):
        with pytest.raises(lmm.ArgumentError, match=r"statistic=.* must be a function"):
            sleep.bootstrap(3, wrong, rng=1)


def test_a_bootstrap_of_one_prints(sleep):
    assert "NaN" in repr(sleep.bootstrap(1, rng=1))


def test_bootstraps_and_batches_are_pickled(sleep, boot):
    again = pickle.loads(pickle.dumps(boot))
    pd.testing.assert_frame_equal(again.confint(type="bca"), boot.confint(type="bca"))
    data, cutoff = lmm.datasets.load("sleepstudy"), 8
    Y = sleep.simulate(3, rng=1)
    Y.iloc[1, 1] = np.nan
    batch = lmm.lmer_batch(
        "~ Days + I(Days > cutoff) + (Days|Subject)", data, Y, subset=lambda rows: rows.Days > 0
    )
    again = pickle.loads(pickle.dumps(batch))
    pd.testing.assert_frame_equal(again.tidy(ddf="satterthwaite"), batch.tidy(ddf="satterthwaite"))
    assert again["sim_2"] == batch["sim_2"] and again["sim_2"].nobs == 161 and cutoff == 8
    counts = lmm.datasets.load("grouseticks")
    one = lmm.glmer("TICKS ~ YEAR + (1|BROOD)", counts, family="poisson")
    batch = lmm.glmer_batch("~ YEAR + (1|BROOD)", counts, one.simulate(2, rng=1), family="poisson")
    again = pickle.loads(pickle.dumps(batch))
    pd.testing.assert_frame_equal(again.tidy(), batch.tidy())
    assert again["sim_1"] == batch["sim_1"]
