"""One correlation for all pairs of columns, ``cs(0 + f | g)`` and ``homcs(0 + f | g)``, from -1 / (k - 1) to 1.

R = (1 - r) I + r 11' has the eigenvalue 1 + (k - 1) r on the constant vector and 1 - r across it. They add up to k, so
with P the projection on the constant vector

    C = k^1/2 cos w P + (k / (k - 1))^1/2 sin w (I - P),      r = (k cos^2 w - 1) / (k - 1),

regular at both ends of the range.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from lmm.covariance.scaled import Root, Scaled
from lmm.covariance.structure import Quantity
from lmm.types import Array


class CompoundSymmetry(Scaled):
    """k standard deviations and one correlation."""

    name = "cs"
    common = False
    n_angles = 1

    def _halves(self) -> np.ndarray:
        """The factors (2, k, k) that cos w and sin w multiply."""
        P = np.full((self.k, self.k), 1.0 / self.k)
        rest = np.sqrt(self.k / max(self.k - 1, 1)) * (np.eye(self.k) - P)
        return np.stack([np.sqrt(self.k) * P, rest])

    def root(self, w: np.ndarray) -> Root:
        one, other = self._halves()
        cos, sin = np.cos(w[0]), np.sin(w[0])
        C = cos * one + sin * other
        return C, (cos * other - sin * one)[None], -C[None, None]

    def angles(self, T: np.ndarray) -> np.ndarray:
        if not self.common:
            length = np.linalg.norm(T, axis=-1, keepdims=True)
            T = T / np.where(length > 0.0, length, 1.0)
        size = np.maximum((T * T).sum(axis=(-2, -1)), np.finfo(float).tiny)
        present = (T * T).sum(axis=-1) > 0.0
        count = np.where(self.common, self.k, present.sum(axis=-1))
        mean = T.sum(axis=-2) / count.clip(1)[..., None]
        across = np.where(present[..., None] | self.common, T - mean[..., None, :], 0.0)
        cos2, sin2 = (mean**2).sum(axis=-1) * count / size, (across**2).sum(axis=(-2, -1)) / size
        # of ``count`` columns of k: r is the same, the angle is not
        spread = np.where(count > 1, sin2 * count / (count - 1).clip(1), 1.0)  # 1 - r
        cosine = np.where(count == self.k, cos2, 1.0 - spread * (self.k - 1) / self.k)
        sine = np.where(count == self.k, sin2, spread * (self.k - 1) / self.k)
        return np.arctan2(np.sqrt(sine), np.sqrt(np.maximum(cosine, 0.0)))[..., None]

    def folded(self, w: np.ndarray) -> np.ndarray:
        return np.arctan2(np.abs(np.sin(w)), np.abs(np.cos(w)))

    def edges(self, w: np.ndarray) -> np.ndarray:
        return np.abs(np.sin(2.0 * w))

    def _trials(self) -> list[np.ndarray]:
        return [np.array([w]) for w in np.linspace(0.0, 0.5 * np.pi, 9)]

    def pairs(self) -> tuple[Quantity, ...]:
        return (Quantity("cor", 1, 0, ()),)

    def correlation_range(self) -> tuple[float, float]:
        return -1.0 / (self.k - 1), 1.0

    def lower(self, z: Array, xp: ModuleType) -> Array:
        """L_ii^2 = (1 - r)(1 + i r) / (1 + (i - 1) r) and L_ij = r (1 - r) / (1 + (j - 1) r) / L_jj."""
        low, high = self.correlation_range()
        r = low + (high - low) * (z[0] + 1.0) / 2.0
        pivot = [xp.sqrt((1.0 - r) * (1.0 + i * r) / (1.0 + (i - 1) * r)) for i in range(self.k)]
        below = [r * (1.0 - r) / (1.0 + (j - 1) * r) / pivot[j] for j in range(self.k)]
        rows = []
        for i in range(self.k):
            rows.append(xp.stack([*below[:i], pivot[i], *[0.0 * r] * (self.k - 1 - i)]))
        return xp.stack(rows)


class HomogeneousCompoundSymmetry(CompoundSymmetry):
    """One standard deviation and one correlation."""

    name = "homcs"
    common = True

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        """The variance between and within the columns, each at least zero."""
        between = max(float(G.mean()) * self.k, 0.0)
        within = max((float(np.trace(G)) - float(G.mean()) * self.k) / (self.k - 1), 0.0)
        sd = np.sqrt((between + (self.k - 1) * within) / self.k)
        return np.array([sd, np.arctan2(np.sqrt((self.k - 1) * within), np.sqrt(between))])

    def linear_basis(self) -> np.ndarray:
        return np.stack([np.eye(self.k), np.ones((self.k, self.k))])

    def maximiser(self, S: Array, xp: ModuleType) -> Array | None:
        P = np.full((self.k, self.k), 1.0 / self.k)
        between = xp.sum(S) / self.k
        return between * P + (xp.trace(S) - between) / (self.k - 1) * (np.eye(self.k) - P)
