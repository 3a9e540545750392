"""statsmodels ``MixedLM``: one grouping factor, one structure of random effects."""

from __future__ import annotations

import warnings
from importlib.metadata import version

import pandas as pd
from statsmodels.regression.mixed_linear_model import MixedLM

from benchmarks.runners.protocol import CannotFit, Fitted, Job, run, split_formula


def fit(job: Job, data: pd.DataFrame) -> Fitted:
    """One fit."""
    response, fixed, terms = split_formula(job.formula)
    if len(terms) > 1:
        raise CannotFit("crossed factors")
    if job.weights:
        raise CannotFit("weights")
    columns, group = terms[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = MixedLM.from_formula(
            f"{response} ~ {fixed.replace('^', '**')}",
            data,
            re_formula=f"~ {columns}",
            groups=data[group],
        )
        result = model.fit(reml=job.reml)
    return Fitted(
        float(result.llf),
        None,
        "" if result.converged else f"not converged ({len(caught)} warnings)",
    )


if __name__ == "__main__":
    run(fit, version("statsmodels"))
