"""The same model again with something changed: another response, another formula, other arguments."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from lmm.design.records import Design
from lmm.errors import ArgumentError, FormulaError
from lmm.estimators import registry
from lmm.estimators.start import all_parameters
from lmm.formula import Formula, parse
from lmm.formula.scan import Token, scan
from lmm.formula.subset import Chosen
from lmm.linalg import threads
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Estimate
from lmm.results.notes import warned


def repeat_call(design: Design, formula: str | Formula | None, changes: dict[str, Any], context: Mapping[str, Any]) -> Any:
    """Repeat the call that made ``design`` with a changed formula or arguments.

    ``design.extra["call"]`` holds the keyword arguments of the call and, under ``"run"``, what carries
    it out: ``run(formula, data, context, **arguments)``.
    """
    call: dict[str, Any] = dict(design.extra.get("call", {}))
    run = call.pop("run", None)
    if run is None:
        raise ArgumentError("update: this fit was not made by lmer() or glmer(), so there is no call to repeat; fit the new model.")
    if formula is None:
        new: str | Formula = design.formula  # as it was read: a text would not say that b:a came from a/b
    else:
        new = formula if isinstance(formula, Formula) else update_formula(design.formula, formula)
    if "method" not in changes and _overrides(call.get("method"), changes):
        call["method"] = None
    if "method" in changes and "control" not in changes and not isinstance(changes["method"], str | None):
        call["control"] = None  # an estimator brings its own
    if formula is not None or "data" in changes:
        call["start"] = None  # theta belongs to the old terms
    if design.streamed and "data" not in changes:
        changes = {"data": design.extra["origin"].again(), **changes}
    kept = dict(design.frame.context)
    chosen = call.get("subset")
    if isinstance(chosen, Chosen):
        call["subset"] = chosen.function if "data" in changes and not design.streamed else chosen.rows
    if "data" not in changes:
        changes = {"data": design.frame.data, **changes}
    elif not design.streamed:
        _refuse_old_rows(call, chosen, changes)
        for name in design.frame.arrays:
            _refuse_old_array(name, kept.pop(name), context)
    arguments = {**call, **changes}
    return run(new, arguments.pop("data"), ChainMap(kept, context), **arguments)  # type: ignore[arg-type]


def _refuse_old_rows(call: Mapping[str, Any], chosen: Any, changes: Mapping[str, Any]) -> None:
    """ArgumentError for what was given row by row for other data than the new."""
    if isinstance(chosen, Chosen) and chosen.function is None and "subset" not in changes:
        raise ArgumentError("update: subset= was a function, which did not travel with the pickled fit; give subset= too.")
    for name in ("weights", "offset", "subset"):
        value = call.get(name)
        if name not in changes and value is not None and not isinstance(value, str) and not callable(value) and np.ndim(value):
            raise ArgumentError(
                f"update: {name}= was given as an array, a value for each row of the old data; give {name}= for the new data too, or "
                f"make it a column and give its name."
            )


def _refuse_old_array(name: str, old: Any, context: Mapping[str, Any]) -> None:
    """ArgumentError where an array of the caller's that the formula uses is still that of the old data."""
    now = context.get(name)
    if now is not None and np.shape(now) == np.shape(old) and np.array_equal(np.asarray(now, dtype=object), np.asarray(old, dtype=object)):
        raise ArgumentError(f"update: {name!r} in the formula is an array with a value for each row of the old data; make it a column.")


def _overrides(method: Any, changes: dict[str, Any]) -> bool:
    """Whether ``REML=`` or ``nAGQ=`` asks for maximum likelihood in place of the method of the call.

    A method with such a setting of its own keeps its name and takes the setting.
    """
    setting = next((setting for argument, setting in (("REML", "reml"), ("nAGQ", "nagq")) if argument in changes), None)
    if setting is None or not isinstance(method, str):
        return setting is not None
    kind = registry.METHODS[method.lower()]
    return setting in kind.settings or setting not in {field.name for field in fields(registry.load(method.lower()))}


def refitted(
    design: Design, problem: Problem | GeneralizedProblem, estimator: Any, estimate: Estimate, y: Any, start: Any
) -> dict[str, Any]:
    """Design, problem and estimate for the response ``y``; a fit that was evaluated only is evaluated at the same parameters."""
    new_design = _with_response(design, estimate.family, y)
    new_problem = problem.with_response(new_design)
    control = getattr(estimator, "control", None)
    if start is None and control is not None and control.evaluate_only:
        start = all_parameters(estimate)
    with threads.limited():
        new = estimator.fit(new_problem, start)
    return {"design": new_design, "problem": new_problem, "estimate": warned(new_design, new)}


def _with_response(design: Design, family: Any, y: Any) -> Design:
    """The design with another response, checked and turned into numbers as the family does; the trials stay as they are."""
    if family is None:
        return design.with_response(y)
    values, trials = family.response(design.aligned(y), design.response)
    if trials is not None and not np.array_equal(trials, np.ones(design.n) if design.weights is None else design.weights):
        raise ArgumentError("refit: the new response has other numbers of trials; fit it anew with update(data=...).")
    family.check(values, design.weights, design.response)
    return replace(design, y=values)


def update_formula(old: Formula, change: str) -> str:
    """A formula in which ``.`` stands for the old one's part on that side, as in R's ``update``.

    ``". ~ . + x"`` adds a predictor, ``". ~ . - x"`` takes one away, ``". ~ . - (1|g)"`` drops a random
    term, ``". ~ . * z"`` crosses the fixed part with z, ``"log(y) ~ ."`` changes the response.

    Examples
    --------
    >>> from lmm.formula import parse
    >>> update_formula(parse("y ~ x + (1|g)"), ". ~ . + z")
    'y ~ x + z + (1 | g)'
    """
    if not isinstance(change, str):
        raise FormulaError(f"update: a formula is a string such as '. ~ . + x', not {type(change).__name__}.")
    tokens = scan(change)
    tildes = [token for token in tokens if token.text == "~"]
    if len(tildes) != 1:
        raise FormulaError("update: the formula must have one '~', as in '. ~ . + x'.", change)
    left = change[: tildes[0].start].strip()
    right = [token for token in tokens if token.start >= tildes[0].stop]
    fixed, bars, offsets = "", [], []
    for sign, piece in _summands(right):
        text = change[piece[0].start : piece[-1].stop]
        if any(token.text in ("|", "||") for token in piece):
            if sign == "+":
                bars.append(text)
            else:
                _remove(bars, text, change, (piece[0].start, piece[-1].stop))
            continue
        if any(_is_dot(token) for token in piece):
            bars += [str(bar) for bar in old.bars]
            offsets += [f"offset({offset})" for offset in old.offsets]
            text = old.fixed if len(piece) == 1 else _substitute(change, piece, f"({old.fixed})")
        fixed = f"{fixed} {sign} {text}" if fixed else text if sign == "+" else f"- {text}"
    if bars and fixed == "1":
        fixed = ""
    parts = [part for part in (fixed, *bars, *offsets) if part]
    return f"{left if left not in ('', '.') else old.response} ~ {' + '.join(parts) or '1'}"


def _is_dot(token: Token) -> bool:
    return token.kind == "op" and token.text == "."


def _summands(tokens: list[Token]) -> list[tuple[str, list[Token]]]:
    """Signed pieces between the plus and minus signs that stand outside every bracket."""
    out: list[tuple[str, list[Token]]] = []
    piece: list[Token] = []
    sign, depth = "+", 0
    for token in tokens:
        if depth == 0 and token.kind == "op" and token.text in "+-":
            if piece:
                out.append((sign, piece))
            sign, piece = token.text, []
            continue
        depth += (token.kind == "open") - (token.kind == "close")
        piece.append(token)
    return [*out, (sign, piece)] if piece else out


def _substitute(source: str, piece: list[Token], text: str) -> str:
    """The piece's own text with every dot replaced."""
    out, at = "", piece[0].start
    for token in piece:
        if _is_dot(token):
            out += source[at : token.start] + text
            at = token.stop
    return out + source[at : piece[-1].stop]


def _terms(text: str) -> list[tuple[frozenset[str], frozenset[str], str]]:
    """Random terms in a form that can be compared: columns without the implicit intercept, factors, structure."""
    out = []
    for bar in parse(f"~ {text}", one_sided=True).bars:
        columns = frozenset("".join(column.split()) for column in bar.columns.split("+"))
        columns = columns - {"0"} if "0" in columns else columns | {"1"}
        out.append((columns, frozenset(bar.factors), bar.structure))
    return out


def _remove(bars: list[str], text: str, change: str, span: tuple[int, int]) -> None:
    """Take the random terms of ``text`` out of ``bars``."""
    for wanted in _terms(text):
        matches = [i for i, bar in enumerate(bars) if wanted in _terms(bar)]
        if not matches:
            raise FormulaError(f"update: there is no random term {text} to take away; there is {', '.join(bars) or 'none'}.", change, span)
        del bars[matches[0]]
