"""Rows somewhere -> design and problem of a linear model: the recipe, one pass, the end."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from lmm.design.records import Design
from lmm.errors import ArgumentError
from lmm.formula import Formula
from lmm.model.problem import Problem
from lmm.stream.finish import finish
from lmm.stream.partial import linear_reduction
from lmm.stream.prepare import make_recipe
from lmm.stream.reducers import Reducer, reducer_for


@dataclass
class Origin:
    """Where the rows of a fit came from: what was given as ``data``, and its reducer. Only what pickles is pickled."""

    data: Any
    reducer: Reducer | None
    text: str

    def open(self, progress: Any = None) -> Reducer:
        """The rows again."""
        if self.reducer is None:
            self.reducer = None if self.data is None else reducer_for(self.data, progress)
        if self.reducer is None:
            raise ArgumentError(f"the rows of this fit ({self.text}) cannot be found again; give them as newdata=.")
        if progress is not None and hasattr(self.reducer, "progress"):
            self.reducer.progress = progress
        return self.reducer

    def again(self) -> Any:
        """What was given as ``data``, where its rows can be read again."""
        if self.data is None or (self.reducer is not None and not self.reducer.repeatable):
            raise ArgumentError(f"the rows of this fit ({self.text}) cannot be read again; give them as data=.")
        return self.data

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps(self.data)
        except Exception:  # whatever a database or a cluster raises
            return {"data": None, "reducer": None, "text": self.text}
        return {"data": self.data, "reducer": None, "text": self.text}


def build(
    formula: str | Formula,
    data: Any,
    reducer: Reducer,
    *,
    choose_backend: Callable[[Design], str],
    factorization: str,
    weights: Any = None,
    offset: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> tuple[Design, Problem]:
    """Design and problem, as :func:`lmm.design.build_design` and :func:`lmm.model.problem.build_problem` make of a table."""
    start = perf_counter()
    recipe = make_recipe(
        formula, reducer, weights=weights, offset=offset, subset=subset, na_action=na_action, contrasts=contrasts, context=context
    )
    middle = perf_counter()
    sums = reducer.map_reduce(linear_reduction(recipe))
    seconds = {"recipe": middle - start, "rows": perf_counter() - middle}
    design, problem = finish(recipe, sums, choose_backend, factorization)
    design.extra["origin"] = Origin(data, reducer, reducer.text)
    return design, replace(problem, seconds={**seconds, **problem.seconds})
