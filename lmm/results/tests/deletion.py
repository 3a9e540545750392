"""Single-term deletions: what the fit loses when one fixed or one random term is left out.

Marginality is respected on both sides of a bar: a term goes only when no other contains it. A random slope goes before its
intercept; ``(1 | g)`` and the terms of ``(x || g)``, which are independent, go whole. The intercept beside a factor's independent
columns is no term of its own: the factor would take its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.formula import Formula
from lmm.formula.text.formula_terms import (
    FormulaTerm,
    droppable,
    fixed_terms,
    joined,
    terms,
    with_bars,
    without_fixed,
)
from lmm.formula.text.parse import Bar
from lmm.formula.text.tokens import scan
from lmm.inference.refits.without_effects import objective_without_effects
from lmm.inference.tests.estimable import restriction
from lmm.inference.tests.likelihood_ratio import boundary_p, chi_squared_p
from lmm.results.tests.neighbours import (
    by_maximum_likelihood,
    check_likelihood,
    design_of,
    with_formula,
)

if TYPE_CHECKING:
    from lmm.results.fit import Fit

NONE = "<none>"
TESTS = ("chisq", "f")


@dataclass(frozen=True, eq=False)
class Deletion:
    """A model with one term less.

    Attributes
    ----------
    label : the row of the table, ``"Days in (Days | Subject)"``.
    formula : the model without it; without any random term it is an ordinary (generalized) linear model.
    llf, npar : its log-likelihood (or -1/2 the REML criterion) and number of parameters.
    fit : None where it has no random terms left.
    """

    label: str
    formula: Formula
    llf: float
    npar: int
    fit: Fit | None


def check_test(test: str, fit: Fit) -> str:
    """ "chisq" or "f"."""
    if test.lower() not in TESTS:
        arguments.choice(test, "drop1: test", TESTS)
    if test.lower() == "f":
        fit.estimate.distribution.require_linear(
            "drop1: F tests are those of linear models; a generalized one has test='chisq'."
        )
    return test.lower()


# ---- fixed terms ----


def drop_fixed(fit: Fit, context: Mapping[str, object]) -> list[Deletion]:
    """The fit by maximum likelihood without each of its terms in turn; the fit itself comes first."""
    check_likelihood(fit, "drop1")
    whole = by_maximum_likelihood(fit)
    out = [Deletion(NONE, whole.design.formula, whole.llf, whole.df_model, whole)]
    for term, formula in _without_each(fit):
        less = with_formula(whole, formula, context)
        out.append(Deletion(term.label, formula, less.llf, less.df_model, less))
    return out


def likelihood_ratios(found: list[Deletion]) -> pd.DataFrame:
    """``npar`` (of the term), ``aic``, ``lrt``, ``p_value`` per deletion; the first is the whole model."""
    df, lrt = _ratios(found)
    columns = {
        "npar": [np.nan, *df],
        "aic": [2.0 * (d.npar - d.llf) for d in found],
        "lrt": [np.nan, *lrt],
        "p_value": [np.nan, *map(chi_squared_p, lrt, df)],
    }
    return pd.DataFrame(columns, index=pd.Index([d.label for d in found]))


def _ratios(found: list[Deletion]) -> tuple[list[int], list[float]]:
    """Parameters fewer than in the whole model, and likelihood ratio statistics, of each smaller model."""
    whole, *less = found
    df = [whole.npar - d.npar for d in less]
    gain = [max(0.0, 2.0 * (whole.llf - d.llf)) for d in less]
    return df, [x if q else 0.0 for x, q in zip(gain, df, strict=True)]


def marginal_tests(
    fit: Fit, context: Mapping[str, object], ddf: str | None
) -> tuple[pd.DataFrame, dict[str, Formula]]:
    """F tests of each term that may be left out, nothing refitted, and the formula without it."""
    known = fit._ddf(ddf)
    formulas, rows = {}, []
    for term, formula in _without_each(fit):
        L = restriction(fit.design.X, design_of(fit, formula, context).X)
        test = known.f(L, L @ fit.estimate.beta)
        mean = test.f * fit.sigma**2
        formulas[term.label] = formula
        rows.append((mean * test.num_df, mean, test.num_df, test.den_df, test.f, test.p))
    columns = ["sum_sq", "mean_sq", "num_df", "den_df", "f_value", "p_value"]
    table = pd.DataFrame(rows, index=pd.Index(list(formulas), dtype=object), columns=columns)
    return table.astype({name: int if name == "num_df" else float for name in columns}), formulas


def _without_each(fit: Fit) -> list[tuple[FormulaTerm, Formula]]:
    formula, awkward = fit.design.frame.formula, fit.design.frame.awkward
    return [
        (term, without_fixed(formula, term, awkward))
        for term in droppable(fixed_terms(formula, awkward))
    ]


# ---- random terms ----


def drop_random(
    fit: Fit, context: Mapping[str, object], reduce_terms: bool = True
) -> list[Deletion]:
    """The fit without each of its random terms in turn, on its own criterion; the fit itself comes first."""
    check_likelihood(fit, "ranova")
    out = [Deletion(NONE, fit.design.formula, fit.llf, fit.df_model, fit)]
    for label, bars in _reduced(fit, reduce_terms):
        formula = with_bars(fit.design.frame.formula, bars)
        if bars or fit.design.residual:
            less = with_formula(fit, formula, context)
            if _is_part(less, fit):
                out.append(Deletion(label, formula, less.llf, less.df_model, less))
        else:
            objective = objective_without_effects(fit.problem, fit._method, fit.estimate)
            out.append(
                Deletion(
                    label, formula, -objective / 2.0, fit.df_model - len(fit.estimate.theta), None
                )
            )
    return out


def _is_part(less: Fit, fit: Fit) -> bool:
    """Whether the random effects of one are among those of the other: not where a factor's columns took the intercept's place."""
    columns = {term.group: set(term.columns) for term in fit.design.terms}
    return less.df_model < fit.df_model and all(
        set(term.columns) <= columns[term.group] or term.columns == ("Intercept",)
        for term in less.design.terms
    )


def boundary_tests(found: list[Deletion]) -> pd.DataFrame:
    """``npar, llf, aic, lrt, df, p_value, p_mixture`` per deletion; the first is the whole model."""
    df, lrt = _ratios(found)
    columns = {
        "npar": [d.npar for d in found],
        "llf": [d.llf for d in found],
        "aic": [2.0 * (d.npar - d.llf) for d in found],
        "lrt": [np.nan, *lrt],
        "df": [np.nan, *df],
        "p_value": [np.nan, *map(chi_squared_p, lrt, df)],
        "p_mixture": [np.nan, *map(boundary_p, lrt, df)],
    }
    return pd.DataFrame(columns, index=pd.Index([d.label for d in found]))


def _reduced(fit: Fit, reduce_terms: bool) -> list[tuple[str, list[Bar]]]:
    """Per deletion its label and the random terms that are left."""
    formula, awkward = fit.design.frame.formula, fit.design.frame.awkward
    out = []
    for i, bar in enumerate(formula.bars):
        before, after = list(formula.bars[:i]), list(formula.bars[i + 1 :])
        if not reduce_terms:
            out.append((_text(bar), [*before, *after]))
            continue
        if bar.structure not in ("us", "diag"):  # its columns belong together
            out.append((str(bar), [*before, *after]))
            continue
        found = terms(bar.columns, formula.text, awkward)
        if bar.structure == "diag":
            steps = _independent(bar, found)
        else:
            others = any(
                _has_intercept(other, formula, awkward)
                for other in [*before, *after]
                if other.factors == bar.factors
            )
            steps = _correlated(
                bar, found, intercept_elsewhere=others, categorical=_spans_intercept(fit, bar)
            )
        out += [
            (label, [*before, *([] if less is None else [less]), *after]) for label, less in steps
        ]
    return out


def _correlated(
    bar: Bar, found: list[FormulaTerm], intercept_elsewhere: bool, categorical: bool
) -> list[tuple[str, Bar | None]]:
    """Slopes go one at a time, those that no interaction contains; an intercept alone goes whole."""
    slopes = droppable(found)
    if not slopes:
        return [(_text(bar), None)]
    out: list[tuple[str, Bar | None]] = []
    for term in slopes:
        rest = [other for other in found if other.label != term.label]
        if rest:
            left = joined(rest)
        else:  # a factor without an intercept leaves the mean of its levels
            left = "1" if categorical and not intercept_elsewhere else ""
        out.append((f"{term.label} in {_text(bar)}", replace(bar, columns=left) if left else None))
    return out


def _independent(bar: Bar, found: list[FormulaTerm]) -> list[tuple[str, Bar | None]]:
    """Each term of ``(x || g)`` by itself, as if written ``(1 | g) + (0 + x | g)``."""
    free = droppable(found)
    out: list[tuple[str, Bar | None]] = []
    for term in found:
        if term.factors and term not in free:
            continue
        rest = [other for other in found if other.label != term.label]
        single = all(not other.factors for other in rest)
        less = (
            replace(bar, columns=joined(rest), structure="us" if single else bar.structure)
            if rest
            else None
        )
        alone = f"(0 + {term.label} | {bar.group})"
        out.append((f"{term.label} in {alone}" if term.factors else f"(1 | {bar.group})", less))
    return out


def _text(bar: Bar) -> str:
    """``(0 + Days | Subject)``, however it was spaced."""
    columns, depth = "", 0
    for token, after in pairwise((*scan(bar.columns), None)):
        assert token is not None
        depth += (token.kind == "open") - (token.kind == "close")
        apart = (depth == 0 and token.text in ("+", "-", "*", "/")) or token.text == ","
        columns += (
            f" {token.text} " if apart and token.text != "," else ", " if apart else token.text
        )
        if after is not None and token.kind == "name" and after.kind in ("name", "string"):
            columns += " "
    return f"({columns.strip()} | {bar.group})"


def _has_intercept(bar: Bar, formula: Formula, awkward: frozenset[str]) -> bool:
    return any(not term.factors for term in terms(bar.columns, formula.text, awkward))


def _spans_intercept(fit: Fit, bar: Bar) -> bool:
    """Whether the columns of a bar without an intercept add up to one in every row."""
    spec = fit.design.frame.specs.get(bar.columns)
    if spec is None:
        return True
    group = next(term for term in fit.design.terms if term.group == bar.group)
    names = [str(name) for row in spec.structure for name in row.columns]
    own = [j for j, name in enumerate(group.columns) if name in names]
    return fit.design.rows.add_up_to_one(group, own)
