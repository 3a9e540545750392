"""Starting values that a user gives, checked against the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError

#: standard deviations relative to sigma, per root mean square of the column, beyond which nothing is left of the residual
LARGEST = 1e6


def check_start(
    start: object, design: Design, problem: Any, required: bool = False
) -> np.ndarray | None:
    """Parameters from what the user gave; None to begin from moments.

    An array or a Series is theta (m,), which a generalized model may have beta (p,) and the family's parameters after;
    ``{"theta": ..., "beta": ..., "phi": ...}`` names them.
    """
    names = [
        f"{term.group}: {'.'.join(n)}"
        for term in design.varying
        for n in term.structure.theta_names(term.columns)
    ]
    parts = problem.parameter_lengths()
    if start is None:
        if required:
            raise ArgumentError(
                f"evaluate_only=True needs start=, the {len(names)} parameters {'; '.join(names)}."
            )
        return None
    if isinstance(start, Mapping):
        if "beta" in start and "beta" not in parts:  # profiled out, as in lme4
            start = {key: value for key, value in start.items() if key != "beta"}
            if not start:
                return check_start(None, design, problem, required)
        unknown = [key for key in start if key not in parts]
        if unknown or "theta" not in start or ("phi" in start and "beta" not in start):
            known = ", ".join(map(repr, parts))
            keys = (
                f"the one key {known}"
                if len(parts) == 1
                else f"the keys {known}, each needing those before it"
            )
            raise ArgumentError(
                f"start={{...}} has {keys}; it was given {', '.join(map(repr, start)) or 'none'}."
            )
        start = [
            value
            for key in parts
            if key in start
            for value in np.atleast_1d(_in_order(start[key], key, design))
        ]
    try:
        theta = np.atleast_1d(np.asarray(start, dtype=float))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"start must hold numbers, the parameters {'; '.join(names)}."
        ) from error
    lengths = np.cumsum(list(parts.values()))
    if theta.ndim != 1 or len(theta) not in lengths:
        more = (
            ""
            if len(parts) == 1
            else f", or with {' and '.join(list(parts)[1:])} after them {', '.join(map(str, lengths[1:]))}"
        )
        raise ArgumentError(
            f"start has shape {theta.shape}; this model has {problem.n_theta} parameters: {'; '.join(names)}{more}."
        )
    if not np.all(np.isfinite(theta)):
        raise ArgumentError("start holds values that are not finite.")
    check_size(theta, problem, "start")
    if "phi" in parts and len(theta) == lengths[-1]:
        problem.family.check_parameters(theta[-parts["phi"] :])
    return theta


def check_size(theta: np.ndarray, problem: Any, what: str) -> None:
    """ArgumentError where theta, first of the parameters, has standard deviations at which the criterion has no digits left."""
    terms = zip(
        problem.structures, problem.split(theta[: problem.n_theta]), problem.grams(), strict=True
    )
    largest = max(
        float(np.max(np.abs(s.standardised(own, gram)), initial=0.0)) for s, own, gram in terms
    )
    if not largest < LARGEST:
        raise ArgumentError(
            f"{what} has random effects {largest:.0e} times as large as the residuals, where the criterion cannot be computed; "
            "theta are standard deviations relative to sigma, of order 1."
        )


def _in_order(values: Any, key: str, design: Design) -> Any:
    """Coefficients that are named, a mapping or a Series, in the order of the fixed columns; anything else as it is."""
    if key != "beta" or not (
        isinstance(values, Mapping) or hasattr(values, "index") and hasattr(values, "to_dict")
    ):
        return values
    named = dict(values)
    if set(named) != set(design.names):
        raise ArgumentError(
            f"start={{'beta': ...}} must name the coefficients {', '.join(design.names)}; it names {', '.join(map(str, named)) or 'none'}."
        )
    return [named[name] for name in design.names]
