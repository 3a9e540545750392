"""Ways of estimating: each takes a Problem and returns an Estimate."""

from lmm.estimators.base import Estimator
from lmm.estimators.control import Control
from lmm.estimators.likelihood import MaximumLikelihood

__all__ = ["Control", "Estimator", "MaximumLikelihood"]
