"""Records as older versions wrote them -> the records and fields of today."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pandas as pd

from lmm.design.records import Predictor
from lmm.formula import Given, TermRecipe
from lmm.results.uncertainty import Covariances, Uncertainty

Fields = dict[str, Any]

#: where a record of an older file is today
MOVED = {"lmm.design.records:RandomTerm": "lmm.design.terms:RandomTerm"}


def today(name: str, old: Fields) -> tuple[str, Fields]:
    """The ``module:name`` and the fields of a record that a file holds; those of today's files stay as they are."""
    return CHANGED[name](name, old) if name in CHANGED else (MOVED.get(name, name), old)


def _term_columns(name: str, old: Fields) -> tuple[str, Fields]:
    """What replays a term was written out among the term's own fields."""
    if "recipe" in old:
        return name, old
    recipe = TermRecipe(old["factors"], pd.RangeIndex(0), old["blocks"], old["columns"], old["sources"])
    return name, {"recipe": recipe, **{field: old[field] for field in ("structure", "pool", "types")}}


def _estimate(name: str, old: Fields) -> tuple[str, Fields]:
    """A posterior was an estimate with draws."""
    if "draws" not in old:
        return name, old
    if old["draws"] is not None:
        return "lmm.model.records:PosteriorEstimate", old
    return name, {field: value for field, value in old.items() if field not in ("draws", "mode_cov")}


def _report(name: str, old: Fields) -> tuple[str, Fields]:
    """What stands beside the estimates is said by the estimate."""
    return name, {field: value for field, value in old.items() if field != "spread"}


def _fit(name: str, old: Fields) -> tuple[str, Fields]:
    """The covariances of a generalized fit whose rows did not travel stood alone."""
    found = old.get("_uncertainty")
    if not isinstance(found, Covariances):
        return name, old
    known = Uncertainty(old["design"], old["problem"], old["estimator"], old["estimate"])
    known.__dict__["_covariances"] = found
    return name, {**old, "_uncertainty": known}


def _covariances(name: str, old: Fields) -> tuple[str, Fields]:
    """Those of a posterior, or of a linear fit, are computed again."""
    if "beta" not in old:
        return name, old
    return "lmm.results.uncertainty:Covariances", {field: old[field] for field in ("beta", "joint", "message")}


def _one(name: str, old: Fields) -> tuple[str, Fields]:
    """What a batch's call gave was a dictionary, and its context apart."""
    if "context" not in old:
        return name, old
    given = Given(**old["given"], context=old["context"])
    return name, {**{field: value for field, value in old.items() if field != "context"}, "given": given}


def _design(name: str, old: Fields) -> tuple[str, Fields]:
    """What the predictor of the mean has were fields of the design."""
    if "predictors" in old:
        return name, old
    own = {field.name: old[field.name] for field in fields(Predictor) if field.name in old}
    rest = {field: value for field, value in old.items() if field not in own}
    return name, {**rest, "predictors": (Predictor("mean", **own),)}


CHANGED: dict[str, Callable[[str, Fields], tuple[str, Fields]]] = {
    "lmm.stream.recipe:TermColumns": _term_columns,
    "lmm.design.records:Design": _design,
    "lmm.model.records:Estimate": _estimate,
    "lmm.model.records:Report": _report,
    "lmm.api_batch:_One": _one,
    "lmm.results.fit:Fit": _fit,
    "lmm.results.uncertainty:Uncertainty": _covariances,
}
