"""A structure that the package does not have goes, as one class, through everything that a fit offers."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.covariance import STRUCTURES
from lmm.errors import ArgumentError
from lmm.inference.tests.kenward_roger import kenward_roger
from tests.covariance.examples import NEW

LEVELS, OCCASIONS, EACH = 40, 3, 3
TRUTH = {
    "walk": np.tri(3) @ np.tri(3).T,
    "mirror": np.array([[1.0, 0.0, 0.4], [0.0, 1.4, 0.0], [0.4, 0.0, 1.0]]),
    "ma1": np.eye(3) + 0.35 * (np.eye(3, k=1) + np.eye(3, k=-1)),
}
every = pytest.mark.parametrize("name", list(NEW))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, structure in NEW.items():
        monkeypatch.setitem(STRUCTURES, name, structure)


def data(name: str, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(LEVELS), OCCASIONS * EACH)
    f = np.tile(np.repeat(np.arange(OCCASIONS), EACH), LEVELS)
    b = 1.2 * rng.normal(size=(LEVELS, OCCASIONS)) @ np.linalg.cholesky(TRUTH[name]).T
    x = rng.normal(size=len(g))
    y = 1.0 + 0.5 * x + b[g, f] + rng.normal(size=len(g))
    count = rng.poisson(np.exp(0.3 + 0.2 * x + 0.5 * b[g, f]))
    return pd.DataFrame({"y": y, "x": x, "f": np.array(list("abc"))[f], "g": g, "count": count})


def fitted(name: str, **settings) -> lmm.Fit:
    return lmm.lmer(f"y ~ x + {name}(0 + f | g)", data(name), **settings)


def n_quantities(name: str) -> int:
    return len(NEW[name](OCCASIONS).quantities())  # type: ignore[call-arg]


@every
def test_the_likelihood_is_that_of_a_normal_with_this_covariance_and_no_theta_beside_has_a_higher_one(
    name,
):
    fit, frame = fitted(name, REML=False), data(name)
    assert fit.estimate.convergence.converged

    def log_likelihood(theta: np.ndarray) -> float:
        T = fit.design.terms[0].structure.factor(theta)
        z = fit.design.terms[0].values
        same = frame["g"].to_numpy()[:, None] == frame["g"].to_numpy()
        V = np.eye(len(frame)) + same * (z @ T @ T.T @ z.T)
        inverse, X, y = np.linalg.inv(V), fit.design.X, frame["y"].to_numpy()
        beta = np.linalg.solve(X.T @ inverse @ X, X.T @ inverse @ y)
        r = y - X @ beta
        n = len(y)
        return float(
            -0.5 * (np.linalg.slogdet(V)[1] + n * np.log(2 * np.pi * (r @ inverse @ r) / n) + n)
        )

    theta = fit.theta.to_numpy()
    assert fit.llf == pytest.approx(log_likelihood(theta), abs=1e-8)
    for step in np.vstack([np.eye(len(theta)), -np.eye(len(theta))]) * 0.02:
        assert log_likelihood(theta + step) < fit.llf


@every
def test_kenward_rogers_matrices_are_those_of_dense_ones(name):
    fit = fitted(name)
    found = kenward_roger(fit.problem, fit.estimator, fit.estimate)
    directions = fit.design.terms[0].structure.directions(fit.theta.to_numpy())
    z, g = fit.design.terms[0].values, data(name)["g"].to_numpy()
    same = g[:, None] == g
    V = [same * (z @ dG @ z.T) for dG in directions] + [np.eye(len(g))]
    exact = _kenward_roger(
        fit, V, same * (z @ fit.estimate.factors[0] @ fit.estimate.factors[0].T @ z.T)
    )
    np.testing.assert_allclose(found.cov, exact, rtol=1e-6)


def _kenward_roger(fit: lmm.Fit, V: list[np.ndarray], ZGZ: np.ndarray) -> np.ndarray:
    """The adjusted covariance, term by term from n x n matrices: Kenward & Roger (1997), eq. 3 and 5."""
    s2, X = float(fit.estimate.sigma) ** 2, fit.design.X
    inverse = np.linalg.inv(s2 * (ZGZ + np.eye(len(X))))
    phi = np.linalg.inv(X.T @ inverse @ X)
    project = inverse - inverse @ X @ phi @ X.T @ inverse
    W = np.linalg.inv(
        0.5
        * np.array([[np.sum((project @ one) * (project @ other).T) for other in V] for one in V])
    )
    P = [-X.T @ inverse @ one @ inverse @ X for one in V]
    inner = np.zeros_like(phi)
    for i, one in enumerate(V):
        for j, other in enumerate(V):
            Q = X.T @ inverse @ one @ inverse @ other @ inverse @ X
            inner += W[i, j] * (Q - P[i] @ phi @ P[j])
    return phi + 2.0 * phi @ inner @ phi


@every
def test_tables_name_its_own_parameters_and_no_others(name):
    fit = fitted(name)
    names = [f"{q.kind}|g" for q in NEW[name](OCCASIONS).quantities()]
    assert fit.confint(method="wald").index[: len(names)].tolist() == names
    frame = fit.varcorr().to_frame()
    assert len(frame) == len(names) + 1
    rows = fit.tidy()
    assert rows["std_error"].notna().all()
    assert rows["term"].tolist()[2:-1] == [name.split("|")[0] for name in names]
    for kind in ("satterthwaite", "kenward-roger"):
        assert np.isfinite(fit.coef_table(ddf=kind).to_numpy()).all()
    assert str(fit.summary()).count("Residual") == 1


@every
def test_profile_and_wald_intervals_agree_where_the_likelihood_is_regular(name):
    fit = fitted(name, REML=False)
    wald, profile = fit.confint(method="wald"), fit.confint(method="profile")
    assert (
        np.abs((profile - wald) / (wald["upper"] - wald["lower"]).to_numpy()[:, None]).max().max()
        < 0.1
    )


@every
def test_standard_errors_are_those_of_the_reported_quantities(name):
    """The delta method of report(), against differences of what describe() says."""
    structure = NEW[name](OCCASIONS)  # type: ignore[call-arg]
    theta = fitted(name).theta.to_numpy()
    values, slopes = structure.report(theta)
    for i, e in enumerate(np.eye(len(theta)) * 1e-6):
        ahead, back = (structure.report(theta + sign * e)[0] for sign in (1, -1))
        np.testing.assert_allclose((ahead - back) / 2e-6, slopes[:, i], atol=1e-8)
    T = structure.factor(theta)
    np.testing.assert_allclose(structure.matrix(values), T @ T.T, rtol=1e-8, atol=1e-9)


@every
def test_many_responses_are_fitted_as_one(name):
    fit, frame = fitted(name), data(name)
    Y = fit.simulate(6, rng=3)
    Y.columns = [f"s{i}" for i in range(6)]
    batch = lmm.lmer_batch(f"~ x + {name}(0 + f | g)", frame, Y)
    again = fit.refit_many(Y)
    for i in range(6):
        one = lmm.lmer(f"y ~ x + {name}(0 + f | g)", frame.assign(y=Y.iloc[:, i].to_numpy()))
        np.testing.assert_allclose(batch.theta[i], one.theta.to_numpy(), atol=2e-4)
        variances = again.iloc[i][one.confint(method="wald").index[:-2]].to_numpy(dtype=float)
        np.testing.assert_allclose(variances, one.varcorr().to_frame()["sdcor"], atol=2e-4)


@every
def test_bootstrap_predict_simulate_and_pickle(name):
    fit, frame = fitted(name), data(name)
    boot = fit.bootstrap(20, rng=1)
    assert np.isfinite(boot.to_frame().to_numpy(dtype=float)).all()
    np.testing.assert_allclose(fit.predict(frame), fit.fittedvalues, rtol=1e-9)
    copy = pickle.loads(pickle.dumps(fit))
    assert copy.theta.equals(fit.theta)
    changed = fit.simulate(2, rng=1, parameters={"sd|g": 0.0})
    assert changed.shape == (len(frame), 2)


@every
def test_em_ends_where_reml_does_or_says_that_it_did_not(name):
    fit = fitted(name)
    try:
        em = fitted(name, method="em")
    except ArgumentError:
        return
    assert em.llf == pytest.approx(fit.llf, abs=1e-6) or not em.estimate.convergence.converged


@every
def test_generalized_models_take_it(name):
    fit = lmm.glmer(f"count ~ x + {name}(0 + f | g)", data(name), family="poisson")
    assert fit.estimate.convergence.converged
    rows = fit.tidy()
    assert rows["std_error"].notna().all()
    assert len(rows) == 2 + n_quantities(name)


@every
def test_variational_bayes_takes_it(name):
    pytest.importorskip("optax")
    likelihood = fitted(name, REML=False).varcorr().to_frame()["sdcor"]
    np.testing.assert_allclose(
        fitted(name, method="vi").varcorr().to_frame()["sdcor"], likelihood, atol=0.05
    )


def test_the_sampler_takes_it():
    pytest.importorskip("blackjax")
    likelihood = fitted("ma1", REML=False).varcorr().to_frame()["sdcor"]
    fit = fitted("ma1", method=lmm.NUTS(draws=200, warmup=200, chains=2, rng=1))
    np.testing.assert_allclose(fit.varcorr().to_frame()["sdcor"], likelihood, atol=0.1)
    assert {"sd|g", "cor|g"} <= set(fit.draws.to_frame().columns)


def test_monte_carlo_em_refuses_a_structure_without_an_m_step():
    pytest.importorskip("blackjax")
    pytest.importorskip("optax")
    with pytest.raises(ArgumentError, match="no M-step for the covariance structure 'ma1'"):
        fitted("ma1", method="mcem")


def test_a_homogeneous_variance_that_vanishes_is_zero_and_said_so():
    frame = data("walk").assign(y=np.random.default_rng(5).normal(size=LEVELS * OCCASIONS * EACH))
    frame["y"] -= frame.groupby(["g", "f"])["y"].transform("mean")
    with pytest.warns(lmm.errors.SingularFitWarning):
        fit = lmm.lmer("y ~ x + walk(0 + f | g)", frame)
    assert fit.theta.tolist() == [0.0]
    assert fit.is_singular


@every
def test_residuals_take_it(name):
    """One row a subject and occasion: likelihood and Kenward-Roger by dense matrices, intervals, refits, simulations."""
    frame = data(name).drop_duplicates(["g", "f"]).reset_index(drop=True)
    fit = lmm.lmer("y ~ x + f", frame, residual=f"{name}(f | g)")
    assert fit.convergence.converged
    S = fit.residual_cov().to_numpy()
    code = frame["f"].map({"a": 0, "b": 1, "c": 2}).to_numpy()
    V = np.equal.outer(frame["g"].to_numpy(), frame["g"].to_numpy()) * S[np.ix_(code, code)]
    X, y = fit.design.X, fit.design.y
    M = X.T @ np.linalg.solve(V, X)
    r = y - X @ np.linalg.solve(M, X.T @ np.linalg.solve(V, y))
    n, p = X.shape
    deviance = np.linalg.slogdet(V)[1] + np.linalg.slogdet(M)[1] + r @ np.linalg.solve(V, r)
    assert -2 * fit.llf == pytest.approx(deviance + (n - p) * np.log(2 * np.pi), abs=1e-7)
    plain, adjusted = fit.coef_table(), fit.coef_table(ddf="kenward_roger")
    np.testing.assert_allclose(plain["std_error"], np.sqrt(np.diag(np.linalg.inv(M))), rtol=1e-7)
    assert (adjusted["std_error"] >= plain["std_error"] * (1 - 1e-9)).all()
    names = [n for n in fit.confint("wald").index if n.endswith("|Residual")]
    assert len(names) == n_quantities(name)
    assert fit.confint("profile", parm=["x"]).notna().all(axis=None)
    again = fit.refit(fit.simulate(1, rng=1).iloc[:, 0].to_numpy())
    assert again.convergence.converged
    assert pickle.loads(pickle.dumps(fit)) == fit
