"""One model, many responses: a row of estimates for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.errors import DataError
from lmm.formula.columns.given import numeric
from lmm.inference.refits import refits
from lmm.results.tables import parameter_table
from lmm.results.text.progress_bar import bar

if TYPE_CHECKING:
    from lmm.results.fit import Fit


def refit_many(fit: Fit, Y: object, progress: bool | None) -> pd.DataFrame:
    """Estimates of every column of Y. See :meth:`lmm.Fit.refit_many`."""
    design, estimate = fit.design, fit.estimate
    refusal = (
        "refit_many: for linear and generalized likelihood fits; use refit() for each response."
    )
    estimate.require_likelihood(refusal)
    estimate.distribution.require_mean(refusal)
    labels = pd.Index(Y.columns) if hasattr(Y, "columns") else None
    what = "refit_many: Y"
    rows = design.aligned(Y, what)
    values = numeric(rows, what)
    if values.ndim != 2:
        raise DataError(
            f"refit_many: Y has shape {values.shape}; it must have a row per row of the data and a column per response."
        )
    if not values.shape[1]:
        raise DataError("refit_many: Y has no columns, so there is no response to fit.")
    finite = np.isfinite(values).all(axis=0)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        name = first if labels is None else labels[first]
        raise DataError(
            f"refit_many: response {name!r} has missing or infinite values in rows used; leave it out, or fit it by itself."
        )
    for column in values.T:
        estimate.distribution.check(column, design.weights, design.response)
    width = max(1, refits.HELD // design.n)
    with bar(values.shape[1], "refits", progress) as told:
        slabs = (values[:, first : first + width] for first in range(0, values.shape[1], width))
        batch = refits.of_responses(design, fit.problem, fit._method, estimate, slabs, False, told)
    table = parameter_table.of_batch(design, estimate, batch)
    errors = parameter_table.errors_of_batch(design, estimate, batch)
    table = table.join(errors.add_prefix("se_"))
    table["llf"] = -batch.objective / 2.0
    table["converged"] = [i not in batch.failures for i in range(batch.size)]
    table["message"] = [batch.failures.get(i, "") for i in range(batch.size)]
    return table if labels is None else table.set_axis(labels)
