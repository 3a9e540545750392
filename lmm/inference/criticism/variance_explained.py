"""Shares of variance on the scale of the linear predictor: Nakagawa's R2 and the intraclass correlation.

With fixed part X beta and random terms of variance S_t, over the n rows,

    fixed         s_f = Var(x_i'beta)
    random        s_r = sum_t mean_i z_ti' S_t z_ti        (random slopes: Johnson, 2014)
    dispersion    s_e = the same of a term with a level per row (an observation-level random effect)
    distribution  s_d = sigma^2, or that of the family on the scale of the link

and  R2_marginal = s_f / s,  R2_conditional = (s_f + s_r) / s,  s = s_f + s_r + s_e + s_d,
     ICC_adjusted = s_r / (s_r + s_e + s_d),  ICC_unadjusted = s_r / s.

s_d of a family comes from a link whose latent variable has a known distribution (logit pi^2/3, probit 1, cloglog pi^2/6), or, the
variance of the response around its mean lambda being V(lambda),

    delta       V(lambda) g'(lambda)^2, which is the squared coefficient of variation v = V(lambda) / lambda^2 of a log link
    lognormal   log(1 + v)                 (log link)
    trigamma    psi_1(1 / v)               (log link),

with lambda_i = exp(beta_0 + s_0/2 + offset_i) of the model without predictors, s_0 its random variance.

Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14; Johnson (2014), Methods Ecol. Evol. 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import polygamma

from lmm.families import Family

#: variance of the latent variable behind a link of a binomial or cumulative model
LATENT = {
    "logit": np.pi**2 / 3.0,
    "probit": 1.0,
    "cloglog": np.pi**2 / 6.0,
    "loglog": np.pi**2 / 6.0,
}
APPROXIMATIONS = ("lognormal", "delta", "trigamma")


@dataclass(frozen=True)
class Decomposition:
    """Variances on the scale of the linear predictor.

    Attributes
    ----------
    fixed, dispersion, distribution : see the module.
    random : by grouping factor.
    """

    fixed: float
    random: dict[str, float]
    dispersion: float
    distribution: float

    @property
    def residual(self) -> float:
        """What neither fixed nor random effects explain."""
        return self.dispersion + self.distribution

    @property
    def between(self) -> float:
        """All random effects together."""
        return float(sum(self.random.values()))

    @property
    def total(self) -> float:
        """Everything."""
        return self.fixed + self.between + self.residual


def latent_variance(family: Family) -> float | None:
    """Variance of the latent variable of a binomial or cumulative family; None where the link has none."""
    return LATENT.get(family.link.name) if family.is_latent else None


def distribution_variance(
    family: Family, phi: float, predictor: np.ndarray, random: float, approximation: str
) -> float:
    """s_d of a family without a latent variable.

    Parameters
    ----------
    predictor : (n,) beta_0 + offset of the model without predictors.
    random : s_0, the variance of its random effects.
    """
    log = family.link.name == "log"
    eta = predictor + random / 2.0 if log else predictor
    mu = family.mean(eta)
    V = family.variance(mu, phi)
    if not log:
        return float(np.mean(V / family.link.d1(family.clip(eta)) ** 2))
    v = V / mu**2
    if approximation == "delta":
        return float(np.mean(v))
    return float(np.mean(np.log1p(v) if approximation == "lognormal" else polygamma(1, 1.0 / v)))
