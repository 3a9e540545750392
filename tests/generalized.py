"""Responses of every family for the zoo's designs, and Laplace's approximation by dense matrices: the oracle of the generalized tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize

from lmm.design.design import Design
from lmm.families import Family
from tests.algebra import Algebra, thetas
from tests.families.cases import phis


@dataclass(frozen=True)
class Case:
    """A design with a response of ``family``, and parameters (theta, beta, phi) at which every mean is possible."""

    design: Design
    family: Family
    theta: np.ndarray
    beta: np.ndarray
    phi: float

    @property
    def parameters(self) -> np.ndarray:
        """(theta, beta[, phi])."""
        return np.concatenate(
            [self.theta, self.beta, [self.phi] if self.family.has_dispersion else []]
        )


def case(d: Design, family: Family, kind: str = "interior", seed: int = 0) -> Case:
    """The arrangement of ``d`` with a simulated response, prior weights (trials) and an offset.

    The predictor varies by a half around the link of a middling mean; by far less where a link has an end.
    """
    rng = np.random.default_rng([seed, d.n])
    low, high = (
        max(family.mean_low, family.link.mean_low),
        min(family.mean_high, family.link.mean_high),
    )
    center = 0.4 if np.isfinite(high) else 2.0 if np.isfinite(low) else 0.5
    center = float(family.link.link(np.array(center)))
    bounded = any(np.isfinite(end) for end in family.eta_bounds)
    scale = 0.06 * abs(center) if bounded else 0.4
    theta = scale * thetas(d)[kind]
    weights = rng.integers(1, 6, d.n).astype(float)
    if family.name in ("poisson", "negative_binomial", "negative_binomial1", "counts", "waiting"):
        weights = np.ones(d.n)
    beta = scale * np.array([0.5, 1.0, -1.0][: d.p])
    offset = center + scale * rng.normal(size=d.n) * 0.3
    made = replace(d.with_mean(offset=offset), weights=weights)
    # drawn with effects of every term even where theta is singular
    some = Algebra(d, scale * thetas(d)["interior"])
    eta = offset + d.X @ beta + some.Zall @ some.L @ rng.normal(size=some.q)
    assert family.inside(eta).all()
    phi = phis(family)[0]
    y = family.simulate(rng, family.mean(eta), weights, phi)
    return Case(replace(made, y=y), family, theta, beta, phi)


class DenseLaplace:
    """Mode and objective by q x q matrices and a general minimiser."""

    def __init__(self, c: Case, observed: bool):
        d, family, phi = c.design, c.family, c.phi
        w = np.ones(d.n) if d.weights is None else d.weights
        algebra = Algebra(d, c.theta)
        A = algebra.Zall @ algebra.L
        base = d.X @ c.beta + (0.0 if d.offset is None else d.offset)

        def value(u: np.ndarray) -> float:
            return -float(family.log_density(d.y, base + A @ u, w, phi).sum()) + 0.5 * float(u @ u)

        def slope(u: np.ndarray) -> np.ndarray:
            return -A.T @ family.derivatives(d.y, base + A @ u, w, phi).d1 + u

        def curve(u: np.ndarray) -> np.ndarray:
            return A.T @ (-family.derivatives(d.y, base + A @ u, w, phi).d2[:, None] * A) + np.eye(
                len(u)
            )

        u = np.zeros(A.shape[1])
        if A.any():
            u = optimize.minimize(
                value, u, jac=slope, hess=curve, method="trust-exact", options={"gtol": 1e-6}
            ).x
        for _ in range(4):
            u = u - np.linalg.solve(curve(u), slope(u))
        assert np.abs(slope(u)).max() < 1e-8
        self.eta = base + A @ u
        self.b = algebra.L @ u
        derivatives = family.derivatives(d.y, self.eta, w, phi)
        self.r = derivatives.d1
        self.W = -derivatives.d2 if observed else family.expected_weights(self.eta, w, phi).weight
        M = np.eye(len(u)) + A.T @ (self.W[:, None] * A)
        sign, logdet = np.linalg.slogdet(M)
        assert sign > 0
        self.objective = 2.0 * value(u) + float(logdet)
        self.leverages = np.einsum("ij,ji->i", A, np.linalg.solve(M, A.T))
        WX = self.W[:, None] * d.X
        inner = A.T @ WX
        self.information = d.X.T @ WX - inner.T @ np.linalg.solve(M, inner)  # X'V^-1 X
        self.fixed = algebra.Zall.T @ (
            WX - self.W[:, None] * (A @ np.linalg.solve(M, inner))
        )  # Z'V^-1 X
        self.e = algebra.Zall.T @ self.r


def flat(vectors: list[np.ndarray]) -> np.ndarray:
    """Vectors (..., k, J) per term as the columns of Z, (..., q)."""
    return np.concatenate(
        [v.reshape(*v.shape[:-2], v.shape[-2] * v.shape[-1]) for v in vectors], axis=-1
    )


def derivative(function, x: np.ndarray, h: float = 1e-3) -> np.ndarray:
    """Central differences of fourth order, one row per parameter."""
    rows = []
    for unit in np.eye(len(x)):
        near = function(x + h * unit) - function(x - h * unit)
        far = function(x + 2 * h * unit) - function(x - 2 * h * unit)
        rows.append((8 * near - far) / (12 * h))
    return np.array(rows)
