"""The evidence lower bound is the expectation that it claims to be, and lies below the evidence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

pytest.importorskip("optax")

import jax  # noqa: E402

import lmm  # noqa: E402
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood  # noqa: E402
from lmm.estimators.variational.approximation import make_rules  # noqa: E402
from lmm.estimators.variational.variational_start import begin_at, dense_terms  # noqa: E402
from lmm.model.posterior import elbo  # noqa: E402
from lmm.model.posterior.elbo import FAMILIES, Approximation  # noqa: E402
from lmm.model.posterior.joint import coordinates, make_model, make_row_data, make_sums, units_of  # noqa: E402
from lmm.model.posterior.scales import as_tree  # noqa: E402
from lmm.priors import LKJ, Exponential, HalfNormal, Normal, resolve  # noqa: E402

PRIORS = {
    "beta": Normal(0.5, 2.0),
    "sd": HalfNormal(1.5),
    "h": Exponential(0.8),
    "cor": LKJ(2.0),
    "sigma": HalfNormal(2.0),
}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 120
    g, h = rng.integers(0, 8, n), rng.integers(0, 4, n)
    x = rng.normal(size=n)
    eta = (
        0.4
        + 0.5 * x
        + rng.normal(size=8)[g] * 0.7
        + rng.normal(size=8)[g] * 0.4 * x
        + rng.normal(size=4)[h] * 0.5
    )
    data = {
        "y": eta + rng.normal(size=n),
        "count": rng.poisson(np.exp(0.5 * eta)),
        "x": x,
        "w": rng.uniform(0.5, 2.0, n),
    }
    return pd.DataFrame(data).assign(g=[f"g{i}" for i in g], h=[f"h{i}" for i in h])


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def log_joint(model, design, zeta, beta, b, sigma, family) -> np.ndarray:
    """log p(y, b, beta, zeta) at N draws: zeta (N, z), beta (N, p), b per term (N, k, J), sigma (N,)."""
    eta = beta @ design.X.T
    total = stats.norm(0.5, 2.0).logpdf(beta).sum(axis=1)
    at = 0
    for term, own, group in zip(design.terms, b, ("g", "h"), strict=True):
        eta = eta + np.einsum("dkn,nk->dn", own[:, :, term.codes], term.values)
        z = zeta[:, at : at + term.k]
        unit = 1.5 if group == "g" else 0.8  # the scales of the priors
        sd = unit * softplus(z)
        prior = stats.halfnorm(scale=1.5) if group == "g" else stats.expon(scale=0.8)
        total += (
            prior.logpdf(sd).sum(axis=1) + term.k * np.log(unit) - np.logaddexp(0.0, -z).sum(axis=1)
        )
        at += term.k
        r = np.zeros(len(zeta))
        if term.k == 2:
            raw = zeta[:, at]
            r, at = np.tanh(raw), at + 1
            # LKJ(2) of a correlation is Beta(2, 2) on (-1, 1)
            total += stats.beta(2, 2).logpdf((r + 1) / 2) - np.log(2) + np.log(1 - r**2)
            G = np.empty((len(zeta), 2, 2))
            G[:, 0, 0], G[:, 1, 1], G[:, 0, 1], G[:, 1, 0] = (
                sd[:, 0] ** 2,
                sd[:, 1] ** 2,
                r * sd.prod(axis=1),
                r * sd.prod(axis=1),
            )
            inverse, logdet = np.linalg.inv(G), np.linalg.slogdet(G)[1]
            total += -0.5 * np.einsum("dkj,dkl,dlj->d", own, inverse, own) - term.J * (
                0.5 * logdet + np.log(2 * np.pi)
            )
        else:
            total += stats.norm(0, sd[:, :, None]).logpdf(own).sum(axis=(1, 2))
    if family is None:
        scale = sigma[:, None] / np.sqrt(design.weights)[None]
        return total + stats.norm(eta, scale).logpdf(design.y).sum(axis=1)
    return total + stats.poisson(np.exp(eta)).logpmf(design.y).sum(axis=1)


@pytest.mark.parametrize("generalized", [False, True], ids=["linear", "poisson"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bound_is_the_mean_over_draws(family, generalized):
    data = table()
    if generalized:
        fit = lmm.glmer("count ~ x + (x|g) + (1|h)", data, family="poisson")
    else:
        fit = lmm.lmer("y ~ x + (x|g) + (1|h)", data, weights="w", REML=False)
    problem = fit.problem
    model = make_model(problem, "softplus")
    given = {name: prior for name, prior in PRIORS.items() if name != "sigma" or not generalized}
    priors = as_tree(resolve(given, problem.names, problem.labels, units_of(problem, model)))
    how = Approximation(
        family,
        "fixed" if generalized else "posterior",
        dense_terms(model) if family == "partial" else (),
    )
    near = maximum_likelihood(problem).fit(problem)
    unit = coordinates(problem, near.sigma, diagonal=family == "mean_field")
    arrays = make_row_data(problem, near.beta, unit) if generalized else make_sums(problem, unit)
    first, frame = begin_at(problem, near, model, how, near.sigma, arrays.shift, unit, priors.units)
    rng = np.random.default_rng(4)
    q = jax.tree.map(
        lambda v: np.asarray(v) + 0.05 * rng.normal(size=np.shape(v)),
        elbo.initial(model, how, first, frame, priors.sigma_unit),
    )
    rules = make_rules(model.size, 30)
    with jax.enable_x64(True):
        value, _ = elbo.bound(
            q, arrays, frame, rules, np.asarray(1.0), priors, np.ones(()), model, how
        )
        g = jax.tree.map(np.asarray, elbo.unpack(model, how, q, frame))
    N, e = 20_000, how.globals(model) if family == "partial" else model.size + model.p
    z = rng.normal(size=(N, e))
    zeta, d = g.zeta + z[:, : model.size] @ g.zeta_factor.T, g.d + z @ g.d_factor.T
    log_q = stats.norm.logpdf(z).sum(axis=1) - g.log_diagonal - np.linalg.slogdet(unit)[1]
    b = []
    for t, (m, S) in enumerate(zip(g.m, g.S, strict=True)):
        noise = rng.normal(size=(N, *m.shape))
        own = (
            m
            + np.einsum("kaj,daj->dkj", S, noise)
            + (0.0 if g.C is None else np.tensordot(z, g.C[t], 1))
        )
        if t not in how.dense:
            log_q += (
                stats.norm.logpdf(noise).sum(axis=(1, 2)) - np.log(np.einsum("aaj->aj", S)).sum()
            )
        b.append(own)
    sigma = np.ones(N)
    extra = np.zeros(N)
    if not generalized:
        raw = q["sigma"] + np.exp(q["sigma_factor"]) * rng.normal(size=N)
        sigma = 2.0 * softplus(raw)
        log_q += stats.norm(q["sigma"], np.exp(q["sigma_factor"])).logpdf(raw)
        extra = stats.halfnorm(scale=2.0).logpdf(sigma) + np.log(2.0) - np.logaddexp(0.0, -raw)
    values = (
        log_joint(model, fit.design, zeta, arrays.shift + d @ unit.T, b, sigma, fit.family)
        + extra
        - log_q
    )
    assert abs(float(value) - values.mean()) < 4.0 * values.std() / np.sqrt(N)
    assert values.std() / np.sqrt(N) < 0.3


def test_the_bound_lies_below_the_evidence_and_rises_with_the_family():
    """One scale: the evidence is an integral over it, everything else being normal."""
    rng = np.random.default_rng(5)
    data = pd.DataFrame(
        {
            "g": np.repeat(list("abcdef"), 4),
            "y": np.repeat(rng.normal(size=6), 4) + rng.normal(size=24),
        }
    )
    Z = (data["g"].to_numpy()[:, None] == np.array(list("abcdef"))).astype(float)

    def density(tau: float) -> float:
        V = np.eye(24) + tau**2 * Z @ Z.T + 4.0 * np.ones((24, 24))
        return float(
            np.exp(
                stats.multivariate_normal(np.zeros(24), V).logpdf(data["y"])
                + stats.halfnorm(scale=1.0).logpdf(tau)
                + 40.0
            )
        )

    evidence = np.log(integrate.quad(density, 0, 20, limit=200)[0]) - 40.0
    priors = {"Intercept": Normal(0, 2), "sd": HalfNormal(1)}
    bounds = {
        family: lmm.lmer(
            "y ~ 1 + (1|g)", data, method=lmm.VariationalBayes(family, sigma=1.0, priors=priors)
        ).elbo
        for family in FAMILIES
    }
    assert bounds["mean_field"] <= bounds["full_rank"] + 1e-6
    assert bounds["full_rank"] < bounds["partial"] < evidence
    assert evidence - bounds["partial"] < 0.4
