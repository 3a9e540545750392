"""Z'WZ of sums over rows, arranged for its factorisation.

The working weights of a generalized model change with the linear predictor, the pattern of pairs of levels does not: the sparse
products of terms that are solved iteratively are built once from the pattern, and filled with new blocks at each step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmm.linalg.factorisation import PenalizedSystem, penalized_system
from lmm.linalg.krylov import UNCOUPLED, Coupled, Joint
from lmm.linalg.plan import Plan
from lmm.linalg.sparse.sparse_product import CsrProduct, Product
from lmm.linalg.tail import size
from lmm.model.gaussian.crossproducts import CrossProducts
from lmm.model.gaussian.system import make_coupled, make_system
from lmm.model.joint_system import joint_pattern, joint_system
from lmm.model.laplace.passes import Source, Weighted
from lmm.model.laplace.rows import Rows

#: numbers in a dense coupling up to which it is taken
DENSE_LIMIT = 20_000_000


def system_of(source: Source, sums: Weighted) -> PenalizedSystem:
    """Z'WZ from its blocks of levels and of the pattern's pairs of levels."""
    plan, pattern = source.plan, source.pattern
    if plan.joint:
        return related_system(source, sums)
    largest = max((plan.terms[t].k * plan.terms[t].J for t in plan.chain[:1]), default=0)
    # products would have to be listed anew at each step
    dense = largest * size(plan.layout) <= DENSE_LIMIT
    blocks = make_system(pattern.with_blocks(sums.diag, sums.pairs), plan, dense)
    return penalized_system(plan, blocks, _coupled(source, sums))


def related_system(source: Source, sums: Weighted) -> PenalizedSystem:
    """Z'WZ where levels are related; the order of elimination is found once for all weights."""
    assert isinstance(source, Rows)
    if "joint" not in source.kept:
        source.kept["joint"] = joint_pattern(source.plan, source.pattern)
    pattern = source.kept["joint"]
    return joint_system(source.plan, source.pattern, sums.diag, sums.pairs, pattern)


def _coupled(source: Source, sums: Weighted) -> Coupled:
    """How the iterative terms lie in Z'WZ."""
    if source.plan.exact:
        return UNCOUPLED
    assert isinstance(source, Rows)
    if "couplings" not in source.kept:
        source.kept["couplings"] = Couplings(source.pattern, source.plan)
    found: Coupled = source.kept["couplings"].fill(sums.diag, sums.pairs)
    return found


class WorkingModel(NamedTuple):
    """A linear model in sums: Z'WZ, Z'WQ (p, k, J) per term and Q'WQ (p, p)."""

    system: PenalizedSystem
    fixed: list[np.ndarray]
    gram: np.ndarray

    @classmethod
    def of(cls, source: Source, sums: Weighted) -> WorkingModel:
        """From sums over rows."""
        assert sums.fixed is not None and sums.gram is not None
        return cls(system_of(source, sums), sums.fixed, sums.gram)


class Couplings:
    """The sparse products of a pattern, to be filled with blocks."""

    def __init__(self, pattern: CrossProducts, plan: Plan):
        self.plan, self.pattern = plan, pattern
        self.empty = make_coupled(pattern, plan)
        # pairs whose product has the later term's levels as rows
        turned = [(a, e) for a in plan.iterative for e in plan.chain + plan.tail if a < e]
        self.orders = {key: np.argsort(pattern.pairs[key].cols, kind="stable") for key in turned}

    def fill(self, diag: list[np.ndarray], pairs: dict[tuple[int, int], np.ndarray]) -> Coupled:
        """The couplings with these blocks of levels and of pairs of levels."""
        plan, old = self.plan, self.empty
        rest = plan.chain[1:] + plan.tail

        def filled(product: Product, row: int, col: int) -> CsrProduct:
            assert isinstance(product, CsrProduct)
            blocks = (
                pairs[row, col]
                if row < col
                else np.swapaxes(pairs[col, row], 0, 1)[..., self.orders[col, row]]
            )
            return product.with_blocks(blocks)

        def first(joint: Joint, a: int) -> Joint:
            product = filled(joint.product, plan.chain[0], a)
            plain = product.k_row == product.k_col == 1
            return Joint(product, product.entry_products(0, 0, 0, 0) if plain else None)

        among, others = [], []
        for i, a in enumerate(plan.iterative):
            among.append(
                tuple(
                    filled(product, a, b)
                    for product, b in zip(old.among[i], plan.iterative[i + 1 :], strict=True)
                )
            )
            others.append(
                tuple(filled(product, e, a) for product, e in zip(old.others[i], rest, strict=True))
            )
        return Coupled(
            own=tuple(diag[a] for a in plan.iterative),
            among=tuple(among),
            first=tuple(
                first(joint, a) for joint, a in zip(old.first, plan.iterative, strict=True)
            ),
            others=tuple(others),
        )
