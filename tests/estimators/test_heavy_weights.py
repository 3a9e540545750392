"""Weights of very different size: the criterion and its gradient keep their digits where heavy rows leave next to nothing of the others."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import lmm

#: and how many times as heavy some rows may be
FORMULAS = {
    "y ~ x + (x|g) + (1|h)": 1e8,
    "y ~ x + (x|g)": 1e8,
    "y ~ x + (1|g) + (1|h)": 1e8,
    "y ~ x + (x|g/h)": 1e6,
    "y ~ x + (x||g) + (x|h)": 1e8,
    "y ~ x + (1|g)": 1e8,
}


def data(ratio: float) -> pd.DataFrame:
    """240 rows, a twentieth of them ``ratio`` times as heavy as the others."""
    rng = np.random.default_rng(11)
    n = 240
    g, h, x = rng.integers(0, 15, n), rng.integers(0, 8, n), rng.normal(3, 1, n)
    y = (
        1
        + 0.4 * x
        + rng.normal(0, 1, 15)[g]
        + rng.normal(0, 0.7, 15)[g] * x
        + rng.normal(0, 0.8, 8)[h]
        + rng.normal(0, 0.8, n)
    )
    return pd.DataFrame(
        {"g": g, "h": h, "x": x, "y": y, "w": np.where(rng.random(n) < 0.05, ratio, 1.0)}
    )


def fitted(formula: str, ratio: float) -> lmm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        return lmm.lmer(formula, data(ratio), weights="w")


def of_rows(fit: lmm.Fit, theta: np.ndarray) -> float:
    """REML's criterion from the covariance of the rows, the heaviest first: there it is well conditioned."""
    design, problem = fit.design, fit.problem
    order = np.argsort(-design.weights)
    V = np.diag(1.0 / design.weights)
    for term, structure, own in zip(
        design.terms, problem.structures, problem.split(theta), strict=True
    ):
        T = structure.factor(own)
        half = term.values @ T
        V += (half @ half.T) * (term.codes[:, None] == term.codes[None])
    L = np.linalg.cholesky(V[np.ix_(order, order)])
    X, y = np.linalg.solve(L, design.X[order]), np.linalg.solve(L, design.y[order])
    r = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    degrees = len(y) - X.shape[1]
    return (
        2 * np.log(np.diag(L)).sum()
        + np.linalg.slogdet(X.T @ X)[1]
        + degrees * (1 + np.log(2 * np.pi * (r @ r) / degrees))
    )


@pytest.mark.parametrize(
    ("formula", "ratio"),
    [(formula, r) for formula, most in FORMULAS.items() for r in (1e2, 1e4, 1e6, 1e8) if r <= most],
)
def test_criterion_and_gradient_are_those_of_the_rows(formula: str, ratio: float) -> None:
    fit = fitted(formula, ratio)
    rng = np.random.default_rng(0)
    for theta in (fitted(formula, 1.0).theta.to_numpy(), rng.uniform(0.3, 2.0, len(fit.theta))):
        assert fit.objective(theta) == pytest.approx(of_rows(fit, theta), abs=1e-6 + 1e-12 * ratio)
        width = 1e-3 if ratio > 1e6 else 1e-4  # the rows' criterion has its rounding, too
        by_rows = np.array(
            [
                (of_rows(fit, theta + d) - of_rows(fit, theta - d)) / (2 * width)
                for d in width * np.eye(len(theta))
            ]
        )
        size = 1.0 + np.abs(by_rows).max()
        found = fit.estimator.gradient(fit.problem, theta)
        np.testing.assert_allclose(found, by_rows, atol=(1e-4 + 1e-10 * ratio) * size, rtol=0.0)


@pytest.mark.parametrize(
    ("ratio", "llf"),
    [(1e3, -358.9515), (1e5, -359.4735), (1e6, -359.4783), (1e8, -359.4789), (1e10, -359.4789)],
)
def test_against_lme4(ratio: float, llf: float) -> None:
    fit = fitted("y ~ x + (x|g) + (1|h)", ratio)
    assert fit.convergence.converged
    assert fit.llf == pytest.approx(llf, abs=1e-4 if ratio < 1e9 else 3e-4)
    assert fit.fixef()["x"] == pytest.approx(0.2337 if ratio == 1e3 else 0.2347, abs=1e-4)
