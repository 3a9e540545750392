"""Default priors: posteriors and bounds do not depend on the units of the data, on where covariates have their zero, or on coding."""

from __future__ import annotations

import warnings
from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("optax")
pytest.importorskip("blackjax")

import lmm  # noqa: E402
from lmm.estimators.from_posterior import prepare  # noqa: E402
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood  # noqa: E402
from lmm.families import Binomial, Gamma, Gaussian, InverseGaussian, NegativeBinomial, Poisson  # noqa: E402
from lmm.model.posterior import posterior_density as density  # noqa: E402
from lmm.model.posterior.joint import make_model  # noqa: E402
from lmm.model.posterior.posterior_density import Space  # noqa: E402
from lmm.priors import HalfNormal, Normal  # noqa: E402

#: covariates that are one another's affine maps
COVARIATES = {"x": (1.0, 0.0), "year": (9.0, 2005.0), "tiny": (-1e-6, 3e-5)}


@cache
def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(10), 8)
    x = rng.normal(size=80)
    eta = 0.4 + 0.5 * x + 0.6 * rng.normal(size=10)[g] + 0.4 * rng.normal(size=10)[g] * x
    data = {
        "g": g,
        "y": eta + 0.7 * rng.normal(size=80),
        "count": rng.poisson(np.exp(eta)),
        "positive": rng.gamma(6.0, np.exp(0.3 * eta) / 6.0),
    }
    data["binary"] = (rng.random(80) < 1.0 / (1.0 + np.exp(-eta))).astype(float)
    data |= {name: scale * x + shift for name, (scale, shift) in COVARIATES.items()}
    return pd.DataFrame(data).assign(k=np.tile(list("abcd"), 20), w=rng.uniform(0.5, 2.0, 80))


def fitted(formula: str, data: pd.DataFrame, family, method) -> lmm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            lmm.lmer(formula, data, method=method)
            if family is None
            else lmm.glmer(formula, data, family=family, method=method)
        )


@pytest.mark.parametrize("covariate", ["year", "tiny"])
@pytest.mark.parametrize(
    ("response", "family", "term"),
    [
        ("y", None, "(1|g)"),
        ("y", None, "({}|g)"),
        ("count", Poisson(), "({}|g)"),
        ("binary", Binomial(), "(1|g)"),
    ],
    ids=["linear", "linear slopes", "poisson slopes", "binomial"],
)
def test_the_bound_is_the_same_wherever_a_covariate_has_its_zero(response, family, term, covariate):
    method = lmm.VariationalBayes(draws=10)
    one, other = (
        fitted(f"{response} ~ {c} + {term.format(c)}", table(), family, method)
        for c in ("x", covariate)
    )
    scale, shift = COVARIATES[covariate]
    assert one.convergence.converged and other.convergence.converged
    assert other.elbo == pytest.approx(one.elbo, abs=1e-4)
    assert scale * other.fixef().iloc[1] == pytest.approx(one.fixef().iloc[1], abs=1e-3)
    assert abs(scale) * other.bse.iloc[1] == pytest.approx(one.bse.iloc[1], rel=1e-3)
    if term != "(1|g)":
        H = np.array([[1.0, shift], [0.0, scale]])
        np.testing.assert_allclose(
            H @ np.asarray(other.varcorr()["g"]) @ H.T, one.varcorr()["g"], rtol=0.02, atol=1e-3
        )
        np.testing.assert_allclose(other.ranef()["g"] @ H.T, one.ranef()["g"], atol=0.01)


UNITS = [
    (None, "y", 1.0, "softplus"),
    (None, "y", 1.0, "log"),
    (Gaussian("identity"), "y", 1.0, "softplus"),
    (Gaussian("log"), "positive", 0.0, "softplus"),
    (Gamma("log"), "positive", 0.0, "softplus"),
    (InverseGaussian("log"), "positive", 0.0, "softplus"),
]


@pytest.mark.parametrize(("family", "response", "power", "transform"), UNITS, ids=str)
def test_the_bound_and_its_optimum_are_the_same_in_any_unit_of_the_response(
    family, response, power, transform
):
    """Effects scale with the response under the identity link, and stay under the log link."""
    method = lmm.VariationalBayes(
        draws=10, transform=transform, sigma="posterior" if family is None else "estimate"
    )
    formula = f"{response} ~ x + (1|g)"
    one = fitted(formula, table(), family, method)
    for c in (1e-6, 1e4):
        other = fitted(formula, table().assign(**{response: c * table()[response]}), family, method)
        assert other.elbo + 80 * np.log(c) == pytest.approx(one.elbo, abs=2e-4)
        unit = c**power
        assert other.fixef()["x"] / unit == pytest.approx(one.fixef()["x"], abs=1e-3)
        assert other.bse["x"] / unit == pytest.approx(one.bse["x"], rel=1e-3)
        sd = [fit.draws["sd_(Intercept)|g"] for fit in (one, other)]
        assert sd[1].mean() / unit == pytest.approx(sd[0].mean(), rel=2e-3)
        assert sd[1].std() / unit == pytest.approx(sd[0].std(), rel=1e-2)


LINKS = [
    ("y", None),
    ("y", Gaussian("identity")),
    ("positive", Gaussian("log")),
    ("positive", Gaussian("inverse")),
    ("positive", Gamma("identity")),
    ("positive", Gamma("inverse")),
    ("positive", Gamma("log")),
    ("positive", InverseGaussian("1/mu^2")),
    ("count", Poisson("log")),
    ("count", NegativeBinomial()),
    ("binary", Binomial("logit")),
    ("binary", Binomial("cloglog")),
]


def priors_of(formula, data, family, weights=None):
    """The problem of a fit, and its default priors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family is None:
            fit = lmm.lmer(formula, data, weights=weights)
        else:
            fit = lmm.glmer(formula, data, family=family, nAGQ=0)
    model = make_model(fit.problem, "log")
    return fit, prepare(fit.problem, model, None, {})[1]


@pytest.mark.parametrize(("response", "family"), LINKS, ids=str)
def test_default_priors_of_means_and_effects_scale_as_the_linear_predictor_does(response, family):
    """The default density of X beta, of the effects' standard deviations, and of the dispersion, under every link."""
    fit, one = priors_of(f"{response} ~ x + (x|g)", table(), family)
    other_fit, other = priors_of(f"{response} ~ year + (year|g)", table(), family)
    beta = np.array([0.7, -0.3])
    moved = np.linalg.solve(np.array([[1.0, 2005.0], [0.0, 9.0]]), beta)
    jacobian = np.log(9.0)
    assert other.rest.log_density(moved, np) == pytest.approx(
        one.rest.log_density(beta, np) + jacobian, abs=1e-7
    )
    assert other.sd[0][0].scale == pytest.approx(one.sd[0][0].scale) and 9 * other.sd[0][
        1
    ].scale == pytest.approx(one.sd[0][1].scale)
    if family is None or (family.link.has_units and response != "count"):
        _, larger = priors_of(
            f"{response} ~ x + (x|g)",
            table().assign(**{response: 100.0 * table()[response]}),
            family,
        )
        link = (lambda mu: mu) if family is None else family.link.link
        unit = abs(link(100.0) / link(1.0))
        assert larger.rest.log_density(unit * beta, np) == pytest.approx(
            one.rest.log_density(beta, np) - 2 * np.log(unit), abs=1e-6
        )
        assert larger.sd[0][1].scale == pytest.approx(unit * one.sd[0][1].scale)


def test_the_default_prior_does_not_know_how_a_factor_is_coded():
    data = table()
    densities = []
    for formula, contrasts in (
        ("y ~ k + x + (1|g)", None),
        ("y ~ 0 + k + x + (1|g)", None),
        ("y ~ k + x + (1|g)", {"k": "sum"}),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = lmm.lmer(formula, data, contrasts=contrasts)
        _, priors = prepare(fit.problem, make_model(fit.problem, "log"), None, {})
        beta, *_ = np.linalg.lstsq(
            fit.design.X, 3.0 + 0.4 * data["x"] + (data["k"] == "b"), rcond=None
        )
        densities.append(priors.rest.log_density(beta, np) - np.linalg.slogdet(fit.problem.R)[1])
    np.testing.assert_allclose(densities, densities[0], rtol=1e-9)


def test_units_of_weights_do_not_matter():
    _, one = priors_of("y ~ x + (x|g)", table(), None, "w")
    _, other = priors_of("y ~ x + (x|g)", table().assign(w=table()["w"] * 1e6), None, "w")
    beta = np.array([0.7, -0.3])
    assert other.rest.log_density(beta, np) == pytest.approx(
        one.rest.log_density(beta, np), rel=1e-9
    )
    assert other.sd[0][1].scale == pytest.approx(
        one.sd[0][1].scale
    ) and other.sigma.scale == pytest.approx(1e3 * one.sigma.scale)


@pytest.mark.parametrize(("response", "family"), LINKS[:2] + LINKS[8:9] + LINKS[10:11], ids=str)
def test_the_sampled_density_is_the_same_wherever_a_covariate_has_its_zero(response, family):
    """At the same positions, so that chains of one seed walk the same way."""
    values = []
    for covariate in COVARIATES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = fitted(f"{response} ~ {covariate} + ({covariate}|g)", table(), family, None)
        model = make_model(fit.problem, "log")
        problem, priors = prepare(fit.problem, model, None, {})
        near = maximum_likelihood(problem).fit(problem)
        make = density.sum_data if family is None else density.generalized_data
        data, plan = (
            make(problem, near, near.sigma, priors)
            if family is None
            else make(problem, near, priors)
        )
        space = Space(model, plan, family is None)
        unit = np.log(abs(COVARIATES[covariate][0]))
        x = np.zeros(space.size)
        x[2:5] = -0.5 - np.array([0.0, unit, 0.5])
        x[4] = 0.2 * np.sign(COVARIATES[covariate][0])
        with jax.enable_x64(True):
            values.append(float(density.log_posterior(x, data, space)))
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


@pytest.mark.parametrize("formula", ["y ~ year + (1|g)", "y ~ 0 + k + year + (1|g)"])
def test_chains_agree_with_restricted_maximum_likelihood(formula):
    data = table().assign(y=300.0 + 0.1 * table()["y"])
    reml = lmm.lmer(formula, data)
    fit = fitted(formula, data, None, lmm.NUTS(chains=2, warmup=300, draws=500))
    np.testing.assert_allclose(fit.fixef() - reml.fixef(), 0.0, atol=0.2 * reml.bse.max())
    assert fit.fixef()["year"] == pytest.approx(reml.fixef()["year"], abs=0.2 * reml.bse["year"])
    np.testing.assert_allclose(fit.bse, reml.bse, rtol=0.25)


def test_a_term_with_a_prior_of_its_own_is_taken_as_written():
    data = table()
    fit = lmm.lmer("y ~ year + (year|g)", data)
    model = make_model(fit.problem, "log")
    for given in (
        {"g": HalfNormal(1.0)},
        {"sd_year|g": HalfNormal(1.0)},
        {"sd": HalfNormal(2.0)},
        {"sd|g": HalfNormal(2.0)},
    ):
        assert np.array_equal(prepare(fit.problem, model, given, {})[1].frames[0], np.eye(2))
    assert prepare(fit.problem, model, {"year": Normal()}, {})[1].frames[0][0, 1] == pytest.approx(
        -data["year"].mean()
    )
