"""Which terms are eliminated level by level, and which go to the dense tail.

Terms come sorted by number of levels. The largest is eliminated first; a later term can follow block
by block when every eliminated one is nested in it (each level of the earlier touches one level of
the later), for then its own block stays block-diagonal. What is left forms the dense tail of q
columns, whose Cholesky factorisation costs q^3 / 3 and 8 q^2 bytes. Where that is too much, its large terms
are solved iteratively (:mod:`lmm.linalg.krylov`) and its small ones stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lmm.errors import CapacityError
from lmm.linalg.devices import backend as arrays
from lmm.linalg.tail import Layout, Slot

if TYPE_CHECKING:
    from lmm.known.relation import Relation

#: largest dense tail tried: 3 matrices of 8 q^2 bytes, 10 GB
TAIL_LIMIT = 20_000
#: dense tail above which a term is solved iteratively unless the exact factorisation is asked for: on a CPU, on an accelerator
EXACT_LIMIT, EXACT_LIMIT_ACCELERATOR = 5_000, 30_000
#: bytes that an accelerator needs for each entry of the dense tail: six matrices and a coupling
TAIL_BYTES = 60
#: columns of small terms that stay in a dense tail beside iterative ones
SMALL = 1_000
FACTORIZATIONS = ("auto", "exact", "iterative")
#: entries of a dense coupling that a chain of two or more factors with a tail may need
CHAIN_LIMIT = 40_000_000


@dataclass(frozen=True)
class TermSize:
    """Name, columns per level and levels of a term, how the levels are related where that is known, and whether rows meet several."""

    group: str
    k: int
    J: int
    relation: Relation | None = field(default=None, compare=False)
    several: bool = False


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
    iterative : terms solved by conjugate gradients; none in an exact factorisation.
    devices : how many of JAX's devices share the dense tail; None takes all where it is large.
    passes : where a generalized model's passes over the rows are made, if not here.
    joint : all terms where the levels of some are related and everything is eliminated together, by sparse Cholesky; else none.
    """

    terms: tuple[TermSize, ...]
    chain: tuple[int, ...]
    tail: tuple[int, ...]
    layout: Layout
    backend: str = "numpy"
    iterative: tuple[int, ...] = ()
    devices: int | None = None
    passes: str = ""
    joint: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """All terms: chain, tail, iterative, joint."""
        return self.chain + self.tail + self.iterative + self.joint

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where each term, in the design's order, stands in :attr:`order`."""
        return tuple(sorted(range(len(self.order)), key=lambda i: self.order[i]))

    @property
    def exact(self) -> bool:
        """Whether every term is eliminated or in the tail."""
        return not self.iterative

    @property
    def by_level(self) -> bool:
        """Whether there is one term, of which each row meets one level: Z'WZ is block-diagonal."""
        return len(self.terms) == 1 and not self.terms[0].several

    @property
    def factorization(self) -> str:
        """What to insist on for another plan of this kind."""
        return "exact" if self.exact else "iterative"

    def require_exact(self, what: str) -> None:
        """CapacityError where some terms are solved iteratively and ``what`` needs the exact factorisation."""
        if not self.exact:
            names = ", ".join(
                f"{self.terms[t].group} ({self.terms[t].J} levels)" for t in self.iterative
            )
            raise CapacityError(
                f"{what} needs the exact factorisation, but {names} was solved by conjugate gradients. "
                "Fit with control=lmm.Control(factorization='exact') where memory allows."
            )

    def precise(self, u: list[np.ndarray]) -> list[np.ndarray]:
        """Per term K^-1 u of effects (k, J), K the covariance of its levels; u itself where they are independent."""
        return [
            own if size.relation is None else size.relation.precise(own)
            for size, own in zip(self.terms, u, strict=True)
        ]

    def require_levels(self, what: str) -> None:
        """CapacityError where levels are related by a precision and ``what`` needs those of each term apart."""
        if self.joint:
            names = ", ".join(size.group for size in self.terms if size.relation is not None)
            raise CapacityError(
                f"{what} is for known covariances that are dense, of one term with one column; the covariance of {names} is not such a "
                "one. ddf='satterthwaite' has no such limit."
            )

    def __str__(self) -> str:
        lines = []
        for order, t in enumerate(self.chain):
            size = self.terms[t]
            how = (
                "eliminated level by level"
                if order == 0
                else "eliminated level by level after the factors nested in it"
            )
            lines.append(f"{size.group}: {size.J} levels x {size.k}, {how}")
        for t in self.tail:
            size = self.terms[t]
            lines.append(f"{size.group}: {size.J} levels x {size.k}, in the dense tail")
        for t in self.iterative:
            size = self.terms[t]
            lines.append(
                f"{size.group}: {size.J} levels x {size.k}, by conjugate gradients; its traces by random probes"
            )
        for t in self.joint:
            size = self.terms[t]
            how = "" if size.relation is None else ", related as given"
            lines.append(f"{size.group}: {size.J} levels x {size.k}{how}, by sparse Cholesky")
        q = sum(slot.k * slot.J for slot in self.layout)
        if q:
            lines.append(
                f"dense tail: {q} columns, {8 * q * q / 1e6:.3g} MB, {q**3 / 3e9:.3g} GFlop per factorisation"
            )
        shared = (
            f", the dense tail shared by {self.devices} devices" if (self.devices or 1) > 1 else ""
        )
        lines.append(f"arrays: {self.backend}{shared}")
        if self.passes:
            lines.append(f"passes over the rows: {self.passes}")
        return "\n".join(lines)


def make_plan(
    terms: tuple[TermSize, ...],
    nested: dict[tuple[int, int], bool],
    backend: str = "numpy",
    factorization: str = "auto",
) -> Plan:
    """Choose. ``nested[t, s]`` says that each level of t touches exactly one level of s.

    Terms of which rows meet several levels are always in the dense tail.

    ``factorization``: "exact" or "iterative" insist; "auto" is exact up to ``EXACT_LIMIT`` columns in the dense tail, more on an
    accelerator as its memory allows.
    """
    if any(term.relation is not None for term in terms):
        return Plan(terms, (), (), (), backend, joint=tuple(range(len(terms))))
    columns = [term.k * term.J for term in terms]
    if any(term.several for term in terms):
        return _with_several(terms, nested, backend, factorization)
    chain, rest = _chain(terms, nested, columns, sum)
    q = sum(columns[s] for s in rest)
    usual, most = _limits(backend)
    limit = {"auto": usual, "exact": most, "iterative": 0}[factorization]
    if q <= limit or not rest:
        return Plan(terms, tuple(chain), tuple(rest), make_layout(terms, tuple(rest)), backend)
    if factorization == "exact":
        names = ", ".join(f"{terms[s].group} ({terms[s].J} levels)" for s in rest)
        raise CapacityError(
            f"The crossed grouping factors {names} need a dense matrix of {q} x {q} ({8 * q * q / 1e9:.0f} GB); "
            f"the exact factorisation stops at {most} columns. lmer() by REML or ML, and glmer() by Laplace's method of rows in memory, "
            "solve such factors iteratively: leave factorization='auto'."
        )
    first, dense, iterative = _iterative(terms, nested, columns)
    return Plan(terms, first, dense, make_layout(terms, dense), backend, iterative)


def _with_several(
    terms: tuple[TermSize, ...],
    nested: dict[tuple[int, int], bool],
    backend: str,
    factorization: str,
) -> Plan:
    """The plan where rows meet several levels of some terms: these are in the dense tail, as Z'WZ joins their levels.

    Raises
    ------
    CapacityError : more columns than a dense tail can have; conjugate gradients do not take such terms.
    """
    columns = [term.k * term.J for term in terms]
    plain = [t for t, term in enumerate(terms) if not term.several]
    chain, _ = _chain(terms, nested, columns, sum, plain[0]) if plain else ([], [])
    rest = tuple(t for t in range(len(terms)) if t not in chain)
    q, most = sum(columns[t] for t in rest), _limits(backend)[1]
    if q > most or factorization == "iterative":
        joined = ", ".join(f"{term.group} ({term.J} levels)" for term in terms if term.several)
        raise CapacityError(
            f"{joined}: rows belong to several levels, which takes the exact factorisation of a dense matrix of {q} x {q} "
            f"({8 * q * q / 1e9:.1f} GB); it stops at {most} columns, and conjugate gradients do not take such terms. Use coarser groups."
        )
    return Plan(terms, tuple(chain), rest, make_layout(terms, rest), backend)


def _iterative(
    terms: tuple[TermSize, ...], nested: dict[tuple[int, int], bool], columns: list[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Chain, dense tail and iterative terms: the chain may begin with any term, so that factors nested in each other are eliminated
    together; the fewest iterative terms win, then the largest first one."""
    found = []
    for first in range(len(terms)):
        chain, rest = _chain(
            terms, nested, columns, lambda sizes: sum(sizes[len(sizes) - _few(sizes) :]), first
        )
        if rest:
            dense = rest[len(rest) - _few([columns[s] for s in rest]) :]
            found.append((tuple(chain), tuple(dense), tuple(s for s in rest if s not in dense)))
    return min(found, key=lambda choice: (len(choice[2]), -columns[choice[0][0]]))


def _limits(backend: str) -> tuple[int, int]:
    """Columns of a dense tail up to which the exact factorisation is the choice, and up to which it is possible."""
    if backend != "jax" or not arrays.has_accelerator():
        return EXACT_LIMIT, TAIL_LIMIT
    memory = arrays.device_memory()
    if memory is None:
        return EXACT_LIMIT_ACCELERATOR, EXACT_LIMIT_ACCELERATOR
    most = int((memory / TAIL_BYTES) ** 0.5)
    return min(EXACT_LIMIT_ACCELERATOR, most), most


def _few(sizes: list[int]) -> int:
    """How many of the last of these terms stay dense beside iterative ones, of which the first is one in any case."""
    count = 0
    while count < len(sizes) - 1 and sum(sizes[len(sizes) - count - 1 :]) <= SMALL:
        count += 1
    return count


def _chain(
    terms: tuple[TermSize, ...],
    nested: dict[tuple[int, int], bool],
    columns: list[int],
    width: Callable[[list[int]], int],
    first: int = 0,
) -> tuple[list[int], list[int]]:
    """The terms to eliminate level by level, from ``first`` on, and the rest, of which ``width`` columns will be in the dense tail."""
    chain = [first]
    for s in range(first + 1, len(terms)):
        if not terms[s].several and all(nested[t, s] for t in chain):
            chain.append(s)
    rest = [s for s in range(len(terms)) if s not in chain]
    if (
        rest
        and len(chain) > 1
        and max(columns[t] for t in chain) * width([columns[s] for s in rest]) > CHAIN_LIMIT
    ):
        return [first], [
            s for s in range(len(terms)) if s != first
        ]  # the chain's couplings would not fit; a larger tail does
    return chain, rest


def make_layout(terms: tuple[TermSize, ...], tail: tuple[int, ...]) -> Layout:
    """The tail's terms side by side."""
    layout, offset = [], 0
    for t in tail:
        layout.append(Slot(offset, terms[t].k, terms[t].J))
        offset += terms[t].k * terms[t].J
    return tuple(layout)
