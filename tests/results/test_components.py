"""What a fit with several linear predictors says of each: tables, predictions, simulations, refits, files, and what it refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    """Counts of 40 groups whose excess zeros depend on the treatment."""
    rng = np.random.default_rng(7)
    g = np.repeat(np.arange(40), 12)
    x, t = rng.normal(size=480), np.tile(["a", "b", "c"], 160)
    mu = np.exp(2.0 + 0.3 * x + 0.4 * rng.normal(size=40)[g])
    p = 1.0 / (1.0 + np.exp(0.8 - 0.9 * (t == "b") - 1.3 * rng.normal(size=40)[g]))
    y = rng.negative_binomial(4.0, 4.0 / (4.0 + mu)) * (rng.random(480) > p)
    return pd.DataFrame({"y": y, "x": x, "t": t, "g": [f"g{k:02d}" for k in g]})


@pytest.fixture(scope="module")
def fit(data: pd.DataFrame) -> lmm.Fit:
    return lmm.glmer(
        "y ~ x + (1|g)", data, family="nbinom2", ziformula="~ t + (1|g)", dispformula="~ x"
    )


def test_every_table_has_its_part_of_all_parameters(fit: lmm.Fit) -> None:
    every = fit.fixef("all")
    own = {name: fit.fixef(name) for name in ("cond", "zi", "disp")}
    assert list(every.index) == [
        "Intercept", "x", "zi.Intercept", "zi.t[T.b]", "zi.t[T.c]", "disp.Intercept", "disp.x",
    ]  # fmt: skip
    np.testing.assert_array_equal(every, np.concatenate(list(own.values())))
    assert fit.vcov(component="all").loc["zi.t[T.b]", "zi.t[T.b]"] == pytest.approx(
        fit.vcov(component="zi").loc["t[T.b]", "t[T.b]"]
    )
    np.testing.assert_allclose(
        fit.coef_table(component="zi")["std_error"], np.sqrt(np.diag(fit.vcov(component="zi")))
    )
    assert fit.varcorr("all").names == ["sd_(Intercept)|g", "sd_zi.Intercept|g"]
    assert fit.varcorr("zi").stddev("g")["Intercept"] == fit.varcorr("all").stddev("g").iloc[1]
    assert len(fit.varcorr("disp").to_frame()) == 0
    np.testing.assert_array_equal(
        fit.ranef("all")["g"]["zi.Intercept"], fit.ranef("zi")["g"].iloc[:, 0]
    )
    assert list(fit.tidy(component="all")["component"].unique()) == ["cond", "zi", "disp"]
    assert fit.anova(component="zi").index.tolist() == ["t"]
    test = fit.contrast("zi.t[T.b] = 0", component="all")
    assert test["p_value"].iloc[0] == pytest.approx(
        fit.coef_table(component="zi").loc["t[T.b]", "p_value"]
    )
    assert fit.df_model == 9 and fit.nobs == 480 and fit.deviance == pytest.approx(-2.0 * fit.llf)
    assert np.isnan(fit.sigma) and np.isnan(fit.dispersion)
    assert fit.family_parameters().empty
    with pytest.raises(lmm.ArgumentError, match="'cond', 'zi', 'disp', 'all'"):
        fit.fixef("mean")


def test_intervals_of_a_component_are_those_of_all_parameters(fit: lmm.Fit) -> None:
    every = fit.confint("wald", component="all")
    own = fit.confint("wald", component="zi")
    np.testing.assert_allclose(own.loc["t[T.b]"], every.loc["zi.t[T.b]"])
    np.testing.assert_allclose(own.iloc[0], every.loc["sd_zi.Intercept|g"])
    profile = fit.profile("t[T.b]", level=0.95, component="zi").confint()
    np.testing.assert_allclose(profile.iloc[0], fit.confint(component="zi", parm="t[T.b]").iloc[0])
    assert profile["lower"].iloc[0] < fit.fixef("zi")["t[T.b]"] < profile["upper"].iloc[0]
    boot = fit.confint("boot", nsim=3, rng=1, component="disp")
    assert boot.index.tolist() == ["Intercept", "x"]


def test_predictions_go_together_and_their_errors_are_those_of_the_delta_method(
    fit: lmm.Fit, data: pd.DataFrame
) -> None:
    some = data.head(9)
    each = {
        type: fit.predict(some, type=type) for type in ("response", "conditional", "zprob", "disp")
    }
    np.testing.assert_allclose(each["response"], (1.0 - each["zprob"]) * each["conditional"])
    np.testing.assert_allclose(each["response"], fit.fittedvalues[:9])
    np.testing.assert_allclose(each["disp"], np.exp(fit.fixef("disp") @ [np.ones(9), some["x"]]))
    table = fit.predict(some, type="response", re_form=False, se_fit=True, interval="confidence")
    X = np.column_stack([np.ones(9), some["x"]])
    zero = np.column_stack([np.ones(9), some["t"] == "b", some["t"] == "c"])
    p = 1.0 / (1.0 + np.exp(-zero @ fit.fixef("zi")))
    mean = (1.0 - p) * np.exp(X @ fit.fixef())
    J = np.hstack([X * mean[:, None], -zero * (p * mean)[:, None]])
    V = fit.vcov(component="all").to_numpy()[:5, :5]
    np.testing.assert_allclose(table["fit"], mean)
    np.testing.assert_allclose(table["se"], np.sqrt(np.einsum("ij,jk,ik->i", J, V, J)), rtol=1e-6)
    assert ((table["lower"] < mean) & (mean < table["upper"])).all()
    by_term = fit.predict(some, re_form="~ (1|g)", type="link")
    np.testing.assert_allclose(by_term, fit.predict(some, type="link"))
    missing = some.assign(t=None)
    assert fit.predict(missing, re_form=False).isna().all()


def test_simulations_have_the_zeros_and_the_means_of_the_model(fit: lmm.Fit) -> None:
    drawn = fit.simulate(400, rng=3, use_u=True)
    se = drawn.std(axis=1) / 20.0
    assert (np.abs(drawn.mean(axis=1) - fit.fittedvalues) < 5.0 * se + 0.05).all()
    residuals = fit.simulated_residuals(rng=1)
    assert residuals.tests().loc["zero_inflation", "p_value"] > 0.05
    pearson = fit.residuals("pearson")
    assert pearson.std() == pytest.approx(1.0, abs=0.15)


def test_a_fit_is_refitted_changed_and_kept(
    fit: lmm.Fit, data: pd.DataFrame, tmp_path: object
) -> None:
    again = fit.refit(data["y"])
    np.testing.assert_allclose(again.fixef("all"), fit.fixef("all"), atol=1e-4)
    plain = fit.update(ziformula="~ 0", dispformula="~ 1")
    assert plain.df_model == 4 and plain.llf < fit.llf
    assert plain.llf == pytest.approx(lmm.glmer("y ~ x + (1|g)", data, family="nbinom2").llf)
    finer = fit.update(nAGQ=3, dispformula="~ 1")
    assert finer.estimate.method == "agq" and finer.llf == pytest.approx(
        fit.update(dispformula="~ 1").llf, abs=3.0
    )
    less = fit.update(". ~ . - x")
    assert less.df_model == 8 and less.fixef("zi").size == 3
    assert fit.drop1().loc["x", "lrt"] == pytest.approx(2.0 * (fit.llf - less.llf), abs=1e-4)
    fit.save(f"{tmp_path}/fit.lmm")
    for other in (pickle.loads(pickle.dumps(fit)), lmm.load(f"{tmp_path}/fit.lmm")):
        assert other == fit and other.fixef("zi").equals(fit.fixef("zi"))
        np.testing.assert_allclose(other.predict(data.head(3)), fit.predict(data.head(3)))


def test_the_summary_has_a_section_for_each_predictor(fit: lmm.Fit) -> None:
    text = str(fit.summary())
    for line in (
        "Family: Negative Binomial  ( log ), zero-inflated",
        "Zeros: ~ t + (1 | g)",
        "Dispersion: ~ x",
        "Zero-inflation model, random effects:",
        "Zero-inflation model, fixed effects:",
        "Dispersion model, fixed effects:",
    ):
        assert line in text
    single = fit.update(dispformula="~ 1")
    assert "Dispersion model" not in str(single.summary())
    assert f"theta of the Negative Binomial family: {single.sigma:.4g}"[:45] in str(
        single.summary()
    )


@pytest.mark.parametrize(
    ("what", "match"),
    [
        (lambda fit: fit.r2(), "r2 is not available"),
        (lambda fit: fit.influence(), "influence is not available"),
        (lambda fit: fit.ranova(), "ranova is not available"),
        (lambda fit: fit.leverage(), "leverage is not available"),
        (lambda fit: fit.bootstrap(2, kind="cases"), "kind='cases' is not available"),
        (lambda fit: fit.predict(interval="prediction"), "quantiles of simulate"),
        (lambda fit: fit.update(nAGQ=0), "nAGQ=0 takes one linear predictor"),
        (lambda fit: fit.update(method="nuts"), "not for NUTS"),
        (lambda fit: fit.update(control=lmm.Control(curvature="expected")), "curvature='expected'"),
        (lambda fit: fit.update(REML=True), "REML=True"),
    ],
)
def test_what_is_not_available_says_so(fit: lmm.Fit, what: object, match: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=match):
        what(fit)  # type: ignore[operator]


def test_models_that_cannot_be_say_what_is_wrong(data: pd.DataFrame) -> None:
    def fit(formula: str = "y ~ x + (1|g)", family: object = "poisson", **given: str) -> None:
        lmm.glmer(formula, data.assign(ones=1.0 + data["y"], none=0.0), family=family, **given)

    with pytest.raises(lmm.ArgumentError, match="the poisson family has no dispersion"):
        fit(dispformula="~ x")
    with pytest.raises(lmm.ResponseError, match="'ones' has no zeros"):
        fit("ones ~ x + (1|g)", ziformula="~ 1")
    with pytest.raises(lmm.ResponseError, match="'none' is zero in every row"):
        fit("none ~ x + (1|g)", "gamma", ziformula="~ 1")
    with pytest.raises(lmm.ResponseError, match="ziformula="):
        fit(family="truncated_poisson")
    with pytest.raises(lmm.FormulaError, match="ziformula= is a one-sided formula"):
        fit(ziformula="y ~ x")
    with pytest.raises(lmm.ArgumentError, match="not for the gaussian family"):
        fit(family=lmm.families.Gaussian(link="log"), ziformula="~ 1")


def test_zero_inflation_that_vanishes_is_told_and_leaves_the_other_numbers(
    data: pd.DataFrame,
) -> None:
    rng = np.random.default_rng(1)
    counts = data.assign(y=rng.poisson(np.exp(0.5 + 0.3 * data["x"])))
    plain = lmm.glmer("y ~ x + (1|t)", counts, family="poisson")
    with pytest.warns(lmm.SingularFitWarning, match="Zero inflation vanishes"):
        fit = lmm.glmer("y ~ x + (1|t)", counts, family="poisson", ziformula="~ 1")
    assert fit.convergence.converged and fit.llf == pytest.approx(plain.llf, abs=1e-4)
    np.testing.assert_allclose(fit.bse, plain.bse, rtol=1e-3)
