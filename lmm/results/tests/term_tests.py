"""Tests of the terms of the fixed part: analysis of variance of types I, II and III, Wald's chi-square without ddf.

Names meet the matrices of :mod:`lmm.inference.tests.estimable`: which columns and cells are a term's comes from the formula
(:mod:`lmm.formula.columns.factors`), which cells have data from the rows of the fit where columns were dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmm.design.cells import positions
from lmm.design.design import Design
from lmm.errors import ArgumentError, ComparisonWarning, warn
from lmm.formula.columns import factors as formula_factors
from lmm.formula.columns.factors import FixedFactor, FixedTerm
from lmm.inference.tests import estimable
from lmm.inference.tests.ddf import TITLES, Ddf
from lmm.model.records import Estimate
from lmm.results.tables.fixed import kept_positions
from lmm.results.tests.contrasts import unbounded

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
    constant : whether the model has a constant that is no column: an ordinal model's thresholds.
    """

    factors: dict[str, FixedFactor]
    terms: list[FixedTerm]
    kept: np.ndarray
    constant: bool

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


def check_type(value: object) -> int:
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
    present = [j for j in range(total) if j not in set(frame.left_out)]
    constant = not getattr(design.family, "has_intercept", True)
    if constant and not any(term.label == "1" for term in terms):
        terms = [FixedTerm("1", (), range(0), (((), 1.0),)), *terms]
    return Structure(factors, terms, np.array(present, dtype=int)[kept_positions(design)], constant)


def hypotheses(design: Design, type: int) -> dict[str, np.ndarray]:
    """Per term, the intercept left out, the matrix L (q, p) of its hypotheses L beta = 0; (0, p) where it adds nothing to the others."""
    known = structure(design)
    tested = [term for term in known.terms if term.label != "1"]
    if not tested or not len(known.kept):
        return {term.label: np.zeros((0, len(known.kept))) for term in tested}
    if type != 1:
        return _whole(design, known, tested, type)
    R, before = design.rows.triangle(known.constant), int(known.constant)
    order = np.arange(len(R))
    return {
        term.label: estimable.triangle_rows(R, order, known.own(term) + before)[:, before:]
        for term in tested
    }


def _with_constant(known: Structure, X: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(X)), X]) if known.constant else X


def _whole(
    design: Design, known: Structure, tested: list[FixedTerm], type: int
) -> dict[str, np.ndarray]:
    """Hypotheses of types II and III, by the cells of all terms; a term whose columns were all dropped is not there."""
    factors, terms = (
        known.factors,
        [term for term in known.terms if len(known.own(term)) or term.label == "1"],
    )
    M = _map(design, known, terms)
    sizes = [
        int(np.prod([factors[name].width for name in term.factors], dtype=int)) for term in terms
    ]
    of = np.repeat(np.arange(len(terms)), sizes)
    cells = {term.label: of == i for i, term in enumerate(terms)}
    R = design.rows.triangle(known.constant) if type == 2 else None
    out = {term.label: np.zeros((0, len(known.kept))) for term in tested}
    for term in terms:
        if term.label == "1":
            continue
        own, containing = cells[term.label], np.zeros(len(of), dtype=bool)
        for other in terms:
            if known.contains(other, term):
                containing |= cells[other.label]
        preference = [
            int(i) for i in np.argsort(formula_factors.references(factors, term), kind="stable")
        ]
        if R is not None and containing.any():
            L = estimable.added(R, M, ~(own | containing), own, preference)
        else:
            L = estimable.estimable(M, own, containing, preference)
        out[term.label] = L[:, int(known.constant) :]
    return out


def _map(design: Design, known: Structure, terms: list[FixedTerm]) -> np.ndarray:
    """M with U = X M, U the cells of ``terms``, a constant that is no column of X first.

    From invented rows, or from the data's where columns were dropped.
    """
    factors = known.factors
    if not design.dropped:
        written = [term for term in known.terms if len(term.columns)]
        rng, count = np.random.default_rng(0), 64 + 8 * (len(known.kept) + 1)
        while True:
            rows = formula_factors.invented_rows(factors, count, rng)
            X = _with_constant(
                known, formula_factors.coded_columns(factors, written, rows, count)[:, known.kept]
            )
            if np.linalg.matrix_rank(X) == X.shape[1] or count > 100_000:
                break
            count *= 4
    else:
        rows, chosen = _observed(design, known)
        count = len(chosen)
        X = _with_constant(known, design.X[chosen])
    U = np.concatenate(
        [formula_factors.cell_columns(factors, term, rows, count) for term in terms], axis=1
    )
    return estimable.parameter_map(X, U)


def _observed(design: Design, known: Structure) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Some rows of the fit, every combination of levels among them, with the factors there."""
    if design.frame.arrays:
        names = ", ".join(design.frame.arrays)
        raise ArgumentError(
            f"anova() of a rank-deficient model looks at the data again, where {names} is no column; put it into the data."
        )
    rows = formula_factors.observed_rows(design.frame, known.factors, positions(design))
    order = np.random.default_rng(0).permutation(design.n)
    classes = [rows[name][order] for name, f in known.factors.items() if f.levels is not None]
    cell = (
        np.unique(np.stack(classes), axis=1, return_inverse=True)[1].ravel()
        if classes
        else np.zeros(design.n, dtype=int)
    )
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
    lost = []
    for label, L in hypotheses(design, type).items():
        if unbounded(design, estimate, L):
            lost.append(label)
        test = ddf.f(L, L @ estimate.beta)
        if chi_square:
            rows[label] = (test.f * test.num_df, test.num_df, test.p)
        else:
            mean = test.f / test.scale * estimate.sigma**2
            rows[label] = (mean * test.num_df, mean, test.num_df, test.den_df, test.f, test.p)
    if lost:
        warn(
            f"anova: the data do not bound coefficients of {', '.join(lost)}, and Wald's tests mean nothing there; drop1() has likelihood "
            "ratio tests.",
            ComparisonWarning,
        )
    columns = (
        ["chisq", "df", "p_value"]
        if chi_square
        else ["sum_sq", "mean_sq", "num_df", "den_df", "f_value", "p_value"]
    )
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table = table.astype({"df" if chi_square else "num_df": int})
    how = "Wald's chi-square tests" if ddf.method is None else TITLES[ddf.method]
    table.attrs["heading"] = f"Type {NUMERALS[type]} analysis of variance with {how}"
    return table
