"""The pictures that are compared with stored images, by file name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from tests.plots import fits

PICTURES: dict[str, Callable[[], Any]] = {
    "ranef_sleep": lambda: fits.sleep().plot.ranef(),
    "ranef_radon": lambda: fits.radon().plot.ranef(),
    "ranef_qq_sleep": lambda: fits.sleep().plot.ranef_qq(),
    "shrinkage_sleep": lambda: fits.sleep().plot.shrinkage(),
    "shrinkage_herds": lambda: fits.herds().plot.shrinkage(),
    "residuals_radon": lambda: fits.radon().plot.residuals(),
    "scale_location_sleep": lambda: fits.sleep().plot.scale_location(),
    "qq_sleep": lambda: fits.sleep().plot.qq(),
    "residuals_by_group_sleep": lambda: fits.sleep().plot.residuals_by_group(),
    "simulated_residuals_ticks": lambda: fits.ticks().plot.simulated_residuals(nsim=100),
    "simulated_responses_ticks": lambda: fits.ticks().plot.simulated_responses(),
    "profile_sleep": lambda: fits.sleep().plot.profile(fits.profile()),
    "profile_pairs_sleep": lambda: fits.sleep().plot.profile_pairs(
        fits.profile(), ["sd_(Intercept)|Subject", "sigma", "Days"]
    ),
    "predictions_sleep": lambda: fits.sleep().plot.predictions("Days", groups=True),
    "predictions_ticks": lambda: fits.ticks().plot.predictions("cHEIGHT", by="YEAR"),
    "predictions_wine": lambda: fits.wine().plot.predictions("temp"),
    "by_group_sleep": lambda: fits.sleep().plot.by_group(),
    "bootstrap_sleep": lambda: fits.sleep().plot.bootstrap(nsim=100),
    "influence_sleep": lambda: fits.sleep().plot.influence(),
    "coefficients_herds": lambda: fits.herds().plot.coefficients(),
    "check_sleep": lambda: fits.sleep().plot.check(nsim=60),
    "check_herds": lambda: fits.herds().plot.check(nsim=60),
}
#: dots per inch of the stored images
DPI = 50


def save(name: str, path: Any) -> None:
    """Draw a picture in matplotlib's default style into a file."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        drawn = PICTURES[name]()
        first = np.ravel(np.asarray(drawn, dtype=object))[0]
        figure = first if hasattr(first, "savefig") else first.figure
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
        plt.close(figure)
