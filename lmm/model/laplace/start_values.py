"""Where a generalized fit begins: a generalized linear model, then moments of its working residuals.

Iteratively reweighted least squares gives the fixed effects without random effects (McCullagh & Nelder,
1989, section 2.5); the working response z = eta + r / W with weights W is then a linear mixed model with
unit residual variance, whose variances are estimated by moments. Thresholds and fixed effects of a cumulative model
are found together, by Newton's method on its concave log-likelihood (McCullagh, 1980).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lmm.model.gaussian import moments
from lmm.model.gaussian.crossproducts import CrossProducts, Pairs
from lmm.model.laplace.passes import Linearise, Working
from lmm.model.laplace.rows import Block
from lmm.model.problem import GeneralizedProblem

MAX_STEPS = 25


def starting_values(problem: GeneralizedProblem) -> np.ndarray:
    """(theta, gamma, rho) to begin from."""
    family, source = problem.family, problem.source
    some = source.sample()
    known, phi = problem.first_coefficients(), 1.0
    if known is not None:
        gamma = known
    elif family.has_intercept:
        gamma, phi = _without_effects(family, some)
    else:
        gamma, phi = _cumulative(family, some)
    sums: Working = source.total([Linearise(family, gamma, phi)])[0]
    if source.distant and problem.p:  # all rows have their say
        step = np.linalg.lstsq(sums.gram, sums.fixed_score, rcond=None)[0]
        gamma = gamma + step if np.all(np.abs(step) < problem.eta_scale) else gamma
    gram = np.zeros((problem.p + 1, problem.p + 1))
    gram[-1, -1] = sums.square
    pattern = source.pattern
    pairs = {key: Pairs(old.rows, old.cols, sums.pairs[key]) for key, old in pattern.pairs.items()}
    cross = CrossProducts(
        tuple(sums.diag), tuple(own[None] for own in sums.score), pairs, gram, sums.rows, 0.0
    )
    return np.concatenate(
        [moments.starting_values(cross, problem.structures), gamma, family.to_rho(phi)]
    )


def possible(family: Any, rows: Block) -> np.ndarray:
    """gamma (p,) with possible means in every row where there is one: nearest to the mean response, else far inside the link's range."""
    from scipy import optimize

    with np.errstate(all="ignore"):
        level = np.asarray(family.link.link(np.average(rows.y, weights=rows.weights)))
    level = family.clip(np.where(np.isfinite(level), level, 0.0)) - rows.offset
    gamma = (
        np.linalg.lstsq(rows.Q.T @ rows.Q, rows.Q.T @ level, rcond=None)[0]
        if rows.p
        else np.zeros(0)
    )
    if not rows.p or family.inside(rows.offset + rows.Q @ gamma).all():
        return gamma
    # the largest t with low + t <= offset + Q gamma <= high - t
    low, high = family.eta_bounds
    sides = [(1.0, low)] * np.isfinite(low) + [(-1.0, -high)] * np.isfinite(high)
    A = np.vstack([np.column_stack([-sign * rows.Q, np.ones(rows.n)]) for sign, _ in sides])
    b = np.concatenate([sign * rows.offset - bound for sign, bound in sides])
    most = float(np.abs(level).max())
    found = optimize.linprog(
        np.append(np.zeros(rows.p), -1.0),
        A,
        b,
        bounds=[(None, None)] * rows.p + [(0.0, most)],
        method="highs",
    )
    return (
        found.x[:-1] if found.x is not None and found.status == 0 and found.x[-1] > 0.0 else gamma
    )


def _without_effects(family: Any, rows: Block) -> tuple[np.ndarray, Any]:
    """gamma and phi of the generalized linear model, by reweighted least squares; no step leaves the range of the link."""

    def density(gamma: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            return float(
                family.log_density(rows.y, rows.offset + rows.Q @ gamma, rows.weights, phi).sum()
            )

    gamma = possible(family, rows)
    mu = family.initial_mu(rows.y, rows.weights)
    with np.errstate(all="ignore"):
        eta = family.link.link(mu)
        if not np.all(
            np.isfinite(eta)
        ):  # a family of the user's own may not know where its means may lie
            eta = np.broadcast_to(
                family.link.link(np.average(rows.y, weights=rows.weights)), eta.shape
            )
    eta = family.clip(np.where(np.isfinite(eta), eta, 0.0))
    phi = (
        family.initial_phi(rows.y, family.mean(rows.offset + rows.Q @ gamma), rows.weights)
        if family.n_parameters
        else 1.0
    )
    last = density(gamma)
    last = last if np.isfinite(last) else -np.inf
    for _ in range(family.start_rounds):
        with np.errstate(all="ignore"):
            r = family.derivatives(rows.y, eta, rows.weights, phi).d1
            W = family.working_weights(rows.y, eta, rows.weights, phi)
            right = rows.Q.T @ (W * (eta - rows.offset) + r)
            gram = rows.Q.T @ (rows.Q * W[:, None])
        if not (np.isfinite(gram).all() and np.isfinite(right).all()):
            break
        new = np.linalg.lstsq(gram, right, rcond=None)[0] if rows.p else gamma
        for _ in range(40):
            value = density(new)
            if np.isfinite(value) and value >= last - 1e-8 * abs(last):
                break
            new = (new + gamma) / 2
        else:
            break
        gamma, eta = new, rows.offset + rows.Q @ new
        mu = family.mean(eta)
        if family.n_parameters:
            phi = family.initial_phi(rows.y, mu, rows.weights)
            value = density(gamma)
        if abs(value - last) <= 1e-6 * (1.0 + abs(value)):
            break
        last = value
    return gamma, phi


def _cumulative(family: Any, rows: Block) -> tuple[np.ndarray, Any]:
    """gamma and phi of the model without random effects, by Newton's method with halving in (gamma, rho)."""
    p = rows.p
    gamma, rho = np.zeros(p), family.to_rho(family.initial_phi(rows.y, None, rows.weights))
    rho[0] += np.average(rows.offset, weights=rows.weights)
    eta = rows.offset
    value = float(family.kernel(rows.y, eta, rows.weights, family.from_rho(rho)).sum())
    for _ in range(MAX_STEPS):
        phi = family.from_rho(rho)
        d1, d2, _ = family.derivatives(rows.y, eta, rows.weights, phi)
        own = family.parameter_derivatives(rows.y, eta, rows.weights, phi, False)
        cross = rows.Q.T @ own.eta.T
        H = -np.block([[rows.Q.T @ (rows.Q * d2[:, None]), cross], [cross.T, own.second]])
        gradient = np.concatenate([rows.Q.T @ d1, own.first.sum(axis=1)])
        step = np.linalg.lstsq(H, gradient, rcond=None)[0]
        if not np.isfinite(step).all() or gradient @ step <= 1e-6:
            break
        for _ in range(20):
            new_gamma, new_rho = gamma + step[:p], rho + step[p:]
            new_eta = rows.offset + rows.Q @ new_gamma
            new = float(
                family.kernel(rows.y, new_eta, rows.weights, family.from_rho(new_rho)).sum()
            )
            if new >= value:
                break
            step = step / 2.0
        else:
            break
        gamma, rho, eta, value = new_gamma, new_rho, new_eta, new
    return gamma, family.from_rho(rho)
