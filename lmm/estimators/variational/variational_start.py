"""Where a variational search begins: at the likelihood fit, with the best Gaussian for its variances.

For the working linear model at fixed variances, with g = (d, dense effects), b the other effects and H Henderson's matrix in
these, the partially factorised Gaussian with the largest bound has

    E[b | g] = m - H_bb^-1 H_bg (g - mu),      Cov(g) = (H_gg - H_gb H_bb^-1 H_bg)^-1,      S_j S_j' = (H_jj)^-1,

so that the search has little left but the variances themselves. Zero variances are moved away from zero first: there the bound
has an optimum of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmm.estimators.from_posterior import level_variances
from lmm.linalg.factorisation import BlockSystem
from lmm.model.gaussian.crossproducts import CrossProducts, dense_pairs
from lmm.model.gaussian.system import make_system, plan_for
from lmm.model.posterior import elbo, scales
from lmm.model.posterior.elbo import Approximation
from lmm.model.posterior.joint import Model
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate

#: effects of smaller factors that the partial approximation holds together with the parameters
DENSE = 200


def dense_terms(model: Model) -> tuple[int, ...]:
    """Terms whose effects join the parameters: all but the largest, from the smallest up, while they are few."""
    effects = [term.k * term.J for term in model.terms]
    chosen: list[int] = []
    for t in sorted(range(1, len(effects)), key=lambda t: effects[t]):
        if sum(effects[s] for s in chosen) + effects[t] <= DENSE:
            chosen.append(t)
    return tuple(sorted(chosen))


def begin_at(
    problem: Problem | GeneralizedProblem,
    near: Estimate,
    model: Model,
    how: Approximation,
    sigma: float,
    shift: np.ndarray,
    unit: np.ndarray,
    scale_units: tuple[np.ndarray, ...],
) -> tuple[elbo.Begin, elbo.Frame]:
    """Parameters at a likelihood fit, and coordinates in units of the effects' standard deviations given the rest.

    Parameters
    ----------
    shift, unit : (p,), (p, p), beta = shift + unit d.
    scale_units : units of the standard deviations, as of the priors.
    """
    cross = problem.working_sums(near.beta, near.modes, near.phi, unit)
    scale = float(np.sqrt(near.scale2))
    G = []
    for A, relative in zip(cross.diag, near.factors, strict=True):
        own = scale**2 * relative @ relative.T
        shown = 0.25 * level_variances(A, scale**2)  # what a level's data would just show
        G.append(own + np.diag(np.maximum(shown - np.diagonal(own), 0.0)))
    zeta = scales.from_covariances(
        model.terms, G, [np.sqrt(np.diagonal(own)) for own in G], model.transform, scale_units
    )
    given = given_the_rest(cross, G, scale)
    effects = [np.ascontiguousarray(m.T) for m in near.modes]
    regressions: list[np.ndarray] = []
    factor = np.zeros((0, 0))
    if how.family == "partial":
        regressions, factor = joint_gaussian(cross, model, how, given)
    d = np.linalg.solve(unit, near.beta - shift)
    along, _ = joint_gaussian(cross, model, Approximation("partial", "fixed"), given)
    slopes = tuple(own[model.size :] for own in along)
    return elbo.Begin(zeta, d, effects, regressions, factor, sigma, near.phi), elbo.Frame(
        tuple(given.units), slopes, d
    )


class GivenTheRest(NamedTuple):
    """Per term T (k, k) relative to ``scale``, (T T')^-1, and standard deviations (k, J) of the effects given all others."""

    T: list[np.ndarray]
    prior: list[np.ndarray]
    units: list[np.ndarray]
    scale: float


def given_the_rest(cross: CrossProducts, G: list[np.ndarray], scale: float) -> GivenTheRest:
    """What is known of the effects, of covariances G (k, k) per term, given all else in the working linear model."""
    T = [np.linalg.cholesky(own + 1e-8 * np.diag(np.diagonal(own))) / scale for own in G]
    prior = [np.linalg.inv(t @ t.T) for t in T]
    units = [
        scale * np.sqrt(np.einsum("jaa->aj", np.linalg.inv(np.moveaxis(A, -1, 0) + P)))
        for A, P in zip(cross.diag, prior, strict=True)
    ]
    return GivenTheRest(T, prior, units, scale)


def joint_gaussian(
    cross: CrossProducts, model: Model, how: Approximation, given: GivenTheRest
) -> tuple[list[np.ndarray], np.ndarray]:
    """Regressions (e, k, J) of the free effects on (zeta, d, dense effects), and L (e, e)."""
    T, prior, units, scale = given
    z, p = model.size, model.p
    free = [t for t in range(len(model.terms)) if t not in how.dense]
    widths = [model.terms[s].k * model.terms[s].J for s in how.dense]
    stops = np.cumsum([p, *widths])
    places = {s: slice(stops[i], stops[i + 1]) for i, s in enumerate(how.dense)}
    H = np.zeros((stops[-1], stops[-1]))
    H[:p, :p] = cross.gram
    columns = []  # Z_t'W[X~ Z_dense] per free term, in the units of g
    for t in range(len(model.terms)):
        term = model.terms[t]
        own = np.zeros((stops[-1], term.k, term.J))
        own[:p] = cross.rhs[t]
        for s in how.dense:
            if s == t:
                continue
            other = model.terms[s]
            pairs = cross.pairs[min(t, s), max(t, s)]
            first, second = (term, other) if t < s else (other, term)
            block = dense_pairs(pairs, first.J, second.J)
            block = block.T if t < s else block  # (k_s J_s, k_t J_t)
            own[places[s]] = (block * units[s].reshape(-1)[:, None]).reshape(-1, term.k, term.J)
        if t in how.dense:
            flat = own.reshape(stops[-1], -1) * units[t].reshape(-1)
            H[:, places[t]] += flat
            H[:p, places[t]], H[places[t], :p] = flat[:p], flat[:p].T
            A = cross.diag[t] + prior[t][:, :, None]
            dense = np.einsum("abj,jl->ajbl", A, np.eye(term.J)).reshape(
                widths[how.dense.index(t)], -1
            )
            H[places[t], places[t]] = dense * np.outer(units[t].reshape(-1), units[t].reshape(-1))
        else:
            columns.append(own)
    sub = CrossProducts(
        tuple(cross.diag[t] for t in free),
        tuple(columns),
        {
            (i, j): cross.pairs[s, t]
            for i, s in enumerate(free)
            for j, t in enumerate(free)
            if i < j
        },
        cross.gram,
        cross.n,
        cross.sum_log_weights,
    )
    plan = plan_for(sub, tuple(str(t) for t in free))
    modes, _, inner = (
        BlockSystem(plan, make_system(sub, plan)).factorize([T[t] for t in free]).solve(columns)
    )
    information = (H - inner) / scale**2
    L = np.zeros((z + stops[-1], z + stops[-1]))
    L[:z, :z] = np.diag(elbo.zeta_spread(model))
    L[z:, z:] = np.linalg.cholesky(np.linalg.inv((information + information.T) / 2))
    return [np.concatenate([np.zeros((z, *own.shape[1:])), -own]) for own in modes], L
