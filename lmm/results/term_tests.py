"""Tests of the terms of the fixed part: analysis of variance of types I, II and III, Wald's chi-square without ddf.

Names meet the matrices of :mod:`lmm.inference.estimable`: which columns and cells are a term's comes from the formula
(:mod:`lmm.formula.factors`), which cells have data from the rows of the fit where columns were dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm.design.cells import positions
from lmm.design.rank import independent_columns
from lmm.design.records import Design
from lmm.errors import ArgumentError
from lmm.formula import factors as formula_factors
from lmm.formula.factors import Factor, FixedTerm
from lmm.inference import estimable
from lmm.inference.ddf import TITLES, Ddf
from lmm.model.records import Estimate
from lmm.results.streamed import triangle

TYPES = {"1": 1, "2": 2, "3": 3, "i": 1, "ii": 2, "iii": 3}
NUMERALS = {1: "I", 2: "II", 3: "III"}
#: rows from each combination of levels that are looked at where columns were dropped
PER_CELL = 50


@dataclass(frozen=True, eq=False)
class Structure:
    """The fixed part as terms of factors.

    Attributes
    ----------
    factors, terms : of the formula, the intercept among the terms.
    kept : (p,) positions of the kept columns among all columns of the formula.
    extra : positions of columns that the model does without and a test must know of: an ordinal model's intercept.
    """

    factors: dict[str, Factor]
    terms: list[FixedTerm]
    kept: np.ndarray
    extra: np.ndarray

    def own(self, term: FixedTerm) -> np.ndarray:
        """Positions of a term's columns among the kept ones."""
        return np.flatnonzero((self.kept >= term.columns.start) & (self.kept < term.columns.stop))

    def contains(self, upper: FixedTerm, lower: FixedTerm) -> bool:
        """Whether ``upper`` has the numbers of ``lower``, and its categories with more."""

        def parts(term: FixedTerm) -> tuple[set[str], set[str]]:
            numbers = {name for name in term.factors if self.factors[name].levels is None}
            return numbers, set(term.factors) - numbers

        (one, classes), (other, more) = parts(lower), parts(upper)
        return one == other and classes < more


def check_type(value: Any) -> int:
    """1, 2 or 3 from a number or a numeral.

    Examples
    --------
    >>> check_type("III"), check_type(2)
    (3, 2)
    """
    found = None if isinstance(value, bool) else TYPES.get(str(value).lower())
    if found is None:
        raise ArgumentError(f"anova: type={value!r} is not one of 1, 2, 3 ('I', 'II', 'III').")
    return found


def structure(design: Design) -> Structure:
    """The terms of a fit's fixed part with the columns that were kept."""
    frame = design.frame
    factors, terms = formula_factors.fixed_structure(frame)
    total = terms[-1].columns.stop if terms else 0
    extra = np.array(frame.left_out, dtype=int)
    present = [j for j in range(total) if j not in set(frame.left_out)]
    place = dict(zip(design.all_names, present, strict=True))
    return Structure(factors, terms, np.array([place[name] for name in design.names], dtype=int), extra)


def hypotheses(design: Design, type: int) -> dict[str, np.ndarray]:
    """Per term, the intercept left out, the matrix L (q, p) of its hypotheses L beta = 0; (0, p) where no column is left."""
    known = structure(design)
    tested = [term for term in known.terms if term.label != "1"]
    if not tested or not len(known.kept):
        return {term.label: np.zeros((0, len(known.kept))) for term in tested}
    if type == 3:
        return _third(design, known, tested)
    if design.streamed:
        R = triangle(design)
    else:
        R = independent_columns(np.column_stack([np.ones((design.n, len(known.extra))), design.X]))[1]
    before = len(known.extra)
    out = {}
    for term in tested:
        own = known.own(term) + before
        order = np.arange(len(R))
        if type == 2:
            later = np.concatenate([np.zeros(0, dtype=int), *(known.own(t) for t in tested if known.contains(t, term))]) + before
            first = np.setdiff1d(order, np.concatenate([own, later]))
            order = np.concatenate([first, own, later])
        L = estimable.triangle_rows(R, order, own)
        if type == 2 and not len(later):  # nothing behind it: its own coefficients one by one
            L = np.eye(len(R))[own]
        out[term.label] = L[:, before:]
    return out


def _third(design: Design, known: Structure, tested: list[FixedTerm]) -> dict[str, np.ndarray]:
    factors = known.factors
    terms = [term for term in known.terms if len(known.own(term)) or term.label == "1"]  # a term without columns is not there
    M = _map(design, known, terms)
    sizes = [int(np.prod([factors[name].width for name in term.factors], dtype=int)) for term in terms]
    stops = np.cumsum([0, *sizes])
    cells = {term.label: slice(stops[i], stops[i + 1]) for i, term in enumerate(terms)}
    out = {term.label: np.zeros((0, len(known.kept))) for term in tested}
    for term in terms:
        if term.label == "1":
            continue
        own, containing = np.zeros(stops[-1], dtype=bool), np.zeros(stops[-1], dtype=bool)
        own[cells[term.label]] = True
        for other in terms:
            if known.contains(other, term):
                containing[cells[other.label]] = True
        preference = np.argsort(formula_factors.references(factors, term), kind="stable")
        L = estimable.estimable(M, own, containing, [int(i) for i in preference])
        out[term.label] = L[:, len(known.extra) :]
    return out


def _map(design: Design, known: Structure, terms: list[FixedTerm]) -> np.ndarray:
    """M with U = X M, U the cells of ``terms``, the extra columns of X first.

    From invented rows, or from the data's where columns were dropped.
    """
    factors = known.factors
    use = np.concatenate([known.extra, known.kept])
    if not design.dropped:
        rng, count = np.random.default_rng(0), 64 + 8 * len(use)
        while True:
            rows = formula_factors.invented_rows(factors, count, rng)
            X = formula_factors.coded_columns(factors, known.terms, rows, count)[:, use]
            if np.linalg.matrix_rank(X) == len(use) or count > 100_000:
                break
            count *= 4
    else:
        rows, chosen = _observed(design, known)
        count = len(chosen)
        X = np.column_stack([np.ones((count, len(known.extra))), design.X[chosen]])
    U = np.concatenate([formula_factors.cell_columns(factors, term, rows, count) for term in terms], axis=1)
    return estimable.parameter_map(X, U)


def _observed(design: Design, known: Structure) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Some rows of the fit, every combination of levels among them, with the factors there."""
    if design.frame.arrays:
        names = ", ".join(design.frame.arrays)
        raise ArgumentError(
            f"anova(type=3) of a rank-deficient model looks at the data again, where {names} is no column; put it into the data."
        )
    rows = formula_factors.observed_rows(design.frame, known.factors, positions(design))
    order = np.random.default_rng(0).permutation(design.n)
    classes = [rows[name][order] for name, f in known.factors.items() if f.levels is not None]
    cell = np.unique(np.stack(classes), axis=1, return_inverse=True)[1].ravel() if classes else np.zeros(design.n, dtype=int)
    by_cell = np.argsort(cell, kind="stable")
    start = np.searchsorted(cell[by_cell], cell[by_cell])
    chosen = order[by_cell[np.arange(design.n) - start < max(PER_CELL, 2 * len(known.kept))]]
    return {name: values[chosen] for name, values in rows.items()}, chosen


def anova_table(design: Design, estimate: Estimate, ddf: Ddf, type: int) -> pd.DataFrame:
    """One row per term.

    ``sum_sq, mean_sq, num_df, den_df, f_value, p_value``, a mean square being the F value, unscaled, times sigma^2; without
    degrees of freedom ``chisq, df, p_value``.
    """
    chi_square = ddf.method is None
    rows: dict[str, tuple[float, ...]] = {}
    for label, L in hypotheses(design, type).items():
        test = ddf.f(L, L @ estimate.beta)
        if chi_square:
            rows[label] = (test.f * test.num_df, test.num_df, test.p)
        else:
            mean = test.f / test.scale * estimate.sigma**2
            rows[label] = (mean * test.num_df, mean, test.num_df, test.den_df, test.f, test.p)
    columns = ["chisq", "df", "p_value"] if chi_square else ["sum_sq", "mean_sq", "num_df", "den_df", "f_value", "p_value"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table = table.astype({"df" if chi_square else "num_df": int})
    how = "Wald's chi-square tests" if ddf.method is None else TITLES[ddf.method]
    table.attrs["heading"] = f"Type {NUMERALS[type]} analysis of variance with {how}"
    return table
