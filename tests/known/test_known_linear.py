"""Linear models with known covariances of levels: dense formulas, R's numbers, and everything that follows a fit.

The same model goes two ways: a dense K in the directions that the rows see, a precision by sparse Cholesky; both are compared with V.
"""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import lmm
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.inference.tests.kenward_roger import kenward_roger
from lmm.model.gaussian.related_problem import JointProblem
from lmm.model.gaussian.rotated_problem import RotatedProblem
from tests.covariance.test_new_structure import _kenward_roger
from tests.known.matrices import LEVELS, UNSEEN, Dense, data, kinship

K = kinship()
GIVEN = {
    "dense": K,
    "shuffled": K.sample(frac=1.0, random_state=1).sample(frac=1.0, axis=1, random_state=2),
    "matrix": lmm.KnownCovariance(sp.csr_array(K.to_numpy()), LEVELS),
    "factor": lmm.Factor(np.linalg.cholesky(K.to_numpy()), LEVELS),
    "precision": lmm.Precision(sp.csc_array(np.linalg.inv(K.to_numpy())), LEVELS),
}
MODELS = {
    "alone": "y ~ x + (1|id)",
    "slope": "y ~ x + (0 + x|id)",
    "crossed": "y ~ x + (1|id) + (1|g)",
    "slopes": "y ~ x + (x|id)",
    "uncorrelated": "y ~ x + (x||id) + (1|g)",
}


@cache
def fitted(model: str, given: str, reml: bool = True, weights: str | None = None) -> lmm.Fit:
    return lmm.lmer(
        MODELS[model], data(), covariance={"id": GIVEN[given]}, REML=reml, weights=weights
    )


def dense(fit: lmm.Fit) -> Dense:
    own = fit.design.terms[0].levels
    return Dense(fit, {"id": K.loc[own, own].to_numpy()})


both = pytest.mark.parametrize("given", ["dense", "precision"])
every = pytest.mark.parametrize(
    ("model", "given"), [(m, g) for m in MODELS for g in ("dense", "precision")]
)


@every
def test_the_likelihood_and_its_maximum_are_those_of_dense_matrices(model: str, given: str) -> None:
    for reml, weights in ((True, None), (False, "w")):
        fit = fitted(model, given, reml, weights)
        known, theta = dense(fit), fit.theta.to_numpy()
        assert fit.convergence.converged
        W = fit.design.weights
        lost = 0.0 if W is None else 0.0  # log|W^-1| is in V
        assert fit.estimate.objective == pytest.approx(
            known.objective(theta, reml) + lost, abs=1e-8
        )
        for step in np.vstack([np.eye(len(theta)), -np.eye(len(theta))]) * 0.02:
            assert known.objective(theta + step, reml) > fit.estimate.objective - 1e-7


@every
def test_gradient_and_hessian_are_those_of_differences(model: str, given: str) -> None:
    fit = fitted(model, given)
    known = dense(fit)
    theta = fit.theta.to_numpy() + 0.1
    for reml in (True, False):
        method = MaximumLikelihood(reml)
        h = 1e-5
        wanted = [
            (known.objective(theta + h * u, reml) - known.objective(theta - h * u, reml)) / (2 * h)
            for u in np.eye(len(theta))
        ]
        np.testing.assert_allclose(method.gradient(fit.problem, theta), wanted, atol=2e-5)
        H = method.hessian(fit.problem, theta)
        slope = [
            (method.gradient(fit.problem, theta + h * u) - method.gradient(fit.problem, theta - h * u))
            / (2 * h)
            for u in np.eye(len(theta))
        ]  # fmt: skip
        np.testing.assert_allclose(H, slope, rtol=1e-5, atol=1e-4)


@every
def test_effects_of_all_levels_are_best_predictions_with_their_errors(
    model: str, given: str
) -> None:
    fit = fitted(model, given)
    known = dense(fit)
    r = fit.design.y - fit.design.X @ fit.fixef().to_numpy()
    term, p = fit.design.terms[0], fit.design.p
    assert list(fit.ranef()["id"].index) == list(term.levels) and term.J == 24
    wanted = known.G(0) @ term.Z.toarray().T @ np.linalg.solve(known.V(), r)
    np.testing.assert_allclose(fit.ranef()["id"].to_numpy().ravel(), wanted, atol=1e-9)
    C = known.inverse_of_henderson * fit.sigma**2
    np.testing.assert_allclose(fit.vcov(), C[:p, :p], rtol=1e-8)
    k = term.k
    G, Z = known.G(0), term.Z.toarray()
    V = known.V()
    cov = (G - G @ Z.T @ np.linalg.solve(V, Z @ G)) * fit.sigma**2
    blocks = np.stack([cov[j * k : j * k + k, j * k : j * k + k] for j in range(24)])
    np.testing.assert_allclose(fit._uncertainty.mode_covariances()[0], blocks, atol=1e-9)


@every
def test_predictions_for_levels_without_rows_have_standard_errors_of_dense_matrices(
    model: str, given: str
) -> None:
    fit = fitted(model, given)
    new = pd.DataFrame({"x": [0.3, -1.0, 2.0], "id": UNSEEN, "g": [0, 1, 5]})
    new = pd.concat([new, data().head(4)])
    found = fit.predict(new, se_fit=True)
    C = dense(fit).inverse_of_henderson * fit.sigma**2
    W = [np.column_stack([np.ones(len(new)), new["x"]])]
    for term, own in zip(fit.design.terms, fit.design.frame.new_terms(new), strict=True):
        Z = np.zeros((len(new), term.J, term.k))
        Z[np.arange(len(new)), own.codes] = own.values
        W.append(Z.reshape(len(new), -1))
    rows = np.concatenate(W, axis=1)
    np.testing.assert_allclose(
        found["se"], np.sqrt(np.einsum("ij,jk,ik->i", rows, C, rows)), rtol=1e-7
    )
    effects = np.concatenate([b.to_numpy().ravel() for b in fit.ranef().values()])
    np.testing.assert_allclose(
        found.iloc[:, 0], rows @ np.concatenate([fit.fixef(), effects]), atol=1e-9
    )


@pytest.mark.parametrize("given", ["shuffled", "matrix", "factor", "precision"])
def test_forms_and_orders_of_a_covariance_give_one_fit(given: str) -> None:
    one, other = fitted("crossed", "dense"), fitted("crossed", given)
    assert other.estimate.objective == pytest.approx(one.estimate.objective, abs=1e-7)
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-4)
    np.testing.assert_allclose(
        other.ranef()["id"].loc[LEVELS], one.ranef()["id"].loc[LEVELS], atol=1e-4
    )


def test_the_problems_are_of_the_kinds_meant() -> None:
    assert isinstance(fitted("alone", "dense").problem, RotatedProblem)
    assert isinstance(fitted("crossed", "factor").problem, RotatedProblem)
    assert isinstance(fitted("slopes", "dense").problem, JointProblem)
    assert isinstance(fitted("alone", "precision").problem, JointProblem)


def test_a_covariance_of_low_rank_is_taken_as_it_is() -> None:
    rng = np.random.default_rng(5)
    L = rng.normal(size=(24, 6))
    low = lmm.lmer("y ~ x + (1|id)", data(), covariance={"id": lmm.Factor(L, LEVELS)})
    full = lmm.lmer(
        "y ~ x + (1|id)", data(), covariance={"id": lmm.KnownCovariance(L @ L.T, LEVELS)}
    )
    known = Dense(low, {"id": L @ L.T})
    for fit in (low, full):
        assert fit.estimate.objective == pytest.approx(
            known.objective(fit.theta.to_numpy(), True), abs=1e-7
        )
        C = known.inverse_of_henderson
        np.testing.assert_allclose(fit.vcov() / fit.sigma**2, C[:2, :2], rtol=1e-4)
    np.testing.assert_allclose(low.theta, full.theta, rtol=1e-4)
    with pytest.raises(lmm.CapacityError, match="is singular: 6 independent directions for 24"):
        lmm.lmer("y ~ x + (x|id)", data(), covariance={"id": lmm.Factor(L, LEVELS)})


def test_several_known_covariances() -> None:
    other = kinship(7)
    fit = lmm.lmer(
        "y ~ x + (1|id) + (0 + x|copy) + (1|g)", data(), covariance={"id": K, "copy": other}
    )
    known = Dense(fit, {"id": K.to_numpy(), "copy": other.to_numpy()})
    theta = fit.theta.to_numpy()
    assert fit.estimate.objective == pytest.approx(known.objective(theta, True), abs=1e-8)
    for step in np.vstack([np.eye(3), -np.eye(3)]) * 0.02:
        assert known.objective(np.abs(theta + step), True) > fit.estimate.objective - 1e-7


# library(lme4); K <- 0.8^abs(outer(1:18, 1:18, "-")); L <- t(chol(K))
# known <- function(form, REML) {
#   lf <- lFormula(form, sleepstudy, REML = REML); k <- length(lf$reTrms$cnms[[1]])
#   lf$reTrms$Zt <- as(kronecker(t(L), diag(k)) %*% lf$reTrms$Zt, "CsparseMatrix")
#   df <- do.call(mkLmerDevfun, lf)
#   op <- optimizeLmer(df, control = list(rhobeg = .002, rhoend = 1e-9), optimizer = "bobyqa")
#   mkMerMod(environment(df), op, lf$reTrms, fr = lf$fr) }
# criterion, fixef, variances and covariance, residual variance. mgcv::gam(Reaction ~ Days + Z, method = "REML",
# paraPen = list(Z = list(solve(K)))) has the first: sd 81.8505229, 31.0338365, REML 1794.52012495.
LME4 = {
    ("1", True): (1794.52012495, [260.3602094895, 10.4672859596], [6699.508737], 963.099020),
    ("1", False): (1805.47907317, [260.3161920483, 10.4672859596], [6261.557671], 957.847653),
    ("Days", True): (
        1753.62274039,
        [252.8319292543, 12.2192047238],
        [2106.445630, 148.901568, 216.710616],
        663.327537,
    ),
    ("Days", False): (
        1767.58109086,
        [252.9114495855, 12.1982123017],
        [1850.219000, 133.689942, 230.822513],
        669.585266,
    ),
}


@pytest.mark.parametrize(("slopes", "reml"), LME4)
def test_lme4_with_the_columns_z_l(slopes: str, reml: bool) -> None:
    """The criterion to what lme4 prints; parameters as far as its search, which stops a little above, found them."""
    sleep = lmm.datasets.load("sleepstudy")
    subjects = sorted(set(sleep["Subject"].astype(str)))
    i = np.arange(18)
    AR = pd.DataFrame(0.8 ** np.abs(i[:, None] - i), subjects, subjects)
    fit = lmm.lmer(
        f"Reaction ~ Days + ({slopes}|Subject)", sleep, covariance={"Subject": AR}, REML=reml
    )
    objective, fixef, variances, residual = LME4[slopes, reml]
    assert fit.estimate.objective == pytest.approx(objective, abs=2e-7)
    assert fit.estimate.objective < objective + 1e-8
    np.testing.assert_allclose(fit.fixef(), fixef, rtol=3e-6)
    found = fit.varcorr().to_frame()["vcov"].to_numpy()
    np.testing.assert_allclose(found, [*variances, residual], rtol=5e-5)


@both
def test_tests_and_intervals(given: str) -> None:
    fit, exact = fitted("crossed", given), fitted("crossed", "dense")
    table = fit.coef_table(ddf="satterthwaite")
    np.testing.assert_allclose(table, exact.coef_table(ddf="satterthwaite"), rtol=2e-3)
    wald, profile = fit.confint(method="wald"), fit.confint(method="profile")
    assert list(wald.index) == ["sd_(Intercept)|id", "sd_(Intercept)|g", "sigma", "Intercept", "x"]
    np.testing.assert_allclose(profile, exact.confint(method="profile"), rtol=2e-4, atol=1e-4)
    assert fit.anova().notna().all(axis=None) and len(fit.ranova()) == 3
    boot = fit.confint(method="boot", nsim=20, rng=1)
    assert (boot["lower"] < boot["upper"]).all()
    r2 = fit.r2()
    known = dense(fit)
    own = np.mean(np.diagonal(known.V() - known.W)) * fit.sigma**2
    assert sum(fit.icc(by_group=True)["variance"]) == pytest.approx(own, rel=1e-8)
    assert 0.0 < r2["marginal"] < r2["conditional"] < 1.0


def test_kenward_rogers_matrices_are_those_of_dense_ones() -> None:
    fit = fitted("crossed", "dense")
    found = kenward_roger(fit.problem, fit.estimator, fit.estimate)
    known = dense(fit)
    parts = []
    for t, term in enumerate(fit.design.terms):
        Z = term.Z.toarray()
        parts.append(Z @ known.G(t, np.eye(1)) @ Z.T)
    wanted = _kenward_roger(fit, [*parts, np.eye(fit.design.n)], known.V() - known.W)
    np.testing.assert_allclose(found.cov, wanted, rtol=1e-6)
    with pytest.raises(lmm.CapacityError, match="known covariances that are dense"):
        fitted("crossed", "precision").coef_table(ddf="kenward-roger")


@both
def test_simulations_refits_and_copies(given: str, tmp_path) -> None:
    fit = fitted("crossed", given)
    Y = fit.simulate(600, rng=3)
    known = dense(fit)
    centred = Y.to_numpy() - fit.predict(re_form=False).to_numpy()[:, None]
    V = known.V() * fit.sigma**2
    scale = np.sqrt(np.diagonal(V))
    error = (centred @ centred.T / 600 - V) / np.outer(scale, scale)
    assert np.sqrt(np.mean(error**2)) < 1.2 * np.sqrt(2.0 / 600)
    again = fit.refit_many(Y.iloc[:, :3])
    batch = lmm.lmer_batch("~ x + (1|id) + (1|g)", data(), Y.iloc[:, :3], covariance={"id": GIVEN[given]})  # fmt: skip
    for i in range(3):
        one = fit.refit(Y.iloc[:, i])
        np.testing.assert_allclose(again.iloc[i]["sd_(Intercept)|id"], one.varcorr().to_frame()["sdcor"].iloc[0], rtol=1e-3)  # fmt: skip
        np.testing.assert_allclose(batch.beta[i], one.fixef(), rtol=1e-4)
    assert fit.update("~ . - x").design.terms[0].relation is not None
    assert fit.update("~ . - (1|id)").design.terms[0].relation is None
    copies = [pickle.loads(pickle.dumps(fit))]
    fit.save(tmp_path / "fit.lmm")
    copies.append(lmm.load(tmp_path / "fit.lmm"))
    new = pd.DataFrame({"x": [0.0, 1.0], "id": UNSEEN[:2], "g": [0, 1]})
    for copy in copies:
        np.testing.assert_array_equal(copy.predict(new, se_fit=True), fit.predict(new, se_fit=True))
        np.testing.assert_allclose(copy.simulate(2, rng=1), fit.simulate(2, rng=1), rtol=1e-12)
    some = fit.influence("g")
    assert len(some.estimates) == 6 and not len(some.failures)


@both
def test_what_has_no_meaning_for_related_levels_says_so(given: str) -> None:
    fit = fitted("alone", given)
    for call in (
        lambda: fit.bootstrap(3, kind="cases", rng=1),
        lambda: fit.influence("group"),
    ):
        with pytest.raises(lmm.ArgumentError, match="levels that stand alone: those of id"):
            call()
    with pytest.raises(lmm.ArgumentError, match="their levels are related"):
        fit.bootstrap(3, kind="semiparametric", rng=1)


def test_the_summary_says_what_is_known() -> None:
    text = " ".join(str(fitted("alone", "dense").summary()).split())
    assert "The covariance of id is known up to its scale: 24 levels, 21 with rows." in text
    assert "Its diagonal has the mean" in text
    unit = K / np.sqrt(np.outer(np.diag(K), np.diag(K)))
    text = str(lmm.lmer(MODELS["alone"], data(), covariance={"id": unit}).summary())
    assert "Its diagonal" not in text


def test_a_variance_of_zero_is_found_and_its_derivative_is_right() -> None:
    frame = data().assign(y=np.random.default_rng(3).normal(size=120))
    for given in ("dense", "precision"):
        fit = lmm.lmer("y ~ x + (1|id)", frame, covariance={"id": GIVEN[given]}, REML=False)
        known = dense(fit)
        h = 1e-4
        slope = (
            known.objective(np.array([np.sqrt(h)]), False) - known.objective(np.zeros(1), False)
        ) / h
        if slope > 0:
            assert fit.theta.iloc[0] == 0.0
        assert fit.estimate.objective <= known.objective(np.zeros(1), False) + 1e-9


def test_a_meta_analysis_is_its_closed_form() -> None:
    """Variance between studies by REML: the minimum over tau^2 of the criterion of y ~ N(m, v + tau^2)."""
    rng = np.random.default_rng(0)
    v = rng.uniform(0.05, 0.4, 12)
    y = 0.3 + 0.4 * rng.normal(size=12) + np.sqrt(v) * rng.normal(size=12)
    frame = pd.DataFrame({"study": [f"s{i}" for i in range(12)], "y": y})
    fit = lmm.lmer(
        "y ~ 1 + (1|study)",
        frame,
        weights=1 / v,
        method=MaximumLikelihood(sigma=1.0),
        covariance={"study": lmm.KnownCovariance(np.eye(12), frame["study"])},
    )

    def criterion(tau2: float) -> float:
        w = 1 / (v + tau2)
        m = (w * y).sum() / w.sum()
        own = np.log(w.sum()) - np.log(w).sum() + (w * (y - m) ** 2).sum()
        return float(own + 11 * np.log(2 * np.pi))

    tau2 = float(fit.theta.iloc[0]) ** 2
    assert fit.estimate.objective == pytest.approx(criterion(tau2), abs=1e-9)
    assert tau2 > 0.01
    assert all(criterion(tau2 * factor) > criterion(tau2) for factor in (0.98, 1.02))
