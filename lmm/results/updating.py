"""The same model again with something changed: another response, another formula, other arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError, FormulaError, nearest
from lmm.estimators import registry
from lmm.estimators.given_start import check_start
from lmm.families import Family
from lmm.formula import Formula, Given, parse
from lmm.formula.columns.subset import Chosen
from lmm.formula.text.expressions import is_atom, python
from lmm.formula.text.formula_terms import joined, simplified, terms
from lmm.formula.text.names import names_in
from lmm.formula.text.parse import Bar, cbind_arguments, one_line
from lmm.formula.text.predictor_formula import COMPONENTS, with_predictor
from lmm.formula.text.tokens import Token, outside, scan, spaced
from lmm.linalg import threads
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.results.text.notes import warned

if TYPE_CHECKING:
    from lmm.results.fit import Fit

#: arguments of a call that :class:`Given` holds
ROWWISE = [field.name for field in fields(Given) if field.name != "context"]


def repeat_call(
    design: Design,
    formula: str | Formula | None,
    changes: dict[str, object],
    context: Mapping[str, object],
) -> Fit:
    """Repeat the call that made ``design`` with a changed formula or arguments.

    Raises
    ------
    ArgumentError : for a fit that no call made, and for what does not fit the new data.
    """
    if design.call is None:
        raise ArgumentError(
            "update: this fit was not made by lmer() or glmer(), so there is no call to repeat; fit the new model."
        )
    run, call = design.call.run, design.arguments()
    _check_arguments(run, changes)
    if formula is None:
        new: str | Formula = (
            design.formula
        )  # as it was read: a text would not say that b:a came from a/b
    else:
        new = formula if isinstance(formula, Formula) else update_formula(design.formula, formula)
        new = replace(new, components=design.formula.components)
    for argument in [name for name in COMPONENTS if name in changes]:
        new = with_predictor(new, argument, changes.pop(argument))
    if "method" not in changes and _overrides(call.get("method"), changes):
        call["method"] = None
    if (
        "method" in changes
        and "control" not in changes
        and not isinstance(changes["method"], str | None)
    ):
        call["control"] = None  # an estimator brings its own
        call.pop("REML", None)
    if formula is not None or "data" in changes:
        call["start"] = None  # theta belongs to the old terms
    if isinstance(new, Formula):
        _refuse_nothing(new, {**call, **changes})
        call["contrasts"] = codings(call, new)
        call["covariance"] = covariances(call, new)
    kept = dict(design.frame.context)
    chosen = call.get("subset")
    if isinstance(chosen, Chosen):
        call["subset"] = chosen.function if "data" in changes else chosen.rows
    if "data" not in changes:
        changes = {"data": design.rows.again(), **changes}
    else:
        _refuse_old_rows(call, chosen, changes)
        for name in design.frame.arrays:
            _refuse_old_array(name, kept.pop(name), context)
    arguments = {**call, **changes}
    rows = {name: arguments.pop(name) for name in ROWWISE if name in arguments}
    return run(
        new, arguments.pop("data"), given=Given(**rows, context={**context, **kept}), **arguments
    )


def _refuse_nothing(formula: Formula, arguments: Mapping[str, object]) -> None:
    """ArgumentError where neither random terms nor a structure of the residuals would be left."""
    if formula.bars or formula.components or arguments.get("residual") is not None:
        return
    raise ArgumentError(
        f"update: {formula} without random terms, residual= and dispformula= is no mixed model any more, but a regression with independent "
        "errors. Add a random term, update('. ~ . + (1 | g)'), or give another structure, such as residual='diag(visit)'."
    )


def covariances(call: Mapping[str, object], formula: Formula) -> dict[str, object] | None:
    """``covariance=`` of a call for the grouping factors that a formula still has."""
    groups = {bar.group for bar in formula.bars}
    given = call.get("covariance")
    if not isinstance(given, Mapping):
        return None
    return {name: value for name, value in given.items() if name in groups} or None


def codings(call: Mapping[str, Any], formula: Formula) -> dict[str, object] | None:
    """``contrasts=`` of a call for the columns that are still predictors in a formula."""
    given = call.get("contrasts")
    if not given or formula.has_dot:
        return given
    used = {name for text in formula.predictors for name, _, _ in names_in(text)}
    return {name: value for name, value in given.items() if name in used} or None


def _refuse_old_rows(
    call: Mapping[str, object], chosen: object, changes: Mapping[str, object]
) -> None:
    """ArgumentError for what was given row by row for other data than the new."""
    if isinstance(chosen, Chosen) and chosen.function is None and "subset" not in changes:
        raise ArgumentError(
            "update: subset= was a function, which did not travel with the pickled fit; give subset= too."
        )
    for name in ("weights", "offset", "subset"):
        value = call.get(name)
        if (
            name not in changes
            and value is not None
            and not isinstance(value, str)
            and not callable(value)
            and np.ndim(np.asarray(value))
        ):
            raise ArgumentError(
                f"update: {name}= was given as an array, a value for each row of the old data; give {name}= for the new data too, or "
                f"make it a column and give its name."
            )


def _refuse_old_array(name: str, old: object, context: Mapping[str, object]) -> None:
    """ArgumentError where an array of the caller's that the formula uses is still that of the old data."""
    now = context.get(name)
    if now is not None and np.array_equal(
        np.asarray(now, dtype=object), np.asarray(old, dtype=object)
    ):
        raise ArgumentError(
            f"update: {name!r} in the formula is an array with a value for each row of the old data; make it a column."
        )


def _check_arguments(run: Callable[..., Fit], changes: Mapping[str, object]) -> None:
    """ArgumentError for a keyword that the call has not."""
    known = [name for name in inspect.signature(run).parameters if name != "formula"]
    place = known.index("given")
    known[place : place + 1] = [*ROWWISE, *COMPONENTS]
    for name in changes:
        if name not in known:
            cure = (
                " Fit a generalized model with glmer()."
                if name in ("family", "nAGQ")
                else nearest(name, known)
            )
            raise ArgumentError(
                f"update: {name!r} is no argument of this fit; it has {', '.join(known)}.{cure}"
            )


def _overrides(method: object, changes: dict[str, object]) -> bool:
    """Whether ``REML=`` or ``nAGQ=`` asks for maximum likelihood in place of the method of the call.

    A method with such a setting of its own keeps its name and takes the setting.
    """
    setting = next(
        (
            setting
            for argument, setting in (("REML", "reml"), ("nAGQ", "nagq"))
            if argument in changes
        ),
        None,
    )
    if setting is None or not isinstance(method, str):
        return setting is not None
    kind = registry.METHODS[method.lower()]
    return setting in kind.settings or setting not in {
        field.name for field in fields(registry.load(method.lower()))
    }


def refitted(
    fit: Fit, y: object, start: np.ndarray | None
) -> tuple[Design, Problem | GeneralizedProblem, Estimate]:
    """Design, problem and estimate for the response ``y``; a fit that was evaluated only is evaluated at the same parameters."""
    estimator, estimate = fit._method, fit.estimate
    design = _with_response(fit.design, estimate.family, y)
    problem = fit.problem.with_response(design)
    start = check_start(start, design, problem)
    if start is None and estimator.control is not None and estimator.control.evaluate_only:
        start = estimate.parameters
    with threads.limited():
        new = problem.named(estimator.fit(problem, start))
    return design, problem, warned(design, new)


def _with_response(design: Design, family: Family | None, y: object) -> Design:
    """The design with another response, checked and turned into numbers as the family does; the trials stay as they are."""
    if family is None:
        return design.with_response(y)
    values, trials = family.response(design.aligned(y), design.response)
    if trials is not None and not np.array_equal(
        trials, np.ones(design.n) if design.weights is None else design.weights
    ):
        raise ArgumentError(
            "refit: the new response has other numbers of trials; fit it anew with update(data=...)."
        )
    family.check(values, design.weights, design.response)
    return replace(design, y=values)


def update_formula(old: Formula, change: str) -> Formula:
    """A formula in which ``.`` stands for the old one's part on that side, as in R's ``update``.

    ``". ~ . + x"`` adds a predictor, ``". ~ . - x"`` takes one away, ``". ~ . - (1|g)"`` drops a random
    term, ``". ~ . * z"`` crosses the fixed part with z, ``"log(.) ~ ."`` changes the response. The terms of the
    result are written out, so that what was taken away is gone.

    Examples
    --------
    >>> from lmm.formula import parse
    >>> str(update_formula(parse("y ~ x + w + (1|g)"), ". ~ . - w + z"))
    'y ~ x + z + (1 | g)'
    """
    if not isinstance(change, str):
        raise FormulaError(
            f"update: a formula is a string such as '. ~ . + x', not {type(change).__name__}."
        )
    change = one_line(change)
    tokens = scan(change)
    tildes = [token for token in outside(tokens) if token.text == "~"]
    if len(tildes) != 1:
        raise FormulaError("update: the formula must have one '~', as in '. ~ . + x'.", change)
    response = (
        _substitute(
            change, [token for token in tokens if token.stop <= tildes[0].start], old.response
        )
        or old.response
    )
    pieces = _summands(
        change, [i for i, token in enumerate(tokens) if token.start >= tildes[0].stop], tokens
    )
    keeps = any(sign == "+" and any(_is_dot(token) for token in piece) for sign, piece in pieces)
    bars, offsets = list(old.bars) if keeps else [], list(old.offsets) if keeps else []
    fixed = ""
    for sign, piece in pieces:
        span = (piece[0].start, piece[-1].stop)
        text = change[span[0] : span[1]]
        random = any(token.text in ("|", "||") for token in piece) and not piece[0].text == "I"
        if random or piece[0].text == "offset":
            if any(_is_dot(token) for token in piece):
                raise FormulaError(
                    "update: '.' stands for the fixed part, and has no meaning here.", change, span
                )
            added = parse(f"~ {text}", one_sided=True)
            if added.fixed == "1":
                if sign == "+":
                    bars, offsets = [*bars, *added.bars], [*offsets, *added.offsets]
                else:
                    _remove(bars, added.bars, change, span)
                    _remove_offsets(offsets, added.offsets, change, span)
                continue
        text = _substitute(change, piece, old.fixed)
        fixed = f"{fixed} {sign} {text}" if fixed else text if sign == "+" else f"- {text}"
    fixed = simplified(fixed or "1", change)
    response = spaced(response)
    new = Formula("", response, fixed, tuple(bars), tuple(offsets), cbind_arguments(response))
    return replace(new, text=str(new))


def _is_dot(token: Token) -> bool:
    return token.kind == "op" and token.text == "."


def _summands(
    change: str, places: list[int], tokens: tuple[Token, ...]
) -> list[tuple[str, list[Token]]]:
    """Signed pieces between the plus and minus signs that stand outside every bracket."""
    out: list[tuple[str, list[Token]]] = []
    piece: list[Token] = []
    sign, depth = "+", 0
    for i in places:
        token = tokens[i]
        if depth == 0 and token.kind == "op" and token.text in ("+", "-"):
            if piece:
                out.append((sign, piece))
            elif i != places[0]:
                raise FormulaError(
                    "update: a term is missing before this sign.", change, (token.start, token.stop)
                )
            sign, piece = token.text, []
            continue
        depth += (token.kind == "open") - (token.kind == "close")
        piece.append(token)
    if not piece:
        last = tokens[-1]
        raise FormulaError("update: a term is missing after this.", change, (last.start, last.stop))
    return [*out, (sign, piece)]


def _substitute(source: str, piece: list[Token], text: str) -> str:
    """The piece's own text with every dot replaced, in brackets where it is not alone."""
    if not piece:
        return ""
    out, at = "", piece[0].start
    for i, token in enumerate(piece):
        if _is_dot(token):
            free = (i == 0 or piece[i - 1].text in "([,") and (
                i + 1 == len(piece) or piece[i + 1].text in ")],"
            )
            out += source[at : token.start] + (text if free or is_atom(text) else f"({text})")
            at = token.stop
    return out + source[at : piece[-1].stop]


def _remove(bars: list[Bar], unwanted: Sequence[Bar], change: str, span: tuple[int, int]) -> None:
    """Take random terms out of ``bars``: whole ones, or some of the independent effects of a double bar."""
    for bar in unwanted:
        own = _effects(bar)
        alike = [i for i, other in enumerate(bars) if _same_groups(bar, other)]
        whole = [i for i in alike if _effects(bars[i]) == own][:1]
        if whole and (bars[whole[0]].structure == bar.structure or len(own) == 1):
            del bars[whole[0]]
            continue
        among = [i for i in alike if bars[i].structure == "diag" and own <= _effects(bars[i])]
        if not among:
            have = ", ".join(map(str, bars)) or "none"
            raise FormulaError(
                f"update: there is no random term {bar} to take away; there is {have}.",
                change,
                span,
            )
        place = among[0]
        rest = [term for term in terms(bars[place].columns, change) if term.label not in own]
        if rest:
            structure = "us" if len(rest) == 1 else "diag"
            bars[place] = replace(bars[place], columns=joined(rest), structure=structure)
        else:
            del bars[place]


def _same_groups(a: Bar, b: Bar) -> bool:
    return frozenset(a.factors) == frozenset(b.factors)


def _effects(bar: Bar) -> frozenset[str]:
    return frozenset(
        ":".join(sorted(term.factors)) or "1" for term in terms(bar.columns, bar.columns)
    )


def _remove_offsets(
    offsets: list[str], unwanted: Sequence[str], change: str, span: tuple[int, int]
) -> None:
    for text in unwanted:
        place = next((i for i, other in enumerate(offsets) if python(other) == python(text)), None)
        if place is None:
            have = ", ".join(f"offset({other})" for other in offsets) or "none"
            raise FormulaError(
                f"update: there is no offset({text}) to take away; there is {have}.", change, span
            )
        del offsets[place]
