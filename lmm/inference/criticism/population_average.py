"""Population averages of a generalized model: E[g^-1(x'beta + z'b)] over the distribution of the random effects.

The linear predictor of a new level is normal with mean x'beta (offset included) and variance s^2 = z'Gz summed over
the terms, so the average is an integral in one dimension whatever the random effects,

    m = int g^-1(eta + s t) phi(t) dt,    dm/deta = int (g^-1)'(eta + s t) phi(t) dt,    dm/ds = int t (g^-1)' phi dt.

The trapezoidal rule converges geometrically for integrands analytic in a strip around the real line; at step h its error
is exp(-2 pi d / h) with d the distance of the nearest singularity of g^-1 from the line, over s (pi / s for the
logit, 1 / s for the cauchit). Gauss-Hermite nodes converge like exp(-c d sqrt(nodes)) only. Trefethen & Weideman (2014),
SIAM Review 56.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError
from lmm.model.records import Estimate

if TYPE_CHECKING:
    from lmm.families import Family

#: half the range of a standard normal beyond which its density is lost in rounding
RANGE = 9.0
#: a predictor that no model has; the cauchit's bounds are finite by rounding
FAR = 1e10


@dataclass(frozen=True, eq=False)
class Average:
    """Averages (m,) and their derivatives with respect to the mean and standard deviation of eta, each (m,)."""

    mean: np.ndarray
    d_eta: np.ndarray
    d_sd: np.ndarray


def check_average(family: Family) -> None:
    """ArgumentError for a link under which a normal predictor has no possible mean, and a family whose mean is that of a part."""
    if not family.mean_is_expected:
        raise ArgumentError(
            f"predict: responses of the {family.name} family are not averaged over random effects; use re_form=False for those of a "
            "typical level, or simulate()."
        )
    if min(np.abs(family.eta_bounds)) > FAR or family.link.name in ("identity", "sqrt"):
        return
    raise ArgumentError(
        f"predict(marginal=True): with the {family.link.name} link the average over normal random effects does not exist, because some "
        f"of their values lead to no possible mean of the {family.name} family."
    )


def average(family: Family, eta: np.ndarray, sd: np.ndarray) -> Average:
    """Average the mean over N(eta, sd^2), per row."""
    check_average(family)
    if family.link.name == "identity":
        return Average(eta.copy(), np.ones(len(eta)), np.zeros(len(eta)))
    if family.link.name == "sqrt":
        return Average(eta**2 + sd**2, 2.0 * eta, 2.0 * sd)
    nodes, weights = rule(float(np.max(sd[np.isfinite(sd)], initial=0.0)))
    total, d_eta, d_sd = (np.zeros(len(eta)) for _ in range(3))
    for t, w in zip(nodes, weights, strict=True):
        at = family.clip(eta + sd * t)
        slope = family.link.d1(at)
        total += w * family.link.inverse(at)
        d_eta += w * slope
        d_sd += w * t * slope
    return Average(total, d_eta, d_sd)


def probabilities(estimate: Estimate, eta: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Probabilities (m, K) of categories averaged over N(eta, sd^2), per row."""
    total = np.zeros((len(eta), len(estimate.distribution.category_names)))
    for t, w in zip(*rule(float(np.max(sd[np.isfinite(sd)], initial=0.0))), strict=True):
        total += w * estimate.distribution.probabilities(eta + sd * t, estimate.phi)
    return total


def rule(top: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for averages over standard normals of functions of eta + s t, with s up to ``top``."""
    # half the distance to the cauchit's pole, in 2 pi / 30: beyond rounding
    step = min(0.5, 0.2 / top) if top > 0 else 0.5
    half = int(np.ceil((RANGE + top) / step))  # an exponential mean moves the peak by sd
    nodes = step * np.arange(-half, half + 1)
    return nodes, step * np.exp(-0.5 * nodes**2) / np.sqrt(2.0 * np.pi)


def predictor_sd(estimate: Estimate, values: list[np.ndarray]) -> np.ndarray:
    """(m,) standard deviation of z'b over new levels, for values (m, k) per term."""
    return np.asarray(
        np.sqrt(
            sum(np.sum((z @ T) ** 2, axis=1) for z, T in zip(values, estimate.factors, strict=True))
        )
    )


def gradient(
    design: Design,
    estimate: Estimate,
    X: np.ndarray,
    values: list[np.ndarray],
    sd: np.ndarray,
    at: Average,
) -> np.ndarray:
    """Derivatives (m, size) of the averages with respect to (theta, beta[, log phi])."""
    parts = []
    start = 0
    for term, T, z in zip(design.terms, estimate.factors, values, strict=True):
        stop = start + term.structure.n_theta
        dT = term.structure.jacobian(np.asarray(estimate.theta[start:stop]))
        half = np.einsum("mb,mib->mi", z @ T, np.einsum("ma,iab->mib", z, dT))  # s ds/dtheta
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(np.where(sd[:, None] > 0, half * (at.d_sd / sd)[:, None], 0.0))
        start = stop
    parts.append(X * at.d_eta[:, None])
    parts.append(np.zeros((len(X), estimate.family.n_parameters)))
    return np.concatenate(parts, axis=1)
