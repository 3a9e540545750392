"""Ordered columns whose correlation depends on their distance alone, ``toep(0 + f | g)`` and ``homtoep(0 + f | g)``.

The k - 1 correlations make a positive matrix exactly if the partial autocorrelations z_p = sin w_p lie between -1 and 1
(Barndorff-Nielsen & Schou, 1973, J. Multivariate Anal. 3), so those are free. With f_p(t) and b_p(t) the scaled errors of
predicting column t from the p before it, and the one before those from what follows, f_t(t) = e_t and

    f_p-1(t) = c_p f_p(t) + z_p b_p-1(t - 1),      b_p(t) = c_p b_p-1(t - 1) - z_p f_p(t),      c_p = (1 - z_p^2)^1/2,

rotations that end in row t of the factor, f_0(t) = b_0(t) (the lattice of Itakura & Saito, 1971).
"""

from __future__ import annotations

import numpy as np

from lmm.covariance.scaled import ByPartials, Row
from lmm.covariance.structure import Quantity, cor


class Toeplitz(ByPartials):
    """k standard deviations, k - 1 correlations by distance."""

    name = "toep"
    common = False
    ordered = True

    @property
    def n_angles(self) -> int:
        return self.k - 1

    def rows(self, z: list[Row], c: list[Row], unit: list[Row]) -> list[Row]:
        out: list[Row] = []
        before: list[Row] = []
        for t in range(self.k):
            f = unit[t]
            backward: list[Row] = []
            for p in range(t, 0, -1):
                old = before[p - 1]
                backward.append(c[p - 1] * old - z[p - 1] * f)
                f = c[p - 1] * f + z[p - 1] * old
            backward.append(f)
            before = backward[::-1]
            out.append(f)
        return out

    def angles(self, T: np.ndarray) -> np.ndarray:
        G = T @ np.swapaxes(T, -1, -2)
        length = np.linalg.norm(T, axis=-1)
        sizes = length[..., :, None] * length[..., None, :]
        lags = []
        for lag in range(1, self.k):
            total = np.trace(sizes, offset=lag, axis1=-2, axis2=-1)
            covariance = np.trace(G, offset=lag, axis1=-2, axis2=-1)
            lags.append(covariance / np.where(total > 0.0, total, 1.0))
        return np.arcsin(np.clip(partial_autocorrelations(np.stack(lags, axis=-1)), -1.0, 1.0))

    def pairs(self) -> tuple[Quantity, ...]:
        return tuple(cor(lag, 0) for lag in range(1, self.k))

    def _partials(self, correlations: np.ndarray) -> np.ndarray:
        return partial_autocorrelations(correlations)


class HomogeneousToeplitz(Toeplitz):
    """One standard deviation, k - 1 correlations by distance."""

    name = "homtoep"
    common = True

    def linear_basis(self) -> np.ndarray:
        lag = np.abs(np.subtract.outer(range(self.k), range(self.k)))
        return (lag == np.arange(self.k)[:, None, None]).astype(float)


def partial_autocorrelations(r: np.ndarray) -> np.ndarray:
    """z (..., m) of the autocorrelations r (..., m) at distances 1 to m: the recursion of Levinson and Durbin.

    Zero once those before leave no error of prediction.
    """
    out: list[np.ndarray] = []
    ahead: list[np.ndarray] = []  # coefficients of the prediction from the p columns before
    left = np.ones(r.shape[:-1], dtype=r.dtype)
    for p in range(r.shape[-1]):
        error = r[..., p] - sum(a * r[..., p - 1 - i] for i, a in enumerate(ahead))
        some = left.real > 1e-12
        z = np.where(some, error / np.where(some, left, 1.0), 0.0)
        ahead = [a - z * b for a, b in zip(ahead, ahead[::-1], strict=True)] + [z]
        left = left * (1.0 - z**2)
        out.append(z)
    return np.stack(out, axis=-1)
