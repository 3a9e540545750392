"""A linear fit's covariance as n x n matrices: the oracle of degrees of freedom."""

from __future__ import annotations

from functools import cache

import numpy as np

from lmm.design.design import Design
from lmm.estimators import MaximumLikelihood
from lmm.estimators.control import Control
from lmm.inference.tests.kenward_roger import moments
from lmm.model.problem import Problem, build_problem
from lmm.model.records import Estimate
from tests.algebra import thetas
from tests.designs import zoo

DESIGNS = zoo()


@cache
def problem_of(name: str) -> Problem:
    return build_problem(DESIGNS[name])


@cache
def evaluated(
    name: str, kind: str = "interior", reml: bool = True, sigma: float | None = None
) -> tuple[MaximumLikelihood, Estimate]:
    """An estimator with everything it computes at some theta."""
    estimator = MaximumLikelihood(reml=reml, sigma=sigma, control=Control(evaluate_only=True))
    return estimator, estimator.fit(problem_of(name), thetas(DESIGNS[name])[kind])


def parts(design: Design) -> list[np.ndarray]:
    """V_i (n, n) of every variance and covariance of the random effects, and of the residual variance."""
    out = []
    for term in design.terms:
        z = np.zeros((design.n, term.J, term.k))
        z[np.arange(design.n), term.codes] = term.values
        out += [
            np.einsum("nja,ab,mjb->nm", z, d, z, optimize=True)
            for d in term.structure.linear_basis()
        ]
    return [*out, np.diag(np.ones(design.n) if design.weights is None else 1.0 / design.weights)]


def values(design: Design, estimate: Estimate) -> np.ndarray:
    """The parameters, variances and covariances, that go with :func:`parts`."""
    out = []
    for term, T in zip(design.terms, estimate.factors, strict=True):
        G = estimate.sigma**2 * T @ T.T
        basis = term.structure.linear_basis()
        out += np.linalg.lstsq(basis.reshape(len(basis), -1).T, G.ravel(), rcond=None)[0].tolist()
    return np.array([*out, estimate.sigma**2])


class Dense:
    """Kenward and Roger's quantities straight from their definitions."""

    def __init__(self, design: Design, estimate: Estimate, known: bool = False):
        V_i, phi = parts(design), values(design, estimate)
        V = sum(p * one for p, one in zip(phi, V_i, strict=True))
        V_i = V_i[:-1] if known else V_i
        inverse, X = np.linalg.inv(V), design.X
        left = [inverse @ one for one in V_i]
        self.phi = np.linalg.inv(X.T @ inverse @ X)
        self.P = np.array([-X.T @ one @ inverse @ X for one in left])
        Q = np.array([[X.T @ one @ other @ inverse @ X for other in left] for one in left])
        projection = inverse - inverse @ X @ self.phi @ X.T @ inverse
        PV = [projection @ one for one in V_i]
        self.information = np.array([[np.sum(one * other.T) for other in PV] for one in PV])
        self.W = 2.0 * np.linalg.inv(self.information)
        U = np.einsum(
            "ij,ijpq->pq", self.W, Q - np.einsum("ipq,qr,jrs->ijps", self.P, self.phi, self.P)
        )
        self.cov = self.phi + 2.0 * self.phi @ U @ self.phi

    def f(self, L: np.ndarray, estimate: np.ndarray) -> tuple[float, float]:
        """Scaled F and its denominator degrees of freedom."""
        q = len(L)
        theta = L.T @ np.linalg.solve(L @ self.phi @ L.T, L)
        u = [theta @ self.phi @ P @ self.phi for P in self.P]
        A1 = sum(
            self.W[i, j] * np.trace(u[i]) * np.trace(u[j])
            for i in range(len(u))
            for j in range(len(u))
        )
        A2 = sum(self.W[i, j] * np.trace(u[i] @ u[j]) for i in range(len(u)) for j in range(len(u)))
        df, scale = moments(q, A1, A2)
        return scale * float(estimate @ np.linalg.solve(L @ self.cov @ L.T, estimate)) / q, df
