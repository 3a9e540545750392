"""From a posterior, or what stands for one, to an Estimate: shared by the Bayesian methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from lmm.estimators.laplace import LaplaceLikelihood
from lmm.estimators.likelihood import MaximumLikelihood
from lmm.linalg import backend
from lmm.model import scales
from lmm.model.joint import Model
from lmm.model.problem import GeneralizedProblem, Problem
from lmm.model.records import Convergence, Draws, Estimate, Report

#: numbers in the draws of the effects up to which they are kept
KEEP = 50_000_000


def likelihood_fit(problem: Problem | GeneralizedProblem, start: np.ndarray | None) -> Estimate:
    """The maximum-likelihood fit, from which a search or a chain begins: it costs a small part of what follows."""
    if isinstance(problem, Problem):
        return MaximumLikelihood(False).fit(problem, start)
    return LaplaceLikelihood().fit(problem, start)


@lru_cache(maxsize=32)
def _covariances(terms: tuple[scales.Term, ...], transform: str) -> Callable[..., Any]:
    def of(zeta: Any) -> list[Any]:
        T = [scales.factor(term, own, transform) for term, own in zip(terms, scales.split(terms, zeta), strict=True)]
        return [t @ t.T for t in T]

    return jax.jit(jax.vmap(of))


def covariances_at(model: Model, zeta: np.ndarray) -> list[np.ndarray]:
    """Cov(b) per term (N, k, k) at draws of zeta (N, z)."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        return [np.asarray(G) for G in _covariances(model.terms, model.transform)(backend.put(zeta))]


def mean_covariance(G: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The covariance (k, k) with the mean standard deviations and mean correlations of G (N, k, k): those are reported."""
    sd = np.sqrt(np.diagonal(G, axis1=1, axis2=2))
    R = G / (sd[:, :, None] * sd[:, None, :])
    mean_sd, mean_R = np.average(sd, axis=0, weights=weights), np.average(R, axis=0, weights=weights)
    return np.asarray(mean_R * np.outer(mean_sd, mean_sd))


def estimate_from(
    problem: Problem | GeneralizedProblem,
    name: str,
    *,
    beta: np.ndarray,
    beta_cov: np.ndarray,
    covariances: list[np.ndarray],
    sigma: float,
    phi: float,
    modes: list[np.ndarray],
    mode_cov: list[np.ndarray] | None,
    convergence: Convergence,
    trace: tuple[dict[str, Any], ...],
    report: Report,
    draws: Draws | None = None,
    elbo: float = float("nan"),
    objective: float = float("nan"),
    reml: bool = False,
    messages: tuple[str, ...] = (),
) -> Estimate:
    """An Estimate from posterior means.

    Parameters
    ----------
    beta, beta_cov : (p,), (p, p) on the user's scale.
    covariances : per term Cov(b) (k, k), absolute.
    sigma, phi : residual standard deviation of a linear model; dispersion of a family.
    modes : per term (J, k) means of the effects; ``mode_cov`` (J, k, k) their covariances.
    """
    linear = isinstance(problem, Problem)
    scale2 = sigma**2 if linear else 1.0
    theta = np.concatenate([s.canonical(s.from_matrix(G / scale2)) for s, G in zip(problem.structures, covariances, strict=True)])
    factors = tuple(s.factor(own) for s, own in zip(problem.structures, problem.split(theta), strict=True))
    common: dict[str, Any] = {}
    if isinstance(problem, Problem):
        parameters = problem.p + problem.n_theta + 1
    else:
        family = problem.family
        parameters = problem.p + problem.n_theta + int(family.has_dispersion)
        eta = problem.rows.predictor(problem.rows.R @ beta, [np.ascontiguousarray(m.T) for m in modes])
        sigma = family.sigma(phi) if family.has_dispersion else 1.0
        common = {"family": family, "phi": phi, "eta": eta}
    return Estimate(
        method=name,
        reml=reml,
        beta=beta,
        beta_cov_unscaled=beta_cov / scale2,
        theta=theta,
        factors=factors,
        sigma=sigma,
        modes=tuple(modes),
        objective=objective,
        n_parameters=parameters,
        convergence=convergence,
        trace=trace,
        messages=messages,
        report=report,
        draws=draws,
        mode_cov=None if mode_cov is None else tuple(mode_cov),
        elbo=elbo,
        **common,
    )
