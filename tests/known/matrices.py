"""Data with a known covariance between the levels of a grouping factor, and the likelihood by dense matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

import lmm

LEVELS = [f"a{i:02d}" for i in range(24)]
#: levels that have no row
UNSEEN = ["a21", "a22", "a23"]


def kinship(seed: int = 0) -> pd.DataFrame:
    """A positive definite K (24, 24)."""
    A = np.random.default_rng(seed).normal(size=(24, 40))
    return pd.DataFrame(A @ A.T / 40 + 0.05 * np.eye(24), LEVELS, LEVELS)


def data(seed: int = 1) -> pd.DataFrame:
    """120 rows of 21 of the levels, a covariate, a crossed factor of six levels, weights, and counts."""
    rng = np.random.default_rng(seed)
    n, J = 120, len(LEVELS) - len(UNSEEN)
    code, g, x = rng.integers(0, J, n), rng.integers(0, 6, n), rng.normal(size=n)
    L = np.linalg.cholesky(kinship().to_numpy())
    b = L @ rng.normal(size=(24, 2)) @ np.array([[1.2, 0.4], [0.0, 0.7]])
    eta = 1.0 + 0.5 * x + b[code, 0] + x * b[code, 1] + 0.8 * rng.normal(size=6)[g]
    return pd.DataFrame(
        {
            "y": eta + rng.normal(size=n),
            "x": x,
            "id": np.array(LEVELS)[code],
            "copy": np.array(LEVELS)[code],
            "g": g,
            "w": rng.uniform(0.5, 2.0, n),
            "count": rng.poisson(np.exp(0.4 * eta)),
            "yes": (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(int),
        }
    )


@dataclass(frozen=True, eq=False)
class Dense:
    """V and what follows from it, for a fit's design and relative covariance parameters."""

    fit: lmm.Fit
    covariances: dict[str, np.ndarray]

    def G(self, t: int, factor: np.ndarray | None = None) -> np.ndarray:
        """Covariance of all effects of term t relative to sigma^2, level after level."""
        term = self.fit.design.terms[t]
        T = self.fit.estimate.factors[t] if factor is None else factor
        return np.kron(self.covariances.get(term.group, np.eye(term.J)), T @ T.T)

    @property
    def W(self) -> np.ndarray:
        """Inverse weights of the rows."""
        w = self.fit.design.weights
        return np.eye(self.fit.design.n) if w is None else np.diag(1.0 / w)

    def V(self, factors: list[np.ndarray] | None = None) -> np.ndarray:
        """Covariance of the rows relative to sigma^2."""
        V = self.W.copy()
        for t, term in enumerate(self.fit.design.terms):
            Z = term.Z.toarray()
            V += Z @ self.G(t, None if factors is None else factors[t]) @ Z.T
        return V

    def objective(self, theta: np.ndarray, reml: bool) -> float:
        """-2 log-likelihood or REML criterion."""
        fit = self.fit
        y, X = fit.design.y, fit.design.X
        n, p = X.shape
        V = self.V(fit.problem.factors(theta))
        inverse = np.linalg.inv(V)
        XVX = X.T @ inverse @ X
        r = y - X @ np.linalg.solve(XVX, X.T @ inverse @ y)
        N = n - p if reml else n
        value = np.linalg.slogdet(V)[1] + N * (1 + np.log(2 * np.pi * (r @ inverse @ r) / N))
        return float(value + (np.linalg.slogdet(XVX)[1] if reml else 0.0))

    @property
    def inverse_of_henderson(self) -> np.ndarray:
        """Covariance of (beta_hat, b_hat - b) over sigma^2, by Henderson's equations turned around for singular G."""
        fit = self.fit
        X, Z = fit.design.X, fit.design.Z.toarray()
        p, q = X.shape[1], Z.shape[1]
        G = np.zeros((q, q))
        at = 0
        for t in range(len(fit.design.terms)):
            own = self.G(t)
            G[at : at + len(own), at : at + len(own)] = own
            at += len(own)
        inverse = np.linalg.inv(self.V())
        C = np.linalg.inv(X.T @ inverse @ X)
        P = inverse - inverse @ X @ C @ X.T @ inverse
        GZ = G @ Z.T
        out = np.zeros((p + q, p + q))
        out[:p, :p] = C
        out[p:, :p] = -GZ @ inverse @ X @ C
        out[:p, p:] = out[p:, :p].T
        out[p:, p:] = G - GZ @ P @ GZ.T
        return out
