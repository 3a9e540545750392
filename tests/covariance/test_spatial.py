"""Correlations by distance: identities, and fits through everything that a fit offers."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.covariance import STRUCTURES
from lmm.covariance.spatial import Spatial
from lmm.errors import ArgumentError, FormulaError
from lmm.inference.tests.kenward_roger import kenward_roger
from tests.covariance.test_new_structure import _kenward_roger

WORDS = ("ou", "exp", "gau", "mat")
TIMES = np.array([0.0, 1.0, 2.0, 4.0, 7.0, 8.0])
each = pytest.mark.parametrize("word", WORDS)


def structure_of(word: str, k: int) -> Spatial:
    rng = np.random.default_rng([k, len(word)])
    points = rng.uniform(size=(k, 1 if word == "ou" else 2))
    return STRUCTURES[word](tuple(map(tuple, points.tolist())))  # type: ignore[call-arg,return-value]


@pytest.mark.parametrize("k", [3, 6])
@each
def test_derivatives_and_the_way_back(word, k):
    structure = structure_of(word, k)
    theta = 0.5 * np.random.default_rng(k).normal(size=structure.n_theta)
    G = structure.covariance(theta)
    for value, slope in (
        (structure.factor, structure.jacobian),
        (structure.jacobian, structure.second),
        (structure.covariance, structure.covariance_slopes),
        (structure.covariance_slopes, structure.covariance_bends),
        (lambda own: structure.report(own)[0], lambda own: structure.report(own)[1].T),
    ):
        numeric = [(value(theta + e) - value(theta - e)) / 2e-6 for e in 1e-6 * np.eye(len(theta))]
        np.testing.assert_allclose(slope(theta), numeric, atol=5e-8)
    np.testing.assert_allclose(structure.covariance(structure.from_matrix(G)), G, atol=1e-9)
    np.testing.assert_allclose(structure.matrix(structure.describe(G)), G, atol=1e-9)
    canonical = structure.canonical(theta)
    np.testing.assert_allclose(structure.report(canonical)[0], structure.describe(G), rtol=1e-5)
    if word != "mat":
        sd = np.abs(theta[:1])
        L = structure.constrain(sd, structure.partials(G / sd**2), np)
        np.testing.assert_allclose(L @ L.T, G, atol=1e-9)


@each
def test_ranges_of_any_size_have_a_factor(word):
    structure = structure_of(word, 6)
    for log_range in (-500.0, -30.0, 30.0, 500.0):
        theta = np.full(structure.n_theta, log_range)
        theta[0] = 1.0
        assert np.isfinite(structure.factor(theta)).all()
        assert np.isfinite(structure.jacobian(theta)).all()


def data(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    J, k = 50, len(TIMES)
    g, place = np.repeat(np.arange(J), 2 * k), np.tile(np.repeat(np.arange(k), 2), J)
    R = np.exp(-np.abs(np.subtract.outer(TIMES, TIMES)) / 3.0)
    b = 1.2 * rng.normal(size=(J, k)) @ np.linalg.cholesky(R).T
    x = rng.normal(size=len(g))
    frame = pd.DataFrame({"x": x, "g": g, "week": TIMES[place]})
    frame["y"] = 1.0 + 0.5 * x + b[g, place] + 0.7 * rng.normal(size=len(g))
    frame["count"] = rng.poisson(np.exp(0.2 + 0.2 * x + 0.5 * b[g, place]))
    return frame


@each
def test_likelihood_and_kenward_roger_are_those_of_dense_matrices(word):
    frame = data().iloc[:240]
    fit = lmm.lmer(f"y ~ x + {word}(week | g)", frame)
    theta, z, X = fit.theta.to_numpy(), fit.design.terms[0].values, fit.design.X
    structure = fit.design.terms[0].structure
    same = frame["g"].to_numpy()[:, None] == frame["g"].to_numpy()
    ZGZ = same * (z @ structure.covariance(theta) @ z.T)
    V = fit.sigma**2 * (ZGZ + np.eye(len(z)))
    inverse = np.linalg.inv(V)
    r = frame["y"].to_numpy() - X @ fit.fixef().to_numpy()
    n, p = X.shape
    expected = (
        np.linalg.slogdet(V)[1]
        + np.linalg.slogdet(X.T @ inverse @ X)[1]
        + r @ inverse @ r
        + (n - p) * np.log(2.0 * np.pi)
    )
    assert -2.0 * fit.llf == pytest.approx(expected, abs=1e-7)
    directions = [same * (z @ dG @ z.T) for dG in structure.directions(theta)]
    found = kenward_roger(fit.problem, fit.estimator, fit.estimate)
    np.testing.assert_allclose(
        found.cov, _kenward_roger(fit, [*directions, np.eye(n)], ZGZ), rtol=1e-6
    )


def test_ou_is_exp_of_one_coordinate_and_ar1_of_equal_steps():
    frame = data()
    one, other = (lmm.lmer(f"y ~ x + {word}(week | g)", frame) for word in ("ou", "exp"))
    assert one.llf == pytest.approx(other.llf, abs=1e-10)
    frame = frame[frame["week"] <= 2.0]
    equal = lmm.lmer("y ~ x + ou(week | g)", frame)
    ar1 = lmm.lmer("y ~ x + ar1(0 + factor(week) | g)", frame)
    assert equal.llf == pytest.approx(ar1.llf, abs=1e-8)
    range_ = equal.varcorr().to_frame()["sdcor"][1]
    assert np.exp(-1.0 / range_) == pytest.approx(ar1.varcorr().to_frame()["sdcor"][1], abs=1e-5)


def test_the_order_of_rows_and_shifts_of_the_origin_do_not_matter():
    frame = data()
    fit = lmm.lmer("y ~ x + mat(week | g)", frame)
    mixed = frame.sample(frac=1.0, random_state=1)
    mixed["week"] += 100.0
    again = lmm.lmer("y ~ x + mat(week | g)", mixed)
    assert again.llf == pytest.approx(fit.llf, abs=1e-8)
    np.testing.assert_allclose(
        again.varcorr().to_frame()["sdcor"], fit.varcorr().to_frame()["sdcor"], rtol=1e-4
    )


@each
def test_everything_that_a_fit_offers(word, tmp_path):
    frame = data()
    fit = lmm.lmer(f"y ~ x + {word}(week | g)", frame, REML=False)
    names = [f"{q.kind}|g" for q in fit.design.terms[0].structure.quantities()]
    wald, profile = fit.confint(method="wald"), fit.confint(method="profile")
    assert wald.index[: len(names)].tolist() == names
    assert (profile["lower"] < profile["upper"]).all()
    assert (wald.loc["range|g"] > 0.0).all()
    width = (wald["upper"] - wald["lower"]).to_numpy()[:, None]
    assert np.abs((profile - wald) / width)[: 2 if word != "mat" else 1].max().max() < 0.3
    rows = fit.tidy(effects="ran_pars")
    assert rows["std_error"].notna().all()
    assert rows["term"].tolist() == [*(name[:-2] for name in names), "sd__Observation"]
    assert "range" in str(fit.summary())
    np.testing.assert_allclose(fit.predict(frame), fit.fittedvalues, rtol=1e-9)
    np.testing.assert_allclose(
        fit.predict(frame, re_form=f"~ {word}(week | g)"), fit.fittedvalues, rtol=1e-9
    )
    new = frame.assign(week=3.3)
    assert np.isfinite(fit.predict(new)).all()
    assert fit.ranef()["g"].columns.tolist()[:2] == ["week[0]", "week[1]"]
    assert np.isfinite(fit.bootstrap(3, rng=1).to_frame().to_numpy(dtype=float)).all()
    Y = fit.simulate(2, rng=1, parameters={"range|g": 2.0})
    again = lmm.lmer_batch(f"~ x + {word}(week | g)", frame, Y, REML=False)
    one = fit.refit(Y.iloc[:, 0])
    np.testing.assert_allclose(again.theta[0], one.theta.to_numpy(), atol=2e-3)
    assert pickle.loads(pickle.dumps(fit)).theta.equals(fit.theta)
    fit.save(tmp_path / "fit.lmm")
    np.testing.assert_allclose(lmm.load(tmp_path / "fit.lmm").predict(frame), fit.fittedvalues)
    general = lmm.glmer(f"count ~ x + {word}(week | g)", frame, family="poisson")
    assert general.estimate.convergence.converged


def test_one_group_of_all_rows():
    rng = np.random.default_rng(3)
    at = rng.uniform(size=(40, 2))
    d = np.sqrt(((at[:, None] - at[None]) ** 2).sum(axis=-1))
    b = np.linalg.cholesky(np.exp(-d / 0.3)) @ rng.normal(size=40)
    place = np.tile(np.arange(40), 4)
    frame = pd.DataFrame({"lat": at[place, 0], "lon": at[place, 1], "y": b[place]})
    frame["y"] += 0.5 * rng.normal(size=len(frame))
    fit = lmm.lmer("y ~ 1 + exp(lat + lon | 1)", frame)
    assert fit.estimate.convergence.converged
    assert fit.ranef()["1"].shape == (1, 40)
    assert str(lmm.formula.parse("y ~ exp(lat + lon | 1)")) == "y ~ exp(lat + lon | 1)"
    np.testing.assert_allclose(fit.predict(frame), fit.fittedvalues, rtol=1e-9)
    many = lmm.lmer("y ~ 1 + exp(lat + lon | g)", frame.assign(g=np.arange(160) % 2))
    assert many.estimate.convergence.converged


def test_an_intercept_beside_positions_names_its_own_parameters():
    fit = lmm.lmer("y ~ x + (1 | g) + ou(week | g)", data(2))
    names = fit.confint(method="wald").index.tolist()
    assert names[:3] == ["sd_(Intercept)|g", "sd_week|g", "range_week|g"]


@pytest.mark.slow
def test_the_sampler_and_variational_bayes_take_ranges():
    pytest.importorskip("blackjax")
    frame = data()[lambda d: d["week"] <= 2.0]
    likelihood = lmm.lmer("y ~ x + exp(week | g)", frame, REML=False).varcorr().to_frame()["sdcor"]
    method = lmm.NUTS(draws=200, warmup=200, chains=2, rng=1)
    fit = lmm.lmer("y ~ x + exp(week | g)", frame, method=method)
    assert {"sd|g", "range|g"} <= set(fit.draws.to_frame().columns)
    np.testing.assert_allclose(fit.varcorr().to_frame()["sdcor"], likelihood, rtol=0.2)
    with pytest.raises(ArgumentError, match="positions of g that the fit never saw"):
        fit.predict(frame.assign(week=0.3))
    assert np.isfinite(fit.predict(frame.assign(week=0.3), re_form=False)).all()
    pytest.importorskip("optax")
    near = lmm.lmer("y ~ x + exp(week | g)", frame, method="vi").varcorr().to_frame()["sdcor"]
    np.testing.assert_allclose(near, likelihood, rtol=0.1)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ x + ou(week + x | g)", "ou takes one coordinate, not 2"),
        ("y ~ x + exp(text | g)", "text is no number; exp takes coordinates"),
        ("y ~ x + exp(constant | g)", "has 1 distinct position; exp needs at least 2"),
        ("y ~ x + (week | 1)", "one group of all rows"),
        ("y ~ x + cs(0 + text | 1)", "one group of all rows"),
    ],
)
def test_what_cannot_be_coordinates_is_refused(formula, message):
    frame = data().assign(text="a", constant=1.0)
    frame.loc[::2, "text"] = "b"
    with pytest.raises(FormulaError, match=message):
        lmm.lmer(formula, frame)


@pytest.mark.parametrize(
    ("residual", "criterion"),
    [
        ("ou(VISITN | USUBJID)", 3875.953524),  # nlme's corAR1; SAS stops at 3875.953534
        ("exp(VISITN + VISITN2 | USUBJID)", 3894.949434),  # SAS sp(exp)
        ("gau(VISITN | USUBJID)", 3871.0583),  # SAS sp(gau)
    ],
)
def test_residuals_over_coordinates_have_the_likelihood_of_sas(residual, criterion):
    """SAS stops where its criterion changes by 1e-8 relatively, so that the fifth digit after the point may differ."""
    data = lmm.datasets.load("fev")
    fit = lmm.lmer("FEV1 ~ 1", data, residual=residual, REML=False)
    assert -2.0 * fit.llf == pytest.approx(criterion, abs=5e-5)


def test_the_range_of_residuals_has_a_profile():
    fit = lmm.lmer("FEV1 ~ 1", lmm.datasets.load("fev"), residual="ou(VISITN | USUBJID)")
    lower, upper = fit.confint(method="profile").loc["range|Residual"]
    assert 0.8 < lower < 1.17 < upper < 1.6


@pytest.mark.parametrize("term", ["ou(week | g)", "exp(week | 1)", "ar1(0 + factor(week) | 1)"])
def test_data_read_in_chunks_are_refused_where_the_columns_need_all_rows(term, tmp_path):
    data().to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ArgumentError, match="needs the rows in memory"):
        lmm.lmer(f"y ~ x + {term}", str(tmp_path / "rows.parquet"))


def places(word: str) -> tuple[pd.DataFrame, str]:
    """Rows of three groups at positions of a line, or of a plane, and the term."""
    rng, n = np.random.default_rng(3), 120
    g, x = np.repeat(np.arange(3), 40), rng.normal(size=n)
    lat, lon = rng.integers(0, 5, n) / 2.0, rng.integers(0, 3, n) * 0.7
    effects = rng.normal(size=(3, 5, 3))
    effects = effects + np.roll(effects, 1, axis=1) + np.roll(effects, 1, axis=2)
    eta = 0.5 * x + effects[g, (2 * lat).astype(int), 0 if word == "ou" else (lon / 0.7).astype(int)]  # fmt: skip
    frame = pd.DataFrame({"g": g, "x": x, "lat": lat, "lon": lon, "y": eta + 0.4 * rng.normal(size=n)})  # fmt: skip
    frame["count"] = rng.poisson(np.exp(0.4 + 0.6 * eta))
    return frame, f"{word}({'lat' if word == 'ou' else 'lat + lon'} | g)"


@pytest.mark.parametrize(("word", "general"), [("ou", False), ("exp", True), ("exp", False), ("gau", True), ("mat", False)])  # fmt: skip
def test_effects_at_new_positions_are_their_conditional_means(word, general):
    """Those of a model of the same parameters in which the new positions are columns too, which no row has."""
    frame, term = places(word)
    if general:
        fit = lmm.glmer(f"count ~ x + (0 + x | g) + {term}", frame, family="poisson")
    else:
        fit = lmm.lmer(f"y ~ x + (0 + x | g) + {term}", frame)
    new = pd.DataFrame({"g": [0, 1, 7, 2], "x": 0.3, "lat": [0.2, 9.0, 0.7, 0.5], "lon": [0.1, 0.0, 0.4, 0.7]})  # fmt: skip
    found = fit.predict(new, type="link" if general else "response", se_fit=True, allow_new_levels=True)  # fmt: skip
    structure = fit.design.terms[0].structure.sides()[1]
    theta = fit.theta.to_numpy()
    own = new[["lat", "lon"]].to_numpy()[:, : len(structure.points[0])]
    fresh = [tuple(p) for p in own if tuple(p) not in structure.points]
    every = type(structure)((*structure.points, *dict.fromkeys(fresh)))
    k, old = every.k + 1, structure.k + 1
    root = np.zeros((k, k))
    values, vectors = np.linalg.eigh(every.covariance(theta[1:]))
    root[0, 0], root[1:, 1:] = theta[0], vectors * np.sqrt(np.maximum(values, 0.0))
    root = np.kron(np.eye(4), root)  # a fourth group without rows
    X, Z = fit.design.X, np.zeros((len(frame), 4 * k))
    small = fit.design.Z.toarray()
    z = np.zeros((4, 4 * k))
    for j in range(3):
        Z[:, j * k : j * k + old] = small[:, j * old : (j + 1) * old]
    for i, (group, point) in enumerate(zip((0, 1, 3, 2), own, strict=True)):
        z[i, group * k] = new["x"][i]
        z[i, group * k + 1 + every.points.index(tuple(point))] = 1.0
    eta = fit.predict(type="link" if general else "response").to_numpy()
    mu, scale = (np.exp(eta), 1.0) if general else (np.ones(len(eta)), float(fit.sigma))
    rows = np.column_stack([X, Z @ root])
    H = rows.T @ (mu[:, None] * rows)
    H[2:, 2:] += np.eye(4 * k)
    score = rows.T @ (fit.design.y - (np.exp(eta) if general else eta))  # zero, and u, at the modes
    u = np.concatenate([fit.fixef().to_numpy(), score[2:]])
    wanted = np.column_stack([np.ones(4), new["x"], z @ root])
    np.testing.assert_allclose(found["fit"], wanted @ u, atol=2e-4 if general else 1e-7)
    errors = scale * np.sqrt(np.einsum("ij,ij->i", wanted, np.linalg.solve(H, wanted.T).T))
    np.testing.assert_allclose(found["se"], errors, rtol=1e-5)
    apart = fit.predict(new, re_form="~ (0 + x | g)", allow_new_levels=True, type="link" if general else "response")  # fmt: skip
    assert (apart != found["fit"])[[0, 3]].all()
    population = fit.predict(new, re_form=False, interval="prediction")
    assert (population["upper"] > population["lower"]).all()


def test_new_positions_beside_other_predictors():
    """One beside a position of the fit has its effect, one far from all that of the population."""
    frame, term = places("ou")
    frame["count"] *= np.arange(len(frame)) % 5 > 0
    fit = lmm.glmer(f"count ~ x + {term}", frame, family="poisson", ziformula="~ 1")
    new = frame.head(3)
    here, beside, far = (
        fit.predict(own, type="link", se_fit=True)
        for own in (new, new.assign(lat=new["lat"] + 1e-8), new.assign(lat=500.0))
    )
    np.testing.assert_allclose(beside, here, atol=1e-5)
    np.testing.assert_allclose(far["fit"], fit.predict(new, type="link", re_form=False), atol=1e-10)
    fixed = fit.predict(new, type="link", re_form=False, se_fit=True)["se"]
    sd = fit.varcorr().to_frame()["sdcor"].iloc[0]
    np.testing.assert_allclose(far["se"], np.hypot(fixed, sd), rtol=0.05)
