"""Structured residuals: likelihoods and tests of SAS and nlme, exact identities, and what must not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm

US = "us(AVISIT | USUBJID)"


@pytest.fixture(scope="module")
def fev() -> pd.DataFrame:
    return lmm.datasets.load("fev")


# SAS PROC MIXED of FEV1 ~ 1 (mmrm's design/SAS); SAS stops within 1e-5 of the optimum
SAS = {
    (f"{name}", reml): value
    for name, values in {
        "us(AVISIT | USUBJID)": (3700.94648570, 3700.68707570),
        "ad(AVISIT | USUBJID)": (3855.3383, 3855.8794),
        "hetad(AVISIT | USUBJID)": (3713.49317786, 3713.24501787),
        "homtoep(AVISIT | USUBJID)": (3856.68995273, 3857.00777313),
        "toep(AVISIT | USUBJID)": (3722.38018329, 3722.29178558),
        "ar1(AVISIT | USUBJID)": (3875.49945459, 3875.95352406),
        "hetar1(AVISIT | USUBJID)": (3739.96835012, 3739.94416707),
        "homcs(AVISIT | USUBJID)": (3917.98183508, 3918.12214544),
        "cs(AVISIT | USUBJID)": (3784.85341599, 3784.63158043),
        "ou(VISITN | USUBJID)": (3875.49946734, 3875.95353357),
        "exp(VISITN + VISITN2 | USUBJID)": (3894.60123182, 3894.94943409),
        "hetad(AVISIT | ARMCD/USUBJID)": (3688.84024388, 3688.48731427),
        "toep(AVISIT | ARMCD/USUBJID)": (3704.49921127, 3704.27043196),
        "ar1(AVISIT | ARMCD/USUBJID)": (3872.65212395, 3873.08507919),
        "hetar1(AVISIT | ARMCD/USUBJID)": (3724.36099760, 3724.22021102),
        "homcs(AVISIT | ARMCD/USUBJID)": (3915.41985780, 3915.54243738),
        "cs(AVISIT | ARMCD/USUBJID)": (3764.55218946, 3764.21336404),
    }.items()
    for reml, value in zip((True, False), values, strict=True)
}


@pytest.mark.parametrize(("residual", "reml"), SAS)
def test_likelihoods_are_those_of_sas(fev: pd.DataFrame, residual: str, reml: bool) -> None:
    fit = lmm.lmer("FEV1 ~ 1", fev, residual=residual, REML=reml)
    assert fit.convergence.converged
    digits = 5e-5 if residual.startswith("ad(") else 3e-5  # four decimals are published
    assert -2 * fit.llf == pytest.approx(SAS[residual, reml], abs=digits)


def test_kenward_roger_is_that_of_sas(fev: pd.DataFrame) -> None:
    # ddfm=kr: 3.81972492, .66124382, 160.733266; SAS stops early, by 2e-4 of the standard error
    row = lmm.lmer("FEV1 ~ ARMCD", fev, residual=US).coef_table(ddf="kenward_roger").iloc[1]
    assert row["estimate"] == pytest.approx(3.81972492, rel=2e-5)
    assert row["std_error"] == pytest.approx(0.66124382, rel=2e-4)
    assert row["df"] == pytest.approx(160.733266, rel=5e-4)


#: R's data set sleep
EXTRA = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
EXTRA += [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


@pytest.mark.parametrize("ddf", ["kenward_roger", "satterthwaite"])
def test_two_visits_unstructured_is_the_paired_t_test(ddf: str) -> None:
    sleep = pd.DataFrame({"extra": EXTRA, "group": ["1"] * 10 + ["2"] * 10, "ID": [*range(10)] * 2})
    row = lmm.lmer("extra ~ group", sleep, residual="us(group | ID)").coef_table(ddf=ddf).iloc[1]
    difference = np.subtract(EXTRA[10:], EXTRA[:10])
    assert row["estimate"] == pytest.approx(difference.mean(), rel=1e-8)
    assert row["std_error"] == pytest.approx(difference.std(ddof=1) / np.sqrt(10), rel=1e-6)
    assert row["std_error"] == pytest.approx(0.3890, abs=5e-5)  # t.test(paired = TRUE)
    assert row["df"] == pytest.approx(9.0, rel=1e-5)


def repeated(n: int = 60, m: int = 4, seed: int = 1, missing: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(m, m))
    e = rng.multivariate_normal(np.zeros(m), A @ A.T + np.eye(m), size=n)
    arm = np.repeat(np.array(["a", "b"]), n // 2)
    frame = pd.DataFrame(
        {
            "id": np.repeat(np.arange(n), m),
            "visit": np.tile([f"v{j}" for j in range(m)], n),
            "arm": np.repeat(arm, m),
            "y": (10 + e + np.arange(m) + 0.8 * (arm == "b")[:, None]).ravel(),
            "w": rng.uniform(0.5, 2.0, size=n * m),
        }
    )
    return frame[rng.uniform(size=n * m) >= missing].reset_index(drop=True)


def test_unstructured_without_missing_visits_is_hotelling() -> None:
    n, m = 24, 4
    d = repeated(n)
    wide = d.pivot(index="id", columns="visit", values="y").to_numpy()
    one, two = wide[:12], wide[12:]
    S = (one - one.mean(0)).T @ (one - one.mean(0)) + (two - two.mean(0)).T @ (two - two.mean(0))
    S /= n - 2
    difference = two.mean(0) - one.mean(0)
    T2 = difference @ np.linalg.solve(S * (2 / 12), difference)
    F, df = T2 * (n - m - 1) / ((n - 2) * m), n - m - 1
    fit = lmm.lmer("y ~ 0 + visit + arm:visit", d, residual="us(visit | id)")
    L = np.zeros((m, len(fit.design.names)))
    places = [i for i, name in enumerate(fit.design.names) if "arm" in name]
    L[np.arange(m), places] = 1.0
    joint = fit.contrast(L, ddf="kenward_roger", joint=True).iloc[0]
    assert joint["den_df"] == pytest.approx(df, rel=1e-5)
    assert joint["f_value"] == pytest.approx(F, rel=1e-5)
    np.testing.assert_allclose(fit.varcorr()["Residual"].to_numpy(), S, rtol=1e-5)


def test_one_variance_a_row_is_the_model_with_independent_residuals() -> None:
    """A residual variance per arm that comes out the same as two separate regressions."""
    d = repeated(missing=0.2)
    fit = lmm.lmer("y ~ 0 + arm + arm:visit", d, residual="diag(arm)")
    for arm, part in d.groupby("arm"):
        X = np.column_stack([part["visit"] == v for v in sorted(set(d["visit"]))]).astype(float)
        rest = part["y"] - X @ np.linalg.lstsq(X, part["y"], rcond=None)[0]
        sd = np.sqrt(rest @ rest / (len(part) - 4))
        assert fit.varcorr().stddev("Residual")[arm] == pytest.approx(sd, rel=1e-6)


def test_nlme_with_random_slopes_and_variances_by_sex() -> None:
    # lme(distance ~ age * Sex, random = ~ age | Subject, weights = varIdent(form = ~ 1 | Sex)), nlme 3.1-162
    d = lmm.datasets.load("Orthodont")
    d["Sex"] = d["Sex"].cat.reorder_categories(["Male", "Female"])
    fit = lmm.lmer("distance ~ age * Sex + (age | Subject)", d, residual="diag(Sex)")
    assert fit.llf == pytest.approx(-205.761239925631, abs=1e-6)
    se = fit.coef_table()["std_error"].to_numpy()
    expected = [1.13526768643102, 0.0991447698078339, 1.37725181358819, 0.118635685817603]
    np.testing.assert_allclose(se, expected, rtol=2e-4)
    assert fit.df_model == 9


def numbers(fit: Any) -> dict[str, np.ndarray]:
    return {
        "llf": np.array([fit.llf]),
        "beta": fit.fixef().to_numpy(),
        "se": fit.coef_table(ddf="kenward_roger")["std_error"].to_numpy(),
        "df": fit.coef_table(ddf="satterthwaite")["df"].to_numpy(),
        "S": fit.varcorr()["Residual"].to_numpy(),
    }


@pytest.mark.parametrize("random", ["", " + (1 | arm:half)"])
def test_nothing_depends_on_order_or_labels(random: str) -> None:
    d = repeated(missing=0.3)
    d["half"] = d["id"] % 30 // 6
    formula = f"y ~ arm * visit{random}"
    first = numbers(lmm.lmer(formula, d, residual="us(visit | id)"))
    other = d.sample(frac=1.0, random_state=3)
    other["id"] = "s" + (97 * other["id"] % 101).astype(str)
    again = numbers(lmm.lmer(formula, other, residual="us(visit | id)"))
    for key, value in first.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-5, atol=1e-7, err_msg=key)


def test_units_of_the_response_scale_everything() -> None:
    d = repeated(missing=0.3)
    first = numbers(lmm.lmer("y ~ arm * visit", d, residual="us(visit | id)"))
    again = numbers(
        lmm.lmer("y ~ arm * visit", d.assign(y=1e6 * d["y"]), residual="us(visit | id)")
    )
    np.testing.assert_allclose(again["beta"], 1e6 * first["beta"], rtol=1e-6)
    np.testing.assert_allclose(again["se"], 1e6 * first["se"], rtol=1e-6)
    np.testing.assert_allclose(again["S"], 1e12 * first["S"], rtol=1e-5)
    np.testing.assert_allclose(again["df"], first["df"], rtol=1e-5)


def test_parameters_by_stratum_are_separate_fits() -> None:
    d = repeated(missing=0.2)
    fit = lmm.lmer("y ~ 0 + arm:visit", d, residual="us(visit | arm/id)")
    total = 0.0
    for arm, part in d.groupby("arm"):
        own = lmm.lmer("y ~ 0 + visit", part, residual="us(visit | id)")
        total += own.llf
        np.testing.assert_allclose(
            fit.varcorr()[f"Residual {arm}"], own.varcorr()["Residual"], rtol=1e-4
        )
    assert fit.llf == pytest.approx(total, abs=1e-7)


def test_weights_divide_the_covariance() -> None:
    """W^-1/2 S W^-1/2: rows times the root of their weight, and log weights in the likelihood."""
    d = repeated(missing=0.2)
    root = np.sqrt(d["w"])
    X = pd.get_dummies(d["visit"], dtype=float)
    turned = pd.DataFrame({**{f"x{j}": X[v] * root for j, v in enumerate(X)}, "y": d["y"] * root})
    turned[["id", "visit"]] = d[["id", "visit"]]
    weighted = lmm.lmer("y ~ 0 + visit", d, residual="us(visit | id)", weights="w", REML=False)
    plain = lmm.lmer("y ~ 0 + x0 + x1 + x2 + x3", turned, residual="us(visit | id)", REML=False)
    np.testing.assert_allclose(weighted.fixef(), plain.fixef(), rtol=1e-6)
    np.testing.assert_allclose(
        weighted.varcorr()["Residual"], plain.varcorr()["Residual"], rtol=1e-5
    )
    assert weighted.llf == pytest.approx(plain.llf + 0.5 * np.log(d["w"]).sum(), abs=1e-7)


def test_a_random_intercept_that_the_structure_holds_already_is_said() -> None:
    d = repeated(missing=0.1)
    with pytest.warns(lmm.LmmWarning, match="Not determined"):
        lmm.lmer("y ~ visit + (1 | id)", d, residual="us(visit | id)")


def test_a_covariance_that_becomes_singular_is_said() -> None:
    """More parameters than so few rows can carry: the likelihood has no maximum."""
    with pytest.warns(lmm.ConvergenceWarning, match="singular"):
        lmm.lmer("y ~ arm * visit", repeated(24, missing=0.3), residual="us(visit | id)")


def test_start_and_evaluate_only() -> None:
    d = repeated(missing=0.2)
    fit = lmm.lmer("y ~ visit", d, residual="us(visit | id)")
    assert fit.objective(fit.theta) == pytest.approx(-2 * fit.llf, abs=1e-6)
    again = lmm.lmer("y ~ visit", d, residual="us(visit | id)", start=fit.theta)
    assert again.llf == pytest.approx(fit.llf, abs=1e-8)
    assert again.convergence.evaluations <= 2
    only = lmm.lmer(
        "y ~ visit",
        d,
        residual="us(visit | id)",
        start=fit.theta,
        control=lmm.Control(evaluate_only=True),
    )
    assert only.llf == pytest.approx(fit.llf, abs=1e-8)


def test_a_visit_that_nobody_has_keeps_its_place_in_ar1() -> None:
    """Lags count over the declared visits: ar1 without the second of four is ou over 0, 2, 3."""
    d = repeated()
    d["visit"] = pd.Categorical(d["visit"])
    d = d[d["visit"] != "v1"]
    d["time"] = d["visit"].astype(str).str[1:].astype(float)
    kept = lmm.lmer("y ~ arm", d, residual="ar1(visit | id)")
    by_time = lmm.lmer("y ~ arm", d, residual="ou(time | id)")
    assert kept.llf == pytest.approx(by_time.llf, abs=1e-7)
    dropped = lmm.lmer("y ~ arm", d, residual="cs(visit | id)")
    assert list(dropped.residual_cov().index) == ["v0", "v2", "v3"]
    with pytest.raises(lmm.LmmError, match="'v1' occurs in no row"):
        lmm.lmer("y ~ arm", d, residual="toep(visit | id)")


@pytest.mark.parametrize("method", ["em", "vi", "nuts", "mackay"])
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(lmm.ArgumentError, match="residual= is for maximum likelihood"):
        lmm.lmer("y ~ visit + (1|id)", repeated(), residual="us(visit | id)", method=method)


BAD = [
    ("us(nix | id)", "nix"),
    ("us(visit | nix)", "nix"),
    ("us(visit | arm)", "rows 1 and .* of those used are both visit 'v0' of arm 'a'"),
    ("us(arm | id)", "are both arm 'a' of id"),
    ("us(visit | id) + nugget", "cannot be told from the variances"),
    ("us(one | id)", "one has one value"),
    ("us(visit | row)", "every row has a single row"),
    ("ou(arm | id)", "arm"),
    ("rr(visit | id)", "singular covariance"),
    ("cs(visit | id) + nugget", "cannot be told from the variances"),
]


@pytest.mark.parametrize(("residual", "message"), BAD)
def test_what_cannot_be_fitted_is_said(residual: str, message: str) -> None:
    d = repeated()
    d = d.assign(one="x", row=[f"r{i}" for i in range(len(d))])
    with pytest.raises(lmm.LmmError, match=message):
        lmm.lmer("y ~ visit", d, residual=residual)
