"""The ways of estimating by name: where each lives, so that only the one asked for is imported.

A new one is a file in this room, with a class derived from :class:`lmm.estimators.estimator.Estimator`, and a line in ``METHODS``.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, NamedTuple

from lmm.errors import ArgumentError, nearest
from lmm.estimators.control import Control
from lmm.estimators.estimator import GENERALIZED, LINEAR, Estimator, adopted


class Method(NamedTuple):
    """Module and class of an estimator, and the settings that its name stands for."""

    module: str
    kind: str
    settings: dict[str, object]


#: name in ``method=`` -> estimator
METHODS: dict[str, Method] = {
    "reml": Method(
        "lmm.estimators.likelihood.maximum_likelihood", "MaximumLikelihood", {"reml": True}
    ),
    "ml": Method(
        "lmm.estimators.likelihood.maximum_likelihood", "MaximumLikelihood", {"reml": False}
    ),
    "laplace": Method(
        "lmm.estimators.laplace.laplace_likelihood", "LaplaceLikelihood", {"nagq": 1}
    ),
    "laplace_reml": Method(
        "lmm.estimators.laplace.restricted_laplace", "RestrictedLaplace", {"nagq": 1}
    ),
    "agq": Method("lmm.estimators.laplace.laplace_likelihood", "LaplaceLikelihood", {}),
    "em": Method("lmm.estimators.em", "ExpectationMaximization", {}),
    "mackay": Method("lmm.estimators.mackay", "MacKay", {}),
    "pql": Method("lmm.estimators.pql", "PenalizedQuasiLikelihood", {}),
    "nuts": Method("lmm.estimators.monte_carlo.nuts", "NUTS", {}),
    "vi": Method("lmm.estimators.variational.variational_bayes", "VariationalBayes", {}),
    "mcem": Method("lmm.estimators.monte_carlo.monte_carlo_em", "MonteCarloEM", {}),
}
#: quadrature points of "agq" where ``nAGQ`` does not say more
POINTS = 9


def by_name(name: str, model: str, **asked: Any) -> Estimator:
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
        raise ArgumentError(
            f"method={name!r} is not one of {', '.join(map(repr, known))}.{nearest(name, known)}"
        )
    if key == "agq":
        asked["nagq"] = (
            max(int(asked.get("nagq", 1)), POINTS)
            if asked.get("nagq", 1) <= 1
            else int(asked["nagq"])
        )
    kind = load(key)
    names = {field.name for field in dataclasses.fields(kind)}
    settings = METHODS[key].settings
    estimator = adopted(
        kind(**settings, **{k: v for k, v in asked.items() if k in names and k not in settings})
    )
    check_model(estimator, model, repr(name))
    return estimator


def adopt(method: object, model: str, control: Control | None) -> Estimator:
    """An estimator given as an object, with the call's ``control`` where one was given."""
    if isinstance(method, type):
        raise ArgumentError(
            f"method is the class {method.__name__}; give an object, method={method.__name__}(...)."
        )
    if not callable(getattr(method, "fit", None)):
        raise ArgumentError(
            f"method must be a name or an estimator with a fit() method, not {type(method).__name__}."
        )
    estimator = adopted(method)
    check_model(estimator, model, estimator.label)
    return estimator if control is None else estimator.with_control(control)


def load(name: str) -> Any:
    """The class behind a name."""
    method = METHODS[name]
    return getattr(importlib.import_module(method.module), method.kind)


def for_model(model: str) -> list[str]:
    """Names of the methods that take a model of this kind."""
    return [name for name in METHODS if model in getattr(load(name), "models", Estimator.models)]


def check_model(estimator: Estimator, model: str, name: str) -> None:
    """ArgumentError where an estimator does not take this kind of model."""
    if model not in estimator.models:
        raise ArgumentError(
            f"method={name} is for {estimator.models[0]} models, this one is {model}; methods for it are "
            f"{', '.join(map(repr, for_model(model)))}.{estimator.elsewhere}"
        )


__all__ = ["GENERALIZED", "LINEAR", "METHODS", "Method", "adopt", "by_name", "for_model", "load"]
