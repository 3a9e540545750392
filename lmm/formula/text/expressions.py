"""An expression in R's or Python's spelling -> Python, with the meaning that R gives to its operators.

Two steps. :func:`python` settles what binds to what, and gives the text by which columns are named: ``x > 3 & !flag`` is
``(x > 3) & ~flag``. :func:`as_executable` is what runs: conditions are combined element by element, membership and
equality compare labels where one side is text. A formula, ``subset=``, ``weights=`` and ``offset=`` all read alike.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import DataError, FormulaError
from lmm.formula.columns.levels import strings
from lmm.formula.text.tokens import Token, operator_word, outside, scan

_WORDS = {"&": " and ", "|": " or ", "||": " or ", "!": " not ", "^": "**"}
_SPECIAL = {"%in%": " in ", "%%": " % ", "%/%": " // "}


@lru_cache(maxsize=1024)
def python(text: str) -> str:
    """An expression as Python prints it, operators bound as in R.

    Raises
    ------
    FormulaError : for a text that is no expression, with the place.

    Examples
    --------
    >>> python("x > 0 & !(g %in% c('a', 'b'))")
    "(x > 0) & ~(g in c('a', 'b'))"
    >>> python("2 * x %% 3 ^ 2")
    '2 * (x % 3 ** 2)'
    """
    tokens = scan(text)
    if not tokens:
        raise FormulaError("an expression is empty.")
    before, instead, after = _rewritten(text, tokens)
    pieces, at = [], 0
    for i, token in enumerate(tokens):
        pieces += [text[at : token.start], before[i], instead[i], after[i]]
        at = token.stop
    source = "".join([*pieces, text[at:]]).replace("\n", " ").strip()
    try:
        tree = ast.parse(source, mode="eval")
        if isinstance(tree.body, ast.Tuple) and source[0] != "(":
            comma = next((token.start for token in outside(tokens) if token.text == ","), 0)
            raise FormulaError("a comma has no meaning here.", text, (comma, comma + 1))
        return ast.unparse(ast.fix_missing_locations(_Normal().visit(tree))).replace("\n", " ")
    except SyntaxError as error:
        reason = error.msg.partition(".")[0].strip("?")
        raise FormulaError(
            f"cannot read the expression: {reason}.", text, _place(text, source, error)
        ) from None
    except (RecursionError, MemoryError, ValueError):
        raise FormulaError(
            "an expression is nested too deeply; compute it as a column first."
        ) from None


def _place(text: str, source: str, error: SyntaxError) -> tuple[int, int]:
    """Where in the user's text Python stopped: exact as long as nothing before it was rewritten."""
    at = max(0, (error.offset or 1) - 1)
    if text[:at] == source[:at] and at < len(text):
        return at, at + 1
    return 0, len(text)


def _rewritten(text: str, tokens: Sequence[Token]) -> tuple[list[str], list[str], list[str]]:
    """Per token what to put before it, in its place and after it."""
    count = len(tokens)
    before, instead, after = [""] * count, [token.text for token in tokens], [""] * count
    part_of_chain: set[int] = set()
    sequences = _colons(tokens)
    for i, token in enumerate(tokens):
        if token.kind == "op":
            doubled = (
                i > 0
                and tokens[i - 1].text == token.text == "&"
                and tokens[i - 1].stop == token.start
            )
            instead[i] = "" if doubled else _WORDS.get(token.text, token.text)
        elif (
            token.text == "L"
            and i
            and tokens[i - 1].kind == "number"
            and tokens[i - 1].stop == token.start
        ):
            instead[i] = ""  # R's 1L
    for i in range(count):
        if i in part_of_chain or not _begins_operand(tokens, i):
            continue
        place, first = i, True
        while True:
            start = place
            place = operand_end(tokens, start)
            while place < count and place in sequences:  # R's from:to
                before[start] = "seq(" + before[start]
                instead[place] = ", "
                place = operand_end(tokens, place + 1)
                after[place - 1] += ")"
            part_of_chain.update(_own_level(tokens, start, place))
            if not first:
                after[place - 1] += ")"
            if place >= count or not (
                tokens[place].kind == "op"
                and tokens[place].text.startswith("%")
                and tokens[place].text != "%"
            ):
                break
            if tokens[place].text not in _SPECIAL:
                span = (tokens[place].start, tokens[place].stop)
                raise FormulaError(
                    f"{tokens[place].text} is no operator here; there are {', '.join(_SPECIAL)}.",
                    text,
                    span,
                )
            before[i] = "(" + before[i]
            instead[place] = _SPECIAL[tokens[place].text]
            place, first = place + 1, False
    return before, instead, after


def _own_level(tokens: Sequence[Token], start: int, stop: int) -> list[int]:
    """Positions from ``start`` to before ``stop`` that are not inside of brackets that begin there."""
    out, i = [], start
    while i < stop:
        out.append(i)
        i = tokens[i].match if tokens[i].kind == "open" else i + 1
    return out


def _begins_operand(tokens: Sequence[Token], i: int) -> bool:
    token = tokens[i]
    if token.kind in ("close", "op") and token.text not in ("-", "+"):
        return False
    if operator_word(tokens, i) or (token.kind == "open" and token.call and token.text != "{"):
        return False
    return i == 0 or not ends_operand(tokens, i - 1)


def ends_operand(tokens: Sequence[Token], i: int) -> bool:
    """Whether something that an operator can follow ends with this token."""
    return tokens[i].kind not in ("op", "open") and not operator_word(tokens, i)


def operand_end(tokens: Sequence[Token], i: int) -> int:
    """The position after an operand that begins at ``i``: signs, a name, number or bracket with its calls, and powers."""
    while i < len(tokens):
        while i < len(tokens) and tokens[i].text in ("-", "+", "!", "~") and tokens[i].kind == "op":
            i += 1
        i = atom_end(tokens, i)
        if i >= len(tokens) or tokens[i].text not in ("^", "**"):
            return i
        i += 1
    return i


def atom_end(tokens: Sequence[Token], i: int) -> int:
    """The position after a name, number, string or bracket at ``i`` and what is called or looked up on it, ``f(x).y[0]``."""
    if i >= len(tokens):
        return i
    i = tokens[i].match + 1 if tokens[i].kind == "open" else i + 1
    while i < len(tokens):
        token = tokens[i]
        if token.kind == "open" and token.call and token.text != "{":
            i = token.match + 1
        elif (
            token.kind in ("name", "string")
            and token.start == tokens[i - 1].stop
            and tokens[i - 1].kind in ("close", "number", "name")
        ):
            i += 1  # .attribute, 1L, r"..."
        else:
            return i
    return i


def is_atom(text: str) -> bool:
    """Whether an expression is a name, a call or in brackets, so that nothing around it can bind a part of it."""
    tokens = scan(text)
    return bool(tokens) and atom_end(tokens, 0) == len(tokens)


def _colons(tokens: Sequence[Token]) -> frozenset[int]:
    """Positions of the colons that are R's ``from:to``: in round brackets or none, and not of a lambda."""
    found: list[int] = []
    open_brackets: list[str] = []
    lambdas = [0]
    for i, token in enumerate(tokens):
        if token.kind == "open":
            open_brackets.append(token.text)
            lambdas.append(0)
        elif token.kind == "close":
            open_brackets.pop()
            lambdas.pop()
        elif token.text == "lambda" and operator_word(tokens, i):
            lambdas[-1] += 1
        elif token.text == ":" and token.kind == "op":
            if lambdas[-1]:
                lambdas[-1] -= 1
            elif not open_brackets or open_brackets[-1] == "(":
                found.append(i)
    return frozenset(found)


class _Normal(ast.NodeTransformer):
    """``a and b`` -> ``a & b``, ``not a`` -> ``~a``, ``0 < x < 3`` -> ``(0 < x) & (x < 3)``: these print with every bracket they need."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return ast.UnaryOp(ast.Invert(), node.operand) if isinstance(node.op, ast.Not) else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        values = [self.visit(value) for value in node.values]
        operator: ast.operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        out = values[0]
        for value in values[1:]:
            out = ast.BinOp(out, operator, value)
        return out

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        steps: list[ast.expr] = [
            ast.Compare(a, [o], [b]) for o, (a, b) in zip(node.ops, pairwise(sides), strict=True)
        ]
        out = steps[0]
        for step in steps[1:]:
            out = ast.BinOp(out, ast.BitAnd(), step)
        return out


class _Executable(ast.NodeTransformer):
    """Logical operators, membership and equality as calls of the functions below."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.BitAnd):
            return _call("_operator_and", node.left, node.right)
        return (
            _call("_operator_or", node.left, node.right) if isinstance(node.op, ast.BitOr) else node
        )

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return (
            _call("_operator_not", node.operand)
            if isinstance(node.op, ast.Not | ast.Invert)
            else node
        )

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) > 1:
            return node
        operator, left, right = node.ops[0], node.left, node.comparators[0]
        if isinstance(operator, ast.In | ast.NotIn):
            found = _call("_operator_in", left, right)
            return found if isinstance(operator, ast.In) else _call("_operator_not", found)
        if isinstance(operator, ast.Eq | ast.NotEq):
            found = _call("_operator_equal", left, right)
            return found if isinstance(operator, ast.Eq) else _call("_operator_not", found)
        return node


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def as_executable(tree: ast.Expression) -> ast.Expression:
    """What Python reads of :func:`python`'s text, ready to be evaluated with :data:`OPERATORS` in scope."""
    done: ast.Expression = ast.fix_missing_locations(_Executable().visit(tree))
    return done


def _condition(values: object, sign: str) -> Any:
    """One side of ``&``, ``|`` or ``!``: true or false, or numbers that are 0 or 1."""
    array = values if isinstance(values, pd.Series | np.ndarray) else np.asarray(values)
    if pd.api.types.is_bool_dtype(array.dtype):
        return values
    if pd.api.types.is_numeric_dtype(array.dtype) or array.dtype == object:
        if set(pd.Series(np.ravel(array)).dropna().unique()) <= {0, 1}:
            missing = pd.isna(array)
            if np.any(missing):
                return pd.Series(array).astype("boolean")
            return array.astype(bool)
    message = f"{sign} joins conditions, which are true or false, but one side of it is neither; compare it first, as in x > 0."
    if sign == "|":
        message += " A random term, (1 | g), stands between '+' signs, outside of other brackets."
    raise DataError(message)


def _equal(a: object, b: object) -> object:
    """``a == b``, numbers and text compared by their labels as in R, where ``1 == "1"`` is true."""
    if _is_text(a) != _is_text(b):
        a, b = _labels(a), _labels(b)
    elif isinstance(getattr(a, "dtype", None), pd.CategoricalDtype) and isinstance(
        getattr(b, "dtype", None), pd.CategoricalDtype
    ):
        a, b = _labels(a), _labels(b)
    return a == b


def _in(values: Any, table: Any) -> object:
    """Membership, element by element; missing values are members of nothing."""
    if isinstance(table, str) or not np.ndim(table):
        table = [table]
    table = table if isinstance(table, pd.Series | np.ndarray | pd.Index) else list(table)
    if _is_text(values) != _is_text(table):
        values, table = _labels(values), list(_labels(table))
    if not np.ndim(values):
        return values in set(table)
    series = values if isinstance(values, pd.Series) else pd.Series(values)
    return series.isin(list(table))


def _is_text(values: object) -> bool:
    """Whether these are labels: text, or a category of text."""
    if isinstance(values, str):
        return True
    dtype = getattr(values, "dtype", None)
    if dtype is None:
        return isinstance(values, list | tuple | set) and any(
            isinstance(value, str) for value in values
        )
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
    return not (
        pd.api.types.is_numeric_dtype(dtype)
        or getattr(dtype, "kind", "O") in "mM"
        or isinstance(dtype, pd.DatetimeTZDtype)
    )


def _labels(values: Any) -> str | pd.Series:
    """The labels of values as text, in their place; of a number as R writes it, ``1`` for 1.0."""
    if isinstance(values, str):
        return values
    if not np.ndim(values):
        return str(strings(pd.Index([values]))[0])
    series = values if isinstance(values, pd.Series) else pd.Series(list(values))
    codes, uniques = pd.factorize(series)
    names: object = [
        *strings(pd.Index(uniques)),
        None,
    ]  # code -1, a missing value, reads the last place
    return pd.Series(np.array(names, dtype=object)[codes], index=series.index)


#: what executable expressions call
OPERATORS: dict[str, object] = {
    "_operator_and": lambda a, b: _condition(a, "&") & _condition(b, "&"),
    "_operator_or": lambda a, b: _condition(a, "|") | _condition(b, "|"),
    "_operator_not": lambda a: ~_condition(a, "!") if np.ndim(a) else not _condition(a, "!"),
    "_operator_equal": _equal,
    "_operator_in": _in,
}
