"""Starting values that a user gives, checked against the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lmm.design.records import Design
from lmm.errors import ArgumentError
from lmm.model.problem import Problem


def check_start(start: Any, design: Design, problem: Problem, required: bool = False) -> np.ndarray | None:
    """theta (m,) from what the user gave: an array, a Series, or ``{"theta": array}``; None for moments."""
    names = [f"{term.group}: {'.'.join(n)}" for term in design.terms for n in term.structure.theta_names(term.columns)]
    if start is None:
        if required:
            raise ArgumentError(f"evaluate_only=True needs start=, the {len(names)} parameters {'; '.join(names)}.")
        return None
    if isinstance(start, Mapping):
        unknown = [key for key in start if key != "theta"]
        if unknown or "theta" not in start:
            raise ArgumentError(f"start={{...}} has the one key 'theta'; {', '.join(map(repr, unknown)) or 'it'} is not known.")
        start = start["theta"]
    try:
        theta = np.atleast_1d(np.asarray(start, dtype=float))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"start must hold numbers, the parameters {'; '.join(names)}.") from error
    if theta.shape != (problem.n_theta,):
        raise ArgumentError(f"start has shape {theta.shape}; this model has {problem.n_theta} parameters: {'; '.join(names)}.")
    if not np.all(np.isfinite(theta)):
        raise ArgumentError("start holds values that are not finite.")
    return theta
