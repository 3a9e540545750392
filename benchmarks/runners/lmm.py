"""lmm itself: ``lmm.lmer`` or ``lmm.glmer`` from formula and DataFrame to fitted object, default settings."""

from __future__ import annotations

import pandas as pd

import lmm
from benchmarks.runners.protocol import Fitted, Job, run


def fit(job: Job, data: pd.DataFrame) -> Fitted:
    """One fit."""
    if job.family is not None:
        model = lmm.glmer(job.formula, data, family=job.family, weights=job.weights)
    else:
        model = lmm.lmer(job.formula, data, REML=job.reml, weights=job.weights)
    return Fitted(
        float(model.llf),
        model.convergence.evaluations,
        "" if model.convergence.converged else "not converged",
    )


if __name__ == "__main__":
    run(fit, lmm.__version__)
