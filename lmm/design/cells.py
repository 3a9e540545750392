"""In which cells of the categorical predictors some of the rows are: what names them to the user."""

from __future__ import annotations

import numpy as np

from lmm.design.design import Design
from lmm.errors import LmmError
from lmm.formula.columns import factors as formula_factors
from lmm.formula.text.names import readable

#: cells that a sentence lists
LISTED = 3


def positions(design: Design) -> np.ndarray:
    """Where the rows of the fit are in the user's table."""
    subset, kept = design.subset, np.asarray(design.kept)
    return np.flatnonzero(kept) if subset is None else np.flatnonzero(np.asarray(subset))[kept]


def cells(design: Design, rows: np.ndarray) -> str | None:
    """``"a = 'u' and b = 'p'"``: the cells that ``rows`` (n,) bool are exactly those of; None where there are no such cells.

    Of the terms of the fixed part the one with the fewest factors is taken, as in ``t = 'c'`` for all rows with that level.
    """
    if design.frame.arrays:
        return None
    try:
        factors, terms = formula_factors.fixed_structure(design.frame)
        values = formula_factors.observed_rows(design.frame, factors, positions(design))
    except LmmError:
        return None
    sets = dict.fromkeys(
        tuple(name for name in term.factors if factors[name].levels is not None) for term in terms
    )
    for names in sorted((own for own in sets if own), key=len):
        codes, cell = np.unique(
            np.column_stack([values[name] for name in names]), axis=0, return_inverse=True
        )
        inside = np.bincount(cell.ravel(), rows, len(codes)) == np.bincount(
            cell.ravel(), minlength=len(codes)
        )
        if inside.any() and not inside.all() and np.array_equal(inside[cell.ravel()], rows):
            found = [_cell(design, factors, names, code) for code in codes[inside]]
            more = "" if len(found) <= LISTED else f" or in {len(found) - LISTED} other cells"
            return " or ".join(found[:LISTED]) + more
    return None


def _cell(
    design: Design,
    factors: dict[str, formula_factors.FixedFactor],
    names: tuple[str, ...],
    code: np.ndarray,
) -> str:
    parts = []
    for name, i in zip(names, code, strict=True):
        levels = factors[name].levels
        assert levels is not None
        parts.append(f"{readable(name, design.frame.awkward)} = {str(levels[i])!r}")
    return " and ".join(parts)
