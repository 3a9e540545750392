"""The working linear mixed model of a generalized one at a linear predictor.

With r = dlog f/deta and W the expected information of each row in eta, the working response z = eta - o + r / W, o the
offset, is to first order X beta + Z b + e with Var(e_i) = 1 / W_i: a linear mixed model with weights W and residual
variance one. Breslow & Clayton (1993), J. Am. Stat. Assoc. 88, section 2; Schall (1991), Biometrika 78.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmm.design.rank import independent_columns, least_squares
from lmm.model.gaussian.crossproducts import cross_products
from lmm.model.problem import GeneralizedProblem, Problem, criterion_data

#: smallest working weight, relative to the largest
LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Linearised:
    """The working model: response z (n,), weights W (n,), and its sums with the orthonormal columns Q for X."""

    z: np.ndarray
    W: np.ndarray
    problem: Problem


def linearise(problem: GeneralizedProblem, eta: np.ndarray, phi: float) -> Linearised:
    """The working linear mixed model at the linear predictor ``eta`` (n,) and dispersion ``phi``."""
    family, rows = problem.family, problem.rows
    r = family.derivatives(rows.y, eta, rows.weights, phi).d1
    W = family.expected_weights(eta, rows.weights, phi).weight
    W = np.maximum(W, LEAST * float(W.max()))
    z = eta - rows.offset + r / W
    R = independent_columns(rows.Q, W)[1]
    if (
        len(R) < problem.p
    ):  # columns that tiny weights have made dependent: keep all, however badly determined
        R = np.asarray(np.linalg.qr(rows.Q * np.sqrt(W)[:, None], mode="r"))
    gamma0, residual = least_squares(rows.Q, R, z, W)
    cross = cross_products(problem.terms, np.asfortranarray(np.column_stack([rows.Q, residual])), W)
    data, arranged = criterion_data(cross, problem.plan, R, None)
    names = tuple(f"Q{i}" for i in range(problem.p))
    inner = Problem(
        problem.structures,
        problem.plan,
        arranged,
        cross,
        data,
        R,
        gamma0,
        cross.n,
        cross.sum_log_weights,
        names,
        problem.labels,
        float(z.mean()),
        float(z.std()),
    )
    return Linearised(z, W, inner)
