"""Structured residuals at an estimate: the variance of each row, draws, and rows turned so that they are independent.

e = sum over parts of Z b, b ~ N(0, sigma^2 T T') per subject, divided by the root of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmm.design.design import Design
from lmm.design.residual_part import ResidualPart
from lmm.model.marginal.clusters import DiagonalPart, Part, Stack, stacked
from lmm.model.records import Estimate


def row_variances(design: Design, estimate: Estimate) -> np.ndarray:
    """(n,) variance of each residual, over sigma^2: of independent ones the inverse weights."""
    weights = np.ones(design.n) if design.weights is None else np.asarray(design.weights)
    if not design.residual:
        return 1.0 / weights
    parts = zip(design.residual, estimate.residual, strict=True)
    return np.asarray(sum(part.variances(T) for part, T in parts) / weights)


def draw(design: Design, estimate: Estimate, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, n) residuals, drawn anew."""
    out = np.zeros((count, design.n))
    for part, T in zip(design.residual, estimate.residual, strict=True):
        out += part.draws(T, count, rng)
    root = 1.0 if design.weights is None else np.sqrt(design.weights)
    return float(estimate.sigma) * out / root


def residual_stacks(parts: Sequence[ResidualPart], n: int) -> tuple[Stack, ...]:
    """The rows of each subject, by the places that they have."""
    own = [rows_of(part) for part in parts]
    return stacked(own, np.zeros((n, 1)), own[0].order, ["the subjects"])


def rows_of(part: ResidualPart) -> Part:
    """A part of the residuals as rows see it; rows times the root of their weight have its covariance itself."""
    if part.diagonal:
        return DiagonalPart(part.codes, part.k, places=part.places)
    scale = None if part.own is None else part.own.astype(float)
    return Part(part.codes, part.k, places=part.places, scale=scale)


def whiten(stacks: Sequence[Stack], G: Sequence[np.ndarray], columns: np.ndarray) -> np.ndarray:
    """L^-1 times columns (n, q), L L' the covariance of the rows of each subject at G (k, k) per part."""
    out = np.empty(columns.shape)
    for stack in stacks:
        V = sum(part.spread(own) for part, own in zip(stack.parts, G, strict=True))
        inverse = np.linalg.inv(np.linalg.cholesky(V))
        for b, own in enumerate(stack.members()):
            rows = stack.rows[own]
            out[rows] = inverse[b] @ columns[rows]
    return out
