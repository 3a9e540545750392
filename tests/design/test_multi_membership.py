"""Rows that belong to several groups at once, ``(1 | mm(a, b))``: R's numbers, dense matrices, and everything that a fit offers.

R's numbers are lme4 1.1-31's in its modular form, where the indicator matrix of a is replaced by the weighted one of both members:

    swap <- function(m, Zt) { rows <- m$reTrms$Gp[1] + 1:nrow(Zt); m$reTrms$Zt[rows, ] <- Zt; m$reTrms$Zt <- drop0(m$reTrms$Zt); m }
    ind <- function(p, q) t(p * model.matrix(~ 0 + a, d) + q * model.matrix(~ 0 + b, d))
    m <- swap(lFormula(y ~ x + (1 | a) + (1 | g), d, REML = TRUE), ind(w1 / (w1 + w2), w2 / (w1 + w2)))
    dev <- do.call(mkLmerDevfun, m); opt <- optimizeLmer(dev, optimizer = "bobyqa", control = list(rhoend = 1e-10))
    fit <- mkMerMod(environment(dev), opt, m$reTrms, fr = m$fr)

with a slope level by level, out[seq(1, 2 * J, 2), ] <- Zt; out[seq(2, 2 * J, 2), ] <- sweep(Zt, 2, x, "*"). The criterion is printed
to 1e-8; its flat top leaves estimates six digits. Generalized models by mkGlmerDevfun with tolPwrss = 1e-13: the default loses
2e-5 of the criterion.
"""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.special import gammaln

import lmm
from lmm.design import build_design
from lmm.errors import (
    ArgumentError,
    CapacityError,
    DataError,
    FormulaError,
    GroupingError,
    PredictionError,
)
from lmm.inference.tests.kenward_roger import kenward_roger
from lmm.linalg.plan import TermSize, make_plan
from lmm.model.posterior import joint
from tests.covariance.test_new_structure import _kenward_roger

MM = "mm(a, b)"
WEIGHTED = "mm(a, b, weights=cbind(w1, w2))"


@cache
def members() -> pd.DataFrame:
    """The data of the script above."""
    n, J = 120, 8
    i = np.arange(n)
    a, b = (7 * i) % J, (3 * i + i // 8 + 1) % J
    b = np.where(a == b, (b + 1) % J, b)
    g, x = (i // 5) % 6, np.round(np.sin(1.3 * i), 3)
    w1, w2 = 1.0 + i % 3, 1.0 + i % 2
    e = np.round(np.cos(2.7 * i + i**2 / 50), 3)
    u = np.array([-1.2, 0.4, 0.9, -0.3, 1.5, -0.8, 0.1, -0.6])
    s = np.array([0.5, -0.2, 0.1, 0.4, -0.6, 0.3, -0.5, 0.0])
    v = np.array([0.6, -0.4, 0.1, 0.5, -0.7, -0.1])
    share = w1 / (w1 + w2)
    y = 2 + 0.5 * x + share * (u[a] + s[a] * x) + (1 - share) * (u[b] + s[b] * x) + v[g] + 0.4 * e
    count = np.floor(np.exp(0.4 * y) + 0.5 + 0.3 * e)
    win = (u[a] - u[b] + 1.5 * e > 0).astype(int)
    names = np.array([f"school {j}" for j in range(J)])
    return pd.DataFrame(
        {"y": y, "count": count, "win": win, "x": x, "a": names[a], "b": names[b], "g": g}
        | {"w1": w1, "w2": w2}
    )


@cache
def fitted(formula: str, reml: bool = True) -> lmm.Fit:
    return lmm.lmer(formula, members(), REML=reml)


@cache
def counted() -> lmm.Fit:
    return lmm.glmer(f"count ~ x + (1 | {WEIGHTED}) + (1 | g)", members(), family="poisson")


BOTH = f"y ~ x + (1 + x | {WEIGHTED}) + (1 | g)"


@pytest.mark.parametrize(
    ("formula", "reml", "criterion", "coefficients", "errors", "deviations"),
    [
        (f"y ~ x + (1 | {MM})", True, 249.928325436, [1.997362322, 0.410582842], [0.3450067172, 0.0805689371],
         [0.962636064, 0.618406685]),
        (f"y ~ x + (1 | {WEIGHTED}) + (1 | g)", True, 136.568513492, [1.974700416, 0.457297398],
         [0.3788610829, 0.0447992365], [0.887503844, 0.514176463, 0.341927417]),
        (f"y ~ x + (1 | {WEIGHTED}) + (1 | g)", False, 132.04399908, [1.974772787, 0.457250247],
         [0.3630476412, 0.0445904746], [0.845880113, 0.498150522, 0.340343539]),
        (BOTH, True, 109.43106651, [1.977042759, 0.464398141], [0.376679456, 0.133777463],
         [0.888807154, 0.361968309, -0.822458326, 0.504280214, 0.291969571]),
    ],
)  # fmt: skip
def test_linear_models_are_lme4s(formula, reml, criterion, coefficients, errors, deviations):
    fit = fitted(formula, reml)
    assert fit.convergence.converged
    assert -2.0 * fit.llf == pytest.approx(criterion, abs=2e-7)
    np.testing.assert_allclose(fit.fixef(), coefficients, rtol=2e-6)
    np.testing.assert_allclose(fit.bse, errors, rtol=2e-5)
    np.testing.assert_allclose(fit.varcorr().to_frame()["sdcor"], deviations, rtol=5e-5)


def test_generalized_models_are_lme4s():
    fit = counted()
    assert -2.0 * fit.llf == pytest.approx(361.573689804, abs=1e-7)
    np.testing.assert_allclose(fit.fixef(), [0.827677826, 0.141629726], rtol=1e-5)
    np.testing.assert_allclose(fit.varcorr().to_frame()["sdcor"], [0.270411289, 0.127801170], rtol=1e-4)  # fmt: skip


def test_bradley_and_terrys_model_is_lme4s():
    contest = "win ~ 1 + (1 | mm(a, b, weights=cbind(1, -1), scale=FALSE))"
    fit = lmm.glmer(contest, members(), family="binomial")
    assert -2.0 * fit.llf == pytest.approx(125.483845916, abs=1e-7)
    assert fit.fixef().iloc[0] == pytest.approx(-0.0692427854, rel=1e-4)
    np.testing.assert_allclose(
        fit.ranef()[MM].iloc[:3, 0], [-1.30647061, 0.59376609, 1.57664676], rtol=1e-4
    )
    assert fit.varcorr().to_frame()["sdcor"].iloc[0] == pytest.approx(1.37340967, rel=1e-4)


def dense(fit: lmm.Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z column after column of each level, G relative to sigma^2, and V."""
    Z, J = fit.design.Z.toarray(), [term.J for term in fit.design.terms]
    blocks = [
        np.kron(np.eye(count), T @ T.T) for count, T in zip(J, fit.estimate.factors, strict=True)
    ]
    G = np.zeros((Z.shape[1], Z.shape[1]))
    at = 0
    for own in blocks:
        G[at : at + len(own), at : at + len(own)] = own
        at += len(own)
    return Z, G, np.eye(len(Z)) + Z @ G @ Z.T


@pytest.mark.parametrize("formula", [BOTH, f"y ~ x + (1 + x | {MM})"])
def test_estimates_are_those_of_dense_matrices(formula):
    fit = fitted(formula)
    Z, G, V = dense(fit)
    data = members()
    share = (data.w1 / (data.w1 + data.w2)).to_numpy() if "w1" in formula else np.full(120, 0.5)
    indicators = [pd.get_dummies(data[c]).to_numpy(dtype=float) for c in ("a", "b")]
    wanted = share[:, None] * indicators[0] + (1 - share)[:, None] * indicators[1]
    np.testing.assert_allclose(Z[:, :16:2], wanted, atol=1e-15)
    np.testing.assert_allclose(Z[:, 1:16:2], wanted * data.x.to_numpy()[:, None], atol=1e-15)
    X, r = fit.design.X, fit.design.y - fit.design.X @ fit.fixef().to_numpy()
    inverse = np.linalg.inv(V)
    np.testing.assert_allclose(X.T @ inverse @ r, 0.0, atol=1e-9)
    np.testing.assert_allclose(
        np.concatenate([b.ravel() for b in fit.estimate.modes]), G @ Z.T @ inverse @ r, atol=1e-10
    )
    theta = fit.theta.to_numpy()
    method = fit._method
    gradient, hessian = (f(fit.problem, theta * 1.1) for f in (method.gradient, method.hessian))
    for i, unit in enumerate(np.eye(len(theta)) * 1e-5):
        near = [method.objective(fit.problem, theta * 1.1 + s * unit) for s in (1, -1)]
        assert gradient[i] == pytest.approx((near[0] - near[1]) / 2e-5, rel=1e-6, abs=1e-5)
        near = [method.gradient(fit.problem, theta * 1.1 + s * unit) for s in (1, -1)]
        np.testing.assert_allclose(hessian[i], (near[0] - near[1]) / 2e-5, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("formula", [f"y ~ x + (1 | {WEIGHTED}) + (1 | g)", f"y ~ x + (1 | {MM})"])
def test_kenward_rogers_matrices_are_those_of_dense_ones(formula):
    fit = fitted(formula)
    parts = [(term.Z @ term.Z.T).toarray() for term in fit.design.terms]
    ZGZ = sum(t**2 * own for t, own in zip(fit.theta, parts, strict=True))
    found = kenward_roger(fit.problem, fit.estimator, fit.estimate)
    wanted = _kenward_roger(fit, [*parts, np.eye(len(ZGZ))], ZGZ)
    np.testing.assert_allclose(found.cov, wanted, rtol=1e-6)
    kr, satterthwaite = (
        fit.coef_table(ddf=how)["df"].to_numpy() for how in ("kenward-roger", "satterthwaite")
    )
    np.testing.assert_allclose(kr, satterthwaite, rtol=0.1)


def test_the_laplace_approximation_is_that_of_dense_matrices():
    fit = counted()
    X, (Z, G, _) = fit.design.X, dense(fit)
    y, b = fit.design.y, np.concatenate([b.ravel() for b in fit.estimate.modes])
    mu = np.exp(X @ fit.fixef().to_numpy() + Z @ b)
    precision = np.linalg.inv(G)
    np.testing.assert_allclose(Z.T @ (y - mu), precision @ b, atol=1e-5)
    H = Z.T @ (mu[:, None] * Z)
    value = (y * np.log(mu) - mu - gammaln(y + 1)).sum() - 0.5 * b @ precision @ b
    value -= 0.5 * np.linalg.slogdet(np.eye(len(G)) + G @ H)[1]
    assert fit.llf == pytest.approx(value, abs=1e-7)
    assert fit.convergence.converged
    leverages = mu * np.einsum("ij,jk,ik->i", Z, np.linalg.inv(H + precision), Z)
    assert leverages.max() < fit.leverage().max() < 1.0
    model = joint.make_model(fit.problem, "log")
    rows = joint.make_row_data(fit.problem, fit.fixef().to_numpy(), np.eye(2))
    eta = joint.predictor(rows, np.zeros(2), [m.T for m in fit.estimate.modes])
    np.testing.assert_allclose(np.exp(eta), mu, rtol=1e-6)
    assert model.p == 2


def test_the_restricted_laplace_approximation_is_that_of_dense_matrices():
    formula = f"count ~ x + (1 | {WEIGHTED}) + (1 | g)"
    fit = lmm.glmer(formula, members(), family="poisson", REML=True)
    X, (Z, G, _) = fit.design.X, dense(fit)
    y, b = fit.design.y, np.concatenate([b.ravel() for b in fit.estimate.modes])
    mu = np.exp(X @ fit.fixef().to_numpy() + Z @ b)
    W, precision = np.column_stack([X, Z]), np.linalg.inv(G)
    H = W.T @ (mu[:, None] * W)
    H[2:, 2:] += precision
    value = (y * np.log(mu) - mu - gammaln(y + 1)).sum() - 0.5 * b @ precision @ b
    value -= 0.5 * (np.linalg.slogdet(H)[1] + np.linalg.slogdet(G)[1]) - np.log(2 * np.pi)
    assert fit.llf == pytest.approx(value, abs=1e-6)


def test_predictions_and_their_errors():
    fit, data = fitted(BOTH), members()
    X, (Z, G, _) = fit.design.X, dense(fit)
    np.testing.assert_allclose(fit.predict(data), fit.fittedvalues, rtol=1e-12)
    C = np.linalg.inv(np.block([[X.T @ X, X.T @ Z], [Z.T @ X, Z.T @ Z + np.linalg.inv(G)]]))
    W = np.column_stack([X, Z])
    wanted = fit.estimate.sigma * np.sqrt(np.einsum("ij,jk,ik->i", W, C, W))
    np.testing.assert_allclose(fit.predict(data, se_fit=True)["se"], wanted, rtol=1e-7)
    # a member that is new, with effect zero and the variance of its share; one twice; one missing
    new = data.head(3).assign(a=["elsewhere", data.b[1], None], b=data.b[:3])
    found = fit.predict(new, se_fit=True, allow_new_levels=True)
    term, modes = fit.design.terms[0], fit.estimate.modes[0]
    of = dict(zip(term.levels, modes, strict=True))
    z = np.column_stack([np.ones(3), data.x[:3]])
    share = (data.w2 / (data.w1 + data.w2))[:3].to_numpy()
    shares = np.array([share[0], 1.0, 1.0])
    rest = fit.predict(new, re_form="~ (1 | g)")
    effects = np.array([z[i] @ of[data.b[i]] for i in range(3)])
    np.testing.assert_allclose(found["fit"] - rest, shares * effects, atol=1e-12)
    old = fit.predict(data.head(1).assign(a=data.b[0]), se_fit=True)["se"].iloc[0]
    T = fit.estimate.factors[0]
    rows = W[:1].copy()
    rows[:, 2:18] = 0.0
    at = 2 + 2 * list(term.levels).index(data.b[0])
    rows[0, at : at + 2] = share[0] * z[0]
    variance = rows[0] @ C @ rows[0] + (1 - share[0]) ** 2 * np.sum((z[0] @ T) ** 2)
    assert found["se"].iloc[0] == pytest.approx(fit.estimate.sigma * np.sqrt(variance), rel=1e-7)
    assert old < found["se"].iloc[0]
    with pytest.raises(
        PredictionError, match=r"'mm\(a, b\)' has 1 new level in newdata: 'elsewhere'"
    ):
        fit.predict(new)
    assert np.isnan(fit.predict(data.head(1).assign(a=None, b=None))).all()
    np.testing.assert_allclose(
        fit.predict(data.head(2), re_form=f"~ (1 + x | {MM})"),
        fit.predict(data.head(2), re_form=f"~ (1 + x | {WEIGHTED})"),
    )
    bands = [
        fit.predict(rows, re_form=False, interval="prediction")
        for rows in (data.head(4), data.head(4).drop(columns=["a", "b"]))
    ]
    widths = [(own["upper"] - own["lower"]).to_numpy() for own in bands]
    np.testing.assert_allclose(widths[0], widths[1], rtol=0.2)


def test_missing_members_are_left_out_and_weigh_nothing():
    data = members().copy()
    data.loc[::4, "b"] = None
    alone = lmm.lmer(f"y ~ x + (1 | {MM})", data)
    assert alone.nobs == 120
    filled = data.assign(b=data.b.fillna("nobody"), w1=1.0, w2=data.b.notna().astype(float))
    again = lmm.lmer(f"y ~ x + (1 | {WEIGHTED})", filled)
    assert again.llf == pytest.approx(alone.llf, abs=1e-9)
    assert "nobody" not in again.ranef()[MM].index
    weights = data.assign(w2=data.w2.where(data.b.notna()))
    assert lmm.lmer(f"y ~ x + (1 | {WEIGHTED})", weights).nobs == 120
    data.loc[:7, ["a", "b"]] = None
    assert lmm.lmer(f"y ~ x + (1 | {MM})", data).nobs == 112
    with pytest.raises(DataError, match=r"missing values in 'mm\(a, b\)' \(8 rows\)"):
        lmm.lmer(f"y ~ x + (1 | {MM})", data, na_action="fail")
    weights.loc[3, "w1"] = np.nan
    assert lmm.lmer(f"y ~ x + (1 | {WEIGHTED})", weights).nobs == 119


def test_a_fit_depends_neither_on_the_order_of_members_nor_on_labels_or_units():
    fit, data = fitted(BOTH), members()
    turned = data.rename(columns={"a": "b", "b": "a", "w1": "w2", "w2": "w1"})
    numbers = {name: 10 * j + 3 for j, name in enumerate(sorted(set(data.a)))}
    coded = data.assign(a=data.a.map(numbers), b=data.b.map(numbers).astype(float))
    kinds = pd.CategoricalDtype(sorted(set(data.a))[::-1] + ["none"])
    declared = data.assign(a=data.a.astype(kinds), b=data.b.astype(kinds))
    units = data.assign(w1=data.w1 * 7.0, w2=data.w2 * 7.0)
    for other in (turned, coded, declared, units, data.sample(frac=1.0, random_state=1)):
        again = lmm.lmer(BOTH, other)
        assert again.llf == pytest.approx(fit.llf, abs=1e-8)
        np.testing.assert_allclose(again.theta, fit.theta, rtol=1e-4)
    again = lmm.lmer(BOTH, declared)
    assert list(again.ranef()[MM].index) == sorted(set(data.a))[::-1]
    # both members one school: an ordinary factor
    same = data.assign(b=data.a)
    one, ordinary = lmm.lmer(f"y ~ x + (1 + x | {MM})", same), lmm.lmer("y ~ x + (1 + x | a)", same)
    assert one.llf == pytest.approx(ordinary.llf, abs=1e-8)
    np.testing.assert_allclose(one.ranef()[MM], ordinary.ranef()["a"], atol=1e-5)
    # without rows in common, adding two factors' effects is a joint factor with weights of one
    apart = data.assign(b="district " + data.g.astype(str))
    joined = lmm.lmer("y ~ x + (1 | mm(a, b, weights=cbind(1, 1), scale=FALSE))", apart)
    Z = joined.design.Z.toarray()
    assert Z.shape[1] == 14 and (Z.sum(axis=1) == 2.0).all()


def test_tables_tests_and_intervals():
    fit = fitted(BOTH)
    assert list(fit.ranef()[MM].index) == sorted(set(members().a))
    assert MM in str(fit.summary()) and "mm(a, b), 8" in str(fit.summary())
    wald, profile = fit.confint(method="wald"), fit.confint(method="profile")
    assert list(wald.index) == list(profile.index) and profile.notna().all(axis=None)
    assert fit.tidy(effects="ran_vals")["std_error"].gt(0.0).all()
    plain = fitted(f"y ~ x + (1 | {WEIGHTED}) + (1 | g)")
    tested = plain.ranova()
    assert len(tested) == 3 and (tested["lrt"].iloc[1:] > 10.0).all()
    assert 0.0 < plain.r2()["marginal"] < plain.r2()["conditional"] < 1.0
    assert str(plain.update(". ~ . - x").formula) == f"y ~ (1 | {WEIGHTED}) + (1 | g)"
    with pytest.raises(
        ArgumentError, match="ddf='between_within' needs levels whose rows are their own"
    ):
        fitted(f"y ~ x + (1 | {MM})").coef_table(ddf="between_within")


def test_simulations_refits_and_copies(tmp_path):
    fit, data = fitted(f"y ~ x + (1 | {WEIGHTED}) + (1 | g)"), members()
    _, _, V = dense(fit)
    Y = fit.simulate(400, rng=3)
    spread = Y.sub(fit.predict(re_form=False), axis=0).var(axis=1)
    assert (spread / (fit.estimate.sigma**2 * np.diagonal(V))).mean() == pytest.approx(
        1.0, abs=0.05
    )
    several = fit.refit_many(Y.iloc[:, :4])
    responses = Y.iloc[:, :4].copy()
    responses.iloc[7, 3] = np.nan
    batch = lmm.lmer_batch(f"~ x + (1 | {WEIGHTED}) + (1 | g)", data, responses)
    for i in range(4):
        one = fit.refit(Y.iloc[:, i])
        assert several["llf"].iloc[i] == pytest.approx(one.llf, abs=1e-6)
        if i == 3:
            without = data.assign(y=responses.iloc[:, 3])
            one = lmm.lmer(f"y ~ x + (1 | {WEIGHTED}) + (1 | g)", without)
        assert batch.llf[i] == pytest.approx(one.llf, abs=1e-6)
    for kind in ("parametric", "semiparametric", "cases"):
        boot = fit.bootstrap(6, kind=kind, rng=1)
        assert not len(boot.failures) and (boot.replicates[f"sd_(Intercept)|{MM}"] > 0.0).all()
    rows = fit.influence("row").estimates
    left = lmm.lmer(f"y ~ x + (1 | {WEIGHTED}) + (1 | g)", data.drop(index=5))
    np.testing.assert_allclose(rows.loc[5, ["Intercept", "x"]], left.fixef(), rtol=1e-5)
    assert len(fit.influence("group").estimates) == 6
    with pytest.raises(
        ArgumentError, match=r"influence by level needs levels whose rows are their own"
    ):
        fit.influence(MM)
    alone = fitted(f"y ~ x + (1 | {MM})")
    assert len(alone.refit_many(Y.iloc[:, :2])) == 2
    for ask in (lambda: alone.influence("group"), lambda: alone.bootstrap(3, kind="cases")):
        with pytest.raises(ArgumentError, match="no grouping factor has levels that stand alone"):
            ask()
    fit.save(tmp_path / "fit.lmm")
    for copy in (pickle.loads(pickle.dumps(fit)), lmm.load(tmp_path / "fit.lmm")):
        np.testing.assert_array_equal(copy.predict(data.head(3)), fit.predict(data.head(3)))
        np.testing.assert_array_equal(copy.simulate(1, rng=2), fit.simulate(1, rng=2))


def test_generalized_fits_are_simulated_refitted_and_predicted():
    fit, data = counted(), members()
    np.testing.assert_allclose(fit.predict(data), fit.fittedvalues, rtol=1e-9)
    assert len(fit.refit_many(fit.simulate(2, rng=1))) == 2
    one = lmm.glmer(f"count ~ x + (1 | {MM})", data, family="poisson")
    assert len(one.refit_many(one.simulate(2, rng=1))) == 2
    marginal = one.predict(data.head(2), re_form=False, marginal=True)
    sd = one.varcorr().to_frame()["sdcor"].iloc[0]
    population = one.predict(data.head(2), re_form=False)
    np.testing.assert_allclose(marginal / population, np.exp(0.5 * sd**2 / 2.0), rtol=1e-6)
    with pytest.raises(
        ArgumentError, match=r"nAGQ=5 needs levels whose rows are their own.*mm\(a, b\)"
    ):
        lmm.glmer(f"count ~ x + (1 | {MM})", data, family="poisson", nAGQ=5)


@pytest.mark.parametrize(
    ("term", "kind", "message"),
    [
        ("mm(a)", FormulaError, "takes two or more grouping columns"),
        ("mm(a, a)", FormulaError, "has the member a twice"),
        ("mm(a, b, weights=cbind(w1))", FormulaError, "has 2 members and 1 weights"),
        ("mm(a, b, weights=w1)", FormulaError, "one column for each member, weights=cbind"),
        ("mm(a, b, by=g)", FormulaError, "has no argument 'by'"),
        ("mm(a, b, scale=2)", FormulaError, "scale is TRUE or FALSE, not 2"),
        ("mm(a, b, scale=FALSE)", FormulaError, "weights as they are, and there are none"),
        ("mm(a, b, )", FormulaError, "has an empty argument"),
        ("mm(a, b):g", FormulaError, "stands alone right of a bar"),
        ("g/mm(a, b)", FormulaError, "stands alone right of a bar"),
        ("mm(a, c)", DataError, "column 'c' is not in the data"),
        ("mm(a, g)", GroupingError, "a holds text and g holds numbers"),
        ("mm(a, b, weights=cbind(w1, -w2))", DataError, "negative in 120 rows.*scale=FALSE"),
        ("mm(a, b, weights=cbind(w1, a))", DataError, "weight a must be numeric, but it is text"),
        ("mm(a, b, weights=cbind(0, 0))", DataError, "all weights are zero in 120 rows"),
        ("mm(a, b, weights=cbind(w1, 1/(w2 - 1)))", DataError, "missing or infinite in 60 rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_used_is_named(term, kind, message):
    with pytest.raises(kind, match=message):
        lmm.lmer(f"y ~ x + (1 | {term})", members())


def test_what_does_not_take_several_levels_says_so():
    data = members()
    with pytest.raises(DataError, match="stands right of a bar"):
        lmm.lmer("y ~ mm(a, b) + (1 | g)", data)
    with pytest.raises(
        ArgumentError, match="VariationalBayes needs levels whose rows are their own"
    ):
        lmm.lmer(f"y ~ x + (1 | {MM})", data, method="vi")
    with pytest.raises(ArgumentError, match="residual= needs levels whose rows are their own"):
        lmm.lmer(f"y ~ x + (1 | {MM})", data, residual="diag(g)")
    with pytest.raises(ArgumentError, match="covariance= needs levels whose rows are their own"):
        K = pd.DataFrame(np.eye(6), index=range(6), columns=range(6))
        lmm.lmer(f"y ~ x + (1 | {MM}) + (1 | g)", data, covariance={"g": K})
    sizes = (TermSize(MM, 1, 30_000, several=True), TermSize("g", 1, 10))
    with pytest.raises(CapacityError, match=r"mm\(a, b\) \(30000 levels\).*stops at 20000"):
        make_plan(sizes, {(0, 1): False})
    with pytest.raises(CapacityError, match="conjugate gradients do not take such terms"):
        lmm.lmer(f"y ~ x + (1 | {MM})", data, control=lmm.Control(factorization="iterative"))
    with pytest.raises(GroupingError, match="has one level"):
        lmm.lmer(f"y ~ x + (1 | {MM})", data.assign(a="s", b="s"))
    assert build_design(f"y ~ x + (1 | {MM})", data).terms[0].several
