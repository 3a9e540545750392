"""Where a generalized fit begins: a generalized linear model, then moments of its working residuals.

Iteratively reweighted least squares gives the fixed effects without random effects (McCullagh & Nelder,
1989, section 2.5); the working response z = eta + r / W with weights W is then a linear mixed model with
unit residual variance, whose variances are estimated by moments.
"""

from __future__ import annotations

import numpy as np

from lmm.model import moments
from lmm.model.crossproducts import cross_products
from lmm.model.problem import GeneralizedProblem

MAX_STEPS = 25


def starting_values(problem: GeneralizedProblem) -> np.ndarray:
    """psi = (theta, gamma[, log phi]) to begin from."""
    family, rows = problem.family, problem.rows
    mu = family.initial_mu(rows.y, rows.weights)
    with np.errstate(all="ignore"):
        eta = family.link.link(mu)
        if not np.all(np.isfinite(eta)):  # a family of the user's own may not know where its means may lie
            eta = np.broadcast_to(family.link.link(np.average(rows.y, weights=rows.weights)), eta.shape)
    eta = np.where(np.isfinite(eta), eta, 0.0)
    mu = family.mean(eta)
    phi = family.initial_phi(rows.y, mu, rows.weights) if family.has_dispersion else 1.0
    gamma = np.zeros(rows.p)
    last = -np.inf
    for _ in range(MAX_STEPS):
        r = family.derivatives(rows.y, eta, rows.weights, phi).d1
        W = np.maximum(family.expected_weights(eta, rows.weights, phi).weight, 1e-10)
        QW = rows.Q * W[:, None]
        target = eta - rows.offset + r / W
        new = np.linalg.lstsq(QW.T @ rows.Q, QW.T @ target, rcond=None)[0] if rows.p else gamma
        for _ in range(20):
            value = float(family.log_density(rows.y, rows.offset + rows.Q @ new, rows.weights, phi).sum())
            if np.isfinite(value) and value >= last - 1e-8 * abs(last):
                break
            new = (new + gamma) / 2
        gamma, eta = new, rows.offset + rows.Q @ new
        mu = family.mean(eta)
        if family.has_dispersion:
            phi = family.initial_phi(rows.y, mu, rows.weights)
        if abs(value - last) <= 1e-6 * (1.0 + abs(value)):
            break
        last = value
    r = family.derivatives(rows.y, eta, rows.weights, phi).d1
    W = np.maximum(family.expected_weights(eta, rows.weights, phi).weight, 1e-10)
    cross = cross_products(problem.terms, np.column_stack([rows.Q, r / W]), W)
    theta = moments.starting_values(cross, problem.structures)
    tail = [np.log(phi)] if family.has_dispersion else []
    return np.concatenate([theta, gamma, tail])
