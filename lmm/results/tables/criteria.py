"""Log-likelihood, deviance, REML criterion and information criteria, as lme4 defines them.

With r2 the penalised residual sum of squares, ld = log|V| up to the weights and R = X'V^-1 X,

    deviance       = ld + n (1 + log(2 pi r2 / n)),
    REML criterion = ld + log|R| + (n - p) (1 + log(2 pi r2 / (n - p))),

so each follows from the other at the same theta, sigma^2 being r2/n (ML) or r2/(n - p) (REML). Where sigma is known the terms in r2
are N log(2 pi sigma^2) + r2 / sigma^2 in both, and they differ by log|R| - p log(2 pi sigma^2).
"""

from __future__ import annotations

import math

import numpy as np

from lmm.model.records import Estimate


class Uncertain(float):
    """A number with the Monte Carlo error, a standard deviation, that it carries as ``mc_error``."""

    mc_error: float

    def __new__(cls, value: float, mc_error: float) -> Uncertain:
        self = super().__new__(cls, value)
        self.mc_error = mc_error
        return self

    def __reduce__(self) -> tuple[type[Uncertain], tuple[float, float]]:
        return Uncertain, (float(self), self.mc_error)


def log_likelihood(estimate: Estimate) -> float:
    """-1/2 the objective; an :class:`Uncertain` where log|M| is known up to random probes."""
    value = -estimate.objective / 2.0
    return (
        value
        if estimate.monte_carlo is None
        else Uncertain(value, estimate.monte_carlo.log_likelihood)
    )


def _profiled(residual_ss: float, df: int) -> float:
    return df * (1.0 + math.log(2.0 * math.pi * residual_ss / df))


def _log_det(C: np.ndarray) -> float:
    """log|C| of a positive definite matrix, scaled first so that columns of any size are safe."""
    if not C.size:
        return 0.0
    scale = np.sqrt(np.diagonal(C))
    return float(np.linalg.slogdet(C / np.outer(scale, scale))[1] + 2.0 * np.log(scale).sum())


def ml_deviance(estimate: Estimate, n: int) -> float:
    """-2 log-likelihood at the estimated theta: for a REML fit with beta and sigma profiled anew."""
    if estimate.reml:
        estimate.distribution.require_linear(
            "deviance: a generalized model fitted by REML has its criterion alone, -2 fit.llf; fit it with REML=False for a deviance."
        )
        return _switched(estimate, n)
    return float(estimate.objective)


def reml_criterion(estimate: Estimate, n: int) -> float:
    """-2 restricted log-likelihood at the estimated theta; for an ML fit with sigma profiled anew."""
    if estimate.reml:
        return float(estimate.objective)
    estimate.distribution.require_linear(
        "a generalized model fitted by maximum likelihood has no REML criterion; fit.llf and fit.deviance are its criteria."
    )
    return _switched(estimate, n)


def _switched(estimate: Estimate, n: int) -> float:
    """The criterion of maximum likelihood for a fit by REML, and the other way round, at the same theta."""
    p = len(estimate.beta)
    sign = 1.0 if estimate.reml else -1.0
    value = estimate.objective + sign * _log_det(estimate.beta_cov_unscaled)
    if estimate.knows_sigma:
        return float(value + sign * p * math.log(2.0 * math.pi * estimate.sigma**2))
    df, other = (n - p, n) if estimate.reml else (n, n - p)
    residual_ss = estimate.sigma**2 * df
    return float(value - _profiled(residual_ss, df) + _profiled(residual_ss, other))


def aic(estimate: Estimate) -> float:
    """Criterion + 2 (number of parameters); under REML too, as lme4 prints it."""
    return float(estimate.objective + 2.0 * estimate.n_parameters)


def bic(estimate: Estimate, n: int) -> float:
    """Criterion + log(n) (number of parameters), n the number of rows."""
    return float(estimate.objective + math.log(n) * estimate.n_parameters)
