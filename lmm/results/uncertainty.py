"""Covariance of all parameters of a fit, from the exact Hessian of -2 log-likelihood.

Of a generalized fit the joint covariance over (theta, beta, log phi) is twice the inverse of the Hessian. The fixed
effects' block carries the uncertainty of theta. With nAGQ=0 the fixed effects have the covariance given theta alone. Of a
linear fit fixed effects and variance parameters (theta, log sigma) are asymptotically independent. Standard deviations and
correlations of the random effects get standard errors by the delta method, from dG = dT T' + T dT'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmm.design.records import Design
from lmm.errors import ArgumentError
from lmm.estimators import chain_diagnostics
from lmm.estimators.base import Estimator
from lmm.later import Later
from lmm.linalg import threads
from lmm.model.records import Estimate
from lmm.results.draws import PosteriorDraws
from lmm.results.naming import in_table_order, theta_names
from lmm.results.varcorr import varcorr

if TYPE_CHECKING:
    from lmm.inference import variance_parameters
else:
    variance_parameters = Later("lmm.inference.variance_parameters")


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Covariances of the parameters.

    Attributes
    ----------
    beta : (p, p) covariance of the fixed effects.
    joint : covariance of (theta, beta, log phi), zero rows for a theta on its boundary; None when there is none.
    message : why ``joint`` is missing although the model should have it, else None.
    draws : of a posterior, its named draws; ``beta`` is the posterior covariance then.
    variances : of a linear fit what gives the covariance (m + 1, m + 1) of (theta, log sigma), computed when it is first asked for.
    """

    beta: np.ndarray
    joint: np.ndarray | None = None
    message: str | None = None
    draws: PosteriorDraws | None = None
    variances: Callable[[], np.ndarray] | None = None


def uncertainty(design: Design, problem: Any, estimator: Estimator, estimate: Estimate) -> Uncertainty:
    """Covariances at an estimate; those given theta where the Hessian is of no use."""
    given_theta = np.asarray(estimate.scale2 * estimate.beta_cov_unscaled)
    if estimate.draws is not None:
        return Uncertainty(given_theta, draws=PosteriorDraws(design, estimate))
    if estimate.family is None and estimate.n_parameters > len(estimate.beta):  # else the variances were given
        return Uncertainty(given_theta, variances=cache(lambda: variance_parameters.covariance(problem, estimator, estimate)))
    if estimate.family is None or estimate.nagq == 0:
        return Uncertainty(given_theta)
    try:
        with threads.limited():
            joint = estimator.covariance(problem, estimate)
    except np.linalg.LinAlgError:
        joint = np.full((1, 1), np.nan)
    if joint is None:
        return Uncertainty(given_theta)
    if is_covariance(joint):
        m, p = len(estimate.theta), len(estimate.beta)
        return Uncertainty(joint[m : m + p, m : m + p], joint)
    message = (
        "The Hessian of the log-likelihood is not positive definite at the estimates; the standard errors of the fixed effects are those "
        "given the variance parameters, which have none."
    )
    return Uncertainty(given_theta, None, message)


def is_covariance(joint: np.ndarray) -> bool:
    """Finite, and positive definite in the parameters that are not fixed at a boundary."""
    if not np.isfinite(joint).all():
        return False
    diagonal = np.diagonal(joint)
    free = diagonal != 0.0
    if not (diagonal[free] > 0.0).all():
        return False
    sd = np.sqrt(diagonal[free])
    return bool(np.linalg.eigvalsh(joint[np.ix_(free, free)] / np.outer(sd, sd)).min(initial=1.0) > 0.0)


def joint_frame(design: Design, estimate: Estimate, known: Uncertainty) -> pd.DataFrame:
    """The joint covariance by name: theta, coefficients, ``log(dispersion)`` or thresholds where there are some."""
    if known.draws is not None:
        raise ArgumentError("vcov(full=True): the draws have it, fit.draws.to_frame().drop(columns=['chain', 'draw']).cov().")
    if known.joint is None:
        why = known.message or (
            "a linear model has none in this release" if estimate.family is None else "a fit with nAGQ=0 has none; fit with nAGQ=1"
        )
        raise ArgumentError(f"vcov(full=True): no covariance of all parameters: {why}.".replace("..", "."))
    own, J = estimate.family.reported(estimate.phi)
    names = [*theta_names(design.terms), *design.names, *own]
    turn = np.eye(len(names))
    turn[len(names) - len(own) :, len(names) - len(own) :] = J
    return pd.DataFrame(turn @ known.joint @ turn.T, index=names, columns=names)


def linear_joint_frame(design: Design, beta: np.ndarray, variances: np.ndarray) -> pd.DataFrame:
    """The same of a linear fit: theta, coefficients, ``log(sigma)``; ``variances`` (m + 1, m + 1) is that of (theta, log sigma)."""
    m, p = len(variances) - 1, len(beta)
    place = np.r_[:m, m + p]
    out = np.zeros((m + p + 1, m + p + 1))
    out[np.ix_(place, place)] = variances
    out[m : m + p, m : m + p] = beta
    names = [*theta_names(design.terms), *design.names, "log(sigma)"]
    return pd.DataFrame(out, index=names, columns=names)


def standard_errors(design: Design, estimate: Estimate, known: Uncertainty) -> np.ndarray:
    """Standard errors of the rows of ``VarCorr.to_frame()`` (``sdcor``); NaN on a boundary and where nothing is known."""
    components = varcorr(design, estimate)
    if known.draws is not None:
        return np.array([_posterior_sd(known.draws, name) for name in components.names])
    frame = components.to_frame()
    joint = known.joint if known.variances is None else known.variances()
    if joint is None:
        return np.full(len(frame), np.nan)
    jacobian = _jacobian(design, estimate, len(joint))
    with np.errstate(invalid="ignore"):
        variance = np.einsum("ij,jk,ik->i", jacobian, joint, jacobian, optimize=True)
        inside = np.array(frame["var2"].isna() | (frame["sdcor"].abs() < 1.0 - 1e-10), dtype=bool)
        return np.asarray(np.where((variance > 0.0) & inside, np.sqrt(variance), np.nan))


def _posterior_sd(draws: PosteriorDraws, name: str) -> float:
    """NaN for a parameter that was given, or estimated by a single number."""
    return float(np.std(draws[name], ddof=1)) if name in draws and chain_diagnostics.varies(draws[name]) else float("nan")


def dispersion_se(estimate: Estimate, known: Uncertainty) -> float:
    """Standard error of the dispersion parameter phi (delta method on its log); NaN where nothing is known."""
    if known.draws is not None and estimate.draws is not None and estimate.draws.phi is not None:
        return float(np.std(estimate.draws.phi, ddof=1))
    if estimate.family is None or not estimate.family.has_dispersion or known.joint is None:
        return float("nan")
    return float(estimate.phi * np.sqrt(known.joint[-1, -1]))


def _jacobian(design: Design, estimate: Estimate, size: int) -> np.ndarray:
    """d sdcor / d (theta, beta, log phi), of a linear fit d (theta, log sigma), (rows, size)."""
    out = []
    linear = estimate.family is None
    scale = float(estimate.sigma) if linear else 1.0
    start = 0
    for term in design.terms:
        stop = start + term.structure.n_theta
        values, slopes = term.structure.report(np.asarray(estimate.theta[start:stop]))
        for q, value, slope in in_table_order(term.structure.quantities(), values, slopes):
            row = np.zeros(size)
            row[start:stop] = scale * slope if q.kind == "sd" else slope
            if linear and q.kind == "sd":
                row[-1] = scale * value
            out.append(row)
        start = stop
    sigma = estimate.residual_sd
    if sigma is not None:
        row = np.zeros(size)
        if linear or estimate.family.has_dispersion:
            row[-1] = sigma if linear else sigma / 2.0  # sigma = sqrt(phi)
        out.append(row)
    return np.array(out)
