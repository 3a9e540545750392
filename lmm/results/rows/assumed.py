"""A fit's parameters with some replaced by assumed ones: what a simulation is to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError, nearest
from lmm.model.records import Estimate
from lmm.results.tables import parameter_table
from lmm.results.tables.naming import quantity_names


def assume(design: Design, estimate: Estimate, parameters: Mapping[str, float] | None) -> Estimate:
    """The estimate with the parameters given, named as the rows of ``confint()``: coefficients, ``sd_...``, ``cor_...``, ``sigma``.

    Standard deviations and correlations that are not given stay what they are.

    Raises
    ------
    ArgumentError : for a name that is none, a negative standard deviation, or correlations that no covariance matrix has.
    """
    if not parameters:
        return estimate
    values = parameter_table.of_estimate(design, estimate)
    names = parameter_table.names(design, estimate)[1][: design.p]
    for name, value in parameters.items():
        if name not in values.index:
            raise ArgumentError(
                f"parameters: there is no {name!r}; there is {', '.join(map(str, values.index))}.{nearest(name, values.index)}"
            )
        if not np.isfinite(float(value)) or (
            float(value) < 0 and name.startswith(("sigma", "sd", "range", "smoothness"))
        ):
            raise ArgumentError(
                f"parameters: {name}={value!r} must be a {'number' if name in names else 'non-negative number'}."
            )
        values[name] = float(value)
    sigma = float(values["sigma"]) if estimate.residual_sd is not None else float(estimate.sigma)
    if estimate.family is None and not sigma > 0:
        raise ArgumentError(
            "parameters: sigma must be positive; everything else is measured by it."
        )
    phi = estimate.phi
    if estimate.distribution.has_dispersion and "sigma" in parameters:
        phi = sigma**2
    changed = replace(estimate, beta=values[names].to_numpy(dtype=float), sigma=sigma, phi=phi)
    theta, factors = [], []
    for term in design.varying:
        wanted = values[quantity_names(term)].to_numpy(dtype=float)
        own = term.structure.of_values(wanted, float(np.sqrt(changed.scale2)))
        if own is None:
            raise ArgumentError(
                f"parameters: the correlations of {term.group} are those of no covariance matrix."
            )
        theta.append(own)
        factors.append(term.structure.factor(own))
    count = len(design.terms)
    return replace(
        changed,
        theta=np.concatenate(theta),
        factors=tuple(factors[:count]),
        residual=tuple(factors[count:]),
    )
