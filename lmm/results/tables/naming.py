"""Names of variance parameters: ``Subject.Days.(Intercept)`` for theta, ``cor_Days.(Intercept)|Subject`` for intervals.

Coefficients and columns keep the formula's spelling (``Intercept``); these two lists are spelled as
in lme4, ``(Intercept)``, because people look parameters up by those names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmm.covariance import Covariance
from lmm.covariance.structure import Quantity
from lmm.design.design import Varying

if TYPE_CHECKING:
    from lmm.results.tables.varcorr import Component


def lme4_column(name: str) -> str:
    """``Intercept`` as ``(Intercept)``; every other column as it is."""
    return "(Intercept)" if name == "Intercept" else name


def theta_names(terms: Sequence[Varying]) -> list[str]:
    """One name per relative covariance parameter, all terms in order."""
    return [
        ".".join([term.group, *map(lme4_column, couple)])
        for term in terms
        for couple in term.structure.theta_names(term.columns)
    ]


def in_table_order(structure: Covariance) -> list[tuple[int, Quantity]]:
    """(position, quantity) of a structure's quantities with the standard deviations before the correlations."""
    return sorted(enumerate(structure.quantities()), key=lambda row: row[1].kind != "sd")


def quantity_names(term: Varying | Component) -> list[str]:
    """``sd_x|g`` and ``cor_z.x|g``, in the order of the structure's quantities; ``disp_x`` of a dispersion model."""
    return names_of(term, term.structure.quantities())


def names_of(term: Varying | Component, quantities: Sequence[Quantity]) -> list[str]:
    """The same of some quantities."""
    names = []
    for q in quantities:
        if q.kind == term.group:
            names.append(f"{q.kind}_{term.columns[q.row]}")
            continue
        columns = called(tuple(lme4_column(term.columns[a]) for a in q.columns))
        names.append(f"{q.kind}_{columns}|{term.group}" if columns else f"{q.kind}|{term.group}")
    return names


def called(columns: tuple[str, ...]) -> str:
    """What a quantity of some columns is called by: ``x``, ``z.x``, or of more, as far as they share it, ``f`` of ``f[a], f[b], f[c]``."""
    stems = {name.partition("[")[0] for name in columns}
    return stems.pop() if len(columns) > 2 and len(stems) == 1 else ".".join(columns)


def parameter_names(terms: Sequence[Varying], residual: bool = True) -> list[str]:
    """Standard deviations and correlations per term, ordered as theta is, then ``sigma`` where there is a ``residual``."""
    names = [name for term in terms for name in quantity_names(term)]
    return [*names, "sigma"] if residual else names


def sdcor_columns(term: Varying, covariances: np.ndarray) -> dict[str, np.ndarray]:
    """Standard deviations and correlations (...) of covariances (..., k, k), named and ordered as above.

    A correlation beside a variance of zero is NaN.
    """
    values = np.moveaxis(term.structure.describe(covariances), -1, 0)
    return dict(zip(quantity_names(term), values, strict=True))
