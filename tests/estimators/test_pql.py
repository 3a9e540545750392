"""Penalised quasi-likelihood: MASS::glmmPQL's numbers, lmer's for Gaussian responses, and its bias."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.model.laplace.linearised import linearise
from lmm.model.problem import build_generalized
from tests.designs import zoo
from tests.families.cases import CUSTOM_GAMMA
from tests.generalized import case

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "pql.json").read_text())
HERDS = "cbind(incidence, size - incidence) ~ period + (1|herd)"
QUASI = lmm.PenalizedQuasiLikelihood(dispersion="estimated")


def table(name: str) -> pd.DataFrame:
    return pd.DataFrame(REFERENCE["data"][name])


def gammas() -> pd.DataFrame:
    data = lmm.datasets.load("sleepstudy")
    return data.assign(Rt=data["Reaction"] / 100)


CASES = {
    "cbpp": (HERDS, lambda: lmm.datasets.load("cbpp"), "binomial"),
    "count_slopes": ("count ~ Days + (Days|Subject)", lambda: table("sleep"), "poisson"),
    "count_intercepts": ("count ~ Days + (1|Subject)", lambda: table("sleep"), "poisson"),
    "nested": ("y ~ x + (1|school) + (1|class)", lambda: table("nested"), "binomial"),
    "salamander": (
        "Mate ~ 0 + Cross + (1|Female) + (1|Male)",
        lambda: lmm.datasets.load("salamander"),
        "binomial",
    ),
    "gamma": ("Rt ~ Days + (1|Subject)", gammas, lmm.families.Gamma(link="log")),
}


@cache
def fitted(name: str) -> lmm.Fit:
    formula, data, family = CASES[name]
    return lmm.glmer(formula, data(), family=family, method=QUASI)


@pytest.mark.parametrize("name", CASES)
def test_glmmpql(name: str) -> None:
    """Slopes, nested and crossed factors, a family with a dispersion: iterated to convergence on both sides."""
    wanted, fit = REFERENCE[name], fitted(name)
    assert fit.convergence.converged, fit.convergence.message
    assert fit.fixef().to_numpy() == pytest.approx(np.array(wanted["fixef"]), abs=2e-4)
    assert fit.sigma == pytest.approx(wanted["sigma"], rel=2e-4)
    sds = np.concatenate([fit.varcorr().stddev(g).to_numpy() for g in fit.varcorr().groups])
    found = list(sds)
    if name == "count_slopes":
        found.append(fit.varcorr().correlation("Subject").iloc[0, 1])
    order = {"nested": ["school", "class"], "salamander": ["Female", "Male"]}.get(name)
    if order:
        found = [fit.varcorr().stddev(g).iloc[0] for g in order]
    assert found == pytest.approx(np.atleast_1d(wanted["sds"]), abs=1e-3)


def test_published_figures_of_cbpp() -> None:
    fit = fitted("cbpp")
    assert fit.fixef().to_numpy() == pytest.approx(
        [-1.327364, -1.016126, -1.149984, -1.605217], abs=1e-3
    )
    assert fit.varcorr().stddev("herd").iloc[0] == pytest.approx(0.55635, abs=1e-3)
    assert fit.sigma == pytest.approx(1.18453, abs=1e-3)
    assert np.isnan(fit.llf)
    assert fit.df_model == 6
    assert "no likelihood" in str(fit.summary())


@pytest.mark.parametrize("REML", [True, False])
@pytest.mark.parametrize(
    "formula", ["Reaction ~ Days + (Days|Subject)", "Reaction ~ Days + (Days||Subject)"]
)
def test_a_linear_model_is_lmers(formula: str, REML: bool) -> None:
    """By lmer, and as a Gaussian family with its own dispersion."""
    data = lmm.datasets.load("sleepstudy")
    usual = lmm.lmer(formula, data, REML=REML)
    by_lmer = lmm.lmer(formula, data, REML=REML, method="pql")
    assert by_lmer.llf == usual.llf
    assert by_lmer.estimate.method == "pql"
    family = lmm.glmer(
        formula, data, family="gaussian", method=lmm.PenalizedQuasiLikelihood(reml=REML)
    )
    assert family.fixef().to_numpy() == pytest.approx(usual.fixef().to_numpy(), rel=1e-7)
    assert family.sigma == pytest.approx(usual.sigma, rel=1e-5)
    assert family.varcorr()["Subject"].to_numpy() == pytest.approx(
        usual.varcorr()["Subject"].to_numpy(), rel=1e-3, abs=1e-3
    )
    assert family.vcov().to_numpy() == pytest.approx(usual.vcov().to_numpy(), rel=1e-3)
    assert family.convergence.iterations <= 4
    at = lmm.MaximumLikelihood(False, sigma=usual.sigma).objective(
        usual.problem, usual.estimate.theta
    )
    assert family.llf == pytest.approx(-0.5 * at, abs=1e-4)


@pytest.mark.parametrize("dispersion", ["fixed", "estimated"])
@pytest.mark.parametrize(
    "family",
    [
        "poisson",
        "binomial",
        "gamma",
        "inverse_gaussian",
        "negative_binomial",
        "negative_binomial1",
        "gaussian",
    ],
)
def test_every_family(family: str, dispersion: str) -> None:
    """Slopes crossed with an intercept, offset and weights: beta and b are the joint mode at the variances found."""
    found = lmm.families.get(family)
    c = case(zoo()["slopes crossed"], found, seed=1)
    problem = build_generalized(c.design, found)
    estimate = lmm.PenalizedQuasiLikelihood(dispersion=dispersion).fit(problem)
    assert estimate.convergence.converged, estimate.convergence.message
    # in working units: the score of the joint density, with the residual variance that is in force
    quasi = dispersion == "estimated" and not found.has_dispersion
    scale = estimate.sigma**2 if quasi else 1.0
    r = found.derivatives(c.design.y, estimate.eta, problem.rows.weights, estimate.phi).d1 / scale
    assert problem.rows.Q.T @ r == pytest.approx(np.zeros(problem.p), abs=2e-4 * len(r) ** 0.5)
    for T, score, b in zip(estimate.factors, problem.rows.sums(r), estimate.modes, strict=True):
        np.testing.assert_allclose(T @ T.T @ score, b.T, atol=1e-3 * max(1e-2, np.abs(b).max()))
    assert np.isnan(estimate.objective) == quasi
    assert estimate.n_parameters == len(estimate.beta) + len(estimate.theta) + int(
        quasi or found.has_dispersion
    )
    if found.has_dispersion and not found.dispersion_scales_variance:
        working = linearise(problem, estimate.eta, estimate.phi)
        pearson = float(np.sum(working.W * (working.z - (estimate.eta - problem.rows.offset)) ** 2))
        assert 0.5 * len(r) < pearson < len(r)  # n less the effective degrees of freedom


def test_fixed_dispersion() -> None:
    """The default: residual variance one, REML, and Laplace's log-likelihood at the estimates, below its maximum."""
    data = lmm.datasets.load("cbpp")
    fit, best = (lmm.glmer(HERDS, data, family="binomial", method=m) for m in ("pql", None))
    assert fit.sigma == 1.0
    assert best.llf - 0.5 < fit.llf < best.llf
    assert fit.llf == pytest.approx(-0.5 * best.objective([*fit.theta, *fit.fixef()]), abs=1e-9)
    again = lmm.glmer(
        HERDS, data, family="binomial", method=lmm.PenalizedQuasiLikelihood(reml=True)
    )
    assert again.llf == fit.llf
    # Henderson at the same variances
    solved = lmm.solve(HERDS, data, varcomp=fit.varcorr(), family="binomial")
    assert solved.fixef().to_numpy() == pytest.approx(fit.fixef().to_numpy(), abs=1e-5)
    assert solved.bse.to_numpy() == pytest.approx(fit.bse.to_numpy(), rel=1e-4)


def test_an_estimated_dispersion_widens_what_follows() -> None:
    """Conditional covariances and standard errors of prediction count the residual variance."""
    fit, data = fitted("cbpp"), lmm.datasets.load("cbpp")
    twice = lmm.glmer(HERDS, pd.concat([data, data]), family="binomial", method=QUASI)
    # the same means from twice the rows: trials enter through the residual variance, not the binomial's
    assert twice.sigma == pytest.approx(fit.sigma, rel=0.1)
    W = fit.family.expected_weights(fit.estimate.eta, fit.design.weights).weight / fit.sigma**2
    one = 1 / (
        np.bincount(fit.design.terms[0].codes, W) + 1 / fit.varcorr().stddev("herd").iloc[0] ** 2
    )
    assert fit.ranef_cov()["herd"][:, 0, 0] == pytest.approx(one, rel=1e-8)


def test_order_of_rows_and_levels() -> None:
    data = table("nested").sample(frac=1.0, random_state=1)
    fit = lmm.glmer(
        "y ~ x + (1|class) + (1|school)",
        data.assign(school=-data["school"].astype(int)),
        family="binomial",
        method=QUASI,
    )
    assert fit.fixef().to_numpy() == pytest.approx(fitted("nested").fixef().to_numpy(), abs=1e-6)
    assert fit.sigma == pytest.approx(fitted("nested").sigma, rel=1e-6)


@pytest.mark.filterwarnings("ignore::lmm.ConvergenceWarning")  # Laplace's own doubts
def test_its_bias_with_binary_responses() -> None:
    """Eight clusters of four Bernoulli responses per covariate pattern, sd 1.5: PQL's sd is far below, quadrature's near."""
    rng = np.random.default_rng(0)
    J, m, sd = 120, 5, 1.5
    g, x = np.repeat(np.arange(J), m), np.tile(np.linspace(-1, 1, m), J)
    found = {"pql": [], "laplace": [], "agq": []}
    slopes: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(8):
        eta = 0.5 + x + sd * rng.normal(size=J)[g]
        data = pd.DataFrame({"y": rng.binomial(1, 1 / (1 + np.exp(-eta))), "x": x, "g": g})
        for name in found:
            fit = lmm.glmer("y ~ x + (1|g)", data, family="binomial", method=name)
            found[name].append(fit.varcorr().stddev("g").iloc[0])
            slopes[name].append(fit.fixef().iloc[1])
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    assert mean["pql"] < 0.85 * sd
    assert mean["pql"] < 0.9 * mean["laplace"]
    assert abs(mean["agq"] - sd) < 0.15 * sd
    assert np.mean(slopes["pql"]) < 0.93 * np.mean(slopes["agq"])


def test_trace_callback_and_limits() -> None:
    data = lmm.datasets.load("cbpp")
    trace = fitted("cbpp").estimate.trace
    changes = [line["decrease"] for line in trace]
    assert changes[-1] < 1e-12 < changes[0]
    assert all({"objective", "theta", "sigma", "step"} <= line.keys() for line in trace)
    with pytest.warns(lmm.ConvergenceWarning, match="limit of 2 working models"):
        short = lmm.glmer(
            HERDS, data, family="binomial", method=lmm.PenalizedQuasiLikelihood(max_iterations=2)
        )
    assert not short.convergence.converged


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dispersion": "estimate"}, "Did you mean 'estimated'"),
        ({"reml": "yes"}, "reml="),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"control": lmm.Control(evaluate_only=True)}, "lmm.solve"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(lmm.ArgumentError, match=message):
        lmm.PenalizedQuasiLikelihood(**settings)


def test_where_it_does_not_apply() -> None:
    with pytest.raises(lmm.ArgumentError, match="thresholds"):
        lmm.glmer(
            "rating ~ temp + (1|judge)", lmm.datasets.load("wine"), family="ordinal", method="pql"
        )
    with pytest.raises(lmm.ArgumentError, match="no likelihood"):
        fitted("cbpp").objective(fitted("cbpp").theta)


def test_a_quasi_likelihood_has_no_distribution_to_draw_from():
    herds = lmm.datasets.load("cbpp")
    method = lmm.PenalizedQuasiLikelihood(dispersion="estimated")
    fit = lmm.glmer(
        "cbind(incidence, size - incidence) ~ period + (1|herd)",
        herds,
        family="binomial",
        method=method,
    )
    for refused in (
        lambda: fit.simulate(),
        lambda: fit.bootstrap(10),
        lambda: fit.confint("boot", nsim=10),
        lambda: fit.check(),
    ):
        with pytest.raises(
            lmm.ArgumentError, match="quasi-likelihood estimates a variance and no distribution"
        ):
            refused()
    pd.testing.assert_frame_equal(fit.confint(), fit.confint("wald"))


def test_a_custom_family_whose_dispersion_multiplies_the_variance_is_fitted_as_one_of_ours() -> (
    None
):
    rng = np.random.default_rng(3)
    g = rng.integers(0, 20, 300)
    x = rng.normal(size=300)
    data = pd.DataFrame(
        {
            "y": np.exp(0.3 * x + 0.5 * rng.normal(size=20)[g]) * rng.gamma(4.0, 0.25, 300),
            "x": x,
            "g": g,
        }
    )
    ours, own = (
        lmm.glmer("y ~ x + (1|g)", data, family=family, method="pql")
        for family in (lmm.families.Gamma("log"), CUSTOM_GAMMA)
    )
    assert own.params.to_numpy() == pytest.approx(ours.params.to_numpy(), rel=1e-6)
    assert own.estimate.phi == pytest.approx(ours.estimate.phi, rel=1e-6)
    assert own.theta.to_numpy() == pytest.approx(ours.theta.to_numpy(), rel=1e-5)
