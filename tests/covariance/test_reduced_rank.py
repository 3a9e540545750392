"""A few factors behind many columns."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.covariance.reduced_rank import ReducedRank
from lmm.errors import ArgumentError, FormulaError
from lmm.model.gaussian.dense_effects import information_trace


@pytest.mark.parametrize(("k", "d"), [(2, 1), (4, 1), (4, 2), (5, 3), (3, 3)])
def test_loadings_are_found_again_up_to_rotation_and_sign(k, d):
    structure = ReducedRank(k, d)
    assert structure.n_theta == k * d - d * (d - 1) // 2
    theta = np.random.default_rng(k).normal(size=structure.n_theta)
    T = structure.factor(theta)
    assert np.linalg.matrix_rank(T) == d
    assert not T[:, d:].any()
    rotation = np.linalg.qr(np.random.default_rng(d).normal(size=(k, k)))[0]
    canonical = structure.canonical(theta)
    np.testing.assert_allclose(structure.from_factor(T @ rotation), canonical, atol=1e-12)
    np.testing.assert_allclose(structure.covariance(canonical), T @ T.T, atol=1e-12)
    assert (np.diagonal(structure.factor(canonical))[:d] > 0.0).all()
    np.testing.assert_allclose(structure.describe(T @ T.T), canonical, atol=1e-7)
    numeric = [
        (structure.factor(theta + e) - structure.factor(theta - e)) / 2.0
        for e in np.eye(len(theta))
    ]
    np.testing.assert_allclose(structure.jacobian(theta), numeric, atol=1e-12)


def data() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    L = np.array([[1.0, 0.0], [0.8, 0.6], [-0.5, 0.9], [0.3, -0.7]])
    g, f = np.repeat(np.arange(120), 12), np.tile(np.repeat(np.arange(4), 3), 120)
    b = rng.normal(size=(120, 2)) @ L.T
    y = 1.0 + b[g, f] + 0.5 * rng.normal(size=len(g))
    count = rng.poisson(np.exp(0.3 + 0.7 * b[g, f]))
    return pd.DataFrame({"y": y, "g": g, "f": np.array(list("abcd"))[f], "count": count})


def test_all_factors_are_an_unstructured_covariance_and_fewer_a_part_of_it():
    frame = data()
    us = lmm.lmer("y ~ f + (0 + f | g)", frame, REML=False)
    every = lmm.lmer("y ~ f + rr(0 + f | g, d=4)", frame, REML=False)
    assert every.llf == pytest.approx(us.llf, abs=1e-5)
    two = lmm.lmer("y ~ f + rr(0 + f | g, d=2)", frame, REML=False)
    one = lmm.lmer("y ~ f + rr(0 + f | g, d=1)", frame, REML=False)
    assert one.llf < two.llf - 100.0
    assert us.llf - two.llf < 5.0  # two factors are what there is
    assert two.df_model == us.df_model - 3


def test_everything_that_a_fit_offers(tmp_path):
    frame = data()
    fit = lmm.lmer("y ~ f + rr(0 + f | g, d=2)", frame, REML=False)
    names = [f"loading1_f[{level}]|g" for level in "abcd"]
    names += [f"loading2_f[{level}]|g" for level in "bcd"]
    wald, profile = fit.confint(method="wald"), fit.confint(method="profile")
    assert wald.index[:7].tolist() == names
    width = (wald["upper"] - wald["lower"]).to_numpy()[:, None]
    assert np.abs((profile - wald) / width).max().max() < 0.15
    assert fit.tidy(effects="ran_pars")["std_error"].notna().all()
    for kind in ("satterthwaite", "kenward-roger"):
        assert np.isfinite(fit.coef_table(ddf=kind).to_numpy()).all()
    assert np.isfinite(fit.bootstrap(3, rng=1).to_frame().to_numpy(dtype=float)).all()
    np.testing.assert_allclose(fit.predict(frame), fit.fittedvalues, rtol=1e-9)
    fit.simulate(1, rng=1, parameters={names[0]: 2.0})
    assert pickle.loads(pickle.dumps(fit)).theta.equals(fit.theta)
    fit.save(tmp_path / "fit.lmm")
    assert lmm.load(tmp_path / "fit.lmm").llf == fit.llf
    general = lmm.glmer("count ~ f + rr(0 + f | g, d=2)", frame, family="poisson")
    assert general.estimate.convergence.converged
    assert general.tidy()["std_error"].notna().all()


def test_what_is_wrong_with_a_rank_is_said():
    frame = data()
    with pytest.raises(FormulaError, match="9 factors of 4 columns"):
        lmm.lmer("y ~ f + rr(0 + f | g, d=9)", frame)
    for term in ("rr(0 + f | g, 2)", "rr(0 + f | g, d=x)", "ar1(0 + f | g, d=2)", "(f | g, d=2)"):
        with pytest.raises(FormulaError, match="rr alone takes an argument"):
            lmm.lmer(f"y ~ f + {term}", frame)
    with pytest.raises(FormulaError, match="is a covariance of several"):
        lmm.lmer("y ~ f + rr(1 | g, d=1)", frame)
    pytest.importorskip("optax")
    with pytest.raises(ArgumentError, match="Bayesian methods do not take 'rr'"):
        lmm.lmer("y ~ f + rr(0 + f | g)", frame, method="vi")


def test_the_rank_is_written_back():
    text = "y ~ f + rr(0 + f | g, d=3)"
    assert str(lmm.formula.parse(text)) == text
    assert str(lmm.formula.parse("y ~ f + rr(0 + f | g)")) == "y ~ f + rr(0 + f | g, d=2)"


def test_tables_have_standard_deviations_and_correlations_and_loadings_beside_them():
    fit = lmm.lmer("y ~ f + (1 | g) + rr(0 + f | g, d=2)", data(), REML=False)
    components = fit.varcorr()
    frame = components.to_frame()
    L = components.loadings("g")
    assert list(L.columns) == ["loading1", "loading2"] and L.iloc[0, 1] == 0.0
    G = components["g"].iloc[1:, 1:]
    np.testing.assert_allclose(L @ L.T, G, atol=1e-10)
    plain = frame[frame["grp"].eq("g") & ~frame["var2"].fillna("").str.startswith("loading")]
    sd = plain[plain["var2"].isna()].set_index("var1")["sdcor"]
    np.testing.assert_allclose(sd[list(G.index)], np.sqrt(np.diagonal(G)))
    pairs = plain[plain["var2"].notna()]
    assert len(pairs) == 6
    for row in pairs.itertuples():
        assert row.vcov == pytest.approx(G.loc[row.var1, row.var2], abs=1e-10)
        assert row.sdcor == pytest.approx(row.vcov / (sd[row.var1] * sd[row.var2]), abs=1e-8)
    # their standard errors are those of functions of the loadings
    method, theta = fit._method, fit.theta.to_numpy()
    cov = fit._uncertainty.full_covariance(fit.vcov().to_numpy())
    some = [*range(len(theta)), len(cov) - 1]
    cov = cov.to_numpy()[np.ix_(some, some)]
    structure, sigma = fit.design.terms[0].structure, float(fit.sigma)

    def tabled(x: np.ndarray) -> np.ndarray:
        T = structure.factor(x[:-1]) * np.exp(x[-1])
        V = T @ T.T
        at = [list(fit.design.terms[0].columns).index(name) for name in ("f[a]", "f[c]")]
        return np.array([np.sqrt(V[at[0], at[0]]), V[at[0], at[1]] / np.sqrt(V[at[0], at[0]] * V[at[1], at[1]])])  # fmt: skip

    x = np.append(theta, np.log(sigma))
    slopes = np.array([(tabled(x + e) - tabled(x - e)) / 2e-6 for e in np.eye(len(x)) * 1e-6]).T
    wanted = np.sqrt(np.einsum("ij,jk,ik->i", slopes, cov, slopes))
    tidy = fit.tidy(effects="ran_pars", conf_int=True).set_index("term")
    found = tidy.loc[["sd__f[a]", "cor__f[a].f[c]"]]
    np.testing.assert_allclose(found["std_error"], wanted, rtol=1e-5)
    assert (found["conf_low"] < found["estimate"]).all() and method.reml is False
    with pytest.raises(ArgumentError, match=r"loadings: 'g' has no loadings"):
        lmm.lmer("y ~ f + (1 | g)", data()).varcorr().loadings("g")


def test_what_a_term_of_two_parts_reports_is_what_the_parts_report():
    rng = np.random.default_rng(2)
    week, g = np.tile(np.repeat(np.arange(6.0), 2), 40), np.repeat(np.arange(40), 12)
    distance = np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    b = rng.normal(size=(40, 6)) @ np.linalg.cholesky(np.exp(-distance / 2.0)).T
    y = rng.normal(size=40)[g] + b[g, week.astype(int)] + 0.3 * rng.normal(size=len(g))
    fit = lmm.lmer("y ~ 1 + (1 | g) + ou(week | g)", pd.DataFrame({"y": y, "g": g, "week": week}))
    frame = fit.varcorr().to_frame().set_index("var2")
    G = fit.varcorr()["g"].to_numpy()[1:, 1:]
    assert frame.loc["range", "sdcor"] == pytest.approx(-1.0 / np.log(G[0, 1] / G[0, 0]), rel=1e-8)
    interval = fit.confint(method="wald").filter(like="range", axis=0)
    assert interval["lower"].iloc[0] < frame.loc["range", "sdcor"] < interval["upper"].iloc[0]


def test_a_generalized_fit_whose_columns_have_more_than_its_factors_converges():
    rng, k, n = np.random.default_rng(1), 8, 40
    site, time = np.repeat(np.arange(n), k), np.tile(np.arange(k), n)
    steps = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    effects = 1.2 * rng.normal(size=(n, k)) @ np.linalg.cholesky(0.8**steps).T
    block = site % 4
    eta = 0.3 + effects[site, time]
    frame = pd.DataFrame({"site": site, "time": pd.Categorical(time), "block": block, "count": rng.poisson(np.exp(eta))})  # fmt: skip
    fit = lmm.glmer("count ~ 1 + rr(0 + time | site, d=2)", frame, family="poisson")
    assert fit.convergence.converged and fit.convergence.evaluations < 40
    shift = np.array([-1.0, 0.0, 0.5, 1.0])[block]
    frame["count"] = rng.poisson(np.exp(eta + shift))
    crossed = "count ~ 1 + rr(0 + time | site, d=2) + (1 | block)"
    assert lmm.glmer(crossed, frame, family="poisson").convergence.evaluations < 60


def test_the_trace_of_the_information_is_that_of_dense_matrices():
    rng = np.random.default_rng(1)
    sizes, T = ((2, 3), (1, 4)), [np.array([[1.0, 0.0], [0.4, 0.7]]), np.array([[0.8]])]
    A = (half := rng.normal(size=(20, 10))).T @ half
    dG = [np.array([[[1.0, 0.2], [0.2, 0.0]], [[0.0, 1.0], [1.0, 0.5]]]), np.array([[[1.0]]])]
    G = np.zeros((10, 10))
    E = np.zeros((3, 10, 10))
    for i, (own, rows) in enumerate([(dG[0][0], slice(6)), (dG[0][1], slice(6)), (dG[1][0], slice(6, 10))]):  # fmt: skip
        E[i, rows, rows] = np.kron(own, np.eye(3 if i < 2 else 4))
    G[:6, :6], G[6:, 6:] = np.kron(T[0] @ T[0].T, np.eye(3)), np.kron(T[1] @ T[1].T, np.eye(4))
    Q = A - A @ np.linalg.inv(A + np.linalg.inv(G)) @ A
    wanted = [[np.trace(a @ Q @ b @ Q) for b in E] for a in E]
    np.testing.assert_allclose(information_trace(A, sizes, T, dG), wanted, rtol=1e-9)
