"""lmer(dispformula=): values of nlme and glmmTMB, identities with other models, dense matrices, and what must not matter."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators.likelihood.marginal_likelihood import MarginalEvaluator
from lmm.model.marginal import clusters, dense_deviance


@pytest.fixture(scope="module")
def sleep() -> pd.DataFrame:
    return lmm.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleep: pd.DataFrame) -> Any:
    return lmm.lmer("Reaction ~ Days + (Days | Subject)", sleep, dispformula="~ Days")


def made(J: int = 12, size: int = 8, seed: int = 3) -> pd.DataFrame:
    """Rows whose standard deviation depends on a number, different in each row, and on a group."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(J), size)
    n = len(g)
    frame = pd.DataFrame(
        {
            "g": g,
            "x": rng.normal(size=n),
            "v": rng.uniform(0, 3, size=n),
            "f": np.where(rng.uniform(size=n) < 0.5, "a", "b"),
            "w": rng.uniform(0.5, 2, size=n),
        }
    )
    sd = np.exp(0.2 + 0.4 * frame["v"] - 0.5 * (frame["f"] == "b")) / np.sqrt(frame["w"])
    slope = 1 + 0.6 * rng.normal(size=J)[g]
    frame["y"] = 2 + slope * frame["x"] + rng.normal(size=J)[g] + sd * rng.normal(size=n)
    return frame


def dispersion(fit: Any) -> np.ndarray:
    return fit.summary().tables["dispersion"]["estimate"].to_numpy()


# ---- other programs


def test_nlme_with_a_variance_function(fit: Any, sleep: pd.DataFrame) -> None:
    # lme(Reaction ~ Days, random = ~ Days | Subject, weights = varExp(form = ~ Days)), nlme 3.1-162, tolerances 1e-12
    assert fit.llf == pytest.approx(-865.82572075499, abs=1e-8)
    np.testing.assert_allclose(fit.fixef(), [252.861930007, 10.0841819178], rtol=1e-6)
    np.testing.assert_allclose(fit.bse, [6.7556370541, 1.5949832457], rtol=1e-5)
    np.testing.assert_allclose(dispersion(fit), [np.log(16.609931129), 0.0850258328], rtol=2e-5)
    assert fit.df_model == 7
    # method = "ML", random = ~ 1 | Subject
    ml = fit.update("Reaction ~ Days + (1 | Subject)", REML=False)
    assert ml.llf == pytest.approx(-891.91187930056, abs=1e-8)
    np.testing.assert_allclose(dispersion(ml), [3.03465668237, 0.0831904283781], rtol=2e-5)


def test_nlme_with_variances_by_machine() -> None:
    # lme(score ~ Machine, random = ~ 1 | Worker, weights = varIdent(form = ~ 1 | Machine))
    machines = lmm.datasets.load("Machines")
    fit = lmm.lmer("score ~ Machine + (1 | Worker)", machines, dispformula="~ Machine")
    assert fit.llf == pytest.approx(-133.37968453461, abs=1e-8)
    expected = [1.96846361661842, 1.55787874794780, 0.84670818722154]
    np.testing.assert_allclose(fit.bse, expected, rtol=1e-5)
    se = [1.25940292566276, 0.46195843952554, -1.61536241418125]
    np.testing.assert_allclose(dispersion(fit), se, rtol=5e-5)


def test_nlme_without_random_effects() -> None:
    # gls(distance ~ age * Sex, weights = varComb(varIdent(form = ~ 1 | Sex), varExp(form = ~ age)))
    d = lmm.datasets.load("Orthodont")
    d["Sex"] = d["Sex"].cat.reorder_categories(["Male", "Female"])
    fit = lmm.lmer("distance ~ age * Sex", d, dispformula="~ Sex + age")
    assert fit.llf == pytest.approx(-241.64841537647, abs=1e-8)
    expected = [0.7831344835, -0.0709381127, 0.0052967939]
    np.testing.assert_allclose(dispersion(fit), expected, atol=2e-5)


def test_glmmtmb_with_an_offset_and_standard_errors(sleep: pd.DataFrame) -> None:
    # glmmTMB(Reaction ~ Days + (Days | Subject), dispformula = ~ poly(Days, 2) + offset(Days / 5), REML = TRUE), 1.1.5, whose
    # dispersion is the variance: its coefficients and standard errors are halved, and the offset is half of its
    fit = lmm.lmer(
        "Reaction ~ Days + (Days | Subject)",
        sleep,
        dispformula="~ poly(Days, 2) + offset(Days / 10)",
    )
    assert fit.llf == pytest.approx(-865.11678641616, abs=1e-6)
    table = fit.summary().tables["dispersion"]
    halves = np.array([5.4794674999, -0.857028255, 2.347965259]) / 2
    np.testing.assert_allclose(table["estimate"], halves, rtol=2e-4)
    errors = np.array([0.1183287246, 1.919682638, 1.944715132]) / 2
    np.testing.assert_allclose(table["std_error"], errors, rtol=2e-3)


# ---- identities


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (1 | g)", "y ~ x"])
def test_a_factor_is_the_structure_with_a_variance_for_each_level(formula: str) -> None:
    d = made()
    one = lmm.lmer(formula, d, dispformula="~ f", weights="w")
    two = lmm.lmer(formula, d, residual="diag(f)", weights="w")
    assert one.llf == pytest.approx(two.llf, abs=1e-8)
    assert one.sigma == pytest.approx(two.sigma, rel=1e-5)
    for ddf in ("satterthwaite", "kenward_roger"):
        a, b = one.coef_table(ddf=ddf), two.coef_table(ddf=ddf)
        np.testing.assert_allclose(a, b, rtol=2e-4)
    sd = two.varcorr().stddev("Residual").to_numpy()
    np.testing.assert_allclose(dispersion(one), [np.log(sd[0]), np.log(sd[1] / sd[0])], rtol=1e-4)
    np.testing.assert_allclose(one.simulate(1, rng=1).std(), two.simulate(1, rng=1).std(), rtol=0.5)
    rows = d.iloc[:9]
    a, b = (own.predict(rows, interval="prediction") for own in (one, two))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        one.residuals("normalized"), two.residuals("normalized"), rtol=1e-4, atol=1e-6
    )


def test_a_constant_is_the_model_of_one_variance(sleep: pd.DataFrame) -> None:
    formula = "Reaction ~ Days + (Days | Subject)"
    one, plain = lmm.lmer(formula, sleep, dispformula="~ 1"), lmm.lmer(formula, sleep)
    assert one.llf == pytest.approx(plain.llf, abs=1e-8)
    assert (one.df_model, one.sigma) == (plain.df_model, pytest.approx(plain.sigma, rel=1e-6))
    tables = [own.coef_table(ddf="satterthwaite") for own in (one, plain)]
    np.testing.assert_allclose(*tables, rtol=1e-4)
    profile = one.confint(parm=["disp_Intercept", "Days"])
    expected = plain.confint(parm=["sigma", "Days"])
    expected.loc["sigma"] = np.log(expected.loc["sigma"])
    np.testing.assert_allclose(profile, expected, rtol=1e-4)


# ---- derivatives and dense matrices


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (1 | g) + (1 | h)", "y ~ x"])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("large", [1, 1000])
def test_derivatives_are_those_of_the_deviance(
    formula: str, reml: bool, large: int, monkeypatch: Any
) -> None:
    """In blocks that are taken as large ones, without derivatives of V, and as small ones."""
    for module in (clusters, dense_deviance):
        monkeypatch.setattr(module, "LARGE", large)
    d = made().assign(h=lambda d: np.arange(len(d)) % 3)
    fit = lmm.lmer(formula, d, dispformula="~ v * f", REML=reml, weights="w")
    evaluate = MarginalEvaluator(fit.problem, reml)
    theta = np.asarray(fit.theta) + 0.1
    here = evaluate(theta)
    m = len(theta)
    h = 1e-5
    steps = h * np.eye(m)
    ahead = [evaluate(evaluate.move(theta, s)) for s in steps]
    behind = [evaluate(evaluate.move(theta, -s)) for s in steps]
    pairs = list(zip(ahead, behind, strict=True))
    slopes = [(a.objective - b.objective) / (2 * h) for a, b in pairs]
    np.testing.assert_allclose(here.gradient, slopes, rtol=1e-5, atol=1e-5)
    q = 4  # of the dispersion, whose chart is the same around every theta
    own = slice(m - q, m)
    bends = [(a.gradient[own] - b.gradient[own]) / (2 * h) for a, b in pairs]
    np.testing.assert_allclose(here.hessian[:, own], bends, rtol=1e-5, atol=1e-5)


def test_likelihood_and_tests_are_those_of_dense_matrices() -> None:
    """Kenward & Roger (1997) without R, and Satterthwaite, with derivatives and W in closed form."""
    d = made(10, 6, seed=8)
    fit = lmm.lmer("y ~ x + (1 | g)", d, dispformula="~ v", weights="w")
    design, estimate = fit.design, fit.estimate
    X, y, n = design.X, design.y, design.n
    same = np.equal.outer(d["g"].to_numpy(), d["g"].to_numpy()).astype(float)
    U = np.column_stack([np.ones(n), d["v"]])
    variance = np.exp(2 * U @ dispersion(fit)) / d["w"].to_numpy()
    tau = estimate.sigma * estimate.theta[0]
    V = tau**2 * same + np.diag(variance)
    dV = [2 * tau * same, *(np.diag(2 * u * variance) for u in U.T)]
    d2V = {(0, 0): 2 * same}
    for i in (1, 2):
        for j in (1, 2):
            d2V[i, j] = np.diag(4 * U[:, i - 1] * U[:, j - 1] * variance)
    Vi = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ Vi @ X)
    P = Vi - Vi @ X @ Phi @ X.T @ Vi
    r = P @ y
    deviance = np.linalg.slogdet(V)[1] - np.linalg.slogdet(Phi)[1] + y @ r
    assert -2 * fit.llf == pytest.approx(deviance + (n - 2) * np.log(2 * np.pi), abs=1e-9)
    H = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            H[i, j] = 2 * r @ dV[i] @ P @ dV[j] @ r - np.trace(P @ dV[i] @ P @ dV[j])
            if (i, j) in d2V:
                H[i, j] += np.trace(P @ d2V[i, j]) - r @ d2V[i, j] @ r
    W = 2 * np.linalg.inv(H)
    cov = fit.vcov(full=True).iloc[:3, :3].to_numpy()
    scale = np.array([estimate.sigma, 1.0, 1.0])
    np.testing.assert_allclose(cov * np.outer(scale, scale), W, rtol=1e-8, atol=1e-12)
    A = [-X.T @ Vi @ own @ Vi @ X for own in dV]
    inner = sum(
        W[i, j] * (X.T @ Vi @ dV[i] @ Vi @ dV[j] @ Vi @ X - A[i] @ Phi @ A[j])
        for i in range(3)
        for j in range(3)
    )
    adjusted = Phi + 2 * Phi @ inner @ Phi
    np.testing.assert_allclose(fit.vcov(ddf="kenward_roger"), adjusted, rtol=1e-8)
    g = np.array([-np.diag(Phi @ own @ Phi) for own in A])
    df = 2 * np.diag(Phi) ** 2 / np.einsum("ip,ij,jp->p", g, W, g)
    np.testing.assert_allclose(fit.coef_table(ddf="satterthwaite")["df"], df, rtol=1e-8)


# ---- what must not matter


def test_nothing_depends_on_order_units_origins_or_labels() -> None:
    d = made()
    fit = lmm.lmer("y ~ x + (x | g)", d, dispformula="~ v + f")
    other = d.sample(frac=1.0, random_state=1).assign(
        v=lambda d: 1e4 + 1e3 * d["v"],
        y=lambda d: 1e3 * d["y"],
        g=lambda d: [f"level {g}" for g in d["g"]],
    )
    again = lmm.lmer("y ~ x + (x | g)", other, dispformula="~ v + f")
    rows = len(d) * np.log(1e3) - 2 * np.log(1e3)
    assert again.llf == pytest.approx(fit.llf - rows, abs=1e-7)
    a, b = (own.coef_table(ddf="kenward_roger") for own in (fit, again))
    np.testing.assert_allclose(b["std_error"], 1e3 * a["std_error"], rtol=1e-5)
    np.testing.assert_allclose(b["df"], a["df"], rtol=1e-4)
    np.testing.assert_allclose(
        again.predict(type="disp").sort_index(), 1e3 * fit.predict(type="disp"), rtol=1e-4
    )


def test_rows_without_a_value_and_columns_that_depend_on_others() -> None:
    d = made().assign(twice=lambda d: 2 * d["v"])
    d.loc[5, "v"] = np.nan
    with pytest.warns(lmm.errors.RankWarning, match="of disp is rank deficient"):
        fit = lmm.lmer("y ~ x + (1 | g)", d, dispformula="~ v + twice")
    assert fit.nobs == len(d) - 1
    expected = lmm.lmer("y ~ x + (1 | g)", d.drop(5), dispformula="~ v")
    assert fit.llf == pytest.approx(expected.llf, abs=1e-9)
    np.testing.assert_allclose(fit.predict(d, type="disp").drop(5), expected.predict(type="disp"))
    assert np.isnan(fit.predict(d, type="disp")[5])


# ---- what follows a fit


def test_tables_name_the_coefficients(fit: Any) -> None:
    text = str(fit.summary())
    assert "Dispersion: ~ Days" in text and "Dispersion model (log residual sd):" in text
    assert "Residual " not in str(fit.varcorr())
    names = list(fit.confint(method="wald").index)
    assert names[3:5] == ["disp_Intercept", "disp_Days"]
    assert list(fit.theta.index[-2:]) == ["disp.(Intercept)", "disp.Days"]
    assert fit.sigma**2 == pytest.approx((fit.predict(type="disp") ** 2).mean())
    with pytest.raises(lmm.ArgumentError, match="predict\\(type='disp'\\)"):
        fit.residual_cov()
    bootstrap = fit.bootstrap(10, rng=1).to_frame()
    assert "disp_Days" in bootstrap.index


def test_components_are_read_as_the_mean_is(fit: Any) -> None:
    delta = fit.fixef(component="disp")
    assert list(delta.index) == ["Intercept", "Days"]
    np.testing.assert_allclose(delta, dispersion(fit))
    table = fit.coef_table(component="disp")
    pd.testing.assert_frame_equal(table, fit.summary().tables["dispersion"])
    cov = fit.vcov(component="disp")
    np.testing.assert_allclose(np.sqrt(np.diagonal(cov)), table["std_error"])
    np.testing.assert_allclose(cov, fit.vcov(full=True).iloc[3:5, 3:5], rtol=1e-10)
    both = fit.coef_table(component="all")
    assert list(both.index) == ["Intercept", "Days", "disp.Intercept", "disp.Days"]
    np.testing.assert_allclose(both["std_error"], [*fit.bse, *table["std_error"]])
    for method in ("wald", "profile"):
        limits = fit.confint(method, component="disp")
        whole = fit.confint(method, parm=["disp_Intercept", "disp_Days"])
        np.testing.assert_allclose(limits, whole)
        assert list(limits.index) == ["Intercept", "Days"]
    contrast = fit.contrast("Days = 0", component="disp").iloc[0]
    assert contrast["p_value"] == pytest.approx(table.loc["Days", "p_value"], rel=1e-6)
    test = fit.anova(component="disp", ddf=None).loc["Days"]
    assert test["chisq"] == pytest.approx(table.loc["Days", "statistic"] ** 2)
    assert fit.ranef(component="disp") == {}
    with pytest.raises(lmm.ArgumentError, match="have normal tests"):
        fit.coef_table(ddf="satterthwaite", component="disp")
    options: dict[str, Any] = {"nsim": 10, "rng": 1}
    whole = fit.confint("boot", **options).loc[["disp_Intercept", "disp_Days"]]
    np.testing.assert_allclose(fit.confint("boot", component="disp", **options), whole)
    with pytest.raises(lmm.ArgumentError, match="'cond', 'disp' and 'all'"):
        fit.fixef(component="zi")
    d = made().assign(twice=lambda d: 2 * d["v"])
    with pytest.warns(lmm.errors.RankWarning):
        dropped = lmm.lmer("y ~ x + (1 | g)", d, dispformula="~ v + twice")
    assert dropped.fixef(component="disp").isna().tolist() == [False, False, True]
    assert dropped.confint("wald", component="disp").isna().all(axis=1).tolist() == [
        False,
        False,
        True,
    ]


def test_profiles_and_walds_intervals_agree_about_the_maximum(fit: Any) -> None:
    ml = fit.update(REML=False)
    profile = ml.confint(parm=["disp_Intercept", "disp_Days"])
    np.testing.assert_allclose(profile, ml.confint("wald", parm=list(profile.index)), atol=0.02)
    lower = float(profile.loc["disp_Days", "lower"])
    held = fit.update(dispformula=f"~ 1 + offset({lower!r} * Days)", REML=False)
    assert 2 * (ml.llf - held.llf) == pytest.approx(3.841459, abs=1e-4)


def test_standard_deviations_of_rows(fit: Any, sleep: pd.DataFrame) -> None:
    new = pd.DataFrame({"Days": [0.0, 4.5, 20.0]})
    found = fit.predict(new, type="disp", interval="confidence")
    log_sd = dispersion(fit)[0] + dispersion(fit)[1] * new["Days"]
    np.testing.assert_allclose(np.log(found["fit"]), log_sd)
    cov = fit.vcov(full=True).iloc[3:5, 3:5].to_numpy()
    U = np.column_stack([np.ones(3), new["Days"]])
    se = np.sqrt(np.einsum("ij,jk,ik->i", U, cov, U))
    np.testing.assert_allclose(found["se"], found["fit"] * se)
    np.testing.assert_allclose(np.log(found["upper"] / found["lower"]), 2 * 1.959964 * se, 1e-6)
    pearson = fit.residuals("pearson") * fit.predict(type="disp")
    np.testing.assert_allclose(pearson, fit.residuals("response"))
    drawn = fit.simulate(4000, rng=1, use_u=True).to_numpy()
    np.testing.assert_allclose(
        drawn.std(axis=1), fit.predict(type="disp"), rtol=5 / np.sqrt(2 * 4000)
    )
    plain = lmm.lmer("Reaction ~ Days + (1 | Subject)", sleep)
    assert (plain.predict(type="disp") == plain.sigma).all()
    with pytest.raises(lmm.ArgumentError, match="dispformula="):
        plain.predict(type="disp", se_fit=True)
    with pytest.raises(lmm.ArgumentError, match="no row is observed"):
        fit.predict(type="disp", interval="prediction")
    trial = lmm.lmer("FEV1 ~ ARMCD", lmm.datasets.load("fev"), residual="us(AVISIT | USUBJID)")
    sd = trial.varcorr().stddev("Residual")
    rows = pd.DataFrame({"ARMCD": "TRT", "AVISIT": list(sd.index)})
    np.testing.assert_allclose(trial.predict(rows, type="disp"), sd)


def test_refits_batches_influence_and_files(fit: Any, sleep: pd.DataFrame, tmp_path: Path) -> None:
    Y = fit.simulate(2, rng=2)
    many = fit.refit_many(Y)
    formula = "~ Days + (Days | Subject)"
    batch = lmm.lmer_batch(formula, sleep, Y, dispformula="~ Days")
    for i, name in enumerate(Y):
        single = lmm.lmer(f"y {formula}", sleep.assign(y=Y[name]), dispformula="~ Days")
        assert many["disp_Days"].iloc[i] == pytest.approx(dispersion(single)[1], rel=1e-4)
        assert batch[name].llf == pytest.approx(single.llf, abs=1e-7)
    less = fit.update(data=sleep[sleep["Subject"] != sleep["Subject"].iloc[0]])
    own = fit.influence("Subject").estimates.iloc[0]
    np.testing.assert_allclose(own[-2:], less.fixef(), rtol=1e-5)
    np.testing.assert_allclose(own["disp_Days"], dispersion(less)[1], rtol=1e-4)
    fit.save(tmp_path / "fit.lmm")
    for again in (lmm.load(tmp_path / "fit.lmm"), pickle.loads(pickle.dumps(fit))):
        assert again == fit
        pd.testing.assert_frame_equal(again.confint("wald"), fit.confint("wald"))
        pd.testing.assert_frame_equal(again.simulate(1, rng=1), fit.simulate(1, rng=1))
        pd.testing.assert_series_equal(
            again.predict(sleep, type="disp"), fit.predict(sleep, type="disp")
        )


def test_assumed_parameters_and_updates(fit: Any, sleep: pd.DataFrame) -> None:
    drawn = fit.simulate(
        2000, rng=1, use_u=True, parameters={"disp_Intercept": 1.0, "disp_Days": 0.3}
    )
    sd = drawn.to_numpy().std(axis=1)
    np.testing.assert_allclose(np.log(sd), 1.0 + 0.3 * sleep["Days"], atol=5 / np.sqrt(4000))
    plain = lmm.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    assert fit.update(dispformula=None).llf == pytest.approx(plain.llf, abs=1e-8)
    assert plain.update(dispformula="~ Days").llf == pytest.approx(fit.llf, abs=1e-8)
    table = lmm.anova(plain, fit, refit=False)
    assert table["df"].iloc[-1] == 1
    assert table["chisq"].iloc[-1] == pytest.approx(2 * (fit.llf - plain.llf))


# ---- what cannot be


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("~ Days + (1 | Subject)", lmm.ArgumentError, r"\(1 \| Subject\) is a random term"),
        ("~ 0 + Days", lmm.ArgumentError, "no intercept"),
        ("~ 0", lmm.ArgumentError, "no intercept"),
        ("Days", lmm.FormulaError, "begins with '~'"),
        ("~ nothing", lmm.errors.LmmError, "nothing"),
        ("~ Inf", lmm.errors.LmmError, "Inf"),
    ],
)
def test_formulas_that_cannot_be(
    sleep: pd.DataFrame, text: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        lmm.lmer("Reaction ~ Days + (1 | Subject)", sleep, dispformula=text)


def test_what_it_does_not_go_with(fit: Any, sleep: pd.DataFrame) -> None:
    formula = "Reaction ~ Days + (1 | Subject)"
    with pytest.raises(lmm.ArgumentError, match="give one of them"):
        lmm.lmer(formula, sleep, dispformula="~ Days", residual="ar1(Days | Subject)")
    with pytest.raises(lmm.ArgumentError, match="dispformula= is for maximum likelihood"):
        lmm.lmer(formula, sleep, dispformula="~ Days", method="vi")
    with pytest.raises(lmm.PredictionError, match="Days"):
        fit.predict(sleep[["Subject"]], type="disp")
    with pytest.raises(lmm.ArgumentError, match="no leverage row by row"):
        fit.leverage()


def test_rows_that_are_fitted_exactly_are_named() -> None:
    d = made()
    d["alone"] = np.where(np.arange(len(d)) == 7, "yes", "no")
    with pytest.raises(lmm.DataError, match="row 8 of those used exactly.*alone"):
        lmm.lmer("y ~ x + alone + (1 | g)", d, dispformula="~ alone", weights="w")


def test_rows_that_the_likelihood_lets_vanish_are_named() -> None:
    d = made(6, 6)
    d["one"] = np.where(d["g"] == 2, "yes", "no")
    d.loc[d["g"] == 2, "y"] = 3.0 + 0.5 * d["x"]  # a line, which a slope of its own fits
    with pytest.warns(lmm.ConvergenceWarning, match="goes to zero.*one"):
        lmm.lmer("y ~ x + one + x:one", d, dispformula="~ one")
