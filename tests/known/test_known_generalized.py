"""Generalized models with known covariances of levels: Laplace's approximation and its modes by dense matrices."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.linalg as sla
from scipy.special import expit, gammaln

import lmm
from tests.known.matrices import LEVELS, UNSEEN, Dense, data, kinship

K = kinship()
GIVEN = {"dense": K, "precision": lmm.Precision(np.linalg.inv(K.to_numpy()), LEVELS)}
MODELS = {
    "counts": ("count ~ x + (1|id)", "poisson"),
    "crossed": ("count ~ x + (1|id) + (1|g)", "poisson"),
    "slopes": ("count ~ x + (x|id)", "poisson"),
    "binary": ("yes ~ x + (1|id) + (1|g)", "binomial"),
}
every = pytest.mark.parametrize(
    ("model", "given"), [(m, g) for m in MODELS for g in ("dense", "precision")]
)


@cache
def fitted(model: str, given: str) -> lmm.Fit:
    formula, family = MODELS[model]
    return lmm.glmer(formula, data(), family=family, covariance={"id": GIVEN[given]})


def log_likelihood(fit: lmm.Fit, theta: np.ndarray, beta: np.ndarray) -> float:
    """Laplace's approximation by Newton's method on dense matrices."""
    known = Dense(fit, {"id": K.to_numpy()})
    factors = fit.problem.factors(theta)
    G = sla.block_diag(*(known.G(t, T) for t, T in enumerate(factors)))
    X, Z, y = fit.design.X, fit.design.Z.toarray(), fit.design.y
    b = np.zeros(len(G))
    for _ in range(60):
        eta = X @ beta + Z @ b
        mu = np.exp(eta) if fit.family.name == "poisson" else expit(eta)
        w = mu if fit.family.name == "poisson" else mu * (1 - mu)
        ZGZ = Z @ G @ Z.T
        work = w * (Z @ b) + y - mu  # b = G Z' (I + W Z G Z')^-1 (W Z b + y - mu)
        b = G @ Z.T @ np.linalg.solve(np.eye(len(y)) + w[:, None] * ZGZ, work)
    eta = X @ beta + Z @ b
    if fit.family.name == "poisson":
        mu = np.exp(eta)
        density, w = np.sum(y * eta - mu - gammaln(y + 1)), mu
    else:
        mu = expit(eta)
        density, w = np.sum(y * eta - np.log1p(np.exp(eta))), mu * (1 - mu)
    determinant = np.linalg.slogdet(np.eye(len(y)) + w[:, None] * ZGZ)[1]
    return float(density - 0.5 * b @ np.linalg.solve(G, b) - 0.5 * determinant)


@every
def test_the_likelihood_and_its_maximum_are_those_of_dense_matrices(model: str, given: str) -> None:
    fit = fitted(model, given)
    assert fit.convergence.converged
    theta, beta = fit.theta.to_numpy(), fit.fixef().to_numpy()
    assert fit.llf == pytest.approx(log_likelihood(fit, theta, beta), abs=1e-7)
    m = len(theta)
    for step in np.vstack([np.eye(m + 2), -np.eye(m + 2)]) * 0.01:
        other = log_likelihood(fit, theta + step[:m], beta + step[m:])
        assert other < fit.llf + 1e-7


def test_both_ways_give_one_fit() -> None:
    for model in ("counts", "binary"):
        one, other = fitted(model, "dense"), fitted(model, "precision")
        assert one.llf == pytest.approx(other.llf, abs=1e-9)
        np.testing.assert_allclose(one.tidy()["std_error"], other.tidy()["std_error"], rtol=1e-4)


def test_a_tree_relates_binary_responses() -> None:
    rng = np.random.default_rng(2)
    newick = "(((a:1,b:1):1,(c:1,d:1):1):1,((e:1,f:1):1,(g:1,h:1):1):1);"
    frame = pd.DataFrame({"s": np.repeat(list("abcdefgh"), 12), "x": rng.normal(size=96)})
    frame["yes"] = rng.integers(0, 2, 96)
    frame.loc[frame["s"].isin(list("abc")), "yes"] = (rng.uniform(size=36) < 0.9).astype(int)
    fit = lmm.glmer("yes ~ x + (1|s)", frame, family="binomial", covariance={"s": lmm.Tree(newick)})
    found = fit.design.terms[0].relation
    dense = pd.DataFrame(found.times(np.eye(found.m)), found.levels, found.levels)
    again = lmm.glmer("yes ~ x + (1|s)", frame, family="binomial", covariance={"s": dense})
    assert fit.llf == pytest.approx(again.llf, abs=1e-8)
    np.testing.assert_allclose(fit.ranef()["s"], again.ranef()["s"], atol=1e-5)
    assert len(fit.ranef()["s"]) == 14


@pytest.mark.parametrize("given", ["dense", "precision"])
def test_what_follows_a_fit(given: str, tmp_path) -> None:
    fit = fitted("binary", given)
    new = pd.DataFrame({"x": [0.3, -1.0], "id": UNSEEN[:2], "g": [0, 1]})
    found = fit.predict(new, se_fit=True, type="link")
    effects = fit.ranef()["id"].loc[UNSEEN[:2]].to_numpy()[:, 0]
    groups = fit.ranef()["g"].iloc[[0, 1]].to_numpy()[:, 0]
    own = fit.fixef().iloc[0] + fit.fixef().iloc[1] * new["x"]
    np.testing.assert_allclose(found.iloc[:, 0], own + effects + groups, atol=1e-10)
    X, Z = fit.design.X, fit.design.Z.toarray()
    mu = fit.fittedvalues.to_numpy()
    W = mu * (1 - mu)
    known = Dense(fit, {"id": K.to_numpy()})
    G = sla.block_diag(known.G(0), known.G(1))
    V = np.diag(1 / W) + Z @ G @ Z.T
    inverse = np.linalg.inv(V)
    C = np.linalg.inv(X.T @ inverse @ X)
    rows = np.zeros((2, Z.shape[1]))
    rows[np.arange(2), [LEVELS.index(level) for level in UNSEEN[:2]]] = 1.0
    rows[np.arange(2), 24 + np.arange(2)] = 1.0
    x = np.column_stack([np.ones(2), new["x"]])
    c = x - rows @ G @ Z.T @ inverse @ X
    variance = np.diagonal(c @ C @ c.T + rows @ (G - G @ Z.T @ inverse @ Z @ G) @ rows.T)
    np.testing.assert_allclose(found["se"], np.sqrt(variance), rtol=1e-6)
    assert np.isfinite(fit.confint(method="profile").loc["x"].to_numpy()).all()
    boot = fit.bootstrap(4, rng=1)
    assert not len(boot.failures)
    batch = lmm.glmer_batch(
        "~ x + (1|id) + (1|g)", data(), fit.simulate(2, rng=1), family="binomial",
        covariance={"id": GIVEN[given]},
    )  # fmt: skip
    one = fit.refit(fit.simulate(2, rng=1).iloc[:, 0])
    np.testing.assert_allclose(batch.beta[0], one.fixef(), rtol=1e-4)
    assert np.isfinite(fit.anova().to_numpy(dtype=float)).any()
    assert 0.0 < fit.r2()["conditional"] < 1.0
    assert "known up to its scale" in " ".join(str(fit.summary()).split())
    fit.save(tmp_path / "fit.lmm")
    for copy in (pickle.loads(pickle.dumps(fit)), lmm.load(tmp_path / "fit.lmm")):
        np.testing.assert_array_equal(copy.predict(new), fit.predict(new))


def test_restricted_likelihood_integrates_fixed_effects_out() -> None:
    one, other = (
        lmm.glmer(MODELS["crossed"][0], data(), family="poisson", REML=True, covariance={"id": own})
        for own in GIVEN.values()
    )
    assert one.convergence.converged and one.estimate.reml
    assert one.estimate.objective == pytest.approx(other.estimate.objective, abs=1e-7)
    assert one.theta.iloc[0] > fitted("crossed", "dense").theta.iloc[0]
