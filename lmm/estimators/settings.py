"""Settings of the estimators, checked in one place when one is made; the estimator's name stands first in what is said.

A rule is a function of a value and its name that returns the value in the type that is wanted, or raises ArgumentError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from lmm import arguments
from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.estimators.estimator import Estimator

Rule = Callable[[object, str], object]

POSITIVE: Rule = partial(arguments.number, above=0)
NOT_NEGATIVE: Rule = partial(arguments.number, least=0)
COUNT: Rule = partial(arguments.whole, least=1)
PROBABILITY: Rule = partial(arguments.number, above=0, below=1)
FLAG: Rule = arguments.flag
FLAG_OR_NONE: Rule = arguments.flag_or_none


def or_none(rule: Rule) -> Rule:
    """None, or what the rule takes."""
    return lambda value, name: None if value is None else rule(value, name)


def one_of(*options: str) -> Rule:
    """One of some words."""
    return partial(arguments.choice, options=options)


def word_or_number(*words: str) -> Rule:
    """One of some words, or a positive number."""

    def rule(value: object, name: str) -> object:
        if isinstance(value, str):
            if value not in words:
                raise ArgumentError(
                    f"{name}={value!r} must be {', '.join(map(repr, words))} or a positive number."
                )
            return value
        return arguments.number(value, name, above=0)

    return rule


def RNG(value: object, name: str) -> object:
    """A seed, a generator, or None; kept as it is."""
    arguments.generator(value, name)
    return value


def CONTROL(value: object, name: str) -> Control:
    """Settings of an optimisation."""
    if not isinstance(value, Control):
        raise ArgumentError(f"{name}={arguments.shown(value)} must be an lmm.Control(...).")
    return value


def PRIORS(value: object, name: str) -> object:
    """A mapping of names to priors, or None; a model says which names it has."""
    if value is not None and not isinstance(value, Mapping):
        kind = type(value).__name__
        raise ArgumentError(
            f"{name}: priors must be a mapping such as {{'beta': lmm.priors.Normal(0, 1)}}, not {kind}."
        )
    return value


def check_settings(estimator: object, **rules: Rule) -> None:
    """Check the settings of an estimator, a frozen dataclass, and keep them in the type that is wanted."""
    for key, rule in rules.items():
        value = rule(getattr(estimator, key), f"{type(estimator).__name__}: {key}")
        object.__setattr__(estimator, key, value)


def refuse_evaluation(estimator: Estimator, why: str) -> None:
    """ArgumentError where a method that has nothing to evaluate at given variances is asked to do only that."""
    if estimator.control.evaluate_only:
        raise ArgumentError(f"evaluate_only=True: {why}; at given variances use lmm.solve.")
