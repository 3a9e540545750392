"""What leverages move, when all that is known of the inverse between large factors are random probes.

With e the terms that are eliminated exactly and i those that are not, a row's leverage is

    z'N z = z_e'N_e z_e + (z_i - A_ie N_e z_e)'N_i (z_i - A_ie N_e z_e).

The first part is looked up. For a probe z of random signs, y = R z and x = R H^-1 z have E[y x'] = N_i, and with
(-N_e A_ei y, y) as effects of all terms, the second part is the mean of the products of two linear predictors. Nobody needs
leverages one by one: what is asked for are sums over rows h'l, for weights h (n,) that say how much a row's leverage moves
the criterion along a parameter. Beside them come h'l for N_i replaced by R R', by the same probes and exactly, with
the first exact factor alone in N_e: a control variate (:func:`lmm.model.probes.score_by_probes.controlled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lmm.families.base import weight_slope
from lmm.linalg import small
from lmm.model.laplace.leverage import Tables, leverages
from lmm.model.laplace.rows import Block

#: numbers in the predictors of the rows taken together, which lie in cache, and those rows at the least
CHUNK, LEAST = 65_536, 256


class Levels(NamedTuple):
    """Vectors (r, k, J) per term as they are looked up by row: per term and column (J, r)."""

    terms: list[list[np.ndarray]]

    @classmethod
    def of(cls, vectors: list[np.ndarray]) -> Levels:
        """From (r, k, J) per term; an empty list stands for a term without effects."""
        return cls(
            [
                [np.ascontiguousarray(v[:, a].T) for a in range(v.shape[1])] if len(v) else []
                for v in vectors
            ]
        )

    def predictors(self, block: Block, rows: slice) -> Any:
        """Z v of some rows (rows, r)."""
        total: Any = 0.0
        for code, columns, own in zip(block.codes, block.columns, self.terms, strict=True):
            for z, v in zip(columns, own, strict=False):
                part = v[code[rows]]
                if z is not None:
                    part *= z[rows, None]
                total = part if isinstance(total, float) else np.add(total, part, out=total)
        return total


class Near(NamedTuple):
    """The known mean of (Z y)^2 row by row, y = R z with the first exact factor, t, alone.

    ``levels`` W (sum_l B_l N0_l B_l') W per level of t (k, k, J), ``pairs`` per iterative term a W_j B_jl N0_l (k, k_a, pairs), ``own`` N0.
    """

    first: int
    levels: np.ndarray
    pairs: dict[int, np.ndarray]
    own: dict[int, np.ndarray]

    def mean(self, block: Block) -> np.ndarray:
        """(n,)."""

        def form(t: int, s: int, values: np.ndarray, where: np.ndarray) -> Any:
            total: Any = 0.0
            for a, z in enumerate(block.columns[t]):
                for b, other in enumerate(block.columns[s]):
                    part = values[a, b][where]
                    part = part if z is None else part * z
                    total = total + (part if other is None else part * other)
            return total

        total = form(self.first, self.first, self.levels, block.codes[self.first])
        for a, values in self.own.items():
            total = total + form(a, a, values, block.codes[a])
            place = block.place[min(self.first, a), max(self.first, a)]
            total = total - 2.0 * form(self.first, a, self.pairs[a], place)
        return np.asarray(total)


def near(
    plan: Any,
    pairs: dict[tuple[int, int], Any],
    W: np.ndarray,
    sums: np.ndarray,
    N0: tuple[np.ndarray, ...],
) -> Near:
    """From blocks ``pairs`` (rows, cols, blocks) of Z'WZ, W of the first factor, sum_l B_jl N0_l B_jl' and N0 per iterative term."""
    first = plan.chain[0]
    between = {}
    for a, own in zip(plan.iterative, N0, strict=True):
        if first < a:
            rows, cols, blocks = pairs[first, a]
        else:
            cols, rows, blocks = pairs[a, first]
            blocks = np.swapaxes(blocks, 0, 1)
        between[a] = small.multiply(small.multiply(W[..., rows], blocks), own[..., cols])
    levels = small.multiply(small.multiply(W, sums), W)
    return Near(first, levels, between, dict(zip(plan.iterative, N0, strict=True)))


class Moved(NamedTuple):
    """Sums over rows h'l for K weights h: ``exact`` (K,) of the first part; ``probed`` (K, m) of the second, by each probe;
    ``control`` (K, m) and its ``mean`` (K,)."""

    exact: np.ndarray
    probed: np.ndarray
    control: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True, eq=False)
class Move:
    """Ask for :class:`Moved` at gamma, b and phi.

    ``along``, ``fixed`` (K, p) : K directions (random effects, fixed effects) in which the predictor moves, each of which moves
    W by dW/deta times its own; the family's own parameters come after them, beside whose direction they move W by themselves.
    ``y``, ``x``, ``close`` : the probes' effects over all terms, and those of the control, None where they are those of y.
    """

    family: Any
    gamma: np.ndarray
    b: list[np.ndarray]
    phi: Any
    observed: bool
    tables: Tables
    along: Levels
    fixed: np.ndarray
    y: Levels
    x: Levels
    close: Levels | None
    near: Near

    def __call__(self, block: Block) -> Moved:
        """The sums over a block."""
        with np.errstate(all="ignore"):
            family, y, weights, phi = self.family, block.y, block.weights, self.phi
            eta = block.predictor(self.gamma, self.b)
            at = family.derivatives(y, eta, weights, phi)
            dW = family.determinant_weights(at, eta, weights, phi, self.observed).slope
            own = np.zeros((0, block.n))
            if family.n_parameters:
                d = family.parameter_derivatives(y, eta, weights, phi, not self.observed)
                own = weight_slope(d, self.observed)
            of_exact, mean = leverages(block, self.tables), self.near.mean(block)
            K, m = len(self.fixed), self.y.terms[0][0].shape[1]
            out = Moved(np.zeros(K), np.zeros((K, m)), np.zeros((K, m)), np.zeros(K))
            step = max(LEAST, CHUNK // m)
            for start in range(0, block.n, step):
                rows = slice(start, min(start + step, block.n))
                h = self.along.predictors(block, rows) + block.Q[rows] @ self.fixed.T
                h *= dW[rows, None]
                if len(own):
                    h[:, K - len(own) :] += own[:, rows].T
                U, V = self.y.predictors(block, rows), self.x.predictors(block, rows)
                out.exact[:] += of_exact[rows] @ h
                out.mean[:] += mean[rows] @ h
                out.probed[:] += h.T @ np.multiply(U, V, out=V)
                if self.close is not None:
                    U = self.close.predictors(block, rows)
                out.control[:] += h.T @ np.multiply(U, U, out=U)
            return out
