"""What of zero inflation the data do not bound: a share of excess zeros that vanishes, or that reaches 0 or 1 in some rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from lmm.design.predictors.stacked_design import Place
from lmm.families.joint.joint_density import JointDensity
from lmm.model.records import Estimate

#: probability of an excess zero, or of none, under which it counts as zero
NONE = 1e-5
VANISHED = "Zero inflation vanishes"
#: what a search says that ended where Laplace's approximation does, and what is said of it
BESIDE = "stopped beside parameters without a likelihood"
TWO_MODES = (
    "stopped where Laplace's approximation ends, because given the data random effects are nearly as uncertain as they are beforehand, or "
    "have two modes (few excess zeros can be told from zeros of the family); take random effects out of ziformula= or dispformula="
)


def with_limits(
    estimate: Estimate, density: JointDensity, places: Sequence[Place], names: Sequence[str]
) -> Estimate:
    """The estimate of all predictors with messages about zeros, and with the directions that have no end."""
    if not estimate.convergence.converged and estimate.convergence.message.startswith(BESIDE):
        estimate = replace(estimate, convergence=replace(estimate.convergence, message=TWO_MODES))
    if not density.inflated:
        return estimate
    m = density.m
    eta = np.asarray(estimate.eta).reshape(m * (m + 1) // 2, -1)[density.names.index("zi")]
    p, q = special.expit(eta), special.expit(-eta)
    place = places[density.names.index("zi")]
    own = range(place.beta.start, place.beta.stop)
    if p.max() < NONE and not density.is_hurdle:
        text = (
            f"{VANISHED}: the estimated probability of an excess zero is {p.max():.1g} at most, so that the fit equals one without "
            "ziformula=, whose coefficients mean nothing."
        )
        endless = np.zeros((len(names), len(own)))
        endless[list(own), range(len(own))] = 1.0
        return replace(
            estimate,
            messages=(*estimate.messages, text),
            unbounded={**estimate.unbounded, **{names[j]: (True, True) for j in own}},
            endless=endless,
        )
    for share, end in ((p, 0), (q, 1)):
        at_end = int(np.sum(share < NONE))
        if at_end:
            text = (
                f"Probabilities of an excess zero reach {end} in {at_end} of {len(eta)} rows: coefficients of ziformula= grow without "
                "bound there, and their standard errors mean nothing; leave terms out or merge levels."
            )
            return replace(estimate, messages=(*estimate.messages, text))
    return estimate
