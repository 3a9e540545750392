"""A random term of any matrix Z, here a random walk along x and members of several groups, goes through everything that a fit offers."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import lmm
from lmm.api.lmer import fit_problem
from lmm.covariance.diagonal import HomogeneousDiagonal
from lmm.design import Design, build_design
from lmm.design.terms import RandomTerm
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.families import Poisson
from lmm.formula import ModelFrame, Table, TermRecipe
from lmm.formula.text.grouping import Interaction
from lmm.inference.tests.kenward_roger import kenward_roger
from lmm.model.problem import build_generalized, build_problem
from tests.covariance.test_new_structure import _kenward_roger

KNOTS = tuple(np.linspace(0.05, 0.95, 12))
MEMBERS = ("m1", "m2")
COUNT = 9
NAMES = ("walk", "members")
every = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Walk:
    """Steps of a random walk, one at each knot: Z_ij = 1 where x_i lies beyond knot j."""

    def __call__(self, table: Table) -> np.ndarray:
        return (np.asarray(table.column("x"))[:, None] > np.array(KNOTS)).astype(float)


@dataclass(frozen=True)
class Members:
    """Half of each of two members' effects: two ones a row, over two."""

    def __call__(self, table: Table) -> sp.csr_array:
        columns = np.column_stack([table.column(name) for name in MEMBERS])
        return sp.csr_array(
            (np.full(columns.size, 0.5), columns.ravel(), 2 * np.arange(len(columns) + 1)),
            shape=(len(columns), COUNT),
        )


BASES = {"walk": Walk(), "members": Members()}


@dataclass(frozen=True, eq=False)
class Basis(TermRecipe):
    """What replays such a term: its matrix on new rows, all of which meet its one level."""

    name: str

    def values(self, frame: ModelFrame, table: Table) -> tuple[np.ndarray, np.ndarray]:
        Z = BASES[self.name](table)
        return Z.toarray() if sp.issparse(Z) else Z, np.ones(table.n, dtype=bool)

    def codes(
        self, frame: ModelFrame, table: Table, allow_new_levels: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(table.n, dtype=np.int32), np.ones(table.n, dtype=bool)


def extended(design: Design, name: str, frame: pd.DataFrame) -> Design:
    Z = BASES[name](Table(frame))
    names = tuple(f"{name}{j}" for j in range(Z.shape[1]))
    term = RandomTerm.of_columns(name, Z, names, HomogeneousDiagonal(Z.shape[1]))
    replay = Basis(Interaction((name,)), term.levels, (), names, names, name)
    made = design.with_mean(terms=(*design.terms, term))
    return replace(made, frame=replace(design.frame, terms=(*design.frame.terms, replay)))


def data(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n, J = 240, 20
    g, x = rng.integers(0, J, n), rng.uniform(size=n)
    frame = pd.DataFrame(
        {"x": x, "g": g, "m1": rng.integers(0, COUNT, n), "m2": rng.integers(0, COUNT, n)}
    )
    table = Table(frame)
    eta = 1.0 + 0.7 * rng.normal(size=J)[g]
    eta += 0.8 * (BASES["walk"](table) @ rng.normal(size=len(KNOTS))) + 1.6 * (
        BASES["members"](table) @ rng.normal(size=COUNT)
    )
    return frame.assign(
        y=eta + rng.normal(size=n), count=rng.poisson(np.exp(0.3 + 0.3 * (eta - eta.mean())))
    )


@cache
def fitted(name: str, reml: bool = True) -> lmm.Fit:
    design = extended(build_design("y ~ x + (1|g)", data()), name, data())
    return fit_problem(design, build_problem(design), MaximumLikelihood(reml))


@cache
def counted(name: str) -> lmm.Fit:
    design = extended(build_design("count ~ x + (1|g)", data(), family=Poisson()), name, data())
    return fit_problem(design, build_generalized(design, design.family), LaplaceLikelihood())


def parts(fit: lmm.Fit) -> list[np.ndarray]:
    """Z Z' of each term."""
    return [(term.Z @ term.Z.T).toarray() for term in fit.design.terms]


@every
def test_the_likelihood_and_its_maximum_are_those_of_dense_matrices(name):
    fit = fitted(name, reml=False)
    assert fit.convergence.converged
    y, X = fit.design.y, fit.design.X
    n = len(y)

    def log_likelihood(theta: np.ndarray) -> float:
        V = np.eye(n) + sum(t**2 * own for t, own in zip(theta, parts(fit), strict=True))
        inverse = np.linalg.inv(V)
        r = y - X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse @ y)
        return float(
            -0.5 * (np.linalg.slogdet(V)[1] + n * np.log(2 * np.pi * (r @ inverse @ r) / n) + n)
        )

    theta = fit.theta.to_numpy()
    assert len(theta) == 2 and (theta > 0.1).all()
    assert fit.llf == pytest.approx(log_likelihood(theta), abs=1e-8)
    for step in np.vstack([np.eye(2), -np.eye(2)]) * 0.02:
        assert log_likelihood(theta + step) < fit.llf


@every
def test_effects_and_fitted_values_are_best_linear_predictors(name):
    fit = fitted(name)
    V = np.eye(len(fit.design.y)) + sum(
        t**2 * own for t, own in zip(fit.theta, parts(fit), strict=True)
    )
    r = fit.design.y - fit.design.X @ fit.fixef().to_numpy()
    term = fit.design.terms[-1]
    wanted = fit.theta.iloc[-1] ** 2 * term.values.T @ np.linalg.solve(V, r)
    effects = fit.ranef()[name]
    np.testing.assert_allclose(effects.loc["all"], wanted, rtol=1e-6, atol=1e-8)
    assert list(effects.columns) == list(term.columns)
    np.testing.assert_allclose(fit.design.Z @ np.concatenate([b.to_numpy().ravel() for b in fit.ranef().values()]),
                               fit.fittedvalues - fit.predict(re_form=False), atol=1e-8)  # fmt: skip


@every
def test_kenward_rogers_matrices_are_those_of_dense_ones(name):
    fit = fitted(name)
    found = kenward_roger(fit.problem, fit.estimator, fit.estimate)
    V = parts(fit)
    ZGZ = sum(t**2 * own for t, own in zip(fit.theta, V, strict=True))
    np.testing.assert_allclose(
        found.cov, _kenward_roger(fit, [*V, np.eye(len(ZGZ))], ZGZ), rtol=1e-6
    )
    assert np.isfinite(fit.coef_table(ddf="kenward-roger").to_numpy()).all()


@every
def test_tables_have_one_standard_deviation_for_it(name):
    fit = fitted(name)
    assert fit.confint(method="wald").index[:3].tolist() == [
        "sd_(Intercept)|g",
        f"sd|{name}",
        "sigma",
    ]
    assert len(fit.varcorr().to_frame()) == 3
    assert fit.tidy()["std_error"].notna().all()
    assert name in str(fit.summary())
    r2 = fit.r2()
    assert 0.0 < r2["marginal"] < r2["conditional"] < 1.0
    assert np.isfinite(fit.leverage()).all()


@every
def test_intervals_agree(name):
    fit = fitted(name, reml=False)
    wald, profile = fit.confint(method="wald"), fit.confint(method="profile")
    assert (
        np.abs((profile - wald) / (wald["upper"] - wald["lower"]).to_numpy()[:, None]).max().max()
        < 0.5
    )
    boot = fit.confint(method="boot", nsim=60, rng=1)
    assert boot.notna().all(axis=None) and (boot["lower"] < boot["upper"]).all()


@every
def test_predictions_replay_the_matrix_and_have_standard_errors_of_dense_matrices(name):
    fit, frame = fitted(name), data()
    np.testing.assert_allclose(fit.predict(frame), fit.fittedvalues, rtol=1e-9)
    X, Z = fit.design.X, fit.design.Z.toarray()
    J = fit.design.terms[0].J
    precision = np.concatenate(
        [np.repeat(t**-2.0, k) for t, k in zip(fit.theta, (J, Z.shape[1] - J), strict=True)]
    )
    C = np.linalg.inv(np.block([[X.T @ X, X.T @ Z], [Z.T @ X, Z.T @ Z + np.diag(precision)]]))
    W = np.column_stack([X, Z])
    wanted = fit.estimate.sigma * np.sqrt(np.einsum("ij,jk,ik->i", W, C, W))
    np.testing.assert_allclose(fit.predict(frame, se_fit=True)["se"], wanted, rtol=1e-7)
    bands = fit.predict(frame.head(5), interval="prediction", re_form=False)
    assert (bands["upper"] > bands["lower"]).all()
    some = fit.predict(frame, re_form="~ (1|g)")
    np.testing.assert_allclose(
        fit.fittedvalues - some, fit.design.terms[1].times(fit.estimate.modes[1]), atol=1e-8
    )


@every
def test_simulations_refits_and_copies(name):
    fit = fitted(name)
    Y = fit.simulate(400, rng=3)
    wanted = fit.estimate.sigma**2 * (
        1.0 + sum(t**2 * np.diagonal(own) for t, own in zip(fit.theta, parts(fit), strict=True))
    )
    assert (
        Y.sub(fit.predict(re_form=False), axis=0).var(axis=1).to_numpy() / wanted
    ).mean() == pytest.approx(1.0, abs=0.02)
    again = fit.refit_many(Y.iloc[:, :4])
    for i in range(4):
        design = fit.design.with_response(Y.iloc[:, i])
        one = fit_problem(design, fit.problem.with_response(design), MaximumLikelihood())
        names = one.confint(method="wald").index[:2]
        np.testing.assert_allclose(
            again.iloc[i][names].to_numpy(dtype=float),
            one.varcorr().to_frame()["sdcor"][:2],
            atol=2e-4,
        )
    for kind in ("cases", "semiparametric"):
        boot = fit.bootstrap(8, kind=kind, rng=1)
        assert not len(boot.failures) and (boot.replicates[f"sd|{name}"] > 0.0).all()
    assert len(fit.influence("group").estimates) == fit.design.terms[0].J
    copy = pickle.loads(pickle.dumps(fit))
    assert copy.theta.equals(fit.theta)
    np.testing.assert_array_equal(copy.predict(data().head(3)), fit.predict(data().head(3)))


@every
def test_generalized_models_take_it(name):
    fit = counted(name)
    assert fit.convergence.converged and len(fit.tidy()) == 4
    y, X, Z = fit.design.y, fit.design.X, fit.design.Z.toarray()
    J = fit.design.terms[0].J
    precision = np.concatenate(
        [np.repeat(t**-2.0, k) for t, k in zip(fit.theta, (J, Z.shape[1] - J), strict=True)]
    )
    modes = np.concatenate([b.to_numpy().ravel() for b in fit.ranef().values()])
    mu = np.exp(X @ fit.fixef().to_numpy() + Z @ modes)
    np.testing.assert_allclose(
        Z.T @ (y - mu), precision * modes, atol=1e-5
    )  # the modes' score equations
    H = Z.T @ (mu[:, None] * Z) + np.diag(precision)
    from scipy.special import gammaln

    value = (y * np.log(mu) - mu - gammaln(y + 1)).sum() - 0.5 * precision @ modes**2
    value -= 0.5 * (np.linalg.slogdet(H)[1] - np.log(precision).sum())
    assert fit.llf == pytest.approx(value, abs=1e-7)
    np.testing.assert_allclose(fit.predict(data()), fit.fittedvalues, rtol=1e-8)
    assert fit.simulate(2, rng=1).shape == (len(y), 2)
