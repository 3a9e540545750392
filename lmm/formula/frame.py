"""What is needed to build the same columns again: from new data, for prediction, update and refit.

A :class:`ModelFrame` remembers levels, knots, means and codings, never the rows themselves, and keeps
the user's table by reference.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lmm.errors import DataError, FormulaError, PredictionError, nearest
from lmm.formula.columns.engine import Columns, Evaluator, Memories, ModelSpec, wilkinson
from lmm.formula.columns.given import labelled
from lmm.formula.columns.incidence import Incidence
from lmm.formula.columns.kinds import NUMBER, Kind, by_level, conform
from lmm.formula.columns.layout import Layout
from lmm.formula.columns.levels import Levels, UnseenLevels, join, lookup
from lmm.formula.columns.table import Table, missing, whole_rows
from lmm.formula.evaluate import (
    as_evaluated,
    as_predictor,
    check_finite,
    expression,
    levels_of,
    offsets,
)
from lmm.formula.text.grouping import Interaction, label
from lmm.formula.text.names import alias, names_in, readable
from lmm.formula.text.parse import Formula, parse
from lmm.formula.text.tokens import unquote


@dataclass(frozen=True, eq=False)
class TermRecipe:
    """How the columns and codes of one random term are built; ``values`` and ``codes`` are what another kind of term says otherwise.

    Attributes
    ----------
    factors : expressions whose joint levels are the groups.
    levels : the fitted levels, in the order of the codes.
    blocks : texts left of the bars, side by side.
    columns : the k column names; ``sources`` the Wilkinson term that each comes from.
    layouts : per block, how its columns become those of the covariance; none where they are these.
    """

    factors: Interaction
    levels: pd.Index
    blocks: tuple[str, ...]
    columns: tuple[str, ...]
    sources: tuple[str, ...]
    layouts: tuple[Layout, ...] = field(default=(), kw_only=True)

    @property
    def group(self) -> str:
        """Name of the grouping factor."""
        return label(self.factors)

    def values(self, frame: ModelFrame, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """The columns (m, k) on new rows, NaN in incomplete ones, and the mask (m,) of complete rows."""
        evaluator, complete = frame.on(table, list(self.blocks))
        parts = [frame.columns(evaluator, text) for text in self.blocks]
        if self.layouts:
            parts = [layout.of(own) for layout, own in zip(self.layouts, parts, strict=True)]
        values = np.concatenate(parts, axis=1)
        return _scatter(values, complete), complete

    def new_positions(self, frame: ModelFrame, table: Table) -> tuple[NewPositions, ...]:
        """Where new rows lie at positions that the fit never saw, of columns that are positions."""
        if not self.layouts:
            return ()
        evaluator, complete = frame.on(table, list(self.blocks))
        out, start = [], 0
        for layout, text in zip(self.layouts, self.blocks, strict=True):
            own = frame.columns(evaluator, text)
            new = layout.unseen(own)
            if new is not None and new.any():
                points = np.where(new[:, None], own, np.nan)
                out.append(NewPositions(start, _scatter(points, complete)))
            start += layout.of(own[:1]).shape[1]
        return tuple(out)

    def codes(
        self, frame: ModelFrame, table: Table, allow_new_levels: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The level (m,) of new rows, -1 where it is new or missing, and the mask of the rows that have one.

        Raises
        ------
        PredictionError : unseen levels, unless they are allowed.
        """
        evaluator, known = frame.on(table, list(self.factors))
        parts = [frame.encode(evaluator, factor) for factor in self.factors]
        found, unseen = lookup(self.levels, parts[0] if len(parts) == 1 else join(parts))
        if not allow_new_levels:
            self.refuse_unseen(unseen)
        codes = np.full(len(known), -1, dtype=np.int32)
        codes[known] = found
        return codes, known

    def refuse_unseen(self, unseen: pd.Index) -> None:
        """PredictionError that names levels which the fit never saw, where there are any."""
        if not len(unseen):
            return
        shown = ", ".join(repr(str(u)) for u in unseen[:6]) + (", ..." if len(unseen) > 6 else "")
        raise PredictionError(
            f"grouping factor {self.group!r} has {len(unseen)} new level{'s' if len(unseen) > 1 else ''} in newdata: {shown}. "
            "Use allow_new_levels=True to predict with a random effect of zero."
        )

    def met(
        self, frame: ModelFrame, table: Table, allow_new_levels: bool
    ) -> tuple[Incidence, np.ndarray]:
        """How new rows meet the levels, and the mask (m,) of rows in which nothing is missing.

        A row whose level is missing meets a new one where these are allowed; otherwise it is incomplete.
        """
        values, complete = self.values(frame, table)
        codes, known = self.codes(frame, table, allow_new_levels)
        if not (allow_new_levels or known.all()):
            values, complete = np.where(known[:, None], values, np.nan), complete & known
            codes[~complete] = -1
        return Incidence(codes, values), complete

    def unmet(self, frame: ModelFrame, table: Table) -> tuple[Incidence, np.ndarray]:
        """The columns of new rows that meet new levels alone, whatever these are, and the mask (m,) of complete rows."""
        values, complete = self.values(frame, table)
        return Incidence(np.full(len(values), -1, dtype=np.int32), values), complete


@dataclass(frozen=True, eq=False)
class NewPositions:
    """Rows at positions without a column of their own.

    Attributes
    ----------
    start : the first of the term's columns that stand for positions.
    points : (m, d) coordinates of the rows at new positions, NaN in the others.
    """

    start: int
    points: np.ndarray


@dataclass(frozen=True, eq=False)
class NewTerm(Incidence):
    """One random term on m new rows.

    Attributes
    ----------
    codes : (m,) int32 into the fitted levels, -1 where the level is new or the row incomplete.
    values : (m, k) float64; rows of NaN where a needed value is missing.
    group : name of the grouping factor.
    complete : (m,) bool, rows in which nothing is missing.
    positions : where rows lie at positions that the fit never saw.
    """

    group: str
    complete: np.ndarray
    positions: tuple[NewPositions, ...] = ()


@dataclass(frozen=True, eq=False)
class ModelFrame:
    """The replay of a formula that was evaluated once.

    Attributes
    ----------
    formula : the formula, ``.`` written out.
    table : the user's data.
    all_names : columns of the fixed matrix, dependent ones included.
    terms : recipes of the random terms, in the order of the design.
    specs : formulaic's specification of each model matrix, by text.
    kinds : what the columns were that expressions use, by name; new ones are matched to them.
    across : expressions whose value in a row depends on other rows, so that they mean nothing for new rows.
    left_out : positions of columns of the fixed matrix that the model does without (an ordinal one's intercept).
    """

    formula: Formula
    table: Table
    all_names: tuple[str, ...]
    terms: tuple[TermRecipe, ...]
    specs: dict[str, ModelSpec | None]
    state: Memories
    context: dict[str, object]
    contrasts: dict[str, object]
    awkward: frozenset[str]
    offset_given: str | bool = False
    arrays: tuple[str, ...] = ()
    left_out: tuple[int, ...] = ()
    kinds: dict[str, Kind] = field(default_factory=dict)
    across: frozenset[str] = frozenset()

    @property
    def data(self) -> pd.DataFrame:
        """The user's data as pandas, as they were at the fit; not to be changed."""
        return self.table.to_pandas()

    def new_X(self, newdata: object) -> np.ndarray:
        """Fixed columns on new data.

        Returns
        -------
        (m, p_all) float64, columns in the order of ``all_names``; rows of NaN where a value is missing.

        Raises
        ------
        PredictionError : missing columns, or a level of a categorical predictor that the fit never saw.
        """
        table = _as_table(newdata)
        evaluator, complete = self.on(table, [self.formula.fixed])
        columns = self.columns(evaluator, self.formula.fixed)
        return _scatter(
            np.delete(columns, self.left_out, axis=1) if self.left_out else columns, complete
        )

    def new_component(self, newdata: object, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Fixed columns (m, all of them) and offset (m,) of a further linear predictor on new data; NaN where a value is missing.

        Raises
        ------
        PredictionError : missing columns, or a level of a categorical predictor that the fit never saw.
        """
        component = dict(self.formula.components)[name]
        table = _as_table(newdata)
        evaluator, complete = self.on(table, [component.fixed])
        X = _scatter(self.columns(evaluator, component.fixed), complete)
        return X, self._offset(table, component, None)

    def new_terms(
        self,
        newdata: object,
        allow_new_levels: bool = False,
        keep: Sequence[np.ndarray] | None = None,
    ) -> list[NewTerm | None]:
        """Random terms on new data, one per term of the design.

        Parameters
        ----------
        newdata : table with the columns that the random terms use.
        allow_new_levels : whether a level that the fit never saw gets code -1 instead of an error, and so a missing one; otherwise
            a row whose group is missing is incomplete.
        keep : per term a mask of its columns, from :meth:`match_bars`; terms with none kept give None and need no columns.

        Raises
        ------
        PredictionError : missing columns, unseen levels (named, with the grouping factor).
        """
        table = _as_table(newdata)
        out: list[NewTerm | None] = []
        for i, term in enumerate(self.terms):
            if keep is not None and not np.any(keep[i]):
                out.append(None)
                continue
            own, complete = term.met(self, table, allow_new_levels)
            new = term.new_positions(self, table)
            out.append(NewTerm(own.codes, own.values, term.group, complete, new, shares=own.shares))
        return out

    def new_values(self, newdata: object) -> list[NewTerm]:
        """The random terms on new data whose levels do not matter: grouping columns need not be there, and all codes are -1."""
        table = _as_table(newdata)
        out = []
        for term in self.terms:
            own, complete = term.unmet(self, table)
            out.append(NewTerm(own.codes, own.values, term.group, complete, shares=own.shares))
        return out

    def new_offset(self, newdata: object) -> np.ndarray | None:
        """Offset on new data, (m,) with NaN where a value is missing; None when the model has none."""
        if self.offset_given is True:
            raise PredictionError(
                "the offset was given as an array; write it as a column, offset(z), to predict from new data."
            )
        return self._offset(_as_table(newdata), self.formula, self.offset_given or None)

    def _offset(self, table: Table, formula: Formula, given: str | None) -> np.ndarray | None:
        texts = [*formula.offsets, *([given] if given else [])]
        if not texts:
            return None
        for text in texts:
            self._check_alone(as_evaluated(text, self.awkward))
        evaluator, complete = self.on(table, texts)
        with self.told():
            found = offsets(formula, evaluator, self.awkward, int(complete.sum()), given)
        out = np.full(len(complete), np.nan)
        out[complete] = found
        return out

    def match_bars(self, re_form: object) -> tuple[np.ndarray, ...]:
        """Which columns of each random term a ``re_form`` keeps, one mask (k,) per term.

        ``None`` keeps all, ``False``, ``"~0"`` and ``"~1"`` none; a formula such as ``"~ (1|g)"`` keeps its terms.

        Raises
        ------
        FormulaError : when the formula asks for a term that the model does not have.
        """
        everything = tuple(np.ones(len(term.columns), dtype=bool) for term in self.terms)
        if re_form is None or re_form is True:
            return everything
        nothing = tuple(np.zeros(len(term.columns), dtype=bool) for term in self.terms)
        if re_form is False:
            return nothing
        wanted = re_form if isinstance(re_form, Formula) else parse(re_form, one_sided=True)
        groups = {term.factors: i for i, term in enumerate(self.terms)}
        of_members = {term.group: i for i, term in enumerate(self.terms)}
        for bar in wanted.bars:
            if bar.memberships and bar.group in of_members:  # weights need not be written again
                groups.setdefault(bar.factors, of_members[bar.group])
            if bar.factors not in groups:
                names = [term.group for term in self.terms]
                raise FormulaError(
                    f"the model has no random term for {bar.group!r}.{nearest(bar.group, names)}",
                    wanted.text,
                    bar.span,
                )
            i = groups[bar.factors]
            terms = wilkinson(bar.columns, wanted.text, self.awkward)
            sources = [readable(str(term), self.awkward) for term in terms]
            if bar.coordinates:
                sources = [bar.source]
            absent = [s for s in sources if s not in self.terms[i].sources]
            if absent:
                have = ", ".join(dict.fromkeys(self.terms[i].sources))
                raise FormulaError(
                    f"the model has no random effect of {absent[0]} by {bar.group}; it has {have}.",
                    wanted.text,
                    bar.span,
                )
            nothing[i][[s in sources for s in self.terms[i].sources]] = True
        return nothing

    def on(
        self, table: Table, texts: list[str], apart: Collection[str] = ()
    ) -> tuple[Evaluator, np.ndarray]:
        """An evaluator on the complete rows of the columns that ``texts`` use, and the mask of those rows.

        Missing values of the columns ``apart`` do not make a row incomplete.
        """
        needed: dict[str, None] = {}
        for text in texts:
            for name, called, _ in names_in(text):
                root = name.split(".", 1)[0]
                if name in self._fitted and not called:
                    needed[name] = None
                elif root in self._fitted and (not called or "." in name):
                    needed[root] = None
        lost = [name for name in needed if name not in table]
        if lost:
            raise PredictionError(f"newdata: {table.unknown(lost)}")
        columns = {name: table.column(name) for name in needed}
        complete = np.ones(table.n, dtype=bool)
        for name, series in columns.items():
            mask = None if name in apart else missing(series)
            if mask is not None:
                complete &= ~mask
        n = int(complete.sum())
        index = pd.RangeIndex(n)
        rows = Columns({k: whole_rows(s, complete, index, k) for k, s in columns.items()}, n)
        self._conform(
            rows,
            [text for text in texts if unquote(text) not in self._fitted or text in self.specs],
        )
        rows.rename({name: alias(name) for name in self.awkward})
        state = {call: dict(known) for call, known in self.state.items()}
        return Evaluator(
            rows, labelled(self.context, table.index[complete]), self.contrasts, state, self.awkward
        ), complete

    def _conform(self, rows: Columns, computed: list[str]) -> None:
        """Columns that expressions compute with, in the types that they had in the fit."""
        used = {name for text in computed for name, _, _ in names_in(text)}
        used |= {name.split(".", 1)[0] for name in used}
        try:
            for name, series in rows.items():
                if name in used and name in self.kinds:
                    kind = self.kinds[name]
                    rows[name] = conform(
                        as_predictor(series) if kind.name == NUMBER else series,
                        kind,
                        name,
                        by_level(name, computed),
                    )
        except DataError as error:
            raise PredictionError(f"newdata: {error}") from None

    @property
    def _fitted(self) -> frozenset[str]:
        """Names that were columns when the model was fitted."""
        names = {name for text in self._texts() for name, _, _ in names_in(text)}
        names |= {name.split(".", 1)[0] for name in names}
        return frozenset(name for name in names if name in self.table or name in self.arrays)

    def _texts(self) -> list[str]:
        return [
            *self.formula.expressions,
            *([self.offset_given] if isinstance(self.offset_given, str) else []),
        ]

    def columns(self, evaluator: Evaluator, text: str) -> np.ndarray:
        """The columns of a right-hand side; PredictionError where they cannot be had."""
        spec = self.specs[text]
        if spec is None:
            return np.ones((evaluator.columns.n, 1))
        for factor in (str(factor) for term in spec.formula for factor in term.factors):
            self._check_alone(factor)
        with self.told():
            made = evaluator.matrices({text: spec}, replay=True)
            check_finite(made[text], self.awkward)
        return made[text].values

    def encode(self, evaluator: Evaluator, factor: str) -> Levels:
        """The levels of a grouping factor; PredictionError where they cannot be had."""
        self._check_alone(as_evaluated(factor, self.awkward))
        with self.told():
            return levels_of(evaluator, factor, self.awkward)

    def value(self, evaluator: Evaluator, text: str) -> object:
        """The value of an expression on new rows; PredictionError where it looks at other rows."""
        self._check_alone(as_evaluated(text, self.awkward))
        return expression(evaluator, text, self.awkward)

    @contextmanager
    def told(self) -> Iterator[None]:
        """What is wrong with new data, as a PredictionError."""
        try:
            yield
        except UnseenLevels as unseen:
            raise PredictionError(
                f"{readable(unseen.factor, self.awkward)} has levels in newdata that the fit never saw: {unseen.shown}. "
                "Its effect for them is unknown; drop these rows."
            ) from None
        except DataError as error:
            raise PredictionError(f"newdata: {error}") from error

    def _check_alone(self, text: str) -> None:
        if text in self.across:
            raise PredictionError(
                f"{readable(text, self.awkward)} depends on other rows than its own, so that it is not defined for new rows. Compute it "
                "into a column of the data and of newdata, or write what is remembered of the fit: mean(x), sd(x), min(x), "
                "quantile(x, 0.5), scale(x)."
            )

    def __getstate__(self) -> dict[str, object]:
        """Functions and variables of the caller that cannot be pickled stay behind."""
        state = dict(self.__dict__)
        state["context"] = {name: value for name, value in self.context.items() if _pickles(value)}
        return state


def _as_table(newdata: object) -> Table:
    try:
        return newdata if isinstance(newdata, Table) else Table(newdata, "newdata")
    except DataError as error:
        raise PredictionError(str(error)) from error


def _scatter(values: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """Rows put back among all rows; NaN elsewhere."""
    if complete.all():
        return values
    out = np.full((len(complete), values.shape[1]), np.nan)
    out[complete] = values
    return out


def _pickles(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # whatever a caller's object raises
        return False
    return True
