"""Whether an expression's value in a row depends on that row alone: what a prediction, or a chunk of rows, must rely on.

Arithmetic, NumPy's universal functions and the functions that formulas have are known to be so (those that look at all rows
remember what they saw). Anything else, ``x.rank()``, ``np.mean(x)``, a function of the user's, is tried: evaluated on some of
the rows, in another order and one at a time, it must give what it gave on all.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from lmm.formula.columns.engine import FUNCTIONS, Columns, Evaluator, called
from lmm.formula.columns.levels import labels
from lmm.formula.text.names import names_in

#: rows among which those that are tried are chosen, and how many they are
HEAD, PART = 10_000, 200
_PLAIN = (ast.Expression, ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.List, ast.Tuple, ast.keyword,
          ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context, ast.Call)  # fmt: skip
#: functions of formulas that look at other rows
_ACROSS = ("lag",)


def across(texts: Iterable[str], evaluator: Evaluator) -> frozenset[str]:
    """Expressions, as they are evaluated, whose value in a row depends on other rows than those that are remembered of the fit."""
    out = set()
    for text in texts:
        if text in evaluator.columns or known_rowwise(text, evaluator.scope):
            continue
        names = {name for name, _, _ in names_in(text)} | {
            name.split(".", 1)[0] for name, _, _ in names_in(text)
        }
        used = Columns(
            {name: series for name, series in evaluator.columns.items() if name in names},
            evaluator.columns.n,
        )
        if used and not rowwise(evaluator.known(text), used, partial(_on, evaluator, text)):
            out.add(text)
    return frozenset(out)


def _on(evaluator: Evaluator, text: str, columns: Columns) -> object:
    return evaluator.on(columns).known(text)


def known_rowwise(text: str, scope: Mapping[str, object]) -> bool:
    """Whether nothing in an expression, as Python reads it, has to be tried."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return True  # a name with blanks in backticks, a column
    inside = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    nodes: list[ast.AST] = [tree.body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Call):
            function = called(node, scope)
            own = (
                isinstance(node.func, ast.Name)
                and node.func.id not in _ACROSS
                and function is FUNCTIONS.get(node.func.id)
            )
            if function is None or not (own or isinstance(function, np.ufunc)):
                return False
        elif not isinstance(node, _PLAIN):
            return False
        nodes += [child for child in ast.iter_child_nodes(node) if id(child) not in inside]
    return True


def rowwise(whole: object, columns: Columns, evaluate: Callable[[Columns], object]) -> bool:
    """Whether ``evaluate`` gives the same in some rows of ``columns`` as it gave in all of them."""
    for rows in _parts(columns):
        try:
            part = evaluate(columns.taken(rows))
        except Exception:  # what cannot be evaluated on some of the rows needs the others
            return False
        if not _same(whole, part, rows, columns.n):
            return False
    return True


def _parts(columns: Columns) -> list[np.ndarray]:
    """Rows, by position: the lower part and the upper part of each column, backwards, and the row in their middle alone."""
    n = min(columns.n, HEAD)
    out = []
    for series in columns.values():
        order = np.argsort(
            pd.factorize(series.iloc[:n], sort=False)[0]
            if not _is_number(series)
            else series.to_numpy()[:n],
            kind="stable",
        )
        half = max(1, min(PART, n // 2))
        out += [order[:half][::-1], order[n - half :][::-1], order[n // 2 : n // 2 + 1]]
    return out


def _is_number(series: pd.Series) -> bool:
    return isinstance(series.dtype, np.dtype) and series.dtype.kind in "iufb"


def _same(whole: Any, part: Any, rows: np.ndarray, n: int) -> bool:
    whole, part = getattr(whole, "__wrapped__", whole), getattr(part, "__wrapped__", part)
    if isinstance(whole, dict):
        return (
            isinstance(part, dict)
            and whole.keys() == part.keys()
            and all(_same(whole[key], part[key], rows, n) for key in whole)
        )
    if np.ndim(whole) == 0:
        return np.ndim(part) == 0 and _equal(np.array([whole]), np.array([part]))
    a, b = _array(whole), _array(part)
    return len(a) == n and len(b) == len(rows) and _equal(a[rows], b)


def _array(values: Any) -> np.ndarray:
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        return labels(values)
    return np.asarray(values)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.kind in "iufbc" and b.dtype.kind in "iufbc":
        return bool(np.allclose(a, b, rtol=1e-9, atol=0, equal_nan=True))
    return bool((pd.isna(a) & pd.isna(b) | (a == b)).all())
