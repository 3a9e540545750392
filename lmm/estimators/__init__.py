"""Ways of estimating: each takes a Problem and returns an Estimate."""

from lmm.estimators.control import Control
from lmm.estimators.estimator import Estimator
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood

__all__ = ["Control", "Estimator", "MaximumLikelihood"]
