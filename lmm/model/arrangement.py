"""The equations in the random effects of a working linear model, in the arrangement of the plan's factorisation."""

from __future__ import annotations

import numpy as np

from lmm.linalg import elimination
from lmm.linalg.elimination import Factor, System
from lmm.model.passes import Source, Weighted
from lmm.model.rows import assemble
from lmm.model.system import arrange, collect

#: smallest over largest singular value of T above which it is divided by
WELL = 1e-3


class Arrangement:
    """The relative factors of all terms in the plan's order, and how the tail may divide by them."""

    #: whether every term of the plan must be eliminated or in the tail
    whole = True

    def __init__(self, source: Source, T: list[np.ndarray]):
        if self.whole:
            source.plan.require_exact("What was asked for")
        self.plan, self.pattern = source.plan, source.pattern
        self.T = T
        self.chain_T = [T[t] for t in self.plan.chain]
        self.tail_T = [T[t] for t in self.plan.tail]
        self.layout = self.plan.layout
        self.well = tuple(bool(np.linalg.svd(t, compute_uv=False)[-1] > 1e-3) for t in self.tail_T)

    def whiten(self, t: int, b: np.ndarray, e: np.ndarray) -> np.ndarray:
        """u (k, J) of term t with b = T u = T T'e.

        From b where T can be divided by: e is a difference that much data leave few digits of. T'e where T is nearly singular.
        """
        T = self.T[t]
        values = np.linalg.svd(T, compute_uv=False)
        return np.linalg.solve(T, b) if values[-1] > WELL * values[0] else T.T @ e

    def system(self, sums: Weighted) -> System:
        """Z'WZ of sums, arranged for elimination."""
        return assemble(self.pattern, self.plan, sums.diag, sums.pairs)

    def factorize(self, system: System) -> Factor:
        """Factor a system at these T."""
        return elimination.factorize(np, system, self.chain_T, self.layout, self.tail_T)

    def try_factorize(self, system: System) -> Factor | None:
        """The same of a system with negative weights; None where I + T'AT is not positive definite."""
        try:
            with np.errstate(invalid="ignore", divide="ignore"):
                factor = self.factorize(system)
        except (np.linalg.LinAlgError, FloatingPointError):
            return None
        return factor if np.isfinite(factor.logdet) else None

    def solve(
        self, factor: Factor, rhs: list[np.ndarray], near: list[np.ndarray] | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """N r, r - A N r and r'N r for r per term (m, k, J); ``near`` (k, J) per term is a guess of the first, which saves nothing here."""
        reduced = elimination.reduce(np, factor, self.layout, self.tail_T, arrange(self.plan, tuple(rhs)))
        solved, residual = elimination.solve(np, factor, self.layout, self.tail_T, reduced, self.well)
        return collect(self.plan, solved), collect(self.plan, residual), elimination.inner(reduced)

    def multiply(self, system: System, b: list[np.ndarray]) -> list[np.ndarray]:
        """A b for b per term (m, k, J)."""
        return collect(self.plan, elimination.multiply(np, system, arrange(self.plan, tuple(b))))
