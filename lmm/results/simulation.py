"""New responses from a fitted model.

Linear: y* = X beta + Z b* + offset + e*, b* = sigma T u*, Var(e*_i) = sigma^2 / w_i. Generalized: y* from the family
with means g^-1(X beta + Z b* + offset), b* = T u*.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lmm.design.records import Design
from lmm.errors import ArgumentError
from lmm.model.conditional import scale2
from lmm.model.records import Estimate
from lmm.results import ordinal
from lmm.results.randomeffects import random_part
from lmm.results.rows import align, fixed_predictor, linear_predictor


def simulate_array(design: Design, estimate: Estimate, nsim: int, rng: np.random.Generator, use_u: bool) -> np.ndarray:
    """(n, nsim) responses of the kept rows, a new draw of everything random per column."""
    mean = linear_predictor(design, estimate) if use_u else fixed_predictor(design, estimate)
    family = estimate.family
    scale = estimate.sigma if design.weights is None else estimate.sigma / np.sqrt(design.weights)
    relative = np.sqrt(scale2(estimate))
    out = np.empty((design.n, nsim), order="F")
    for column in out.T:
        column[:] = mean
        if not use_u:
            for term, T in zip(design.terms, estimate.factors, strict=True):
                b = rng.standard_normal((term.J, term.k)) @ (relative * T.T)
                column += random_part(term.values, term.codes, b)
        if family is None:
            column += scale * rng.standard_normal(design.n)
        else:
            column[:] = family.simulate(rng, family.mean(column), design.weights, estimate.phi)
    return out


def simulate(design: Design, estimate: Estimate, nsim: int, rng: None | int | np.random.Generator, use_u: bool) -> pd.DataFrame:
    """Simulated responses on the user's index, columns ``sim_1, ...``. See :meth:`lmm.Fit.simulate`."""
    if isinstance(nsim, bool) or not isinstance(nsim, (int, np.integer)) or nsim < 1:
        raise ArgumentError(f"simulate: nsim={nsim!r} must be a positive whole number.")
    draws = simulate_array(design, estimate, int(nsim), np.random.default_rng(rng), use_u)
    values, index = align(design, draws)
    names = [f"sim_{i + 1}" for i in range(nsim)]
    if ordinal.is_ordinal(estimate.family):
        columns = {name: ordinal.categorical(estimate.family, column) for name, column in zip(names, values.T, strict=True)}
        return pd.DataFrame(columns, index=index)
    return pd.DataFrame(values, index=index, columns=names)
