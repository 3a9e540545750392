"""What solves alone give after a generalized fit with iterative terms: the working linear model at the modes."""

from __future__ import annotations

import numpy as np

from lmm.linalg import threads
from lmm.model.gaussian import Value
from lmm.model.iterative import IterativeArrangement
from lmm.model.passes import Weighted
from lmm.model.problem import GeneralizedProblem
from lmm.model.records import Estimate
from lmm.model.solves import Solves


@threads.limited()
def working_solves(problem: GeneralizedProblem, estimate: Estimate) -> Solves:
    """The factorised system of the working linear model, W the family's working weights; sigma^2 is 1.

    ``value`` holds (Q'V^-1Q)^-1 alone.
    """
    rows = problem.rows
    at = IterativeArrangement(rows, list(estimate.factors))
    W = problem.family.working_weights(rows.y, estimate.eta, rows.weights, estimate.phi)
    factor = at.factorize(at.system(Weighted(*rows.products(W), None, None)))
    WQ = rows.Q * W[:, None]
    solved, residual, inner = at.solve(factor, rows.column_sums(WQ))
    information = rows.Q.T @ WQ - inner
    cov = np.linalg.inv(information) if len(information) else np.zeros((0, 0))
    value = Value(np.nan, np.zeros(len(cov)), cov, np.nan)
    return Solves(at.plan, factor.exact, factor.system.coupled, factor.at, value, solved, residual)
