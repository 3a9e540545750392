"""Simulated responses on the user's index."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.arguments import generator as random_generator
from lmm.arguments import whole
from lmm.design.design import Design
from lmm.inference.refits.simulated_responses import simulate_array
from lmm.memory import require
from lmm.model.records import Estimate
from lmm.results.rows.row_values import align


def simulate(
    design: Design,
    estimate: Estimate,
    nsim: int,
    rng: None | int | np.random.Generator,
    use_u: bool,
) -> pd.DataFrame:
    """Simulated responses on the user's index, columns ``sim_1, ...``. See :meth:`lmm.Fit.simulate`."""
    nsim = whole(nsim, "simulate: nsim", least=1)
    require(
        8.0 * design.n * nsim,
        f"simulate: {nsim:,} columns of {design.n:,} rows",
        "take fewer, nsim=, one set after another",
    )
    draws = simulate_array(design, estimate, nsim, random_generator(rng), use_u)
    values, index = align(design, draws)
    names = [f"sim_{i + 1}" for i in range(nsim)]
    family = estimate.distribution
    if family.has_mean:
        return pd.DataFrame(values, index=index, columns=names)
    return pd.DataFrame(
        {name: family.labels(column) for name, column in zip(names, values.T, strict=True)},
        index=index,
    )
