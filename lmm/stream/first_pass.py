"""A pass before the pass: levels of categorical predictors, and means, spreads and ranges that a formula remembers.

Not all rows are needed to code a categorical predictor as they all would: one row with each level is enough, so these witness
rows are collected and the formula is evaluated on them. A function that remembers a summary of its argument (scale, poly,
mean, splines with given knots) is given that summary of all rows, computed by chunks. Rows count as in the fit: only those
that ``subset`` keeps and in which nothing is missing.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmm.errors import ArgumentError, DataError
from lmm.formula.columns.complete import RowCounts
from lmm.formula.columns.engine import Columns, Evaluator, Memories
from lmm.formula.columns.functions import CODING, Memory, orthonormal
from lmm.formula.text.names import alias, readable
from lmm.stream.conform import conform
from lmm.stream.levels.found_levels import ListedLevels
from lmm.stream.recipe import predictors, usable_rows
from lmm.stream.reducers import Reduction

if TYPE_CHECKING:
    import pyarrow as pa

#: rows kept from the beginning, on which the formula is tried and the pilot fitted
HEAD = 20_000
#: levels of one categorical predictor, beyond which its columns would fill the memory
MOST_LEVELS = 5_000
#: numbers in the columns that the first rows are made into, at most
NUMBERS = 5_000_000

SCALES = ("scale", "center", "standardize")
SUMMARIES = ("mean", "sd", "var", "min", "max", "sum")
RANGES = ("cut", "ns", "bs")


@dataclass(frozen=True)
class Scan:
    """What to look for.

    Attributes
    ----------
    needed, schema, weights, offset, subset, context, awkward : as in the recipe.
    categories : expressions whose distinct values are wanted.
    calls : functions that remember something, by the text of the call; ``arguments`` what each is applied to.
    state : what those remember on the first rows (by call), and what is known of others already; ``known`` are the calls of the latter.
    head : how many of the first rows are kept.
    used, coded : columns that expressions use, and those of text that are predictors as they are.
    """

    needed: tuple[str, ...]
    schema: dict[str, pa.DataType]
    weights: str | None
    offset: str | None
    subset: str | None
    context: Mapping[str, object]
    awkward: frozenset[str]
    categories: tuple[str, ...] = ()
    arguments: dict[str, str] = field(default_factory=dict)
    state: Memories = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    head: int = HEAD
    coded: frozenset[str] = frozenset()
    used: tuple[str, ...] = ()

    @property
    def given(self) -> tuple[str, ...]:
        """The expressions given as arguments."""
        return tuple(text for text in (self.weights, self.offset) if text)

    def reduction(self) -> Reduction[Survey]:
        """The pass."""
        return Reduction(self.needed, Survey, partial(look, self), merge, "levels")


@dataclass
class Moments:
    """n numbers: mean, sum of squares around it, range; of a polynomial basis B also B'B and B'xB."""

    n: int = 0
    mean: float = 0.0
    spread: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    gram: float | np.ndarray = 0.0
    moved: float | np.ndarray = 0.0

    def __add__(self, other: Moments) -> Moments:
        if not self.n or not other.n:
            return other if not self.n else self
        n, step = self.n + other.n, other.mean - self.mean
        return Moments(
            n,
            self.mean + step * other.n / n,
            self.spread + other.spread + step * step * self.n * other.n / n,
            min(self.low, other.low),
            max(self.high, other.high),
            self.gram + other.gram,
            self.moved + other.moved,
        )


@dataclass
class Survey:
    """Witness rows, the levels seen, and moments by call; the dictionaries of category columns."""

    rows: list[pa.Table] = field(default_factory=list)
    head: int = 0
    levels: dict[str, dict[object, None]] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    listed: dict[str, ListedLevels] = field(default_factory=dict)
    counts: RowCounts = field(default_factory=RowCounts)


def head_rows(table: pa.Table, used: tuple[str, ...]) -> int:
    """How many of the first rows can be tried: few where text has many values, each of which would be a column."""
    import pyarrow as pa

    most = 1
    for name in used:
        type = table.column(name).type
        if not (pa.types.is_integer(type) or pa.types.is_floating(type)):
            most = max(most, len(table.column(name).unique()))
    return min(HEAD, max(500, NUMBERS // most))


def evaluator_on(scan: Scan, table: pa.Table) -> Evaluator:
    """The formula's evaluator on a chunk of complete rows."""
    rows = predictors(table, scan.used or table.column_names, scan.coded)
    rows.rename({name: alias(name) for name in scan.awkward})
    return Evaluator(
        rows, scan.context, {}, {call: dict(scan.state[call]) for call in scan.known}, scan.awkward
    )


def look(scan: Scan, found: Survey, table: pa.Table) -> Survey:
    """``found`` with the rows of a table."""
    import pyarrow as pa

    table = conform(table, scan.needed, scan.schema)
    rows, _, counts = usable_rows(table, scan.subset, scan.context)
    found.counts.add(counts)
    if not rows.num_rows:
        return found
    for name in scan.used:
        column = rows.column(name)
        if pa.types.is_dictionary(column.type):
            listed = found.listed.setdefault(
                name, ListedLevels(column.type.value_type, ordered=True)
            )
            for chunk in column.chunks:
                listed.declare(chunk.dictionary)
    evaluator = evaluator_on(scan, rows)
    wanted = np.zeros(rows.num_rows, dtype=bool)
    if found.head < scan.head:
        wanted[: scan.head - found.head] = True
        found.head += int(wanted.sum())
    for text in scan.categories:
        distinct, first = _distinct(evaluator.expression(text))
        known = found.levels.setdefault(text, {})
        for value, row in zip(distinct, first, strict=True):
            if value not in known:
                known[value] = None
                wanted[row] = True
        if len(known) > MOST_LEVELS:
            raise DataError(
                f"the categorical predictor {readable(text, scan.awkward)} has more than {MOST_LEVELS} levels, a column for each; "
                f"write it as a grouping factor, (1 | {readable(text, scan.awkward)})."
            )
    for call, argument in scan.arguments.items():
        values = evaluator.expression(argument)
        values = np.asarray(getattr(values, "__wrapped__", values), dtype=float)
        if values.ndim != 1:
            raise ArgumentError(
                f"{readable(call, scan.awkward)} is applied to several columns at once; write one call for each."
            )
        found.moments[call] = found.moments.get(call, Moments()) + _moments(
            call, values, scan.state
        )
    if wanted.any():
        found.rows.append(rows.filter(pa.array(wanted)))
    return found


def merge(a: Survey, b: Survey) -> Survey:
    """What both found; a level that both saw keeps both witnesses."""
    a.rows = a.rows + b.rows
    a.head += b.head
    a.counts.add(b.counts)
    for text, levels in b.levels.items():
        a.levels.setdefault(text, {}).update(levels)
    for name, listed in b.listed.items():
        if name in a.listed:
            a.listed[name].absorb(listed, np.zeros(0, dtype=np.int64))
        else:
            a.listed[name] = copy.deepcopy(listed)
    for call, moments in b.moments.items():
        a.moments[call] = a.moments.get(call, Moments()) + moments
    return a


def _distinct(values: object) -> tuple[list[object], np.ndarray]:
    """Distinct values and the first row of each."""
    inner = getattr(values, "__wrapped__", values)
    series = pd.Series(inner)
    first = np.flatnonzero(~series.duplicated().to_numpy())
    return series.iloc[first].tolist(), first


def function_of(call: str) -> str:
    """Name of the function that a text calls."""
    node = ast.parse(call, mode="eval").body
    return ast.unparse(node.func) if isinstance(node, ast.Call) else call


def is_coding(node: ast.AST) -> bool:
    """Whether a node calls a function that remembers levels."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CODING


def codes_levels(call: str) -> bool:
    """Whether a text is the call of a function that remembers levels."""
    return is_coding(ast.parse(call, mode="eval").body)


def witness_text(text: str) -> str:
    """The expression whose distinct values show all levels that ``text`` has: what ``factor()`` and the like are applied to."""
    tree = ast.parse(text, mode="eval").body
    return ast.unparse(_stripped(tree)) if is_coding(tree) else text


def _stripped(node: Any) -> Any:
    if not is_coding(node):
        return node
    if node.func.id == "interaction":
        return ast.Call(node.func, [_stripped(argument) for argument in node.args], node.keywords)
    return _stripped(node.args[0]) if node.args else node


def calls_in(text: str) -> set[str]:
    """Texts of the calls in an expression, itself among them."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return set()
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def argument_of(call: str) -> str:
    """What the function is applied to, as text."""
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    given = (
        node.args[0]
        if node.args
        else next((k.value for k in node.keywords if k.arg in ("x", "data")), None)
    )
    if given is None:
        raise ArgumentError(f"{call} is applied to nothing.")
    return ast.unparse(given)


def _settings(call: str, names: tuple[str, ...]) -> dict[str, ast.expr]:
    """Arguments after the first by name."""
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    out = dict(zip(names, node.args[1:], strict=False))
    return out | {str(k.arg): k.value for k in node.keywords}


def check_calls(state: Mapping[str, Memory], awkward: frozenset[str]) -> None:
    """ArgumentError for a function that has to see all rows at once."""
    for call in state:
        name, shown = function_of(call), readable(call, awkward)
        if name in ("ns", "bs"):
            given = _settings(call, ("df", "knots"))
            df = given.get("df")
            if (
                "knots" not in given
                and df is not None
                and not (isinstance(df, ast.Constant) and df.value is None)
            ):
                raise ArgumentError(
                    f"{shown} places its knots at quantiles, for which all rows would have to be in memory; give the knots: "
                    f"{name}({readable(argument_of(call), awkward)}, knots=[...])."
                )
        elif name not in (*SCALES, *SUMMARIES, *RANGES, *CODING, "poly"):
            raise ArgumentError(
                f"{shown} has to see all rows at once, and the data is read in chunks; compute the column first, or use a function that "
                f"needs a summary only: {', '.join((*SCALES[:2], *SUMMARIES, 'poly', 'cut'))}, ns and bs with knots."
            )


def _moments(call: str, values: np.ndarray, state: Mapping[str, Memory]) -> Moments:
    mean = float(values.mean())
    out = Moments(
        len(values),
        mean,
        float(np.sum((values - mean) ** 2)),
        float(values.min()),
        float(values.max()),
    )
    if function_of(call) == "poly":
        remembered = state[call]
        basis = orthonormal(values, len(remembered["norms2"]) - 1, remembered)
        out.gram, out.moved = (
            basis.T @ basis,
            basis.T @ (basis * (values - remembered["alpha"][0])[:, None]),
        )
    return out


def resolved(call: str, moments: Moments, first: Memory, scan: Scan) -> Memory:
    """What the function would remember of all rows; ``first`` is what it remembers of the first ones."""
    name = function_of(call)
    if name in SUMMARIES:
        variance = moments.spread / (moments.n - 1) if moments.n > 1 else np.nan
        values = {
            "mean": moments.mean,
            "var": variance,
            "sd": np.sqrt(variance),
            "min": moments.low,
            "max": moments.high,
        }
        values["sum"] = moments.n * moments.mean
        return {"value": float(values[name])}
    if name in SCALES:
        given = _settings(call, ("center", "scale", "ddof"))
        out = {"ddof": first["ddof"], "center": first["center"], "scale": first["scale"]}
        if _asked(given.get("center")):
            out["center"] = np.float64(moments.mean)
        if out["scale"] is not None and _asked(given.get("scale", given.get("rescale"))):
            away = moments.mean - (0.0 if out["center"] is None else float(out["center"]))
            out["scale"] = np.sqrt(
                (moments.spread + moments.n * away**2) / (moments.n - out["ddof"])
            )
        return out
    if name == "poly":
        return _recurrence(moments, float(first["alpha"][0]))
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    node.args[:1] = [ast.Name("range_of_all_rows", ast.Load())]
    node.keywords = [k for k in node.keywords if k.arg not in ("x", "data")]
    ends = Columns({"range_of_all_rows": pd.Series([moments.low, moments.high])}, 2)
    evaluator = Evaluator(ends, scan.context, {}, {}, frozenset())
    evaluator.expression(ast.unparse(node))
    (state,) = evaluator.state.values()
    return dict(state)


def _asked(given: ast.expr | None) -> bool:
    """Whether an argument that is True by default is True."""
    return given is None or (isinstance(given, ast.Constant) and given.value is True)


def _recurrence(moments: Moments, origin: float) -> Memory:
    """Coefficients of the polynomials that are orthogonal on all rows, from B'B = LL' and the Jacobi matrix L^-1 B'xB L^-T."""
    L = np.linalg.cholesky(moments.gram)
    jacobi = np.linalg.solve(L, np.linalg.solve(L, moments.moved).T)
    degree = len(L) - 1
    norms = {0: np.float64(moments.n)}
    for k in range(1, degree + 1):
        norms[k] = norms[k - 1] * jacobi[k, k - 1] ** 2
    return {"alpha": {k: np.float64(jacobi[k, k] + origin) for k in range(degree)}, "norms2": norms}
