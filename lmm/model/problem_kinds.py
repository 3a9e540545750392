"""The kinds of problems that a mixed model is reduced to."""

from lmm.model.marginal.marginal_problem import MarginalProblem
from lmm.model.problem import GeneralizedProblem, Problem

LinearProblem = Problem | MarginalProblem
AnyProblem = Problem | GeneralizedProblem | MarginalProblem

__all__ = ["AnyProblem", "GeneralizedProblem", "LinearProblem", "MarginalProblem", "Problem"]
