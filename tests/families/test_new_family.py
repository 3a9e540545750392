"""A family that the package does not have goes, as one class of forty lines, through everything that a fit offers."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import special

import lmm
from lmm.families import Family
from lmm.families.base import Array, Weights, check_counts, ones, weighted_constant
from lmm.families.namespace import namespace


class Geometric(Family):
    """Failures before the first success: log f = y log(mu) - (y + 1) log(1 + mu), c = log mu."""

    name = title = "geometric"
    default_link = "log"
    link_names = ("log",)
    discrete = in_jax = slopes_in_jax = batched = True
    merges = "sums"

    def _kernel(self, y: Array, c: Array, w: Array | float, phi: float) -> Array:
        return w * (y * c - (y + 1.0) * namespace(c).xp.log1p(namespace(c).xp.exp(c)))

    def _score(
        self, y: Array, c: Array, w: Array | float, phi: float
    ) -> tuple[Array, Array, Array]:
        p = 1.0 / (1.0 + namespace(c).xp.exp(-c))
        second = -w * (y + 1.0) * p * (1.0 - p)
        return w * (y - (y + 1.0) * p), second, second * (1.0 - 2.0 * p)

    def _information(
        self, c: Array, w: Array | float, phi: float
    ) -> tuple[Array | float, Array | float]:
        p = 1.0 / (1.0 + np.exp(-c))
        return w * p, w * p * (1.0 - p)

    def constant(self, y: Array, weights: Weights = None, phi: float = 1.0) -> Array:
        return weighted_constant(0.0 * y, weights)

    def variance(self, mu: Array, phi: float = 1.0) -> Array:
        return mu * (1.0 + mu)

    def unit_deviance(
        self, y: Array, mu: Array, weights: Weights = None, phi: float = 1.0
    ) -> Array:
        return (
            2.0
            * ones(weights)
            * (special.xlogy(y, y / mu) - (y + 1.0) * np.log((1.0 + y) / (1.0 + mu)))
        )

    def saturated(self, y: Array, weights: Weights = None, phi: float = 1.0) -> Array:
        return weighted_constant(special.xlogy(y, y) - special.xlogy(y + 1.0, y + 1.0), weights)

    def cdf(self, y: Array, mu: Array, weights: Weights = None, phi: float = 1.0) -> Array:
        return np.where(y < 0, 0.0, 1.0 - (mu / (1.0 + mu)) ** (np.floor(np.maximum(y, 0.0)) + 1.0))

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: float = 1.0
    ) -> Array:
        return rng.geometric(1.0 / (1.0 + mu)).astype(float) - 1.0

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        return y + 0.1

    def _check_support(self, y: Array, name: str) -> None:
        check_counts(y, name, self.name)


FORMULA = "y ~ x + (1|g)"
LEVELS, EACH = 25, 8


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(LEVELS), EACH)
    x = rng.normal(size=len(g))
    mu = np.exp(0.8 + 0.5 * x + 0.7 * rng.normal(size=LEVELS)[g])
    return pd.DataFrame({"y": rng.geometric(1.0 / (1.0 + mu)) - 1, "x": x, "g": g})


@pytest.fixture(scope="module")
def fit(data: pd.DataFrame) -> lmm.Fit:
    return lmm.glmer(FORMULA, data, family=Geometric)


def test_its_density_is_one_over_all_counts_and_its_slopes_are_those_of_differences() -> None:
    family, y, eta = Geometric(), np.arange(4000.0), np.linspace(-2.0, 3.0, 7)
    for at in eta:
        assert np.exp(family.log_density(y, np.full(len(y), at))).sum() == pytest.approx(
            1.0, abs=1e-12
        )
    y, h = np.arange(7.0), 1e-5
    slopes = family.derivatives(y, eta)
    np.testing.assert_allclose(
        (family.kernel(y, eta + h) - family.kernel(y, eta - h)) / (2 * h), slopes.d1, rtol=1e-8
    )
    ahead, back = family.derivatives(y, eta + h), family.derivatives(y, eta - h)
    for order in (0, 1):
        np.testing.assert_allclose(
            (ahead[order] - back[order]) / (2 * h), slopes[order + 1], rtol=1e-7, atol=1e-9
        )


def test_the_likelihood_is_the_integral_over_the_effects_and_no_parameter_beside_has_a_higher_one(
    data: pd.DataFrame,
) -> None:
    fit = lmm.glmer(FORMULA, data, family=Geometric, nAGQ=25)
    z, w = np.polynomial.hermite_e.hermegauss(101)

    def log_likelihood(theta: float, beta: np.ndarray) -> float:
        eta = (beta[0] + beta[1] * data["x"].to_numpy())[:, None] + theta * z
        y = data["y"].to_numpy()[:, None]
        rows = (
            pd.DataFrame(y * eta - (y + 1) * np.logaddexp(0.0, eta))
            .groupby(data["g"].to_numpy())
            .sum()
        )
        return float(np.log(np.exp(rows.to_numpy()) @ (w / np.sqrt(2 * np.pi))).sum())

    theta, beta = float(fit.theta.iloc[0]), fit.fixef().to_numpy()
    assert fit.llf == pytest.approx(log_likelihood(theta, beta), abs=1e-6)
    for step in (-0.02, 0.02):
        assert log_likelihood(theta + step, beta) < fit.llf
        assert log_likelihood(theta, beta + [step, 0.0]) < fit.llf
        assert log_likelihood(theta, beta + [0.0, step]) < fit.llf


def test_laplace_is_that_of_a_negative_binomial_whose_size_is_one(
    fit: lmm.Fit, data: pd.DataFrame
) -> None:
    like = lmm.glmer(FORMULA, data, family="negative_binomial")
    for theta in (0.3, float(fit.theta.iloc[0]), 1.5):
        at = np.array([theta, *fit.fixef()])
        assert fit.objective(at) == pytest.approx(like.objective(np.append(at, 1.0)), abs=1e-8)


def test_tables_and_intervals(fit: lmm.Fit) -> None:
    text = str(fit.summary())
    assert "geometric" in text and "log" in text
    assert fit.tidy()["std_error"].notna().all()
    assert np.isfinite(fit.glance()["deviance"]).all()
    wald, profile = fit.confint(method="wald"), fit.confint(method="profile")
    width = (wald["upper"] - wald["lower"]).to_numpy()[:, None]
    own = wald.index.intersection(["Intercept", "x"])
    assert np.abs((profile - wald).loc[own] / width[-2:]).max().max() < 0.1
    assert fit.drop1().shape[0] == 2
    assert np.isfinite(fit.r2()).all()


def test_rows(fit: lmm.Fit, data: pd.DataFrame) -> None:
    eta = fit.predict(data.head(), type="link").to_numpy()
    np.testing.assert_allclose(fit.predict(data.head(), type="response"), np.exp(eta))
    assert (fit.predict(data.head(), type="link", se_fit=True)["se"] > 0).all()
    y, mu = data["y"].to_numpy(), fit.fittedvalues.to_numpy()
    np.testing.assert_allclose(fit.residuals("pearson"), (y - mu) / np.sqrt(mu * (1.0 + mu)))
    np.testing.assert_allclose(
        np.square(fit.residuals("deviance")).sum(), Geometric().unit_deviance(y, mu).sum()
    )
    assert fit.simulated_residuals(100, rng=1).tests().loc["uniformity", "p_value"] > 1e-3


def test_refits(fit: lmm.Fit, data: pd.DataFrame) -> None:
    Y = fit.simulate(4, rng=3)
    Y.columns = [f"s{i}" for i in range(4)]
    batch, again = lmm.glmer_batch("~ x + (1|g)", data, Y, family=Geometric), fit.refit_many(Y)
    for i in range(4):
        one = lmm.glmer(FORMULA, data.assign(y=Y.iloc[:, i].to_numpy()), family=Geometric)
        np.testing.assert_allclose(batch.theta[i], one.theta, atol=1e-4)
        np.testing.assert_allclose(
            again.iloc[i][["Intercept", "x"]].to_numpy(dtype=float), one.fixef(), atol=1e-4
        )
    assert np.isfinite(fit.bootstrap(10, rng=1).to_frame().to_numpy(dtype=float)).all()
    copy = pickle.loads(pickle.dumps(fit))
    assert copy == fit and str(copy.summary()) == str(fit.summary())


def test_rows_on_devices(fit: lmm.Fit, data: pd.DataFrame) -> None:
    jax = lmm.glmer(FORMULA, data, family=Geometric, control=lmm.Control(backend="jax"))
    np.testing.assert_allclose(jax.fixef(), fit.fixef(), rtol=1e-6)
    assert jax.llf == pytest.approx(fit.llf, abs=1e-8)


@pytest.mark.slow
def test_variational_bayes_and_nuts(fit: lmm.Fit, data: pd.DataFrame) -> None:
    pytest.importorskip("optax")
    pytest.importorskip("blackjax")
    for method in ("vi", lmm.NUTS(chains=2, draws=300, warmup=300)):
        found = lmm.glmer(FORMULA, data, family=Geometric, method=method)
        assert np.abs((found.fixef() - fit.fixef()) / fit.bse).max() < 0.7


def test_it_takes_a_second_predictor(data: pd.DataFrame) -> None:
    """Zeros beyond its own have a predictor, with nothing added to the class."""
    rng = np.random.default_rng(8)
    extra = data.assign(y=np.where(rng.random(len(data)) < 0.25, 0, data["y"]))
    fit = lmm.glmer(FORMULA, extra, family=Geometric, ziformula="~ 1")
    assert fit.convergence.converged
    slope, zeros = fit.fixef()["x"], fit.fixef(component="zi")["Intercept"]
    assert slope == pytest.approx(0.5, abs=0.3) and -3.0 < zeros < 0.0
    # the likelihood is the integral over the effects, by Laplace's approximation
    z, w = np.polynomial.hermite_e.hermegauss(101)
    eta = (fit.fixef()["Intercept"] + slope * extra["x"].to_numpy())[:, None] + fit.theta.iloc[
        0
    ] * z
    y, p = extra["y"].to_numpy()[:, None], special.expit(zeros)
    own = special.xlogy(y, np.exp(eta)) - (y + 1.0) * np.log1p(np.exp(eta))
    rows = np.log(p * (y == 0) + (1.0 - p) * np.exp(own))
    groups = pd.DataFrame(rows).groupby(extra["g"].to_numpy()).sum().to_numpy()
    total = np.log(np.exp(groups) @ w / np.sqrt(2.0 * np.pi)).sum()
    assert fit.llf == pytest.approx(total, abs=0.15)
    assert list(fit.coef_table(component="zi").index) == ["Intercept"]
    assert {"cond", "zi"} == set(fit.tidy(component="all")["component"])
    assert fit.confint("wald", component="zi").shape == (1, 2)
    drawn = fit.simulate(200, rng=1).to_numpy()
    assert (drawn == 0).mean() == pytest.approx((extra["y"] == 0).mean(), abs=0.05)
    again = pickle.loads(pickle.dumps(fit))
    assert again.llf == fit.llf
    assert fit.predict(type="zprob").iloc[0] == pytest.approx(p)
