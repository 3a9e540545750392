"""Leverage, Cook's distance, variance explained and inflation: against lme4 and performance (tests/reference/make_criticism.R), and against
the definitions with dense matrices."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import polygamma

import lmm
from lmm.inference.criticism.collinearity import inflation_factors

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "criticism.json").read_text())
#: formula, data, weights, and where lme4's theta are among ours
LINEAR = {
    "sleep": ("Reaction ~ Days + (Days | Subject)", "sleepstudy", None),
    "sleep_weights": ("Reaction ~ Days + (1 | Subject)", "sleepstudy", "w"),
    "penicillin": ("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin", None),
    "pastes": ("strength ~ 1 + (1 | batch / cask)", "Pastes", None),
    "cake": ("angle ~ recipe * temp + (1 | recipe:replicate)", "cake", None),
}
HERD = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
TICKS = "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)"


@cache
def data(name: str) -> pd.DataFrame:
    frame = lmm.datasets.load(name)
    if name == "sleepstudy":
        days = frame["Days"]
        frame = frame.assign(
            w=1 + days / 3, square=days**2, block=pd.Categorical((days % 3).astype(str))
        )
    if name == "grouseticks":
        frame = frame.assign(cHEIGHT=(frame["HEIGHT"] - frame["HEIGHT"].mean()) / 100)
    return frame


@cache
def fit(case: str) -> lmm.Fit:
    """Ours at lme4's theta, so that only the formulas are compared."""
    formula, name, weights = LINEAR[case]
    known = REFERENCE[case]["theta"]
    start = np.array(known if isinstance(known, list) else [known])
    return lmm.lmer(
        formula, data(name), weights=weights, start=start, control=lmm.Control(evaluate_only=True)
    )


@cache
def herds(link: str = "logit") -> lmm.Fit:
    """With lme4's information in the determinant, from whose fits the reference comes."""
    return lmm.glmer(
        HERD,
        data("cbpp"),
        family=lmm.families.Binomial(link=link),
        control=lmm.Control(curvature="expected"),
    )


@cache
def ticks() -> lmm.Fit:
    return lmm.glmer(TICKS, data("grouseticks"), family="poisson")


# ---- leverage and Cook's distance ----


@pytest.mark.parametrize("case", LINEAR)
def test_leverage_and_cooks_distance_agree_with_lme4(case):
    np.testing.assert_allclose(fit(case).leverage(), REFERENCE[case]["hat"], rtol=1e-8)
    np.testing.assert_allclose(
        fit(case).cooks_distance(), REFERENCE[case]["cook"], rtol=1e-7, atol=1e-14
    )
    np.testing.assert_allclose(
        fit(case).rstudent(), REFERENCE[case]["student"], rtol=1e-7, atol=1e-9
    )


def working_weights(found: lmm.Fit) -> np.ndarray:
    design, estimate = found.design, found.estimate
    if estimate.family is None:
        return (np.ones(design.n) if design.weights is None else design.weights) / found.sigma**2
    return estimate.family.working_weights(design.y, estimate.eta, design.weights, estimate.phi)


def hat_matrix(found: lmm.Fit) -> np.ndarray:
    """[X Z] C^-1 [X Z]' W with Henderson's matrix written out."""
    design, estimate = found.design, found.estimate
    XZ = np.column_stack([design.X, design.Z.toarray()])
    W = working_weights(found)
    C = XZ.T @ (XZ * W[:, None])
    at = design.p
    for term, T in zip(design.terms, estimate.factors, strict=True):
        inside = np.linalg.inv(estimate.scale2 * T @ T.T)
        stop = at + term.k * term.J
        C[at:stop, at:stop] += np.kron(np.eye(term.J), inside)
        at = stop
    return XZ @ np.linalg.solve(C, (XZ * W[:, None]).T)


@pytest.mark.parametrize(
    "found",
    [fit("sleep"), fit("sleep_weights"), fit("penicillin"), fit("pastes"), herds(), ticks()],
    ids=str,
)
def test_leverage_is_the_diagonal_of_the_hat_matrix(found):
    np.testing.assert_allclose(
        found.leverage(), np.diagonal(hat_matrix(found)), rtol=1e-7, atol=1e-12
    )


def test_fitted_values_are_the_hat_matrix_times_the_response():
    found = fit("pastes")
    np.testing.assert_allclose(hat_matrix(found) @ found.design.y, found.fittedvalues, rtol=1e-9)


@pytest.mark.parametrize("case", ["sleep", "sleep_weights", "penicillin"])
def test_cooks_distance_of_the_fixed_effects_is_that_of_leaving_the_row_out(case):
    found = fit(case)
    design, estimate = found.design, found.estimate
    w = np.ones(design.n) if design.weights is None else design.weights
    V = np.diag(1 / w)
    for term, T in zip(design.terms, estimate.factors, strict=True):
        Z = np.zeros((design.n, term.k * term.J))
        for i, (code, values) in enumerate(zip(term.codes, term.values, strict=True)):
            Z[i, code * term.k : (code + 1) * term.k] = values
        V += Z @ np.kron(np.eye(term.J), T @ T.T) @ Z.T

    def beta(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        X, y = design.X[rows], design.y[rows]
        A = X.T @ np.linalg.solve(V[np.ix_(rows, rows)], X)
        return np.linalg.solve(A, X.T @ np.linalg.solve(V[np.ix_(rows, rows)], y)), A

    everything = np.arange(design.n)
    whole, A = beta(everything)
    distance = found.cooks_distance(of="fixed")
    for row in (0, 17, 59, design.n - 1):
        moved = whole - beta(np.delete(everything, row))[0]
        assert distance.iloc[row] == pytest.approx(
            moved @ A @ moved / (found.sigma**2 * design.p), rel=1e-6
        )


def test_studentised_residuals_of_counts_lie_between_deviance_and_more():
    found = ticks()
    assert (found.rstudent().abs() >= found.residuals("deviance").abs() - 1e-12).all()
    assert (np.sign(found.rstudent()) == np.sign(found.residuals("deviance"))).all()


def test_leverage_is_on_the_users_index_with_gaps():
    gaps = data("sleepstudy").assign(Reaction=lambda d: d["Reaction"].astype(float))
    gaps.loc[gaps.index[[3, 40]], "Reaction"] = np.nan
    found = lmm.lmer("Reaction ~ Days + (1 | Subject)", gaps, na_action="exclude")
    assert found.leverage().index.equals(gaps.index) and found.leverage().isna().sum() == 2
    assert found.cooks_distance().isna().sum() == 2


def test_leverage_where_it_has_no_meaning():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "y": pd.Categorical(rng.integers(3, size=60), ordered=True),
            "x": rng.standard_normal(60),
            "g": np.arange(60) % 6,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        ordinal = lmm.glmer("y ~ x + (1 | g)", frame, family="ordinal")
        nothing = lmm.lmer("x ~ 0 + (1 | g)", frame)
    with pytest.raises(lmm.ArgumentError, match="ordinal"):
        ordinal.leverage()
    with pytest.raises(lmm.ArgumentError, match="no fixed effects"):
        nothing.cooks_distance()
    with pytest.raises(lmm.ArgumentError, match="'fitted', 'fixed'"):
        fit("sleep").cooks_distance(of="random")


# ---- variance explained ----


@pytest.mark.parametrize(
    "case", ["sleep", "penicillin", "cake", "cbpp_logit", "cbpp_probit", "cbpp_cloglog"]
)
def test_shares_of_variance_agree_with_performance(case):
    found = (
        herds(case.removeprefix("cbpp_"))
        if case.startswith("cbpp")
        else lmm.lmer(*LINEAR[case][:2][:1], data(LINEAR[case][1]))
    )
    known = REFERENCE["shares"][case]
    tolerance = {"rel": 1e-4, "abs": 1e-9}  # optimisers of both sides
    assert found.r2().to_dict() == pytest.approx(
        {k: known[k] for k in ("marginal", "conditional")}, **tolerance
    )
    assert found.icc().to_dict() == pytest.approx(
        {k: known[k] for k in ("adjusted", "unadjusted")}, **tolerance
    )


def test_intraclass_correlation_by_group():
    found = lmm.lmer(LINEAR["penicillin"][0], data("Penicillin"))
    table = found.icc(by_group=True)
    assert table["icc"].to_dict() == pytest.approx(REFERENCE["by_group"], rel=1e-4)
    assert table["icc"].sum() == pytest.approx(found.icc()["adjusted"])


@pytest.mark.parametrize("approximation", ["lognormal", "delta", "trigamma"])
def test_counts_take_the_variance_of_the_null_model(approximation):
    known = REFERENCE["poisson"][approximation]
    assert ticks().r2(approximation).to_dict() == pytest.approx(known, rel=1e-4)


def test_a_gamma_response_has_the_variance_of_its_logarithm():
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(60), 8)
    mean = np.exp(1.0 + 0.6 * rng.standard_normal(60)[g])
    frame = pd.DataFrame({"y": rng.gamma(3.0, mean / 3.0), "g": g})
    found = lmm.glmer("y ~ 1 + (1 | g)", frame, family=lmm.families.Gamma(link="log"))
    random = float(found.varcorr().to_frame()["vcov"].iloc[0])
    # psi_1(shape) is the variance of a log gamma variable, exactly
    share = random / (random + polygamma(1, 1.0 / found.dispersion))
    assert found.icc(approximation="trigamma")["adjusted"] == pytest.approx(share, rel=1e-8)
    assert share == pytest.approx(0.36 / (0.36 + polygamma(1, 3.0)), abs=0.1)


def test_random_slopes_count_by_their_mean_variance_over_the_rows():
    found = fit("sleep")
    G = found.varcorr()["Subject"].to_numpy()
    Z = found.design.X
    random = np.mean(np.einsum("ia,ab,ib->i", Z, G, Z))
    assert found.icc()["adjusted"] == pytest.approx(random / (random + found.sigma**2))


def test_a_level_per_row_is_residual_variation():
    frame = data("cbpp").assign(row=lambda d: np.arange(len(d)))
    found = lmm.glmer(HERD + " + (1 | row)", frame, family="binomial")
    parts = found.varcorr().to_frame().set_index("grp")["vcov"]
    residual = parts["row"] + np.pi**2 / 3
    assert found.icc()["adjusted"] == pytest.approx(parts["herd"] / (parts["herd"] + residual))
    assert list(found.icc(by_group=True).index) == ["herd"]


def test_variance_explained_refuses_unknown_approximations():
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'delta'"):
        herds().r2("dleta")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.poisson(4, 80) + 1.0, "g": np.arange(80) % 8})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        root = lmm.glmer("y ~ 1 + (1 | g)", frame, family=lmm.families.Poisson(link="sqrt"))
    assert root.r2()["conditional"] == pytest.approx(root.icc()["adjusted"])
    variance = root.icc(by_group=True)["variance"].iloc[0]
    assert root.icc()["adjusted"] == pytest.approx(
        variance / (variance + 0.25)
    )  # 1/4 on the scale of the square root
    with pytest.raises(lmm.ArgumentError, match="for a log link"):
        root.r2("trigamma")


# ---- collinearity ----


def test_inflation_agrees_with_performance():
    found = lmm.lmer("Reaction ~ Days + square + block + (1 | Subject)", data("sleepstudy"))
    table = found.vif()
    assert table["vif"].to_dict() == pytest.approx(REFERENCE["vif"], rel=1e-5)
    assert table["columns"].to_list() == [1, 1, 2]
    np.testing.assert_allclose(table["adjusted"], table["vif"] ** (1 / (2 * table["columns"])))


def test_inflation_of_single_columns_is_that_of_their_regression_on_the_others():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((200, 3)) @ np.array(
        [[1.0, 0.9, 0.0], [0.0, 0.4, 0.3], [0.0, 0.0, 1.0]]
    )
    cov = np.linalg.inv(np.cov(X.T))
    known = [1 / (1 - np.corrcoef(X[:, j], X[:, o] @ np.linalg.lstsq(X[:, o] - X[:, o].mean(0), X[:, j], rcond=None)[0])[0, 1] ** 2)
             for j, o in ((0, [1, 2]), (1, [0, 2]), (2, [0, 1]))]  # fmt: skip
    np.testing.assert_allclose(inflation_factors(cov, [[0], [1], [2]]), known, rtol=1e-8)


def test_inflation_leaves_dropped_columns_out():
    frame = data("sleepstudy").assign(again=lambda d: 2 * d["Days"])
    with pytest.warns(lmm.RankWarning):
        found = lmm.lmer("Reaction ~ Days + again + square + (1 | Subject)", frame)
    assert list(found.vif().index) == ["Days", "square"]
    assert len(fit("penicillin").vif()) == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_row_that_alone_determines_a_coefficient_has_no_distance(seed: int) -> None:
    """Its leverage is one, and what is left of its residual is rounding."""
    rng = np.random.default_rng(seed)
    n = 40
    d = pd.DataFrame(
        {"f": rng.choice(list("bcd"), n), "x": rng.normal(0, 1, n), "g": rng.integers(0, 6, n)}
    )
    d["x"] *= 10.0 ** rng.integers(-6, 6)
    d.loc[7, "f"] = "a"
    d["y"] = d.x / d.x.std() + rng.normal(0, 1, 6)[d.g] + rng.normal(0, 1, n)
    d["k"] = rng.poisson(2.0, n) + 1
    w = rng.choice([0.5, 1, 2], n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        fits = [
            lmm.lmer("y ~ f + x + (1|g)", d, weights=w),
            lmm.glmer("k ~ f + x + (1|g)", d, family="poisson"),
        ]
        for fit in fits:
            assert fit.leverage()[7] == 1.0
            for values in (fit.cooks_distance(), fit.cooks_distance(of="fixed"), fit.rstudent()):
                assert np.isnan(values[7]) and np.isfinite(values.drop(7)).all()
        assert (
            fits[0].check(nsim=50, rng=1).table.loc["influence", "what"]
            != "largest Cook's distance, of row 7,"
        )
