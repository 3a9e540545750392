"""Residuals of a linear model for other responses, at its own relative covariance parameters.

For a response y* the fixed effects, modes and sigma are estimated again at the theta of the fit, and the residuals
sqrt(w) (y* - X beta* - Z b*) / sigma* show what the model leads one to expect of residuals: fitting makes them smaller than the errors and
ties them together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmm.design.design import Design
from lmm.estimators.control import Control
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.linalg import threads
from lmm.model.problem import Problem
from lmm.model.records import Estimate


def scaled_residuals(
    design: Design,
    problem: Problem,
    estimate: Estimate,
    responses: np.ndarray,
    sigma: float | None = None,
) -> np.ndarray:
    """Scaled residuals (n, S) of responses (n, S); ``sigma`` where it is known."""
    method = MaximumLikelihood(estimate.reml, Control(evaluate_only=True), sigma)
    root = None if design.weights is None else np.sqrt(design.weights)
    Z = design.Z
    out = np.empty(responses.shape, order="F")
    with threads.limited():
        for column, y in zip(out.T, responses.T, strict=True):
            new = method.fit(problem.with_response(replace(design, y=y)), estimate.theta)
            fitted = design.X @ new.beta + Z @ np.concatenate(
                [modes.ravel() for modes in new.modes]
            )
            column[:] = y - fitted if design.offset is None else y - fitted - design.offset
            column /= new.sigma
            if root is not None:
                column *= root
    return out
