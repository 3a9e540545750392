"""A few factors behind many columns."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.covariance.reduced_rank import ReducedRank
from lmm.errors import ArgumentError, FormulaError


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
