"""Random slopes whose origin is far from the data, measured from their means: z B in place of z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lmm.design.design import Design
from lmm.design.terms import RandomTerm

#: standard deviations between a column's mean and zero from which it is centred
DISTANT = 100.0


def basis(term: RandomTerm, weights: np.ndarray | None) -> np.ndarray | None:
    """B (k, k), z B the columns less their means where those are far from zero; None where none is."""
    values = term.values
    joined = next(
        (
            own
            for own in term.structure.free_blocks()
            if "Intercept" in [term.columns[a] for a in own]
        ),
        None,
    )
    if joined is None:
        return None
    one = term.columns.index("Intercept")
    out = np.eye(term.k)
    for a in joined:
        if a == one:
            continue
        low, high = float(values[:, a].min()), float(values[:, a].max())
        if (
            not min(abs(low), abs(high)) > DISTANT / 4.0 * (high - low) > 0.0
        ):  # the mean is nearer than that
            continue
        mean = float(np.average(values[:, a], weights=weights))
        deviation = float(np.sqrt(np.average((values[:, a] - mean) ** 2, weights=weights)))
        if abs(mean) > DISTANT * deviation > 1e-10 * abs(mean):
            out[one, a] = -mean
    return None if np.array_equal(out, np.eye(term.k)) else out


def bases(design: Design) -> tuple[np.ndarray | None, ...]:
    """B of each random term of a design."""
    if any(term.relation is not None for term in design.terms):
        return (None,) * len(design.terms)
    return tuple(basis(term, design.weights) for term in design.terms)


def centred_design(design: Design, bases: Sequence[np.ndarray | None]) -> Design:
    """The design with the columns of its random terms centred."""
    terms = []
    for term, B in zip(design.terms, bases, strict=True):
        terms.append(
            term if B is None else replace(term, values=np.asfortranarray(shifted(term.values, B)))
        )
    return design.with_mean(terms=tuple(terms))


def shifted(values: np.ndarray, B: np.ndarray | None) -> np.ndarray:
    """z B (n, k)."""
    return values if B is None else values @ B
