"""Terms of a right-hand side, those that may be left out, and the same formula without one of them.

A term may be left out when no other term contains all of its factors, so that a main effect stays as long as one of its
interactions does (marginality; Nelder, 1977, J. R. Stat. Soc. A 140).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from lmm.formula.text.names import awkward_names, readable
from lmm.formula.text.parse import Bar, Formula
from lmm.formula.text.wilkinson import right_side


@dataclass(frozen=True)
class FormulaTerm:
    """One term of a right-hand side.

    Attributes
    ----------
    label : as printed, ``"recipe:temp"``; ``"1"`` for the intercept.
    text : the same as a formula takes it, odd names in backticks.
    factors : the factors whose product it is; none for the intercept.
    """

    label: str
    text: str
    factors: frozenset[str]


def terms(text: str, whole: str, awkward: Collection[str] = ()) -> list[FormulaTerm]:
    """Terms of a right-hand side in the order of their columns; ``whole`` is the formula that errors repeat."""
    side = right_side(text, whole, frozenset(awkward))
    out = [FormulaTerm("1", "1", frozenset())] if side.intercept else []
    for positions in side.terms:
        factors = [side.factors[i] for i in positions]
        label = readable(":".join(factor.code for factor in factors), awkward)
        out.append(
            FormulaTerm(
                label,
                ":".join(factor.source for factor in factors),
                frozenset(factor.code for factor in factors),
            )
        )
    return out


def droppable(found: Sequence[FormulaTerm]) -> list[FormulaTerm]:
    """The terms that no other term contains; never the intercept."""
    return [
        term
        for term in found
        if term.factors and not any(term.factors < other.factors for other in found)
    ]


def joined(found: Sequence[FormulaTerm]) -> str:
    """A right-hand side of just these terms."""
    texts = [term.text for term in found if term.factors]
    has_intercept = any(not term.factors for term in found)
    return (
        " + ".join(["1" if has_intercept else "0", *texts]) if texts or not has_intercept else "1"
    )


def simplified(text: str, whole: str) -> str:
    """A right-hand side with its terms written out: ``x + z - x`` is ``z``; the intercept is named only where there is none."""
    found = terms(text, whole, awkward_names(text))
    out = joined(found)
    return out.removeprefix("1 + ")


def fixed_terms(formula: Formula, awkward: Collection[str] = ()) -> list[FormulaTerm]:
    """Terms of the fixed part."""
    return terms(formula.fixed, formula.text, awkward)


def without_fixed(formula: Formula, term: FormulaTerm, awkward: Collection[str] = ()) -> Formula:
    """The formula with one term of its fixed part less."""
    fixed = joined([other for other in fixed_terms(formula, awkward) if other.label != term.label])
    return _rewritten(replace(formula, fixed=fixed))


def with_bars(formula: Formula, bars: Sequence[Bar]) -> Formula:
    """The formula with other random terms."""
    return _rewritten(replace(formula, bars=tuple(bars)))


def _rewritten(formula: Formula) -> Formula:
    """With a text that says the same, for errors and for an explicit intercept."""
    return replace(formula, text=str(replace(formula, text="1")))
