"""Profile likelihoods: against lme4, closed forms, refits with the parameter held by other means, and at boundaries."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import ndtr

import lmm
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.inference.intervals import fit_profiles as inference
from lmm.inference.intervals.generalized_surface import GeneralizedSurface
from lmm.inference.intervals.profiling import Curve, ProfilePath
from lmm.inference.intervals.surface import LinearSurface, Place

REFERENCE = json.loads((Path(__file__).parent.parent / "reference" / "profile.json").read_text())[
    "cases"
]


def thin(data, by):
    return data[(np.arange(len(data)) + 1) % by != 0]


@cache
def data(name):
    if name.startswith("sleep"):
        sleep = lmm.datasets.load("sleepstudy")
        if name == "sleep_unbalanced":
            return thin(
                sleep[~(sleep.Subject.astype(str).isin(["308", "309"]) & (sleep.Days > 3))], 7
            )
        return sleep.assign(w=0.5 + ((np.arange(len(sleep)) + 1) % 5) / 4)
    if name == "ticks":
        ticks = lmm.datasets.load("grouseticks")
        return ticks.assign(cHEIGHT=(ticks.HEIGHT - ticks.HEIGHT.mean()) / 100)
    names = {
        "pastes": "Pastes",
        "penicillin": "Penicillin",
        "dyestuff2": "Dyestuff2",
        "split_plot": "Oats",
    }
    return lmm.datasets.load(names.get(name, name))


@cache
def fit(case):
    formula = REFERENCE[case]["formula"]
    if case in ("cbpp", "ticks"):
        return lmm.glmer(formula, data(case), family="binomial" if case == "cbpp" else "poisson")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)
        return lmm.lmer(
            formula, data(case), REML=False, weights="w" if case == "sleep_weights" else None
        )


@pytest.mark.parametrize("case", REFERENCE)
def test_limits_are_those_of_lme4(case):
    """Within 5e-4 of an interval's width: lme4 interpolates between points an eighth of the cutoff apart. Its profile of sigma in
    dyestuff2 fails, 0 to infinity, and is left out."""
    one, theirs = fit(case), REFERENCE[case]
    assert -2 * one.llf == pytest.approx(theirs["deviance"], abs=2e-5)
    mine = one.confint(level=0.95).to_numpy()
    want = np.array(
        [[np.nan if x in (None, "NA", "Inf") else x for x in row] for row in theirs["ci"]],
        dtype=float,
    )
    assert mine.shape == want.shape and np.isfinite(mine).all()
    known = np.isfinite(want).all(axis=1)
    assert known.sum() >= len(want) - (case == "dyestuff2")
    np.testing.assert_allclose(
        (mine - want)[known] / np.ptp(want[known], axis=1)[:, None], 0.0, atol=5e-4
    )


def test_few_evaluations():
    """The path goes on from its last point: about ten points per parameter and two evaluations for each."""
    one, count = fit("sleep_unbalanced"), [0]
    at = LinearSurface.at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LinearSurface,
            "at",
            lambda self, z: (count.__setitem__(0, count[0] + 1), at(self, z))[1],
        )
        profile = one.profile()
    assert len(profile) == 6 and count[0] < 160


# ---- the same minimum by other means ----


def height(profile, name, value):
    return float(profile.zeta(name, [value])[0] ** 2)


def test_a_coefficient_held_is_an_offset():
    one = fit("sleep_unbalanced")
    profile, frame = one.profile("beta_"), data("sleep_unbalanced")
    for value in (6.5, 8.0, 12.5):
        other = lmm.lmer(
            f"Reaction ~ 1 + offset({value} * Days) + (Days|Subject)", frame, REML=False
        )
        assert height(profile, "Days", value) == pytest.approx(2 * (one.llf - other.llf), rel=2e-4)
    exact = profile.to_frame().query("parameter == 'Days'")
    for _, row in exact.iloc[[0, 3, -1]].iterrows():
        other = lmm.lmer(
            f"Reaction ~ 1 + offset({row.Days!r} * Days) + (Days|Subject)", frame, REML=False
        )
        assert row.zeta**2 == pytest.approx(2 * (one.llf - other.llf), abs=2e-6)
        assert row.Intercept == pytest.approx(other.params.iloc[0], rel=1e-4)
        assert row["sd_Days|Subject"] == pytest.approx(
            other.varcorr().stddev("Subject")["Days"], rel=1e-2
        )


def test_sigma_held_is_sigma_known():
    one = fit("penicillin")
    points = one.profile("sigma").to_frame()
    for _, row in points.iloc[[0, 2, -1]].iterrows():
        other = lmm.lmer(
            "diameter ~ 1 + (1|plate) + (1|sample)",
            data("penicillin"),
            method=lmm.MaximumLikelihood(False, sigma=row.sigma),
        )
        assert row.zeta**2 == pytest.approx(2 * (one.llf - other.llf), abs=2e-6)


def test_standard_deviation_held():
    one = lmm.lmer("Reaction ~ Days + (1|Subject)", data("sleep"), REML=False)
    points = one.profile("sd_(Intercept)|Subject").to_frame()
    for _, row in points.iloc[[0, 3, -1]].iterrows():
        sd = row["sd_(Intercept)|Subject"]
        known = minimize_scalar(
            lambda s, sd=sd: lmm.MaximumLikelihood(False, sigma=s).objective(one.problem, [sd / s]),
            bounds=(20, 60),
            method="bounded",
            options={"xatol": 1e-7},
        )
        assert row.zeta**2 == pytest.approx(known.fun + 2 * one.llf, abs=2e-6)
        assert row.sigma == pytest.approx(known.x, rel=1e-3)


def test_correlation_held():
    one = fit("sleep_unbalanced")
    points = one.profile("cor_Days.(Intercept)|Subject").to_frame()
    for _, row in points.iloc[[0, 3, -1]].iterrows():
        r = row["cor_Days.(Intercept)|Subject"]
        found = minimize(
            lambda x, r=r: one.objective([x[0], r * x[1], np.sqrt(1 - r * r) * x[1]]),
            [0.9, 0.2],
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-9},
        )
        assert row.zeta**2 == pytest.approx(found.fun + 2 * one.llf, abs=2e-6)


def test_generalized_coefficient_held_is_an_offset():
    one = fit("ticks")
    points = one.profile("cHEIGHT").to_frame()
    for _, row in points.iloc[[0, -1]].iterrows():
        other = lmm.glmer(
            f"TICKS ~ YEAR + offset({row.cHEIGHT!r} * cHEIGHT) + (1|BROOD)",
            data("ticks"),
            family="poisson",
        )
        assert row.zeta**2 == pytest.approx(2 * (one.llf - other.llf), abs=1e-5)
        np.testing.assert_allclose(row[other.params.index].astype(float), other.params, atol=1e-3)


def test_threshold_held_shifts_the_scale_of_the_others():
    """An ordinal likelihood depends on alpha_k - eta: a held threshold is a constant predictor with no thresholds of its own moved."""
    wine = lmm.datasets.load("wine")
    one = lmm.glmer("rating ~ temp + contact + (1|judge)", wine, family=lmm.families.Ordinal())
    points = one.profile(["2|3", "contact[T.yes]"]).to_frame()
    assert points.zeta.abs().min() == 0.0
    held = points[points.parameter == "2|3"]
    everything = held[["1|2", "2|3", "3|4", "4|5"]].to_numpy()
    assert (np.diff(everything, axis=1) > 0).all() and len(held) > 7
    theta, beta = (
        held.iloc[0]["sd_(Intercept)|judge"],
        held.iloc[0][["temp[T.warm]", "contact[T.yes]"]].to_numpy(dtype=float),
    )
    at = one.objective([theta, *beta, *everything[0]])
    assert held.zeta.iloc[0] ** 2 == pytest.approx(
        at + 2 * one.llf, abs=1e-3
    )  # the point beside the minimum, to first order
    free = minimize(
        lambda x: one.objective([abs(x[0]), x[1], x[2], everything[0, 1] - np.exp(x[3]), everything[0, 1], everything[0, 1] + np.exp(x[4]),
                                 everything[0, 1] + np.exp(x[4]) + np.exp(x[5])]),
        [theta, *beta, *np.log(np.diff(everything[0]))], method="BFGS", options={"gtol": 1e-3},
    )  # fmt: skip
    assert held.zeta.iloc[0] ** 2 == pytest.approx(free.fun + 2 * one.llf, abs=2e-4)


# ---- closed forms and invariance ----


def test_mean_of_a_balanced_one_way_layout():
    """Minimised over both variances the deviance of mu is J log(SSB + J n (ybar - mu)^2) plus a constant: J = 6, n = 5."""
    frame = lmm.datasets.load("Dyestuff")
    profile = lmm.lmer("Yield ~ 1 + (1|Batch)", frame).profile("Intercept")
    mean, means = frame.Yield.mean(), frame.groupby("Batch", observed=True).Yield.mean()
    between = 5 * float(((means - mean) ** 2).sum())
    mu = np.linspace(1480, 1575, 25)
    want = np.sign(mu - mean) * np.sqrt(6 * np.log1p(30 * (mu - mean) ** 2 / between))
    np.testing.assert_allclose(
        profile.zeta("Intercept", mu), want, atol=4e-4
    )  # the cubic between points 0.65 apart
    np.testing.assert_allclose(profile.value("Intercept", want), mu, atol=1e-2)
    assert profile.messages == (
        "Profiles are of the likelihood: the fit by REML was refitted by maximum likelihood.",
    )


def test_wald_errors_of_a_balanced_one_way_layout():
    """By maximum likelihood var(sigma^2) = 2 sigma^4 / (J (n - 1)), var(sigma^2 + n tau^2) = 2 (sigma^2 + n tau^2)^2 / J, independent."""
    one = lmm.lmer("Yield ~ 1 + (1|Batch)", lmm.datasets.load("Dyestuff"), REML=False)
    sd, sigma = one.varcorr().to_frame().sdcor
    whole = sigma**2 + 5 * sd**2
    variance = (2 * whole**2 / 6 + 2 * sigma**4 / 24) / 25
    np.testing.assert_allclose(
        one.varcorr_se().std_error, [np.sqrt(variance) / (2 * sd), sigma / np.sqrt(48)], rtol=1e-5
    )
    limits = one.confint("wald", parm="theta_")
    np.testing.assert_allclose(
        limits.loc["sigma"], sigma * np.exp(np.array([-1, 1]) * 1.959964 / np.sqrt(48)), rtol=1e-5
    )
    np.testing.assert_allclose(np.sqrt(limits.lower * limits.upper), [sd, sigma], rtol=1e-10)


def test_units_origin_and_row_order_do_not_matter():
    frame = data("sleep_unbalanced")
    mine = fit("sleep_unbalanced").confint()
    other = frame.sample(frac=1.0, random_state=1).assign(
        y=lambda d: d.Reaction * 1e5, x=lambda d: d.Days * 1e-3
    )
    moved = lmm.lmer("y ~ x + (x|Subject)", other, REML=False).confint()
    unit = np.array([1e5, 1.0, 1e8, 1e5, 1e5, 1e8])[:, None]
    np.testing.assert_allclose(moved.to_numpy() / unit, mine.to_numpy(), rtol=2e-4)
    far = lmm.lmer(
        "Reaction ~ x + (x|Subject)", other.assign(x=lambda d: d.Days + 50), REML=False
    ).confint()
    np.testing.assert_allclose(far.iloc[2:4], mine.iloc[2:4], rtol=5e-4)
    np.testing.assert_allclose(far.iloc[5], mine.iloc[5], rtol=1e-4)


# ---- boundaries ----


def test_a_variance_estimated_as_zero():
    profile = fit("dyestuff2").profile()
    limits = profile.confint(0.95)
    assert (
        limits.lower.iloc[0] == 0.0
        and profile.estimates.iloc[0] == 0.0
        and 2.0 < limits.upper.iloc[0] < 2.2
    )
    assert (
        np.isnan(profile.zeta("sd_(Intercept)|Batch", [-0.1])).all()
        and profile.zeta("sd_(Intercept)|Batch", [0.0])[0] == 0.0
    )
    # held at zero the model is one mean: its sigma has the chi-square profile n (r - 1 - log r), r = s^2 / sigma^2, on the upper side
    s = profile.estimates["sigma"]
    for value in (4.0, 4.5):
        ratio = (s / value) ** 2
        assert profile.zeta("sigma", [value])[0] == pytest.approx(
            np.sqrt(30 * (ratio - 1 - np.log(ratio))), abs=2e-4
        )
    with pytest.warns(lmm.SingularFitWarning):
        reml = lmm.lmer("Yield ~ 1 + (1|Batch)", data("dyestuff2"))
    assert reml.varcorr_se().std_error.isna().tolist() == [True, False]
    assert reml.confint("wald").isna().to_numpy().tolist() == [
        [True, True],
        [False, False],
        [False, False],
    ]


def test_a_profile_that_reaches_zero():
    profile = fit("pastes").profile("sd_(Intercept)|batch")
    points = profile.to_frame()
    assert points["sd_(Intercept)|batch"].iloc[0] == 0.0 and -1.959964 < points.zeta.iloc[0] < -0.3
    without = lmm.lmer("strength ~ 1 + (1|cask:batch)", data("pastes"), REML=False)
    assert points.zeta.iloc[0] ** 2 == pytest.approx(
        2 * (fit("pastes").llf - without.llf), abs=1e-5
    )
    assert profile.confint(0.95).lower.iloc[0] == 0.0 < profile.confint(0.3).lower.iloc[0]
    assert profile.value("sd_(Intercept)|batch", [-5.0]) == 0.0


@pytest.mark.filterwarnings("ignore::lmm.SingularFitWarning")
def test_correlations_end_at_one():
    frame = data("sleep").assign(
        cat=lambda d: pd.Categorical(np.array(list("abc"))[np.arange(len(d)) % 3])
    )
    limits = lmm.lmer("Reaction ~ Days + (cat|Subject)", frame, REML=False).confint(parm="theta_")
    correlations = limits[limits.index.str.startswith("cor")].to_numpy()
    assert (
        np.isfinite(limits.to_numpy()).all()
        and np.abs(correlations).max() <= 1.0
        and (correlations[:, 0] == -1.0).any()
    )
    assert (limits.lower[limits.index.str.startswith("sd")] >= 0.0).all()


def test_a_lower_deviance_on_the_way_is_said():
    one = fit("sleep_unbalanced")
    known = np.asarray(one.estimate.theta) * np.array([0.5, 1.0, 1.0])
    wrong = replace(
        one.estimate,
        theta=known,
        factors=tuple(
            s.factor(o)
            for s, o in zip(one.problem.structures, one.problem.split(known), strict=True)
        ),
    )
    held = inference.parameters_held(one.problem.structures, True, 2)
    found = inference.profiles(one.problem, one.estimator, wrong, held, 1.96)
    assert "better optimum" in found.messages[-1] and found.deviance == pytest.approx(
        -2 * one.llf, abs=1e-5
    )
    with pytest.warns(lmm.ConvergenceWarning, match="better optimum"):
        limits = replace(one, estimate=wrong).confint()
    np.testing.assert_allclose(limits, one.confint(), rtol=1e-3)


# ---- what the user sees ----


def test_profile_object():
    one = fit("sleep_unbalanced")
    profile = one.profile(level=0.99)
    assert profile.parameters == tuple(one.confint("wald").index) and len(profile) == 6
    frame = profile.to_frame()
    assert list(frame.columns) == ["parameter", "zeta", *profile.parameters]
    for name, part in frame.groupby("parameter", sort=False):
        assert (
            (np.diff(part.zeta) > 0).all()
            and (np.diff(part[name]) > 0).all()
            and (part.zeta == 0).sum() == 1
        )
        at = part[part.zeta == 0].iloc[0]
        np.testing.assert_allclose(
            at[list(profile.parameters)].astype(float), profile.estimates, rtol=1e-4
        )
        np.testing.assert_allclose(profile.zeta(name, part[name]), part.zeta, atol=1e-8)
        grid = np.linspace(-2.5, 2.5, 41)
        np.testing.assert_allclose(profile.zeta(name, profile.value(name, grid)), grid, atol=1e-8)
        # the density of a confidence distribution has mass one
        values = np.linspace(*profile.value(name, np.array([-2.57, 2.57])), 801)
        assert np.sum(profile.density(name, values)) * (values[1] - values[0]) == pytest.approx(
            0.99, abs=0.01
        )
    narrow, wide = profile.confint(0.8), profile.confint(0.99)
    assert (wide.lower < narrow.lower).all() and (wide.upper > narrow.upper).all()
    assert "deviance" in repr(profile) and "sd_Days|Subject" in repr(profile)
    with pytest.raises(lmm.ArgumentError, match=r"profile\(level=0.999\)"):
        profile.confint(0.999)
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'Days'"):
        profile.zeta("Dais", [1.0])
    assert (
        np.isnan(profile.value("Days", [8.0])).all()
        and np.isnan(profile.zeta("cor_Days.(Intercept)|Subject", [1.2])).all()
    )


def test_rows_by_name():
    one = fit("sleep_unbalanced")
    everything = one.confint("wald")
    assert one.confint("wald", parm="theta_").index.tolist() == everything.index[:4].tolist()
    assert one.confint("wald", parm=["Days", "sigma"]).index.tolist() == ["sigma", "Days"]
    assert one.confint("wald", parm="(Intercept)").index.tolist() == ["Intercept"]
    assert one.profile("beta_").parameters == ("Intercept", "Days")
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'Days'"):
        one.confint(parm="Dayss")
    with pytest.raises(lmm.ArgumentError, match="method='wald'"):
        one.confint("profile", ddf="satterthwaite")
    for ddf in ("satterthwaite", "kenward_roger"):
        t = one.confint("wald", ddf=ddf, parm="beta_")
        assert (
            t.upper - t.lower > everything.loc[t.index, "upper"] - everything.loc[t.index, "lower"]
        ).all()


@pytest.mark.filterwarnings("ignore::lmm.LmmWarning")
def test_dropped_columns_known_sigma_and_shared_names():
    frame = data("sleep").assign(
        twice=lambda d: 2 * d.Days, sigma=lambda d: np.cos(np.arange(len(d)))
    )
    limits = lmm.lmer("Reaction ~ Days + twice + (1|Subject)", frame, REML=False).confint()
    assert (
        limits.isna().any(axis=1).sum() == 1
        and limits.loc[["sigma", "Intercept"]].notna().to_numpy().all()
    )
    known = lmm.lmer(
        "Reaction ~ Days + (1|Subject)", frame, method=lmm.MaximumLikelihood(False, sigma=30.0)
    )
    assert known.confint().loc["sigma"].isna().all() and known.profile().parameters == (
        "sd_(Intercept)|Subject",
        "Intercept",
        "Days",
    )
    named = lmm.lmer("Reaction ~ sigma + (1|Subject)", frame, REML=False)
    assert named.confint().index.tolist() == [
        "sd_(Intercept)|Subject",
        "sigma",
        "Intercept",
        "sigma",
    ]
    assert (named.confint().iloc[1] > 10).all() and named.confint().iloc[3].lower < 0
    assert lmm.lmer("Reaction ~ 0 + (1|Subject)", frame).confint().index.tolist() == [
        "sd_(Intercept)|Subject",
        "sigma",
    ]


def test_fits_without_a_likelihood_are_refused():
    given = lmm.solve(
        "Reaction ~ Days + (1|Subject)", data("sleep"), varcomp={"Subject": 900.0}, sigma=30.0
    )
    with pytest.raises(lmm.ArgumentError, match="given, not estimated"):
        given.profile()
    assert given.confint("wald").iloc[:2].isna().to_numpy().all()


def test_another_method_is_refitted():
    other = lmm.glmer(REFERENCE["cbpp"]["formula"], data("cbpp"), family="binomial", method="pql")
    profile = other.profile()
    assert "refitted by Laplace's method" in profile.messages[0]
    np.testing.assert_allclose(profile.confint(), fit("cbpp").confint(), atol=1e-4)


def test_tidy_takes_any_interval():
    one = fit("sleep_unbalanced")
    wald, profile = one.tidy(conf_int=True), one.tidy(conf_int=True, conf_method="profile")
    assert wald.drop(columns=["conf_low", "conf_high"]).equals(
        profile.drop(columns=["conf_low", "conf_high"])
    )
    assert wald.std_error.notna().all() and wald.conf_low.notna().all()
    limits = one.confint().loc[
        [
            "Intercept",
            "Days",
            "sd_(Intercept)|Subject",
            "sd_Days|Subject",
            "cor_Days.(Intercept)|Subject",
            "sigma",
        ]
    ]
    np.testing.assert_allclose(profile[["conf_low", "conf_high"]], limits, rtol=1e-12)


# ---- surfaces ----


def differences(surface, z):
    gradient, hessian = np.zeros(len(z)), np.zeros((len(z), len(z)))
    for i in range(len(z)):
        h = np.zeros(len(z))
        h[i] = 1e-5 * max(abs(z[i]), 0.1)
        up, down = surface.at(z + h), surface.at(z - h)
        gradient[i] = (up.objective - down.objective) / (2 * h[i])
        hessian[:, i] = (up.gradient - down.gradient) / (2 * h[i])
    return gradient, hessian


def helds(problem, sigma, own=()):
    return inference.parameters_held(problem.structures, sigma, problem.p, own)


@pytest.mark.parametrize("case", ["sleep_unbalanced", "penicillin", "sleep_uncorrelated"])
@pytest.mark.parametrize("exact", [True, False])
def test_derivatives_of_the_linear_surface(case, exact):
    one, rng = fit(case), np.random.default_rng(0)
    base, est = Evaluator(one.problem, False, 1.0), one.estimate
    place = Place(
        [est.sigma * T for T in est.factors], np.concatenate([[np.log(est.sigma)], est.beta])
    )
    for held in helds(one.problem, True):
        surface = LinearSurface(base, held)
        surface.exact = exact
        start = surface.enter(place)
        assert surface.at(start).objective == pytest.approx(est.objective, abs=1e-8)
        z = start + 0.05 * np.abs(start) * rng.normal(size=len(start))
        point = surface.at(z)
        gradient, hessian = differences(surface, z)
        np.testing.assert_allclose(
            point.gradient, gradient, rtol=1e-5, atol=1e-6 * np.abs(gradient).max()
        )
        inner = np.ones(len(z), dtype=bool)
        inner[surface.held] = surface.crossed
        scale = np.sqrt(np.abs(np.diagonal(hessian)))
        if exact:
            error = (np.abs(point.hessian - hessian) / np.outer(scale, scale))[np.ix_(inner, inner)]
            assert error.max() < 1e-5
        again = surface.at(surface.enter(surface.place(point)))
        assert again.objective == pytest.approx(point.objective, abs=1e-7)
        value = surface.values(np.array([z[surface.held]]))
        np.testing.assert_allclose(surface.held_at(value), [z[surface.held]])


def test_derivatives_of_the_generalized_surface():
    wine = lmm.datasets.load("wine")
    ordinal = lmm.glmer("rating ~ temp + contact + (1|judge)", wine, family=lmm.families.Ordinal())
    gamma = lmm.glmer(
        "Reaction ~ Days + (Days|Subject)", data("sleep"), family=lmm.families.Gamma(link="log")
    )
    for one, sigma, own in (
        (fit("cbpp"), False, ()),
        (ordinal, False, ("threshold",) * 4),
        (gamma, True, ()),
    ):
        objective, est = Objective(one.problem), one.estimate
        place = Place(
            list(est.factors), objective.pack(est.theta, est.beta, est.phi)[one.problem.n_theta :]
        )
        for held in helds(one.problem, sigma, own):
            surface = GeneralizedSurface(one.problem, objective, held)
            start = surface.enter(place)
            point = surface.at(start)
            assert point.objective == pytest.approx(est.objective, abs=1e-7)
            value = float(surface.values(np.array(point.theta[surface.held])))
            reported = {
                "coefficient": est.beta,
                "threshold": np.atleast_1d(est.phi),
                "sigma": [est.sigma],
            }
            if held.kind in reported:
                assert value == pytest.approx(reported[held.kind][held.first], rel=1e-8)
            z = start + 0.05
            np.testing.assert_allclose(
                surface.at(z).gradient, differences(surface, z)[0], rtol=1e-4, atol=1e-4
            )


def test_curve_is_monotone_where_the_profile_is_not():
    held = np.linspace(0.0, 4.0, 5)
    curve = Curve.of(
        ProfilePath(
            held,
            np.array([-1.0, 0.0, 1.0, 0.8, 2.0]),
            np.array([1.0, 1.0, 9.0, 1.0, 1.0]),
            (),
            ("cutoff", "cutoff"),
        )
    )
    values = curve.at(np.linspace(-0.5, 4.5, 300))
    assert (np.diff(values) >= -1e-12).all()
    inside = curve.inverse(np.array([-0.5, 0.5, 1.5]))
    np.testing.assert_allclose(curve.at(inside), [-0.5, 0.5, 1.5], atol=1e-9)


def test_a_profile_that_ends_just_short_of_the_cutoff_reaches_its_bound():
    """The correlation's zeta at 1 lies 0.005 below the cutoff asked for: the limit is the bound, in a few points."""
    rng = np.random.default_rng(4)
    g, t = np.repeat(np.arange(10), 12), np.tile(np.arange(12.0), 10)
    b = rng.normal(size=(10, 2)) @ np.array([[2.0, 0.15], [0.0, 0.1]])
    data = pd.DataFrame(
        {"y": b[g, 0] + b[g, 1] * t + rng.normal(size=120), "t": t, "g": g.astype(str)}
    )
    fit = lmm.lmer("y ~ t + (t|g)", data, REML=False)
    name = "cor_t.(Intercept)|g"
    whole = fit.profile(name, level=0.9999999).to_frame()
    assert whole[name].max() == 1.0
    level = float(2.0 * ndtr(whole["zeta"].max() + 0.005) - 1.0)
    profile = fit.profile(name, level=level)
    assert profile.confint(level).loc[name, "upper"] == 1.0
    assert len(profile.to_frame()) < 25
