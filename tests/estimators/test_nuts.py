"""The no-U-turn sampler: posteriors found by other means, what it records, what it compiles and what it refuses."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm import priors
from lmm.estimators.monte_carlo.chain_diagnostics import diagnose_chains
from lmm.linalg.devices import backend

pytest.importorskip("blackjax")

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "nuts_sleepstudy.json").read_text()
)["posterior"]
FORMULA = "Reaction ~ Days + (Days|Subject)"


@cache
def sleepstudy() -> lmm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to warn of
        return lmm.lmer(FORMULA, lmm.datasets.load("sleepstudy"), method=lmm.NUTS(rng=1))


def close(
    draws: np.ndarray, mean: float, sd: float, mcse: float = 0.0, errors: float = 4.0
) -> None:
    """Mean and sd of draws (C, D) within Monte Carlo error of what they should be."""
    ess = float(diagnose_chains(draws).ess_bulk)
    assert abs(draws.mean() - mean) < errors * np.hypot(sd / np.sqrt(ess), mcse)
    assert draws.std() == pytest.approx(sd, rel=errors * 1.5 / np.sqrt(ess))


@pytest.mark.parametrize("name", REFERENCE)
def test_sleepstudy_agrees_with_a_long_reference_run(name: str) -> None:
    fit, own = sleepstudy(), REFERENCE[name]
    if name.startswith("Subject["):
        column = ["Intercept", "Days"].index(name.removeprefix("Subject[308,").removesuffix("]"))
        draws = fit.draws["Subject"][:, :, 0, column]
        np.testing.assert_allclose(
            fit.ranef()["Subject"].iloc[0, column], own["mean"], atol=0.1 * own["sd"]
        )
    else:
        draws = fit.draws[name]
    close(draws, own["mean"], own["sd"], own["mean_mcse"])


def test_chains_agree_and_none_diverges() -> None:
    fit = sleepstudy()
    assert fit.estimate.convergence.converged and fit.draws.divergences == 0
    assert (
        fit.draws.diagnostics["r_hat"].max() < 1.01
        and fit.draws.diagnostics["ess_bulk"].min() > 1500
    )
    assert dict(fit.estimate.report.criterion)["R-hat"] == pytest.approx(
        fit.draws.diagnostics["r_hat"].max()
    )
    assert not fit.estimate.messages


def test_what_is_recorded() -> None:
    fit = sleepstudy()
    statistics = fit.draws.statistics
    assert set(statistics) == {
        "diverging",
        "acceptance_rate",
        "steps",
        "tree_depth",
        "log_density",
        "energy",
    }
    assert all(own.shape == (4, 1000) for own in statistics.values())
    assert statistics["acceptance_rate"].mean() == pytest.approx(0.9, abs=0.06)
    assert (statistics["steps"] <= 2 ** statistics["tree_depth"]).all()
    trace = fit.trace
    assert trace.groupby(["chain", "stage"])["iterations"].sum().eq(1000).all()
    assert (trace[trace["stage"] == "draws"].groupby("chain")["step_size"].nunique() == 1).all()
    assert fit.draws["Subject"].shape == (4, 1000, 18, 2)
    np.testing.assert_allclose(fit.fixef(), fit.draws._record.beta.mean(axis=(0, 1)), rtol=1e-10)
    # means of the effects are means of conditional means: nearer the truth than those of the draws, and near them
    drawn = fit.draws["Subject"]
    np.testing.assert_allclose(
        fit.ranef()["Subject"],
        drawn.mean(axis=(0, 1)),
        atol=5 * drawn.std(axis=(0, 1)).max() / np.sqrt(3000),
    )
    spread = np.cov(drawn[:, :, 3].reshape(-1, 2), rowvar=False)
    np.testing.assert_allclose(
        fit.estimate.mode_cov[0][3], spread, rtol=0.01, atol=0.01 * spread.max()
    )
    assert "NUTS" in str(fit.summary()) and "Posterior SD" in str(fit.summary())


def test_a_second_fit_compiles_nothing() -> None:
    data = lmm.datasets.load("sleepstudy")
    method = lmm.NUTS(chains=2, warmup=60, draws=30, rng=5)
    sleepstudy()
    before = backend.traces["nuts"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = [lmm.lmer(FORMULA, data, method=method) for _ in range(2)]
        other = lmm.lmer(FORMULA, data.assign(Reaction=data["Reaction"] * 2 + 5), method=method)
        rows = lmm.lmer(FORMULA, pd.concat([data, data]), method=method)
    assert backend.traces["nuts"] == before
    np.testing.assert_array_equal(again[0].draws["Days"], again[1].draws["Days"])
    assert other.draws["Days"].mean() == pytest.approx(2 * again[0].draws["Days"].mean(), rel=0.2)
    assert rows.draws["Days"].std() < again[0].draws["Days"].std() * 1.5


def test_a_known_sigma_priors_of_ones_own_and_effects_that_are_not_kept() -> None:
    data = lmm.datasets.load("Dyestuff")
    own = {"Intercept": priors.Normal(1000.0, 1e-3), "Batch": priors.HalfNormal(20.0)}
    fit = lmm.lmer(
        "Yield ~ 1 + (1|Batch)",
        data,
        method=lmm.NUTS(sigma=50.0, priors=own, keep_effects=False, rng=2, draws=1500),
    )
    assert fit.sigma == 50.0 and (fit.draws["sigma"] == 50.0).all() and fit.draws.groups == ()
    assert fit.fixef()["Intercept"] == pytest.approx(1000.0, abs=1e-3)
    # everything else is one-dimensional: sd of the batches on a grid
    y = data["Yield"].to_numpy().reshape(6, 5) - 1000.0
    sd = np.linspace(1e-3, 400.0, 8000)
    variance = sd**2 + 50.0**2 / 5
    log = (
        -0.5 * np.sum(y.mean(axis=1) ** 2) / variance
        - 3.0 * np.log(variance)
        - 0.5 * (sd / 20.0) ** 2
    )
    w = np.exp(log - log.max())
    w /= w.sum()
    mean = w @ sd
    close(fit.draws["sd_(Intercept)|Batch"], mean, np.sqrt(w @ (sd - mean) ** 2))
    shrinkage = w @ (sd**2 / variance)
    np.testing.assert_allclose(
        fit.ranef()["Batch"]["Intercept"], shrinkage * y.mean(axis=1), rtol=0.05, atol=0.5
    )
    assert "fixed at 50" in str(fit.summary())


@cache
def cbpp() -> lmm.Fit:
    formula = "cbind(incidence, size - incidence) ~ period + (1|herd)"
    return lmm.glmer(formula, lmm.datasets.load("cbpp"), family="binomial", method=lmm.NUTS(rng=3))


def test_a_binomial_model_agrees_with_quadrature_and_importance_sampling() -> None:
    data, fit = lmm.datasets.load("cbpp"), cbpp()
    assert fit.estimate.convergence.converged
    k, n = data["incidence"].to_numpy(float), data["size"].to_numpy(float)
    herd, period = (
        data["herd"].astype("category").cat.codes.to_numpy(),
        data["period"].astype("category").cat.codes.to_numpy(),
    )
    X = np.column_stack([np.ones(len(k)), *(period == j for j in (1, 2, 3))]).astype(float)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    own = np.eye(15)[herd]  # (rows, herds)
    level = np.log((k.sum() + 0.5) / (n.sum() - k.sum() + 0.5))
    precision = X.T @ X / len(X) / 100.0  # the default prior is as weak in every direction

    def log_prior(beta: np.ndarray) -> np.ndarray:
        centred = beta - np.array([level, 0.0, 0.0, 0.0])
        return -0.5 * np.einsum("ni,ij,nj->n", centred, precision, centred)

    def log_posterior(beta: np.ndarray, log_sd: np.ndarray) -> np.ndarray:
        eta = (beta @ X.T)[:, :, None] + np.exp(log_sd)[:, None, None] * nodes
        rows = k[:, None] * eta - n[:, None] * np.logaddexp(0.0, eta)
        herds = np.einsum("nrq,rh->nhq", rows, own)
        top = herds.max(axis=2, keepdims=True)
        integral = np.log(np.exp(herds - top) @ weights) + top[:, :, 0]
        return integral.sum(axis=1) + log_prior(beta) - 0.5 * (np.exp(log_sd) / 2.5) ** 2 + log_sd

    # proposal: a t around the draws, whose weights do not depend on the draws being right
    drawn = np.column_stack(
        [
            fit.draws._record.beta.reshape(-1, 4),
            np.log(fit.draws["sd_(Intercept)|herd"]).reshape(-1),
        ]
    )
    rng = np.random.default_rng(4)
    L, centre, df = 1.2 * np.linalg.cholesky(np.cov(drawn, rowvar=False)), drawn.mean(axis=0), 6.0
    z = rng.standard_normal((8000, 5)) / np.sqrt(rng.chisquare(df, 8000) / df)[:, None]
    x = centre + z @ L.T
    log = np.concatenate([log_posterior(part[:, :4], part[:, 4]) for part in np.split(x, 8)])
    log += (df + 5) / 2 * np.log1p(np.sum(z**2, axis=1) / df)
    w = np.exp(log - log.max())
    w /= w.sum()
    assert 1 / np.sum(w**2) > 4000
    values = np.column_stack([x[:, :4], np.exp(x[:, 4])])
    mean = w @ values
    sd, mcse = np.sqrt(w @ (values - mean) ** 2), np.sqrt(w**2 @ (values - mean) ** 2)
    for i, name in enumerate(fit.draws.names):
        close(fit.draws[name], mean[i], sd[i], mcse[i])


@pytest.mark.slow
def test_one_batch_finds_the_same_posterior() -> None:
    formula = "cbind(incidence, size - incidence) ~ period + (1|herd)"
    fit = lmm.glmer(
        formula, lmm.datasets.load("cbpp"), family="binomial", method=lmm.NUTS(rng=9, batch=True)
    )
    for name in fit.draws.names:
        other = cbpp().draws[name]
        close(fit.draws[name], other.mean(), other.std(), other.std() / np.sqrt(2000))


def test_separated_data_have_a_posterior() -> None:
    """The likelihood has no maximum, and its fit neither a covariance nor a finite estimate; the priors hold the posterior."""
    x = np.linspace(-1.0, 1.0, 32)
    data = pd.DataFrame({"y": (x > 0).astype(float), "x": x, "g": np.arange(32) % 4})
    own = {"beta": priors.Normal(0.0, 2.0), "sd": priors.HalfNormal(1.0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lmm.glmer(
            "y ~ x + (1|g)", data, family="binomial", method=lmm.NUTS(priors=own, chains=2, rng=4)
        )
    assert fit.draws.divergences == 0 and fit.draws.diagnostics["r_hat"].max() < 1.02
    assert 2.5 < fit.fixef()["x"] < 6.0 and abs(fit.fixef()["Intercept"]) < 0.6


@pytest.mark.slow
def test_a_dispersion_has_a_prior_and_draws() -> None:
    rng = np.random.default_rng(6)
    g = np.repeat(np.arange(12), 15)
    y = rng.gamma(4.0, np.exp(0.5 + 0.4 * rng.standard_normal(12)[g]) / 4.0)
    data = pd.DataFrame({"y": y, "g": g})
    fits = [
        lmm.glmer(
            "y ~ 1 + (1|g)",
            data,
            family=lmm.families.Gamma(link="log"),
            method=lmm.NUTS(chains=2, rng=1, priors=own),
        )
        for own in (None, {"phi": priors.LogNormal(0.0, 0.01)})
    ]
    likelihood = lmm.glmer("y ~ 1 + (1|g)", data, family=lmm.families.Gamma(link="log"))
    assert fits[0].sigma == pytest.approx(likelihood.sigma, rel=0.05)
    assert fits[1].sigma == pytest.approx(1.0, rel=0.02)


def test_short_chains_say_what_to_do() -> None:
    data = lmm.datasets.load("sleepstudy")
    with pytest.warns(lmm.ConvergenceWarning) as caught:
        fit = lmm.lmer(FORMULA, data, method=lmm.NUTS(chains=2, warmup=10, draws=20))
    text = " ".join(str(warning.message) for warning in caught)
    assert (
        not fit.estimate.convergence.converged
        and "raise warmup=" in text
        and "effective sample size" in text
        and "raise draws=" in text
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = lmm.lmer(FORMULA, data, method=lmm.NUTS(chains=1, warmup=5, draws=2))
    assert not few.estimate.convergence.converged


def test_a_single_chain_is_held_against_itself() -> None:
    data = lmm.datasets.load("Dyestuff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = lmm.lmer("Yield ~ 1 + (1|Batch)", data, method=lmm.NUTS(chains=1, draws=2000, rng=2))
    assert fit.convergence.converged and fit.draws.diagnostics["r_hat"].between(0.99, 1.01).all()


def test_divergences_are_counted() -> None:
    """Steps that are far too long, wherever the seed leads."""
    with pytest.warns(
        lmm.ConvergenceWarning, match="transitions diverged.*raise target_acceptance= "
    ):
        fit = lmm.lmer(
            FORMULA,
            lmm.datasets.load("sleepstudy"),
            method=lmm.NUTS(chains=1, warmup=15, draws=300, target_acceptance=0.001, rng=1),
        )
    assert fit.draws.divergences > 0 and not fit.estimate.convergence.converged


def test_progress_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lmm.lmer(
            FORMULA,
            lmm.datasets.load("sleepstudy"),
            method=lmm.NUTS(chains=1, warmup=100, draws=100, control=lmm.Control(verbose=True)),
        )
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 2
        and lines[0].startswith("chain 1, warmup: acceptance")
        and lines[1].startswith("chain 1, draws")
    )


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    data = lmm.datasets.load("sleepstudy")
    for settings in (
        {"chains": 0},
        {"draws": 1.5},
        {"warmup": True},
        {"target_acceptance": 1.0},
        {"sigma": -1.0},
        {"max_tree_depth": 0},
    ):
        with pytest.raises(lmm.ArgumentError, match=next(iter(settings))):
            lmm.NUTS(**settings)
    with pytest.raises(lmm.ArgumentError, match="Did you mean 'Days'"):
        lmm.lmer(FORMULA, data, method=lmm.NUTS(priors={"Day": priors.Normal()}))
    with pytest.raises(lmm.ArgumentError, match="evaluate_only"):
        lmm.lmer(FORMULA, data, method="nuts", control=lmm.Control(evaluate_only=True))
    with pytest.raises(lmm.ArgumentError, match="ordinal"):
        lmm.glmer(
            "rating ~ temp + (1|judge)",
            lmm.datasets.load("wine"),
            family=lmm.families.Ordinal(),
            method="nuts",
        )
    monkeypatch.setattr("lmm.estimators.optional.importlib.util.find_spec", lambda name: None)
    with pytest.raises(lmm.ArgumentError, match=r"lmm\[bayes\]"):
        lmm.lmer(FORMULA, data, method="nuts")
