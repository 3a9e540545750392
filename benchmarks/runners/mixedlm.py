"""mixedlm ``lmer`` (Rust)."""

from __future__ import annotations

from importlib.metadata import version

import mixedlm
import pandas as pd

from benchmarks.runners.protocol import Fitted, Job, run


def fit(job: Job, data: pd.DataFrame) -> Fitted:
    """One fit."""
    model = mixedlm.lmer(job.formula, data, REML=job.reml, weights=job.weights)
    return Fitted(
        float(model.logLik().value),
        model.function_evals,
        "" if model.converged else "not converged",
    )


if __name__ == "__main__":
    run(fit, version("mixedlm"))
