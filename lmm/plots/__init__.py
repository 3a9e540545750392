"""Pictures of a fit; matplotlib is imported here alone. ``fit.plot.ranef()`` and ``lmm.plots.ranef(fit)`` are the same."""

from lmm.plots.accessor import Plots
from lmm.plots.fixed_effects import coefficients
from lmm.plots.overview import check
from lmm.plots.pooling import shrinkage
from lmm.plots.predicted import by_group, predictions
from lmm.plots.profile_pictures import profile, profile_pairs
from lmm.plots.quantiles import qq
from lmm.plots.random_effects import ranef, ranef_qq
from lmm.plots.resampled import bootstrap, influence
from lmm.plots.residual_pictures import residuals, residuals_by_group, scale_location
from lmm.plots.simulated import simulated_residuals, simulated_responses

__all__ = [
    "Plots",
    "bootstrap",
    "by_group",
    "check",
    "coefficients",
    "influence",
    "predictions",
    "profile",
    "profile_pairs",
    "qq",
    "ranef",
    "ranef_qq",
    "residuals",
    "residuals_by_group",
    "scale_location",
    "shrinkage",
    "simulated_residuals",
    "simulated_responses",
]
