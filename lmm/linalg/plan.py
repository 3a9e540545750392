"""Which terms are eliminated level by level, and which go to the dense tail.

Terms come sorted by number of levels. The largest is eliminated first; a later term can follow block
by block when every eliminated one is nested in it (each level of the earlier touches one level of
the later), for then its own block stays block-diagonal. What is left forms the dense tail of q
columns, whose Cholesky factorisation costs q^3 / 3 and 8 q^2 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmm.errors import CapacityError
from lmm.linalg.tail import Layout, Slot

#: largest dense tail tried: 3 matrices of 8 q^2 bytes, 10 GB
TAIL_LIMIT = 20_000
#: entries of a dense coupling that a chain of two or more factors with a tail may need
CHAIN_LIMIT = 40_000_000


@dataclass(frozen=True)
class TermSize:
    """Name, columns per level and levels of a term."""

    group: str
    k: int
    J: int


@dataclass(frozen=True)
class Plan:
    """The choice for one design: indices of the terms, and the tail's layout.

    Attributes
    ----------
    terms : sizes of all terms in the design's order.
    chain : terms eliminated level by level, in the order of elimination.
    tail : terms of the dense tail.
    layout : where each tail term lies.
    backend : "numpy" or "jax".
    """

    terms: tuple[TermSize, ...]
    chain: tuple[int, ...]
    tail: tuple[int, ...]
    layout: Layout
    backend: str = "numpy"

    def __str__(self) -> str:
        lines = []
        for order, t in enumerate(self.chain):
            size = self.terms[t]
            how = "eliminated level by level" if order == 0 else "eliminated level by level after the factors nested in it"
            lines.append(f"{size.group}: {size.J} levels x {size.k}, {how}")
        for t in self.tail:
            size = self.terms[t]
            lines.append(f"{size.group}: {size.J} levels x {size.k}, in the dense tail")
        q = sum(slot.k * slot.J for slot in self.layout)
        if q:
            lines.append(f"dense tail: {q} columns, {8 * q * q / 1e6:.3g} MB, {q**3 / 3e9:.3g} GFlop per factorisation")
        lines.append(f"arrays: {self.backend}")
        return "\n".join(lines)


def make_plan(terms: tuple[TermSize, ...], nested: dict[tuple[int, int], bool], backend: str = "numpy") -> Plan:
    """Choose. ``nested[t, s]`` says that each level of t touches exactly one level of s."""
    chain = [0]
    for s in range(1, len(terms)):
        if all(nested[t, s] for t in chain):
            chain.append(s)
    rest = [s for s in range(len(terms)) if s not in chain]
    q = sum(terms[s].k * terms[s].J for s in rest)
    if rest and len(chain) > 1 and max(terms[t].k * terms[t].J for t in chain) * q > CHAIN_LIMIT:
        chain, rest = [0], list(range(1, len(terms)))  # the chain's couplings would not fit; a larger tail does
        q = sum(terms[s].k * terms[s].J for s in rest)
    if q > TAIL_LIMIT:
        names = ", ".join(f"{terms[s].group} ({terms[s].J} levels)" for s in rest)
        raise CapacityError(
            f"The crossed grouping factors {names} need a dense matrix of {q} x {q} ({8 * q * q / 1e9:.0f} GB); "
            f"the exact factorisation stops at {TAIL_LIMIT} columns. Drop or coarsen one of these factors."
        )
    return Plan(terms, tuple(chain), tuple(rest), make_layout(terms, tuple(rest)), backend)


def make_layout(terms: tuple[TermSize, ...], tail: tuple[int, ...]) -> Layout:
    """The tail's terms side by side."""
    layout, offset = [], 0
    for t in tail:
        layout.append(Slot(offset, terms[t].k, terms[t].J))
        offset += terms[t].k * terms[t].J
    return tuple(layout)
