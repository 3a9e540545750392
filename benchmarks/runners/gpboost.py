"""gpboost ``GPModel`` with grouped random effects: maximum likelihood only, slopes independent of intercepts."""

from __future__ import annotations

from importlib.metadata import version

import gpboost
import numpy as np
import pandas as pd
from formulaic import model_matrix

from benchmarks.runners.protocol import CannotFit, Fitted, Job, run, split_formula


def fit(job: Job, data: pd.DataFrame) -> Fitted:
    """One fit."""
    response, fixed, terms = split_formula(job.formula)
    if job.weights:
        raise CannotFit("weights")
    X = np.asarray(model_matrix(fixed, data), dtype=float)
    groups, slopes, owner = [], [], []
    for number, (columns, group) in enumerate(terms, start=1):
        groups.append(pd.factorize(data[group])[0])
        Z = model_matrix(columns, data)
        for name in Z.columns:
            if name != "Intercept":
                slopes.append(np.asarray(Z[name], dtype=float))
                owner.append(number)
    model = gpboost.GPModel(
        group_data=np.column_stack(groups),
        group_rand_coef_data=np.column_stack(slopes) if slopes else None,
        ind_effect_group_rand_coef=owner or None,
        likelihood="gaussian",
    )
    model.fit(y=data[response].to_numpy(dtype=float), X=X)
    notes = ["ML"] if job.reml else []
    if slopes:
        notes.append("independent slopes: a smaller model")
    return Fitted(-float(model.get_current_neg_log_likelihood()), None, "; ".join(notes))


if __name__ == "__main__":
    run(fit, version("gpboost"))
