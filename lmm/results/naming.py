"""Names of variance parameters: ``Subject.Days.(Intercept)`` for theta, ``cor_Days.(Intercept)|Subject`` for intervals.

Coefficients and columns keep the formula's spelling (``Intercept``); these two lists are spelled as
in lme4, ``(Intercept)``, because people look parameters up by those names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmm.design.records import RandomTerm


def lme4_column(name: str) -> str:
    """``Intercept`` as ``(Intercept)``; every other column as it is."""
    return "(Intercept)" if name == "Intercept" else name


def theta_names(terms: Sequence[RandomTerm]) -> list[str]:
    """One name per relative covariance parameter, all terms in order."""
    return [".".join([term.group, *map(lme4_column, couple)]) for term in terms for couple in term.structure.theta_names(term.columns)]


def parameter_names(terms: Sequence[RandomTerm], residual: bool = True) -> list[str]:
    """Standard deviations and correlations per term, ordered as theta is, then ``sigma`` where there is a ``residual``."""
    names = []
    for term in terms:
        columns = [lme4_column(c) for c in term.columns]
        correlated = set(term.structure.pairs())
        for j, column in enumerate(columns):
            names.append(f"sd_{column}|{term.group}")
            names += [f"cor_{columns[i]}.{column}|{term.group}" for i in range(j + 1, term.k) if (i, j) in correlated]
    return [*names, "sigma"] if residual else names


def sdcor_columns(term: RandomTerm, covariances: np.ndarray) -> dict[str, np.ndarray]:
    """Standard deviations and free correlations (...) of covariances (..., k, k), named and ordered as above.

    A correlation beside a variance of zero is NaN.
    """
    columns, free = [lme4_column(column) for column in term.columns], set(term.structure.pairs())
    sd = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
    out = {}
    for j, column in enumerate(columns):
        out[f"sd_{column}|{term.group}"] = sd[..., j]
        for i in range(j + 1, term.k):
            if (i, j) in free:
                with np.errstate(divide="ignore", invalid="ignore"):
                    r = covariances[..., i, j] / (sd[..., i] * sd[..., j])
                out[f"cor_{columns[i]}.{column}|{term.group}"] = np.clip(r, -1.0, 1.0)
    return out
