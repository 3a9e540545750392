"""The equations in the random effects of a working linear model where some factors are solved by conjugate gradients.

The working weights change with the linear predictor, the pattern of pairs of levels does not: sparse products are built once
from the pattern, and filled with new blocks at each step. A step of Newton's method begins its conjugate gradients at the
effects it starts from, and reduces by a fixed factor what is left of the equations there (inexact Newton: Dembo, Eisenstat
& Steihaug, 1982, SIAM J. Numer. Anal. 19); where the mode is found, so are they to as many digits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lmm.linalg import krylov
from lmm.linalg.elimination import System, Vectors
from lmm.linalg.krylov import Coupled, Exact, IterativeFactor, Joint
from lmm.linalg.plan import Plan
from lmm.linalg.sparse_product import CsrProduct
from lmm.model.arrangement import Arrangement
from lmm.model.crossproducts import CrossProducts
from lmm.model.passes import Source, Weighted
from lmm.model.rows import Rows, assemble
from lmm.model.system import arrange, make_coupled

#: residual of a step of Newton's method relative to that at its start, and of other systems relative to the right-hand side
STEP, PRECISE = 1e-4, 1e-9


class Filled(NamedTuple):
    """Z'WZ for some weights: the exact terms' part and the iterative ones'."""

    exact: System
    coupled: Coupled


class Factored(NamedTuple):
    """A factorised system; log|M| but for log|H|."""

    system: Filled
    exact: Exact
    at: IterativeFactor

    @property
    def logdet(self) -> Any:
        """log|M| - log|H|."""
        return self.at.logdet


class Couplings:
    """The sparse products of a pattern, to be filled with blocks."""

    def __init__(self, pattern: CrossProducts, plan: Plan):
        self.plan, self.pattern = plan, pattern
        self.empty = make_coupled(pattern, plan)
        # pairs whose product has the later term's levels as rows
        turned = [(a, e) for a in plan.iterative for e in plan.chain + plan.tail if a < e]
        self.orders = {key: np.argsort(pattern.pairs[key].cols, kind="stable") for key in turned}

    def _blocks(self, pairs: dict[tuple[int, int], np.ndarray], row: int, col: int) -> np.ndarray:
        if row < col:
            return pairs[row, col]
        return np.swapaxes(pairs[col, row], 0, 1)[..., self.orders[col, row]]

    def fill(self, diag: list[np.ndarray], pairs: dict[tuple[int, int], np.ndarray]) -> Coupled:
        """The couplings with these blocks of levels and of pairs of levels."""
        plan, old = self.plan, self.empty

        def filled(product: Any, row: int, col: int) -> Any:
            return product.with_blocks(self._blocks(pairs, row, col))

        def first(joint: Joint, a: int) -> Joint:
            product: CsrProduct = filled(joint.product, plan.chain[0], a)
            plain = product.k_row == product.k_col == 1
            return Joint(product, product.entry_products(0, 0, 0, 0) if plain else None)

        rest = plan.chain[1:] + plan.tail
        return Coupled(
            own=tuple(diag[a] for a in plan.iterative),
            among=tuple(
                tuple(filled(product, a, b) for product, b in zip(row, plan.iterative[i + 1 :], strict=True))
                for i, (a, row) in enumerate(zip(plan.iterative, old.among, strict=True))
            ),
            first=tuple(first(joint, a) for joint, a in zip(old.first, plan.iterative, strict=True)),
            others=tuple(
                tuple(filled(product, e, a) for product, e in zip(row, rest, strict=True))
                for row, a in zip(old.others, plan.iterative, strict=True)
            ),
        )


class IterativeArrangement(Arrangement):
    """:class:`~lmm.model.arrangement.Arrangement` for a plan with iterative terms and rows in memory."""

    whole = False

    def __init__(self, source: Source, T: list[np.ndarray]):
        assert isinstance(source, Rows)
        super().__init__(source, T)
        self.iterative_T = [T[t] for t in self.plan.iterative]
        if "couplings" not in source.kept:
            source.kept["couplings"] = Couplings(source.pattern, source.plan)
        self.couplings: Couplings = source.kept["couplings"]

    def system(self, sums: Weighted) -> Any:
        """Z'WZ of sums, arranged."""
        return Filled(assemble(self.pattern, self.plan, sums.diag, sums.pairs), self.couplings.fill(sums.diag, sums.pairs))

    def factorize(self, system: Any) -> Any:
        """Eliminate the exact terms at these T."""
        exact = Exact(system.exact, self.chain_T, self.tail_T, self.layout)
        return Factored(system, exact, krylov.factorize(np, exact, system.coupled, self.iterative_T))

    def try_factorize(self, system: Any) -> Any:
        """The same of a system with negative weights; None where a few conjugate directions tell that H is not positive definite."""
        found: Any = super().try_factorize(system)
        if found is None:
            return None
        q = sum(own.shape[0] * own.shape[-1] for own in system.coupled.own)
        b = np.where(np.random.default_rng(0).integers(0, 2, (1, q)) > 0, 1.0, -1.0)
        solved = krylov.solve_scaled(np, found.exact, system.coupled, found.at, b, STEP)
        return found if solved.relative[0] <= STEP and np.all(solved.alpha >= 0.0) else None

    def solve(
        self, factor: Any, rhs: list[np.ndarray], near: list[np.ndarray] | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """N r, r - A N r and r'N r for r per term (m, k, J); from ``near`` on, to a part of what it leaves, where it is given."""
        parts = [rhs[t] for t in self.plan.iterative]
        start, tolerance = (None, PRECISE) if near is None else (self._coordinates(factor.at, near), STEP)
        own = arrange(self.plan, tuple(rhs))
        found = krylov.solve(np, factor.exact, factor.system.coupled, factor.at, own, parts, tolerance, start)
        return self.gather(found.exact, found.parts), self.gather(found.exact_residual, found.residual), found.inner

    def multiply(self, system: Any, b: list[np.ndarray]) -> list[np.ndarray]:
        """A b for b per term (m, k, J)."""
        exact = Exact(system.exact, self.chain_T, self.tail_T, self.layout)
        own, parts = arrange(self.plan, tuple(b)), [b[t] for t in self.plan.iterative]
        from_parts = krylov.into_exact(np, exact, system.coupled, parts)
        inside = krylov.exact_multiply(np, exact, own)
        total = Vectors(tuple(x + y for x, y in zip(inside.chain, from_parts.chain, strict=True)), inside.tail + from_parts.tail)
        rest = krylov.own_product(np, system.coupled, parts)
        return self.gather(total, [x + y for x, y in zip(rest, krylov.from_exact(np, exact, system.coupled, own), strict=True)])

    def gather(self, vectors: Vectors, parts: list[np.ndarray]) -> list[np.ndarray]:
        """Per term (m, k, J) in the design's order."""
        tail = [vectors.tail[:, slot.columns].reshape(len(vectors.tail), slot.k, slot.J) for slot in self.layout]
        return self.in_order([*vectors.chain, *tail, *parts])

    def in_order(self, each: list[Any]) -> list[Any]:
        """Per term in the plan's order, in the design's."""
        return [each[i] for i in np.argsort(self.plan.order)]

    def _coordinates(self, at: IterativeFactor, b: list[np.ndarray]) -> np.ndarray:
        """x (1, q) with b = T K^-T x in the iterative terms: K'T^-1 b."""
        out = []
        for t, T, K in zip(self.plan.iterative, self.iterative_T, at.K, strict=True):
            u = np.linalg.pinv(T) @ b[t]
            if len(T) == 1:
                x = u / K[0]
            else:
                x = np.linalg.solve(np.moveaxis(K, -1, 0), u.T[..., None])[..., 0].T
            out.append(np.reshape(x, -1))
        return np.concatenate(out)[None]


def arrangement(source: Source, T: list[np.ndarray]) -> Arrangement:
    """The equations of a source at T per term (k, k), whichever way they are factorised."""
    return IterativeArrangement(source, T) if source.plan.iterative else Arrangement(source, T)
