"""What follows a fit with structured residuals: tables, predictions, simulations, refits, files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm


@pytest.fixture(scope="module")
def fev() -> pd.DataFrame:
    return lmm.datasets.load("fev")


@pytest.fixture(scope="module")
def fit(fev: pd.DataFrame) -> Any:
    return lmm.lmer("FEV1 ~ RACE + ARMCD * AVISIT", fev, residual="us(AVISIT | USUBJID)")


@pytest.fixture(scope="module")
def slopes() -> Any:
    """Random slopes beside variances by sex."""
    d = lmm.datasets.load("Orthodont")
    return lmm.lmer("distance ~ age * Sex + (age | Subject)", d, residual="diag(Sex)")


def rows_covariance(fit: Any, fev: pd.DataFrame) -> np.ndarray:
    d = fev.dropna(subset="FEV1")
    same = np.equal.outer(d["USUBJID"].to_numpy(), d["USUBJID"].to_numpy())
    place = d["AVISIT"].cat.codes.to_numpy()
    return same * fit.residual_cov().to_numpy()[np.ix_(place, place)]


def test_tables_name_the_covariance(fit: Any) -> None:
    text = str(fit.summary(ddf="satterthwaite"))
    assert "Residual: us(AVISIT | USUBJID)" in text
    assert "groups:  USUBJID, 197" in text
    names = [*fit.confint(method="wald").index]
    assert {"sd_VIS1|Residual", "cor_VIS4.VIS3|Residual", "ARMCD[T.TRT]"} <= set(names)
    assert "sigma" not in names
    tidy = fit.tidy("ran_pars")
    assert set(tidy["group"]) == {"Residual"} and len(tidy) == 10
    assert fit.df_model == 10 + 10
    frame = fit.varcorr_se()
    assert (frame["std_error"] > 0).all()
    assert fit.sigma**2 == pytest.approx(
        float(np.diagonal(fit.residual_cov()) @ fit.design.residual[0].share().diagonal())
    )


def test_residuals_and_what_is_normalized(fit: Any, fev: pd.DataFrame) -> None:
    V = rows_covariance(fit, fev)
    raw = fit.residuals().to_numpy()
    np.testing.assert_allclose(fit.residuals("pearson"), raw / np.sqrt(np.diagonal(V)), rtol=1e-10)
    turned = fit.residuals("normalized").to_numpy()
    assert turned @ turned == pytest.approx(raw @ np.linalg.solve(V, raw), rel=1e-10)
    plain = lmm.lmer("Reaction ~ Days + (1|Subject)", lmm.datasets.load("sleepstudy"))
    np.testing.assert_allclose(plain.residuals("normalized"), plain.resid / plain.sigma)


def test_simulations_have_the_covariance(fit: Any, slopes: Any, fev: pd.DataFrame) -> None:
    y = fit.simulate(4000, rng=1).to_numpy() - fit.fittedvalues.to_numpy()[:, None]
    V = rows_covariance(fit, fev)[:40, :40]
    error = np.abs(np.cov(y[:40]) - V)
    # standard error of a covariance over 4,000 draws
    se = np.sqrt((V**2 + np.outer(np.diagonal(V), np.diagonal(V))) / 4000)
    assert (error < 5 * se).all()
    d = slopes.design
    z = np.column_stack([np.ones(d.n), d.X[:, 1]])
    G = slopes.varcorr()["Subject"].to_numpy()
    sd = slopes.varcorr().stddev("Residual").to_numpy()
    total = np.einsum("ia,ab,ib->i", z, G, z) + sd[d.residual[0].places] ** 2
    e = slopes.simulate(4000, rng=2).to_numpy() - (d.X @ slopes.estimate.beta)[:, None]
    np.testing.assert_allclose(e.var(axis=1), total, rtol=5 * np.sqrt(2 / 4000))


def test_predictions_and_their_intervals(fit: Any, fev: pd.DataFrame, slopes: Any) -> None:
    new = fev.iloc[[0, 1, 2, 3]]
    found = fit.predict(new, interval="prediction", ddf=None)
    sd = fit.varcorr().stddev("Residual").to_numpy()
    half = (found["upper"] - found["lower"]) / 2
    X = fit.design.frame.new_X(new)
    variance = np.einsum("ij,jk,ik->i", X, fit.vcov().to_numpy(), X) + sd**2
    np.testing.assert_allclose(half, 1.959964 * np.sqrt(variance), rtol=1e-5)
    unseen = new.assign(AVISIT=["VIS1", "VIS2", "VIS3", "VIS9"])
    with pytest.raises(lmm.PredictionError):
        fit.predict(unseen, interval="prediction")
    same = slopes.predict(slopes.design.frame.data, interval="prediction")
    np.testing.assert_allclose(same["fit"], slopes.fittedvalues, rtol=1e-9)


def dense_modes(slopes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Modes and conditional covariances by V of all rows (Henderson)."""
    d, estimate = slopes.design, slopes.estimate
    term = d.terms[0]
    R = estimate.sigma**2 * np.sum(
        [p.variances(T) for p, T in zip(d.residual, estimate.residual, strict=True)], axis=0
    )
    G = estimate.sigma**2 * estimate.factors[0] @ estimate.factors[0].T
    modes, covs = [], []
    raw = d.y - d.X @ estimate.beta
    for j in range(term.J):
        own = term.codes == j
        Z = term.values[own]
        C = np.linalg.inv(Z.T @ (Z / R[own, None]) + np.linalg.inv(G))
        modes.append(C @ Z.T @ (raw[own] / R[own]))
        covs.append(C)
    return np.array(modes), np.array(covs)


def test_random_effects_are_those_of_henderson(slopes: Any) -> None:
    modes, covs = dense_modes(slopes)
    np.testing.assert_allclose(slopes.ranef()["Subject"].to_numpy(), modes, rtol=1e-6, atol=1e-8)
    found = slopes.ranef_cov()["Subject"]
    np.testing.assert_allclose(
        np.array(list(found.values())) if isinstance(found, dict) else found, covs, rtol=1e-5
    )


def test_profiles_are_constrained_minima(slopes: Any) -> None:
    """The deviance at a limit is that of the maximum plus the chi-square quantile; limits lie about Wald's."""
    profile = slopes.confint("profile", parm=["age", "sd_Male|Residual"])
    wald = slopes.confint("wald", parm=["age", "sd_Male|Residual"])
    np.testing.assert_allclose(profile, wald, rtol=0.05)
    ml = slopes.update(REML=False)
    track = slopes.profile(["age"])
    assert track.deviance == pytest.approx(-2 * ml.llf, abs=1e-6)
    beta = float(profile.loc["age", "lower"])
    d = slopes.design.frame.data
    held = lmm.lmer(
        "distance ~ Sex + age:Sex - age:Sex + I(age * (Sex == 'Female')) + (age | Subject)",
        d,
        residual="diag(Sex)",
        offset=beta * d["age"].to_numpy(),
        REML=False,
    )
    assert -2 * held.llf - track.deviance == pytest.approx(3.841459, abs=2e-3)


def test_refits(fit: Any) -> None:
    y = fit.design.y + np.random.default_rng(1).normal(size=fit.nobs)
    one = fit.refit(y)
    many = fit.refit_many(np.column_stack([y, y[::-1]]))
    np.testing.assert_allclose(many[one.fixef().index].iloc[0], one.fixef(), rtol=1e-6)
    data = fit.design.frame.data.dropna(subset="FEV1").assign(FEV1=y)
    direct = lmm.lmer(str(fit.formula), data, residual="us(AVISIT | USUBJID)")
    assert one.llf == pytest.approx(direct.llf, abs=1e-7)
    boots = fit.bootstrap(nsim=20, rng=1)
    assert not len(boots.failures)


def test_batches_are_single_fits(fev: pd.DataFrame, fit: Any) -> None:
    d = fev.dropna(subset="FEV1").reset_index(drop=True)
    Y = fit.simulate(3, rng=2).reset_index(drop=True)
    Y.iloc[4, 1] = np.nan
    batch = lmm.lmer_batch("~ RACE + ARMCD * AVISIT", d, Y, residual="us(AVISIT | USUBJID)")
    for name in Y:
        one = batch[name]
        own = lmm.lmer(
            f"{name} ~ RACE + ARMCD * AVISIT", d.assign(**Y), residual="us(AVISIT | USUBJID)"
        )
        assert one.nobs == own.nobs
        np.testing.assert_allclose(batch.fixef().loc[name], own.fixef(), rtol=1e-5)
        table = batch.tidy(ddf="satterthwaite")
        mine = table[(table["response"] == name) & (table["effect"] == "fixed")]
        direct = own.coef_table(ddf="satterthwaite")
        np.testing.assert_allclose(mine["std_error"], direct["std_error"], rtol=1e-5)
        np.testing.assert_allclose(mine["df"], direct["df"], rtol=1e-3)
    assert not len(batch.failures)


def test_leaving_out_a_subject_is_a_fit_of_the_others(slopes: Any, fit: Any) -> None:
    influence = fit.influence("group")
    lost = influence.estimates.index[3] if hasattr(influence, "estimates") else None
    data = fit.design.frame.data
    first = data.dropna(subset="FEV1")["USUBJID"].astype(str).unique()[0]
    less = lmm.lmer(
        str(fit.formula),
        data[data["USUBJID"].astype(str) != first],
        residual="us(AVISIT | USUBJID)",
    )
    table = influence.parameters if lost is None else influence.estimates
    np.testing.assert_allclose(
        table.loc[first, "ARMCD[T.TRT]"], less.fixef()["ARMCD[T.TRT]"], rtol=1e-5
    )


def test_files_and_pickles(fit: Any, slopes: Any, tmp_path: Path) -> None:
    for own in (fit, slopes):
        own.save(tmp_path / "fit.lmm")
        for again in (lmm.load(tmp_path / "fit.lmm"), pickle.loads(pickle.dumps(own))):
            assert again == own
            assert again.llf == own.llf
            pd.testing.assert_frame_equal(
                again.coef_table(ddf="kenward_roger"), own.coef_table(ddf="kenward_roger")
            )
            pd.testing.assert_frame_equal(again.simulate(2, rng=1), own.simulate(2, rng=1))


def test_tests_between_models(fit: Any, fev: pd.DataFrame) -> None:
    table = lmm.anova(fit.update("~ . - RACE"), fit)
    assert table["df"].iloc[-1] == 2
    plain = fit.anova(ddf="kenward_roger")
    assert set(plain.index) == {"RACE", "ARMCD", "AVISIT", "ARMCD:AVISIT"}
    means = fit.emmeans("ARMCD", by="AVISIT", ddf="kenward_roger")
    assert len(means) == 8


def test_what_it_has_not_is_refused(fit: Any, fev: pd.DataFrame) -> None:
    for call in (fit.leverage, fit.rstudent, fit.cooks_distance):
        with pytest.raises(lmm.ArgumentError, match="no leverage row by row"):
            call()
    with pytest.raises(lmm.ArgumentError, match="use 'parametric'"):
        fit.bootstrap(nsim=5, kind="cases")
    plain = lmm.lmer("FEV1 ~ ARMCD + (1|USUBJID)", fev)
    with pytest.raises(lmm.ArgumentError, match="residual= gives them a structure"):
        plain.residual_cov()
    with pytest.raises(lmm.ArgumentError, match="kenward_roger_full"):
        plain.coef_table(ddf="kenward_roger_full")


def test_strata_have_covariances_by_name(fev: pd.DataFrame) -> None:
    fit = lmm.lmer("FEV1 ~ ARMCD", fev, residual="ar1(AVISIT | ARMCD/USUBJID)")
    a, b = fit.residual_cov("PBO"), fit.residual_cov("TRT")
    assert not np.allclose(a, b)
    with pytest.raises(lmm.ArgumentError, match="'PBO', 'TRT'"):
        fit.residual_cov()
    r = a.iloc[0, 1] / a.iloc[0, 0]
    np.testing.assert_allclose(a.iloc[0], a.iloc[0, 0] * r ** np.arange(4), rtol=1e-8)


def test_power_of_designs_like_this(fev: pd.DataFrame) -> None:
    fit = lmm.lmer("FEV1 ~ ARMCD + AVISIT", fev, residual="ar1(AVISIT | USUBJID)")
    weak = {"ARMCD[T.TRT]": 0.0, "sd|Residual": 2.0}
    table = lmm.power(fit, "ARMCD[T.TRT]", parameters=weak, nsim=40, rng=1)
    assert table.loc[0, "n"] == 197 and table.loc[0, "power"] < 0.2
    strong = lmm.power(
        fit, "ARMCD[T.TRT]", parameters={**weak, "ARMCD[T.TRT]": 1.0}, nsim=20, rng=1
    )
    assert strong.loc[0, "power"] > 0.8
    with pytest.raises(lmm.ArgumentError, match="is not done for a model with residual="):
        lmm.power(fit, "ARMCD[T.TRT]", n=300, nsim=5)
    assert "VIS1...VIS4" in str(fit.varcorr())
