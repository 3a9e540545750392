"""What a file of a fit may hold: the closed list of records, functions and modules that have a name in it."""

from __future__ import annotations

import enum
import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any

from lmm.design.cells import cells
from lmm.errors import ArgumentError

#: bytes up to which an array stands among the nodes
SMALL = 512
#: entries of an array that repeats one value, at the most
LARGEST_REPEAT = 2**40

#: parts of the package whose records a file may hold
ROOMS = (
    "covariance",
    "design",
    "estimators",
    "families",
    "formula",
    "inference",
    "known",
    "linalg",
    "model",
    "results",
    "stream",
)
#: formulaic's records
FORMULAIC = {
    "formulaic.formula": ("SimpleFormula", "OrderingMethod"),
    "formulaic.materializers.base": ("EncodedTermStructure",),
    "formulaic.materializers.types.enums": ("ClusterBy", "NAAction"),
    "formulaic.materializers.types.evaluated_factor": ("EvaluatedFactor",),
    "formulaic.materializers.types.scoped_factor": ("ScopedFactor",),
    "formulaic.materializers.types.scoped_term": ("ScopedTerm",),
    "formulaic.model_spec": ("ModelSpec",),
    "formulaic.parser.types.factor": ("Factor", "Factor.EvalMethod", "Factor.Kind"),
    "formulaic.parser.types.term": ("Term",),
    "formulaic.parser.types.token": ("Token", "Token.Kind"),
    "formulaic.transforms.contrasts": (
        *(
            f"{name}Contrasts"
            for name in ("Custom", "Diff", "Helmert", "Poly", "SAS", "Sum", "Treatment")
        ),
        "ContrastsState",
    ),
    "formulaic.utils.sentinels": ("Sentinel",),
    "formulaic.utils.variables": ("Variable", "Variable.Role"),
}
#: what a record keeps to save time, or has open; and records of these modules that have files open
LEFT_BEHIND = frozenset({"_labels", "_hash"})
NOT_RECORDS = frozenset({"Evaluate", "Locate", "Numbered"})
#: classes that are records without being declared so
PLAIN = frozenset(
    {
        "Interaction",
        "Uncertain",
        "Logistic",
        "Extreme",
        "Normal",
        "StreamedRows",
        "Spill",
        "_Unread",
    }
)
#: modules that a formula may use by name, and functions of Python itself
LIBRARIES = ("numpy", "pandas", "scipy", "scipy.special", "math")
BUILTINS = (
    "abs",
    "bool",
    "divmod",
    "float",
    "int",
    "len",
    "max",
    "min",
    "pow",
    "range",
    "round",
    "str",
    "sum",
)
#: functions that repeat a call; the modules above this one make them known
CALLS = ("lmm.api.lmer.run", "lmm.api.glmer.run_generalized")
#: functions of ours that a record holds with their first arguments
FUNCTIONS: dict[str, Callable[..., Any]] = {"lmm.design.cells.cells": cells}
MASKED = (
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Float32",
    "Float64",
    "boolean",
)


@dataclass(frozen=True)
class Needed:
    """Stands for a function that a file could not hold; using it says how to give it."""

    name: str

    def _refuse(self) -> ArgumentError:
        return ArgumentError(
            f"the formula uses {self.name!r}, a function or object of yours that the file of this fit does not hold; give it: "
            f"lmm.load(path, functions={{{self.name!r}: {self.name}}})"
        )

    def __call__(self, *given: Any, **named: Any) -> Any:
        raise self._refuse()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._refuse()


@functools.cache
def modules() -> frozenset[str]:
    """Names of the modules whose records a file may hold, none of which is imported for it."""
    found = {"lmm.priors", "lmm.api.batches", *FORMULAIC}
    for room in ROOMS:
        package = importlib.import_module(f"lmm.{room}")
        found |= {
            module.name
            for module in pkgutil.walk_packages(package.__path__, f"lmm.{room}.")
            if not module.ispkg
        }
    return frozenset(found)


@functools.cache
def records(module: str) -> dict[str, type]:
    """The classes of one of these modules that a file may hold, by ``module:name``."""
    if module not in modules():
        return {}
    own = importlib.import_module(module)
    if module not in FORMULAIC:
        classes = [
            kind
            for kind in vars(own).values()
            if isinstance(kind, type) and kind.__module__ == module
        ]
        return {name_of(kind): kind for kind in classes if _is_record(kind)}
    found = {}
    for path in FORMULAIC[module]:
        part: Any = own
        for step in path.split("."):
            part = getattr(part, step, None)
        if isinstance(part, type):
            found[f"{module}:{path}"] = part
    return found


def record(name: str) -> type | None:
    """The class of that ``module:name``, where a file may hold it."""
    return records(name.partition(":")[0]).get(name)


def _is_record(kind: type) -> bool:
    """A dataclass, a named tuple, an enumeration, or one of a few plain classes."""
    plain = (
        is_dataclass(kind)
        or issubclass(kind, enum.Enum)
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )
    return (plain or kind.__name__ in PLAIN) and kind.__name__ not in NOT_RECORDS


def name_of(kind: type) -> str:
    """``module:name`` of a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


class Broken(Exception):
    """Why a file is none of ours, or damaged."""
