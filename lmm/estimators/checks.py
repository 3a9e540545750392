"""Settings that several methods have, checked in one place; a method's name stands first in what is said."""

from __future__ import annotations

from typing import Any

from lmm.errors import ArgumentError


def check_positive(estimator: Any, names: tuple[str, ...]) -> None:
    """ArgumentError unless each of these settings is positive, a word, or None."""
    for name in names:
        value = getattr(estimator, name)
        if value is not None and not isinstance(value, str) and not value > 0:
            raise ArgumentError(f"{type(estimator).__name__}: {name}={value!r} must be positive.")


def refuse_evaluation(estimator: Any, why: str) -> None:
    """ArgumentError where a method that has nothing to evaluate at given variances is asked to do only that."""
    if estimator.control.evaluate_only:
        raise ArgumentError(f"evaluate_only=True: {why}; at given variances use lmm.solve.")
