"""New responses from a fitted model.

Linear: y* = X beta + Z b* + offset + e*, b* = sigma T u*, Var(e*_i) = sigma^2 / w_i. Generalized: y* from the family
with means g^-1(X beta + Z b* + offset), b* = T u*. Of a posterior every column has a draw of all parameters: it is the posterior
predictive distribution.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError, LmmWarning, warn
from lmm.model.marginal.residual_errors import draw
from lmm.model.records import Draws, Estimate

#: times that effects are drawn again before a model counts as impossible
ROUNDS = 100
#: numbers drawn at a time
BLOCK = 1 << 18


def simulate_array(
    design: Design, estimate: Estimate, nsim: int, rng: np.random.Generator, use_u: bool
) -> np.ndarray:
    """(n, nsim) responses of the kept rows, a new draw of everything random per column.

    Where random effects lead to no possible mean of a family, they are drawn again: those of the levels of such rows. A warning says
    how many.

    Raises
    ------
    ArgumentError : too many of them do, or the fixed part alone does.
    """
    if estimate.quasi:
        raise ArgumentError(
            "simulate: quasi-likelihood estimates a variance and no distribution, so that there is nothing to draw responses from (nor to "
            "bootstrap or to check residuals by); fit a family that has its own dispersion, such as negative_binomial."
        )
    own = estimate.simulated(design, nsim, rng, use_u)
    if own is not None:
        return own
    draws = estimate.draws_for(effects=use_u)
    if draws is not None:
        return _predictive(design, estimate, draws, nsim, rng, use_u)
    mean = design.rows.fixed_part(estimate.beta)
    if use_u:
        mean = design.rows.predictor(estimate.beta, estimate.modes)
    family = estimate.family
    factors = [np.sqrt(estimate.scale2) * T.T for T in estimate.factors]
    out = np.empty((design.n, nsim), order="F")
    if family is None:
        scale = estimate.sigma / np.sqrt(1.0 if design.weights is None else design.weights)
        _gaussian(
            design, mean, 0.0 if design.residual else scale, [] if use_u else factors, out, rng
        )
        if design.residual:
            for first in range(0, nsim, max(1, BLOCK // design.n)):
                columns = out.T[first : first + max(1, BLOCK // design.n)]
                columns += draw(design, estimate, len(columns), rng)
        return out
    again = 0
    for column in out.T:
        column[:] = mean
        if not use_u:
            effects = [
                term.colour(rng.standard_normal((term.J, term.k))) @ T
                for term, T in zip(design.terms, factors, strict=True)
            ]
            for term, b in zip(design.terms, effects, strict=True):
                column += term.times(b)
            again += _within_range(design, estimate, mean, effects, factors, column, rng)
        column[:] = family.simulate(rng, family.mean(column), design.weights, estimate.phi)
    if again:
        share = again / (nsim * sum(term.J for term in design.terms))
        warn(
            f"simulate: the random effects of {again} levels ({100.0 * share:.2g} % of those drawn) were drawn again, because with the "
            f"{family.link.name} link they lead to no possible mean of the {family.name} family: effects are simulated within its range.",
            LmmWarning,
        )
    return out


def simulate_slabs(
    design: Design, estimate: Estimate, nsim: int, rng: np.random.Generator, held: int
) -> Iterator[np.ndarray]:
    """``nsim`` responses with new random effects, in parts (n, any number) of up to ``held`` numbers."""
    width = max(1, held // design.n)
    for first in range(0, nsim, width):
        yield simulate_array(design, estimate, min(width, nsim - first), rng, False)


def _gaussian(
    design: Design,
    mean: np.ndarray,
    scale: float | np.ndarray,
    factors: list[np.ndarray],
    out: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Fill ``out`` (n, nsim): of each column first the random effects are drawn, term by term, and then the residuals."""
    terms = design.terms[: len(factors)]
    effects = sum(term.J * term.k for term in terms)
    width = max(1, BLOCK // (effects + design.n))
    for first in range(0, out.shape[1], width):
        columns = out.T[first : first + width]
        drawn = rng.standard_normal((len(columns), effects + design.n))
        columns[:], at = mean, 0
        for term, T in zip(terms, factors, strict=True):
            own = drawn[:, at : at + term.J * term.k].reshape(-1, term.J, term.k)
            columns += term.times(term.colour(own) @ T)
            at += term.J * term.k
        columns += scale * drawn[:, effects:]


def _within_range(
    design: Design,
    estimate: Estimate,
    mean: np.ndarray,
    effects: list[np.ndarray],
    factors: list[np.ndarray],
    eta: np.ndarray,
    rng: np.random.Generator,
) -> int:
    """Draw effects again until all rows of ``eta`` (n,) have possible means; how many levels' were."""
    family, count = estimate.family, 0
    for _ in range(ROUNDS):
        bad = ~family.inside(eta)
        if not bad.any():
            return count
        if count == 0 and not family.inside(mean[bad]).all():
            break
        for term, T, b in zip(design.terms, factors, effects, strict=True):
            levels = np.unique(term.codes[bad])
            count += len(levels)
            if term.relation is None:
                b[levels] = rng.standard_normal((len(levels), term.k)) @ T
            else:  # those of other levels go with them
                b[:] = term.colour(rng.standard_normal((term.J, term.k))) @ T
        eta[:] = mean
        for term, b in zip(design.terms, effects, strict=True):
            eta += term.times(b)
    raise ArgumentError(
        f"simulate: with the {family.link.name} link the model's random effects, or its fixed part alone, lead to no possible mean of the "
        f"{family.name} family in too many rows ({int(bad.sum())} of {design.n}); take a link whose range has no end, such as log."
    )


def _predictive(
    design: Design,
    estimate: Estimate,
    draws: Draws,
    nsim: int,
    rng: np.random.Generator,
    use_u: bool,
) -> np.ndarray:
    """(n, nsim) responses, each column from one draw of the posterior; no draw is used twice before all have been."""
    chains, length = draws.beta.shape[:2]
    count = chains * length
    order = np.concatenate([rng.permutation(count) for _ in range(-(-nsim // count))])[:nsim]
    out = np.empty((design.n, nsim), order="F")
    for column, which in zip(out.T, order, strict=True):
        at = divmod(int(which), length)
        column[:] = design.rows.fixed_part(draws.beta[at])
        for t, term in enumerate(design.terms):
            b = (
                draws.effects[t][at]
                if use_u
                else _new_effects(draws.covariances[t][at], term.J, rng)
            )
            column += term.times(b)
        family, phi = estimate.distribution, draws.density_phi(estimate, at)
        column[:] = family.simulate(rng, family.mean(column), design.weights, phi)
    return out


def _new_effects(G: np.ndarray, J: int, rng: np.random.Generator) -> np.ndarray:
    """(J, k) effects of covariance G (k, k)."""
    values, vectors = np.linalg.eigh(G)
    return np.asarray(
        rng.standard_normal((J, len(G))) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    )
