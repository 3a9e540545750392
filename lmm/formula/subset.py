"""``subset=`` -> a mask of rows: a boolean array, a function of the DataFrame, or a condition as text.

In a condition ``&``, ``|`` and ``!`` bind as in R and in DataFrame.query, weaker than comparisons:
``"x > 0 & group != 'b'"``; ``and``, ``or``, ``not`` mean the same.
"""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError, DataError
from lmm.formula.engine import FUNCTIONS, Columns, Evaluator
from lmm.formula.given import aligned, labelled
from lmm.formula.names import alias, aliased, names_in, refuse_unknown, resolve
from lmm.formula.parse import awkward_names
from lmm.formula.rowwise import across
from lmm.formula.scan import python_expression, scan
from lmm.formula.table import Table, as_floats, given_column, plain

_WORDS = {"&": " and ", "|": " or ", "||": " or ", "!": " not "}


@dataclass(frozen=True)
class Chosen:
    """A function given as ``subset=``, and the rows (N,) that it chose of the data of the fit. It is pickled where it can be."""

    function: Callable[[pd.DataFrame], Any] | None
    rows: np.ndarray

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps(self.function)
        except Exception:  # whatever a function of the user's raises
            return {"function": None, "rows": self.rows}
        return {"function": self.function, "rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Elementwise(ast.NodeTransformer):
    """``a and b`` -> ``(a) & (b)``, ``not a`` -> ``~a``, ``0 < x < 3`` -> ``(0 < x) & (x < 3)``."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        values = [self.visit(value) for value in node.values]
        operator: ast.operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        out = values[0]
        for value in values[1:]:
            out = ast.BinOp(out, operator, value)
        return out

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return ast.UnaryOp(ast.Invert(), node.operand) if isinstance(node.op, ast.Not) else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        steps: list[ast.expr] = [ast.Compare(a, [o], [b]) for a, o, b in zip(sides, node.ops, sides[1:], strict=False)]
        out = steps[0]
        for step in steps[1:]:
            out = ast.BinOp(out, ast.BitAnd(), step)
        return out


def condition(text: str) -> str:
    """A condition in R's spelling as an element-wise Python expression.

    Examples
    --------
    >>> condition("x > 0 & !(g == 'b')")
    "(x > 0) & ~(g == 'b')"
    """
    out, at = [], 0
    tokens = scan(text)
    for i, token in enumerate(tokens):
        if token.kind == "op" and token.text in _WORDS:
            doubled = i > 0 and tokens[i - 1].text == token.text == "&" and tokens[i - 1].stop == token.start
            out += [text[at : token.start], "" if doubled else _WORDS[token.text]]
            at = token.stop
    try:
        tree = ast.parse("".join(out) + text[at:], mode="eval")
    except SyntaxError:
        return text  # evaluation says what is wrong
    return ast.unparse(_Elementwise().visit(tree))


def row_mask(subset: Any, table: Table, scope: Mapping[str, Any]) -> np.ndarray | None:
    """(N,) bool of the rows asked for, or None for all; a condition that is missing leaves the row out.

    Raises
    ------
    ArgumentError : not a mask over the rows. DataError : unknown column, or no row left.
    """
    if subset is None:
        return None
    if isinstance(subset, str):
        mask = condition_mask(subset, table, scope)
    else:
        mask = _mask(_called(subset, table.to_pandas()) if callable(subset) else subset, table.index)
    if not mask.any():
        raise DataError("subset leaves no rows.")
    return mask


def condition_mask(text: str, table: Table, scope: Mapping[str, Any]) -> np.ndarray:
    """(N,) bool, where a condition holds; it may hold nowhere. Errors as for :func:`row_mask`."""
    return _mask(_evaluate(text, table, scope), pd.RangeIndex(table.n))


def _called(function: Callable[[pd.DataFrame], Any], frame: pd.DataFrame) -> Any:
    """What a function of the user's makes of the data."""
    try:
        return function(frame.copy(deep=False))
    except Exception as error:  # whatever the user's own code raises
        raise ArgumentError(f"subset: the function fails on the data: {type(error).__name__}: {' '.join(str(error).split())}.") from error


def _mask(value: Any, index: pd.Index) -> np.ndarray:
    """A mask of the rows that have the labels ``index``."""
    value, n = aligned(value, index, "subset", ArgumentError), len(index)
    wrong = f"subset must be a boolean mask over the {n} rows of the data, or an expression that gives one"
    try:
        shape = value.shape if hasattr(value, "shape") else np.shape(value)
    except ValueError:  # lists of different lengths
        shape = None
    if shape != (n,):
        raise ArgumentError(f"{wrong}; it has {'lists of different lengths' if shape is None else f'the shape {shape}'}.")
    try:
        series = plain(value.reset_index(drop=True) if isinstance(value, pd.Series) else pd.Series(value), "subset")
        boolean = pd.api.types.is_bool_dtype(series.dtype) or (
            pd.api.types.is_numeric_dtype(series.dtype) and series.dropna().isin([0, 1]).all()
        )
    except (TypeError, ValueError):
        boolean = False
    if not boolean:
        raise ArgumentError(f"{wrong}; it is not true or false in each row.")
    return np.asarray(series.astype("boolean").fillna(False).to_numpy(dtype=bool))


def looks_across(text: str, table: Table, scope: Mapping[str, Any]) -> bool:
    """Whether a condition holds in a row or not depending on other rows."""
    return bool(across([_python(text, table)], _evaluator(text, table, scope)))


def _evaluate(text: str, table: Table, scope: Mapping[str, Any]) -> Any:
    return _evaluator(text, table, scope).expression(_python(text, table))


def _awkward(text: str, table: Table) -> frozenset[str]:
    names = (name for name, _, _ in names_in(text))
    return frozenset(name for name in names if name in table and (not name.isidentifier() or name in awkward_names(text)))


def _python(text: str, table: Table) -> str:
    return condition(python_expression(aliased(text, _awkward(text, table))))


def _evaluator(text: str, table: Table, scope: Mapping[str, Any]) -> Evaluator:
    found = resolve([text], table.columns, table.n, scope, FUNCTIONS)
    refuse_unknown(found, table, {text: "subset"})
    raw = {name: as_floats(table.column(name).reset_index(drop=True)) for name in found.columns}
    raw |= {name: as_floats(given_column(values, table.index, name)) for name, values in found.arrays.items()}
    awkward = _awkward(text, table)
    rows = Columns(raw, table.n)
    rows.rename({name: alias(name) for name in awkward})
    return Evaluator(rows, labelled(found.context, table.index), {}, {}, awkward)
