"""Responses of a linear model made of its own conditional modes and residuals, drawn again.

    y* = X beta + Z b* + e*,

b* drawn level by level and e* row by row from the conditional modes and residuals, both centred and scaled so that their covariances are
the estimates: as they are they vary too little. Carpenter, Goldstein & Rasbash (2003), Applied Statistics 52.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError
from lmm.model.records import Estimate


def resample_slabs(
    design: Design, estimate: Estimate, nsim: int, rng: np.random.Generator, held: int
) -> Iterator[np.ndarray]:
    """``nsim`` responses of modes and residuals drawn again, in parts (n, any number) of up to ``held`` numbers."""
    related = [term.group for term in design.terms if term.relation is not None]
    if related:
        raise ArgumentError(
            f"bootstrap: kind='semiparametric' draws the effects of {related[0]} level by level, but their levels are related; take "
            "kind='parametric'."
        )
    eta = design.rows.fixed_part(estimate.beta)
    weights = np.ones(design.n) if design.weights is None else design.weights
    fitted = design.rows.predictor(estimate.beta, estimate.modes)
    residual = (design.y - fitted) * np.sqrt(weights)
    residual = residual - residual.mean()
    residual = residual * (estimate.sigma / np.sqrt(np.mean(residual**2)))
    factors = [np.sqrt(estimate.scale2) * T for T in estimate.factors]
    modes = [reflated(b, T) for b, T in zip(estimate.modes, factors, strict=True)]
    width = max(1, held // design.n)
    for first in range(0, nsim, width):
        out = np.empty((design.n, min(width, nsim - first)), order="F")
        for column in out.T:
            column[:] = eta + residual[rng.integers(design.n, size=design.n)] / np.sqrt(weights)
            for term, b, T in zip(design.terms, modes, factors, strict=True):
                again = (
                    b[rng.integers(term.J, size=term.J)]
                    if term.J > 1
                    else rng.standard_normal((1, term.k)) @ T.T
                )
                column += term.times(again)
        yield out


def reflated(b: np.ndarray, T: np.ndarray) -> np.ndarray:
    """Modes (J, k) centred and turned so that their covariance is T T'."""
    centred = b - b.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(b))
    whole = values > 1e-12 * max(float(values[-1]), 1e-300)
    whitened = (centred @ vectors[:, whole]) / np.sqrt(values[whole])
    root = vectors[:, whole].T @ _root(T @ T.T)
    return np.asarray(whitened @ root)


def _root(G: np.ndarray) -> np.ndarray:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(G)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
