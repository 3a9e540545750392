"""Each level's own estimate of its effects, without borrowing from the others.

With eta the linear predictor less the effects of one grouping factor, the level's effects d maximise the log-likelihood of its rows alone,

    sum over rows of the level of  l(y_i; eta_i + z_i'd),

everything else held where the fit has it: least squares in a linear model, Fisher scoring in a generalized one. Fixed effects plus d are
the coefficients without pooling, against which the conditional modes show how far a level is drawn to the population.
"""

from __future__ import annotations

import numpy as np

from lmm.families import Family

MAX_STEPS = 50
#: scoring has ended when a step is below this share of the effects' standard errors
TOLERANCE = 1e-6
#: reciprocal condition below which a level's rows do not determine its effects
SINGULAR = 1e-9


def separate_effects(
    y: np.ndarray,
    eta: np.ndarray,
    values: np.ndarray,
    codes: np.ndarray,
    J: int,
    weights: np.ndarray | None,
    family: Family,
    phi: float,
) -> np.ndarray:
    """Effects (J, k) of every level from its own rows; NaN where these do not determine them (too few rows, separation).

    Parameters
    ----------
    y, eta : (n,) response, and linear predictor without the effects.
    values, codes : (n, k) columns and (n,) levels.
    family, phi : distribution of the response, with its dispersion.
    """
    k = values.shape[1]
    d = np.zeros((J, k))
    ends = np.zeros(J, dtype=bool)
    known = np.ones(J, dtype=bool)
    old = np.full(J, -np.inf)
    step = np.zeros((J, k))
    for _ in range(MAX_STEPS):
        at = eta + np.sum(values * d[codes], axis=1)
        score, information = _rows(y, at, weights, family, phi)
        value = np.bincount(codes, family.kernel(y, at, weights, phi), J)
        worse = ~(value >= old - 1e-9 * (1.0 + np.abs(old))) & known & ~ends
        if worse.any():
            step[worse] *= 0.5
            d[worse] -= step[worse]
            at = eta + np.sum(values * d[codes], axis=1)
            score, information = _rows(y, at, weights, family, phi)
        old = np.where(worse, old, value)
        gradient = np.stack([np.bincount(codes, values[:, a] * score, J) for a in range(k)], axis=1)
        hessian = np.empty((J, k, k))
        for a in range(k):
            for b in range(a + 1):
                hessian[:, a, b] = hessian[:, b, a] = np.bincount(
                    codes, values[:, a] * values[:, b] * information, J
                )
        known &= _determined(hessian)
        move = np.zeros((J, k))
        use = known & ~ends & ~worse
        move[use] = np.linalg.solve(hessian[use], gradient[use][:, :, None])[:, :, 0]
        step = np.where(worse[:, None], step, move)
        d += move
        ends |= use & (np.einsum("ja,jab,jb->j", move, hessian, move) < TOLERANCE**2)
        if (ends | ~known).all():
            break
    else:
        known &= ends
    return np.where(known[:, None], d, np.nan)


def _rows(
    y: np.ndarray, eta: np.ndarray, weights: np.ndarray | None, family: Family, phi: float
) -> tuple[np.ndarray, np.ndarray]:
    """Score and information of each row in its linear predictor."""
    return np.asarray(family.derivatives(y, eta, weights, phi).d1), np.asarray(
        family.expected_weights(eta, weights, phi).weight
    )


def _determined(hessian: np.ndarray) -> np.ndarray:
    """Which of the matrices (J, k, k) can be solved, in units of their own diagonals."""
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    positive = (diagonal > 1e-10).all(axis=1) & np.isfinite(hessian).all(axis=(1, 2))
    out = positive.copy()
    if hessian.shape[1] > 1 and positive.any():
        unit = np.sqrt(diagonal[positive])
        scaled = hessian[positive] / (unit[:, :, None] * unit[:, None, :])
        out[positive] = np.linalg.eigvalsh(scaled)[:, 0] > SINGULAR
    return out
