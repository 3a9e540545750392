"""When two fits are the same: same model, same rows, same numbers up to rounding."""

from __future__ import annotations

import numpy as np

from lmm.design.design import Design
from lmm.model.records import Estimate

#: relative to the size of the numbers compared; threads may sum in another order
RTOL = 1e-8


def same_design(a: Design, b: Design) -> bool:
    """Names, levels, response, weights and offset agree."""
    if (str(a.formula), a.names, a.dropped, a.n, len(a.terms)) != (
        str(b.formula),
        b.names,
        b.dropped,
        b.n,
        len(b.terms),
    ):
        return False
    for s, t in zip(a.terms, b.terms, strict=True):
        if (s.group, s.columns, s.structure, s.J) != (
            t.group,
            t.columns,
            t.structure,
            t.J,
        ) or not s.levels.equals(t.levels):
            return False
    return a.rows.same(b.rows)


def same_estimate(a: Estimate, b: Estimate) -> bool:
    """Method, parameters, modes and criterion agree to ``RTOL``."""
    if (a.method, a.reml, len(a.modes), a.family, a.nagq) != (
        b.method,
        b.reml,
        len(b.modes),
        b.family,
        b.nagq,
    ):
        return False
    pairs = [
        (a.beta, b.beta),
        (a.beta_cov_unscaled, b.beta_cov_unscaled),
        (a.theta, b.theta),
        (a.sigma, b.sigma),
        (a.phi, b.phi),
        (a.objective, b.objective),
        (a.elbo, b.elbo),
        *zip(a.modes, b.modes, strict=True),
    ]
    return all(_close(np.asarray(x), np.asarray(y)) for x, y in pairs)


def _close(x: np.ndarray, y: np.ndarray) -> bool:
    """Equal up to rounding; what is missing in one is missing in the other."""
    if x.shape != y.shape:
        return False
    both = np.abs(np.concatenate([x.ravel(), y.ravel()]))
    scale = float(np.max(both[np.isfinite(both)], initial=0.0))
    with np.errstate(invalid="ignore"):
        near = np.abs(x - y) <= RTOL * scale
    return bool(np.all(near | (x == y) | (np.isnan(x) & np.isnan(y))))
