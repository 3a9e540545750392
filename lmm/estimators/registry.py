"""The ways of estimating by name: where each lives, so that only the one asked for is imported.

A method is a frozen dataclass with

    fit(problem, start=None, callback=None) -> Estimate

and, where it differs from the default, ``models`` (what it takes: "linear", "generalized"), ``control`` and ``reml``.
A new one is a file in this room and a line in ``METHODS``.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, NamedTuple

from lmm.errors import ArgumentError, nearest
from lmm.estimators.control import Control

LINEAR, GENERALIZED = "linear", "generalized"


class Method(NamedTuple):
    """Module and class of an estimator, and the settings that its name stands for."""

    module: str
    kind: str
    settings: dict[str, Any]


#: name in ``method=`` -> estimator
METHODS: dict[str, Method] = {
    "reml": Method("lmm.estimators.likelihood", "MaximumLikelihood", {"reml": True}),
    "ml": Method("lmm.estimators.likelihood", "MaximumLikelihood", {"reml": False}),
    "laplace": Method("lmm.estimators.laplace", "LaplaceLikelihood", {"nagq": 1}),
    "agq": Method("lmm.estimators.laplace", "LaplaceLikelihood", {}),
    "em": Method("lmm.estimators.em", "ExpectationMaximization", {}),
    "mackay": Method("lmm.estimators.mackay", "MacKay", {}),
    "pql": Method("lmm.estimators.pql", "PenalizedQuasiLikelihood", {}),
    "nuts": Method("lmm.estimators.nuts", "NUTS", {}),
    "vi": Method("lmm.estimators.variational", "VariationalBayes", {}),
    "mcem": Method("lmm.estimators.monte_carlo_em", "MonteCarloEM", {}),
}
#: quadrature points of "agq" where ``nAGQ`` does not say more
POINTS = 9


def by_name(name: str, model: str, **asked: Any) -> Any:
    """The estimator of that name for a linear or a generalized model.

    Parameters
    ----------
    asked : ``control``, ``reml``, ``nagq``: what the call asks for, given to an estimator that has such a setting.

    Raises
    ------
    ArgumentError : for a name that is unknown or not for this kind of model.
    """
    key = name.lower()
    if key not in METHODS:
        known = for_model(model)
        raise ArgumentError(f"method={name!r} is not one of {', '.join(map(repr, known))}.{nearest(name, known)}")
    kind = load(key)
    check_model(kind, model, repr(name))
    if key == "agq":
        asked["nagq"] = max(int(asked.get("nagq", 1)), POINTS) if asked.get("nagq", 1) <= 1 else int(asked["nagq"])
    names = {field.name for field in dataclasses.fields(kind)}
    settings = METHODS[key].settings
    return kind(**settings, **{k: v for k, v in asked.items() if k in names and k not in settings})


def adopt(method: Any, model: str, control: Control | None) -> Any:
    """An estimator given as an object, with the call's ``control`` where one was given."""
    if isinstance(method, type):
        raise ArgumentError(f"method is the class {method.__name__}; give an object, method={method.__name__}(...).")
    if not callable(getattr(method, "fit", None)):
        raise ArgumentError(f"method must be a name or an estimator with a fit() method, not {type(method).__name__}.")
    check_model(method, model, type(method).__name__)
    if control is not None and dataclasses.is_dataclass(method) and hasattr(method, "control"):
        chosen: Any = method
        return dataclasses.replace(chosen, control=control)
    return method


def load(name: str) -> Any:
    """The class behind a name."""
    method = METHODS[name]
    return getattr(importlib.import_module(method.module), method.kind)


def for_model(model: str) -> list[str]:
    """Names of the methods that take a model of this kind."""
    return [name for name in METHODS if model in _models(load(name))]


def check_model(estimator: Any, model: str, name: str) -> None:
    """ArgumentError where an estimator does not take this kind of model."""
    if model not in _models(estimator):
        own = next(iter(_models(estimator)))
        why = getattr(estimator, "elsewhere", "")
        raise ArgumentError(
            f"method={name} is for {own} models, this one is {model}; methods for it are {', '.join(map(repr, for_model(model)))}.{why}"
        )


def _models(estimator: Any) -> tuple[str, ...]:
    return tuple(getattr(estimator, "models", (LINEAR, GENERALIZED)))


def control_of(estimator: Any) -> Control:
    """The settings of an estimator, or the defaults."""
    return getattr(estimator, "control", None) or Control()
