"""The next term of Laplace's expansion, for one grouping factor.

With W' and W'' the first two derivatives of the observed weights in eta, N_j = (Z'WZ + G^-1)^-1 of level j,
l_i = z_i'N z_i, t = l W' and S_j = sum_i W'_i z_i (x) z_i (x) z_i, the log-likelihood gains

    c = -(1/8) sum_i W''_i l_i^2 + (1/8) t'Z N Z't + (1/12) sum_j <S_j, (N_j (x) N_j (x) N_j) S_j>,

which for one random intercept is -h4 / (8 h2^2) + 5 h3^2 / (24 h2^3). Shun & McCullagh (1995), J. R. Stat.
Soc. B 57. W'' is the central difference of the exact third derivative of the log density (error 1e-8).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lmm.model.laplace.modes import Mode
from lmm.model.laplace.rows import Rows


def correction(family: Any, rows: Rows, phi: float, mode: Mode) -> float:
    """c at a mode, for a model with one grouping factor."""
    N, code = mode.factorisation.inverse_blocks()[0], rows.codes[0]
    k, _, J = N.shape
    z = np.stack([np.ones(rows.n) if column is None else column for column in rows.columns[0]])
    leverage = np.einsum("an,abn,bn->n", z, N[:, :, code], z)
    at_mode = rows.predictor(mode.gamma, mode.b)
    h = 1e-4 * (1.0 + np.abs(at_mode))
    third = [
        family.derivatives(rows.y, eta, rows.weights, phi).d3
        for eta in (at_mode - h, at_mode, at_mode + h)
    ]
    slope, bend = -third[1], -(third[2] - third[0]) / (2.0 * h)
    s = rows.sums(leverage * slope)
    solved = mode.factorisation.solve([own[None] for own in s]).values
    cubes = np.empty((k, k, k, J))
    for a in range(k):
        for b in range(k):
            for c in range(k):
                cubes[a, b, c] = np.bincount(code, slope * z[a] * z[b] * z[c], J)
    turned = np.einsum("abcj,adj,bej,cfj->defj", cubes, N, N, N, optimize=True)
    first = -0.125 * float(np.sum(bend * leverage**2))
    return first + 0.125 * float(np.sum(s[0] * solved[0][0])) + float(np.sum(cubes * turned)) / 12.0
