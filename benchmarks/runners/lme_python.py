"""lme-python ``lmer`` (Rust)."""

from __future__ import annotations

from importlib.metadata import version

import lme_python
import pandas as pd

from benchmarks.runners.protocol import Fitted, Job, run


def fit(job: Job, data: pd.DataFrame) -> Fitted:
    """One fit."""
    if job.weights:
        model = lme_python.lmer_weighted(
            job.formula, data, reml=job.reml, weights=data[job.weights].tolist()
        )
    else:
        model = lme_python.lmer(job.formula, data, reml=job.reml)
    return Fitted(
        float(model.log_likelihood), model.iterations, "" if model.converged else "not converged"
    )


if __name__ == "__main__":
    run(fit, version("lme-python"))
