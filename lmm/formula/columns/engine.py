"""The one place that touches formulaic: Wilkinson terms -> model matrix, and their replay on new data.

Its materializer is used with four changes, none visible to other users of formulaic: columns are
written straight into one Fortran-ordered array, missing values are found by us before (and refused
with the name of the term after) evaluation, calls that remember something do so wherever they stand in an
expression, and levels are matched by their text, an unseen one being an error instead of the reference.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula as Wilkinson
from formulaic import ModelSpec, ModelSpecs
from formulaic.errors import DataMismatchWarning
from formulaic.materializers import PandasMaterializer
from formulaic.materializers.types import EvaluatedFactor, FactorValues
from formulaic.parser.types import Factor, Term
from formulaic.transforms import TRANSFORMS, ContrastsRegistry, encode_contrasts
from formulaic.transforms.contrasts import Contrasts, ContrastsState, TreatmentContrasts
from formulaic.utils.cast import as_columns
from formulaic.utils.layered_mapping import LayeredMapping
from formulaic.utils.stateful_transforms import stateful_transform
from interface_meta import override
from numpy.typing import ArrayLike

from lmm.arguments import shown
from lmm.errors import ArgumentError, CapacityError, DataError, LmmError, nearest
from lmm.formula.columns import functions
from lmm.formula.columns.levels import UnseenLevels, encode, matched
from lmm.formula.text.expressions import OPERATORS, as_executable
from lmm.formula.text.names import readable
from lmm.formula.text.parse import unknown_structure
from lmm.formula.text.tokens import quote
from lmm.formula.text.wilkinson import right_side


def _bs(
    x: ArrayLike,
    df: int | None = None,
    knots: ArrayLike | None = None,
    degree: int = 3,
    intercept: bool = False,
    Boundary_knots: ArrayLike | None = None,
    include_intercept: bool = False,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    _state: functions.State = None,
) -> object:
    """B-splines that know whether they span the column of ones; ``include_intercept`` and the two bounds are patsy's names."""
    whole = intercept or include_intercept
    if lower_bound is not None or upper_bound is not None:
        low, high = np.min(x), np.max(x)
        Boundary_knots = (
            low if lower_bound is None else lower_bound,
            high if upper_bound is None else upper_bound,
        )
    basis = functions.bs(x, df, knots, degree, whole, Boundary_knots, _state)
    return FactorValues(basis, kind="numerical", spans_intercept=whole, drop_field=0)


def _C(data: object, contrasts: object = None, **settings: object) -> object:
    """A categorical with its coding, which may be named by text."""
    return TRANSFORMS["C"](data, coding(contrasts), **settings)


def _of_numbers(name: str) -> Callable[..., object]:
    """A function of formulaic that takes text and categories for numbers where they look like them."""
    function = TRANSFORMS[name]

    @wraps(function)
    def checked(data: object, *settings: object, **more: object) -> object:
        return function(
            data if isinstance(data, dict) else functions.numbers(data, name), *settings, **more
        )

    return checked


#: functions that every formula has, R's names first; stateful ones remember what they saw.
FUNCTIONS: dict[str, object] = {
    **{
        name: function for name, function in TRANSFORMS.items() if name != "Q"
    },  # a column of any name is written in backticks
    **functions.PLAIN,
    **OPERATORS,
    **{name: stateful_transform(function) for name, function in functions.STATEFUL.items()},
    "bs": stateful_transform(_bs),
    "C": _C,
    **{name: _of_numbers(name) for name in ("scale", "center", "standardize", "cr", "cs", "cc")},
}

#: what stateful functions remember of the data of the fit, by the text of the call
Memories = dict[str, functions.Memory]

#: bytes that the columns of one categorical predictor may take while they are made
MOST_MEMORY = 4 * 2**30


@dataclass(frozen=True)
class ModelMatrix:
    """One model matrix: ``values`` (n, p) float64 in Fortran order, a name and a term per column, and its replay.

    ``spec`` is None for an intercept alone, whose values are a broadcast view of ones.
    """

    values: np.ndarray
    names: tuple[str, ...]
    terms: tuple[str, ...]
    spec: ModelSpec | None


def intercept(n: int) -> ModelMatrix:
    """The model matrix of ``1``, (n, 1), without n numbers."""
    return ModelMatrix(np.broadcast_to(np.ones((1, 1)), (n, 1)), ("Intercept",), ("1",), None)


class Columns(dict[str, pd.Series]):
    """Equally long columns by name, sharing one index."""

    def __init__(self, columns: Mapping[str, pd.Series], n: int):
        super().__init__(columns)
        self.n = n

    def taken(self, rows: np.ndarray) -> Columns:
        """Some of the rows, by position."""
        index = pd.RangeIndex(len(rows))
        return Columns(
            {
                name: pd.Series(series.array[rows], index=index, name=name)
                for name, series in self.items()
            },
            len(rows),
        )

    def rename(self, names: Mapping[str, str]) -> None:
        """Give columns other names, where they are here."""
        found = {new: self.pop(old) for old, new in names.items() if old in self}
        self.update(found)


@lru_cache(maxsize=512)
def wilkinson(text: str, whole: str, awkward: frozenset[str] = frozenset()) -> Wilkinson:
    """The terms of a right-hand side as formulaic takes them; errors point into the ``whole`` formula."""
    side = right_side(text, whole, awkward)
    factors = [Factor(f.code, eval_method="lookup" if f.column else "python") for f in side.factors]
    terms = [Term([Factor("1", eval_method="literal")])] if side.intercept else []
    terms += [Term([factors[i] for i in term]) for term in side.terms]
    return Wilkinson(terms, _ordering="none")


def coding(contrasts: object) -> object:
    """A contrast coding by name (``"sum"``, ``"contr.sum"``, ``"helmert"``, ...), or an object or matrix as it is."""
    if not isinstance(contrasts, str):
        return (
            contrasts()
            if isinstance(contrasts, type) and issubclass(contrasts, Contrasts)
            else contrasts
        )
    word = contrasts.removeprefix("contr.").removeprefix("contr_").lower()
    word = {"sas": "SAS", "sdif": "diff"}.get(word, word)
    choices = [name for name in dir(ContrastsRegistry) if not name.startswith("_")]
    if word not in choices:
        raise ArgumentError(
            f"{contrasts!r} is no coding; use one of {', '.join(choices)}.{nearest(word, choices)}"
        )
    return getattr(ContrastsRegistry, word)()


def as_factor(values: Any) -> object:
    """Logical values as a factor with the levels False and True, in this order, whichever occur; others as they are."""
    inner = getattr(values, "__wrapped__", values)
    if getattr(getattr(inner, "dtype", None), "kind", "") != "b" or np.ndim(inner) != 1:
        return values
    codes = np.asarray(inner).astype(np.int8)
    levels: pd.Index = pd.Index([False, True])
    index = inner.index if isinstance(inner, pd.Series) else None
    return pd.Series(pd.Categorical.from_codes(codes, categories=levels), index=index)


def check_coding(contrasts: object, name: str, levels: int) -> None:
    """ArgumentError, which names the column, unless ``contrasts`` can code so many levels."""
    what = f"contrasts: {name!r}"
    try:
        made = coding(contrasts)
    except (TypeError, ArgumentError) as error:
        raise ArgumentError(f"{what}: {error}") from None
    if isinstance(made, Contrasts):
        return
    if isinstance(made, Mapping):
        made = list(made.values())
        matrix = np.array(made, dtype=object).T if made else None
    else:
        matrix = (
            np.array(made, dtype=object)
            if isinstance(made, np.ndarray | list | pd.DataFrame)
            else None
        )
    try:
        numbers = None if matrix is None else matrix.astype(float)
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or numbers.ndim != 2 or not np.isfinite(numbers).all():
        raise ArgumentError(
            f"{what} must be coded by a name such as 'sum', a coding of formulaic, or a matrix of numbers with a row for each level, not "
            f"{shown(contrasts)}. For another reference level write relevel({quote(name)}, ref=...)."
        )
    rows, columns = numbers.shape
    if rows != levels or not 0 < columns < levels:
        raise ArgumentError(
            f"{what} has {levels} levels; a matrix of contrasts for it is {levels} x {levels - 1}, not {rows} x {columns}."
        )
    if np.linalg.matrix_rank(np.column_stack([np.ones(rows), numbers])) <= columns:
        raise ArgumentError(
            f"{what}: the columns of the matrix of contrasts depend on each other, or on the intercept."
        )


def remembering(node: ast.AST, known: Mapping[str, object]) -> bool:
    """Whether a node calls a function that remembers something of the data of the fit."""
    return isinstance(node, ast.Call) and bool(
        getattr(called(node, known), "__is_stateful_transform__", False)
    )


def called(node: ast.Call, known: Mapping[str, object]) -> object:
    """The function that a node calls by name, ``f(x)`` or ``np.f(x)``; None where it is computed or not known."""
    names, at = [], node.func
    while isinstance(at, ast.Attribute):
        names.append(at.attr)
        at = at.value
    found = known.get(at.id) if isinstance(at, ast.Name) else None
    for name in reversed(names):
        found = getattr(found, name, None)
    return found


def evaluated(
    text: str, scope: Mapping[str, object], state: Memories, spec: ModelSpec | None = None
) -> object:
    """Value of an expression in a scope.

    Every call of a function that remembers is given its place in ``state`` by its text, so that the same call written twice
    is the same number (formulaic's own ``stateful_eval`` does that for one of the two).
    """
    own = LayeredMapping(scope)
    tree = ast.parse(text, mode="eval")
    calls = [
        (ast.unparse(node).replace("\n", " "), node)
        for node in ast.walk(tree)
        if remembering(node, own)
    ]
    for name, node in calls:
        assert isinstance(node, ast.Call)
        state.setdefault(name, {})
        place = ast.Subscript(ast.Name("__state__", ast.Load()), ast.Constant(name), ast.Load())
        node.keywords.append(ast.keyword("_state", place))
        node.keywords += [
            ast.keyword(word, ast.Name(f"_{word}__", ast.Load())) for word in ("_context", "_spec")
        ]
    code = compile(as_executable(tree), "", "eval")
    return eval(
        code, {}, LayeredMapping({"__state__": state, "__context__": own, "__spec__": spec}, own)
    )  # nosec


class _Materializer(PandasMaterializer):
    """formulaic's pandas materializer over a mapping of columns, with dense output in one array."""

    coding: Mapping[str, object] = {}
    replaying = False
    _factor = ""

    @override
    def _init(self) -> None:
        pass

    @override  # type: ignore[prop-decorator]
    @property
    def nrows(self) -> int:
        return int(self.data.n)

    @override
    def _evaluate(self, expr: str, metadata: object, spec: ModelSpec) -> tuple[object, set[object]]:
        try:
            return as_factor(
                evaluated(expr, self.layered_context, spec.transform_state, spec)
            ), set()
        except UnseenLevels as unseen:
            raise UnseenLevels(expr, unseen.levels) from None

    @override
    def _encode_constant(
        self,
        value: float,
        metadata: object,
        encoder_state: object,
        spec: object,
        drop_rows: object,
    ) -> object:
        return float(value)  # broadcast when the columns are written

    @override
    def _lookup(self, name: str) -> tuple[object, object]:
        values, variables = super()._lookup(name)
        return as_factor(values), variables

    @override
    def _check_for_nulls(
        self, name: str, values: object, na_action: object, drop_rows: set[int]
    ) -> None:
        """Only categories can hide a missing value; numbers are checked once they are columns."""
        inner = getattr(values, "__wrapped__", values)
        if isinstance(inner, (pd.Series, pd.Categorical)) and not pd.api.types.is_numeric_dtype(
            inner.dtype
        ):
            lost = int(pd.isna(inner).sum())
            if lost:
                raise DataError(
                    f"the term {name} has no value in {lost} of {len(inner)} rows, although its columns are complete."
                )

    @override
    def _encode_evaled_factor(
        self,
        factor: EvaluatedFactor,
        spec: ModelSpec,
        drop_rows: object,
        reduced_rank: bool = False,
    ) -> dict[str, object]:
        self._factor = factor.expr
        kind, state = spec.encoder_state.get(factor.expr, (None, {}))
        if self.replaying and kind is not None and kind is not factor.metadata.kind:
            was, now = (
                "numbers" if k is Factor.Kind.NUMERICAL else "categories"
                for k in (kind, factor.metadata.kind)
            )
            raise DataError(
                f"the term {factor.expr} gave {was} when the model was fitted and gives {now} now; write the same type."
            )
        if (
            factor.metadata.kind is Factor.Kind.CATEGORICAL
            and not {factor.expr, (factor.expr, reduced_rank)} & self.encoded_cache.keys()
        ):
            values = getattr(factor.values, "__wrapped__", factor.values)
            if self.replaying and "categories" in state:
                coded = matched(values, pd.Index(state["categories"]), factor.expr)
                unseen = list(coded.categories[len(state["categories"]) :])
                if unseen:
                    raise UnseenLevels(factor.expr, unseen)
            else:
                found = encode(values, factor.expr)
                self._check_size(len(found.values), factor.expr)
                coded = pd.Categorical.from_codes(found.codes, categories=found.values)
            factor = factor.replace(values=FactorValues(pd.Series(coded), metadata=factor.metadata))
        return dict(
            super()._encode_evaled_factor(factor, spec, drop_rows, reduced_rank=reduced_rank)
        )

    def _check_size(self, levels: int, name: str) -> None:
        """The codes of the levels, and a dummy and a column for each: numbers of one and of eight bytes."""
        needed = 8 * levels**2 + 9 * self.nrows * levels
        if needed > MOST_MEMORY:
            raise CapacityError(
                f"the categorical predictor {name} has {levels} levels, a column for each: {needed / 2**30:.0f} GiB for {self.nrows} rows. "
                f"Write it as a grouping factor, (1 | {name}), or make it a number if it is one."
            )

    @override
    def _encode_categorical(
        self,
        values: object,
        metadata: object,
        encoder_state: dict[str, object],
        spec: object,
        drop_rows: object,
        reduced_rank: bool = False,
    ) -> object:
        chosen = self.coding.get(self._factor)
        if chosen is None:
            return indicators(getattr(values, "__wrapped__", values), encoder_state)
        encoded = encode_contrasts(
            values,
            contrasts=coding(chosen),
            reduced_rank=reduced_rank,
            _metadata=metadata,
            _state=encoder_state,
            _spec=spec,
        )
        return as_columns(encoded)

    @override
    def _get_columns_for_term(
        self, factors: list[dict[str, object]], spec: object, scale: float = 1
    ) -> dict[str, object]:
        width = math.prod(len(columns) for columns in factors)
        needed = 8 * width * (self.nrows + width)  # the columns, and their cross-products
        if needed > 4 * MOST_MEMORY:
            raise CapacityError(
                f"an interaction of {self._factor} has {width:,} columns: {needed / 2**30:.0f} GiB for {self.nrows:,} rows. Write it as a "
                "grouping factor, (1 | a:b), or with fewer levels."
            )
        if len(factors) == 1 and scale == 1:
            return dict(factors[0])
        return dict(super()._get_columns_for_term(factors, spec, scale))

    @override
    def _combine_columns(
        self, cols: Sequence[tuple[str, Any]], spec: object, drop_rows: object
    ) -> np.ndarray:
        out = np.empty((self.nrows, len(cols)), order="F")
        for j, (name, values) in enumerate(cols):
            if getattr(values, "dtype", np.dtype(float)).kind in "mMc":
                raise DataError(
                    f"the term {name} has type {values.dtype}; turn it into a number, such as days since a date."
                )
            try:
                out[:, j] = values
            except (TypeError, ValueError) as error:
                raise DataError(f"the term {name} is not numeric: {error}.") from error
        return out


def indicators(values: Any, state: dict[str, object]) -> object:
    """A column for each level of a categorical, what formulaic makes without contrasts; ``state`` gets what replays it."""
    codes, levels = values.cat.codes.to_numpy(), list(values.cat.categories)
    dummies = np.zeros((len(codes), len(levels)), dtype=bool, order="F")
    dummies[np.arange(len(codes)), codes] = True
    contrasts = TreatmentContrasts()
    state |= {"categories": levels, "contrasts": ContrastsState(contrasts, levels)}
    return as_columns(contrasts.apply(dummies, levels, reduced_rank=False, output="numpy"))


class Evaluator:
    """Evaluates expressions and model matrices on one set of columns.

    Parameters
    ----------
    columns : complete columns, all of one length, sharing one index.
    context : variables and functions of the caller that are used.
    contrasts : coding by column name.
    state : what stateful functions remember, by expression; filled in, and read back on new data.
    awkward : column names that go by an alias here, to be undone in messages.
    """

    def __init__(
        self,
        columns: Columns,
        context: Mapping[str, object],
        contrasts: Mapping[str, object],
        state: Memories,
        awkward: frozenset[str] = frozenset(),
    ):
        self.state, self.columns, self.awkward = state, columns, awkward
        self._frame = _Materializer(columns, context={**FUNCTIONS, **context})
        self._frame.coding = contrasts

    @property
    def scope(self) -> Mapping[str, object]:
        """What names mean: columns, then the caller's variables, then the functions of formulas."""
        return self._frame.layered_context

    def on(self, columns: Columns) -> Evaluator:
        """An evaluator of the same expressions on other rows, with what is remembered; it writes nothing down here."""
        state = {call: dict(known) for call, known in self.state.items()}
        return Evaluator(columns, self._frame.context, self._frame.coding, state, self.awkward)

    def known(self, text: str) -> Any:
        """Value of an expression, as it was where a model matrix has been made of it."""
        made = self._frame.factor_cache.get(text)
        return as_factor(self.expression(text)) if made is None else made.values

    def expression(self, text: str) -> Any:
        """Value of an expression; a plain column is returned as it is."""
        columns = self._frame.data
        if text in columns:
            return columns[text]
        try:
            with np.errstate(invalid="ignore", divide="ignore"):
                return evaluated(text, self._frame.layered_context, self.state)
        except LmmError:
            raise
        except UnseenLevels as unseen:
            raise UnseenLevels(text, unseen.levels) from None
        except Exception as error:
            cause = readable(f"{text}: {type(error).__name__}: {error}", self.awkward).rstrip(".")
            raise DataError(f"cannot evaluate {cause}.{unknown_structure(text)}") from error

    def matrices(
        self, parts: Mapping[str, ModelSpec | Wilkinson], replay: bool = False
    ) -> dict[str, ModelMatrix]:
        """Model matrices of several right-hand sides at once, so that they share columns and state.

        ``parts`` holds results of :func:`wilkinson`, or the ``spec`` of earlier parts to replay.
        """
        if not parts:
            return {}
        specs = {}
        for i, part in enumerate(parts.values()):
            if replay:  # what a replay writes down, even where it fails, is not for the next one
                encoders = {
                    expression: (kind, dict(known))
                    for expression, (kind, known) in part.encoder_state.items()
                }
                specs[f"part{i}"] = part.update(encoder_state=encoders, transform_state=self.state)
            else:
                specs[f"part{i}"] = ModelSpec(
                    formula=part, output="pandas", transform_state=self.state
                )
        frame = self._frame
        frame.replaying = replay
        try:
            with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Contrasts", category=UserWarning)
                warnings.filterwarnings("error", category=DataMismatchWarning)
                made = frame.get_model_matrix(ModelSpecs(**specs))
        except (UnseenLevels, ArgumentError, CapacityError):
            raise
        except DataMismatchWarning:
            raise DataError(
                f"{readable(frame._factor, self.awkward)} has values that are none of the levels given."
            ) from None
        except LmmError as error:
            raise DataError(readable(str(error), self.awkward)) from None
        except Exception as error:
            cause = error.__cause__
            if isinstance(cause, (LmmError, UnseenLevels)):
                raise cause from None
            text = re.sub(
                r"^Unable to evaluate factor `(.*)`\. \[(.*)\]$",
                r"\1: \2",
                str(error),
                flags=re.DOTALL,
            ).rstrip(".")
            raise DataError(
                f"cannot evaluate {readable(text, self.awkward)}.{unknown_structure(text)}"
            ) from error
        out = {}
        matrices = [getattr(made, f"part{i}") for i in range(len(parts))]
        encoders = {}
        for matrix in matrices:
            encoders.update(matrix.model_spec.encoder_state)
            self.state.update(matrix.model_spec.transform_state)
        for key, matrix in zip(parts, matrices, strict=True):
            spec = matrix.model_spec
            spec.encoder_state.update(
                encoders
            )  # the first part that encodes a factor alone records its levels
            names = tuple(str(name) for row in spec.structure for name in row.columns)
            terms = tuple(str(row.term) for row in spec.structure for _ in row.columns)
            out[key] = ModelMatrix(getattr(matrix, "__wrapped__", matrix), names, terms, spec)
        return out
