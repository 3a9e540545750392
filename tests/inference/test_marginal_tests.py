"""Kenward-Roger, Satterthwaite and counted degrees of freedom of models with structured residuals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.covariance import STRUCTURES

# SAS PROC MIXED, FEV1 ~ ARMCD (mmrm's design/ddfm_covtype): standard error with ddfm=kr and kr(firstorder), degrees of freedom.
# SAS stops before the optimum where the covariance has several parameters: 2e-4 of a standard error, 6e-4 of the df.
SAS = {
    "ar1": (0.95865440, 0.96058142, 188.469349),
    "ar1h": (0.75903161, 0.75924808, 188.225339),
    "cs": (0.7964696, 0.7964696, 177.038486),
    "csh": (0.67414806, 0.67403858, 190.737701),
    "adh": (0.66172017, 0.66158551, 162.393385),
    "toep": (0.87839806, 0.87839806, 160.027408),
    "toeph": (0.72543829, 0.72537325, 180.062730),
    "us": (0.66124382, 0.66124382, 160.733266),
}


@pytest.fixture(scope="module")
def fev() -> pd.DataFrame:
    return lmm.datasets.load("fev")


@pytest.mark.parametrize("word", SAS)
def test_kenward_roger_is_that_of_sas(fev: pd.DataFrame, word: str) -> None:
    full, linear, df = SAS[word]
    fit = lmm.mmrm(f"FEV1 ~ ARMCD + {word}(AVISIT | USUBJID)", fev)
    row = fit.coef_table().iloc[1]
    assert row["std_error"] == pytest.approx(linear, rel=2e-4)
    assert row["df"] == pytest.approx(df, rel=6e-4)
    row = fit.coef_table(ddf="kenward_roger_full").iloc[1]
    assert row["std_error"] == pytest.approx(full, rel=2e-4)


def test_kenward_roger_over_coordinates_is_that_of_sas(fev: pd.DataFrame) -> None:
    """sp(exp)(VISITN VISITN2): 4.21488980, .90552904, 195.584198. With VISITN alone, equally spaced, it is ar1."""
    fit = lmm.lmer("FEV1 ~ ARMCD", fev, residual="exp(VISITN + VISITN2 | USUBJID)")
    row = fit.coef_table(ddf="kenward_roger").iloc[1]
    assert row["estimate"] == pytest.approx(4.21488980, rel=1e-5)
    assert row["std_error"] == pytest.approx(0.90552904, rel=2e-5)
    assert row["df"] == pytest.approx(195.584198, rel=2e-5)
    # sp(gau)(VISITN VISITN2): range 1.3379, standard errors .9016 and .9028 (first order), 250.2326 degrees of freedom
    fit = lmm.lmer("FEV1 ~ ARMCD", fev, residual="gau(VISITN + VISITN2 | USUBJID)")
    assert np.exp(fit.theta["Residual.range"]) == pytest.approx(1.3379, abs=5e-5)
    row = fit.coef_table(ddf="kenward_roger").iloc[1]
    assert row["std_error"] == pytest.approx(0.9028, abs=5e-5)
    assert row["df"] == pytest.approx(250.2326, rel=1e-6)
    row = fit.coef_table(ddf="kenward_roger_full").iloc[1]
    assert row["std_error"] == pytest.approx(0.9016, abs=5e-5)
    one = lmm.lmer("FEV1 ~ ARMCD", fev, residual="ou(VISITN | USUBJID)")
    other = lmm.lmer("FEV1 ~ ARMCD", fev, residual="ar1(AVISIT | USUBJID)")
    assert one.llf == pytest.approx(other.llf, abs=1e-8)


def test_counted_degrees_of_freedom(fev: pd.DataFrame) -> None:
    """192 and 334 between and within: the vignette of mmrm."""
    fit = lmm.mmrm(
        "FEV1 ~ RACE + SEX + ARMCD * AVISIT + us(AVISIT | USUBJID)", fev, ddf="between_within"
    )
    df = fit.coef_table()["df"]
    assert set(df.filter(like="RACE")) == set(df.filter(regex="^SEX")) == {192.0}
    assert df["ARMCD[T.TRT]"] == 192.0
    assert set(df.filter(like="AVISIT")) == {334.0} == {df["Intercept"]}
    assert set(fit.coef_table(ddf="residual")["df"]) == {537.0 - 11.0}
    assert "df" not in fit.coef_table(ddf="asymptotic")
    grouped = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    assert grouped.coef_table(ddf="between_within")["df"].tolist() == [161.0, 161.0]


def visits(n: int = 14, m: int = 4, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": np.repeat(np.arange(n), m),
            "site": np.repeat(np.arange(n) % 5, m),
            "visit": pd.Categorical(np.tile([f"v{j}" for j in range(m)], n)),
            "x": np.repeat(rng.normal(size=n), m),
        }
    )
    r = 0.6 ** np.abs(np.subtract.outer(np.arange(m), np.arange(m)))
    e = rng.multivariate_normal(np.zeros(m), r, size=n).ravel()
    frame["y"] = 1.0 + frame["x"] + 0.7 * rng.normal(size=5)[frame["site"]] + e
    return frame[rng.uniform(size=len(frame)) > 0.15].reset_index(drop=True)


def dense_pieces(fit: Any, d: pd.DataFrame) -> dict[str, Any]:
    """V of all rows, its derivatives by theta and W as dense matrices: nothing of the package but its structures."""
    design, estimate = fit.design, fit.estimate
    structures = [term.structure for term in design.varying]
    cuts = np.cumsum([s.n_theta for s in structures])[:-1]
    theta = np.split(np.asarray(estimate.theta), cuts)
    place = d["visit"].cat.codes.to_numpy()
    same_id = np.equal.outer(d["id"].to_numpy(), d["id"].to_numpy())
    same_site = np.equal.outer(d["site"].to_numpy(), d["site"].to_numpy())
    s2 = estimate.sigma**2

    def rows(G: np.ndarray, t: int) -> np.ndarray:
        """Z G Z' of all rows for the residuals, the last structure, or the sites."""
        if t == len(structures) - 1:
            return s2 * same_id * G[np.ix_(place, place)]
        return s2 * same_site * float(G[0, 0])

    own = list(enumerate(zip(structures, theta, strict=True)))
    V = sum(rows(s.covariance(x), t) for t, (s, x) in own)
    dV = [rows(G, t) for t, (s, x) in own for G in s.covariance_slopes(x)]
    bends = [[[rows(G, t) for G in line] for line in s.covariance_bends(x)] for t, (s, x) in own]
    X, y = design.X, design.y
    n, p = X.shape
    Vi = np.linalg.inv(V)
    M = X.T @ Vi @ X
    P = Vi - Vi @ X @ np.linalg.solve(M, X.T @ Vi)
    e = P @ y
    deviance = (
        np.linalg.slogdet(V)[1] + np.linalg.slogdet(M)[1] + y @ e + (n - p) * np.log(2 * np.pi)
    )
    H = np.empty((len(dV), len(dV)))
    products = [P @ A for A in dV]
    for i, A in enumerate(products):
        for j, B in enumerate(products):
            H[i, j] = 2 * e @ dV[i] @ B @ e - np.sum(A * B.T)
    at = 0
    for block in bends:
        for i, line in enumerate(block):
            for j, A in enumerate(line):
                H[at + i, at + j] += np.sum(P * A) - e @ A @ e
        at += len(block)
    return {"V": V, "dV": dV, "W": 2 * np.linalg.inv(H), "X": X, "deviance": deviance}


WORDS = [word for word in STRUCTURES if not STRUCTURES[word].over_coordinates and word != "rr"]


@pytest.mark.parametrize("random", ["", " + (1 | site)"])
@pytest.mark.parametrize("word", WORDS)
def test_both_methods_are_those_of_dense_matrices(word: str, random: str) -> None:
    """Kenward & Roger (1997), equations 3 and 5 without R, and Satterthwaite, from dense V of all rows."""
    d = visits()
    if random and word in ("us", "toep", "cs", "hetad"):
        d = visits(40)
    fit = lmm.lmer(f"y ~ x + visit{random}", d, residual=f"{word}(visit | id)")
    assert fit.convergence.converged
    dense = dense_pieces(fit, d)
    assert -2 * fit.llf == pytest.approx(dense["deviance"], abs=1e-8)
    X, Vi = dense["X"], np.linalg.inv(dense["V"])
    Phi = np.linalg.inv(X.T @ Vi @ X)
    P = [-X.T @ Vi @ dV @ Vi @ X for dV in dense["dV"]]
    W, dV = dense["W"], dense["dV"]
    m = len(P)
    inner = sum(
        W[i, j] * (X.T @ Vi @ dV[i] @ Vi @ dV[j] @ Vi @ X - P[i] @ Phi @ P[j])
        for i in range(m)
        for j in range(m)
    )
    adjusted = Phi + 2 * Phi @ inner @ Phi
    found = fit.coef_table(ddf="kenward_roger")
    np.testing.assert_allclose(found["std_error"], np.sqrt(np.diag(adjusted)), rtol=1e-8)
    np.testing.assert_allclose(
        fit.coef_table(ddf="satterthwaite")["std_error"], np.sqrt(np.diag(Phi)), rtol=1e-8
    )
    g = np.array([-np.diag(Phi @ own @ Phi) for own in P])
    df = 2 * np.diag(Phi) ** 2 / np.einsum("ip,ij,jp->p", g, W, g)
    np.testing.assert_allclose(fit.coef_table(ddf="satterthwaite")["df"], df, rtol=1e-8)
    np.testing.assert_allclose(found["df"], df, rtol=1e-8)  # the same for one contrast


def test_expected_information_is_a_setting() -> None:
    d = visits(30)
    control = lmm.Control(information="expected")
    fit = lmm.lmer("y ~ x + visit", d, residual="us(visit | id)", control=control)
    other = lmm.lmer("y ~ x + visit", d, residual="us(visit | id)")
    a, b = (f.coef_table(ddf="kenward_roger")["df"] for f in (fit, other))
    assert not np.allclose(a, b, rtol=1e-3)
    np.testing.assert_allclose(a, b, rtol=0.3)


def test_maximum_likelihood_is_fitted_again_by_reml() -> None:
    d = visits(30)
    ml = lmm.lmer("y ~ x + visit", d, residual="ar1(visit | id)", REML=False)
    reml = lmm.lmer("y ~ x + visit", d, residual="ar1(visit | id)")
    with pytest.warns(lmm.DegreesOfFreedomWarning, match="fitted again by REML"):
        table = ml.coef_table(ddf="kenward_roger")
    np.testing.assert_allclose(
        table["std_error"], reml.coef_table(ddf="kenward_roger")["std_error"], rtol=1e-6
    )
