"""Estimators for tests whose posterior is known: draws of (beta, b) from the normal that Henderson's equations give.

Given theta and sigma the posterior under a flat prior of beta is exactly that normal, so every figure made from the draws has
an exact counterpart in the likelihood fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

import lmm
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.model.records import Draws, Estimate, PosteriorEstimate, Report
from lmm.results import Fit

REPORT = Report(
    "Linear mixed model, posterior by simulation",
    (("ELBO", -1234.5678), ("Acceptance rate", 0.68125)),
    ("Means are means.",),
)


def henderson(fit: Fit) -> np.ndarray:
    """Covariance (p + q, p + q) of (beta, b) given theta and sigma, the effects of a term level by level."""
    design, estimate = fit.design, fit.estimate
    Z = [np.zeros((design.n, term.J * term.k)) for term in design.terms]
    prior = []
    for term, z, T in zip(design.terms, Z, estimate.factors, strict=True):
        for j in range(term.k):
            z[np.arange(design.n), term.codes * term.k + j] = term.values[:, j]
        prior.append(np.kron(np.eye(term.J), np.linalg.inv(estimate.scale2 * T @ T.T)))
    both = np.hstack([design.X, *Z])
    weight = np.full(design.n, 1.0 / estimate.sigma**2)
    if estimate.family is not None:
        weight = np.asarray(
            estimate.family.expected_weights(
                estimate.eta, fit.problem.rows.weights, estimate.phi
            ).weight
        )
    system = both.T @ (weight[:, None] * both)
    p = design.X.shape[1]
    at = p
    for block in prior:
        system[at : at + len(block), at : at + len(block)] += block
        at += len(block)
    return np.linalg.inv(system)


@dataclass(frozen=True)
class KnownPosterior:
    """Draws around a likelihood fit of the same model.

    ``spread`` is the standard deviation of the logarithm of sigma and twice that of the covariances; 0 keeps them fixed.
    """

    reference: Fit
    chains: int = 4
    length: int = 5000
    effects: bool = True
    sampler: bool = True
    spread: float = 0.0
    seed: int = 1
    name = "known"

    def fit(self, problem: Any, start: Any = None, callback: Any = None) -> Estimate:
        rng = np.random.default_rng(self.seed)
        linear = self.reference.family is None
        estimate = (MaximumLikelihood() if linear else LaplaceLikelihood()).fit(
            problem, start, callback
        )
        cov = henderson(self.reference)
        shape = (self.chains, self.length)
        mean = np.concatenate([estimate.beta, *(modes.ravel() for modes in estimate.modes)])
        both = mean + rng.standard_normal((*shape, len(mean))) @ np.linalg.cholesky(cov).T
        at, p = len(estimate.beta), len(estimate.beta)
        effects, blocks = [], []
        for modes in estimate.modes:
            J, k = modes.shape
            effects.append(both[:, :, at : at + J * k].reshape(*shape, J, k))
            blocks.append(
                np.array(
                    [
                        cov[at + j * k : at + (j + 1) * k, at + j * k : at + (j + 1) * k]
                        for j in range(J)
                    ]
                )
            )
            at += J * k
        scale = estimate.scale2
        covariances = tuple(
            scale
            * T
            @ T.T
            * np.exp(2.0 * self.spread * rng.standard_normal(shape))[..., None, None]
            for T in estimate.factors
        )
        draws = Draws(
            both[:, :, :p],
            covariances,
            sigma=estimate.sigma * np.exp(self.spread * rng.standard_normal(shape))
            if linear
            else None,
            effects=tuple(effects) if self.effects else (),
            statistics={
                "diverging": rng.random(shape) < 0.001,
                "acceptance_rate": rng.random(shape),
            }
            if self.sampler
            else {},
        )
        return PosteriorEstimate(
            **vars(
                replace(
                    estimate,
                    method=self.name,
                    beta_cov_unscaled=cov[:p, :p] / scale,
                    objective=float("nan"),
                    trace=(
                        {"elbo": -2.0, "beta": estimate.beta, "sd": np.ones(3)},
                        {"elbo": -1.0, "beta": estimate.beta, "sd": np.ones(3), "step": 0.1},
                    ),
                    report=REPORT,
                    elbo=-1234.5678,
                )
            ),
            draws=draws,
            mode_cov=tuple(blocks),
        )


SLEEP = "Reaction ~ Days + (Days | Subject)"


@cache
def sleep() -> Fit:
    return lmm.lmer(SLEEP, lmm.datasets.load("sleepstudy"))


@cache
def posterior(**settings: Any) -> Fit:
    """sleepstudy with draws around the REML fit."""
    return sleep().update(method=KnownPosterior(sleep(), **settings))


@cache
def herds() -> Fit:
    return lmm.glmer(
        "cbind(incidence, size - incidence) ~ period + (1 | herd)",
        lmm.datasets.load("cbpp"),
        family="binomial",
    )


@cache
def herds_posterior(**settings: Any) -> Fit:
    """cbpp with draws around the working linear model at the modes."""
    return herds().update(method=KnownPosterior(herds(), **settings))
