"""One-sided formulas of further linear predictors: ``dispformula="~ x"``, ``ziformula="~ x + (1|g)"``."""

from __future__ import annotations

from dataclasses import replace

from lmm.errors import FormulaError
from lmm.formula.text.parse import Formula, parse

#: the predictors by the arguments that give their formulas
COMPONENTS = {"ziformula": "zi", "dispformula": "disp"}


def parse_predictor(text: object, argument: str) -> Formula:
    """Read the one-sided formula of a linear predictor.

    Parameters
    ----------
    text : ``"~ x + (1|g)"``.
    argument : the argument that it was given as, for errors.

    Raises
    ------
    FormulaError : with the text and a caret under the part that cannot be read.

    Examples
    --------
    >>> from lmm.formula.text.predictor_formula import parse_predictor
    >>> parse_predictor("~ Days + offset(z)", "dispformula").fixed
    'Days'
    """
    wanted = f"{argument}= is a one-sided formula such as '~ x'"
    if not isinstance(text, str):
        raise FormulaError(f"{wanted}, not {type(text).__name__}.")
    if "~" not in text:
        raise FormulaError(f"{wanted}; it begins with '~'.", text)
    if text.partition("~")[0].strip():
        raise FormulaError(f"{wanted}, without a response.", text, (0, text.index("~") + 1))
    found = parse(text, one_sided=True)
    if found.has_dot:
        at = found.text.index(".", found.text.index("~"))
        raise FormulaError(
            f"{argument}= names its columns; '.' stands for none.", text, (at, at + 1)
        )
    return found


def with_component(formula: Formula, name: str, component: Formula) -> Formula:
    """The formula with one more linear predictor."""
    return replace(formula, components=(*formula.components, (name, component)))


def with_predictor(formula: str | Formula, argument: str, text: object) -> Formula:
    """The formula with another one for the predictor of an argument; ``"~ 0"`` and None take it away."""
    parsed = formula if isinstance(formula, Formula) else parse(formula)
    components = dict(parsed.components)
    components.pop(COMPONENTS[argument], None)
    found = None if text is None else parse_predictor(text, argument)
    if found is not None and (found.fixed != "0" or found.bars or found.offsets):
        components[COMPONENTS[argument]] = found
    return replace(parsed, components=tuple(components.items()))
