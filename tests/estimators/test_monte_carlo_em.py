"""Monte Carlo EM: within its own Monte Carlo error of the maximum of the likelihood."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("blackjax")
pytest.importorskip("optax")

import lmm  # noqa: E402
from lmm.errors import ArgumentError  # noqa: E402
from lmm.estimators.monte_carlo.effects_walk import batch_error  # noqa: E402
from lmm.linalg.devices import backend  # noqa: E402
from lmm.model.posterior import expectation  # noqa: E402
from lmm.model.posterior.expectation import Frame, Parameters  # noqa: E402
from lmm.model.posterior.joint import coordinates, make_model, make_row_data, make_sums  # noqa: E402

SLEEP = "Reaction ~ Days + (Days|Subject)"


@pytest.fixture(scope="module")
def sleepstudy() -> pd.DataFrame:
    return lmm.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def ml(sleepstudy):
    return lmm.lmer(SLEEP, sleepstudy, REML=False)


@pytest.fixture(scope="module")
def mcem(sleepstudy):
    return lmm.lmer(SLEEP, sleepstudy, method="mcem")


def sds(fit: lmm.Fit) -> np.ndarray:
    return fit.varcorr().to_frame().query("var2.isna()", engine="python")["sdcor"].to_numpy()


def test_a_linear_model_ends_at_maximum_likelihood(ml, mcem):
    """A tenth of a standard error is asked for; those of the log sd of 18 subjects are a sixth."""
    assert mcem.convergence.converged
    assert np.all(np.abs(mcem.fixef() - ml.fixef()) < 0.4 * ml.bse)
    np.testing.assert_allclose(sds(mcem), sds(ml), rtol=0.07)
    assert 0 <= ml.llf - mcem.llf < 0.05
    np.testing.assert_allclose(mcem.bse, ml.bse, rtol=0.07)
    assert np.abs(mcem.ranef()["Subject"] - ml.ranef()["Subject"]).to_numpy().max() < 5.0


def test_the_trace_tells_what_happened(mcem):
    trace = mcem.trace
    assert len(trace) == mcem.convergence.iterations
    assert {"loss", "acceptance", "samples", "step_size", "sigma"} <= set(trace.columns)
    assert 0.5 < trace["acceptance"].tail(100).mean() < 0.95


def test_a_second_fit_compiles_nothing(sleepstudy, mcem):
    before = backend.traces["mcem"]
    other = lmm.lmer(SLEEP, sleepstudy.assign(Reaction=sleepstudy["Reaction"] * 1.5), method="mcem")
    assert backend.traces["mcem"] == before
    np.testing.assert_allclose(other.fixef() / mcem.fixef(), 1.5, rtol=0.02)


def test_a_seed_repeats_a_fit(sleepstudy):
    quick = {"iterations": 100, "tolerance": 0.0}
    one, two, three = (
        lmm.lmer(SLEEP, sleepstudy, method=lmm.MonteCarloEM(rng=seed, **quick)).theta
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)


def test_a_generalized_model_ends_at_its_likelihood_not_at_laplaces():
    data = lmm.datasets.load("cbpp")
    model = "cbind(incidence, size - incidence) ~ period + (1|herd)"
    fit = lmm.glmer(
        model, data, family="binomial", method=lmm.MonteCarloEM(tolerance=0.05, iterations=6000)
    )
    exact = lmm.glmer(model, data, family="binomial", nAGQ=25)
    assert fit.convergence.converged
    assert np.all(np.abs(fit.fixef() - exact.fixef()) < 0.2 * exact.bse)
    np.testing.assert_allclose(fit.theta, exact.theta, rtol=0.06)


def test_crossed_factors_and_the_published_steps():
    """Adam for everything, a fixed residual, identity metric: the walk-through's settings on a small crossed design."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 40, 1500), rng.integers(0, 12, 1500)
    y = 1.0 + 0.8 * rng.normal(size=40)[a] + 0.5 * rng.normal(size=12)[b] + rng.normal(size=1500)
    data = pd.DataFrame({"y": y, "a": a.astype(str), "b": b.astype(str)})
    reference = lmm.lmer(
        "y ~ 1 + (1|a) + (1|b)", data, method=lmm.MaximumLikelihood(False, sigma=1.0)
    )
    settings = {
        "sigma": 1.0,
        "step_size": 0.05,
        "metric": "identity",
        "m_step": "adam",
        "growth": 1.0,
        "tolerance": 0.0,
        "iterations": 1500,
    }
    published = lmm.lmer("y ~ 1 + (1|a) + (1|b)", data, method=lmm.MonteCarloEM(**settings))
    usual = lmm.lmer("y ~ 1 + (1|a) + (1|b)", data, method=lmm.MonteCarloEM(sigma=1.0))
    for fit in (published, usual):
        np.testing.assert_allclose(sds(fit), sds(reference), rtol=0.08)
        assert fit.sigma == 1.0
        assert abs(fit.fixef().iloc[0] - reference.fixef().iloc[0]) < 0.5 * reference.bse.iloc[0]


def test_nuts_as_the_sampler(sleepstudy, ml):
    fit = lmm.lmer(
        SLEEP, sleepstudy, method=lmm.MonteCarloEM("nuts", iterations=400, samples=2, warmup=200)
    )
    np.testing.assert_allclose(sds(fit), sds(ml), rtol=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_variance_that_vanishes_ends_at_zero(seed):
    """Its likelihood is highest at zero: the mean and the standard deviation (divisor n) of the response are what is left."""
    data = lmm.datasets.load("Dyestuff2")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", lmm.SingularFitWarning)
        fit = lmm.lmer("Yield ~ 1 + (1|Batch)", data, method=lmm.MonteCarloEM(rng=seed))
    assert fit.convergence.converged and np.isfinite(fit.trace["sigma"]).all()
    assert fit.fixef().iloc[0] == pytest.approx(data["Yield"].mean(), rel=1e-8)
    assert fit.varcorr().stddev("Batch").iloc[0] == 0.0 and fit.sigma == pytest.approx(
        data["Yield"].std(ddof=0), rel=1e-6
    )


def test_ordinal_models_are_refused():
    with pytest.raises(ArgumentError, match="'ordinal' is not available for this method"):
        lmm.glmer(
            "rating ~ temp + (1|judge)", lmm.datasets.load("wine"), family="ordinal", method="mcem"
        )


@pytest.mark.parametrize("generalized", [False, True], ids=["linear", "poisson"])
def test_the_density_of_the_effects_and_its_gradient(generalized, sleepstudy):
    """Against the dense definition; the linear gradient is written by hand."""
    grouse = lmm.datasets.load("grouseticks")
    if generalized:
        fit = lmm.glmer("TICKS ~ YEAR + (1|BROOD) + (1|LOCATION)", grouse, family="poisson")
    else:
        fit = lmm.lmer("TICKS ~ YEAR + (cHEIGHT|BROOD) + (1|LOCATION)", grouse)
    problem, design = fit.problem, fit.design
    model = make_model(problem, "softplus")
    unit = coordinates(problem, 2.0)
    data = (
        make_row_data(problem, fit.estimate.beta, unit) if generalized else make_sums(problem, unit)
    )
    rng = np.random.default_rng(0)
    G = tuple(
        np.cov(rng.normal(size=(term.k, 9))).reshape(term.k, term.k) + 0.1 * np.eye(term.k)
        for term in model.terms
    )
    at = Parameters(rng.normal(size=problem.p), G, np.log(2.0), np.zeros(()))
    q = sum(term.k * term.J for term in model.terms)
    e = model.terms[1].k * model.terms[1].J
    frame = Frame(
        tuple(rng.uniform(0.5, 1.5, (t.k, t.J)) for t in model.terms),
        tuple(
            np.zeros((e, t.k, t.J)) if i == 1 else 0.1 * rng.normal(size=(e, t.k, t.J))
            for i, t in enumerate(model.terms)
        ),
        np.eye(e) + 0.1 * np.tril(rng.normal(size=(e, e)), -1),
        np.zeros((problem.p, problem.p)),
        tuple(np.zeros((problem.p, t.k, t.J)) for t in model.terms),
    )
    x, v = rng.normal(size=q) * 0.3, rng.normal(size=q)
    with jax.enable_x64(True):
        density = expectation.effects_density(model, (1,), frame, data, at)
        values = [float(density(x + h * v)) for h in (0.0, 1e-5, -1e-5)]
        gradient = np.asarray(jax.grad(density)(x))
        b = [np.asarray(own) for own in expectation.effects(model, (1,), frame, x)]
    np.testing.assert_allclose(expectation.coordinates(model, (1,), frame, b), x, atol=1e-10)
    assert abs((values[1] - values[2]) / 2e-5 - gradient @ v) < 1e-4 * np.abs(gradient @ v) + 1e-4
    beta = data.shift + data.unit @ at.d
    eta = design.X @ beta + sum(
        np.einsum("kn,nk->n", own[:, t.codes], t.values)
        for own, t in zip(b, design.terms, strict=True)
    )
    prior = -0.5 * sum(
        float(np.sum(own * np.linalg.solve(P, own))) for own, P in zip(b, G, strict=True)
    )
    if generalized:
        log_f = float(fit.family.log_density(design.y, eta).sum())
        assert abs(values[0] - log_f - prior) < 1e-6 * abs(log_f)
    else:
        rest = design.y - eta
        base = design.y - design.X @ beta  # the density leaves out what no effect moves
        expected = -0.5 * float(rest @ rest - base @ base) / 4.0 + prior
        assert abs(values[0] - expected) < 1e-5 * abs(expected)


def test_errors_of_averages_of_an_autocorrelated_path():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 5000))
    path = np.zeros_like(noise)
    for i in range(1, 5000):
        path[:, i] = 0.8 * path[:, i - 1] + noise[:, i]
    errors = batch_error(path.T)
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), path.mean(axis=1).std(), rtol=0.15)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "gibbs"}, "sampler='gibbs' is not one of 'hmc', 'nuts'"),
        ({"metric": "dense"}, "metric='dense' is not one of"),
        ({"sigma": "posterior"}, "sigma='posterior' must be 'estimate'"),
        ({"samples": 0}, "samples=0 must be a positive whole number"),
        ({"growth": 0.5}, "growth=0.5 must be a number at least 1"),
        (
            {"target_acceptance": 1.0},
            "target_acceptance=1.0 must be a number greater than 0 and less than 1",
        ),
        ({"smoothing": 0.0}, "smoothing=0.0 must be a number greater than 0"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ArgumentError, match=words):
        lmm.MonteCarloEM(**settings)
