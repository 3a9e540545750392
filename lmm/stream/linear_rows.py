"""Rows somewhere -> design and problem of a linear model: the recipe, one pass, the end."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter

from lmm.design.design import Design
from lmm.errors import ArgumentError, DataError
from lmm.formula import Formula, Given
from lmm.model.problem import Problem
from lmm.stream.finish import finish
from lmm.stream.partial import linear_reduction
from lmm.stream.prepare import make_recipe
from lmm.stream.reducers import Reducer, reducer_for
from lmm.stream.row_progress import Progress


@dataclass
class Origin:
    """Where the rows of a fit came from: what was given as ``data``, and its reducer. Only what pickles is pickled."""

    data: object
    reducer: Reducer | None
    text: str
    marks: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.marks = dict(getattr(self.reducer, "marks", {}))

    def open(self, progress: Progress | None = None) -> Reducer:
        """The rows again."""
        if self.reducer is None:
            self.reducer = None if self.data is None else reducer_for(self.data, progress)
            self._check(self.reducer)
        if self.reducer is None:
            raise ArgumentError(
                f"the rows of this fit ({self.text}) cannot be found again; give them as newdata=."
            )
        if progress is not None and hasattr(self.reducer, "progress"):
            self.reducer.progress = progress
        return self.reducer

    def again(self) -> object:
        """What was given as ``data``, where its rows can be read again."""
        if self.data is None or (self.reducer is not None and not self.reducer.repeatable):
            raise ArgumentError(
                f"the rows of this fit ({self.text}) cannot be read again; give them as data=."
            )
        self._check(reducer_for(self.data))
        return self.data

    def _check(self, reducer: Reducer | None) -> None:
        """DataError where the files are no longer those of the fit: what is made of them would be of other rows."""
        now = dict(getattr(reducer, "marks", {}))
        if now != self.marks:
            both = [name for name in self.marks if name in now and now[name] != self.marks[name]]
            more, less = (
                [name for name in now if name not in self.marks],
                [name for name in self.marks if name not in now],
            )
            what = (
                f"{both[0]!r} has changed"
                if both
                else f"{more[0]!r} has come"
                if more
                else f"{less[0]!r} has gone"
            )
            raise DataError(
                f"{what} since the fit, so that this would be of other rows; fit again, or give the rows as data=."
            )

    def __getstate__(self) -> dict[str, object]:
        try:
            pickle.dumps(self.data)
        except Exception:  # whatever a database or a cluster raises
            return {"data": None, "reducer": None, "text": self.text, "marks": self.marks}
        return {"data": self.data, "reducer": None, "text": self.text, "marks": self.marks}


def build(
    formula: str | Formula,
    data: object,
    reducer: Reducer,
    given: Given,
    *,
    choose_backend: Callable[[Design], str],
    factorization: str,
) -> tuple[Design, Problem]:
    """Design and problem, as :func:`lmm.design.build_design` and :func:`lmm.model.problem.build_problem` make of a table."""
    start = perf_counter()
    recipe = make_recipe(formula, reducer, given)
    middle = perf_counter()
    sums = reducer.map_reduce(linear_reduction(recipe))
    seconds = {"recipe": middle - start, "rows": perf_counter() - middle}
    design, problem = finish(recipe, sums, choose_backend, factorization)
    design = replace(
        design, source=replace(design.chunks, origin=Origin(data, reducer, reducer.text))
    )
    return design, replace(problem, seconds={**seconds, **problem.seconds})
