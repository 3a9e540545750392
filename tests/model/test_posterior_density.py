"""The posterior density for samplers against dense matrices, NumPy's families, and changes of variable done by brute force."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import block_diag

from lmm import families
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood
from lmm.model.posterior import posterior_density as density
from lmm.model.posterior.joint import make_model, units_of
from lmm.model.posterior.posterior_density import Space
from lmm.model.problem import build_generalized, build_problem
from lmm.priors import (
    LKJ,
    Exponential,
    HalfNormal,
    HalfStudentT,
    LogNormal,
    Normal,
    StudentT,
    resolve,
)
from tests.covariance.examples import correlated_pairs
from tests.designs import design, slopes, term, zoo

DESIGNS = zoo()
NAMES = [
    "scalar",
    "blocks",
    "slopes crossed",
    "three deep and crossed",
    "weights and offset",
    "no fixed effects",
]
PRIORS = {
    "b0": StudentT(4, 45.0, 10.0),
    "beta": Normal(0.5, 2.0),
    "sd": HalfNormal(1.5),
    "sd_x0|a": Exponential(2.0),
    "sd_Intercept|a": HalfStudentT(3, 2.0),
    "cor": LKJ(2.0),
    "sigma": LogNormal(0.1, 0.5),
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def given(problem):
    """The priors that the model has a parameter for."""
    columns = {f"sd_{c}|{g}" for g, own in problem.labels for c in own}
    model = make_model(problem, "log")
    known = {*problem.names, *(["beta"] if problem.p else []), "sd", "sigma", *columns}
    known |= {"cor"} if any(term.size > term.n_sd for term in model.terms) else set()
    return resolve(
        {k: v for k, v in PRIORS.items() if k in known},
        problem.names,
        problem.labels,
        units_of(problem, model),
    )


def linear(name):
    problem = build_problem(DESIGNS[name])
    near, priors = maximum_likelihood(problem).fit(problem), given(problem)
    data, plan = density.sum_data(problem, near, near.sigma, priors)
    return DESIGNS[name], problem, priors, data, Space(make_model(problem, "log"), plan, True)


def covariances(space, zeta):
    """G per term from zeta, written again."""
    out = []
    for own, t in zip(
        np.split(zeta, np.cumsum([t.size for t in space.model.terms])[:-1]),
        space.model.terms,
        strict=True,
    ):
        sd, z = (
            np.exp(own[: t.k]),
            dict(zip(correlated_pairs(t.structure), np.tanh(own[t.k :]), strict=True)),
        )
        L = np.eye(t.k)
        for block in t.structure.free_blocks():
            start = int(block[0])
            for i in block.tolist():
                for j in range(start, i):
                    L[i, j] = z[i, j] * np.sqrt(1.0 - np.sum(L[i, start:j] ** 2))
                L[i, i] = np.sqrt(1.0 - np.sum(L[i, start:i] ** 2))
        out.append((sd, z, np.outer(sd, sd) * (L @ L.T)))
    return out


def log_prior(space, priors, beta, zeta, scale, own):
    """Priors of the user's parameters with the Jacobians of the logarithms, and of tanh, on the way to zeta."""
    total = priors.rest.log_density(beta, np)
    total += sum(
        p.log_density(b, np) for p, b in zip(priors.beta, beta, strict=True) if p is not None
    )
    for (sd, z, _), t, sds, cor in zip(
        covariances(space, zeta), space.model.terms, priors.sd, priors.cor, strict=True
    ):
        total += sum(p.log_density(s, np) + np.log(s) for p, s in zip(sds, sd, strict=True))
        for (_, j), value in z.items():
            block = next(b for b in t.structure.free_blocks() if j in b)
            start, size = int(block[0]), len(block)
            total += cor.log_partial(value, j - start, size, np) + np.log1p(-(value**2))
    return total if own is None else total + own.log_density(scale, np) + np.log(scale)


def stacked(d):
    """Z as (n, q), term by term, column by column."""
    out = []
    for t in d.terms:
        z = np.zeros((d.n, t.k, t.J))
        z[np.arange(d.n), :, t.codes] = t.values
        out.append(z.reshape(d.n, -1))
    return np.concatenate(out, axis=1)


def spread(d, matrices):
    """Block-diagonal, (q, q)."""
    return block_diag(*(np.kron(G, np.eye(t.J)) for t, G in zip(d.terms, matrices, strict=True)))


def somewhere(space, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=space.size) * 0.5


@pytest.mark.parametrize("name", NAMES)
def test_marginal_density_of_a_linear_model(name):
    d, _, priors, data, space = linear(name)
    p, z = space.model.p, space.model.size
    of = jax.jit(lambda x: density.log_posterior(x, data, space))
    for seed in range(3):
        x = somewhere(space, seed)
        beta, sigma = data.shift + data.unit @ x[:p], np.exp(x[-1])
        Z, G = stacked(d), spread(d, [own[2] for own in covariances(space, x[p : p + z])])
        w = np.ones(d.n) if d.weights is None else d.weights
        V = Z @ G @ Z.T + sigma**2 * np.diag(1.0 / w)
        r = d.y - (0.0 if d.offset is None else d.offset) - d.X @ beta
        expected = -0.5 * (np.linalg.slogdet(2.0 * np.pi * V)[1] + r @ np.linalg.solve(V, r))
        expected += (
            log_prior(space, priors, beta, x[p : p + z], sigma, priors.sigma)
            + np.linalg.slogdet(data.unit)[1]
        )
        assert float(of(x)) == pytest.approx(expected, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("name", ["three deep and crossed", "weights and offset"])
def test_effects_given_the_parameters(name):
    """Mean and covariance of the conditional normal distribution, the latter read off unit vectors; padded levels are left out."""
    d, _, _, data, space = linear(name)
    p, z = space.model.p, space.model.size
    x = somewhere(space, 4)
    count = density.padded_effects(space.plan)
    draw = jax.jit(jax.vmap(lambda noise: density.conditional_effects(x, noise, data, space)))
    means, b = draw(np.eye(count))
    mean = np.concatenate([np.asarray(m[0]).ravel() for m in means])
    S = np.concatenate(
        [np.asarray(own - m).reshape(count, -1) for own, m in zip(b, means, strict=True)], axis=1
    )
    sigma, Z = np.exp(x[-1]), stacked(d)
    G = spread(d, [own[2] for own in covariances(space, x[p : p + z])])
    w = np.ones(d.n) if d.weights is None else d.weights
    V = Z @ G @ Z.T + sigma**2 * np.diag(1.0 / w)
    r = d.y - (0.0 if d.offset is None else d.offset) - d.X @ (data.shift + data.unit @ x[:p])
    K = G @ Z.T @ np.linalg.inv(V)
    np.testing.assert_allclose(mean, K @ r, atol=1e-8)
    np.testing.assert_allclose(S.T @ S, G - K @ Z @ G, atol=1e-8)


def generalized(family, crossed=True):
    rng = np.random.default_rng(3)
    n = 90
    a, c = rng.integers(0, 9, n), rng.integers(0, 4, n)
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    Z = slopes(rng, n, 2)
    eta = 0.3 + 0.4 * X[:, 1] + 0.7 * rng.normal(size=9)[a] + 0.5 * rng.normal(size=9)[a] * Z[:, 1]
    eta += 0.5 * rng.normal(size=4)[c] * crossed
    mu = family.link.inverse(eta)
    draw = {
        "poisson": rng.poisson,
        "binomial": lambda p: rng.random(n) < p,
        "gamma": lambda m: rng.gamma(3.0, m / 3.0),
    }
    y = np.asarray(draw[family.name](mu), dtype=float)
    terms = [term("a", a, Z), *([term("c", c, np.ones((n, 1)))] if crossed else [])]
    d = design(y, X, terms, offset=0.1 * rng.normal(size=n))
    problem = build_generalized(d, family)
    near = maximum_likelihood(problem).fit(problem)
    own = {"phi": LogNormal(-1.0, 0.5)} if family.has_dispersion else {}
    return (
        d,
        problem,
        near,
        resolve(own, problem.names, problem.labels, units_of(problem, make_model(problem, "log"))),
    )


@pytest.mark.parametrize(
    "family",
    [families.Poisson(), families.Binomial(link="probit"), families.Gamma(link="log")],
    ids=lambda f: f.name,
)
def test_density_of_a_generalized_model(family, monkeypatch):
    """The plain non-centred form against the family's log density; the form that knows the data by its Jacobian."""
    d, problem, near, priors = generalized(family)
    model = make_model(problem, "log")
    data, plan = density.generalized_data(problem, near, priors)
    monkeypatch.setattr(density, "TAIL_LIMIT", -1)
    plain, nothing = density.generalized_data(problem, near, priors)
    assert plan is not None and nothing is None
    space, simple = Space(model, plan, False), Space(model, None, False)
    p, z, m = model.p, model.size, space.parameters
    x = somewhere(space, 5)

    @jax.jit
    def standardised(v):
        """T^-1 b of v, flat."""
        at = density.unpack(space, jnp.concatenate([x[:m], v]))
        b = density.random_effects(at, data, space)[0]
        T = density._factors(at, space)
        return jnp.concatenate(
            [jnp.linalg.solve(t, own).ravel() for t, own in zip(T, b, strict=True)]
        )

    u = np.asarray(standardised(x[m:]))
    beta = data.shift + data.unit @ x[:p]
    other = np.concatenate([np.linalg.solve(plain.unit, beta - plain.shift), x[p:m], u])
    G = spread(d, [own[2] for own in covariances(space, x[p : p + z])])
    L = np.linalg.cholesky(G)
    phi = np.exp(x[m - 1]) if family.has_dispersion else 1.0
    eta = d.X @ beta + d.offset + stacked(d) @ L @ u
    expected = (
        float(np.sum(family.log_density(d.y, eta, None, phi)))
        - 0.5 * u @ u
        - 0.5 * len(u) * np.log(2 * np.pi)
    )
    expected += log_prior(
        space, priors, beta, x[p : p + z], phi, priors.phi if family.has_dispersion else None
    )
    found = (
        float(jax.jit(lambda x: density.log_posterior(x, plain, simple))(other))
        - np.linalg.slogdet(plain.unit)[1]
    )
    assert found == pytest.approx(expected, rel=1e-9)
    jacobian = np.linalg.slogdet(np.asarray(jax.jit(jax.jacfwd(standardised))(x[m:])))[1]
    found = (
        float(jax.jit(lambda x: density.log_posterior(x, data, space))(x))
        - np.linalg.slogdet(data.unit)[1]
    )
    assert found == pytest.approx(expected + jacobian, rel=1e-9)


def test_effects_are_about_standard_normal_in_the_form_that_knows_the_data():
    """At v = 0 and the fit's parameters the gradient in v vanishes and the curvature is that of N(0, I)."""
    _, problem, near, priors = generalized(families.Poisson(), crossed=False)
    data, plan = density.generalized_data(problem, near, priors)
    space = Space(make_model(problem, "log"), plan, False)
    T = near.factors[0]
    sd = np.sqrt(np.diagonal(T @ T.T))
    zeta = np.concatenate([np.log(sd), [np.arctanh((T @ T.T)[0, 1] / np.prod(sd))]])
    start = np.concatenate([np.zeros(2), zeta])

    def of(v):
        return density.log_posterior(jnp.concatenate([start, v]), data, space)

    assert np.max(np.abs(jax.jit(jax.grad(of))(np.zeros(space.effects)))) < 1e-4
    H = np.asarray(jax.jit(jax.hessian(of))(np.zeros(space.effects)))
    np.testing.assert_allclose(H, -np.eye(space.effects), atol=1e-4)


def test_no_density_outside_the_range_of_a_link():
    _, problem, near, priors = generalized(families.Gamma(link="log"), crossed=False)
    family = families.Gamma(link="inverse")
    problem = replace(problem, family=family)
    mu = np.full(problem.n, problem.rows.y.mean())
    near = replace(near, eta=1.0 / mu, beta=np.array([1.0 / mu[0], 0.0]), family=family)
    data, plan = density.generalized_data(problem, near, priors)
    space = Space(make_model(problem, "log"), plan, False)
    of = jax.jit(jax.value_and_grad(lambda x: density.log_posterior(x, data, space)))
    x = np.zeros(space.size)
    x[: space.model.p] = np.linalg.solve(data.unit, [-3.0 / mu[0], 0.0])
    value, gradient = of(x)
    assert float(value) == -np.inf and np.isfinite(gradient).all()
