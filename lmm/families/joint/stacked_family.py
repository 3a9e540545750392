"""A family of several predictors as one of a single predictor on more rows.

A row's log density l(eta_1, ..., eta_m) has the weights W = -d2l / deta deta'. With the vectors v_c = e_a (a = 1..m) and e_a + e_b
(a < b),

    W = sum_c w_c v_c v_c',    w_ab = W_ab of a pair,    w_a = W_aa - sum_b W_ab,

so that n rows of m predictors are m (m + 1) / 2 blocks of n rows of one predictor: block c has the row v_c'(X_1 .. X_m), and
sum_c w_c (row_c)(row_c)' is X'WX. Blocks of pairs have no score of their own. The weights w_c may be negative where W is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NoReturn

import numpy as np

from lmm.errors import ArgumentError
from lmm.families.base import Array, Derivatives, Family, Information, Phi, Weights
from lmm.families.joint import joint_derivatives
from lmm.families.joint.joint_density import JointDensity


class WithoutResponse(Family):
    """A family that no response is asked of."""

    def constant(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return np.zeros(np.shape(y))

    def _refuse(self) -> NoReturn:
        raise ArgumentError(
            "this predictor has no response of its own; ask component='cond', the model of the mean."
        )

    def variance(self, mu: Array, phi: Phi = 1.0) -> Array:
        self._refuse()

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        self._refuse()

    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        self._refuse()

    def simulate(
        self, rng: np.random.Generator, mu: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        self._refuse()

    def initial_mu(self, y: Array, weights: Weights = None) -> Array:
        self._refuse()


@dataclass(frozen=True, init=False, repr=False, eq=False)
class StackedFamily(WithoutResponse):
    """What the engine works with: arrays of m (m + 1) / 2 blocks of n rows, the first m those of the predictors themselves."""

    name = title = "joint"
    default_link = "identity"
    link_names = ("identity",)
    mean_low = -np.inf
    widest = 4.0

    density: JointDensity

    def __init__(self, density: JointDensity):
        super().__init__()
        object.__setattr__(self, "density", density)

    def __repr__(self) -> str:
        return f"StackedFamily({self.density!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StackedFamily) and self.density == other.density

    def __hash__(self) -> int:
        return hash(self.density)

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs (a, b), a < b, of the blocks after the first m."""
        return tuple(combinations(range(self.density.m), 2))

    @property
    def blocks(self) -> int:
        """m (m + 1) / 2."""
        return self.density.m + len(self.pairs)

    @cached_property
    def directions(self) -> np.ndarray:
        """v_c (blocks, m)."""
        own = np.eye(self.density.m)
        return np.vstack([own, *(own[[a]] + own[[b]] for a, b in self.pairs)])

    def own(self, stacked: Array) -> Array:
        """(m, n): the blocks of the predictors themselves."""
        m = self.density.m
        return np.reshape(stacked, (self.blocks, -1))[:m]

    def _rows(self, y: Array, eta: Array, weights: Weights) -> tuple[Array, Array, Array]:
        """Response (n,), predictors (m, n) and weights (n,) of the user's rows."""
        etas = np.ascontiguousarray(self.own(eta))
        n = etas.shape[1]
        return y[:n], etas, np.ones(n) if weights is None else weights[:n]

    def _stacked(self, own: Array) -> Array:
        """(m, n) on the blocks of the predictors, zero on those of pairs."""
        return np.concatenate([own.ravel(), np.zeros(len(self.pairs) * own.shape[-1])])

    def weights_of(self, W: Array) -> Array:
        """w_c, stacked, of W (m, m, n)."""
        own = 2.0 * np.einsum("aan->an", W) - W.sum(axis=1)
        return np.concatenate([own.ravel(), *(W[a, b] for a, b in self.pairs)])

    def kernel(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        value = joint_derivatives.log_density(self.density, *self._rows(y, eta, weights))
        return np.concatenate([value, np.zeros((self.blocks - 1) * len(value))])

    def log_density(self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        return self.kernel(y, eta, weights, phi)

    def derivatives(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Derivatives:
        """r and -w_c, stacked; third derivatives are in :meth:`leverage_slopes`."""
        r, W = joint_derivatives.second_order(self.density, *self._rows(y, eta, weights))
        return Derivatives(self._stacked(r), -self.weights_of(W), np.zeros(np.shape(eta)))

    def leverage_slopes(
        self,
        leverage: Array,
        slope: Array,
        y: Array,
        eta: Array,
        weights: Weights = None,
        phi: Phi = 1.0,
    ) -> Array:
        """t_a = d/deta_a of sum_c l_c w_c on the blocks of the predictors.

        sum_c l_c w_c = sum_ab C_ab W_ab with C_aa = l_a and C_ab = (l_ab - l_a - l_b) / 2.
        """
        rows = self._rows(y, eta, weights)
        own = np.reshape(leverage, (self.blocks, -1))
        m, n = rows[1].shape
        C = np.zeros((m, m, n))
        C[np.arange(m), np.arange(m)] = own[:m]
        for (a, b), pair in zip(self.pairs, own[m:], strict=True):
            C[a, b] = C[b, a] = 0.5 * (pair - own[a] - own[b])
        return self._stacked(joint_derivatives.weighted_slopes(self.density, *rows, C))

    def shares_weights(self, observed: bool) -> bool:
        """The determinant takes the observed weights, the only ones that there are."""
        return True

    def descent_weights(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """w_c of |W|, each row's W with its eigenvalues made positive: steps with them go down."""
        _, W = joint_derivatives.second_order(self.density, *self._rows(y, eta, weights))
        return self.weights_of(absolute(W))

    def expected_weights(self, eta: Array, weights: Weights = None, phi: Phi = 1.0) -> Information:
        raise ArgumentError(
            "the expected information of a model with several predictors is not known; use nAGQ=1 and curvature='observed'."
        )

    def working_weights(
        self, y: Array, eta: Array, weights: Weights = None, phi: Phi = 1.0
    ) -> Array:
        """Those of each predictor by itself, |W_aa|; zero on the blocks of pairs."""
        _, W = joint_derivatives.second_order(self.density, *self._rows(y, eta, weights))
        return self._stacked(np.abs(np.einsum("aan->an", W)))


def absolute(W: np.ndarray) -> np.ndarray:
    """|W| (m, m, n) of symmetric matrices W (m, m, n), eigenvalues not quite zero."""
    values, vectors = np.linalg.eigh(np.where(np.isfinite(W), W, 0.0).transpose(2, 0, 1))
    size = np.abs(values)
    size = np.maximum(size, 1e-8 * size.max(initial=1e-12))
    return np.ascontiguousarray(np.einsum("nak,nk,nbk->abn", vectors, size, vectors))
