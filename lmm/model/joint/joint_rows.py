"""Rows of linear combinations of the predictors: sum_a g_a (x_a'beta_a + z_a'b_a), as rows of the stacked model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lmm.design.predictors.stacked_design import Place
from lmm.design.terms import Incidence

if TYPE_CHECKING:
    from lmm.model.joint.joint_problem import JointProblem


class NewRows(Protocol):
    """How m rows meet one predictor: fixed columns (m, p), terms with masks of the columns that count, rows that are complete."""

    @property
    def X(self) -> np.ndarray: ...
    @property
    def terms(self) -> tuple[Incidence | None, ...]: ...
    @property
    def keep(self) -> tuple[np.ndarray, ...]: ...
    @property
    def complete(self) -> np.ndarray: ...


def whole_rows(
    problem: JointProblem, parts: Sequence[tuple[Place, NewRows, np.ndarray]]
) -> tuple[np.ndarray, list[Incidence | None]]:
    """Columns (m, p) and terms of the combination, of rows that are complete; ``parts`` a place, its rows and g (m,) each."""
    m = len(parts[0][2])
    X = np.zeros((m, problem.p))
    values: list[np.ndarray | None] = [None] * len(problem.terms)
    codes: list[np.ndarray] = [np.zeros(m, dtype=np.int32)] * len(problem.terms)
    for place, rows, g in parts:
        X[:, place.beta] = g[:, None] * rows.X[rows.complete]
        for own, term, mask in zip(place.terms, rows.terms, rows.keep, strict=True):
            if term is None or not mask.any():
                continue
            seen = term.rows(rows.complete).only(mask)
            whole = values[own.term]
            if whole is None:
                whole = np.zeros((m, problem.terms[own.term].k))
                values[own.term], codes[own.term] = whole, seen.codes
            whole[:, own.columns] = g[:, None] * seen.values
    terms = [
        None if own is None else Incidence(code, own)
        for own, code in zip(values, codes, strict=True)
    ]
    return X, terms
